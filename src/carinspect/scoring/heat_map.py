"""Draws tables of figures as heat maps: a row for each corruption, a column for each severity."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from carinspect.core.files import write_bytes


class HeatMap(NamedTuple):
    """One panel."""

    title: str
    cells: pd.DataFrame
    """Numbers, NaN where unknown."""
    best: float
    """The number that is drawn lightest; `worst`: darkest. Either may be the larger one."""
    worst: float


def write_heat_maps(maps: Sequence[HeatMap], path: Path) -> None:
    """Draw the panels side by side, with every number in its cell; the same numbers give the same bytes."""
    rows = max(len(one.cells) for one in maps)
    figure = Figure(figsize=(1.2 + 3.1 * len(maps), 0.9 + 0.27 * rows), dpi=110, layout="constrained")
    for axes, one in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        values = one.cells.to_numpy(np.float64)
        badness = (values - one.best) / (one.worst - one.best)
        axes.imshow(np.ma.masked_invalid(badness), cmap="YlOrRd", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            said = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
            axes.text(column, row, said, ha="center", va="center", fontsize=7, color="white" if badness[row, column] > 0.7 else "black")
        axes.set_xticks(range(values.shape[1]), one.cells.columns.astype(str), fontsize=7)
        axes.set_yticks(
            range(values.shape[0]), one.cells.index if axes.get_subplotspec().is_first_col() else [""] * len(values), fontsize=7
        )
        axes.set_title(one.title, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    buffer = io.BytesIO()
    # matplotlib's version would change the bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
