"""Owns what a person sees of a run: a line for each epoch, and TensorBoard's scalars under runs/ (not tracked: its files hold the time)."""

from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes on rank 0, is silent on the others."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._writer = SummaryWriter(str(folder)) if rank == 0 else None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._writer:
            self._writer.close()

    def write_epoch(self, row: dict[str, Any]) -> None:
        """One row of the history."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "epoch":
                group, _, rest = name.partition("_")
                self._writer.add_scalar(f"{group}/{rest or name}", value, row["epoch"])
        skills = "  ".join(f"{name.removeprefix('val_skill_')} {row[name]:.3f}" for name in row if name.startswith("val_skill_"))
        print(f"epoch {row['epoch']:>3}  loss {row['train_loss_total']:.4f}  val score {row['val_score']:.4f}  ({skills})", flush=True)
