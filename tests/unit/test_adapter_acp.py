"""The adapter on journals of real runs, and the runner with a stand-in for a program."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sessiond.adapters.acp import Adapter
from sessiond.adapters.acp.journal import Journal, path_of
from sessiond.errors import Conflict, InvalidArgument
from sessiond.model.agent_session import STOPPED, Found, Turn, Wish
from sessiond.ports.discovery import Clear, Gone
from tests.unit.adapter_case import NOBODY, FakeProcess, FakeProcesses, found_by, problems_of

FIXTURES = Path(__file__).parent.parent / "fixtures/acp"
PROGRAM = Path(__file__).parent / "acp_program.py"
SPEAKS = (sys.executable, str(PROGRAM))
RUNNER = ("python3", "-m", "sessiond", "acp", "--resume", "talked")
WAIT = 60


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    folder = tmp_path / "state/sessiond/acp"
    folder.mkdir(parents=True)
    for path in FIXTURES.glob("*.jsonl"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def adapter(journals: Path, environment: dict[str, str]) -> Adapter:
    return Adapter(environment)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- the adapter ------------------------------------------------------------------------------


def test_journals_are_found(adapter: Adapter) -> None:
    found = found_by(adapter)

    assert set(found) == {"talked", "refused"}
    one = found["talked"]
    assert one.cwd == "/home/user/project"
    assert one.model == "fake/m1"
    assert one.first_prompt == "tool:echo yes"
    assert one.last_prompt == "hello"
    assert (one.tokens_in, one.tokens_out, one.cost_usd) == (24, 8, 0.0)
    assert one.turn is Turn.DONE
    assert one.ended_at == one.updated_at
    assert one.native["program"] == "OpenCode 1.18.33"
    assert one.native["session"].startswith("ses_")


@pytest.mark.parametrize(
    ("upto", "turn", "activity"),
    [
        (2, Turn.DONE, ""),
        (3, Turn.WORKING, "thinking"),
        (4, Turn.WORKING, "running echo yes"),
        (5, Turn.WAITING, "waiting for permission"),
        (6, Turn.WORKING, "thinking"),
        (9, Turn.DONE, ""),
        # The tool is told of only after the question.
        (12, Turn.WAITING, "waiting for permission"),
        (13, Turn.WORKING, "thinking"),
    ],
)
def test_the_turn_is_where_the_journal_stands(
    adapter: Adapter, journals: Path, upto: int, turn: Turn, activity: str
) -> None:
    path = journals / "talked.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:upto]))

    found = found_by(adapter)["talked"]

    assert (found.turn, found.activity) == (turn, activity)
    assert found.ended_at is None


def test_a_lock_shows_that_it_lives(adapter: Adapter, journals: Path) -> None:
    found = found_by(adapter)
    status = (journals / "talked.jsonl").stat()
    process = FakeProcess(100, argv=RUNNER)
    processes = FakeProcesses(process, locks={(status.st_dev, status.st_ino): 100})

    assert adapter.is_alive(found["talked"], processes).pid == 100
    assert adapter.is_alive(found["refused"], processes) == STOPPED
    assert adapter.is_alive(found["talked"], NOBODY) == STOPPED
    assert set(adapter.evidence(processes).lives) == {"talked"}


def test_a_lock_on_another_device_counts_where_the_file_is_open(adapter: Adapter, journals: Path) -> None:
    found = found_by(adapter)
    path = journals / "talked.jsonl"
    locks = {(99, path.stat().st_ino): 100}

    assert adapter.is_alive(found["talked"], FakeProcesses(FakeProcess(100), locks=locks)) == STOPPED
    process = FakeProcess(100, argv=RUNNER, open_files=[str(path)])
    assert adapter.is_alive(found["talked"], FakeProcesses(process, locks=locks)).alive


def test_a_lock_of_one_that_cannot_be_seen_is_unknown(adapter: Adapter, journals: Path) -> None:
    found = found_by(adapter)
    status = (journals / "talked.jsonl").stat()
    processes = FakeProcesses(locks={(status.st_dev, status.st_ino): 100})

    life = adapter.is_alive(found["talked"], processes)

    assert life.alive is None
    assert "100" in life.reason


def test_a_deleted_journal_is_gone(adapter: Adapter, journals: Path) -> None:
    found_by(adapter)
    path = journals / "talked.jsonl"
    path.unlink()

    assert list(adapter.discover({str(path)})) == [Clear(str(path)), Gone("talked")]
    assert set(found_by(adapter)) == {"refused"}


def test_a_journal_under_another_name_is_no_conversation(adapter: Adapter, journals: Path) -> None:
    shutil.copy(journals / "talked.jsonl", journals / "copy.jsonl")

    told = list(adapter.discover(None))

    assert [Path(each.path).name for each in problems_of(told)] == ["copy.jsonl"]
    assert {each.id for each in told if isinstance(each, Found)} == {"talked", "refused"}


def test_the_end_of_a_conversation_is_read(adapter: Adapter) -> None:
    transcript = adapter.transcript(found_by(adapter)["talked"], 100)

    assert not transcript.has_more
    roles = [message.role for message in transcript.messages]
    assert roles[:5] == ["user", "assistant", "system", "tool", "assistant"]
    assert transcript.messages[1].tools[0].name == "echo yes"
    assert transcript.messages[2].text == "echo yes: allow_once"
    assert transcript.messages[3].tools[0].content == "yes\n"
    assert adapter.transcript(found_by(adapter)["talked"], 2).has_more


def test_a_plan_names_the_program_and_the_journal(adapter: Adapter) -> None:
    plan = adapter.launch(Wish("/", "hi", model="m", print=True, id="x1", command=("opencode", "acp")))

    at = plan.argv.index("acp")
    assert plan.argv[at:] == ("acp", "--id", "x1", "--model", "m", "--print", "--", "opencode", "acp")
    assert (plan.input, plan.id, plan.learn) == (b"hi", "x1", "")
    talk = adapter.launch(Wish("/", "-hi", id="x1", command=("opencode", "acp")))
    assert "--prompt=-hi" in talk.argv
    found = found_by(adapter)["talked"]
    again = adapter.resume(found, Wish("/", "more", print=True))
    assert again.argv[at:] == ("acp", "--resume", "talked", "--print")
    assert again.id == "talked"


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish("/", "x"), "command_missing"),
        (Wish("/", " ", print=True, command=SPEAKS), "prompt_missing"),
        (Wish("/", "x" * 140_000, command=SPEAKS), "prompt_too_large"),
        (Wish("/", "x", model="-m", command=SPEAKS), "model_invalid"),
    ],
)
def test_what_cannot_be_started_is_refused(adapter: Adapter, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        adapter.launch(wish)
    assert caught.value.code == code
    assert caught.value.hint


# ---- the journal --------------------------------------------------------------------------------


def test_a_journal_is_open_once(environment: dict[str, str]) -> None:
    path = path_of(environment, "one")
    journal = Journal.begin(path, "one", "/", ["x"])
    with pytest.raises(Conflict, match="already"):
        Journal.begin(path, "one", "/", ["x"])
    with pytest.raises(Conflict, match="open in another"):
        Journal.go_on(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    journal.close()
    again, header, session = Journal.go_on(path, "one")
    again.close()
    assert (header.id, session) == ("one", "")


def test_a_line_that_a_crash_cut_is_ended(environment: dict[str, str], adapter: Adapter) -> None:
    path = path_of(environment, "talked")
    with path.open("a") as file:
        file.write('{"type":"mess')

    journal, _, session = Journal.go_on(path, "talked")
    journal.write("prompt", text="more")
    journal.close()

    assert session.startswith("ses_")
    assert json.loads(path.read_text().splitlines()[-1])["text"] == "more"
    assert found_by(adapter)["talked"].last_prompt == "more"


def test_a_full_disk_costs_lines_and_says_so(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(environment, "one")
    journal = Journal.begin(path, "one", "/", ["x"])
    really = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset > size + 5:
            raise OSError(28, "No space left on device")
        return really(descriptor, data[:10], offset)

    size = path.stat().st_size
    monkeypatch.setattr(os, "pwrite", full)
    journal.write("prompt", text="lost")
    journal.write("prompt", text="lost too")
    assert path.stat().st_size == size
    monkeypatch.setattr(os, "pwrite", really)
    journal.write("prompt", text="kept")
    journal.close()

    assert [line["type"] for line in lines_of(path)] == ["session", "lost", "prompt"]
    assert lines_of(path)[1]["lines"] == 2
    assert capsys.readouterr().err.count("No space left") == 1


@pytest.mark.parametrize("id", ["", "../x", "a/b", "-x", "x" * 200, "a\0b"])
def test_an_id_is_no_path(environment: dict[str, str], id: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be the id"):
        path_of(environment, id)


# ---- the runner -----------------------------------------------------------------------------------


class Ran:
    """One run of the runner without a terminal."""

    def __init__(self, environment: dict[str, str], cwd: Path, *words: str, prompt: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sessiond", "acp", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(prompt)
        self.process.stdin.close()
        self.process.stdin = None

    def ended(self) -> tuple[int, str, str]:
        """Status, output, errors."""
        output, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, output, errors


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_a_prompt_is_answered_and_written_down(
    environment: dict[str, str], work: Path, adapter: Adapter
) -> None:
    status, output, errors = Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="noise").ended()

    assert (status, errors) == (0, "")
    assert output == "You said: noise[31m\n"
    kinds = [line["type"] for line in lines_of(path_of(environment, "r1"))]
    assert kinds == ["session", "opened", "prompt", "message", "turn", "end"]
    found = found_by(adapter)["r1"]
    assert (found.cwd, found.tokens_in, found.tokens_out) == (str(work), 3, 2)


def test_nothing_is_allowed_where_nobody_can_be_asked(environment: dict[str, str], work: Path) -> None:
    status, output, errors = Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="tool").ended()

    assert status == 0
    assert '"optionId": "r"' in output
    assert "refused: rm -rf" in errors
    answered = [line for line in lines_of(path_of(environment, "r1")) if line["type"] == "answered"]
    assert [line["status"] for line in answered] == ["reject_once"]


def test_to_be_asked_needs_a_terminal(environment: dict[str, str], work: Path) -> None:
    words = ("--permissions", "ask", "--", *SPEAKS)

    assert '"optionId": "r"' in Ran(environment, work, *words, prompt="tool").ended()[1]


def test_files_are_not_offered(environment: dict[str, str], work: Path) -> None:
    assert "-32601" in Ran(environment, work, "--", *SPEAKS, prompt="read").ended()[1]


def test_what_is_told_again_is_not_written_again(
    environment: dict[str, str], work: Path, adapter: Adapter, tmp_path: Path
) -> None:
    Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="first").ended()

    status, output, _ = Ran(environment, tmp_path, "--resume", "r1", prompt="second").ended()

    assert status == 0
    assert "before" not in output
    messages = adapter.transcript(found_by(adapter)["r1"], 10).messages
    assert [message.text for message in messages if message.role == "user"] == ["first", "second"]
    assert not any("before" in message.text for message in messages)


def test_json_is_the_protocols_own(environment: dict[str, str], work: Path) -> None:
    words = ("--id", "r1", "--json", "--", *SPEAKS)

    output = Ran(environment, work, *words, prompt="hi").ended()[1]

    told = [json.loads(line) for line in output.splitlines()]
    assert [line["type"] for line in told] == ["session", "opened", "update", "turn"]
    assert told[2]["update"]["content"]["text"] == "You said: hi\x1b[31m"
    assert Adapter(environment).identify(output.splitlines()[0]) == "r1"


@pytest.mark.parametrize(
    ("words", "prompt", "status", "says"),
    [
        ((*SPEAKS, "login"), "x", 1, "who you are"),
        ((*SPEAKS, "old"), "x", 1, "version 7"),
        (SPEAKS, "die", 1, "program ended"),
        (("/nonexistent/program",), "x", 1, "not there"),
        (("/etc/passwd",), "x", 1, "cannot execute"),
        (SPEAKS, " ", 2, "no prompt"),
    ],
    ids=["login", "old", "dies", "missing", "no program", "no prompt"],
)
def test_what_goes_wrong_is_said(
    environment: dict[str, str], work: Path, words: tuple[str, ...], prompt: str, status: int, says: str
) -> None:
    ended = Ran(environment, work, "--", *words, prompt=prompt).ended()

    assert ended[0] == status
    assert says in ended[2]
    assert "Traceback" not in ended[2]


def test_a_model_is_taken_or_refused(environment: dict[str, str], work: Path) -> None:
    assert Ran(environment, work, "--model", "good", "--", *SPEAKS, prompt="x").ended()[0] == 0
    status, _, errors = Ran(environment, work, "--model", "bad", "--", *SPEAKS, prompt="x").ended()
    assert status == 2
    assert "bad" in errors


def test_one_that_cannot_go_on_says_so(environment: dict[str, str], work: Path) -> None:
    Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="x").ended()

    status, _, errors = Ran(environment, work, "--resume", "r1", "--", *SPEAKS, "no-load", prompt="y").ended()

    assert status == 1
    assert "cannot go on" in errors
    assert Ran(environment, work, "--resume", "r9", prompt="y").ended()[0] == 1


def test_an_interrupt_cancels_the_turn(environment: dict[str, str], work: Path) -> None:
    ran = Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="wait")
    assert ran.process.stdout is not None
    assert ran.process.stdout.read(7) == "waiting"

    ran.process.send_signal(signal.SIGINT)

    assert ran.ended()[0] == 130
    turn = next(line for line in lines_of(path_of(environment, "r1")) if line["type"] == "turn")
    assert turn["stop"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_program_ends_with_the_runner(
    environment: dict[str, str], work: Path, number: signal.Signals
) -> None:
    ran = Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="wait")
    assert ran.process.stdout is not None
    assert ran.process.stdout.read(7) == "waiting"
    child = int(lines_of(path_of(environment, "r1"))[1]["session"].removeprefix("own-"))
    watched = os.pidfd_open(child)
    try:
        ran.process.send_signal(number)
        assert ran.ended()[0] == 128 + number
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(watched, 0)
    finally:
        os.close(watched)


def test_the_lock_is_held_while_it_runs_and_ends_with_sigkill(
    environment: dict[str, str], work: Path, adapter: Adapter
) -> None:
    ran = Ran(environment, work, "--id", "r1", "--", *SPEAKS, prompt="wait")
    assert ran.process.stdout is not None
    assert ran.process.stdout.read(7) == "waiting"
    path = path_of(environment, "r1")
    with path.open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ran.process.kill()
        ran.ended()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    found = found_by(adapter)["r1"]
    assert found.turn is Turn.WORKING
    assert found.ended_at is None
