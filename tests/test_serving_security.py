"""serving against strangers: hostile photos and bodies, URLs that lead inside, tokens, and a fuzz of both decoder and interface."""

import asyncio
import datetime
import io
import socket
import ssl
import struct
import threading
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import APIRouter, Request, Response
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr
from schemathesis.specs.openapi.checks import positive_data_acceptance

from carinspect.images.decode import FORMATS
from carinspect.serving import routes
from carinspect.serving.app import create_app
from carinspect.serving.config import ServiceConfig
from carinspect.serving.fetching import Fetcher, is_public, resolve
from carinspect.serving.middleware import Surroundings
from carinspect.serving.refusals import RefusalError
from carinspect.serving.routes import open_routes, photo_routes, protected_routes
from carinspect.serving.uploads import Reservation, UploadMemory
from serving_tools import TOKEN, photo_bytes


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[TestClient]:
    config = ServiceConfig(model_path=model, threads=1, max_upload_mb=2, max_pixels=4_000_000, upload_timeout_s=5)
    with TestClient(create_app(config)) as client:
        yield client


def send(client: TestClient, photo: bytes, content_type: str = "image/jpeg") -> Any:
    return client.post("/predict/file", files={"file": ("photo.jpg", photo, content_type)})


# ---- hostile photos


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly a byte behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("run.js", "alert(1)")
    return buffer.getvalue()


def flat_png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def text_bomb() -> bytes:
    """A PNG with a comment that unfolds to 64 MB."""
    photo = flat_png(64, 64)
    return photo[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 64_000_000, 9)) + photo[33:]


HOSTILE: dict[str, tuple[bytes, set[int]]] = {
    "empty": (b"", {415}),
    "text": (b"not a photo at all", {415}),
    "a header of 60,000 x 60,000 pixels": (png_header(60_000, 60_000), {413}),
    "a header of 2,147,483,647 pixels a side": (png_header(2**31 - 1, 2**31 - 1), {413, 415}),
    "a flat photo of 5,000 x 5,000 in few bytes": (flat_png(5_000, 5_000), {413}),
    "a bomb of a comment": (text_bomb(), {415, 422}),
    "a strip of 10,000 x 20": (flat_png(10_000, 20), {422}),
    "a strip of 20 x 10,000": (flat_png(20, 10_000), {422}),
    "a single pixel": (flat_png(1, 1), {422}),
    "a JPEG cut short": (photo_bytes()[:-100], {422}),
    "a JPEG cut short and closed": (photo_bytes(width=320, height=240)[:-1500] + b"\xff\xd9", {422}),
    "a PNG cut short": (photo_bytes(kind="PNG")[:200], {415, 422}),
    "a PNG without its rows": (png_header(64, 64), {422}),
    "a HEIC cut short": (photo_bytes(kind="HEIF")[:-100], {415, 422}),
    "a JPEG with an archive behind it": (photo_bytes() + archive(), {422}),
    "a JPEG with a script behind it": (photo_bytes() + b"<SCRIPT>alert(1)</SCRIPT>", {422}),
    "a PNG with PHP behind it": (photo_bytes(kind="PNG") + b"<?php system($_GET[0]); ?>", {422}),
    "a document with a photo behind it": (b"%PDF-1.7\n" + photo_bytes(), {415}),
    "a page with a photo behind it": (b"<html><script>alert(1)</script>" + photo_bytes(), {415}),
    "a GIF": (b"GIF89a" + bytes(40), {415}),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', {415}),
    "3 MB of noise behind a photo": (photo_bytes() + bytes(3_000_000), {413}),
}


def leaks(text: str) -> list[str]:
    """Signs that an answer tells of the inside."""
    return [sign for sign in ("Traceback", "site-packages", ".py", "/tmp", "0x", "Error(", "\n", "onnx") if sign in text]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_photo_gets_a_reason_and_nothing_of_the_inside(client: TestClient, name: str) -> None:
    content, statuses = HOSTILE[name]
    found = send(client, content)
    assert found.status_code in statuses, found.text
    assert leaks(found.text) == []
    assert len(found.json()["error"]) > 20


