"""Agents' units on systemd's own bad days; run inside the host by test_agent_units."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from dbus_fast import Message

from sessiond.errors import Conflict, InvalidArgument, NotFound
from sessiond.init.systemd.backend import SystemdInit
from sessiond.init.systemd.properties import PROPERTIES
from sessiond.init.systemd.units import DESCRIPTORS
from sessiond.model.agent import AgentUnit, has_ended, new_agent_id
from sessiond.model.unit import agent_unit, agents_slice, daemon_unit
from sessiond.ports import AgentsListed, DaemonSpec, Lost
from sessiond.testing.agents_contract import AgentWatcher, watching_agents
from tests.contract.agents_harness import PYTHON, SystemdAgentsHarness, cgroup, systemd_agents, ticks
from tests.contract.init_harness import BUS
from tests.system.backend_inside import NEWER


@pytest.fixture
async def real() -> AsyncIterator[SystemdAgentsHarness]:
    async with systemd_agents(os.environ[BUS]) as harness:
        yield harness


async def shown(real: SystemdAgentsHarness, unit: str, *names: str) -> dict[str, str]:
    text = await real.systemctl("show", f"--property={','.join(names)}", "--", unit)
    return dict(line.split("=", 1) for line in text.splitlines())


async def relisted(watcher: AgentWatcher, count: int) -> None:
    await watcher.until(
        "it is told whole again", lambda: any(isinstance(one, AgentsListed) for one in watcher.events[count:])
    )


# ---- what it is registered with


KEPT = (
    "Description",
    "Slice",
    "After",
    "Type",
    "ExecStart",
    "WorkingDirectory",
    "SyslogIdentifier",
    "RemainAfterExit",
    "Restart",
    "RestartUSec",
    "StartLimitIntervalUSec",
    "StartLimitBurst",
    "KillMode",
    "KillSignal",
    "SendSIGHUP",
    "TimeoutStartUSec",
    "TimeoutStopUSec",
    "RuntimeMaxUSec",
    "OOMPolicy",
    "IgnoreSIGPIPE",
    "CollectMode",
    "StandardInput",
    "StandardOutput",
    "StandardError",
    "TTYPath",
    "TTYReset",
    "TTYVHangup",
    "CPUWeight",
    "MemoryMax",
)


@pytest.mark.parametrize("restart", ["no", "on-failure", "always"])
@pytest.mark.parametrize("how", ["daemon-reload", "daemon-reexec"])
@pytest.mark.parametrize("tty", [False, True])
async def test_all_it_is_registered_with_outlives_a_reload(
    real: SystemdAgentsHarness, restart: str, how: str, tty: bool
) -> None:
    agent = new_agent_id()
    with terminal() as (_, path):
        spec = replace(
            real.spec(agent),
            description="odd % $HOME \u2713 'x' \"y\" \\ end",
            restart=restart,
            restart_delay=0.2,
            restart_limit=4,
            restart_window=60.0,
            stop_signal=int(signal.SIGINT),
            stop_timeout=3.0,
            timeout=1000.0,
            terminal=path if tty else "",
            properties={"CPUWeight": "50", "MemoryMax": "3G", "TasksMax": ""},
            identifier="odd % $HOME \u2713 'x' \"y\" \\ name",
        )
        async with watching_agents(real.units) as watcher:
            await real.units.start(spec)
            unit = await watcher.until_running(agent)
            before = await shown(real, unit.name, *KEPT)
            assert before["After"].split().count(daemon_unit(real.session)) == 1
            assert before["Slice"] == agents_slice(real.session)
            assert before["KillSignal"] == "2"
            assert before["StandardOutput"] == ("tty" if tty else "append")
            assert before["Description"] == spec.description
            assert before["SyslogIdentifier"] == spec.identifier
            assert before["SendSIGHUP"] == "no"
            count = len(watcher.events)
            await real.systemctl(how)
            await relisted(watcher, count)
            after = await shown(real, unit.name, *KEPT)
            assert _comparable(after) == _comparable(before)
            assert watcher.units[agent].status == unit.status
            assert not any(has_ended(told) for told in watcher.told(agent))
            if restart == "no":
                return
            # The same command comes back by itself, from the file as it was read again.
            await real.end(agent, "exit 9")
            await watcher.until("it is back", lambda: watcher.units[agent].status.n_restarts == 1)
            await watcher.until_running(agent)


def _comparable(values: dict[str, str]) -> dict[str, str]:
    # The times of the last start are no part of the command, and systemd keeps a set of dependencies.
    command = values["ExecStart"].partition(" ; start_time")[0]
    return {**values, "ExecStart": command, "After": " ".join(sorted(values["After"].split()))}


@pytest.mark.parametrize("name", ["plain", "sp ace", "$HOME", "a;b", "%h%%", "q'\"uo", "ünï✓", "#hash", "~"])
async def test_odd_folders_and_words(real: SystemdAgentsHarness, name: str) -> None:
    agent, folder = new_agent_id(), real.folder / name
    folder.mkdir()
    spec = real.spec(agent)
    argv = [*spec.argv, name, f"/{name}", ""]
    out, err = folder / "out", folder / "err"
    async with watching_agents(real.units) as watcher:
        await real.units.start(
            replace(spec, argv=argv, folder=folder, restart="on-failure", stdout=out, stderr=err)
        )
        await watcher.until_running(agent)
        for restarts in (0, 1):
            if restarts:
                await real.systemctl("daemon-reload")
                await real.end(agent, "exit 1")
                await watcher.until("it is back", lambda: watcher.units[agent].status.n_restarts == 1)
            pid = (await watcher.until_running(agent)).status.main_pid
            await real.ready(agent)
            process = Path(f"/proc/{pid}")
            words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]
            assert words == argv
            assert os.readlink(process / "cwd") == str(folder)
            assert [os.readlink(process / f"fd/{number}") for number in (0, 1, 2)] == [
                "/dev/null",
                str(out),
                str(err),
            ]


async def test_files_that_a_unit_cannot_hold_are_refused(real: SystemdAgentsHarness) -> None:
    for name in ("new\nline", "end\\", "space "):
        with pytest.raises(InvalidArgument) as caught:
            await real.units.start(replace(real.spec(new_agent_id()), stdout=real.folder / name))
        assert caught.value.code == "path_unfit"


async def test_a_folder_that_is_gone_is_the_launchers_to_tell(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    await real.units.start(replace(real.spec(agent), folder=real.folder / "gone"))


@pytest.mark.parametrize("name", sorted(PROPERTIES))
async def test_each_property_is_taken_and_outlives_a_reload(real: SystemdAgentsHarness, name: str) -> None:
    spec = replace(real.spec(agent := new_agent_id()), properties={name: PROPERTIES[name].kind.example})
    if name in NEWER:
        with pytest.raises(InvalidArgument) as caught:
            await real.units.start(spec)
        assert caught.value.code == "property_unknown"
        return
    await real.units.start(spec)
    bus = PROPERTIES[name].bus
    before = await shown(real, agent_unit(real.session, agent), bus)
    await real.systemctl("daemon-reload")
    after = await shown(real, agent_unit(real.session, agent), bus, "LoadState")
    # systemd keeps networks as a set: as its hashes fall, their order is another after a reload.
    assert (after["LoadState"], sorted(after[bus].split())) == ("loaded", sorted(before[bus].split()))


async def test_a_missing_launcher_says_so(real: SystemdAgentsHarness) -> None:
    with pytest.raises(Conflict) as caught:
        await real.units.start(real.spec(new_agent_id(), "missing"))
    assert "cannot be executed" in caught.value.message
    assert caught.value.fields["exit_status"] == "203"


async def test_a_session_that_is_being_stopped_takes_no_agent(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    async with watching_agents(real.units) as watcher:
        # Until it is killed here: what is asked meanwhile may be asked late.
        await real.units.start(replace(real.spec(agent, "stubborn"), stop_timeout=300.0))
        await watcher.until_running(agent)
        await real.ready(agent)
        await real.systemctl("stop", "--no-block", agents_slice(real.session))
        await watcher.until("it is being stopped", lambda: watcher.units[agent].job == "stop")
        with pytest.raises(Conflict) as caught:
            await real.units.start(real.spec(new_agent_id()))
        assert caught.value.code == "start_failed"
        assert "being stopped" in caught.value.message
        await real.systemctl("kill", "--signal=KILL", agent_unit(real.session, agent))
        await watcher.until_ended(agent)


# ---- processes


FORKS = """
import os, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
forked, last = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(last, b"x")
        signal.pause()
    signal.pause()
