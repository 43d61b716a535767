"""Reading request bodies: every limit holds while the bytes come in, and a slow or broken sender costs little."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from fastapi import Request
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from carinspect.serving.config import ServiceConfig
from carinspect.serving.photo_checks import check_declared_type
from carinspect.serving.refusals import RefusalError, busy

FRAMING_BYTES = 16_384
"""Of a multipart body beside its photos, for each photo."""
JSON_BYTES = 8_192
_DRAINED_BYTES, _DRAIN_S = 20_000_000, 5.0


@dataclass
class UploadMemory:
    """The bytes of all uploads that this process holds, and their limit."""

    limit_bytes: int
    held_bytes: int = 0


@dataclass
class Reservation:
    """The part of an `UploadMemory` that one request holds until its `with` block ends."""

    memory: UploadMemory
    held_bytes: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.held_bytes -= self.held_bytes

    def take(self, count: int) -> None:
        """Hold `count` bytes more, or raise a `RefusalError` that asks to come again."""
        if self.memory.held_bytes + count > self.memory.limit_bytes:
            raise busy("Too many uploads at once")
        self.memory.held_bytes += count
        self.held_bytes += count


class _Form:
    """The photos of a multipart body, gathered as it comes in. Raises `RefusalError` for a form that holds anything else."""

    def __init__(self, boundary: str, *, field_name: str, max_files: int, config: ServiceConfig) -> None:
        self._field_name, self._max_files, self._config = field_name, max_files, config
        # Latin-1 reads the name that any client gives its file.
        self._parser = PushMultipartParser(boundary, header_charset="latin-1")
        self._photos: list[bytes] = []
        self._part: MultipartSegment
        self._pieces: list[bytes] = []

    def take(self, chunk: bytes) -> None:
        """Parse the next part of the body."""
        if not chunk:
            return  # the parser would take it for the end
        try:
            for event in self._parser.parse(chunk):
                if isinstance(event, bytes):
                    self._add(event)
                elif event is None:
                    self._photos.append(b"".join(self._pieces))
                else:
                    self._begin(event)
        except MultipartError:
            raise RefusalError(400, "The body is not well-formed multipart/form-data.") from None

    def photos(self) -> list[bytes]:
        """Those of a body that has come to its end, 1 or more."""
        try:
            self._parser.close()
        except MultipartError:
            raise RefusalError(400, "The body ends before its last boundary.") from None
        if not self._photos:
            raise RefusalError(422, f"There is no photo in the field '{self._field_name}'.")
        return self._photos

    def _begin(self, part: MultipartSegment) -> None:
        if part.name != self._field_name:
            raise RefusalError(422, f"Every part of the form must be a photo in the field '{self._field_name}'.")
        if len(self._photos) == self._max_files:
            raise RefusalError(413, f"More photos than one request may hold ({self._max_files}).")
        check_declared_type(part.content_type or "")
        self._part, self._pieces = part, []

    def _add(self, piece: bytes) -> None:
        if self._part.bytes_received > self._config.max_upload_bytes:
            raise too_large(self._config)
        self._pieces.append(piece)


def too_large(config: ServiceConfig) -> RefusalError:
    """The refusal of a photo of too many bytes."""
    return RefusalError(413, f"A photo may have {config.max_upload_mb:g} MB at most.")


async def read_form_photos(
    request: Request, *, field_name: str, max_files: int, config: ServiceConfig, reservation: Reservation
) -> list[bytes]:
    """The photos in the multipart body of `request`, in its order, 1 to `max_files` of them. Raises `RefusalError`."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise RefusalError(415, f"Send multipart/form-data with the photo in the field '{field_name}'.")
    limit = max_files * (config.max_upload_bytes + FRAMING_BYTES)
    form = _Form(options["boundary"], field_name=field_name, max_files=max_files, config=config)
    await _read(request, form.take, limit_bytes=limit, config=config, reservation=reservation)
    return form.photos()


async def read_json_body(request: Request, *, config: ServiceConfig, reservation: Reservation) -> bytes:
    """The small body of `request`. Raises `RefusalError` for another content type, or more than `JSON_BYTES`."""
    if parse_options_header(request.headers.get("content-type", ""))[0] != "application/json":
        raise RefusalError(415, "Send application/json.")
    chunks: list[bytes] = []
    await _read(request, chunks.append, limit_bytes=JSON_BYTES, config=config, reservation=reservation)
    return b"".join(chunks)


async def _read(
    request: Request, take: Callable[[bytes], None], *, limit_bytes: int, config: ServiceConfig, reservation: Reservation
) -> None:
    """Hand the body to `take` as it comes in. After a refusal reads on for a moment, so that the sender gets to hear the reason."""
    received, more = 0, True
    stated = request.headers.get("content-length", "")
    try:
        if stated.isdecimal() and int(stated) > limit_bytes:
            raise too_large(config)
        async with asyncio.timeout(config.upload_timeout_s):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise RefusalError(400, "The sender went away.", close=True)
                chunk, more = message.get("body", b""), message.get("more_body", False)
                received += len(chunk)
                if received > limit_bytes:
                    raise too_large(config)
                reservation.take(len(chunk))
                take(chunk)
    except TimeoutError:
        raise RefusalError(408, f"The request did not come in whole within {config.upload_timeout_s:g} s.", close=True) from None
    except RefusalError as refusal:
        # A body that is there whole has nothing to wait for.
        refusal.close = refusal.close or (more and not await _drain(request))
        raise


async def _drain(request: Request) -> bool:
    """Read and forget the rest of the body; whether it ended within bounds."""
    drained = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while drained < _DRAINED_BYTES:
                message = await request.receive()
                drained += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False
