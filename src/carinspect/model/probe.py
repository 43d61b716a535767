"""The linear probe: one linear model a question on frozen features, the baseline that a trained network has to beat.

Logistic regression where there are classes; for a score ridge regression of the label's log-odds, so that an answer stays within 0..1, as
the network's does. The features are standardised, and the penalty is the one that does best on groups that it was not fitted on.

Shapes: N photos, F features, K outputs of a question (`Question.head_width`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, log_softmax, logit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.core.seeds import derive_seed
from carinspect.model.checkpoint import to_bytes
from carinspect.scoring.classification import accuracy
from carinspect.scoring.ranking import Array, roc_auc
from carinspect.scoring.regression import mae

FOLDS = 5
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Of the squared weights, in units of one photo's loss: 1 / C of scikit-learn's logistic regression, alpha of its ridge regression."""

MOST_PHOTOS = 4000
"""That the penalty of a question is chosen on, so that a large data set does not take longer; the chosen one is then fitted on all."""

MOST_STEPS = 1000
"""Of the optimiser, which needs the most with the smallest penalty."""

LEAST_SCALE = 0.01
"""Least standard deviation that a feature is divided by, as a share of the median one."""

SCORE_MARGIN = 0.03
"""Scores nearer to 0 or 1 count as this far from it: the log-odds of 0 and 1 are infinite."""


@dataclass(frozen=True)
class QuestionProbe:
    """The linear model of one question; it gives logits, as a head of the network does."""

    weight_KF: Array
    """Of standardised features."""
    bias_K: Array
    penalty: float
    """One of `PENALTIES`."""
    photos: int
    groups: int
    held_out: dict[str, float]
    """On the photos that the penalty was chosen on, each answered by a model that never saw its group: name of the metric → value."""


@dataclass(frozen=True)
class Probe:
    """The standardisation, and the model of each question that had labels to fit it on."""

    mean_F: Array
    scale_F: Array
    questions: Mapping[str, QuestionProbe]

    def answer(self, features_NF: np.ndarray, questions: Sequence[Question]) -> dict[str, Array]:
        """The `raw_columns` of each fitted one of `questions`, (N,) each: as the network gives them."""
        columns: dict[str, Array] = {}
        if not self.questions:
            return columns
        standard_NF = (features_NF - self.mean_F) / self.scale_F
        for question in questions:
            if question.name in self.questions:
                fitted = self.questions[question.name]
                logits_NxK = standard_NF @ fitted.weight_KF.T + fitted.bias_K
                columns |= dict(zip(question.raw_columns, (logits_NxK if question.has_classes else expit(logits_NxK)).T, strict=True))
        return columns

    def save(self, path: Path) -> None:
        """Write it as plain tensors, float64, for `network.begin_with_probe`. Equal probes have equal bytes."""
        content: dict[str, Any] = {"mean": torch.tensor(self.mean_F), "scale": torch.tensor(self.scale_F)}
        heads = {name: {"weight": torch.tensor(one.weight_KF), "bias": torch.tensor(one.bias_K)} for name, one in self.questions.items()}
        write_bytes(path, to_bytes(content | {"questions": heads}))

    def describe(self) -> dict[str, Any]:
        """The content of metrics/probe.json: `features`, and for each question `photos`, `groups`, `penalty` and its `held_out` metric."""
        figures = {
            name: {"photos": one.photos, "groups": one.groups, "penalty": one.penalty, **one.held_out}
            for name, one in self.questions.items()
        }
        return {"features": len(self.mean_F), **figures}

    def say(self) -> str:
        """What the probe reaches, before any training has cost something."""
        if not self.questions:
            return "no probe: model.pretrained is false, so there is no baseline for the network to beat."
        said = [f"{name} {metric} {value:.3f}" for name, one in self.questions.items() for metric, value in one.held_out.items()]
        return f"a linear probe on frozen features reaches, on groups of train that it has not seen: {', '.join(said)}"


EMPTY = Probe(mean_F=np.zeros(0), scale_F=np.zeros(0), questions={})
"""No probe, because no backbone was pretrained: random features are no baseline."""


