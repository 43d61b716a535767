"""The linear probe on frozen features: the baseline that a trained network has to beat."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of
from carinspect.core.params import load_params
from carinspect.evaluation.baseline import compare_with_probe, probe_alarms, say_comparison
from carinspect.evaluation.ensembling import fit_ensemble
from carinspect.export.graph import AnsweringNetwork, to_onnx
from carinspect.export.metadata import Trained, describe_model
from carinspect.export.parity import compare, refuse_disparity, torch_answers
from carinspect.images.decode import load_image
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.inference.bundle import open_bundle
from carinspect.inference.seal import seal
from carinspect.model.backbones import build_backbone
from carinspect.model.calibration import logit_offsets
from carinspect.model.checkpoint import Checkpoint, save_checkpoint
from carinspect.model.ensemble import EnsembleFit, join, load_ensemble, save_ensemble
from carinspect.model.features import WINDOWS, StageFeatures, frozen_features
from carinspect.model.network import CarInspectionNetwork, begin_with_probe
from carinspect.model.probe import PENALTIES, answer_left_out, draw_groups, fit_probe
from carinspect.training.recipe import resolve_recipe, write_parts, write_recipe
from conftest import (
    QUESTIONS,
    make_calibration,
    make_dataset,
    make_evaluate_params,
    make_gate,
    make_recipe,
    make_thresholds,
    without_outlines,
)
from test_evaluation import completed, evaluate, make_table
from test_export import card_facts, draw

ROOT = Path(__file__).parents[1]
SIDE = 64


def some_photos(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def tiny_backbone(name: str = "test_resnet") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone(name, image_side_px=SIDE)


# ---- frozen features


def test_the_features_are_the_means_of_the_stages_then_the_backbones_own() -> None:
    backbone = tiny_backbone().eval()
    maps = {}
    for name in ("layer2", "layer3", "layer4"):
        getattr(backbone, name).register_forward_hook(lambda _, __, output, name=name: maps.__setitem__(name, output))
    photos = some_photos(5)
    found_NF = frozen_features(StageFeatures(backbone, stages=3, mirror=False), photos)
    assert (found_NF.dtype, found_NF.shape) == (np.float32, (5, 48 + 192 + 96 + 96))
    config = backbone.pretrained_cfg
    images = (torch.from_numpy(photos).permute(0, 3, 1, 2) / 255 - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(
        config["std"]
    ).view(3, 1, 1)
    with torch.no_grad():
        own_NF = backbone(images)
    expected_NF = torch.cat([*(maps[name].mean(dim=(2, 3)) for name in ("layer2", "layer3", "layer4")), own_NF], dim=1)
    np.testing.assert_allclose(found_NF, expected_NF, rtol=1e-4, atol=1e-5)
    alone_NF = frozen_features(StageFeatures(backbone, stages=0, mirror=False), photos)
    np.testing.assert_allclose(alone_NF, own_NF, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_a_photo_and_its_mirror_image_have_the_same_features_when_both_are_averaged(name: str) -> None:
    photos = some_photos(3)
    mirrored = np.ascontiguousarray(photos[:, :, ::-1])
    plain, averaged = (StageFeatures(tiny_backbone(name), stages=2, mirror=mirror) for mirror in (False, True))
    np.testing.assert_allclose(frozen_features(averaged, photos), frozen_features(averaged, mirrored), rtol=1e-3, atol=1e-5)
    mean_NF = (frozen_features(plain, photos) + frozen_features(plain, mirrored)) / 2
    np.testing.assert_allclose(frozen_features(averaged, photos), mean_NF, rtol=1e-3, atol=1e-5)
    assert np.abs(frozen_features(plain, photos) - frozen_features(plain, mirrored)).max() > 1e-3


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_windows_are_the_means_of_parts_of_the_last_map_and_change_no_other_feature(name: str) -> None:
    photos = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    torch.manual_seed(0)
    backbone = build_backbone(name, image_side_px=224)
    features = StageFeatures(backbone, stages=1, mirror=False, windows=True)
    plain_NF = frozen_features(StageFeatures(backbone, stages=1, mirror=False), photos)
    found_NF = frozen_features(features, photos)
    width = plain_NF.shape[1]
    assert np.array_equal(found_NF[:, :width], plain_NF)
    with torch.no_grad():
        images = (torch.from_numpy(photos).permute(0, 3, 1, 2).float() - features.mean_C11) / features.std_C11
        map_NCHW = backbone.forward_intermediates(images, indices=1, output_fmt="NCHW", intermediates_only=True)[0].numpy()
    windows_NxWxC = found_NF[:, width:].reshape(2, WINDOWS, map_NCHW.shape[1])
    np.testing.assert_allclose(windows_NxWxC[:, 0], map_NCHW.mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)
    if map_NCHW.shape[2:] == (7, 7):
        expected = [map_NCHW[:, :, top : top + 3, left : left + 3].mean(axis=(2, 3)) for top in (0, 2, 4) for left in (0, 2, 4)]
        np.testing.assert_allclose(windows_NxWxC[:, 1:], np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)
    # With both averaged, the left of a photo is the right of its mirror image.
    averaged = StageFeatures(backbone, stages=1, mirror=True, windows=True)
    one, other = (frozen_features(averaged, some)[:, width:].reshape(windows_NxWxC.shape) for some in (photos, photos[:, :, ::-1].copy()))
    np.testing.assert_allclose(one, other[:, [0, 3, 2, 1, 6, 5, 4, 9, 8, 7]], rtol=1e-3, atol=1e-4)
    assert np.abs(one - other).max() > 1e-3


def test_the_features_repeat_and_change_nothing_in_the_backbone() -> None:
    features = StageFeatures(tiny_backbone().train(), stages=3, mirror=True)
    before = {name: values.clone() for name, values in features.state_dict().items()}
    photos = some_photos(40)
    first_NF = frozen_features(features, photos)
    assert np.array_equal(first_NF, frozen_features(features, photos))
    assert all(torch.equal(values, before[name]) for name, values in features.state_dict().items())
    np.testing.assert_allclose(first_NF[35:], frozen_features(features, photos[35:]), rtol=1e-4, atol=1e-5)


def test_photos_come_by_the_projects_own_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    paths = [f"{number}.jpg" for number in range(3)]
    for path, photo in zip(paths, some_photos(3), strict=True):
        Image.fromarray(photo).resize((120, 90)).save(tmp_path / path)
    pixels = open_pixel_cache(tmp_path, paths, paths, side_px=SIDE)
    features = StageFeatures(tiny_backbone(), stages=1, mirror=False)
    listed = [load_image(tmp_path / path, SIDE) for path in paths]
    assert np.array_equal(frozen_features(features, pixels), frozen_features(features, listed))


def test_more_stages_than_the_backbone_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.feature_stages has the value 6, and ResNet has 5 stages\. Set it to 5 or less"):
        StageFeatures(tiny_backbone(), stages=6, mirror=False)


# ---- the fit

CLEAN, CLEANLINESS, DAMAGED, DAMAGE, WEATHER = QUESTIONS


def some_features(photos: int = 240, *, width: int = 12, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Features, float32, that tell each label apart from noise, in groups of two; a fifth of each label is unknown."""
    random = np.random.default_rng(seed)
    features_NF = random.normal(0, 3, (photos, width)).astype(np.float32) + 5
    told_N = features_NF - 5
    table = pd.DataFrame({
        "group": [f"{place // 2:04}" for place in range(photos)],
        "clean": (told_N[:, 0] + random.normal(0, 1, photos) > 0).astype(float),
        "cleanliness_score": expit(told_N[:, 1] / 3 + random.normal(0, 0.2, photos)),
        "damaged": (told_N[:, 2] > 1).astype(float),
        "damage_score": expit(told_N[:, 3] / 3),
        "weather_condition": told_N[:, 4:8].argmax(axis=1).astype(float),
    })  # fmt: skip
    for asked in QUESTIONS:
        table.loc[random.random(photos) < 0.2, asked.column] = np.nan
    return features_NF, table


