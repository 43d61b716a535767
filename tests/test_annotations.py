"""Turning data roots into the table: masks against brute force, what each format says and leaves unsaid, and every way to get it wrong."""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import Conversion, convert
from carinspect.annotations.outline_kinds import area_shares, score_from_shares
from carinspect.annotations.outlines import decompress, read_outline, union_area
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.params import parse_section, read_section
from carinspect.core.questions import dump_questions, label_columns
from carinspect.core.tables import annotation_columns, read_table, write_table
from carinspect.images import properties
from carinspect.images.decode import decode_photo
from conftest import QUESTIONS, encode_photo

REPOSITORY = Path(__file__).parents[1]
PARAMS = {
    "damage_severity": {"scratch": 1.0, "dent": 1.5, "rust": 1.5, "broken": 2.0, "missing": 2.0, "glass": 1.5, "paint": 1.0},
    "dirt_severity": {"dirt": 1.0, "mud": 1.0},
    "area_exponent": 0.5,
    "min_dimension_px": 8,
    "misnamed": "reject",
}
SIDE_PX = 40
BOX = [4, 4, 20, 10]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def draw(path: Path, *, seed: int = 0, width_px: int = SIDE_PX, height_px: int = SIDE_PX, **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((width_px, height_px)).save(path, **save)
    return path


def coco(
    names: list[str], marks: list[tuple[int, str, Any, Any]] = (), categories: list[str] = (), *, side_px: int = SIDE_PX
) -> dict[str, Any]:
    """A COCO export. marks: (image id, category, segmentation, box)."""
    categories = list(categories) or sorted({category for _, category, _, _ in marks})
    return {
        "images": [{"id": index, "file_name": name, "width": side_px, "height": side_px} for index, name in enumerate(names)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(categories)],
        "annotations": [
            {"id": index, "image_id": image, "category_id": categories.index(category), "segmentation": outline, "bbox": box, "area": 1e6}
            for index, (image, category, outline, box) in enumerate(marks)
        ],
    }


def write_coco(folder: Path, content: dict[str, Any], *, name: str = "_annotations.coco.json", with_photos: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    for image in content["images"] if with_photos else ():
        draw(folder / image["file_name"], seed=image["id"])


def run(*sources: dict[str, Any], processes: int | None = 1, corrections: str | None = None, **changes: Any) -> Conversion:
    """Convert the data root `root` of the current folder."""
    Path("root").mkdir(exist_ok=True)
    Path("sources.yaml").write_text(yaml.safe_dump({"sources": list(sources)} | ({"corrections": corrections} if corrections else {})))
    params = ConvertAnnotationsParams.model_validate(PARAMS | changes)
    return convert(DataParams(root="root", sources="sources.yaml"), params, QUESTIONS, processes=processes)


SHOP = {"name": "shop", "format": "coco", "judges": ["damage"], "categories": {"scratch": "scratch"}}


def run_shop(content: dict[str, Any], **changes: Any) -> Conversion:
    write_coco(Path("root/shop"), content)
    return run(SHOP | changes)


def labels_of(conversion: Conversion, ending: str) -> dict[str, float]:
    """The labels that are not blank of the one photo whose path ends so."""
    row = conversion.table[conversion.table["image_path"].str.endswith(ending)]
    assert len(row) == 1, ending
    return row.iloc[0][label_columns(QUESTIONS)].dropna().to_dict()


def message_of(action: Any) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Masks


boxes = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=6)


def rastered_boxes(boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    canvas = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
    for x, y, width, height in boxes:
        canvas[y : y + height, x : x + width] = True
    return canvas


def masks_of(segmentations: list[Any], boxes: list[Any], side_px: int = SIDE_PX) -> list[dict[str, Any]]:
    outlines = [read_outline(outline, box, width_px=side_px, height_px=side_px) for outline, box in zip(segmentations, boxes, strict=True)]
    return [outline.mask for outline in outlines if outline.mask is not None]


def corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@given(boxes=boxes)
def test_a_union_of_boxes_covers_the_pixels_that_a_raster_covers(boxes: list[tuple[int, int, int, int]]) -> None:
    assert union_area(masks_of([[]] * len(boxes), boxes)) == rastered_boxes(boxes).sum()


@given(boxes=boxes)
def test_rectangular_polygons_cover_what_their_boxes_cover_also_beyond_the_edge(boxes: list[tuple[int, int, int, int]]) -> None:
    assert union_area(masks_of([[corners(*box)] for box in boxes], [None] * len(boxes))) == rastered_boxes(boxes).sum()


def test_a_sum_of_areas_would_not_pass_for_a_union() -> None:
    masks = masks_of([[], []], [[0, 0, 10, 10], [5, 5, 10, 10]])
    assert union_area(masks) == rastered_boxes([(0, 0, 10, 10), (5, 5, 10, 10)]).sum() == 175
    assert sum(union_area([mask]) for mask in masks) == 200


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), points=st.integers(3, 9), count=st.integers(1, 4))
def test_a_union_of_polygons_agrees_with_a_finer_raster(seed: int, points: int, count: int) -> None:
    side_px, fine = 120, 8
    generator = np.random.default_rng(seed)
    canvas = Image.new("1", (side_px * fine, side_px * fine))
    polygons, edges_px = [], 0.0
    for _ in range(count):
        # A star around a centre, which may reach out of the image.
        angles, radii = np.sort(generator.uniform(0, 2 * np.pi, points)), generator.uniform(5, 60, points)
        star = generator.uniform(0, side_px, 2) + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in (star * fine - 0.5)], fill=1)
        polygons.append([star.ravel().tolist()])
        edges_px += np.linalg.norm(star - np.roll(star, 1, axis=0), axis=1).sum()
    area_px = union_area(masks_of(polygons, [None] * count, side_px))
    assert abs(area_px - np.asarray(canvas).sum() / fine**2) <= 2 + 0.25 * edges_px


@given(seed=st.integers(0, 10**6), density=st.floats(0, 1))
def test_run_lengths_cover_what_pycocotools_encoded(seed: int, density: float) -> None:
    picture = np.asfortranarray(np.random.default_rng(seed).random((13, 7)) < density).astype(np.uint8)
    compressed = coco_mask.encode(picture)["counts"].decode()
    runs = decompress(compressed)
    assert np.repeat(np.arange(len(runs)) % 2, runs).reshape(7, 13).T.tolist() == picture.tolist()
    for counts in (compressed, runs):
        mask = read_outline({"size": [13, 7], "counts": counts}, None, width_px=7, height_px=13).mask
        assert union_area([mask] if mask else []) == picture.sum()


def test_a_crowd_in_run_lengths_scores_like_the_polygon_of_the_same_pixels() -> None:
    runs = [4 * SIDE_PX + 4]
    for _ in range(20):
        runs += [10, 30]
    runs[-1] = SIDE_PX**2 - sum(runs[:-1])
    crowd = {"size": [SIDE_PX, SIDE_PX], "counts": runs}
    content = coco(["a.jpg", "b.jpg"], [(0, "scratch", crowd, BOX), (1, "scratch", [corners(*BOX)], BOX)])
    content["annotations"][0]["iscrowd"] = 1
    found = run_shop(content)
    assert labels_of(found, "a.jpg") == labels_of(found, "b.jpg") == {"damaged": 1, "damage_score": pytest.approx(1 - (200 / 1600) ** 0.5)}


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 1, 9, 9]],
        [[1, 1, 9, 1, 9, 9, 1]],
        [[1, 1, 9, 1, 9, float("nan")]],
        [[1, 1, 1e12, 1, 9, 9]],
        [["1", "1", "9", "1", "9", "9"]],
        [[[1, 1], [9, 1], [9, 9]]],
        [None],
        "polygon",
        {"counts": "0", "size": [1]},
        {"counts": [5, -5, 1600], "size": [SIDE_PX, SIDE_PX]},
        {"counts": [5, 5, 5], "size": [SIDE_PX, SIDE_PX]},
        {"counts": "P", "size": [SIDE_PX, SIDE_PX]},
        {"counts": "~~\x00ü", "size": [SIDE_PX, SIDE_PX]},
        {"counts": [1600], "size": [SIDE_PX, 2 * SIDE_PX]},
    ],
)
def test_a_malformed_outline_is_counted_and_its_box_stands_in(outline: Any) -> None:
    found = read_outline(outline, BOX, width_px=SIDE_PX, height_px=SIDE_PX)
    assert (found.kind, found.malformed) == ("box", True)
    assert union_area([found.mask]) == 200


