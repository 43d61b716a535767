"""What is learnt and how: class balance and the prior that it shifts, losses and their weights, optimiser, schedule, backbones."""

import json
import runpy
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch import distributed, multiprocessing
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.core.questions import Question, by_name
from carinspect.evaluation.temperature import add_probabilities, fit_calibration
from carinspect.export.graph import AnsweringNetwork
from carinspect.model.backbones import build_backbone
from carinspect.model.calibration import logit_offsets, read_calibration
from carinspect.model.checkpoint import Checkpoint, build_network, save_checkpoint
from carinspect.model.gate import load_gate
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.balance import class_weights, draw_epoch, expected_draws, training_priors
from carinspect.training.batches import MicroBatchLoader, Photos, Step, plan_epoch
from carinspect.training.config import Recipe, Runtime, TrainParams, TrainRecipe
from carinspect.training.losses import Objective, QuestionWeights, binary_cross_entropy, focal_loss
from carinspect.training.micro_batch import MicroBatch
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.optimiser import build_optimiser, count_plateaus, learning_rate, parameter_groups, set_training_mode
from carinspect.training.recipe import resolve_recipe
from carinspect.training.runtime import settle_runtime
from carinspect.training.step import Share, Trainer, train_step
from carinspect.training.validation import undo_prior
from conftest import QUESTIONS, make_recipe, without_outlines
from test_engine import LINE, ROOT, final_files, make_workspace, run_training, start_training
from test_training import shipped_params

ASKED = by_name(QUESTIONS)
CPU = torch.device("cpu")


def recipe_with(
    *,
    model: dict[str, Any] | None = None,
    questions: Sequence[Question] = QUESTIONS,
    clean_loss: str = "cross_entropy",
    loss_weights: dict[str, float] | None = None,
    **train: Any,
) -> Recipe:
    recipe = make_recipe(questions)
    losses = recipe.train.model_dump()["losses"]
    for name, weight in (loss_weights or {}).items():
        losses[name]["weight"] = weight
    losses["clean"]["loss"] = clean_loss
    parsed = parse_section("train", TrainRecipe, recipe.train.model_dump() | {"losses": losses} | train)
    return Recipe(questions=tuple(questions), model=recipe.model.model_copy(update=model or {}), train=parsed)


def skewed_labels(photos: int = 300, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """A tenth dirty, a fifth unknown; snow goes with dirt."""
    random = np.random.default_rng(seed)
    clean = (random.random(photos) > 0.1).astype(np.float32)
    weather = np.where(clean == 0, random.choice([0, 3], photos), random.choice([0, 1, 2, 3], photos, p=[0.6, 0.2, 0.15, 0.05]))
    clean[random.random(photos) < 0.2] = np.nan
    scores = torch.tensor(random.random(photos), dtype=torch.float32)
    return {
        "clean": torch.tensor(clean), "cleanliness_score": scores, "damaged": torch.ones(photos), "damage_score": scores,
        "weather_condition": torch.tensor(weather, dtype=torch.float32),
    }  # fmt: skip


# ---- params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampler": "weighted", "class_weights": "auto"},
            r"sampler 'weighted' and class_weights 'auto' both balance.*Set train\.sampler: none, or train\.class_weights: none",
        ),
        (
            {"sampler": "oversample", "focal_alpha": [0.7, 0.3]},
            r"both balance.*Set train\.sampler: none, or train\.focal_alpha: null",
        ),
        (
            {"focal_alpha": [0.7, 0.3], "class_weights": {"clean": [1.0, 2.0]}},
            r"both give weights to classes.*Set train\.focal_alpha: null",
        ),
        ({"focal_alpha": [0.7, 0.3]}, r"belongs to a question with loss: focal, and none has it"),
        ({"class_weights": {"clean": [1.0, 2.0, 3.0]}}, r"train\.class_weights\.clean has the value \[1\.0, 2\.0, 3\.0\]\. Give 2"),
        ({"class_weights": {"wether": [1, 1, 1, 1]}}, r"'wether' has no classes\. Did you mean 'weather'"),
        ({"class_weights": {"clean": [1.0, float("nan")]}}, r"Give 2 numbers above 0"),
        ({"class_weights": "balanced"}, r"has the value 'balanced'\. Give none, auto, or lists"),
        ({"clean_loss": "focal", "focal_alpha": [0.5, 0.0]}, r"Give 2 numbers above 0"),
        ({"sampler": "weighted", "sampler_question": "claen"}, r"'claen' is no binary question\. Did you mean 'clean'"),
        ({"sampler": "weighted", "sampler_question": "weather"}, r"'weather' is no binary question"),
    ],
)
def test_two_knobs_that_do_the_same_and_wrong_class_weights_name_the_fix(changes: dict[str, Any], message: str) -> None:
    params = shipped_params()
    params["questions"]["clean"]["loss"] = changes.pop("clean_loss", "cross_entropy")
    with pytest.raises(UserError, match=message):
        resolve_recipe(params | {"train": params["train"] | changes}, pretrained="none", resume="none")