def test_sound_photos_are_still_taken_after_all_of_them(client: TestClient) -> None:
    for kind in FORMATS:
        assert send(client, photo_bytes(kind=kind)).status_code == 200, kind
    assert send(client, photo_bytes(kind="PNG"), "application/octet-stream").status_code == 200
    # Phones put a video behind a photo.
    assert send(client, photo_bytes() + b"\0\0\0\x18ftypmp42" + bytes(3000)).status_code == 200


def test_a_wrong_declared_type_is_refused(client: TestClient) -> None:
    assert send(client, photo_bytes(), "text/html").status_code == 415
    assert client.post("/predict/file", content=photo_bytes(), headers={"Content-Type": "image/jpeg"}).status_code == 415


def flip_bytes(content: bytes, places: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(content)
    for place, value in places:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)])


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"]),
    places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    cut=st.sampled_from([0, 0, 1, 100, 1000]),
)
def test_no_mutated_photo_is_more_than_an_answer_or_a_refusal(
    client: TestClient, kind: str, places: list[tuple[int, int]], cut: int
) -> None:
    found = send(client, flip_bytes(photo_bytes(kind=kind), places, cut))
    assert found.status_code in (200, 413, 415, 422), found.text
    if found.status_code != 200:
        assert leaks(found.text) == []


# ---- hostile bodies


