"""Frames between the host and an adapter's process."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.discovery import wire
from sessiond.errors import BY_KIND, ErrorKind
from sessiond.model.agent_session import Found, Life, Problem, Turn, Wish

NEWS = msgspec.msgpack.Decoder(wire.News)

ROW = Found(
    "claude-code",
    "1",
    cwd="/x",
    started_at=datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
    tokens_in=2**40,
    cost_usd=0.25,
    turn=Turn.WAITING,
    native={"kind": "bg"},
    life=Life(True, pid=3, start_time=4, turn=Turn.DONE, mark="a-b"),
)


def back(message: wire.Message) -> wire.Message:
    (data,) = wire.Frames().feed(wire.frame(message))
    decoded: wire.Message = NEWS.decode(data)
    return decoded


@pytest.mark.parametrize(
    "message",
    [
        wire.Busy(),
        wire.Idle(),
        wire.Failed("x"),
        wire.Told(found=[ROW], gone=["2"], whole=True, more=True, checked=True),
        wire.Told(found=[], gone=[], problems=[Problem("pi", "file_malformed", "y", "/z")]),
        wire.Refusal(3, "not_found", "c", "m", "h", {"a": "b"}),
    ],
)
def test_what_is_told_arrives(message: wire.Message) -> None:
    assert back(message) == message


def test_what_is_asked_arrives() -> None:
    decoder = msgspec.msgpack.Decoder(wire.Asked)
    for question in (
        wire.Own({"a-b": "1"}),
        wire.Launch(Wish("/x", prompt="p", command=("a",))),
        wire.Look(),
        wire.ReadTranscript("1", 20),
    ):
        (data,) = wire.Frames().feed(wire.frame(wire.Asked(7, question)))
        assert decoder.decode(data) == wire.Asked(7, question)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_errors_arrive_as_they_were_raised(kind: ErrorKind) -> None:
    error = BY_KIND[kind]("some_code", "what", hint="do", fields={"a": "b"})
    arrived = back(wire.refuse(1, error))
    assert isinstance(arrived, wire.Refusal)
    raised = arrived.error()
    assert type(raised) is type(error)
    assert (raised.code, raised.message, raised.hint, raised.fields) == (
        "some_code",
        "what",
        "do",
        {"a": "b"},
    )


def test_what_msgpack_cannot_say_is_bent() -> None:
    row = Found("a", "1", cwd="/caf\udce9", tokens_in=2**70, tokens_out=-(2**70), native={"\udce9": "\udce9"})
    arrived = back(wire.Told(found=[row]))
    assert isinstance(arrived, wire.Told)
    (found,) = arrived.found
    assert (found.cwd, found.native) == ("/caf?", {"?": "?"})
    assert (found.tokens_in, found.tokens_out) == (2**64 - 1, -(2**63))


def test_a_frame_too_large_is_refused_by_who_sends_and_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FRAME_MAX", 100)
    with pytest.raises(BY_KIND[ErrorKind.EXHAUSTED]):
        wire.frame(wire.Failed("x" * 200))
    with pytest.raises(ValueError, match="200 bytes"):
        list(wire.Frames().feed(wire.LENGTH.pack(200)))


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_frames_are_cut_wherever_the_socket_cuts_them(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(wire.LENGTH.pack(len(one)) + one for one in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames = wire.Frames()
    got: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += frames.feed(stream[begin:end])
    assert got == payloads
