"""What a terminal costs that outlives its daemon: bytes, keystrokes, and coming back to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.stage import Stage, program, sessionctl
from tests.benchmarks.typist import DEADLINE, Typist

_MEGABYTES = 32
# Each part of a stream is waited for by its reader, and less than a client may be behind.
_PARTS = 64
_KEYS_EACH = 20
_LINES = 10_000
_END = b"-- the end --"
_RAW = "stty raw -echo; printf READY; "
# Waits for a key, then prints the file it is given, then the mark, and stays.
_SHOW = _RAW + 'head -c 1 >/dev/null; cat "$0"; printf %s "-- the" " end --"; exec sleep 600'
# The same in parts, each after a key.
_SHOW_PARTS = (
    _RAW
    + 'for one in "$0"/part-*; do head -c 1 >/dev/null; cat "$one"; printf %s "-- the" " end --"; done; '
    + "exec sleep 600"
)
# The same without anybody to press a key: waits for a fifo, and tells how long it took, in nanoseconds.
_TELL = (
    'stty raw -echo; read -r go <"$1"; began=$(date +%s%N); cat "$0"; '
    'ended=$(date +%s%N); echo $((ended - began)) >"$2.new"; mv "$2.new" "$2"'
)


def _sample(folder: Path) -> Path:
    """A file that reads like the output of a build: lines of text with some colour."""
    path = folder / "stream"
    line = b"\x1b[32m%08d\x1b[0m compiling a module whose name is of about this length: ok\r\n"
    block = b"".join(line % number for number in range(8192))
    with path.open("wb") as file:
        while file.tell() < _MEGABYTES << 20:
            file.write(block)
    return path


def _in_parts(sample: Path) -> Path:
    """A folder with the same in equal parts."""
    folder = sample.with_name("parts")
    folder.mkdir()
    data = sample.read_bytes()
    each = len(data) // _PARTS
    for number in range(_PARTS):
        (folder / f"part-{number:02}").write_bytes(data[number * each : (number + 1) * each])
    return folder


async def stream(stage: Stage, runs: int) -> list[Figure]:
    """The same stream through us, dtach and tmux, to an attached client, and to nobody."""
    session = await stage.create()
    await stage.start(session)
    folder = stage.home / "stream"
    folder.mkdir()
    shown = _sample(folder)
    parts_of_it = _in_parts(shown)

    def ways(*argv: str) -> dict[str, Callable[[], list[str]]]:
        made: dict[str, Callable[[], list[str]]] = {
            "sessiond": lambda: [program("sessionctl"), "run", "-s", session, "--", *argv],
            "dtach": lambda: _dtach(folder, "-A", *argv),
            "tmux": lambda: _tmux(folder, *argv),
            "a bare terminal": lambda: list(argv),
        }
        return {name: start for name, start in made.items() if _there(name)}

    got: dict[str, list[int]] = {}
    whole = ways("sh", "-c", _SHOW, str(shown))
    samples = await _rounds(
        runs, {name: _attached(argv, got.setdefault(name, [])) for name, argv in whole.items()}
    )
    paced = ways("sh", "-c", _SHOW_PARTS, str(parts_of_it))
    # tmux draws, and never passes every byte.
    steps = await _rounds(runs, {name: _paced(name, argv) for name, argv in paced.items() if name != "tmux"})
    alone = await _rounds(
        runs,
        {
            "sessiond": _unattached(folder, shown, lambda argv: _run_detached(session, argv)),
            "dtach": _unattached(folder, shown, lambda argv: _start(_dtach(folder, "-n", *argv))),
        },
    )
    await stage.delete(session)
    rate = {name: _MEGABYTES * 1.048576 / (median(times) / 1000) for name, times in samples.items()}
    parts = {f"{name}, MB/s (not ms)": value for name, value in rate.items()}
    parts |= {
        f"{name}, % of the bytes shown (not ms)": 100 * median(counts) / (_MEGABYTES << 20)
        for name, counts in got.items()
        if name in ("sessiond", "tmux")
    }
    size = f"{_MEGABYTES} MiB of output"
    note = (
        "recorded all the while; the goal of half the bytes a second is twice the time. A client that does "
        "not keep up is sent the screen instead of what it missed, and no program waits for it"
    )
    return [
        Figure(
            "stream",
            f"{size} to an attached client",
            "dtach",
            "ms",
            samples["sessiond"],
            samples["dtach"],
            Goal.TIMES,
            2.0,
            parts=parts,
            note=note,
        ),
        Figure(
            "paced",
            f"{size} to an attached client that shows every byte, in {_PARTS} parts that are waited for",
            "dtach",
            "ms",
            steps["sessiond"],
            steps["dtach"],
            Goal.TIMES,
            2.0,
            parts={name: median(times) for name, times in steps.items()},
        ),
        Figure(
            "unattended",
            f"{size} to nobody but the record",
            "dtach, which keeps nothing",
            "ms",
            alone["sessiond"],
            alone["dtach"],
            Goal.NONE,
        ),
    ]


def _there(name: str) -> bool:
    return name not in ("dtach", "tmux") or shutil.which(name) is not None


def _dtach(folder: Path, mode: str, *argv: str) -> list[str]:
    socket = folder / "dtach.sock"
    socket.unlink(missing_ok=True)
    return ["dtach", mode, str(socket), "-E", "-z", *argv]


def _tmux(folder: Path, *argv: str) -> list[str]:
    return ["tmux", "-S", str(folder / "tmux.sock"), "-f", "/dev/null", "new-session", *argv]


Round = Callable[[], float]


async def _rounds(runs: int, ways: dict[str, Round]) -> dict[str, list[float]]:
    """Milliseconds of each way, taken in turns; the first round is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(runs + 1):
        for name, once in ways.items():
            took = await asyncio.to_thread(once)
            if count:
                samples[name].append(took)
    return samples


