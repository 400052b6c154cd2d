"""Adapters for the tests of the finder, made in its processes: files say what they are to do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import Found, Life, Message, Plan, Problem, Transcript, Wish
from sessiond.ports.discovery import Clear, Evidence, Gone, Possible, Processes, Told, Watched

FACTORY = "tests.unit.discovery_adapters:make"


class Notes:
    """Conversations are files `ID.json` two levels deep at most; what else a file holds is who lives."""

    title = "Notes"
    verified = "1.0"
    abilities = frozenset({"launch", "resume"})

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.program = "sleep"
        self.folder = Path(environment["HOME"], name)
        self.calls = 0
        self._said: dict[str, dict[str, str]] = {}

    def watched(self) -> Sequence[Watched]:
        return [Watched(str(self.folder), 2, (".json",))]

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        self.calls += 1
        if changed is None:
            self._said.clear()
            for path in sorted(self.folder.rglob("*.json")):
                yield from self._read(path)
            return
        for name in sorted(changed):
            if name.endswith(".json"):
                yield from self._read(Path(name))
            else:
                for session, said in list(self._said.items()):
                    if said["path"].startswith(name + "/") and not os.path.exists(said["path"]):
                        del self._said[session]
                        yield Gone(session)

    def _read(self, path: Path) -> Iterator[Told]:
        session = path.stem
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            self._said.pop(session, None)
            yield Gone(session)
            return
        try:
            said = json.loads(text)
        except ValueError:
            yield Problem(self.name, "file_malformed", "it is no JSON", str(path))
            return
        yield Clear(str(path))
        self._misbehave(said)
        self._said[session] = {**said, "path": str(path)}
        yield Found(
            self.name,
            session,
            cwd=said.get("cwd", ""),
            title=said.get("title", ""),
            native={"calls": str(self.calls)},
            source=str(path),
        )

    def _misbehave(self, said: Mapping[str, str]) -> None:
        match said.get("do"):
            case "loop":
                while True:
                    pass
            case "block":
                os.open(said["fifo"], os.O_RDONLY)
            case "exit":
                os._exit(3)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hog":
                bytearray(3 << 30)
            case "raise":
                raise LookupError("something unforeseen")

    def evidence(self, processes: Processes) -> Evidence:
        lives, possible = {}, []
        for session, said in self._said.items():
            if "pid" in said:
                lives[session] = Life(True, pid=int(said["pid"]), start_time=int(said["start_time"]))
            if "possible" in said:
                process = processes.get(int(said["possible"]))
                if process is not None:
                    possible.append(Possible(process.pid, process.start_time, said["cwd"], "may be this one"))
        # What else is called so on this machine is none of it.
        return Evidence(lives, possible, spare=[one.pid for one in processes.all()])

    def is_alive(self, found: Found, processes: Processes) -> Life:
        return self.evidence(processes).lives.get(found.id, Life(False))

    def transcript(self, found: Found, tail: int) -> Transcript:
        return Transcript((Message("user", found.title * tail),))

    def launch(self, wish: Wish) -> Plan:
        if not wish.prompt:
            raise InvalidArgument("prompt_missing", "there is no prompt", hint="give one", fields={"x": "y"})
        self._misbehave({"do": wish.prompt})
        return Plan(("sleep", "1"), id=wish.id, input=wish.prompt.encode())

    def resume(self, found: Found, wish: Wish) -> Plan:
        return Plan(("sleep", found.id))

    def identify(self, line: str) -> str | None:
        return line.removeprefix("id ") if line.startswith("id ") else None

    def version(self, path: str) -> str:
        if self.name == "hangs-at-version":
            while True:
                pass
        return "9.4"


class Many(Notes):
    """Tells of 5,000 with names that are hard to say."""

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        for number in range(5000):
            yield Found(self.name, f"n{number}", title="\udcff", tokens_in=2**70)


class Flood(Notes):
    """Never comes to an end."""

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        number = 0
        while True:
            number += 1
            yield Found(self.name, f"n{number}")


class Wrong(Notes):
    """Tells what no conversation is."""

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        yield Found(self.name, "x", title=5)  # type: ignore[arg-type]


def make(name: str, environment: Mapping[str, str]) -> Notes:
    if name == "missing":
        raise ModuleNotFoundError("there is no such module")
    return {"many": Many, "flood": Flood, "wrong": Wrong}.get(name, Notes)(name, environment)
