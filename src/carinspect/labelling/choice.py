"""Which photos to label next: those that the model is unsure of and that differ from each other, one photo of a car.

Legend: N photos, Q questions, D features.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.preprocessing import StandardScaler

from carinspect.core.questions import Question
from carinspect.scoring.ranking import Array

SHARPNESS = 8
"""Power of the uncertainty in the weights. `benchmarks/next.py` compares it with others."""

Places = npt.NDArray[np.intp]


def measure_uncertainty(answers: pd.DataFrame, questions: Sequence[Question]) -> Array:
    """How unsure the model is of each photo, (N,): 0 sure, 1 when two classes are equally likely; the mean over the questions with classes.

    answers: the `answer_columns` of each. It is 1 - (p of the likeliest class - p of the next), the margin of Scheffer, Decomain and Wrobel
    (2001), "Active hidden Markov models for information extraction".
    """
    margins = []
    for question in questions:
        p_NxK = answers[question.answer_columns].to_numpy(np.float64)
        both_NxK = np.hstack([p_NxK, 1 - p_NxK]) if question.kind == "binary" else p_NxK
        ranked_NxK = np.sort(both_NxK, axis=1)
        margins.append(1 - (ranked_NxK[:, -1] - ranked_NxK[:, -2]))
    return np.mean(margins, axis=0)


def choose_teaching(
    uncertainty_N: Array, features_NxD: Array, groups_N: npt.NDArray[np.str_], *, budget: int, random: np.random.Generator
) -> Places:
    """Places of up to `budget` photos, the first chosen first, of different groups.

    k-means++ (Arthur and Vassilvitskii 2007) weighted by the uncertainty: a photo is drawn with a probability in proportion to the squared
    distance from the nearest one drawn before, on standardised features, times the uncertainty to the power of `SHARPNESS`. So near
    copies of one hard photo are not drawn together, and an odd photo that is easy is not drawn either.
    """
    features_NxD = StandardScaler().fit_transform(features_NxD)
    # A photo of which the model is sure keeps a chance, so that the draw never ends before the photos do.
    weight_N = np.maximum(uncertainty_N, 1e-6) ** SHARPNESS
    distance_N = np.ones(len(weight_N))
    free_N = np.ones(len(weight_N), bool)
    chosen: list[int] = []
    while free_N.any() and len(chosen) < budget:
        share_N = np.where(free_N, weight_N * distance_N, 0.0)
        # Copies of what was drawn have a distance of 0: when only they are left, one is as good as another.
        share_N = share_N if share_N.sum() > 0 else free_N.astype(np.float64)
        place = int(random.choice(len(share_N), p=share_N / share_N.sum()))
        from_this_N = ((features_NxD - features_NxD[place]) ** 2).sum(axis=1)
        distance_N = np.minimum(distance_N, from_this_N) if chosen else from_this_N
        free_N &= groups_N != groups_N[place]
        chosen.append(place)
    return np.array(chosen, dtype=np.intp)


def choose_at_random(groups_N: npt.NDArray[np.str_], *, budget: int, random: np.random.Generator) -> Places:
    """Places of one photo of each of up to `budget` groups; all groups are equally likely, and so are the photos of each."""
    order = random.permutation(len(groups_N))
    first = pd.Series(groups_N[order]).drop_duplicates().index.to_numpy()
    names = np.sort(groups_N[order][first])
    drawn = set(random.permutation(names)[:budget].tolist())
    return np.array([place for place in order[first] if groups_N[place] in drawn], dtype=np.intp)