def test_a_sampler_without_its_question_or_its_classes_is_refused() -> None:
    params = shipped_params(train__sampler="weighted")
    del params["questions"]["clean"]
    with pytest.raises(UserError, match=r"train\.sampler_question 'clean' is no binary question.*set train\.sampler: none"):
        resolve_recipe(params, pretrained="none", resume="none")
    labels = skewed_labels() | {"clean": torch.ones(300)}
    with pytest.raises(UserError, match=r"train\.sampler is 'weighted', and the 300 photos.*all have the same\. Set train\.sampler: none"):
        training_priors(recipe_with(sampler="weighted"), labels)


def test_precision_auto_is_the_profiles_and_never_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for profile, precision in (("auto", "fp32"), ("rtx4090_x2", "bf16"), ("rtx3090_x2", "fp16")):
        params = shipped_params(hardware=profile, train__precision="auto")
        assert resolve_recipe(params, pretrained="sha256:0", resume="none").train.precision == precision
    params["profiles"]["rtx3090_x2"]["recipe"]["precision"] = "auto"
    with pytest.raises(UserError, match=r"profiles\.rtx3090_x2\.recipe\.precision has the value 'auto'"):
        resolve_recipe(params, pretrained="none", resume="none")


def test_bfloat16_on_a_card_without_it_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    runtime = Runtime(device="cuda", processes=1, workers=0, compile=False, pin_memory=True, micro_batch="norm", checkpoint_steps=0)
    for supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        if supported:
            assert settle_runtime(runtime, recipe_with(precision="bf16").train, nodes=1).device == "cuda"
        else:
            with pytest.raises(UserError, match=r"'bf16', which Some Card does not have\. Set it to fp16 or fp32"):
                settle_runtime(runtime, recipe_with(precision="bf16").train, nodes=1)


def test_the_shipped_params_shift_nothing() -> None:
    train = parse_section("train", TrainParams, shipped_params()["train"])
    assert (train.sampler, train.class_weights, train.loss_weighting, train.label_smoothing) == ("none", "none", "fixed", 0.0)
    assert (train.optimiser, train.schedule, train.layer_decay, train.freeze_backbone_epochs) == ("adamw", "cosine", 1.0, 0)


# ---- sampler


@pytest.mark.parametrize("sampler", ["weighted", "oversample"])
def test_an_epochs_draws_are_a_function_of_seed_and_epoch(sampler: str) -> None:
    clean = skewed_labels()["clean"]
    orders = [
        draw_epoch(recipe_with(sampler=sampler, seed=seed), balanced=clean, epoch=epoch) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    np.random.seed(7)
    assert (orders[0] == orders[1]).all()
    assert not any((orders[0] == other).all() for other in orders[2:])
    assert len({len(order) for order in orders}) == 1


@pytest.mark.parametrize("sampler", ["none", "weighted", "oversample"])
def test_photos_come_up_as_often_as_expected_and_the_unlabelled_at_their_plain_rate(sampler: str) -> None:
    labels = skewed_labels()
    recipe = recipe_with(sampler=sampler, oversample_ratio=0.6)
    counts = sum(np.bincount(draw_epoch(recipe, balanced=labels["clean"], epoch=epoch), minlength=300) for epoch in range(400)) / 400
    expected = expected_draws(recipe, balanced=labels["clean"])
    # Four standard errors of a Poisson count.
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected / 400)).all()
    clean = labels["clean"].numpy()
    assert counts[np.isnan(clean)].mean() == pytest.approx(1.0, abs=0.03)
    share = counts[clean == 0].sum() / counts[clean == 1].sum()
    plain = (clean == 0).sum() / (clean == 1).sum()
    assert share == pytest.approx({"none": plain, "weighted": 1.0, "oversample": 0.6}[sampler], rel=0.03)


def test_oversampling_is_exact_and_fair_within_the_rarer_class() -> None:
    clean = torch.tensor([0.0] * 7 + [1.0] * 40 + [float("nan")] * 5)
    times = Counter(draw_epoch(recipe_with(sampler="oversample", oversample_ratio=0.5), balanced=clean, epoch=3).tolist())
    assert sum(times[position] for position in range(7)) == 20
    assert {times[position] for position in range(7)} == {2, 3}
    assert all(times[position] == 1 for position in range(7, 52))
    # A class that is common enough already is left alone.
    order = draw_epoch(recipe_with(sampler="oversample", oversample_ratio=0.1), balanced=clean, epoch=0)
    assert sorted(order) == list(range(52))


