"""Compares the training loop with the bare step of its model, and with other libraries' loops on the same photos.

    PYTHONPATH=src python benchmarks/train.py [--backbone resnet50 --side 224 --batch 32 --steps 10] [--photos FOLDER] [--device cuda]

All take the same number of photos at a step, with the same network, threads and loader workers, in turns, `--repeats` times each:

    bare         forward, loss, backward and AdamW on one batch in memory
    step         this project's step, all of it, on batches in memory
    loader       this project's augmented batches, without a network
    ours         this project's training loop, from the pre-resized photos (the validation after an epoch aside)
    timm         a plain loop over timm's own dataset, transforms and loader, from the files
    torchvision  a plain loop over ImageFolder, the reference recipe's transforms and a DataLoader, from the files

`start-up` is the time from calling the stage to the end of an epoch of one step; `memory` is what the loader's processes hold for
themselves after each of five epochs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
import timm
import torch
import yaml
from torch import distributed, nn
from torchvision import datasets, transforms

from carinspect.core.files import sha256_of
from carinspect.core.params import load_params
from carinspect.core.tables import dataset_columns, write_table
from carinspect.demo.config import RenderDemoParams
from carinspect.demo.root import render_data_root
from carinspect.images.decode import SUFFIXES, PhotoError, decode_photo
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.backbones import build_backbone
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.batches import MicroBatchLoader, Photos, labels_as_tensors, plan_epoch
from carinspect.training.config import Recipe
from carinspect.training.loop import Setting, train
from carinspect.training.losses import Objective
from carinspect.training.micro_batch import MicroBatch
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.optimiser import build_optimiser
from carinspect.training.processes import Peers
from carinspect.training.recipe import resolve_recipe, write_recipe
from carinspect.training.runtime import Machine
from carinspect.training.step import Share, Trainer, train_step
from carinspect.training.tracking import Tracker

ROOT = Path(__file__).parent.parent
ALONE = Peers(rank=0, world_size=1, writer=0)
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CONTESTANTS = ("bare", "step", "loader", "ours", "timm", "torchvision")
"""Methods of `Bench`."""
MEMORY_EPOCHS = 5


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The cache of decoded photos lies in DVC_ROOT: here it must start empty.
        os.environ["DVC_ROOT"] = name
        distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        bench = Bench(arguments, folder)
        found: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
        for _ in range(arguments.repeats):
            for contestant in CONTESTANTS:
                found[contestant].append(getattr(bench, contestant)())
        report(arguments, found)
        print("start-up  " + "  ".join(f"{seconds:.1f} s" for seconds in bench.start_up()) + "  (first with decoding, then without)")
        print("memory    " + "  ".join(f"{megabytes:.0f}" for megabytes in bench.memory()) + "  MB after each epoch")
        distributed.destroy_process_group()


def read_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """given: instead of those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbone", default="test_resnet", help="a timm model")
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--batch", type=int, default=32, help="photos at a step")
    parser.add_argument("--steps", type=int, default=20, help="timed in each repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--photos", type=Path, help="a folder with photos; without it the demo's renderer draws some")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=tuple(AUTOCAST), default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    return parser.parse_args(given)


def report(arguments: argparse.Namespace, found: dict[str, list[float]]) -> None:
    """Photos a second of each, and its share of the bare step in the same repetition."""
    print(
        f"{arguments.backbone}, {arguments.side} px, batch {arguments.batch}, {arguments.precision} on {arguments.device}, "
        f"{arguments.threads} threads, {arguments.workers} workers, {arguments.repeats} x {arguments.steps} steps"
    )
    print(f"{'':<12}{'photos/s':>10}{'lowest':>10}{'highest':>10}{'of bare':>10}{'lowest':>10}{'highest':>10}")
    for contestant, rates in found.items():
        shares = [rate / bare for rate, bare in zip(rates, found["bare"], strict=True)]
        figures = [f"{value:10.1f}" for value in (statistics.median(rates), min(rates), max(rates))]
        figures += [f"{value:10.2f}" for value in (statistics.median(shares), min(shares), max(shares))]
        print(f"{contestant:<12}{''.join(figures)}")


