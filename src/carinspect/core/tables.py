"""Owns the tables' columns, types and files: one row a photo, sorted, blank where nobody judged.

| column | meaning |
|---|---|
| `image_path` | relative to the data root, `/` between folders; the key |
| `source` | name of the source in sources.yaml |
| `width_px`, `height_px` | of the photo as a person sees it (EXIF orientation applied) |
| `sha256` | of the file's bytes |
| `phash` | 64-bit perceptual hash, 16 hexadecimal digits |
| `family` | export family, or vehicle or session id, where known |
| `declared_split` | `train`, `val` or `test` where the export says so |
| `clean` | 1 clean, 0 dirty |
| `cleanliness_score` | 0..1, 1 = clean |
| `damaged` | 1 damaged, 0 undamaged. `damage_score` < 1 says the same with a severity; a class folder knows only this |
| `damage_score` | 0..1, 1 = undamaged |
| `weather_condition` | 0 clear, 1 rain, 2 fog, 3 snow |
| `group` | photos that must stay together; named after its first photo |
| `split` | `train`, `val`, `calib` or `test` |
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError, did_you_mean, one_line
from carinspect.core.files import write_bytes

SPLITS: tuple[str, ...] = ("train", "val", "calib", "test")

LABEL_COLUMNS: tuple[str, ...] = ("clean", "cleanliness_score", "damaged", "damage_score", "weather_condition")

ANNOTATION_COLUMNS: tuple[str, ...] = (
    "image_path", "source", "width_px", "height_px", "sha256", "phash", "family", "declared_split", *LABEL_COLUMNS,
)  # fmt: skip

DATASET_COLUMNS: tuple[str, ...] = (*ANNOTATION_COLUMNS, "group", "split")

_TEXT = ("image_path", "source", "sha256", "phash", "family", "declared_split", "group", "split", "reason")
_RANGES = {
    "clean": (0, 1), "cleanliness_score": (0, 1), "damaged": (0, 1), "damage_score": (0, 1), "weather_condition": (0, 3),
}  # fmt: skip
_WHOLE = ("clean", "damaged", "weather_condition")


def read_table(path: Path, *, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table from `.csv` or `.parquet`: text columns as strings (blank is ""), labels as float64 (blank is NaN).

    Raises `UserError` when the file is missing, lacks one of `columns`, names a photo twice or holds a label out of range.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table. Run the stage that writes it: dvc repro.")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a readable table: {one_line(error)}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path}: column '{missing[0]}' is missing. {did_you_mean(missing[0], table.columns)}")
    for column in table.columns:
        if column in _TEXT:
            table[column] = table[column].fillna("").astype(str)
        else:
            table[column] = _numbers(table, column, path)
    check_table(table, path)
    return table


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    values = table[column].replace("", np.nan)
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        raise UserError(f"{path}: {column} has the value {values[wrong].iloc[0]!r} in row {wrong.idxmax() + 2}. Not a number.")
    return numbers.astype("float64")


def check_table(table: pd.DataFrame, path: Path) -> None:
    """Raise `UserError` when a photo stands twice in `table` or a label is out of its range; `path` is for the message."""
    double = table["image_path"][table["image_path"].duplicated()]
    if len(double):
        raise UserError(f"{path}: the photo {double.iloc[0]!r} stands in more than one row ({len(double)} such rows).")
    for column, (low, high) in _RANGES.items():
        if column not in table.columns:
            continue
        values = table[column].dropna()
        wrong = values[~values.between(low, high) | ((values % 1 != 0) if column in _WHOLE else False)]
        if len(wrong):
            photo = table.loc[wrong.index[0], "image_path"]
            kind = "a whole number" if column in _WHOLE else "a number"
            raise UserError(f"{path}: {column} has the value {wrong.iloc[0]:g} for {photo!r}. It must be {kind} from {low} to {high}.")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `table` sorted by `image_path`, six decimals, blanks empty: the same rows give the same bytes."""
    table = table.sort_values("image_path", kind="stable").reset_index(drop=True)
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        table.to_parquet(buffer, index=False)
    else:
        whole = [column for column in (*_WHOLE, "width_px", "height_px") if column in table.columns]
        table.astype(dict.fromkeys(whole, "Int64")).to_csv(buffer, index=False, float_format="%.6f", lineterminator="\n")
    write_bytes(path, buffer.getvalue())
