"""Whose own file cannot be read any more: what is told of these is what was read of it last."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from sessiond.model.agent_session import Problem

# Codes of trouble that keeps a file, or all in a folder, from being read.
_UNREAD: Final = frozenset({"file_unreadable", "file_malformed", "format_newer"})


class LastGood:
    """All trouble of one adapter at a moment."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._troubles = {
            os.path.normpath(one.path): f"{one.path}: {one.reason}"
            for one in problems
            if one.code in _UNREAD and one.path and not one.current
        }
        self._folders: dict[str, str] = {}

    def trouble(self, source: str) -> str:
        """What keeps this file from being read, be it a folder above it; empty where nothing does."""
        if not self._troubles or not source:
            return ""
        return self._troubles.get(source) or self._above(os.path.dirname(source))

    def _above(self, folder: str) -> str:
        told = self._folders.get(folder)
        if told is None:
            higher = os.path.dirname(folder)
            told = self._troubles.get(folder) or ("" if higher == folder else self._above(higher))
            self._folders[folder] = told
        return told
