"""A stand-in for a program that speaks the Agent Client Protocol: `acp_program.py [WORD ...]`.

Prompts: `tool` asks for a permission, `wait` waits to be cancelled, `die` ends it, `noise` prints what is no
message first. Words: `no-load`, `old`, `login`, `stay` (does not end when its input does).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    words = set(sys.argv[1:])
    if "stay" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        if method == "initialize":
            able = {"loadSession": "no-load" not in words}
            version = 7 if "old" in words else 1
            answer(message, {"protocolVersion": version, "agentCapabilities": able})
        elif method == "session/new":
            if "login" in words:
                send({"id": message["id"], "error": {"code": -32000, "message": "who are you?"}})
            else:
                answer(message, {"sessionId": f"own-{os.getpid()}"})
        elif method == "session/load":
            update(params["sessionId"], "user_message_chunk", "what was said before")
            update(params["sessionId"], "agent_message_chunk", "what was said before")
            answer(message, {})
        elif method == "session/set_model":
            good = params["modelId"] == "good"
            told: dict[str, Any] = {"result": {}} if good else {"error": {"code": -32602, "message": "no"}}
            send({"id": message["id"], **told})
        elif method == "session/prompt":
            prompt(message, params["sessionId"], params["prompt"][0]["text"])
    while "stay" in words:
        signal.pause()


def prompt(message: dict[str, Any], session: str, text: str) -> None:
    stop = "end_turn"
    if text.startswith("die"):
        os._exit(3)
    if text.startswith("noise"):
        print("this is no message\n[]\n12", flush=True)
    if text.startswith("wait"):
        update(session, "agent_message_chunk", "waiting")
        while json.loads(sys.stdin.readline()).get("method") != "session/cancel":
            pass
        stop = "cancelled"
    if text.startswith("tool"):
        call = {"toolCallId": "1", "title": "rm -rf", "kind": "execute"}
        options = [{"optionId": "a", "kind": "allow_once", "name": "Allow"}]
        options.append({"optionId": "r", "kind": "reject_once", "name": "Reject"})
        asked = {"sessionId": session, "toolCall": call, "options": options}
        send({"id": 1, "method": "session/request_permission", "params": asked})
        outcome = json.loads(sys.stdin.readline())["result"]["outcome"]
        update(session, "agent_message_chunk", json.dumps(outcome))
    if text.startswith("read"):
        send({"id": 1, "method": "fs/read_text_file", "params": {"path": "/etc/passwd"}})
        update(session, "agent_message_chunk", json.dumps(json.loads(sys.stdin.readline())["error"]))
    update(session, "agent_message_chunk", f"You said: {text}\x1b[31m")
    answer(message, {"stopReason": stop, "usage": {"inputTokens": 3, "outputTokens": 2}})


def update(session: str, kind: str, text: str) -> None:
    told = {"sessionUpdate": kind, "content": {"type": "text", "text": text}}
    send({"method": "session/update", "params": {"sessionId": session, "update": told}})


def answer(message: dict[str, Any], result: dict[str, Any]) -> None:
    send({"id": message["id"], "result": result})


def send(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


if __name__ == "__main__":
    main()
