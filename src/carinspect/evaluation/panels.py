"""Draws evaluation.png and confidence.png in reports/evaluate from the tables of curves.py.

The same tables give the same bytes.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.evaluation.curves import Curves
from carinspect.evaluation.metrics import constant_answer, orders_of

BLUE, GREY, RED = "#2b6cb0", "#9aa0a8", "#c0392b"
ORDERS = {
    "dropout": ("spread of dropout", BLUE, "-"),
    "probability": ("largest probability", "#d98032", "-"),
    "oracle": ("oracle: no order does better", GREY, "--"),
}
PANELS_A_ROW = 3

Panel = tuple[Callable[[Axes, pd.DataFrame, Question], None], pd.DataFrame, Question]
"""The function that draws a panel, its table and its question."""


def write_overview(curves: Curves, questions: Sequence[Question], path: Path, *, train_labels: pd.DataFrame | None) -> None:
    """Draw the results on test: three panels for each binary question, one for any other.

    With `train_labels` the constant answer of each score is drawn too.
    """
    panels: list[Panel] = []
    # Binary questions come first, because each fills a row.
    for asked in sorted(questions, key=lambda question: question.kind != "binary"):
        name = asked.name
        match asked.kind:
            case "binary":
                panels.append((_draw_precision_recall, curves[f"{name}_precision_recall"], asked))
                panels.append((_draw_reliability, curves[f"{name}_calibration"], asked))
                panels.append((_draw_confusion, curves[f"{name}_confusion"], asked))
            case "score":
                constant = None if train_labels is None else constant_answer(train_labels, asked)
                panels.append((partial(_draw_scatter, constant=constant), curves[f"{name}_scatter"], asked))
            case "classes":
                panels.append((_draw_confusion, curves[f"{name}_confusion"], asked))
            case _:
                assert_never(asked.kind)
    _write_panels(panels, path)


def write_confidence_plot(curves: Curves, questions: Sequence[Question], path: Path) -> None:
    """Draw whether confidence predicts errors: risk over coverage of each question, and reliability for several classes."""
    panels: list[Panel] = [(_draw_risk_coverage, curves[f"risk_coverage_{asked.name}"], asked) for asked in questions]
    panels += [(_draw_reliability, curves[f"{asked.name}_calibration"], asked) for asked in questions if asked.kind == "classes"]
    legend = [Line2D([], [], color=color, ls=line, lw=2, label=label) for label, color, line in ORDERS.values()]
    _write_panels(panels, path, legend=[*legend, Line2D([], [], color=GREY, ls=":", lw=1, label="a random order")])


def _write_panels(panels: Sequence[Panel], path: Path, *, legend: Sequence[Line2D] = ()) -> None:
    rows = max(1, -(-len(panels) // PANELS_A_ROW))
    figure = Figure(figsize=(12, 3.8 * rows), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    places = figure.subplots(rows, PANELS_A_ROW, squeeze=False).ravel()
    for (draw, curve, question), axes in zip(panels, places, strict=False):
        draw(axes, curve, question)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    if legend:
        figure.legend(handles=legend, title="most confident first by", loc="outside lower center", ncols=len(legend), frameon=False)
    buffer = io.BytesIO()
    # matplotlib's version would change the bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw_precision_recall(axes: Axes, curve: pd.DataFrame, question: Question) -> None:
    title = f"{question.name}: precision and recall of '{question.classes[1]}'"
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    _tidy(axes, empty=curve.empty)
    axes.step(curve["recall"], curve["precision"], where="post", color=BLUE, lw=2)


def _draw_reliability(axes: Axes, curve: pd.DataFrame, question: Question) -> None:
    binary = question.kind == "binary"
    axes.set(
        title=f"{question.name}: reliability",
        xlabel=f"mean {question.outputs[-1]} of a bin" if binary else "mean probability of the answer in a bin",
        ylabel=f"share {question.classes[1]}" if binary else "share right",
        xlim=(0, 1.02),
        ylim=(0, 1.05),
    )
    _tidy(axes, empty=curve.empty)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for calibrated, color, label in (("no", GREY, "before calibration"), ("yes", BLUE, "after")):
        bins = curve[curve["calibrated"] == calibrated]
        axes.plot(bins["mean_probability"], bins["observed_share"], color=color, lw=1, alpha=0.6, label=label)
        # The area of a dot shows the number of photos in its bin.
        area = 300 * bins["photos"] / max(1, bins["photos"].max())
        axes.scatter(bins["mean_probability"], bins["observed_share"], s=area + 6, color=color, alpha=0.75, lw=0)
    if len(curve):
        axes.legend(frameon=False, loc="lower right", fontsize=9)


def _draw_confusion(axes: Axes, pairs: pd.DataFrame, question: Question) -> None:
    names = question.classes
    axes.set(title=f"{question.name}: the likeliest class", xlabel="answer", ylabel="label")
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
        size = min(11, 44 / len(names))
        axes.text(column, row, f"{count}\n{row_share[row, column]:.0%}", ha="center", va="center", color=color, fontsize=size)


def _draw_scatter(axes: Axes, pairs: pd.DataFrame, question: Question, *, constant: float | None) -> None:
    axes.set(title=question.name, xlabel="label", ylabel="answer", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _tidy(axes, empty=pairs.empty)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    axes.scatter(pairs["label"], pairs["answer"], s=14, color=BLUE, alpha=0.5, lw=0)
    if constant is not None and len(pairs):
        axes.axhline(constant, color=RED, lw=1)
        axes.text(0.0, constant + 0.015, "constant answer", color=RED, fontsize=8)


def _draw_risk_coverage(axes: Axes, curve: pd.DataFrame, question: Question) -> None:
    loss = "share wrong" if question.has_classes else "mean absolute error"
    axes.set(title=f"{question.name}: risk over coverage", xlabel="share answered, most confident first", ylabel=loss, xlim=(0, 1.01))
    _tidy(axes, empty=curve.empty)
    if curve.empty:
        return
    axes.axhline(curve["risk_oracle"].iloc[-1], color=GREY, lw=1, ls=":")
    for order in orders_of(question):
        _, color, line = ORDERS[order]
        axes.plot(curve["coverage"], curve[f"risk_{order}"], color=color, ls=line, lw=2 if line == "-" else 1.2)
    # Without errors the curve is flat at 0; the limits keep it at the bottom.
    highest = curve.drop(columns="coverage").max().max()
    axes.set_ylim(-0.03 * max(highest, 0.1), 1.08 * max(highest, 0.1))


def _tidy(axes: Axes, *, empty: bool) -> None:
    """Remove the top and right frame; write "no labels" when there is nothing to draw."""
    axes.spines[["top", "right"]].set_visible(False)
    if empty:
        _say_no_labels(axes)


def _say_no_labels(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=14)
