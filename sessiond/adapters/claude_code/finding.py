"""The program's tree of transcripts: which there are, and a row for each."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sessiond.adapters.claude_code.lines import Read, read_transcript
from sessiond.adapters.claude_code.registry import is_id
from sessiond.adapters.reading.ends import Ends, begun, malformed, read_small, unreadable
from sessiond.adapters.reading.objects import decoded_file
from sessiond.adapters.reading.stamps import Stamps
from sessiond.adapters.reading.texts import shorten
from sessiond.model.agent_session import Found, Problem
from sessiond.ports.discovery import Clear, Told

ENDING: Final = ".jsonl"
META: Final = ".meta.json"
SUBAGENTS: Final = "subagents"
AGENT: Final = "agent-"
# Folders below `subagents` in which the agents of one workflow are.
_DEPTH: Final = 3


class _Meta(msgspec.Struct):
    """What is noted beside a subagent."""

    description: str | None = None
    agentType: str | None = None
    finished: Any = None


_META: Final = msgspec.json.Decoder(_Meta)
_NO_META: Final = _Meta()


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and what tells of which family its conversation is: the first message is shared by forks."""

    found: Found
    first: str = ""
    forked: bool = False
    malformed: bool = False
    begun: bool = False
    """It is only about to be written."""


def below(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it."""
    return path == folder or path.startswith(folder + "/")


class Transcripts:
    """All transcripts below a folder, by id; unchanged files are not opened again."""

    def __init__(self, adapter: str, folder: str) -> None:
        self._adapter = adapter
        self.folder = folder
        self.paths: dict[str, str] = {}
        """Where each conversation's transcript is, as of the last look."""
        self.rows: dict[str, Row] = {}
        """By id, the last good one."""
        self.written: set[str] = set()
        """Subagents that were seen to begin or to change since all were read first; for the reader to
        clear."""
        self._known = False
        self._stamps: Stamps[Row] = Stamps()
        self._metas: Stamps[_Meta] = Stamps()
        self._roots: dict[str, set[str]] = {}
        self._trouble: set[str] = set()
        self._places: dict[str, list[str]] | None = None
        """Where transcripts of each id are, while changes are looked at."""

    # ---- all of them

    def look(self) -> Iterator[Told]:
        """All that there are."""
        self._trouble.clear()
        paths: dict[str, str] = {}
        problems: list[Problem] = []
        for id, path in self._scan(self.folder, problems):
            paths[id] = self._newer(path, paths.get(id))
        for problem in problems:
            # What could be read in that folder before is as it was.
            paths.update(
                (id, path)
                for id, path in self.paths.items()
                if path.startswith(problem.path + "/") and id not in paths
            )
        self.paths = paths
        self._stamps.only(paths.values())
        for id in self.rows.keys() - paths.keys():
            self._forget(id)
        yield from problems
        forks: list[str] = []
        for id in paths:
            yield from self._tell(id, forks)
        for id in forks:
            yield self._with_parent(self.rows[id])
        self._known = True

    def _scan(self, folder: str, problems: list[Problem]) -> Iterator[tuple[str, str]]:
        """Ids and paths below the folder of all projects, or of one project."""
        if folder != self.folder:
            yield from self._scan_project(folder, problems)
            return
        for entry in self._entries(folder, problems):
            if not entry.name.endswith(ENDING) and _is_dir(entry):
                yield from self._scan_project(entry.path, problems)

    def _scan_project(self, folder: str, problems: list[Problem]) -> Iterator[tuple[str, str]]:
        for entry in self._entries(folder, problems):
            name = entry.name
            if name.endswith(ENDING):
                if is_id(name[: -len(ENDING)]):
                    yield name[: -len(ENDING)], entry.path
            elif is_id(name) and _is_dir(entry):
                yield from self._scan_subagents(f"{entry.path}/{SUBAGENTS}", problems)

    def _scan_subagents(
        self, folder: str, problems: list[Problem], depth: int = _DEPTH
    ) -> Iterator[tuple[str, str]]:
        for entry in self._entries(folder, problems):
            name = entry.name
            if name.endswith(ENDING):
                if name.startswith(AGENT) and is_id(name[: -len(ENDING)]):
                    yield name[: -len(ENDING)], entry.path
            elif depth > 1 and not name.endswith(".json") and _is_dir(entry):
                yield from self._scan_subagents(entry.path, problems, depth - 1)

    def _entries(self, folder: str, problems: list[Problem]) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            problems.append(unreadable(self._adapter, folder, error))
            self._trouble.add(folder)
            return []

    # ---- some of them

    def look_at(self, changed: Iterable[str]) -> Iterator[Told | str]:
        """What changed at paths, files or folders, those below the folder; texts are ids of what is not there
        any more."""
        self._places = None
        for path in changed:
            if below(path, self.folder):
                yield from self._look_at(path)
        self._places = None

    def _look_at(self, path: str) -> Iterator[Told | str]:
        parts = path[len(self.folder) + 1 :].split("/") if path != self.folder else []
        name = parts[-1] if parts else ""
        if name.endswith(META):
            path = path[: -len(META)] + ENDING
            name = name[: -len(META)] + ENDING
        if name.endswith(ENDING):
            id = name[: -len(ENDING)]
            agent = len(parts) > 3 and parts[2] == SUBAGENTS and name.startswith(AGENT)
            if is_id(id) and (agent or len(parts) == 2):
                yield from self._look_at_file(id, path)
        elif len(parts) > 1 and not (is_id(parts[1]) and parts[2:3] in ([], [SUBAGENTS])):
            # A folder of somebody else's: what lies in it is no subagent.
            return
        elif "." not in name or os.path.isdir(path):
            yield from self._look_below(path, parts)

    def _look_at_file(self, id: str, path: str) -> Iterator[Told | str]:
        self._stamps.forget(path)
        known = self.paths.get(id)
        if os.path.lexists(path):
            self.paths[id] = self._newer(path, known)
        elif known is not None and known != path:
            return
        elif (elsewhere := self._elsewhere(id, path)) is not None:
            self.paths[id] = elsewhere
        else:
            yield from self._lost(id, path)
            return
        forks: list[str] = []
        yield from self._tell(id, forks)
        for fork in forks:
            yield self._with_parent(self.rows[fork])

    def _look_below(self, folder: str, parts: list[str]) -> Iterator[Told | str]:
        problems: list[Problem] = []
        for path in {folder, f"{folder}/{SUBAGENTS}"} & self._trouble:
            self._trouble.discard(path)
            yield Clear(path)
        if len(parts) <= 1:
            there = dict(self._scan(folder, problems))
        elif len(parts) == 2:
            there = dict(self._scan_subagents(f"{folder}/{SUBAGENTS}", problems))
        else:
            there = dict(self._scan_subagents(folder, problems))
        yield from problems
        if problems:
            return
        prefix = folder + "/"
        for id, path in [each for each in self.paths.items() if each[1].startswith(prefix)]:
            if id not in there:
                yield from self._look_at_file(id, path)
        for id, path in there.items():
            if self.paths.get(id) != path or id not in self.rows or path in self._trouble:
                yield from self._look_at_file(id, path)

    def _lost(self, id: str, path: str) -> Iterator[Told | str]:
        known = self.paths.pop(id, None)
        self._forget(id)
        if path in self._trouble:
            self._trouble.discard(path)
            yield Clear(path)
        if known is not None:
            yield id

    def _elsewhere(self, id: str, path: str) -> str | None:
        """Where else a transcript of that id is: it moves with its folder."""
        if id.startswith(AGENT):
            return None
        if self._places is None:
            # Once for all of them: where many go at a time, each would have all of the others listed.
            self._places = {}
            for found, other in self._scan(self.folder, []):
                self._places.setdefault(found, []).append(other)
        return next((other for other in self._places.get(id, ()) if other != path), None)

    # ---- one of them

    def _tell(self, id: str, forks: list[str]) -> Iterator[Told]:
        """Its row, the last good one where it cannot be read now; forks are put off, until all are known."""
        path = self.paths[id]
        try:
            row = self._stamps.get(path)
            if row is None:
                read, ends = read_transcript(path)
                row = self._row(id, read, ends)
                self._stamps.put(path, ends.stamp, row)
        except FileNotFoundError:
            if not os.path.islink(path):
                # Gone since it was seen: its end will be told of too.
                return
            yield self._bad(malformed(self._adapter, path, "a link to nothing in place of a transcript"))
            row = self.rows.get(id)
        except OSError as error:
            yield self._bad(unreadable(self._adapter, path, error))
            row = self.rows.get(id)
        else:
            if row.malformed and (id in self.rows or not row.begun):
                yield self._bad(malformed(self._adapter, path, "no line of a transcript can be read in it"))
            elif path in self._trouble:
                self._trouble.discard(path)
                yield Clear(path)
            if row.malformed:
                self._stamps.forget(path)
                row = self.rows.get(id)
        if row is None:
            return
        self._keep(id, row)
        if row.forked and not row.found.parent:
            forks.append(id)
        elif id.startswith(AGENT) and row.found.parent:
            yield self._with_meta(row, path)
        else:
            yield row.found

    def _keep(self, id: str, row: Row) -> None:
        before = self.rows.get(id)
        if before is not None and before.first and (before.first, before.forked) != (row.first, row.forked):
            self._roots.get(before.first, set()).discard(id)
        if self._known and id.startswith(AGENT) and before != row:
            self.written.add(id)
        self.rows[id] = row
        if row.first and not row.forked and not row.found.parent:
            self._roots.setdefault(row.first, set()).add(id)

    def _forget(self, id: str) -> None:
        row = self.rows.pop(id, None)
        if row is not None and row.first in self._roots:
            self._roots[row.first].discard(id)
            if not self._roots[row.first]:
                del self._roots[row.first]

    def _bad(self, problem: Problem) -> Problem:
        self._trouble.add(problem.path)
        return problem

    def _row(self, id: str, read: Read, ends: Ends) -> Row:
        path = ends.path
        parent = read.parent if is_id(read.parent) and read.parent != id else ""
        if id.startswith(AGENT) and f"/{SUBAGENTS}/" in path:
            parent = path[len(self.folder) + 1 :].split("/")[1]
        native = {"transcript": path} if path.isprintable() else {}
        for name, value in (
            ("version", read.version),
            ("gitBranch", read.branch),
            ("entrypoint", read.entrypoint),
        ):
            if value and value.isprintable():
                native[name] = value
        found = Found(
            self._adapter,
            id,
            cwd=_folder_of(read, path, id),
            model=read.model,
            title=read.title,
            first_prompt=read.first_prompt,
            last_prompt=read.last_prompt,
            started_at=read.started_at,
            updated_at=read.updated_at or read.started_at or _moment(ends.mtime_ns),
            tokens_in=read.tokens_in,
            tokens_out=read.tokens_out,
            cost_usd=read.cost,
            parent=parent,
            turn=read.turn,
            activity=read.activity,
            native=native,
            source=path,
        )
        return Row(found, read.first, read.forked, malformed=not read.lines, begun=begun(ends))

    def _with_parent(self, row: Row) -> Found:
        """A fork, with the one conversation that begins with the same message and is no fork."""
        roots = self._roots.get(row.first, set()) - {row.found.id}
        return replace(row.found, parent=next(iter(roots))) if len(roots) == 1 else row.found

    def _with_meta(self, row: Row, path: str) -> Found:
        """A subagent, with what is noted beside it."""
        meta = self._meta(path[: -len(ENDING)] + META)
        native = dict(row.found.native)
        if meta.agentType and meta.agentType.isprintable():
            native["agentType"] = meta.agentType[:200]
        if meta.finished is True:
            native["finished"] = "true"
        return replace(row.found, title=row.found.title or shorten(meta.description or ""), native=native)

    def subagents(self, of: Collection[str]) -> Iterator[Found]:
        """Of these conversations."""
        for id, row in self.rows.items():
            if id.startswith(AGENT) and row.found.parent in of and id in self.paths:
                yield self._with_meta(row, self.paths[id])

    def _meta(self, path: str) -> _Meta:
        """Nothing where it is not there, or cannot be read: it only adds to what the transcript tells."""
        try:
            known = self._metas.get(path)
            if known is not None:
                return known
            status = os.stat(path)
            meta = decoded_file(_META, read_small(path, 64 * 1024))
        except OSError:
            return _NO_META
        if meta is None:
            return _NO_META
        self._metas.put(
            path,
            (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns),
            meta,
        )
        return meta

    def _newer(self, path: str, other: str | None) -> str:
        """Of two transcripts of one id, the one written last."""
        if other is None or other == path:
            return path
        try:
            return path if os.stat(path).st_mtime_ns > os.stat(other).st_mtime_ns else other
        except OSError:
            return path if os.path.exists(path) else other


_NO_LETTER: Final = re.compile(r"[^a-zA-Z0-9]")


def _folder_of(read: Read, path: str, id: str) -> str:
    """The folder it was begun in. A later one is right where the transcript moved there with it, which the
    name of its folder shows; the name alone tells no path."""
    if read.last_cwd and read.cwd and read.last_cwd != read.cwd:
        name = path.rpartition("/")[0].rpartition("/")[2]
        if _NO_LETTER.sub("-", read.last_cwd) == name != _NO_LETTER.sub("-", read.cwd):
            return read.last_cwd
    return read.cwd or read.last_cwd


def _moment(ns: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
