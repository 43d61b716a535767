"""The demo data root: the same bytes from the same seed, every trap in its place, and outlines that fit what is drawn."""

import csv
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.demo.config import MINIMUM_PHOTOS, RenderDemoParams
from carinspect.demo.develop import outline, tell_truth
from carinspect.demo.marks import Damage
from carinspect.demo.photo import Picture, draw_photo
from carinspect.demo.root import render_data_root
from carinspect.demo.scene import SEVERITY, PhotoPlan, Subject, choose_photo_plan, choose_subject
from carinspect.images.decode import PhotoError, decode_photo

SMALL = RenderDemoParams(seed=7, photos=MINIMUM_PHOTOS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("demo") / "root"
    return root, render_data_root(root, SMALL, processes=1)


def fingerprints(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def exports(root: Path) -> dict[str, dict]:
    return {split: json.loads((root / "body_shop" / split / "_annotations.coco.json").read_text()) for split in ("train", "valid", "test")}


def test_the_same_seed_draws_the_same_bytes_with_any_number_of_processes(drawn: tuple[Path, dict], tmp_path: Path) -> None:
    root, metrics = drawn
    assert render_data_root(tmp_path / "again", SMALL, processes=2) == metrics
    assert fingerprints(tmp_path / "again") == fingerprints(root)


def test_another_seed_draws_other_photos(drawn: tuple[Path, dict], tmp_path: Path) -> None:
    render_data_root(tmp_path / "other", RenderDemoParams(seed=8, photos=MINIMUM_PHOTOS), processes=1)
    old, new = fingerprints(drawn[0]), fingerprints(tmp_path / "other")
    same = {old[path] for path in old if path.endswith((".jpg", ".png", ".webp"))} & set(new.values())
    assert len(same) == 2, "the empty file and the text, and no photo"


def test_too_few_photos_are_refused_with_the_minimum() -> None:
    with pytest.raises(UserError, match=rf"render_demo\.photos: 3 photos are too few .* The minimum is {MINIMUM_PHOTOS}\."):
        parse_section("render_demo", RenderDemoParams, {"seed": 1, "photos": 3})


def test_a_root_that_stands_there_is_replaced_and_nothing_is_left_beside_it(drawn: tuple[Path, dict], tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "old.txt").write_text("old")
    (tmp_path / ".root.partial").mkdir()
    (tmp_path / ".root.partial" / "of a killed run.txt").write_text("half")
    render_data_root(tmp_path / "root", SMALL, processes=1)
    assert fingerprints(tmp_path / "root") == fingerprints(drawn[0])
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_every_class_folder_and_category_stands_in_sources_yaml(drawn: tuple[Path, dict]) -> None:
    root, _ = drawn
    sources = {source["name"]: source for source in yaml.safe_load((root / "sources.yaml").read_text())["sources"]}
    assert {path.name for path in (root / "dashcam").iterdir()} == set(sources["dashcam"]["categories"])
    assert {path.name for path in (root / "wash").glob("*/*")} == set(sources["wash"]["categories"])
    for export in exports(root).values():
        assert {category["name"] for category in export["categories"]} == set(sources["body_shop"]["categories"])
    boxes = json.loads((root / "boxes" / "annotations.json").read_text())
    assert {category["name"] for category in boxes["categories"]} == set(sources["boxes"]["categories"])
    assert (root / sources["fleet"]["path"]).is_file()


def test_every_split_and_class_of_the_folders_holds_photos(drawn: tuple[Path, dict]) -> None:
    for folder in ("train/clean", "train/dirty", "test/clean", "test/dirty"):
        assert any((drawn[0] / "wash" / folder).glob("*car*.jpg")), folder


def test_the_traps_among_the_files_are_there(drawn: tuple[Path, dict]) -> None:
    root, metrics = drawn
    traps = {name: root / path for name, path in metrics["traps"].items()}
    hashes = list(fingerprints(root).values())
    assert hashes.count(hashlib.sha256(traps["same bytes in another source"].read_bytes()).hexdigest()) == 2
    for broken in ("truncated JPEG", "zero bytes", "text named .jpg"):
        with pytest.raises(PhotoError):
            decode_photo(traps[broken])
    names = [path.name for path in root.rglob("*")]
    assert any(" " in name and name.endswith(".jpg") for name in names)
    assert any(name.startswith("-") for name in names)
    assert {Image.open(path).format for path in (root / "dashcam").rglob("*.[pw]*")} == {"PNG", "WEBP"}


def test_the_near_duplicate_shows_a_photo_of_another_source(drawn: tuple[Path, dict]) -> None:
    root, metrics = drawn

    def thumbnail(path: Path) -> np.ndarray:
        return np.asarray(decode_photo(path).convert("L").resize((32, 32)), float).ravel()

    forwarded = thumbnail(root / metrics["traps"]["near duplicate in another source"])
    others = sorted(
        np.corrcoef(forwarded, thumbnail(path))[0, 1] for path in (root / "dashcam").rglob("*.jpg") if path.name.startswith("frame_0")
    )
    assert others[-1] > 0.99 > others[-2]


def test_photos_with_an_orientation_stand_upright_once_it_is_applied(drawn: tuple[Path, dict]) -> None:
    turned = [path for path in (drawn[0] / "wash").rglob("car0*.jpg") if Image.open(path).getexif().get(0x0112, 1) != 1]
    assert {Image.open(path).getexif()[0x0112] for path in turned} == {3, 6, 8}
    for path in turned:
        pixels = np.asarray(decode_photo(path), float).mean(axis=2)
        height = len(pixels) // 6
        # Grain and wheels are below, the calm sky or wall is above.
        assert np.abs(np.diff(pixels[:height], axis=1)).mean() < np.abs(np.diff(pixels[-2 * height : -height], axis=1)).mean()


def test_copies_of_a_train_photo_lie_in_valid_and_in_test(drawn: tuple[Path, dict]) -> None:
    stems = {split: {image["file_name"].split(".rf.")[0] for image in export["images"]} for split, export in exports(drawn[0]).items()}
    assert stems["train"] & stems["valid"]
    assert stems["train"] & stems["test"]


def test_the_exports_have_the_habits_of_real_ones(drawn: tuple[Path, dict]) -> None:
    found = exports(drawn[0]).values()
    annotations = [annotation for export in found for annotation in export["annotations"]]
    assert all(annotation["area"] == pytest.approx(annotation["bbox"][2] * annotation["bbox"][3], abs=0.01) for annotation in annotations)
    assert any(isinstance(annotation["segmentation"], dict) for annotation in annotations)
    assert any(isinstance(annotation["segmentation"], list) and len(annotation["segmentation"]) > 1 for annotation in annotations)
    beyond = 0
    for export in found:
        images = {image["id"]: image for image in export["images"]}
        for annotation in export["annotations"]:
            if isinstance(annotation["segmentation"], list):
                corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]])
                image = images[annotation["image_id"]]
                beyond += bool((corners < 0).any() or (corners > (image["width"], image["height"])).any())
        assert not any(annotation["category_id"] == 0 for annotation in export["annotations"]), "the supercategory's row is empty"
    assert beyond == 1
    boxes = json.loads((drawn[0] / "boxes" / "annotations.json").read_text())["annotations"]
    assert boxes
    assert all(annotation["segmentation"] == [] for annotation in boxes)


