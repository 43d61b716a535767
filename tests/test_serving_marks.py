"""The service's marks: on every route that takes photos, in pixels of the upright photo, and a person's word on a car."""

import io
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest
from fastapi.testclient import TestClient
from PIL import ExifTags, Image

from carinspect.audit.inbox import FullError, Inbox, read_remarks
from carinspect.core.errors import UserError
from carinspect.inference.seal import seal
from carinspect.serving import photo_checks
from carinspect.serving.config import ServiceConfig
from carinspect.serving.loaded_model import load_model
from conftest import encode_photo
from serving_tools import client_of, model_bytes, photo_bytes
from test_marks import spotted

TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def spot(kind: str = "PNG", *, turned: bool = False, colour: str = "red") -> bytes:
    """640 x 480 pixels with a coloured upper left corner; turned: it is shown at the upper right one, of 480 x 640."""
    exif = {"exif": TURNED.tobytes()} if turned else {}
    return encode_photo(spotted(box=(0, 0, 160, 120), colour=colour), kind, **exif)


@pytest.fixture(scope="module")
def marking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("marking") / "best.onnx"
    path.write_bytes(model_bytes(with_maps=True))
    return path


@pytest.fixture(scope="module", params=[1, 4])
def client(marking_model: Path, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """A service that answers photos one by one, and one that answers them in batches."""
    with client_of(marking_model, batch_size=request.param) as client:
        yield client


def send(client: TestClient, *photos: bytes, query: str = "") -> Any:
    name, path = ("file", "/predict/file") if len(photos) == 1 else ("files", "/predict/batch")
    return client.post(f"{path}{query}", files=[(name, ("photo", photo, "image/png")) for photo in photos])


def test_marks_come_when_asked_for(client: TestClient) -> None:
    found = send(client, spot(), query="?marks=true").json()
    marks = found["marks"]
    assert (marks["width_px"], marks["height_px"], marks["without_pixel"]) == (640, 480, 0)
    (place,) = marks["places"]
    assert place == {
        "question": "damage", "kind": "damage", "polygon": [[0, 0], [160, 0], [160, 120], [0, 120]], "box": [0, 0, 160, 120],
        "share": 4 / 64, "strength": 1.0, "proved": True,
    }  # fmt: skip
    assert marks["in_words"] == {
        "cleanliness": "No place is marked as dirt.",
        "damage": "1 place is marked as damage. On photos like those it was tested on, at least 90 % of such places touch damage "
        "(95 % confidence).",
    }
    plain = send(client, spot()).json()
    assert plain["marks"] is None
    assert {name: found[name] for name in ("p_clean", "decision", "damage")} == {
        name: plain[name] for name in ("p_clean", "decision", "damage")
    }


def test_marks_without_a_proof_say_so(client: TestClient) -> None:
    marks = send(client, spot(colour="lime"), query="?marks=true").json()["marks"]
    assert [place["proved"] for place in marks["places"]] == [False]
    assert marks["in_words"]["cleanliness"] == "1 place is marked as dirt. No promise: it is not proved that such places are dirt."


# HEIF is decoded in a process of its own.
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "HEIF"])
def test_places_are_those_of_the_upright_photo(client: TestClient, kind: str) -> None:
    content = io.BytesIO()
    if kind == "TIFF":
        spotted(box=(0, 0, 160, 120), colour="red").save(content, "TIFF", exif=TURNED)
    marks = send(client, content.getvalue() or spot(kind, turned=True), query="?marks=true").json()["marks"]
    assert (marks["width_px"], marks["height_px"]) == (480, 640)
    assert [place["box"] for place in marks["places"]] == [[360, 0, 120, 160]]


def test_each_photo_of_a_car_has_its_marks(client: TestClient) -> None:
    found = send(client, spot(), b"no photo", spot(colour="black"), query="?car=true&marks=true").json()
    assert [item["answer"] and len(item["answer"]["marks"]["places"]) for item in found["photos"]] == [1, None, 0]
    assert found["car"] is None
    found = send(client, spot(), spot(colour="black"), query="?car=true&marks=true").json()
    assert set(found["car"]) == {"clean", "cleanliness", "damage"}


