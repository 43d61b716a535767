"""model: network, backbones, checkpoints, spreads; and the losses, which leave out what nobody judged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from carinspect.core.errors import UserError
from carinspect.core.questions import by_name
from carinspect.model.backbones import build_backbone, check_reading_side, reading_side
from carinspect.model.calibration import Calibrated, DropoutPlan
from carinspect.model.checkpoint import Checkpoint, build_network, load_checkpoint, save_checkpoint, to_bytes
from carinspect.model.network import CarInspectionNetwork
from carinspect.model.uncertainty import DropoutSpread, draw_masks, plan_dropout
from carinspect.training.balance import class_weights
from carinspect.training.config import LossKnobs, Recipe
from carinspect.training.losses import summed_loss
from conftest import QUESTIONS, make_calibration, make_recipe

NAN = float("nan")


def labels(**columns: list[float]) -> dict[str, torch.Tensor]:
    count = len(next(iter(columns.values())))
    names = ("clean", "cleanliness_score", "damaged", "damage_score", "weather_condition")
    return {name: torch.tensor(columns.get(name, [NAN] * count), dtype=torch.float32) for name in names}


def losses(logits: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], *, score: str = "smooth_l1") -> dict[str, torch.Tensor]:
    """The summed loss of each question in `logits`, over the photos with a label; `score`: the loss of scores."""
    recipe = make_recipe()
    kinds = {asked.name: score if asked.kind == "score" else "cross_entropy" for asked in QUESTIONS}
    train = recipe.train.model_copy(update={"losses": {name: LossKnobs(loss=kind, weight=1.0) for name, kind in kinds.items()}})
    weights, found = class_weights(recipe, truth), {}
    for name, values in logits.items():
        asked = by_name(QUESTIONS)[name]
        known = ~truth[asked.column].isnan()
        found[name] = summed_loss(asked, values[known], truth[asked.column][known], train, weights=weights.get(name))
    return found


def test_classification_losses_agree_with_scikit_learn() -> None:
    clean, weather = torch.tensor([2.0, -1.0, 0.3]), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = losses({"clean": clean, "weather": weather}, labels(clean=[1, 0, 0], weather_condition=[0, 3, 2]))
    assert found["clean"].item() == pytest.approx(log_loss([1, 0, 0], expit(clean.numpy()), normalize=False), rel=1e-5)
    expected = log_loss([0, 3, 2], softmax(weather.numpy(), axis=1), labels=[0, 1, 2, 3], normalize=False)
    assert found["weather"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", "mse", "bce"])
def test_regression_losses_are_least_at_the_label(kind: str) -> None:
    shares = torch.linspace(0.01, 0.99, 99)
    values = [
        losses({"cleanliness": torch.logit(share).view(1)}, labels(cleanliness_score=[0.3]), score=kind)["cleanliness"] for share in shares
    ]
    assert shares[int(np.argmin([value.item() for value in values]))] == pytest.approx(0.3, abs=0.006)


def test_a_missing_label_is_not_a_perfect_score() -> None:
    logits = {"clean": torch.tensor([3.0, -3.0]), "damage": torch.tensor([0.5, 0.5]), "weather": torch.zeros(2, 4)}
    known = losses(logits, labels(clean=[1, NAN], damage_score=[0.2, NAN], weather_condition=[1, NAN]))
    only = losses({name: values[:1] for name, values in logits.items()}, labels(clean=[1], damage_score=[0.2], weather_condition=[1]))
    perfect = losses(logits, labels(clean=[1, 1], damage_score=[0.2, 1.0], weather_condition=[1, 0]))
    for name in logits:
        assert known[name].item() == pytest.approx(only[name].item())
        assert known[name].item() != pytest.approx(perfect[name].item())  # the same check sees an invented label


def test_a_question_that_nobody_judged_has_no_loss_no_gradient_and_no_nan() -> None:
    logits = {name: torch.zeros(3, requires_grad=True) for name in ("clean", "cleanliness", "damaged", "damage")}
    logits["weather"] = torch.zeros(3, 4, requires_grad=True)
    sum(losses(logits, labels(clean=[NAN] * 3)).values()).backward()  # type: ignore[union-attr]
    assert all(values.grad is not None and not values.grad.any() for values in logits.values())


def test_a_photo_known_only_as_damaged_teaches_damaged_and_nothing_about_how_much() -> None:
    truth = labels(damaged=[1, 1], damage_score=[NAN, NAN])
    logits = {name: torch.zeros(2, requires_grad=True) for name in ("damaged", "damage")}
    sum(losses(logits, truth).values()).backward()  # type: ignore[union-attr]
    assert logits["damaged"].grad is not None
    assert (logits["damaged"].grad < 0).all()
    assert logits["damage"].grad is not None
    assert not logits["damage"].grad.any()


def build(recipe: Recipe) -> CarInspectionNetwork:
    torch.manual_seed(0)
    return CarInspectionNetwork(recipe.model, recipe.questions, backbone=build_backbone(recipe.model.backbone, image_side_px=32))


def test_the_network_normalises_inside(tiny_recipe: Recipe) -> None:
    network = build(tiny_recipe).eval()
    photos = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    network(photos)
    mean, std = (torch.tensor(network.backbone.pretrained_cfg[name]) for name in ("mean", "std"))  # type: ignore[index]
    assert torch.allclose(seen[0].permute(0, 2, 3, 1), (photos / 255 - mean) / std, atol=1e-5)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "mobilenetv4_conv_small", "test_convnext"])
def test_backbones_of_every_family_fit_the_heads(tiny_recipe: Recipe, name: str) -> None:
    network = CarInspectionNetwork(tiny_recipe.model, QUESTIONS, backbone=build_backbone(name, image_side_px=64)).eval()
    answers = network(torch.zeros((2, 64, 64, 3), dtype=torch.uint8))
    assert {name: tuple(values.shape) for name, values in answers.items()} == {
        "clean": (2,), "cleanliness": (2,), "damaged": (2,), "damage": (2,), "weather": (2, 4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "pretrained", "side_px"),
    [("test_resnet", None, False, 160), ("test_resnet", None, True, 192), ("test_resnet", 200, True, 200), ("test_vit", None, True, 160)],
)
def test_photos_are_read_larger_than_in_training_when_pretrained(name: str, given: int | None, pretrained: bool, side_px: int) -> None:
    backbone = build_backbone(name, image_side_px=160)
    assert reading_side(backbone, given, pretrained=pretrained, training_side_px=160) == side_px


def test_a_side_that_the_backbone_cannot_read_is_refused_before_the_training() -> None:
    check_reading_side("test_resnet", 224, training_side_px=160)
    check_reading_side("test_vit", 160, training_side_px=160)
    with pytest.raises(
        UserError, match=r"evaluate\.image_side_px has the value 224, but test_vit takes only the side of its training, 160"
    ):
        check_reading_side("test_vit", 224, training_side_px=160)


def test_weights_come_from_a_local_file_and_a_wrong_file_is_named(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build_backbone("test_resnet", image_side_px=32)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    loaded = build_backbone("test_resnet", image_side_px=32, pretrained=tmp_path / "weights.safetensors")
    assert all(torch.equal(values, loaded.state_dict()[name]) for name, values in source.state_dict().items())
    with pytest.raises(UserError, match="does not hold the weights of timm's 'test_convnext'"):
        build_backbone("test_convnext", image_side_px=32, pretrained=tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"no such file: '.*none\.pth'"):
        build_backbone("test_resnet", image_side_px=32, pretrained=tmp_path / "none.pth")


def test_the_hub_out_of_reach_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"timm's hub gave no weights.*Bring model\.safetensors of https://huggingface\.co/timm/resnet10t.*, and set",
    ):
        build_backbone("resnet10t", image_side_px=32, pretrained=True)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no model 'resnat18'\. Did you mean 'resnet18'"):
        build_backbone("resnat18", image_side_px=32)


def checkpoint_of(recipe: Recipe) -> Checkpoint:
    weights = build(recipe).state_dict()
    return Checkpoint(questions=recipe.questions, model=recipe.model, image_side_px=32, weights=weights, lineage={"best_epoch": 1})


def test_a_checkpoint_comes_back_whole_and_its_bytes_do_not_depend_on_its_name(tmp_path: Path, tiny_recipe: Recipe) -> None:
    checkpoint = checkpoint_of(tiny_recipe)
    save_checkpoint(checkpoint, tmp_path / "a.pt")
    save_checkpoint(checkpoint, tmp_path / "another name.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert (loaded.questions, loaded.model) == (checkpoint.questions, checkpoint.model)
    assert (loaded.image_side_px, loaded.lineage) == (32, {"best_epoch": 1})
    assert all(torch.equal(values, build_network(loaded).state_dict()[name]) for name, values in checkpoint.weights.items())


def test_a_broken_or_foreign_checkpoint_is_refused(tmp_path: Path, tiny_recipe: Recipe) -> None:
    path = tmp_path / "best.pt"
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(path)
    save_checkpoint(checkpoint_of(tiny_recipe), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        load_checkpoint(path)
    path.write_bytes(to_bytes({"format": 1, "resize_contract": "letterbox"}))
    with pytest.raises(UserError, match="Train it again"):
        load_checkpoint(path)


# ---- Monte-Carlo dropout

PLAN = DropoutPlan(samples=30, dropout=0.2, seed=5)
TO_ANSWER = Calibrated(QUESTIONS, make_calibration(temperature={"clean": 2.0, "damaged": 1.0, "weather": 1.0}))


def brute_force_spreads(network: CarInspectionNetwork, features_BF: torch.Tensor) -> dict[str, np.ndarray]:
    """The heads run once for each mask, in numpy; the spread of weather is that of the class which is likeliest without dropout."""
    masks = draw_masks(PLAN, features=features_BF.shape[1])
    passes = [network.answer(features_BF * mask) for mask in masks]
    expected = {name: np.stack([expit(run[name].numpy() / (2.0 if name == "clean" else 1.0)) for run in passes]).std(axis=0)
                for name in ("clean", "cleanliness", "damaged", "damage")}  # fmt: skip
    weather = np.stack([softmax(run["weather"].numpy(), axis=1) for run in passes])
    likeliest = network.answer(features_BF)["weather"].argmax(dim=1).numpy()
    return expected | {"weather": weather.std(axis=0)[np.arange(len(likeliest)), likeliest]}


@torch.inference_mode()
def test_the_spreads_are_those_of_one_pass_a_mask(tiny_recipe: Recipe) -> None:
    network = build(tiny_recipe)
    features_BF = network.features(torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)) + torch.rand(5, 16)
    found = DropoutSpread(network, PLAN, TO_ANSWER)(features_BF)
    for name, expected in brute_force_spreads(network, features_BF).items():
        assert found[name].numpy() == pytest.approx(expected, abs=1e-6)
        assert (expected > 1e-4).all(), "without a spread the check above would see nothing"


@torch.inference_mode()
def test_a_photo_has_the_same_spread_whatever_stands_beside_it(tiny_recipe: Recipe) -> None:
    network = build(tiny_recipe)
    features_BF = torch.rand(6, 16)
    alone = DropoutSpread(network, PLAN, TO_ANSWER)(features_BF[2:3])
    together = DropoutSpread(network, PLAN, TO_ANSWER)(features_BF)
    other = DropoutSpread(network, PLAN.model_copy(update={"seed": 6}), TO_ANSWER)(features_BF)
    for name in together:
        assert alone[name].item() == pytest.approx(together[name][2].item(), abs=1e-6)
        assert not torch.equal(together[name], other[name])


def test_the_masks_keep_the_mean_and_drop_the_share_that_they_say() -> None:
    plan = DropoutPlan(samples=400, dropout=0.25, seed=1)
    masks = draw_masks(plan, features=500)
    assert masks.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (masks == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert torch.equal(masks, draw_masks(plan, features=500))


def test_without_dropout_or_samples_there_are_no_spreads() -> None:
    assert plan_dropout(samples=30, dropout=0.2, seed=5) == PLAN
    assert plan_dropout(samples=30, dropout=0.0, seed=5) is None
    assert plan_dropout(samples=0, dropout=0.2, seed=5) is None