@pytest.mark.parametrize("world_size", [2, 3])
def test_under_a_sampler_ranks_share_the_plan_and_workers_change_nothing(world_size: int) -> None:
    labels = skewed_labels()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    photos = Photos(image_paths=[f"{index}.jpg" for index in range(300)], pixels=pixels, labels=labels)
    recipe = recipe_with(sampler="weighted")
    plan = plan_epoch(recipe, labels, epoch=0)

    def load(rank: int, ranks: int, workers: int) -> list[torch.Tensor]:
        machine = replace(LINE, processes=ranks, workers=workers)
        draws = [draws for step in plan for draws in step.draws[rank::ranks]]
        return [images.clone() for images in MicroBatchLoader(photos, recipe, machine).epoch(0, draws)]

    alone = load(0, 1, 0)
    shared = [iter(load(rank, world_size, workers=rank)) for rank in range(world_size)]
    parts = [part for step in plan for part in range(len(step.micro_batches))]
    assert all(torch.equal(images, next(shared[part % world_size])) for images, part in zip(alone, parts, strict=True))


def test_a_photo_that_comes_up_again_in_an_epoch_looks_different() -> None:
    clean = torch.tensor([0.0] + [1.0] * 31)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    labels = {"clean": clean, "weather_condition": torch.full((32,), float("nan"))}
    photos = Photos(image_paths=[f"{index}.jpg" for index in range(32)], pixels=pixels, labels=labels)
    recipe = recipe_with(sampler="oversample")
    plan = plan_epoch(recipe, labels, epoch=0)
    draws = [draws for step in plan for draws in step.draws]
    images = torch.cat(list(MicroBatchLoader(photos, recipe, LINE).epoch(0, draws)))
    positions, turns = (np.concatenate(part) for part in zip(*draws, strict=True))
    again = images[positions == 0]
    assert sorted(turns[positions == 0])[-1] > 10
    assert len({image.numpy().tobytes() for image in again}) == len(again)


# ---- class weights and the prior


def test_automatic_class_weights_are_scikit_learns() -> None:
    labels = skewed_labels()
    weights = class_weights(recipe_with(class_weights="auto"), labels)
    for task, column in (("clean", "clean"), ("weather", "weather_condition")):
        truth = labels[column][~labels[column].isnan()].numpy()
        assert weights[task].tolist() == pytest.approx(compute_class_weight("balanced", classes=np.unique(truth), y=truth), rel=1e-6)
    without_rain = labels | {"weather_condition": torch.where(labels["weather_condition"] == 1, torch.nan, labels["weather_condition"])}
    assert torch.isfinite(class_weights(recipe_with(class_weights="auto"), without_rain)["weather"]).all()


def test_the_recorded_prior_is_what_training_is_shown() -> None:
    labels = skewed_labels()
    for changes in ({"sampler": "weighted"}, {"sampler": "oversample", "oversample_ratio": 0.5}):
        recipe = recipe_with(**changes)
        drawn = np.concatenate([draw_epoch(recipe, balanced=labels["clean"], epoch=epoch) for epoch in range(300)])
        priors = training_priors(recipe, labels)
        for task, column in (("clean", "clean"), ("weather", "weather_condition")):
            shown = labels[column].numpy()[drawn]
            shares = np.bincount(shown[~np.isnan(shown)].astype(int)) / (~np.isnan(shown)).sum()
            assert priors[task]["trained"] == pytest.approx(shares, abs=0.01)
            # Dirty photos are snowy ones: the sampler of one question shifts the other's prior too.
            assert max(np.abs(np.subtract(priors[task]["natural"], shares))) > 0.05
    alone = [ASKED["clean"]]
    weighed = training_priors(recipe_with(questions=alone, class_weights={"clean": [3.0, 1.0]}), labels)
    dirty, clean = weighed["clean"]["natural"]
    assert weighed == {
        "clean": {"natural": [dirty, clean], "trained": pytest.approx([3 * dirty / (3 * dirty + clean), clean / (3 * dirty + clean)])}
    }
    alpha = training_priors(recipe_with(questions=alone, clean_loss="focal", focal_alpha=[0.75, 0.25]), labels)
    assert alpha["clean"]["trained"] == pytest.approx(weighed["clean"]["trained"])


def test_without_balancing_the_offsets_are_exactly_zero() -> None:
    priors = training_priors(make_recipe(), skewed_labels())
    assert logit_offsets(QUESTIONS, priors) == {"clean": [0.0, 0.0], "damaged": [0.0, 0.0], "weather": [0.0] * 4}
    assert logit_offsets(QUESTIONS, {}) == logit_offsets(QUESTIONS, priors)


