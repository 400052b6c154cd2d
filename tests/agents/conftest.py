"""The tier that runs the real agent programs; in CI those that belong there must run.

`./packaging/bootstrap test tests/agents --all-agents` runs the programs that CI does not, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessiond.testing.host import Host, HostUnavailable, sweep
from tests.agents.guests import Guests
from tests.agents.model_server import ModelServer
from tests.agents.programs import (
    PACKAGES,
    Package,
    Program,
    ProgramsUnavailable,
    cache,
    configure,
    ensure,
    node_for,
)
from tests.agents.running import Runner, running_in
from tests.agents.seen import Seen
from tests.system.discovery_case import PATIENT
from tests.system.product import CONFIG, Product

_HERE = Path(__file__).parent
_CI = bool(os.environ.get("CI"))
_EXTRA = {name for name, package in PACKAGES.items() if not package.ci}

_collected: set[str] = set()
_ran: set[str] = set()
_excused: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.agents)
        _collected.add(item.nodeid)
        extra = _EXTRA & set(getattr(item, "fixturenames", ()))
        if extra and not config.getoption("--all-agents"):
            reason = f"{', '.join(sorted(extra))}: run with --all-agents"
            item.add_marker(pytest.mark.skip(reason=reason))
            _excused.add(item.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    # A module that is skipped whole has no tests that could be counted.
    if report.skipped and report.nodeid.startswith("tests/agents/"):
        _collected.add(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        _ran.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _CI and _collected - _ran - _excused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = _collected - _ran - _excused
    if _CI and missing:
        count = f"{len(missing)} of {len(_collected)} tests with agent programs did not run"
        terminalreporter.write_line(f"FAILED: {count}, and CI is set:", red=True)
        for name in sorted(missing):
            terminalreporter.write_line(f"  {name}")


# ---- programs --------------------------------------------------------------------------------


def _had(package: Package) -> Package:
    """Installed, or the test is skipped (in CI: failed) with the reason."""
    try:
        node_for(package)
        ensure(package)
    except ProgramsUnavailable as error:
        if _CI:
            pytest.fail(f"{package.name} must be there where CI is set: {error}", pytrace=False)
        pytest.skip(f"{package.name}: {error}")
    return package


@pytest.fixture(scope="session")
def _packages() -> Callable[[str], Package]:
    # What could not be had once is not tried again at each test.
    refused: dict[str, str] = {}

    def had(name: str) -> Package:
        if name in refused:
            pytest.skip(refused[name])
        try:
            return _had(PACKAGES[name])
        except pytest.skip.Exception as error:
            refused[name] = str(error)
            raise

    return had


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """The model server that programs ask; see its module for how prompts steer it."""
    with ModelServer() as server:
        yield server


@pytest.fixture
def home(isolated_home: Path) -> Path:
    """The programs' home: real path, so that it is the one that programs write down."""
    return isolated_home.resolve()


@pytest.fixture
def folder(home: Path) -> Path:
    """The folder that programs work in, trusted by all: a git repository where there is git."""
    made = home / "project"
    made.mkdir()
    if shutil.which("git"):
        subprocess.run(["git", "init", "--quiet", str(made)], check=True, capture_output=True)
    return made


@pytest.fixture
def program(
    _packages: Callable[[str], Package], home: Path, folder: Path, model: ModelServer
) -> Callable[[str], Program]:
    """A program by name, installed and configured for the home and the model server."""
    return lambda name: configure(_packages(name), home, model.url, [folder, home])


@pytest.fixture
def claude(program: Callable[[str], Program]) -> Program:
    """Claude Code."""
    return program("claude")


@pytest.fixture
def codex(program: Callable[[str], Program]) -> Program:
    """Codex."""
    return program("codex")


@pytest.fixture
def opencode(program: Callable[[str], Program]) -> Program:
    """OpenCode."""
    return program("opencode")


@pytest.fixture
def pi(program: Callable[[str], Program]) -> Program:
    """Pi."""
    return program("pi")


@pytest.fixture
def gemini(program: Callable[[str], Program]) -> Program:
    """Gemini CLI; with --all-agents."""
    return program("gemini")


@pytest.fixture
def openclaw(program: Callable[[str], Program]) -> Program:
    """OpenClaw; with --all-agents."""
    return program("openclaw")


@pytest.fixture
def running(folder: Path) -> Iterator[Runner]:
    """Starts programs: `running(claude, "-p", "hello")`, `running(claude, tty=True)`; see running.Runner."""
    yield from running_in(folder)


@pytest.fixture
def adapter() -> Callable[[str, Program], Seen]:
    """What an adapter says: `adapter("claude-code", claude).one()`; see seen.Seen."""
    return lambda name, program: Seen(name, program.env)


# ---- inside the private host -----------------------------------------------------------------


@pytest.fixture(scope="module")
def installed() -> Iterator[Product]:
    """The product on a host of the module's own, from where the programs' cache can be reached."""
    sweep()
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(Host(traversable=(cache(),)))
            host.boot()
        except HostUnavailable as error:
            if _CI:
                pytest.fail(f"the private host must boot where CI is set: {error}", pytrace=False)
            pytest.skip(f"the private host cannot boot here: {error}")
        made = Product(host)
        made.write(CONFIG, PATIENT)
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
def guests(product: Product, model: ModelServer, _packages: Callable[[str], Package]) -> Iterator[Guests]:
    """The programs inside the host; see guests.Guests."""
    made = Guests(product, model, _packages)
    made.clear()
    yield made
    # Programs that still write are ended first.
    product.clean()
    made.clear()
