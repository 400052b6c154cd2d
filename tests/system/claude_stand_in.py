"""A program that keeps the registry and the transcripts of Claude Code, and talks on its terminal as it does.

Copied into test hosts as `claude`: standard library only. What is typed is a prompt, but for `/clear`, which
begins another conversation in the same process, `/exit`, and `/inner`, which runs the program as its tool.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import termios
import time
import tty
import uuid
from datetime import UTC, datetime

HOME = os.path.expanduser("~/.claude")


class Conversation:
    def __init__(self, session: str) -> None:
        self.session = session

    @property
    def path(self) -> str:
        return f"{HOME}/projects/{os.getcwd().replace('/', '-')}/{self.session}.jsonl"

    def register(self, status: str) -> None:
        with open("/proc/self/stat") as file:
            stat = file.read()
        entry = {
            "pid": os.getpid(),
            "sessionId": self.session,
            "cwd": os.getcwd(),
            "kind": "interactive",
            "procStart": stat.rpartition(")")[2].split()[19],
            "status": status,
            "updatedAt": int(time.time() * 1000),
        }
        place = f"{HOME}/sessions/{os.getpid()}.json"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(f"{place}.new", "w") as file:
            json.dump(entry, file)
        os.rename(f"{place}.new", place)

    def say(self, role: str, text: str) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        message = {"role": role, "content": [{"type": "text", "text": text}]}
        if role == "assistant":
            message |= {"model": "stand-in", "stop_reason": "end_turn"}
        line = {
            "type": role,
            "sessionId": self.session,
            "cwd": os.getcwd(),
            "uuid": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "message": message,
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def turn(self, prompt: str) -> None:
        self.register("busy")
        self.say("user", prompt)
        self.say("assistant", f"did {prompt}")
        self.register("idle")


def end(status: int = 0) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{HOME}/sessions/{os.getpid()}.json")
    sys.exit(status)


def stay() -> None:
    while True:
        signal.pause()


def typed() -> str:
    """What is typed up to Enter; what is pasted counts whole."""
    data, pasting = b"", False
    while True:
        byte = os.read(0, 1)
        if not byte:
            end()
        data += byte
        if data.endswith(b"\x1b[200~"):
            data, pasting = data[:-6], True
        elif data.endswith(b"\x1b[201~"):
            data, pasting = data[:-6], False
        elif byte == b"\r" and not pasting:
            return data[:-1].decode()


def talk(one: Conversation, prompt: str) -> None:
    tty.setraw(0, termios.TCSANOW)
    os.write(1, b"\x1b[?2004h")
    one.register("idle")
    while True:
        match prompt:
            case "":
                pass
            case "/clear":
                one.session = str(uuid.uuid4())
                one.register("idle")
            case "/exit":
                end()
            case "/inner":
                one.register("busy")
                subprocess.Popen(
                    [sys.argv[0], "-p"],
                    stdin=subprocess.PIPE,
                    env={**os.environ, "CLAUDECODE": "1"},
                ).stdin.close()  # type: ignore[union-attr]
                stay()
            case _:
                one.turn(prompt)
        os.write(1, b"> ")
        prompt = typed()


def main() -> None:
    words = sys.argv[1:]
    prompt = words[words.index("--") + 1] if "--" in words else ""
    options = words[: words.index("--")] if "--" in words else words
    session = str(uuid.uuid4())
    for name in ("--session-id", "--resume"):
        if name in options:
            session = options[options.index(name) + 1]
    one = Conversation(session)
    if "--resume" in options and not os.path.exists(one.path):
        sys.exit(f"No conversation found with session ID: {session}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("STUBBORN") else lambda *_: end(143))
    if "-p" not in options:
        talk(one, prompt)
    one.register("busy")
    prompt = sys.stdin.read()
    if not prompt:
        one.say("user", "work")
        stay()
    one.turn(prompt)
    print(json.dumps({"type": "result", "session_id": session, "result": f"did {prompt}"}), flush=True)
    end()


if __name__ == "__main__":
    main()
