"""Owns the picture of a finished training: what it lost, what it learnt, and how fast it went."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carinspect.core.files import write_bytes

GREY = "#8a8f98"


def draw_curves(history: Sequence[dict[str, Any]], *, best_epoch: int, path: Path) -> None:
    """Write a PNG from the rows of the history, one an epoch; the same rows give the same bytes. `best_epoch` counts from 1."""
    figure = Figure(figsize=(11, 3.6), dpi=120, layout="constrained")
    loss, skill, rate = figure.subplots(1, 3)
    _draw(loss, history, "train_loss_")
    loss.set(title="training loss", ylim=(0, None))
    _draw(skill, history, "val_skill_")
    skill.plot(*_curve(history, "val_score"), color="black", lw=2, label="score")
    # The first epochs can be far worse than the best constant answer, and would flatten all that follows.
    skill.set(title="validation skill (1 perfect, 0 no better than a constant)", ylim=(-0.5, 1.02))
    _draw(rate, history, "lr", "task_weight_")
    rate.set(
        title="learning rate" + (" and task weights" if any(key.startswith("task_weight_") for key in history[-1]) else ""), yscale="log"
    )
    for axes in (loss, skill, rate):
        axes.axvline(best_epoch, color=GREY, lw=1, ls="--", label=f"best epoch, {best_epoch}" if axes is skill else None)
        axes.set(xlabel="epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw(axes: Axes, history: Sequence[dict[str, Any]], *prefixes: str) -> None:
    # An epoch can lack a task: none of its photos had a label.
    names = list(dict.fromkeys(name for row in history for name in row if name.startswith(prefixes)))
    for name in names:
        label = next(name.removeprefix(prefix) or name for prefix in prefixes if name.startswith(prefix))
        axes.plot(*_curve(history, name), lw=1.5, label=label.replace("_", " "), marker="." if len(history) < 20 else None)


def _curve(history: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in history if name in row]
    return [row["epoch"] for row in rows], [row[name] for row in rows]