def test_a_class_never_seen_keeps_its_logit() -> None:
    offsets = logit_offsets(QUESTIONS, {"weather": {"natural": [0.8, 0.2, 0.0, 0.0], "trained": [0.5, 0.5, 0.0, 0.0]}})
    assert offsets["weather"] == pytest.approx([np.log(1.6), np.log(0.4), 0.0, 0.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "weighted"}, {"sampler": "oversample", "oversample_ratio": 0.7}, {"class_weights": "auto"},
        {"class_weights": {"clean": [5.0, 0.5]}},
    ],
)  # fmt: skip
def test_undoing_the_prior_recovers_the_true_probabilities(changes: dict[str, Any]) -> None:
    """Monte-Carlo: labels drawn from a known logistic model, which scikit-learn then fits as our recipe would weigh or draw the photos."""
    random = np.random.default_rng(3)
    features = random.normal(size=(40_000, 2))
    truth = expit(features @ [1.5, -1.0] + 2.5)
    clean = torch.tensor((random.random(40_000) < truth).astype(np.float32))
    labels = {"clean": clean}
    recipe = recipe_with(questions=[ASKED["clean"]], **changes)
    order = draw_epoch(recipe, balanced=clean, epoch=0)
    weights = class_weights(recipe, labels).get("clean", torch.ones(2))
    shown = clean[order].long()
    fit = LogisticRegression(C=np.inf).fit(features[order], shown.numpy(), sample_weight=weights[shown].numpy())
    logits = fit.decision_function(features)

    of_dirty, of_clean = logit_offsets(recipe.questions, training_priors(recipe, labels))["clean"]
    recovered = logits + of_clean - of_dirty
    assert np.abs(expit(recovered) - truth).mean() < 0.01
    assert expit(recovered).mean() == pytest.approx(truth.mean(), abs=0.005)
    # Left as it is, the balanced model is far off: the check can fail.
    assert np.abs(expit(logits) - truth).mean() > 0.1


def test_calibration_undoes_the_prior_before_it_fits_a_temperature() -> None:
    random = np.random.default_rng(5)
    true_logit = random.normal(2.0, 2.0, 8000)
    labels = (random.random(8000) < expit(true_logit)).astype(float)
    priors = {"clean": {"natural": [0.2, 0.8], "trained": [0.5, 0.5]}}
    shift = logit(0.5) - logit(0.8)  # what a balanced model says
    columns = {f"weather_logit_{name}": 0.0 for name in ("clear", "rain", "fog", "snow")}
    table = pd.DataFrame({
        "image_path": [f"{index:05}" for index in range(8000)], "split": "val", "clean": labels, "clean_logit": 2.0 * true_logit + shift,
        "weather_condition": np.nan, **columns,
    })  # fmt: skip
    # The prior of training shifts the logits of the trained scale; its temperature is of the same scale.
    asked = [ASKED["clean"], ASKED["weather"]]
    calibration = fit_calibration(table, asked, priors=priors)
    fitted = calibration.questions["clean"]
    assert fitted.logit_offset == pytest.approx([np.log(0.4), np.log(1.6)])
    assert fitted.temperature == pytest.approx(2.0, rel=0.07)
    error = np.abs(add_probabilities(table, asked, calibration)["p_clean"] - expit(true_logit)).mean()
    bare = np.abs(add_probabilities(table, asked, fit_calibration(table, asked, priors={}))["p_clean"] - expit(true_logit)).mean()
    assert error < 0.01 < 0.03 < bare
    assert fitted.nll_after < fitted.nll_before


def test_validation_looks_at_balanced_logits_as_calibration_does() -> None:
    priors = {"clean": {"natural": [0.1, 0.9], "trained": [0.5, 0.5]}, "weather": {"natural": [0.7, 0.1, 0.1, 0.1], "trained": [0.25] * 4}}
    logits = {"clean": torch.zeros(2), "cleanliness": torch.zeros(2), "weather": torch.zeros(2, 4)}
    natural = undo_prior([ASKED[name] for name in logits], logits, priors)
    assert torch.sigmoid(natural["clean"]).tolist() == pytest.approx([0.9, 0.9])
    assert torch.softmax(natural["weather"], dim=1)[0].tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert natural["cleanliness"] is logits["cleanliness"]


# ---- losses