os.read(forked, 1)
open(sys.argv[1]).read()
"""


async def test_nothing_that_it_forked_is_left_after_release(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    spec = real.spec(agent)
    async with watching_agents(real.units) as watcher:
        script = real.folder / "forks.py"
        script.write_text(FORKS)
        argv = [*PYTHON, str(script), str(real.folder / agent)]
        await real.units.start(replace(spec, argv=argv, stop_timeout=0.3))
        await watcher.until_running(agent)
        await real.end(agent, "exit 0")
        unit = await watcher.until_ended(agent)
        assert unit.status.exit_status == 0
        left = [int(pid) for pid in (cgroup(unit.name) / "cgroup.procs").read_text().split()]
        assert len(left) == 2
        await real.units.release(agent)
        await watcher.until_gone(agent)
        assert not any(Path(f"/proc/{pid}").exists() for pid in left)


async def test_a_time_limit_of_its_own(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    async with watching_agents(real.units) as watcher:
        await real.units.start(replace(real.spec(agent), timeout=0.3))
        unit = await watcher.until_ended(agent)
        assert (unit.status.active_state, unit.status.result) == ("failed", "timeout")
        assert not any(told.job == "stop" for told in watcher.told(agent))


async def test_a_frozen_one_uses_no_time(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    async with watching_agents(real.units) as watcher:
        await real.units.start(real.spec(agent, "burns"))
        pid = (await watcher.until_running(agent)).status.main_pid
        await real.units.freeze(agent)
        await watcher.until("it is frozen", lambda: watcher.units[agent].status.frozen)
        before = ticks(pid)
        other = new_agent_id()
        # Something else has run meanwhile, from start to end.
        await real.units.start(real.spec(other, "exit 0"))
        await watcher.until_ended(other)
        assert ticks(pid) == before
        await real.units.thaw(agent)
        await watcher.until("it is thawed", lambda: not watcher.units[agent].status.frozen)
        await real.units.kill(agent)
        unit = await watcher.until_ended(agent)
        assert unit.status.exit_signal == "SIGKILL"
        assert unit.cpu_seconds
        assert unit.cpu_seconds > 0


async def test_freezing_by_hand_and_of_the_whole_slice(real: SystemdAgentsHarness) -> None:
    agents = [new_agent_id(), new_agent_id()]
    async with watching_agents(real.units) as watcher:
        for agent in agents:
            await real.units.start(replace(real.spec(agent), restart="on-failure"))
            await watcher.until_running(agent)
        # In the cgroup of a second run too.
        await real.end(agents[0], "exit 1")
        await watcher.until("it is back", lambda: watcher.units[agents[0]].status.n_restarts == 1)
        await watcher.until_running(agents[0])
        unit, slice_ = agent_unit(real.session, agents[0]), agents_slice(real.session)
        for what, count in ((unit, 1), (slice_, 2)):
            await real.systemctl("freeze", what)
            await watcher.until("frozen", lambda n=count: _frozen(watcher) == n)  # type: ignore[misc]
            assert sum(one.status.frozen for one in await real.units.list()) == count
            if what == slice_:
                with pytest.raises(Conflict) as caught:
                    await real.units.thaw(agents[0])
                assert caught.value.code == "agents_frozen"
            await real.systemctl("thaw", what)
            await watcher.until("thawed", lambda: _frozen(watcher) == 0)


def _frozen(watcher: AgentWatcher) -> int:
    return sum(unit.status.frozen for unit in watcher.units.values())


# ---- by hand


@pytest.mark.parametrize("how", ["stop", "kill", "restart", "slice"])
async def test_what_is_done_by_hand(real: SystemdAgentsHarness, how: str) -> None:
    agent = new_agent_id()
    unit = agent_unit(real.session, agent)
    async with watching_agents(real.units) as watcher:
        await real.units.start(real.spec(agent))
        before = await watcher.until_running(agent)
        await real.ready(agent)
        await real.systemctl(
            "stop" if how == "slice" else how, agents_slice(real.session) if how == "slice" else unit
        )
        if how == "restart":
            await watcher.until(
                "another process runs",
                lambda: watcher.units[agent].status.main_pid not in (0, before.status.main_pid),
            )
            assert not any(has_ended(told) for told in watcher.told(agent))
            return
        ended = await watcher.until_ended(agent)
        assert ended.status.exit_signal == "SIGTERM"
        # A job may be told before it is run, when the unit is as it was.
        asked = [one for one in watcher.told(agent) if one.job == "stop"]
        assert any(one.status.active_state == "deactivating" for one in asked) is (how != "kill")
        assert bool(asked) is (how != "kill")
        # Its status is not lost before it was read by all who want to.
        assert [one.status for one in await real.units.list()] == [ended.status]
        await real.units.release(agent)
        await watcher.until_gone(agent)
        assert (await shown(real, unit, "LoadState"))["LoadState"] == "not-found"


async def test_a_hundred_quick_stops_are_all_told_as_asked_for(real: SystemdAgentsHarness) -> None:
    async with watching_agents(real.units) as watcher:
        for _ in range(5):
            agents = [new_agent_id() for _ in range(20)]
            argv = ["/bin/sleep", "1000"]
            await asyncio.gather(*(real.units.start(replace(real.spec(one), argv=argv)) for one in agents))
            await real.systemctl("stop", *(agent_unit(real.session, one) for one in agents))
            for one in agents:
                assert (await watcher.until_ended(one)).status.exit_signal == "SIGTERM"
                assert any(told.job == "stop" for told in watcher.told(one))
            await asyncio.gather(*(real.units.release(one) for one in agents))


# ---- the manager's bad days


@pytest.mark.parametrize("how", ["daemon-reload", "daemon-reexec"])
async def test_ends_before_and_after_a_reload(real: SystemdAgentsHarness, how: str) -> None:
    stopped, ended, failed, lives, waits = (new_agent_id() for _ in range(5))
    async with watching_agents(real.units) as watcher:
        for agent in (stopped, ended, failed, lives):
            await real.units.start(real.spec(agent))
            await watcher.until_running(agent)
        await real.units.start(replace(real.spec(waits, "exit 5"), restart="on-failure", restart_delay=100))
        await watcher.until(
            "it waits",
            lambda: waits in watcher.units and watcher.units[waits].status.sub_state == "auto-restart",
        )
        await real.units.stop(stopped)
        await watcher.until_ended(stopped)
        await real.end(ended, "exit 0")
        await real.end(failed, "exit 8")
        before = {agent: await watcher.until_ended(agent) for agent in (ended, failed)}
        before |= {lives: watcher.units[lives], waits: watcher.units[waits]}
        told = watcher.units[stopped]
        for _ in range(2):
            count = len(watcher.events)
            await real.systemctl(how)
            await relisted(watcher, count)
            assert {agent: _lasting(watcher.units[agent]) for agent in before} == {
                agent: _lasting(unit) for agent, unit in before.items()
            }
            assert watcher.units[stopped].status == told.status
        # Signals and references are as before.
        await real.systemctl("stop", agent_unit(real.session, lives), agent_unit(real.session, waits))
        assert (await watcher.until_ended(lives)).status.exit_signal == "SIGTERM"
        assert (await watcher.until_ended(waits)).status.exit_status == 5
        for agent in (stopped, ended, failed, lives, waits):
            await real.units.release(agent)
            await watcher.until_gone(agent)
        assert list(await real.units.list()) == []


def _lasting(unit: AgentUnit) -> AgentUnit:
    return replace(unit, cpu_seconds=None, memory_bytes=None)


async def test_a_start_and_a_stop_over_a_reexec(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    async with watching_agents(real.units) as watcher:
        await real.units.start(replace(real.spec(agent, "stubborn"), stop_timeout=3.0))
        await watcher.until_running(agent)
        await real.ready(agent)
        stop = asyncio.create_task(real.units.stop(agent))
        await watcher.until("it is being stopped", lambda: watcher.units[agent].job == "stop")
        await real.systemctl("daemon-reexec")
        async with asyncio.timeout(60):
            await stop
        assert (await watcher.until_ended(agent)).status.exit_signal == "SIGKILL"


async def test_the_bus_stopped_and_started(real: SystemdAgentsHarness) -> None:
    agents = [new_agent_id() for _ in range(2)]
    async with watching_agents(real.units) as watcher:
        for agent in agents:
            await real.units.start(real.spec(agent))
            await watcher.until_running(agent)
            await real.ready(agent)
        await real.systemctl("stop", "dbus.socket", "dbus.service")
        await watcher.until("it is lost", lambda: watcher.reachable is False)
        await real.end(agents[0], "exit 6")
        await real.systemctl("start", "dbus.socket", "dbus.service")
        await watcher.until("it is connected", lambda: watcher.reachable is True)
        assert (await watcher.until_ended(agents[0])).status.exit_status == 6
        await real.systemctl("stop", agent_unit(real.session, agents[1]))
        assert (await watcher.until_ended(agents[1])).status.exit_signal == "SIGTERM"
        assert sum(isinstance(event, Lost) for event in watcher.events) == 1


async def test_one_manager_keeps_its_name(real: SystemdAgentsHarness) -> None:
    word = await real.units.manager()
    for how in ("daemon-reload", "daemon-reexec"):
        await real.systemctl(how)
        assert await real.units.manager() == word
        other = real.another()
        assert await other.manager() == word
        await other.close()


async def test_an_idle_watch_hears_nothing_of_others(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    async with watching_agents(real.units) as watcher, systemd_agents(os.environ[BUS]) as others:
        await real.units.start(real.spec(agent))
        await watcher.until_running(agent)
        connection = await real.units._link.connection()
        # What systemd still had to tell of it was told before this answer.
        await real.units.list()
        heard: list[Message] = []
        with connection.listening(heard.append):
            async with watching_agents(others.units) as second:
                other = new_agent_id()
                await others.units.start(others.spec(other, "exit 3"))
                await second.until_ended(other)
                await others.units.release(other)
                await second.until_gone(other)
            for what in ("start", "stop"):
                await others.systemctl(what, "sessionddefaults.slice")
            await real.units.list()
        assert [message.member for message in heard if message.member] == []


# ---- terminals


@contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A PTY: its master, held here, and the path of its slave."""
    master, slave = os.openpty()
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(master)
        os.close(slave)