@pytest.mark.parametrize("outline", [[], None, [[9, 9, 9, 9, 9, 9]], [[-30, -30, -20, -30, -20, -20]]])
def test_an_outline_that_covers_nothing_falls_back_to_its_box_without_being_malformed(outline: Any) -> None:
    found = read_outline(outline, BOX, width_px=SIDE_PX, height_px=SIDE_PX)
    assert (found.kind, found.malformed) == ("box", False)


def test_a_sound_part_of_an_outline_is_kept_beside_a_malformed_one() -> None:
    found = read_outline([[1, 2, 3], corners(0, 0, 10, 10)], BOX, width_px=SIDE_PX, height_px=SIDE_PX)
    assert (found.kind, found.malformed, union_area([found.mask])) == ("polygon", True, 100)


@pytest.mark.parametrize("box", [None, [], [1, 2, 3], [5, 5, 0, 9], [5, 5, -3, 9], [99, 99, 5, 5], [float("nan")] * 4, "box", [1e300] * 4])
def test_without_a_usable_box_a_mark_is_degenerate(box: Any) -> None:
    assert read_outline([], box, width_px=SIDE_PX, height_px=SIDE_PX).kind == "degenerate"


def test_an_outline_beyond_the_edge_is_clipped_and_counted() -> None:
    counts = run_shop(coco(["a.jpg"], [(0, "scratch", [corners(-10, -10, 20, 20)], BOX)]))
    assert labels_of(counts, "a.jpg")["damage_score"] == pytest.approx(1 - (100 / 1600) ** 0.5)
    assert counts.metrics["repairs"] == {"outlines_clipped": 1, "outlines_polygon": 1}


def test_a_line_thinner_than_a_pixel_still_covers_the_pixels_that_it_touches() -> None:
    found = read_outline([[10.1, 5.0, 10.3, 5.0, 10.3, 15.0, 10.1, 15.0]], [10.1, 5.0, 0.2, 10.0], width_px=SIDE_PX, height_px=SIDE_PX)
    assert union_area([found.mask]) == 10


# The formula


def test_the_score_is_one_minus_the_weighted_shares() -> None:
    shares = area_shares({"scratch": 16, "dent": 64}, vehicle_px=0, photo_px=1600)
    assert score_from_shares(shares, {"scratch": 1.0, "dent": 1.5}, exponent=0.5) == pytest.approx(1 - (0.1 + 1.5 * 0.2))


def test_shares_are_of_the_vehicle_where_one_is_outlined_and_stop_at_one() -> None:
    assert area_shares({"dent": 50, "rust": 999}, vehicle_px=100, photo_px=1600) == {"dent": 0.5, "rust": 1.0}


def test_a_wreck_scores_zero_and_not_less() -> None:
    assert score_from_shares({"broken": 1.0, "missing": 1.0}, {"broken": 2.0, "missing": 2.0}, exponent=0.5) == 0.0


def test_the_order_of_the_classes_does_not_change_the_last_bit_of_a_score() -> None:
    shares = {"a": 0.1, "b": 0.2, "c": 0.3}
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1
    turned = dict(reversed(shares.items()))
    severities = dict.fromkeys(shares, 1.0)
    assert score_from_shares(shares, severities, exponent=1.0) == score_from_shares(turned, severities, exponent=1.0)


@given(small=st.floats(0, 1), large=st.floats(0, 1), exponent=st.floats(0.1, 3))
def test_more_damage_never_scores_better(small: float, large: float, exponent: float) -> None:
    low, high = sorted([small, large])
    scores = [score_from_shares({"dent": share}, {"dent": 1.5}, exponent=exponent) for share in (low, high)]
    assert 1 >= scores[0] >= scores[1] >= 0


def test_the_smallest_mark_on_the_largest_photo_is_still_below_one_in_the_file() -> None:
    found = run_shop(coco(["a.jpg"], [(0, "scratch", [], [5, 5, 1, 1])], side_px=14_000))
    write_table(found.table, Path("a.csv"), QUESTIONS)
    strict = run(SHOP, area_exponent=3.0)
    write_table(strict.table, Path("b.csv"), QUESTIONS)
    for file in ("a.csv", "b.csv"):
        row = read_table(Path(file), columns=annotation_columns(QUESTIONS), questions=QUESTIONS).iloc[0]
        # A mark, though not enough of one to be below the cut-off of `damaged`.
        assert 0.98 < row["damage_score"] < 1
        assert row["damaged"] == 0


def test_the_area_field_of_an_export_is_never_read() -> None:
    content = coco(["a.jpg"], [(0, "scratch", [corners(*BOX)], BOX)])
    first = run_shop(content)
    content["annotations"][0]["area"] = -5
    assert run_shop(content).table.equals(first.table)


# What the formats say


def test_a_missing_label_is_not_a_perfect_score() -> None:
    dirty = (0, "dirt", [], BOX)
    content = coco(["dirty.jpg", "bare.jpg"], [dirty], ["dirt", "scratch"])
    categories = {"scratch": "scratch", "dirt": "dirt"}
    found = run_shop(content, categories=categories)
    # Damage was judged, so a photo without a mark is whole; dirt was not, so nothing is known of any photo's dirt.
    assert labels_of(found, "bare.jpg") == labels_of(found, "dirty.jpg") == {"damaged": 0, "damage_score": 1}
    assert found.metrics["repairs"]["annotations_of_unjudged_questions"] == 1
    judged = run_shop(content, categories=categories, judges=["clean", "cleanliness"])
    assert labels_of(judged, "bare.jpg") == {"clean": 1, "cleanliness_score": 1}
    assert labels_of(judged, "dirty.jpg") == {"clean": 0, "cleanliness_score": pytest.approx(1 - (200 / 1600) ** 0.5)}


def test_a_photo_that_no_json_lists_is_rejected_and_not_taken_for_undamaged() -> None:
    draw(Path("root/shop/other.jpg"), seed=9)
    found = run_shop(coco(["a.jpg"]))
    assert found.table["image_path"].tolist() == ["shop/a.jpg"]
    assert found.rejected.to_numpy().tolist() == [["shop/other.jpg", "shop", "no COCO JSON lists it, so nobody judged it"]]
    assert found.metrics["rejected"] == {"unlisted": 1}


def test_a_mark_without_an_area_leaves_the_severity_blank() -> None:
    found = run_shop(coco(["a.jpg"], [(0, "scratch", [], [5, 5, 0, 0])]))
    assert labels_of(found, "a.jpg") == {"damaged": 1}
    assert found.metrics["repairs"]["outlines_degenerate"] == 1


def test_a_category_that_states_damage_leaves_the_severity_blank() -> None:
    marks = [(0, "airbag", [], BOX), (1, "scratch", [], BOX)]
    found = run_shop(coco(["a.jpg", "b.jpg"], marks), categories={"scratch": "scratch", "airbag": {"damaged": 1}})
    assert labels_of(found, "a.jpg") == {"damaged": 1}
    assert labels_of(found, "b.jpg")["damage_score"] < 1


def test_categories_can_state_labels_and_contradictions_leave_them_blank() -> None:
    marks = [(0, "dirty", [], BOX), (1, "dirty", [], BOX), (1, "clean", [], BOX)]
    categories = {"dirty": {"clean": 0}, "clean": {"clean": 1, "weather": "rain"}}
    found = run_shop(coco(["a.jpg", "b.jpg"], marks), judges=[], categories=categories)
    assert labels_of(found, "a.jpg") == {"clean": 0}
    assert labels_of(found, "b.jpg") == {"weather_condition": 1}
    assert found.metrics["repairs"]["photos_with_contradicting_labels"] == 1


def test_a_photo_said_to_be_both_whole_and_damaged_has_no_damage_label_at_all() -> None:
    marks = [(0, "whole", [], BOX), (0, "hit", [], BOX), (1, "whole", [], BOX)]
    found = run_shop(coco(["a.jpg", "b.jpg"], marks), judges=[], categories={"whole": {"damaged": 0}, "hit": {"damaged": 1}})
    assert labels_of(found, "a.jpg") == {}
    assert labels_of(found, "b.jpg") == {"damaged": 0, "damage_score": 1}


def test_a_vehicle_is_what_shares_are_taken_of() -> None:
    marks = [(0, "scratch", [], [0, 0, 10, 10]), (0, "car", [], [0, 0, 20, 20])]
    found = run_shop(coco(["a.jpg"], marks), categories={"scratch": "scratch", "car": "vehicle"})
    assert labels_of(found, "a.jpg")["damage_score"] == pytest.approx(1 - (100 / 400) ** 0.5)


