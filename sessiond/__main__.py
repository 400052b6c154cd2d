"""The `sessiond` program: supervisor; `session …` is one session's daemon, `start-session` its starter,
`agent …` becomes an agent's program, `finder …` runs what looks for conversations of agent programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from sessiond import process


def main() -> NoReturn:
    """Run the process that argv names, and leave with its status."""
    process.begin()
    process.leave(_run(sys.argv[1:]))


def _run(argv: Sequence[str]) -> int:
    """Each process imports only what it needs."""
    if argv and argv[0] == "agent":
        from sessiond.agents.launch import main as agent_main

        return agent_main(argv[1:])
    if argv and argv[0] == "finder":
        from sessiond.discovery.start import main as finder_main

        return finder_main(argv[1:])
    if argv and argv[0] == "session":
        from sessiond.daemon.main import main as session_main

        return session_main(argv[1:])
    if argv and argv[0] == "start-session":
        from sessiond.cli.starter import main as starter_main

        return starter_main(argv[1:])
    if argv and argv[0] == "acp":
        from sessiond.adapters.acp.runner import main as acp_main

        return acp_main(argv[1:])
    from sessiond.supervisor.main import main as supervisor_main

    return supervisor_main(argv)


if __name__ == "__main__":
    main()
