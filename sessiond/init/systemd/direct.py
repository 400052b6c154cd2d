"""systemctl, for a daemon that ends: it asks the manager on its own socket, also when the bus is gone.

At the end of a user's manager the bus is stopped beside the sessions, in no order. It is also sooner
done than loading a bus library for one question.
"""

from __future__ import annotations

import asyncio
import contextlib

from sessiond.errors import Unreachable


async def systemctl(*words: str, deadline: float) -> tuple[int, str]:
    """Exit status and output of `systemctl --user`. Raises Unreachable `init_unavailable` where it cannot
    be run or takes longer than ``deadline`` seconds."""
    try:
        process = await asyncio.create_subprocess_exec(
            "systemctl",
            "--user",
            "--no-pager",
            "--no-ask-password",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise Unreachable("init_unavailable", f"systemctl cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise Unreachable(
            "init_unavailable", f"systemctl {words[0]} took longer than {deadline:g} s"
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
