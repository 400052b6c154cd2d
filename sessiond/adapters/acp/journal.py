"""The journal of one conversation: lines of JSON in a file whose lock shows that its runner lives."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from sessiond.adapters.reading.ends import LINE_MAX, irregular
from sessiond.adapters.reading.objects import decoded
from sessiond.errors import Conflict, InvalidArgument, NotFound, SessiondError
from sessiond.paths import Paths, private_folder

VERSION: Final = 1
ENDING: Final = ".jsonl"
_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


class Line(msgspec.Struct):
    """Any line. `session` is the first; `opened` begins each run, `end` ends one that was not killed."""

    type: Any = None
    time: Any = None
    version: Any = None
    id: Any = None
    cwd: Any = None
    command: Any = None
    session: Any = None
    program: Any = None
    model: Any = None
    title: Any = None
    text: Any = None
    thinking: Any = None
    kind: Any = None
    status: Any = None
    input: Any = None
    output: Any = None
    stop: Any = None
    tokens_in: Any = None
    tokens_out: Any = None
    cost: Any = None


_DECODER: Final = msgspec.json.Decoder(Line)


def decode(line: bytes) -> Line | None:
    """A line, or None where it is none."""
    return decoded(_DECODER, line)


def folder(environment: Mapping[str, str]) -> Path:
    """Where journals lie."""
    return Paths.from_environment(environment).state / "acp"


def path_of(environment: Mapping[str, str], id: str) -> Path:
    """The journal of an id. Raises InvalidArgument `id_invalid`."""
    if not good_id(id):
        raise InvalidArgument(
            "id_invalid",
            f"{id[:80]!r} cannot be the id of a conversation",
            hint="letters, digits, `.`, `_` and `-`, 128 at most",
            fields={"id": id[:200]},
        )
    return folder(environment) / f"{id}{ENDING}"


def good_id(id: str) -> bool:
    """Whether a conversation can be called so."""
    return _ID.fullmatch(id) is not None


class Journal:
    """A journal that is written; its lock is held until ``close``, and by the kernel's word no longer than
    this process lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._failed = 0

    @classmethod
    def begin(cls, path: Path, id: str, cwd: str, command: Sequence[str]) -> Journal:
        """A new one. Raises Conflict `agent_session_exists`, SessiondError `journal_failed`."""
        try:
            private_folder(path.parent.parent)
            private_folder(path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
        except FileExistsError as error:
            raise Conflict(
                "agent_session_exists",
                f"there is a conversation {id} already",
                hint=f"go on with it: sessiond acp --resume {id}",
                fields={"id": id},
            ) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        journal = cls._locked(path, descriptor, id)
        journal.write("session", version=VERSION, id=id, cwd=cwd, command=list(command))
        return journal

    @classmethod
    def go_on(cls, path: Path, id: str) -> tuple[Journal, Line, str]:
        """One that exists, its first line, and the program's own id of the conversation as last told. Raises
        NotFound `transcript_missing`, Conflict `agent_session_live`, SessiondError `journal_failed`."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotFound(
                "transcript_missing",
                f"there is no conversation {id}",
                hint="sessionctl discovered -a --adapter acp shows them",
                fields={"id": id, "path": str(path)},
            ) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _unwritable(path, irregular(str(path)))
        journal = cls._locked(path, descriptor, id)
        try:
            header, session = journal._opened()
        except BaseException:
            journal.close()
            raise
        return journal, header, session

    @classmethod
    def _locked(cls, path: Path, descriptor: int, id: str) -> Journal:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Conflict(
                "agent_session_live",
                f"the conversation {id} is open in another process",
                hint="end that one first",
                fields={"id": id},
            ) from error
        return cls(path, descriptor)

    def _opened(self) -> tuple[Line, str]:
        """Header and last id; a line that a crash cut is ended."""
        header: Line | None = None
        session = ""
        last = b"\n"
        with open(self._descriptor, "rb", closefd=False) as file:
            # Of a line that is longer than any of ours the pieces are lines that tell nothing.
            for number, line in enumerate(iter(lambda: file.readline(LINE_MAX), b"")):
                last = line
                if number and b'"opened"' not in line[:64]:
                    continue
                entry = decode(line)
                if number == 0:
                    header = entry
                elif entry is not None and entry.type == "opened" and isinstance(entry.session, str):
                    session = entry.session
        if header is None or header.type != "session" or header.version != VERSION:
            raise SessiondError(
                "file_malformed",
                f"{self.path} is no journal that this release can go on with",
                hint="start a new conversation",
                fields={"path": str(self.path)},
            )
        if not last.endswith(b"\n"):
            self._append(b"\n")
        return header, session

    def write(self, type: str, **values: object) -> None:
        """Append a line. A disk that is full costs lines, never the conversation: what is lost is counted,
        and said when there is room again."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = _encode({"type": type, "time": now, **values})
        if self._failed:
            lost = _encode({"type": "lost", "time": now, "lines": self._failed})
            line = lost + line
        try:
            self._append(line)
        except OSError as error:
            if not self._failed:
                print(f"sessiond: cannot write {self.path}: {error.strerror}", file=sys.stderr)
            self._failed += 1
        else:
            self._failed = 0

    def _append(self, data: bytes) -> None:
        """All of it or nothing."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], self._size + done)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += done

    def close(self) -> None:
        """Let the lock go; safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _encode(value: Mapping[str, object]) -> bytes:
    told = {name: each for name, each in value.items() if each is not None and each != ""}
    try:
        return msgspec.json.encode(told) + b"\n"
    except UnicodeEncodeError:
        # Half a character that a program sent.
        whole = {
            name: each.encode("utf-8", "replace").decode() if isinstance(each, str) else str(each)
            for name, each in told.items()
        }
        return msgspec.json.encode(whole) + b"\n"


def _unwritable(path: Path, error: OSError) -> SessiondError:
    return SessiondError(
        "journal_failed",
        f"cannot open the journal {path}: {error.strerror}",
        hint="the conversation could not be found again without it; mend the folder and try again",
        fields={"path": str(path)},
    )
