"""Writes the tables for DVC's plots of the test split, reports/evaluate/*.csv. Without labels a table has only its header.

| file | kinds | columns |
|---|---|---|
| `<name>_precision_recall.csv` | binary | `threshold`, `precision`, `recall` of "class 1 when p >= threshold" |
| `<name>_calibration.csv` | binary, classes | `calibrated`, `mean_probability`, `observed_share`, `photos`; no empty bins |
| `<name>_confusion.csv` | binary, classes | `actual`, `predicted` (the likeliest class; no rule is applied); one row for each photo |
| `<name>_scatter.csv` | score | `label`, `answer`; one row for each photo |
| `risk_coverage_<name>.csv` | all | `coverage`, and `risk_<order>` for each order of metrics.py; blank without such a confidence |

`calibrated` is `no` before calibration and `yes` after it: of a binary question the probability of class 1, of
several classes that of the likeliest one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.evaluation.metrics import confidences_of, losses_of, orders_of, outcomes_and_probabilities
from carinspect.evaluation.predictions import answered, answers_to, chosen_class, numbers
from carinspect.scoring.classification import reliability
from carinspect.scoring.selective import risk_coverage

Curves = dict[str, pd.DataFrame]


def make_curves(table: pd.DataFrame, questions: Sequence[Question]) -> Curves:
    """All tables by their file's stem, from the test rows of predictions completed by `add_probabilities` and `add_spreads`."""
    rows = table[table["split"] == "test"].sort_values("image_path", kind="stable")
    curves: Curves = {}
    for question in questions:
        name, known = question.name, answered(rows, question)
        match question.kind:
            case "binary":
                curves[f"{name}_precision_recall"] = _precision_recall(known, question)
                curves[f"{name}_calibration"] = _calibration(known, question)
                curves[f"{name}_confusion"] = _confusion(known, question)
            case "score":
                columns = {"label": numbers(known, question.column), "answer": answers_to(known, question)}
                curves[f"{name}_scatter"] = pd.DataFrame(columns)
            case "classes":
                curves[f"{name}_calibration"] = _calibration(known, question)
                curves[f"{name}_confusion"] = _confusion(known, question)
            case _:
                assert_never(question.kind)
        curves[f"risk_coverage_{name}"] = _risk_coverage(known, question)
    return curves


def write_curves(curves: Curves, folder: Path) -> None:
    """Write one CSV file for each table, with six decimals."""
    for stem, curve in curves.items():
        text = curve.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_bytes(folder / f"{stem}.csv", text.encode())


def _precision_recall(known: pd.DataFrame, question: Question) -> pd.DataFrame:
    labels_N = numbers(known, question.column)
    if len(np.unique(labels_N)) < 2:
        return pd.DataFrame({"threshold": [], "precision": [], "recall": []})
    precision, recall, threshold = precision_recall_curve(labels_N, answers_to(known, question))
    # scikit-learn adds a last point (1, 0) that has no threshold.
    return pd.DataFrame({"threshold": threshold, "precision": precision[:-1], "recall": recall[:-1]})


def _calibration(known: pd.DataFrame, question: Question) -> pd.DataFrame:
    happened_N, before_N, after_N = outcomes_and_probabilities(known, question)
    parts = []
    for calibrated, said_N in (("no", before_N), ("yes", after_N)):
        bins = reliability(happened_N, said_N)
        columns = {"mean_probability": bins.mean_probability, "observed_share": bins.observed_share, "photos": bins.photos.astype(int)}
        parts.append(pd.DataFrame({"calibrated": calibrated} | columns))
    curve = pd.concat(parts, ignore_index=True)
    return curve[curve["photos"] > 0].reset_index(drop=True)


def _confusion(known: pd.DataFrame, question: Question) -> pd.DataFrame:
    words = np.array(question.classes)
    chosen = {"actual": numbers(known, question.column), "predicted": chosen_class(known, question)}
    return pd.DataFrame({name: words[classes_N.astype(int)] for name, classes_N in chosen.items()})


def _risk_coverage(known: pd.DataFrame, question: Question) -> pd.DataFrame:
    losses_N, found = losses_of(known, question), confidences_of(known, question)
    unknown = np.full(len(known), np.nan)
    risks = {f"risk_{order}": risk_coverage(losses_N, found[order]).risk if order in found else unknown for order in orders_of(question)}
    return pd.DataFrame({"coverage": np.arange(1, len(known) + 1) / max(1, len(known))} | risks)