def form(*parts: tuple[str, bytes], boundary: str = "b", end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(f"--{boundary}\r\n{headers}\r\n\r\n".encode() + content + b"\r\n" for headers, content in parts) + end


FILE = 'Content-Disposition: form-data; name="file"; filename="x.jpg"\r\nContent-Type: image/jpeg'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no form", 400),
        (form((FILE, photo_bytes()), end=b""), 400),
        (form((FILE.replace('"file"', '"other"'), photo_bytes())), 422),
        (form((FILE, photo_bytes()), ("Content-Disposition: form-data; name=x", b"1")), 422),
        (form((FILE, photo_bytes()), (FILE, photo_bytes())), 413),
        (form(("X: " + "y" * 100_000, b"")), 400),
        (form(("\r\n".join(f"X{place}: y" for place in range(1000)), b"")), 400),
        (b"--b--\r\n", 422),
    ],
)
def test_a_broken_form_is_refused(client: TestClient, body: bytes, status: int) -> None:
    found = client.post("/predict/file", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert found.status_code == status, found.text
    assert leaks(found.text) == []


@pytest.mark.parametrize("name", ["f\xf6to.jpg".encode("latin-1"), "föto 车.jpg".encode(), b'a\\"b.jpg', b"%0D%22.jpg", b""])
def test_the_name_of_a_photos_file_is_the_clients_own_affair(client: TestClient, name: bytes) -> None:
    body = form((FILE, photo_bytes())).replace(b"x.jpg", name)
    found = client.post("/predict/file", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert found.status_code == 200, found.text


async def call(app: Surroundings, chunks: AsyncIterator[bytes], headers: dict[str, str]) -> tuple[int, dict[bytes, bytes]]:
    """Send a body chunk by chunk, as a server would; the status and headers of the answer."""
    status, found = 0, {}

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.disconnect"}

    async def answer(message: Any) -> None:
        nonlocal status, found
        if message["type"] == "http.response.start":
            status, found = message["status"], dict(message["headers"])

    scope = {
        "type": "http", "method": "POST", "path": "/predict/file", "raw_path": b"/predict/file", "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1", "server": ("test", 80), "client": ("test", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    await app(scope, receive, answer)
    return status, found


FORM_HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}


def test_the_size_of_an_upload_is_checked_while_it_comes_in(model: Path) -> None:
    app = create_app(ServiceConfig(model_path=model, max_upload_mb=1))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield f"--b\r\n{FILE}\r\n\r\n".encode()
        while True:
            sent += 100_000
            yield bytes(100_000)

    status, headers = asyncio.run(call(app, endless(), FORM_HEADERS))
    assert (status, headers[b"connection"]) == (413, b"close")
    # What is read beyond the limit is thrown away, and bounded, too.
    assert sent < 25_000_000


def test_a_stated_size_beyond_the_limit_is_refused_unread(model: Path) -> None:
    app = create_app(ServiceConfig(model_path=model, max_upload_mb=1))

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    assert asyncio.run(call(app, nothing(), FORM_HEADERS | {"Content-Length": "50000000"}))[0] == 413


def test_a_body_that_trickles_is_given_up(model: Path) -> None:
    app = create_app(ServiceConfig(model_path=model, upload_timeout_s=0.3))

    async def trickle() -> AsyncIterator[bytes]:
        yield f"--b\r\n{FILE}\r\n\r\n".encode()
        while True:
            await asyncio.sleep(0.05)
            yield b"x"

    status, headers = asyncio.run(call(app, trickle(), FORM_HEADERS))
    assert (status, headers[b"connection"]) == (408, b"close")


def test_a_sender_that_goes_away_leaves_nothing_behind(model: Path) -> None:
    app = create_app(ServiceConfig(model_path=model))

    async def part() -> AsyncIterator[bytes]:
        yield f"--b\r\n{FILE}\r\n\r\n".encode() + bytes(10_000)

    assert asyncio.run(call(app, part(), FORM_HEADERS))[0] == 400
    assert app.app.state.service.memory.held_bytes == 0
    assert app.app.state.service.engine.waiting == 0


# ---- who may ask


def test_where_there_is_a_token_everything_that_matters_asks_for_it(model: Path) -> None:
    files = {"file": ("x.jpg", photo_bytes(), "image/jpeg")}
    asks: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/predict/file", {"files": files}),
        ("POST", "/predict/batch", {"files": {"files": files["file"]}}),
        ("POST", "/predict/url", {"json": {"url": "https://example.org"}}),
        ("GET", "/model", {}),
        ("GET", "/metrics", {}),
        ("POST", "/admin/reload", {}),
    ]
    with TestClient(create_app(ServiceConfig(model_path=model, api_token=SecretStr(TOKEN)))) as client:
        for method, path, body in asks:
            for given_token in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}):
                refused = client.request(method, path, headers=given_token, **body)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
            right = client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"}, **body)
            assert right.status_code == (403 if path == "/predict/url" else 200), path
        for path in ("/healthz", "/readyz", "/", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert client.get(path).status_code == 200


OPEN = {
    "/", "/healthz", "/readyz", "/openapi.json",
    "/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png",
}  # fmt: skip


def answers_without_token(app: Any) -> set[str]:
    """The paths, of all that `app` has, that do not refuse a request for want of the token."""
    all_routes = app.app.routes if isinstance(app, Surroundings) else app.routes
    with TestClient(app) as client:
        return {
            str(route.path)
            for route in iter_route_contexts(all_routes)
            for method in route.methods or ()
            if client.request(method, str(route.path)).status_code != 401
        }


def test_every_route_but_the_open_ones_refuses_without_the_token(model: Path) -> None:
    app = create_app(ServiceConfig(model_path=model, api_token=SecretStr(TOKEN)))
    assert answers_without_token(app) == OPEN
    # The photos' routes would refuse on FastAPI's own way, too.
    assert answers_without_token(app.app) == OPEN
    described = app.app.openapi()["paths"]
    assert {path for path, known in described.items() if any("security" in operation for operation in known.values())} == {
        *described
    } - OPEN


@pytest.mark.parametrize(("router", "open_to_all"), [(photo_routes, False), (protected_routes, False), (open_routes, True)])
def test_a_new_route_asks_for_what_its_router_asks(
    model: Path, monkeypatch: pytest.MonkeyPatch, router: APIRouter, open_to_all: bool
) -> None:
    async def new(request: Request) -> Response:
        return Response(request.url.path)

    monkeypatch.setattr(router, "routes", [*router.routes])
    router.add_api_route("/new", new, methods=["POST"])
    app = create_app(ServiceConfig(model_path=model, api_token=SecretStr(TOKEN)))
    assert ("/new" in answers_without_token(app)) == open_to_all
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.post("/new").text == "/new"
        assert 'carinspect_requests_total{route="/new",status="200"}' in client.get("/metrics").text


def test_photos_go_past_the_layers_of_fastapi_and_nothing_else_does(model: Path) -> None:
    app = create_app(ServiceConfig(model_path=model))
    seen: list[str] = []
    inner = app.app

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["path"])
        await inner(scope, receive, send)

    noted.state = inner.state  # type: ignore[attr-defined]
    app.app = noted  # type: ignore[assignment]
    with TestClient(app) as client:
        files = {"file": ("x.jpg", photo_bytes(), "image/jpeg")}
        asked = [("POST", "/predict/file", {"files": files}), ("POST", "/predict/url", {"json": {}}), ("POST", "/predict/batch", {})]
        for method, path, body in [*asked, ("GET", "/predict/file", {}), ("GET", "/model", {}), ("GET", "/metrics", {})]:
            client.request(method, path, **body)
    assert seen == ["/predict/file", "/model", "/metrics"]


