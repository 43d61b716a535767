"""Owns reading request bodies: every limit holds while the bytes come in, and a slow or broken sender costs little."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from carinspect.serving.config import ServiceConfig
from carinspect.serving.photo_checks import check_declared_type
from carinspect.serving.refusals import RefusalError, busy

FRAMING_BYTES = 16_384
"""Of a multipart body beside its photos, for each photo."""
JSON_BYTES = 8_192
_DRAINED_BYTES, _DRAIN_S = 20_000_000, 5.0


class UploadMemory:
    """Counts the bytes of all uploads that this process holds, and refuses more than its limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    @contextmanager
    def reservation(self) -> Iterator["Reservation"]:
        """Holds what is taken from it until the block ends."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.held_bytes -= reservation.held_bytes


@dataclass
class Reservation:
    """The part of an `UploadMemory` that one request holds."""

    memory: UploadMemory
    held_bytes: int = 0

    def take(self, count: int) -> None:
        """Hold `count` bytes more, or raise a `RefusalError` that asks to come again."""
        if self.memory.held_bytes + count > self.memory.limit_bytes:
            raise busy("Too many uploads at once")
        self.memory.held_bytes += count
        self.held_bytes += count


@dataclass
class _Form:
    """The photos of a multipart body, gathered while it is parsed."""

    field_name: str
    config: ServiceConfig
    max_files: int
    photos: list[bytes] = field(default_factory=list)
    complete: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _photo: bytearray = field(default_factory=bytearray)

    def on_part_begin(self) -> None:
        self._headers, self._photo = {}, bytearray()

    def on_header_begin(self) -> None:
        self._name, self._value = bytearray(), bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if options.get(b"name") != self.field_name.encode():
            raise RefusalError(422, f"Every part of the form must be a photo in the field '{self.field_name}'.")
        if len(self.photos) == self.max_files:
            raise RefusalError(413, f"More photos than one request may hold ({self.max_files}).")
        check_declared_type(self._headers.get(b"content-type", b"").decode("latin-1"))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self._photo) + end - start > self.config.max_upload_bytes:
            raise too_large(self.config)
        self._photo += data[start:end]

    def on_part_end(self) -> None:
        self.photos.append(bytes(self._photo))

    def on_end(self) -> None:
        self.complete = True


def too_large(config: ServiceConfig) -> RefusalError:
    """The refusal of a photo of too many bytes."""
    return RefusalError(413, f"A photo may have {config.max_upload_mb:g} MB at most.")


async def read_form_photos(
    request: Request, *, field_name: str, max_files: int, config: ServiceConfig, reservation: Reservation
) -> list[bytes]:
    """The photos in the multipart body of `request`, in its order, 1 to `max_files` of them. Raises `RefusalError`."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusalError(415, f"Send multipart/form-data with the photo in the field '{field_name}'.")
    form = _Form(field_name=field_name, config=config, max_files=max_files)
    limit = max_files * (config.max_upload_bytes + FRAMING_BYTES)
    async with _bounded(request, config):
        _check_stated_length(request, limit, config)
        try:
            parser = MultipartParser(options[b"boundary"], {
                "on_part_begin": form.on_part_begin, "on_header_begin": form.on_header_begin, "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value, "on_header_end": form.on_header_end,
                "on_headers_finished": form.on_headers_finished, "on_part_data": form.on_part_data, "on_part_end": form.on_part_end,
                "on_end": form.on_end,
            })  # fmt: skip
            async for chunk in _limited(request, limit, config, reservation):
                parser.write(chunk)
        except FormParserError:
            raise RefusalError(400, "The body is not well-formed multipart/form-data.") from None
    if not form.complete:
        raise RefusalError(400, "The body ends before its last boundary.")
    if not form.photos:
        raise RefusalError(422, f"There is no photo in the field '{field_name}'.")
    return form.photos


async def read_json_body(request: Request, *, config: ServiceConfig, reservation: Reservation) -> bytes:
    """The small body of `request`. Raises `RefusalError` for another content type, or more than `JSON_BYTES`."""
    if parse_options_header(request.headers.get("content-type"))[0] != b"application/json":
        raise RefusalError(415, "Send application/json.")
    async with _bounded(request, config):
        return b"".join([chunk async for chunk in _limited(request, JSON_BYTES, config, reservation)])


@asynccontextmanager
async def _bounded(request: Request, config: ServiceConfig) -> AsyncIterator[None]:
    """Ends a read that takes too long; after a refusal reads on for a moment, so that the sender gets to hear the reason."""
    try:
        async with asyncio.timeout(config.upload_timeout_s):
            yield
    except TimeoutError:
        raise RefusalError(408, f"The request did not come in whole within {config.upload_timeout_s:g} s.", close=True) from None
    except ClientDisconnect:
        raise RefusalError(400, "The sender went away.", close=True) from None
    except RefusalError as refusal:
        refusal.close = not await _drain(request)
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


def _check_stated_length(request: Request, limit: int, config: ServiceConfig) -> None:
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large(config)


async def _limited(request: Request, limit: int, config: ServiceConfig, reservation: Reservation) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large(config)
        reservation.take(len(chunk))
        yield chunk
