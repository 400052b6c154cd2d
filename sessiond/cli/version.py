"""`version`: what this is, and what serves."""

from __future__ import annotations

from sessiond import __version__
from sessiond.cli.app import App
from sessiond.cli.verb import verb
from sessiond.errors import Unreachable


@verb(
    "version",
    examples="""
sessionctl version
sessionctl version --json
""",
)
def version(app: App) -> None:
    """Show the releases of sessionctl and of the supervisor."""
    from sessiond.rpc._generated.v1 import system_pb2 as pb

    try:
        info = app.supervisor.call(app.supervisor.system.GetInfo, pb.GetInfoRequest(), timeout=5.0)
    except Unreachable:
        info = None
    if app.json:
        supervisor = info.version if info else None
        app.print_json(
            {"sessionctl": __version__, "supervisor": supervisor, "init": info.init or None if info else None}
        )
        return
    app.print(f"sessionctl {__version__}")
    app.print(
        f"supervisor {info.version}, {info.init or 'init system unknown'}"
        if info
        else "supervisor not running"
    )