@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.5])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_binary_cross_entropy_is_torchs_of_two_logits(weights: torch.Tensor | None, smoothing: float) -> None:
    logits, target = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3 == 0
    two = torch.stack([torch.zeros(50), logits], dim=1)
    expected = torch.nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=smoothing)(two, target.long())
    found = binary_cross_entropy(logits, target.float(), smoothing=smoothing, weights=weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_weighted_mean_is_torchs_for_clean_and_weather(smoothing: float) -> None:
    labels = skewed_labels(60)
    random = torch.Generator().manual_seed(1)
    logits = {"clean": torch.randn(60, generator=random), "weather": torch.randn(60, 4, generator=random)}
    lists = {"clean": [4.0, 0.6], "weather": [0.3, 1.0, 2.0, 5.0]}
    asked = [ASKED["clean"], ASKED["weather"]]
    objective = Objective(recipe_with(questions=asked, class_weights=lists, label_smoothing=smoothing), labels, device=CPU)
    means = dict(zip(objective.names, objective.mean_losses(logits, labels, objective.divisors(labels)).tolist(), strict=True))
    known = ~labels["clean"].isnan()
    two = torch.stack([torch.zeros(60), logits["clean"]], dim=1)
    for name, scores, truth in (
        ("clean", two[known], labels["clean"][known]),
        ("weather", logits["weather"], labels["weather_condition"]),
    ):
        expected = torch.nn.CrossEntropyLoss(torch.tensor(lists[name]), label_smoothing=smoothing)(scores, truth.long())
        assert means[name] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_the_focal_loss_is_its_formula_and_torchvisions(gamma: float) -> None:
    logits, target = torch.randn(40, generator=torch.Generator().manual_seed(2)), (torch.arange(40) % 4 == 0).float()
    p_t = np.where(target == 1, expit(logits.numpy()), expit(-logits.numpy()))
    alpha_t = np.where(target == 1, 0.2, 0.9)
    found = focal_loss(logits, target, gamma=gamma, weights=torch.tensor([0.9, 0.2]))
    assert found.item() == pytest.approx(-(alpha_t * (1 - p_t) ** gamma * np.log(p_t)).sum(), rel=1e-4)
    theirs = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=gamma, reduction="sum")
    assert focal_loss(logits, target, gamma=gamma, weights=torch.tensor([0.75, 0.25])).item() == pytest.approx(theirs.item(), rel=1e-5)
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="sum").item()
    assert (focal_loss(logits, target, gamma=gamma, weights=None).item() == pytest.approx(plain, rel=1e-5)) == (gamma == 0)


# ---- one step


@pytest.fixture
def one_process(tmp_path: Path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def drawn_photos(count: int = 40, side_px: int = 32) -> Photos:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side_px, side_px, 3), dtype=np.uint8)
    return Photos(image_paths=[f"{index}.jpg" for index in range(count)], pixels=pixels, labels=skewed_labels(count, seed=2))


def build(recipe: Recipe, side_px: int = 32) -> CarInspectionNetwork:
    torch.manual_seed(0)
    backbone = build_backbone(recipe.model.backbone, image_side_px=side_px)
    return CarInspectionNetwork(recipe.model, recipe.questions, backbone=backbone).train()


def take_step(
    recipe: Recipe, photos: Photos, step: Step, *, rank: int = 0, world_size: int = 1, scale: float = 1.0, side_px: int = 32
) -> tuple[CarInspectionNetwork, Objective, dict[str, float]]:
    network = build(recipe, side_px)
    trainer = make_trainer(network, recipe, photos, scale=scale)
    losses = train_step(take_share(trainer, photos, step, rank=rank, world_size=world_size))
    assert losses is not None
    return network, trainer.objective, losses


def make_trainer(network: CarInspectionNetwork, recipe: Recipe, photos: Photos, *, scale: float = 1.0) -> Trainer:
    objective = Objective(recipe, photos.labels, device=CPU)
    return Trainer(
        network=network,
        optimiser=build_optimiser(network, objective.weights, recipe.train),
        scaler=torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1.0),
        objective=objective,
        recipe=recipe,
        statistics=NormStatistics(network),
        micro_batch=MicroBatch(1000, on_change=print),
    )


def take_share(trainer: Trainer, photos: Photos, step: Step, *, number: int = 0, rank: int = 0, world_size: int = 1) -> Share:
    parts = list(range(rank, len(step.micro_batches), world_size))
    images = iter([torch.from_numpy(photos.pixels[step.micro_batches[part]]) for part in parts])
    return Share(trainer, photos=photos, step=step, number=number, own_parts=parts, images=images)


def largest_difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.float() - b.float()).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize(
    "changes", [{"class_weights": "auto"}, {"clean_loss": "focal", "focal_alpha": [0.9, 0.1]}, {"label_smoothing": 0.1}]
)
def test_accumulation_is_true_for_weighted_losses(changes: dict[str, Any], one_process: None) -> None:
    """The same photos at once or in five parts: without batch norm and dropout, the same step within float noise."""
    # SGD, since AdamW's first step is the sign of the gradient, whatever its length.
    recipe = recipe_with(
        model={"backbone": "test_convnext", "dropout": 0.0},
        optimiser="sgd",
        lr=1.0,
        grad_clip_norm=1e9,
        loss_weighting="uncertainty",
        **changes,
    )
    photos = drawn_photos()
    whole, whole_objective, losses = take_step(recipe, photos, Step([np.arange(40)]))
    cut = np.array_split(np.arange(40), 5)
    parts, parts_objective, part_losses = take_step(recipe, photos, Step(cut))
    assert part_losses == pytest.approx(losses, rel=1e-4)
    assert largest_difference(whole, parts) < 5e-5
    assert largest_difference(whole_objective.weights, parts_objective.weights) < 1e-5
    assert largest_difference(whole, build(recipe)) > 1e-2
    # The usual mistake, a mean over the parts' own means, is another number.
    assert np.mean([take_step(recipe, photos, Step([part]))[2]["clean"] for part in cut]) != pytest.approx(losses["clean"], rel=1e-3)


