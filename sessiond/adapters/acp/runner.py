"""`sessiond acp … -- PROGRAM`: one conversation with a program that speaks the Agent Client Protocol.

What it says is written to standard output as text, or as lines of JSON. Permissions are asked for on a
terminal, and refused where there is none: nothing is allowed that nobody allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Final

from sessiond import __version__
from sessiond.adapters.acp.journal import Journal, path_of
from sessiond.adapters.acp.peer import Params, Peer, Refused
from sessiond.adapters.acp.talk import Talk
from sessiond.adapters.acp.telling import Telling, make_telling
from sessiond.adapters.reading.texts import absolute
from sessiond.errors import InvalidArgument, SessiondError, Unreachable, Unsupported

PROTOCOL: Final = 1
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


def main(words: Sequence[str]) -> int:
    """Hold the conversation; an exit status: 0 where the program came to the end of its turn."""
    options = _options(words)
    prompt: str | None = options.prompt
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    ask = tty if options.permissions == "auto" else options.permissions == "ask"
    try:
        if not sys.stdin.isatty() and prompt is None:
            prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
        if not (prompt or "").strip() and not (tty and not options.print):
            raise InvalidArgument(
                "prompt_missing", "there is no prompt", hint="give one with --prompt or on standard input"
            )
        talking = tty and not options.print
        conversation = _Conversation(options, make_telling(options.json), ask=ask and tty, talking=talking)
        return asyncio.run(conversation.hold(prompt or ""))
    except SessiondError as error:
        print(f"sessiond: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    except BrokenPipeError:
        # Who read our output went away.
        return EXIT_FAILED


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sessiond acp", description=__doc__, allow_abbrev=False)
    parser.add_argument("--id", default="", help="what the conversation is to be called")
    parser.add_argument("--resume", default="", metavar="ID", help="go on with that conversation")
    parser.add_argument("--model", default="", help="one of those that the program offers")
    parser.add_argument("--prompt", default=None, help="the first prompt; else standard input")
    parser.add_argument("--print", action="store_true", help="answer it and end")
    parser.add_argument("--json", action="store_true", help="print the protocol's own updates, one a line")
    parser.add_argument(
        "--permissions",
        choices=("auto", "ask", "refuse"),
        default="auto",
        help="ask on the terminal, or refuse all; auto asks where there is a terminal",
    )
    parser.add_argument("command", nargs="*", metavar="-- PROGRAM", help="what speaks the protocol")
    options = parser.parse_args(words)
    if not options.command and not options.resume:
        parser.error("say which program: sessiond acp -- PROGRAM [ARGUMENT ...]")
    if options.id and options.resume:
        parser.error("a conversation that is gone on with has its id")
    return options


class _Conversation:
    """One run: the program, the journal, and who talks to it."""

    def __init__(self, options: argparse.Namespace, telling: Telling, *, ask: bool, talking: bool) -> None:
        self._options = options
        self._telling = telling
        self._ask = ask
        self._talking = talking
        self._stopped: asyncio.Future[int] | None = None
        self._turn: asyncio.Task[Params] | None = None
        self._peer: Peer | None = None
        self._talk: Talk | None = None
        self._session = ""
        self._cancelling: asyncio.Task[None] | None = None

    async def hold(self, prompt: str) -> int:
        """All of it."""
        id = self._options.resume or self._options.id or str(uuid.uuid4())
        path = path_of(os.environ, id)
        before = ""
        if self._options.resume:
            journal, header, before = Journal.go_on(path, id)
            # A folder that is not whole is none that anybody checked.
            cwd = absolute(header.cwd) or os.getcwd()
            kept = header.command if isinstance(header.command, list) else []
            command = self._options.command or [word for word in kept if isinstance(word, str)]
        else:
            cwd, command = os.getcwd(), self._options.command
            journal = Journal.begin(path, id, cwd, command)
        status = EXIT_FAILED
        try:
            if not command:
                raise InvalidArgument(
                    "command_missing", "the journal names no program", hint="name it after --"
                )
            if self._options.resume and not before:
                raise Unsupported(
                    "adapter_cannot",
                    "the program never opened this conversation, so there is none to go on with",
                    hint="start a new one",
                )
            self._telling.begin(id)
            self._talk = Talk(journal, self._telling)
            status = await self._run(command, cwd, before, prompt, self._talk)
        finally:
            journal.write("end", status=status)
            journal.close()
        return status

    async def _run(self, command: Sequence[str], cwd: str, before: str, prompt: str, talk: Talk) -> int:
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        self._peer = await Peer.start(command, cwd, self._notified, self._asked)
        work = asyncio.create_task(self._work(self._peer, cwd, before, prompt, talk))
        try:
            await asyncio.wait({work, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError, SessiondError):
                    await work
                return self._stopped.result()
            return work.result()
        finally:
            talk.flush()
            if self._cancelling is not None:
                await self._cancelling
            await self._peer.close()

    async def _work(self, peer: Peer, cwd: str, before: str, prompt: str, talk: Talk) -> int:
        await self._open(peer, cwd, before, talk)
        status = 0
        while True:
            if not prompt:
                if not self._talking:
                    return status
                line = await self._telling.read("> ")
                if line is None:
                    return 0
                prompt = line.strip()
                if not prompt:
                    continue
            status = await self._say(peer, prompt, talk)
            prompt = ""

    async def _open(self, peer: Peer, cwd: str, before: str, talk: Talk) -> None:
        """Greet, and open the conversation, new or as it was."""
        about = {"name": "sessiond", "title": "sessiond", "version": __version__}
        offers = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
        told = await peer.call(
            "initialize",
            {"protocolVersion": PROTOCOL, "clientCapabilities": offers, "clientInfo": about},
        )
        if told.get("protocolVersion") != PROTOCOL:
            raise Unsupported(
                "adapter_cannot",
                f"the program speaks version {told.get('protocolVersion')!r} of the protocol, not {PROTOCOL}",
                hint="use a release of it that does",
            )
        able = _part(told, "agentCapabilities")
        where: Params = {"cwd": cwd, "mcpServers": []}
        if not before:
            opened = await self._authorised(peer.call("session/new", where), told)
            session = opened.get("sessionId")
            if not isinstance(session, str) or not session:
                raise Unreachable("acp_error", "the program opened no conversation", hint="see its own log")
            self._session = session
        else:
            method = "session/load" if able.get("loadSession") is True else "session/resume"
            if method == "session/resume" and "resume" not in _part(able, "sessionCapabilities"):
                raise Unsupported(
                    "adapter_cannot",
                    "the program cannot go on with a conversation",
                    hint="start a new one, and tell it what matters of the old one",
                )
            self._session = before
            # What it tells again now is in the journal already.
            talk.replaying = True
            opened = await self._authorised(peer.call(method, {**where, "sessionId": before}), told)
            talk.replaying = False
        program = _part(told, "agentInfo")
        model = await self._choose(peer, opened)
        talk.opened(self._session, str(program.get("name", "")), str(program.get("version", "")), model)

    async def _authorised(self, call: Awaitable[Params], told: Params) -> Params:
        try:
            return await call
        except Refused as error:
            if error.number != -32000:
                raise
            methods = told.get("authMethods")
            listed = methods if isinstance(methods, list) else []
            ways = [
                str(each.get("description") or each.get("name")) for each in listed if isinstance(each, dict)
            ]
            raise Unsupported(
                "acp_login_missing",
                "the program wants to know who you are first",
                hint="; ".join(ways) or "log in with the program itself",
            ) from error

    async def _choose(self, peer: Peer, opened: Params) -> str:
        """Set the model that is wished; the name of the one in use, or empty."""
        wish = self._options.model
        options = opened.get("configOptions")
        for option in options if isinstance(options, list) else ():
            if not isinstance(option, dict) or option.get("category") != "model":
                continue
            if not wish:
                return str(option.get("currentValue", ""))
            choice = {"sessionId": self._session, "configId": option.get("id"), "value": wish}
            await self._set(peer, "session/set_config_option", choice)
            return str(wish)
        models = _part(opened, "models")
        if not wish:
            return str(models.get("currentModelId", ""))
        await self._set(peer, "session/set_model", {"sessionId": self._session, "modelId": wish})
        return str(wish)

    async def _set(self, peer: Peer, method: str, params: Params) -> None:
        try:
            await peer.call(method, params)
        except Refused as error:
            raise InvalidArgument(
                "model_invalid",
                f"the program does not take the model {self._options.model}: {error.message}",
                hint="leave --model away to use its own",
                fields={"model": self._options.model},
            ) from error

    async def _say(self, peer: Peer, prompt: str, talk: Talk) -> int:
        """One turn; the status that it would end with."""
        talk.prompted(prompt)
        content = [{"type": "text", "text": prompt}]
        params: Params = {"sessionId": self._session, "prompt": content}
        self._turn = asyncio.create_task(peer.call("session/prompt", params))
        try:
            told = await self._turn
        except Refused as error:
            talk.turned("error", {}, error.message)
            if not self._talking:
                raise
            self._telling.note(error.message)
            return EXIT_FAILED
        finally:
            self._turn = None
        stop = str(told.get("stopReason", ""))
        talk.turned(stop, _part(told, "usage"))
        if stop == "cancelled":
            return EXIT_INTERRUPTED
        if stop != "end_turn":
            self._telling.note(f"the program stopped: {stop or 'it does not say why'}")
            return EXIT_FAILED
        return 0

    # ---- what comes from outside ----------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        """The first interrupt of a turn cancels it; any other signal, and the second one, ends all."""
        talk, peer = self._talk, self._peer
        if number == signal.SIGINT and self._turn and talk and peer and not talk.cancelling:
            talk.cancelling = True
            self._telling.interrupt()
            self._cancelling = asyncio.create_task(self._cancel(peer))
        elif self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(128 + number)

    async def _cancel(self, peer: Peer) -> None:
        with suppress(Unreachable):
            await peer.tell("session/cancel", {"sessionId": self._session})

    def _notified(self, method: str, params: Params) -> None:
        if method == "session/update" and params.get("sessionId") == self._session and self._talk:
            self._talk.updated(_part(params, "update"))

    async def _asked(self, method: str, params: Params) -> object:
        """A permission; nothing else is offered to programs."""
        if method != "session/request_permission" or self._talk is None:
            raise NotImplementedError(method)
        return await self._talk.permit(params, self._ask)


def _part(params: Params, name: str) -> Params:
    value = params.get(name)
    return value if isinstance(value, dict) else {}
