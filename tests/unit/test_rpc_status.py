"""Errors keep kind, code, message, hint and fields across the wire."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import pytest

from sessiond.errors import BY_KIND, ErrorKind, SessiondError
from sessiond.rpc.status import abort, from_rpc_error


class Aborted(grpc.RpcError):
    """What a client would hold, made of what the server passed to abort()."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        super().__init__()
        self._parts = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


class Context:
    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        raise Aborted(code, details, trailing_metadata)


async def sent(error: SessiondError) -> Aborted:
    with pytest.raises(Aborted) as caught:
        await abort(Context(), error)
    return caught.value


@pytest.mark.parametrize("kind", list(ErrorKind))
async def test_every_kind_survives_the_round_trip(kind: ErrorKind) -> None:
    error = BY_KIND[kind]("some_code", "what is wrong", hint="do this", fields={"session": "x", "path": "/y"})
    back = from_rpc_error(await sent(error))
    assert type(back) is BY_KIND[kind]
    assert (back.code, back.message, back.hint) == ("some_code", "what is wrong", "do this")
    assert back.fields == {"session": "x", "path": "/y"}


async def test_a_long_error_stays_within_what_a_trailer_holds() -> None:
    error = SessiondError(
        "long", "ü" * 100_000, hint="h" * 100_000, fields={f"f{n}": "ü" * 10_000 for n in range(40)}
    )
    aborted = await sent(error)
    size = sum(len(value) for _, value in aborted.trailing_metadata())
    percent_encoded = 3 * len(aborted.details().encode())
    assert size * 4 / 3 + percent_encoded < 8 * 1024
    assert from_rpc_error(aborted).code == "long"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, ErrorKind.UNREACHABLE, "supervisor_unreachable"),
        (grpc.StatusCode.UNIMPLEMENTED, ErrorKind.UNSUPPORTED, "method_unknown"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorKind.TIMED_OUT, "call_timeout"),
        (grpc.StatusCode.CANCELLED, ErrorKind.FAILED, "rpc_cancelled"),
    ],
)
def test_what_grpc_itself_says_is_told_apart(status: grpc.StatusCode, kind: ErrorKind, code: str) -> None:
    error = from_rpc_error(Aborted(status, "words", ()))
    assert (error.kind, error.code) == (kind, code)


def test_garbage_in_the_details_does_not_hide_the_status() -> None:
    trailers = (("grpc-status-details-bin", b"\xff\xff\xffgarbage"),)
    error = from_rpc_error(Aborted(grpc.StatusCode.NOT_FOUND, "gone", trailers))
    assert (error.kind, error.message) == (ErrorKind.NOT_FOUND, "gone")
