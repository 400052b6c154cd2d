"""Other homes than the usual one: by the setting, by processes, by what was seen before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from sessiond.adapters import ADAPTERS, make_adapter
from sessiond.adapters.everywhere import Everywhere
from sessiond.adapters.homes import HOMES_MAX, SETTING, all_places, runs_elsewhere
from sessiond.adapters.places import PROGRAMS, VARIABLES, places_of
from sessiond.discovery.lives import settle
from sessiond.model.agent_session import Found, Life, Problem, Wish
from sessiond.ports.discovery import AgentAdapter, Clear, Evidence, Gone, Processes, Told
from tests.unit.adapter_case import NOBODY, FakeProcess, FakeProcesses, found_by, problems_of
from tests.unit.test_adapter_codex import ASKED, DONE, KILLED, lay, lock

ELSEWHERE = "/nowhere/at/all"


@pytest.fixture
def home(isolated_home: Path) -> Path:
    return isolated_home.resolve()


@pytest.fixture
def other(home: Path, tmp_path: Path) -> Path:
    """The folder in which another home's `.codex` is."""
    made = tmp_path.resolve() / "other"
    made.mkdir()
    return made


def environment(home: Path, named: Mapping[str, list[str]] | None = None) -> dict[str, str]:
    return {"HOME": str(home), SETTING: json.dumps(named or {})}


def codex(home: Path, *named: Path) -> AgentAdapter:
    return make_adapter("codex", environment(home, {"codex": [str(one) for one in named]}))


def running(pid: int, **variables: object) -> FakeProcess:
    """Codex with these variables."""
    given = {name: str(value) for name, value in variables.items()}
    return FakeProcess(pid, comm="codex", exe="/opt/codex", cwd="/w", environment=given)


def folders(adapter: AgentAdapter) -> set[str]:
    return {one.folder for one in adapter.watched()}


def test_what_programs_are_called_and_led_by_is_told_of_each() -> None:
    for name in ADAPTERS:
        if name == "acp":
            assert name not in VARIABLES
            continue
        assert make_adapter(name, {"HOME": "/home/user"}).program == PROGRAMS[name]
        for variable in VARIABLES[name]:
            usual = places_of(name, {"HOME": "/home/user"})
            assert places_of(name, {"HOME": "/home/user", variable: "/led/there"}) != usual


# ---- by the setting --------------------------------------------------------------------------


def test_homes_that_a_setting_names_are_read_and_watched(home: Path, other: Path) -> None:
    lay(home, "done")
    path = lay(other, "killed")
    adapter = codex(home, other / ".codex", home / ".codex", other / ".codex")
    rows = found_by(adapter)
    assert set(rows) == {DONE, KILLED}
    assert "home" not in rows[DONE].native
    assert rows[KILLED].native["home"] == str(other / ".codex")
    assert str(other / ".codex/sessions") in folders(adapter)
    assert adapter.transcript(rows[KILLED], 5).messages
    assert not adapter.evidence(NOBODY).moved
    path.unlink()
    assert list(adapter.discover({str(path)})) == [Gone(KILLED)]


def test_the_same_files_by_another_path_are_no_other_home(home: Path, other: Path) -> None:
    lay(home, "done")
    (other / ".codex").symlink_to(home / ".codex")
    rows = found_by(codex(home, other / ".codex"))
    assert [one.native.get("home") for one in rows.values()] == [None]


def test_one_that_is_not_there_yet_is_awaited(home: Path, other: Path) -> None:
    adapter = codex(home, other / ".codex")
    assert found_by(adapter) == {}
    lay(other, "done")
    assert set(found_by(adapter, {str(other / ".codex")})) == {DONE}


# ---- by processes ----------------------------------------------------------------------------


