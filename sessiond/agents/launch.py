"""`sessiond agent FOLDER RUNTIME`: what an agent's unit executes; becomes the agent's program.

A unit cannot hold every command line: systemd expands and quotes words, and not all that it writes comes
back the same when it reads its units anew. So command line and environment travel in a file that only its
owner can read, and nothing of them is seen in the unit. This module imports almost nothing: each start of
an agent waits for it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
# What a program of another kind would get from systemd when its folder cannot be entered.
EXIT_FOLDER = 200

# Name of the file in an agent's folder that is its standard input.
INPUT = "input"

_HEAD = b"sessiond-launch-1"
# Set by the init system for each run; the agent's own environment has none of that name.
_PASSED_ON = b"INVOCATION_ID"


def encode(
    program: bytes, argv: Sequence[bytes], cwd: bytes, umask: int, environment: Mapping[bytes, bytes]
) -> bytes:
    """A launch file: every word with a NUL behind it, none of which can hold one."""
    head = [_HEAD, program, cwd, b"%o" % umask, b"%d" % len(argv)]
    words = [*head, *argv, *(name + b"=" + value for name, value in environment.items())]
    return b"".join(word + b"\0" for word in words)


def decode(raw: bytes) -> tuple[bytes, list[bytes], bytes, int, dict[bytes, bytes]]:
    """Program, argv, folder, umask and environment of a launch file; raises ValueError."""
    if not raw.endswith(b"\0"):
        raise ValueError("it is cut off")
    words = raw[:-1].split(b"\0")
    if len(words) < 6 or words[0] != _HEAD:
        raise ValueError("it is no launch file of this release")
    count = int(words[4])
    argv, pairs = words[5 : 5 + count], words[5 + count :]
    if count < 1 or len(argv) < count:
        raise ValueError("it is cut off")
    environment = dict(pair.split(b"=", 1) for pair in pairs)
    return words[1], argv, words[2], int(words[3], 8), environment


def main(words: Sequence[str]) -> int:
    """Become the program; returns an exit status only where that is not possible."""
    if len(words) != 2:
        print("usage: sessiond agent FOLDER RUNTIME", file=sys.stderr)
        return 2
    try:
        program, argv, cwd, umask, environment = decode(_read(*words))
    except (OSError, ValueError) as error:
        return _failed(f"cannot read what to start: {error}", EXIT_NOT_EXECUTABLE)
    run = os.environb.get(_PASSED_ON)
    if run is not None:
        environment[_PASSED_ON] = run
    try:
        os.chdir(cwd)
    except OSError as error:
        return _failed(f"cannot enter {os.fsdecode(cwd)}: {error.strerror}", EXIT_FOLDER)
    os.umask(umask)
    try:
        _read_from(words[0])
    except OSError as error:
        return _failed(f"cannot read its input: {error.strerror}", EXIT_NOT_EXECUTABLE)
    return _become(program, argv, environment)


def _read(folder: str, runtime: str) -> bytes:
    kept = os.path.join(folder, "launch")
    session = os.path.basename(os.path.dirname(os.path.dirname(folder)))
    passing = os.path.join(runtime, "launches", f"{session}-{os.path.basename(folder)}")
    path = kept if os.path.exists(kept) else passing
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        return file.read()


def _read_from(folder: str) -> None:
    """Have standard input be what was given for it, from its beginning in each run."""
    try:
        descriptor = os.open(os.path.join(folder, INPUT), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    os.dup2(descriptor, 0)
    os.close(descriptor)


def _become(program: bytes, argv: list[bytes], environment: dict[bytes, bytes]) -> int:
    # Python ignores these for itself, and what is ignored stays so over an exec.
    for one in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(one, signal.SIG_DFL)
    try:
        os.execve(program, argv, environment)  # noqa: S606 - no shell is the point
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = f"cannot execute {os.fsdecode(program)}: {error.strerror}"
        return _failed(reason, EXIT_NOT_FOUND if missing else EXIT_NOT_EXECUTABLE)


def _failed(reason: str, status: int) -> int:
    print(f"sessiond: {reason}", file=sys.stderr)
    return status
