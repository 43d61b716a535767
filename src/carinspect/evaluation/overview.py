"""Owns reports/evaluate/evaluation.png: the test split at a glance, drawn from the tables of curves.py."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from carinspect.core.files import write_bytes
from carinspect.core.tasks import WEATHER_CLASSES, Task
from carinspect.evaluation.curves import Curves
from carinspect.evaluation.metrics import constant_answer

BLUE, GREY, RED = "#2b6cb0", "#9aa0a8", "#c0392b"


def write_overview(curves: Curves, path: Path, *, train_labels: pd.DataFrame | None) -> None:
    """Six panels; the constant answer to beat is drawn where `train_labels` tell it. The same input gives the same bytes."""
    figure = Figure(figsize=(12, 7.6), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = figure.subplots(2, 3).ravel()
    _precision_recall(panels[0], curves["precision_recall"])
    draw_reliability(panels[1], curves["calibration"])
    panels[1].set(title="clean: said and happened", xlabel="mean p_clean of a bin", ylabel="share clean")
    _confusion(panels[2], curves["clean_confusion"], names=("dirty", "clean"), title="clean, at p_clean 0.5")
    scales: tuple[Task, ...] = ("cleanliness", "damage")
    for panel, task in zip(panels[3:5], scales, strict=True):
        constant = None if train_labels is None else constant_answer(train_labels, task)
        _scatter(panel, curves[f"{task}_scatter"], task=task, constant=constant)
    _confusion(panels[5], curves["weather_confusion"], names=WEATHER_CLASSES, title="weather")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _precision_recall(axes: Axes, curve: pd.DataFrame) -> None:
    axes.set(title="clean: precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    tidy(axes, empty=curve.empty)
    axes.step(curve["recall"], curve["precision"], where="post", color=BLUE, lw=2)


def draw_reliability(axes: Axes, curve: pd.DataFrame) -> None:
    """A diagram of the columns of calibration.csv, without words."""
    axes.set(xlim=(0, 1.02), ylim=(0, 1.05))
    tidy(axes, empty=curve.empty)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for calibrated, color, label in (("no", GREY, "before calibration"), ("yes", BLUE, "after")):
        bins = curve[curve["calibrated"] == calibrated]
        axes.plot(bins["mean_probability"], bins["observed_share"], color=color, lw=1, alpha=0.6)
        # A bin's dot is as large as its evidence.
        area = 300 * bins["photos"] / max(1, bins["photos"].max())
        axes.scatter(bins["mean_probability"], bins["observed_share"], s=area + 6, color=color, alpha=0.75, lw=0, label=label)
    if len(curve):
        for handle in axes.legend(frameon=False, loc="lower right", fontsize=9).legend_handles:
            handle.set(sizes=[40])  # type: ignore[union-attr]


def _confusion(axes: Axes, pairs: pd.DataFrame, *, names: tuple[str, ...], title: str) -> None:
    axes.set(title=title, xlabel="answer", ylabel="label")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    counts = np.array([[((pairs["actual"] == row) & (pairs["predicted"] == column)).sum() for column in names] for row in names])
    row_share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(row_share, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if pairs.empty:
        _say_no_labels(axes)
        return
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if row_share[row, column] > 0.6 else "#1a202c"
        axes.text(column, row, f"{count}\n{row_share[row, column]:.0%}", ha="center", va="center", color=color, fontsize=11)


def _scatter(axes: Axes, pairs: pd.DataFrame, *, task: str, constant: float | None) -> None:
    axes.set(title=task, xlabel="label", ylabel="answer", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    tidy(axes, empty=pairs.empty)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    axes.scatter(pairs["label"], pairs["answer"], s=14, color=BLUE, alpha=0.5, lw=0)
    if constant is not None and len(pairs):
        axes.axhline(constant, color=RED, lw=1)
        axes.text(0.0, constant + 0.015, "constant answer", color=RED, fontsize=8)


def tidy(axes: Axes, *, empty: bool) -> None:
    """Open frame; says so where there is nothing to draw."""
    axes.spines[["top", "right"]].set_visible(False)
    if empty:
        _say_no_labels(axes)


def _say_no_labels(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=14)
