"""The sheet: photos drawn for a person to judge, as a CSV and as one HTML page that works without network, and the answers read back.

Neither shows what the model said: a reviewer who knows it tends to agree. Who draws keeps `<sheet>.key.csv`, which has it.
"""

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import sha256_of, write_bytes
from carinspect.images.decode import PhotoError, decode_photo
from carinspect.inference.photo_list import name_of_text

PICTURE_PX = 900
ANSWERS = ("photo_sha256", "verdict", "by", "comment")
KEY = ("photo_sha256", "image_path", "car", "model_sha256", "question", "word", "strata", "stratum", "weight", "highest_weight")


@dataclass(frozen=True)
class Drawn:
    """One photo to judge; the fields are `KEY`, the columns of the key."""

    photo_sha256: str
    image_path: str
    car: str
    model_sha256: str
    question: str
    word: str
    strata: str
    stratum: str
    weight: str
    highest_weight: str
    """As in `ledger.Verdict`, as text."""


def chances_of(sizes: Mapping[str, int]) -> dict[str, float]:
    """Stratum → the chance of a draw from it: half in proportion to its size, half the same for each stratum.

    So no weight is above 2 (a "defensive mixture": Hesterberg 1995, "Weighted average importance sampling and defensive mixture
    distributions"), and the rarest of K strata is in at least one of 2 K draws.
    """
    total = sum(sizes.values())
    return {stratum: (size / total + 1 / len(sizes)) / 2 for stratum, size in sizes.items()}


def draw(
    strata: Mapping[str, Iterator[Drawn]], chances: Mapping[str, float], photos: int, *, random: np.random.Generator
) -> tuple[list[Drawn], str]:
    """Up to `photos`, each from a stratum drawn by its chance, and the stratum that ended the draw because nothing is left in it.

    The chances would not hold without it. Nothing is drawn where one is empty at the start.
    """
    names, name = list(strata), ""
    waiting: dict[str, Drawn] = {}
    drawn: list[Drawn] = []
    with suppress(StopIteration):
        for name in names:
            waiting[name] = next(strata[name])
        while len(drawn) < photos:
            name = names[random.choice(len(names), p=[chances[one] for one in names])]
            drawn.append(waiting[name])
            waiting[name] = next(strata[name])
    return drawn, name


def digest_of(root: Path, image_path: str) -> str:
    """SHA-256 of the photo. Raises `UserError` when it is missing."""
    try:
        return sha256_of(root / name_of_text(image_path))
    except OSError as error:
        raise UserError(f"{root / image_path}: {error.strerror}. --root names the folder that the table's paths start from.") from None


def write_sheet(out: Path, drawn: Sequence[Drawn], *, root: Path, title: str, words: Sequence[str]) -> None:
    """Write `out` (the page), and beside it .csv (the empty sheet) and .key.csv (what the model said). words: what may be answered."""
    photos = [{"sha256": one.photo_sha256, "picture": _picture(root / name_of_text(one.image_path))} for one in drawn]
    # "</" would end the script that holds it.
    content = json.dumps({"title": title, "words": list(words), "photos": photos}).replace("</", "<\\/")
    page = resources.files("carinspect.audit").joinpath("sheet.html").read_text(encoding="utf-8")
    write_bytes(out.with_suffix(".key.csv"), csv_bytes(KEY, [[getattr(one, name) for name in KEY] for one in drawn]))
    write_bytes(
        out.with_suffix(".csv"), csv_bytes((*ANSWERS, "image_path"), [[one.photo_sha256, "", "", "", one.image_path] for one in drawn])
    )
    write_bytes(out, page.replace("/*CONTENT*/", content).encode())


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a CSV that has `columns`. Raises `UserError` for another file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {error}. Name a CSV with the columns {', '.join(columns)}.") from None
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}: no column '{missing[0]}'. {did_you_mean(missing[0], reader.fieldnames or ())}".rstrip())
    return [{name: (row[name] or "").strip() for name in columns} for row in rows]


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """What `read_rows` reads. Names of files that are not Unicode come back as they were."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _picture(path: Path) -> str:
    try:
        photo = decode_photo(path, at_least_px=PICTURE_PX)
    except PhotoError as error:
        raise UserError(f"{path}: {error}. Restore the photo, or score the photos again.") from None
    photo.thumbnail((PICTURE_PX, PICTURE_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    # Encoded anew, without EXIF: no place and no camera travel with the page.
    photo.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
