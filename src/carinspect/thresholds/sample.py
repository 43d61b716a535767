"""The labelled photos from which a threshold is chosen, one photo drawn from each group, and the results of a threshold on them.

Photos of one group (a car, an export family) are clustered: they tend to be right or wrong together, so they are not independent trials.
One photo is therefore drawn at random from each group. If groups are independent, these trials are independent and identically
distributed, and the binomial test is exact. The result holds for **a photo drawn at random from a new group**. Counting every photo would
overstate the evidence; counting a group as wrong when any of its photos is wrong would answer another question, about whole groups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.questions import Side
from carinspect.core.seeds import derive_seed
from carinspect.inference.rules import Outcome
from carinspect.thresholds.binomial import interval, lower_bound

Thresholds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Labelled photos (or cars), all arrays of shape (N,).

    `score`: p_good, 0..1; NaN where the gate turns the photo away, so that it gets neither word. `good`: 1 for the good class, 0 for the
    bad one. `drawn`: True for one of each group.
    """

    score: npt.NDArray[np.float64]
    good: npt.NDArray[np.int64]
    drawn: npt.NDArray[np.bool_]

    @property
    def groups(self) -> int:
        return int(self.drawn.sum())

    @property
    def passes(self) -> npt.NDArray[np.bool_]:
        """Which photos the gate lets through."""
        return ~np.isnan(self.score)

    @property
    def passed(self) -> npt.NDArray[np.float64]:
        """Their scores."""
        return self.score[self.passes]

    def one_a_group(self) -> "Sample":
        """Only the drawn photos."""
        return Sample(self.score[self.drawn], self.good[self.drawn], self.drawn[self.drawn])

    def labelled(self, side: Side) -> int:
        """Number of photos of the class of `side`."""
        return int((self.good == (side == "good")).sum())


def take_sample(rows: pd.DataFrame) -> Sample:
    """The rows with a label `good` (1, 0, NaN where unknown) and an answer `p_good`; `passed`: whether the gate lets the photo through."""
    rows = rows[rows["good"].notna() & rows["p_good"].notna()]
    score = rows["p_good"].where(rows["passed"]).to_numpy(np.float64)
    return Sample(score=score, good=rows["good"].to_numpy(np.int64), drawn=draw_one_a_group(rows))


def draw_one_a_group(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """True for one photo of each `group`. The draw depends only on the photos' paths, not on scores or labels."""
    lot = np.array([derive_seed("drawn from its group", path) for path in rows["image_path"]], dtype=np.int64)
    return lot == pd.Series(lot).groupby(rows["group"].to_numpy()).transform("min").to_numpy()


def count_decisions(sample: Sample, thresholds: Thresholds, *, side: Side) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each threshold, the photos that get the word of `side` (good: score >= T, bad: score < T), and how many of them wrongly."""
    good, bad = (np.sort(sample.passed[sample.good[sample.passes] == label]) for label in (1, 0))
    good_below, bad_below = (np.searchsorted(scores, thresholds, side="left") for scores in (good, bad))
    if side == "bad":
        return good_below + bad_below, good_below
    return len(good) - good_below + len(bad) - bad_below, len(bad) - bad_below


def count_outcome(sample: Sample, threshold: float | None, *, confidence: float, side: Side = "good") -> Outcome:
    """The counts and metrics of the word of `side` at `threshold`, with exact intervals at `confidence`.

    Without a threshold no photo gets the word: the counts are 0, and the precision is None.
    """
    accepted, wrong = _count(sample, threshold, side=side)
    accepted_groups, wrong_groups = _count(sample.one_a_group(), threshold, side=side)
    photos, of_this_word = len(sample.good), sample.labelled(side)
    low, high = interval(accepted_groups, wrong_groups, confidence=confidence) if accepted_groups else (None, None)
    return Outcome(
        photos=photos,
        groups=sample.groups,
        accepted_photos=accepted,
        wrong_photos=wrong,
        accepted_groups=accepted_groups,
        wrong_groups=wrong_groups,
        precision=_share(accepted_groups - wrong_groups, accepted_groups),
        precision_low=low,
        precision_high=high,
        lower_bound=lower_bound(accepted_groups, wrong_groups, confidence=confidence) if accepted_groups else None,
        photo_precision=_share(accepted - wrong, accepted),
        missed_photos=of_this_word - (accepted - wrong),
        recall=_share(accepted - wrong, of_this_word),
        f1=_share(2 * (accepted - wrong), accepted + of_this_word),
        coverage=_share(accepted, photos),
    )


def _count(sample: Sample, threshold: float | None, *, side: Side) -> tuple[int, int]:
    if threshold is None:
        return 0, 0
    accepted, wrong = count_decisions(sample, np.array([threshold]), side=side)
    return int(accepted[0]), int(wrong[0])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
