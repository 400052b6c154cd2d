"""The model server of the agents tier: each API's shapes, and the words in prompts that steer it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents import model_apis
from tests.agents.model_server import ModelServer

Body = dict[str, Any]

SHELL = {
    "type": "object",
    "properties": {
        "command": {"type": "string"},
        "description": {"type": "string"},
        "mode": {"enum": ["fast", "slow"]},
    },
    "required": ["command", "description", "mode"],
}
CALLED = {"command": "ls -l", "description": model_apis.TITLE, "mode": "fast"}


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


def _post(model: ModelServer, path: str, body: Body | bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", model.port, timeout=60)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, raw, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _get(model: ModelServer, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", model.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _events(raw: bytes) -> list[Body]:
    """The data of each event of a stream, without the end mark of chat completions."""
    lines = raw.decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def _requests(prompt: str, *, stream: bool) -> dict[str, tuple[str, Body]]:
    """The same question in each API."""
    action = "streamGenerateContent?alt=sse" if stream else "generateContent"
    function = {"name": "bash", "parameters": SHELL}
    return {
        "anthropic": (
            "/v1/messages?beta=true",
            {
                "model": "m",
                "stream": stream,
                "messages": [{"role": "user", "content": prompt}],
                "tools": [{"name": "Bash", "input_schema": SHELL}],
            },
        ),
        "responses": (
            "/v1/responses",
            {
                "model": "m",
                "stream": stream,
                "input": [{"role": "user", "content": [{"type": "input_text", "text": prompt}]}],
                "tools": [{"type": "function", "name": "shell", "parameters": SHELL}],
            },
        ),
        "chat": (
            "/v1/chat/completions",
            {
                "model": "m",
                "stream": stream,
                "messages": [{"role": "user", "content": prompt}],
                "tools": [{"type": "function", "function": function}],
            },
        ),
        "gemini": (
            f"/v1beta/models/m:{action}",
            {
                "contents": [{"role": "user", "parts": [{"text": prompt}]}],
                "tools": [{"functionDeclarations": [{"name": "run_shell_command", "parameters": SHELL}]}],
            },
        ),
    }


APIS = ("anthropic", "responses", "chat", "gemini")


def _text(api: str, raw: bytes, *, stream: bool) -> str:
    if stream:
        events = _events(raw)
        match api:
            case "anthropic":
                return "".join(
                    e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta"
                )
            case "responses":
                return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
            case "chat":
                deltas = [choice["delta"] for e in events for choice in e["choices"]]
                return "".join(delta.get("content", "") for delta in deltas)
        parts = [part for e in events for part in e["candidates"][0]["content"]["parts"]]
        return "".join(part.get("text", "") for part in parts)
    whole = json.loads(raw)
    match api:
        case "anthropic":
            return str(whole["content"][0]["text"])
        case "responses":
            return str(whole["output"][0]["content"][0]["text"])
        case "chat":
            return str(whole["choices"][0]["message"]["content"])
    return str(whole["candidates"][0]["content"]["parts"][0]["text"])


def _called(api: str, raw: bytes) -> tuple[str, Body]:
    """Name and arguments of the tool that a stream calls."""
    events = _events(raw)
    match api:
        case "anthropic":
            [block] = [
                e["content_block"]
                for e in events
                if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use"
            ]
            said = "".join(
                e["delta"].get("partial_json", "") for e in events if e["type"] == "content_block_delta"
            )
            return block["name"], json.loads(said)
        case "responses":
            items = [e["item"] for e in events if e["type"] == "response.output_item.done"]
            return items[1]["name"], json.loads(items[1]["arguments"])
        case "chat":
            deltas = [choice["delta"] for e in events for choice in e["choices"]]
            [[call]] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
            return call["function"]["name"], json.loads(call["function"]["arguments"])
    [call] = [
        part["functionCall"]
        for e in events
        for part in e["candidates"][0]["content"]["parts"]
        if "functionCall" in part
    ]
    return call["name"], call["args"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("api", APIS)
def test_a_prompt_is_echoed(model: ModelServer, api: str, stream: bool) -> None:
    path, body = _requests("hello there", stream=stream)[api]
    status, raw = _post(model, path, body)
    assert status == 200
    assert _text(api, raw, stream=stream) == "You said: hello there"
    [served] = model.requests
    assert (served.ask.api, served.ask.model, served.ask.prompt) == (api, "m", "hello there")
    assert model.wait("hello", "done").number == 1


@pytest.mark.parametrize("api", APIS)
def test_a_long_answer_comes_in_many_pieces(model: ModelServer, api: str) -> None:
    path, body = _requests("a long one", stream=True)[api]
    text = _text(api, _post(model, path, body)[1], stream=True)
    assert len(text.splitlines()) == model_apis.LONG_LINES
    assert text.endswith(f"line {model_apis.LONG_LINES} of a long answer")


@pytest.mark.parametrize("api", APIS)
def test_a_tool_is_called_with_all_that_it_requires(model: ModelServer, api: str) -> None:
    path, body = _requests("please, tool: ls -l", stream=True)[api]
    name, arguments = _called(api, _post(model, path, body)[1])
    assert name in {"Bash", "shell", "bash", "run_shell_command"}
    assert arguments == CALLED


def _with_result(api: str, body: Body) -> Body:
    match api:
        case "anthropic":
            said = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "seven"}]}
            reminder = {"type": "text", "text": "<system-reminder>nothing</system-reminder>"}
            body["messages"] += [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "x", "name": "Bash", "input": {}}],
                },
                {"role": "user", "content": [said, reminder]},
            ]
        case "responses":
            body["input"] += [
                {"type": "function_call", "call_id": "x", "name": "shell", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "x", "output": "seven"},
            ]
        case "chat":
            body["messages"] += [
                {"role": "assistant", "content": "", "tool_calls": []},
                {"role": "tool", "tool_call_id": "x", "content": "seven"},
            ]
        case _:
            response = {"name": "run_shell_command", "response": {"output": "seven"}}
            body["contents"] += [
                {"role": "model", "parts": [{"functionCall": {"name": "run_shell_command", "args": {}}}]},
                {"role": "user", "parts": [{"functionResponse": response}]},
            ]
    return body


@pytest.mark.parametrize("api", APIS)
def test_once_the_result_is_there_the_answer_is_final(model: ModelServer, api: str) -> None:
    path, body = _requests("tool: ls -l", stream=True)[api]
    raw = _post(model, path, _with_result(api, body))[1]
    assert _text(api, raw, stream=True) == "The tool said: seven"
    assert model.wait(result=True).ask.result == "seven"


@pytest.mark.parametrize("api", APIS)
def test_a_failure_is_an_http_error(model: ModelServer, api: str) -> None:
    path, body = _requests("fail 529", stream=True)[api]
    status, raw = _post(model, path, body)
    assert status == 529
    assert "error" in json.loads(raw)
    assert model.wait("fail", "failed").history == ["serving", "failed"]


@pytest.mark.parametrize("api", APIS)
def test_a_slow_answer_waits_for_its_release(model: ModelServer, api: str) -> None:
    path, body = _requests("slow please", stream=True)[api]
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(_post(model, path, body)[1]))
    asking.start()
    assert model.wait_held("slow").state == "held"
    assert not answers
    assert model.release("another") == 0
    assert model.release() == 1
    asking.join(60)
    assert _text(api, answers[0], stream=True) == "You said: slow please"
    assert model.release() == 0


def test_a_slow_answer_may_end_by_itself(model: ModelServer) -> None:
    path, body = _requests("slow 0.01", stream=False)["anthropic"]
    assert _text("anthropic", _post(model, path, body)[1], stream=False) == "You said: slow 0.01"


def test_a_program_that_hangs_up_is_noticed(model: ModelServer) -> None:
    path, body = _requests("slow please", stream=True)["anthropic"]
    connection = http.client.HTTPConnection("127.0.0.1", model.port, timeout=60)
    connection.request("POST", path, json.dumps(body))
    model.wait_held("slow")
    # The response was not taken: its socket is the connection's own.
    connection.close()
    assert model.wait("slow", "gone").state == "gone"


def test_the_words_of_a_command_steer_nothing_else(model: ModelServer) -> None:
    path, body = _requests("tool: fail slow long", stream=True)["chat"]
    assert _called("chat", _post(model, path, body)[1])[1]["command"] == "fail slow long"


def test_a_tool_can_be_called_by_name(model: ModelServer) -> None:
    path, body = _requests('call: bash {"command": "true"}', stream=True)["chat"]
    assert _called("chat", _post(model, path, body)[1]) == ("bash", {"command": "true"})


def test_a_command_can_ask_a_person_first(model: ModelServer) -> None:
    schema = {"properties": {"cmd": {"type": "string"}, "sandbox_permissions": {}}, "required": ["cmd"]}
    tool = model_apis.Tool("exec_command", schema)
    asked = model_apis.Ask("responses", "m", "ask: ls", "", None, True, {"exec_command": tool})
    call = model_apis.answer(asked).call
    assert call is not None
    assert call.arguments["cmd"] == "ls"
    assert call.arguments["sandbox_permissions"] == "require_escalated"


def test_a_subagent_is_given_its_prompt(model: ModelServer) -> None:
    names = ("description", "prompt", "subagent_type")
    schema = {"properties": {name: {"type": "string"} for name in names}, "required": list(names)}
    tool = model_apis.Tool("Task", schema)
    asked = model_apis.Ask("anthropic", "m", "agent: look around", "", None, True, {"Task": tool})
    call = model_apis.answer(asked).call
    assert call is not None
    assert call.arguments == {
        "description": model_apis.TITLE,
        "prompt": "look around",
        "subagent_type": "general-purpose",
    }


def test_what_programs_put_before_a_prompt_is_no_prompt(model: ModelServer) -> None:
    context = "<environment_context>fail</environment_context>"
    texts = [{"type": "input_text", "text": text} for text in (context, "hello")]
    before = {"role": "user", "content": [{"type": "input_text", "text": "# AGENTS.md instructions\nslow"}]}
    body = {"model": "m", "input": [before, {"role": "user", "content": texts}]}
    status, raw = _post(model, "/v1/responses", body)
    assert status == 200
    assert _text("responses", raw, stream=False) == "You said: hello"


def test_a_title_is_made_without_waiting(model: ModelServer) -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You are a title generator."},
            {"role": "user", "content": "slow please"},
        ],
    }
    raw = _post(model, "/v1/chat/completions", body)[1]
    assert _text("chat", raw, stream=False) == model_apis.TITLE
    assert model.requests[0].ask.side


def test_an_answer_with_a_schema_fits_it(model: ModelServer) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "new": {"type": "boolean"}, "tags": {"type": "array"}},
        "required": ["title", "new", "tags"],
    }
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "slow please"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }
    raw = _post(model, "/v1/messages", body)[1]
    said = json.loads(_text("anthropic", raw, stream=False))
    assert said == {"title": model_apis.TITLE, "new": False, "tags": []}


def test_tokens_are_counted_and_models_listed(model: ModelServer) -> None:
    assert json.loads(_post(model, "/v1/messages/count_tokens", {})[1])["input_tokens"] > 0
    assert json.loads(_post(model, "/v1beta/models/m:countTokens", {})[1])["totalTokens"] > 0
    assert _get(model, "/v1/models")[1]["data"]
    assert _get(model, "/v1beta/models")[1]["models"]
    assert _get(model, "/v1/models/some")[1]["id"] == "some"


def test_what_no_api_has_is_told(model: ModelServer) -> None:
    assert _post(model, "/nothing", {})[0] == 404
    assert _get(model, "/nothing")[0] == 404
    assert model.unknown == ["POST /nothing", "GET /nothing"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_bad_body_is_refused(model: ModelServer, body: bytes) -> None:
    assert _post(model, "/v1/messages", body)[0] == 400


def test_waiting_in_vain_tells_what_was_served(model: ModelServer) -> None:
    path, body = _requests("hello", stream=False)["chat"]
    _post(model, path, body)
    with pytest.raises(AssertionError, match="'prompt': 'hello'"):
        model.wait("other", timeout=0)


def test_alone_it_prints_its_port_and_is_steered_over_http(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.agents.model_server", "--port", "0", "--log", str(log)]
    checkout = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        alone: Any = type("Alone", (), {"port": int(process.stdout.readline())})
        path, body = _requests("slow please", stream=True)["anthropic"]
        answers: list[bytes] = []
        asking = threading.Thread(target=lambda: answers.append(_post(alone, path, body)[1]))
        asking.start()
        waited = _post(alone, "/control/wait", {"prompt": "slow", "state": "held"})
        assert json.loads(waited[1])["state"] == "held"
        assert json.loads(_post(alone, "/control/release", {})[1]) == {"released": 1}
        asking.join(60)
        assert _text("anthropic", answers[0], stream=True) == "You said: slow please"
        assert _get(alone, "/control/requests")[1]["requests"][0]["prompt"] == "slow please"
        assert _post(alone, "/control/wait", {"prompt": "no such", "timeout": 0})[0] == 408
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
    assert json.loads(log.read_text().splitlines()[0])["prompt"] == "slow please"
