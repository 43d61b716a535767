"""Shows a run: a progress bar, a line for each epoch, and sinks (TensorBoard, Weights & Biases) under runs/, which DVC does not track.

All values come from the run's state, so a resumed run shows each epoch once.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from carinspect.core.errors import UserError, one_line
from carinspect.core.questions import Question
from carinspect.images.pixel_cache import cache_folder
from carinspect.training.config import Recipe, TrackingParams
from carinspect.training.pictures import draw_confusions, tile_batch

_SHOWN_EPOCHS = 3
"""Number of first epochs whose first batch is stored as a picture."""


class Sink(Protocol):
    """A place that stores the numbers and pictures of a run."""

    def write_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Store the values, named `group/name`."""

    def write_picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """Store a picture, uint8 (height, width, 3)."""

    def write_model(self, checkpoint: Path, metrics: Mapping[str, Any]) -> None:
        """The finished model and its figures."""

    def close(self) -> None:
        """Wait until all is written."""


class TensorBoardSink:
    """Event files that `tensorboard --logdir runs` shows."""

    def __init__(self, folder: Path, *, epochs_done: int) -> None:
        # purge_step hides epochs that an earlier process wrote and that now run again.
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def write_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """As `Sink`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def write_picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """As `Sink`."""
        self._writer.add_image(name, picture, epoch, dataformats="HWC")

    def write_model(self, checkpoint: Path, metrics: Mapping[str, Any]) -> None:
        """TensorBoard stores no models."""

    def close(self) -> None:
        """As `Sink`."""
        self._writer.close()


# wandb reads it on import. It copies a model to this folder before the upload, and leaves it there in offline mode.
_STAGING = "WANDB_DATA_DIR"


class WandbSink:
    """A run at Weights & Biases, identified by the name of its folder: a resumed training continues the same run.

    WANDB_* variables apply. Source: https://docs.wandb.ai/ref/python (init, log, Artifact) and its page on environment variables.
    """

    def __init__(self, folder: Path, *, project: str, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(_STAGING, str((folder / "wandb").resolve()))
        # Imported here, since it is optional and slow to import.
        import wandb

        self._wandb = wandb
        settings = wandb.Settings(console="off", save_code=False)
        try:
            self._run = wandb.init(project=project, id=folder.name, resume="allow", dir=folder, config=config, settings=settings)
        except wandb.errors.Error as error:
            raise UserError(
                f"tracking.wandb: Weights & Biases refused to start: {one_line(error)} "
                "Run wandb login, or set WANDB_MODE=offline, or tracking.wandb: false."
            ) from None

    def write_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """As `Sink`. wandb ignores a step that the run already has, so a resumed training writes nothing twice."""
        self._run.log(dict(values), step=epoch)

    def write_picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """As `Sink`."""
        self._run.log({name: self._wandb.Image(picture)}, step=epoch)

    def write_model(self, checkpoint: Path, metrics: Mapping[str, Any]) -> None:
        """As `Sink`."""
        self._run.summary.update(dict(metrics))
        artifact = self._wandb.Artifact("car-inspection", type="model", metadata=dict(metrics))
        artifact.add_file(str(checkpoint))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """As `Sink`."""
        self._run.finish()


def check_tracking(params: TrackingParams) -> None:
    """Raise `UserError` when the package of a chosen sink is not installed."""
    if params.wandb and find_spec("wandb") is None:
        raise UserError(
            "tracking.wandb is true, and the package wandb is not installed. "
            "Set it to false, or: pip install -e '.[wandb]' -c constraints.txt"
        )


def run_folder(recipe: Recipe, *, key: str) -> Path:
    """The folder of a run under runs/: the experiment's name, or else the backbone, its image side and the batch; then the start of `key`.

    key: what `state_path` names a training by. A training that resumes under another name goes on in the folder that it has.
    """
    runs = cache_folder().parent / "runs"
    train = recipe.train
    # Set by `dvc exp run`, not by `dvc repro`.
    name = os.environ.get("DVC_EXP_NAME") or f"{recipe.model.backbone}-{train.image_side_px}px-batch{train.effective_batch_size}"
    ending = f"-{key[:8]}"
    return min(runs.glob(f"*{ending}"), default=runs / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}{ending}")


def open_sinks(folder: Path, params: TrackingParams, recipe: Recipe, epochs_done: int) -> list[Sink]:
    """The sinks of one run. `folder`: used by this run only; its name identifies the run."""
    sinks: list[Sink] = [TensorBoardSink(folder, epochs_done=epochs_done)]
    if params.wandb:
        sinks.append(WandbSink(folder, project=params.wandb_project, config=recipe.model_dump(mode="json")))
    return sinks


class Tracker:
    """Shows and stores one run; does nothing in a process that does not write."""

    def __init__(self, questions: Sequence[Question], open_sinks: Callable[[int], list[Sink]] | None) -> None:
        """`open_sinks` is called with the number of epochs already done; None for a process that does not write."""
        self._questions = questions
        self._open_sinks = open_sinks
        self._sinks: list[Sink] = []
        self._bar: tqdm | None = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        for sink in self._sinks:
            sink.close()

    def start(self, *, epochs_done: int, photos_done: int, photos_total: int) -> None:
        """Open the bar and the sinks of a run with `epochs_done` epochs already done. Call once, before any other method.

        `photos_done`, `photos_total`: photos in the steps taken so far, and in all steps of the recipe.
        """
        # None: shown on a terminal, silent in a pipe or a file.
        self._bar = tqdm(
            total=photos_total, initial=photos_done, unit=" photos", unit_scale=True, leave=False, dynamic_ncols=True,
            disable=True if self._open_sinks is None else None,
        )  # fmt: skip
        if self._open_sinks is not None:
            self._sinks = self._open_sinks(epochs_done)

    def advance(self, photos: int) -> None:
        """Advance the bar by one step of `photos` photos."""
        if self._bar is not None:
            self._bar.update(photos)

    def show_first(self, batches: Iterator[torch.Tensor], epoch: int) -> Iterator[torch.Tensor]:
        """Pass the batches through; in the first epochs the first batch is stored as a picture. `epoch` counts from 0."""
        for index, images_BHWC in enumerate(batches):
            if index == 0 and epoch < _SHOWN_EPOCHS:
                for sink in self._sinks:
                    sink.write_picture("augmented batch", tile_batch(images_BHWC.numpy()), epoch + 1)
            yield images_BHWC

    def write_epoch(
        self,
        row: dict[str, Any],
        *,
        rates: Mapping[str, float],
        val_logits: Mapping[str, torch.Tensor],
        val_labels: Mapping[str, torch.Tensor],
    ) -> None:
        """Store and print one row of the history, the learning rate of each group, and the validation confusion matrices."""
        if self._open_sinks is None:
            return
        epoch = row["epoch"]
        scalars = {_tag(name): float(value) for name, value in row.items() if name != "epoch"}
        scalars |= {f"lr/{name}": rate for name, rate in rates.items()}
        arrays = [{name: values.float().numpy() for name, values in some.items()} for some in (val_logits, val_labels)]
        pictures = draw_confusions(self._questions, *arrays)
        for sink in self._sinks:
            sink.write_scalars(scalars, epoch)
            for name, picture in pictures.items():
                sink.write_picture(f"val confusion/{name}", picture, epoch)
        skills = "  ".join(f"{name.removeprefix('val_skill_')} {row[name]:.3f}" for name in row if name.startswith("val_skill_"))
        with tqdm.external_write_mode():
            print(f"epoch {epoch:>3}  loss {row['train_loss_total']:.4f}  val score {row['val_score']:.4f}  ({skills})", flush=True)

    def write_model(self, checkpoint: Path, metrics: Mapping[str, Any]) -> None:
        """Store the finished model and its metrics in every sink."""
        for sink in self._sinks:
            sink.write_model(checkpoint, metrics)


def group_rates(optimiser: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of each parameter group, named by its factor of the recipe's rate; groups with equal factors are merged."""
    return {f"times_{group['lr_scale']:g}": float(group["lr"]) for group in optimiser.param_groups}


def _tag(name: str) -> str:
    """`train_loss_clean` as `train/loss_clean`: viewers group tags by the part before the slash."""
    if name.startswith("loss_weight_"):
        return f"loss_weight/{name.removeprefix('loss_weight_')}"
    group, _, rest = name.partition("_")
    return f"{group}/{rest or name}"