def test_a_model_without_maps_that_is_asked_for_marks_says_so_in_one_line(model: Path) -> None:
    with client_of(model) as client:
        for photos in ([spot()], [spot(), spot()]):
            refused = send(client, *photos, query="?marks=true")
            assert (refused.status_code, list(refused.json())) == (403, ["error"])
            assert "the model that is served marks no places, for it has no maps" in refused.json()["error"]
        assert client.post("/predict/url?marks=true", json={"url": "https://example.org"}).status_code == 403
        assert client.get("/model").json()["marks"] == {}


def test_the_description_has_the_switch_and_the_form(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    for path in ("/predict/file", "/predict/url", "/predict/batch"):
        said = description["paths"][path]["post"]
        assert "marks" in [parameter["name"] for parameter in said["parameters"]]
        assert "403" in said["responses"]
    forms = description["components"]["schemas"]
    assert set(forms["Mark"]["properties"]) == {"question", "kind", "polygon", "box", "share", "strength", "proved"}
    assert set(forms["MarksForm"]["properties"]) == {"width_px", "height_px", "places", "without_pixel", "in_words"}
    assert client.get("/model").json()["marks"]["damage"]["promise"]["bound"] == 0.92


def test_a_photo_whose_marks_nobody_asks_for_runs_without_the_maps(marking_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(marking_model, ServiceConfig(model_path=marking_model))
    assert model.marker is not None
    assert (model.predictor.bundle.has_maps, model.marker.bundle.has_maps) == (False, True)
    asked: list[Any] = []
    real = photo_checks.decode_checked
    monkeypatch.setattr(
        "carinspect.serving.engine.decode_checked", lambda checked, predictor: asked.append(predictor) or real(checked, predictor)
    )
    with client_of(marking_model) as client:
        send(client, spot())
        send(client, spot(), query="?marks=true")
    assert [predictor.bundle.has_maps for predictor in asked] == [False, True]


def test_a_model_with_rules_for_other_maps_than_it_has_is_not_served(tmp_path: Path) -> None:
    broken = onnx.load_from_string(model_bytes(with_maps=True))
    broken.graph.output[-1].name = "other"
    broken.graph.node[-1].output[0] = "other"
    (tmp_path / "best.onnx").write_bytes(seal(broken.SerializeToString()))
    with pytest.raises(UserError, match="rules for 2 maps, and its output 'marks' is None"):
        load_model(tmp_path / "best.onnx", ServiceConfig(model_path=tmp_path / "best.onnx"))


# ---- what a person says of a car


def say(client: TestClient, photos: list[bytes], *, verdict: str, version: str, question: str = "clean") -> Any:
    query = {"question": question, "verdict": verdict, "model_version": version}
    return client.post("/feedback/car", params=query, files=[("files", ("photo", photo, "image/png")) for photo in photos])


def test_a_remark_on_a_car_is_kept_with_all_of_its_photos_and_the_cars_word(model: Path, tmp_path: Path) -> None:
    photos = [photo_bytes(seed=seed) for seed in range(3)]
    with client_of(model, feedback_dir=tmp_path) as client:
        found = send(client, *photos, query="?car=true").json()
        kept = say(client, photos, verdict="clean", version=found["model_version"])
        assert (kept.status_code, kept.json()["word"]) == (200, found["car"]["clean"]["decision"])
        assert say(client, photos, verdict="clear", version=found["model_version"], question="weather").status_code == 422
        assert say(client, photos, verdict="clean", version="another").status_code == 409
        assert say(client, [*photos, b"no photo"], verdict="clean", version=found["model_version"]).status_code == 415
    remarks = read_remarks(tmp_path)
    assert [remark.photo_sha256 for remark in remarks] == [sha256(photo).hexdigest() for photo in photos]
    assert len({remark.car for remark in remarks}) == 1
    assert all(remark.of_several and remark.verdict == "clean" for remark in remarks)
    assert len(list((tmp_path / "photos").iterdir())) == 3


def test_a_car_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, keep_days=1.0, limit_bytes=250)
    said = {"model_sha256": "m", "question": "clean", "word": "clean", "verdict": "dirty"}
    with pytest.raises(FullError):
        inbox.add_car([b"a" * 100, b"b" * 100, b"c" * 100], **said)
    assert read_remarks(tmp_path) == []
    assert list((tmp_path / "photos").iterdir()) == []
    # The same photo twice is one photo, and no car of several.
    (remark,) = inbox.add_car([b"a" * 100, b"a" * 100], **said)
    assert not remark.of_several
