"""Links between photos, and the groups that follow from them: photos that are linked, directly or over others, are one group."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LinkKind = Literal["family", "bytes", "near-duplicate", "confirmed", "same-scene"]

LINK_KINDS: tuple[LinkKind, ...] = get_args(LinkKind)
"""`confirmed`: by a person, in data/same_scene.csv; `same-scene`: see `splits.scenes`."""


class Link(NamedTuple):
    """Two photos, by their rows, that must stay together, and why; `correlation` only where detail was compared."""

    kind: LinkKind
    first: int
    second: int
    correlation: float | None = None


def link_equal(values: Sequence[str], kind: LinkKind) -> list[Link]:
    """A chain through the rows of each value but the blank one."""
    rows: dict[str, int] = {}
    links = []
    for row, value in enumerate(values):
        if value and value in rows:
            links.append(Link(kind, rows[value], row))
        rows[value] = row
    return links


def label_groups(photos: int, links: Sequence[Link]) -> np.ndarray:
    """A number for each of `photos` rows, equal where rows are linked, directly or not: int (photos,)."""
    first = [link.first for link in links]
    second = [link.second for link in links]
    graph = coo_array((np.ones(len(links), dtype=np.int8), (first, second)), shape=(photos, photos))
    return connected_components(graph, directed=False)[1]


def name_groups(labels: np.ndarray, image_paths: pd.Series) -> pd.Series:
    """Each photo's group, named after the group's first photo."""
    return image_paths.groupby(labels).transform("min")
