"""The model: the one state table, and the words that sessions are named and selected by."""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sessiond.errors import InvalidArgument
from sessiond.model import identity as model
from sessiond.model.identity import Identity, SessionType
from sessiond.model.session import Metadata, Session
from sessiond.model.state import SessionState, derive
from sessiond.model.unit import (
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    UnitStatus,
    agents_slice,
    daemon_unit,
    session_of_daemon,
    session_of_slice,
    session_slice,
    starter_unit,
)

ID = "0123456789abcdef0123456789abcdef"

# ---- the state table ------------------------------------------------------------------------

# Every ActiveState that systemd has, with what a session is in it; in the order of the design.
TABLE = {
    "inactive": SessionState.INACTIVE,
    "activating": SessionState.STARTING,
    "active": SessionState.ACTIVE,
    "reloading": SessionState.ACTIVE,
    "refreshing": SessionState.ACTIVE,
    "deactivating": SessionState.STOPPING,
    "failed": SessionState.ERROR,
    "maintenance": SessionState.ERROR,
}
# Every SubState of a service unit, systemd 232 to 258.
SUB_STATES = (
    *(
        "dead",
        "condition",
        "start-pre",
        "start",
        "start-post",
        "running",
        "exited",
        "reload",
        "reload-signal",
    ),
    *("reload-notify", "refresh-extensions", "mounting", "stop", "stop-watchdog", "stop-sigterm"),
    *("stop-sigkill", "stop-post", "final-watchdog", "final-sigterm", "final-sigkill", "failed", "cleaning"),
    "dead-resources-pinned",
)
# The ways to wait for an automatic restart, with the ActiveState that each shows.
RESTARTING = {
    "auto-restart": "activating",
    "auto-restart-queued": "activating",
    "failed-before-auto-restart": "failed",
    "dead-before-auto-restart": "inactive",
}


def unit(active: str, sub: str = "running") -> UnitStatus:
    return UnitStatus(daemon_unit(ID), active_state=active, sub_state=sub)


@pytest.mark.parametrize(("active", "sub"), list(product(TABLE, SUB_STATES)))
def test_the_table_whatever_the_sub_state(active: str, sub: str) -> None:
    assert derive(unit(active, sub), reachable=True, archived=False) is TABLE[active]


@pytest.mark.parametrize("sub", RESTARTING)
@pytest.mark.parametrize("archived", [False, True])
def test_waiting_for_a_restart_is_starting(sub: str, archived: bool) -> None:
    assert derive(unit(RESTARTING[sub], sub), reachable=True, archived=archived) is SessionState.STARTING


def test_no_unit_is_inactive_and_an_unheard_of_word_is_unknown() -> None:
    assert derive(None, reachable=True, archived=False) is SessionState.INACTIVE
    assert derive(unit("frobnicating"), reachable=True, archived=False) is SessionState.UNKNOWN
    assert derive(unit(""), reachable=True, archived=True) is SessionState.UNKNOWN


@pytest.mark.parametrize("known", [None, *map(unit, TABLE)])
@pytest.mark.parametrize("archived", [False, True])
def test_no_answer_is_unknown_never_inactive(known: UnitStatus | None, archived: bool) -> None:
    assert derive(known, reachable=False, archived=archived) is SessionState.UNKNOWN


@pytest.mark.parametrize("active", TABLE)
def test_archived_shows_only_where_nothing_runs(active: str) -> None:
    state = derive(unit(active), reachable=True, archived=True)
    assert state is (SessionState.ARCHIVED if active == "inactive" else TABLE[active])
    assert derive(None, reachable=True, archived=True) is SessionState.ARCHIVED


@given(active=st.text(), sub=st.text(), reachable=st.booleans(), archived=st.booleans())
def test_any_words_give_a_state(active: str, sub: str, reachable: bool, archived: bool) -> None:
    state = derive(unit(active, sub), reachable=reachable, archived=archived)
    assert state in SessionState
    assert reachable or state is SessionState.UNKNOWN


def test_predicates_tell_states_apart() -> None:
    assert [state for state in SessionState if state.runs] == [
        SessionState.STARTING,
        SessionState.ACTIVE,
        SessionState.STOPPING,
    ]
    assert [state for state in SessionState if state.settled] == [
        SessionState.INACTIVE,
        SessionState.ERROR,
        SessionState.ARCHIVED,
    ]


