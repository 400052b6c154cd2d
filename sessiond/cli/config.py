"""`config`: the settings in force, and who set each."""

from __future__ import annotations

from typing import Any

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.verb import verb


@verb(
    "config",
    examples="""
sessionctl config
sessionctl config --json | jq '.[] | select(.origin != "default")'
""",
)
def config(app: App) -> None:
    """Show the settings in force, and who set each.

    A flag, a variable, the file, or the default.
    """
    from sessiond import config as settings
    from sessiond.paths import Paths

    path = Paths.from_environment().config_file
    rows = settings.load(path).rows()
    if app.json:
        app.print_json(
            [{"key": row.key, "value": row.value, "origin": row.origin, "help": row.help} for row in rows]
        )
        return
    cells = [[row.key, _text(row.value), row.origin] for row in rows]
    for line in render.table(["SETTING", "VALUE", "SET BY"], cells, shrink=(1, 2)):
        app.print(line)
    missing = "" if path.exists() else " (does not exist)"
    app.note(f"File: {render.plain(str(path))}{missing}. The supervisor reads it when it starts.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