def test_class_folders_give_labels_and_the_split_above_them() -> None:
    for name in ("train/whole/a.jpg", "valid/damaged/deep/b.jpg", "test/sand/c.jpg", "damaged/d.jpg"):
        draw(Path("root/f") / name)
    draw(Path("root/f/train/stray.jpg"))
    Path("root/f/readme.txt").write_text("notes")
    Path("root/f/.hidden.jpg").write_text("macOS leaves such files beside each photo")
    source = {"name": "f", "format": "folders", "categories": {"whole": {"damaged": 0}, "damaged": {"damaged": 1}, "sand": "ignore"}}
    found = run(source)
    assert labels_of(found, "a.jpg") == {"damaged": 0, "damage_score": 1}
    assert labels_of(found, "b.jpg") == labels_of(found, "d.jpg") == {"damaged": 1}
    assert found.table["declared_split"].tolist() == ["", "train", "val"]
    assert found.rejected.to_numpy().tolist() == [["f/train/stray.jpg", "f", "lies in no class folder"]]
    assert found.metrics["repairs"] == {"photos_of_ignored_folders": 1}
    assert found.metrics["sources"]["f"]["skipped_files"] == {".txt": 1}


def write_csv(text: str, *names: str) -> None:
    for index, name in enumerate(names):
        draw(Path("root/fleet") / name, seed=index)
    Path("root/fleet/labels.csv").write_text(text, encoding="utf-8")


FLEET = {"name": "fleet", "format": "csv", "path": "fleet/labels.csv"}


def test_a_csv_gives_what_its_cells_hold_and_a_blank_stays_blank() -> None:
    write_csv(
        "\ufeffimage_path,cleanliness_score,damage_score,damaged,weather_condition,split,vehicle_id,notes\n"
        "p/a.jpg,0.25,0.5,,3,valid,V1,hello\np/b.jpg,,,1,,,,\np/c.jpg,,1,,,TEST,V1,\np/gone.jpg,1,1,0,0,train,V1,\n../x.jpg,1,1,0,0,,,\n",
        "p/a.jpg", "p/b.jpg", "p/c.jpg",
    )  # fmt: skip
    found = run(FLEET | {"family_column": "vehicle_id"})
    assert labels_of(found, "a.jpg") == {"cleanliness_score": 0.25, "damaged": 1, "damage_score": 0.5, "weather_condition": 3}
    assert labels_of(found, "b.jpg") == {"damaged": 1}
    assert labels_of(found, "c.jpg") == {"damaged": 0, "damage_score": 1}
    assert found.table["declared_split"].tolist() == ["val", "", "test"]
    assert found.table["family"].tolist() == ["fleet/V1", "", "fleet/V1"]
    assert found.rejected["image_path"].tolist() == ["../x.jpg", "fleet/p/gone.jpg"]
    assert found.metrics["repairs"] == {"columns_ignored": 1}
    assert found.metrics["provenance"]["cleanliness"] == {"annotation": 0, "folder": 0, "csv": 1}


FIXES = "image_path,picture,question,label,reason,new_label,who,when\n"
ROWS = "image_path,clean,cleanliness_score,damage_score\na.jpg,1,0.9,1\nb.jpg,0,,0.4\nc.jpg,1,,1\n"


def run_corrected(*rows: str, head: str = FIXES) -> Conversion:
    """Three photos of a CSV, and corrections of their labels."""
    write_csv(ROWS, "a.jpg", "b.jpg", "c.jpg")
    Path("root/fixes.csv").write_text(head + "".join(f"{row}\n" for row in rows))
    return run(FLEET, corrections="fixes.csv")


def fix(photo: str, question: str, new_label: str, *, who: str = "anna", when: str = "2026-11-27") -> str:
    """A row as `describe --review` writes it, filled in."""
    return f"fleet/{photo},/disk/{photo},{question},clean,a reason,{new_label},{who},{when}"


def test_corrections_overrule_the_sources_and_are_counted() -> None:
    found = run_corrected(
        fix("a.jpg", "clean", "dirty"), fix("b.jpg", "clean", "1", who="ben"), fix("c.jpg", "clean", "clean"), fix("c.jpg", "weather", "")
    )
    assert [labels_of(found, f"{name}.jpg")["clean"] for name in "abc"] == [0, 1, 1]
    assert found.metrics["corrections"] == {
        "changed": 2, "already_so": 1, "left_blank": 1, "questions": {"clean": 2}, "people": {"anna": 1, "ben": 1},
    }  # fmt: skip
    said = "fixes.csv: 2 labels corrected (clean 2; by anna 1, ben 1); 1 were so already, 1 rows have no new label"
    assert found.metrics["repaired"][-1] == said


def test_without_corrections_nothing_is_said_of_them() -> None:
    write_csv(ROWS, "a.jpg", "b.jpg", "c.jpg")
    found = run(FLEET)
    assert "corrections" not in found.metrics
    assert labels_of(found, "a.jpg")["clean"] == 1


def test_a_label_that_nobody_can_know_becomes_blank() -> None:
    assert labels_of(run_corrected(fix("a.jpg", "clean", "unknown")), "a.jpg") == {
        "cleanliness_score": 0.9,
        "damaged": 0,
        "damage_score": 1,
    }


