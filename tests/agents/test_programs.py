"""The real programs do run here, against our model server alone."""

from __future__ import annotations

import json

from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner


def test_claude_answers_in_print_mode(claude: Program, running: Runner, model: ModelServer) -> None:
    ran = running(claude, "-p", "hello", "--output-format", "json")
    assert ran.wait() == 0, ran.text
    assert json.loads(ran.lines()[-1])["result"] == "You said: hello"
    assert not model.unknown


def test_codex_answers_in_print_mode(codex: Program, running: Runner, model: ModelServer) -> None:
    ran = running(codex, "exec", "--json", "hello")
    assert ran.wait() == 0, ran.text
    assert "You said: hello" in ran.text


def test_opencode_answers_in_print_mode(opencode: Program, running: Runner, model: ModelServer) -> None:
    ran = running(opencode, "run", "--format", "json", "hello")
    assert ran.wait() == 0, ran.text
    assert "You said: hello" in ran.text


def test_pi_answers_in_print_mode(pi: Program, running: Runner, model: ModelServer) -> None:
    ran = running(pi, "-p", "--mode", "json", "hello")
    assert ran.wait() == 0, ran.text
    assert "You said: hello" in ran.text


def test_gemini_answers_in_print_mode(gemini: Program, running: Runner, model: ModelServer) -> None:
    ran = running(gemini, "--skip-trust", "-m", "gemini-2.5-pro", "-p", "hello")
    assert ran.wait() == 0, ran.text
    assert "You said: hello" in ran.text


def test_openclaw_answers(openclaw: Program, running: Runner, model: ModelServer) -> None:
    ran = running(openclaw, "agent", "--local", "--session-id", "one", "--message", "hello", "--json")
    assert ran.wait() == 0, ran.text
    assert "You said: hello" in ran.text


def test_a_held_answer_goes_on_when_it_is_released(
    claude: Program, running: Runner, model: ModelServer
) -> None:
    ran = running(claude, "-p", "slow answer")
    model.wait_held("slow answer")
    assert ran.process.poll() is None
    assert model.release() == 1
    assert ran.wait() == 0, ran.text
    assert "You said: slow answer" in ran.text


def test_a_program_calls_its_shell(claude: Program, running: Runner, model: ModelServer) -> None:
    ran = running(claude, "-p", "tool: echo from the shell", "--allowedTools", "Bash")
    assert ran.wait() == 0, ran.text
    assert "The tool said: from the shell" in ran.text


def test_claude_waits_for_a_permission_in_a_terminal(
    claude: Program, running: Runner, model: ModelServer
) -> None:
    ran = running(claude, "tool: touch made", tty=True)
    ran.wait_text("touch made", "Do you want to proceed?")
    ran.press_until(lambda: "Do you want to proceed?" not in ran.text)
    ran.wait_text("The tool said")
