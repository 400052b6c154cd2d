"""Systemd's own bad days and odd words, met by the backend; run inside the host by test_backend."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.errors import Conflict, InvalidArgument, TimedOut, Unreachable
from sessiond.init.systemd.backend import SystemdInit
from sessiond.init.systemd.properties import PROPERTIES
from sessiond.init.systemd.units import START_LIMIT_BURST
from sessiond.model.identity import new_id
from sessiond.model.state import SessionState
from sessiond.model.unit import UnitStatus, agents_slice, daemon_unit, session_slice, starter_unit
from sessiond.ports import Connected, Lost
from sessiond.testing.init_contract import Watcher, watching
from tests.contract.init_harness import BUS, STAND_IN, SystemdHarness, systemd

PYTHON = [sys.executable, "-I", "-S"]


@pytest.fixture
async def real() -> AsyncIterator[SystemdHarness]:
    async with systemd(os.environ[BUS]) as harness:
        yield harness


async def started(real: SystemdHarness, watcher: Watcher, session: str | None = None) -> UnitStatus:
    """Start a session's daemon and return its unit as told."""
    session = session or new_id()
    await real.init.start(real.spec(session))
    await watcher.until_state(session, SessionState.ACTIVE)
    found = watcher.daemon(session)
    assert found is not None
    return found


async def another(watcher: Watcher, session: str, besides: UnitStatus) -> UnitStatus:
    """Wait until another process of the daemon serves: who asked may know of it sooner than the watcher."""
    await watcher.until(
        "another process runs",
        lambda: (
            (now := watcher.daemon(session)) is not None
            and now.main_pid not in (0, besides.main_pid)
            and now.active_state == "active"
        ),
    )
    found = watcher.daemon(session)
    assert found is not None
    return found


# ---- words and folders


FOLDERS = [
    "plain",
    " sp  ace ",
    "q'\"uo`te`",
    "new\nline",
    "new\nExecStartPre=",
    "%h%n%%",
    "$HOME${X}$$",
    "back\\sl\\nash",
    "end\\",
    "ünï✓ 日本",
    "tab\tx",
    "#hash",
    ";semi;",
    "-dash",
    "~",
    "\x01ctl",
    "trail\n",
    "x" * 200,
]


@asynccontextmanager
async def folder_named(real: SystemdHarness, name: str) -> AsyncIterator[Path]:
    folder = real.folder / name
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", FOLDERS, ids=[f"folder{number}" for number in range(len(FOLDERS))])
async def test_any_folder_and_any_word_reach_the_daemon_also_after_a_reload(
    real: SystemdHarness, name: str
) -> None:
    session = new_id()
    words = ["ready", name, f"/{name}", "", "$HOME", "a;b", "@x", "%i"]
    environment = {"ODD": name, "TWO": "a b\n'\"\\;$X%n"}
    async with folder_named(real, name) as folder, watching(real.init) as watcher:
        argv = [*PYTHON, str(STAND_IN), *words]
        # The command's own words alone must not decide how the folder is handed over.
        for spec in (
            replace(real.spec(session), workspace=folder, argv=argv, environment=environment),
            replace(real.spec(session), workspace=folder),
        ):
            await real.init.start(spec)
            await watcher.until_state(session, SessionState.ACTIVE)
            unit = watcher.daemon(session)
            assert unit is not None
            before = _as_handed_over(unit, spec.environment)
            assert before == (str(folder), list(spec.argv), dict(spec.environment))
            await real.systemctl("daemon-reload")
            await real.init.restart(session)
            again = await another(watcher, session, besides=unit)
            assert _as_handed_over(again, spec.environment) == before
            await real.init.stop(session)
            await watcher.until_state(session, SessionState.INACTIVE)


def _as_handed_over(unit: UnitStatus, names: object) -> tuple[str, list[str], dict[str, str]]:
    process = Path(f"/proc/{unit.main_pid}")
    argv = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]
    pairs = [os.fsdecode(pair).partition("=") for pair in (process / "environ").read_bytes().split(b"\0")]
    environment = {key: value for key, _, value in pairs if key in names}  # type: ignore[operator]
    return os.readlink(process / "cwd"), argv, environment


