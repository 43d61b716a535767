"""What people say of answers: kept by the service with the photo, deleted when asked, and made labels that only train."""

import json
import shutil
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from carinspect.annotations.sources import load_sources
from carinspect.audit.inbox import FullError, Inbox, read_remarks
from carinspect.cli.review import review_inbox
from carinspect.core.errors import UserError
from serving_tools import client_of, photo_bytes
from test_cli import carinspect

REPOSITORY = Path(__file__).parents[1]
TOKEN = "a token that nobody guesses"
ROOM = {"keep_days": 1.0, "limit_bytes": 10_000_000}
SAID = {"model_sha256": "m", "question": "clean", "word": "clean"}


def say(client: TestClient, photo: bytes, *, verdict: str, version: str, question: str = "clean", **headers: str) -> Any:
    query = {"question": question, "verdict": verdict, "model_version": version}
    return client.post("/feedback", params=query, files={"file": ("photo.jpg", photo, "image/jpeg")}, headers=headers)


# ---- the service


def test_a_remark_is_kept_with_its_photo_the_models_word_and_nothing_else(model: Path, tmp_path: Path) -> None:
    photo = photo_bytes()
    with client_of(model, feedback_dir=tmp_path / "inbox") as client:
        answer = client.post("/predict/file", files={"file": ("photo.jpg", photo, "image/jpeg")}).json()
        classes = client.get("/feedback").json()
        kept = say(client, photo, verdict="dirty", version=answer["model_version"]).json()
    assert classes["clean"] == ["dirty", "clean"]
    digest = sha256(photo).hexdigest()
    assert kept == {"photo_sha256": digest, "question": "clean", "word": answer["decision"], "verdict": "dirty"}
    (remark,) = read_remarks(tmp_path / "inbox")
    assert (remark.photo_sha256, remark.model_sha256, remark.verdict) == (digest, sha256(model.read_bytes()).hexdigest(), "dirty")
    assert (tmp_path / "inbox/photos" / digest).read_bytes() == photo
    assert {path.name for path in (tmp_path / "inbox").rglob("*")} == {".lock", "remarks.jsonl", "photos", digest}


def test_without_a_folder_nobody_is_asked_and_nothing_is_kept(model: Path) -> None:
    with client_of(model) as client:
        assert client.get("/feedback").status_code == 403
        refused = say(client, photo_bytes(), verdict="dirty", version="x")
    assert (refused.status_code, refused.json()["error"]) == (403, "Switched off here: CARINSPECT_FEEDBACK_DIR is not set.")


def test_a_wrong_remark_is_refused_and_not_kept(model: Path, tmp_path: Path) -> None:
    with client_of(model, feedback_dir=tmp_path) as client:
        version = client.get("/readyz").json()["model_version"]
        assert say(client, photo_bytes(), verdict="dirt", version=version).status_code == 422
        assert say(client, photo_bytes(), verdict="clean", version=version, question="damage").status_code == 422
        assert say(client, b"no photo", verdict="clean", version=version).status_code == 415
        other = say(client, photo_bytes(), verdict="clean", version="another")
        assert (other.status_code, "another model" in other.json()["error"]) == (409, True)
    assert read_remarks(tmp_path) == []
    assert list((tmp_path / "photos").iterdir()) == []


def test_a_photo_is_deleted_by_its_digest_by_who_has_the_token(model: Path, tmp_path: Path) -> None:
    photo, bearer = photo_bytes(), f"Bearer {TOKEN}"
    with client_of(model, feedback_dir=tmp_path, api_token=TOKEN) as client:
        version = client.get("/readyz").json()["model_version"]
        digest = say(client, photo, verdict="dirty", version=version, Authorization=bearer).json()["photo_sha256"]
        assert client.delete(f"/feedback/{digest}").status_code == 401
        assert say(client, photo, verdict="dirty", version=version).status_code == 401
        assert client.delete(f"/feedback/{digest}", headers={"Authorization": bearer}).json() == {"deleted": digest}
        assert client.delete(f"/feedback/{digest}", headers={"Authorization": bearer}).status_code == 404
    assert read_remarks(tmp_path) == []
    assert list((tmp_path / "photos").iterdir()) == []
    with client_of(model, feedback_dir=tmp_path) as client:
        assert client.delete(f"/feedback/{digest}").status_code == 403


