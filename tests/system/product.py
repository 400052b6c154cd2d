"""The product installed on a test host and driven as its users do; what it says is read back from systemd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sessiond.cli.jsonout import STATE_NUMBERS, session_object
from sessiond.client.sync import Supervisor
from sessiond.errors import SessiondError
from sessiond.model.unit import agents_slice, daemon_unit, session_slice, starter_unit
from sessiond.rpc._generated.v1 import events_pb2, sessions_pb2, system_pb2, types_pb2
from sessiond.testing.host import HOME, Host

T = TypeVar("T")

# Seconds after which what a test waits for is held to come no more; a machine may be busy with other things.
PATIENCE = 120.0

SUPERVISOR = "sessiond.service"
STATE = f"{HOME}/.local/state/sessiond"
# Outside the roots of discovery: what lies here is known by the state folder's links alone.
OUTSIDE_ROOTS = f"{HOME}/w"
INSIDE_ROOTS = f"{HOME}/projects"
CONFIG = f"{HOME}/.config/sessiond/config.toml"
USER_UNITS = f"{HOME}/.config/systemd/user"
USER_CONTROL = f"{HOME}/.config/systemd/user.control"

_ASKED = (
    "LoadState",
    "ActiveState",
    "SubState",
    "MainPID",
    "NRestarts",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
    "Slice",
    "FreezerState",
    "InvocationID",
)
_WAITS_FOR_RESTART = ("auto-restart", "auto-restart-queued")
_STATES = {
    "inactive": "inactive",
    "activating": "starting",
    "active": "active",
    "reloading": "active",
    "deactivating": "stopping",
    "failed": "error",
}


def until(test: Callable[[], T | None], what: str, *, timeout: float = PATIENCE) -> T:
    """Ask again until the answer is true, and return it; fails with what was waited for and the last answer.

    For what gives no signal to a test: everything that does is waited for with `sessionctl wait` or events.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = test()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout:g} s; the last answer was {answer!r}")
        time.sleep(0.02)


def state_of(unit: dict[str, str]) -> str:
    """What systemd's own words for a session daemon's unit mean, told apart from the product's table."""
    if unit["SubState"] in _WAITS_FOR_RESTART:
        return "starting"
    return _STATES[unit["ActiveState"]]