async def test_a_folder_of_4000_characters(real: SystemdHarness) -> None:
    session = new_id()
    part = "/" + "x" * 199
    folder = real.folder
    here = os.getcwd()
    try:
        # Longer than one call takes, so step by step.
        os.chdir(folder)
        while len(str(folder)) < 3990 - len(part):
            os.mkdir(part[1:])
            os.chdir(part[1:])
            folder = Path(str(folder) + part)
        async with watching(real.init) as watcher:
            await real.init.start(replace(real.spec(session), workspace=folder))
            await watcher.until_state(session, SessionState.ACTIVE)
            unit = watcher.daemon(session)
            assert unit is not None
            assert os.readlink(f"/proc/{unit.main_pid}/cwd") == str(folder)
            shown = await real.systemctl("show", "-PDescription", daemon_unit(session))
            assert len(shown) < 300
    finally:
        os.chdir(here)
        shutil.rmtree(real.folder / part[1:])


async def test_a_folder_that_is_gone_says_so(real: SystemdHarness) -> None:
    for name in ("gone", "go\nne"):
        with pytest.raises(Conflict) as caught:
            await real.init.start(replace(real.spec(session := new_id()), workspace=real.folder / name))
        assert caught.value.code == "start_failed"
        assert "folder cannot be entered" in caught.value.message
        assert caught.value.fields["unit"] == daemon_unit(session)


async def test_what_cannot_travel_over_the_bus_is_refused(real: SystemdHarness) -> None:
    spec = real.spec(new_id())
    with pytest.raises(InvalidArgument):
        await real.init.start(replace(spec, workspace=Path(os.fsdecode(b"/tmp/\xff"))))
    with pytest.raises(InvalidArgument):
        await real.init.start(replace(spec, environment={"BIG": "x" * 140_000}))
    await real.init.start(replace(spec, environment={"BIG": "x" * 100_000}))


# ---- failing


async def test_a_command_that_is_missing_says_so(real: SystemdHarness) -> None:
    with pytest.raises(Conflict) as caught:
        await real.init.start(replace(real.spec(new_id()), argv=["/nonexistent/program"]))
    assert "cannot be executed" in caught.value.message
    assert caught.value.fields["exit_status"] == "203"
    assert "goes on trying" in caught.value.message


async def test_a_daemon_that_is_never_ready_is_a_timeout(real: SystemdHarness) -> None:
    with pytest.raises(TimedOut) as caught:
        await real.init.start(replace(real.spec(new_id(), "held"), start_timeout=0.5))
    assert caught.value.code == "start_timeout"


async def test_too_many_failures_are_an_error_and_a_restart_gets_it_going(real: SystemdHarness) -> None:
    session, flag = new_id(), real.folder / "flag"
    program = f"import os,sys;os.path.exists({str(flag)!r}) or sys.exit(7);"
    argv = [*PYTHON, "-c", f"{program}sys.argv[1:]=['ready'];exec(open({str(STAND_IN)!r}).read())"]
    async with watching(real.init) as watcher:
        with pytest.raises(Conflict):
            await real.init.start(replace(real.spec(session), argv=argv))
        await watcher.until_state(session, SessionState.ERROR)
        unit = watcher.daemon(session)
        assert unit is not None
        assert (unit.n_restarts, unit.exit_status) == (30, 7)
        # Only its own last state is an error: none of the thirty ends before was told as one.
        assert watcher.states[daemon_unit(session)].count(SessionState.ERROR) == 1
        flag.touch()
        await real.init.restart(session)
        await watcher.until_state(session, SessionState.ACTIVE)


async def test_restarts_that_are_asked_for_are_not_too_many_starts(real: SystemdHarness) -> None:
    session = new_id()
    pids = set()
    async with watching(real.init) as watcher:
        await started(real, watcher, session)
        for _ in range(START_LIMIT_BURST + 5):
            await real.init.restart(session)
            pids.add((await real.systemctl("show", "--value", "-PMainPID", daemon_unit(session))).strip())
        assert len(pids) == START_LIMIT_BURST + 5
        # Those of its own count all the same: one that cannot live ends in an error.
        for _ in range(START_LIMIT_BURST):
            await real.systemctl("restart", daemon_unit(session))
        await watcher.until_state(session, SessionState.ERROR)


# ---- by hand


