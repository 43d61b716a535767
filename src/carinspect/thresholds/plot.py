"""Owns reports/select_threshold/threshold.png."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from carinspect.core.files import write_bytes

BLUE, LIGHT, GREY, RED = "#2b6cb0", "#a9c6e8", "#8a8f98", "#c0392b"


def write_threshold_plot(curve: pd.DataFrame, rules: dict[str, Any], path: Path) -> None:
    """Precision with its lower bound, recall, and the chosen threshold; the same input gives the same bytes."""
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    known = curve.dropna(subset=["precision"])
    # Thresholds crowd at both ends of 0..1; over the share of photos called clean the curve can be read everywhere.
    axes.plot(known["coverage"], known["precision"], color=BLUE, lw=2, label="precision")
    axes.fill_between(
        known["coverage"], known["lower_bound"], known["precision"], color=LIGHT, alpha=0.5, lw=0, label="down to its lower bound"
    )
    axes.plot(known["coverage"], known["recall"], color=GREY, lw=1.5, label="recall")
    axes.axhline(rules["target_precision"], color=RED, lw=1, ls="--", label=f"target {rules['target_precision']:g}")
    if rules["feasible"]:
        chosen = rules["on_source"]
        label = f"T_clean = {rules['T_clean']:.4f}" + (", proven" if rules["proves"] else ", not proven")
        axes.axvline(chosen["coverage"], color="black", lw=1)
        axes.plot([chosen["coverage"]], [chosen["precision"]], "o", color="black", label=label)
        title = f"Clean when p_clean ≥ {rules['T_clean']:.4f}"
    else:
        title = f"No threshold is {'proven' if rules['method'] == 'guaranteed' else 'good enough'}: nothing is called clean"
    axes.set(title=title, xlabel=f"share of {rules['source']} photos called clean", xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
