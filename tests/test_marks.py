"""Marks: regions of a map, and their outlines in photo pixels."""

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as coco_masks
from scipy import ndimage

from carinspect.core.errors import UserError
from carinspect.core.questions import MARKS
from carinspect.images.decode import decode_photo, load_image, open_photo
from carinspect.images.statistics import measure_photo, view_photo
from carinspect.images.upright import load_with_size
from carinspect.inference.bundle import open_bundle
from carinspect.inference.marks import find_all_marks, find_marks, find_regions, outlined_area
from carinspect.inference.predictor import Predictor, make_predictor, open_gate
from carinspect.inference.rules import MarkPromise, MarkRule, read_thresholds
from carinspect.inference.seal import seal
from conftest import encode_photo, make_thresholds

PROMISE = MarkPromise(target_precision=0.9, confidence=0.95, bound=0.92, groups=120, wrong=4)
RULE = MarkRule(question="damage", kind="damage", cut=0.5, promise=None)
MAPS = [np.random.default_rng(seed).random((3 + seed % 11, 2 + seed % 7)) for seed in range(60)]


def test_regions_are_those_of_another_implementation() -> None:
    for map_hw in MAPS:
        regions = find_regions(map_hw, 0.7)
        count, expected = cv2.connectedComponents((map_hw >= 0.7).astype(np.uint8), connectivity=8)
        # The same cells together, whatever their number.
        pairs = set(zip(regions.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == count == regions.max() + 1
        assert (regions == 0).tolist() == (expected == 0).tolist()


def test_a_cell_at_the_cut_is_marked_and_one_that_is_no_number_is_not() -> None:
    assert find_regions(np.array([[0.5, np.nan, 0.49, 1.0]]), 0.5).tolist() == [[1, 0, 0, 2]]


def test_an_outline_encloses_exactly_its_cells_and_their_holes() -> None:
    for map_hw in MAPS:
        height, width = map_hw.shape
        regions = find_regions(map_hw, 0.5)
        marks = find_marks(map_hw, RULE, width_px=16 * width, height_px=16 * height)
        assert len(marks) == regions.max()
        filled = []
        for mark in marks:
            drawn = coco_masks.decode(coco_masks.frPyObjects([np.ravel(mark.polygon).tolist()], 16 * height, 16 * width))[..., 0]
            assert drawn.sum() == outlined_area(mark.polygon)
            x, y, box_width, box_height = mark.box
            ys, xs = np.nonzero(drawn)
            assert (x, y, box_width, box_height) == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
            filled.append(drawn)
        for number in range(1, regions.max() + 1):
            expected = np.kron(ndimage.binary_fill_holes(regions == number), np.ones((16, 16)))
            assert sum(np.array_equal(expected, drawn) for drawn in filled) == 1


def test_a_mark_says_what_and_where_it_is_and_how_strong() -> None:
    map_hw = np.zeros((4, 8), np.float32)
    map_hw[0, 0], map_hw[1, 1], map_hw[3, 6:] = 0.6, 0.55, 0.9
    strong, weak = find_marks(map_hw, RULE, width_px=640, height_px=480)
    assert strong.polygon == [[480, 360], [640, 360], [640, 480], [480, 480]]
    assert (strong.box, strong.share, strong.strength, strong.proved) == ([480, 360, 160, 120], 2 / 32, 0.9, False)
    # Two cells that touch at a corner are one mark.
    assert weak.polygon == [[0, 0], [80, 0], [80, 120], [160, 120], [160, 240], [80, 240], [80, 120], [0, 120]]
    assert (weak.question, weak.kind, weak.strength) == ("damage", "damage", 0.6)
    (proved, _) = find_marks(map_hw, RULE.model_copy(update={"promise": PROMISE}), width_px=640, height_px=480)
    assert proved.proved


def test_a_share_leaves_out_holes_that_the_outline_encloses() -> None:
    map_hw = np.ones((3, 3))
    map_hw[1, 1] = 0
    (mark,) = find_marks(map_hw, RULE, width_px=30, height_px=30)
    assert (mark.share, outlined_area(mark.polygon)) == (round(8 / 9, 6), 900)


def test_a_region_without_a_pixel_is_no_mark() -> None:
    map_hw = np.zeros((28, 28))
    map_hw[3, 3], map_hw[10:20, 10:20] = 0.9, 0.8
    (mark,) = find_marks(map_hw, RULE, width_px=5, height_px=3)
    assert mark.polygon == [[2, 1], [4, 1], [4, 2], [2, 2]]
    map_hw[10:20, 10:20] = 0
    assert find_marks(map_hw, RULE, width_px=5, height_px=3) == []
    assert find_marks(np.zeros((28, 28)), RULE, width_px=640, height_px=480) == []


def test_thresholds_carry_the_rules_of_marks() -> None:
    plain = make_thresholds()
    assert plain.marks == {}
    marked = plain.model_copy(update={"marks": {"damage": RULE.model_copy(update={"promise": PROMISE})}})
    assert read_thresholds(marked.model_dump(mode="json"), file="x").marks == marked.marks
    assert marked.without_promises().marks == {"damage": RULE}
    assert "marks" not in plain.model_dump(mode="json", exclude_defaults=True)


@pytest.mark.parametrize(
    ("name", "rule", "reason"),
    [
        ("damage", RULE.model_copy(update={"cut": 1.5}), "cut"),
        ("damage", RULE.model_copy(update={"question": "cleanliness"}), "is of the question 'cleanliness'"),
        ("clean", RULE.model_copy(update={"question": "clean"}), "this is of kind binary"),
        ("rust", RULE.model_copy(update={"question": "rust"}), "'rust', which is none of its questions"),
    ],
)
def test_broken_rules_of_marks_are_refused(name: str, rule: MarkRule, reason: str) -> None:
    broken = make_thresholds().model_dump(mode="json") | {"marks": {name: rule.model_dump(mode="json")}}
    with pytest.raises(UserError, match=reason):
        read_thresholds(broken, file="best.onnx")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_size_is_that_of_the_upright_photo(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode_photo(Image.new("RGB", (640, 320), "red"), kind, exif=exif if kind == "TIFF" else exif.tobytes())
    pixels, size = load_with_size(content, 32)
    assert size == decode_photo(content).size
    assert np.array_equal(pixels, load_image(content, 32))
    # The tables of a data root name the same size.
    assert measure_photo(open_photo(content), view_photo(decode_photo(content)), file_bytes=len(content))["width_px"] == size[0]


# ---- in the model file


def spotted(*, size: tuple[int, int] = (640, 480), box: tuple[int, int, int, int], colour: str) -> Image.Image:
    """A black photo with one spot, whose corners are given in pixels."""
    photo = Image.new("RGB", size, "black")
    photo.paste(colour, box)
    return photo


def test_a_predictor_marks_the_place_in_pixels_of_the_upright_photo(marking_content: bytes) -> None:
    predictor = make_predictor(open_bundle(marking_content, marks=True))
    exif = Image.Exif()
    # Shown upright, the file's upper left corner is the upper right one: 480 x 640 pixels.
    exif[ExifTags.Base.Orientation] = 6
    content = encode_photo(spotted(box=(0, 0, 160, 120), colour="red"), "PNG", exif=exif.tobytes())
    pixels, (width_px, height_px) = predictor.load_with_size(content)
    (answer,) = predictor.answer(pixels[None])
    (mark,) = predictor.find_marks(answer, width_px=width_px, height_px=height_px).marks
    assert (mark.question, mark.kind, mark.proved) == ("damage", "damage", True)
    assert mark.box == [360, 0, 120, 160]
    (green,) = predictor.answer(np.asarray(spotted(size=(32, 32), box=(0, 16, 8, 24), colour="lime"))[None])
    (dirt,) = predictor.find_marks(green, width_px=320, height_px=320).marks
    assert (dirt.question, dirt.kind, dirt.proved, dirt.box) == ("cleanliness", "dirt", False, [0, 160, 80, 80])


def test_maps_are_given_where_they_are_asked_for_and_change_no_answer(marking_content: bytes) -> None:
    photos = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    marking, asked_for_none = open_bundle(marking_content, marks=True), open_bundle(marking_content)
    outputs, plain_outputs = marking.predict(photos), asked_for_none.predict(photos)
    assert outputs.pop(MARKS).shape == (3, 2, 8, 8)
    assert outputs.keys() == plain_outputs.keys()
    assert all(np.array_equal(outputs[name], plain_outputs[name]) for name in outputs)
    assert make_predictor(marking).answer(photos) == make_predictor(asked_for_none).answer(photos)


def test_a_file_without_maps_that_is_asked_for_them_is_refused(model_content: bytes, marking_content: bytes) -> None:
    with pytest.raises(UserError, match="a model without maps, so it can mark no place"):
        open_bundle(model_content, marks=True)
    broken = onnx.load_from_string(marking_content)
    del broken.graph.output[-1]
    with pytest.raises(UserError, match="rules for 2 maps, and its output 'marks' is None"):
        open_bundle(seal(broken.SerializeToString()), marks=True)


def test_marks_on_a_photo_that_the_gate_turns_away_are_unproved(marking_content: bytes) -> None:
    open_model = make_predictor(open_bundle(marking_content, marks=True))
    photos = np.asarray(spotted(size=(32, 32), box=(0, 0, 8, 8), colour="red"))[None]

    def proved(predictor: Predictor) -> list[bool]:
        (answer,) = predictor.answer(photos)
        return [mark.proved for mark in predictor.find_marks(answer, width_px=32, height_px=32).marks]

    thresholds = open_model.bundle.thresholds
    closed = thresholds.model_copy(update={"gate": thresholds.gate.model_copy(update={"threshold": -1e9})})
    assert proved(open_model) == [True]
    assert proved(replace(open_model, bundle=replace(open_model.bundle, thresholds=closed))) == [False]
    assert proved(open_gate(open_model, "off")) == [False]


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 3), (13, 11), (14, 12), (640, 480)])
def test_every_region_is_a_mark_or_counted(size: tuple[int, int]) -> None:
    for map_hw in MAPS:
        found = find_all_marks({"damage": map_hw}, {"damage": RULE}, width_px=size[0], height_px=size[1])
        assert len(found.marks) + found.without_pixel == find_regions(map_hw, RULE.cut).max()
        assert all(outlined_area(mark.polygon) > 0 for mark in found.marks)
