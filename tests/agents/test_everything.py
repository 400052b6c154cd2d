"""The whole product on the private host: agent programs in its sessions and beside them, as one list."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping

import pytest

from sessiond.rpc._generated.v1 import agents_pb2
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.testing.host import HOME
from tests.agents.guests import Guests, Watch, status
from tests.agents.programs import Program
from tests.system.agents_case import Crew
from tests.system.product import PATIENCE, Product, until

# Adapter and program of what runs in CI.
PROGRAMS = (("claude-code", "claude"), ("codex", "codex"), ("opencode", "opencode"), ("pi", "pi"))


@pytest.fixture
def folder(guests: Guests) -> str:
    return guests.folder()


@pytest.fixture
def crew(product: Product, folder: str) -> Iterator[Crew]:
    """A session in the folder, and its agents."""
    made = Crew(product, product.started(folder=folder)["id"])
    try:
        yield made
    finally:
        made.close()


def _only(watch: Watch) -> pb.AgentSession:
    """The one row that there is."""
    [row] = watch.rows.values()
    return row


def _asked(rows: Mapping[str, pb.AgentSession], wanted: str) -> pb.AgentSession | None:
    """One in a status whose first prompt is known."""
    return next((one for one in rows.values() if status(one) == wanted and one.first_prompt), None)


def _own(row: pb.AgentSession) -> pb.AgentSession | None:
    """The row, once it is known by its program's own id."""
    return None if row.id.startswith("agent:") else row


def _press_until_asked(guests: Guests, crew: Crew, agent: str, prompt: str) -> None:
    """Press enter in its terminal until the model has what the tool said: a dialog takes no key too soon."""
    pressed = 0.0

    def heard() -> bool:
        nonlocal pressed
        if any(prompt in one.ask.prompt and one.ask.result is not None for one in guests.model.requests):
            return True
        if time.monotonic() - pressed > 2.0:
            crew.call("SendInput", agent=agent, parts=[agents_pb2.InputPart(key="enter")])
            pressed = time.monotonic()
        return False

    until(heard, "an answer to its dialog")


def test_claude_in_a_terminal_of_a_session_is_one_row_all_its_life(
    guests: Guests, crew: Crew, folder: str
) -> None:
    claude = guests.program("claude", folder)
    with guests.watching() as watch:
        made = guests.launch("claude-code", crew.session, claude, "ask: touch made", labels={"team": "blue"})
        agent = made.agent.id
        # Transcripts are written a little later than the registry.
        row = watch.until(lambda rows: _asked(rows, "waiting"), "it waits for leave, and what it was asked")
        assert (row.session, row.agent, dict(row.labels)) == (crew.session, agent, {"team": "blue"})
        assert (row.cwd, row.first_prompt) == (folder, "ask: touch made")
        assert row.pid == crew.get(agent).pid
        assert _only(watch).id == made.agent_session.id

        # What it asks is answered in its terminal, by whoever looks at it.
        _press_until_asked(guests, crew, agent, "touch made")
        guests.model.wait("touch made", "done", result=True)
        watch.until_status("idle", "claude-code")
        assert guests.host.path(f"{folder}/made").exists()

        # It waits for a prompt: going on with it is typing.
        gone_on = guests.resume(made.agent_session.id, crew.session, claude, "hello again")
        assert (gone_on.typed, gone_on.agent.id) == (True, agent)
        guests.model.wait("hello again", "done")

        crew.call("SignalAgent", agent=agent, signal="SIGKILL")
        row = watch.until_status("stopped", "claude-code")
        assert (_only(watch).id, row.session, row.agent) == (made.agent_session.id, crew.session, agent)
        assert not row.HasField("pid")
        assert not [one for one in watch.told if one.startswith("problem")]


@pytest.mark.parametrize(("adapter", "name"), PROGRAMS)
def test_what_is_launched_to_print_is_one_row_from_its_start(
    guests: Guests, crew: Crew, folder: str, adapter: str, name: str
) -> None:
    program = guests.program(name, folder)
    with guests.watching() as watch:
        made = guests.launch(adapter, crew.session, program, "slow answer", print_mode=True)
        guests.model.wait_held("slow answer")

        def ours(rows: Mapping[str, pb.AgentSession], wanted: str) -> pb.AgentSession | None:
            fits = (one for one in rows.values() if one.agent == made.agent.id and status(one) == wanted)
            return next(fits, None)

        row = watch.until(lambda rows: ours(rows, "running"), "it runs")
        assert row.session == crew.session
        # OpenCode tells its id with the end of its first step: until then nobody can say whose its row is.
        expected = [("opencode", "unknown")] * (name == "opencode")

        def others(rows: Iterable[pb.AgentSession]) -> list[tuple[str, str]]:
            return [(one.adapter, status(one)) for one in rows if one.agent != made.agent.id]

        watch.until(lambda rows: others(rows.values()) == expected, "whose is not known")
        assert others(guests.rows()) == expected
        assert guests.model.release() == 1
        assert crew.wait(made.agent.id).exit_status == 0
        row = watch.until(
            lambda rows: len(rows) == 1 and (one := ours(rows, "stopped")) and _own(one),
            "it has ended, under its own id",
        )
        [listed] = guests.rows()
        assert (listed.id, listed.session, listed.agent) == (row.id, crew.session, made.agent.id)
        texts = [message.text for message in guests.transcript(row.id)]
        assert any("You said: slow answer" in text for text in texts)