def test_learnt_loss_weights_move_with_the_optimiser_and_begin_at_the_fixed_ones(one_process: None) -> None:
    given = {"clean": 1.0, "cleanliness": 0.5, "damaged": 1.0, "damage": 2.0, "weather": 1.0}
    recipe = recipe_with(loss_weighting="uncertainty", loss_weights=given)
    begin = QuestionWeights(recipe).named_values()
    assert begin == pytest.approx({f"loss_weight_{name}": weight for name, weight in given.items()})
    _, objective, _ = take_step(recipe, drawn_photos(), Step([np.arange(40)]))
    moved = objective.weights.named_values()
    assert all(moved[name] != begin[name] for name in begin)
    assert QuestionWeights(make_recipe()).named_values() == {}
    # Twin: weights that the optimiser does not know stay where they are.
    weights = QuestionWeights(recipe)
    weights.set_gradient(torch.ones(5), torch.ones(5, dtype=torch.bool))
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()
    assert weights.named_values() == begin


def test_learnt_loss_weights_settle_where_the_formula_says() -> None:
    """d/ds of c exp(-s) L + s / 2 is 0 at c exp(-s) = 1 / (2 L)."""
    weights = QuestionWeights(recipe_with(loss_weighting="uncertainty"))
    losses, present = torch.tensor([0.25, 0.1, 0.3, 0.02, 1.5]), torch.tensor([True, True, True, True, False])
    begin = weights.values()
    optimiser = torch.optim.SGD(weights.parameters(), lr=0.5)
    for _ in range(300):
        weights.set_gradient(losses, present)
        optimiser.step()
    assert weights.values()[:4].tolist() == pytest.approx((1 / (2 * losses[:4])).tolist(), rel=1e-3)
    assert weights.values()[4] == begin[4]  # no labels, no evidence, no move
    log_variances = np.log([2 * 0.25, 0.1, 2 * 0.3, 0.02])
    expected = 4 * 0.5 + log_variances.sum() / 2
    assert weights.total(losses, present).item() == pytest.approx(expected, rel=1e-3)


def test_a_question_of_weight_zero_stays_out_of_learnt_weights() -> None:
    weights = QuestionWeights(recipe_with(loss_weighting="uncertainty", loss_weights={"cleanliness": 0.0}))
    weights.set_gradient(torch.ones(5), torch.ones(5, dtype=torch.bool))
    assert weights.values()[1] == 0
    assert weights.log_variance_Q is not None
    assert weights.log_variance_Q.grad is not None
    assert weights.log_variance_Q.grad[1] == 0
    assert torch.isfinite(weights.log_variance_Q.grad).all()


def test_scaling_as_for_half_precision_leaves_the_step_as_it_is(one_process: None) -> None:
    recipe = recipe_with(loss_weighting="uncertainty", optimiser="sgd", model={"dropout": 0.0})
    plain, plain_objective, _ = take_step(recipe, drawn_photos(), Step([np.arange(16)]))
    scaled, scaled_objective, _ = take_step(recipe, drawn_photos(), Step([np.arange(16)]), scale=1024.0)
    assert largest_difference(plain, scaled) < 1e-6
    assert largest_difference(plain_objective.weights, scaled_objective.weights) == 0


def lonely_labels(photos: Photos) -> None:
    """Weather is known in the first micro-batch alone."""
    photos.labels["weather_condition"][8:] = float("nan")