def test_a_process_leads_to_its_home_which_is_known_from_then_on(home: Path, other: Path) -> None:
    lay(home, "done")
    lay(other, "killed")
    adapter = codex(home)
    assert set(found_by(adapter)) == {DONE}
    there = FakeProcesses(running(7, HOME=home, CODEX_HOME=other / ".codex"))
    assert adapter.evidence(there).moved
    assert set(found_by(adapter)) == {DONE, KILLED}
    assert not adapter.evidence(there).moved
    assert set(found_by(codex(home))) == {DONE, KILLED}, "nobody runs there any more, and it is not forgotten"
    shutil.rmtree(other / ".codex")
    assert set(found_by(codex(home))) == {DONE}


def test_another_home_folder_leads_elsewhere_too(home: Path, other: Path) -> None:
    lay(other, "killed")
    adapter = codex(home)
    assert adapter.evidence(FakeProcesses(running(7, HOME=other))).moved
    assert set(found_by(adapter)) == {KILLED}


@pytest.mark.parametrize("value", ["relative", "", "~/x", ELSEWHERE, "/a\udc80b", "/a\nb"])
def test_what_leads_nowhere_is_left_alone(home: Path, value: str) -> None:
    adapter = codex(home)
    before = folders(adapter)
    assert not adapter.evidence(FakeProcesses(running(7, HOME=home, CODEX_HOME=value))).moved
    assert folders(adapter) == before
    assert not (home / ".local/state/sessiond").exists()


@pytest.mark.parametrize(
    "where", ["/", "{home}", "{home}/..", "{other}/file", "{other}/fifo", "/" + "x/" * 600]
)
def test_what_cannot_be_a_home_is_refused_and_told_once(home: Path, other: Path, where: str) -> None:
    (other / "file").touch()
    os.mkfifo(other / "fifo")
    named = os.path.normpath(where.format(home=home, other=other))
    adapter = make_adapter("codex", environment(home, {"codex": [named]}))
    assert str(home / ".codex/sessions") in folders(adapter)
    assert len(folders(adapter)) == len(folders(codex(home)))
    [problem] = problems_of(adapter.discover(None))
    assert (problem.code, problem.path) == ("place_refused", named)
    assert "adapters.homes" in problem.reason
    assert not adapter.evidence(NOBODY).moved


def test_a_process_cannot_have_a_persons_own_files_read(home: Path) -> None:
    adapter = make_adapter("claude-code", {"HOME": str(home)})
    process = FakeProcess(7, comm="claude", exe="/opt/claude", environment={"CLAUDE_CONFIG_DIR": str(home)})
    process.environment = {**process.environment, "HOME": str(home)}
    assert adapter.evidence(FakeProcesses(process)).moved
    assert [one.code for one in problems_of(adapter.discover(None))] == ["place_refused"]
    assert str(home / "projects") not in folders(adapter)
    assert not adapter.evidence(FakeProcesses(process)).moved, "told once"


def test_there_are_so_many_and_no_more(home: Path, tmp_path: Path) -> None:
    places = [tmp_path.resolve() / f"many/{number}" for number in range(3 * HOMES_MAX)]
    for place in places:
        place.mkdir(parents=True)
    adapter = codex(home)
    everybody = FakeProcesses(*(running(10 + n, HOME=home, CODEX_HOME=one) for n, one in enumerate(places)))
    assert adapter.evidence(everybody).moved
    assert len(folders(adapter)) == (1 + HOMES_MAX) * len(folders(codex(home)))
    refused = problems_of(adapter.discover(None))
    assert 0 < len(refused) <= HOMES_MAX
    assert "16 other places" in refused[0].reason
    assert not adapter.evidence(everybody).moved
    assert len(folders(codex(home))) == len(folders(adapter)), "all that were written down"
    # Of what is gone the room is another's.
    shutil.rmtree(places[3])
    lay(tmp_path.resolve(), "done")
    assert adapter.evidence(FakeProcesses(running(7, HOME=tmp_path.resolve()))).moved
    assert set(found_by(adapter)) == {DONE}


