"""Discovery: what an adapter knows of its program's files and processes, and who runs adapters.

Adapters are plain blocking code: each runs in a process of its own, which is killed when it hangs. They
never run their program to look at it, never write to its files, and read large files at their ends only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sessiond.model.agent_session import Found, Life, Plan, Probe, Problem, Transcript, Wish

# ---- what adapters are given ----------------------------------------------------------------


class Process(Protocol):
    """One process of the user. Each property reads /proc when it is first asked for; what cannot be read, or
    belongs to a process that is gone meanwhile, is empty."""

    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat."""
    comm: str

    @property
    def exe(self) -> str:
        """Absolute path of what it executes."""
        ...

    @property
    def argv(self) -> Sequence[str]:
        """Its command line; no evidence where programs rewrite it."""
        ...

    @property
    def cwd(self) -> str:
        """Its folder."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment it was started with."""
        ...

    @property
    def open_files(self) -> Collection[str]:
        """Paths of the files it has open."""
        ...

    @property
    def mark(self) -> str:
        """`SESSION-AGENT` where its cgroup is that of one of our agents' units."""
        ...

    @property
    def parent(self) -> int:
        """Pid of its parent."""
        ...


class Processes(Protocol):
    """The user's processes at one moment."""

    def get(self, pid: int) -> Process | None:
        """A process that lives (a zombie does not)."""
        ...

    def all(self) -> Iterable[Process]:
        """All that live. Costs a look at each."""
        ...

    def lock_holders(self) -> Mapping[tuple[int, int], int]:
        """Who holds a flock: (device, inode) to pid, from /proc/locks."""
        ...

    def outside(self) -> Sequence[Process]:
        """Of a nest: the user's processes outside of it, by their pids there. None of them is told by ``get``
        and ``all``, and nobody can be told of its end."""
        ...

    def lock_holders_outside(self) -> Mapping[tuple[int, int], int]:
        """As ``lock_holders``, by the pids outside; those inside are among them."""
        ...

    def abroad(self, space: str, pid: int, start_time: int | None) -> int | None:
        """A process that another PID namespace (`pid:[4026531836]`) of this machine calls ``pid``: its pid as
        it can be seen from here, 0 where it is sure to be gone, None where that cannot be told."""
        ...


# ---- what adapters tell ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """A folder in which changes matter, with so many levels of folders below it. ``suffixes`` are endings of
    file names that matter (empty: all); files whose names begin so (`opencode.db`) may be given whole.
    It need not exist yet."""

    folder: str
    depth: int = 0
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gone:
    """A conversation whose file is no longer there."""

    id: str


@dataclass(frozen=True, slots=True)
class Clear:
    """All is well again with this file."""

    path: str


Told = Found | Gone | Problem | Clear


@dataclass(frozen=True, slots=True)
class Possible:
    """A process of the program whose conversation cannot be told: it may have any of ``cwd`` open, or any at
    all where that is empty. ``reason`` is what people are told. ``home`` is `Found.native`'s of those."""

    pid: int
    start_time: int
    cwd: str
    reason: str
    home: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Who lives: by id, and processes that may be any. What is in neither is stopped, unless ``unknown`` says
    why nothing can be concluded."""

    lives: Mapping[str, Life] = field(default_factory=dict)
    possible: Sequence[Possible] = ()
    unknown: str = ""
    holders: Sequence[tuple[int, int]] = ()
    """Pid and start time of further processes whose end changes this: servers that have conversations of many
    open, and are therefore the process of none."""
    moved: bool = False
    """There are places that were not watched and read before: all is to be."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """``unknown`` of those in another home than the usual one, by `Found.native`'s home."""
    homes: Mapping[str, str] = field(default_factory=dict)
    """That home, by id, of those who live in one."""
    spare: Collection[int] = ()
    """Pids of processes that are no rows of their own: they have no conversation open for certain, or are
    told by another adapter."""
    outside: Sequence[Possible] | None = None
    """The same as ``possible`` of processes outside of our nest; None where every one that runs the program
    may have what is in its folder, or was written since it began."""


