"""`demo`: two sessions and an agent live, die and come back, and every claim is read back.

From systemd, from its journal, or from what another sessionctl prints.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sessiond import __version__
from sessiond.cli import exits, installation, render
from sessiond.cli.app import App
from sessiond.cli.host import SUPERVISOR_UNIT, Host
from sessiond.cli.journal import last_lines, session_matches
from sessiond.cli.verb import verb
from sessiond.errors import SessiondError, TimedOut

if TYPE_CHECKING:
    from sessiond.cli.stage import Stage

PATIENCE = 30.0
JOURNAL_PATIENCE = 15.0
# Counts, and says how far it came when it is asked to end; what the shell itself says is none of it.
COUNTER = (
    "exec 2>/dev/null; trap stop=1 TERM; n=0; "
    "until test $stop; do n=$((n+1)); echo line $n; sleep 0.002; done; echo $n lines"
)
# Lines of the counter that come before its daemon is killed, and after it is back.
COUNTED = 20
_TIMES = ("ActiveEnterTimestampMonotonic", "ActiveExitTimestampMonotonic")


@verb(
    "demo",
    examples="""
sessionctl demo
sessionctl demo --json
""",
)
def demo(app: App) -> None:
    """Show on this machine what sessiond does, and clean up.

    It uses your user manager where one runs, and a nest elsewhere. Your own sessions are not touched.
    Exits with 1 if something that it claims did not hold.
    """
    play = Play(app)
    started = time.monotonic()
    stack = ExitStack()
    try:
        left = _run(play, app, stack)
    finally:
        with _uninterrupted():
            stack.close()
    with play.scene("All is cleaned up"):
        found = left()
        play.claim("nothing of it is left: no folder, no unit, no process", not found, "; ".join(found))
    play.outcome(time.monotonic() - started)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let no Ctrl-C break off what cleans up, nor the programs that it calls: they inherit being deaf."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(play: Play, app: App, stack: ExitStack) -> Callable[[], list[str]]:
    """Play; returns what tells, once the stack is taken down, what it left behind."""
    from sessiond.cli.stage import set_up, temporary_folder
    from sessiond.client.sync import Supervisor

    folder = temporary_folder(stack)
    play.title()
    with play.scene("A supervisor"):
        stage = set_up(stack, app.host, folder, play.tell, play.tell)
        host = stage.host
        play.place = stage.where
        shown = host.properties(SUPERVISOR_UNIT, "ActiveState", "Type", "MainPID")
        pid = host.pid(int(shown.get("MainPID", "0")))
        state = shown.get("ActiveState", "unknown")
        play.claim(f"systemd says that {SUPERVISOR_UNIT} is active (pid {pid})", state == "active", state)
    supervisor = stack.enter_context(Supervisor(Path(host.socket)))
    acts = Acts(play, host, supervisor, stack)
    sessions = acts.two_sessions(folder / "workspaces")
    acts.units(sessions)
    acts.kill(sessions[0], sessions[1])
    acts.journal(sessions[0])
    acts.agent(sessions[1])
    acts.stop(sessions)
    return lambda: _left(stage, folder, [one.id for one in sessions])


def _left(stage: Stage, folder: Path, sessions: list[str]) -> list[str]:
    """What the demo left behind: each should be gone."""
    left = [str(folder)] if folder.exists() else []
    if stage.own_nest:
        return [*left, *(["its nest"] if stage.host.nest and stage.host.nest.alive else [])]
    shown = stage.host.systemctl(
        "list-units", "--all", "--plain", "--no-legend", "--full", "sessiond*"
    ).stdout
    units = [line.split()[0] for line in shown.splitlines() if any(one in line for one in sessions)]
    if not stage.borrowed and SUPERVISOR_UNIT in shown:
        units.append(SUPERVISOR_UNIT)
    return left + units


# ---- what is shown --------------------------------------------------------------------------


class Play:
    """What the audience sees: scenes, commands with their output, claims and whether they held."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._on = render.colours()
        self._claims: list[dict[str, Any]] = []
        self.place = ""

    def _print(self, text: str = "") -> None:
        if not self._app.json:
            self._app.print(text)
            # A play that comes in one piece at the end is none.
            self._app.flush()

    def title(self) -> None:
        """Say what this is."""
        self._print(render.paint(f"sessiond {__version__}", render.BOLD, on=self._on))

    @contextmanager
    def scene(self, name: str) -> Iterator[None]:
        """A part of the play."""
        self._print()
        self._print(render.paint(f"▸ {name}", render.BOLD, render.BLUE, on=self._on))
        yield

    def tell(self, text: str) -> None:
        """A sentence."""
        self._print(f"  {render.plain(text)}")

    def command(self, words: str, output: str = "") -> None:
        """A command that anybody can run, and what it printed."""
        self._print(f"  {render.paint('$ ' + words, render.YELLOW, on=self._on)}")
        width = render.terminal_width()
        for line in output.splitlines():
            shown = "    " + render.plain(line)
            self._print(render.paint(render.cut(shown, width) if width else shown, render.DIM, on=self._on))

    def claim(self, text: str, held: bool, found: str = "") -> None:
        """Something said, and whether what was read back bears it out."""
        self._claims.append({"claim": text, "held": held, "found": None if held else found})
        mark = (
            render.paint("✓", render.GREEN, on=self._on)
            if held
            else render.paint("✗", render.RED, on=self._on)
        )
        self._print(
            f"  {mark} {render.plain(text)}" + (f": {render.plain(found)}" if found and not held else "")
        )

    def outcome(self, seconds: float) -> None:
        """The end: how many claims held; the exit code."""
        failed = sum(not one["held"] for one in self._claims)
        if failed or not self._claims:
            self._app.exit_code = exits.FAILED
        if self._app.json:
            self._app.print_json({"place": self.place, "seconds": round(seconds, 3), "claims": self._claims})
            return
        self._print()
        if failed:
            self._print(
                render.paint(f"{failed} of {len(self._claims)} claims did not hold.", render.RED, on=self._on)
            )
            return
        told = f"All {len(self._claims)} claims held, in {seconds:.1f} s."
        self._print(render.paint(told, render.GREEN, on=self._on))


