"""A folder of scores: one Parquet file for about a thousand photos, each complete or absent, so that a killed job can continue.

`pandas.read_parquet` and the like read the folder as one table; they ignore `_scores.json`, which says what the shards depend on.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from carinspect.core.errors import UserError
from carinspect.core.files import write_json
from carinspect.inference.journal import refuse_another
from carinspect.inference.photo_list import Listing
from carinspect.inference.predictor import Predictor
from carinspect.inference.rows import Row, columns_of, table_of

HEADER = "_scores.json"


def open_folder(out: Path, header: dict[str, Any]) -> None:
    """Make `out`, or continue in it. Raises `UserError` if it holds shards of another header, or other files."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out is {str(out)!r}, a file. With --engine ray it is a folder of Parquet files.")
    path = out / HEADER
    if path.is_file():
        refuse_another(_read(path), header, path)
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out is {str(out)!r}, a folder that holds other things. Name a new or an empty one.")
    write_json(path, header)


def shard_columns(predictor: Predictor) -> dict[str, type]:
    """The columns of a shard: those of the table, and `marks`, the text of `marks_file.cell_of`, where the maps are asked for."""
    return columns_of(predictor) | ({"marks": str} if predictor.bundle.has_maps else {})


def split_listing(listing: Listing, *, shard: int) -> Iterator[Listing]:
    """Listings of `shard` photos each, the last one smaller."""
    for start in range(0, len(listing.names), shard):
        yield replace(listing, names=listing.names[start : start + shard])


def shard_path(out: Path, number: int) -> Path:
    """Sorted by name they are in the order of the listing."""
    return out / f"part-{number:06}.parquet"


def write_shard(rows: list[Row], path: Path, columns: Mapping[str, type]) -> None:
    """Write it atomically, also when two machines do so at once."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        pq.write_table(table_of(rows, columns), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