TTY = """
import os, sys, termios, fcntl, struct
names = [os.ttyname(fd) for fd in (0, 1, 2)]
size = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))[:2]
own = os.open("/dev/tty", os.O_RDWR)
lflag = termios.tcgetattr(0)[3] & termios.ECHO
print(*names, *size, os.tcgetpgrp(own) == os.getpgrp(), bool(lflag), flush=True)
word = sys.stdin.readline().strip()
print("heard", word, flush=True)
sys.exit(4 if word == "fail" else 0)
"""


async def test_a_terminal_outlives_runs_and_is_left_as_it_is(real: SystemdAgentsHarness) -> None:
    agent = new_agent_id()
    script = real.folder / "tty.py"
    script.write_text(TTY)
    with terminal() as (master, path):
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        flags = termios.tcgetattr(master)
        flags[3] &= ~termios.ECHO
        termios.tcsetattr(master, termios.TCSANOW, flags)
        spec = replace(
            real.spec(agent),
            argv=[*PYTHON, str(script)],
            terminal=path,
            restart="on-failure",
            restart_delay=0.05,
        )
        async with watching_agents(real.units) as watcher:
            await real.units.start(spec)
            for run in range(3):
                await watcher.until("it runs", lambda n=run: _run(watcher, agent) == n)  # type: ignore[misc]
                line = await asyncio.to_thread(_line, master)
                assert line.split() == [path, path, path, "33", "101", "True", "False"]
                os.write(master, b"fail\n" if run < 2 else b"done\n")
                assert await asyncio.to_thread(_line, master) == ("heard fail" if run < 2 else "heard done")
                if run == 0:
                    await real.systemctl("daemon-reload")
            unit = await watcher.until_ended(agent)
            assert unit.status.exit_status == 0
            assert unit.status.n_restarts == 2