# ---- what happens ---------------------------------------------------------------------------


class Acts:
    """The scenes on a stage that stands; a session here is the message that the supervisor answered with."""

    def __init__(self, play: Play, host: Host, supervisor: Any, stack: ExitStack) -> None:
        self._play = play
        self._host = host
        self._supervisor = supervisor
        self._stack = stack

    def two_sessions(self, folder: Path) -> list[Any]:
        """Make two workspaces sessions, and start them."""
        from sessiond.client.sync import JOB_TIMEOUT
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb

        made = []
        with self._play.scene("Two sessions, each a unit of systemd"):
            for name in ("shop", "blog"):
                path = folder / f"{name}-{os.getpid()}"
                request = pb.CreateSessionRequest(path=str(path), start=True)
                self._play.command(f"sessionctl new {path} --start")
                # Before the call: one that fails midway may have made the session.
                self._stack.callback(self._delete, path)
                begun = time.monotonic()
                stub = self._supervisor.sessions.CreateSession
                session = self._supervisor.call(stub, request, timeout=JOB_TIMEOUT).session
                took = time.monotonic() - begun
                shown = self._shown(session)
                text = f"{session.name} serves after {took * 1000:.0f} ms (pid {self._pid(shown)})"
                self._play.claim(text, shown.get("ActiveState") == "active", shown.get("ActiveState", ""))
                made.append(session)
        return made

    def units(self, sessions: list[Any]) -> None:
        """What systemctl lists."""
        with self._play.scene("What systemd says of them"):
            listed = self._list()
            self._play.command("systemctl --user list-units 'sessiond*'", _shortened(listed))
            present = all(re.search(rf"{one.unit}\s+loaded\s+active\s+running", listed) for one in sessions)
            self._play.claim("both daemons are loaded, active and running", present)

    def kill(self, victim: Any, other: Any) -> None:
        """SIGKILL one daemon, and see it come back."""
        with self._play.scene("One is killed"):
            before, bystander = self._shown(victim), self._shown(other)
            pid = self._pid(before)
            if pid is None:
                self._play.claim("its process can be seen from here", False)
                return
            self._back_after(victim, lambda: self._shoot(pid))
            after = self._shown(victim)
            held = after.get("ActiveState") == "active" and after.get("MainPID") != before.get("MainPID")
            took = _recovery(after)
            self._play.claim(
                f"systemd has it back after {took * 1000:.0f} ms: pid {pid} is now {self._pid(after)}"
                if took is not None
                else "systemd has it back",
                held and took is not None,
                after.get("ActiveState", ""),
            )
            count = after.get("NRestarts", "")
            self._play.claim("systemd counts 1 restart", count == "1", f"NRestarts={count}")
            same = self._shown(other).get("MainPID")
            self._play.claim(
                f"{other.name} did not notice", same == bystander.get("MainPID"), f"MainPID={same}"
            )

    def _shoot(self, pid: int) -> None:
        self._play.command(f"kill -KILL {pid}")
        os.kill(pid, signal.SIGKILL)

    def _back_after(self, session: Any, deed: Callable[[], None]) -> None:
        """Do a deed that ends a daemon, and return when events tell that it left and is active again."""
        from sessiond.rpc._generated.v1 import events_pb2 as pb

        request = pb.WatchEventsRequest(sessions=[session.id], kinds=["session_state_changed"])
        stub = self._supervisor.events.WatchEvents
        stream = self._supervisor.stream(stub, request, timeout=PATIENCE)
        try:
            next(stream)  # where the stream begins: from here on nothing is missed
            deed()
            for response in stream:
                if response.event.fields.get("to") == "active":
                    return
        except TimedOut:
            return  # what systemd says next will not bear the claim out
        finally:
            stream.close()

    def journal(self, session: Any) -> None:
        """What the journal has on it."""
        with self._play.scene("Its journal tells the same"):
            wanted = ("code=killed, status=9/KILL", "Scheduled restart job", "Started ")
            matches = session_matches(session.id)
            lines = _journal_until(self._host, matches, wanted)
            text = "\n".join(line.replace(session.unit, "…") for line in lines[-8:])
            self._play.command(f"sessionctl logs {session.name}", text)
            if not lines and last_lines(self._host, matches, 1) is None:
                self._play.tell("The journal cannot be read by this user: sessionctl doctor says why.")
                return
            missing = [one for one in wanted if not any(one in line for line in lines)]
            told = "killed by SIGKILL, scheduled again, started again: the journal has each"
            self._play.claim(told, not missing, f"not found: {', '.join(missing)}")

    def agent(self, session: Any) -> None:
        """Run an agent that counts, kill the daemon that holds its terminal, and read what it printed."""
        with self._play.scene("An agent, in a terminal that outlives its daemon"):
            words = ["--session", session.name, "--name", "counter", "--detach", "--tty"]
            self._play.command(f"sessionctl run {shlex.join(words)} -- sh -c {shlex.quote(COUNTER)}")
            agent = json.loads(installation.sessionctl(self._host, "run", *words, "--", "sh", "-c", COUNTER))
            name = f"{session.name}/{agent['name']}"
            before = self._unit(agent)
            self._play.command(f"systemctl --user status {_short(agent['unit'])}", self._status(agent))
            self._play.claim(
                f"{name} runs in a unit of its own (pid {self._pid(before)})",
                before.get("ActiveState") == "active" and before.get("MainPID", "0") != "0",
                before.get("ActiveState", ""),
            )
            self._hold_on(session, agent)
            after = self._unit(agent)
            self._play.claim(
                f"{name} did not notice: it is pid {self._pid(after)}, as before",
                after == before,
                f"{after.get('ActiveState')}, MainPID={after.get('MainPID')}",
            )
            self._play.command(f"sessionctl stop {name}")
            installation.sessionctl(self._host, "stop", name)
            page = json.loads(installation.sessionctl(self._host, "output", name))
            lines = [line["text"] for line in page["lines"]]
            self._play.command(f"sessionctl output {name} --json | jq -r '.lines[].text'", _middle_out(lines))
            found, count = miscounted(lines), max(len(lines) - 1, 0)
            self._play.claim(
                f"its record holds each of its {count} lines exactly once, and its last word",
                not found and page["start"] == 0,
                found or f"it begins at byte {page['start']}",
            )

    def _hold_on(self, session: Any, agent: dict[str, Any]) -> None:
        """SIGKILL the daemon while the agent prints, and see both go on."""
        before = self._shown(session)
        pid = self._pid(before)
        if pid is None:
            self._play.claim("the daemon's process can be seen from here", False)
            return
        self._printed(agent)
        self._back_after(session, lambda: self._shoot(pid))
        after = self._shown(session)
        held = after.get("ActiveState") == "active" and after.get("MainPID") != before.get("MainPID")
        took = _recovery(after)
        told = f" after {took * 1000:.0f} ms: pid {pid} is now {self._pid(after)}" if took is not None else ""
        self._play.claim(
            f"its daemon, killed while it prints, is back{told}",
            held and took is not None,
            after.get("ActiveState", ""),
        )
        self._printed(agent)

    def _printed(self, agent: dict[str, Any]) -> None:
        """Return when the agent has printed some lines, counted from now."""
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        request = pb.StreamRecordRequest(
            session=agent["session"], agent=agent["id"], follow=True, from_end=True
        )
        stub = self._supervisor.agents.StreamRecord
        stream = self._supervisor.stream(stub, request, timeout=PATIENCE)
        seen = 0
        try:
            for piece in stream:
                seen += piece.data.count(b"\n")
                if seen >= COUNTED:
                    return
        except TimedOut:
            pass
        finally:
            stream.close()
        self._play.claim(f"{agent['name']} goes on printing", False, f"{seen} lines")

    def _unit(self, agent: dict[str, Any]) -> dict[str, str]:
        names = ("ActiveState", "MainPID", "NRestarts", "InvocationID")
        return self._host.properties(agent["unit"], *names)

    def _status(self, agent: dict[str, Any]) -> str:
        """What of `systemctl status` says whether it runs."""
        words = ["status", "--lines=0", "--full", "--", agent["unit"]]
        first, *rest = self._host.systemctl(*words, check=False).stdout.splitlines() or [""]
        told = [line for line in rest if line.lstrip().startswith(("Active:", "Main PID:"))]
        return _short("\n".join([first, *told]))

    def stop(self, sessions: list[Any]) -> None:
        """Stop both, and see nothing left of them."""
        from sessiond.client.sync import JOB_TIMEOUT
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb

        with self._play.scene("Both are stopped"):
            self._play.command(f"sessionctl stop {' '.join(one.name for one in sessions)}")
            requests = [pb.StopSessionRequest(session=one.id) for one in sessions]
            stub = self._supervisor.sessions.StopSession
            for outcome in self._supervisor.call_all(stub, requests, timeout=JOB_TIMEOUT):
                if isinstance(outcome, SessiondError):
                    raise outcome
            listed = self._list()
            left = [
                line.split()[0] for line in listed.splitlines() if any(one.id in line for one in sessions)
            ]
            self._play.claim("no unit of theirs runs any more", not left, f"left: {', '.join(left)}")

    def _delete(self, path: Path) -> None:
        """Make the supervisor forget a session of the demo; its folder goes with the demo's."""
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb

        request = pb.DeleteSessionRequest(session=str(path), stop=True)
        try:
            self._supervisor.call(self._supervisor.sessions.DeleteSession, request, timeout=PATIENCE)
        except SessiondError as error:
            if error.code != "session_not_found":
                self._play.claim(f"{path} is forgotten", False, error.message)

    # ---- asking systemd ---------------------------------------------------------------------

    def _shown(self, session: Any) -> dict[str, str]:
        names = ("ActiveState", "SubState", "MainPID", "NRestarts", *_TIMES)
        return self._host.properties(session.unit, *names)

    def _pid(self, shown: dict[str, str]) -> int | None:
        inner = int(shown.get("MainPID") or 0)
        return self._host.pid(inner) if inner else None

    def _list(self) -> str:
        words = ["list-units", "--plain", "--no-legend", "--full", "sessiond*"]
        return self._host.systemctl(*words).stdout