def test_tokens_are_compared_in_constant_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    compare = routes.hmac.compare_digest
    monkeypatch.setattr(routes.hmac, "compare_digest", lambda *both: seen.append(both) or compare(*both))
    with TestClient(create_app(ServiceConfig(model_path=model, api_token=SecretStr(TOKEN)))) as client:
        client.get("/model", headers={"Authorization": "Bearer x"})
    assert seen == [(b"x", TOKEN.encode())] * 2


def test_without_a_token_the_model_cannot_be_replaced_over_http(client: TestClient) -> None:
    assert client.post("/admin/reload").status_code == 403


def test_no_other_site_may_read_an_answer(client: TestClient) -> None:
    for found in (
        client.get("/model", headers={"Origin": "https://evil.example"}),
        client.options("/predict/file", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}),
    ):
        assert not [name for name in found.headers if name.startswith("access-control")]


# ---- photos by URL


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.200", "169.254.169.254",
        "192.0.0.192", "168.63.129.16", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "198.18.0.1", "203.0.113.9",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8%1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001:0:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1",
        "no address",
    ],
)  # fmt: skip
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)


class _Handler(BaseHTTPRequestHandler):
    """/photo is one; /to/<where> redirects; the others misbehave, each in its way."""

    seen: list[dict[str, str]] = []

    def do_GET(self) -> None:  # noqa: N802
        self.seen.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Set-Cookie", "session=1")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            if self.path == "/endless":
                while True:
                    self.wfile.write(bytes(100_000))
            elif self.path == "/slow":
                threading.Event().wait(3)
            else:
                self.wfile.write(photo_bytes())
        except OSError:
            pass  # the service hung up, as it should

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def web(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server at 127.0.0.1; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Handler.seen.clear()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def fetch(url: str, *, hosts: str = "", allows: Callable[[str], bool] = lambda _: True, **options: Any) -> bytes:
    """Fetch with every name resolving to 127.0.0.1, unless `resolver` says otherwise."""
    config = ServiceConfig(allow_urls=True, allowed_url_hosts=hosts, max_upload_mb=1, url_timeout_s=1)

    async def here(host: str, port: int) -> list[str]:
        return [host if host[0].isdigit() else "127.0.0.1"]

    fetcher = Fetcher(config, **({"resolver": here, "allows": allows} | options))

    async def run() -> bytes:
        with Reservation(UploadMemory(10_000_000)) as reservation:
            return await fetcher.fetch(url, reservation)

    return asyncio.run(run())


def test_a_photo_is_fetched_from_an_allowed_host_with_its_own_name_and_nothing_else() -> None:
    with web() as port:
        host = f"photos.example.org:{port}"
        assert fetch(f"http://{host}/photo?size=1#part", hosts=host) == photo_bytes()
    (seen,) = _Handler.seen
    assert (seen["host"], seen["path"], seen["accept-encoding"]) == (host, "/photo?size=1", "identity")
    assert not {"cookie", "authorization", "referer", "x-forwarded-for"} & set(seen)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/endless", "MB at most"),
        ("/slow", "did not come within 1 s"),
        ("/gzip", "compressed form"),
        ("/missing", "status 404"),
        ("/to//to//to//to//to//photo", "redirects more than 3 times"),
        ("/to/http://169.254.169.254/latest/meta-data", "not one of those"),
        ("/to/file:///etc/passwd", "must begin with"),
        ("/to/gopher://photos.example.org/", "must begin with"),
    ],
)
def test_a_server_that_misbehaves_is_refused(path: str, reason: str) -> None:
    with web() as port, pytest.raises(RefusalError, match=reason) as refusal:
        fetch(f"http://photos.example.org:{port}{path}", hosts=f"photos.example.org:{port}")
    assert 400 <= refusal.value.status < 500
    assert leaks(refusal.value.reason) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/x", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("//example.org/x", "must begin with"),
        ("https:///x", "must begin with"),
        ("https://user:secret@example.org/", "user name or a password"),
        ("https://user@example.org/", "user name or a password"),
        ("http://example.org:22/", "port other than"),
        ("http://example.org:99999/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://127.0.0.1/", "not on the public internet"),
        ("http://0177.0.0.1/", "not on the public internet"),
        ("http://2130706433/", "not on the public internet"),
        ("http://[::ffff:127.0.0.1]/", "not on the public internet"),
        ("http://localhost/", "not on the public internet"),
        ("http://localhost./", "not on the public internet"),
    ],
)
def test_a_url_that_leads_inside_is_refused_before_anything_is_sent(url: str, reason: str) -> None:
    with pytest.raises(RefusalError, match=reason):
        fetch(url, allows=is_public, resolver=resolve)


