"""The evaluation report, the temperatures, the plots' tables and the pictures, held to what they promise."""

import io
import json
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as sk

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.core.questions import Question, by_name
from carinspect.core.tables import dataset_columns, read_table
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from carinspect.evaluation.curves import make_curves, write_curves
from carinspect.evaluation.findings import evaluate_predictions
from carinspect.evaluation.gallery import choose_varied, least_certain, worst_errors, write_gallery
from carinspect.evaluation.panels import write_confidence_plot, write_overview
from carinspect.evaluation.predictions import add_spreads, predict, read_pixels
from carinspect.evaluation.robustness import draw_to_corrupt, measure_drops, say_drops, score_corrupted, write_drops
from carinspect.evaluation.temperature import add_probabilities, fit_calibration, fit_temperature
from carinspect.model.calibration import Calibrated, Reading
from carinspect.model.uncertainty import DropoutSpread
from conftest import QUESTIONS, make_calibration, make_dataset, make_evaluate_params, make_gate, untrained_network

PARAMS = make_evaluate_params(dropout_samples=30)
CLEAN, CLEANLINESS, DAMAGED, DAMAGE, WEATHER = QUESTIONS
SPREADS = [asked.spread for asked in QUESTIONS]
LOGITS = WEATHER.raw_columns
LABELS = [asked.column for asked in QUESTIONS]
GLASS = Question(name="glass_ok", kind="binary", column="glass_label", classes=("intact", "broken"), good="intact")
BODY = Question(name="body", kind="classes", column="body_type", classes=("sedan", "hatchback", "estate", "van", "pickup"))


def make_table(photos: int = 400, *, seed: int = 0, sharpness: float = 2.0) -> pd.DataFrame:
    """Raw predictions in groups of two; logits are `sharpness` times too large; a fifth of each label is unknown."""
    random, spread = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    index = np.arange(photos)
    log_odds = random.normal(0, 2, photos)
    weather_logits = random.normal(0, 2, (photos, 4))
    weather = np.array([random.choice(4, p=row) for row in softmax(weather_logits, axis=1)], dtype=float)
    damage = np.clip(random.normal(0.9, 0.2, photos), 0, 1)
    cleanliness = random.random(photos)
    table = pd.DataFrame(
        {
            "image_path": [f"{place:05}.png" for place in index],
            "source": np.where(index % 4 < 2, "wash", "lot"),
            "group": [f"{place // 2:05}" for place in index],
            "split": np.array(["val", "calib", "test"])[index // 2 % 3],
            "clean": (random.random(photos) < expit(log_odds)).astype(float),
            "cleanliness_score": cleanliness,
            "damaged": (damage < 1).astype(float),
            "damage_score": damage,
            "weather_condition": weather,
            "clean_logit": sharpness * log_odds,
            "cleanliness": np.clip(cleanliness + random.normal(0, 0.1, photos), 0, 1),
            "damage": np.clip(damage + random.normal(0, 0.1, photos), 0, 1),
            **dict(zip(LOGITS, (sharpness * weather_logits).T, strict=True)),
            "p_clean_std": spread.random(photos) * expit(-np.abs(log_odds)),
            "p_weather_std": spread.random(photos) * (1 - softmax(weather_logits, axis=1).max(axis=1)),
        }
    )
    for name in ("cleanliness", "damage"):
        table[f"{name}_std"] = np.abs(table[name] - table[f"{name}_score"]) * spread.random(photos)
    for column in ("clean", "cleanliness_score", "damage_score", "weather_condition"):
        table.loc[random.random(photos) < 0.2, column] = np.nan
    damaged_log_odds = 20 * (0.95 - damage) + random.normal(0, 2, photos)
    table["damaged_logit"], table["p_damaged_std"] = sharpness * damaged_log_odds, spread.random(photos) * expit(-np.abs(damaged_log_odds))
    return table


def without(table: pd.DataFrame, *, outputs: list[str]) -> pd.DataFrame:
    return table.assign(**dict.fromkeys(outputs, np.nan))


def completed(table: pd.DataFrame, questions: Sequence[Question] = QUESTIONS) -> pd.DataFrame:
    return add_probabilities(table, questions, fit_calibration(table, questions, priors={}))


def evaluate(table: pd.DataFrame, *, questions: Sequence[Question] = QUESTIONS, train_labels: pd.DataFrame | None = None) -> dict:
    calibration = fit_calibration(table, questions, priors={})
    rows = add_probabilities(table, questions, calibration)
    return evaluate_predictions(rows, PARAMS, questions=questions, calibration=calibration, train_labels=train_labels)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_table()


@pytest.fixture(scope="module")
def report(table: pd.DataFrame) -> dict:
    return evaluate(table)


# Temperature


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_recovers_a_known_scaling(scale: float) -> None:
    fitted = fit_calibration(make_table(6000, sharpness=scale), QUESTIONS, priors={}).questions
    assert set(fitted) == {"clean", "damaged", "weather"}
    assert fitted["clean"].temperature == pytest.approx(scale, rel=0.1)
    assert fitted["weather"].temperature == pytest.approx(scale, rel=0.1)


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 3, (3000, 4))
    labels = np.array([random.choice(4, p=row) for row in softmax(logits / 1.7, axis=1)])
    grid = np.linspace(1.0, 3.0, 401)
    losses = [-log_softmax(logits / t, axis=1)[np.arange(3000), labels].mean() for t in grid]
    # The prior pulls it by a hair.
    assert fit_temperature(logits, labels.astype(float)) == pytest.approx(grid[np.argmin(losses)], abs=0.03)