def test_a_folder_that_cannot_be_written_stops_the_service_at_its_start(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="CARINSPECT_FEEDBACK_DIR: .* cannot be written: Not a directory"),
        client_of(model, feedback_dir=tmp_path / "file"),
    ):
        pass


# ---- the inbox


def test_an_inbox_has_an_end_in_time_and_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(tmp_path, **ROOM)
    inbox.add(b"old", verdict="clean", **SAID)
    lines = (tmp_path / "remarks.jsonl").read_text()
    (tmp_path / "remarks.jsonl").write_text(lines.replace(json.loads(lines)["at"], "2020-01-01T00:00:00+00:00"))
    inbox.add(b"new", verdict="clean", **SAID)
    assert [remark.photo_sha256 for remark in read_remarks(tmp_path)] == [sha256(b"new").hexdigest()]
    assert len(list((tmp_path / "photos").iterdir())) == 1
    with pytest.raises(FullError):
        Inbox(tmp_path, keep_days=1.0, limit_bytes=1000).add(b"x" * 900, verdict="clean", **SAID)
    assert len(read_remarks(tmp_path)) == 1


def test_a_torn_last_line_is_left_out_and_a_foreign_one_named(tmp_path: Path) -> None:
    Inbox(tmp_path, **ROOM).add(b"photo", verdict="clean", **SAID)
    path = tmp_path / "remarks.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert len(read_remarks(tmp_path)) == 1
    path.write_bytes(whole + b"{}\n")
    with pytest.raises(UserError, match="line 2 is no remark. Delete that line."):
        read_remarks(tmp_path)


# ---- the source


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a commented sources.yaml, and the project's params.yaml beside it."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/sources.yaml").write_text("sources:\n- name: shop  # the first one\n  format: folders\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def rows(root: Path) -> dict[str, tuple[str, ...]]:
    header, *lines = (root / "reviewed/labels.csv").read_text().splitlines()
    assert header == "image_path,clean,damaged,weather_condition"
    return {line.split(",")[0]: tuple(line.split(",")[1:]) for line in lines}


