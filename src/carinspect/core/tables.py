"""Defines the columns of the tables, and reads and writes them: one row for each photo, sorted; a missing label is blank.

| column | meaning |
|---|---|
| `image_path` | relative to the data root, `/` between folders; the key |
| `source` | name of the source in sources.yaml |
| `width_px`, `height_px` | of the photo as a person sees it (EXIF orientation applied) |
| `sha256` | of the file's bytes |
| `phash` | 64-bit perceptual hash, 16 hexadecimal digits |
| `family` | export family, or vehicle or session id, where known |
| `declared_split` | `train`, `val` or `test` where the export says so; `train only` where a model chose the photo (see `ONLY_TRAIN`) |
| a label column for each question | see `core.questions`; blank if not annotated |
| `group` | photos that must stay together; named after its first photo |
| `split` | `train`, `val`, `calib` or `test` |
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError, did_you_mean, one_line
from carinspect.core.files import write_bytes
from carinspect.core.questions import Question, label_columns

SPLITS: tuple[str, ...] = ("train", "val", "calib", "test")

ONLY_TRAIN = "train only"
"""`declared_split` of a photo that a model, or a person who saw its answer, chose. A proof is about photos drawn at random, so such a photo
may teach and never prove, whatever the policy of the split."""

PHOTO_COLUMNS: tuple[str, ...] = (
    "image_path", "source", "width_px", "height_px", "sha256", "phash", "family", "declared_split",
)  # fmt: skip

_TEXT = ("image_path", "source", "sha256", "phash", "family", "declared_split", "group", "split", "reason")


def annotation_columns(questions: Iterable[Question]) -> list[str]:
    """Columns of data/annotations.csv."""
    return [*PHOTO_COLUMNS, *label_columns(questions)]


def dataset_columns(questions: Iterable[Question]) -> list[str]:
    """Columns of data/car_inspection_dataset.csv."""
    return [*annotation_columns(questions), "group", "split"]


def read_table(path: Path, *, columns: Iterable[str], questions: Sequence[Question] = ()) -> pd.DataFrame:
    """A table from `.csv` or `.parquet`: text columns as strings (blank is ""), labels as float64 (blank is NaN).

    Raises `UserError` when the file is missing, lacks one of `columns`, names a photo twice or holds a label out of its question's range.
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
    check_table(table, path, questions)
    return table


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    values = table[column].replace("", np.nan)
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        raise UserError(f"{path}: {column} has the value {values[wrong].iloc[0]!r} in row {wrong.idxmax() + 2}. Not a number.")
    return numbers.astype("float64")


def check_table(table: pd.DataFrame, path: Path, questions: Iterable[Question]) -> None:
    """Raise `UserError` if a photo occurs twice in `table` or a label is out of its range; `path` is for the message."""
    double = table["image_path"][table["image_path"].duplicated()]
    if len(double):
        raise UserError(f"{path}: the photo {double.iloc[0]!r} stands in more than one row ({len(double)} such rows).")
    for question in questions:
        if question.column not in table.columns:
            continue
        values = table[question.column].dropna()
        wrong = values[~values.between(0, question.highest_label) | ((values % 1 != 0) & question.has_classes)]
        if len(wrong):
            photo = table.loc[wrong.index[0], "image_path"]
            hint = " Divide percentages by 100." if question.kind == "score" and (values > 1).any() and values.between(0, 100).all() else ""
            said = f"{question.column} has the value {wrong.iloc[0]:g} for {photo!r}"
            raise UserError(f"{path}: {said}. It must be {say_values(question)}.{hint}")


NO_IDENTITY = frozenset({
    "", "-", "--", "?", "??", "#n/a", "<na>", "n.a.", "n/a", "na", "nan", "nil", "none", "not available", "null", "tba", "tbd", "undefined",
    "unk", "unknown",
})  # fmt: skip
"""What people and programs write, in any case, where they do not know which vehicle it is."""


def read_identities(values: pd.Series) -> pd.Series:
    """Vehicle or session ids as text: without blanks around them, in one Unicode form; "" for a placeholder such as n/a."""
    plain = values.fillna("").astype(str).str.normalize("NFC").str.split().str.join(" ")
    return plain.where(~plain.str.casefold().isin(NO_IDENTITY), "")


def say_values(question: Question) -> str:
    """What a label column may hold, in words."""
    if not question.has_classes:
        return "a number from 0 to 1"
    return f"a whole number from 0 to {question.highest_label} ({', '.join(f'{n}: {word}' for n, word in enumerate(question.classes))})"


def write_table(table: pd.DataFrame, path: Path, questions: Iterable[Question] = ()) -> None:
    """Write `table` sorted by `image_path`, six decimals, labels with classes as whole numbers: the same rows give the same bytes."""
    table = table.sort_values("image_path", kind="stable").reset_index(drop=True)
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        table.to_parquet(buffer, index=False)
    else:
        classes = [question.column for question in questions if question.has_classes]
        whole = [column for column in (*classes, "width_px", "height_px") if column in table.columns]
        table.astype(dict.fromkeys(whole, "Int64")).to_csv(buffer, index=False, float_format="%.6f", lineterminator="\n")
    write_bytes(path, buffer.getvalue())