# ---- who lives -------------------------------------------------------------------------------


def test_who_lives_is_told_of_each_home(home: Path, other: Path) -> None:
    lay(home, "done")
    lay(other, "killed")
    adapter = codex(home, other / ".codex")
    rows = found_by(adapter)
    process = running(7, HOME=home, CODEX_HOME=other / ".codex")
    processes = FakeProcesses(process, locks={lock(other, KILLED): 7})
    lives = settle(adapter, adapter.evidence(processes), {}, processes)
    assert (lives.of(rows[KILLED]).alive, lives.of(rows[KILLED]).pid) == (True, 7)
    assert lives.of(rows[DONE]).alive is False
    assert adapter.is_alive(rows[KILLED], processes).alive is True
    assert adapter.is_alive(rows[DONE], processes).alive is False


GEMINI = Path(__file__).parent.parent / "fixtures" / "gemini"


def test_who_may_have_one_open_may_have_none_of_another_home(home: Path, other: Path) -> None:
    def lay_gemini(top: Path, id: str) -> None:
        folder = top / ".gemini/tmp/w"
        (folder / "chats").mkdir(parents=True)
        (folder / ".project_root").write_text("/w")
        line = {"sessionId": id, "projectHash": "x", "startTime": "2026-11-21T16:18:26Z", "kind": "main"}
        (folder / "chats/session-2026-11-21T16-18-aaaaaaaa.jsonl").write_text(json.dumps(line) + "\n")

    lay_gemini(home, "usual")
    lay_gemini(other, "other")
    adapter = make_adapter("gemini", environment(home, {"gemini": [str(other)]}))
    rows = found_by(adapter)
    assert set(rows) == {"usual", "other"}

    def alive(where: Mapping[str, str]) -> dict[str, bool | None]:
        argv = ("node", "--no-warnings", "/opt/bin/gemini", "-p", "hello")
        process = FakeProcess(7, comm="node", exe="/opt/node", argv=argv, cwd="/w", environment=where)
        processes = FakeProcesses(process)
        lives = settle(adapter, adapter.evidence(processes), {}, processes)
        return {id: lives.of(row).alive for id, row in rows.items()}

    assert alive({"HOME": str(home), "GEMINI_CLI_HOME": str(other)}) == {"usual": False, "other": None}
    assert alive({"HOME": str(home)}) == {"usual": None, "other": False}
    assert alive({}) == {"usual": None, "other": None}, "a process whose environment cannot be read"


# ---- one row of several ----------------------------------------------------------------------


def test_of_a_copy_that_which_was_written_last_is_told(home: Path, other: Path) -> None:
    asked, answered = lay(home, "asked"), lay(other, "answered")
    adapter = codex(home, other / ".codex")
    row = found_by(adapter)[ASKED]
    assert row.native["home"] == str(other / ".codex")
    answered.unlink()
    [told] = adapter.discover({str(answered)})
    assert isinstance(told, Found)
    assert (told.id, told.native.get("home")) == (ASKED, None)
    asked.unlink()
    assert list(adapter.discover({str(asked)})) == [Gone(ASKED)]


class Stub:
    """An adapter of which one place fails."""

    name, title, program, verified = "codex", "Codex", "codex", ""
    abilities: frozenset[str] = frozenset()
    closed = ""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.folder = environment.get("CODEX_HOME", "usual")

    def _open(self) -> None:
        if self.folder == self.closed:
            raise PermissionError(13, "Permission denied", self.folder)

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        self._open()
        yield Found("codex", f"in-{self.folder.rpartition('/')[2]}")

    def evidence(self, processes: Processes) -> Evidence:
        self._open()
        return Evidence({"in-usual": Life(True)}) if self.folder == "usual" else Evidence()