def _train_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    photos = drawn_photos(24)
    lonely_labels(photos)
    recipe = recipe_with(loss_weighting="uncertainty", class_weights="auto", optimiser="sgd")
    # Three parts: rank 1 has the second, which knows no weather.
    network, objective, losses = take_step(recipe, photos, Step(np.array_split(np.arange(24), 3)), rank=rank, world_size=2)
    torch.save({"network": network.state_dict(), "weights": objective.weights.state_dict(), "losses": losses}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_a_rank_without_a_question_neither_hangs_nor_differs(tmp_path: Path) -> None:
    multiprocessing.spawn(_train_on_rank, args=(str(tmp_path),), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert zero["losses"] == one["losses"]
    assert "weather" in zero["losses"]
    for part in ("network", "weights"):
        assert all(torch.equal(values, one[part][name]) for name, values in zero[part].items())
    # And it is the step of one process.
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    photos = drawn_photos(24)
    lonely_labels(photos)
    recipe = recipe_with(loss_weighting="uncertainty", class_weights="auto", optimiser="sgd")
    network, objective, losses = take_step(recipe, photos, Step(np.array_split(np.arange(24), 3)))
    distributed.destroy_process_group()
    assert losses == pytest.approx(zero["losses"], rel=1e-5)
    assert all(torch.isfinite(values).all() for values in zero["network"].values())
    assert max((zero["network"][name].float() - values.float()).abs().max() for name, values in network.state_dict().items()) < 1e-5
    assert torch.allclose(zero["weights"]["log_variance_Q"], objective.weights.state_dict()["log_variance_Q"], atol=1e-6)


# ---- optimiser and schedule


def test_a_frozen_backbone_is_not_in_the_optimiser_and_a_thawing_one_is() -> None:
    for changes, expected in (({"backbone_lr_factor": 0.0}, False), ({"freeze_backbone_epochs": 3}, True)):
        recipe = recipe_with(**changes)
        network = build(recipe)
        set_training_mode(network, recipe.train, epoch=0)
        optimiser = build_optimiser(network, QuestionWeights(recipe), recipe.train)
        members = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
        new = {id(parameter) for part in (network.shared, network.heads) for parameter in part.parameters()}
        assert members >= new
        assert (members == {id(parameter) for parameter in network.parameters()}) == expected


def test_a_backbone_stays_to_the_last_bit_until_it_thaws(one_process: None) -> None:
    recipe = recipe_with(freeze_backbone_epochs=1)
    photos, network = drawn_photos(), build(recipe)
    trainer = make_trainer(network, recipe, photos)
    before = {name: values.clone() for name, values in network.backbone.state_dict().items()}
    same = []
    for epoch in range(2):
        set_training_mode(network, recipe.train, epoch=epoch)
        step = Step(np.array_split(np.arange(30), 3))
        train_step(take_share(trainer, photos, step, number=epoch))
        same.append([torch.equal(values, before[name]) for name, values in network.backbone.state_dict().items()])
    assert all(same[0])
    # Filters and statistics; the first step after random weights leaves some scales without a gradient.
    learnt = [values.ndim > 1 or "running" in name for name, values in before.items()]
    assert not any(equal for equal, learns in zip(same[1], learnt, strict=True) if learns)


def test_frozen_norms_keep_their_statistics_while_the_backbone_learns(one_process: None) -> None:
    kept = {}
    for freeze_norm in (False, True):
        recipe = recipe_with(freeze_norm=freeze_norm)
        photos, network = drawn_photos(), build(recipe)
        trainer = make_trainer(network, recipe, photos)
        before = {name: values.clone() for name, values in network.backbone.state_dict().items()}
        set_training_mode(network, recipe.train, epoch=0)
        train_step(take_share(trainer, photos, Step(np.array_split(np.arange(30), 3)), number=0))
        after = network.backbone.state_dict()
        assert not torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])
        kept[freeze_norm] = all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert kept == {False: False, True: True}


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_earlier_layers_learn_at_lower_rates_and_biases_do_not_decay(backbone: str) -> None:
    recipe = recipe_with(model={"backbone": backbone}, layer_decay=0.5, backbone_lr_factor=0.1)
    network = build(recipe)
    groups = parameter_groups(network, recipe.train)
    scale_of = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert set(scale_of) == {id(parameter) for parameter in network.parameters()}
    scales = [scale_of[id(parameter)] for parameter in network.backbone.parameters()]
    assert max(scales) == pytest.approx(0.1)
    assert min(scales) <= 0.1 * 0.5**3
    assert all(scale_of[id(parameter)] == 1.0 for parameter in network.heads.parameters())
    undecayed = [parameter for group in groups if group["weight_decay"] == 0 for parameter in group["params"]]
    assert {id(parameter) for parameter in network.parameters() if parameter.ndim < 2} <= {id(parameter) for parameter in undecayed}
    flat = parameter_groups(network, recipe_with(model={"backbone": backbone}, backbone_lr_factor=0.1).train)
    assert {group["lr_scale"] for group in flat} == {0.1, 1.0}


def test_sgd_has_momentum_and_decays_too() -> None:
    recipe = recipe_with(optimiser="sgd", momentum=0.8)
    optimiser = build_optimiser(build(recipe), QuestionWeights(recipe), recipe.train)
    assert isinstance(optimiser, torch.optim.SGD)
    assert {(group["momentum"], group["nesterov"]) for group in optimiser.param_groups} == {(0.8, True)}
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.0, 0.02}
    recipe = recipe_with(optimiser="sgd", momentum=0.0)
    build_optimiser(build(recipe), QuestionWeights(recipe), recipe.train)


def test_the_cosine_warms_up_to_its_peak_and_falls_to_zero() -> None:
    recipe = recipe_with(lr=0.1, warmup_fraction=0.1).train
    rates = [learning_rate(recipe, step, total_steps=100, val_scores=[]) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-4
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), T_max=90)
    for rate in rates[10:]:
        assert rate == pytest.approx(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_plateau_schedule_is_torchs(epochs: int) -> None:
    recipe = recipe_with(schedule="plateau", lr=0.1, plateau_factor=0.5, plateau_epochs=epochs, warmup_fraction=0.0).train
    scores = np.random.default_rng(epochs).normal(size=40).cumsum().round(1).tolist()
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    # Its patience is the number of epochs without a better score that it still bears.
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=0.5, patience=epochs - 1, threshold=0.0, threshold_mode="abs", eps=0.0
    )
    for done in range(1, 41):
        reference.step(scores[done - 1])
        rate = learning_rate(recipe, 10 * done, total_steps=400, val_scores=scores[:done])
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"])
    assert count_plateaus(scores, epochs=epochs) >= 2