class Clock(Tracker):
    """Records when each step of a training ended."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.questions, None)
        self.ends: list[float] = []

    def advance(self, photos: int) -> None:
        synchronise()
        self.ends.append(time.perf_counter())


class Bench:
    """The same photos, network and recipe for all."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder, self.device = arguments, folder, torch.device(arguments.device)
        # One step more than is timed, for the warm-up.
        self.count = arguments.batch * (arguments.steps + 1)
        self.root = collect_photos(arguments.photos, folder, self.count)
        paths = sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*.*"))
        self.machine = Machine(
            device=arguments.device, processes=1, workers=arguments.workers, compile=False, pin_memory=arguments.device == "cuda",
            micro_batch="norm", checkpoint_steps=0,
        )  # fmt: skip
        self.recipe = make_recipe(arguments)
        self.table = make_table(self.root, paths, self.recipe)
        # Photos repeat if there are fewer than the steps need.
        taken = [paths[index % len(paths)] for index in range(self.count)]
        rows = self.table.set_index("image_path").loc[taken].reset_index()
        pixels = open_pixel_cache(self.root, taken, rows["sha256"].tolist(), side_px=arguments.side)
        labels = labels_as_tensors(rows, self.recipe.questions)
        self.photos = Photos([f"{index}/{path}" for index, path in enumerate(taken)], pixels, labels)
        self.few = Photos(self.photos.image_paths[:8], pixels[:8], {column: values[:8] for column, values in self.photos.labels.items()})

    def network(self) -> CarInspectionNetwork:
        torch.manual_seed(0)
        backbone = build_backbone(self.arguments.backbone, image_side_px=self.arguments.side)
        return CarInspectionNetwork(self.recipe.model, self.recipe.questions, backbone=backbone).to(self.device).train()

    def bare(self) -> float:
        network = self.network()
        photos = torch.from_numpy(self.photos.pixels[: self.arguments.batch].copy()).to(self.device)
        truth = (torch.arange(len(photos)) % 2).float().to(self.device)

        def loss() -> torch.Tensor:
            # A cross-entropy of one output, and an equally cheap loss of the others.
            first, *others = network(photos).values()
            return nn.functional.binary_cross_entropy_with_logits(first, truth) + sum(values.square().mean() for values in others)

        return self.timed(network, (loss for _ in range(self.arguments.steps + 1)))

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """With sums that are repeatable on a GPU, as in a training process."""
        torch.use_deterministic_algorithms(self.device.type == "cuda", warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    def step(self) -> float:
        network = self.network()
        objective = Objective(self.recipe, self.photos.labels, device=self.device)
        trainer = Trainer(
            network=network,
            optimiser=build_optimiser(network, objective.weights, self.recipe.train),
            scaler=self.scaler(),
            objective=objective,
            recipe=self.recipe,
            statistics=NormStatistics(network),
            micro_batch=MicroBatch(self.arguments.batch, on_change=lambda size: None),
        )
        ends = []
        for number, step in enumerate(plan_epoch(self.recipe, self.photos.labels, epoch=0)):
            images = iter([torch.from_numpy(self.photos.pixels[step.positions])])
            with self.repeatable():
                train_step(Share(trainer, photos=self.photos, step=step, number=number, own_parts=[0], images=images))
            synchronise()
            ends.append(time.perf_counter())
        return self.rate(ends)

    def loader(self) -> float:
        loader = MicroBatchLoader(self.photos, self.recipe, self.machine)
        plan = plan_epoch(self.recipe, self.photos.labels, epoch=0)
        return self.rate([time.perf_counter() for _ in loader.epoch(0, [draws for step in plan for draws in step.draws])])

    def ours(self) -> float:
        with self.repeatable(), Clock(self.recipe) as clock:
            setting = Setting(
                recipe=self.recipe, machine=self.machine, peers=ALONE, photos=self.photos, validation=self.few,
                state_file=self.folder / "state.pt", tracker=clock,
            )  # fmt: skip
            train(self.network(), setting)
        (self.folder / "state.pt").unlink()
        return self.rate(clock.ends)

    def timm(self) -> float:
        network = timm.create_model(self.arguments.backbone, num_classes=2).to(self.device).train()
        config = timm.data.resolve_data_config({}, model=network)
        loader = timm.data.create_loader(
            timm.data.create_dataset("folder", root=str(self.root)), input_size=(3, self.arguments.side, self.arguments.side),
            batch_size=self.arguments.batch, is_training=True, use_prefetcher=self.arguments.device == "cuda", mean=config["mean"],
            std=config["std"], num_workers=self.arguments.workers, pin_memory=self.machine.pin_memory, device=self.device,
            persistent_workers=self.arguments.workers > 0,
        )  # fmt: skip
        return self.plain_loop(network, loader)

    def torchvision(self) -> float:
        network = timm.create_model(self.arguments.backbone, num_classes=2).to(self.device).train()
        # references/classification/presets.py of torchvision, as for its ResNet-50: without the options that it adds.
        reference = transforms.Compose([
            transforms.RandomResizedCrop(self.arguments.side), transforms.RandomHorizontalFlip(), transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])  # fmt: skip
        loader = torch.utils.data.DataLoader(
            datasets.ImageFolder(str(self.root), transform=reference), batch_size=self.arguments.batch, shuffle=True, drop_last=True,
            num_workers=self.arguments.workers, pin_memory=self.machine.pin_memory, persistent_workers=self.arguments.workers > 0,
        )  # fmt: skip
        return self.plain_loop(network, loader)

    def plain_loop(self, network: nn.Module, loader: Any) -> float:
        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            while True:
                yield from loader

        def losses() -> Iterator[Callable[[], torch.Tensor]]:
            for _, (images, truth) in zip(range(self.arguments.steps + 1), batches(), strict=False):
                images, truth = images.to(self.device, non_blocking=True), truth.to(self.device, non_blocking=True)
                yield lambda images=images, truth=truth: nn.functional.cross_entropy(network(images), truth)

        return self.timed(network, losses())

    def timed(self, network: nn.Module, losses: Iterator[Callable[[], torch.Tensor]]) -> float:
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
        autocast, scaler = AUTOCAST[self.arguments.precision], self.scaler()
        ends = []
        for loss in losses:
            optimiser.zero_grad()
            with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
                value = loss()
            scaler.scale(value).backward()
            scaler.step(optimiser)
            scaler.update()
            synchronise()
            ends.append(time.perf_counter())
        return self.rate(ends)

    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.arguments.precision == "fp16")

    def rate(self, ends: list[float]) -> float:
        """Photos a second, from the end of the first step, which warms up, to that of the last."""
        return self.arguments.batch * (len(ends) - 1) / (ends[-1] - ends[0])

    def start_up(self) -> list[float]:
        workspace = self.folder / "workspace"
        rows = self.table.iloc[: self.arguments.batch + 8].copy()
        rows["split"] = ["train"] * (len(rows) - 8) + ["val"] * 8
        write_table(rows, workspace / "data" / "car_inspection_dataset.csv", self.recipe.questions)
        write_recipe(self.recipe, workspace / "data" / "recipe.yaml")
        params = load_params(ROOT / "params.yaml") | {"hardware": "cpu", "data": {"root": str(self.root), "sources": "none"}}
        profile = params["profiles"]["cpu"]["runtime"]
        profile |= {"device": self.arguments.device, "processes": 1, "workers": self.arguments.workers}
        (workspace / "params.yaml").write_text(yaml.safe_dump(params))
        return [self.first_epoch(workspace) for _ in range(2)]

    def first_epoch(self, workspace: Path) -> float:
        start = time.perf_counter()
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(workspace)}
        with subprocess.Popen(
            [sys.executable, str(ROOT / "stages" / "train_ddp.py")], cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True
        ) as stage:
            assert stage.stdout is not None
            lines = [(line, time.perf_counter() - start) for line in stage.stdout]
        if stage.returncode:
            sys.exit(f"The stage ended with the status {stage.returncode}.")
        return next(seconds for line, seconds in lines if line.startswith("epoch   1"))

    def memory(self) -> list[float]:
        loader = MicroBatchLoader(self.photos, self.recipe, self.machine)
        held = []
        for epoch in range(MEMORY_EPOCHS):
            plan = plan_epoch(self.recipe, self.photos.labels, epoch=epoch)
            for _ in loader.epoch(epoch, [draws for step in plan for draws in step.draws]):
                pass
            here = psutil.Process()
            # USS leaves out shared memory: the memory-mapped photos count as resident in every process that reads them.
            held.append(sum(process.memory_full_info().uss for process in (here, *here.children())) / 2**20)
        return held


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def collect_photos(given: Path | None, folder: Path, count: int) -> Path:
    """Photos in two class folders, as ImageFolder requires: links to those in `given`, or to drawn ones."""
    if given is None:
        given = folder / "drawn"
        render_data_root(given, RenderDemoParams(seed=1, photos=min(512, max(64, count))))
    found = [path for path in sorted(given.rglob("*")) if path.suffix.lower() in SUFFIXES and is_sound(path)][:count]
    if len(found) < 2:
        sys.exit(f"--photos: '{given}' has {len(found)} photos. Name a folder with more.")
    root = folder / "root"
    for index, path in enumerate(found):
        link = root / ("clean", "dirty")[index % 2] / f"{index:06}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return root


