"""Plots a rule: precision and recall over the share called good, and the cost of every pair of thresholds."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from carinspect.core.files import write_bytes
from carinspect.inference.rules import Pair, Rule
from carinspect.thresholds.costs import CostMap

BLUE, LIGHT, GREY, RED = "#2b6cb0", "#a9c6e8", "#8a8f98", "#c0392b"
POINTS = 120


def write_threshold_plot(curve: pd.DataFrame, rule: Rule, path: Path) -> None:
    """Precision with its lower bound, recall, and the chosen threshold; the same input gives the same bytes."""
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    known = curve.dropna(subset=["precision"])
    # The x-axis is the share of photos called good, not the threshold, because most thresholds are close to 0 or 1.
    axes.plot(known["coverage"], known["precision"], color=BLUE, lw=2, label="precision")
    axes.fill_between(
        known["coverage"], known["lower_bound"], known["precision"], color=LIGHT, alpha=0.5, lw=0, label="down to its lower bound"
    )
    axes.plot(known["coverage"], known["recall"], color=GREY, lw=1.5, label="recall")
    axes.axhline(rule.target_precision, color=RED, lw=1, ls="--", label=f"target {rule.target_precision:g}")
    good = rule.good
    coverage, precision = good.on_source.coverage, good.on_source.precision
    if good.threshold is not None and coverage is not None and precision is not None:
        label = f"threshold {good.threshold:.4f}" + (", proven" if good.promise else ", not proven")
        axes.axvline(coverage, color="black", lw=1)
        axes.plot([coverage], [precision], "o", color="black", label=label)
        title = f"{good.word.capitalize()} when P({good.word}) ≥ {good.threshold:.4f}"
    else:
        title = f"No threshold is {'proven' if rule.method == 'guaranteed' else 'good enough'}: no decision is {good.word}"
    axes.set(title=title, xlabel=f"share of {rule.source} photos called {good.word}", xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def write_cost_plot(costs: CostMap | None, rule: Rule, path: Path) -> None:
    """A map over the shares of photos that get each word, with the chosen and the cheapest pair; the same input gives the same bytes."""
    good, bad = rule.good.word, rule.bad.word
    figure = Figure(figsize=(7.2, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=f"share of {rule.source} called {bad}", ylabel=f"share called {good}", xlim=(0, 1), ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    if costs is None:
        axes.set_title(f"Too few labels to say what {good} and {bad} would have cost", fontsize=10)
    else:
        # The axes are shares, not thresholds, because most thresholds are close to 0 or 1. The rest up to 1 is reviewed.
        said_bad, said_good, cost = costs.grid(POINTS)
        # A few pairs cost many times more than the others; a power below 1 separates the cheap ones, and allows a cost of 0.
        mesh = axes.pcolormesh(said_bad, said_good, np.ma.masked_invalid(cost), cmap="cividis_r", shading="nearest", norm=PowerNorm(0.4))
        figure.colorbar(mesh, ax=axes, label="cost of 1,000 cars")
        axes.text(0.54, 0.54, "on this edge nothing is left to review", ha="center", va="center", rotation=-45, fontsize=8, color="#5f6875")
        _mark(axes, costs, rule.chosen, marker="o", color="white", label=f"chosen ({_describe(rule)})")
        _mark(axes, costs, rule.cheapest_allowed, marker="s", color="#a9c6e8", label="cheapest that the promise allows")
        _mark(axes, costs, rule.cheapest, marker="*", color="#e07b39", label="cheapest of all, proves nothing")
        axes.set_title(f"Cost of {good} / {bad} for pairs of thresholds", fontsize=11)
        axes.legend(loc="upper right", frameon=False, fontsize=8, labelspacing=1.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _describe(rule: Rule) -> str:
    if rule.T_high is None and rule.T_low is None:
        return "says neither word"
    return "proven" if rule.has_promise else "not proven"


def _mark(axes: Axes, costs: CostMap, pair: Pair | None, *, marker: str, color: str, label: str) -> None:
    assert pair is not None
    x = 0.0 if pair.T_low is None else float(np.interp(pair.T_low, costs.low, costs.said_bad))
    y = 0.0 if pair.T_high is None else float(np.interp(pair.T_high, costs.high[:-1], costs.said_good[:-1]))
    # Larger markers are drawn below smaller ones, so that all are visible when pairs coincide.
    extent = {"o": 17, "s": 11, "*": 10}[marker]
    text = f"{label}: {pair.on_source.cost:.0f}"
    axes.plot([x], [y], marker, ms=extent, mfc=color, mec="black", mew=1, ls="none", label=text, clip_on=False, zorder=5)
