"""Holds the evaluation report, the temperatures, the plots' tables and the pictures to what they promise."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as sk

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.core.tables import DATASET_COLUMNS, read_table
from carinspect.core.tasks import SPREAD, TASKS, WEATHER_CLASSES
from carinspect.evaluation.calibration import add_probabilities, fit_calibration, fit_temperature
from carinspect.evaluation.confidence_plot import write_confidence_plot
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.curves import make_curves, write_curves
from carinspect.evaluation.gallery import choose_varied, least_certain, worst_errors, write_gallery
from carinspect.evaluation.overview import write_overview
from carinspect.evaluation.predict import add_spreads, predict
from carinspect.evaluation.report import evaluate_predictions
from carinspect.model.answers import Calibrated
from carinspect.model.backbones import build_backbone
from carinspect.model.network import CarInspectionNetwork
from carinspect.model.uncertainty import DropoutSpread
from conftest import make_dataset, make_recipe

PARAMS = EvaluateParams(bootstrap_samples=200, confidence=0.95, seed=1, dropout_samples=30, slice_min_groups=10, leave_one_source_out=False)
SPREADS = list(SPREAD.values())
LOGITS = [f"weather_logit_{name}" for name in WEATHER_CLASSES]


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
    for task in ("cleanliness", "damage"):
        table[f"{task}_std"] = np.abs(table[task] - table[f"{task}_score"]) * spread.random(photos)
    for column in ("clean", "cleanliness_score", "damage_score", "weather_condition"):
        table.loc[random.random(photos) < 0.2, column] = np.nan
    return table


def without(table: pd.DataFrame, *, outputs: list[str]) -> pd.DataFrame:
    return table.assign(**dict.fromkeys(outputs, np.nan))


def evaluate(table: pd.DataFrame, *, tasks=TASKS, train_labels: pd.DataFrame | None = None) -> dict:
    calibration = fit_calibration(table, priors={})
    completed = add_probabilities(table, calibration)
    return evaluate_predictions(completed, PARAMS, tasks=list(tasks), calibration=calibration, train_labels=train_labels)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_table()


@pytest.fixture(scope="module")
def report(table: pd.DataFrame) -> dict:
    return evaluate(table)


# Temperature


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_recovers_a_known_scaling(scale: float) -> None:
    temperature = fit_calibration(make_table(6000, sharpness=scale), priors={})["temperature"]
    assert temperature["clean"] == pytest.approx(scale, rel=0.1)
    assert temperature["weather"] == pytest.approx(scale, rel=0.1)


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
    assert fit_calibration(turned, priors={}) == fit_calibration(table, priors={})


def test_one_class_in_val_gives_no_temperature_but_a_reason(table: pd.DataFrame) -> None:
    calibration = fit_calibration(table.assign(clean=1.0), priors={})
    assert calibration["temperature"]["clean"] is None
    assert "have the same 'clean' label" in calibration["clean"]["reason"]
    assert calibration["temperature"]["weather"] is not None
    completed = add_probabilities(table, calibration)
    assert completed["p_clean"].to_numpy() == pytest.approx(expit(table["clean_logit"]))


def test_no_label_in_val_gives_no_temperature_but_a_reason(table: pd.DataFrame) -> None:
    calibration = fit_calibration(table.assign(weather_condition=np.nan), priors={})
    assert calibration["temperature"]["weather"] is None
    assert "no photo in val" in calibration["weather"]["reason"]


def test_probabilities_are_the_sigmoid_and_the_softmax_of_the_tempered_logits(table: pd.DataFrame) -> None:
    calibration = fit_calibration(table, priors={})
    completed = add_probabilities(table, calibration)
    assert completed["p_clean"].to_numpy() == pytest.approx(expit(table["clean_logit"] / calibration["temperature"]["clean"]))
    weather = softmax(table[LOGITS] / calibration["temperature"]["weather"], axis=1)
    assert completed[[f"p_weather_{name}" for name in WEATHER_CLASSES]].to_numpy() == pytest.approx(weather)
    assert "p_clean" not in table.columns


# The report


def test_the_report_has_its_documented_keys(report: dict) -> None:
    intervals = {
        "clean": {"roc_auc", "average_precision", "brier"},
        "cleanliness": {"mae", "rmse", "pearson", "spearman", "mae_over_constant"},
        "damage": {"mae", "rmse", "pearson", "spearman", "mae_over_constant", "damaged_roc_auc"},
        "weather": {"accuracy", "macro_f1"},
    }
    others = {
        "clean": {"clean_share", "constant_brier", "ece", "brier_before", "ece_before", "aurc_probability"},
        "cleanliness": {"constant_mae", "constant_rmse"},
        "damage": {"constant_mae", "constant_rmse", "damaged_photos"},
        "weather": {"constant_accuracy", "constant_macro_f1", "ece", "ece_before", "aurc_probability"},
    }
    assert set(report) == {"val", "calib", "test", "sources", "weathers", "alarms"}
    for split in ("val", "calib", "test"):
        assert set(report[split]) == {"photos", "groups", *TASKS}
        for task in TASKS:
            wanted = {f"{name}{end}" for name in intervals[task] | {"aurc"} for end in ("", "_low", "_high")}
            counts = {"photos", "groups", "labelled_share", "skipped_resamples", "aurc_oracle", "aurc_random"}
            assert set(report[split][task]) == wanted | others[task] | counts
            for name in intervals[task]:
                scores = report[split][task]
                assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"]
    json.dumps(report, allow_nan=False)


def test_the_figures_are_scikit_learns_on_the_labelled_photos_of_the_split(table: pd.DataFrame, report: dict) -> None:
    rows = add_probabilities(table, fit_calibration(table, priors={})).query("split == 'test'")
    clean, damage, weather = (rows[rows[column].notna()] for column in ("clean", "damage_score", "weather_condition"))
    assert report["test"]["clean"]["photos"] == len(clean) < len(rows)
    assert report["test"]["clean"]["groups"] == clean["group"].nunique()
    assert report["test"]["clean"]["roc_auc"] == pytest.approx(sk.roc_auc_score(clean["clean"], clean["p_clean"]))
    assert report["test"]["clean"]["brier"] == pytest.approx(sk.brier_score_loss(clean["clean"], clean["p_clean"]))
    assert report["test"]["clean"]["brier_before"] == pytest.approx(sk.brier_score_loss(clean["clean"], expit(clean["clean_logit"])))
    assert report["test"]["damage"]["mae"] == pytest.approx(sk.mean_absolute_error(damage["damage_score"], damage["damage"]))
    assert report["test"]["damage"]["damaged_roc_auc"] == pytest.approx(sk.roc_auc_score(rows["damaged"], 1 - rows["damage"]))
    assert report["test"]["damage"]["damaged_photos"] == len(rows)
    chosen = weather[LOGITS].to_numpy().argmax(axis=1)
    assert report["test"]["weather"]["accuracy"] == pytest.approx(sk.accuracy_score(weather["weather_condition"], chosen))


def test_temperature_betters_the_calibration_of_sharp_logits(report: dict) -> None:
    assert report["test"]["clean"]["ece"] < report["test"]["clean"]["ece_before"]
    assert report["test"]["weather"]["ece"] < report["test"]["weather"]["ece_before"]


def test_a_photo_without_a_label_never_counts(table: pd.DataFrame) -> None:
    unknown = table.index % 3 == 0
    columns = ["clean", "cleanliness_score", "damaged", "damage_score", "weather_condition"]
    blanked = table.assign(**{column: table[column].mask(unknown) for column in columns})
    before, after = evaluate(blanked), evaluate(table[~unknown])
    for task in TASKS:
        shares = {"labelled_share": None}
        assert before["test"][task] | shares == after["test"][task] | shares
    # The twin: a blank read as a perfect score would move the error.
    filled = blanked.assign(damage_score=blanked["damage_score"].fillna(1.0))
    assert evaluate(filled)["test"]["damage"]["mae"] != after["test"]["damage"]["mae"]


def test_the_constant_comes_from_the_train_labels(table: pd.DataFrame) -> None:
    train = table.assign(damage_score=0.25, weather_condition=3.0)
    test = evaluate(table, train_labels=train)["test"]
    known = table.query("split == 'test'")
    expected = (known["damage_score"].dropna() - 0.25).abs().mean()
    assert test["damage"]["constant_mae"] == pytest.approx(expected)
    assert test["damage"]["mae_over_constant"] == pytest.approx(test["damage"]["mae"] / expected)
    assert test["weather"]["constant_accuracy"] == pytest.approx((known["weather_condition"].dropna() == 3).mean())


def test_a_task_without_labels_is_unknown_and_not_zero(table: pd.DataFrame) -> None:
    report = evaluate(table.assign(clean=np.nan))
    scores = report["test"]["clean"]
    assert scores["photos"] == scores["groups"] == 0
    assert scores["labelled_share"] == 0.0
    assert {scores[name] for name in ("roc_auc", "roc_auc_low", "brier", "ece", "clean_share")} == {None}
    assert "clean: no labelled photo in test, so its quality is unknown." in report["alarms"]
    json.dumps(report, allow_nan=False)


def test_an_untrained_task_is_unknown_and_raises_no_alarm(table: pd.DataFrame) -> None:
    report = evaluate(without(table, outputs=["clean_logit", *LOGITS]), tasks=["cleanliness", "damage"])
    assert report["test"]["weather"]["accuracy"] is None
    assert report["test"]["weather"]["labelled_share"] > 0
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
    assert list(report["sources"]) == ["lot", "wash"]
    slice_ = report["sources"]["lot"]
    assert slice_["photos"] == len(rows)
    known = rows[rows["damage_score"].notna()]
    assert slice_["damage"]["mae"] == pytest.approx((known["damage_score"] - known["damage"]).abs().mean())
    assert (slice_["damage"]["photos"], slice_["damage"]["groups"]) == (len(known), known["group"].nunique())
    assert slice_["damage"]["mae_low"] < slice_["damage"]["mae"] < slice_["damage"]["mae_high"]
    assert set(slice_["clean"]) == {"photos", "groups", "too_few", "roc_auc", "roc_auc_low", "roc_auc_high"}
    assert list(report["weathers"]) == ["clear", "fog", "rain", "snow", "unknown"]
    assert report["weathers"]["snow"]["photos"] == (test["weather_condition"] == 3).sum()
    assert report["weathers"]["unknown"]["photos"] == test["weather_condition"].isna().sum()
    assert sum(slice_["photos"] for slice_ in report["weathers"].values()) == len(test)


def test_a_slice_of_few_groups_says_so_and_has_no_interval(table: pd.DataFrame) -> None:
    lot = table.query("split == 'test' and source == 'lot'")["group"].unique()
    sources = evaluate(table[~table["group"].isin(lot[3:])])["sources"]
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
    for task in TASKS:
        assert report["test"][task]["aurc_oracle"] <= report["test"][task]["aurc"]
    assert report["test"]["damage"]["aurc_random"] == pytest.approx(report["test"]["damage"]["mae"])


def test_without_spreads_their_area_is_unknown_and_the_others_stand(table: pd.DataFrame, report: dict) -> None:
    bare = evaluate(without(table, outputs=SPREADS))["test"]["clean"]
    assert {bare[name] for name in ("aurc", "aurc_low", "aurc_high")} == {None}
    assert bare["aurc_probability"] == report["test"]["clean"]["aurc_probability"]
    assert make_curves(completed(without(table, outputs=SPREADS)))["risk_coverage_clean"]["risk_dropout"].isna().all()


def test_the_least_certain_photos_have_the_largest_spreads_labelled_or_not(table: pd.DataFrame) -> None:
    test = completed(table).query("split == 'test'")
    found = least_certain(test.assign(damage_score=np.nan), "damage", most=2)
    assert found["damage_std"].iloc[0] == test["damage_std"].max()
    assert found["group"].nunique() == 2
    assert least_certain(test.assign(damage_std=np.nan), "damage", most=2).empty


def test_the_spreads_in_the_table_are_those_of_the_calibrated_answers(tmp_path: Path) -> None:
    recipe = make_recipe()
    torch.manual_seed(0)
    network = CarInspectionNetwork(recipe.model, backbone=build_backbone("test_resnet", image_side_px=32)).eval()
    dataset = read_table(make_dataset(tmp_path, photos=20), columns=DATASET_COLUMNS)
    raw, features_NF = predict(network, dataset, root=tmp_path / "root", image_side_px=32)
    calibration = {
        "temperature": {"clean": 3.0, "weather": None},
        "logit_offset": {"clean": [0.5, -0.5], "weather": [0.0, 1.0, 0.0, -1.0]},
        "uncertainty": {"samples": 8, "dropout": 0.2, "seed": 1},
    }
    found = add_spreads(raw, network, features_NF, calibration=calibration)
    with torch.inference_mode():
        expected = DropoutSpread(network, calibration["uncertainty"], Calibrated(calibration))(features_NF)
    for task in TASKS:
        assert found[SPREAD[task]].to_numpy() == pytest.approx(expected[task].numpy(), abs=1e-6)
    assert add_spreads(raw, network, features_NF, calibration=calibration | {"uncertainty": None})[SPREADS].isna().all(axis=None)


# Alarms


def test_a_sound_run_raises_no_alarm(report: dict) -> None:
    assert report["alarms"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": 1.0}, "labelled photos of test have the label clean, so the model cannot be told from a constant."),
        ({"damage_score": 0.5}, "labelled photos of test have the label 0.5, so"),
        ({"damage": 0.7}, "damage: the model gives the same answer for all 400 photos."),
        ({"clean_logit": lambda table: table["clean_logit"] + 1000}, "clean: 'clean' is the likelier answer for all"),
        ({"weather_logit_fog": 1000.0}, "weather: the model answers 'fog' for all"),
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


def completed(table: pd.DataFrame) -> pd.DataFrame:
    return add_probabilities(table, fit_calibration(table, priors={}))


def test_the_curves_are_of_the_test_split(table: pd.DataFrame) -> None:
    curves = make_curves(completed(table))
    rows = completed(table).query("split == 'test'")
    clean = rows[rows["clean"].notna()]
    precision, recall, threshold = sk.precision_recall_curve(clean["clean"], clean["p_clean"])
    assert curves["precision_recall"]["threshold"].to_numpy() == pytest.approx(threshold)
    assert curves["precision_recall"]["precision"].to_numpy() == pytest.approx(precision[:-1])
    assert curves["precision_recall"]["recall"].to_numpy() == pytest.approx(recall[:-1])
    pairs = curves["clean_confusion"]
    expected = sk.confusion_matrix(clean["clean"], clean["p_clean"] >= 0.5)
    found = pd.crosstab(pairs["actual"], pairs["predicted"]).loc[["dirty", "clean"], ["dirty", "clean"]]
    assert (found.to_numpy() == expected).all()
    for after in ("yes", "no"):
        bins = curves["calibration"][curves["calibration"]["calibrated"] == after]
        assert bins["photos"].sum() == len(clean)
        assert (bins["photos"] * bins["observed_share"]).sum() == pytest.approx(clean["clean"].sum())
    assert len(curves["damage_scatter"]) == rows["damage_score"].notna().sum()


def test_every_file_is_written_even_without_a_label_or_an_answer(table: pd.DataFrame, tmp_path: Path) -> None:
    labels = ["clean", "cleanliness_score", "damaged", "damage_score", "weather_condition"]
    bare = completed(without(table, outputs=[*labels, "clean_logit", "cleanliness", "damage", *LOGITS]))
    curves = make_curves(bare)
    write_curves(curves, tmp_path)
    write_overview(curves, tmp_path / "evaluation.png", train_labels=bare)
    write_confidence_plot(curves, tmp_path / "confidence.png")
    headers = {path.name: path.read_text() for path in sorted(tmp_path.glob("*.csv"))}
    assert headers == {
        "calibration.csv": "calibrated,mean_probability,observed_share,photos\n",
        "clean_confusion.csv": "actual,predicted\n",
        "cleanliness_scatter.csv": "label,answer\n",
        "damage_scatter.csv": "label,answer\n",
        "precision_recall.csv": "threshold,precision,recall\n",
        "risk_coverage_clean.csv": "coverage,risk_dropout,risk_probability,risk_oracle\n",
        "risk_coverage_cleanliness.csv": "coverage,risk_dropout,risk_oracle\n",
        "risk_coverage_damage.csv": "coverage,risk_dropout,risk_oracle\n",
        "risk_coverage_weather.csv": "coverage,risk_dropout,risk_probability,risk_oracle\n",
        "weather_calibration.csv": "calibrated,mean_probability,observed_share,photos\n",
        "weather_confusion.csv": "actual,predicted\n",
    }
    assert Image.open(tmp_path / "evaluation.png").size == (1200, 760)


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
        curves = make_curves(completed(rows))
        write_curves(curves, folder)
        write_overview(curves, folder / "evaluation.png", train_labels=table)
        write_confidence_plot(curves, folder / "confidence.png")
        write_gallery(completed(rows), tmp_path, folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert b"Matplotlib" not in written[0]["evaluation.png"], "its version would change the bytes"
    assert len(written[0]) == 16
    assert max(map(len, written[0].values())) < 300_000
    sheet = Image.open(tmp_path / "a/answers.png").convert("RGB")
    assert sheet.width == 1050
    assert sheet.getpixel((2, 2)) == (255, 255, 255)


def test_the_gallery_shows_photos_of_different_groups_that_differ(table: pd.DataFrame) -> None:
    test = completed(table).query("split == 'test'")
    varied = choose_varied(test, most=8)
    assert varied["group"].nunique() == 8
    spread = varied["p_clean"].max() - varied["p_clean"].min()
    assert spread > 0.8
    assert varied[LOGITS].to_numpy().argmax(axis=1).tolist() != [0] * 8
    assert len(choose_varied(test.head(3), most=8)) == 2, "three photos of two groups"
    assert choose_varied(test.head(0), most=8).empty


def test_the_worst_errors_are_the_largest_and_of_different_groups(table: pd.DataFrame) -> None:
    test = completed(table).query("split == 'test'")
    worst = worst_errors(test, "damage", most=2)
    errors = (test["damage"] - test["damage_score"]).abs()
    assert worst["error"].iloc[0] == pytest.approx(errors.max())
    assert worst["group"].nunique() == 2
    assert worst_errors(test, "weather", most=1)["error"].iloc[0] > 0.5


def test_a_gallery_without_photos_or_labels_is_still_a_picture(table: pd.DataFrame, tmp_path: Path) -> None:
    write_gallery(completed(table).query("split != 'test'"), tmp_path, tmp_path)
    for name in ("answers.png", "worst.png", "uncertain.png"):
        assert Image.open(tmp_path / name).width == 1050


def test_a_photo_that_has_gone_is_named(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\d{5}\.png: no such file"):
        write_gallery(completed(table), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bootstrap_samples": 10}, "evaluate.bootstrap_samples: has the value 10. An interval needs at least 100"),
        ({"dropout_samples": 1}, "evaluate.dropout_samples: has the value 1. A spread needs at least 2 samples"),
        ({"slice_min_groups": 1}, "evaluate.slice_min_groups has the value 1"),
        ({"confidence": 95.0}, "evaluate.confidence: has the value 95.0. It must lie between 0 and 1"),
        ({"sede": 1}, "Did you mean 'seed'"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_reason(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_section("evaluate", EvaluateParams, PARAMS.model_dump() | changes)