def test_a_name_with_one_address_inside_is_refused() -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"]

    with pytest.raises(RefusalError, match="not on the public internet"):
        fetch("http://example.org/", allows=is_public, resolver=both)


def test_every_redirect_is_resolved_once_and_checked_again() -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    checked: list[str] = []
    with web() as port:
        hosts = f".example.org:{port}"
        url = f"http://a.example.org:{port}/to/http://b.example.org:{port}/photo"
        fetch(url, hosts=hosts, resolver=rebinding, allows=lambda address: not checked.append(address))  # type: ignore[func-returns-value]
        assert asked == ["a.example.org", "b.example.org"]
        assert checked == ["127.0.0.1"] * 2
        assert [seen["host"] for seen in _Handler.seen] == [f"a.example.org:{port}", f"b.example.org:{port}"]
        assert "cookie" not in _Handler.seen[1]
        with pytest.raises(RefusalError, match="not on the public internet"):
            fetch(url, hosts=hosts, resolver=rebinding, allows=lambda _: len(asked) < 4)


# ---- tricks with URLs, against a fake resolver and a fake network

OUTSIDE = "93.184.216.34"
_CLIENT, _TRUST = httpx.AsyncClient, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
INSIDE = ("127.0.0.1", "10.1.2.3", "172.16.9.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
NAMES = {"localhost": "127.0.0.1", "metadata.google.internal": "169.254.169.254", "ip6-localhost": "::1", "intranet": "10.1.2.3"}
BROKEN = ("http://[", "http://[::1", "//[::1", "http://]/", "http://xn--a/", "http://xn--/", "http://\x00/", "http://a\x7f/", "http://a:99999/",
          "http://a:x/", "http://a:-1/", "http://" + "a" * 64 + "/", "http://a..b/", "http://[v1.a]/", "http://[::1%25]/", "http://%00/",
          "http://\ud800/", "http://a b/", "http:///", "http://", "http:", "", "//", "http://?x", "http://#x", "http://./",
          "http://.")  # fmt: skip


def notations(address: str) -> Iterator[str]:
    """What means this IPv4 address to one resolver or another, as the host of a URL."""
    a, b, c, d = parts = [int(part) for part in address.split(".")]
    number = int.from_bytes(bytes(parts), "big")
    hexes = f"{number >> 16:x}:{number & 0xFFFF:x}"
    yield address
    yield f"{address}."
    yield from (f"{number}", f"{number:#x}", f"{number:#X}", f"0{number:o}", f"{number:#014x}")
    yield from (f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}", f"{a:#x}.{number & 0xFFFFFF:#x}")
    yield ".".join(f"0{part:o}" for part in parts)
    yield ".".join(f"{part:04o}" for part in parts)
    yield ".".join(f"{part:#x}" for part in parts)
    yield f"{a:#x}.0{b:o}.{c}.{d:#x}"
    yield from (
        f"[::ffff:{address}]",
        f"[::ffff:{hexes}]",
        f"[0:0:0:0:0:ffff:{hexes}]",
        f"[::FFFF:{address}]",
        f"[::ffff:{address}%25eth0]",
    )
    yield from (
        f"[::{address}]",
        f"[::{hexes}]",
        f"[2002:{hexes}::]",
        f"[64:ff9b::{address}]",
        f"[64:ff9b:1::{hexes}]",
        f"[2001:0:{hexes}::]",
    )
    for dot in "\u3002\uff0e\uff61":
        yield address.replace(".", dot)
    yield address.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})
    yield address.translate({ord("0") + digit: 0x1D7CE + digit for digit in range(10)})
    yield f"{address}.nip.io"


