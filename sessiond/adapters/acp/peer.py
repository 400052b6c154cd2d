"""The program at the other end: JSON-RPC in lines on its standard input and output.

Written here and not taken from the protocol's own package: that stands on pydantic, which would be loaded at
each start, to check messages of which six are used.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from sessiond.errors import NotFound, SessiondError, Unreachable

# One message; images and whole files travel in some.
_LINE_MAX: Final = 64 * 1024 * 1024
# Seconds that a program may take to end after its standard input was closed, and after SIGTERM.
_LEAVE: Final = 5.0

Params = dict[str, Any]


class Refused(SessiondError):
    """The program answered with an error. ``number`` is its JSON-RPC code."""

    def __init__(self, method: str, number: int, message: str) -> None:
        super().__init__(
            "acp_error",
            f"the program refused {method}: {message} ({number})",
            hint="its own log may tell more",
            fields={"method": method, "number": str(number)},
        )
        self.number = number


class Peer:
    """A program that was started. ``notified`` hears what it tells, ``asked`` answers what it asks."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        notified: Callable[[str, Params], None],
        asked: Callable[[str, Params], Awaitable[object]],
    ) -> None:
        self._process = process
        self._notified = notified
        self._asked = asked
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        cwd: str,
        notified: Callable[[str, Params], None],
        asked: Callable[[str, Params], Awaitable[object]],
    ) -> Peer:
        """Start it in a session of its own: an interrupt from the terminal is ours to pass on. Raises
        NotFound `program_missing`, SessiondError `program_failed`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_MAX,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NotFound(
                "program_missing",
                f"{error.filename or command[0]} is not there",
                hint="give the path of a program that speaks the Agent Client Protocol",
                fields={"program": command[0], "cwd": cwd},
            ) from error
        except (OSError, ValueError) as error:
            raise SessiondError(
                "program_failed",
                f"cannot execute {command[0]}: {error}",
                hint="see whether it can be executed by hand",
                fields={"program": command[0]},
            ) from error
        return cls(process, notified, asked)

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    async def call(self, method: str, params: Params) -> Params:
        """Its answer. Raises Refused, Unreachable `program_ended`."""
        if self._reader.done():
            raise self._gone(method)
        self._last += 1
        number = self._last
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._send({"id": number, "method": method, "params": params})
            told = await answer
        finally:
            self._waiting.pop(number, None)
        if told is None:
            raise self._gone(method)
        error = told.get("error")
        if error is not None:
            error = error if isinstance(error, dict) else {}
            raise Refused(method, _int(error.get("code")), str(error.get("message", "no reason given")))
        result = told.get("result")
        return result if isinstance(result, dict) else {}

    async def tell(self, method: str, params: Params) -> None:
        """A notification, for which there is no answer."""
        await self._send({"method": method, "params": params})

    async def close(self) -> int:
        """End it with all it started; its exit status. Safe to repeat, and whole when cancelled."""
        for task in self._answering:
            task.cancel()
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
        try:
            status = await self._left()
        finally:
            # What it started and left behind, and itself where it would not go.
            self._signal(signal.SIGKILL)
        if status is None:
            status = await self._process.wait()
        self._reader.cancel()
        await asyncio.gather(self._reader, *self._answering, return_exceptions=True)
        return status

    async def _left(self) -> int | None:
        for number in (None, signal.SIGTERM):
            if number is not None:
                self._signal(number)
            with suppress(TimeoutError):
                return await asyncio.wait_for(self._process.wait(), _LEAVE)
        return None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _send(self, message: Params) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n")
            await stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise self._gone(str(message.get("method", "an answer"))) from error

    def _gone(self, method: str) -> Unreachable:
        return Unreachable(
            "program_ended",
            f"the program ended, or closed its output, before it answered {method}",
            hint="what it said on standard error stands above",
        )

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            while line := await stdout.readline():
                self._take(line)
        except ValueError:
            # A line longer than any message: nothing behind it can be trusted.
            pass
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result(None)

    def _take(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            # Programs print notices where only messages belong.
            return
        if not isinstance(message, dict):
            return
        method, number = message.get("method"), message.get("id")
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        if isinstance(method, str) and number is None:
            self._notified(method, params)
        elif isinstance(method, str):
            task = asyncio.create_task(self._answer(number, method, params))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif isinstance(number, int) and (answer := self._waiting.get(number)) and not answer.done():
            answer.set_result(message)

    async def _answer(self, number: object, method: str, params: Params) -> None:
        try:
            result: Params = {"result": await self._asked(method, params)}
        except NotImplementedError:
            result = {"error": {"code": -32601, "message": f"{method} is not offered"}}
        # It may have ended meanwhile: whoever waits for it is told.
        with suppress(Unreachable):
            await self._send({"id": number, **result})


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