# ---- units ----------------------------------------------------------------------------------


def test_names_of_units() -> None:
    assert daemon_unit(ID) == f"sessiond-session@{ID}.service"
    assert starter_unit(ID) == f"sessiond@{ID}.service"
    assert session_slice(ID) == f"sessiond-{ID}.slice"
    assert agents_slice(ID) == f"sessiond-{ID}-agents.slice"


def test_sessions_of_units() -> None:
    assert session_of_daemon(daemon_unit(ID)) == ID
    assert session_of_slice(session_slice(ID)) == session_of_slice(agents_slice(ID)) == ID
    for name in (
        "sessiond.service",
        "sessiond.slice",
        starter_unit(ID),
        session_slice(ID),
        daemon_unit(ID[:-1]),
        daemon_unit(ID.upper()),
        daemon_unit(f"{ID}x"),
        "sessiond-session@.service",
        f"x{daemon_unit(ID)}",
        f"{daemon_unit(ID)}x",
        "",
    ):
        assert session_of_daemon(name) is None
    for name in ("sessiond.slice", daemon_unit(ID), "sessiond-agents.slice", f"sessiond-{ID}-other.slice"):
        assert session_of_slice(name) is None


@given(st.text())
def test_foreign_unit_names_are_nobodys(name: str) -> None:
    session = session_of_daemon(name)
    assert session is None or daemon_unit(session) == name


@pytest.mark.parametrize(
    ("code", "status", "exit_status", "exit_signal"),
    [
        (0, 0, None, ""),
        (CLD_EXITED, 0, 0, ""),
        (CLD_EXITED, 3, 3, ""),
        (CLD_KILLED, 9, None, "SIGKILL"),
        (CLD_DUMPED, 11, None, "SIGSEGV"),
        (CLD_KILLED, 200, None, "SIG200"),
    ],
)
def test_how_a_run_ended(code: int, status: int, exit_status: int | None, exit_signal: str) -> None:
    ended = replace(unit("failed"), exec_main_code=code, exec_main_status=status)
    assert (ended.exit_status, ended.exit_signal) == (exit_status, exit_signal)


@pytest.mark.parametrize(
    ("word", "frozen"),
    [
        ("running", False),
        ("frozen", True),
        ("freezing", True),
        ("thawing", False),
        ("frozen-by-parent", True),
        ("freezing-by-parent", True),
        ("", False),
    ],
)
def test_frozen(word: str, frozen: bool) -> None:
    assert replace(unit("active"), freezer_state=word).frozen is frozen


def test_a_session_knows_its_units() -> None:
    session = Session(
        identity=Identity(ID, "work", SessionType.TEST, "ada", datetime(2026, 1, 1, tzinfo=UTC)),
        path=Path("/work"),
        metadata=Metadata(),
        state=SessionState.INACTIVE,
        unit_status=None,
        frozen=False,
        enabled=None,
        active=False,
        conflict="",
        problem="",
        endpoint=Path("/run/x.sock"),
    )
    assert (session.id, session.unit, session.slice) == (ID, daemon_unit(ID), session_slice(ID))


# ---- ids ------------------------------------------------------------------------------------


