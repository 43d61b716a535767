"""Reads a source that is a CSV: `image_path` (relative to the CSV's folder), label columns, optionally `split` and a family."""

import warnings
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from carinspect.annotations.listing import SPLIT_WORDS, leaves_folder
from carinspect.annotations.meanings import complete_labels
from carinspect.annotations.records import LabelledPhoto, Reader, Reading, Rejection, SourceContext
from carinspect.core.errors import UserError, did_you_mean, one_line
from carinspect.core.questions import label_columns
from carinspect.core.tables import check_table


def read_csv_source(context: SourceContext) -> Reading:
    """Every row's photo with the labels that the row holds; a blank is a label that nobody gave.

    Raises `UserError` for a file that is no such table, for a column that looks like a misspelt one, and for a value out of range.
    """
    source, path, questions = context.source, context.path, list(context.questions.values())
    table = _read_text_table(path, context.where)
    known_columns = ["image_path", "split", *label_columns(questions), *([source.family_column] if source.family_column else [])]
    _check_columns(list(table.columns), known_columns, label_columns(questions), path)
    if (table["image_path"] == "").any():
        raise UserError(
            f"{path}: image_path is blank in row {table.index[table['image_path'] == ''][0] + 2}. Name the photo, or drop the row."
        )
    labels = table.reindex(columns=[column for column in label_columns(questions) if column in table.columns]).apply(_to_numbers, path=path)
    check_table(pd.concat([table[["image_path"]], labels], axis=1), path, questions)
    reading = Reading()
    for row, given in zip(table.to_dict("records"), labels.to_dict("records"), strict=True):
        name = row["image_path"].replace("\\", "/")
        if leaves_folder(name):
            reading.rejected.append(Rejection(name, "outside", f"listed in {source.folder}, but its path leaves the source's folder"))
            continue
        image_path = str(source.folder.parent / name)
        if not (path.parent / name).is_file():
            reading.rejected.append(Rejection(image_path, "missing", f"listed in {source.folder}, but missing"))
            continue
        known = {str(column): float(value) for column, value in given.items() if pd.notna(value)}
        reading.photos.append(
            LabelledPhoto(
                image_path,
                complete_labels(known, questions, where=f"{path}: {name!r}"),
                declared_split=_split_of(row.get("split", ""), path, name),
                family=row[source.family_column] if source.family_column else "",
            )
        )
    reading.counts["columns_ignored"] = len(set(table.columns) - set(known_columns))
    return reading


def _read_text_table(path: Path, where: str) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{where}.path: {str(path)!r} is no file; format csv takes the CSV itself. Correct the path.")
    try:
        with warnings.catch_warnings():
            # Without index_col=False a comma at each line's end would shift every column; with it pandas only warns of longer lines.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise UserError(f"{path}: not a readable CSV: {one_line(error)}. Save it again as UTF-8 with commas.") from None
    return table.fillna("")


def _check_columns(columns: list[str], known: list[str], labels: list[str], path: Path) -> None:
    for needed in known:
        if needed not in columns and needed != "split" and needed not in labels:
            raise UserError(f"{path}: column '{needed}' is missing. {did_you_mean(needed, columns)}")
    if not set(columns) & set(labels):
        raise UserError(f"{path}: no label column. Add one of {', '.join(labels)}.")
    for column in columns:
        # A misspelt column would lose its labels without a word; columns that resemble none of ours are the owner's notes.
        near = get_close_matches(column.lower(), ("split", *labels), n=1, cutoff=0.8)
        if column not in known and near:
            raise UserError(f"{path}: column '{column}': did you mean '{near[0]}'? Rename it, or drop it.")


def _to_numbers(values: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values.str.strip().replace("", None), errors="coerce")
    wrong = numbers.isna() & (values.str.strip() != "")
    if wrong.any():
        raise UserError(
            f"{path}: {values.name} has the value {values[wrong].iloc[0]!r} in row {wrong.idxmax() + 2}. Write a number, or nothing."
        )
    return numbers.astype("float64")


def _split_of(word: str, path: Path, name: str) -> str:
    word = word.strip().lower()
    if word and word not in SPLIT_WORDS:
        raise UserError(f"{path}: split has the value {word!r} for {name!r}. {did_you_mean(word, SPLIT_WORDS)} Or leave it blank.")
    return SPLIT_WORDS.get(word, "")


CSV = Reader(read_csv_source, keys=frozenset({"family_pattern", "family_column"}), provenance="csv")
