"""A model server of our own for agent programs: prompts steer it, and tests hear what it serves.

Prompts (see model_apis.answer): `slow [SECONDS]`, `tool: COMMAND`, `ask: COMMAND`, `agent: PROMPT`,
`call: TOOL {JSON}`, `fail [STATUS]`, `long`; else `You said: …`.
Run alone: python -m tests.agents.model_server --port 0 [--log FILE]
"""

from __future__ import annotations

import argparse
import gzip
import json
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import urlsplit

from tests.agents import model_answers, model_apis
from tests.agents.model_apis import Answer, Ask, Body

MODELS = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5", "gpt-5", "fake-model", "gemini-2.5-pro")


@dataclass
class Served:
    """One request: what it asked, and how far its answer is.

    ``state``: `serving`, `held` (a part was sent, the rest waits), `done`, `failed` (with an HTTP error),
    `gone` (the program hung up).
    """

    number: int
    ask: Ask
    path: str
    body: Body
    state: str = "serving"
    history: list[str] = field(default_factory=lambda: ["serving"])

    def row(self) -> Body:
        """What the log and the control call tell of it."""
        return {
            "number": self.number,
            "api": self.ask.api,
            "model": self.ask.model,
            "prompt": self.ask.prompt,
            "result": self.ask.result,
            "side": self.ask.side,
            "tools": list(self.ask.tools),
            "path": self.path,
            "state": self.state,
        }


