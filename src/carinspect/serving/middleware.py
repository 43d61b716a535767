"""Owns what happens around every request: counting it, the headers that keep a browser from doing more with an answer than show it, and
the short way to the routes that take photos."""

import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request, Response
from starlette.types import Message, Receive, Scope, Send

from carinspect.serving.monitoring import Monitor
from carinspect.serving.refusals import RefusalError, answer_fault, answer_refusal

Endpoint = Callable[[Request], Awaitable[Response]]

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


class Surroundings:
    """The application as the server meets it: `app` with what surrounds each of its requests."""

    def __init__(self, app: FastAPI, monitor: Monitor, direct: Mapping[str, Endpoint]) -> None:
        """direct: path → what answers a POST there, past the layers of FastAPI, which cost much beside a small model."""
        self.app = app
        self._monitor, self._direct = monitor, direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        endpoint = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            if endpoint is None:
                await self.app(scope, receive, send_marked)
            else:
                await self._answer(endpoint, scope, receive, send_marked)
        finally:
            # A path that is no route's is a stranger's word: it must not become a name of a figure.
            route = scope["path"] if endpoint is not None else getattr(scope.get("route"), "path", "other")
            self._monitor.note_request(route, status, time.perf_counter() - start)

    async def _answer(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.app
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except RefusalError as refusal:
            response = await answer_refusal(request, refusal)
        except Exception as error:
            await (await answer_fault(request, error))(scope, receive, send)
            # The server writes it to its log.
            raise
        await response(scope, receive, send)
