"""training: recipe, batches, one step. test_engine.py has whole runs, several processes and interruption."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from carinspect.core.errors import UserError
from carinspect.core.params import load_params
from carinspect.core.questions import by_name
from carinspect.core.tables import dataset_columns, read_table
from carinspect.model.backbones import build_backbone
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.batches import MicroBatchLoader, Photos, Step, labels_as_tensors, plan_epoch
from carinspect.training.config import Profile, Recipe, Runtime
from carinspect.training.losses import Objective
from carinspect.training.micro_batch import MicroBatch
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.profiles import read_pretrained, read_profiles
from carinspect.training.recipe import read_recipe, resolve_recipe, write_recipe
from carinspect.training.runtime import Machine, settle_runtime
from carinspect.training.step import Share, Trainer, train_step
from carinspect.training.validation import skill_scores, validation_score
from conftest import QUESTIONS, make_dataset

ROOT = Path(__file__).parent.parent
LINE = Machine(device="cpu", processes=1, workers=0, compile=False, pin_memory=False, micro_batch="norm", checkpoint_steps=0)


def shipped_params(**changes: object) -> dict:
    params = load_params(ROOT / "params.yaml")
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            params[section][key] = value
        else:
            params[section] = value
    return params


# ---- recipe


def test_the_profile_fills_what_train_leaves_open_and_train_wins() -> None:
    recipe = resolve_recipe(shipped_params(hardware="rtx5090_x3"), pretrained="sha256:0", resume="none")
    assert (recipe.train.batch_size, recipe.train.accumulate_steps, recipe.train.image_side_px) == (96, 2, 512)
    assert (recipe.model.backbone, recipe.train.precision, recipe.train.effective_batch_size) == ("tf_efficientnetv2_s", "bf16", 192)
    recipe = resolve_recipe(
        shipped_params(hardware="rtx5090_x3", train__batch_size=32, model__backbone="resnet18"), pretrained="sha256:0", resume="none"
    )
    assert (recipe.train.batch_size, recipe.model.backbone) == (32, "resnet18")


@pytest.mark.parametrize("name", ["demo", "auto", "cpu", "rtx4090_x1", "rtx4090_x2", "rtx3090_x2", "rtx5090_x3", "h100_x1"])
def test_every_shipped_profile_resolves(name: str) -> None:
    recipe = resolve_recipe(shipped_params(hardware=name), pretrained=None, resume="none")
    assert recipe.train.batch_size % recipe.train.norm_batch_size == 0


def test_pretrained_is_the_profiles_where_it_is_null() -> None:
    assert [read_pretrained(shipped_params(hardware=name)) for name in ("demo", "auto")] == [False, True]
    assert read_pretrained(shipped_params(hardware="auto", model__pretrained=False)) is False
    assert read_pretrained(shipped_params(model__pretrained="weights.safetensors")) == "weights.safetensors"
    with pytest.raises(UserError, match=r"model\.pretrained\.bool has the value 3"):
        read_pretrained(shipped_params(model__pretrained=3))


def test_auto_fine_tunes_a_real_backbone_and_the_demo_is_what_it_was() -> None:
    auto = resolve_recipe(shipped_params(hardware="auto"), pretrained="sha256:0", resume="none")
    assert (auto.model.backbone, auto.model.feature_stages, auto.train.image_side_px) == ("tf_efficientnet_lite0", 3, 224)
    assert (auto.train.freeze_norm, auto.train.backbone_lr_factor) == (True, 0.1)
    assert resolve_recipe(shipped_params(hardware="cpu"), pretrained="sha256:0", resume="none") == auto
    demo = resolve_recipe(shipped_params(), pretrained=None, resume="none")
    # In git, so that a change of the demo's recipe is seen.
    assert demo == read_recipe(ROOT / "data" / "recipe.yaml")
    assert demo != auto


def test_norm_statistics_of_random_weights_are_not_frozen() -> None:
    params = shipped_params(hardware="auto", model__pretrained=False)
    with pytest.raises(
        UserError, match=r"train\.freeze_norm keeps .*set model\.pretrained: false, train\.freeze_norm: false and train\.back"
    ):
        resolve_recipe(params, pretrained=None, resume="none")
    assert resolve_recipe(params, pretrained="none", resume="sha256:0").train.freeze_norm
    params["train"]["freeze_norm"] = False
    assert resolve_recipe(params, pretrained=None, resume="none").model.pretrained == "none"


def test_a_runtime_knob_and_another_profile_leave_the_recipe_as_it_is(tmp_path: Path) -> None:
    params = shipped_params()
    write_recipe(resolve_recipe(params, pretrained="none", resume="none"), tmp_path / "1.yaml")
    params["profiles"]["demo"]["runtime"]["workers"] = 3
    params["profiles"]["rtx4090_x1"]["recipe"]["batch_size"] = 64
    write_recipe(resolve_recipe(params, pretrained="none", resume="none"), tmp_path / "2.yaml")
    assert (tmp_path / "1.yaml").read_bytes() == (tmp_path / "2.yaml").read_bytes()
    params["profiles"]["demo"]["recipe"]["batch_size"] = 64
    write_recipe(resolve_recipe(params, pretrained="none", resume="none"), tmp_path / "3.yaml")
    assert (tmp_path / "1.yaml").read_bytes() != (tmp_path / "3.yaml").read_bytes()
    assert read_recipe(tmp_path / "3.yaml").train.batch_size == 64


def test_an_unknown_profile_and_a_batch_that_does_not_divide_name_the_fix() -> None:
    with pytest.raises(UserError, match=r"no profile is called 'rtx4090'\. Did you mean 'rtx4090_x[12]'"):
        read_profiles(shipped_params(hardware="rtx4090"))
    with pytest.raises(UserError, match=r"batch_size 40 is no multiple of norm_batch_size 16\. Set train\.norm_batch_size, to 10"):
        resolve_recipe(shipped_params(train__batch_size=40), pretrained="none", resume="none")


def test_a_mistyped_key_in_an_unused_profile_is_found_too() -> None:
    params = shipped_params()
    params["profiles"]["h100_x1"]["runtime"]["wokers"] = 3
    with pytest.raises(UserError, match=r"profiles\.h100_x1\.runtime\.wokers: unknown key\. Did you mean 'workers'"):
        read_profiles(params)


def runtime(**changes: object) -> Runtime:
    auto = {"device": "auto", "processes": "auto", "workers": "auto", "compile": False, "pin_memory": "auto"}
    auto |= {"micro_batch": "auto", "checkpoint_steps": 0}
    return Runtime.model_validate(auto | changes)


def test_auto_settles_for_this_machine_and_never_takes_a_process_without_work(tiny_recipe: Recipe) -> None:
    machine = settle_runtime(runtime(device="cpu"), tiny_recipe.train, nodes=1)
    assert machine.device == "cpu"
    assert 1 <= machine.processes <= 2  # two micro-batches in each effective batch
    assert not machine.pin_memory


def test_what_the_machine_lacks_is_said(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device. Choose hardware: cpu"):
        settle_runtime(runtime(device="cuda"), tiny_recipe.train, nodes=1)
    with pytest.raises(UserError, match="'fp16', which a CPU does not train in"):
        settle_runtime(runtime(device="cpu"), tiny_recipe.train.model_copy(update={"precision": "fp16"}), nodes=1)


def test_the_ordered_profiles_are_as_ordered() -> None:
    profiles: dict[str, Profile] = read_profiles(shipped_params())[1]
    three = profiles["rtx5090_x3"]
    assert (three.recipe.batch_size, three.recipe.image_side_px, three.recipe.precision) == (96, 512, "bf16")
    assert (three.recipe.accumulate_steps, three.recipe.backbone) == (2, "tf_efficientnetv2_s")
    assert (three.runtime.processes, three.runtime.workers, three.runtime.compile) == (3, 24, True)
    sizes = {name: (profiles[name].recipe.batch_size, profiles[name].recipe.image_side_px) for name in profiles}
    assert (sizes["rtx4090_x2"], sizes["rtx4090_x1"], sizes["rtx3090_x2"]) == ((64, 384), (32, 384), (192, 256))
    assert profiles["rtx3090_x2"].recipe.backbone == "resnet50"


# ---- batches


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    table = read_table(make_dataset(tmp_path), columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    pixels = np.random.default_rng(0).integers(0, 256, (len(table), 32, 32, 3), dtype=np.uint8)
    return Photos(image_paths=table["image_path"].tolist(), pixels=pixels, labels=labels_as_tensors(table, QUESTIONS))


def test_an_epoch_takes_each_photo_once_and_another_epoch_another_order(tiny_recipe: Recipe) -> None:
    plans = [plan_epoch(tiny_recipe, {"clean": torch.zeros(70)}, epoch=epoch) for epoch in (0, 1, 0)]
    taken = [np.concatenate([step.positions for step in plan]) for plan in plans]
    assert all(len(set(positions)) == len(positions) == 64 for positions in taken)
    assert (taken[0] == taken[2]).all()
    assert not (taken[0] == taken[1]).all()
    assert {len(part) for step in plans[0] for part in step.micro_batches} == {8}


def test_a_set_smaller_than_a_batch_still_makes_a_step(tiny_recipe: Recipe) -> None:
    (step,) = plan_epoch(tiny_recipe, {"clean": torch.zeros(5)}, epoch=0)
    assert sorted(step.positions) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_batches(photos: Photos, tiny_recipe: Recipe, workers: int) -> None:
    def batches(machine: Machine) -> list[torch.Tensor]:
        loader = MicroBatchLoader(photos, tiny_recipe, machine)
        epochs = [plan_epoch(tiny_recipe, photos.labels, epoch=epoch) for epoch in range(2)]
        return [
            images.clone()
            for epoch, plan in enumerate(epochs)
            for images in loader.epoch(epoch, [draws for step in plan for draws in step.draws])
        ]

    alone = batches(LINE)
    together = batches(replace(LINE, workers=workers))
    assert len(alone) == 20
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[10])  # another epoch, other batches


# ---- one step


@pytest.fixture
def one_process(tmp_path: Path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def take_step(recipe: Recipe, photos: Photos, step: Step) -> tuple[CarInspectionNetwork, dict[str, float]]:
    torch.manual_seed(0)
    backbone = build_backbone(recipe.model.backbone, image_side_px=32)
    network = CarInspectionNetwork(recipe.model, recipe.questions, backbone=backbone).train()
    objective = Objective(recipe, photos.labels, device=torch.device("cpu"))
    trainer = Trainer(
        network=network,
        optimiser=torch.optim.SGD([*network.parameters(), *objective.weights.parameters()], lr=1.0),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        objective=objective,
        recipe=recipe,
        statistics=NormStatistics(network),
        micro_batch=MicroBatch(1000, on_change=print),
    )
    images = iter([torch.from_numpy(photos.pixels[part]) for part in step.micro_batches])
    own_parts = list(range(len(step.micro_batches)))
    losses = train_step(Share(trainer, photos=photos, step=step, number=0, own_parts=own_parts, images=images))
    assert losses is not None
    return network, losses


def test_accumulation_is_true(photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    """The same photos in two micro-batches or in four: without batch norm and dropout, the same step within float noise."""
    model = tiny_recipe.model.model_copy(update={"backbone": "test_convnext", "dropout": 0.0})
    recipe = tiny_recipe.model_copy(update={"model": model})
    positions = np.arange(32)
    whole, whole_losses = take_step(recipe, photos, Step([positions]))
    parts, parts_losses = take_step(recipe, photos, Step(np.array_split(positions, 5)))
    assert whole_losses == pytest.approx(parts_losses, rel=1e-4)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)
    # The usual mistake, a mean over unequal parts of partly labelled photos, is not within float noise.
    part_losses = [take_step(recipe, photos, Step([part]))[1] for part in np.array_split(positions, 5)]
    assert np.mean([losses["clean"] for losses in part_losses]) != pytest.approx(whole_losses["clean"], rel=1e-3)


def test_batch_norm_statistics_do_not_depend_on_the_order_of_micro_batches(photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    recipe = tiny_recipe.model_copy(update={"model": tiny_recipe.model.model_copy(update={"dropout": 0.0})})
    parts = np.array_split(np.arange(32), 4)
    networks = [take_step(recipe, photos, Step(order))[0] for order in (parts, parts[::-1])]
    states = [network.state_dict() for network in networks]
    running = [name for name in states[0] if "running" in name]
    assert running
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-6) for name in running)


def test_a_question_without_labels_in_the_batch_is_left_out_and_nothing_is_nan(
    photos: Photos, tiny_recipe: Recipe, one_process: None
) -> None:
    photos.labels["weather_condition"][:] = float("nan")
    network, losses = take_step(tiny_recipe, photos, Step([np.arange(8)]))
    assert "weather" not in losses
    assert all(torch.isfinite(values).all() for values in network.state_dict().values())


def test_a_loss_that_is_not_finite_stops_with_question_step_and_photos(photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    photos.labels["cleanliness_score"][:] = float("inf")
    with pytest.raises(UserError, match=r"the loss of 'cleanliness' is not finite at step 0 for 0000\.jpg"):
        take_step(tiny_recipe, photos, Step([np.arange(8)]))


def test_a_step_in_bfloat16_is_near_the_one_in_float32(photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    step = Step([np.arange(8)])
    half = tiny_recipe.model_copy(update={"train": tiny_recipe.train.model_copy(update={"precision": "bf16"})})
    losses, half_losses = take_step(tiny_recipe, photos, step)[1], take_step(half, photos, step)[1]
    assert half_losses == pytest.approx(losses, rel=0.05)
    assert half_losses != losses


def test_skill_is_one_for_the_truth_and_zero_for_the_best_constant(photos: Photos) -> None:
    labels = photos.labels
    asked = [by_name(QUESTIONS)[name] for name in ("clean", "damage", "weather")]
    truth = {
        "clean": (labels["clean"].nan_to_num() * 2 - 1) * 20,
        "damage": torch.logit(labels["damage_score"].nan_to_num(0.5)),
        "weather": torch.nn.functional.one_hot(labels["weather_condition"].nan_to_num().long(), 4) * 40.0,
    }
    perfect = skill_scores(asked, truth, labels)
    assert all(skill == pytest.approx(1, abs=1e-3) for skill in perfect.values())
    share = labels["clean"].nanmean()
    constant = skill_scores(asked[:1], {"clean": torch.logit(share).expand(len(photos))}, labels)
    assert constant["clean"] == pytest.approx(0, abs=0.01)
    assert validation_score(perfect) == pytest.approx(1, abs=1e-3)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UserError, match=r"train\.precision has the value 'fp8'"):
        resolve_recipe(shipped_params(train__precision="fp8"), pretrained="none", resume="none")
