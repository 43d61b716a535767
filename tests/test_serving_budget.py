"""What a photo may cost, and what a machine's fault costs: heavy photos, the drift log."""

import asyncio
import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from carinspect.images.decode import PhotoError, decode_photo, load_image, open_photo
from carinspect.inference import drift_log
from carinspect.serving import heavy_photos, photo_checks
from carinspect.serving.app import create_app
from carinspect.serving.config import ServiceConfig
from carinspect.serving.fetching import Fetcher
from carinspect.serving.refusals import RefusalError
from carinspect.serving.uploads import Reservation, UploadMemory
from serving_tools import SIDE, photo_bytes


@pytest.fixture
def client(model: Path) -> Iterator[TestClient]:
    with TestClient(create_app(ServiceConfig(model_path=model, threads=2))) as client:
        yield client


def saved(width: int, height: int, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind, **options)
    return buffer.getvalue()


def empty_scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG with `count` more scans that refine nothing."""
    photo = saved(width, height, "JPEG", progressive=True)
    # Successive refinement of one coefficient's lowest bit, with no bits to read: ITU-T T.81, B.2.3.
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0)
    return photo[:-2] + scan * count + photo[-2:]


def many_scans(width: int, height: int, refined: int) -> bytes:
    """A sound, plain grey JPEG of 64 + 13 x `refined` scans: so many of its coefficients come bit by bit. Source: ITU-T T.81, B and G."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content

    def table(kind: int, symbol: int) -> bytes:
        return segment(0xC4, bytes([kind, 1, *bytes(15), symbol]))  # of one symbol: its code is the bit 0

    def scan(place: int, high: int, low: int, bits: int) -> bytes:
        return segment(0xDA, bytes([1, 1, 0, place, place, high << 4 | low])) + bytes(bits // 8) + bytes([0xFF >> bits % 8])

    blocks = -(-width // 8) * -(-height // 8)
    # "Nothing more in this block and the next 2^14 - 1" (G.1.2.2): the code and 14 bits.
    ends = -(-blocks // 2**14) * 15
    frame = segment(0xC2, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0))
    scans = [scan(0, 0, 0, blocks)]
    for place in range(1, 64):
        first = 13 if place <= refined else 0
        scans += [scan(place, 0 if low == first else low + 1, low, ends) for low in range(first, -1, -1)]
    return b"\xff\xd8" + segment(0xDB, bytes([0] + [1] * 64)) + frame + table(0, 0) + table(0x10, 0xE0) + b"".join(scans) + b"\xff\xd9"


def heavy(content: bytes) -> bool:
    return heavy_photos.is_heavy(open_photo(content), content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (photo_bytes(), False),
        (saved(4000, 3000, "JPEG"), False),
        (saved(7000, 5000, "JPEG"), False),  # decoded at a reduced scale
        (saved(4000, 3000, "JPEG", progressive=True), False),
        (saved(7000, 5000, "JPEG", progressive=True), True),
        (empty_scans(500, 400, 50), False),
        (empty_scans(500, 400, 20_000), True),
        (many_scans(4000, 3000, 0), True),
        (saved(4000, 3000, "PNG"), False),
        (saved(6000, 4000, "PNG"), True),
        (saved(2500, 2000, "PNG", "I;16"), True),
    ],
)
def test_the_header_tells_what_a_photo_costs(content: bytes, expected: bool) -> None:
    assert heavy(content) is expected


def test_what_looks_like_scans_behind_a_usual_photo_is_none() -> None:
    assert not heavy(saved(4000, 3000, "JPEG") + b"\xff\xda" * 10_000)


def test_a_photo_decoded_apart_is_the_same() -> None:
    content = photo_bytes(seed=3, width=600, height=400, kind="PNG")
    pixels, size_px = heavy_photos.decode_apart(content, SIDE)
    assert np.array_equal(pixels, load_image(content, SIDE))
    assert size_px == decode_photo(content).size


def send(client: TestClient, content: bytes) -> Any:
    return client.post("/predict/file", files={"file": ("x", content, "image/jpeg")})


def test_a_large_sound_photo_is_answered_and_a_large_damaged_one_refused(client: TestClient) -> None:
    content = saved(7000, 6000, "PNG")
    assert send(client, content).status_code == 200
    assert send(client, content[:-5000]).status_code == 422


def test_a_photo_beyond_its_seconds_is_ended(client: TestClient) -> None:
    before = {child.pid for child in psutil.Process().children()}
    found = send(client, many_scans(8000, 7000, 60))
    assert (found.status_code, "to decode the photo takes more than" in found.json()["error"]) == (413, True)
    assert {child.pid for child in psutil.Process().children()} <= before
    assert client.get("/readyz").status_code == 200


def test_a_jpeg_of_empty_scans_or_of_more_than_any_encoder_makes_is_refused(client: TestClient) -> None:
    assert send(client, many_scans(800, 600, 60)).status_code == 200
    for bomb in (empty_scans(8000, 7000, 40_000), empty_scans(500, 400, 50)):
        assert send(client, bomb).status_code == 422
    with pytest.raises(PhotoError, match="more than 1,000 scans"):
        load_image(many_scans(80, 60, 60)[:-2] + many_scans(80, 60, 60)[2:], SIDE)


def test_a_photo_beyond_its_memory_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A copy of the module with a smaller limit, for the process reads it anew.
    package = tmp_path / "small.py"
    package.write_text(Path(heavy_photos.__file__).read_text().replace("340_000_000", "40_000_000"))
    content = saved(6000, 4000, "PNG")
    done = subprocess.run([sys.executable, package, "32", str(os.getpid())], input=content, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_heic_photo_is_always_decoded_apart(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    content = photo_bytes(kind="HEIF")
    assert heavy(content)
    apart: list[int] = []
    real = photo_checks.decode_apart
    monkeypatch.setattr(photo_checks, "decode_apart", lambda content, side: apart.append(side) or real(content, side))
    assert send(client, content).status_code == 200
    assert send(client, content[:-20]).status_code in (415, 422)
    assert apart[:1] == [SIDE]


def test_a_batch_of_bombs_is_refused_undecoded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heavy_photos, "decode_apart", None)
    bomb = saved(16383, 3600, "WEBP", lossless=True, method=0)
    found = client.post("/predict/batch", files=[("files", ("x", bomb, "image/webp"))] * 16)
    assert found.status_code == 413
    assert client.post("/predict/batch", files=[("files", ("x", photo_bytes(), "image/jpeg"))] * 16).status_code == 200


def test_a_service_that_answers_nothing_is_not_ready(client: TestClient) -> None:
    service = client.app.app.state.service  # type: ignore[attr-defined]
    with service.admission(1):
        assert client.get("/readyz").status_code == 200
        service.engine.progress_at -= 60
        assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").status_code == 200


# ---- the drift log


@pytest.mark.parametrize("kind", ["a folder", "below a file"])
def test_a_drift_log_that_cannot_be_written_is_refused_at_the_start(model: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path if kind == "a folder" else tmp_path / "file" / "drift.jsonl"
    with pytest.raises(drift_log.UserError, match="CARINSPECT_DRIFT_LOG has the value"):
        create_app(ServiceConfig(model_path=model, drift_log=path))


def test_a_full_disk_is_counted_and_loses_neither_answers_nor_photos(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drift.jsonl"
    write, full, threads = os.write, [True], []

    def write_unless_full(place: int, line: bytes) -> int:
        threads.append(threading.current_thread().name)
        return write(place, line[:10]) if full[0] else write(place, line)

    app = create_app(ServiceConfig(model_path=model, drift_log=path, drift_window_s=1e-6))
    with TestClient(app) as client:
        monkeypatch.setattr(drift_log.os, "write", write_unless_full)
        assert [send(client, photo_bytes(seed=seed)).status_code for seed in range(25)] == [200] * 25
        assert "carinspect_drift_log_failures_total 6.0" in client.get("/metrics").text
        assert path.read_bytes() == b""
        full[0] = False
        assert send(client, photo_bytes()).status_code == 200
    assert [line["photos"] for line in drift_log.read_log(path)] == [26]
    assert {name.partition("_")[0] for name in threads} == {"measure"}


# ---- addresses, tokens


@pytest.mark.anyio
@pytest.mark.parametrize("following", ["http://[", "http://xn--a/", "http://\x00/", "//[::1", "http://a:99999/"])
async def test_a_redirect_to_a_broken_name_is_the_senders_mistake(following: str) -> None:
    fetcher = Fetcher(ServiceConfig(allow_urls=True))

    async def redirect(url: str, _: Reservation) -> tuple[bytes, str | None]:
        fetcher._checked_parts(url)
        return b"", following

    fetcher._get = redirect  # type: ignore[method-assign]
    with pytest.raises(RefusalError) as refused:
        await fetcher.fetch("http://example.org/", Reservation(UploadMemory(1000)))
    assert refused.value.status == 422


@pytest.mark.anyio
async def test_names_that_never_answer_keep_no_other_from_its_address() -> None:
    async def answer(host: str, _: int) -> list[str]:
        if host.endswith("slow.org"):
            await asyncio.sleep(3600)
        return ["8.8.8.8"]

    fetcher = Fetcher(ServiceConfig(allow_urls=True), resolver=answer)
    slow = [asyncio.ensure_future(fetcher._resolve(f"{place}.slow.org", 80)) for place in range(64)]
    assert await fetcher._resolve("quick.org", 80) == ["8.8.8.8"]
    await asyncio.sleep(0)
    refused = [task for task in slow if task.done() and isinstance(task.exception(), RefusalError)]
    assert len(refused) == 60
    for task in slow:
        task.cancel()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("header", ["bearer {}", "BEARER  {}", "Bearer {}"])
@pytest.mark.parametrize("code", ["utf-8", "latin-1"])
def test_a_token_is_known_in_either_code_and_its_scheme_in_any_case(model: Path, header: str, code: str) -> None:
    token = "schlüssel-der-lang-genug-ist"
    with TestClient(create_app(ServiceConfig(model_path=model, api_token=token))) as client:
        assert client.get("/model", headers={"Authorization": header.format(token).encode(code)}).status_code == 200
        assert client.get("/model", headers={"Authorization": header.format(token[:-1]).encode(code)}).status_code == 401


def test_probes_may_ask_by_head_and_no_path_redirects(client: TestClient) -> None:
    assert [client.head(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert client.post("/predict/file/", follow_redirects=False).status_code == 404
