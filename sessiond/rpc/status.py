"""The one place where errors and gRPC statuses meet, in both directions."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import grpc

from sessiond.errors import BY_KIND, ErrorKind, SessiondError

DOMAIN = "sessiond"
DETAILS_KEY = "grpc-status-details-bin"
# Trailers hold 8 KiB in all. The message is sent twice, once with three bytes for each that is not ASCII,
# and the details in base64; these bounds, in bytes, keep the worst case below.
_MESSAGE_MAX = 700
_FIELD_MAX = 200
_FIELDS_MAX = 6

_CODES = {
    ErrorKind.FAILED: grpc.StatusCode.INTERNAL,
    ErrorKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorKind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorKind.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorKind.UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorKind.TIMED_OUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorKind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorKind.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorKind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_KINDS = {code: kind for kind, code in _CODES.items()}


class _Abortable(Protocol):
    async def abort(self, code: Any, details: str = ..., trailing_metadata: Any = ...) -> NoReturn: ...


async def abort(context: _Abortable, error: SessiondError) -> NoReturn:
    """End a call with the error: its status, its message, and google.rpc.ErrorInfo for programs."""
    code = _CODES[error.kind]
    message = _cut(error.message, _MESSAGE_MAX)
    details = ((DETAILS_KEY, _details(code, message, error)),)
    await context.abort(code, message, trailing_metadata=details)


def _details(code: grpc.StatusCode, message: str, error: SessiondError) -> bytes:
    # Imported when an error is first told: daemons that never fail need not hold them in memory.
    from google.rpc import error_details_pb2, status_pb2

    fields = {key: _cut(value, _FIELD_MAX) for key, value in list(error.fields.items())[:_FIELDS_MAX]}
    if error.hint:
        fields["hint"] = _cut(error.hint, _MESSAGE_MAX)
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=fields)
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


def from_rpc_error(error: grpc.RpcError) -> SessiondError:
    """The error that a call failed with: the server's own, or one made of gRPC's status."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    told = _told(error.trailing_metadata() or (), message, code)
    return told or _foreign(code, message)


def _told(trailers: Any, message: str, code: grpc.StatusCode) -> SessiondError | None:
    raw = next((value for key, value in trailers if key == DETAILS_KEY), None)
    if raw is None:
        return None
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    info = error_details_pb2.ErrorInfo()
    try:
        status = status_pb2.Status.FromString(raw)
        if not any(detail.Unpack(info) for detail in status.details):
            return None
    except DecodeError:
        return None
    if info.domain != DOMAIN:
        return None
    fields = dict(info.metadata)
    hint = fields.pop("hint", "")
    cls = BY_KIND[_KINDS.get(code, ErrorKind.FAILED)]
    return cls(info.reason, message, hint=hint, fields=fields)


def _foreign(code: grpc.StatusCode, message: str) -> SessiondError:
    """An error for a status that gRPC itself gave: nobody on the other side explained it."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return BY_KIND[ErrorKind.UNREACHABLE](
            "supervisor_unreachable", f"no answer from the supervisor: {message}", hint="sessionctl up"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return BY_KIND[ErrorKind.UNSUPPORTED](
            "method_unknown",
            f"the other side does not know this call: {message}",
            hint="client and supervisor are of different releases; restart the older one",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BY_KIND[ErrorKind.TIMED_OUT]("call_timeout", "no answer within the time given")
    kind = _KINDS.get(code, ErrorKind.FAILED)
    return BY_KIND[kind](f"rpc_{code.name.lower()}", message)


def _cut(text: str, limit: int) -> str:
    """The text in at most ``limit`` bytes of UTF-8, with a mark where it was cut."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"
