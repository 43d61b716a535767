"""Owns the time that a client has to send its headers; uvicorn itself waits for ever, and slow clients would fill its connections."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for the headers, first or later on the connection. The body's deadline is the application's."""

    header_timeout_s = 10.0
    """Set for the whole process before it serves."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._begin_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_deadline()

    def on_headers_complete(self) -> None:
        self._end_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def _begin_deadline(self) -> None:
        self._end_deadline()
        self._deadline = self.loop.call_later(self.header_timeout_s, self._close)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def protocol_with(header_timeout_s: float) -> type[Any]:
    """The protocol, with that deadline in this process."""
    PatientProtocol.header_timeout_s = header_timeout_s
    return PatientProtocol