def test_the_fit_is_scikit_learns_on_standardised_features_with_a_penalty_chosen_on_other_groups() -> None:
    features_NF, table = some_features()
    probe = fit_probe(features_NF, table, QUESTIONS, seed=1)
    standard_NF = StandardScaler().fit_transform(features_NF.astype(np.float64))
    answers = probe.answer(features_NF, QUESTIONS)
    for asked in QUESTIONS:
        known_N = table[asked.column].notna().to_numpy()
        labels_N, groups_N = table[asked.column][known_N].to_numpy(), table["group"][known_N].to_numpy()
        fitted = probe.questions[asked.name]
        assert (fitted.photos, fitted.groups) == (known_N.sum(), len(set(groups_N)))
        if asked.kind == "score":
            targets_N = np.log(labels_N.clip(0.03, 0.97) / (1 - labels_N.clip(0.03, 0.97)))
            models = {one: Ridge(alpha=one) for one in PENALTIES}
            raw_N = expit(models[fitted.penalty].fit(standard_NF[known_N], targets_N).predict(standard_NF))
            assert answers[asked.name] == pytest.approx(raw_N, abs=1e-5)
            continue
        models = {one: LogisticRegression(C=1 / one, max_iter=2000) for one in PENALTIES}
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=3)
        losses = {
            one: -cross_val_score(model, standard_NF[known_N], labels_N, groups=groups_N, cv=splitter, scoring="neg_log_loss").mean()
            for one, model in models.items()
        }
        # Other folds choose the same penalty, or one that is as good.
        assert losses[fitted.penalty] <= min(losses.values()) + 0.02
        expected = models[fitted.penalty].fit(standard_NF[known_N], labels_N).predict_proba(standard_NF)
        logits = np.stack([answers[column] for column in asked.raw_columns], axis=1)
        found = softmax(logits, axis=1) if asked.kind == "classes" else np.hstack([expit(-logits), expit(logits)])
        assert found == pytest.approx(expected, abs=2e-3)


