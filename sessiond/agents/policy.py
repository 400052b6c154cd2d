"""Whose size a terminal has where several look at it, kept beside its record to outlive the daemon."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sessiond.agents.faults import fault, open_file
from sessiond.agents.folder import AgentFolder

log = logging.getLogger(__name__)

POLICIES = ("last-active", "smallest", "fixed")
_MOST = 64


def keep_policy(folder: AgentFolder, policy: str) -> None:
    """Write down what was chosen. Raises Exhausted `disk_full`, PermissionDenied `state_denied`."""
    path = folder.policy
    draft = path.with_name(f"{path.name}.new")
    try:
        _write(draft, policy.encode())
        os.replace(draft, path)
    except OSError as error:
        raise fault(error, path, "written") from error


def kept_policy(folder: AgentFolder) -> str:
    """What was chosen last; empty where nothing was, or it cannot be told."""
    path = folder.policy
    try:
        fd = open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error.strerror)
        return ""
    try:
        policy = os.read(fd, _MOST).decode("ascii", "replace")
    finally:
        os.close(fd)
    if policy in POLICIES:
        return policy
    log.warning("%s holds no size policy", path)
    return ""


def _write(path: Path, content: bytes) -> None:
    fd = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