def test_run_lengths_say_what_their_boxes_say(drawn: tuple[Path, dict]) -> None:
    annotations = [annotation for export in exports(drawn[0]).values() for annotation in export["annotations"]]
    for annotation in annotations:
        if isinstance(annotation["segmentation"], list):
            continue
        code = annotation["segmentation"]
        if isinstance(code["counts"], list):
            assert sum(code["counts"]) == code["size"][0] * code["size"][1]
            code = coco_mask.frPyObjects(code, *code["size"])
        assert np.allclose(coco_mask.toBbox(code), annotation["bbox"], atol=1.5)


def test_the_json_files_name_every_photo_with_its_size(drawn: tuple[Path, dict]) -> None:
    for split, export in exports(drawn[0]).items():
        folder = drawn[0] / "body_shop" / split
        assert {image["file_name"] for image in export["images"]} == {path.name for path in folder.glob("*.jpg")}
        for image in export["images"]:
            assert Image.open(folder / image["file_name"]).size == (image["width"], image["height"])


def test_the_fleet_has_several_photos_of_a_vehicle_and_one_without_labels(drawn: tuple[Path, dict]) -> None:
    rows = list(csv.DictReader(io.StringIO((drawn[0] / "fleet" / "labels.csv").read_text())))
    labels = ("cleanliness_score", "damage_score", "weather_condition", "clean")
    assert sum(not any(row[label] for label in labels) for row in rows) == 1
    assert len({row["vehicle_id"] for row in rows}) < len(rows)
    assert all((drawn[0] / "fleet" / row["image_path"]).is_file() for row in rows)
    assert all(float(row["damage_score"] or 1) <= 1 for row in rows)


def scene(index: int, *, weather: str = "clear", dirty: bool = True, damaged: bool = True) -> PhotoPlan:
    return choose_photo_plan(index, choose_subject(index, dirty=dirty, damaged=damaged), weather=weather)  # type: ignore[arg-type]


def without(plan: PhotoPlan, **states: object) -> PhotoPlan:
    return replace(plan, subject=replace(plan.subject, **states))  # type: ignore[arg-type]


def changed(first: Picture, second: Picture) -> np.ndarray:
    return np.abs(first.pixels.astype(int) - second.pixels.astype(int)).max(axis=2) > 10


