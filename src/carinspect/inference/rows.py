"""Owns the table of scores: its columns, and writing it as CSV, JSON lines or Parquet without holding it in memory."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from carinspect.core.errors import UserError
from carinspect.core.tasks import WEATHER_CLASSES
from carinspect.inference.predictor import STDS, Answer

TEXT = ("image_path", "label", "decision", "weather", "error")
COLUMNS: tuple[str, ...] = (
    "image_path", "label", "p_clean", "threshold", "decision", "cleanliness", "damage", "weather",
    *(f"p_weather_{name}" for name in WEATHER_CLASSES), *STDS, "error",
)  # fmt: skip
"""Those of `predictor.Answer`, and why a photo could not be read. Blank: the model does not answer this, or `error` says why not."""

FORMATS = (".csv", ".jsonl", ".parquet")

Row = list[Any]
"""Values in the order of `COLUMNS`: text, numbers or None."""

SCHEMA = pa.schema([(name, pa.string() if name in TEXT else pa.float64()) for name in COLUMNS])


def row_of(name: str, answer: Answer) -> Row:
    """One scored photo. Numbers keep six decimals, as in all tables; the label and the decision were made before."""
    values: dict[str, Any] = {
        "image_path": name, "label": answer.label, "p_clean": answer.p_clean, "threshold": answer.threshold, "decision": answer.decision,
        "cleanliness": answer.cleanliness, "damage": answer.damage, "weather": answer.weather,
    }  # fmt: skip
    values |= {f"p_weather_{weather}": value for weather, value in (answer.p_weather or {}).items()}
    values |= answer.uncertainty or {}
    rounded = {key: round(value, 6) if isinstance(value, float) and key != "threshold" else value for key, value in values.items()}
    return [rounded.get(column) for column in COLUMNS]


def row_of_error(name: str, reason: str) -> Row:
    """One photo that could not be read."""
    return [{"image_path": name, "error": reason}.get(column) for column in COLUMNS]


def check_format(out: Path) -> None:
    """Raise `UserError` unless `out` ends in one of `FORMATS`."""
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out is {str(out)!r}. Its ending says the format: {', '.join(FORMATS)}.")
    if out.is_dir():
        raise UserError(f"--out is {str(out)!r}, a folder. Name a file.")


def write_rows(batches: Iterable[list[Row]], path: Path, *, suffix: str) -> None:
    """Write all rows to `path` in the format that `suffix` names, batch by batch."""
    match suffix:
        case ".csv":
            # A file name need not be UTF-8: its bytes go out as they came in.
            with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                for rows in batches:
                    writer.writerows(rows)
        case ".jsonl":
            with path.open("w", encoding="utf-8") as file:
                for rows in batches:
                    file.writelines(f"{json.dumps(dict(zip(COLUMNS, row, strict=True)))}\n" for row in rows)
        case ".parquet":
            with pq.ParquetWriter(path, SCHEMA) as writer:
                for rows in _grouped(batches, rows_each=10_000):
                    writer.write_table(table_of(rows))
        case _:
            raise AssertionError(suffix)


def table_of(rows: list[Row]) -> pa.Table:
    """The rows as Arrow holds them. Text that is no UTF-8 is written with \\xNN in its place."""
    columns = [[_sound(value) for value in column] for column in zip(*rows, strict=True)]
    return pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=SCHEMA)


def _sound(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if isinstance(value, str) else value


def _grouped(batches: Iterable[list[Row]], *, rows_each: int) -> Iterator[list[Row]]:
    held: list[Row] = []
    for rows in batches:
        held += rows
        if len(held) >= rows_each:
            yield held
            held = []
    if held:
        yield held