@pytest.mark.parametrize(
    ("adapter", "name", "words"), [("claude-code", "claude", ("-p",)), ("codex", "codex", ("exec",))]
)
def test_what_a_person_starts_is_found_while_it_runs_and_stopped_once_it_is_killed(
    guests: Guests, folder: str, adapter: str, name: str, words: tuple[str, ...]
) -> None:
    program = guests.program(name, folder)
    with guests.watching() as watch:
        started = guests.by_hand(program, *words, "slow answer", cwd=folder)
        guests.model.wait_held("slow answer")
        # On disk by then: killed before, it has left nothing to be shown.
        row = watch.until(lambda rows: _asked(rows, "running"), "what was asked, and that it works")
        assert row.adapter == adapter
        assert (row.cwd, row.session, row.agent) == (folder, "", "")
        labelled = guests.call("LabelAgentSession", agent_session=row.id, set_labels={"mine": "yes"})
        assert dict(labelled.agent_session.labels) == {"mine": "yes"}
        guests.product.kill(row.pid, signal.SIGKILL)
        row = watch.until_status("stopped", adapter, id=row.id)
        assert dict(row.labels) == {"mine": "yes"}
        started.wait(PATIENCE)
        assert _only(watch).id == row.id


@pytest.mark.parametrize(
    ("adapter", "name", "words"), [("claude-code", "claude", ("-p",)), ("codex", "codex", ("exec",))]
)
def test_several_accounts_are_one_list(
    guests: Guests, crew: Crew, folder: str, adapter: str, name: str, words: tuple[str, ...]
) -> None:
    usual = guests.program(name, folder)
    work, play = guests.account(usual, "work"), guests.account(usual, "play")
    with guests.watching() as watch:
        # Over before anybody could have looked at its process.
        made = guests.launch(adapter, crew.session, work, "hello work", print_mode=True)
        assert crew.wait(made.agent.id).exit_status == 0
        row = watch.until(
            lambda rows: next(
                (one for one in rows.values() if one.first_prompt and status(one) == "stopped"), None
            ),
            "what was launched there",
        )
        assert (row.native["home"], row.agent) == (f"{HOME}/work", made.agent.id)
        assert guests.transcript(row.id)[0].text == "hello work"

        # From a shell that is led to the usual folder, and in which that is not where it goes on.
        guests.resume(row.id, crew.session, usual, "hello again")
        guests.model.wait("hello again", "done")
        again = watch.until(
            lambda rows: rows[row.id] if rows[row.id].last_prompt == "hello again" else None, "its prompt"
        )
        assert again.native["home"] == f"{HOME}/work"

        started = guests.by_hand(play, *words, "slow play", cwd=folder)
        guests.model.wait_held("slow play")
        guests.call("ListAgentSessions", refresh=True)
        mine = watch.until(
            lambda rows: next((one for one in rows.values() if one.first_prompt == "slow play"), None),
            "what runs by hand in a third folder",
        )
        assert (mine.native["home"], mine.agent) == (f"{HOME}/play", "")
        guests.model.release()
        assert started.wait(PATIENCE) == 0
        watch.until_status("stopped", adapter, id=mine.id)
    # Who is told nothing of them knows them by what was noted.
    pid = guests.product.supervisor_pid()
    guests.product.kill(pid)
    guests.product.serving(besides=pid)
    assert {one.id for one in guests.rows()} == {row.id, mine.id}


def test_what_a_person_started_is_taken_over(guests: Guests, crew: Crew, folder: str) -> None:
    claude = guests.program("claude", folder)
    with guests.watching() as watch:
        started = guests.by_hand(claude, "-p", "slow answer", cwd=folder)
        guests.model.wait_held("slow answer")
        row = watch.until(lambda rows: _asked(rows, "running"), "what was asked, and that it works")
        taken = guests.resume(row.id, crew.session, claude, "hello again", take_over=True)
        assert taken.ended_pid == row.pid
        assert started.wait(PATIENCE) != 0
        guests.model.wait("hello again", "done")
        row = watch.until_status("idle", "claude-code", id=row.id)
        assert (row.session, row.agent, row.pid) == (
            crew.session,
            taken.agent.id,
            crew.get(taken.agent.id).pid,
        )
        assert _only(watch).id == row.id


def test_a_supervisor_that_is_killed_misses_nothing(guests: Guests, crew: Crew, folder: str) -> None:
    claude = guests.program("claude", folder)
    made = guests.launch("claude-code", crew.session, claude, "ask: touch made")
    with guests.watching() as watch:
        before = watch.until_status("waiting", "claude-code")
    guests.product.kill_supervisor()
    with guests.watching() as watch:
        after = watch.until_status("waiting", "claude-code")
        assert (after.id, after.pid, after.agent) == (before.id, before.pid, made.agent.id)
    pid = guests.product.supervisor_pid()
    guests.product.kill(pid)
    # Ends while nobody looks.
    guests.product.kill(before.pid, signal.SIGKILL)
    guests.product.serving(besides=pid)
    with guests.watching() as watch:
        row = watch.until_status("stopped", "claude-code")
        assert (_only(watch).id, row.agent) == (before.id, made.agent.id)


def test_what_is_installed_is_told_with_its_version(guests: Guests, folder: str) -> None:
    made: dict[str, Program] = {adapter: guests.program(name, folder) for adapter, name in PROGRAMS}
    path = ":".join(dict.fromkeys(part for one in made.values() for part in one.env["PATH"].split(":")))
    told = {one.name: one for one in guests.call("ProbeAdapters", search_path=path).adapters}
    for adapter, program in made.items():
        assert (told[adapter].installed, told[adapter].version) == (True, program.version), told[adapter]
        assert told[adapter].verified == program.version
