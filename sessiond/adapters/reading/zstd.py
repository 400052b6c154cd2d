"""Files that programs compress with Zstandard: read as far as needed, never further than bounds allow."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from sessiond.adapters.reading.ends import irregular, open_regular

# The standard library's since Python 3.14, and what brings it to those before.
_MODULES: Final = ("compression.zstd", "backports.zstd")
# What is unpacked of one file at most, and what its window may take (in powers of two).
_MOST: Final = 256 * 1024 * 1024
_WINDOW: Final = 26
_BLOCK: Final = 256 * 1024


def unpacked_head(path: str, most: int) -> tuple[bytes, bool]:
    """The first bytes, and whether that is all. Raises OSError, also where it is broken or newer."""
    parts: list[bytes] = []
    size = 0
    for block in _blocks(path):
        parts.append(block)
        size += len(block)
        if size > most:
            return b"".join(parts)[:most], False
    return b"".join(parts), True


def unpacked_end(path: str, most: int) -> tuple[bytes, bool]:
    """The last bytes, and whether that is all. Raises OSError as ``unpacked_head``, and `EFBIG` for one that
    unpacks to more than anybody waits for."""
    kept = bytearray()
    size = 0
    for block in _blocks(path):
        size += len(block)
        if size > _MOST:
            raise OSError(errno.EFBIG, f"it unpacks to more than {_MOST >> 20} MB", path)
        kept += block
        if len(kept) > 2 * most:
            del kept[: len(kept) - most]
    return bytes(kept[-most:]), size <= most


def _blocks(path: str) -> Iterator[bytes]:
    zstd = _module()
    descriptor = open_regular(path)
    with open(descriptor, "rb") as packed:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise irregular(path)
        if zstd is None:
            raise OSError(errno.ENOTSUP, "it is compressed, and the package backports.zstd is missing", path)
        try:
            with zstd.ZstdFile(
                packed, options={zstd.DecompressionParameter.window_log_max: _WINDOW}
            ) as unpacked:
                while block := unpacked.read(_BLOCK):
                    yield block
        except (zstd.ZstdError, EOFError) as error:
            raise OSError(errno.EINVAL, f"it cannot be unpacked: {error}", path) from error


def _module() -> Any:
    for name in _MODULES:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None
