"""Which class of each label a photo is in: what the split is stratified over, and what its certificate counts."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from carinspect.core.questions import Question

_SCORE_CLASSES = ("low", "middle", "high", "perfect")

_WITHIN_SOURCE = 0.1
"""Weight of a label's share within one source: small sources cannot be even in everything, and must not spoil the whole."""


def label_classes(table: pd.DataFrame, questions: Iterable[Question]) -> dict[str, pd.Series]:
    """For each label column the class of each photo, or "" where nobody judged. A score is perfect (1) or in a third of those below."""
    return {question.column: _classes(table[question.column], question) for question in questions}


def _classes(values: pd.Series, question: Question) -> pd.Series:
    classes = pd.Series("", index=values.index, dtype=object)
    judged = values.dropna()
    names, numbers = question.classes, judged.to_numpy(int)
    if not question.has_classes:
        thirds = np.quantile(judged[judged < 1], [1 / 3, 2 / 3], method="lower") if (judged < 1).any() else []
        names, numbers = _SCORE_CLASSES, np.where(judged < 1, np.digitize(judged, thirds, right=True), 3)
    classes[judged.index] = [names[number] for number in numbers]
    return classes


class Strata(NamedTuple):
    """What must have the same share in every split: `members` 0/1, (photos, F); `weights` how much each of the F counts."""

    members: csr_array
    weights: np.ndarray


def stratify(table: pd.DataFrame, questions: Iterable[Question]) -> Strata:
    """All photos, each source, each label class, and, counting less, each label class within each source."""
    photos, sources = [np.ones(len(table))], table["source"]
    photos += [(sources == source).to_numpy(float) for source in sorted(sources.unique())]
    within = []
    for classes in label_classes(table, questions).values():
        photos += [(classes == name).to_numpy(float) for name in sorted(set(classes) - {""})]
        pairs = sources[classes != ""].str.cat(classes[classes != ""], sep="\n").reindex(table.index, fill_value="")
        within += [(pairs == pair).to_numpy(float) for pair in sorted(set(pairs) - {""})]
    weights = np.repeat([1.0, _WITHIN_SOURCE], [len(photos), len(within)])
    return Strata(csr_array(np.stack([*photos, *within], axis=1)), weights)