def _run(watcher: AgentWatcher, agent: str) -> int:
    unit = watcher.units.get(agent)
    return unit.status.n_restarts if unit is not None and unit.status.sub_state == "running" else -1


def _line(master: int) -> str:
    found = b""
    while not found.endswith(b"\n"):
        found += os.read(master, 1)
    return found.decode().strip()


# ---- the descriptor store


STORES = """
import array, os, resource, signal, socket, sys
count = int(sys.argv[1])
kept = int(os.environ.get("LISTEN_FDS", "0"))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    address = os.environ["NOTIFY_SOCKET"]
    notify.connect("\\0" + address[1:] if address.startswith("@") else address)
    if not kept:
        for number in range(count):
            one = os.memfd_create(f"one{number}")
            os.write(one, str(number).encode())
            data = f"FDSTORE=1\\nFDPOLL=0\\nFDNAME=n{number}".encode()
            socket.send_fds(notify, [data], [one])
            os.close(one)
    else:
        names = os.environ["LISTEN_FDNAMES"].split(":")
        right = sum(f"n{os.pread(3 + at, 20, 0).decode()}" == name for at, name in enumerate(names))
        with open(sys.argv[2], "w") as told:
            told.write(f"{kept} {right} {soft} {hard}")
    notify.send(b"READY=1")
signal.pause()
"""


async def test_many_descriptors_are_kept_over_a_restart(real: SystemdAgentsHarness) -> None:
    script, told = real.folder / "stores.py", real.folder / "told"
    script.write_text(STORES)
    init = SystemdInit(real.address)
    argv = [*PYTHON, str(script), str(DESCRIPTORS), str(told)]
    try:
        await init.start(DaemonSpec(real.session, "a session", real.folder, argv))
        assert await real.units.store_room() == (DESCRIPTORS, DESCRIPTORS)
        await init.restart(real.session)
        assert await real.units.store_room() == (DESCRIPTORS, DESCRIPTORS)
    finally:
        await init.close()
    kept, right, soft, hard = map(int, told.read_text().split())
    assert (kept, right) == (DESCRIPTORS, DESCRIPTORS)
    assert soft > DESCRIPTORS
    assert hard >= soft


async def test_no_daemon_has_no_room(real: SystemdAgentsHarness) -> None:
    with pytest.raises(NotFound) as caught:
        await real.units.store_room()
    assert caught.value.code == "unit_not_loaded"