def _attached(argv: Callable[[], Sequence[str]], got: list[int]) -> Round:
    """``got`` takes the bytes that were shown in each round."""

    def once() -> float:
        with Typist(argv()) as typist:
            typist.until(b"READY")
            began = time.perf_counter()
            typist.type(b"g")
            got.append(typist.until(_END))
            return (time.perf_counter() - began) * 1000

    return once


def _paced(name: str, argv: Callable[[], Sequence[str]]) -> Round:
    def once() -> float:
        with Typist(argv()) as typist:
            typist.until(b"READY")
            began = time.perf_counter()
            shown = 0
            for _ in range(_PARTS):
                typist.type(b"g")
                shown += typist.until(_END)
            took = (time.perf_counter() - began) * 1000
        if shown < _MEGABYTES << 20:
            raise RuntimeError(f"{name} showed {shown} bytes of {_MEGABYTES << 20}")
        return took

    return once


def _unattached(folder: Path, shown: Path, start: Callable[[list[str]], None]) -> Round:
    def once() -> float:
        fifo, told = folder / "go", folder / "told"
        fifo.unlink(missing_ok=True)
        told.unlink(missing_ok=True)
        os.mkfifo(fifo)
        start(["sh", "-c", _TELL, str(shown), str(fifo), str(told)])
        # Opening returns when the program waits at the other end.
        fifo.write_text("go\n")
        deadline = time.monotonic() + DEADLINE
        while not told.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the program did not end")
            time.sleep(0.005)
        return int(told.read_text()) / 1e6

    return once


def _run_detached(session: str, argv: Sequence[str]) -> None:
    sessionctl("run", "-s", session, "--detach", "--tty", "--", *argv)


def _start(argv: Sequence[str]) -> None:
    import subprocess

    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


# ---- keystrokes


async def echo(stage: Stage, runs: int) -> list[Figure]:
    """One key at a time, until its echo is shown; through us and in a bare terminal."""
    session = await stage.create()
    await stage.start(session)
    argv = ["sh", "-c", _RAW + "exec cat"]

    def measured() -> tuple[list[float], list[float]]:
        ours: list[float] = []
        bare: list[float] = []
        through = [program("sessionctl"), "run", "-s", session, "--", *argv]
        with Typist(through) as mine, Typist(argv) as plain:
            for typist in (mine, plain):
                typist.until(b"READY")
            for count in range((runs + 1) * _KEYS_EACH):
                for typist, kept in ((mine, ours), (plain, bare)):
                    took = _key(typist, b"%c" % (97 + count % 26))
                    # The first ones warm up.
                    if count >= _KEYS_EACH:
                        kept.append(took)
                # Keys come one by one, not as a stream.
                time.sleep(0.005)
        return ours, bare

    ours, bare = await asyncio.to_thread(measured)
    await stage.delete(session)
    what = "a keystroke's echo through an attached client"
    return [Figure("echo", what, "a bare terminal", "ms", ours, bare, Goal.PLUS, 2.0)]


def _key(typist: Typist, key: bytes) -> float:
    began = time.perf_counter()
    typist.type(key)
    typist.until(key)
    return (time.perf_counter() - began) * 1000


# ---- coming back


async def attach(stage: Stage, runs: int) -> list[Figure]:
    """`sessionctl attach`, a process, until the screen is drawn: behind 10,000 lines, and an empty one."""
    session = await stage.create()
    await stage.start(session)
    lines = f"print(*(f'line {{n}} of many' for n in range({_LINES})), sep='\\n'); "
    empty = f"import time; print('{_END.decode()}', end='', flush=True); time.sleep(9999)"
    full = lines + empty
    names = {"full": full, "empty": empty}
    for name, text in names.items():
        words = ("--detach", "--tty", "--name", name, "--", sys.executable, "-c", text)
        sessionctl("run", "-s", session, *words)
        await asyncio.to_thread(until_shown, session, name, _END.decode())
    samples = await _rounds(runs, {name: _coming_back(session, name) for name in names})
    await stage.delete(session)
    return [
        Figure(
            "attach",
            f"attach to a full screen behind {_LINES:,} lines, a process",
            "attach to an empty one",
            "ms",
            samples["full"],
            samples["empty"],
            Goal.TIMES,
            3.0,
        )
    ]


def until_shown(session: str, name: str, text: str) -> None:
    """Return when an agent's screen shows a text; raises TimeoutError."""
    deadline = time.monotonic() + DEADLINE
    while text not in sessionctl("screen", f"{session}/{name}"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} has not printed {text}")


def _coming_back(session: str, name: str) -> Round:
    def once() -> float:
        began = time.perf_counter()
        with Typist([program("sessionctl"), "attach", f"{session}/{name}"]) as typist:
            typist.until(_END)
            return (time.perf_counter() - began) * 1000

    return once