def outlined(picture: Picture, kinds: set[str]) -> np.ndarray:
    """The polygons' pixels, filled by pycocotools."""
    height, width = picture.pixels.shape[:2]
    polygons = [polygon for mark in tell_truth(picture).marks if mark.kind in kinds for polygon in mark.polygons]
    if not polygons:
        return np.zeros((height, width), bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


DAMAGE = {"scratch", "dent", "rust", "broken"}


def fit(plan: PhotoPlan, bare: PhotoPlan, kinds: set[str]) -> tuple[float, float]:
    """Share of the changed pixels that the outlines cover, and share of the outlined pixels that changed."""
    picture = draw_photo(plan)
    difference, labelled = changed(picture, draw_photo(bare)), outlined(picture, kinds)
    # A camera's blur carries an edge one pixel further.
    blurred = cv2.dilate(labelled.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return (difference & blurred).sum() / difference.sum(), (difference & labelled).sum() / labelled.sum()


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5, 6])
def test_outlines_of_damage_cover_what_the_damage_changed(index: int) -> None:
    plan = scene(index)
    covered, real = fit(plan, without(plan, damages=()), DAMAGE)
    assert covered > 0.85
    assert real > 0.75


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5, 6])
def test_outlines_of_dirt_cover_what_the_dirt_changed(index: int) -> None:
    plan = scene(index, damaged=False)
    covered, real = fit(plan, without(plan, dirt=None), {"dirt", "mud"})
    assert covered > 0.8
    assert real > 0.8


def test_the_check_of_outlines_can_fail() -> None:
    """The same check on outlines of another car's damage."""
    plan, other = scene(1), scene(2)
    difference = changed(draw_photo(plan), draw_photo(without(plan, damages=())))
    elsewhere = outlined(draw_photo(replace(other, width_px=plan.width_px, height_px=plan.height_px)), DAMAGE)
    assert (difference & elsewhere).sum() / difference.sum() < 0.5


@pytest.mark.parametrize("weather", ["clear", "rain", "fog", "snow"])
def test_marks_lie_on_the_vehicle(weather: str) -> None:
    for index in range(3):
        picture = draw_photo(scene(index, weather=weather))
        vehicle = outlined(picture, {"vehicle"})
        marks = outlined(picture, DAMAGE | {"dirt", "mud"})
        assert marks.any()
        assert (marks & ~vehicle).sum() < 0.03 * marks.sum()


def test_polygons_have_the_area_of_their_mask() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[40:120, 60:200] = 255
    (polygon,) = outline(mask)
    corners = np.reshape(polygon, (-1, 2))
    # Shoelace formula, against the mask's area at half its resolution.
    x, y = corners.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert area == pytest.approx(80 * 140 / 4, rel=0.03)


def test_a_window_amid_dirt_is_not_labelled_as_dirt() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[20:180, 40:260] = 255
    mask[60:120, 100:160] = 0
    filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(list(outline(mask)), 100, 150))).astype(bool)
    truth = mask[::2, ::2] > 0
    assert (filled & truth).sum() / (filled | truth).sum() > 0.96


def test_scores_follow_the_formula() -> None:
    vehicle = np.full((100, 100), 255, np.uint8)
    dent, other_dent, rust = (np.zeros((100, 100), np.uint8) for _ in range(3))
    dent[:10, :10] = other_dent[5:15, :10] = 255  # union: 150 pixels
    rust[50:60, :40] = 255
    picture = Picture(np.zeros((50, 50, 3), np.uint8), vehicle, (("dent", dent), ("dent", other_dent), ("rust", rust)))
    truth = tell_truth(picture)
    assert truth.damage == pytest.approx(1 - 1.5 * 0.015**0.5 - 1.5 * 0.04**0.5)
    assert truth.cleanliness == 1.0
    assert truth.clean == 1


def test_the_made_up_inspector_marks_by_the_weights_of_params_yaml() -> None:
    weights = yaml.safe_load(Path(__file__).parents[1].joinpath("params.yaml").read_text())["convert_annotations"]
    known = weights["damage_severity"] | weights["dirt_severity"]
    assert {kind: known[kind] for kind in SEVERITY} == SEVERITY
    assert weights["area_exponent"] == 0.5


def test_state_and_car_are_drawn_apart() -> None:
    """A dirty and a clean car of one seed differ in dirt alone: nothing else can give the label away."""
    clean, dirty = (choose_subject(5, dirty=dirt, damaged=True) for dirt in (False, True))
    assert replace(dirty, dirt=None) == clean
    assert isinstance(clean, Subject)
    assert all(isinstance(damage, Damage) for damage in clean.damages)


def test_each_weather_looks_unlike_clear() -> None:
    clear = draw_photo(scene(3)).pixels.astype(float)
    for weather in ("rain", "fog", "snow"):
        assert np.abs(draw_photo(scene(3, weather=weather)).pixels - clear).mean() > 12
