"""The book of one session's agents: a folder for each, with what it was started with and how it ended.

Every change is one file put in place whole, and on disk when the call returns: a process or a machine that
goes down in between leaves the state before or the state after.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sessiond.agents import launch
from sessiond.agents.faults import fault
from sessiond.agents.folder import AGENTS, LAUNCHES, AgentFolder
from sessiond.agents.written import end_from_json, end_to_json, spec_from_json, spec_to_json
from sessiond.errors import AlreadyExists, Conflict, NotFound
from sessiond.model.agent import AgentEnd, AgentSpec, Cause
from sessiond.model.identity import is_agent_id
from sessiond.paths import private_folder

_FILE_MAX = 4 << 20
_WISH_MAX, _DIGITS = 4096, 4
_DRAFT = ".new-"
_GONE = ".gone-"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one agent; ``end`` is None while nobody has written one.

    ``asked``: somebody asks for its end. ``sent``: the signals that it was sent, where nobody does.
    """

    spec: AgentSpec
    end: AgentEnd | None
    asked: bool
    folder: AgentFolder
    sent: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A folder that holds no agent that can be read, and why."""

    path: Path
    reason: str


class Book:
    """All agents of one session that have not been removed. Calls are short and block."""

    def __init__(self, session: str, state: Path, runtime: Path) -> None:
        """``state`` is the session's own state folder, ``runtime`` is sessiond's runtime folder."""
        self._session = session
        self._root = state / AGENTS
        self._runtime = runtime

    def folder(self, agent: str) -> AgentFolder:
        """Where an agent's files lie, whether it is there or not."""
        return AgentFolder(self._root / agent, self._runtime)

    # ---- reading

    def load(self) -> tuple[dict[str, Kept], list[Skipped]]:
        """All agents by id, oldest first, and what cannot be read as one."""
        kept: list[Kept] = []
        skipped: list[Skipped] = []
        try:
            names = sorted(os.listdir(self._root))
        except FileNotFoundError:
            return {}, []
        except OSError as error:
            raise fault(error, self._root, "read") from error
        for name in names:
            if not is_agent_id(name):
                continue
            try:
                kept.append(self._read(self.folder(name)))
            except (OSError, ValueError) as error:
                skipped.append(Skipped(self._root / name, str(error)))
        kept.sort(key=lambda one: (one.spec.created, one.spec.id))
        return {one.spec.id: one for one in kept}, skipped

    def read(self, agent: str) -> Kept:
        """One agent. Raises NotFound `agent_not_found`."""
        try:
            return self._read(self.folder(agent))
        except (OSError, ValueError) as error:
            raise NotFound(
                "agent_not_found",
                f"no agent {agent} can be read: {error}",
                hint="sessionctl ps -a",
                fields={"agent": agent},
            ) from error

    def _read(self, folder: AgentFolder) -> Kept:
        spec = spec_from_json(_load(folder.spec))
        if (spec.session, spec.id) != (self._session, folder.agent):
            raise ValueError(f"{folder.spec} is of another agent")
        try:
            end = end_from_json(_load(folder.end))
        except FileNotFoundError:
            end = None
        except (OSError, ValueError):
            # It is written once an agent has ended. What else is kept of it is worth showing.
            end = AgentEnd(cause=Cause.UNREADABLE)
        asked, sent = _wish(folder.asked)
        return Kept(spec, end, asked, folder, sent)

    def has_environment(self, agent: str) -> bool:
        """Whether its command line and environment are still there to start it again."""
        folder = self.folder(agent)
        return folder.launch_kept.exists() or folder.launch_passing.exists()

    # ---- writing

    def claim(self, spec: AgentSpec, environment: Mapping[str, str], input: bytes | None = None) -> Kept:
        """Enter a new agent with what it will read, all or nothing. Raises AlreadyExists `agent_exists`,
        Exhausted `disk_full`."""
        folder = self.folder(spec.id)
        if folder.path.exists():
            raise AlreadyExists(
                "agent_exists", f"there is an agent {spec.id}", hint="try again", fields={"agent": spec.id}
            )
        draft = self._root / f"{_DRAFT}{spec.id}"
        try:
            private_folder(self._root)
            private_folder(draft)
            _write(draft / folder.spec.name, _dump(spec_to_json(spec)))
            if input is not None:
                _write(draft / folder.input.name, input)
            self._write_launch(spec, draft / folder.launch_kept.name, folder.launch_passing, environment)
            draft.rename(folder.path)
            _sync(self._root)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            folder.launch_passing.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise fault(error, folder.path, "written") from error
            raise
        return Kept(spec, None, asked=False, folder=folder)

    def _write_launch(
        self, spec: AgentSpec, kept: Path, passing: Path, environment: Mapping[str, str]
    ) -> None:
        content = launch.encode(
            os.fsencode(spec.program),
            [os.fsencode(word) for word in spec.argv],
            os.fsencode(spec.cwd),
            spec.umask,
            {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
        )
        if not spec.resurrect:
            private_folder(self._runtime)
            private_folder(passing.parent)
        _write(kept if spec.resurrect else passing, content)

    def rewrite(self, spec: AgentSpec) -> None:
        """Replace what an agent was started with; its launch file stays."""
        self._put(self.folder(spec.id).spec, _dump(spec_to_json(spec)))

    def relocate(self, spec: AgentSpec) -> None:
        """Have its launch file lead to the spec's program and folder; raises Conflict `environment_gone`."""
        folder = self.folder(spec.id)
        path = folder.launch_kept if folder.launch_kept.exists() else folder.launch_passing
        try:
            _, argv, cwd, umask, environment = launch.decode(path.read_bytes())
        except (OSError, ValueError) as error:
            raise Conflict(
                "environment_gone",
                f"what {spec.name} was started with cannot be read: {error}",
                hint="run it anew",
                fields={"agent": spec.id, "name": spec.name},
            ) from error
        if environment.get(b"PWD") == cwd:
            environment[b"PWD"] = os.fsencode(spec.cwd)
        self._put(
            path, launch.encode(os.fsencode(spec.program), argv, os.fsencode(spec.cwd), umask, environment)
        )

    def note_asked(self, agent: str) -> None:
        """Somebody asks for its end."""
        self._put(self.folder(agent).asked, b"")

    def note_sent(self, agent: str, sent: frozenset[int]) -> None:
        """It was sent these signals, which may end it; in place of what was noted."""
        self._put(self.folder(agent).asked, b"%s\n" % " ".join(map(str, sorted(sent))).encode())

    def clear_asked(self, agent: str) -> None:
        """Nobody asks for its end any more, by signals neither."""
        self.folder(agent).asked.unlink(missing_ok=True)

    def write_end(self, agent: str, end: AgentEnd) -> None:
        """Write down how its run ended."""
        self._put(self.folder(agent).end, _dump(end_to_json(end)))

    def clear_end(self, agent: str) -> None:
        """A new run begins: the last one's end and wish are no longer its own."""
        folder = self.folder(agent)
        folder.end.unlink(missing_ok=True)
        folder.asked.unlink(missing_ok=True)
        _sync(folder.path)

    def forget_environment(self, agent: str) -> None:
        """Remove what is needed to start it again."""
        folder = self.folder(agent)
        folder.launch_kept.unlink(missing_ok=True)
        folder.launch_passing.unlink(missing_ok=True)

    def remove(self, agent: str) -> None:
        """Remove all that is kept of an agent; absent is fine. Never leaves its own folder."""
        folder = self.folder(agent)
        folder.launch_passing.unlink(missing_ok=True)
        # Out of sight in one step: what is half removed must not be read.
        gone = self._root / f"{_GONE}{agent}-{secrets.token_hex(4)}"
        try:
            folder.path.rename(gone)
            shutil.rmtree(gone)
        except FileNotFoundError:
            return
        except OSError as error:
            raise fault(error, folder.path, "removed") from error

    def sweep(self) -> None:
        """Remove what a killed process left half made or half removed; for the daemon, at its start."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._root):
                if name.startswith((_DRAFT, _GONE)):
                    shutil.rmtree(self._root / name, ignore_errors=True)

    def _put(self, path: Path, content: bytes) -> None:
        try:
            _write(path, content)
        except OSError as error:
            raise fault(error, path, "written") from error


def forget_session(session: str, runtime: Path) -> None:
    """Remove what the runtime folder holds of a session's agents."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(runtime / LAUNCHES):
            if name.startswith(f"{session}-"):
                (runtime / LAUNCHES / name).unlink(missing_ok=True)


def boot_id() -> str:
    """A word that names this run of the kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def lost_end(spec: AgentSpec, *, boot: str, manager: str) -> AgentEnd:
    """The end of an agent whose unit is gone and whose end nobody wrote down.

    ``boot`` and ``manager`` name the present runs of kernel and manager; empty where they are not known.
    """
    if spec.boot and boot and spec.boot != boot:
        return AgentEnd(cause=Cause.REBOOT)
    if spec.manager and manager and spec.manager != manager:
        return AgentEnd(cause=Cause.MANAGER)
    return AgentEnd(cause=Cause.UNSEEN)


# ---- files ----------------------------------------------------------------------------------


def _dump(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=True, indent=1).encode() + b"\n"


def _load(path: Path) -> object:
    """What a JSON file holds; raises OSError or ValueError. Never waits, never reads without bound."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        content = file.read(_FILE_MAX + 1)
    if len(content) > _FILE_MAX:
        raise ValueError(f"{path} is larger than {_FILE_MAX} bytes")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep") from error


def _wish(path: Path) -> tuple[bool, frozenset[int]]:
    """What `asked` says: whether an end is asked for, or the signals that were sent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, frozenset()
    with open(descriptor, "rb") as file:
        words = file.read(_WISH_MAX).split()
    # Whatever else it holds, it is there because somebody asked.
    if not words or not all(word.isdigit() and len(word) <= _DIGITS for word in words):
        return True, frozenset()
    return False, frozenset(map(int, words))


def _write(path: Path, content: bytes) -> None:
    """Put a file in place whole: it is on disk, under its name, when this returns."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
