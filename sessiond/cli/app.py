"""What every verb is given: the global options, the supervisor's client, and the ways to print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from sessiond.cli import exits
from sessiond.errors import SessiondError, Unreachable

if TYPE_CHECKING:
    from sessiond.cli.host import Host
    from sessiond.client.sync import Supervisor


class App:
    """One run of sessionctl. Everything costly in it is made when it is first asked for."""

    def __init__(self) -> None:
        self.json = False
        self.debug = False
        self.socket: str | None = None
        self.exit_code = exits.DONE
        # The exit code of a failure: verbs whose exit codes are a program's own tell theirs apart.
        self.exit_of = exits.exit_code
        # Whether the command line was read to its end: what it says of options is known then.
        self.read = False
        # Whether a word that means a session may have been meant for an agent.
        self.either = False

    @cached_property
    def host(self) -> Host:
        """Where the supervisor is, and how its init system and journal are asked."""
        from sessiond.cli.host import find_host

        return find_host(self.socket)

    @cached_property
    def supervisor(self) -> Supervisor:
        """The client; nothing is sent before the first call."""
        from sessiond.client.sync import Supervisor

        return Supervisor(self.host.socket)

    def close(self) -> None:
        """Close what was opened."""
        if "supervisor" in self.__dict__:
            self.supervisor.close()

    # ---- output -----------------------------------------------------------------------------

    def print(self, text: str, *, file: TextIO | None = None) -> None:
        """Write a line; what the terminal's encoding cannot hold is escaped."""
        stream = sys.stdout if file is None else file
        if stream is None:  # closed by who called; there is nobody to tell
            return
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")

    def print_json(self, value: object, *, indent: int | None = 2, file: TextIO | None = None) -> None:
        """Write a value as JSON; without ``indent`` on one line."""
        import json

        self.print(json.dumps(value, indent=indent, ensure_ascii=True), file=file)

    def flush(self) -> None:
        """Send what was printed on its way."""
        if sys.stdout is not None:
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell the person something that is not the result."""
        self.flush()
        self.print(text, file=sys.stderr)

    def warn(self, error: SessiondError) -> None:
        """Show a failure on stderr."""
        self.flush()
        error = self._with_remedy(error)
        if self.json:
            self.print_json(exits.as_object(error), indent=None, file=sys.stderr)
        else:
            self.print(exits.as_text(error), file=sys.stderr)
        if self.debug:
            import traceback

            self.print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)

    def fail(self, error: SessiondError) -> None:
        """Show a failure and go on; the first one decides the exit code."""
        self.warn(error)
        self.exit_code = self.exit_code or self.exit_of(error)

    def _with_remedy(self, error: SessiondError) -> SessiondError:
        """A supervisor that is down: the command that brings it up here. An agent's bare name where sessions
        are named too: how it is named there."""
        if self.either and error.code == "session_not_found":
            error.hint += "; an agent is named SESSION/NAME here"
        if isinstance(error, Unreachable) and error.code == "supervisor_unreachable":
            error.hint = self.host.remedy()
        return error

    # ---- sessions ---------------------------------------------------------------------------

    def session(self, message: Any) -> dict[str, Any]:
        """A session of the wire as the object that --json shows, pids as seen from here."""
        from sessiond.cli.jsonout import session_object

        return session_object(message, self.host.pid)

    def agent(self, message: Any) -> dict[str, Any]:
        """An agent of the wire as the object that --json shows, its pid as seen from here."""
        from sessiond.cli.jsonout import agent_object

        return agent_object(message, self.host.pid)

    def each(
        self,
        method: Any,
        requests: Sequence[Any],
        line: Callable[[dict[str, Any]], str],
        *,
        timeout: float | None = None,
    ) -> None:
        """Make the calls at once, show the sessions they answer with and the failures."""
        outcomes = self.supervisor.call_all(method, requests, timeout=timeout)
        done = [one for one in outcomes if not isinstance(one, SessiondError)]
        self.show_changed((self.session(one.session) for one in done), line)
        for one in outcomes:
            if isinstance(one, SessiondError):
                self.fail(one)

    def each_session(
        self,
        name: str,
        words: Iterable[str],
        line: Callable[[dict[str, Any]], str],
        *,
        timeout: float | None = None,
        **fields: Any,
    ) -> None:
        """Call `<name>Session` with these fields for every session named, each once."""
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb

        make_request = getattr(pb, f"{name}SessionRequest")
        requests = [make_request(session=word, **fields) for word in dict.fromkeys(words)]
        self.each(getattr(self.supervisor.sessions, f"{name}Session"), requests, line, timeout=timeout)

    def show_changed(self, sessions: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str]) -> None:
        """The sessions that a verb changed: an array, or one line each."""
        if self.json:
            self.print_json(list(sessions))
            return
        for session in sessions:
            self.print(line(session))
