"""The examination of the data: statistics, shortcuts, doubtful labels, odd photos, and the page that shows them."""

import base64
import io
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from sklearn.metrics import mean_squared_error, roc_auc_score

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.corrections import read_corrections
from carinspect.annotations.drawn import read_drawn_outlines, trace
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.files import write_json
from carinspect.core.params import parse_section
from carinspect.core.questions import by_name, label_columns
from carinspect.core.tables import dataset_columns, read_table
from carinspect.describe.config import DescribeParams
from carinspect.describe.counts import count_labels, count_sources, draw_histograms, find_grey_sources, profile_sources
from carinspect.describe.examination import REMEDIES, Evidence, Examination, Looks, examine, make_metrics, summarise
from carinspect.describe.oddities import Measured, find_oddities, measure_photos
from carinspect.describe.page import COLOURS, PHOTOS_PER_SOURCE, PICTURE_PX, choose_examples, draw_page, draw_picture
from carinspect.describe.prediction import LabelledPhotos, make_folds, measure_skill, predict_from_source, take_labelled
from carinspect.describe.review import write_review
from carinspect.describe.shortcuts import Shortcut, deal_labels, find_shortcuts
from carinspect.describe.suspects import FAMILIES, Doubts, Suspect, find_contradictions, find_doubts
from carinspect.images.properties import LAYOUT_SIDE, PROPERTIES, properties_of
from carinspect.images.statistics import STATISTICS
from conftest import QUESTIONS, make_dataset

CHROMIUM = shutil.which("chromium")
BY_COLUMN = {asked.column: asked for asked in QUESTIONS}
PARAMS = DescribeParams(seed=1, folds=4, shortcut_auc=0.8, shortcut_r2=0.3, chance_draws=2)
PAIR_COLUMNS = ("first", "second", "reason", "correlation", "first_declared_split", "second_declared_split", "group")


def encode(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **({"format": "JPEG"} | options))  # type: ignore[arg-type]
    return buffer.getvalue()


def noise(seed: int = 0, *, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("checkout")))


# ---- statistics of one photo


def look(content: bytes) -> np.void:
    return np.array([properties_of(content)], PROPERTIES)[0]


@pytest.mark.parametrize("quality", [25, 40, 49, 50, 51, 75, 88, 95, 100])
def test_the_quality_that_a_jpeg_was_saved_with_is_read_from_it(quality: int) -> None:
    assert look(encode(noise(), quality=quality))["jpeg_quality"] == pytest.approx(quality, abs=1)


def test_a_png_has_no_jpeg_quality() -> None:
    assert look(encode(noise(), format="PNG"))["jpeg_quality"] == 0


def test_colourfulness_is_the_formula_of_its_paper_and_zero_for_grey() -> None:
    pixels = noise(3)
    red, green, blue = (pixels[..., place].astype(float).ravel() for place in range(3))
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = (np.var(red_green) + np.var(yellow_blue)) ** 0.5
    expected = spread + 0.3 * (np.mean(red_green) ** 2 + np.mean(yellow_blue) ** 2) ** 0.5
    assert look(encode(pixels, format="PNG"))["colourfulness"] == pytest.approx(expected)
    grey = np.repeat(noise(3)[..., :1], 3, axis=2)
    assert look(encode(grey, format="PNG"))["colourfulness"] == 0


def test_a_grey_photo_is_grey_though_saved_in_colour() -> None:
    grey = np.repeat(noise()[..., :1], 3, axis=2)
    assert look(encode(grey, quality=70))["grey"] == 1
    assert look(encode(noise(), quality=70))["grey"] == 0


