"""Owns what a source's camera and its export leave behind, and the sources that can be told by it at a glance."""

import pandas as pd

_MOSTLY = 0.9  # of a source's photos are grey in a grey source
_SELDOM = 0.5  # of all other photos are grey where that stands out


def profile_sources(table: pd.DataFrame, statistics: pd.DataFrame) -> pd.DataFrame:
    """One row for each source: `photos`, `grey_share`, and the medians of what its camera and its export leave behind."""
    by_source = statistics.groupby(table["source"].to_numpy())
    names = ["width_px", "height_px", "jpeg_quality", "bytes_per_pixel", "colourfulness", "brightness", "sharpness"]
    return pd.DataFrame({"photos": by_source.size(), "grey_share": by_source["grey"].mean(), **by_source[names].median()})


def find_grey_sources(profile: pd.DataFrame) -> list[str]:
    """Sources that are grey where the rest of `profile_sources` is not."""
    grey = profile["grey_share"] * profile["photos"]
    others = (grey.sum() - grey) / (profile["photos"].sum() - profile["photos"]).clip(lower=1)
    return [str(source) for source in profile.index[(profile["grey_share"] >= _MOSTLY) & (others <= _SELDOM)]] if len(profile) > 1 else []