def test_the_plateau_schedule_warms_up_too() -> None:
    recipe = recipe_with(schedule="plateau", lr=0.1, warmup_fraction=0.5).train
    assert [learning_rate(recipe, step, total_steps=8, val_scores=[]) for step in range(6)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    )


# ---- the stage, and real backbones


@pytest.mark.slow
def test_a_killed_run_with_every_new_state_ends_as_if_it_never_was(tmp_path: Path) -> None:
    recipe = recipe_with(
        epochs=8, sampler="weighted", loss_weighting="uncertainty", schedule="plateau", plateau_epochs=1, lr=0.5, freeze_backbone_epochs=2,
        layer_decay=0.7, optimiser="sgd",
    )  # fmt: skip
    unbroken = make_workspace(tmp_path / "unbroken", recipe, processes=2)
    run_training(unbroken)
    curves = pd.read_csv(unbroken / "reports/train_ddp/curves.csv")
    assert curves["lr"].nunique() > 1, "no plateau: the test shows nothing"
    assert (curves.filter(like="loss_weight_").nunique() == len(curves)).all()
    killed = make_workspace(tmp_path / "killed", recipe, processes=2)
    process = start_training(killed)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   4"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "going on after epoch" in run_training(killed)
    assert final_files(killed) == final_files(unbroken)
    priors = torch.load(killed / "models/best.pt", weights_only=True)["lineage"]["priors"]
    assert priors["clean"]["trained"] == pytest.approx([0.5, 0.5])
    assert json.loads((killed / "metrics/train_ddp.json").read_text())["loss_weight_clean"] > 0


def test_the_prior_of_training_reaches_what_is_exported_and_is_undone_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe()
    monkeypatch.chdir(make_workspace(tmp_path, recipe, processes=1))
    priors = {"clean": {"natural": [0.2, 0.8], "trained": [0.5, 0.5]}, "weather": {"natural": [0.4, 0.4, 0.1, 0.1], "trained": [0.25] * 4}}
    weights, lineage = build(recipe).state_dict(), {"priors": priors}
    checkpoint = Checkpoint(questions=recipe.questions, model=recipe.model, image_side_px=32, weights=weights, lineage=lineage)
    save_checkpoint(checkpoint, Path("models/best.pt"))
    pd.DataFrame({"image_path": []}).to_csv("data/probe.csv", index=False)
    without_outlines(Path())
    runpy.run_path(str(ROOT / "stages" / "evaluate.py"))["main"]()
    calibration = read_calibration(Path("models/calibration.json"))
    offsets = {name: fitted.logit_offset for name, fitted in calibration.questions.items()}
    assert {name: pytest.approx(offset) for name, offset in logit_offsets(QUESTIONS, priors).items()} == offsets
    network = AnsweringNetwork(build_network(checkpoint), calibration, load_gate(Path("models/gate.pt")))
    with torch.inference_mode():
        outputs = network(torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8))
    answers = {name: values.numpy() for name, values in zip(network.output_names, outputs, strict=True)}
    expected = expit((answers["clean_logit"] + np.log(4)) / (calibration.questions["clean"].temperature or 1.0))
    assert answers["p_clean"] == pytest.approx(expected, abs=1e-5)


BACKBONES = [
    "tf_efficientnetv2_s",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "mobilenetv4_conv_small",
    "test_vit",
    "test_efficientnet",
]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_train_a_step_with_layer_decay(backbone: str, one_process: None) -> None:
    side = 160 if backbone == "test_vit" else 64
    recipe = recipe_with(model={"backbone": backbone}, layer_decay=0.8)
    photos = drawn_photos(4, side_px=side)
    network, _, losses = take_step(recipe, photos, Step([np.arange(4)]), side_px=side)
    assert all(np.isfinite(loss) for loss in losses.values())
    # Filters and matrices; many networks begin with scales of 0, which leave others without a gradient in the first step.
    pairs = zip(network.parameters(), build(recipe, side).parameters(), strict=True)
    moved = [not torch.equal(values, start) for values, start in pairs if values.ndim > 1]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_convolutions_run_channels_last_as_photos_come(backbone: str) -> None:
    """A photo's channels lie innermost, and stay there to the last layer: no knob, and converting the weights would change no bit."""
    recipe = recipe_with(model={"backbone": backbone})
    network, converted = build(recipe).eval(), build(recipe).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layouts = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _module, _arguments, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    photos = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    answers = network(photos)
    assert len(layouts) > 5
    assert all(layouts)
    assert all(torch.equal(values, converted(photos)[name]) for name, values in answers.items())
