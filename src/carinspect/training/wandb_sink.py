"""Owns a run at Weights & Biases, an option (`tracking.wandb`): metrics, the recipe, pictures and the model. WANDB_* variables rule it.

Source: https://docs.wandb.ai/ref/python (init, log, Artifact) and its page on environment variables.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carinspect.core.errors import UserError, one_line

# Read when wandb is imported: it copies a model's file aside before it sends it, and in offline mode keeps it there.
_STAGING = "WANDB_DATA_DIR"


class WandbSink:
    """One run, found again by the name of its folder: a resumed training goes on in the same run."""

    def __init__(self, folder: Path, *, project: str, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(_STAGING, str((folder / "wandb").resolve()))
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
        """As `Sink`. A step that the run already has is refused there: a resumed training doubles nothing."""
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
