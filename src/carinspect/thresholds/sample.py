"""Owns what a threshold is chosen on: the labelled photos of a split, and one photo drawn from each group.

Photos of one group (a car, an export family) are right or wrong together, so they are not so many independent trials. One photo drawn at
random from each group is one trial, and if groups are drawn independently the trials are independent and alike: the binomial test is exact.
What it then speaks of is **a photo drawn at random from a new group**. Counting every photo instead would claim more evidence than there
is; counting a group as wrong when any of its photos is would answer another question, about whole groups of the same sizes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.seeds import derive_seed
from carinspect.thresholds.promise import Side

Thresholds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Labelled photos (or cars). `score` 0..1 and `upper` 1 for the class above (clean), 0 below (dirty) have shape (N,);

    `drawn` (N,) marks one of each group.
    """

    score: npt.NDArray[np.float64]
    upper: npt.NDArray[np.int64]
    drawn: npt.NDArray[np.bool_]

    @property
    def groups(self) -> int:
        return int(self.drawn.sum())

    def one_a_group(self) -> "Sample":
        """The drawn photos alone."""
        return Sample(self.score[self.drawn], self.upper[self.drawn], self.drawn[self.drawn])

    def labelled(self, side: Side) -> int:
        """How many are of the class of `side`."""
        return int((self.upper == (side == "above")).sum())


def take_sample(rows: pd.DataFrame, *, score: str, upper: str) -> Sample:
    """The rows with a label in column `upper` and an answer in `score`.

    The draw is a fixed function of the photos' paths; it knows no score and no label.
    """
    rows = rows[rows[upper].notna() & rows[score].notna()]
    lot = np.array([derive_seed("drawn from its group", path) for path in rows["image_path"]], dtype=np.int64)
    first_of_group = pd.Series(lot).groupby(rows["group"].to_numpy()).transform("min").to_numpy()
    return Sample(score=rows[score].to_numpy(np.float64), upper=rows[upper].to_numpy(np.int64), drawn=lot == first_of_group)


def count_decisions(sample: Sample, thresholds: Thresholds, *, side: Side) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many photos each threshold calls by the word of `side` (above: score >= T, below: score < T), and how many of them wrongly."""
    below = np.searchsorted(np.sort(sample.score), thresholds, side="left")
    upper_below = np.searchsorted(np.sort(sample.score[sample.upper == 1]), thresholds, side="left")
    if side == "below":
        return below, upper_below
    lower_below = below - upper_below
    return len(sample.upper) - below, sample.labelled("below") - lower_below
