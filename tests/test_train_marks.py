"""training: the head that learns where a photo is marked. evaluation, thresholds: the worth of its maps, and what is proved of marks."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from carinspect.evaluation.marks import COLUMNS, draw_froc, judge, measure_marks, summarise, write_marks
from carinspect.images.label_maps import MARKED, UNKNOWN, UNMARKED, Mask
from carinspect.inference.rules import MarkRule
from carinspect.model.backbones import build_backbone
from carinspect.model.features import map_stages
from carinspect.model.marks import MarksFit, MarksHead, channels_of, load_marks, marked_stages, save_marks
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.marks import choose_marks, count_trials, headline_marks, judged_marks, prove, read_marks
from carinspect.training.augment import Augmentation
from carinspect.training.marks import LEAST_PHOTOS, cell_targets, marks_loss, say_taught, teach_marks
from conftest import QUESTIONS, make_evaluate_params, make_recipe, untrained_network
from test_augmentation import NOTHING, changed, draw_photo
from test_label_maps import mask_of, pixels_with

DAMAGE = next(asked for asked in QUESTIONS if asked.marks == "damage")


# ---- augmentation


def test_a_marked_pixel_stays_on_its_mark() -> None:
    """A photo that is red where the map is marked stays so, however it is mirrored, cropped, turned and bent."""
    recipe = changed(
        make_recipe(), image_side_px=64,
        augment=NOTHING | {"flip": 0.5, "crop": 1.0, "crop_min_area": 0.5, "rotate_degrees": 20, "perspective": 0.05},
    )  # fmt: skip
    marked = np.zeros((64, 64), np.uint8)
    marked[20:44, 8:26] = MARKED
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[marked == MARKED] = (255, 0, 0)
    augmentation, moved = Augmentation(recipe), 0
    for epoch in range(60):
        seen, (mapped,) = augmentation.with_maps(photo, [marked], epoch=epoch, image_path="a.jpg", sky_label=float("nan"))
        assert set(np.unique(mapped).tolist()) <= {UNMARKED, MARKED}
        red = seen[:, :, 0] > 127
        overlap = (red & (mapped == MARKED)).sum() / (red | (mapped == MARKED)).sum()
        # The photo is interpolated and the map is not, so their rims may differ by a pixel.
        assert overlap > 0.85, epoch
        assert np.abs(np.argwhere(red).mean(axis=0) - np.argwhere(mapped == MARKED).mean(axis=0)).max() < 1.2
        moved += not np.array_equal(mapped, marked)
    assert moved > 50


def test_maps_change_nothing_in_the_photo() -> None:
    recipe = changed(make_recipe(), image_side_px=64)
    photo = draw_photo()
    for epoch in range(10):
        expected = Augmentation(recipe)(photo, epoch=epoch, image_path="a.jpg", sky_label=float("nan"))
        seen, _ = Augmentation(recipe).with_maps(
            photo, [np.zeros((64, 64), np.uint8)], epoch=epoch, image_path="a.jpg", sky_label=float("nan")
        )
        assert np.array_equal(seen, expected)


# ---- targets and loss


def test_targets_of_cells_follow_the_rule_of_the_label_map() -> None:
    maps = torch.full((1, 2, 16, 16), UNMARKED, dtype=torch.uint8)
    maps[0, 0, :8, :8] = MARKED
    maps[0, 0, 0, 8] = MARKED  # an eighth of the next cell's first row
    maps[0, 1] = UNKNOWN
    marked, known = cell_targets(maps, cells=(2, 2))
    assert marked[0, 0].tolist() == [[1, 0], [0, 0]]
    assert known[0, 0].tolist() == [[1, 0], [1, 1]]
    assert not marked[0, 1].any()
    assert not known[0, 1].any()


def test_cells_that_nobody_knows_teach_nothing() -> None:
    torch.manual_seed(0)
    marked, known = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    marked[0, 0, 1, 1] = 1
    known[:, :, 3] = 0
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    loss = marks_loss(logits, marked, known)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert not logits.grad[:, :, 3].any()
    assert logits.grad[:, :, :3].abs().min() > 0


def test_a_question_without_a_known_cell_has_no_loss_and_no_nan() -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    known = torch.ones(2, 2, 4, 4)
    known[:, 1] = 0
    marked = torch.zeros(2, 2, 4, 4)
    marked[0, 0, 0, 0] = 1
    one = marks_loss(logits[:, :1], marked[:, :1], known[:, :1])
    both = marks_loss(logits, marked, known)
    assert both.item() == pytest.approx(one.item())
    assert marks_loss(logits, torch.zeros_like(marked), torch.zeros_like(known)).item() == 0


def test_the_loss_is_the_sum_of_its_three_parts() -> None:
    """Beside a computation by loops."""
    rng = np.random.default_rng(1)
    logits, marked, known = rng.normal(size=(3, 4, 4)), rng.random((3, 4, 4)) < 0.2, rng.random((3, 4, 4)) < 0.8
    marked[2] = False
    marked &= known
    p = 1 / (1 + np.exp(-logits))
    entropy = -np.where(marked, np.log(p), np.log(1 - p))[known].mean()
    dices, points = [], []
    for one in range(2):
        dices.append(1 - 2 * p[one][marked[one]].sum() / (p[one][known[one]].sum() + marked[one].sum()))
        points.append(-np.log(np.exp(logits[one][marked[one]]).sum() / np.exp(logits[one][known[one]]).sum()))
    expected = entropy + np.mean(dices) + 0.2 * np.mean(points)
    tensors = [torch.tensor(array[:, None], dtype=torch.float64) for array in (logits, marked, known)]
    assert marks_loss(*tensors).item() == pytest.approx(expected)


# ---- the head


@pytest.mark.parametrize(("name", "side_px", "cells"), [("test_resnet", 96, 12), ("test_vit", 160, 10), ("test_efficientnet", 64, 8)])
def test_the_head_sees_stages_of_any_backbone(name: str, side_px: int, cells: int) -> None:
    backbone = build_backbone(name, image_side_px=side_px).eval()
    stages = marked_stages(backbone)
    assert 1 <= len(stages) <= 3
    maps, _ = map_stages(backbone, torch.rand(2, 3, side_px, side_px), stages)
    head = MarksHead(channels_of(backbone, stages), questions=2)
    assert head(maps).shape == (2, 2, cells, cells)


def test_a_head_comes_back_from_its_file(tmp_path: Path) -> None:
    head = MarksHead([4, 8], questions=1)
    fit = MarksFit(("damage",), (0, 1), (4, 8), {"damage": 0.5}, {"damage": torch.zeros(2, 2)}, head.state_dict())
    save_marks(fit, tmp_path / "marks.pt")
    again = load_marks(tmp_path / "marks.pt")
    assert again is not None
    maps = [torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)]
    assert torch.equal(again.build()(maps), head.eval()(maps))
    save_marks(None, tmp_path / "marks.pt")
    assert load_marks(tmp_path / "marks.pt") is None


def drawn_world(folder: Path, *, photos: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Photos of grey noise; every second one has a bright spot, which is outlined. A quarter is val, a quarter test."""
    rng = np.random.default_rng(5)
    rows, outlines = [], {}
    for number in range(photos):
        name = f"{number:03}.png"
        pixels = rng.integers(60, 110, (64, 64, 3)).astype(np.uint8)
        masks = [Mask("", "none", 0, 0, "", "unmarked")]
        if number % 2:
            x, y = rng.integers(0, 44, 2).tolist()
            pixels[y : y + 16, x : x + 16] = (250, 240, 30)
            masks = [mask_of(pixels_with((x, y, 16, 16)))]
        cv2.imwrite(str(folder / name), pixels[:, :, ::-1])
        outlines[name] = {"damage": masks}
        split = ("train", "train", "train", "train", "val", "val", "test", "test")[number % 8]
        rows.append({"image_path": name, "source": "drawn", "group": name, "split": split, "sha256": f"{number:064}"})
    table = pd.DataFrame(rows)
    for asked in QUESTIONS:
        table[asked.column] = np.nan
    return table, outlines


