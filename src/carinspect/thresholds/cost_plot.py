"""Owns reports/select_threshold/costs.png and damage_costs.png: what every pair of thresholds would have cost on the source split."""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from carinspect.core.files import write_bytes
from carinspect.thresholds.costs import CostMap
from carinspect.thresholds.selection import Selection

POINTS = 120


def write_cost_plot(costs: CostMap | None, rules: Selection, path: Path, *, above: str, below: str) -> None:
    """A map over the shares of photos that get each word, with the chosen and the cheapest pair; the same input gives the same bytes."""
    figure = Figure(figsize=(7.2, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=f"share of {rules['source']} called {below}", ylabel=f"share called {above}", xlim=(0, 1), ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    if costs is None:
        axes.set_title(f"Too few labels to say what {above} and {below} would have cost", fontsize=10)
    else:
        # Thresholds crowd at both ends of 0..1; over shares the map can be read everywhere. What is left to 1 is reviewed.
        said_below, said_above, cost = costs.grid(POINTS)
        # A few pairs cost many times the others; the root keeps the cheap ones apart, and 0 within the scale.
        mesh = axes.pcolormesh(said_below, said_above, np.ma.masked_invalid(cost), cmap="cividis_r", shading="nearest", norm=PowerNorm(0.4))
        figure.colorbar(mesh, ax=axes, label="cost of 1,000 cars")
        axes.text(0.54, 0.54, "on this edge nothing is left to review", ha="center", va="center", rotation=-45, fontsize=8, color="#5f6875")
        chosen = {"T_high": rules["T_high"], "T_low": rules["T_low"], "forecast": rules["forecast"]}
        _mark(axes, costs, chosen, marker="o", color="white", label=f"chosen ({_describe(rules)})")
        _mark(axes, costs, rules["cheapest_allowed"], marker="s", color="#a9c6e8", label="cheapest that the promise allows")
        _mark(axes, costs, rules["cheapest"], marker="*", color="#e07b39", label="cheapest of all, proves nothing")
        axes.set_title(f"Cost of {above} / {below} for pairs of thresholds", fontsize=11)
        axes.legend(loc="upper right", frameon=False, fontsize=8, labelspacing=1.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _describe(rules: Selection) -> str:
    if rules["T_high"] is None and rules["T_low"] is None:
        return "says neither word"
    return "not proven" if rules["proves"] is None and rules["proves_low"] is None else "proven"


def _mark(axes: Axes, costs: CostMap, pair: Selection, *, marker: str, color: str, label: str) -> None:
    x = 0.0 if pair["T_low"] is None else float(np.interp(pair["T_low"], costs.low, costs.said_below))
    y = 0.0 if pair["T_high"] is None else float(np.interp(pair["T_high"], costs.high[:-1], costs.said_above[:-1]))
    cost = pair["forecast"]["on_source"]["cost"]
    # Larger marks lie below smaller ones, so that pairs that coincide are all seen.
    extent = {"o": 17, "s": 11, "*": 10}[marker]
    text = f"{label}: {cost:.0f}"
    axes.plot([x], [y], marker, ms=extent, mfc=color, mec="black", mew=1, ls="none", label=text, clip_on=False, zorder=5)
