"""Who a session is: its id, name, type and owner, and the words it is selected by, all checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sessiond.errors import InvalidArgument

NAME_MAX = 64
LABEL_VALUE_MAX = 256
ANNOTATION_VALUE_MAX = 64 * 1024
PAIRS_MAX = 256
ID_PREFIX_MIN = 4

_ID = re.compile(r"[0-9a-f]{32}")
_AGENT_ID = re.compile(r"[0-9a-f]{16}")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")


class SessionType(StrEnum):
    """What a session is used for."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"
    TEST = "test"
    PERSONA = "persona"


@dataclass(frozen=True, slots=True)
class Identity:
    """What `.sessiond/session.json` holds; it travels with the folder. ``created`` is in UTC."""

    id: str
    name: str
    type: SessionType
    owner: str
    created: datetime


def new_id() -> str:
    """A fresh session id: 32 hexadecimal digits, random."""
    import uuid  # Late: it loads more than the rest of this module, and few who check an id make one.

    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    """Whether the text is a whole session id in its one written form."""
    return _ID.fullmatch(text) is not None


def is_agent_id(text: str) -> bool:
    """Whether the text is a whole agent id."""
    return _AGENT_ID.fullmatch(text) is not None


def parse_id(text: str) -> str:
    """Return the id in its one form (dashes and capitals are accepted), or raise InvalidArgument."""
    compact = text.replace("-", "").lower()
    if not is_id(compact):
        raise InvalidArgument(
            "id_invalid", f"not a session id: {_shown(text)}", hint="an id is 32 hexadecimal digits"
        )
    return compact


def check_name(name: str, what: str = "a session's name") -> str:
    """Return the name, or raise InvalidArgument saying what is wrong with it."""
    wrong = _name_fault(name)
    if wrong:
        raise InvalidArgument(
            "name_invalid",
            f"{_shown(name)} cannot be {what}: {wrong}",
            hint=f"1 to {NAME_MAX} printable characters, no '/', not beginning with '.', '~' or '-'",
            fields={"name": name[:NAME_MAX]},
        )
    return name


def _name_fault(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > NAME_MAX:
        return f"it has {len(name)} characters"
    if not name.isprintable():
        return "it holds a character that cannot be printed"
    if "/" in name:
        return "it holds a '/'"
    if name[0] in ".~-":
        return f"it begins with '{name[0]}'"
    if name != name.strip():
        return "it begins or ends with a space"
    return ""


def name_from_folder(folder: str, fallback: str = "session") -> str:
    """A valid name made of a file's name: what is not allowed is left out or replaced."""
    text = "".join(c if c.isprintable() and c != "/" else "_" for c in folder).strip()
    text = text.lstrip(".~- ")[:NAME_MAX].rstrip()
    return text or fallback


def numbered(name: str, number: int) -> str:
    """The name with a number behind it, still within the bound: `work-2`."""
    tail = f"-{number}"
    return name[: NAME_MAX - len(tail)].rstrip() + tail


def check_owner(owner: str) -> str:
    """Return the owner's name, or raise InvalidArgument."""
    if not owner or len(owner) > NAME_MAX or not owner.isprintable() or owner != owner.strip():
        raise InvalidArgument(
            "owner_invalid",
            f"{_shown(owner)} cannot be an owner",
            hint=f"1 to {NAME_MAX} printable characters",
        )
    return owner


def check_type(word: str) -> SessionType:
    """Return the type that a word names, or raise InvalidArgument with those there are."""
    try:
        return SessionType(word)
    except ValueError as error:
        raise InvalidArgument(
            "type_invalid",
            f"no session type {_shown(word)}",
            hint="types: " + ", ".join(SessionType),
            fields={"type": word[:NAME_MAX]},
        ) from error


def check_label(key: str, value: str) -> None:
    """Raise InvalidArgument unless key and value can be a label."""
    check_key(key)
    if len(value) > LABEL_VALUE_MAX or not value.isprintable():
        raise InvalidArgument(
            "label_invalid",
            f"label {key} has a value that is too long or cannot be printed",
            hint=f"at most {LABEL_VALUE_MAX} printable characters",
            fields={"key": key},
        )


def check_annotation(key: str, value: str) -> None:
    """Raise InvalidArgument unless key and value can be an annotation."""
    check_key(key)
    if len(value) > ANNOTATION_VALUE_MAX or "\0" in value:
        raise InvalidArgument(
            "annotation_invalid",
            f"annotation {key} has a value that is too long or holds a NUL",
            hint=f"at most {ANNOTATION_VALUE_MAX} characters",
            fields={"key": key},
        )


def check_key(key: str) -> None:
    """Raise InvalidArgument unless the word can be the key of a label or an annotation."""
    if not _KEY.fullmatch(key):
        raise InvalidArgument(
            "label_invalid",
            f"{_shown(key)} cannot be a key",
            hint="1 to 63 letters, digits, '.', '_', '-', '/', beginning and ending with a letter or digit",
            fields={"key": key[:NAME_MAX]},
        )


def check_count(pairs: int) -> None:
    """Raise InvalidArgument where one session would hold too many labels or annotations."""
    if pairs > PAIRS_MAX:
        raise InvalidArgument(
            "label_invalid",
            f"{pairs} labels or annotations on one session",
            hint=f"at most {PAIRS_MAX}",
        )


def _shown(text: str) -> str:
    """The text as it can be shown in a message: quoted, escaped, cut."""
    cut = text if len(text) <= NAME_MAX else text[:NAME_MAX] + "…"
    return repr(cut)
