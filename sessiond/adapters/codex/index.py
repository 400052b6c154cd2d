"""Codex's index of its conversations (`state_N.sqlite`): what its files do not tell, where it can be read."""

from __future__ import annotations

import os
import re
import sqlite3
from dataclasses import dataclass
from typing import Final

from sessiond.adapters.codex.rollouts import is_id
from sessiond.adapters.reading import texts
from sessiond.adapters.reading.sqlite import read_database
from sessiond.model.agent_session import Problem

_NAME: Final = re.compile(r"state_([0-9]{1,4})\.sqlite")
# Ours to know; a newer one may have other columns, and is read as far as it has these.
KNOWN: Final = 5
_COLUMNS: Final = ("cwd", "name", "title", "preview", "first_user_message", "model", "archived", "git_branch")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index tells of one."""

    cwd: str = ""
    name: str = ""
    title: str = ""
    first_prompt: str = ""
    model: str = ""
    archived: bool = False
    branch: str = ""
    parent: str = ""


class Index:
    """The newest index in a folder, kept for as long as its file and log are the same."""

    def __init__(self, adapter: str, folder: str) -> None:
        self._adapter = adapter
        self.folder = folder
        self._seen: object = None
        self.entries: dict[str, Entry] = {}
        self.problem: Problem | None = None

    def names(self) -> list[str]:
        """Names of the files in which changes matter."""
        newest = self._newest() or f"state_{KNOWN}.sqlite"
        return [newest, newest + "-wal"]

    def owns(self, path: str) -> bool:
        """Whether a path is an index or its log."""
        folder, _, name = path.rpartition("/")
        return folder == self.folder and _NAME.fullmatch(name.removesuffix("-wal")) is not None

    def refresh(self) -> set[str]:
        """Read it where it changed; ids of which it tells something else than before."""
        name = self._newest()
        path = os.path.join(self.folder, name) if name else ""
        seen: object = _seen(path)
        if seen == self._seen:
            return set()
        before = self.entries
        self.problem = None
        if not path:
            self.entries = {}
        else:
            try:
                self.entries = read_database(path, _read)
            except (OSError, sqlite3.Error) as error:
                # What was read before stays: names get old, conversations do not disappear.
                newer = name != f"state_{KNOWN}.sqlite" and isinstance(error, sqlite3.OperationalError)
                code = "format_newer" if newer else "file_unreadable"
                self.problem = Problem(self._adapter, code, f"Codex's index: {error}", path)
                seen = None
        self._seen = seen
        if before is self.entries:
            return set()
        ids = before.keys() | self.entries.keys()
        return {each for each in ids if before.get(each) != self.entries.get(each)}

    def _newest(self) -> str:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return ""
        numbers = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
        return f"state_{max(numbers)}.sqlite" if numbers else ""


def _seen(path: str) -> tuple[object, ...]:
    """The state of an index's files, to tell whether it must be read again."""
    told: list[object] = [path]
    for each in (path, path + "-wal") if path else ():
        try:
            status = os.stat(each)
        except OSError:
            told.append(None)
        else:
            told.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(told)


def _read(connection: sqlite3.Connection) -> dict[str, Entry]:
    there = {row["name"] for row in connection.execute("PRAGMA table_info(threads)")}
    if "id" not in there:
        raise sqlite3.OperationalError("there is no table of conversations in it")
    columns = [name for name in _COLUMNS if name in there]
    # Texts in it may be whole prompts.
    wanted = ", ".join(["id", *(f"substr({name}, 1, 4096) AS {name}" for name in columns)])
    parents = _parents(connection)
    entries: dict[str, Entry] = {}
    # Names of columns are from the tuple above.
    for row in connection.execute(f"SELECT {wanted} FROM threads"):  # noqa: S608
        if is_id(row["id"]):
            told = {name: str(row[name]) for name in columns if row[name] is not None}
            entries[row["id"]] = Entry(
                cwd=texts.absolute(told.get("cwd")),
                name=texts.shorten(told.get("name", "")),
                title=texts.shorten(told.get("title", "")),
                first_prompt=texts.shorten(told.get("first_user_message") or told.get("preview", "")),
                model=texts.shorten(told.get("model", "")),
                archived=told.get("archived") == "1",
                branch=texts.shorten(told.get("git_branch", "")),
                parent=parents.get(row["id"], ""),
            )
    return entries


def _parents(connection: sqlite3.Connection) -> dict[str, str]:
    """Child to who spawned it; none where there is no such table."""
    there = {row["name"] for row in connection.execute("PRAGMA table_info(thread_spawn_edges)")}
    if not {"child_thread_id", "parent_thread_id"} <= there:
        return {}
    rows = connection.execute("SELECT child_thread_id, parent_thread_id FROM thread_spawn_edges")
    return {row[0]: row[1] for row in rows if is_id(row[0]) and is_id(row[1])}
