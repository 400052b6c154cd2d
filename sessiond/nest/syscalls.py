"""The system calls of mount namespaces that Python 3.11 lacks; each raises OSError naming its step.

Standard library only: the boot stage loads this file without the rest of the package.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19

MNT_DETACH = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, step: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); OSError's filename says what was being mounted where."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(options) or None,
    )
    _check(result, f"mount {fstype or source or 'flags'} on {target}")


def bind(source: str, target: str, *, recursive: bool = False, read_only: bool = False) -> None:
    """Bind-mount source at target, both existing and of one sort."""
    mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        remount_read_only(target)


def remount_read_only(target: str) -> None:
    """Make one mount of this namespace read-only, keeping its locked flags."""
    vfs = os.statvfs(target)
    kept = vfs.f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def unmount(target: str) -> None:
    """Detach what is mounted at target."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by flags for new ones."""
    _check(_libc.unshare(flags), "unshare namespaces")


def pivot_root(new_root: str) -> None:
    """Make new_root, a mount point, the root of this mount namespace and drop the old one."""
    os.chdir(new_root)
    _check(_libc.pivot_root(b".", b"."), f"pivot_root to {new_root}")
    unmount(".")
    os.chdir("/")
