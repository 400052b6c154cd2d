"""The beginning of the finder's process. Who asks first waits for it: what loads slowly and is used by nobody
here is not loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """A module that is loaded when something in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def main(argv: Sequence[str]) -> int:
    """As the finder's own ``main``."""
    # dataclasses asks it only for the signatures of classes without docstrings; it loads the parser, the
    # tokenizer and the disassembler.
    sys.modules.setdefault("inspect", _Later("inspect"))
    # msgspec takes from it what typing itself has by now, and does without it where it is not there.
    absent = sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    import msgspec  # noqa: F401

    if absent is None:
        del sys.modules["typing_extensions"]
    from sessiond.discovery.zygote import main as serve

    return serve(argv)
