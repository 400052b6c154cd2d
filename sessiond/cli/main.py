"""Entry of sessionctl: finds the verb, loads its module alone, and turns what it raises into an exit."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from sessiond import process
from sessiond.cli import exits
from sessiond.cli.app import App
from sessiond.cli.verb import SETTINGS, common_options
from sessiond.errors import SessiondError

# Sections of the help, and for each verb the module and function behind it.
SECTIONS: dict[str, dict[str, str]] = {
    "Sessions": {
        "new": "make:new",
        "adopt": "make:adopt",
        "discover": "make:discover",
        "start": "life:start",
        "stop": "life:stop",
        "restart": "life:restart",
        "kill": "life:kill",
        "use": "life:use",
        "end": "life:end",
        "wait": "life:wait",
    },
    "Agents": {
        "run": "run:run",
        "ps": "ps:ps",
        "attach": "attach:attach",
        "send": "send:send",
        "screen": "screen:screen",
        "output": "output:output",
        "replay": "replay:replay",
        "export": "export:export",
        "pause": "agent_life:pause",
        "resume": "agent_life:resume",
        "signal": "agent_life:signal",
        "rm": "agent_life:rm",
    },
    "Conversations": {
        "discovered": "discovered:discovered",
        "peek": "peek:peek",
        "continue": "resuming:continue_",
        "takeover": "resuming:takeover",
        "tag": "tag:tag",
        "adapters": "adapters:adapters",
    },
    "Looking": {
        "list": "show:list_",
        "show": "show:show",
        "status": "status:status",
        "logs": "logs:logs",
        "events": "events:events",
    },
    "Changing": {
        "enable": "change:enable",
        "disable": "change:disable",
        "archive": "change:archive",
        "unarchive": "change:unarchive",
        "limit": "change:limit",
        "rename": "change:rename",
        "label": "change:label",
        "annotate": "change:annotate",
        "delete": "change:delete",
    },
    "This machine": {
        "install": "setup:install",
        "upgrade": "upgrade:upgrade",
        "uninstall": "setup:uninstall",
        "up": "setup:up",
        "down": "setup:down",
        "doctor": "doctor:doctor",
        "config": "config:config",
        "nest": "nest:nest",
        "demo": "demo:demo",
        "completion": "completion:completion",
        "version": "version:version",
    },
}
_VERBS = {name: where for section in SECTIONS.values() for name, where in section.items()}


class Verbs(click.Group):
    """The group of all verbs; loads the module of the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs, in the order of the help."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of a name, or None."""
        where = _VERBS.get(cmd_name)
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(import_module(f"sessiond.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section, with a line each."""
        for title, verbs in SECTIONS.items():
            rows = []
            for name in verbs:
                command = self.get_command(ctx, name)
                rows.append((name, command.get_short_help_str(80) if command else ""))
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=Verbs,
    params=common_options(),
    context_settings=SETTINGS,
    epilog="`sessionctl VERB --help` shows a verb's options and examples.",
)
@click.version_option(package_name="sessiond", message="%(version)s")
def cli() -> None:
    """Coding sessions as units of this machine's own init system.

    SESSION is a name, the first digits of an id, or a path that begins with `.`, `/` or `~`.
    An agent is named SESSION/NAME; verbs for agents alone also take NAME where only one has it.
    """


def main() -> NoReturn:
    """Run this process's command line, and leave with its exit code."""
    process.begin()
    process.leave(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code; nothing but the code leaves as a surprise."""
    if "_SESSIONCTL_COMPLETE" in os.environ:
        from sessiond.cli.completion import answer

        return answer(cli)
    app = App()
    try:
        return _run(words, app)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        return _end_by_pipe()
    finally:
        app.close()


def _run(words: list[str], app: App) -> int:
    try:
        with cli.make_context("sessionctl", list(words), obj=app) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        app.exit_code = ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        app.note(error.format_message())
        app.exit_code = exits.USAGE
    except click.UsageError as error:
        app.json = app.json or (not app.read and _asks_for_json(words))
        app.fail(_usage(error))
    except click.Abort:
        return exits.INTERRUPTED
    except SessiondError as error:
        app.json = app.json or (not app.read and _asks_for_json(words))
        app.fail(error)
    except BrokenPipeError:
        raise
    except Exception as error:  # A bug: told as such, and whole with --debug.
        if app.debug:
            raise
        app.fail(_unforeseen(error))
    app.flush()
    return app.exit_code


def _asks_for_json(words: list[str]) -> bool:
    """Whether a command line that could not be read, or was not yet, asks for JSON."""
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _usage(error: click.UsageError) -> exits.UsageFault:
    hint = f"{error.ctx.command_path} --help" if error.ctx else "sessionctl --help"
    return exits.UsageFault("usage", error.format_message(), hint=hint)


def _unforeseen(error: Exception) -> SessiondError:
    return SessiondError(
        "internal_error",
        f"sessionctl failed in a way nobody foresaw: {type(error).__name__}: {error}",
        hint="run it again with --debug, and report what it prints",
    )


def _end_by_pipe() -> int:
    """End as other programs do whose reader went away: by SIGPIPE, without a word."""
    import signal

    # What is still buffered has no reader; flushing it at exit would only raise again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    return exits.FAILED


if __name__ == "__main__":
    main()
