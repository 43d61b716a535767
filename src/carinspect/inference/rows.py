"""Defines the columns of the table of scores, and writes it as CSV, JSON lines or Parquet without holding it in memory."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from carinspect.core.errors import UserError
from carinspect.inference.photo_list import text_of_name
from carinspect.inference.predictor import Answer, BinaryAnswer, ClassesAnswer, Predictor, ScoreAnswer

FORMATS = (".csv", ".jsonl", ".parquet")

Row = list[Any]
"""Values in the order of the columns: text, numbers or None."""


def columns_of(predictor: Predictor) -> dict[str, type]:
    """Column → `str` or `float`. Blank: there is no such answer, or `error` says why the photo could not be read.

    `<question>_set`: the possible classes, joined by |, if the model has such sets.
    `label`, `threshold` and `decision` are those of the first decided question. `reason`: why the gate turned the photo away.
    """
    columns: dict[str, type] = {"image_path": str, "label": str, "threshold": float, "decision": str, "reason": str}
    spreads: dict[str, type] = {}
    for asked in predictor.questions:
        if asked.kind == "classes":
            columns[asked.name] = str
            if asked.name in predictor.bundle.thresholds.sets:
                columns[f"{asked.name}_set"] = str
        columns |= dict.fromkeys(asked.answer_columns, float)
        if asked.name in predictor.rules:
            columns[f"{asked.name}_decision"] = str
        spreads[asked.spread] = float
    return columns | spreads | {"error": str}


def flat_answer(predictor: Predictor, answer: Answer) -> dict[str, Any]:
    """The answer by the names of the columns; the short names first, of the first decided question."""
    values: dict[str, Any] = {"label": None, "threshold": None, "decision": None, "reason": None}
    if predictor.lead is not None:
        lead = answer[predictor.lead.question.name]
        assert isinstance(lead, BinaryAnswer)
        values = {"label": lead.label, "threshold": lead.threshold, "decision": lead.decision, "reason": lead.reason}
    for asked in predictor.questions:
        one = answer[asked.name]
        match one:
            case BinaryAnswer():
                values |= {asked.answer_columns[0]: one.p, f"{asked.name}_decision": one.decision}
            case ScoreAnswer():
                values[asked.name] = one.value
            case ClassesAnswer():
                values[asked.name] = one.value
                values |= dict(zip(asked.answer_columns, one.p.values(), strict=True))
                if asked.name in predictor.bundle.thresholds.sets:
                    values[f"{asked.name}_set"] = None if one.possible is None else "|".join(one.possible)
            case _:
                assert_never(one)
        values[asked.spread] = one.std
    return values


def row_of(name: str, answer: Answer, predictor: Predictor) -> Row:
    """One scored photo. Numbers are rounded to six decimals, as in all tables, after the label and the decision were made."""
    values = {"image_path": text_of_name(name)} | flat_answer(predictor, answer)
    rounded = {key: round(value, 6) if isinstance(value, float) and key != "threshold" else value for key, value in values.items()}
    return [rounded.get(column) for column in columns_of(predictor)]


def row_of_error(name: str, reason: str, predictor: Predictor) -> Row:
    """One photo that could not be read."""
    return [{"image_path": text_of_name(name), "error": reason}.get(column) for column in columns_of(predictor)]


def check_format(out: Path) -> None:
    """Raise `UserError` unless `out` ends in one of `FORMATS`."""
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out is {str(out)!r}. Its ending says the format: {', '.join(FORMATS)}.")
    if out.is_dir():
        raise UserError(f"--out is {str(out)!r}, a folder. Name a file.")


def write_rows(batches: Iterable[list[Row]], path: Path, *, columns: Mapping[str, type], suffix: str) -> None:
    """Write all rows to `path` in the format that `suffix` names, batch by batch."""
    match suffix:
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(_Lines(file), lineterminator="\r\n")
                writer.writerow(columns)
                for rows in batches:
                    writer.writerows(rows)
        case ".jsonl":
            with path.open("w", encoding="utf-8") as file:
                for rows in batches:
                    file.writelines(f"{json.dumps(dict(zip(columns, row, strict=True)))}\n" for row in rows)
        case ".parquet":
            with pq.ParquetWriter(path, _schema(columns)) as writer:
                for rows in _grouped(batches, rows_each=10_000):
                    writer.write_table(table_of(rows, columns))
        case _:
            raise AssertionError(suffix)


def table_of(rows: list[Row], columns: Mapping[str, type]) -> pa.Table:
    """The rows as Arrow holds them."""
    return pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)), schema=_schema(columns))


class _Lines:
    """Ends lines by a newline alone. Python's writer, told to do so, would leave a name with a carriage return unquoted."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        """Write a line that ends in CR and LF."""
        self._file.write(line[:-2] + "\n")


def _schema(columns: Mapping[str, type]) -> pa.Schema:
    return pa.schema([(name, pa.string() if kind is str else pa.float64()) for name, kind in columns.items()])


def _grouped(batches: Iterable[list[Row]], *, rows_each: int) -> Iterator[list[Row]]:
    held: list[Row] = []
    for rows in batches:
        held += rows
        if len(held) >= rows_each:
            yield held
            held = []
    if held:
        yield held