def test_remarks_become_a_source_whose_photos_only_train(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inbox, photos = Inbox(tmp_path / "inbox", **ROOM), [photo_bytes(seed=seed) for seed in range(5)]
    png = photo_bytes(seed=9, kind="PNG")
    for _ in range(2):
        inbox.add(photos[0], verdict="dirty", **SAID)  # the same answer twice
    inbox.add(photos[0], verdict="fog", **(SAID | {"question": "weather", "word": "rain"}))
    for verdict in ("clean", "dirty"):
        inbox.add(photos[1], verdict=verdict, **SAID)
    for photo in (*photos[2:4], png, b"no photo"):
        inbox.add(photo, verdict="clean", **SAID)
    names = [sha256(photo).hexdigest() for photo in photos]
    (tmp_path / "inbox/photos" / names[2]).unlink()
    (tmp_path / "inbox/photos" / names[3]).write_bytes(photos[4])

    assert review_inbox(tmp_path / "inbox", root, source="reviewed") == 0
    said = capsys.readouterr().out
    expected = {f"photos/{names[0]}.jpg": ("0", "", "2"), f"photos/{sha256(png).hexdigest()}.png": ("1", "", "")}
    assert rows(root) == expected
    assert (root / "reviewed/photos" / f"{names[0]}.jpg").read_bytes() == photos[0]
    assert "2 photos, 2 of them new" in said
    assert "Left out: 2 remarks, for people contradict each other about the photo." in said
    assert "Left out: 1 remarks, for the photo is gone." in said
    assert "Left out: 1 remarks, for the photo was altered." in said
    assert "Left out: 1 remarks, for the file is not a photo" in said
    text = (root / "sources.yaml").read_text()
    assert "# the first one" in text
    assert [(source.name, source.chosen_by_model) for source in load_sources(root / "sources.yaml").sources] == [
        ("shop", False),
        ("reviewed", True),
    ]

    # Again, and once more after somebody contradicted: nothing twice, and no label that people disagree about.
    review_inbox(tmp_path / "inbox", root, source="reviewed")
    assert "2 photos, 0 of them new" in capsys.readouterr().out
    assert (rows(root), (root / "sources.yaml").read_text()) == (expected, text)
    inbox.add(photos[0], verdict="clean", **SAID)
    review_inbox(tmp_path / "inbox", root, source="reviewed")
    assert rows(root)[f"photos/{names[0]}.jpg"] == ("", "", "2")


def test_a_good_car_is_good_in_all_photos_and_a_bad_one_does_not_say_where(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox, photos = Inbox(tmp_path / "inbox", **ROOM), [photo_bytes(seed=seed) for seed in range(5)]
    inbox.add_car(photos[:2], verdict="clean", **SAID)
    inbox.add_car(photos[2:4], verdict="dirty", **SAID)
    inbox.add_car(photos[4:], verdict="dirty", **SAID)
    review_inbox(tmp_path / "inbox", root, source="reviewed")
    names = [f"photos/{sha256(photo).hexdigest()}.jpg" for photo in photos]
    assert rows(root) == {names[0]: ("1", "", ""), names[1]: ("1", "", ""), names[4]: ("0", "", "")}
    assert "Left out: 2 remarks, for the car has several photos, and it is not said which of them shows it." in capsys.readouterr().out


def test_lines_from_before_cars_are_read(tmp_path: Path) -> None:
    remark = Inbox(tmp_path, **ROOM).add(b"photo", verdict="clean", **SAID)
    older = asdict(remark)
    del older["car"]
    (tmp_path / "remarks.jsonl").write_text(json.dumps(older) + "\n")
    assert read_remarks(tmp_path) == [remark]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": "clen"}, "no question is called 'clen'. Did you mean 'clean'?"),
        ({"verdict": "dirt"}, "'dirt' is no class of clean. Did you mean 'dirty'?"),
    ],
)
def test_a_remark_of_another_model_with_unknown_words_is_named_and_adds_nothing(
    root: Path, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    Inbox(tmp_path / "inbox", **ROOM).add(photo_bytes(), **(SAID | {"verdict": "clean"} | change))
    done = carinspect("review", str(tmp_path / "inbox"), "--into", str(root), folder=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (root / "reviewed").exists()
    assert "reviewed" not in (root / "sources.yaml").read_text()


def test_an_inbox_without_a_usable_remark_adds_no_source(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Inbox(tmp_path / "inbox", **ROOM).add(b"no photo", verdict="clean", **SAID)
    assert review_inbox(tmp_path / "inbox", root, source="reviewed") == 0
    assert "Left out: 1 remarks, for the file is not a photo" in capsys.readouterr().out
    assert "reviewed" not in (root / "sources.yaml").read_text()
    assert not (root / "reviewed").exists()


def test_what_is_no_inbox_and_what_is_another_source_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no remarks.jsonl in it. Name the folder"):
        review_inbox(tmp_path, root, source="reviewed")
    Inbox(tmp_path / "inbox", **ROOM).add(photo_bytes(), verdict="clean", **SAID)
    with pytest.raises(UserError, match="the source 'shop' is another one. Choose a name for this one: --source."):
        review_inbox(tmp_path / "inbox", root, source="shop")
    assert yaml.safe_load((root / "sources.yaml").read_text()) == {"sources": [{"name": "shop", "format": "folders"}]}
