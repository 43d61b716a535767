"""Predicting a label for photos that the predictor has not seen, nor any photo of their groups, and how good that is.

Legend: N judged photos, D features, K classes.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from carinspect.core.questions import Question
from carinspect.scoring.ranking import Array, roc_auc

Folds = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
"""Positions to learn from and to predict, for each fold."""

_TREES, _LEAF = 40, 3
"""Trees, for a shortcut is seldom a straight line: two sizes out of five, a quality of exactly 88."""


PENALTIES = (10.0, 100.0, 1e3, 1e4)
"""Of the squared weights of the linear models, on standardised features: 1 / C of logistic regression, alpha of ridge regression."""


class Predictor(Protocol):
    """Predicts out of fold; see `predict_from_features`."""

    def __call__(self, features_NxD: Array, labels_N: Array, *, has_classes: bool, folds: Folds, seed: int) -> Array: ...


class LabelledPhotos(NamedTuple):
    """One question's labels over the photos that somebody judged."""

    question: Question
    rows: npt.NDArray[np.intp]
    """Of the table, (N,)."""
    labels_N: npt.NDArray[np.float64]
    groups_N: npt.NDArray[np.str_]

    @property
    def column(self) -> str:
        return self.question.column

    @property
    def has_classes(self) -> bool:
        return self.question.has_classes

    def take(self, kept_N: npt.NDArray[np.bool_]) -> "LabelledPhotos":
        """The photos where `kept_N` is true."""
        return self._replace(rows=self.rows[kept_N], labels_N=self.labels_N[kept_N], groups_N=self.groups_N[kept_N])


def take_labelled(table: pd.DataFrame, question: Question) -> LabelledPhotos:
    """The photos of `table` that have a label of `question`."""
    rows = np.flatnonzero(table[question.column].notna())
    judged = table.iloc[rows]
    return LabelledPhotos(question, rows, judged[question.column].to_numpy(np.float64), judged["group"].to_numpy(np.str_))


def make_folds(labelled: LabelledPhotos, *, folds: int, seed: int) -> Folds | None:
    """Folds that keep groups together and classes apart evenly; None where there is nothing to tell apart.

    That is so where every photo has the same label, and where some class (of a score: the whole) has fewer groups than folds.
    """
    if len(np.unique(labelled.labels_N)) < 2:
        return None
    labels_N = labelled.labels_N if labelled.has_classes else np.zeros(len(labelled.rows))
    if any(len(np.unique(labelled.groups_N[labels_N == label])) < folds for label in np.unique(labels_N)):
        return None
    kind = StratifiedGroupKFold if labelled.has_classes else GroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    return list(splitter.split(labels_N, labels_N, labelled.groups_N))


def predict_from_features(features_NxD: Array, labels_N: Array, *, has_classes: bool, folds: Folds, seed: int) -> Array:
    """Out-of-fold probabilities (N, K) in the order of the sorted classes, or scores (N, 1), by extremely randomised trees.

    Geurts, Ernst and Wehenkel (2006). One thread: the result must not depend on the machine's number of cores.
    """
    classes = np.unique(labels_N)
    answers = np.zeros((len(labels_N), len(classes) if has_classes else 1))
    for learn, judge in folds:
        options = {"n_estimators": _TREES, "min_samples_leaf": _LEAF, "random_state": seed % 2**32, "n_jobs": 1}
        if has_classes:
            forest = ExtraTreesClassifier(**options).fit(features_NxD[learn], labels_N[learn])
            answers[np.ix_(judge, np.searchsorted(classes, forest.classes_))] = forest.predict_proba(features_NxD[judge])
        else:
            answers[judge, 0] = ExtraTreesRegressor(**options).fit(features_NxD[learn], labels_N[learn]).predict(features_NxD[judge])
    return answers


def predict_linearly(features_NxD: Array, labels_N: Array, *, has_classes: bool, folds: Folds, seed: int) -> Array:
    """As `predict_from_features`, by logistic regression, or ridge regression for scores: for frozen features of a backbone.

    The answers are those of the one of `PENALTIES` with the least loss on photos that it did not learn from.
    """
    del seed  # nothing is drawn
    classes, own_N = np.unique(labels_N, return_inverse=True)
    answers = np.zeros((len(PENALTIES), len(labels_N), len(classes) if has_classes else 1))
    for learn, judge in folds:
        scaler = StandardScaler().fit(features_NxD[learn])
        learnt, judged = scaler.transform(features_NxD[learn]), scaler.transform(features_NxD[judge])
        for place, penalty in enumerate(PENALTIES):
            if has_classes:
                model = LogisticRegression(C=1 / penalty, max_iter=500).fit(learnt, labels_N[learn])
                answers[place][np.ix_(judge, np.searchsorted(classes, model.classes_))] = model.predict_proba(judged)
            else:
                answers[place, judge, 0] = Ridge(alpha=penalty).fit(learnt, labels_N[learn]).predict(judged)
    if has_classes:
        losses = -np.log(answers[:, np.arange(len(labels_N)), own_N].clip(1e-12)).mean(axis=1)
    else:
        losses = np.abs(answers[:, :, 0] - labels_N).mean(axis=1)
    return np.asarray(answers[losses.argmin()])


def predict_from_source(sources_N: npt.NDArray[np.str_], labels_N: Array, *, has_classes: bool, folds: Folds) -> Array:
    """As `predict_from_features`, from nothing but each source's mean among the photos learnt from; of all where it has none."""
    classes = np.unique(labels_N)
    targets = (labels_N[:, None] == classes).astype(np.float64) if has_classes else labels_N[:, None]
    answers = np.zeros_like(targets)
    for learn, judge in folds:
        for source in np.unique(sources_N[judge]):
            same = learn[sources_N[learn] == source]
            answers[judge[sources_N[judge] == source]] = targets[same if len(same) else learn].mean(axis=0)
    return answers


def measure_skill(answers: Array, labels_N: Array, *, has_classes: bool, folds: Folds) -> float:
    """For classes the ROC AUC (each class against the rest, averaged; 0.5 is chance), for scores R² (0 is chance).

    The mean over folds, not the value of all photos pooled: a fold with more of a class was predicted by folds with less of it, so that
    knowing nothing would look like being wrong.
    """
    values = [_skill_of_fold(answers, labels_N, learn, judge, has_classes=has_classes) for learn, judge in folds]
    return float(np.nanmean(values)) if np.isfinite(values).any() else (0.5 if has_classes else 0.0)


def _skill_of_fold(
    answers: Array, labels_N: Array, learn: npt.NDArray[np.intp], judge: npt.NDArray[np.intp], *, has_classes: bool
) -> float:
    labels = labels_N[judge]
    if not has_classes:
        error, constant_error = np.square(labels - answers[judge, 0]).sum(), np.square(labels - labels_N[learn].mean()).sum()
        return float(1.0 - error / constant_error) if constant_error > 0 else np.nan
    classes, once = np.unique(labels_N), np.ones((1, len(labels)))
    aucs = [roc_auc((labels == label).astype(np.float64), answers[judge, place], once)[0] for place, label in enumerate(classes)]
    known = [auc for auc in aucs if not np.isnan(auc)]
    return float(np.mean(known)) if known else np.nan