def test_size_light_and_layout_are_those_of_the_photo_as_a_person_sees_it() -> None:
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[:, 40:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    content = encode(pixels, quality=100, exif=exif)
    statistics = look(content)
    assert (statistics["width_px"], statistics["height_px"], statistics["aspect"]) == (60, 80, 0.75)
    assert statistics["bytes_per_pixel"] == len(content) / 4800
    assert statistics["dark_share"] == pytest.approx(0.5, abs=0.02)
    assert statistics["bright_share"] == pytest.approx(0.5, abs=0.02)
    assert statistics["brightness"] == pytest.approx(127.5, abs=1)
    places = statistics["layout"]
    assert places.shape == (LAYOUT_SIDE, LAYOUT_SIDE, 3)
    assert places[0].max() < 0.05 * 255  # what was left is on top
    assert places[-1].min() > 0.95 * 255
    assert statistics["orientation"] == 6


def test_a_large_photo_that_lies_on_its_side_keeps_its_size_and_its_light() -> None:
    pixels = cv2.resize(noise(height=9, width=12), (1600, 1200))
    exif = Image.Exif()
    exif[0x0112] = 8
    statistics = look(encode(pixels, quality=95, exif=exif))
    assert (statistics["width_px"], statistics["height_px"]) == (1200, 1600)
    assert statistics["brightness"] == pytest.approx(np.asarray(Image.fromarray(pixels).convert("L")).mean(), abs=1.5)


def test_a_blurred_photo_is_less_sharp() -> None:
    sharp = Image.fromarray(noise())
    blurred = np.asarray(sharp.resize((8, 6)).resize(sharp.size))
    assert look(encode(blurred))["sharpness"] < 0.1 * look(encode(np.asarray(sharp)))["sharpness"]


def test_a_photo_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(encode(noise())[:900])
    for name in ("gone.jpg", "half.jpg"):
        with pytest.raises(UserError, match=name):
            measure_photos(tmp_path, [name])


# ---- predicting labels of groups that were not seen


def make_rows(photos: int, *, seed: int = 0, sources: int = 2, per_group: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table without labels and statistics that mean nothing, row by row."""
    random = np.random.default_rng(seed)
    names = [f"{index:04}.jpg" for index in range(photos)]
    table = pd.DataFrame(dict.fromkeys(dataset_columns(QUESTIONS), ""), index=range(photos))
    table = table.assign(image_path=names, group=[names[index - index % per_group] for index in range(photos)])
    table = table.assign(source=[f"source{(index // per_group) % sources}" for index in range(photos)])
    table = table.astype(object).assign(**dict.fromkeys(label_columns(QUESTIONS), np.nan))
    return table, pd.DataFrame(random.normal(100, 20, (photos, len(STATISTICS))), columns=list(STATISTICS)).assign(grey=0.0)


def ask(table: pd.DataFrame, column: str) -> LabelledPhotos:
    return take_labelled(table, BY_COLUMN[column])


def group_labels(table: pd.DataFrame, *, classes: int, seed: int = 0) -> np.ndarray:
    numbers = pd.factorize(table["group"])[0]
    return np.random.default_rng(seed).integers(0, classes, numbers.max() + 1)[numbers].astype(float)


def test_folds_part_no_group_and_cover_every_photo_once() -> None:
    table, _ = make_rows(120, per_group=3)
    table["weather_condition"] = group_labels(table, classes=4)
    question = ask(table, "weather_condition")
    folds = make_folds(question, folds=4, seed=3)
    assert folds is not None
    assert sorted(np.concatenate([judge for _, judge in folds])) == list(range(120))
    for learn, judge in folds:
        assert not set(question.groups_N[learn]) & set(question.groups_N[judge])


def test_nothing_is_tried_where_a_class_has_fewer_groups_than_folds_or_all_labels_are_alike() -> None:
    table, _ = make_rows(40)
    table["clean"] = [1.0] * 6 + [0.0] * 34
    assert make_folds(ask(table, "clean"), folds=4, seed=0) is None
    assert make_folds(ask(table, "clean"), folds=3, seed=0) is not None
    table["clean"] = 1.0
    table["damage_score"] = 1.0
    assert make_folds(ask(table, "clean"), folds=3, seed=0) is None
    assert make_folds(ask(table, "damage_score"), folds=3, seed=0) is None


def test_skill_is_that_of_scikit_learn_averaged_over_folds() -> None:
    table, _ = make_rows(90)
    random = np.random.default_rng(2)
    table["weather_condition"] = group_labels(table, classes=3)
    table["damage_score"] = random.random(90)
    classes, scores = ask(table, "weather_condition"), ask(table, "damage_score")
    folds = make_folds(classes, folds=4, seed=0)
    assert folds is not None
    answers = random.dirichlet([1, 1, 1], 90)
    expected = np.mean([roc_auc_score(classes.labels_N[judge], answers[judge], multi_class="ovr") for _, judge in folds])
    assert measure_skill(answers, classes.labels_N, has_classes=True, folds=folds) == pytest.approx(expected)
    score_folds = make_folds(scores, folds=4, seed=0)
    assert score_folds is not None
    guesses = 0.5 * scores.labels_N + 0.5 * random.random(90)
    constants = [scores.labels_N[learn].mean() for learn, _ in score_folds]
    errors = [mean_squared_error(scores.labels_N[judge], guesses[judge]) for _, judge in score_folds]
    pairs = zip(score_folds, constants, strict=True)
    constant_errors = [mean_squared_error(scores.labels_N[judge], np.full(len(judge), constant)) for (_, judge), constant in pairs]
    expected = np.mean(1 - np.array(errors) / np.array(constant_errors))
    assert measure_skill(guesses[:, None], scores.labels_N, has_classes=False, folds=score_folds) == pytest.approx(expected)


def test_knowing_nothing_is_no_skill_however_the_folds_fall() -> None:
    table, _ = make_rows(60, sources=1)
    table["clean"] = group_labels(table, classes=2, seed=4)
    question = ask(table, "clean")
    folds = make_folds(question, folds=4, seed=0)
    assert folds is not None
    answers = predict_from_source(np.full(60, "one"), question.labels_N, has_classes=True, folds=folds)
    assert measure_skill(answers, question.labels_N, has_classes=True, folds=folds) == 0.5


def test_dealt_labels_stay_whole_within_groups_and_mean_nothing() -> None:
    table, _ = make_rows(200, per_group=4)
    table["clean"] = group_labels(table, classes=2)
    question = ask(table, "clean")
    dealt = pd.Series(deal_labels(question, 7))
    assert (dealt.groupby(question.groups_N).nunique() == 1).all()
    assert dealt.mean() == question.labels_N.mean()
    assert 0.3 < (dealt == question.labels_N).mean() < 0.7


# ---- shortcuts


def test_a_label_that_the_jpeg_quality_gives_away_is_found_and_named() -> None:
    table, statistics = make_rows(160)
    table["damaged"] = group_labels(table, classes=2)
    statistics["jpeg_quality"] = np.where(table["damaged"] == 1, 88.0, 75.0)
    found = {shortcut.evidence: shortcut for shortcut in find_shortcuts(table, QUESTIONS, statistics, PARAMS) if not shortcut.within}
    assert found["statistics"].skill > 0.95
    assert found["statistics"].chance is not None
    assert found["statistics"].chance < 0.8
    assert found["statistics"].warns
    assert found["statistics"].telling[0][0] == "jpeg_quality"
    assert "JPEG quality" in str(found["statistics"])
    assert not found["source"].warns


def test_labels_that_mean_nothing_are_no_shortcut() -> None:
    table, statistics = make_rows(160)
    table["damaged"] = group_labels(table, classes=2)
    table["damage_score"] = np.random.default_rng(1).random(160)
    table["weather_condition"] = group_labels(table, classes=4, seed=1)
    found = find_shortcuts(table, QUESTIONS, statistics, PARAMS)
    assert {shortcut.column for shortcut in found} == {"damaged", "damage_score", "weather_condition"}
    assert not [str(shortcut) for shortcut in found if shortcut.warns]


def test_a_label_that_goes_with_the_source_is_found() -> None:
    table, statistics = make_rows(160)
    table["clean"] = (table["source"] == "source0").astype(float)
    table["damage_score"] = np.where(table["source"] == "source0", 0.9, 0.3) + np.random.default_rng(0).normal(0, 0.05, 160)
    found = {
        (shortcut.column, shortcut.evidence): shortcut
        for shortcut in find_shortcuts(table, QUESTIONS, statistics, PARAMS)
        if not shortcut.within
    }
    assert found["clean", "source"].skill == 1.0
    assert found["damage_score", "source"].skill > 0.8
    assert found["clean", "source"].warns
    assert found["damage_score", "source"].warns
    assert not found["clean", "statistics"].warns


def test_a_shortcut_within_one_source_does_not_hide_behind_the_others() -> None:
    table, statistics = make_rows(240, sources=4)
    table["clean"] = group_labels(table, classes=2)
    inside = table["source"] == "source2"
    statistics.loc[inside, "width_px"] = np.where(table.loc[inside, "clean"] == 1, 640.0, 320.0)
    warned = [shortcut for shortcut in find_shortcuts(table, QUESTIONS, statistics, PARAMS) if shortcut.warns]
    assert [(shortcut.column, shortcut.within) for shortcut in warned] == [("clean", "source2")]


def test_weather_that_the_height_of_the_photo_gives_away_is_no_weather() -> None:
    table, statistics = make_rows(240)
    table["weather_condition"] = group_labels(table, classes=4)
    statistics["height_px"] = 400.0 + 100 * table["weather_condition"]
    (found,) = [one for one in find_shortcuts(table, QUESTIONS, statistics, PARAMS) if one.evidence == "statistics" and not one.within]
    assert found.skill > 0.95
    assert found.warns
    assert "weather_condition can be told from image statistics alone" in str(found)
    assert "height" in str(found)


def test_copies_in_one_group_do_not_make_statistics_look_telling() -> None:
    """The twin of the grouped folds: with each photo in a group of its own, copies answer for each other."""
    table, statistics = make_rows(240, per_group=6)
    table["clean"] = group_labels(table, classes=2)
    statistics = statistics.iloc[np.repeat(np.arange(0, 240, 6), 6)].reset_index(drop=True)
    grouped = find_shortcuts(table, QUESTIONS, statistics, PARAMS)[0]
    alone = find_shortcuts(table.assign(group=table["image_path"]), QUESTIONS, statistics, PARAMS)[0]
    assert grouped.skill < 0.75
    assert alone.skill > 0.95


def test_one_grey_source_stands_out_and_all_grey_ones_do_not() -> None:
    table, statistics = make_rows(80, sources=4)
    statistics["grey"] = (table["source"] == "source1").astype(float)
    assert find_grey_sources(profile_sources(table, statistics)) == ["source1"]
    assert find_grey_sources(profile_sources(table, statistics.assign(grey=1.0))) == []
    assert find_grey_sources(profile_sources(table.assign(source="only"), statistics.assign(grey=1.0))) == []


def test_the_same_rows_give_the_same_shortcuts() -> None:
    table, statistics = make_rows(80)
    table["clean"] = group_labels(table, classes=2)
    assert find_shortcuts(table, QUESTIONS, statistics, PARAMS) == find_shortcuts(table, QUESTIONS, statistics, PARAMS)


# ---- doubtful labels


def measured_from(statistics: pd.DataFrame) -> Measured:
    """With layouts that show the brightness and nothing else."""
    return Measured(statistics, np.repeat(statistics[["brightness"]].to_numpy(), LAYOUT_SIDE**2 * 3, axis=1) / 255)


def test_labels_that_were_turned_round_are_the_first_to_be_doubted() -> None:
    table, statistics = make_rows(200)
    truth = group_labels(table, classes=2)
    statistics["brightness"] += 400 * truth
    turned = [4, 50, 111, 160]
    table["clean"] = np.where(np.isin(np.arange(200), turned), 1 - truth, truth)
    doubts = {doubt.column: doubt for doubt in find_doubts(table, QUESTIONS, measured_from(statistics), PARAMS)}
    assert doubts["clean"].trusted
    assert {suspect.image_path for suspect in doubts["clean"].suspects} >= {f"{index:04}.jpg" for index in turned}
    first = doubts["clean"].suspects[0]
    assert first.label != ("clean" if truth[int(first.image_path[:4])] else "dirty")
    assert first.reason.startswith("photos like it are ")


def test_a_score_far_from_its_like_is_doubted() -> None:
    table, statistics = make_rows(200)
    truth = group_labels(table, classes=2)
    statistics["brightness"] += 400 * truth
    table["damage_score"] = 0.2 + 0.6 * truth
    table.loc[60, "damage_score"] = 1.0 - table.loc[60, "damage_score"]
    (doubts,) = find_doubts(table, QUESTIONS, measured_from(statistics), PARAMS)
    assert [suspect.image_path for suspect in doubts.suspects] == ["0060.jpg"]


def test_a_predictor_that_knows_nothing_doubts_nothing() -> None:
    table, statistics = make_rows(200)
    table["clean"] = group_labels(table, classes=2)
    (doubts,) = find_doubts(table, QUESTIONS, measured_from(statistics), PARAMS)
    assert not doubts.trusted
    assert doubts.suspects == ()


def test_copies_of_one_suspect_are_listed_once() -> None:
    table, statistics = make_rows(200)
    truth = group_labels(table, classes=2)
    statistics["brightness"] += 400 * truth
    table["clean"] = np.where(np.isin(np.arange(200), [10, 11]), 1 - truth, truth)
    (doubts,) = find_doubts(table, QUESTIONS, measured_from(statistics), PARAMS)
    assert len({suspect.image_path for suspect in doubts.suspects} & {"0010.jpg", "0011.jpg"}) == 1


def learned_features(truth: pd.Series) -> np.ndarray:
    """Twenty features, of which five say something of the label."""
    return np.random.default_rng(0).normal(size=(200, 20)) + 1.5 * np.asarray(truth)[:, None] * (np.arange(20) < 5)


def test_a_predictor_with_learned_features_finds_the_labels_that_were_turned_round() -> None:
    """The twin: from statistics that say nothing, nothing is found."""
    table, statistics = make_rows(200)
    truth = group_labels(table, classes=2)
    turned = np.arange(200) % 20 == 7
    table["clean"] = np.where(turned, 1 - truth, truth)
    (seeing,) = find_doubts(table, QUESTIONS, measured_from(statistics), PARAMS, learned_features(truth))
    found = {int(suspect.image_path[:4]) for suspect in seeing.suspects}
    assert len(found & set(np.flatnonzero(turned))) >= 7
    assert len(found) <= 15
    (blind,) = find_doubts(table, QUESTIONS, measured_from(statistics), PARAMS)
    assert not blind.trusted


def pairs_of(*pairs: tuple[str, str, str]) -> pd.DataFrame:
    rows = [(first, second, reason, np.nan, "", "", first) for first, second, reason in pairs]
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype({"correlation": "float64"})


def test_copies_with_different_labels_contradict_and_photos_of_one_vehicle_do_not() -> None:
    table, _ = make_rows(8)
    table["clean"] = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, np.nan, 1.0]
    table["damage_score"] = [1.0, 0.9, 1.0, 0.2, 1.0, 0.6, 0.1, 1.0]
    pairs = pairs_of(
        ("0000.jpg", "0001.jpg", "bytes"), ("0002.jpg", "0003.jpg", "family"), ("0004.jpg", "0005.jpg", "near-duplicate"),
        ("0006.jpg", "0007.jpg", "near-duplicate"),
    )  # fmt: skip
    found = [(suspect.image_path, suspect.column, suspect.label) for suspect in find_contradictions(table, QUESTIONS, pairs)]
    assert found == [("0000.jpg", "clean", "clean"), ("0006.jpg", "damage_score", "0.10"), ("0004.jpg", "damage_score", "1.00")]
    of_family = find_contradictions(table, QUESTIONS, pairs, FAMILIES)[0]
    assert of_family.image_path == "0002.jpg"
    assert of_family.reason == "of its family (copies of one photo, or one vehicle), 0003.jpg says dirty"


# ---- odd photos


def test_each_kind_of_odd_photo_is_found_and_ordinary_ones_are_not() -> None:
    table, statistics = make_rows(60)
    statistics = statistics.assign(contrast=50.0, sharpness=np.random.default_rng(0).normal(400, 20, 60), width_px=320.0, height_px=240.0)
    assert find_oddities(table, statistics) == []
    statistics.loc[1, "brightness"], statistics.loc[2, "brightness"] = 5.0, 250.0
    statistics.loc[3, "contrast"], statistics.loc[4, "height_px"], statistics.loc[5, "sharpness"] = 1.0, 40.0, 3.0
    found = [(oddity.image_path, oddity.kind) for oddity in find_oddities(table, statistics)]
    kinds = ["nearly black", "nearly white", "flat", "tiny", "blurred"]
    assert found == [(f"000{number}.jpg", kind) for number, kind in enumerate(kinds, start=1)]


# ---- counts and examples


def test_counts_are_those_of_the_table(tmp_path: Path) -> None:
    table = read_table(make_dataset(tmp_path), columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    sources, labels = count_sources(table, QUESTIONS), count_labels(table, QUESTIONS)
    assert sources.loc["drawn", ["photos", "groups", "train", "val", "calib", "test"]].tolist() == [80, 80, 32, 16, 16, 16]
    assert sources.loc["drawn", "clean"] == table["clean"].notna().sum()
    assert labels.loc["clean: dirty", "all"] == (table["clean"] == 0).sum()
    assert labels.loc["weather_condition: snow", "test"] == ((table["weather_condition"] == 3) & (table["split"] == "test")).sum()
    for histogram in draw_histograms(table, QUESTIONS):
        assert sum(photos for _, photos in histogram.bars) == table[histogram.column].notna().sum()


def test_examples_are_few_and_of_different_groups_and_labels() -> None:
    table, _ = make_rows(100, sources=2, per_group=5)
    table["clean"] = [0.0] * 95 + [1.0] * 5
    examples = choose_examples(table, QUESTIONS)
    assert set(examples) == {"source0", "source1"}
    groups = table.set_index("image_path")["group"]
    for paths in examples.values():
        assert len(paths) == PHOTOS_PER_SOURCE
        assert groups[paths].nunique() == len(paths)
    assert table.set_index("image_path").loc[examples["source1"], "clean"].max() == 1
    shuffled = choose_examples(table.sample(frac=1, random_state=1), QUESTIONS)
    assert shuffled == examples


# ---- outlines and pictures


def test_traced_outlines_enclose_the_mask() -> None:
    polygons = [[10.0, 10.0, 60.0, 12.0, 55.0, 50.0, 14.0, 44.0], [70.0, 5.0, 90.0, 5.0, 90.0, 30.0]]
    mask = coco_mask.merge(coco_mask.frPyObjects(polygons, 60, 100))
    filled = Image.new("1", (100, 60))
    for line in trace(mask):
        ImageDraw.Draw(filled).polygon([(x * 100 - 0.5, y * 60 - 0.5) for x, y in line], fill=1)
    expected = coco_mask.decode(mask).astype(bool)
    assert (np.asarray(filled) != expected).sum() <= 0.02 * expected.sum()


def test_the_outlines_of_an_export_are_read_by_meaning(tmp_path: Path) -> None:
    (tmp_path / "shop" / "train").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(noise()).save(tmp_path / "shop" / "train" / name)
    boxes = [(0, 0, [0, 0, 80, 60], []), (0, 1, [8, 6, 40, 30], []), (0, 2, [0, 0, 5, 5], []), (1, 1, [0, 0, 9, 9], [])]
    write_json(tmp_path / "shop" / "train" / "coco.json", {
        "images": [{"id": index, "file_name": name, "width": 80, "height": 60} for index, name in enumerate(("a.jpg", "b.jpg"))],
        "categories": [{"id": index, "name": name} for index, name in enumerate(("car", "scracth", "logo"))],
        "annotations": [{"image_id": i, "category_id": c, "bbox": box, "segmentation": lines} for i, c, box, lines in boxes],
    })  # fmt: skip
    (tmp_path / "sources.yaml").write_text(
        "sources:\n  - {name: shop, format: coco, judges: [damage], categories: {car: vehicle, scracth: scratch, logo: ignore}}\n"
    )
    data = DataParams(root=str(tmp_path), sources=str(tmp_path / "sources.yaml"))
    params = ConvertAnnotationsParams(
        damage_severity={"scratch": 1.0}, dirt_severity={"dirt": 1.0}, area_exponent=0.5, min_dimension_px=8, misnamed="reject"
    )
    found = read_drawn_outlines(data, params, QUESTIONS, ["shop/train/a.jpg"])
    assert [(kind, name) for kind, name, _ in found["shop/train/a.jpg"]] == [("vehicle", "vehicle"), ("damage", "scratch")]
    (line,) = found["shop/train/a.jpg"][1].lines
    assert np.allclose([line.min(axis=0), line.max(axis=0)], [[0.1, 0.1], [0.6, 0.6]], atol=0.02)
    assert set(found) == {"shop/train/a.jpg"}


def test_an_outline_is_drawn_where_it_lies(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), "black").save(tmp_path / "a.png")
    square = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    uri = draw_picture(tmp_path, "a.png", {"a.png": [("damage", "scratch", [square])]})
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L")).astype(int)
    assert picture.shape == (PICTURE_PX * 3 // 4, PICTURE_PX)
    lit = np.argwhere(picture > 40)
    assert np.allclose(lit.min(axis=0) / picture.shape, 0.25, atol=0.03)
    assert np.allclose(lit.max(axis=0) / picture.shape, 0.75, atol=0.03)
    assert "data:image/jpeg" in draw_picture(tmp_path, "a.png", {})


# ---- the whole, and the page


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """60 photos, one with a hostile name, a near-duplicate pair, a rejected file."""
    folder = tmp_path_factory.mktemp("audit")
    table = read_table(make_dataset(folder, photos=60), columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    hostile = "<b>x&y.jpg"
    (folder / "root" / table["image_path"][7]).rename(folder / "root" / hostile)
    table.loc[7, "image_path"] = hostile
    table = table.sort_values("image_path").reset_index(drop=True)
    pairs = pairs_of((hostile, "0001.jpg", "near-duplicate"))
    rejected = pd.DataFrame([{"image_path": "<script>alert(1)</script>.jpg", "source": "drawn", "reason": "empty file (0 bytes)"}])
    return Evidence(
        questions=QUESTIONS,
        root=folder / "root",
        table=table,
        rejected=rejected,
        pairs=pairs,
        shown_pairs=pairs,
        leaks=[],
        suspicions=pd.DataFrame(columns=["first", "second", "first_split", "second_split", "cosine", "inliers"]),
        looks=Looks(["same bytes"], [], ["collages"]),
    )


@pytest.fixture(scope="module")
def examination(evidence: Evidence) -> Examination:
    return examine(evidence, PARAMS)


def no_outlines(paths: object) -> dict:
    return {}


class Page(HTMLParser):
    """What a browser would load and read aloud, and which tags were left open."""

    VOID = frozenset({"meta", "link", "img", "br", "rect", "input", "hr", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)
        self.problems += [f"{tag} is left open" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        if tag == "th" and found.get("scope") not in ("row", "col"):
            self.problems.append("th without scope")
        for name in ("src", "href"):
            if not (found.get(name) or "#").startswith(("#", "data:image/")):
                self.problems.append(f"{tag} loads {found[name]}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"{tag} is closed out of turn")


def test_the_page_is_whole_in_itself_and_can_be_read_aloud(examination: Examination) -> None:
    text = draw_page(examination, no_outlines)
    page = Page(text)
    assert page.problems == []
    assert len(page.images) > 6
    assert all(image["alt"] for image in page.images)
    assert page.tags.count("script") == 1
    assert "b" not in page.tags
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(text.encode()) < 3e6
    assert 'name="viewport"' in text
    assert text.count("<caption>") == text.count("<table>") > 3


def test_that_check_sees_what_a_page_must_not_do() -> None:
    assert Page("<p><b></p>").problems
    assert Page('<script src="https://cdn.example/x.js"></script>').problems == ["script loads https://cdn.example/x.js"]
    assert Page("<table><tr><th>a</th></tr></table>").problems == ["th without scope"]


def test_the_page_shows_leaks_and_outlines(examination: Examination) -> None:
    path = choose_examples(examination.evidence.table, QUESTIONS)["drawn"][0]
    square = np.array([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8]])
    asked: list[str] = []

    def outlines(paths: list[str]) -> dict:
        asked.extend(paths)
        return {path: [("dirt", "mud", [square])]}

    leaking = replace(examination, evidence=replace(examination.evidence, leaks=["2 photos share the bytes"]))
    text = draw_page(leaking, outlines)
    assert path in asked
    assert "outlines: mud" in text
    assert "<strong>1 leaks</strong>" in text
    assert leaking.warnings[0].text.startswith("1 leaks")
    assert "No leak" not in text
    assert COLOURS["dirt"] in text


def test_the_worst_warning_stands_first(examination: Examination) -> None:
    def shortcut(column: str, metric: Any, skill: float) -> Shortcut:
        return Shortcut(column, "statistics", "", 60, 60, metric, skill, 0.1, 0.05, ())

    found = [shortcut("clean", "ROC AUC", 0.85), shortcut("damage_score", "R²", 0.9), shortcut("weather", "ROC AUC", 0.99)]
    contradiction = Suspect("0001.jpg", "clean", "clean", 1.0, "its copy 0002.jpg says dirty")
    leaking = replace(
        examination,
        evidence=replace(examination.evidence, leaks=["2 photos share the bytes"]),
        shortcuts=found,
        contradictions=[contradiction],
        grey_sources=["wash"],
    )
    texts = [warned.text for warned in leaking.warnings]
    assert [text.split()[1] if text[0].isdigit() else text.split()[0] for text in texts] == [
        "leaks:", "labels", "weather", "damage_score", "clean", "wash",
    ]  # fmt: skip
    page = draw_page(leaking, no_outlines)
    places = [page.index(str(escape(text))) for text in texts]
    assert places == sorted(places)
    assert all(page.count(str(escape(REMEDIES[kind]))) == 1 for kind in {warned.kind for warned in leaking.warnings})


def test_pairs_that_may_show_one_scene_are_shown_by_their_splits_and_warned_of_where_these_differ(examination: Examination) -> None:
    rows = [("0001.jpg", "0002.jpg", "train", "test", 0.8, 41), ("0003.jpg", "0004.jpg", "val", "val", 0.7, 33)]
    suspicions = pd.DataFrame(rows, columns=list(examination.evidence.suspicions.columns))
    listed = replace(examination, evidence=replace(examination.evidence, suspicions=suspicions))
    assert "1 pairs of photos in two splits may show one scene" in [warned.text for warned in listed.warnings]
    page = draw_page(listed, no_outlines)
    assert page.index("<h4>train and test</h4>") < page.index("41 local features shared, cosine 0.80") < page.index("<h4>val</h4>")
    assert page.count('data-warning="same scene"') == 2
    assert Page(page).problems == []
    assert "same scene" not in {warned.kind for warned in examination.warnings}


def test_the_page_says_no_leak_of_the_kinds_looked_for_and_lists_them(examination: Examination) -> None:
    page = draw_page(examination, no_outlines)
    assert "No leak of the kinds looked for" in page
    assert page.index("Looked for, and kept together") < page.index("<li>same bytes</li>") < page.index("<li>collages</li>")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")
@pytest.mark.parametrize("width", [375, 1200])
def test_no_table_is_cut_off_and_the_form_finds_pictures_in_a_browser(examination: Examination, tmp_path: Path, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="tests/requirements-slow.txt is not installed")
    wide = "folders/" + "a_name_that_goes_on_and_on_" * 8 + ".jpg"
    rejected = pd.DataFrame([{"image_path": wide, "source": "drawn", "reason": "empty file (0 bytes)"}])
    doubted = Suspect("0001.jpg", "clean", "clean", 0.5, "photos like it are dirty")
    shown = replace(
        examination,
        evidence=replace(examination.evidence, rejected=rejected),
        doubts=[Doubts("clean", "ROC AUC", 0.9, trusted=True, suspects=(doubted,))],
    )
    (tmp_path / "report.html").write_text(draw_page(shown, no_outlines), encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        rights = page.evaluate("[...document.querySelectorAll('td, th')].map((cell) => cell.getBoundingClientRect().right)")
        assert max(rights) <= width
        page.select_option("[name=warning]", "doubtful label")
        assert page.inner_text("output").startswith("1 of ")
        page.fill("[name=words]", "0002.jpg")
        assert page.inner_text("output").startswith("0 of ")
        browser.close()


def test_a_picture_can_be_found_by_source_question_and_warning(examination: Examination) -> None:
    doubted = Suspect("0001.jpg", "damage_score", "1.00", 0.5, "photos like it score 0.5")
    doubts = [Doubts("damage_score", "R²", 0.9, trusted=True, suspects=(doubted,))]
    page = draw_page(replace(examination, doubts=doubts), no_outlines)
    assert re.search(r'<figure data-source="\|drawn\|" data-question="damage" data-warning="doubtful label" data-words="0001.jpg ', page)


def test_repairs_reach_the_page_and_the_terminal(examination: Examination) -> None:
    repair = "shop: outlines that reached out of the photo, clipped: 3"
    mended = replace(examination, evidence=replace(examination.evidence, repairs=[repair]))
    assert repair in draw_page(mended, no_outlines)
    assert f"repaired: {repair}" in summarise(mended)
    assert Page(draw_page(mended, no_outlines)).problems == []
    assert "repaired:" not in summarise(examination)


def test_the_list_for_review_is_a_file_of_corrections_once_it_is_filled_in(examination: Examination, tmp_path: Path) -> None:
    suspects = [
        Suspect("0001.jpg", "clean", "clean", 1.0, "its copy 0002.jpg says dirty"),
        Suspect("0001.jpg", "damage_score", "1.00", 0.4, ""),
    ]
    path = tmp_path / "labels.csv"
    assert write_review(replace(examination, contradictions=suspects, doubts=[]), path) == 2
    assert read_corrections(path, by_name(QUESTIONS), where="") == ({}, 2)
    filled = pd.read_csv(path).assign(new_label=["dirty", "0.5"], who="anna", when="2026-11-27")
    filled.to_csv(path, index=False)
    (corrections,) = read_corrections(path, by_name(QUESTIONS), where="").by_photo.values()
    assert [(one.question.name, one.label, one.who) for one in corrections] == [("clean", 0, "anna"), ("damage", 0.5, "anna")]


def test_the_same_data_give_the_same_page_and_figures(evidence: Evidence, examination: Examination) -> None:
    again = examine(evidence, PARAMS)
    assert draw_page(again, no_outlines) == draw_page(examination, no_outlines)
    assert make_metrics(again) == make_metrics(examination)


def test_the_figures_are_json_and_say_what_the_page_says(examination: Examination, tmp_path: Path) -> None:
    write_json(tmp_path / "describe.json", make_metrics(examination))
    metrics = json.loads((tmp_path / "describe.json").read_text())
    assert (metrics["photos"], metrics["groups"], metrics["rejected"], metrics["leaks"]) == (60, 60, 1, 0)
    assert metrics["warnings"] == [warned.text for warned in examination.warnings]
    assert set(metrics["shortcuts"]) == set(label_columns(QUESTIONS)) - {"cleanliness_score", "damaged"} | {
        shortcut.column for shortcut in examination.shortcuts
    }
    for warning in examination.warnings:
        assert f"warning: {warning}" in summarise(examination)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shortcut_auc", 0.4, "describe.shortcut_auc has the value 0.4"),
        ("folds", 1, "describe.folds has the value 1"),
        ("fold", 5, "describe.fold: unknown key. Did you mean 'folds'?"),
    ],
)
def test_a_mistake_in_the_params_is_named(key: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_section("describe", DescribeParams, PARAMS.model_dump() | {key: value})


@pytest.mark.skipif("CARINSPECT_REAL_DATA" not in os.environ, reason="needs a folder with real photos")
def test_on_real_photos_the_damage_classes_are_told_by_their_files_and_the_grey_set_is_found() -> None:
    root = Path(os.environ["CARINSPECT_REAL_DATA"])
    folders = [root / "damage-folders", root / "coco-folders" / "car-scratch-and-dent"]
    paths = sorted(path.relative_to(root).as_posix() for folder in folders for path in folder.rglob("*.jpg"))
    table, _ = make_rows(len(paths), per_group=1)
    families = [re.sub(r"\.rf\..*", "", path.rsplit("/", 1)[1]) for path in paths]
    sources = ["folders" if path.startswith("damage") else "grey" for path in paths]
    table = table.assign(image_path=paths, group=families, source=sources)
    table["damaged"] = [float("/damaged/" in path) if path.startswith("damage") else np.nan for path in paths]
    statistics = measure_photos(root, paths).statistics
    found = find_shortcuts(table, QUESTIONS, statistics, PARAMS)[0]
    assert found.evidence == "statistics"
    assert found.skill > 0.97
    assert find_grey_sources(profile_sources(table, statistics)) == ["grey"]
