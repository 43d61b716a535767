"""training: whole runs – several processes and machines, interruption, memory that runs out, numbers that are not finite."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import distributed, nn
from torch.utils.data import DistributedSampler

import carinspect
from carinspect.core import files
from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of
from carinspect.core.params import load_params
from carinspect.core.questions import Question
from carinspect.core.tables import dataset_columns, read_table
from carinspect.model.backbones import build_backbone
from carinspect.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.batches import Photos, Step, labels_as_tensors
from carinspect.training.config import Recipe, TrackingParams
from carinspect.training.launch import lock_run, read_cluster
from carinspect.training.loop import Progress, Setting, own_parts, train
from carinspect.training.losses import Objective
from carinspect.training.micro_batch import MicroBatch, compile_where_it_works, recall, shrink_until_it_fits
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.processes import Peers, connect
from carinspect.training.recipe import identify_checkpoint, resume_from, write_parts, write_recipe
from carinspect.training.resume import load_state, read_state, save_state, state_path
from carinspect.training.run import Job, build_network
from carinspect.training.runtime import Machine
from carinspect.training.step import Share, Trainer, train_step
from carinspect.training.tracking import Tracker
from carinspect.training.validation import own_positions
from conftest import QUESTIONS, free_port, make_dataset, make_recipe

ROOT = Path(__file__).parent.parent
LINE = Machine(device="cpu", processes=1, workers=0, compile=False, pin_memory=False, micro_batch="norm", checkpoint_steps=1)
ALONE = Peers(rank=0, world_size=1, writer=0)


def changed(recipe: Recipe, **train: Any) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})


# ---- who takes what


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_micro_batch_and_every_validation_photo_belongs_to_exactly_one_process(world_size: int) -> None:
    step = Step(np.array_split(np.arange(30), 5))
    parts = [part for rank in range(world_size) for part in own_parts(step, Peers(rank=rank, world_size=world_size, writer=0))]
    assert sorted(parts) == [0, 1, 2, 3, 4]
    for photo_count in (1, 3, 10, 11):
        looked_at = [p for rank in range(world_size) for p in own_positions(photo_count, rank=rank, world_size=world_size)]
        assert sorted(looked_at) == list(range(photo_count))


def test_torchs_own_sampler_would_count_a_photo_twice() -> None:
    taken = [p for rank in range(2) for p in DistributedSampler(range(11), num_replicas=2, rank=rank, shuffle=False)]  # type: ignore[arg-type]
    assert sorted(taken) != list(range(11))


# ---- runs in this process


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    table = read_table(make_dataset(tmp_path_factory.mktemp("photos")), columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    pixels = np.random.default_rng(0).integers(0, 256, (len(table), 32, 32, 3), dtype=np.uint8)
    return Photos(image_paths=table["image_path"].tolist(), pixels=pixels, labels=labels_as_tensors(table, QUESTIONS))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    threads = torch.get_num_threads()
    # As every training process does.
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
    torch.set_num_threads(threads)


def make_network(recipe: Recipe) -> CarInspectionNetwork:
    torch.manual_seed(0)
    backbone = build_backbone(recipe.model.backbone, image_side_px=32)
    return CarInspectionNetwork(recipe.model, recipe.questions, backbone=backbone)


class KilledError(Exception):
    """Stands for the end of the process."""


def on_training_pass(network: nn.Module, act: Callable[[int, torch.Tensor], None]) -> nn.Module:
    """Calls `act` with the count of training passes before and the photos of this one."""
    passes = iter(range(1_000_000))

    def before(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if module.training:
            act(next(passes), inputs[0])

    network.register_forward_pre_hook(before)
    return network


def train_here(
    folder: Path, recipe: Recipe, photos: Photos, *, machine: Machine = LINE, act: Callable[[int, torch.Tensor], None] | None = None
) -> Progress:
    network = make_network(recipe)
    if act:
        on_training_pass(network, act)
    with Tracker(recipe.questions, None) as tracker:
        return train(network, setting_for(recipe, photos, folder, tracker, machine=machine))


def setting_for(
    recipe: Recipe, photos: Photos, folder: Path, tracker: Tracker, *, machine: Machine = LINE, peers: Peers = ALONE,
    validation: Photos | None = None,
) -> Setting:  # fmt: skip
    return Setting(
        recipe=recipe, machine=machine, peers=peers, photos=photos, validation=validation or photos, state_file=folder / "state.pt",
        tracker=tracker,
    )  # fmt: skip


def same(one: Progress, other: Progress) -> bool:
    return one.history == other.history and all(torch.equal(values, other.best_weights[name]) for name, values in one.best_weights.items())


def kill_at(training_pass: int) -> Callable[[int, torch.Tensor], None]:
    def act(count: int, images: torch.Tensor) -> None:
        if count == training_pass:
            raise KilledError

    return act


# Five steps of two passes an epoch, two epochs.
@pytest.mark.parametrize("training_pass", [0, 3, 8, 10, 15])
def test_a_run_killed_at_any_step_ends_as_if_it_never_was(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None, training_pass: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = changed(tiny_recipe, loss_weighting="uncertainty")
    unbroken = train_here(tmp_path / "unbroken", recipe, photos)
    with pytest.raises(KilledError):
        train_here(tmp_path / "killed", recipe, photos, act=kill_at(training_pass))
    resumed = train_here(tmp_path / "killed", recipe, photos, machine=replace(LINE, workers=1 if training_pass == 3 else 0))
    assert same(resumed, unbroken)
    epoch, step = divmod(training_pass // 2, 5)
    assert (f"going on after epoch {epoch}, step {step} of an interrupted run" in capsys.readouterr().out) == (training_pass > 0)


@pytest.mark.parametrize("lost", ["averaged", "optimiser", "progress"])
def test_that_check_sees_a_state_that_lacks_something(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None, lost: str
) -> None:
    unbroken = train_here(tmp_path / "unbroken", tiny_recipe, photos)
    with pytest.raises(KilledError):
        train_here(tmp_path / "killed", tiny_recipe, photos, act=kill_at(7))
    content = read_state(tmp_path / "killed" / "state.pt")
    assert content is not None
    state = load_state(content)
    match lost:
        case "averaged":
            state["averaged"] = {f"module.{name}": values for name, values in state["network"].items()}
        case "optimiser":
            state["optimiser"]["state"] = {}
        case "progress":
            state["progress"]["loss_sums"] = state["progress"]["loss_counts"] = {}
    save_state(state, tmp_path / "killed" / "state.pt")
    assert not same(train_here(tmp_path / "killed", tiny_recipe, photos), unbroken)


def test_a_state_that_is_torn_or_changed_is_named_and_never_used(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken = train_here(tmp_path / "unbroken", tiny_recipe, photos)
    path = tmp_path / "killed" / "state.pt"
    with pytest.raises(KilledError):
        train_here(tmp_path / "killed", tiny_recipe, photos, act=kill_at(7))
    sound = path.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    for damaged in (bytes(flipped), sound[:-100], b""):
        path.write_bytes(damaged)
        assert read_state(path) is None
        assert f"{path}: the state of an interrupted training is damaged" in capsys.readouterr().err
    assert same(train_here(tmp_path / "killed", tiny_recipe, photos), unbroken)
    # Without the checksum nobody would notice: torch reads the flipped bit as a number.
    load_state(bytes(flipped[32:]))


def test_a_disk_that_is_full_is_named_and_the_state_before_stays(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train_here(tmp_path / "unbroken", tiny_recipe, photos)
    writes = iter(range(1_000))
    sync = os.fsync

    def full_at_the_fourth(descriptor: int) -> None:
        if next(writes) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full_at_the_fourth)
    with pytest.raises(UserError, match=r"state\.pt: the training's state .* No space left on device\. The disk of .* MB free\. Make room"):
        train_here(tmp_path / "killed", tiny_recipe, photos)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["state.pt"]
    assert same(train_here(tmp_path / "killed", tiny_recipe, photos), unbroken)


def test_the_kernels_own_refusal_to_write_leaves_the_state_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state({"step": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            save_state({"step": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    content = read_state(path)
    assert content is not None
    assert load_state(content) == {"step": 1}


def test_another_recipe_data_or_code_has_another_state(tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        state_path(tiny_recipe, data_revision="a"),
        state_path(tiny_recipe, data_revision="b"),
        state_path(changed(tiny_recipe, lr=0.003), data_revision="a"),
    ]
    assert state_path(make_recipe(), data_revision="a") == paths[0]
    copy = tmp_path / "carinspect"
    shutil.copytree(ROOT / "src" / "carinspect", copy)
    monkeypatch.setattr(carinspect, "__path__", [str(copy)])
    assert state_path(tiny_recipe, data_revision="a") == paths[0]
    with (copy / "training" / "step.py").open("a") as file:
        file.write("# another line\n")
    paths.append(state_path(tiny_recipe, data_revision="a"))
    assert len(set(paths)) == len(paths)


def test_a_training_that_is_running_is_not_started_again(tmp_path: Path) -> None:
    lock_run(tmp_path / "key.lock")
    with pytest.raises(UserError, match=rf"already running here \(process {os.getpid()}\)"):
        lock_run(tmp_path / "key.lock")
    lock_run(tmp_path / "another.lock")


# ---- out of memory


def room_for(limit: int, *, first_pass: int = 0) -> Callable[[int, torch.Tensor], None]:
    """From the training pass `first_pass` on, more than `limit` photos are too many."""

    def act(count: int, images: torch.Tensor) -> None:
        if count >= first_pass and len(images) > limit:
            raise torch.OutOfMemoryError("injected")

    return act


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_memory_that_runs_out_at_the_first_step_gives_what_the_smaller_micro_batch_gives(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None, backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe.model_copy(update={"model": tiny_recipe.model.model_copy(update={"backbone": backbone})})
    short = train_here(tmp_path / "short", recipe, photos, act=room_for(3), machine=replace(LINE, micro_batch="auto"))
    output = capsys.readouterr().out
    small = train_here(tmp_path / "small", recipe, photos, machine=replace(LINE, micro_batch=2))
    assert same(short, small)
    assert "out of memory: going on with 2 photos at a time; the effective batch stays 16." in output
    assert ("Batch normalisation now sees 2 photos together instead of 8" in output) == (backbone == "test_resnet")
    assert recall(recipe, LINE) == 2
    # The next run begins there, and batch norm tells a whole micro-batch from a cut one.
    again = train_here(tmp_path / "again", recipe, photos, act=room_for(3), machine=replace(LINE, micro_batch="auto"))
    assert same(again, small)
    assert "out of memory" not in capsys.readouterr().out
    assert not same(small, train_here(tmp_path / "whole", recipe, photos))


@pytest.mark.parametrize("training_pass", [2, 5, 12])
def test_memory_that_runs_out_at_any_step_changes_only_what_comes_after(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None, training_pass: int
) -> None:
    """Passes 2 and 12 begin a step, 5 is the second of one: what its first pass did is undone."""
    short = train_here(tmp_path / "short", tiny_recipe, photos, act=room_for(4, first_pass=training_pass))
    with pytest.raises(KilledError):
        train_here(tmp_path / "resumed", tiny_recipe, photos, act=kill_at(training_pass))
    resumed = train_here(tmp_path / "resumed", tiny_recipe, photos, machine=replace(LINE, micro_batch=4))
    assert same(short, resumed)


def test_a_single_photo_that_does_not_fit_says_what_to_lower(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None
) -> None:
    with pytest.raises(UserError, match=r"out of memory with a single photo at a time\. Set a smaller train\.image_side_px"):
        train_here(tmp_path, tiny_recipe, photos, act=room_for(0))


def test_the_trial_at_the_start_finds_the_largest_micro_batch_and_changes_nothing(tiny_recipe: Recipe, one_process: None) -> None:
    network = on_training_pass(make_network(tiny_recipe).train(), room_for(3))
    before = {name: values.clone() for name, values in network.state_dict().items()}
    sizes: list[int] = []
    micro_batch = MicroBatch(8, on_change=sizes.append)
    shrink_until_it_fits(network, tiny_recipe, micro_batch)
    assert sizes == [4, 2]
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pieces_cover_a_micro_batch_and_none_is_too_large() -> None:
    for photo_count in range(1, 20):
        for size in range(1, 25):
            pieces = MicroBatch(size, on_change=print).cut(photo_count)
            assert np.concatenate([np.arange(photo_count)[piece] for piece in pieces]).tolist() == list(range(photo_count))
            assert max(piece.stop - piece.start for piece in pieces) <= size


# ---- compiling


def failing_backend(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler here")


def test_a_network_that_does_not_compile_trains_as_it_is_and_says_so_once(
    tiny_recipe: Recipe, one_process: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = make_network(tiny_recipe).train()
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", partial(compile_network, backend=failing_backend))
    assert compile_where_it_works(network, tiny_recipe, size=4, peers=ALONE) is network
    assert capsys.readouterr().out.count("torch.compile does not work here, going on without (BackendCompilerFailed") == 1
    monkeypatch.setattr(torch, "compile", partial(compile_network, backend="eager"))
    assert compile_where_it_works(network, tiny_recipe, size=4, peers=ALONE) is not network
    assert capsys.readouterr().out == ""


# ---- numbers that are not finite


def take_step(network: nn.Module, recipe: Recipe, photos: Photos, *, scaler: torch.amp.GradScaler | None = None) -> dict[str, float] | None:
    trainer = Trainer(
        network=network,
        optimiser=torch.optim.SGD(network.parameters(), lr=0.1),
        scaler=scaler or torch.amp.GradScaler("cpu", enabled=False),
        objective=Objective(recipe, photos.labels, device=torch.device("cpu")),
        recipe=recipe,
        statistics=NormStatistics(network),
        micro_batch=MicroBatch(8, on_change=print),
    )
    images = iter([torch.from_numpy(photos.pixels[:8])])
    return train_step(Share(trainer, photos=photos, step=Step([np.arange(8)]), number=7, own_parts=[0], images=images))


def with_label(photos: Photos, column: str, position: int, value: float) -> Photos:
    labels = {name: values.clone() for name, values in photos.labels.items()}
    labels[column][position] = value
    return replace(photos, labels=labels)


def break_gradient(network: CarInspectionNetwork) -> None:
    network.heads["damage"].weight.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[union-attr]


def test_a_loss_that_is_not_finite_names_the_photo_the_question_and_the_step(
    photos: Photos, tiny_recipe: Recipe, one_process: None
) -> None:
    network = make_network(tiny_recipe).train()
    with pytest.raises(UserError, match=r"the loss of 'cleanliness' is not finite at step 7 for 0003\.jpg\. Lower train\.lr"):
        take_step(network, tiny_recipe, with_label(photos, "cleanliness_score", 3, float("inf")))
    assert all(module.training for module in network.modules())


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is(photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    network = make_network(tiny_recipe).train()
    break_gradient(network)
    with pytest.raises(UserError, match=r"gradient of heads\.damage\.weight is not finite at step 7 \(damage\).* begins with 0000\.jpg"):
        take_step(network, tiny_recipe, photos)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_under_skip_such_a_step_changes_nothing(photos: Photos, tiny_recipe: Recipe, one_process: None, broken: str) -> None:
    recipe = changed(tiny_recipe, on_nonfinite="skip")
    network = make_network(recipe).train()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    if broken == "gradient":
        break_gradient(network)
    assert take_step(network, recipe, photos if broken == "gradient" else with_label(photos, "damage_score", 3, float("inf"))) is None
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    # Without the broken number the same step changes every layer.
    sound = make_network(recipe).train()
    assert take_step(sound, recipe, photos) is not None
    assert not all(torch.equal(values, before[name]) for name, values in sound.state_dict().items())


def test_skipped_steps_are_counted_in_the_history(tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    broken = with_label(photos, "weather_condition", 5, float("nan"))
    broken = with_label(broken, "cleanliness_score", 5, float("inf"))
    recipe = changed(tiny_recipe, on_nonfinite="skip")
    network = make_network(recipe)
    with Tracker(recipe.questions, None) as tracker:
        progress = train(network, setting_for(recipe, broken, tmp_path, tracker, validation=photos))
    assert [row["skipped_steps"] for row in progress.history] == [1, 1]
    assert all(np.isfinite(row["train_loss_total"]) for row in progress.history)


def test_an_overflow_of_fp16_halves_the_scale_and_only_a_lasting_one_stops(photos: Photos, tiny_recipe: Recipe, one_process: None) -> None:
    network = make_network(tiny_recipe).train()
    break_gradient(network)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    assert take_step(network, tiny_recipe, photos, scaler=scaler) is None
    assert take_step(network, tiny_recipe, photos, scaler=scaler) is None
    assert scaler.get_scale() == 0.5
    with pytest.raises(UserError, match="not finite"):
        take_step(network, tiny_recipe, photos, scaler=scaler)


# ---- starting from a checkpoint


def checkpoint_of(recipe: Recipe, path: Path, *, questions: Sequence[Question] = QUESTIONS, **model: Any) -> Path:
    torch.manual_seed(5)
    changed_model = recipe.model.model_copy(update=model)
    backbone = build_backbone(changed_model.backbone, image_side_px=32)
    weights = CarInspectionNetwork(changed_model, questions, backbone=backbone).state_dict()
    checkpoint = Checkpoint(questions=tuple(questions), model=changed_model, image_side_px=32, weights=weights, lineage={})
    save_checkpoint(checkpoint, path)
    return path


def job_for(recipe: Recipe, resume: Path | None) -> Job:
    return Job(
        recipe=recipe, machine=LINE, root=Path("root"), table=Path("table.csv"), pretrained=False, resume=resume,
        probe=Path("probe.pt"), joins=False, checkpoint=Path("best.pt"), curves=Path("curves.csv"), curves_picture=Path("curves.png"),
        augmentation_sheet=Path("augmented.png"), tracking=TrackingParams(wandb=False, wandb_project="none"),
    )  # fmt: skip


def test_a_training_begins_with_the_weights_of_a_checkpoint_at_another_side_too(tmp_path: Path, tiny_recipe: Recipe) -> None:
    path = checkpoint_of(tiny_recipe, tmp_path / "start.pt")
    recipe = resume_from(str(path), changed(tiny_recipe, image_side_px=64))
    assert recipe.train.resume.startswith("sha256:")
    weights, wanted = build_network(job_for(recipe, path)).state_dict(), load_checkpoint(path).weights
    assert all(torch.equal(values, wanted[name]) for name, values in weights.items())
    fresh = build_network(job_for(tiny_recipe, None)).state_dict()
    assert not all(torch.equal(values, wanted[name]) for name, values in fresh.items())


def test_the_recipe_carries_what_the_checkpoint_holds_and_not_its_path(tmp_path: Path, tiny_recipe: Recipe) -> None:
    path = checkpoint_of(tiny_recipe, tmp_path / "start.pt")
    shutil.copy(path, tmp_path / "copy.pt")
    assert identify_checkpoint(str(path), tiny_recipe) == identify_checkpoint(str(tmp_path / "copy.pt"), tiny_recipe)
    recipe = resume_from(str(path), tiny_recipe)
    checkpoint_of(tiny_recipe, path, dropout=0.3)
    with pytest.raises(UserError, match="train.resume: '.*' has changed since the recipe was made"):
        build_network(job_for(recipe, path))
    with pytest.raises(UserError, match="train.resume is 'None', and the recipe was made for another"):
        build_network(job_for(recipe, None))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"backbone": "test_convnext"}, "has backbone test_convnext instead of test_resnet"),
        ({"questions": QUESTIONS[:1]}, "has questions clean instead of clean, cleanliness, damaged, damage, weather"),
        ({"hidden_features": 8}, "has hidden_features 8 instead of 16"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_the_difference(
    tmp_path: Path, tiny_recipe: Recipe, other: dict[str, Any], difference: str
) -> None:
    path = checkpoint_of(tiny_recipe, tmp_path / "other.pt", **other)
    with pytest.raises(UserError, match=difference):
        resume_from(str(path), tiny_recipe)


def test_a_checkpoint_that_is_missing_or_the_trainings_own_output_is_refused(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="train.resume: no such file: 'nothing.pt'"):
        resume_from("nothing.pt", tiny_recipe)
    monkeypatch.chdir(tmp_path)
    checkpoint_of(tiny_recipe, tmp_path / "models" / "best.pt")
    with pytest.raises(UserError, match="is what this training writes"):
        resume_from("models/best.pt", tiny_recipe)


# ---- connections


def test_processes_that_cannot_connect_say_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(backend: str) -> None:
        raise distributed.DistBackendError("NCCL error: unhandled system error")

    monkeypatch.setattr(distributed, "init_process_group", fail)
    with pytest.raises(UserError, match=r"could not connect over nccl \(NCCL error: .*NCCL_P2P_DISABLE=1.*runtime\.processes: 1"):
        connect("cuda")


@pytest.mark.parametrize(
    ("environment", "joins", "message"),
    [
        ({"CARINSPECT_NNODES": "two"}, False, "CARINSPECT_NNODES has the value 'two'"),
        ({"CARINSPECT_NNODES": "2"}, False, "CARINSPECT_RDZV_ENDPOINT has the value ''"),
        ({}, True, "this is one machine alone"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(environment: dict[str, str], joins: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_cluster(environment, joins=joins)


def test_one_machine_is_what_an_empty_environment_means() -> None:
    assert read_cluster({}, joins=False).nodes == 1
    two = read_cluster({"CARINSPECT_NNODES": "2", "CARINSPECT_RDZV_ENDPOINT": "node0:29400"}, joins=True)
    assert (two.nodes, two.endpoint, two.joins) == (2, "node0:29400", True)


# ---- the stage itself, as DVC starts it


def make_workspace(folder: Path, recipe: Recipe, *, processes: int, **runtime: Any) -> Path:
    table = make_dataset(folder)
    (folder / "data").mkdir()
    shutil.move(table, folder / "data" / "car_inspection_dataset.csv")
    write_recipe(recipe, folder / "data" / "recipe.yaml")
    set_runtime(folder, processes=processes, **runtime)
    return folder


def set_runtime(workspace: Path, **runtime: Any) -> None:
    params = load_params(ROOT / "params.yaml") | {"hardware": "cpu", "data": {"root": "root", "sources": "none"}}
    params["profiles"]["cpu"]["runtime"] |= runtime
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))


def start_training(workspace: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(workspace)} | environment
    command = [sys.executable, str(ROOT / "stages" / "train_ddp.py"), *arguments]
    # A group of its own, so that a signal to the group does not reach the tests.
    return subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish_training(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run_training(workspace: Path) -> str:
    return finish_training(start_training(workspace))


def final_files(workspace: Path) -> dict[str, bytes]:
    return {name: (workspace / name).read_bytes() for name in ("models/best.pt", "reports/train_ddp/curves.csv", "metrics/train_ddp.json")}


def progress_of(workspace: Path) -> tuple[int, int]:
    """Epoch and step of the state that is kept there; zeros where there is none."""
    for path in (workspace / ".carinspect" / "train").glob("*.pt"):
        content = read_state(path)
        if content is not None:
            progress = load_state(content)["progress"]
            return progress["epochs_done"], progress["steps_done"]
    return 0, 0


def wait_for_progress(workspace: Path, process: subprocess.Popen[str], *, after: tuple[int, int]) -> None:
    """Returns when there is a state that is further than `after`."""
    while process.poll() is None:
        if progress_of(workspace) > after:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def kill_worker(process: subprocess.Popen[str]) -> None:
    psutil.Process(process.pid).children()[0].kill()


def kill_tree(process: subprocess.Popen[str]) -> None:
    for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        member.kill()


KILLS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "kill -9 of a worker": kill_worker,
    "kill -9 of torchrun": subprocess.Popen.kill,
    "kill -9 of the whole tree": kill_tree,
    "SIGTERM": subprocess.Popen.terminate,
    "SIGINT to the group": lambda process: os.killpg(process.pid, signal.SIGINT),
}


@pytest.mark.slow
def test_a_run_killed_in_every_way_ends_as_if_it_never_was_and_leaves_no_orphan(tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = changed(tiny_recipe, epochs=25, batch_size=4, norm_batch_size=2)
    unbroken = make_workspace(tmp_path / "unbroken", recipe, processes=2)
    run_training(unbroken)
    killed = make_workspace(tmp_path / "killed", recipe, processes=2)
    for turn, (name, kill) in enumerate(KILLS.items()):
        set_runtime(killed, processes=2, workers=turn % 2, checkpoint_steps=3)
        # Read now: between the last turn's look and its kill the training went on.
        position = progress_of(killed)
        process = start_training(killed)
        wait_for_progress(killed, process, after=position)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2
        kill(process)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0, name
        assert turn == 0 or "of an interrupted run" in output
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, f"after {name} a process lived on"
        assert not (killed / "models/best.pt").exists()
    assert "of an interrupted run" in run_training(killed)
    assert final_files(killed) == final_files(unbroken)
    assert not list((killed / ".carinspect" / "train").glob("*.pt*")), "the state is gone once it has served"


@pytest.mark.slow
def test_ctrl_c_during_training_ends_in_one_line(tmp_path: Path, tiny_recipe: Recipe) -> None:
    workspace = make_workspace(tmp_path, changed(tiny_recipe, epochs=200, batch_size=4, norm_batch_size=2), processes=2)
    set_runtime(workspace, processes=2, workers=1, checkpoint_steps=3)
    process = start_training(workspace)
    wait_for_progress(workspace, process, after=(0, 0))
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    *progress, last = output.splitlines()
    assert (process.returncode, last) == (1, "train_ddp: ended by SIGINT; the same command goes on from the last state")
    assert all(line.startswith(("this training holds", "training on", "epoch")) for line in progress), output


@pytest.mark.slow
def test_one_to_four_processes_agree_within_float_noise(tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = changed(tiny_recipe, norm_batch_size=4)
    weights, metrics = [], []
    for processes in (1, 2, 3, 4):
        workspace = make_workspace(tmp_path / str(processes), recipe, processes=processes)
        run_training(workspace)
        weights.append(torch.load(workspace / "models/best.pt", weights_only=True)["weights"])
        metrics.append(json.loads((workspace / "metrics/train_ddp.json").read_text()))
    for processes, other_weights, other_metrics in zip((2, 3, 4), weights[1:], metrics[1:], strict=True):
        difference = max((weights[0][name].float() - values.float()).abs().max().item() for name, values in other_weights.items())
        worst = max(abs(value - metrics[0][name]) for name, value in other_metrics.items())
        print(f"{processes} processes against 1: weights differ by at most {difference:.1e}, metrics by {worst:.1e}")
        assert difference < 1e-3
        assert other_metrics == pytest.approx(metrics[0], abs=1e-4)


@pytest.mark.slow
def test_a_pretrained_network_begins_with_its_probe_on_any_number_of_processes_and_after_a_kill(
    tmp_path: Path, tiny_recipe: Recipe
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(build_backbone("test_resnet", image_side_px=32).state_dict(), weights)
    model = tiny_recipe.model.model_copy(update={"pretrained": f"sha256:{sha256_of(weights)}", "feature_stages": 2})
    recipe = changed(tiny_recipe, epochs=12, norm_batch_size=4, freeze_norm=True).model_copy(update={"model": model})

    def make_pretrained(name: str, processes: int) -> Path:
        workspace = make_workspace(tmp_path / name, recipe, processes=processes)
        write_parts(recipe, workspace)
        params = yaml.safe_load((workspace / "params.yaml").read_text())
        params["model"]["pretrained"] = str(weights)
        (workspace / "params.yaml").write_text(yaml.safe_dump(params))
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(workspace)}
        subprocess.run([sys.executable, str(ROOT / "stages/probe.py")], cwd=workspace, env=environment, check=True)
        return workspace

    one, two, killed = make_pretrained("one", 1), make_pretrained("two", 2), make_pretrained("killed", 2)
    run_training(one)
    run_training(two)
    process = start_training(killed)
    wait_for_progress(killed, process, after=(2, 0))
    kill_tree(process)
    process.communicate(timeout=60)
    assert "of an interrupted run" in run_training(killed)
    assert final_files(killed) == final_files(two)
    found, other = (torch.load(folder / "models/best.pt", weights_only=True)["weights"] for folder in (one, two))
    assert max((found[name].float() - values.float()).abs().max().item() for name, values in other.items()) < 1e-3
    start = build_backbone("test_resnet", image_side_px=32, pretrained=weights).state_dict()
    assert all(torch.equal(found[f"backbone.{name}"], values) for name, values in start.items() if "running" in name)
    assert not torch.equal(found["backbone.layer1.0.conv1.weight"], start["layer1.0.conv1.weight"])

    # Another probe is another training: its state is not taken up.
    job = job_for(recipe, None)
    paths = [replace(job, table=one / "data/car_inspection_dataset.csv", probe=one / f"models/{name}.pt") for name in ("probe", "best")]
    assert paths[0].state_file != paths[1].state_file


@pytest.mark.slow
def test_a_run_repeated_is_bit_identical_and_another_seed_is_not(tmp_path: Path, tiny_recipe: Recipe) -> None:
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        workspace = make_workspace(tmp_path / name, changed(tiny_recipe, seed=seed), processes=2)
        run_training(workspace)
        results.append(final_files(workspace))
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.slow
def test_a_mistake_stops_before_a_process_is_started_with_one_line(tmp_path: Path, tiny_recipe: Recipe) -> None:
    workspace = make_workspace(tmp_path, tiny_recipe, processes=2)
    table = workspace / "data" / "car_inspection_dataset.csv"
    frame = read_table(table, columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    (workspace / "root" / frame["image_path"][0]).unlink()
    process = start_training(workspace)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "0000.jpg: no such file" in output


@pytest.mark.slow
def test_two_machines_of_which_one_dies_and_comes_back_give_what_one_machine_gives(tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = changed(tiny_recipe, epochs=10)
    alone = make_workspace(tmp_path / "alone", recipe, processes=2)
    run_training(alone)
    # Folders of their own, as on disks of their own.
    first, second = (make_workspace(tmp_path / name, recipe, processes=1, checkpoint_steps=1) for name in ("first", "second"))
    cluster = {"CARINSPECT_NNODES": "2", "CARINSPECT_RDZV_ENDPOINT": f"127.0.0.1:{free_port()}", "GLOO_SOCKET_IFNAME": "lo"}
    host = start_training(first, **cluster)
    helper = start_training(second, "--join", **cluster)
    wait_for_progress(first, host, after=(0, 0))
    family = psutil.Process(helper.pid).children(recursive=True)
    helper.kill()
    helper.communicate()
    assert not psutil.wait_procs(family, timeout=20)[1]
    helper = start_training(second, "--join", **cluster)
    output = finish_training(host)
    assert "of an interrupted run" in output
    finish_training(helper)
    assert final_files(first) == final_files(alone)
    assert not (second / "models").exists()


RANK_SCRIPT = """
import sys
sys.path.insert(0, "{tests}")
import test_engine
test_engine.run_as_rank({folder!r}, int(sys.argv[1]))
"""


def run_as_rank(folder: str, rank: int) -> None:
    """One of two processes, of which the second runs out of memory at its third pass."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    photos = Photos(**torch.load(f"{folder}/photos.pt", weights_only=False))
    recipe = make_recipe()
    peers = Peers(rank=rank, world_size=2, writer=0)
    for name, machine, act in (
        ("short", LINE, room_for(4, first_pass=2) if rank == 1 else None),
        # Of the same first steps, killed on both, and begun again with the smaller size.
        ("resumed", LINE, kill_at(2)),
        ("resumed", replace(LINE, micro_batch=4), None),
        # A state of one process serves two.
        ("from-one", LINE, None),
    ):
        network = make_network(recipe)
        if act:
            on_training_pass(network, act)
        path = Path(folder) / name
        try:
            with Tracker(recipe.questions, None) as tracker:
                progress = train(network, setting_for(recipe, photos, path, tracker, machine=machine, peers=peers))
        except KilledError:
            continue
        if rank == 0:
            torch.save(vars(progress), path / "progress.pt")


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank_halves_on_all_and_another_number_of_processes_resumes(
    tmp_path: Path, photos: Photos, tiny_recipe: Recipe, one_process: None
) -> None:
    unbroken = train_here(tmp_path / "unbroken", tiny_recipe, photos)
    with pytest.raises(KilledError):
        train_here(tmp_path / "from-one", tiny_recipe, photos, act=kill_at(7))
    folder = tmp_path
    torch.save(vars(photos), folder / "photos.pt")
    script = RANK_SCRIPT.format(tests=Path(__file__).parent, folder=str(folder))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank)], env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    assert "going on with 4 photos at a time" in outputs[0]
    short, resumed, from_one = (
        Progress(**torch.load(folder / name / "progress.pt", weights_only=True)) for name in ("short", "resumed", "from-one")
    )
    assert same(short, resumed)
    assert [row["val_score"] for row in from_one.history] == pytest.approx([row["val_score"] for row in unbroken.history], abs=1e-4)