def test_a_head_learns_where_the_spots_are_and_the_same_bits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    table, outlines = drawn_world(tmp_path, photos=160)
    recipe = changed(make_recipe(), image_side_px=64, augment=NOTHING | {"flip": 0.5})
    network = untrained_network().eval()

    def teach() -> Any:
        return teach_marks(network, table, outlines, recipe, root=tmp_path, side_px=64, workers=0)

    taught = teach()
    assert taught.fit is not None
    assert taught.fit.questions == (DAMAGE.name,)
    again = teach()
    assert all(torch.equal(value, again.fit.weights[name]) for name, value in taught.fit.weights.items())
    pixels = np.stack([cv2.imread(str(tmp_path / name))[:, :, ::-1] for name in table["image_path"]])
    head = taught.fit.build()

    def maps_of(places: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            maps = network.maps(torch.from_numpy(pixels[places].copy()), taught.fit.stages)
            return torch.sigmoid(head(maps)).numpy()

    measured = measure_marks(table, maps_of, taught.fit, outlines, QUESTIONS, make_evaluate_params())
    figures = measured.report[DAMAGE.name]["test"]
    assert figures["pointing"] > 0.9
    assert figures["pointing_random"] == pytest.approx(1 / 16, abs=0.01)
    assert figures["pointing_prior"] < 0.5
    assert figures["mean_iou"] > 0.4
    assert figures["pixel_ap"] > 0.8
    assert "mean IoU on val" in say_taught(taught, QUESTIONS)[1]
    # The file comes back, and its rows are of the photos that are known.
    write_marks(measured, tmp_path / "marks.csv")
    found = read_marks(tmp_path / "marks.csv")
    assert (found["what"] == "photo").sum() == len(table)


def test_too_few_outlines_give_no_map_and_say_so(tmp_path: Path) -> None:
    table, outlines = drawn_world(tmp_path, photos=16)
    taught = teach_marks(untrained_network().eval(), table, outlines, make_recipe(), root=tmp_path, side_px=64, workers=0)
    assert taught.fit is None
    assert f"it takes {LEAST_PHOTOS}" in say_taught(taught, QUESTIONS)[1]


# ---- figures


def map_with(*cells: tuple[int, int, float], side: int = 8) -> np.ndarray:
    found = np.zeros((side, side), np.float32)
    for y, x, value in cells:
        found[y, x] = value
    return found


def test_pointing_is_judged_on_the_outline_and_beside_it() -> None:
    masks = [mask_of(pixels_with((16, 16, 16, 16)))]  # cells (2..3, 2..3) of 8
    prior = np.full((8, 8), 0.1)
    hit = judge(map_with((2, 3, 0.9)), masks, cut=0.5, prior=prior).figures["ours"]
    assert (hit["pointing"], hit["pointing_near"]) == (1, 1)
    missed = judge(map_with((2, 6, 0.9)), masks, cut=0.5, prior=prior).figures["ours"]
    assert (missed["pointing"], missed["pointing_near"]) == (0, 0)
    beside = judge(map_with((8, 15, 0.9), side=32), [mask_of(pixels_with((16, 16, 13, 16)))], cut=0.5, prior=np.full((32, 32), 0.1))
    assert (beside.figures["ours"]["pointing"], beside.figures["ours"]["pointing_near"]) == (0, 1)
    assert np.isnan(hit["pointing_small"])  # it covers 1/16 of the photo


def test_pixel_precision_agrees_with_sklearn_up_to_its_levels() -> None:
    rng = np.random.default_rng(2)
    rows, parts, truths, values = [], [], [], []
    for number in range(12):
        masks = [mask_of(pixels_with((8 * int(rng.integers(0, 6)), 16, 16, 16)))]
        map_hw = rng.random((8, 8)).astype(np.float32)
        parts.append(judge(map_hw, masks, cut=0.5, prior=np.full((8, 8), 0.1)))
        rows.append(pd.Series({"group": f"g{number // 2}"}))
        truths.append(parts[-1].cells["truth"])
        values.append(parts[-1].cells["ours"])
    report = summarise(list(zip(rows, parts, strict=True)), make_evaluate_params())
    assert report["pixel_ap"] == pytest.approx(average_precision_score(np.concatenate(truths), np.concatenate(values)), abs=0.01)
    assert report["pixel_ap_low"] < report["pixel_ap"] < report["pixel_ap_high"]
    assert report["groups"] == 6


def test_the_table_has_a_row_for_each_photo_mark_and_outline_and_its_curve_counts_them() -> None:
    outlined, whole = [mask_of(pixels_with((16, 16, 16, 16)))], [Mask("", "none", 0, 0, "", "unmarked")]
    maps = np.stack([map_with((2, 2, 0.9), (7, 7, 0.6)), map_with((0, 0, 0.7))])[:, None]
    rows = pd.DataFrame({"image_path": ["a", "b", "c"], "source": "s", "group": ["a", "b", "c"], "split": "test"})
    fit = MarksFit((DAMAGE.name,), (), (), {DAMAGE.name: 0.5}, {DAMAGE.name: torch.zeros(8, 8)}, {})
    outlines = {"a": {"damage": outlined}, "b": {"damage": whole}}
    table = measure_marks(rows, lambda places: maps[places], fit, outlines, QUESTIONS, make_evaluate_params()).table
    assert list(table.columns) == list(COLUMNS)
    counted = table.groupby("what").size().to_dict()
    assert counted == {"mark": 3, "outline": 1, "photo": 2}
    curve = draw_froc(table, DAMAGE.name).set_index("strength")
    assert curve.loc[0.85, ["found", "false_marks", "false_photos"]].tolist() == [1.0, 0.0, 0.0]
    assert curve.loc[0.65, ["found", "false_marks", "false_photos"]].tolist() == [1.0, 0.5, 1.0]
    assert curve.loc[0.55, ["found", "false_marks", "false_photos"]].tolist() == [1.0, 1.0, 1.0]


def test_of_a_mark_where_nobody_looked_it_is_not_said_that_it_is_wrong() -> None:
    masks = [mask_of(pixels_with((16, 16, 16, 16)), rest="unknown")]
    rows = pd.DataFrame({"image_path": ["a"], "source": "s", "group": ["a"], "split": "test"})
    fit = MarksFit((DAMAGE.name,), (), (), {DAMAGE.name: 0.5}, {DAMAGE.name: torch.zeros(8, 8)}, {})
    maps = map_with((2, 2, 0.9), (7, 7, 0.6))[None, None]
    table = measure_marks(rows, lambda places: maps, fit, {"a": {"damage": masks}}, QUESTIONS, make_evaluate_params()).table
    right = table[table["what"] == "mark"].set_index("strength")["right"]
    assert right.iloc[0] == 1
    assert np.isnan(right.iloc[1])


# ---- what is proved


def draw_marks(rng: np.random.Generator, split: str, *, groups: int, informative: float = 6.0, clustered: bool = True) -> pd.DataFrame:
    """Marks of simulated groups. The chance that a mark is right rises with its strength; marks of a group tend to be right together."""
    rows = []
    for group in range(groups):
        quality = rng.normal() if clustered else 0.0
        for photo in range(int(rng.integers(1, 4))):
            for _ in range(int(rng.integers(0, 4))):
                strength = rng.random()
                right = rng.random() < 1 / (1 + np.exp(-(informative * (strength - 0.45) + quality)))
                rows.append((f"{split}{group}-{photo}", "s", f"{split}{group}", split, DAMAGE.name, "mark", strength, float(right), 0.1))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def true_precision(strength: float, *, informative: float) -> float:
    """Of a mark drawn at random from a group that has one, by many groups."""
    key = (round(strength, 4), informative)
    if key not in _TRUE:
        groups, wrong = count_trials(judged_marks(_world(informative), DAMAGE.name, "world"), strength)
        _TRUE[key] = 1 - wrong / groups
    return _TRUE[key]


_TRUE: dict[tuple[float, float], float] = {}
_WORLDS: dict[float, pd.DataFrame] = {}


def _world(informative: float) -> pd.DataFrame:
    if informative not in _WORLDS:
        _WORLDS[informative] = draw_marks(np.random.default_rng(99), "world", groups=6000, informative=informative)
    return _WORLDS[informative]


@pytest.mark.slow
def test_the_promise_of_marks_is_broken_in_at_most_five_percent_of_draws() -> None:
    rng, broken, promised, draws = np.random.default_rng(7), 0, 0, 500
    for draw_number in range(draws):
        informative = (6.0, 9.0)[draw_number % 2]
        source = judged_marks(draw_marks(rng, "calib", groups=160, informative=informative), DAMAGE.name, "calib")
        reference = judged_marks(draw_marks(rng, "val", groups=60, informative=informative), DAMAGE.name, "val")
        strengths = np.unique(np.quantile(reference.strength, np.linspace(0, 1, 40)))
        least = prove(source, reference, strengths, precision=0.9, confidence=0.95)
        if least is not None:
            promised += 1
            broken += true_precision(least, informative=informative) < 0.9
    assert promised > draws / 3
    # 0.05 of 500 draws, and three standard errors.
    assert broken <= 0.05 * draws + 3 * (0.05 * 0.95 * draws) ** 0.5


def select_params(**changes: Any) -> SelectThresholdParams:
    from carinspect.core.params import load_params, read_section

    params = load_params(Path(__file__).parents[1] / "params.yaml")
    params["select_threshold"] |= changes
    return read_section("select_threshold", SelectThresholdParams, params)


def test_the_rule_says_what_is_proved_behind_the_gate() -> None:
    rng = np.random.default_rng(3)
    table = pd.concat([draw_marks(rng, split, groups=400, informative=12) for split in ("val", "calib", "test")], ignore_index=True)
    everyone = set(table["image_path"])
    (rule,) = choose_marks(table, QUESTIONS, {DAMAGE.name: 0.05}, select_params(), passing=everyone).values()
    assert rule.promise is not None
    assert rule.promise.bound >= 0.9
    groups, wrong = count_trials(judged_marks(table, DAMAGE.name, "calib"), rule.least_strength)
    assert (rule.promise.groups, rule.promise.wrong) == (groups, wrong)
    (narrow,) = choose_marks(
        table, QUESTIONS, {DAMAGE.name: 0.05}, select_params(), passing={photo for photo in everyone if photo.endswith("-0")}
    ).values()
    assert narrow.promise is None or narrow.promise.groups < groups
    headline = headline_marks({DAMAGE.name: rule}, table)[DAMAGE.name]["on_test"]
    assert headline["groups"] > 100
    assert headline["unmarked_photos"] == 0


def test_without_marks_of_val_or_on_val_nothing_is_proved() -> None:
    rng = np.random.default_rng(3)
    table = pd.concat([draw_marks(rng, split, groups=300, informative=12) for split in ("val", "calib")], ignore_index=True)
    rules = choose_marks(table[table["split"] != "val"], QUESTIONS, {DAMAGE.name: 0.05}, select_params(), passing=set(table["image_path"]))
    assert rules[DAMAGE.name] == MarkRule(question=DAMAGE.name, kind="damage", cut=0.05, least_strength=0.05, promise=None)
    rules = choose_marks(table, QUESTIONS, {DAMAGE.name: 0.05}, select_params(source="val"), passing=set(table["image_path"]))
    assert rules[DAMAGE.name].promise is None
