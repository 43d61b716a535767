"""Owns reports/evaluate/confidence.png: whether the model knows where it errs, drawn from the tables of curves.py."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from carinspect.core.files import write_bytes
from carinspect.core.tasks import TASKS, Task
from carinspect.evaluation.confidence import ORDERS
from carinspect.evaluation.curves import Curves
from carinspect.evaluation.overview import BLUE, GREY, draw_reliability, tidy

STYLES = {
    "dropout": ("spread of dropout", BLUE, "-"),
    "probability": ("largest probability", "#d98032", "-"),
    "oracle": ("oracle: no order does better", GREY, "--"),
}


def write_confidence_plot(curves: Curves, path: Path) -> None:
    """Risk over coverage of each task, and the reliability of weather. The same input gives the same bytes."""
    figure = Figure(figsize=(12, 7.6), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = figure.subplots(2, 3).ravel()
    for panel, task in zip((panels[0], panels[3], panels[4], panels[1]), TASKS, strict=True):
        _risk_coverage(panel, curves[f"risk_coverage_{task}"], task)
    draw_reliability(panels[2], curves["weather_calibration"])
    panels[2].set(title="weather: said and happened", xlabel="mean probability of the answer in a bin", ylabel="share right")
    _legend(panels[5])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _risk_coverage(axes: Axes, curve: pd.DataFrame, task: Task) -> None:
    loss = "share wrong" if task in ("clean", "weather") else "mean absolute error"
    axes.set(title=f"{task}: risk over coverage", xlabel="share answered, most confident first", ylabel=loss, xlim=(0, 1.01))
    tidy(axes, empty=curve.empty)
    if curve.empty:
        return
    axes.axhline(curve["risk_oracle"].iloc[-1], color=GREY, lw=1, ls=":")
    for order in ORDERS[task]:
        _, color, line = STYLES[order]
        axes.plot(curve["coverage"], curve[f"risk_{order}"], color=color, ls=line, lw=2 if line == "-" else 1.2)
    # A model without one error has a flat line, which belongs at the foot.
    highest = curve.drop(columns="coverage").max().max()
    axes.set_ylim(-0.03 * max(highest, 0.1), 1.08 * max(highest, 0.1))


def _legend(axes: Axes) -> None:
    axes.set_axis_off()
    for label, color, line in STYLES.values():
        axes.plot([], [], color=color, ls=line, lw=2, label=label)
    axes.plot([], [], color=GREY, ls=":", lw=1, label="a random order")
    axes.legend(frameon=False, loc="center left", title="most confident first by", alignment="left")