LITERALS_INSIDE = ("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[fc00::1]", "[fd00:ec2::254]",
                   "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "0", "0.0.0.0", "127.1", "127.255.255.254", "0x7f.1",
                   "017700000001")  # fmt: skip
SCHEMES = ("file", "ftp", "gopher", "dict", "ldap", "jar", "data", "javascript", "ws", "unix", "netdoc", "tftp", "HTTP+UNIX", "\thttp")
LEADS_INSIDE = (
    *(f"http://{host}/" for address in INSIDE for host in notations(address)),
    *(f"https://{host}/photo.jpg" for host in LITERALS_INSIDE),
    *(f"http://{name}/" for name in (*NAMES, "LOCALHOST", "localhost.", "loc\u00adalhost")),
    f"http://{'localhost'.translate({place: place - 97 + 0x24D0 for place in range(97, 123)})}/",
    *(f"{scheme}://127.0.0.1/" for scheme in SCHEMES[:-1]),
    *(f"http://{user}@127.0.0.1/" for user in ("a", "a:b", ":", "%40", "photos.example.org", "a.example.org:80", "example.org%2f")),
    *(f"http://127.0.0.1:{port}/" for port in (22, 80, 443, 6379, 8000, 11211)),
    "\thttp://127.0.0.1/", "http:\\\\127.0.0.1\\", "http:/127.0.0.1/", "///127.0.0.1/", "http://127.0.0.1\\@photos.example.org/",
    "http://127.0.0.1#@photos.example.org/", "http://127.0.0.1?@photos.example.org/", "ht\ntp://127.0.0.1/", "http://127.0.0.1\t/",
)  # fmt: skip
AMBIGUOUS = (
    *(f"http://photos.example.org{rest}127.0.0.1/" for rest in ("#@", "?@", "/@", "\\@", ";", "/..//")),
    *BROKEN, "\\\\127.0.0.1\\", "//127.0.0.1", "/photo@127.0.0.1", "?u=http://127.0.0.1", "http://127.0.0.1%2f.example.org/", "http://127%2e0%2e0%2e1/",
    "http://photos.example.org%00.127.0.0.1/", "http://[photos.example.org]/", "http://photos.example.org\r\nHost: 127.0.0.1/",
)  # fmt: skip


def resolve_like_a_system(host: str) -> str:
    """Any number that the C library takes for an address is one; other names are outside, unless they are known."""
    if host in NAMES:
        return NAMES[host]
    if host.endswith(".nip.io"):
        return host.removesuffix(".nip.io")
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return host if ":" in host else OUTSIDE


