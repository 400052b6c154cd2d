"""The wire: generated code, codec between messages and model, status mapping, server."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

from google.protobuf.internal import api_implementation

_PURE: Final = "google.protobuf.internal.python_message"


def _spare(name: str) -> None:
    """Have a module be loaded by its first use alone."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    package, _, own = name.rpartition(".")
    setattr(sys.modules[package], own, module)


# Messages are made in C, and generated code imports all that makes them in Python besides: a quarter of what
# it costs to load, in every process of ours.
if api_implementation.Type() != "python" and _PURE not in sys.modules:
    _spare(_PURE)
