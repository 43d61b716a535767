"""The sheet: photos drawn for a person to judge, as a CSV and as one HTML page that works without network, and the answers read back.

Neither shows what the model said: a reviewer who knows it tends to agree. Who draws keeps `<sheet>.key.csv`, which has it.
"""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of, write_bytes
from carinspect.images.decode import PhotoError, decode_photo
from carinspect.inference.photo_list import name_of_text

PICTURE_PX = 900
ANSWERS = ("photo_sha256", "verdict", "by", "comment")
KEY = ("photo_sha256", "image_path", "car", "model_sha256", "question", "word")


@dataclass(frozen=True)
class Drawn:
    """One photo to judge; the fields are `KEY`, the columns of the key."""

    photo_sha256: str
    image_path: str
    car: str
    model_sha256: str
    question: str
    word: str


def draw(called: Mapping[str, Sequence[str]], photos: int, *, seed: int) -> list[tuple[str, str]]:
    """(car, image_path) of one photo of each of up to `photos` cars, all cars equally likely. called: car → its photos called the word."""
    random = np.random.default_rng(seed)
    cars = sorted(called)
    chosen = random.permutation(len(cars))[:photos]
    return [(cars[place], sorted(called[cars[place]])[random.integers(len(called[cars[place]]))]) for place in chosen]


def describe_photo(root: Path, image_path: str, *, car: str | None, model_sha256: str, question: str, word: str) -> Drawn:
    """The line of the key. Raises `UserError` when the photo is missing."""
    try:
        digest = sha256_of(root / name_of_text(image_path))
    except OSError as error:
        raise UserError(f"{root / image_path}: {error.strerror}. --root names the folder that the table's paths start from.") from None
    return Drawn(digest, image_path, digest if car is None else car, model_sha256, question, word)


def write_sheet(out: Path, drawn: Sequence[Drawn], *, root: Path, title: str, words: Sequence[str]) -> None:
    """Write `out` (the page), and beside it .csv (the empty sheet) and .key.csv (what the model said). words: what may be answered."""
    photos = [{"sha256": one.photo_sha256, "picture": _picture(root / name_of_text(one.image_path))} for one in drawn]
    # "</" would end the script that holds it.
    content = json.dumps({"title": title, "words": list(words), "photos": photos}).replace("</", "<\\/")
    page = resources.files("carinspect.audit").joinpath("sheet.html").read_text(encoding="utf-8")
    write_bytes(out.with_suffix(".key.csv"), _csv(KEY, [[getattr(one, name) for name in KEY] for one in drawn]))
    write_bytes(out.with_suffix(".csv"), _csv((*ANSWERS, "image_path"), [[one.photo_sha256, "", "", "", one.image_path] for one in drawn]))
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
        raise UserError(f"{path}: no column '{missing[0]}'. It takes {', '.join(columns)}.")
    return [{name: (row[name] or "").strip() for name in columns} for row in rows]


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
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
