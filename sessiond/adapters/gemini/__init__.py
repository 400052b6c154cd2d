"""Gemini CLI: one file of JSON lines per conversation below ~/.gemini/tmp; nothing names its process."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from sessiond.adapters.gemini import chats
from sessiond.adapters.reading import ends as files
from sessiond.adapters.reading import texts
from sessiond.adapters.reading.evidence import handed_down, life_of, living, marked
from sessiond.adapters.reading.objects import decoded, file_object, inner
from sessiond.adapters.reading.packages import VERSION_MAX, read_package
from sessiond.adapters.reading.tracking import Tracked
from sessiond.adapters.starting import model_words, prompt_input, prompt_word
from sessiond.errors import InvalidArgument, NotFound, Unsupported
from sessiond.model.agent_session import Found, Life, Plan, Problem, Transcript, Turn, Wish
from sessiond.ports.discovery import Evidence, Gone, Possible, Process, Processes, Told, Watched

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# A transcript is read from here on at most; its last messages are at its end.
_BACK: Final = 16 * 1024 * 1024
_RUNTIMES: Final = frozenset({"node", "nodejs", "bun"})


class _Init(msgspec.Struct):
    type: str = ""
    session_id: str = ""


_INIT: Final = msgspec.json.Decoder(_Init)


class Adapter:
    """The authority on Gemini CLI's conversations. It writes of no process which conversation it has: one
    that was started elsewhere may have any of its folder open."""

    name = "gemini"
    title = "Gemini CLI"
    program = "gemini"
    verified = "0.61.0"
    abilities = frozenset({"launch", "print", "resume", "transcript", "choose-id", "model"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        home = environment.get("GEMINI_CLI_HOME") or environment.get("HOME") or "/"
        self._home = os.path.join(os.path.abspath(home), ".gemini")
        self._tmp = os.path.join(self._home, "tmp")
        self._files: Tracked[Found] = Tracked(self.name)

    # ---- files ------------------------------------------------------------------------------

    def watched(self) -> Sequence[Watched]:
        """Projects' folders, their chats, and the chats of subagents in these."""
        return (Watched(self._tmp, 3, (".jsonl", ".json", ".project_root")),)

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """All conversations, or those of files and folders that changed."""
        touched: set[str] = set()
        if changed is None:
            yield from self._walked(self._tmp, touched)
        else:
            for path in changed:
                yield from self._look(path.rstrip("/"), touched)
        for each in sorted(self._files.ids) if changed is None else sorted(touched):
            yield self._counts(each) or Gone(each)

    def _walked(self, folder: str, touched: set[str]) -> Iterator[Told]:
        """All below a folder. What was known in folders that cannot be listed stays."""
        closed: dict[str, OSError] = {}
        there = list(self._walk(folder, closed))
        yield from self._files.sweep(folder, there, closed, touched)
        for path in there:
            yield from self._files.read(path, self._read, touched)

    def _walk(self, folder: str, closed: dict[str, OSError]) -> Iterator[str]:
        """Files of conversations below a folder; ``closed`` takes those that cannot be listed."""
        depth = 0 if folder == self._tmp else len(os.path.relpath(folder, self._tmp).split("/"))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            closed[folder] = error
            return
        for entry in entries:
            if self._is_chat(entry.path):
                yield entry.path
            elif depth < 3 and (depth != 1 or entry.name == "chats") and os.path.isdir(entry.path):
                yield from self._walk(entry.path, closed)

    def _is_chat(self, path: str) -> bool:
        """tmp/SLUG/chats/session-*.json[l], or tmp/SLUG/chats/PARENT/*.jsonl of its subagents."""
        if not path.startswith(self._tmp + "/"):
            return False
        match path[len(self._tmp) + 1 :].split("/"):
            case [_, "chats", name]:
                return name.startswith("session-") and name.endswith((".jsonl", ".json"))
            case [_, "chats", _, name]:
                return name.endswith(".jsonl")
        return False

    def _look(self, path: str, touched: set[str]) -> Iterator[Told]:
        """What changed at a path: a conversation, a folder of such, or where a project is."""
        if self._is_chat(path):
            yield from self._files.read(path, self._read, touched)
            return
        if path.endswith("/.project_root"):
            path = os.path.dirname(path)
            self._files.forget(path)
        if path != self._tmp and not path.startswith(self._tmp + "/"):
            if path not in (self._home, os.path.dirname(self._home)):
                return
            path = self._tmp
        yield from self._walked(path, touched)

    def _read(self, path: str) -> tuple[Found, files.Stamp] | str | None:
        """What a file tells, or what is wrong with it; None where it is only about to be written. Raises
        OSError."""
        ends = files.read_ends(path)
        chat = self._chat(path, ends)
        if chat is None:
            begun = path.endswith(".jsonl") and files.begun(ends)
            return None if begun else "no line of it tells which conversation it is"
        return chats.found_of(chat), ends.stamp

    def _counts(self, session: str) -> Found | None:
        """Of files with the same id, the one that something was last said in: a used id is not refused, and
        one that is resumed goes on in its file, beside another one in which nothing ever comes."""
        paths = self._files.ids.get(session)
        return self._files.paths[max(paths, key=self._said)] if paths else None

    def _said(self, path: str) -> tuple[bool, float, str]:
        found = self._files.paths[path]
        written = found.updated_at.timestamp() if found.updated_at else 0.0
        return found.turn is not Turn.UNKNOWN, written, os.path.basename(path)

    def _chat(self, path: str, ends: files.Ends) -> chats.Chat | None:
        """Raises OSError."""
        old = path.endswith(".json")
        # Older ones are one object in many lines: only a whole one can be read.
        lines = files.lines(ends) if not old else [ends.head] if ends.whole else []
        if len(lines) > files.LINES_MAX:
            # The first one names it.
            lines[1 : -files.LINES_MAX] = []
        chat: chats.Chat | None = None
        for line in lines:
            record = chats.record_of(line)
            if record is None:
                continue
            if chat is None:
                if not isinstance(record.sessionId, str) or not _ID.fullmatch(record.sessionId):
                    continue
                chat = chats.Chat(path, record.sessionId, self._cwd(path, record), whole=ends.whole)
                inside = path[len(self._tmp) + 1 :].split("/")
                chat.parent = inside[2] if len(inside) == 4 and _ID.fullmatch(inside[2]) else ""
            chats.take(chat, record)
        return chat

    def _cwd(self, path: str, record: chats.Record) -> str:
        """Folder of a project, which only a file beside its chats tells; of old ones the list of projects,
        whose hash names them. Raises OSError but where there is no such file."""
        folder = os.path.join(self._tmp, path[len(self._tmp) + 1 :].partition("/")[0])
        try:
            root = files.read_small(os.path.join(folder, ".project_root"), 8192)
            return texts.absolute(root.decode("utf-8", "replace").strip())
        except FileNotFoundError:
            pass
        for project in self._projects():
            if hashlib.sha256(project.encode("utf-8", "replace")).hexdigest() == record.projectHash:
                return texts.absolute(project)
        return ""

    def _projects(self) -> list[str]:
        try:
            told = file_object(files.read_small(os.path.join(self._home, "projects.json")))
        except FileNotFoundError:
            return []
        return list(inner(told, "projects"))

    # ---- processes --------------------------------------------------------------------------

    def evidence(self, processes: Processes) -> Evidence:
        """Processes of the program; which conversation they have is known of marked ones alone."""
        lives: dict[str, Life] = {}
        possible: list[Possible] = []
        running = {each.pid: each for each in processes.all() if _executes(each)}
        # The first that is started only starts another: the one that works has no such child.
        starters = {each.parent for each in running.values() if not handed_down(each, self.name)}
        for pid, process in running.items():
            if pid in starters:
                continue
            adapter, session = marked(process)
            if adapter == self.name and not handed_down(process, self.name):
                lives[session] = living(process)
            else:
                possible.append(
                    Possible(
                        pid,
                        process.start_time,
                        process.cwd,
                        f"Gemini CLI runs there (process {pid}), and tells nobody which conversation it has",
                    )
                )
        return Evidence(lives, possible)

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """The same for one."""
        return life_of(found, self.evidence(processes))

    # ---- transcript -------------------------------------------------------------------------

    def transcript(self, found: Found, tail: int) -> Transcript:
        """Its last messages."""
        counts = self._counts(found.id)
        path = counts.native["path"] if counts else ""
        if not path:
            raise NotFound(
                "transcript_missing",
                f"there is no file of {found.id}",
                hint="look again with --refresh",
                fields={"agent_session": found.id},
            )
        try:
            ends = files.read_ends(path, 0, _BACK)
            chat = self._chat(path, ends) or chats.Chat(path, found.id, found.cwd, whole=ends.whole)
            if not ends.whole:
                # Its head is far away: all that is here are messages.
                for line in files.tail_lines(ends)[-files.LINES_MAX :]:
                    record = chats.record_of(line)
                    if record is not None:
                        chats.take(chat, record)
        except OSError as error:
            raise NotFound(
                "transcript_missing",
                f"the file of {found.id} cannot be read: {error.strerror}",
                hint="look again with --refresh",
                fields={"agent_session": found.id, "path": path},
            ) from error
        messages = [each for record in chat.turns.values() for each in chats.messages_of(record)]
        problems: tuple[Problem, ...] = ()
        if not ends.whole and path.endswith(".json"):
            problems = (files.malformed(self.name, path, "too long for a file of this old kind"),)
        last = messages[-tail:] if tail > 0 else []
        more = len(messages) > len(last) or not ends.whole or ends.tail.count(b"\n") > files.LINES_MAX
        return Transcript(tuple(last), more, problems)

    # ---- starting ---------------------------------------------------------------------------

    def launch(self, wish: Wish) -> Plan:
        """With an id of ours; in print mode the prompt comes on stdin."""
        if not _UUID.fullmatch(wish.id):
            raise InvalidArgument(
                "id_invalid",
                f"Gemini CLI takes a UUID for the id of a conversation, not {wish.id!r}",
                hint="choose one that uuidgen tells",
                fields={"id": wish.id[:200]},
            )
        return self._plan(("--session-id", wish.id), wish.id, wish)

    def resume(self, found: Found, wish: Wish) -> Plan:
        """Go on with one, in its own folder: Gemini CLI finds it nowhere else."""
        if not _UUID.fullmatch(found.id) or found.parent:
            raise Unsupported(
                "adapter_cannot",
                f"Gemini CLI resumes its own main conversations alone; {found.id} is none",
                hint="resume its parent" if found.parent else "start a new one",
                fields={"agent_session": found.id},
            )
        if wish.cwd and found.cwd and os.path.realpath(wish.cwd) != os.path.realpath(found.cwd):
            raise Unsupported(
                "adapter_cannot",
                f"Gemini CLI resumes {found.id} in {found.cwd} alone",
                hint=f"resume it in {found.cwd}",
                fields={"agent_session": found.id, "cwd": found.cwd},
            )
        return self._plan(("--resume", found.id), found.id, wish)

    def _plan(self, which: tuple[str, str], session: str, wish: Wish) -> Plan:
        hint = "name it as Gemini CLI does, for example gemini-2.5-pro"
        words = ("gemini", *which, *model_words(wish.model, _MODEL.fullmatch, hint))
        if wish.print:
            input = prompt_input(wish.prompt)
            return Plan((*words, "--output-format", "stream-json"), input=input, id=session)
        prompt = (prompt_word(wish.prompt, "--prompt-interactive="),) if wish.prompt else ()
        return Plan((*words, *prompt), id=session)

    def identify(self, line: str) -> str | None:
        """The id in the line that `--output-format stream-json` begins with."""
        told = decoded(_INIT, line.encode("utf-8", "replace"))
        if told is None or told.type != "init" or not _UUID.fullmatch(told.session_id):
            return None
        return told.session_id

    def version(self, path: str) -> str:
        """From the package that the program lies in."""
        folder = os.path.dirname(os.path.realpath(path))
        for _ in range(3):
            package = read_package(os.path.join(folder, "package.json"))
            if package is not None and package.version:
                return package.version[:VERSION_MAX]
            folder = os.path.dirname(folder)
        return ""


def _executes(process: Process) -> bool:
    """Whether it is the program: node with its script for the first word that is no option."""
    if process.exe.rpartition("/")[2] not in _RUNTIMES:
        return False
    for word in process.argv[1:]:
        if not word.startswith("-"):
            return word.rpartition("/")[2] in ("gemini", "gemini.js") or "/@google/gemini-cli/" in word
    return False