def _recovery(shown: dict[str, str]) -> float | None:
    """Seconds from systemd's notice of the death to its notice of READY, by its own clock."""
    entered, left = (int(shown.get(name) or 0) for name in _TIMES)
    return (entered - left) / 1e6 if entered > left > 0 else None


def miscounted(lines: list[str]) -> str:
    """Where lines are not what the counter printed, each exactly once and in order; empty where they are."""
    count = max(len(lines) - 1, 2 * COUNTED)
    expected = [*(f"line {number}" for number in range(1, count + 1)), f"{count} lines"]
    for number, (found, right) in enumerate(zip_longest(lines, expected), 1):
        if found != right:
            return f"{number}: {found!r} instead of {right!r}"
    return ""


def _middle_out(lines: list[str]) -> str:
    return "\n".join(lines if len(lines) < 6 else [*lines[:2], "…", *lines[-2:]])


def _short(text: str) -> str:
    """The text with ids cut, so that a line fits a terminal."""
    return re.sub(r"([0-9a-f]{8})[0-9a-f]{24}", r"\1…", text)


def _shortened(listed: str) -> str:
    """list-units with ids cut and columns joined again, so that a line fits a terminal."""
    rows = [line.split(None, 4) for line in _short(listed).splitlines()]
    widths = [max(len(row[i]) for row in rows) for i in range(4)] if rows else []
    return "\n".join(
        " ".join([*(cell.ljust(widths[i]) for i, cell in enumerate(row[:4])), *row[4:]]) for row in rows
    )


def _journal_until(host: Host, matches: list[str], wanted: tuple[str, ...]) -> list[str]:
    """A session's journal lines, read until all that is wanted has come or for some seconds."""
    import selectors
    import subprocess

    words = ["journalctl", "--no-pager", "--quiet", "--follow", "--lines=all", "--output=short-precise"]
    argv = host.argv([*words, *matches])
    lines: list[str] = []
    deadline = time.monotonic() + JOURNAL_PATIENCE
    with (
        subprocess.Popen(
            argv,
            env=host.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        rest = b""
        while not all(any(one in line for line in lines) for one in wanted):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            *whole, rest = (rest + piece).split(b"\n")
            lines += [line.decode(errors="replace") for line in whole]
        # Closing its output ends journalctl, and waiting for it leaves no zombie behind, as a signal would
        # where this process is not its parent.
        process.stdout.close()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
    return lines