def fit_probe(features_NF: np.ndarray, table: pd.DataFrame, questions: Sequence[Question], *, seed: int) -> Probe:
    """Fit each question on the rows of `table` that have its label; their features are `features_NF`, as `frozen_features` gives them.

    A question with labels of fewer than two groups, or of one class only, is left out.
    """
    mean_F, scale_F = features_NF.mean(axis=0, dtype=np.float64), features_NF.std(axis=0, dtype=np.float64)
    # A feature that hardly varies would otherwise decide alone, once a network has changed it a little.
    scale_F = np.maximum(scale_F, LEAST_SCALE * np.median(scale_F))
    scale_F[scale_F == 0] = 1.0
    standard_NF = (features_NF - mean_F) / scale_F
    fitted = {}
    for question in questions:
        known_N = table[question.column].notna().to_numpy()
        labels_N, groups_N = table.loc[known_N, question.column].to_numpy(np.float64), table.loc[known_N, "group"].to_numpy(str)
        if len(np.unique(labels_N)) > 1 and len(np.unique(groups_N)) > 1:
            fitted[question.name] = _fit_question(standard_NF[known_N], labels_N, groups_N, question, seed=seed)
    return Probe(mean_F, scale_F, fitted)


def answer_left_out(features_NF: np.ndarray, table: pd.DataFrame, questions: Sequence[Question], *, seed: int) -> pd.DataFrame:
    """`image_path` and raw columns of each photo, by a probe that was fitted on the train rows of the other sources alone.

    NaN where these have no labels for a question.
    """
    parts = []
    for source in sorted(table["source"].unique()):
        own_N = (table["source"] == source).to_numpy()
        fitted_N = (table["split"] == "train").to_numpy() & of_other_sources(table, source)
        probe = fit_probe(features_NF[fitted_N], table[fitted_N], questions, seed=seed) if fitted_N.any() else EMPTY
        parts.append(table.loc[own_N, ["image_path"]].assign(**probe.answer(features_NF[own_N], questions)))
    return pd.concat(parts, ignore_index=True)


def of_other_sources(table: pd.DataFrame, source: str) -> np.ndarray:
    """Which rows belong to another source and to no group with a photo of `source`: a copy there would leak it. Bool, (N,)."""
    groups = set(table["group"][table["source"] == source])
    return ((table["source"] != source) & ~table["group"].isin(groups)).to_numpy()


def _fit_question(features_NF: Array, labels_N: Array, groups_N: np.ndarray, question: Question, *, seed: int) -> QuestionProbe:
    penalty, held_out = _choose_penalty(features_NF, labels_N, groups_N, question, seed=derive_seed(seed, "probe", question.name))
    weight_KF, bias_K = _fit(features_NF, labels_N, question, penalty=penalty)
    return QuestionProbe(weight_KF, bias_K, penalty, photos=len(labels_N), groups=len(np.unique(groups_N)), held_out=held_out)


def _choose_penalty(
    features_NF: Array, labels_N: Array, groups_N: np.ndarray, question: Question, *, seed: int
) -> tuple[float, dict[str, float]]:
    """The penalty with the least loss on groups that were held out, and the headline metric that it reaches there."""
    some_N = draw_groups(groups_N, photos=MOST_PHOTOS, seed=seed)
    features_NF, labels_N, groups_N = features_NF[some_N], labels_N[some_N], groups_N[some_N]
    logits = {penalty: np.zeros((len(labels_N), question.head_width)) for penalty in PENALTIES}
    for fitted_N, held_out_N in _folds(labels_N, groups_N, question, seed=seed):
        for penalty in PENALTIES:
            weight_KF, bias_K = _fit(features_NF[fitted_N], labels_N[fitted_N], question, penalty=penalty)
            logits[penalty][held_out_N] = features_NF[held_out_N] @ weight_KF.T + bias_K
    # Of equal losses the first, with the smallest penalty, is taken.
    chosen = min(PENALTIES, key=lambda one: _loss(logits[one], labels_N, question))
    return chosen, _score(logits[chosen], labels_N, question)


