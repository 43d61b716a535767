"""What a connection may cost: its deadline at every moment, the bytes that no route takes, and the share of one client address."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from carinspect.serving.app import create_app
from carinspect.serving.config import ServiceConfig
from carinspect.serving.middleware import Surroundings
from carinspect.serving.server import _settings
from conftest import free_port
from serving_tools import photo_bytes, wait_until

IMPATIENT = {"header_timeout_s": 0.5, "upload_timeout_s": 0.5, "keep_alive_s": 1, "request_timeout_s": 2.0}


@contextmanager
def serving(model: Path, *, http: Any = None, **settings: Any) -> Iterator[tuple[int, Surroundings]]:
    """The service in a thread; its port and application. http: in place of the guarded protocol."""
    port = free_port()
    config = ServiceConfig(model_path=model, threads=1, **IMPATIENT | settings)
    app = create_app(config)
    made = _settings(app, config, host="127.0.0.1", port=port)
    if http is not None:
        made.http = http
    server = uvicorn.Server(made)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield port, app
    finally:
        server.should_exit = True
        thread.join(30)


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(sent)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """All that comes until the other side closes; `TimeoutError` when it does not."""
    received = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return bytes(received)


FORM = b"Host: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
SILENT = {
    "nothing at all": b"",
    "half a header": b"GET /healthz HTTP/1.1\r\nHo",
    "an answered request with one byte of nine": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
    "a body to no route": b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
    "a body of a wrong type": b"POST /predict/file HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
    "half a form": b"POST /predict/file HTTP/1.1\r\n" + FORM + b"Content-Length: 900\r\n\r\n--b\r\n",
    "chunks without their trailers' end": b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n",
    "a second request, half": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
}


def test_whoever_falls_silent_is_cut_off_wherever_that_is(model: Path) -> None:
    with serving(model) as (port, app):
        connections = [connect(port, sent) for sent in SILENT.values()]
        for connection in connections:
            read_to_the_end(connection)
            connection.close()
        wait_until(lambda: not app.clients)
        assert app.memory.held_bytes == 0


def test_uvicorns_own_protocol_waits_for_ever(model: Path) -> None:
    with serving(model, http="httptools") as (port, _):
        connection = connect(port, SILENT["half a header"])
        connection.settimeout(3)
        with pytest.raises(TimeoutError):
            read_to_the_end(connection)
        connection.close()


def trickle(connection: socket.socket, piece: bytes, *, most_bytes: int) -> int:
    """Send `piece` again and again until the other side closes or `most_bytes` are sent; the bytes sent."""
    sent = 0
    with suppress(OSError):
        while sent < most_bytes:
            connection.sendall(piece)
            sent += len(piece)
    return sent


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"a:b\r\n" * 1000),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 5000),
        (b"GET /", b"a" * 5000),
        (b"POST /predict/file HTTP/1.1\r\n" + FORM + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--b\r\n\r\n0\r\n", b"a:b\r\n" * 1000),
        (b"POST /predict/file HTTP/1.1\r\n" + FORM + b"Transfer-Encoding: chunked\r\n\r\n5;a=", b"a" * 5000),
    ],
    ids=["headers", "one header", "the path", "trailers", "a chunk's extension"],
)
def test_bytes_that_no_route_takes_have_a_limit_and_are_given_back(model: Path, begun: bytes, piece: bytes) -> None:
    with serving(model, header_timeout_s=20.0, upload_timeout_s=20.0, request_timeout_s=40.0) as (port, app):
        connection = connect(port, begun)
        # The kernel's buffers on both sides take some megabytes that the service never reads.
        assert trickle(connection, piece, most_bytes=60_000_000) < 20_000_000
        connection.close()
        # The route gives back what it holds when it hears of the end, a moment after the connection is gone.
        wait_until(lambda: not app.clients and app.memory.held_bytes == 0)


def test_headers_count_as_held_memory(model: Path) -> None:
    with serving(model, max_buffered_mb=0.03) as (port, app):
        connections = [connect(port, b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 12_000) for _ in range(3)]
        wait_until(lambda: app.memory.held_bytes > 36_000)
        late = connect(port, b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 20_000)
        assert read_to_the_end(late).startswith(b"HTTP/1.1 503")
        for connection in (*connections, late):
            connection.close()


def test_a_body_in_small_chunks_is_taken(model: Path) -> None:
    content = photo_bytes(width=1200, height=900, kind="PNG")
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + content + b"\r\n--b--\r\n"
    pieces = (body[start : start + 200] for start in range(0, len(body), 200))
    with serving(model, upload_timeout_s=30.0, request_timeout_s=40.0) as (port, _):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        assert httpx.post(f"http://127.0.0.1:{port}/predict/file", content=pieces, headers=headers, timeout=30).status_code == 200


def test_one_address_has_a_share_and_others_have_theirs(model: Path) -> None:
    with serving(model, client_limit=3, header_timeout_s=20.0) as (port, app):
        held = [connect(port) for _ in range(3)]
        wait_until(lambda: app.clients["127.0.0.1"] == 3)
        assert read_to_the_end(connect(port)).startswith(b"HTTP/1.1 503")
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
            assert other.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        for connection in held:
            connection.close()
        wait_until(lambda: app.clients["127.0.0.1"] == 0)
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200


def test_an_answer_that_nobody_reads_is_given_up(model: Path) -> None:
    with serving(model) as (port, app):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        wait_until(lambda: app.clients["127.0.0.1"] == 1)
        wait_until(lambda: not app.clients, at_most_s=30)
        connection.close()


def test_a_sound_client_keeps_its_connection(model: Path) -> None:
    with serving(model) as (port, app), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(5):
            assert client.post("/predict/file", files={"file": ("x.jpg", photo_bytes(), "image/jpeg")}).status_code == 200
            assert client.post("/predict/file", files={"wrong": ("x.jpg", photo_bytes(), "image/jpeg")}).status_code == 422
            assert client.post("/nowhere", content=b"whole").status_code == 404
            assert "connection" not in client.get("/healthz").headers
        assert app.clients["127.0.0.1"] == 1
