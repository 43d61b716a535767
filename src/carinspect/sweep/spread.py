"""Summarises a sweep: the mean and the range over the seeds, for each backbone and metric."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carinspect.core.files import write_bytes

SHOWN = "val"
"""The split for choosing a backbone; test is for the final figures only."""
BLUE, GREY = "#2b6cb0", "#9aa0a8"


def tabulate(scores: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Columns `split`, `metric`, `backbone`, `seeds`, `mean`, `low`, `high`, one row each; seeds without a value do not count.

    scores: what `combination.score_combination` returned.
    """
    rows = [
        {"split": split, "metric": metric, "backbone": one["backbone"], "value": value}
        for one in scores
        for split in ("val", "test")
        for metric, value in one[split].items()
    ]
    values = pd.DataFrame(rows).astype({"value": float})
    groups = values.groupby(["split", "metric", "backbone"], sort=False)["value"]
    return groups.agg(seeds="count", mean="mean", low="min", high="max").reset_index()


def write_spread(table: pd.DataFrame, path: Path) -> None:
    """The table as CSV: the same scores give the same bytes."""
    write_bytes(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode())


def draw_spread(table: pd.DataFrame, path: Path) -> None:
    """A panel for each metric of `SHOWN`; a backbone is a line from its lowest to its highest seed, with a dot at the mean."""
    shown = table[table["split"] == SHOWN]
    metrics, backbones = list(dict.fromkeys(shown["metric"])), list(dict.fromkeys(shown["backbone"]))
    figure = Figure(figsize=(3.2 * len(metrics) + 1.5, 1.2 + 0.45 * len(backbones)), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_metric(axes, shown[shown["metric"] == metric].set_index("backbone").loc[backbones])
        axes.set_title(metric, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw_metric(axes: Axes, rows: pd.DataFrame) -> None:
    places = range(len(rows))
    axes.hlines(places, rows["low"], rows["high"], color=GREY, lw=3)
    axes.plot(rows["mean"], places, "o", color=BLUE)
    axes.set_yticks(places, [f"{backbone} ({seeds})" for backbone, seeds in zip(rows.index, rows["seeds"], strict=True)])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(SHOWN)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