class Product:
    """sessiond on one host. Paths are those inside the host unless told otherwise."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._folders = 0

    # ---- the supervisor

    def install(self) -> Product:
        """Install it as a person does, and return when it serves."""
        self.host.sessionctl("install")
        self.serving()
        return self

    @property
    def socket(self) -> Path:
        """The supervisor's socket as seen from out here."""
        return self.host.path(f"{self.host.runtime_dir}/sessiond/sessiond.sock")

    def daemon_socket(self, session: str) -> Path:
        """A session daemon's socket as seen from out here."""
        return self.host.path(f"{self.host.runtime_dir}/sessiond/sessions/{session}.sock")

    @contextmanager
    def client(self) -> Iterator[Supervisor]:
        """A channel of its own to the supervisor."""
        with Supervisor(self.socket, timeout=PATIENCE) as supervisor:
            yield supervisor

    def info(self) -> system_pb2.GetInfoResponse:
        """What the supervisor says of itself; raises SessiondError while it is down."""
        with self.client() as client:
            response: system_pb2.GetInfoResponse = client.call(
                client.system.GetInfo, system_pb2.GetInfoRequest()
            )
            return response

    def serving(self, *, besides: int = 0, timeout: float = PATIENCE) -> int:
        """Wait until a supervisor serves whose pid (inside) is not ``besides``; returns its pid."""

        def pid() -> int:
            try:
                info = self.info()
            except SessiondError:
                return 0
            return info.pid if info.pid != besides and info.init_reachable else 0

        return until(pid, "a supervisor that serves and reaches systemd", timeout=timeout)

    def supervisor_pid(self) -> int:
        """Its pid inside, as systemd tells it."""
        return int(self.host.show(SUPERVISOR, "MainPID")["MainPID"])

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal a process of the host by its pid inside."""
        os.kill(self.host.outer_pid(pid), number)

    def kill_supervisor(self) -> int:
        """SIGKILL of the supervisor; returns the pid of the one that systemd had back."""
        pid = self.supervisor_pid()
        self.kill(pid)
        return self.serving(besides=pid)

    def restart_supervisor(self) -> int:
        """An orderly restart; returns the new pid."""
        pid = self.supervisor_pid()
        # Tests may end more supervisors in a minute than systemd's start limit allows.
        self.host.systemctl("reset-failed", SUPERVISOR, check=False)
        self.host.systemctl("restart", SUPERVISOR)
        return self.serving(besides=pid)

    def stop_supervisor(self) -> None:
        """Stop it; sessions go on."""
        self.host.systemctl("stop", SUPERVISOR)

    def start_supervisor(self) -> int:
        """Start it; returns its pid."""
        self.host.systemctl("reset-failed", SUPERVISOR, check=False)
        self.host.systemctl("start", SUPERVISOR)
        return self.serving()

    # ---- sessionctl

    def ctl(self, *words: str, timeout: float = PATIENCE) -> str:
        """What sessionctl prints; an exit status other than 0 fails the test."""
        return self.host.sessionctl(*words, timeout=timeout).stdout

    def json(self, *words: str, timeout: float = PATIENCE) -> Any:
        """What sessionctl prints with --json."""
        return json.loads(self.ctl(words[0], "--json", *words[1:], timeout=timeout))

    def refused(self, exit_code: int, *words: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The error that sessionctl prints with --json when it exits with this status."""
        done = self.host.sessionctl(words[0], "--json", *words[1:], check=False, timeout=timeout)
        said = f"sessionctl {' '.join(words)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == exit_code, said
        error: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])["error"]
        assert error["code"], said
        assert error["message"], said
        return error

    def rows(self) -> list[dict[str, Any]]:
        """What `list -a --json` prints, made of the same call by the same code without a process."""
        return [session_object(one, lambda pid: pid) for one in self.sessions()]

    def row(self, session: str) -> dict[str, Any]:
        """The one row of a session."""
        [row] = [row for row in self.rows() if row["id"] == session]
        return row

    def show(self, word: str) -> dict[str, Any]:
        """`show --json`."""
        found: dict[str, Any] = self.json("show", word)
        return found

    def limits(self, session: str, *properties: str) -> dict[str, str]:
        """`limit --json`: sets these, and returns the limits in force."""
        [changed] = self.json("limit", session, *properties)
        found: dict[str, str] = changed["limits"]
        return found

    def wait(self, session: str, *states: str, timeout: int = int(PATIENCE)) -> None:
        """What `sessionctl wait` does: returns when it is in one of the states."""
        request = sessions_pb2.WaitSessionRequest(
            session=session, states=[STATE_NUMBERS[state] for state in states]
        )
        request.timeout.FromSeconds(timeout)
        with self.client() as client:
            client.call(client.sessions.WaitSession, request, timeout=timeout + 15)

    def new(self, *flags: str, folder: str | None = None) -> dict[str, Any]:
        """A new session in a new folder outside the roots of discovery (or the one given)."""
        path = folder or self.folder()
        if set(flags) <= {"--start", "--enable"}:
            return self._made(path, flags)
        made: dict[str, Any] = self.json("new", path, *flags)
        assert made["path"] == path
        return made

    def _made(self, path: str, flags: Sequence[str]) -> dict[str, Any]:
        """What `sessionctl new` does, without a process: most tests begin so."""
        start, enable = "--start" in flags, "--enable" in flags
        request = sessions_pb2.CreateSessionRequest(path=path, start=start, enable=enable)
        with self.client() as client:
            response = client.call(client.sessions.CreateSession, request)
        return session_object(response.session, lambda pid: pid)

    def started(self, *, folder: str | None = None) -> dict[str, Any]:
        """A new session that is active."""
        made = self.new("--start", folder=folder)
        assert made["state"] == "active"
        return made

    # ---- cheaper than sessionctl, for loops and races

    def sessions(self) -> list[types_pb2.Session]:
        """All rows, over gRPC."""
        with self.client() as client:
            request = sessions_pb2.ListSessionsRequest(include_archived=True)
            return list(client.call(client.sessions.ListSessions, request).sessions)

    def state(self, session: str) -> str:
        """A session's state in the CLI's word, over gRPC."""
        [found] = [one.state for one in self.sessions() if one.id == session]
        return types_pb2.SessionState.Name(found).removeprefix("SESSION_STATE_").lower()

    def cursor(self) -> types_pb2.Cursor:
        """Where the event log stands."""
        with self.client() as client:
            return client.call(client.events.FetchEvents, events_pb2.FetchEventsRequest(limit=1)).cursor  # type: ignore[no-any-return]

    def events(
        self, after: types_pb2.Cursor, session: str = "", kind: str = ""
    ) -> list[tuple[str, dict[str, str]]]:
        """Kind and fields of what happened since, to one session or to all, of one kind or of all."""
        request = events_pb2.FetchEventsRequest(after=after, limit=10_000)
        with self.client() as client:
            response = client.call(client.events.FetchEvents, request)
        assert not response.reset, "the supervisor is another one"
        return [
            (event.kind, dict(event.fields))
            for event in response.events
            if (not session or event.session == session) and (not kind or event.kind == kind)
        ]

    def moves(self, after: types_pb2.Cursor, session: str) -> list[tuple[str, str]]:
        """The changes of state since, as (from, to)."""
        changes = self.events(after, session, "session_state_changed")
        return [(fields["from"], fields["to"]) for _, fields in changes]

    # ---- systemd

    def unit(self, session: str) -> dict[str, str]:
        """What systemctl says of a session daemon's unit."""
        return self.host.show(daemon_unit(session), *_ASKED)

    def pid(self, session: str) -> int:
        """The session daemon's pid inside, as systemd tells it; 0 where none runs."""
        return int(self.unit(session)["MainPID"])

    def new_pid(self, session: str, besides: int) -> int:
        """Wait until systemd tells another main process than ``besides``."""
        return until(
            lambda: pid if (pid := self.pid(session)) != besides else 0,
            f"a new main process of {daemon_unit(session)}",
        )

    def back(self, session: str, besides: int) -> int:
        """Wait until another main process than ``besides`` serves, for systemd and for the supervisor, which
        may hear of it later than systemctl tells it; returns its pid."""

        def served() -> int:
            pid, row = self.pid(session), self.row(session)
            return pid if pid not in (0, besides) and (row["pid"], row["state"]) == (pid, "active") else 0

        return until(served, f"another daemon of {session} that serves")

    def processes(self, session: str) -> list[int]:
        """Pids inside of all processes of a session, from its slice's cgroup."""
        group = self.host.show(session_slice(session), "ControlGroup").get("ControlGroup", "")
        if not group:
            return []
        script = f'find "/sys/fs/cgroup{group}" -name cgroup.procs -exec cat {{}} + 2>/dev/null || true'
        return sorted(map(int, self.host.run(["sh", "-c", script]).stdout.split()))

    def agrees(self, *, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until each row of `sessionctl list` is what systemd says now; returns the rows.

        Signals take their time, so a difference counts only when it stays.
        """
        rows: list[dict[str, Any]] = []

        def same() -> bool:
            rows[:] = self.json("list", "-a")
            differences[:] = [text for row in rows if not row["conflict"] for text in self._difference(row)]
            return not differences

        differences: list[str] = []
        deadline = time.monotonic() + timeout
        while not same():
            assert time.monotonic() < deadline, "\n".join(differences)
        return rows

    def _difference(self, row: dict[str, Any]) -> list[str]:
        unit = self.unit(row["id"])
        expected = state_of(unit)
        told = {
            "state": "archived" if row["archived"] and expected == "inactive" else expected,
            "pid": int(unit["MainPID"]) or None,
            "enabled": self.enabled(row["id"]),
        }
        if unit["ActiveState"] != "inactive":
            told |= {"restarts": int(unit["NRestarts"]), "slice": unit["Slice"]}
        return [
            f"{row['name']}: {key} is {row[key]!r}, and systemd says {value!r}"
            for key, value in told.items()
            if row[key] != value
        ]

    def enabled(self, session: str) -> bool:
        """Whether systemd starts it at boot."""
        done = self.host.systemctl("is-enabled", starter_unit(session), check=False)
        return done.stdout.strip() == "enabled"

    def user_unit_drop_in(self, unit: str, text: str) -> None:
        """Write a drop-in for a user unit and have it read; `clean` takes it away."""
        self.write(f"{USER_UNITS}/{unit}.d/50-test.conf", text)
        self.host.systemctl("daemon-reload")

    # ---- files of the user

    def folder(self, name: str = "", *, under: str = OUTSIDE_ROOTS) -> str:
        """Make a folder of the user's; returns its path inside."""
        self._folders += 1
        path = f"{under}/{name or f'work-{self._folders}'}"
        self.host.run(["mkdir", "-p", path])
        return path

    def write(self, path: str, text: str) -> None:
        """Write a file of the user's, with the folders that lead to it."""
        self.host.run(["sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "sh", path], input=text)

    def identity(self, folder: str) -> dict[str, Any] | None:
        """What a workspace says of itself; None where it holds no identity."""
        file = self.host.path(f"{folder}/.sessiond/session.json")
        try:
            found: dict[str, Any] = json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def links(self) -> dict[str, str]:
        """Workspaces by session as the state folder knows them."""
        folder = self.host.path(f"{STATE}/sessions")
        if not folder.is_dir():
            return {}
        found = {}
        for one in folder.iterdir():
            link = one / "workspace"
            found[one.name] = os.readlink(link) if link.is_symlink() else ""
        return found

    # ---- the end of a test

    def rid(self, *paths: str) -> None:
        """Remove files of the user's for good: what is still ending may write once more."""
        until(lambda: self.host.run(["rm", "-rf", *paths], check=False).returncode == 0, f"no {paths}")

    def clean(self) -> None:
        """Delete every session, and fail where anything of one is left; the supervisor serves afterwards."""
        try:
            self.info()
        except SessiondError:
            self.start_supervisor()
        with self.client() as client:
            request = sessions_pb2.ListSessionsRequest(include_archived=True)
            known = {one.id for one in client.call(client.sessions.ListSessions, request).sessions}
            deletes = [sessions_pb2.DeleteSessionRequest(session=one, stop=True) for one in sorted(known)]
            outcomes = client.call_all(client.sessions.DeleteSession, deletes) if deletes else []
        self._remove(OUTSIDE_ROOTS, INSIDE_ROOTS)
        drop_ins = self._test_drop_ins()
        self._remove(*(str(Path(USER_UNITS) / one.name) for one in drop_ins))
        if any(one.name.startswith(SUPERVISOR) for one in drop_ins):
            self.host.systemctl("daemon-reload")
            self.restart_supervisor()
        faults = [str(one) for one in outcomes if isinstance(one, SessiondError)]
        assert not faults, "\n".join(faults)
        left = self.left()
        assert not left, "left behind:\n" + "\n".join(left)

    def journal(self, *words: str) -> str:
        """The user's journal as journalctl prints it, everything written so far."""
        self.host.run(["journalctl", "--sync"], user=False)
        return self.host.run(["journalctl", "-o", "short-precise", *words]).stdout

    def _test_drop_ins(self) -> Sequence[Path]:
        return [one.parent for one in self.host.path(USER_UNITS).glob("*.d/50-test.conf")]

    def _remove(self, *paths: str) -> None:
        for path in paths:
            shutil.rmtree(self.host.path(path), ignore_errors=True)

    def left(self) -> list[str]:
        """Units, files and enablement that belong to no session any more."""
        self.host.systemctl("daemon-reload")
        listing = ["list-units", "--all", "--plain", "--no-legend"]
        shown = self.host.systemctl(*listing, "sessiond-*", "sessiond@*").stdout
        left = [f"unit {line}" for line in shown.splitlines()]
        left += [f"state {session}" for session in self.links()]
        for folder in (USER_UNITS, USER_CONTROL):
            found = self.host.path(folder).rglob("sessiond[-@]*")
            left += [f"file {one}" for one in found if one.name != "sessiond@.service"]
        sockets = self.host.path(f"{self.host.runtime_dir}/sessiond/sessions")
        left += [f"socket {one.name}" for one in sockets.glob("*.sock")]
        return left


__all__ = [
    "CONFIG",
    "HOME",
    "INSIDE_ROOTS",
    "OUTSIDE_ROOTS",
    "PATIENCE",
    "STATE",
    "SUPERVISOR",
    "Product",
    "agents_slice",
    "daemon_unit",
    "session_slice",
    "starter_unit",
    "state_of",
    "until",
]
