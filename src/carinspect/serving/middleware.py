"""What happens around every request: it is counted, and its answer gets headers that keep a browser from doing more than show it.

A request to a `DirectRoute` is answered from here.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from carinspect.serving.connections import GUARD, Guard
from carinspect.serving.monitoring import Monitor
from carinspect.serving.refusals import RefusalError, answer_fault, answer_refusal
from carinspect.serving.uploads import UploadMemory

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


_CLOSE = (b"connection", b"close")
_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class DirectRoute(APIRoute):
    """A route whose requests go past the layers of FastAPI, which cost much beside a small model; it knows the route for its description.

    Its path has no parameters, its endpoint takes the request alone and returns a response. So do its router's dependencies, all of them
    coroutines; what they return is not used.
    """

    async def answer(self, request: Request) -> Response:
        """The answer of the endpoint, once the router's dependencies have let the request pass."""
        for dependency in self.dependencies:
            assert dependency.dependency is not None
            await dependency.dependency(request)
        response: Response = await self.endpoint(request)
        return response


class _Body:
    """A request's body, on its way to whoever reads it."""

    def __init__(self, receive: Receive, guard: Guard | None, *, complete: bool) -> None:
        self._receive, self._guard, self._complete = receive, guard, complete

    async def receive(self) -> Message:
        """The next message; the guard of the connection hears what was taken."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._complete = self._complete or not message.get("more_body", False)
            if self._guard is not None:
                self._guard.take(len(message.get("body", b"")))
        return message

    async def is_there_whole(self) -> bool:
        """Whether all of it was read, or lies ready: then it is read, and forgotten."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                while not self._complete and (await self.receive())["type"] == "http.request":
                    pass
        return self._complete


class Surroundings:
    """The application as the server meets it: `app` with what surrounds each of its requests."""

    def __init__(self, app: FastAPI, monitor: Monitor, direct: Iterable[DirectRoute], *, memory: UploadMemory) -> None:
        self.app = app
        self.memory = memory
        self.clients: Counter[str] = Counter()
        """Open connections by client address."""
        self._monitor = monitor
        self._direct = {(method, route.path): route for route in direct for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        guard: Guard | None = scope.get("state", {}).get(GUARD)
        if guard is not None:
            guard.begin()
        body = _Body(receive, guard, complete=not any(name in _BODY_HEADERS for name, _ in scope["headers"]))

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # The rest of a body that nobody reads is not waited for.
                if not await body.is_there_whole() and _CLOSE not in message["headers"]:
                    message["headers"] = [*message["headers"], _CLOSE]
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        direct = self._direct.get((scope["method"], scope["path"]))
        try:
            if direct is None:
                await self.app(scope, body.receive, send_marked)
            else:
                await self._answer(direct, scope, body.receive, send_marked)
        finally:
            # A path that is no route's is a stranger's word: it must not become a name of a figure.
            path = scope["path"] if direct is not None else getattr(scope.get("route"), "path", "other")
            self._monitor.note_request(path, status, time.perf_counter() - start)
            if guard is not None:
                guard.end()

    async def _answer(self, route: DirectRoute, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.app
        request = Request(scope, receive)
        try:
            response = await route.answer(request)
        except RefusalError as refusal:
            response = await answer_refusal(request, refusal)
        except Exception as error:
            await (await answer_fault(request, error))(scope, receive, send)
            # The server writes it to its log.
            raise
        await response(scope, receive, send)