async def test_what_is_done_by_hand_is_told(real: SystemdHarness) -> None:
    async with watching(real.init) as watcher:
        unit = await started(real, watcher)
        session = unit.name.removeprefix("sessiond-session@").removesuffix(".service")
        await real.systemctl("freeze", unit.name)
        await watcher.until(
            "it is frozen", lambda: (now := watcher.daemon(session)) is not None and now.frozen
        )
        assert watcher.state(session) is SessionState.ACTIVE
        await real.systemctl("thaw", unit.name)
        await watcher.until(
            "it is thawed", lambda: (now := watcher.daemon(session)) is not None and not now.frozen
        )
        await real.systemctl("restart", unit.name)
        await another(watcher, session, besides=unit)
        await real.systemctl("stop", session_slice(session))
        await watcher.until("it is gone", lambda: watcher.daemon(session) is None)


async def test_the_freezing_of_the_agents_slice_is_told(real: SystemdHarness) -> None:
    session = new_id()
    slice_, agent = agents_slice(session), f"sessiond-agent@{session}-x.service"
    async with watching(real.init) as watcher:
        await started(real, watcher, session)
        await real.run("systemd-run", "--user", f"--slice={slice_}", f"--unit={agent}", "sleep", "100000")
        await watcher.until("the slice is told", lambda: slice_ in watcher.units)
        await real.systemctl("freeze", slice_)
        await watcher.until("it is frozen", lambda: watcher.units[slice_].frozen)
        async with watching(real.init) as late:
            assert late.units[slice_].frozen
        await real.systemctl("thaw", slice_)
        await watcher.until("it is thawed", lambda: not watcher.units[slice_].frozen)


async def test_the_starter_passes_a_stop_and_a_restart_on(real: SystemdHarness) -> None:
    await real.install_starter(True)
    async with watching(real.init) as watcher:
        unit = await started(real, watcher)
        session = unit.name.removeprefix("sessiond-session@").removesuffix(".service")
        starter = starter_unit(session)
        await real.systemctl("start", starter)
        await real.systemctl("restart", starter)
        await another(watcher, session, besides=unit)
        await real.systemctl("stop", starter)
        await watcher.until_state(session, SessionState.INACTIVE)


# ---- limits


# Since systemd 253 or later.
NEWER = {
    *(
        f"Startup{name}"
        for name in ("MemoryLow", "MemoryHigh", "MemoryMax", "MemorySwapMax", "MemoryZSwapMax")
    ),
    *("DefaultStartupMemoryLow", "MemoryZSwapMax", "MemoryZSwapWriteback"),
    "ManagedOOMMemoryPressureDurationSec",
}


@pytest.mark.parametrize("name", sorted(PROPERTIES))
async def test_each_property_is_set_shown_and_reset(real: SystemdHarness, name: str) -> None:
    session, example = new_id(), PROPERTIES[name].kind.example
    refused: InvalidArgument | None = None
    try:
        await real.init.set_limits(session, {name: example})
    except InvalidArgument as error:
        refused = error
    if refused is not None:
        # Newer than this systemd: it says so, and nothing is set.
        assert name in NEWER
        assert refused.code == "property_unknown"
        assert "version of systemd" in refused.message
        return
    shown = await real.init.limits(session)
    default = "yes" if name in ("MemoryAccounting", "TasksAccounting", "CPUAccounting") else ""
    if default != example:
        assert shown.keys() == {name}
        await real.init.set_limits(session, shown)
        assert await real.init.limits(session) == shown
    await real.init.set_limits(session, {name: ""})
    assert await real.init.limits(session) == {}
    await real.init.forget(session)


# ---- bad days


async def test_a_reload_is_one_more_whole_listing_and_no_change(real: SystemdHarness) -> None:
    async with watching(real.init) as watcher:
        unit = await started(real, watcher)
        count = len(watcher.events)
        await real.systemctl("daemon-reload")
        await watcher.until(
            "it is told whole again", lambda: any(isinstance(e, Connected) for e in watcher.events[count:])
        )
        assert watcher.units[unit.name] == unit
        assert watcher.states[unit.name] == [SessionState.STARTING, SessionState.ACTIVE]


async def test_a_reexec_is_lost_and_connected(real: SystemdHarness) -> None:
    async with watching(real.init) as watcher:
        unit = await started(real, watcher)
        count = len(watcher.events)
        await real.systemctl("daemon-reexec")
        await watcher.until(
            "it is told whole again", lambda: any(isinstance(e, Connected) for e in watcher.events[count:])
        )
        assert watcher.units[unit.name] == unit
        # Signals come as before.
        other = await started(real, watcher)
        assert other.name != unit.name


