"""A source of a data root that people's answers become: its photos by their digest, its table of labels, its entry in sources.yaml."""

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.utils.serialize import modify_yaml

from carinspect.annotations.csv_source import read_text_table
from carinspect.annotations.sources import Source, load_sources
from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.images.decode import PhotoError, open_photo

Entry = Mapping[str, Any]
"""One source as sources.yaml has it."""

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}


def check_photo(path: Path, digest: str) -> tuple[str, str]:
    """The suffix that the photo's file is to have, and why it cannot be used; one of them is blank. digest: its SHA-256."""
    try:
        content = path.read_bytes()
    except OSError:
        return "", "the photo is gone"
    if sha256(content).hexdigest() != digest:
        return "", "the photo was altered"
    try:
        kind = open_photo(content).format or ""
    except PhotoError as error:
        return "", f"the file is {error}"
    return suffix_of(kind), ""


def suffix_of(kind: str) -> str:
    """The suffix of a photo's file. kind: Pillow's word for its format."""
    return _SUFFIXES.get(kind, f".{kind.lower()}")


def csv_entry(name: str) -> dict[str, Any]:
    """A source with a table of labels in a folder of its own."""
    return {"name": name, "format": "csv", "path": f"{name}/labels.csv"}


def read_labels(table: Path, columns: list[str]) -> pd.DataFrame:
    """The table of labels with `columns`, by `image_path`, every cell as text; empty where there is none yet."""
    before = read_text_table(table).set_index("image_path") if table.is_file() else pd.DataFrame(columns=columns)
    return before.reindex(columns=columns).fillna("")


def write_labels(table: Path, labels: pd.DataFrame) -> None:
    """Write what `read_labels` reads; a missing cell is a label that nobody gave."""
    write_bytes(table, labels.fillna("").sort_index().to_csv(index_label="image_path", lineterminator="\n").encode())


def find_declared(sources: Path, entry: Entry) -> Source | None:
    """The source of that name in sources.yaml; None where it has none.

    Raises `UserError` where there is no such file, and where the name is another source's: other photos, or chosen in another way.
    """
    if not sources.is_file():
        raise UserError(f"{sources}: no such file. --into names a data root, which describes itself there (docs/labels.md).")
    for source in load_sources(sources).sources:
        if source.name == entry["name"]:
            if source.chosen_by_model != entry.get("chosen_by_model", False) or source.path != entry["path"]:
                raise UserError(f"{sources}: the source {source.name!r} is another one. Choose a name for this one: --source.")
            return source
    return None


def declare(sources: Path, *entries: Entry, gone: Collection[str] = ()) -> None:
    """Add the entries to sources.yaml, or put them in the place of those with the same name. Its comments stay.

    gone: names of sources that it is to have no more. The last step: what was killed before left a source that nothing names yet.
    """
    with modify_yaml(sources) as content:
        listed = content["sources"]
        for place in reversed([place for place, source in enumerate(listed) if source["name"] in gone]):
            del listed[place]
        places = {source["name"]: place for place, source in enumerate(listed)}
        for entry in entries:
            if entry["name"] in places:
                listed[places[entry["name"]]].update(entry)
            else:
                listed.append(dict(entry))
