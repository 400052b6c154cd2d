"""The `sessiond` program: `sessiond` is the supervisor, `sessiond session …` one session's daemon."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the process that argv names; each imports only what it needs."""
    argv = sys.argv[1:]
    if argv and argv[0] == "session":
        from sessiond.daemon.main import main as session_main

        return session_main(argv[1:])
    from sessiond.supervisor.main import main as supervisor_main

    return supervisor_main(argv)


if __name__ == "__main__":
    sys.exit(main())