def test_a_group_that_was_seen_is_not_held_out() -> None:
    """Pairs of equal photos with labels that mean nothing: by photos they would look learnable, by groups they are a coin."""
    random = np.random.default_rng(0)
    features_NF = np.repeat(random.normal(size=(150, 600)), 2, axis=0).astype(np.float32)
    table = pd.DataFrame(
        {"clean": np.repeat(random.integers(0, 2, 150), 2).astype(float), "group": np.repeat(np.arange(150).astype(str), 2)}
    )
    by_group = fit_probe(features_NF, table, [CLEAN], seed=1).questions["clean"].held_out["roc_auc"]
    assert 0.35 < by_group < 0.65
    by_photo = fit_probe(features_NF, table.assign(group=np.arange(300).astype(str)), [CLEAN], seed=1)
    assert by_photo.questions["clean"].held_out["roc_auc"] > 0.75


def test_a_large_set_chooses_its_penalty_on_whole_groups_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    groups_N = np.array([f"{place // 3:04}" for place in range(900)])
    some_N = draw_groups(groups_N, photos=100, seed=1)
    assert 100 <= some_N.sum() <= 102
    assert not set(groups_N[some_N]) & set(groups_N[~some_N])
    assert not np.array_equal(some_N, draw_groups(groups_N, photos=100, seed=2))
    assert draw_groups(groups_N, photos=900, seed=1).all()
    features_NF, table = some_features()
    monkeypatch.setattr("carinspect.model.probe.MOST_PHOTOS", 60)
    fitted = fit_probe(features_NF, table, [CLEAN], seed=1).questions["clean"]
    assert fitted.photos == table["clean"].notna().sum()


def test_a_question_without_two_kinds_of_labels_has_no_probe_and_a_rare_class_does_not_stop_one() -> None:
    features_NF, table = some_features()
    rare = table["weather_condition"].where(table["weather_condition"] != 3)
    rare.iloc[[0, 2]] = 3.0
    table = table.assign(clean=np.nan, damaged=1.0, weather_condition=rare)
    probe = fit_probe(features_NF, table, QUESTIONS, seed=1)
    assert set(probe.questions) == {"cleanliness", "damage", "weather"}
    two = fit_probe(features_NF, table.assign(weather_condition=rare.where(rare.isin([1, 2]))), [WEATHER], seed=1)
    answers = two.answer(features_NF, [CLEAN, WEATHER])
    assert list(answers) == WEATHER.raw_columns
    assert set(np.stack(list(answers.values())).argmax(axis=0)) == {1, 2}


