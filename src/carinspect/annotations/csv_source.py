"""Reads a source that is a CSV: `image_path` (relative to the CSV's folder), label columns, optionally `split` and a family."""

import os
import unicodedata
import warnings
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from carinspect.annotations.listing import SPLIT_WORDS, leaves_folder, why_no_file
from carinspect.annotations.meanings import complete_labels
from carinspect.annotations.records import LabelledPhoto, Reader, Reading, Rejection, SourceContext
from carinspect.core.errors import UserError, did_you_mean, one_line, shorten
from carinspect.core.questions import Question, label_columns
from carinspect.core.tables import check_table, read_identities, say_values


def read_csv_source(context: SourceContext) -> Reading:
    """Every row's photo with the labels that the row holds; a blank is a label that nobody gave.

    Raises `UserError` for a file that is no such table, for a column that looks like a misspelt one, and for a value out of range.
    """
    source, path, questions = context.source, context.path, list(context.questions.values())
    if not path.is_file():
        raise UserError(f"{context.where}.path: {str(path)!r} is no file; format csv takes the CSV itself. Correct the path.")
    table = read_text_table(path)
    known_columns = ["image_path", "split", *label_columns(questions), *([source.family_column] if source.family_column else [])]
    _check_columns(list(table.columns), known_columns, label_columns(questions), path)
    if table.empty:
        raise UserError(f"{path}: it has columns and no rows. Add a row for each photo.")
    if (table["image_path"] == "").any():
        raise UserError(
            f"{path}: image_path is blank in row {table.index[table['image_path'] == ''][0] + 2}. Name the photo, or drop the row."
        )
    asked = [question for question in questions if question.column in table.columns]
    labels = pd.DataFrame({question.column: _to_numbers(table[question.column], question, path) for question in asked})
    check_table(pd.concat([table[["image_path"]], labels], axis=1), path, questions)
    reading = Reading()
    families = _read_families(table, source.family_column, reading)
    photos = _PhotoFinder(context, reading)
    for row, family, given in zip(table.to_dict("records"), families, labels.to_dict("records"), strict=True):
        name = row["image_path"].replace("\\", "/")
        image_path = photos.find(name)
        if isinstance(image_path, Rejection):
            reading.rejected.append(image_path)
            continue
        known = {str(column): float(value) for column, value in given.items() if pd.notna(value)}
        reading.photos.append(
            LabelledPhoto(
                image_path,
                complete_labels(known, questions, where=f"{path}: {name!r}"),
                declared_split=_split_of(row.get("split", ""), path, name),
                family=family,
            )
        )
    reading.counts["columns_ignored"] = len(set(table.columns) - set(known_columns))
    return reading


def _read_families(table: pd.DataFrame, column: str | None, reading: Reading) -> list[str]:
    """The family of each row; blank where there is no column, no value or a placeholder, which is counted."""
    if column is None:
        return [""] * len(table)
    families = read_identities(table[column])
    reading.counts["placeholders_for_a_family"] += int(((table[column].str.strip() != "") & (families == "")).sum())
    return families.tolist()


class _PhotoFinder:
    """Finds listed photos on the disk."""

    def __init__(self, context: SourceContext, reading: Reading) -> None:
        self.folder, self.list, self.reading = context.path.parent, context.source.folder, reading
        self.places = (context.root.resolve(), self.folder.resolve())

    def find(self, name: str) -> str | Rejection:
        """The path of the photo called `name`, relative to the data root, or why it cannot be had."""
        if leaves_folder(name):
            return Rejection(name, "outside", f"listed in {self.list}, but its path leaves the source's folder")
        image_path = str(self.list.parent / name)
        files = [form for form in _forms(name) if os.path.lexists(self.folder / form)]
        if not files:
            return Rejection(image_path, "missing", f"listed in {self.list}, but missing")
        # A disk that takes both forms for one, as a Mac's, finds the one file twice.
        if len({(status.st_dev, status.st_ino) for status in (os.lstat(self.folder / file) for file in files)}) > 1:
            return Rejection(image_path, "no_file", "another file has the same name in another Unicode form: rename one of them")
        if name not in files:
            (name,) = files
            image_path = str(self.list.parent / name)
            self.reading.counts["photos_found_by_unicode_form"] += 1
        if why := why_no_file(self.folder / name, *self.places):
            return Rejection(image_path, "no_file", why)
        return image_path


def _forms(name: str) -> list[str]:
    """`name` as it is and in Unicode's other form; nothing for a name that no file can have."""
    return [] if "\0" in name else list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))


def read_text_table(path: Path) -> pd.DataFrame:
    """The file at `path`, every cell as text, "" for a blank one. Raises `UserError` for one that is no CSV with commas."""
    try:
        with warnings.catch_warnings():
            # Without index_col=False a comma at each line's end would shift every column; with it pandas only warns of longer lines.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise UserError(_explain_separator(path) or f"{path}: not a readable CSV: {one_line(error)}. {_AS_CSV}") from None
    if "image_path" not in table.columns and (reason := _explain_separator(path)):
        raise UserError(reason)
    return table.fillna("")


_AS_CSV = "Save it again as UTF-8 with commas."

_SEPARATORS = {";": "semicolons, as Excel does in many countries", "\t": "tabs", "|": "bars"}


def _explain_separator(path: Path) -> str:
    """Why the table cannot be read, where its first line shows another separator than the comma; else blank."""
    with path.open("rb") as file:
        first = file.readline(65_536).decode("utf-8", "replace")
    for separator, words in _SEPARATORS.items():
        if separator in first and first.count(separator) >= first.count(","):
            return f"{path}: its columns are separated by {words}. {_AS_CSV} Numbers have a dot: 0.5."
    return ""


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


def _to_numbers(values: pd.Series, question: Question, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values.str.strip().replace("", None), errors="coerce")
    wrong = numbers.isna() & (values.str.strip() != "")
    if wrong.any():
        value, row = values[wrong].iloc[0], int(wrong.to_numpy().argmax()) + 2
        hint = " Divide percentages by 100." if str(value).strip().endswith("%") else ""
        said = f"{values.name} has the value {value[:60]!r} in row {row}"
        raise UserError(f"{path}: {said}. Write {say_values(question)}, or nothing.{hint}")
    return numbers.astype("float64")


def _split_of(word: str, path: Path, name: str) -> str:
    word = word.strip().lower()
    if word and word not in SPLIT_WORDS:
        raise UserError(f"{path}: split has the value {shorten(word)!r} for {name!r}. {did_you_mean(word, SPLIT_WORDS)} Or leave it blank.")
    return SPLIT_WORDS.get(word, "")


CSV = Reader(read_csv_source, keys=frozenset({"family_pattern", "family_column"}), provenance="csv")
