"""Doubtful labels: copies of one photo with different labels, and labels that a predictor which never saw the photo would not give.

With a pretrained backbone (`model.pretrained`) the predictor sees its frozen features: dirt, scratches, rain. Without one it sees an
image's statistics and its coarse layout, no more: it can doubt a photo of snow that is labelled clear, and no scratch. Where it is hardly
better than chance its doubts are noise, and none is listed. Where a label can be told from the source, it knows the source, and never
doubts a label that the whole source shares.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.filter import find_label_issues

from carinspect.core.questions import Question, label_columns
from carinspect.core.seeds import derive_seed
from carinspect.describe.config import DescribeParams
from carinspect.describe.oddities import Measured
from carinspect.describe.prediction import (
    LabelledPhotos,
    Predictor,
    make_folds,
    measure_skill,
    predict_from_features,
    predict_linearly,
    take_labelled,
)
from carinspect.scoring.ranking import Array

LEAST_AUC, LEAST_R2 = 0.7, 0.2
"""Of the predictor; with less, its doubts are noise."""

_CLEAR_MARGIN = 0.3
"""A class that is likelier by this much is doubted in any case. The noise estimated per class, alone, misses one wrong label in five."""

_LEAST_GAP = 0.25
"""Between two scores, for the difference to be one that a person would see."""

COPIES = ("bytes", "near-duplicate")
"""Reasons of a pair that show the same picture."""

FAMILIES = ("family",)
"""Copies that an export made of one photo, or photos of one vehicle, which may have been washed in between: a person knows which."""

_RELATION = {"bytes": "its copy", "near-duplicate": "its copy", "family": "of its family (copies of one photo, or one vehicle),"}


class Suspect(NamedTuple):
    """A label to look at again."""

    image_path: str
    column: str
    label: str
    """As it stands, in words."""
    doubt: float
    """0..1: how far the label lies from what was expected."""
    reason: str


class Doubts(NamedTuple):
    """Of one label column; the most doubtful first."""

    column: str
    metric: str
    skill: float | None
    """Of the predictor, out of fold; None where there were too few groups to try."""
    trusted: bool
    suspects: tuple[Suspect, ...]


def find_contradictions(
    table: pd.DataFrame, questions: Sequence[Question], pairs: pd.DataFrame, reasons: Sequence[str] = COPIES
) -> list[Suspect]:
    """Pairs, tied by one of `reasons`, with different labels: one entry for each label of each pair, the second photo named in the reason.

    pairs: columns `first`, `second` (image paths) and `reason`.
    """
    labels = table.set_index("image_path")[label_columns(questions)]
    copies = pairs[pairs["reason"].isin(reasons)].drop_duplicates(["first", "second"])
    firsts, seconds = (labels.loc[copies[side]].reset_index(drop=True) for side in ("first", "second"))
    gaps = (firsts - seconds).abs()
    for asked in questions:
        if asked.from_score is not None:
            # A photo that is whole here and damaged there has two scores as well: one entry says it.
            gaps.loc[gaps[asked.column] > 0, asked.from_score.column] = np.nan
    found = []
    for asked in questions:
        for row in np.flatnonzero(gaps[asked.column] >= (1.0 if asked.has_classes else _LEAST_GAP)):
            label, other = (asked.say_label(side[asked.column].iloc[row]) for side in (firsts, seconds))
            reason = f"{_RELATION[copies['reason'].iloc[row]]} {copies['second'].iloc[row]} says {other}"
            doubt = min(1.0, float(gaps[asked.column].iloc[row]))
            found.append(Suspect(str(copies["first"].iloc[row]), asked.column, label, doubt, reason))
    return sorted(found, key=lambda suspect: (-suspect.doubt, suspect))


def find_doubts(
    table: pd.DataFrame, questions: Sequence[Question], measured: Measured, params: DescribeParams, learned: Array | None = None
) -> list[Doubts]:
    """For each label column that is there, what a predictor finds least likely. Rows as in `table`.

    learned: frozen features of a backbone, (rows, features); None: the predictor has statistics and layout alone.
    """
    features = np.hstack([measured.statistics.to_numpy(np.float64), measured.layouts]) if learned is None else learned
    predict = predict_from_features if learned is None else predict_linearly
    return [
        _doubt(table, take_labelled(table, asked), features, predict, params) for asked in questions if table[asked.column].notna().any()
    ]


def _doubt(table: pd.DataFrame, labelled: LabelledPhotos, features: Array, predict: Predictor, params: DescribeParams) -> Doubts:
    column, has_classes = labelled.column, labelled.has_classes
    metric, least = ("ROC AUC", LEAST_AUC) if has_classes else ("R²", LEAST_R2)
    folds = make_folds(labelled, folds=params.folds, seed=derive_seed(params.seed, "doubt folds", column))
    if folds is None:
        return Doubts(column, metric, None, False, ())
    features_NxD, labels_N = features[labelled.rows], labelled.labels_N
    seed = derive_seed(params.seed, "doubt trees", column)
    answers = predict(features_NxD, labels_N, has_classes=has_classes, folds=folds, seed=seed)
    skill = measure_skill(answers, labels_N, has_classes=has_classes, folds=folds)
    if skill < least:
        return Doubts(column, metric, skill, False, ())
    suspects = _doubt_classes(labelled, answers) if has_classes else _doubt_scores(labelled, answers[:, 0])
    order = _one_of_each_group(sorted(suspects, key=lambda item: (-item[1], item[0])), labelled)
    paths = table["image_path"].to_numpy(np.str_)[labelled.rows]
    found = (Suspect(str(paths[n]), column, labelled.question.say_label(labels_N[n]), doubt, reason) for n, doubt, reason in order)
    return Doubts(column, metric, skill, True, tuple(found))


def _one_of_each_group(suspects: Sequence[tuple[int, float, str]], labelled: LabelledPhotos) -> list[tuple[int, float, str]]:
    """The first of each group: its copies would say the same."""
    first = {labelled.groups_N[n]: (n, doubt, reason) for n, doubt, reason in reversed(suspects)}
    return [suspect for suspect in suspects if first[labelled.groups_N[suspect[0]]] == suspect]


def _doubt_classes(labelled: LabelledPhotos, answers_NxK: Array) -> Sequence[tuple[int, float, str]]:
    """(n, doubt, reason) of photos whose label is likely wrong; the doubt is by how much another class is likelier.

    Confident learning (Northcutt, Jiang and Chuang 2021), as cleanlab has it: a class's threshold is the mean confidence in it, and as many
    are taken as the estimated noise of each class says; and those with a clear margin.
    """
    classes = np.unique(labelled.labels_N)
    own_N = np.searchsorted(classes, labelled.labels_N)
    everyone = np.arange(len(own_N))
    given_N = answers_NxK[everyone, own_N]
    others = answers_NxK.copy()
    others[everyone, own_N] = -1.0
    best_N = others.argmax(axis=1)
    margin_N = others[everyone, best_N] - given_N
    return [
        (n, float(margin_N[n]), f"photos like it are {labelled.question.say_label(classes[best_N[n]])} ({others[n, best_N[n]]:.0%} likely)")
        for n in np.flatnonzero((margin_N > 0) & (_likely_wrong(own_N, answers_NxK) | (margin_N > _CLEAR_MARGIN))).tolist()
    ]


def _likely_wrong(own_N: npt.NDArray[np.intp], answers_NxK: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(find_label_issues(own_N, answers_NxK, filter_by="prune_by_noise_rate", n_jobs=1), dtype=bool)


def _doubt_scores(labelled: LabelledPhotos, answers_N: Array) -> Sequence[tuple[int, float, str]]:
    gap_N = np.abs(answers_N - labelled.labels_N)
    return [(n, float(gap_N[n]), f"photos like it score {answers_N[n]:.2f}") for n in np.flatnonzero(gap_N >= _LEAST_GAP).tolist()]