def test_new_ids_are_ids_and_differ() -> None:
    ids = {model.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(model.is_id(one) for one in ids)


def test_other_notations_of_an_id() -> None:
    assert model.parse_id("01234567-89AB-CDEF-0123-456789abcdef") == ID
    assert not model.is_id(ID.upper())


@pytest.mark.parametrize(
    "text", ["", "0", ID + "0", ID[:-1], ID[:-1] + "g", ID + "\n", "../" + ID, "\u0660" * 32, "\uff10" * 32]
)
def test_what_is_no_id(text: str) -> None:
    assert not model.is_id(text)
    with pytest.raises(InvalidArgument) as caught:
        model.parse_id(text)
    assert caught.value.code == "id_invalid"


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "work",
        "two words",
        "x" * 64,
        "a.b",
        "a-b",
        "a~",
        "100%",
        "$HOME",
        "'q\"",
        "back\\slash",
        "日本",
        "é",
    ],
)
def test_good_names(name: str) -> None:
    assert model.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "empty"),
        ("x" * 65, "65 characters"),
        ("a/b", "'/'"),
        (".hidden", "begins with '.'"),
        ("~home", "begins with '~'"),
        ("-flag", "begins with '-'"),
        (" a", "space"),
        ("a ", "space"),
        ("a\nb", "cannot be printed"),
        ("a\tb", "cannot be printed"),
        ("\x1b[2J", "cannot be printed"),
        ("a\u2028b", "cannot be printed"),
        ("a\u202eb", "cannot be printed"),
        ("a\u00a0b", "cannot be printed"),
        ("\ud800", "cannot be printed"),
        ("a\0", "cannot be printed"),
    ],
)
def test_bad_names(name: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        model.check_name(name)
    assert caught.value.code == "name_invalid"
    assert said in caught.value.message
    assert caught.value.hint
    assert caught.value.message.isprintable()


@given(st.text(max_size=100))
def test_a_name_that_passes_is_safe_to_show_and_to_type(text: str) -> None:
    try:
        name = model.check_name(text)
    except InvalidArgument:
        return
    assert name == text
    assert 1 <= len(name) <= 64
    assert name.isprintable()
    assert "/" not in name
    assert name[0] not in ".~-"
    name.encode()


@given(st.text(max_size=300))
def test_every_folder_gives_a_good_name(folder: str) -> None:
    assert model.check_name(model.name_from_folder(folder))


@given(st.text(max_size=80), st.integers(2, 10_000))
def test_every_numbered_name_is_good_and_ends_with_its_number(folder: str, number: int) -> None:
    name = model.numbered(model.name_from_folder(folder), number)
    assert model.check_name(name).endswith(f"-{number}")


def test_names_of_folders() -> None:
    assert model.name_from_folder("work") == "work"
    assert model.name_from_folder(".dotfiles") == "dotfiles"
    assert model.name_from_folder("a\nb") == "a_b"
    assert model.name_from_folder("...") == "session"
    assert model.name_from_folder("") == "session"
    assert model.numbered("work", 2) == "work-2"
    assert len(model.numbered("x" * 64, 12)) == 64


# ---- owners, types, labels, annotations -----------------------------------------------------


@pytest.mark.parametrize("owner", ["ada", "Ada Lovelace", "uid 1000", "x" * 64])
def test_good_owners(owner: str) -> None:
    assert model.check_owner(owner) == owner


@pytest.mark.parametrize("owner", ["", " ", "a ", "a\n", "x" * 65, "\ud800"])
def test_bad_owners(owner: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        model.check_owner(owner)
    assert caught.value.code == "owner_invalid"


def test_types() -> None:
    assert [model.check_type(word) for word in SessionType] == list(SessionType)
    with pytest.raises(InvalidArgument) as caught:
        model.check_type("Development")
    assert caught.value.code == "type_invalid"
    assert caught.value.hint == "types: development, production, test, persona"


@pytest.mark.parametrize("key", ["a", "a1", "team", "example.org/team", "a_b-c.d", "x" * 63, "0"])
def test_good_keys(key: str) -> None:
    model.check_label(key, "")
    model.check_annotation(key, "")


@pytest.mark.parametrize("key", ["", "-a", "a-", ".a", "a b", "a=b", "ä", "x" * 64, "a\n", "a/", "a,b"])
def test_bad_keys(key: str) -> None:
    for check in (model.check_label, model.check_annotation):
        with pytest.raises(InvalidArgument) as caught:
            check(key, "value")
        assert caught.value.code == "label_invalid"


@given(st.text(max_size=80))
def test_a_key_that_passes_is_plain(key: str) -> None:
    try:
        model.check_key(key)
    except InvalidArgument:
        return
    assert set(key) <= set(string.ascii_letters + string.digits + "._-/")
    assert len(key) <= 63


@given(st.text(max_size=300))
def test_label_values(value: str) -> None:
    assume(len(value) > 256 or not value.isprintable())
    with pytest.raises(InvalidArgument) as caught:
        model.check_label("key", value)
    assert caught.value.code == "label_invalid"


def test_bounds() -> None:
    model.check_label("key", "x" * 256)
    model.check_annotation("key", "line\nline\t\x1b" + "x" * 65_000)
    for value in ("x" * (64 * 1024 + 1), "a\0b"):
        with pytest.raises(InvalidArgument) as caught:
            model.check_annotation("key", value)
        assert caught.value.code == "annotation_invalid"
    model.check_count(256)
    with pytest.raises(InvalidArgument):
        model.check_count(257)
