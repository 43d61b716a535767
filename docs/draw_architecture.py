"""Draws docs/architecture.png: python docs/draw_architecture.py."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

STAGE, FILE, SERVE, INK = "#2b8a9e", "#f0ede6", "#6b74c4", "#1a202c"
WIDTH, HEIGHT, STEP = 2.04, 0.66, 2.5

# Name, x, y, what it makes.
STAGES = [
    ("convert_annotations", 0 * STEP, 3.0, "annotations.csv\nrejected.csv"),
    ("split", 1 * STEP, 3.0, "car_inspection_dataset.csv\nsplit_ledger.json"),
    ("train_ddp", 2 * STEP, 3.0, "best.pt\ncurves"),
    ("evaluate", 3 * STEP, 3.0, "predictions.csv\ncalibration.json"),
    ("select_threshold", 4 * STEP, 3.0, "threshold.json\n(the promise)"),
    ("export_onnx", 5 * STEP, 3.0, "best.onnx\nmodel card"),
    ("describe", 1 * STEP, 1.05, "report.html"),
    ("probe", 3 * STEP, 4.75, ""),
    ("resolve_recipe", 2 * STEP, 4.75, ""),
]
ARROWS = [
    ("convert_annotations", "split"), ("split", "train_ddp"), ("train_ddp", "evaluate"), ("evaluate", "select_threshold"),
    ("select_threshold", "export_onnx"), ("split", "describe"), ("resolve_recipe", "train_ddp"),
    ("resolve_recipe", "probe"), ("probe", "evaluate"),
]  # fmt: skip
USES = ["carinspect score\nfolders, tables, Ray", "carinspect serve\nHTTP and a page", "carinspect inspect,\ndrift, compare, promote"]


def main() -> None:
    figure, axes = pyplot.subplots(figsize=(13.6, 5.4), dpi=110)
    axes.set_xlim(-1.1, 5 * STEP + 1.1)
    axes.set_ylim(0.1, 5.4)
    axes.axis("off")
    places = {name: (x, y) for name, x, y, _ in STAGES}
    for name, x, y, makes in STAGES:
        box(axes, x, y, name, STAGE, "white", weight="bold")
        axes.text(x, y - 0.44, makes, ha="center", va="top", fontsize=8.5, color="#5f6875")
    for start, end in ARROWS:
        arrow(axes, places[start], places[end])
    box(axes, 0.0, 4.75, "data root\nphotos + sources.yaml", FILE, INK)
    box(axes, STEP, 4.75, "params.yaml\nevery knob", FILE, INK)
    arrow(axes, (0.0, 4.75), places["convert_annotations"])
    arrow(axes, (STEP, 4.75), places["resolve_recipe"])
    for place, use in enumerate(USES):
        x = (3 + place) * STEP
        box(axes, x, 0.75, use, SERVE, "white")
        arrow(axes, (5 * STEP, 2.1), (x, 0.75))
    note = "no torch needed: the model file says all that an answer depends on"
    axes.text(4 * STEP, 0.22, note, ha="center", fontsize=9, color="#5f6875")
    figure.savefig(Path(__file__).parent / "architecture.png", bbox_inches="tight", metadata={"Software": None})


def box(axes: pyplot.Axes, x: float, y: float, text: str, face: str, ink: str, weight: str = "normal") -> None:
    """A rounded box around (x, y)."""
    axes.add_patch(
        FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0.02,rounding_size=0.09", fc=face, ec="none")
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=8.4, color=ink, weight=weight)


def arrow(axes: pyplot.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From the edge of one box to the edge of another."""
    if abs(start[1] - end[1]) < 0.1:
        begin, finish = (start[0] + WIDTH / 2 + 0.03, start[1]), (end[0] - WIDTH / 2 - 0.03, end[1])
    else:
        sign = 1 if end[1] > start[1] else -1
        # Below a stage stands what it makes.
        begin = (start[0], start[1] + sign * (HEIGHT / 2 + (0.62 if start[1] == 3.0 else 0.03)))
        finish = (end[0], end[1] - sign * (HEIGHT / 2 + 0.03))
    axes.annotate("", finish, begin, arrowprops={"arrowstyle": "-|>", "color": "#9aa3b0", "lw": 1.5, "shrinkA": 0, "shrinkB": 0})


if __name__ == "__main__":
    main()