def test_trouble_of_one_home_is_that_homes(home: Path, other: Path) -> None:
    named = environment(home, {"codex": [str(other)]})
    adapter = Everywhere("codex", named, Stub)  # type: ignore[arg-type]
    assert {one.id for one in adapter.discover(None) if isinstance(one, Found)} == {"in-usual", "in-other"}
    Stub.closed = str(other)
    try:
        for changed in (None, {str(other)}):
            told = list(adapter.discover(changed))
            assert Problem("codex", "file_unreadable", "Permission denied", str(other)) in told
            assert not any(isinstance(one, Gone) for one in told)
        rows = {one.id: one for one in adapter.discover(None) if isinstance(one, Found)}
        lives = settle(adapter, adapter.evidence(NOBODY), {}, NOBODY)
        assert lives.of(rows["in-usual"]).alive is True
        life = lives.of(rows["in-other"])
        assert (life.alive, "Permission denied" in life.reason) == (None, True)
    finally:
        Stub.closed = ""
    assert Clear(str(other)) in list(adapter.discover({str(other)}))


# ---- starting --------------------------------------------------------------------------------


def test_what_is_launched_elsewhere_is_looked_for_there(home: Path, other: Path) -> None:
    adapter = codex(home)
    given = {"HOME": str(home), "CODEX_HOME": str(other / ".codex")}
    plan = adapter.launch(Wish("/w", "hello", print=True, environment=given))
    assert (plan.environment, plan.without) == ({}, ())
    assert str(other / ".codex/sessions") in folders(adapter)
    assert adapter.evidence(NOBODY).moved
    assert set(found_by(adapter)) == set()
    lay(other, "done")
    assert set(found_by(adapter, {str(other / ".codex")})) == {DONE}
    assert set(found_by(codex(home))) == {DONE}


def test_what_another_process_launched_is_looked_for_too(home: Path, other: Path) -> None:
    adapter = codex(home)
    assert found_by(adapter) == {}
    assert not adapter.evidence(NOBODY).moved
    given = {"HOME": str(home), "CODEX_HOME": str(other / ".codex")}
    codex(home).launch(Wish("/w", "hello", print=True, environment=given))
    lay(other, "done")
    assert adapter.evidence(NOBODY).moved
    assert set(found_by(adapter)) == {DONE}
    assert not adapter.evidence(NOBODY).moved


def test_what_is_gone_on_with_is_led_to_its_own_home(home: Path, other: Path) -> None:
    lay(home, "done")
    lay(other, "killed")
    adapter = codex(home, other / ".codex")
    rows = found_by(adapter)
    usual = {"HOME": str(home), "PATH": "/bin"}
    led = {**usual, "CODEX_HOME": str(other / ".codex")}

    def changes(id: str, given: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        plan = adapter.resume(rows[id], Wish("/w", "more", environment=given))
        return dict(plan.environment), plan.without

    assert changes(KILLED, usual) == ({"CODEX_HOME": str(other / ".codex")}, ("CODEX_SQLITE_HOME",))
    assert changes(KILLED, led) == ({}, ())
    assert changes(DONE, usual) == ({}, ())
    assert changes(DONE, {}) == ({}, ())
    assert changes(DONE, led) == ({}, ("CODEX_HOME", "CODEX_SQLITE_HOME"))
    of_another = {"HOME": str(other)}
    assert changes(DONE, of_another)[0] == {"HOME": str(home)}


# ---- what was seen before --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[[]]",
        b'[{"CODEX_HOME": 1}]',
        b'[{"CODEX_HOME": "/"}]',
        b"[{}]",
        b"[" * 10**6,
        b"\xff\xfe",
    ],
)
def test_notes_that_were_tampered_with_do_no_harm(home: Path, content: bytes) -> None:
    lay(home, "done")
    notes = home / ".local/state/sessiond/homes/codex.json"
    notes.parent.mkdir(parents=True)
    notes.write_bytes(content)
    adapter = codex(home)
    assert set(found_by(adapter)) == {DONE}
    assert len(folders(adapter)) == 4


