"""What one connection may cost, whatever comes over it: seconds, bytes that no route has taken, and a share for each client address.

uvicorn's protocol bounds none of these. It is used as it is, behind a `Guard` that sees what the transport brings before it does.
"""

import asyncio
from collections import Counter
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from carinspect.serving.config import ServiceConfig
from carinspect.serving.uploads import UploadMemory

GUARD = "carinspect.guard"
"""Key of a request's state under which the application finds the guard of its connection."""
HEADER_BYTES = 65_536
"""Of a request's line and headers."""
_USUAL_HEADER_BYTES = 16_384
_BUFFERED_BYTES = 65_536  # uvicorn reads no more while so much of a body waits for its route (flow_control.HIGH_WATER_LIMIT)
_FRAMING_SHARE = 8  # of a chunked body, one byte in so many may be framing; in chunks of 64 bytes and more less is
_ABORT_S = 1.0


class Guarded(Protocol):
    """The application whose connections are guarded."""

    memory: UploadMemory
    clients: Counter[str]


class GuardedSettings(uvicorn.Config):
    """uvicorn's settings with those of the guard; they travel to the workers together."""

    service: ServiceConfig


class Guard(asyncio.Protocol):
    """One connection. It always has a deadline, of the state in which it is:

    idle: `keep_alive_s`, or `header_timeout_s` before its first request. From a request's first byte: `header_timeout_s` until its headers
    are complete. From then on: `request_timeout_s` until the last byte of the answer was taken by the client's side of the network.
    """

    def __init__(
        self, config: GuardedSettings, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._limits, self._app = config.service, _application(config)
        self._loop = _loop or asyncio.get_running_loop()
        self._http = HttpToolsProtocol(config=config, server_state=server_state, app_state={**app_state, GUARD: self}, _loop=_loop)
        self._transport: asyncio.Transport
        self._client, self._ended = "", False
        self._deadline: asyncio.TimerHandle | None = None
        self._idle, self._in_route = True, False
        self._held_bytes = self._taken_bytes = 0

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection as its client's, or turn it away."""
        self._transport = transport  # type: ignore[assignment]
        self._client = _client(transport.get_extra_info("peername"))
        self._app.clients[self._client] += 1
        if self._client and self._app.clients[self._client] > self._limits.client_limit:
            self._turn_away(b"503 Service Unavailable")
            return
        self._arm(self._limits.header_timeout_s)
        self._http.connection_made(self._transport)

    def data_received(self, data: bytes) -> None:
        """Hand `data` on, unless too much has come already that no route has taken."""
        if self._ended:
            return
        if self._idle:
            self._idle = False
            self._arm(self._limits.header_timeout_s)
        # What came before: this piece may be the body, which its route takes before the next one is read.
        if self._held_bytes > self._allowed_bytes():
            self._turn_away(b"431 Request Header Fields Too Large")
            return
        self._hold(len(data))
        memory = self._app.memory
        if memory.held_bytes > memory.limit_bytes and not self._in_route and self._held_bytes > _USUAL_HEADER_BYTES:
            self._turn_away(b"503 Service Unavailable")
            return
        self._http.data_received(data)

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return None

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what the connection held."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._hold(-self._held_bytes)
        self._app.clients[self._client] -= 1
        if not self._app.clients[self._client]:
            del self._app.clients[self._client]
        if self._http.transport is not None:
            self._http.connection_lost(exc)

    # ---- called by the application

    def begin(self) -> None:
        """A request's headers are complete."""
        self._idle, self._in_route = False, True
        self._arm(self._limits.request_timeout_s)

    def take(self, count: int) -> None:
        """The route has taken `count` bytes of the body; they are its own to account for."""
        self._taken_bytes += count
        self._hold(-min(count, self._held_bytes))

    def end(self) -> None:
        """The answer is complete."""
        self._hold(-self._held_bytes)
        self._taken_bytes = 0
        self._idle, self._in_route = True, False
        # An answer that still waits for its reader keeps the request's deadline. uvicorn closes an idle connection before this does.
        if not self._ended and self._transport.get_write_buffer_size() == 0:
            self._arm(self._limits.keep_alive_s + 1)

    # ----

    def _allowed_bytes(self) -> int:
        return HEADER_BYTES + (_BUFFERED_BYTES + self._taken_bytes // _FRAMING_SHARE if self._in_route else 0)

    def _hold(self, more: int) -> None:
        self._held_bytes += more
        self._app.memory.held_bytes += more

    def _arm(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self._transport.abort)

    def _turn_away(self, status: bytes) -> None:
        self._ended = True
        if not self._in_route:
            self._transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self._transport.close()
        self._arm(_ABORT_S)


def _application(config: GuardedSettings) -> Guarded:
    application: Guarded = config.loaded_app
    return application


def _client(peer: Any) -> str:
    """What counts as one client: an IPv4 address, or the 64 bits that one IPv6 network gets. Empty where there is none (a Unix socket)."""
    if not peer or not isinstance(peer, tuple):
        return ""
    try:
        address = ip_address(peer[0].partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or int(address) >> 64)
    return str(address)
