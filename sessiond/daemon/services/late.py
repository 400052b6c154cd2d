"""A service whose code and parts are loaded with its first call: a daemon that nobody asks stays light."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

# Registers a servicer with a server, as generated code does.
Register = Callable[[Any, Any], None]


class LateService(grpc.GenericRpcHandler):
    """Stands for a service. ``load`` imports what registers it; ``servicer`` makes it."""

    def __init__(
        self, name: str, load: Callable[[], Register], servicer: Callable[[], Awaitable[Any]]
    ) -> None:
        self._prefix = f"/{name}/"
        self._load = load
        self._servicer = servicer
        self._handlers: dict[str, Any] | None = None

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None for another service's."""
        method = handler_call_details.method
        if not method.startswith(self._prefix):
            return None
        if self._handlers is None:
            catcher = _Catcher()
            self._load()(_Names(), catcher)
            self._handlers = {name: self._late(name, one) for name, one in catcher.handlers.items()}
        return self._handlers.get(method.removeprefix(self._prefix))

    def _late(self, name: str, handler: Any) -> Any:
        """The handler with the servicer's method behind it, whichever kind of call it is."""

        async def answer(request: Any, context: Any) -> Any:
            return await getattr(await self._servicer(), name)(request, context)

        async def stream(request: Any, context: Any) -> AsyncGenerator[Any, None]:
            servicer = await self._servicer()
            async with aclosing(getattr(servicer, name)(request, context)) as messages:
                async for message in messages:
                    yield message

        asked = "stream" if handler.request_streaming else "unary"
        answered = "stream" if handler.response_streaming else "unary"
        call = stream if handler.response_streaming else answer
        return handler._replace(**{f"{asked}_{answered}": call})


class _Catcher:
    """What generated code takes for a server; holds what it registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """The same once more, without their names."""

    def add_registered_method_handlers(self, _service: str, handlers: dict[str, Any]) -> None:
        """All handlers of a service by the names of its methods."""
        self.handlers.update(handlers)


class _Names:
    """What generated code takes for a servicer, which is not made yet."""

    def __getattr__(self, name: str) -> str:
        return name
