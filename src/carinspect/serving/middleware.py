"""What happens around every request: it is counted, and its answer gets headers that keep a browser from doing more than show it.

A request to a `DirectRoute` is answered from here.
"""

import time
from collections.abc import Iterable

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from carinspect.serving.monitoring import Monitor
from carinspect.serving.refusals import RefusalError, answer_fault, answer_refusal

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


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


class Surroundings:
    """The application as the server meets it: `app` with what surrounds each of its requests."""

    def __init__(self, app: FastAPI, monitor: Monitor, direct: Iterable[DirectRoute]) -> None:
        self.app = app
        self._monitor = monitor
        self._direct = {(method, route.path): route for route in direct for method in route.methods or ()}

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

        direct = self._direct.get((scope["method"], scope["path"]))
        try:
            if direct is None:
                await self.app(scope, receive, send_marked)
            else:
                await self._answer(direct, scope, receive, send_marked)
        finally:
            # A path that is no route's is a stranger's word: it must not become a name of a figure.
            path = scope["path"] if direct is not None else getattr(scope.get("route"), "path", "other")
            self._monitor.note_request(path, status, time.perf_counter() - start)

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