def draw_groups(groups_N: np.ndarray, *, photos: int, seed: int) -> np.ndarray:
    """Which photos belong to whole groups, drawn at random until they hold `photos` or more: bool, (N,); all where there are fewer."""
    names, place_N, sizes = np.unique(groups_N, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.empty(len(names), int)
    before[order] = np.cumsum(sizes[order]) - sizes[order]
    return before[place_N] < photos


def _folds(labels_N: Array, groups_N: np.ndarray, question: Question, *, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fitted, held out) positions of each fold; no group lies on both sides, and the classes have about the same share in each."""
    options: dict[str, Any] = {"n_splits": min(FOLDS, len(np.unique(groups_N))), "shuffle": True, "random_state": seed % 2**32}
    rarest = np.unique(labels_N, return_counts=True)[1].min()
    if question.has_classes and rarest >= options["n_splits"]:
        return list(StratifiedGroupKFold(**options).split(labels_N, labels_N, groups_N))
    return list(GroupKFold(**options).split(labels_N, labels_N, groups_N))


def _fit(features_NF: Array, labels_N: Array, question: Question, *, penalty: float) -> tuple[Array, Array]:
    """Weights (K, F) and biases (K,) of the logits."""
    match question.kind:
        case "score":
            ridge = Ridge(alpha=penalty).fit(features_NF, logit(labels_N.clip(SCORE_MARGIN, 1 - SCORE_MARGIN)))
            return ridge.coef_.reshape(1, -1), np.array([ridge.intercept_])
        case "binary" | "classes":
            return _fit_logistic(features_NF, labels_N, question.head_width, penalty=penalty)
        case _:
            assert_never(question.kind)


def _fit_logistic(features_NF: Array, labels_N: Array, width: int, *, penalty: float) -> tuple[Array, Array]:
    """As `_fit`. A class that no photo has (a fold may lack one) gets no weights, and the odds of one photo against all."""
    classes = np.unique(labels_N).astype(int)
    weight_KF, bias_K = np.zeros((max(2, width), features_NF.shape[1])), np.full(max(2, width), -np.log(len(labels_N) + 1))
    bias_K[classes] = 0.0
    if len(classes) > 1:
        model = LogisticRegression(C=1 / penalty, max_iter=MOST_STEPS).fit(features_NF, labels_N)
        # For two classes scikit-learn has one row, the log-odds of the second; the first keeps its zeros.
        rows = classes[1:] if len(classes) == 2 else classes
        weight_KF[rows], bias_K[rows] = model.coef_, model.intercept_
    return (weight_KF, bias_K) if width > 1 else (weight_KF[1:] - weight_KF[:1], bias_K[1:] - bias_K[:1])


def _loss(logits_NxK: Array, labels_N: Array, question: Question) -> float:
    """What the penalty is chosen by: the negative log-likelihood in nats, or the absolute error of a score; means over the photos."""
    match question.kind:
        case "score":
            return float(np.abs(expit(logits_NxK[:, 0]) - labels_N).mean())
        case "binary":
            return float(np.logaddexp(0, np.where(labels_N == 1, -logits_NxK[:, 0], logits_NxK[:, 0])).mean())
        case "classes":
            return -float(log_softmax(logits_NxK, axis=1)[np.arange(len(labels_N)), labels_N.astype(int)].mean())
        case _:
            assert_never(question.kind)


def _score(logits_NxK: Array, labels_N: Array, question: Question) -> dict[str, float]:
    once_1xN = np.ones((1, len(labels_N)))
    match question.kind:
        case "score":
            return {"mae": float(mae(labels_N, expit(logits_NxK[:, 0]), once_1xN)[0])}
        case "binary":
            return {"roc_auc": float(roc_auc(labels_N, logits_NxK[:, 0], once_1xN)[0])}
        case "classes":
            return {"accuracy": float(accuracy(labels_N, logits_NxK.argmax(axis=1).astype(np.float64), once_1xN)[0])}
        case _:
            assert_never(question.kind)
