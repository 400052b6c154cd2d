"""A whole systemd host for tests: booted in half a second, power-cut, booted again, thrown away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from sessiond import nest
from sessiond.errors import SessiondError
from sessiond.nest import layout

GUEST = "tester"
HOME = f"/home/{GUEST}"
_PREFIX = "sessiond-host-"
_REPOSITORY = Path(__file__).resolve().parents[2]
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_NOT_FOR_UPPER = ("overlay", "overlayfs", "fuse", "nfs", "9p")


class HostUnavailable(Exception):
    """This machine cannot boot the host; the message says why."""


class Host:
    """One host over an overlay of this machine, with a lingering unprivileged user in it.

    Everything it is lies in one folder, removed by ``close``. ``boot`` and ``power_cut`` may be
    repeated: the disk is kept until then.
    """

    def __init__(
        self,
        *,
        linger: bool = True,
        private_net: bool = False,
        traversable: Sequence[Path] = (),
        outside: bool = False,
    ) -> None:
        """``traversable`` are paths that its user must be able to reach, besides Python and the checkout.
        With ``outside`` it sees the processes of this machine, as a nest does."""
        self._stack = contextlib.ExitStack()
        self.folder = self._stack.enter_context(_scratch())
        self.uid = self._stack.enter_context(_free_uid())
        self._options = nest.Options(
            overlay=self.folder / "disk",
            guest=GUEST,
            linger=linger,
            persistent_journal=True,
            private_net=private_net,
            traversable=(Path(sys.executable), _REPOSITORY, *traversable),
            announce=False,
            outside=outside,
        )
        self._nest: nest.Nest | None = None
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def nest(self) -> nest.Nest:
        """The boot that lives; an AssertionError when it is off."""
        assert self._nest is not None, "the host is off"
        return self._nest

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._nest is not None and self._nest.alive

    @property
    def runtime_dir(self) -> str:
        """The user's XDG_RUNTIME_DIR inside."""
        return f"/run/user/{self.uid}"

    def boot(self, *, timeout: float = 120.0) -> Host:
        """Power on, and return when systemd and the user's manager serve."""
        base = self.folder / "nest"
        try:
            self._nest = nest.up(self.uid, base=base, options=self._options, timeout=timeout)
        except SessiondError as error:
            raise HostUnavailable(f"{error.message}\n{error.hint}") from error
        return self

    def power_cut(self) -> None:
        """SIGKILL of its PID 1: everything inside is gone at once, the disk stays."""
        nest.power_cut(self.nest)
        self._reap()
        self._nest = None

    def shutdown(self) -> None:
        """An orderly power-off: units are stopped, the disk stays."""
        nest.down(self.uid, base=self.folder / "nest", timeout=120.0)
        self._reap()
        self._nest = None

    def reboot(self, *, orderly: bool = False) -> Host:
        """Power cut (or orderly shutdown) and boot again on the same disk."""
        if orderly:
            self.shutdown()
        else:
            self.power_cut()
        return self.boot()

    def close(self) -> None:
        """End it and remove its disk; safe to repeat."""
        try:
            nest.down(self.uid, base=self.folder / "nest", timeout=0)
        finally:
            self._reap()
            self._nest = None
            self._stack.close()

    def _reap(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(60)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        self._processes.clear()

    def environment(self, *, user: bool = True) -> dict[str, str]:
        """What a login gives: nothing of this process's own environment."""
        name, home = (GUEST, HOME) if user else ("root", "/root")
        return {
            "HOME": home,
            "USER": name,
            "LOGNAME": name,
            "SHELL": "/bin/bash",
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            **nest.user_environment(self.nest, root=not user),
        }

    def argv(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        user: bool = True,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The command line that runs argv inside, as the user (or root), in a clean environment."""
        return nest.exec_argv(
            self.nest,
            [os.fspath(word) for word in argv],
            root=not user,
            cwd=cwd or (HOME if user else "/"),
            env={**self.environment(user=user), **(env or {})},
            inherit=False,
        )

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        user: bool = True,
        check: bool = True,
        input: str | None = None,  # subprocess's own word
        timeout: float = 120.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run argv inside and return what it printed; with check, a failure shows its output."""
        done = subprocess.run(
            self.argv(argv, user=user, cwd=cwd, env=env),
            check=False,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            words = " ".join(os.fspath(word) for word in argv)
            raise AssertionError(f"{words}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        user: bool = True,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Start argv inside; killing the returned process kills it, and so does ``close``."""
        process = subprocess.Popen(
            self.argv(argv, user=user, cwd=cwd, env=env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        self._processes.append(process)
        return process

    def sessionctl(
        self,
        *args: str,
        check: bool = True,
        input: str | None = None,  # subprocess's own word
        timeout: float = 120.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the checkout's sessionctl inside as the user."""
        program = Path(sys.executable).parent / "sessionctl"
        return self.run([program, *args], check=check, input=input, timeout=timeout, cwd=cwd, env=env)

    def systemctl(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run systemctl --user inside as the user."""
        return self.run(["systemctl", "--user", "--no-pager", *args], check=check)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a user unit as systemctl shows them (all of them without names)."""
        chosen = [f"--property={','.join(properties)}"] if properties else []
        lines = self.systemctl("show", *chosen, "--", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def path(self, inside: str | os.PathLike[str]) -> Path:
        """Where this process finds a file of the host: live while it runs, on its disk when off.

        Symlinks in the path must be relative or absent: absolute ones lead out of the host.
        """
        below = os.fspath(inside).lstrip("/")
        if self._nest is not None:
            return Path(f"/proc/{self._nest.pid}/root") / below
        return layout.upper_dir(self.folder / "disk") / below

    def outer_pid(self, inner: int) -> int:
        """The pid out here of a process inside."""
        return nest.outer_pids(self.nest)[inner]


def sweep() -> None:
    """Remove what hosts of killed test runs left; hosts in use are left alone."""
    for folder in _places():
        for found in folder.glob(f"{_PREFIX}*"):
            if found.lstat().st_uid == os.geteuid() and found.is_dir() and not found.is_symlink():
                _sweep_one(found)


def _sweep_one(folder: Path) -> None:
    with contextlib.suppress(BlockingIOError, FileNotFoundError), _held(folder):
        nest.down(os.getuid(), base=folder / "nest", timeout=0)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for one host, on a file system that an upper layer can lie on."""
    for place in _places():
        # Named as a host's only once it is locked: a sweep at this moment must not take it.
        try:
            draft = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=place))
        except OSError:
            continue
        with _held(draft):
            folder = draft.rename(draft.with_name(draft.name.removeprefix(".")))
            try:
                yield folder
            finally:
                shutil.rmtree(folder)
        return
    raise HostUnavailable("no folder here can hold an overlay: set SESSIOND_TEST_DISK to one")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the lock that tells a host in use from one that was left behind."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(folder / "in-use", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _places() -> list[Path]:
    named = os.environ.get("SESSIOND_TEST_DISK", "")
    candidates = [named] if named else ["/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108  # mkdtemp
    return [Path(place) for place in candidates if os.path.isdir(place) and _fit(place)]


def _fit(place: str) -> bool:
    shown = subprocess.run(
        ["stat", "--file-system", "--format=%T", place], capture_output=True, text=True, check=False
    )
    return not shown.stdout.strip().startswith(_NOT_FOR_UPPER)


@contextlib.contextmanager
def _free_uid() -> Iterator[int]:
    """A uid that nobody here has, nor another host now: by uid the kernel counts what a user may have of
    watchers, pipes and processes, whatever host they are on."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    with socket.socket(socket.AF_UNIX) as held:
        for uid in range(1000, 60000):
            if uid in taken:
                continue
            try:
                # An abstract name: it is free again the moment that this process is gone.
                held.bind(f"\0{_PREFIX}uid-{uid}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            yield uid
            return
    raise HostUnavailable("no uid is free here for the user of a host")