@pytest.mark.parametrize(
    ("photo", "question", "new_label", "expected"),
    [
        ("a.jpg", "damaged", "damaged", {"damaged": 1}),  # a perfect score was wrong too, and nobody said what it is
        ("a.jpg", "damage", "0.5", {"damaged": 1, "damage_score": 0.5}),
        ("b.jpg", "damaged", "undamaged", {"damaged": 0, "damage_score": 1}),
        ("b.jpg", "damaged", "damaged", {"damaged": 1, "damage_score": 0.4}),
        ("b.jpg", "damage", "unknown", {}),
        ("b.jpg", "damaged", "unknown", {}),
    ],
)
def test_a_correction_of_a_score_or_of_its_class_takes_the_other_along(
    photo: str, question: str, new_label: str, expected: dict[str, float]
) -> None:
    labels = labels_of(run_corrected(fix(photo, question, new_label)), photo)
    assert {column: label for column, label in labels.items() if column.startswith("damage")} == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([fix("x.jpg", "clean", "1")], "no source describes the photo 'fleet/x.jpg'"),
        ([fix("a.jpg", "claen", "1")], "row 2: no question is called 'claen'. Did you mean 'clean'?"),
        ([fix("a.jpg", "clean", "2")], "row 2: new_label of 'clean' has the value 2.0. It must be a whole number from 0 to 1"),
        ([fix("a.jpg", "clean", "dirtyy")], "row 2: new_label of 'clean' has the value 'dirtyy'. Did you mean 'dirty'?"),
        ([fix("a.jpg", "damage", "50%")], "row 2: new_label of 'damage' has the value '50%'. It must be a number from 0 to 1"),
        ([fix("a.jpg", "damage", "nan")], "row 2: new_label of 'damage' has the value nan"),
        ([fix("a.jpg", "clean", "0"), fix("b.jpg", "clean", "1"), fix("a.jpg", "clean", "0")], "row 4: 'clean' of 'fleet/a.jpg' is"),
        ([fix("a.jpg", "clean", "0", who="")], "row 2: who is blank"),
        ([fix("a.jpg", "clean", "0", when="27.11.2026")], "row 2: when has the value '27.11.2026'. Write a day as 2026-11-27."),
        ([fix("a.jpg", "damaged", "0"), fix("a.jpg", "damage", "0.2")], "damaged is 0 (undamaged), but damage_score is 0.2"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_corrections_is_one_line_with_its_row(rows: list[str], expected: str) -> None:
    message = message_of(lambda: run_corrected(*rows))
    assert expected in message
    assert message.startswith("root/fixes.csv")


def test_corrections_that_are_missing_or_lack_a_column_are_said() -> None:
    assert "column 'new_label' is missing" in message_of(lambda: run_corrected(head="image_path,question,label,who,when\n"))
    assert "separated by semicolons" in message_of(lambda: run_corrected(head=FIXES.replace(",", ";")))
    Path("root/fixes.csv").unlink()
    assert "sources.yaml: corrections: 'root/fixes.csv' is no file" in message_of(lambda: run(FLEET, corrections="fixes.csv"))


def test_the_split_of_a_coco_file_comes_from_the_folders_above_it_or_its_name() -> None:
    write_coco(Path("root/shop/valid"), coco(["a.jpg"]))
    write_coco(Path("root/shop/annotations"), coco(["b.jpg"]), name="test.json", with_photos=False)
    draw(Path("root/shop/images/b.jpg"), seed=5)
    found = run(SHOP)
    assert found.table[["image_path", "declared_split"]].to_numpy().tolist() == [["shop/images/b.jpg", "test"], ["shop/valid/a.jpg", "val"]]


def test_copies_of_one_photo_share_a_family_only_within_their_source() -> None:
    names = ["car_jpg.rf.0123abcd.jpg", "car_jpg.rf.9876fedc.jpg", "plain.jpg"]
    for folder in ("x", "y"):
        write_coco(Path("root") / folder, coco(names))
    families = run(SHOP | {"name": "x"}, SHOP | {"name": "y"}).table["family"].tolist()
    assert families == ["x/car", "x/car", "", "y/car", "y/car", ""]
    none = run(SHOP | {"name": "x", "family_pattern": None}, SHOP | {"name": "y", "family_pattern": "^([a-z]+)"}).table["family"].tolist()
    assert none == ["", "", "", "y/car", "y/car", "y/plain"]


def test_the_size_is_that_of_the_upright_photo_and_another_shape_is_counted() -> None:
    write_coco(Path("root/shop"), coco(["a.jpg", "b.jpg"]), with_photos=False)
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(Path("root/shop/a.jpg"), width_px=60, height_px=30, exif=exif)
    draw(Path("root/shop/b.jpg"), width_px=80, height_px=80)
    found = run(SHOP)
    assert found.table[["width_px", "height_px"]].to_numpy().tolist() == [[30, 60], [80, 80]]
    assert found.metrics["repairs"] == {"size_mismatches": 1, "photos_resized": 1}


def test_the_perceptual_hash_is_of_the_upright_photo() -> None:
    pixels = np.asarray(Image.open(draw(Path("root/f/clean/a.png"))))
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(np.rot90(pixels, -1)).save("root/f/clean/turned.png", exif=exif)
    hashes = run({"name": "f", "format": "folders", "categories": {"clean": {"clean": 1}}}).table["phash"]
    assert hashes.nunique() == 1
    assert len(hashes[0]) == 16


def test_unusable_photos_are_rejected_each_with_its_reason() -> None:
    folder = Path("root/f/clean")
    sound = draw(folder / "sound.jpg", width_px=200, height_px=200)
    (folder / "truncated.jpg").write_bytes(sound.read_bytes()[:-400])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no photo")
    draw(folder / "moving.jpg", format="GIF")
    (folder / "closed.jpg").write_bytes(sound.read_bytes()[:-400] + b"\xff\xd9")
    (folder / "phone.heic").write_bytes(encode_photo(Image.new("RGB", (64, 48), "red"), "HEIF"))
    (folder / "header.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    draw(folder / "small.png", width_px=7, height_px=90)
    draw(folder / "tab\there.png")
    found = run({"name": "f", "format": "folders", "categories": {"clean": {"clean": 1}}})
    assert found.table["image_path"].tolist() == ["f/clean/phone.heic", "f/clean/sound.jpg"]
    reasons = dict(zip(found.rejected["image_path"], found.rejected["reason"], strict=True))
    assert "Premature end of JPEG file" in reasons["f/clean/truncated.jpg"]
    assert "premature end of data segment" in reasons["f/clean/closed.jpg"]
    assert "empty file" in reasons["f/clean/empty.jpg"]
    assert "not a photo" in reasons["f/clean/text.jpg"]
    assert "not a photo in a known format (JPEG, PNG" in reasons["f/clean/moving.jpg"]
    assert "not a photo" in reasons["f/clean/header.heic"]
    assert "7 x 90 px: a side is shorter than 8 px" in reasons["f/clean/small.png"]
    assert "rename it" in reasons["f/clean/tab\\there.png"]
    assert found.metrics["rejected"] == {"unreadable": 7, "too_small": 1}


def test_a_name_that_is_not_unicode_is_rejected_and_the_tables_can_be_written() -> None:
    draw(Path("root/f/clean/a.jpg"))
    os.rename(b"root/f/clean/a.jpg", b"root/f/clean/\xff.jpg")  # noqa: PTH104
    draw(Path("root/f/clean/b.jpg"))
    found = run({"name": "f", "format": "folders", "categories": {"clean": {"clean": 1}}})
    write_table(found.rejected, Path("rejected.csv"))
    assert found.rejected["image_path"].tolist() == ["f/clean/\\udcff.jpg"]


def plant_odd_files(folder: Path) -> dict[str, str]:
    """Things that are no photo of the data, below `folder`; name → the reason for each."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(Path("elsewhere/photo.jpg"))
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe.json")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "nothing.jpg").symlink_to("nowhere.jpg")
    (folder / "out.jpg").symlink_to(Path("elsewhere/photo.jpg").resolve())
    (folder / "self").symlink_to(".")
    (folder / "up").symlink_to("..")
    (folder / "away").symlink_to(Path("elsewhere").resolve())
    return {
        "pipe.jpg": "a named pipe (FIFO) instead of a file",
        "pipe.json": "a named pipe (FIFO) instead of a file",
        "socket.jpg": "a socket instead of a file",
        "device.jpg": "a device instead of a file",
        "circle.jpg": "a link in a circle",
        "nothing.jpg": "a link to nothing",
        "out.jpg": "a link out of the data root: put the file itself there",
        "self": "a link to a folder that is read under another name",
        "up": "a link to a folder that is read under another name",
        "away": "a link out of the data root: put the folder itself there",
    }


def reasons_of(conversion: Conversion) -> dict[str, str]:
    return dict(zip(conversion.rejected["image_path"], conversion.rejected["reason"], strict=True))


def test_pipes_sockets_devices_and_links_that_lead_out_or_in_circles_are_rejected_and_nothing_hangs() -> None:
    write_coco(Path("root/shop"), coco(["a.jpg"], [(0, "scratch", [], BOX)]))
    draw(Path("root/wash/clean/b.jpg"))
    wash = {"name": "wash", "format": "folders", "categories": {"clean": {"clean": 1}}}
    reasons = {f"{place}/{name}": why for place in ("shop", "wash/clean") for name, why in plant_odd_files(Path("root") / place).items()}
    found = run(SHOP, wash)
    assert found.table["image_path"].tolist() == ["shop/a.jpg", "wash/clean/b.jpg"]
    assert reasons_of(found) == reasons


def test_a_listed_pipe_or_link_has_its_own_reason() -> None:
    names = ["pipe.jpg", "out.jpg", "device.jpg", "away/photo.jpg"]
    reasons = plant_odd_files(Path("root/fleet")) | {"away/photo.jpg": "a link out of the data root: put the file itself there"}
    write_csv("image_path,clean\na.jpg,1\n" + "".join(f"{name},1\n" for name in names), "a.jpg")
    assert reasons_of(run(FLEET)) == {f"fleet/{name}": reasons[name] for name in names}
    reasons = plant_odd_files(Path("root/shop"))
    write_coco(Path("root/shop"), coco(["a.jpg", "pipe.jpg"]), with_photos=False)
    draw(Path("root/shop/a.jpg"))
    assert reasons_of(run(SHOP))["shop/pipe.jpg"] == reasons["pipe.jpg"]


def test_links_within_the_root_and_to_the_cache_of_dvc_are_read() -> None:
    draw(Path("root/photos/a.jpg"))
    cached = draw(Path("cache/files/md5/ab/cdef0123456789abcdef0123456789.jpg")).rename("cache/files/md5/ab/cdef0123456789abcdef0123456789")
    Path("root/wash/clean").mkdir(parents=True)
    Path("root/wash/clean/b.jpg").symlink_to(cached.resolve())
    Path("root/wash/clean/linked").symlink_to(Path("root/photos").resolve())
    found = run({"name": "wash", "format": "folders", "categories": {"clean": {"clean": 1}}})
    assert found.table["image_path"].tolist() == ["wash/clean/b.jpg", "wash/clean/linked/a.jpg"]
    assert reasons_of(found) == {}


NFC, NFD = "\u00e9", "e\u0301"


def test_a_name_in_another_unicode_form_is_the_same_name() -> None:
    write_coco(Path("root/shop"), coco([f"{NFC}.jpg"], [(0, NFC, [], BOX)]), with_photos=False)
    draw(Path(f"root/shop/{NFD}.jpg"))
    write_csv(f"image_path,clean\n{NFC}.jpg,1\n", f"{NFD}.jpg")
    draw(Path(f"root/wash/{NFD}/a.jpg"))
    wash = {"name": "wash", "format": "folders", "categories": {NFC: {"clean": 1}}}
    found = run(SHOP | {"categories": {NFD: "scratch"}}, FLEET, wash)
    assert found.table["image_path"].tolist() == [f"fleet/{NFD}.jpg", f"shop/{NFD}.jpg", f"wash/{NFD}/a.jpg"]
    assert labels_of(found, f"shop/{NFD}.jpg")["damaged"] == 1
    assert found.metrics["repairs"]["photos_found_by_unicode_form"] == 2


def test_twins_whose_names_differ_in_their_unicode_form_alone_are_rejected() -> None:
    both = [f"{NFC}.jpg", f"{NFD}.jpg"]
    write_coco(Path("root/shop"), coco([*both, "a.jpg"]))
    write_csv(f"image_path,clean\n{both[0]},1\n{both[1]},0\na.jpg,1\n", *both, "a.jpg")
    found = run(SHOP, FLEET)
    assert found.table["image_path"].tolist() == ["fleet/a.jpg", "shop/a.jpg"]
    reason = "another file has the same name in another Unicode form: rename one of them"
    assert reasons_of(found) == {f"{source}/{name}": reason for source in ("fleet", "shop") for name in both}


def test_listed_photos_that_are_missing_or_outside_are_rejected() -> None:
    content = coco(["a.jpg", "gone.jpg", "../../secret.jpg", "/etc/passwd", "C:\\photos\\x.jpg"])
    write_coco(Path("root/shop"), content, with_photos=False)
    draw(Path("root/shop/a.jpg"))
    draw(Path("secret.jpg"))
    found = run(SHOP)
    assert found.table["image_path"].tolist() == ["shop/a.jpg"]
    assert found.metrics["rejected"] == {"outside": 3, "missing": 1}


def test_excluded_files_are_counted_and_nothing_else() -> None:
    write_coco(Path("root/shop"), coco(["a.jpg", "b_mask.png"]))
    Path("root/shop/info.json").write_text("{}")
    found = run(SHOP | {"exclude": ["*_mask.png", "info.json"]})
    assert found.table["image_path"].tolist() == ["shop/a.jpg"]
    assert len(found.rejected) == 0
    assert found.metrics["repairs"] == {"files_excluded": 2, "photos_excluded_though_listed": 1}


def test_annotations_of_unknown_images_and_unused_mappings_are_counted() -> None:
    content = coco(["a.jpg"], [(0, "scratch", [], BOX), (77, "scratch", [], BOX)], ["scratch", "never"])
    found = run_shop(content, categories={"scratch": "scratch", "scracth": "scratch"})
    assert found.metrics["repairs"] == {"annotations_of_unknown_images": 1, "outlines_box": 1, "categories_without_annotations": 1}
    assert found.metrics["sources"]["shop"]["unused_mappings"] == ["scracth"]


def test_a_photo_that_may_own_an_annotation_of_no_photo_is_not_called_undamaged() -> None:
    marks = [(0, "scratch", [], BOX), (77, "scratch", [], BOX)]
    found = run_shop(coco(["a.jpg", "b.jpg"], marks))
    assert labels_of(found, "a.jpg")["damaged"] == 1
    assert labels_of(found, "b.jpg") == {}
    assert found.metrics["repairs"] == {"annotations_of_unknown_images": 1, "outlines_box": 1, "photos_left_blank": 1}
    # The twins: without it, and where it marks what the source does not judge, the photo without a mark is a good one.
    assert labels_of(run_shop(coco(["a.jpg", "b.jpg"], marks[:1])), "b.jpg") == {"damaged": 0, "damage_score": 1}
    elsewhere = run_shop(coco(["a.jpg", "b.jpg"], [marks[0], (77, "mud", [], BOX)]), categories={"scratch": "scratch", "mud": "mud"})
    assert labels_of(elsewhere, "b.jpg") == {"damaged": 0, "damage_score": 1}


def test_an_annotation_of_no_photo_leaves_a_stated_question_open_too() -> None:
    categories = {"cracked": {"weather": "rain"}, "car": "vehicle", "wet": {"damaged": 1}}
    found = run_shop(coco(["a.jpg", "b.jpg"], [(0, "car", [], BOX), (77, "wet", [], BOX)], ["car", "wet"]), categories=categories)
    assert labels_of(found, "a.jpg") == labels_of(found, "b.jpg") == {}


def test_annotations_that_all_point_to_no_photo_are_an_error_and_ids_of_another_type_are_named() -> None:
    content = coco(["a.jpg", "b.jpg"], [(0, "scratch", [], BOX), (1, "scratch", [], BOX)])
    astray = json.loads(json.dumps(content))
    for annotation in astray["annotations"]:
        annotation["image_id"] += 7
    assert "none of its annotations belongs to one of its 2 images (the first has the image_id 7)" in message_of(lambda: run_shop(astray))
    for changed in ([0, 1], [1]):
        typed = json.loads(json.dumps(content))
        for place in changed:
            typed["annotations"][place]["image_id"] = str(place)
        message = message_of(lambda typed=typed: run_shop(typed))
        assert f"the image_id '{changed[0]}', a text, and an image the id {changed[0]}, a number." in message
    typed = json.loads(json.dumps(content))
    typed["categories"][0]["id"] = "0"
    assert "the category_id 0, which categories does not define (it has '0', a text)" in message_of(lambda: run_shop(typed))


@pytest.mark.parametrize("outline", [[], [[0.2, 0.2, 0.6, 0.2, 0.6, 0.6, 0.2, 0.6]]])
def test_outlines_in_shares_are_refused_until_the_source_says_so(outline: Any) -> None:
    box = [0.2, 0.2, 0.4, 0.4]
    content = coco(["a.jpg", "b.jpg"], [(0, "scratch", outline, box), (0, "scratch", outline, box)])
    message = message_of(lambda: run_shop(content))
    assert "all 2 boxes and outlines lie between 0 and 1" in message
    assert "add `coordinates: shares` to sources.yaml: shop" in message
    found = run(SHOP | {"coordinates": "shares"})
    assert labels_of(found, "a.jpg")["damage_score"] == pytest.approx(1 - 0.4)
    pixels = coco(["a.jpg"], [(0, "scratch", [], BOX)])
    assert "coordinates is shares, but in" in message_of(lambda: run_shop(pixels, coordinates="shares"))


def test_one_outline_in_shares_among_pixels_is_a_mark_of_unknown_area() -> None:
    content = coco(["a.jpg", "b.jpg"], [(0, "scratch", [], [0.2, 0.2, 0.4, 0.4]), (1, "scratch", [], BOX)])
    found = run_shop(content)
    assert labels_of(found, "a.jpg") == {"damaged": 1}
    assert found.metrics["repairs"]["outlines_malformed"] == 1


def test_copies_with_contradicting_labels_are_shown_and_kept() -> None:
    for folder in ("clean", "dirty"):
        draw(Path("root/f") / folder / "same.png", seed=1)
    found = run({"name": "f", "format": "folders", "categories": {"clean": {"clean": 1}, "dirty": {"clean": 0}}})
    assert len(found.table) == 2
    example = {"column": "clean", "image_paths": ["f/clean/same.png", "f/dirty/same.png"]}
    assert found.metrics["copies"] == {"photos_with_copies": 2, "contradicting": 1, "contradicting_examples": [example]}


def test_repairs_are_said_in_words_with_their_source() -> None:
    write_coco(Path("root/shop"), coco(["a.jpg", "b.jpg", "c.jpg"], [(0, "scratch", [corners(-10, -10, 20, 20)], BOX)]))
    draw(Path("root/shop/a.jpg"), width_px=80, height_px=80)
    draw(Path("root/shop/b.jpg"), width_px=80)
    draw(Path("c.png")).rename("root/shop/c.jpg")
    found = run(SHOP, misnamed="read")
    assert found.metrics["repaired"] == [
        "shop: outlines that reached out of the photo, clipped: 1",
        "shop: photos of another size than their annotation file states, outlines scaled along: 1",
        "shop: photos of another shape than their annotation file states, outlines used as they are: 1",
        "shop: photos with the suffix of another format, read as what they are: 1",
    ]
    sound = run_shop(coco(["d.jpg"], [(0, "scratch", [], BOX)]), exclude=["a.jpg", "b.jpg", "c.jpg"])
    assert sound.metrics["repaired"] == []


def test_a_question_that_nobody_judged_shows_zeros() -> None:
    metrics = run_shop(coco(["a.jpg"])).metrics
    assert metrics["labelled"] == {"clean": 0, "cleanliness_score": 0, "damaged": 1, "damage_score": 1, "weather_condition": 0}
    assert metrics["provenance"]["weather"] == {"annotation": 0, "folder": 0, "csv": 0}


# Mistakes, each in one line


def test_every_category_without_a_meaning_is_named_with_a_line_to_paste() -> None:
    marks = [(0, "scracth", [], BOX), (0, "scracth", [], BOX), (0, "0", [], BOX), (0, "scratch", [], BOX)]
    write_coco(Path("root/shop"), coco(["a.jpg"], marks, ["scracth", "0", "scratch", "supercategory"]))
    draw(Path("root/f/dirtyy/b.jpg"))
    message = message_of(lambda: run(SHOP, {"name": "f", "format": "folders"}))
    assert "sources.yaml: source 'shop' has no meaning for 0 (annotations: 1), scracth (annotations: 2)." in message
    assert "source 'f' has no meaning for dirtyy (photos: 1)." in message
    for line in ("{\"0\": '?', scracth: scratch}", "{dirtyy: {clean: dirty}}"):
        assert line in message
    pasted = yaml.safe_load('{"0": scratch, scracth: scratch}') | SHOP["categories"]
    run(SHOP | {"categories": pasted}, {"name": "f", "format": "folders", "categories": yaml.safe_load("{dirtyy: {clean: dirty}}")})


def test_a_category_of_two_lines_is_named_in_one() -> None:
    message = message_of(lambda: run_shop(coco(["a.jpg"], [(0, "two\nlines", [], BOX)])))
    assert "two\\nlines (annotations: 1)" in message


def test_the_undecided_meaning_of_the_pasted_line_is_refused() -> None:
    assert "categories.0 has the meaning '?'" in message_of(lambda: run_shop(coco(["a.jpg"]), categories={"0": "?"}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"formt": "coco"}, "shop.formt: unknown key. Did you mean 'format'?"),
        ({"format": "cocoo"}, "shop.format has the value 'cocoo'"),
        ({"format": None}, "shop.format has the value None"),
        ({"judges": ["dammage"]}, "shop.judges: no question is called 'dammage'. Did you mean 'damage'?"),
        ({"judges": ["weather"]}, "outlines cannot tell"),
        ({"judges": []}, "shop.judges: missing. Say which questions"),
        ({"path": "../elsewhere"}, "leaves the data root"),
        ({"path": "/data"}, "leaves the data root"),
        ({"path": "nowhere"}, "shop.path: 'root/nowhere' does not exist"),
        ({"path": "shop/a.jpg"}, "is a file; this format takes a folder"),
        ({"family_pattern": "(("}, "is not a regular expression"),
        ({"family_pattern": "abc"}, "has no group"),
        ({"family_column": "id"}, "shop.family_column: format coco does not take it. It is for csv."),
        ({"categories": {0: "scratch"}}, "Put it in quotes: '0'"),
        ({"categories": {"scratch": "scrach"}}, "categories.scratch has the meaning 'scrach'. Did you mean 'scratch'?"),
        ({"categories": {"scratch": {}}}, "which says nothing"),
        ({"categories": {"scratch": {"damagd": 1}}}, "scratch.damagd: no question has this name. Did you mean 'damaged'?"),
        ({"categories": {"scratch": {"damaged": 2}}}, "It must be a whole number from 0 to 1, or one of undamaged, damaged"),
        ({"categories": {"scratch": {"clean": True}}}, "It must be a whole number from 0 to 1, or one of dirty, clean"),
        ({"categories": {"scratch": {"cleanliness": 1.5}}}, "a number from 0 to 1"),
        ({"categories": {"scratch": {"weather": "rainy"}}}, "Did you mean 'rain'?"),
        ({"categories": {"scratch": {"damaged": 0, "damage": 0.5}}}, "damaged is 0 (undamaged), but damage_score is 0.5"),
        ({"categories": {"scratch": {"damaged": 0}}}, "categories.scratch states damaged, which `judges` leaves to the outlines"),
        ({"format": "folders"}, "shop.judges: format folders does not take it. It is for coco."),
        ({"format": "folders", "judges": []}, "a class folder takes labels such as"),
        ({"format": "csv", "judges": []}, "shop.categories: format csv does not take it. It is for coco and folders."),
        ({"format": "csv", "judges": [], "categories": {}}, "format csv takes the CSV itself"),
        ({"name": "a/b"}, "cannot be the folder's name as well"),
        ({"exclude": ["*.json"]}, "no .json file below"),
    ],
)
def test_a_mistake_in_a_source_names_the_source_the_value_and_the_fix(changes: dict[str, Any], expected: str) -> None:
    write_coco(Path("root/shop"), coco(["a.jpg"]))
    message = message_of(lambda: run(SHOP | changes))
    assert expected in message
    assert message.startswith("sources.yaml: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("sources: [", "not valid YAML"),
        ("source: []", "the key 'sources' with a list is expected"),
        (
            "{sources: [{name: a, format: csv}], corrections: ../a.csv}",
            "corrections has the value '../a.csv'. Write the path of a CSV below",
        ),
        ("{sources: [{name: a, format: csv}], corrections: [a]}", "corrections has the value ['a']"),
        ("sources: []", "an empty list"),
        ("sources: [{format: coco}]", "source 1 has no name"),
        ("sources: [{name: 7, format: coco}]", "source 1 has no name"),
        ("sources: [{name: a}]", "a.format: missing. Add it to sources.yaml."),
        ("sources: [{name: a, format: coco, judges: [damage]}, {name: a, format: csv}]", "two sources have the name 'a'"),
    ],
)
def test_a_mistake_in_the_list_of_sources_is_said(content: str, expected: str) -> None:
    Path("root").mkdir()
    Path("sources.yaml").write_text(content)
    data, params = DataParams(root="root", sources="sources.yaml"), ConvertAnnotationsParams.model_validate(PARAMS)
    assert expected in message_of(lambda: convert(data, params, QUESTIONS))


def test_a_missing_root_or_sources_file_says_how_to_get_it() -> None:
    params = ConvertAnnotationsParams.model_validate(PARAMS)
    message = message_of(lambda: convert(DataParams(root="data/raw", sources="x.yaml"), params, QUESTIONS))
    assert message.startswith("data.root is 'data/raw': no such folder. Fetch it (dvc pull)")
    Path("data/raw").mkdir(parents=True)
    assert "data.sources is 'x.yaml': no such file" in message_of(
        lambda: convert(DataParams(root="data/raw", sources="x.yaml"), params, QUESTIONS)
    )


def test_questions_without_a_label_are_named_before_any_photo_is_opened() -> None:
    wash = {"name": "wash", "format": "folders", "categories": {"clean": {"clean": 1}, "dirty": {"clean": 0}}}
    for name in ("clean", "dirty"):
        Path(f"root/wash/{name}").mkdir(parents=True)
        Path(f"root/wash/{name}/{name}.jpg").write_bytes(b"not opened")
    Path("sources.yaml").write_text(yaml.safe_dump({"sources": [wash]}))
    data, params = DataParams(root="root", sources="sources.yaml"), ConvertAnnotationsParams.model_validate(PARAMS)
    clean, cleanliness, *_, weather = QUESTIONS
    message = message_of(lambda: convert(data, params, [clean, cleanliness, weather], needs_every_label=True))
    assert message.startswith("sources.yaml: no source has a label for 'cleanliness' or 'weather'. Add a source that judges it")
    assert message.endswith("dvc exp run -S '~questions.cleanliness' -S '~questions.weather'")
    # The twin: with labels for every question the photos are opened.
    assert "no usable photo" in message_of(lambda: convert(data, params, [clean], needs_every_label=True))


def broken(**changes: Any) -> dict[str, Any]:
    return coco(["a.jpg"], [(0, "scratch", [], BOX)]) | changes


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps(broken())[:-20], "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "not a COCO JSON"),
        ('{"images": []}', "not a COCO JSON: annotations is missing"),
        (json.dumps(broken(images=7)), "images has the value 7"),
        (json.dumps(broken(images=[{"id": 0, "file_name": "a.jpg", "width": "40", "height": 40}])), "images[0].width has the value '40'"),
        (json.dumps(broken(images=[{"id": 0, "file_name": "a.jpg", "width": 0, "height": 40}])), "images[0].width has the value 0"),
        (json.dumps(broken(images=[{"id": 0, "file_name": "a.jpg", "width": 60000, "height": 60000}])), "more than 200,000,000 pixels"),
        (json.dumps(broken(categories=[{"id": None, "name": "scratch"}])), "categories[0].id has the value None"),
        (json.dumps(broken(images=broken()["images"] * 2)), "the id 0 stands twice in images"),
        (json.dumps(broken(categories=broken()["categories"] * 2)), "the id 0 stands twice in categories"),
        (json.dumps(broken(categories=[])), "category_id 0, which categories does not define"),
        (json.dumps(coco(["gone.jpg"])), "no photo that its 1 JSON file(s) list exists"),
        (json.dumps(coco(["a.jpg", "./a.jpg"])), "'a.jpg' is listed twice"),
    ],
)
def test_a_broken_coco_file_is_named_with_what_is_wrong(content: str, expected: str) -> None:
    draw(Path("root/shop/a.jpg"))
    Path("root/shop/x.json").write_text(content)
    message = message_of(lambda: run(SHOP))
    assert expected in message
    assert "shop" in message


MEASURE = """
import json, sys
from pathlib import Path
from carinspect.annotations.coco import read_coco_file
def peak():  # not getrusage: a new program begins with the peak of the one that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
path, before = Path(sys.argv[2]), peak()
kept = read_coco_file(path) if sys.argv[1] == "ours" else json.loads(path.read_bytes())
print((peak() - before) / path.stat().st_size)
"""


def test_a_large_json_takes_memory_of_little_more_than_its_size() -> None:
    """So that 200 MB take less than 600, with some 140 for the program itself. The twin: as Python lists they take far more."""
    random = np.random.default_rng(0)
    marks = [(index % 50, "scratch", [random.uniform(0, SIDE_PX, 200).round(2).tolist()], BOX) for index in range(12_000)]
    Path("big.json").write_text(json.dumps(coco([f"{index}.jpg" for index in range(50)], marks)))

    def measure(how: str) -> float:
        return float(subprocess.run([sys.executable, "-c", MEASURE, how, "big.json"], check=True, capture_output=True, text=True).stdout)

    assert measure("ours") < 1.5
    assert measure("theirs") > 3


def test_a_deeply_nested_json_is_refused_before_it_takes_the_memory() -> None:
    draw(Path("root/shop/a.jpg"))
    Path("root/shop/x.json").write_text('{"images": ' + "[" * 100_000)
    assert "nested in more than 12 levels" in message_of(lambda: run(SHOP))


def test_a_name_of_thousands_of_characters_is_a_short_message() -> None:
    for changes in ({}, {"categories": {"x" * 4000: "scratch"}}, {"categories": {"scratch": "y" * 4000}}, {"judges": ["z" * 4000]}):
        message = message_of(lambda changes=changes: run_shop(coco(["a.jpg"], [(0, "x" * 4000, [], BOX)]), **changes))
        assert len(message) < 700
    assert "String should have at most 200 characters" in message_of(lambda: run_shop(coco(["a.jpg"], [(0, "x" * 4000, [], BOX)])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not a readable CSV"),
        ("path,clean\na.jpg,1\n", "column 'image_path' is missing."),
        ("image_path\na.jpg\n", "no label column"),
        ("image_path,clean,damag_score\na.jpg,1,1\n", "column 'damag_score': did you mean 'damage_score'?"),
        ("image_path,clean\na.jpg,yes\n", "clean has the value 'yes' in row 2"),
        ("image_path,clean\na.jpg,0.5\n", "clean has the value 0.5 for 'a.jpg'"),
        ("image_path,damage_score\na.jpg,inf\n", "damage_score has the value inf"),
        ("image_path,clean\na.jpg,1\na.jpg,0\n", "stands in more than one row"),
        ("image_path,clean\na.jpg,1\n./a.jpg,0\n", "is described twice"),
        ("image_path,clean\n,1\n", "image_path is blank in row 2"),
        ("image_path,clean,split\na.jpg,1,holdout\n", "split has the value 'holdout'"),
        ("image_path,damaged,damage_score\na.jpg,0,0.5\n", "damaged is 0 (undamaged), but damage_score is 0.5"),
        ("image_path,clean\na.jpg,1,7,8\n", "not a readable CSV"),
        ("image_path;clean\na.jpg;1\n", "its columns are separated by semicolons, as Excel does in many countries. Save it again as UTF-8"),
        ("image_path;cleanliness_score\na.jpg;0,5\n", "separated by semicolons"),
        ("image_path\tclean\na.jpg\t1\n", "separated by tabs"),
        ("image_path,clean\n", "it has columns and no rows"),
        ("image_path,clean\na.jpg,yes\n", "Write a whole number from 0 to 1 (0: dirty, 1: clean), or nothing."),
        ("image_path,cleanliness_score\na.jpg,95%\n", "has the value '95%' in row 2. Write a number from 0 to 1, or nothing. Divide"),
        (
            "image_path,cleanliness_score\na.jpg,95\n",
            "has the value 95 for 'a.jpg'. It must be a number from 0 to 1. Divide percentages by 100",
        ),
        (f"image_pth,{'y' * 4000},clean\na.jpg,1,1\n", "Did you mean 'image_pth'?"),
    ],
)
def test_a_mistake_in_a_csv_names_the_file_and_the_cell(text: str, expected: str) -> None:
    write_csv(text, "a.jpg")
    assert expected in message_of(lambda: run(FLEET))


def test_a_vehicle_id_with_blanks_is_the_same_vehicle_and_a_placeholder_is_none() -> None:
    cells = {
        "a.jpg": "1",
        "b.jpg": " 1 ",
        "c.jpg": "unknown",
        "d.jpg": "NaN",
        "e.jpg": "n/a",
        "f.jpg": "",
        "g.jpg": "e\u0301",
        "h.jpg": "\u00e9",
    }
    write_csv("image_path,clean,vehicle_id\n" + "".join(f"{name},1,{cell}\n" for name, cell in cells.items()), *cells)
    found = run(FLEET | {"family_column": "vehicle_id"})
    families = dict(zip(found.table["image_path"], found.table["family"], strict=True))
    assert families["fleet/a.jpg"] == families["fleet/b.jpg"] == "fleet/1"
    assert families["fleet/g.jpg"] == families["fleet/h.jpg"] != ""
    assert [families[f"fleet/{name}.jpg"] for name in "cdef"] == ["", "", "", ""]
    assert found.metrics["repairs"] == {"placeholders_for_a_family": 3}


def test_a_family_column_that_the_csv_lacks_is_named_with_the_nearest() -> None:
    write_csv("image_path,clean,vehicle_id\na.jpg,1,V\n", "a.jpg")
    assert "column 'vehicleid' is missing. Did you mean 'vehicle_id'?" in message_of(lambda: run(FLEET | {"family_column": "vehicleid"}))


def test_a_photo_of_two_sources_is_an_error() -> None:
    write_coco(Path("root/shop"), coco(["a.jpg"]))
    message = message_of(lambda: run(SHOP, SHOP | {"name": "again", "path": "shop"}))
    assert "'shop/a.jpg' is described twice, by 'shop' and by 'again'" in message


def test_a_root_without_a_usable_photo_names_the_first_reason() -> None:
    Path("root/f/clean").mkdir(parents=True)
    Path("root/f/clean/a.jpg").write_bytes(b"")
    message = message_of(lambda: run({"name": "f", "format": "folders", "categories": {"clean": {"clean": 1}}}))
    assert "no usable photo" in message
    assert "'f/clean/a.jpg' empty file (0 bytes)" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dirt_severity": {"rust": 1.0}}, "'rust' stands in damage_severity and in dirt_severity"),
        ({"dirt_severity": {"vehicle": 1.0}}, "'vehicle' cannot be a class"),
        ({"dirt_severity": {"dirt": 0}}, "dirt_severity.dirt has the value 0"),
        ({"area_exponent": -1}, "area_exponent has the value -1"),
        ({"min_dimension": 1}, "Did you mean 'min_dimension_px'?"),
    ],
)
def test_a_mistake_in_the_parameters_is_said(changes: dict[str, Any], expected: str) -> None:
    message = message_of(lambda: parse_section("convert_annotations", ConvertAnnotationsParams, PARAMS | changes))
    assert expected in message


def test_the_committed_parameters_and_example_are_valid() -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert read_section("convert_annotations", ConvertAnnotationsParams, params)
    assert read_section("data", DataParams, params)


# Promises


def drawn_root(order: random.Random) -> list[dict[str, Any]]:
    """A root of 70 photos in three formats, its files written and its JSON listed in the given order."""
    names = [f"{index:02}_jpg.rf.0123abc{index % 3}.jpg" for index in range(40)]
    marks = [(index, ("scratch", "dent")[index % 2], [corners(index % 7, 3, 9, 5 + index % 4)], BOX) for index in range(0, 40, 2)] * 2
    content = coco(names, marks, ["scratch", "dent"])
    for entries in content.values():
        order.shuffle(entries)
    write_coco(Path("root/shop/train"), content, with_photos=False)
    files = [(f"shop/train/{name}", index) for index, name in enumerate(names)]
    files += [(f"f/{folder}/{index}.png", index + 100 * (folder == "dirty")) for folder in ("clean", "dirty") for index in range(15)]
    order.shuffle(files)
    for name, seed in files:
        draw(Path("root") / name, seed=seed)
    (Path("root/f/clean/broken.jpg")).write_bytes(b"broken")
    sources = [
        SHOP | {"categories": {"scratch": "scratch", "dent": "dent"}},
        {"name": "f", "format": "folders", "categories": {"clean": {"clean": 1}, "dirty": {"clean": 0}}},
    ]
    order.shuffle(sources)
    return sources


def output_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int, processes: int) -> tuple[bytes, bytes, str]:
    folder.mkdir()
    monkeypatch.chdir(folder)
    found = run(*drawn_root(random.Random(seed)), processes=processes)
    assert found.table["image_path"].is_monotonic_increasing
    write_table(found.table, Path("a.csv"), QUESTIONS)
    write_table(found.rejected, Path("r.csv"))
    return Path("a.csv").read_bytes(), Path("r.csv").read_bytes(), json.dumps(found.metrics, sort_keys=True)


def test_neither_the_order_of_files_nor_the_number_of_processes_changes_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [output_of(tmp_path / str(seed), monkeypatch, seed=seed, processes=1 + seed % 2) for seed in range(3)]
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0][0].count(b"\n") == 71


def test_a_label_that_depends_on_the_order_of_files_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = iter(range(10**6))
    monkeypatch.setattr("carinspect.annotations.outline_kinds.score_from_shares", lambda *_, **__: 1 / (2 + next(turn)))
    assert output_of(tmp_path / "0", monkeypatch, seed=0, processes=1) != output_of(tmp_path / "1", monkeypatch, seed=1, processes=1)


def test_a_second_run_decodes_no_photo_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_shop(coco(["a.jpg", "b.jpg"]))
    decoded: list[bytes] = []
    monkeypatch.setattr(properties, "decode_photo", lambda content: decoded.append(content) or decode_photo(content))
    again = run(SHOP)
    assert again.table.equals(first.table)
    assert again.metrics == first.metrics
    assert not decoded
    draw(Path("root/shop/b.jpg"), seed=99)
    assert not run(SHOP).table.equals(first.table)
    assert decoded == [Path("root/shop/b.jpg").read_bytes()]


def test_a_photo_with_another_formats_suffix_is_rejected_or_read_as_what_it_is() -> None:
    draw(Path("root/shop/really.jpg"), format="PNG")
    draw(Path("root/shop/camera.JPG"), seed=1)
    draw(Path("root/shop/two_eyes.jpg"), seed=2, format="MPO")
    write_coco(Path("root/shop"), coco(["really.jpg", "camera.JPG", "two_eyes.jpg"]), with_photos=False)
    found = run(SHOP)
    assert found.table["image_path"].tolist() == ["shop/camera.JPG", "shop/two_eyes.jpg"]
    assert found.rejected["image_path"].tolist() == ["shop/really.jpg"]
    assert "than PNG, which it is: rename it" in found.rejected["reason"].item()
    assert found.metrics["rejected"] == {"misnamed": 1}
    read = run(SHOP, misnamed="read")
    assert len(read.table) == 3
    assert read.rejected.empty
    assert read.metrics["pictures"]["misnamed"] == 1


def test_grey_turned_and_dark_photos_are_counted_without_decoding_again() -> None:
    draw(Path("root/shop/bright.jpg"))
    Image.new("L", (SIDE_PX, SIDE_PX), 3).save("root/shop/grey.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(Path("root/shop/turned.jpg"), seed=1, exif=exif)
    write_coco(Path("root/shop"), coco(["bright.jpg", "grey.jpg", "turned.jpg"]), with_photos=False)
    pictures = run(SHOP).metrics["pictures"]
    assert pictures["misnamed"] == 0
    assert (pictures["grey"], pictures["turned_by_exif"]) == (1, 1)
    assert pictures["brightness"]["p10"] < pictures["brightness"]["p50"]
    assert pictures["dark_share"]["p90"] > 0.5
    assert pictures["sharpness"]["p50"] > 0


DIAGONAL = coco_mask.encode(np.eye(SIDE_PX, dtype=np.uint8, order="F"))["counts"].decode()
VALID_MARKS = [
    (0, "scratch", [corners(*BOX)], BOX),
    (1, "scratch", [], BOX),
    (1, "car", {"size": [SIDE_PX, SIDE_PX], "counts": [100, 700, 800]}, BOX),
    (1, "car", {"size": [SIDE_PX, SIDE_PX], "counts": DIAGONAL}, BOX),
]
VALID = json.dumps(coco(["a.jpg", "b.jpg"], VALID_MARKS)).encode()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 4)), min_size=1, max_size=4))
def test_a_damaged_coco_file_gives_a_table_or_a_plain_error(edits: list[tuple[int, bytes, int]]) -> None:
    content = bytearray(VALID)
    for position, new, removed in edits:
        content[position : position + removed] = new
    _convert_or_refuse(bytes(content))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    section=st.sampled_from(["images", "annotations", "categories"]),
    index=st.integers(0, 1),
    key=st.sampled_from(["id", "file_name", "width", "height", "name", "image_id", "category_id", "segmentation", "bbox"]),
    value=JSON_VALUES,
)
def test_a_wrong_value_anywhere_in_a_coco_file_gives_a_table_or_a_plain_error(section: str, index: int, key: str, value: Any) -> None:
    content = json.loads(VALID)
    content[section][index][key] = value
    _convert_or_refuse(json.dumps(content).encode())


def _convert_or_refuse(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root / "shop/a.jpg")
        draw(root / "shop/b.jpg", seed=1)
        (root / "shop/x.json").write_bytes(content)
        sources = [SHOP | {"categories": {"scratch": "scratch", "car": "vehicle"}}]
        (root / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}))
        data = DataParams(root=folder, sources=str(root / "sources.yaml"))
        try:
            table = convert(data, ConvertAnnotationsParams.model_validate(PARAMS), QUESTIONS, processes=1).table
        except UserError as refusal:
            message, table = str(refusal), None
        if table is None:
            assert "\n" not in message
        else:
            write_table(table, root / "a.csv", QUESTIONS)
            read_table(root / "a.csv", columns=annotation_columns(QUESTIONS), questions=QUESTIONS)


# The stage


def run_stage_script() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "stages/convert_annotations.py")]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}, check=False)


def test_the_stage_writes_its_three_files_and_a_mistake_in_one_line() -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"data": {"root": "root", "sources": "s.yaml"}, "convert_annotations": PARAMS}))
    Path("data").mkdir()
    _, _, damaged, damage, weather = QUESTIONS
    Path("data/questions.yaml").write_text(yaml.safe_dump({"questions": dump_questions([damaged, damage])}))
    refused = run_stage_script()
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("convert_annotations: data.root is 'root': no such folder.")
    write_coco(Path("root/shop"), coco(["a.jpg"], [(0, "scratch", [corners(-10, -10, 20, 20)], BOX)]))
    Path("s.yaml").write_text(yaml.safe_dump({"sources": [SHOP]}))
    done = run_stage_script()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("shop: outlines that reached out of the photo, clipped: 1\n1 photos; 0 rejected")
    assert len(read_table(Path("data/annotations.csv"), columns=annotation_columns([damaged, damage]))) == 1
    assert Path("data/rejected.csv").read_text() == "image_path,source,reason\n"
    assert json.loads(Path("metrics/convert_annotations.json").read_text())["photos"] == 1
    Path("data/questions.yaml").write_text(yaml.safe_dump({"questions": dump_questions([damaged, damage, weather])}))
    assert "s.yaml: no source has a label for 'weather'." in run_stage_script().stderr


@pytest.mark.skipif("CARINSPECT_REAL_DATA" not in os.environ, reason="CARINSPECT_REAL_DATA names no folder of real photos")
def test_real_exports_give_the_counts_that_their_readme_states() -> None:
    data = DataParams(root=os.environ["CARINSPECT_REAL_DATA"], sources=str(REPOSITORY / "examples/real_photos/sources.yaml"))
    params = read_section("convert_annotations", ConvertAnnotationsParams, yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    found = convert(data, params, QUESTIONS)
    assert found.table["source"].value_counts().to_dict() == {
        "bilgi_car_damage": 278, "car_scratch": 267, "car_scratch_and_dent": 229, "rust_and_scrach": 102,
        "dirt_car": 600, "damage_folders": 501, "weather": 527,
    }  # fmt: skip
    classes = {name: source["classes"] for name, source in found.metrics["sources"].items()}
    assert classes["rust_and_scrach"] == {"rust": 93, "dunt": 83, "car": 71, "scracth": 46}
    assert classes["car_scratch"] == {"0": 157, "car-scratch": 183, "Scratch": 78}
    assert classes["dirt_car"] == {"clean": 130, "dirty": 470}
    assert len(found.rejected) == 0
    # Every photo of that export shows damage; the deployed airbags among them must not pass as undamaged.
    assert (found.table.loc[found.table["source"] == "bilgi_car_damage", "damaged"] == 1).all()
