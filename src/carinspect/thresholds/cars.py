"""Owns cars from photos: which photos show one car, its label and its score.

A car is clean if every one of its labelled photos is, and its score is the lowest p_clean among them: one dirty side makes a dirty car.
Photos without a label would add to the score what the label knows nothing of, so they don't count here.
"""

from collections.abc import Sequence

import pandas as pd

CAR = ["source", "family"]


def collect_cars(table: pd.DataFrame, *, sources: Sequence[str]) -> pd.DataFrame:
    """One row a car with at least two labelled photos: `image_path` (its first), `group`, `split`, `clean`, `p_clean`, `photos`.

    Only in `sources` does `family` name a vehicle or a session; elsewhere it is the photo that an export has copied.
    """
    shown = table["source"].isin(list(sources)) & (table["family"] != "") & table["clean"].notna() & table["p_clean"].notna()
    cars = (
        table[shown]
        .groupby(CAR, sort=True)
        .agg(
            image_path=("image_path", "min"),
            group=("group", "min"),
            split=("split", "min"),
            clean=("clean", "min"),
            p_clean=("p_clean", "min"),
            photos=("image_path", "size"),
        )
        .reset_index(drop=True)
    )
    return cars[cars["photos"] >= 2]
