"""Owns reports/model_card.md: what a person should know before using the model, every figure from the pipeline's own files.

The sections follow Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from carinspect.core.tables import SPLITS
from carinspect.core.tasks import LABEL_COLUMN, TASKS
from carinspect.model.checkpoint import Checkpoint

MEASURES: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "clean": (
        ("roc_auc", "ROC AUC", None),
        ("average_precision", "average precision", "clean_share"),
        ("brier", "Brier score", "constant_brier"),
    ),
    "cleanliness": (("mae", "mean absolute error", "constant_mae"), ("rmse", "root mean squared error", "constant_rmse"),
                    ("spearman", "rank correlation", None)),
    "damage": (("mae", "mean absolute error", "constant_mae"), ("rmse", "root mean squared error", "constant_rmse"),
               ("spearman", "rank correlation", None), ("damaged_roc_auc", "ROC AUC of damaged or not", None)),
    "weather": (("accuracy", "accuracy", "constant_accuracy"), ("macro_f1", "macro F1", "constant_macro_f1")),
}  # fmt: skip
"""For each task: key in metrics/evaluate.json, its words, and the key of what a constant answer scores."""

HEADLINES = {"clean": "roc_auc", "cleanliness": "mae", "damage": "mae", "weather": "accuracy"}
"""The metric that the slices have."""


@dataclass(frozen=True)
class CardFacts:
    """What the card is written from: the table of photos and the files of the stages, as they were read."""

    checkpoint: Checkpoint
    table: pd.DataFrame
    split: dict[str, Any]
    """metrics/split.json"""
    describe: dict[str, Any]
    """metrics/describe.json"""
    evaluate: dict[str, Any]
    """metrics/evaluate.json"""
    calibration: dict[str, Any]
    """models/calibration.json"""
    threshold: dict[str, Any]
    """models/threshold.json"""
    parity: dict[str, Any]
    """metrics/export_onnx.json"""


def draw_model_card(facts: CardFacts) -> str:
    """The card as Markdown. The same facts give the same text: there is no clock in it."""
    tasks = facts.checkpoint.model.tasks
    return _template().render(
        facts=facts,
        tasks=tasks,
        measures=MEASURES,
        headlines=HEADLINES,
        sources=_counts(facts.table, "source", sorted(facts.table["source"].unique())),
        splits=_counts(facts.table, "split", list(SPLITS)),
        slices=[("source", facts.evaluate["sources"]), ("weather of the label", facts.evaluate["weathers"])],
        too_few=_too_few(facts.evaluate, tasks),
    )


def _counts(table: pd.DataFrame, column: str, names: list[str]) -> list[dict[str, Any]]:
    """Photos, groups, and photos with a label of each task, by the values of `column` and in all."""
    parts = [(name, table[table[column] == name]) for name in names] + [("all", table)]
    return [
        {"name": name, "photos": len(rows), "groups": rows["group"].nunique()}
        | {task: int(rows[LABEL_COLUMN[task]].notna().sum()) for task in TASKS}
        for name, rows in parts
    ]


def _too_few(evaluate: dict[str, Any], tasks: list[Any]) -> list[str]:
    """The slices that have labels of a task, but too few groups to judge by."""
    slices = [*evaluate["sources"].items(), *evaluate["weathers"].items()]
    weak = {name: [task for task in tasks if scores[task]["too_few"] and scores[task]["photos"]] for name, scores in slices}
    return [f"{name} ({', '.join(found)})" for name, found in weak.items() if found]


def _template() -> jinja2.Template:
    text = resources.files("carinspect.export").joinpath("card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"figure": _figure, "interval": _interval, "cell": _cell}
    return environment.from_string(text)


def _cell(text: str) -> str:
    # A source's name is anybody's, and a bare bar would end the cell.
    return text.replace("|", "\\|")


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _interval(scores: dict[str, Any], name: str) -> str:
    low, high = scores[f"{name}_low"], scores[f"{name}_high"]
    return "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"
