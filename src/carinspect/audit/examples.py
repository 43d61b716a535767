"""Owns which photos the report shows of each source: few, of different groups, and of all the labels that it has."""

from hashlib import blake2b

import pandas as pd

from carinspect.core.tables import LABEL_COLUMNS

PHOTOS_PER_SOURCE = 6


def choose_examples(table: pd.DataFrame) -> dict[str, list[str]]:
    """source → up to `PHOTOS_PER_SOURCE` image paths.

    Drawn by a hash of the path, so that photos added later replace few; in turn from photos with the same labels, scores halved.
    """
    order = [blake2b(path.encode(), digest_size=8).hexdigest() for path in table["image_path"]]
    shuffled = table.assign(order=order).sort_values("order").drop_duplicates("group")
    labels = shuffled[list(LABEL_COLUMNS)].round().fillna(-1).astype(str).agg(" ".join, axis=1)
    turn = labels.groupby([shuffled["source"], labels]).cumcount()
    chosen = shuffled.assign(turn=turn).sort_values(["source", "turn", "order"]).groupby("source").head(PHOTOS_PER_SOURCE)
    return {str(source): photos["image_path"].tolist() for source, photos in chosen.groupby("source")}