@pytest.mark.parametrize("photos", [12, 60])
def test_a_perfect_separation_of_val_does_not_make_every_probability_certain(photos: int) -> None:
    labels = np.tile([0.0, 1.0], photos // 2)
    logits = np.stack([np.zeros(photos), np.where(labels == 1, 4.0, -4.0)], axis=1)
    temperature = fit_temperature(logits, labels)
    # The likelihood alone has its best at 0; by hand, with the prior:
    grid = np.linspace(0.2, 2, 2001)
    assert temperature == pytest.approx(grid[np.argmin(photos * np.log1p(np.exp(-4 / grid)) + 0.5 * (np.log2(grid)) ** 2)], abs=2e-3)
    assert 0.3 < temperature < 1


def test_a_few_photos_that_the_model_separates_do_not_make_it_doubt_them() -> None:
    """The twin of the test above: what guards against certainty must not take a model's well-founded confidence away."""
    logits = 3.0 * np.eye(4)[np.arange(28) % 4]
    confident = softmax(logits / fit_temperature(logits, np.arange(28.0) % 4), axis=1).max(axis=1)
    assert confident.min() > softmax(logits, axis=1).max(axis=1).min()


def test_only_val_decides_the_temperature(table: pd.DataFrame) -> None:
    turned = table.assign(clean=table["clean"].where(table["split"] == "val", 1 - table["clean"]))
    assert fit_calibration(turned, QUESTIONS, priors={}) == fit_calibration(table, QUESTIONS, priors={})


def test_one_class_in_val_gives_no_temperature_but_a_reason(table: pd.DataFrame) -> None:
    calibration = fit_calibration(table.assign(clean=1.0), QUESTIONS, priors={})
    assert calibration.questions["clean"].temperature is None
    assert "have the same 'clean' label" in str(calibration.questions["clean"].reason)
    assert calibration.questions["weather"].temperature is not None
    assert add_probabilities(table, QUESTIONS, calibration)["p_clean"].to_numpy() == pytest.approx(expit(table["clean_logit"]))


def test_no_label_in_val_gives_no_temperature_but_a_reason(table: pd.DataFrame) -> None:
    fitted = fit_calibration(table.assign(weather_condition=np.nan), QUESTIONS, priors={}).questions["weather"]
    assert fitted.temperature is None
    assert "no photo in val" in str(fitted.reason)


def test_probabilities_are_the_sigmoid_and_the_softmax_of_the_tempered_logits(table: pd.DataFrame) -> None:
    calibration = fit_calibration(table, QUESTIONS, priors={})
    rows, fitted = add_probabilities(table, QUESTIONS, calibration), calibration.questions
    assert rows["p_clean"].to_numpy() == pytest.approx(expit(table["clean_logit"] / fitted["clean"].temperature))
    assert rows["p_damaged"].to_numpy() == pytest.approx(expit(table["damaged_logit"] / fitted["damaged"].temperature))
    weather = softmax(table[LOGITS] / fitted["weather"].temperature, axis=1)
    assert rows[WEATHER.answer_columns].to_numpy() == pytest.approx(weather)
    assert "p_clean" not in table.columns


# The report


def test_the_report_has_its_documented_keys(report: dict) -> None:
    intervals = {
        "binary": {"roc_auc", "average_precision", "brier"},
        "score": {"mae", "rmse", "pearson", "spearman", "mae_over_constant"},
        "classes": {"accuracy", "macro_f1"},
    }
    others = {
        "binary": {"positive_share", "constant_brier", "ece", "brier_before", "ece_before", "aurc_probability"},
        "score": {"constant_mae", "constant_rmse"},
        "classes": {"constant_accuracy", "constant_macro_f1", "ece", "ece_before", "aurc_probability"},
    }
    assert set(report) == {"val", "calib", "test", "slices", "alarms"}
    assert set(report["slices"]) == {"source", "weather"}
    for split in ("val", "calib", "test"):
        assert set(report[split]) == {"photos", "groups", *by_name(QUESTIONS)}
        for asked in QUESTIONS:
            wanted = {f"{name}{end}" for name in intervals[asked.kind] | {"aurc"} for end in ("", "_low", "_high")}
            counts = {"photos", "groups", "labelled_share", "aurc_oracle", "aurc_random"}
            assert set(report[split][asked.name]) == wanted | others[asked.kind] | counts
            for name in intervals[asked.kind]:
                scores = report[split][asked.name]
                assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"]
    json.dumps(report, allow_nan=False)


def test_the_figures_are_scikit_learns_on_the_labelled_photos_of_the_split(table: pd.DataFrame, report: dict) -> None:
    rows, test = completed(table).query("split == 'test'"), report["test"]
    clean, damage, weather = (rows[rows[column].notna()] for column in ("clean", "damage_score", "weather_condition"))
    assert test["clean"]["photos"] == len(clean) < len(rows)
    assert test["clean"]["groups"] == clean["group"].nunique()
    assert test["clean"]["roc_auc"] == pytest.approx(sk.roc_auc_score(clean["clean"], clean["p_clean"]))
    assert test["clean"]["positive_share"] == pytest.approx(clean["clean"].mean())
    assert test["clean"]["brier"] == pytest.approx(sk.brier_score_loss(clean["clean"], clean["p_clean"]))
    assert test["clean"]["brier_before"] == pytest.approx(sk.brier_score_loss(clean["clean"], expit(clean["clean_logit"])))
    assert test["damage"]["mae"] == pytest.approx(sk.mean_absolute_error(damage["damage_score"], damage["damage"]))
    # Its positive class is the bad one.
    assert test["damaged"]["roc_auc"] == pytest.approx(sk.roc_auc_score(rows["damaged"], rows["p_damaged"]))
    assert test["damaged"]["average_precision"] == pytest.approx(sk.average_precision_score(rows["damaged"], rows["p_damaged"]))
    assert test["damaged"]["photos"] == len(rows)
    chosen = weather[LOGITS].to_numpy().argmax(axis=1)
    assert test["weather"]["accuracy"] == pytest.approx(sk.accuracy_score(weather["weather_condition"], chosen))


def test_questions_of_ones_own_are_scored_sliced_and_drawn(table: pd.DataFrame, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    logits = random.normal(0, 2, (len(table), 5))
    rows = table.assign(
        glass_label=(random.random(len(table)) < expit(table["clean_logit"])).astype(float),
        glass_ok_logit=table["clean_logit"],
        body_type=logits.argmax(axis=1).astype(float),
        **dict(zip(BODY.raw_columns, logits.T, strict=True)),
        **{GLASS.spread: 0.1, BODY.spread: 0.1},
    )
    rows.loc[::7, ["glass_label", "body_type"]] = np.nan
    questions = (GLASS, BODY)
    report, rows = evaluate(rows, questions=questions), completed(rows, questions)
    test = rows.query("split == 'test'")
    known = test[test["glass_label"].notna()]
    assert report["test"]["glass_ok"]["roc_auc"] == pytest.approx(sk.roc_auc_score(known["glass_label"], known["glass_ok_logit"]))
    assert report["test"]["body"]["accuracy"] == 1.0
    assert set(report["test"]) == {"photos", "groups", "glass_ok", "body"}
    assert set(report["slices"]) == {"source", "body"}
    assert set(report["slices"]["body"]) == {*BODY.classes, "unknown"}
    curves = make_curves(rows, questions)
    assert set(curves) == {
        "glass_ok_precision_recall", "glass_ok_calibration", "glass_ok_confusion", "risk_coverage_glass_ok",
        "body_calibration", "body_confusion", "risk_coverage_body",
    }  # fmt: skip
    assert set(curves["glass_ok_confusion"]["actual"]) == {"intact", "broken"}
    write_overview(curves, questions, tmp_path / "evaluation.png", train_labels=None)
    write_confidence_plot(curves, questions, tmp_path / "confidence.png")
    draw_photos(rows, tmp_path)
    write_gallery(rows, questions, tmp_path, tmp_path)
    assert Image.open(tmp_path / "evaluation.png").size == (1200, 760)
    assert Image.open(tmp_path / "worst.png").width == 1050


def test_temperature_betters_the_calibration_of_sharp_logits(report: dict) -> None:
    assert report["test"]["clean"]["ece"] < report["test"]["clean"]["ece_before"]
    assert report["test"]["weather"]["ece"] < report["test"]["weather"]["ece_before"]


def test_a_photo_without_a_label_never_counts(table: pd.DataFrame) -> None:
    unknown = table.index % 3 == 0
    blanked = table.assign(**{column: table[column].mask(unknown) for column in LABELS})
    before, after = evaluate(blanked), evaluate(table[~unknown])
    for name in by_name(QUESTIONS):
        shares = {"labelled_share": None}
        assert before["test"][name] | shares == after["test"][name] | shares
    # The twin: a blank read as a perfect score would move the error.
    filled = blanked.assign(damage_score=blanked["damage_score"].fillna(1.0))
    assert evaluate(filled)["test"]["damage"]["mae"] != after["test"]["damage"]["mae"]


def test_the_constant_comes_from_the_train_labels(table: pd.DataFrame) -> None:
    train = table.assign(damage_score=0.25, weather_condition=3.0, clean=1.0)
    test = evaluate(table, train_labels=train)["test"]
    known = table.query("split == 'test'")
    expected = (known["damage_score"].dropna() - 0.25).abs().mean()
    assert test["damage"]["constant_mae"] == pytest.approx(expected)
    assert test["damage"]["mae_over_constant"] == pytest.approx(test["damage"]["mae"] / expected)
    assert test["weather"]["constant_accuracy"] == pytest.approx((known["weather_condition"].dropna() == 3).mean())
    assert test["clean"]["constant_brier"] == pytest.approx((known["clean"].dropna() == 0).mean())


def test_a_question_without_labels_is_unknown_and_not_zero(table: pd.DataFrame) -> None:
    report = evaluate(table.assign(clean=np.nan))
    scores = report["test"]["clean"]
    assert scores["photos"] == scores["groups"] == 0
    assert scores["labelled_share"] == 0.0
    assert {scores[name] for name in ("roc_auc", "roc_auc_low", "brier", "ece", "positive_share")} == {None}
    assert "clean: no labelled photo in test, so its quality is unknown." in report["alarms"]
    json.dumps(report, allow_nan=False)


def test_a_question_that_is_not_asked_is_not_in_the_report(table: pd.DataFrame) -> None:
    report = evaluate(without(table, outputs=["clean_logit", *LOGITS]), questions=(CLEANLINESS, DAMAGE))
    assert set(report["test"]) == {"photos", "groups", "cleanliness", "damage"}
    assert set(report["slices"]) == {"source"}
    assert report["alarms"] == []
    json.dumps(report, allow_nan=False)


def test_an_empty_split_is_unknown(table: pd.DataFrame) -> None:
    report = evaluate(table[table["split"] != "calib"])
    assert report["calib"]["photos"] == 0
    assert report["calib"]["damage"]["mae"] is None
    assert report["calib"]["damage"]["labelled_share"] is None
    json.dumps(report, allow_nan=False)


def test_answers_that_are_not_finite_stop_the_evaluation(table: pd.DataFrame) -> None:
    broken = table.assign(damage=table["damage"].mask(table.index == 7))
    with pytest.raises(UserError, match=r"damage: the model's answer is not a finite number for 1 photos, e\.g\. '00007\.png'"):
        evaluate(broken)


def test_the_order_of_rows_changes_nothing(table: pd.DataFrame, report: dict) -> None:
    shuffled = evaluate(table.sample(frac=1, random_state=2))
    assert json.dumps(shuffled["test"]) == json.dumps(report["test"])


def test_each_source_and_each_weather_has_its_own_slice(table: pd.DataFrame, report: dict) -> None:
    test = table.query("split == 'test'")
    rows = test[test["source"] == "lot"]
    assert list(report["slices"]["source"]) == ["lot", "wash"]
    slice_ = report["slices"]["source"]["lot"]
    assert slice_["photos"] == len(rows)
    known = rows[rows["damage_score"].notna()]
    assert slice_["damage"]["mae"] == pytest.approx((known["damage_score"] - known["damage"]).abs().mean())
    assert (slice_["damage"]["photos"], slice_["damage"]["groups"]) == (len(known), known["group"].nunique())
    assert slice_["damage"]["mae_low"] < slice_["damage"]["mae"] < slice_["damage"]["mae_high"]
    assert set(slice_["clean"]) == {"photos", "groups", "too_few", "roc_auc", "roc_auc_low", "roc_auc_high"}
    assert list(report["slices"]["weather"]) == ["clear", "fog", "rain", "snow", "unknown"]
    assert report["slices"]["weather"]["snow"]["photos"] == (test["weather_condition"] == 3).sum()
    assert report["slices"]["weather"]["unknown"]["photos"] == test["weather_condition"].isna().sum()
    assert sum(slice_["photos"] for slice_ in report["slices"]["weather"].values()) == len(test)


def test_a_slice_of_few_groups_says_so_and_has_no_interval(table: pd.DataFrame) -> None:
    lot = table.query("split == 'test' and source == 'lot'")["group"].unique()
    sources = evaluate(table[~table["group"].isin(lot[3:])])["slices"]["source"]
    assert sources["lot"]["damage"]["too_few"]
    assert sources["lot"]["damage"]["mae"] is not None
    assert sources["lot"]["damage"]["mae_low"] is None
    assert not sources["wash"]["damage"]["too_few"]
    assert sources["wash"]["damage"]["mae_low"] is not None


# Confidence


def test_the_areas_are_those_of_the_orders_that_they_name(table: pd.DataFrame, report: dict) -> None:
    rows = completed(table).query("split == 'test'")
    clean, damage = rows[rows["clean"].notna()], rows[rows["damage_score"].notna()]
    wrong = ((clean["p_clean"] >= 0.5) != (clean["clean"] == 1)).to_numpy(float)
    error = (damage["damage"] - damage["damage_score"]).abs().to_numpy()
    for scores, name, losses, confidence in (
        (report["test"]["clean"], "aurc", wrong, -clean["p_clean_std"]),
        (report["test"]["clean"], "aurc_probability", wrong, (clean["p_clean"] - 0.5).abs()),
        (report["test"]["damage"], "aurc", error, -damage["damage_std"]),
        (report["test"]["damage"], "aurc_oracle", error, -error),
    ):
        order = np.argsort(-np.asarray(confidence))
        risks = [losses[order[:kept]].mean() for kept in range(1, len(losses) + 1)]
        assert scores[name] == pytest.approx(np.mean(risks), abs=1e-9)
    for name in by_name(QUESTIONS):
        assert report["test"][name]["aurc_oracle"] <= report["test"][name]["aurc"]
    assert report["test"]["damage"]["aurc_random"] == pytest.approx(report["test"]["damage"]["mae"])


def test_without_spreads_their_area_is_unknown_and_the_others_stand(table: pd.DataFrame, report: dict) -> None:
    bare = evaluate(without(table, outputs=SPREADS))["test"]["clean"]
    assert {bare[name] for name in ("aurc", "aurc_low", "aurc_high")} == {None}
    assert bare["aurc_probability"] == report["test"]["clean"]["aurc_probability"]
    assert make_curves(completed(without(table, outputs=SPREADS)), QUESTIONS)["risk_coverage_clean"]["risk_dropout"].isna().all()


def test_the_least_certain_photos_have_the_largest_spreads_labelled_or_not(table: pd.DataFrame) -> None:
    test = completed(table).query("split == 'test'")
    found = least_certain(test.assign(damage_score=np.nan), DAMAGE, most=2)
    assert found["damage_std"].iloc[0] == test["damage_std"].max()
    assert found["group"].nunique() == 2
    assert least_certain(test.assign(damage_std=np.nan), DAMAGE, most=2).empty


def test_the_spreads_in_the_table_are_those_of_the_calibrated_answers(tmp_path: Path) -> None:
    network = untrained_network().eval()
    dataset = read_table(make_dataset(tmp_path, photos=20), columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    found = predict(network, dataset, root=tmp_path / "root", reading=Reading(image_side_px=32, mirror=False))
    raw, features_NF = found.table, found.features_NF
    calibration = make_calibration(
        temperature={"clean": 3.0, "damaged": 0.5, "weather": 1.0},
        offsets={"clean": [0.5, -0.5], "weather": [0.0, 1.0, 0.0, -1.0]},
        samples=8,
    )
    assert calibration.uncertainty is not None
    found = add_spreads(raw, network, features_NF, calibration=calibration)
    with torch.inference_mode():
        expected = DropoutSpread(network, calibration.uncertainty, Calibrated(QUESTIONS, calibration))(features_NF)
    for asked in QUESTIONS:
        assert found[asked.spread].to_numpy() == pytest.approx(expected[asked.name].numpy(), abs=1e-6)
    bare = calibration.model_copy(update={"uncertainty": None})
    assert add_spreads(raw, network, features_NF, calibration=bare)[SPREADS].isna().all(axis=None)


def test_the_raw_columns_are_the_networks_answers(tmp_path: Path) -> None:
    network = untrained_network().eval()
    dataset = read_table(make_dataset(tmp_path, photos=20), columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    found = predict(network, dataset, root=tmp_path / "root", reading=Reading(image_side_px=32, mirror=False))
    raw, features_NF = found.table, found.features_NF
    with torch.inference_mode():
        logits = {name: values.double().numpy() for name, values in network.answer(features_NF).items()}
    for asked in QUESTIONS:
        expected = logits[asked.name] if asked.has_classes else expit(logits[asked.name])
        assert raw[asked.raw_columns].to_numpy() == pytest.approx(expected.reshape(20, -1))


# Alarms


def test_a_sound_run_raises_no_alarm(report: dict) -> None:
    assert report["alarms"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": 1.0}, "labelled photos of test have the label clean, so the model cannot be told from a constant."),
        ({"damage_score": 0.5}, "labelled photos of test have the label 0.50, so"),
        ({"damage": 0.7}, "damage: the model gives the same answer for all 400 photos."),
        ({"clean_logit": lambda table: table["clean_logit"] + 1000}, "clean: 'clean' is the likeliest answer for all"),
        ({"weather_logit_fog": 1000.0}, "weather: 'fog' is the likeliest answer for all"),
        ({"cleanliness": lambda table: 1 - table["cleanliness"]}, "of a constant answer's, so no better"),
        ({"clean_logit": lambda table: -table["clean_logit"]}, "clean: the ROC AUC on test may be that of a coin"),
        ({"clean_logit": lambda table: -table["clean_logit"]}, "clean: the temperature 20 lies at the edge"),
    ],
)
def test_a_degenerate_run_is_called_one(table: pd.DataFrame, changes: dict, words: str) -> None:
    assert any(words in alarm for alarm in evaluate(table.assign(**changes))["alarms"])


def test_an_uncalibrated_classifier_is_called_one(table: pd.DataFrame) -> None:
    one_class = table.assign(clean=table["clean"].where(table["split"] != "val", 1.0))
    assert any("clean: its probabilities are not calibrated" in alarm for alarm in evaluate(one_class)["alarms"])


# Curves and pictures


def test_the_curves_are_of_the_test_split(table: pd.DataFrame) -> None:
    curves = make_curves(completed(table), QUESTIONS)
    rows = completed(table).query("split == 'test'")
    clean = rows[rows["clean"].notna()]
    precision, recall, threshold = sk.precision_recall_curve(clean["clean"], clean["p_clean"])
    assert curves["clean_precision_recall"]["threshold"].to_numpy() == pytest.approx(threshold)
    assert curves["clean_precision_recall"]["precision"].to_numpy() == pytest.approx(precision[:-1])
    assert curves["clean_precision_recall"]["recall"].to_numpy() == pytest.approx(recall[:-1])
    pairs = curves["clean_confusion"]
    expected = sk.confusion_matrix(clean["clean"], clean["p_clean"] >= 0.5)
    found = pd.crosstab(pairs["actual"], pairs["predicted"]).loc[["dirty", "clean"], ["dirty", "clean"]]
    assert (found.to_numpy() == expected).all()
    for after in ("yes", "no"):
        bins = curves["clean_calibration"][curves["clean_calibration"]["calibrated"] == after]
        assert bins["photos"].sum() == len(clean)
        assert (bins["photos"] * bins["observed_share"]).sum() == pytest.approx(clean["clean"].sum())
    assert len(curves["damage_scatter"]) == rows["damage_score"].notna().sum()


def test_every_file_is_written_even_without_a_label_or_an_answer(table: pd.DataFrame, tmp_path: Path) -> None:
    raw = [column for asked in QUESTIONS for column in asked.raw_columns]
    bare = completed(without(table, outputs=[*LABELS, *raw]))
    curves = make_curves(bare, QUESTIONS)
    write_curves(curves, tmp_path)
    write_overview(curves, QUESTIONS, tmp_path / "evaluation.png", train_labels=bare)
    write_confidence_plot(curves, QUESTIONS, tmp_path / "confidence.png")
    headers = {path.name: path.read_text() for path in sorted(tmp_path.glob("*.csv"))}
    reliability = "calibrated,mean_probability,observed_share,photos\n"
    assert headers == {
        "clean_calibration.csv": reliability,
        "clean_confusion.csv": "actual,predicted\n",
        "clean_precision_recall.csv": "threshold,precision,recall\n",
        "cleanliness_scatter.csv": "label,answer\n",
        "damage_scatter.csv": "label,answer\n",
        "damaged_calibration.csv": reliability,
        "damaged_confusion.csv": "actual,predicted\n",
        "damaged_precision_recall.csv": "threshold,precision,recall\n",
        "risk_coverage_clean.csv": "coverage,risk_dropout,risk_probability,risk_oracle\n",
        "risk_coverage_cleanliness.csv": "coverage,risk_dropout,risk_oracle\n",
        "risk_coverage_damage.csv": "coverage,risk_dropout,risk_oracle\n",
        "risk_coverage_damaged.csv": "coverage,risk_dropout,risk_probability,risk_oracle\n",
        "risk_coverage_weather.csv": "coverage,risk_dropout,risk_probability,risk_oracle\n",
        "weather_calibration.csv": reliability,
        "weather_confusion.csv": "actual,predicted\n",
    }
    assert Image.open(tmp_path / "evaluation.png").size == (1200, 1140)


def draw_photos(table: pd.DataFrame, root: Path) -> None:
    random = np.random.default_rng(0)
    for name in table["image_path"]:
        small = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        small.resize((64, 48)).save(root / name)


def test_the_same_predictions_give_the_same_bytes(table: pd.DataFrame, tmp_path: Path) -> None:
    draw_photos(table, tmp_path)
    written = []
    for order, rows in (("a", table), ("b", table.sample(frac=1, random_state=5))):
        folder = tmp_path / order
        curves = make_curves(completed(rows), QUESTIONS)
        write_curves(curves, folder)
        write_overview(curves, QUESTIONS, folder / "evaluation.png", train_labels=table)
        write_confidence_plot(curves, QUESTIONS, folder / "confidence.png")
        write_gallery(completed(rows), QUESTIONS, tmp_path, folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert b"Matplotlib" not in written[0]["evaluation.png"], "its version would change the bytes"
    assert len(written[0]) == 20
    assert max(map(len, written[0].values())) < 300_000
    sheet = Image.open(tmp_path / "a/answers.png").convert("RGB")
    assert sheet.width == 1050
    assert sheet.getpixel((2, 2)) == (255, 255, 255)


def test_the_gallery_shows_photos_of_different_groups_that_differ(table: pd.DataFrame) -> None:
    test = completed(table).query("split == 'test'")
    varied = choose_varied(test, QUESTIONS, most=8)
    assert varied["group"].nunique() == 8
    spread = varied["p_clean"].max() - varied["p_clean"].min()
    assert spread > 0.8
    assert varied[LOGITS].to_numpy().argmax(axis=1).tolist() != [0] * 8
    assert len(choose_varied(test.head(3), QUESTIONS, most=8)) == 2, "three photos of two groups"
    assert choose_varied(test.head(0), QUESTIONS, most=8).empty


def test_the_worst_errors_are_the_largest_and_of_different_groups(table: pd.DataFrame) -> None:
    test = completed(table).query("split == 'test'")
    worst = worst_errors(test, DAMAGE, most=2)
    errors = (test["damage"] - test["damage_score"]).abs()
    assert worst["error"].iloc[0] == pytest.approx(errors.max())
    assert worst["group"].nunique() == 2
    assert worst_errors(test, WEATHER, most=1)["error"].iloc[0] > 0.5


def test_a_gallery_without_photos_or_labels_is_still_a_picture(table: pd.DataFrame, tmp_path: Path) -> None:
    write_gallery(completed(table).query("split != 'test'"), QUESTIONS, tmp_path, tmp_path)
    for name in ("answers.png", "worst.png", "uncertain.png"):
        assert Image.open(tmp_path / name).width == 1050


def test_a_photo_that_has_gone_is_named(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\d{5}\.png: no such file"):
        write_gallery(completed(table), QUESTIONS, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dropout_samples": -1}, "evaluate.dropout_samples has the value -1. Input should be greater than or equal to 0"),
        ({"dropout_samples": 1}, "evaluate.dropout_samples: has the value 1. A spread needs at least 2 samples"),
        ({"slice_min_groups": 1}, "evaluate.slice_min_groups has the value 1"),
        ({"confidence": 95.0}, "evaluate.confidence: has the value 95.0. It must lie between 0 and 1"),
        ({"corruptions": [3, 1]}, "evaluate.corruptions: has the value .3, 1.. Severities are 1 to 5"),
        ({"corruptions": [6]}, "Severities are 1 to 5"),
        ({"sede": 1}, "Did you mean 'seed'"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_reason(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_section("evaluate", EvaluateParams, PARAMS.model_dump() | changes)


# ---- corruptions


def draw_photo(side_px: int = 96) -> np.ndarray:
    random = np.random.default_rng(3)
    rough = gaussian_filter(random.normal(size=(side_px, side_px, 3)), (4, 4, 0))
    return np.clip(128 + 300 * rough + 12 * random.normal(size=(side_px, side_px, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_the_same_each_time_and_changes_more_the_more_severe_it_is(kind: str) -> None:
    photo = draw_photo()
    changed = [corrupt(photo, kind, severity, digest="a") for severity in SEVERITIES]
    assert all(one.shape == photo.shape and one.dtype == np.uint8 for one in changed)
    assert np.array_equal(changed[2], corrupt(photo, kind, 3, digest="a"))
    far = [np.abs(one.astype(float) - photo).mean() for one in changed]
    assert far[0] > 0.5
    assert far[4] > far[0]


def test_what_a_corruption_draws_differs_from_photo_to_photo_and_cell_to_cell() -> None:
    photo = draw_photo()
    noise = [
        corrupt(photo, kind, 3, digest=digest).astype(float) - photo for kind, digest in product(("gaussian_noise", "impulse_noise"), "ab")
    ]
    assert all(not np.array_equal(one, other) for one, other in combinations(noise, 2))
    # The twin: what draws nothing is the same for every photo.
    assert np.array_equal(corrupt(photo, "jpeg", 3, digest="a"), corrupt(photo, "jpeg", 3, digest="b"))


def test_the_corruptions_follow_their_formulas() -> None:
    photo = draw_photo(224)
    grey = np.full((224, 224, 3), 128, np.uint8)
    assert corrupt(grey, "gaussian_noise", 2, digest="a").std() / 255 == pytest.approx(0.12, rel=0.02)
    # A Poisson count of mean m / c has the variance m / c² in units of 1 / c.
    assert corrupt(grey, "shot_noise", 1, digest="a").std() / 255 == pytest.approx(np.sqrt(128 / 255 / 60), rel=0.02)
    assert (corrupt(grey, "impulse_noise", 3, digest="a") != 128).mean() == pytest.approx(0.09, rel=0.05)
    blurred = gaussian_filter(photo.astype(float), (2, 2, 0), mode="mirror", truncate=4)
    assert np.abs(corrupt(photo, "gaussian_blur", 2, digest="a") - blurred).mean() < 1
    mean = photo.mean(axis=(0, 1))
    assert np.abs(corrupt(photo, "contrast", 4, digest="a") - (0.1 * (photo - mean) + mean)).max() <= 0.51
    point = np.zeros((224, 224, 3), np.uint8)
    point[111:114, 111:114] = 255
    seen = np.argwhere(corrupt(point, "defocus", 3, digest="a")[..., 0])
    assert np.hypot(*(seen - 112).T).max() == pytest.approx(6 + 1.4, abs=1)
    with Image.open(io.BytesIO(to_jpeg(photo, quality=10))) as image:
        assert np.abs(corrupt(photo, "jpeg", 4, digest="a").astype(int) - np.asarray(image)).mean() < 1.5


def to_jpeg(photo: np.ndarray, *, quality: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "JPEG", quality=quality)
    return content.getvalue()


def test_photos_to_corrupt_are_labelled_ones_of_test_and_of_different_groups(table: pd.DataFrame) -> None:
    drawn = draw_to_corrupt(table, QUESTIONS, PARAMS)
    assert (len(drawn), set(drawn["split"]), drawn["group"].is_unique) == (20, {"test"}, True)
    assert drawn.index.equals(draw_to_corrupt(table.sample(frac=1, random_state=0), QUESTIONS, PARAMS).index)
    blank = table.assign(**dict.fromkeys(LABELS, np.nan))
    assert draw_to_corrupt(blank, QUESTIONS, PARAMS).empty


def test_the_answers_to_corrupted_photos_are_the_networks_and_the_drop_is_that_of_the_metric(tmp_path: Path) -> None:
    network, root = untrained_network().eval(), tmp_path / "root"
    scored = read_table(make_dataset(tmp_path), columns=dataset_columns(QUESTIONS)).assign(split="test")
    pixels, calibration = read_pixels(scored, root=root, image_side_px=32), make_calibration(temperature=2.0)
    corrupted = score_corrupted(network, scored, pixels, PARAMS, calibration=calibration, gate=make_gate(network))
    assert len(corrupted) == 20 * (1 + 2 * len(CORRUPTIONS))
    (row,) = corrupted[(corrupted["corruption"] == "zoom") & (corrupted["severity"] == 5)].head(1).itertuples()
    place = scored.index[scored["image_path"] == row.image_path][0]
    photo = corrupt(np.array(pixels[place]), "zoom", 5, digest=scored["sha256"][place])
    with torch.inference_mode():
        logit = network(torch.from_numpy(photo[None]))["clean"].item()
    assert row.p_clean == pytest.approx(expit(logit / 2), abs=1e-5)
    report = measure_drops(corrupted, QUESTIONS)
    cell = corrupted[(corrupted["corruption"] == "fog") & (corrupted["severity"] == 1)]
    sharp = corrupted[corrupted["corruption"] == "none"]
    errors = [(rows["cleanliness"] - rows["cleanliness_score"]).abs().mean() for rows in (sharp, cell)]
    assert report["sharp"]["cleanliness"] == pytest.approx(errors[0])
    assert report["drop"]["fog"]["cleanliness"][0] == pytest.approx(errors[1] - errors[0])
    assert list(report["drop"]) == list(CORRUPTIONS)
    text = say_drops(report, QUESTIONS)
    assert "zoom" in text
    assert "clean (roc_auc)" in text
    write_drops(report, QUESTIONS, PARAMS.corruptions, tmp_path / "a.png")
    write_drops(report, QUESTIONS, PARAMS.corruptions, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_severities_only_the_photos_as_they_are_are_scored(tmp_path: Path) -> None:
    network = untrained_network().eval()
    scored = read_table(make_dataset(tmp_path), columns=dataset_columns(QUESTIONS)).assign(split="test")
    pixels = read_pixels(scored, root=tmp_path / "root", image_side_px=32)
    none = PARAMS.model_copy(update={"corruptions": []})
    corrupted = score_corrupted(network, scored, pixels, none, calibration=make_calibration(), gate=make_gate(network))
    assert set(corrupted["corruption"]) == {"none"}
    assert measure_drops(corrupted, QUESTIONS)["drop"] == {}
