"""`carinspect score --marks`: one COCO file beside the table, whatever kills the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from carinspect.inference.bundle import open_bundle
from carinspect.inference.journal import journal_path
from carinspect.inference.marks import PhotoMarks
from carinspect.inference.marks_file import cell_of, write_marks
from carinspect.inference.predictor import make_predictor
from carinspect.labelling.coco import read_marks
from carinspect.labelling.records import Words
from test_cli import carinspect
from test_marks import spotted

ROOT = Path(__file__).parent.parent


@pytest.fixture
def marking_file(marking_content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "best.onnx"
    path.write_bytes(marking_content)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos with a damaged place each, number 4 turned, number 5 dirty too, number 6 no photo, number 7 of two pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        photo = spotted(box=(80 * (number % 4), 0, 80 * (number % 4) + 160, 120), colour="red")
        exif = Image.Exif()
        if number == 4:
            exif[ExifTags.Base.Orientation] = 6
        if number == 5:
            photo.paste("lime", (480, 360, 640, 480))
        if number == 7:
            photo = spotted(size=(2, 1), box=(0, 0, 1, 1), colour="red")
        photo.save(folder / f"{number}.png", exif=exif)
    (folder / "6.png").write_bytes(b"no photo")
    return folder


def score(photos: Path, model: Path, out: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return carinspect("score", photos, "--model", model, "--out", out, "--batch", 3, "--device", "cpu", *words)


def test_the_file_is_coco_and_says_where_and_what(photos: Path, marking_file: Path, tmp_path: Path) -> None:
    done = score(photos, marking_file, tmp_path / "scores.csv", "--marks", tmp_path / "marks.json")
    assert done.returncode == 1, done.stderr
    assert f"{tmp_path / 'marks.json'}: 10 marks on 9 photos" in done.stdout
    assert "at least 0.9 of the marks touch damage" in done.stderr
    words = Words({}, {"damage": "damage", "dirt": "dirt"})
    marks = read_marks(tmp_path / "marks.json", words)  # as `labels export --marks` reads it
    assert sum(map(len, marks.values())) == 10
    assert set(marks) == {str(photos / f"{number}.png") for number in range(10) if number != 6}
    coco = COCO(tmp_path / "marks.json")
    assert coco.dataset["info"]["folder"] == str(photos)
    names = {image["id"]: image["file_name"] for image in coco.dataset["images"]}
    # The one that could not be read has no size, and keeps its number.
    assert names == {number + 1: f"{number}.png" for number in range(10) if number != 6}
    assert {category["name"]: category["supercategory"] for category in coco.dataset["categories"]} == {
        "dirt": "cleanliness",
        "damage": "damage",
    }
    (turned,) = coco.imgToAnns[5]
    assert (coco.imgs[5]["width"], coco.imgs[5]["height"], turned["bbox"]) == (480, 640, [360, 0, 120, 160])
    assert (turned["score"], turned["attributes"]["proved"], turned["iscrowd"]) == (1.0, True, 0)
    for mark in coco.dataset["annotations"]:
        assert coco.annToMask(mark).sum() == mark["area"]
        assert coco.annToMask(mark).shape == (coco.imgs[mark["image_id"]]["height"], coco.imgs[mark["image_id"]]["width"])
    dirt, damage = coco.imgToAnns[6]
    assert [coco.cats[mark["category_id"]]["name"] for mark in (dirt, damage)] == ["dirt", "damage"]
    assert (dirt["bbox"], dirt["attributes"]["proved"]) == ([480, 360, 160, 120], False)


@pytest.mark.parametrize(
    ("names", "folder", "within"),
    [
        (["a/b/1.jpg", "a/c/2.jpg"], "a", ["b/1.jpg", "c/2.jpg"]),
        (["/x/y/1.jpg", "/x/y/2.jpg"], "/x/y", ["1.jpg", "2.jpg"]),
        (["../a/1.jpg", "../a/b/2.jpg"], "../a", ["1.jpg", "b/2.jpg"]),
        (["1.jpg", "b/2.jpg"], "", ["1.jpg", "b/2.jpg"]),
        (["ab/1.jpg", "a/2.jpg"], "", ["ab/1.jpg", "a/2.jpg"]),
        (["/x/1.jpg", "b/2.jpg"], "", ["/x/1.jpg", "b/2.jpg"]),
        ([], "", []),
    ],
)
def test_a_photo_is_named_from_the_folder_of_all(
    marking_content: bytes, tmp_path: Path, names: list[str], folder: str, within: list[str]
) -> None:
    cells = [(name, cell_of(PhotoMarks([], 0), width_px=4, height_px=3)) for name in names]
    write_marks(lambda: cells, tmp_path / "marks.json", make_predictor(open_bundle(marking_content, marks=True)))
    coco = json.loads((tmp_path / "marks.json").read_text())
    assert (coco["info"]["folder"], [image["file_name"] for image in coco["images"]]) == (folder, within)


@pytest.mark.slow
def test_datumaro_reads_the_file_as_cvat_does(photos: Path, marking_file: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datumaro.components.dataset")
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    score(photos, marking_file, tmp_path / "scores.csv", "--marks", root / "annotations" / "instances_default.json")
    (root / "images").symlink_to(photos)
    dataset = datasets.Dataset.import_from(str(root), "coco_instances")
    names = [category.name for category in next(iter(dataset.categories().values()))]
    found = {
        item.id: [(names[mark.label], mark.attributes["proved"], mark.points) for mark in item.annotations if mark.type.name == "polygon"]
        for item in dataset
    }
    # An item's name is the photo's within its folder, by which CVAT finds it in a task.
    assert found["4"] == [("damage", True, [360, 0, 480, 0, 480, 160, 360, 160])]
    assert sorted(mark[:2] for mark in found["5"]) == [("damage", True), ("dirt", False)]


def test_the_table_is_the_same_with_and_without_marks(photos: Path, marking_file: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        score(photos, marking_file, tmp_path / f"with.{suffix}", "--marks", tmp_path / "marks.json")
        score(photos, marking_file, tmp_path / f"without.{suffix}")
        assert (tmp_path / f"with.{suffix}").read_bytes() == (tmp_path / f"without.{suffix}").read_bytes()


def test_regions_without_a_pixel_are_counted(marking_file: Path, tmp_path: Path) -> None:
    # One cell of 0.4 pixels just reaches the cut.
    photo = Image.new("RGB", (3, 3), "black")
    photo.putpixel((0, 0), (130, 0, 0))
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "tiny.png")
    done = score(tmp_path / "photos", marking_file, tmp_path / "scores.csv", "--marks", tmp_path / "marks.json")
    assert "0 marks on 0 photos, 1 regions without a pixel left out" in done.stdout
    assert COCO(tmp_path / "marks.json").dataset["annotations"] == []


def test_a_killed_run_that_goes_on_ends_with_the_same_bytes(photos: Path, marking_file: Path, tmp_path: Path) -> None:
    names = [photos / f"{number}.png" for number in (0, 1, 2, 3, 4, 5, 7, 8, 9)]
    listed = pd.DataFrame({"photo": [f"copy{turn}/{name.name}" for turn in range(60) for name in names]})
    for turn in range(60):
        (photos / f"copy{turn}").symlink_to(".")
    listed.to_csv(photos / "list.csv", index=False)
    words: list[Any] = [
        "score",
        photos / "list.csv",
        "--column",
        "photo",
        "--model",
        marking_file,
        "--batch",
        3,
        "--workers",
        1,
        "--device",
        "cpu",
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert carinspect(*words, "--out", whole / "scores.csv", "--marks", whole / "marks.json").returncode == 0
    command = [
        sys.executable,
        "-m",
        "carinspect.cli.main",
        *map(str, words),
        "--out",
        str(parts / "scores.csv"),
        "--marks",
        str(parts / "marks.json"),
    ]
    journal = journal_path(parts / "scores.csv")
    for _ in range(2):
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > before + 4000):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (parts / "marks.json").exists()
    assert carinspect(*command[3:]).returncode == 0
    for name in ("scores.csv", "marks.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(path.name for path in parts.iterdir()) == ["marks.json", "scores.csv"]


def test_marks_and_no_marks_do_not_continue_each_other(photos: Path, marking_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    header = {"model_sha256": "x", "provider": "y", "batch": 3, "columns": [], "photos": 1, "photos_sha256": "z"}
    journal_path(out).write_text(json.dumps(header) + "\n")
    done = score(photos, marking_file, out, "--marks", tmp_path / "marks.json")
    assert done.returncode == 2
    assert "marks None, now True" in done.stderr


@pytest.mark.parametrize("marks", ["marks.txt", ""])
def test_a_senseless_name_is_refused_before_anything_is_scored(photos: Path, marking_file: Path, tmp_path: Path, marks: str) -> None:
    done = score(photos, marking_file, tmp_path / "scores.csv", "--marks", tmp_path / marks)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Name a file that ends in .json" in done.stderr
    assert not journal_path(tmp_path / "scores.csv").exists()


def test_a_model_without_maps_is_refused_in_one_line(photos: Path, model_file: Path, tmp_path: Path) -> None:
    done = score(photos, model_file, tmp_path / "scores.csv", "--marks", tmp_path / "marks.json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a model without maps, so it can mark no place" in done.stderr
    assert not (tmp_path / "scores.csv").exists()


def test_inspect_says_what_is_promised_about_marks(marking_file: Path, model_content: bytes, tmp_path: Path) -> None:
    said = carinspect("inspect", marking_file).stdout
    assert "output marks" in said
    assert "at least 0.9 of the marks touch damage, at the confidence 0.95" in said
    assert "a cell is marked as dirt from the probability 0.6000 on, without a promise" in said
    (tmp_path / "plain.onnx").write_bytes(model_content)
    assert "marks" not in carinspect("inspect", tmp_path / "plain.onnx").stdout
