"""Owns what a threshold is chosen on: the labelled photos of a split, and one photo drawn from each group.

Photos of one group (a car, an export family) are right or wrong together, so they are not so many independent trials. One photo drawn at
random from each group is one trial, and if groups are drawn independently the trials are independent and alike: the binomial test is exact.
What it then speaks of is **a photo drawn at random from a new group**. Counting every photo instead would claim more evidence than there
is; counting a group as wrong when any of its photos is would answer another question, about whole groups of the same sizes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.seeds import derive_seed

Word = Literal["clean", "dirty"]


@dataclass(frozen=True)
class Sample:
    """Labelled photos. `p_clean` 0..1 and `clean` 0 or 1 have shape (N,); `drawn` (N,) marks one photo of each group."""

    p_clean: npt.NDArray[np.float64]
    clean: npt.NDArray[np.int64]
    drawn: npt.NDArray[np.bool_]

    @property
    def groups(self) -> int:
        return int(self.drawn.sum())

    def one_a_group(self) -> "Sample":
        """The drawn photos alone."""
        return Sample(self.p_clean[self.drawn], self.clean[self.drawn], self.drawn[self.drawn])


def take_sample(rows: pd.DataFrame) -> Sample:
    """The rows with a `clean` label and an answer. The draw is a fixed function of the photos' paths; it knows no score and no label."""
    rows = rows[rows["clean"].notna() & rows["p_clean"].notna()]
    lot = np.array([derive_seed("drawn from its group", path) for path in rows["image_path"]], dtype=np.int64)
    first_of_group = pd.Series(lot).groupby(rows["group"].to_numpy()).transform("min").to_numpy()
    return Sample(
        p_clean=rows["p_clean"].to_numpy(np.float64),
        clean=rows["clean"].to_numpy(np.int64),
        drawn=lot == first_of_group,
    )


def count_decisions(
    sample: Sample, thresholds: npt.NDArray[np.float64], *, word: Word
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many photos each threshold calls `word` (clean: p_clean >= T, dirty: p_clean < T), and how many of them wrongly."""
    below = np.searchsorted(np.sort(sample.p_clean), thresholds, side="left")
    clean_below = np.searchsorted(np.sort(sample.p_clean[sample.clean == 1]), thresholds, side="left")
    if word == "dirty":
        return below, clean_below
    dirty_below = below - clean_below
    return len(sample.clean) - below, int((sample.clean == 0).sum()) - dirty_below
