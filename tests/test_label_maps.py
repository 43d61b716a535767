"""annotations, images: which outlines are kept in data/outlines.csv, and the label maps that are drawn from them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from carinspect.core.tables import write_table
from carinspect.images.label_maps import MARKED, UNKNOWN, UNMARKED, Mask, draw_label_map, read_outlines
from test_annotations import BOX, SHOP, SIDE_PX, _own_folder, coco, corners, draw, message_of, run, run_shop, write_coco  # noqa: F401


def mask_of(pixels: np.ndarray, *, form: Any = "outline", rest: Any = "unmarked") -> Mask:
    coded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return Mask("scratch", form, *pixels.shape, coded["counts"].decode(), rest)


def pixels_with(*boxes: tuple[int, int, int, int], side_px: int = 64) -> np.ndarray:
    canvas = np.zeros((side_px, side_px), np.uint8)
    for x, y, width, height in boxes:
        canvas[y : y + height, x : x + width] = 1
    return canvas


def kept(conversion: Any, ending: str) -> list[tuple[str, str, str]]:
    """Kind, form and rest of each row of one photo."""
    rows = conversion.outlines[conversion.outlines["image_path"].str.endswith(ending)]
    return list(rows[["kind", "form", "rest"]].itertuples(index=False, name=None))


# ---- the table


def test_a_source_that_judges_damage_gives_zeros_outside_its_outlines_and_on_photos_without_any() -> None:
    conversion = run_shop(coco(["a.png", "b.png"], [(0, "scratch", [corners(4, 4, 20, 10)], BOX)]))
    assert kept(conversion, "a.png") == [("damage", "outline", "unmarked")]
    assert kept(conversion, "b.png") == [("damage", "none", "unmarked")]


def test_of_dirt_that_nobody_judged_nothing_is_kept() -> None:
    marks = [(0, "dirt", [corners(4, 4, 20, 10)], BOX)]
    conversion = run_shop(coco(["a.png"], marks), categories={"dirt": "dirt"})
    assert kept(conversion, "a.png") == [("damage", "none", "unmarked")]


def test_a_mark_of_unknown_area_leaves_the_rest_of_the_photo_unknown() -> None:
    marks = [(0, "scratch", [corners(4, 4, 20, 10)], BOX), (0, "scratch", [], None)]
    assert kept(run_shop(coco(["a.png"], marks)), "a.png") == [("damage", "outline", "unknown")]


def test_class_folders_tell_that_a_whole_car_has_no_mark_and_nothing_of_a_damaged_one() -> None:
    draw(Path("root/folders/damaged/a.png"))
    draw(Path("root/folders/whole/b.png"), seed=1)
    conversion = run({
        "name": "folders", "format": "folders", "categories": {"damaged": {"damaged": 1}, "whole": {"damaged": 0}},
    })  # fmt: skip
    assert kept(conversion, "a.png") == []
    assert kept(conversion, "b.png") == [("damage", "none", "unmarked")]


def test_boxes_are_kept_one_by_one_and_outlines_of_a_class_as_their_union() -> None:
    outline = corners(1, 1, 5, 5)
    marks = [(0, "scratch", [outline], BOX), (0, "scratch", [outline], BOX), (0, "scratch", [], BOX), (0, "scratch", [], [1, 1, 8, 8])]
    forms = sorted(form for _, form, _ in kept(run_shop(coco(["a.png"], marks)), "a.png"))
    assert forms == ["box", "box", "outline"]


def test_outlines_of_a_photo_of_another_shape_are_not_kept() -> None:
    write_coco(Path("root/shop"), coco(["a.png", "b.png"], [(0, "scratch", [corners(4, 4, 20, 10)], BOX)]))
    draw(Path("root/shop/a.png"), width_px=SIDE_PX * 2)
    conversion = run(SHOP)
    assert kept(conversion, "a.png") == []
    assert kept(conversion, "b.png") == [("damage", "none", "unmarked")]


def test_a_correction_that_says_undamaged_wins_over_outlines() -> None:
    write_coco(Path("root/shop"), coco(["a.png"], [(0, "scratch", [corners(4, 4, 20, 10)], BOX)]))
    Path("root/fixes.csv").write_text("image_path,question,new_label,who,when\nshop/a.png,damage,1,ada,2026-01-01\n")
    assert kept(run(SHOP, corrections="fixes.csv"), "a.png") == [("damage", "none", "unmarked")]


def test_the_table_comes_back_from_its_file_as_the_pixels_that_were_outlined() -> None:
    conversion = run_shop(coco(["a.png"], [(0, "scratch", [corners(4, 4, 20, 10)], BOX)]))
    write_table(conversion.outlines, Path("outlines.csv"))
    (mask,) = read_outlines(Path("outlines.csv"))["shop/a.png"]["damage"]
    expected = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    expected[4:14, 4:24] = 1
    assert np.array_equal(mask.decode(), expected)


def test_a_missing_table_or_column_is_one_line_with_the_way_to_make_it() -> None:
    assert "dvc repro convert_annotations" in message_of(lambda: read_outlines(Path("nothing.csv")))
    Path("odd.csv").write_text("image_path,kind\n")
    assert "'class'" in message_of(lambda: read_outlines(Path("odd.csv")))


# ---- label maps


def test_a_cell_is_marked_where_half_of_it_is_covered_and_unknown_where_less_is() -> None:
    drawn = draw_label_map([mask_of(pixels_with((0, 0, 20, 8)))], side_px=8)  # cells of 8 px: two whole ones and half of a third
    assert drawn[0].tolist() == [MARKED, MARKED, MARKED, *[UNMARKED] * 5]
    drawn = draw_label_map([mask_of(pixels_with((0, 0, 18, 8)))], side_px=8)
    assert drawn[0].tolist() == [MARKED, MARKED, UNKNOWN, *[UNMARKED] * 5]


@pytest.mark.parametrize("side_px", [7, 8, 16, 50, 64, 100])
def test_a_scratch_thinner_than_a_cell_is_still_marked(side_px: int) -> None:
    drawn = draw_label_map([mask_of(pixels_with((10, 30, 40, 1)))], side_px=side_px)
    assert (drawn == MARKED).any()
    assert (drawn == UNMARKED).mean() > 0.8


def test_the_middle_of_a_box_is_marked_and_its_rim_unknown() -> None:
    drawn = draw_label_map([mask_of(pixels_with((16, 16, 32, 32)), form="box")], side_px=64)
    assert (drawn == MARKED).sum() == pytest.approx(32 * 32 / 2, rel=0.05)
    assert (drawn[16:48, 16:48] != UNMARKED).all()
    assert drawn[32, 32] == MARKED
    assert drawn[17, 17] == UNKNOWN


def test_a_mark_inside_the_rim_of_another_one_is_marked() -> None:
    drawn = draw_label_map([mask_of(pixels_with((20, 20, 4, 4))), mask_of(pixels_with((16, 16, 32, 32)), form="box")], side_px=64)
    assert (drawn[20:24, 20:24] == MARKED).all()


def test_where_not_every_mark_has_a_place_the_rest_is_unknown() -> None:
    drawn = draw_label_map([mask_of(pixels_with((0, 0, 8, 8)), rest="unknown")], side_px=8)
    assert drawn[0, 0] == MARKED
    assert (drawn.ravel()[1:] == UNKNOWN).all()


def test_a_photo_without_marks_is_unmarked_everywhere() -> None:
    assert (draw_label_map([Mask("", "none", 0, 0, "", "unmarked")], side_px=8) == UNMARKED).all()


def test_a_photo_that_is_stretched_to_a_square_keeps_its_marks_on_their_place() -> None:
    pixels = np.zeros((30, 90), np.uint8)
    pixels[10:20, 60:90] = 1
    drawn = draw_label_map([mask_of(pixels)], side_px=9)
    expected = cv2.resize(pixels, (9, 9), interpolation=cv2.INTER_AREA)
    assert np.array_equal(drawn == MARKED, expected == 1)