async def test_a_start_over_a_reexec(real: SystemdHarness) -> None:
    session = new_id()
    async with watching(real.init) as watcher:
        start = asyncio.create_task(real.init.start(real.spec(session, "held")))
        await watcher.until_state(session, SessionState.STARTING)
        await real.systemctl("daemon-reexec")
        await watcher.until_state(session, SessionState.STARTING)
        await real.release(session)
        async with asyncio.timeout(60):
            await start


async def test_the_bus_stopped_and_started(real: SystemdHarness) -> None:
    async with watching(real.init) as watcher:
        unit = await started(real, watcher)
        await real.systemctl("stop", "dbus.socket", "dbus.service")
        await watcher.until("it is lost", lambda: watcher.reachable is False)
        with pytest.raises(Unreachable) as caught:
            async with asyncio.timeout(60):
                await real.init.info()
        assert caught.value.code == "init_unavailable"
        assert caught.value.hint
        os.kill(unit.main_pid, signal.SIGKILL)
        await real.systemctl("start", "dbus.socket", "dbus.service")
        await watcher.until("it is connected", lambda: watcher.reachable is True)
        await watcher.until(
            "what happened meanwhile is told",
            lambda: (now := watcher.units[unit.name]).n_restarts == 1 and now.active_state == "active",
        )
        assert sum(isinstance(event, Lost) for event in watcher.events) == 1
        await started(real, watcher)


async def test_a_thousand_requests_at_once_are_answered(real: SystemdHarness) -> None:
    async with asyncio.timeout(300):
        found = await asyncio.gather(*(real.init.limits(new_id()) for _ in range(1000)))
    assert found == [{}] * 1000


async def test_the_journal_of_a_session(real: SystemdHarness) -> None:
    async with watching(real.init) as watcher:
        unit = await started(real, watcher)
        session = unit.name.removeprefix("sessiond-session@").removesuffix(".service")
        # The journal takes what was written as it comes to it, and tells nobody when it has.
        lines: list[str] = []
        for _ in range(600):
            lines = await real.init.last_log(session, 50)
            if any("stand-in: ready" in line for line in lines) and any("Started" in line for line in lines):
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("\n".join(lines))
        assert len(await real.init.last_log(session, 2)) == 2


async def test_why_a_unit_is_stopped(real: SystemdHarness) -> None:
    session, told = new_id(), real.folder / "told"
    program = (
        "import asyncio, signal, sys, sdnotify\n"
        "from sessiond.init.systemd.stop_reason import stop_reason\n"
        "async def main():\n"
        "    ended = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)\n"
        "    sdnotify.SystemdNotifier().notify('READY=1')\n"
        "    await ended.wait()\n"
        f"    open({str(told)!r}, 'a').write(f'{{await stop_reason(sys.argv[1])}}\\n')\n"
        "    sys.exit(75)\n"
        "asyncio.run(main())\n"
    )
    spec = replace(
        real.spec(session),
        argv=[sys.executable, "-c", program, daemon_unit(session)],
        workspace=Path(__file__).resolve().parents[2],
    )
    async with watching(real.init) as watcher:
        await real.init.start(spec)
        await watcher.until_state(session, SessionState.ACTIVE)
        before = watcher.daemon(session)
        assert before is not None
        await real.systemctl("restart", daemon_unit(session))
        unit = await another(watcher, session, besides=before)
        os.kill(unit.main_pid, signal.SIGTERM)
        await watcher.until(
            "it is back", lambda: (now := watcher.daemon(session)) is not None and now.n_restarts == 1
        )
        await watcher.until_state(session, SessionState.ACTIVE)
        await real.init.stop(session)
    assert told.read_text().split() == ["restart", "None", "stop"]


async def test_a_watch_alone_reconnects_and_closes(real: SystemdHarness) -> None:
    """A backend whose bus is not there yet says so, and connects when it comes."""
    missing = real.folder / "bus"
    init = SystemdInit(f"unix:path={missing}")
    watcher = Watcher()
    task = asyncio.create_task(watcher.run(init))
    await watcher.until("it is lost", lambda: watcher.reachable is False)
    missing.symlink_to(os.environ[BUS].removeprefix("unix:path="))
    await watcher.until("it is connected", lambda: watcher.reachable is True)
    await init.close()
    await task