def test_a_saved_probe_holds_heads_that_give_its_answers_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    features_NF, table = some_features()
    for name in ("a.pt", "b.pt"):
        fit_probe(features_NF, table, QUESTIONS, seed=1).save(tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    standard_NF = (torch.from_numpy(features_NF) - saved["mean"]) / saved["scale"]
    head = saved["questions"]["weather"]
    logits = (standard_NF @ head["weight"].T + head["bias"]).numpy()
    answers = fit_probe(features_NF, table, QUESTIONS, seed=1).answer(features_NF, [WEATHER])
    assert logits == pytest.approx(np.stack(list(answers.values()), axis=1))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_a_network_begins_with_the_answers_of_its_probe(tmp_path: Path, name: str) -> None:
    photos, backbone = some_photos(24), tiny_backbone(name)
    features_NF = frozen_features(StageFeatures(backbone, stages=2, mirror=False), photos)
    random = np.random.default_rng(0)
    table = pd.DataFrame({asked.column: random.integers(0, max(2, len(asked.classes)), 24).astype(float) for asked in QUESTIONS})
    table["group"] = [str(row) for row in range(24)]
    probe = fit_probe(features_NF, table, QUESTIONS[1:], seed=1)
    probe.save(tmp_path / "probe.pt")

    recipe = make_recipe()
    network = CarInspectionNetwork(recipe.model.model_copy(update={"feature_stages": 2}), QUESTIONS, backbone=backbone).eval()
    before = network(torch.from_numpy(photos))
    begin_with_probe(network, tmp_path / "probe.pt")
    with torch.inference_mode():
        answers = network(torch.from_numpy(photos))
    for asked in QUESTIONS[1:]:
        expected_NxK = np.stack([probe.answer(features_NF, QUESTIONS)[column] for column in asked.raw_columns], axis=1)
        found_NxK = (answers[asked.name] if asked.has_classes else answers[asked.name].sigmoid()).reshape(24, -1).numpy()
        np.testing.assert_allclose(found_NxK, expected_NxK, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(before[asked.name], answers[asked.name], atol=1e-3)
    assert not answers["clean"].any(), "a question without a probe begins with no opinion"

    fewer = CarInspectionNetwork(recipe.model.model_copy(update={"feature_stages": 1}), QUESTIONS, backbone=backbone)
    with pytest.raises(UserError, match=r"probe\.pt: has \d+ features, and the network \d+\. Make it again"):
        begin_with_probe(fewer, tmp_path / "probe.pt")
    with pytest.raises(UserError, match=r"none\.pt: no such file\. Make it: dvc repro probe"):
        begin_with_probe(network, tmp_path / "none.pt")


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    features_NF, table = some_features()
    features_NF = np.column_stack([features_NF, 1e-6 * features_NF[:, 0]])
    probe = fit_probe(features_NF, table, QUESTIONS, seed=1)
    assert probe.scale_F[-1] == pytest.approx(0.01 * np.median(features_NF.std(axis=0)), rel=0.1)


def test_a_source_that_is_left_out_teaches_nothing_about_its_own_answers() -> None:
    features_NF, table = some_features()
    place = np.arange(len(table))
    table = table.assign(
        image_path=[f"{one:04}.jpg" for one in place],
        source=np.where(place % 4 < 2, "lot", "wash"),
        split=np.where(place % 8 < 4, "train", "test"),
    )
    table.loc[table["source"] == "lot", "weather_condition"] = np.nan
    table.loc[place == 6, "group"] = table["group"][0]  # a photo of wash that is a copy of one of lot
    found = answer_left_out(features_NF, table, QUESTIONS, seed=1).set_index("image_path").loc[table["image_path"]]
    lot = table["source"] == "lot"
    # Labels of lot decide nothing about lot, nor does the copy; those of wash do.
    nonsense = table.assign(clean=table["clean"].where(~lot & (place != 6), 1 - table["clean"]))
    other = answer_left_out(features_NF, nonsense, QUESTIONS, seed=1).set_index("image_path").loc[table["image_path"]]
    assert np.array_equal(found["clean_logit"][lot.to_numpy()], other["clean_logit"][lot.to_numpy()])
    assert not np.array_equal(found["clean_logit"][~lot.to_numpy()], other["clean_logit"][~lot.to_numpy()])
    # Only wash knows the weather, so nothing answers for it there.
    assert found[WEATHER.raw_columns][~lot.to_numpy()].isna().all(axis=None)
    assert found[WEATHER.raw_columns][lot.to_numpy()].notna().all(axis=None)


# ---- network against probe

PARAMS = make_evaluate_params()


def answers_of(table: pd.DataFrame, *, noise: float, seed: int) -> pd.DataFrame:
    """Predictions of a model that answers as `make_table`'s, with `noise` on its logits of `clean`."""
    random = np.random.default_rng(seed)
    return table.assign(clean_logit=table["clean_logit"] + random.normal(0, noise, len(table)))


def probe_table(table: pd.DataFrame) -> pd.DataFrame:
    """What the stage `probe` writes."""
    return table[["image_path", *(column for asked in QUESTIONS for column in asked.raw_columns)]]


def test_the_difference_is_that_of_both_models_and_its_interval_that_of_a_paired_bootstrap_over_groups() -> None:
    table = make_table()
    network, probe = completed(answers_of(table, noise=6, seed=1)), answers_of(table, noise=3, seed=2)
    found = compare_with_probe(network, probe_table(probe).sample(frac=1, random_state=0), QUESTIONS, PARAMS)
    assert list(found) == ["val", "test"]
    clean = found["test"]["clean"]
    rows = network[(network["split"] == "test") & network["clean"].notna()]
    other = probe.loc[rows.index]
    assert clean["network"] == pytest.approx(roc_auc_score(rows["clean"], rows["clean_logit"]))
    assert clean["probe"] == pytest.approx(roc_auc_score(rows["clean"], other["clean_logit"]))
    random = np.random.default_rng(7)
    groups = rows.groupby("group").indices
    differences = []
    for _ in range(500):
        drawn = np.concatenate([groups[name] for name in random.choice(list(groups), len(groups))])
        labels = rows["clean"].to_numpy()[drawn]
        figures = [roc_auc_score(labels, one["clean_logit"].to_numpy()[drawn]) for one in (rows, other)]
        differences.append(figures[0] - figures[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (clean["difference_low"], clean["difference_high"]) == pytest.approx((low, high), abs=0.02)
    assert clean["photos"] == len(rows)
    # The other answers are equal.
    assert {asked: one["difference"] for asked, one in found["test"].items() if asked != "clean"} == dict.fromkeys(
        ("cleanliness", "damaged", "damage", "weather"), 0.0
    )


def test_a_network_worse_than_its_probe_is_an_alarm_and_one_as_good_is_none() -> None:
    table = make_table()
    noisy = answers_of(table, noise=20, seed=1)
    noisy["damage"] = (noisy["damage"] + np.random.default_rng(0).normal(0, 0.3, len(noisy))).clip(0, 1)
    worse = compare_with_probe(completed(noisy), probe_table(table), QUESTIONS, PARAMS)
    assert [alarm.split(":")[0] for alarm in probe_alarms(worse)] == ["clean", "damage"]
    assert "clearly worse on test than a linear probe on frozen features (roc_auc 0." in probe_alarms(worse)[0]
    better = compare_with_probe(completed(table), probe_table(noisy), QUESTIONS, PARAMS)
    assert (better["test"]["clean"]["verdict"], better["test"]["damage"]["verdict"]) == ("better", "better")
    alike = compare_with_probe(completed(table), probe_table(table), QUESTIONS, PARAMS)
    assert probe_alarms(better) == probe_alarms(alike) == []
    assert {found["verdict"] for found in alike["test"].values()} == {"no clear difference"}


def test_too_few_groups_have_no_interval_and_no_alarm() -> None:
    table = make_table()
    few = table[(table["split"] != "test") | table["group"].isin(table["group"][table["split"] == "test"].unique()[:9])]
    found = compare_with_probe(completed(answers_of(few, noise=50, seed=1)), probe_table(few), QUESTIONS, PARAMS)
    assert found["test"]["clean"]["difference_low"] is None
    assert probe_alarms(found) == []


def test_without_a_probe_the_reason_is_said_and_a_question_without_one_is_left_out() -> None:
    table = make_table()
    none = compare_with_probe(completed(table), table[["image_path"]].head(0), QUESTIONS, PARAMS)
    assert list(say_comparison(none)) == [
        "no probe to compare with: model.pretrained is false: a probe on random features would be no baseline."
    ]
    without_weather = probe_table(table).drop(columns=WEATHER.raw_columns)
    found = compare_with_probe(completed(table), without_weather, QUESTIONS, PARAMS)
    assert list(found["test"]) == ["clean", "cleanliness", "damaged", "damage"]
    assert len(list(say_comparison(found))) == 4


def test_the_card_shows_network_and_probe_side_by_side() -> None:
    table = make_table()
    report = evaluate(table)
    facts = card_facts(
        report | {"probe": compare_with_probe(completed(answers_of(table, noise=20, seed=1)), probe_table(table), QUESTIONS, PARAMS)}
    )
    card = draw(*facts).split("## Against a linear probe")[1].split("##")[0]
    found = facts[0].metrics["evaluate"]["probe"]["test"]["clean"]
    assert f"| clean | ROC AUC | {found['network']:.3f} | {found['probe']:.3f} | {found['difference']:.3f} |" in card
    assert card.count("**worse**") == 1
    missing = draw(*card_facts(report | {"probe": {"missing": "no weights"}})).split("## Against a linear probe")[1].split("##")[0]
    assert missing.strip() == "There is no probe: no weights."


# ---- network and probe together


def fitted_probe(folder: Path, backbone: torch.nn.Module, photos: np.ndarray) -> Path:
    """models/probe.pt of a probe of every question but the first, fitted on the photos as they are."""
    features_NF = frozen_features(StageFeatures(backbone, stages=2, mirror=False), photos)
    random = np.random.default_rng(0)
    table = pd.DataFrame({asked.column: random.integers(0, max(2, len(asked.classes)), len(photos)).astype(float) for asked in QUESTIONS})
    fit_probe(features_NF, table.assign(group=[str(row) for row in range(len(photos))]), QUESTIONS[1:], seed=1).save(folder / "probe.pt")
    return folder / "probe.pt"


def logits_of_network(network: CarInspectionNetwork, photos: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: values.numpy() for name, values in network(torch.from_numpy(photos)).items()}


@pytest.mark.parametrize("frozen", [True, False])
def test_an_ensembles_logits_are_the_weighted_mean_of_networks_and_probes(tmp_path: Path, frozen: bool) -> None:
    photos = np.ascontiguousarray(some_photos(24)[:, :32, :32])
    recipe, backbone = make_recipe(), tiny_backbone()
    path = fitted_probe(tmp_path, backbone, photos)
    model = recipe.model.model_copy(update={"feature_stages": 2, "pretrained": "sha256:0"})
    original = CarInspectionNetwork(model, QUESTIONS, backbone=tiny_backbone()).eval()
    begin_with_probe(original, path)
    of_probe = logits_of_network(original, photos)

    network = CarInspectionNetwork(model, QUESTIONS, backbone=backbone).eval()
    begin_with_probe(network, path)
    with torch.no_grad():
        for parameter in (network.shared if frozen else network).parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for head in network.heads.values():
            head.weight.add_(torch.randn_like(head.weight) * 0.1)
    alone = logits_of_network(network, photos)
    priors = {
        "weather": {"natural": [0.4, 0.3, 0.2, 0.1], "trained": [0.25] * 4},
        "damaged": {"natural": [0.2, 0.8], "trained": [0.5, 0.5]},
    }
    offsets = logit_offsets(QUESTIONS, priors)
    shares = {"damaged": 0.3, "damage": 0.0, "weather": 0.6}
    lineage = {"recipe": {"train": {"backbone_lr_factor": 0.0 if frozen else 1.0}}, "priors": priors}
    checkpoint = Checkpoint(QUESTIONS, model, 32, network.state_dict(), lineage)
    weights = None if frozen else tiny_backbone().state_dict()
    fit = EnsembleFit(torch.load(path, weights_only=True), shares, offsets, backbone=weights)
    save_ensemble(fit, tmp_path / "ensemble.pt")
    loaded = load_ensemble(tmp_path / "ensemble.pt")
    assert loaded is not None
    joined = logits_of_network(join(network, checkpoint, loaded), photos)
    assert (network.companion is None) == frozen
    for asked in QUESTIONS:
        share = shares.get(asked.name, 1.0)
        offset_K = np.array(offsets.get(asked.name, [0.0] * asked.head_width))
        offset = offset_K if asked.head_width > 1 else (offset_K[1] - offset_K[0] if asked.kind == "binary" else 0.0)
        # After the offset, which the calibration adds, each has its own right prior.
        expected = share * (alone[asked.name] + offset) + (1 - share) * of_probe[asked.name] - offset
        if share == 1.0:
            expected = alone[asked.name]
        np.testing.assert_allclose(joined[asked.name], expected, rtol=1e-3, atol=2e-3)
    assert not np.allclose(joined["weather"], alone["weather"], atol=0.01)

    network.eval()
    calibration, gate = make_calibration(mirror=True), make_gate(network)
    answering = AnsweringNetwork(network, calibration, gate)
    exported = to_onnx(answering, image_side_px=32)
    trained = Trained(checkpoint, calibration, make_thresholds(), gate, fit, {"evaluate": {"test": {}}})
    describe_model(exported, trained)
    bundle = open_bundle(seal(exported.SerializeToString()))
    refuse_disparity(compare(torch_answers(answering, photos), bundle, photos), tolerance=1e-4)
    again = torch_answers(AnsweringNetwork(trained.build(), calibration, gate), photos)
    assert all(np.allclose(values, bundle.predict(photos)[name], atol=1e-3) for name, values in again.items())


def test_the_share_is_chosen_on_val_by_who_is_right(tmp_path: Path) -> None:
    table = completed(make_table(), QUESTIONS).drop(columns=["p_clean"])
    path = fitted_probe(tmp_path, tiny_backbone(), some_photos(24))
    model = make_recipe().model.model_copy(update={"feature_stages": 2, "pretrained": "sha256:0"})
    checkpoint = Checkpoint(QUESTIONS, model, 32, {}, {"priors": {}, "recipe": {"train": {"backbone_lr_factor": 0}}})
    random = np.random.default_rng(0)
    knows, guesses = (table["clean"].fillna(0.5) - 0.5) * 6 + random.normal(size=len(table)), random.normal(size=len(table))
    for network, probe, expected in ((knows, guesses, {0.8, 0.9, 1.0}), (guesses, knows, {0.0, 0.1, 0.2})):
        baseline = table[["image_path"]].assign(clean_logit=probe)
        fit = fit_ensemble(checkpoint, table.assign(clean_logit=network), baseline, probe=path, pretrained=False)
        assert set(fit.shares) == {"clean"}
        assert fit.shares["clean"] in expected
        assert fit.backbone is None


def test_an_ensemble_without_pretrained_weights_is_refused_before_the_training() -> None:
    params = load_params(ROOT / "params.yaml")
    params["model"] |= {"ensemble": "probe"}
    resolve_recipe(params, pretrained="sha256:0", resume="none")
    with pytest.raises(UserError, match=r"model\.ensemble is 'probe', and without pretrained weights there is no probe"):
        resolve_recipe(params, pretrained="none", resume="none")


# ---- the stages


def prepare_project(folder: Path, *, pretrained: bool) -> None:
    """A workspace with drawn photos, a recipe whose backbone has a weights file (of random weights), and an untrained checkpoint."""
    dataset = make_dataset(folder)
    (folder / "data").mkdir()
    dataset.rename(folder / "data/car_inspection_dataset.csv")
    recipe = make_recipe()
    weights = folder / "weights.safetensors"
    save_file(tiny_backbone().state_dict(), weights)
    begins = {"pretrained": f"sha256:{sha256_of(weights)}", "feature_stages": 2}
    model = recipe.model.model_copy(update=begins if pretrained else {})
    recipe = recipe.model_copy(update={"model": model})
    write_recipe(recipe, folder / "data/recipe.yaml")
    write_parts(recipe, folder)
    without_outlines(folder)
    params = load_params(ROOT / "params.yaml")
    params["data"] = {"root": "root", "sources": "none"}
    params["model"] |= {"pretrained": str(weights) if pretrained else False}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    lineage = {"recipe": recipe.model_dump(mode="json"), "priors": {}}
    network = CarInspectionNetwork(model, QUESTIONS, backbone=tiny_backbone())
    save_checkpoint(Checkpoint(recipe.questions, model, 32, network.state_dict(), lineage), folder / "models/best.pt")


def run_stages(folder: Path, *names: str) -> None:
    for name in names:
        runpy.run_path(str(ROOT / "stages" / f"{name}.py"), run_name="__main__")


def test_the_probe_says_what_it_reaches_and_the_evaluation_compares_the_network_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_project(tmp_path, pretrained=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run_stages(tmp_path, "probe")
    said = capsys.readouterr().out
    assert "a linear probe on frozen features reaches, on groups of train that it has not seen: clean roc_auc " in said
    answers = pd.read_csv("data/probe.csv")
    table = pd.read_csv("data/car_inspection_dataset.csv")
    assert set(answers["image_path"]) == set(table["image_path"][table["split"] != "train"])
    assert set(json.loads(Path("metrics/probe.json").read_text())) == {"features", *(asked.name for asked in QUESTIONS)}

    run_stages(tmp_path, "evaluate")
    said = capsys.readouterr().out
    report = json.loads(Path("metrics/evaluate.json").read_text())
    # The labels show in the photos, and random features see colours; the network is untrained.
    assert report["probe"]["test"]["clean"]["probe"] > report["probe"]["test"]["clean"]["network"]
    assert "clean: roc_auc 0." in said
    assert {alarm for alarm in report["alarms"] if "linear probe" in alarm} == set(probe_alarms(report["probe"]))

    assert report["ensemble"] is None
    alone = pd.read_csv("data/predictions.csv")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["model"]["ensemble"] = "probe"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run_stages(tmp_path, "evaluate")
    both = json.loads(Path("metrics/evaluate.json").read_text())
    assert both["ensemble"]["clean"] < 0.5, "the probe knows more than an untrained network"
    assert both["test"]["clean"]["roc_auc"] > report["test"]["clean"]["roc_auc"]
    assert not np.allclose(alone["clean_logit"], pd.read_csv("data/predictions.csv")["clean_logit"])

    Path("weights.safetensors").write_bytes(b"another")
    with pytest.raises(SystemExit):
        run_stages(tmp_path, "probe")
    assert "has changed since the recipe was made" in capsys.readouterr().err


def test_without_pretrained_weights_there_is_no_probe_and_every_stage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_project(tmp_path, pretrained=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run_stages(tmp_path, "probe", "evaluate")
    said = capsys.readouterr().out
    assert "no probe: model.pretrained is false" in said
    assert "no probe to compare with: model.pretrained is false" in said
    assert Path("data/probe.csv").read_text() == "image_path\n"
    report = json.loads(Path("metrics/evaluate.json").read_text())
    assert report["probe"] == {"missing": "model.pretrained is false: a probe on random features would be no baseline"}
    assert not [alarm for alarm in report["alarms"] if "probe" in alarm]


def resolve(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: dict) -> None:
    monkeypatch.chdir(folder)
    params = load_params(ROOT / "params.yaml")
    params = {name: section | changes.get(name, {}) if isinstance(section, dict) else section for name, section in params.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run_stages(folder, "resolve_recipe")


def test_the_first_stage_names_a_question_without_a_label_before_it_reads_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"root": "photos", "sources": "photos/sources.yaml"}
    # What is still to be pulled says nothing, and the missing weights are named.
    with pytest.raises(SystemExit):
        resolve(tmp_path, monkeypatch, data=own, model={"pretrained": "none.safetensors"})
    assert "model.pretrained: no such file" in capsys.readouterr().err
    (tmp_path / "photos/wash/clean").mkdir(parents=True)
    (tmp_path / "photos/wash/clean/1.jpg").touch()
    source = {"name": "wash", "format": "folders", "categories": {"clean": {"clean": 1}}}
    (tmp_path / "photos/sources.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    with pytest.raises(SystemExit):
        resolve(tmp_path, monkeypatch, data=own, model={"pretrained": "none.safetensors"})
    assert "no source has a label for 'cleanliness' or 'damage' or 'damaged' or 'weather'" in capsys.readouterr().err


def test_ones_own_photos_with_the_demos_recipe_are_warned_of_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"root": "photos", "sources": "photos/sources.yaml"}
    resolve(tmp_path, monkeypatch, data=own)
    said = capsys.readouterr().err
    assert said.startswith("warning: hardware 'demo' trains test_resnet at 96 px without pretrained weights. This is the demo's recipe")
    assert said.endswith("Set hardware: auto.\n")
    resolve(tmp_path, monkeypatch, data=own, model={"backbone": "resnet18"})
    said = capsys.readouterr().err
    assert "trains resnet18 at 96 px without pretrained weights. Its weights are random: " in said
    assert "Set model.pretrained to true" in said
    weights = tmp_path / "weights.safetensors"
    save_file(tiny_backbone().state_dict(), weights)
    resolve(tmp_path, monkeypatch, data=own, model={"pretrained": str(weights), "ensemble": "probe"})
    resolve(tmp_path, monkeypatch)
    assert "warning" not in capsys.readouterr().err
