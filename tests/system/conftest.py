"""The private systemd host of the system tests; in CI it must boot and every test must run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessiond.testing.host import Host, HostUnavailable, sweep
from tests.system.product import CONFIG, Product

_HERE = Path(__file__).parent
_CI = bool(os.environ.get("CI"))

_collected: set[str] = set()
_ran: set[str] = set()
_excused: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "may_skip(reason): a system test that CI may skip, and why that is all right"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.system)
        _collected.add(item.nodeid)
        excuse = item.get_closest_marker("may_skip")
        if excuse and excuse.args and excuse.args[0]:
            _excused.add(item.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    # A module that is skipped whole has no tests that could be counted.
    if report.skipped:
        _collected.add(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        _ran.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    missing = _collected - _ran - _excused
    if _CI and missing and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = _collected - _ran - _excused
    if _CI and missing:
        count = f"{len(missing)} of {len(_collected)} system tests did not run"
        terminalreporter.write_line(f"FAILED: {count}, and CI is set:", red=True)
        for name in sorted(missing):
            terminalreporter.write_line(f"  {name}")


def _booted(**options: Any) -> Host:
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(Host(**options))
            host.boot()
        except HostUnavailable as error:
            if _CI:
                pytest.fail(f"the private host must boot where CI is set: {error}", pytrace=False)
            pytest.skip(f"the private host cannot boot here: {error}")
        stack.pop_all()
        return host


@pytest.fixture(scope="session")
def _swept() -> None:
    sweep()


@pytest.fixture(scope="session")
def host(_swept: None) -> Iterator[Host]:
    """One booted host, shared by the tests that leave it as they found it."""
    with _booted() as booted:
        yield booted


@pytest.fixture
def fresh_host(_swept: None) -> Iterator[Callable[..., Host]]:
    """A factory of hosts of the test's own, for power cuts, reboots and worse."""
    hosts: list[Host] = []

    def make(**options: bool) -> Host:
        hosts.append(_booted(**options))
        return hosts[-1]

    try:
        yield make
    finally:
        for made in hosts:
            made.close()


@pytest.fixture(scope="module")
def host_options() -> dict[str, bool]:
    """How the host of a module that has the product is made."""
    return {}


@pytest.fixture(scope="module")
def settings() -> str:
    """What the configuration of a module's product holds."""
    return ""


@pytest.fixture(scope="module")
def installed(_swept: None, host_options: dict[str, bool], settings: str) -> Iterator[Product]:
    """The product on a host of the module's own; tests take `product`."""
    with _booted(**host_options) as booted:
        made = Product(booted)
        if settings:
            made.write(CONFIG, settings)
        yield made.install()


@pytest.fixture
def product(installed: Product, request: pytest.FixtureRequest) -> Iterator[Product]:
    """The product with no sessions; fails a test that leaves something of one after it was deleted."""
    failures = request.session.testsfailed
    yield installed
    if request.session.testsfailed > failures:
        print(installed.journal("-n", "60"))
    installed.clean()


@pytest.fixture
def fresh_product(fresh_host: Callable[..., Host]) -> Callable[..., Product]:
    """A factory of hosts of the test's own with the product installed."""
    return lambda **options: Product(fresh_host(**options)).install()
