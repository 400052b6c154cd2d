"""The last lines that a session's units wrote, read with journalctl."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from datetime import UTC, datetime
from typing import Any

from sessiond.errors import Unreachable
from sessiond.model.unit import agents_slice, daemon_unit, session_slice

_DEADLINE = 15.0
_FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,_COMM,_PID,SYSLOG_PID"
_LINE_MAX = 4096


async def last_log(session: str, lines: int) -> list[str]:
    """Last lines of all units of a session, oldest first, as `2026-01-01T00:00:00Z name[pid]: text`.

    What systemd itself says of the daemon is among them. Raises Unreachable `journal_unreadable`.
    """
    if lines <= 0:
        return []
    output, errors, status = await _journalctl(
        "--no-pager",
        "--quiet",
        "--output=json",
        f"--output-fields={_FIELDS}",
        f"--lines={lines}",
        f"_UID={os.getuid()}",
        f"_SYSTEMD_USER_SLICE={session_slice(session)}",
        f"_SYSTEMD_USER_SLICE={agents_slice(session)}",
        "+",
        f"_UID={os.getuid()}",
        f"USER_UNIT={daemon_unit(session)}",
    )
    if status != 0 or (not output and "insufficient permissions" in errors):
        raise _unreadable(errors.strip() or f"journalctl exited with status {status}")
    shown = [line for entry in output.splitlines() for line in _shown(json.loads(entry))]
    return shown[-lines:]


async def _journalctl(*arguments: str) -> tuple[str, str, int]:
    try:
        process = await asyncio.create_subprocess_exec(
            "journalctl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        raise _unreadable(f"journalctl cannot be run: {error}") from error
    try:
        async with asyncio.timeout(_DEADLINE):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise _unreadable(f"journalctl gave no answer within {_DEADLINE:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return output.decode(errors="replace"), errors.decode(errors="replace"), process.returncode or 0


def _shown(entry: dict[str, Any]) -> list[str]:
    """One journal entry as lines."""
    when = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    name = _text(entry.get("SYSLOG_IDENTIFIER") or entry.get("_COMM") or "unknown")
    pid = _text(entry.get("_PID") or entry.get("SYSLOG_PID") or "")
    begin = f"{when:%Y-%m-%dT%H:%M:%SZ} {name}[{pid}]: "
    return [begin + line[:_LINE_MAX] for line in _text(entry.get("MESSAGE") or "").splitlines() or [""]]


def _text(value: Any) -> str:
    """A journal field: text, bytes as a list of numbers, or a list of several values."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode(errors="replace")
        return " ".join(_text(item) for item in value)
    return str(value)


def _unreadable(why: str) -> Unreachable:
    return Unreachable(
        "journal_unreadable",
        f"the journal cannot be read: {why}",
        hint="a persistent journal (the folder /var/log/journal) is readable for its user; "
        "for a volatile one join the group systemd-journal",
    )
