"""The package that a program lies in tells its version: nothing is run to know it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec

from sessiond.adapters.reading.ends import read_small
from sessiond.adapters.reading.objects import decoded

VERSION_MAX: Final = 64


class Package(msgspec.Struct):
    """What a package.json tells."""

    name: str = ""
    version: str = ""


_PACKAGE: Final = msgspec.json.Decoder(Package)


def read_package(path: str) -> Package | None:
    """A package's file; None where there is none, or it cannot be read."""
    try:
        return decoded(_PACKAGE, read_small(path))
    except OSError:
        return None


def packaged_version(program: str, fits: Callable[[str], object]) -> str:
    """Version of the nearest package above a program; empty where its name does not fit."""
    folder = os.path.dirname(os.path.realpath(program))
    while folder != os.path.dirname(folder):
        package = read_package(os.path.join(folder, "package.json"))
        if package is not None:
            return package.version[:VERSION_MAX] if fits(package.name) else ""
        folder = os.path.dirname(folder)
    return ""