def is_sound(path: Path) -> bool:
    try:
        decode_photo(path, at_least_px=32)
    except PhotoError:
        return False
    return True


def make_table(root: Path, paths: list[str], recipe: Recipe) -> pd.DataFrame:
    """A dataset table of these photos, every one labelled."""
    table = pd.DataFrame({"image_path": paths, "sha256": [sha256_of(root / path) for path in paths], "split": "train"})
    table = table.assign(source="photos", width_px=1, height_px=1, phash="", family="", declared_split="", group=table["image_path"])
    random = np.random.default_rng(0)
    for asked in recipe.questions:
        table[asked.column] = random.integers(0, asked.highest_label + 1, len(table)).astype(float)
    return table[dataset_columns(recipe.questions)]


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    """The demo's recipe, its augmentation included, with another network and batch."""
    params = load_params(ROOT / "params.yaml")
    params["model"]["backbone"] = arguments.backbone
    params["train"] |= {
        "epochs": 1, "batch_size": arguments.batch, "accumulate_steps": 1, "norm_batch_size": arguments.batch,
        "image_side_px": arguments.side, "precision": arguments.precision, "lr": 1e-4,
    }  # fmt: skip
    return resolve_recipe(params, pretrained="none", resume="none")


if __name__ == "__main__":
    main()