class ModelServer:
    """Serves from the moment it is made until ``close``, on the loopback."""

    def __init__(self, port: int = 0, log: Path | None = None) -> None:
        self._changed = threading.Condition()
        self._requests: list[Served] = []
        self._held: dict[int, socket.socket] = {}
        self._unknown: list[str] = []
        self._log: TextIO | None = log.open("a") if log else None
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.model = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its base, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Served]:
        """What was asked so far, oldest first; side requests (titles) too."""
        with self._changed:
            return list(self._requests)

    @property
    def unknown(self) -> list[str]:
        """Method and path of requests that no API here has."""
        with self._changed:
            return list(self._unknown)

    def wait(
        self,
        prompt: str = "",
        state: str = "",
        *,
        after: int = 0,
        result: bool | None = None,
        timeout: float = 300.0,
    ) -> Served:
        """The first request since ``after`` whose prompt contains this and that is, or was, in this state
        (any, where empty); ``result``: with or without what a tool said."""

        def found() -> Served | None:
            for one in self._requests:
                fits = one.number > after and not one.ask.side and prompt in one.ask.prompt
                if result is not None and (one.ask.result is not None) != result:
                    continue
                if fits and (not state or state in one.history):
                    return one
            return None

        with self._changed:
            if self._changed.wait_for(lambda: found() is not None, timeout):
                return found()  # type: ignore[return-value]
            served = [one.row() for one in self._requests]
        raise AssertionError(
            f"no request with {prompt!r} became {state or 'served'} within {timeout:g} s; "
            f"served were {served}, unknown {self._unknown}"
        )

    def wait_held(self, prompt: str = "", *, after: int = 0, timeout: float = 300.0) -> Served:
        """A request whose answer is being held now or was."""
        return self.wait(prompt, "held", after=after, timeout=timeout)

    @property
    def last(self) -> int:
        """Number of the newest request; to be given as ``after``."""
        with self._changed:
            return self._requests[-1].number if self._requests else 0

    def release(self, prompt: str = "") -> int:
        """Let held answers go on (those whose prompt contains this); how many there were."""
        with self._changed:
            chosen = [one for one in self._requests if one.number in self._held and prompt in one.ask.prompt]
            for one in chosen:
                self._held.pop(one.number).close()
            return len(chosen)

    def close(self) -> None:
        """Release what is held and end; safe to repeat."""
        self._server.shutdown()
        self.release()
        self._server.server_close()
        self._thread.join()
        if self._log:
            self._log.close()

    # ---- for the handler

    def note(self, ask: Ask, path: str, body: Body) -> Served:
        """A request has come."""
        with self._changed:
            served = Served(len(self._requests) + 1, ask, path, body)
            self._requests.append(served)
            self._changed.notify_all()
            if self._log:
                print(json.dumps({**served.row(), "body": body}), file=self._log, flush=True)
        return served

    def note_unknown(self, what: str) -> None:
        """A request that no API has."""
        with self._changed:
            self._unknown.append(what)

    def move(self, served: Served, state: str) -> None:
        """How far an answer is."""
        with self._changed:
            served.state = state
            served.history.append(state)
            self._changed.notify_all()

    @contextmanager
    def holding(self, served: Served) -> Iterator[socket.socket]:
        """A socket that becomes readable when the answer is released."""
        mine, theirs = socket.socketpair()
        with self._changed:
            self._held[served.number] = theirs
        self.move(served, "held")
        try:
            yield mine
        finally:
            mine.close()
            with self._changed:
                other = self._held.pop(served.number, None)
            if other:
                other.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    model: ModelServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A program that was killed hangs up in the middle: no news."""
        import sys

        if not isinstance(sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = None

    def log_message(self, format: str, *args: Any) -> None:  # the base class's own word
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/control/requests":
            self._json({"requests": [one.row() for one in self.server.model.requests]})
        elif path.endswith("/models") or "/models/" in path:
            self._models(path)
        else:
            self._missing()

    def do_HEAD(self) -> None:
        self._head(200, "text/plain", 0)

    def do_POST(self) -> None:
        try:
            body = self._body()
        except (ValueError, OSError) as error:
            self.close_connection = True
            self._json({"error": {"message": f"bad request: {error}"}}, 400)
            return
        path = urlsplit(self.path).path
        api = model_answers.api_of(path)
        if api is not None:
            self._serve(api, api.ask(body, path), body)
        elif path == "/control/release":
            self._json({"released": self.server.model.release(body.get("prompt", ""))})
        elif path == "/control/wait":
            self._wait(body)
        elif path.endswith("/count_tokens"):
            self._json({"input_tokens": model_apis.TOKENS_IN})
        elif path.endswith(":countTokens"):
            self._json({"totalTokens": model_apis.TOKENS_IN})
        else:
            self._missing()

    def _wait(self, body: Body) -> None:
        try:
            served = self.server.model.wait(
                body.get("prompt", ""),
                body.get("state", ""),
                after=int(body.get("after", 0)),
                timeout=float(body.get("timeout", 30)),
            )
        except AssertionError as error:
            self._json({"error": {"message": str(error)}}, 408)
        else:
            self._json(served.row())

    def _body(self) -> Body:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        body = json.loads(raw or b"{}")
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  # as any other bad body
        return body

    def _serve(self, api: model_answers.Api, ask: Ask, body: Body) -> None:
        model = self.server.model
        served = model.note(ask, self.path, body)
        said = model_apis.answer(ask)
        try:
            if said.status:
                self._json(
                    model_answers.failure(ask.api, said.status), said.status, {"x-should-retry": "false"}
                )
                model.move(served, "failed")
                return
            if ask.stream:
                self._stream(api.stream(ask, said), said, served)
            else:
                if said.hold:
                    self._hold(said, served)
                self._json(api.whole(ask, said))
        except OSError:
            self.close_connection = True
            model.move(served, "gone")
        else:
            model.move(served, "done")

    def _stream(self, pieces: model_answers.Stream, said: Answer, served: Served) -> None:
        self.close_connection = True
        self._head(200, "text/event-stream")
        hold = said.hold
        for piece in pieces:
            if piece is not None:
                self.wfile.write(piece.encode())
                self.wfile.flush()
            elif hold:
                hold = False
                self._hold(said, served)

    def _hold(self, said: Answer, served: Served) -> None:
        """Wait for the release, the end of the time, or the program to hang up (ConnectionError)."""
        with self.server.model.holding(served) as released:
            ready, _, _ = select.select([released, self.connection], [], [], said.hold_seconds)
            if self.connection in ready and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionError("hung up")
            if self.connection in ready and released not in ready:
                # Something more was sent early: it is read after this answer.
                select.select([released], [], [], said.hold_seconds)

    def _models(self, path: str) -> None:
        if "/v1beta" in path:
            rows = [
                {"name": f"models/{one}", "supportedGenerationMethods": ["generateContent"]} for one in MODELS
            ]
            self._json({"models": rows})
            return
        asked = path.rpartition("/models")[2].strip("/")
        known = [{"id": one, "object": "model", "type": "model", "display_name": one} for one in MODELS]
        if asked:
            self._json({**known[0], "id": asked, "display_name": asked})
        else:
            self._json({"object": "list", "data": known, "models": [], "has_more": False})

    def _missing(self) -> None:
        self.server.model.note_unknown(f"{self.command} {self.path}")
        self._json({"error": {"type": "not_found_error", "message": f"nothing at {self.path}"}}, 404)

    def _json(self, body: Body, status: int = 200, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self._head(status, "application/json", len(raw), headers)
        self.wfile.write(raw)

    def _head(
        self, status: int, kind: str, length: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close" if length is None else "keep-alive")
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()


def main() -> None:
    """Serve until SIGINT or SIGTERM; the first line printed is the port."""
    parser = argparse.ArgumentParser(prog="python -m tests.agents.model_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, help="a JSON line for each request")
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ModelServer(options.port, options.log) as server:
        print(server.port, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
