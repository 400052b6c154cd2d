"""The `sessiond` program: supervisor; `session …` is one session's daemon, `start-session` its starter."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the process that argv names; each imports only what it needs."""
    argv = sys.argv[1:]
    if argv and argv[0] == "session":
        from sessiond.daemon.main import main as session_main

        return session_main(argv[1:])
    if argv and argv[0] == "start-session":
        from sessiond.cli.starter import main as starter_main

        return starter_main(argv[1:])
    from sessiond.supervisor.main import main as supervisor_main

    return supervisor_main(argv)


if __name__ == "__main__":
    sys.exit(main())
