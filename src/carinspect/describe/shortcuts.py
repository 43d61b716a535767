"""Source shortcuts: labels that can be read off the file instead of the car, which a network will do before anything else.

DeGrave, Janizek and Lee (2021), "AI for radiographic COVID-19 detection selects shortcuts over signal", show what comes of it.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.questions import Question
from carinspect.core.seeds import derive_seed
from carinspect.describe.config import DescribeParams
from carinspect.describe.prediction import (
    Folds,
    LabelledPhotos,
    make_folds,
    measure_skill,
    predict_from_features,
    predict_from_source,
    take_labelled,
)
from carinspect.images.statistics import STATISTICS
from carinspect.scoring.ranking import Array, roc_auc

Evidence = Literal["statistics", "source"]

EVIDENCE_WORDS: dict[Evidence, str] = {"statistics": "image statistics", "source": "the source's name"}

MOST_PHOTOS = 4000
"""Of one label; of more, whole groups are drawn. A shortcut that so many do not show is none."""

_TELLING = 3  # statistics named for each label


class Shortcut(NamedTuple):
    """How well one kind of evidence tells one label."""

    column: str
    evidence: Evidence
    within: str
    """The one source whose photos were used; blank: all that were annotated."""
    photos: int
    groups: int
    metric: Literal["ROC AUC", "R²"]
    skill: float
    chance: float | None
    """The best of the draws in which the labels were shuffled over the groups. Within a source it is computed only above the limit."""
    limit: float
    telling: tuple[tuple[str, float], ...]
    """The statistics that tell most by themselves, with their skill (ROC AUC, or rank correlation without its sign)."""

    @property
    def warns(self) -> bool:
        """Above the stated level, and above what chance reaches."""
        return self.skill >= self.limit and self.chance is not None and self.skill > self.chance

    @property
    def severity(self) -> float:
        """How much of the way from knowing nothing (0) to knowing the label (1) the evidence goes, for either metric."""
        return 2 * self.skill - 1 if self.metric == "ROC AUC" else self.skill

    def __str__(self) -> str:
        told = f"; most by {', '.join(STATISTICS[name] for name, _ in self.telling)}" if self.telling else ""
        where = f" within {self.within}" if self.within else ""
        return f"{self.column}{where} can be told from {EVIDENCE_WORDS[self.evidence]} alone: {self.metric} {self.skill:.3f}{told}"


def find_shortcuts(table: pd.DataFrame, questions: Iterable[Question], statistics: pd.DataFrame, params: DescribeParams) -> list[Shortcut]:
    """For each label column with enough groups: both kinds of evidence over all photos, and the statistics within each source.

    Within, too: a class folder that was filled from two cameras hides behind other sources. `statistics` has the rows of `table`.
    """
    found = []
    for question in questions:
        asked = take_labelled(table, question)
        sources_N = table["source"].to_numpy(np.str_)[asked.rows]
        found += _judge(asked, sources_N, statistics, params, within="")
        sources = np.unique(sources_N)
        for source in sources if len(sources) > 1 else []:
            inside = sources_N == source
            found += _judge(asked.take(inside), sources_N[inside], statistics, params, within=str(source))
    return found


def _judge(
    asked: LabelledPhotos, sources_N: npt.NDArray[np.str_], statistics: pd.DataFrame, params: DescribeParams, *, within: str
) -> list[Shortcut]:
    drawn = _draw_groups(asked, derive_seed(params.seed, "groups", asked.column, within))
    asked, sources_N = asked.take(drawn), sources_N[drawn]
    folds = make_folds(asked, folds=params.folds, seed=derive_seed(params.seed, "folds", asked.column, within))
    if folds is None:
        return []
    features_NxD = statistics.to_numpy(np.float64)[asked.rows]

    def from_statistics(labels_N: Array) -> Array:
        seed = derive_seed(params.seed, "trees", asked.column, within)
        return predict_from_features(features_NxD, labels_N, has_classes=asked.has_classes, folds=folds, seed=seed)

    def from_source(labels_N: Array) -> Array:
        return predict_from_source(sources_N, labels_N, has_classes=asked.has_classes, folds=folds)

    shortcuts = [_measure(asked, from_statistics, "statistics", folds=folds, params=params, within=within)]
    shortcuts[0] = shortcuts[0]._replace(telling=rank_statistics(asked, features_NxD))
    if not within:
        shortcuts.append(_measure(asked, from_source, "source", folds=folds, params=params, within=within))
    return shortcuts


def _measure(
    asked: LabelledPhotos, predict: Callable[[Array], Array], evidence: Evidence, *, folds: Folds, params: DescribeParams, within: str
) -> Shortcut:
    def skill(labels_N: Array) -> float:
        return measure_skill(predict(labels_N), labels_N, has_classes=asked.has_classes, folds=folds)

    found, limit = skill(asked.labels_N), params.shortcut_auc if asked.has_classes else params.shortcut_r2
    chance = None
    if not within or found >= limit:
        seeds = [derive_seed(params.seed, "dealt", asked.column, within, draw) for draw in range(params.chance_draws)]
        chance = max(skill(deal_labels(asked, seed)) for seed in seeds)
    return Shortcut(
        column=asked.column,
        evidence=evidence,
        within=within,
        photos=len(asked.rows),
        groups=len(np.unique(asked.groups_N)),
        metric="ROC AUC" if asked.has_classes else "R²",
        skill=found,
        chance=chance,
        limit=limit,
        telling=(),
    )


def _draw_groups(labelled: LabelledPhotos, seed: int) -> npt.NDArray[np.bool_]:
    """True for the photos of whole groups, of so many that the last one reaches `MOST_PHOTOS`."""
    names, photos = np.unique(labelled.groups_N, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.isin(labelled.groups_N, names[order][np.cumsum(photos[order]) - photos[order] < MOST_PHOTOS])


def deal_labels(labelled: LabelledPhotos, seed: int) -> Array:
    """Labels that mean nothing: each group gets those of another one, again and again until its photos have one each.

    Whole groups, for photos of one car share their label: shuffling single photos would make chance look smaller than it is.
    """
    names, group_N = np.unique(labelled.groups_N, return_inverse=True)
    donors = np.random.default_rng(seed).permutation(len(names))
    members = np.split(np.argsort(group_N, kind="stable"), np.cumsum(np.bincount(group_N))[:-1])
    dealt = np.empty_like(labelled.labels_N)
    for group, rows in enumerate(members):
        dealt[rows] = np.resize(labelled.labels_N[members[donors[group]]], len(rows))
    return dealt


def rank_statistics(labelled: LabelledPhotos, features_NxD: Array) -> tuple[tuple[str, float], ...]:
    """The statistics that tell most, each by itself: the largest AUC of any class, or the rank correlation without its sign."""
    skills = {name: _skill_alone(labelled, features_NxD[:, place]) for place, name in enumerate(STATISTICS)}
    return tuple(sorted(skills.items(), key=lambda item: -item[1])[:_TELLING])


def _skill_alone(labelled: LabelledPhotos, values_N: Array) -> float:
    if not labelled.has_classes:
        ranks = pd.DataFrame({"label": labelled.labels_N, "value": values_N}).rank()
        return 0.0 if ranks["value"].nunique() < 2 or ranks["label"].nunique() < 2 else abs(float(ranks.corr().iloc[0, 1]))
    once = np.ones((1, len(values_N)))
    aucs = [float(roc_auc((labelled.labels_N == label).astype(np.float64), values_N, once)[0]) for label in np.unique(labelled.labels_N)]
    return max(max(auc, 1.0 - auc) for auc in aucs)