class Network:
    """Where connections go, as a stand-in for the network. `redirect` is what the first answer leads to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, redirect: str | None = None) -> None:
        self.reached: list[str] = []
        self.answers: dict[str, list[str]] = {}
        self._redirect = redirect
        network = self

        class Client(_CLIENT):  # type: ignore[valid-type, misc]
            def __init__(self, **options: Any) -> None:
                super().__init__(transport=httpx.MockTransport(network.answer), **options)

        monkeypatch.setattr("carinspect.serving.fetching.httpx.AsyncClient", Client)

    async def resolve(self, host: str, _: int) -> list[str]:
        """A name of `answers` has another address each time it is asked for."""
        return [self.answers[host].pop(0)] if host in self.answers else [resolve_like_a_system(host)]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """A name, where one gets here, is resolved once more, as a connection would."""
        first = not self.reached
        host = request.url.host
        self.reached += [host] if host.replace(".", "").isdigit() or ":" in host else await self.resolve(host, 80)
        if first and self._redirect is not None:
            return httpx.Response(302, headers=[(b"Location", self._redirect.encode("utf-8", "surrogatepass"))])
        return httpx.Response(200, stream=httpx.ByteStream(b"photo"))

    def fetch(self, url: str, *, allows: Callable[[str], bool] = is_public, kind: type[Fetcher] = Fetcher) -> str:
        """The word for what came of it."""
        fetcher = kind(ServiceConfig(allow_urls=True), resolver=self.resolve, allows=allows, trust=_TRUST)
        try:
            return asyncio.run(fetcher.fetch(url, Reservation(UploadMemory(1000)))).decode()
        except RefusalError as refusal:
            return "refused" if 400 <= refusal.status < 500 and not leaks(refusal.reason) else refusal.reason


def test_no_trick_with_a_url_leads_inside_directly_or_by_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(LEADS_INSIDE)) + len(set(AMBIGUOUS)) >= 280
    for url in LEADS_INSIDE:
        network = Network(monkeypatch)
        assert (network.fetch(url), network.reached) == ("refused", []), url
        network = Network(monkeypatch, redirect=url)
        network.fetch("http://photos.example.org/")
        assert set(network.reached) == {OUTSIDE}, url
    for url in AMBIGUOUS:
        for redirect in (None, url):
            network = Network(monkeypatch, redirect)
            outcome = network.fetch("http://photos.example.org/" if redirect else url)
            assert set(network.reached) <= {OUTSIDE}, url
            assert outcome == "refused" or network.reached, url


def test_without_the_check_of_addresses_the_tricks_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    for url in LEADS_INSIDE:
        network = Network(monkeypatch)
        network.fetch(url, allows=lambda _: True)
        reached += network.reached
    assert sum(address != OUTSIDE for address in reached) > 200
    assert set(reached) > set(INSIDE)


class _Forgetful(Fetcher):
    """Checks the address, and connects to the name."""

    async def _checked_address(self, host: str, port: int) -> str:
        await super()._checked_address(host, port)
        return host


@pytest.mark.parametrize("inside", [*INSIDE, "::1", "fd00:ec2::254"])
def test_a_name_that_points_elsewhere_a_moment_later_is_not_followed(monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    found = {}
    for kind in (Fetcher, _Forgetful):
        network = Network(monkeypatch, redirect="http://rebinding.example.org/second")
        network.answers["rebinding.example.org"] = [OUTSIDE, inside, inside]
        assert network.fetch("http://rebinding.example.org/first", kind=kind) == "refused"
        found[kind] = network.reached
    assert found == {Fetcher: [OUTSIDE], _Forgetful: [inside]}


def certificate(name: str, folder: Path) -> ssl.SSLContext:
    """A server's context for `name`, signed by itself; `folder`/<name>.pem is what a client must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_over_https_the_certificate_must_be_of_the_name_though_the_connection_goes_to_the_address(tmp_path: Path) -> None:
    context = certificate("photos.example.org", tmp_path)
    trust = ssl.create_default_context(cafile=str(tmp_path / "photos.example.org.pem"))
    with web(context) as port:
        assert fetch(f"https://photos.example.org:{port}/photo", hosts=f".example.org:{port}", trust=trust) == photo_bytes()
        with pytest.raises(RefusalError, match="could not be fetched"):
            fetch(f"https://other.example.org:{port}/photo", hosts=f".example.org:{port}", trust=trust)


def test_fetching_is_off_until_it_is_allowed_and_then_answers(model: Path) -> None:
    with web() as port:
        body = {"url": f"http://photos.example.org:{port}/photo"}
        with TestClient(create_app(ServiceConfig(model_path=model))) as client:
            assert client.post("/predict/url", json=body).status_code == 403
            assert not _Handler.seen
        config = ServiceConfig(model_path=model, allow_urls=True, allowed_url_hosts=f"photos.example.org:{port}")

        async def here(_: str, __: int) -> list[str]:
            return ["127.0.0.1"]

        with TestClient(create_app(config)) as client:
            assert client.post("/predict/url", json=body).status_code in (403, 422)
        with TestClient(create_app(config, fetcher=Fetcher(config, resolver=here, allows=lambda _: True))) as client:
            by_url = client.post("/predict/url", json=body).json()
            assert by_url["p_clean"] == send(client, photo_bytes()).json()["p_clean"]
            for wrong in ({}, {"url": 1}, {"url": "x", "more": 1}, []):
                assert client.post("/predict/url", json=wrong).status_code == 422
            assert client.post("/predict/url", json={"url": "x" * 10_000}).status_code == 413
            assert client.post("/predict/url", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


# ---- the interface against its own description


def test_the_interface_keeps_to_its_description(model: Path) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(ServiceConfig(model_path=model, threads=1, max_upload_mb=1)))
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def try_one(case: Any) -> None:
            nonlocal tried
            tried += 1
            # A description cannot say what makes a file a photo, so it calls some right that are not.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        try_one()
    assert tried > 60