class AgentAdapter(Protocol):
    """The authority on one agent program. Constructed as ``Adapter(environment: Mapping[str, str])``:
    HOME, XDG folders and the program's own variables decide where its files are.

    It may keep what it read for as long as a file's identity, size and time are the same. Errors of the
    operating system on one file are told as Problem; whatever else is raised makes all of it stale.
    """

    name: str
    title: str
    program: str
    """What is searched in PATH; empty where it is no single program."""
    verified: str
    """Version of the real program that the tests run; empty means unverified."""
    abilities: frozenset[str]
    """Of `launch`, `print`, `resume`, `transcript`, `choose-id`, `model`, `permission`."""

    def watched(self) -> Sequence[Watched]:
        """Where it reads: what is to be watched, and shown as its places."""
        ...

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """All conversations, or those of the files and folders that changed. With None every one is told,
        and what is not told does not exist any more. ``Found.life`` and ``trouble`` are left as they are: a
        Problem of its ``source``, or of a folder above that, makes a row the last good answer."""
        ...

    def evidence(self, processes: Processes) -> Evidence:
        """Who lives, from the program's registry, locks, sockets and processes. Cheap: it is asked at each
        change of a file that could tell, when a process ends, and when somebody wants to know."""
        ...

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """The same for one, cheap and targeted, for who is about to act on it."""
        ...

    def transcript(self, found: Found, tail: int) -> Transcript:
        """Its last messages. Raises NotFound `transcript_missing`."""
        ...

    def launch(self, wish: Wish) -> Plan:
        """A new one; the first word of argv is the program's name. Raises InvalidArgument `prompt_missing`,
        `prompt_invalid`, `prompt_too_large`, `model_invalid`, `id_invalid`, `command_missing`, Unsupported
        `adapter_cannot`."""
        ...

    def resume(self, found: Found, wish: Wish) -> Plan:
        """Go on with one. Raises as ``launch``."""
        ...

    def identify(self, line: str) -> str | None:
        """The id that a line of the program's output tells, where ``Plan.learn`` is `stdout`."""
        ...

    def version(self, path: str) -> str:
        """Version of the program at a path, without running it where that can be; empty if it cannot be
        told."""
        ...


# ---- who runs adapters ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    """What is new of one adapter's conversations, with their lives. ``whole``: what is not among them is
    gone."""

    adapter: str
    found: Sequence[Found] = ()
    gone: Sequence[str] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Problems:
    """All trouble that an adapter has now, in place of what it had. With one whose path is empty its rows are
    stale: its last good answer."""

    adapter: str
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of an adapter's conversations was held against files and processes just now."""

    adapter: str


FinderEvent = Rows | Problems | Checked


class Finder(Protocol):
    """Runs each adapter in a process of its own: one that fails or hangs (the setting's deadline, then it is
    killed) delays nobody and leaves its last answer. All start at the first call.

    Questions raise Unreachable `adapter_failed`, TimedOut `adapter_timeout`, and what the adapter raises.
    """

    async def prepare(self) -> None:
        """Have at hand what the first question needs besides the adapters, where any of these has files here:
        nothing is looked at. Raises Unreachable `adapter_failed`."""
        ...

    def watch(self) -> AsyncIterator[FinderEvent]:
        """What is found, for one reader, for ever. Every enabled adapter soon tells Rows (whole) or
        Problems."""
        ...

    async def refresh(self, adapters: Collection[str]) -> None:
        """Look at all files and processes of these anew; done when the reader of ``watch``, if there is one,
        has taken what was found and come back for more (it must not wait for this itself). An adapter that
        fails is told there, not raised."""
        ...

    async def look(self, adapter: str) -> None:
        """Look for processes anew, and at nothing else. As ``refresh``."""
        ...

    async def is_alive(self, adapter: str, session: str) -> Found | None:
        """One conversation read and looked for anew; None where there is none of that id."""
        ...

    async def own(self, adapter: str, agents: Mapping[str, str]) -> None:
        """Which of our agents (`SESSION-AGENT`) have which conversation open: these live as long as a
        process is in the agent's cgroup. In place of what was said before."""
        ...

    async def transcript(self, adapter: str, session: str, tail: int) -> Transcript:
        """The end of a conversation."""
        ...

    async def launch(self, adapter: str, wish: Wish) -> Plan:
        """What starts a new one."""
        ...

    async def resume(self, adapter: str, session: str, wish: Wish) -> Plan:
        """What goes on with one."""
        ...

    async def identify(self, adapter: str, line: str) -> str | None:
        """The id that a line of output tells."""
        ...

    async def probe(self, adapters: Collection[str], search_path: str) -> Sequence[Probe]:
        """What is installed in a PATH (empty: our own), in the order of the adapters' list."""
        ...

    async def end(self, adapter: str, found: Found, timeout: float) -> bool:
        """End the process that has a conversation open, by its pidfd after its start time was compared:
        SIGTERM, SIGKILL after ``timeout`` seconds. False where it was gone already. Raises Conflict
        `agent_session_unknown` where no process is known, PermissionDenied `process_denied`, TimedOut
        `process_stays`."""
        ...

    async def close(self) -> None:
        """End all processes; idempotent."""
        ...