def test_notes_that_cannot_be_written_are_told_and_nothing_else_fails(home: Path, other: Path) -> None:
    lay(other, "killed")
    (home / ".local/state").mkdir(parents=True)
    (home / ".local/state/sessiond").touch()
    adapter = codex(home)
    adapter.evidence(FakeProcesses(running(7, HOME=home, CODEX_HOME=other / ".codex")))
    told = list(adapter.discover(None))
    assert [one.id for one in told if isinstance(one, Found)] == [KILLED]
    assert [one.code for one in problems_of(told)] == ["file_unreadable"]


def test_notes_are_for_nobody_else(home: Path, other: Path) -> None:
    lay(other, "killed")
    adapter = codex(home)
    adapter.evidence(FakeProcesses(running(7, HOME=home, CODEX_HOME=other / ".codex", API_KEY="secret")))
    found_by(adapter)
    notes = home / ".local/state/sessiond/homes/codex.json"
    assert json.loads(notes.read_text()) == [{"HOME": str(home), "CODEX_HOME": str(other / ".codex")}]
    assert notes.stat().st_mode & 0o777 == 0o600
    assert list(notes.parent.iterdir()) == [notes]


# ---- before anything is loaded ---------------------------------------------------------------


def test_all_places_are_known_without_the_adapter(home: Path, other: Path) -> None:
    usual = places_of("codex", environment(home))
    assert all_places("codex", environment(home)) == usual
    assert str(other) in all_places("codex", environment(home, {"codex": [str(other)]}))
    assert all_places("acp", environment(home)) == places_of("acp", environment(home))
    assert all_places("codex", {SETTING: json.dumps({"codex": [str(other)]})}) == ()


def test_a_process_with_files_where_nobody_looks_is_noticed(home: Path, other: Path) -> None:
    there = FakeProcesses(running(7, HOME=home, CODEX_HOME=other))
    assert runs_elsewhere("codex", environment(home), there)
    assert not runs_elsewhere("codex", environment(home, {"codex": [str(other)]}), there)
    assert not runs_elsewhere("codex", environment(home), FakeProcesses(running(7, HOME=home)))
    assert not runs_elsewhere(
        "codex", environment(home), FakeProcesses(running(7, HOME=home, CODEX_HOME=ELSEWHERE))
    )
    assert not runs_elsewhere("claude-code", environment(home), there)
    assert not runs_elsewhere("acp", environment(home), there)


# ---- outside of a nest -----------------------------------------------------------------------


def gemini(pid: int, **variables: object) -> FakeProcess:
    given = {name: str(value) for name, value in variables.items()}
    return FakeProcess(pid, comm="gemini", exe="/opt/gemini", cwd="/w", environment=given)


def test_a_process_outside_may_have_open_what_is_in_the_home_it_names(home: Path, other: Path) -> None:
    (other / ".gemini").mkdir()
    adapter = make_adapter("gemini", environment(home, {"gemini": [str(other)]}))
    label = str(other / ".gemini")
    processes = FakeProcesses(outside=[gemini(5, HOME=home), gemini(6, HOME=home, GEMINI_CLI_HOME=other)])
    told = {(one.pid, one.home) for one in adapter.evidence(processes).outside or ()}
    assert told == {(5, ""), (6, label)}
    # Where it keeps its files may not be for us to read.
    hidden = adapter.evidence(FakeProcesses(outside=[gemini(5)])).outside or ()
    assert {(one.pid, one.home) for one in hidden} == {(5, ""), (5, label)}
    usual = make_adapter("gemini", environment(home))
    assert not usual.evidence(FakeProcesses(outside=[gemini(6, HOME="/root"), FakeProcess(7)])).outside
    [one] = usual.evidence(FakeProcesses(outside=[gemini(5, HOME=home)])).outside or ()
    assert (one.cwd, "outside of this nest" in one.reason) == ("/w", True)
