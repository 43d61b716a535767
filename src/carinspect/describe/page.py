"""The report: one HTML page with everything inside, so that it can be mailed, opened from a disk and read on a phone."""

import base64
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image, ImageDraw

from carinspect.core.errors import UserError
from carinspect.core.questions import Question, label_columns
from carinspect.core.tables import SPLITS
from carinspect.describe.counts import count_labels, count_sources, draw_histograms
from carinspect.describe.examination import CONTRADICTION, SAME_SCENE, Examination
from carinspect.describe.oddities import Oddity
from carinspect.describe.shortcuts import EVIDENCE_WORDS
from carinspect.images.decode import PhotoError, decode_photo
from carinspect.images.statistics import STATISTICS

Outlines = Mapping[str, Sequence[tuple[str, str, Sequence[np.ndarray]]]]
"""image_path → (kind, class, lines): closed lines, float (points, 2), x and y as shares of the photo's width and height."""

COLOURS = {"vehicle": "#4cc9f0", "damage": "#ff2e63", "dirt": "#ffd23f"}
"""Of the outlines, by kind (annotations.outline_kinds)."""
_LINE_PX = {"damage": 2}

PICTURE_PX = 176
_QUALITY = 72
_DRAWN_TWICE = 2  # lines are drawn at twice the size, so that they come out smooth

PHOTOS_PER_SOURCE = 6
_ODDITIES_OF_KIND = 6
_CONTRADICTIONS = 12
_SUSPECTS = 8  # of each question
_ROWS = 40  # of a long table
_SCENES = 60  # pairs that may show one scene; those in two splits come first

DOUBT, ODD = "doubtful label", "odd photo"
"""What the page filters by beside the kinds of warnings that come with pictures."""


def draw_page(examination: Examination, read_outlines: Callable[[Collection[str]], Outlines]) -> str:
    """The page as text. `read_outlines` is asked once, for the outlines of the photos that will be shown."""
    evidence = examination.evidence
    oddities = _first_of_each_kind(examination.oddities)
    questions = evidence.questions
    examples = choose_examples(evidence.table, questions)
    contradictions = examination.contradictions[:_CONTRADICTIONS]
    doubts = [one._replace(suspects=one.suspects[:_SUSPECTS]) for one in examination.doubts]
    suspects = [suspect for one in doubts for suspect in one.suspects]
    scenes = _rows(evidence.suspicions.head(_SCENES))
    shown = {path for paths in examples.values() for path in paths} | {item.image_path for item in [*suspects, *contradictions]}
    outlines = read_outlines(shown)
    labels = evidence.table.set_index("image_path")
    names = {asked.column: asked.name for asked in questions}

    @cache
    def picture(path: str) -> str:
        return draw_picture(evidence.root, path, outlines)

    def say_labels(path: str) -> str:
        row = labels.loc[path]
        return ", ".join(_say(asked, row[asked.column]) for asked in questions if pd.notna(row[asked.column])) or "no label"

    def say_outlines(path: str) -> str:
        return ", ".join(sorted({name for _, name, _ in outlines.get(path, ())})) or "none"

    def tag(*paths: str, question: str = "", warning: str = "") -> Markup:
        """The attributes by which the page's script finds a picture."""
        found = "|".join(dict.fromkeys(str(labels.loc[path, "source"]) for path in paths))
        words = " ".join([*paths, *(say_labels(path) for path in paths)]).lower()
        return Markup('data-source="|{}|" data-question="{}" data-warning="{}" data-words="{}"').format(found, question, warning, words)

    sources = count_sources(evidence.table, questions)
    return _template().render(
        evidence=evidence,
        warnings=examination.warnings,
        sources=sources,
        # A group may span sources.
        totals=sources.sum().to_dict() | {"groups": evidence.table["group"].nunique()},
        labels=count_labels(evidence.table, questions),
        histograms=draw_histograms(evidence.table, questions),
        profile=examination.profile,
        examples=examples,
        pairs=_rows(evidence.shown_pairs),
        scenes=[(splits, list(of)) for splits, of in groupby(scenes, key=_say_splits)],
        tag=tag,
        most_scenes=_SCENES,
        names=names,
        kinds=[CONTRADICTION, SAME_SCENE, DOUBT, ODD],
        shortcuts=examination.shortcuts,
        doubts=doubts,
        sees=evidence.learned is not None,
        listed={one.column: len(one.suspects) for one in examination.doubts},
        contradictions=contradictions,
        more_contradictions=len(examination.contradictions) - len(contradictions),
        oddities=oddities,
        odd_photos=len(examination.oddities),
        rejected=_rows(evidence.rejected.head(_ROWS)),
        evidence_words=EVIDENCE_WORDS,
        statistic_words=STATISTICS,
        colours=COLOURS,
        rows=_ROWS,
        picture=picture,
        say_labels=say_labels,
        say_outlines=say_outlines,
    )


def _template() -> jinja2.Template:
    # Names of files and categories are anybody's: every value is escaped, and an unknown name is an error.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A narrow column may break a name such as weather_condition.
    environment.filters["breakable"] = lambda name: Markup("_<wbr>").join(str(name).split("_"))
    return environment.from_string(resources.files("carinspect.describe").joinpath("page.html").read_text(encoding="utf-8"))


def _say_splits(pair: Mapping[str, Any]) -> str:
    splits = sorted({pair["first_split"], pair["second_split"]}, key=lambda split: (*SPLITS, "").index(split))
    return " and ".join(splits) if splits != [""] else "no split yet"


def _say(asked: Question, label: float) -> str:
    return asked.say_label(label) if asked.has_classes else f"{asked.name} {asked.say_label(label)}"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _first_of_each_kind(oddities: list[Oddity]) -> list[Oddity]:
    kinds = dict.fromkeys(oddity.kind for oddity in oddities)
    return [oddity for kind in kinds for oddity in [odd for odd in oddities if odd.kind == kind][:_ODDITIES_OF_KIND]]


def draw_picture(root: Path, image_path: str, outlines: Outlines) -> str:
    """The photo at `root / image_path`, its longer side `PICTURE_PX`, as a data URI of a JPEG. Raises `UserError` if unreadable."""
    try:
        photo = decode_photo(root / image_path, at_least_px=_DRAWN_TWICE * PICTURE_PX)
    except PhotoError as error:
        raise UserError(f"{root / image_path}: {error}. The table knows it as sound: restore it, or run dvc repro.") from None
    scale = _DRAWN_TWICE * PICTURE_PX / max(photo.size)
    photo = photo.resize((max(2, round(photo.width * scale)), max(2, round(photo.height * scale))), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(photo)
    # The vehicle first: a mark on it must not be hidden.
    for kind, _, lines in sorted(outlines.get(image_path, ()), key=lambda outline: outline[0] != "vehicle"):
        for line in lines:
            corners = [(float(x) * photo.width, float(y) * photo.height) for x, y in [*line, line[0]]]
            draw.line(corners, fill=COLOURS[kind], width=_LINE_PX.get(kind, 1) * _DRAWN_TWICE, joint="curve")
    photo = photo.resize((max(1, photo.width // _DRAWN_TWICE), max(1, photo.height // _DRAWN_TWICE)), Image.Resampling.BOX)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def choose_examples(table: pd.DataFrame, questions: Sequence[Question]) -> dict[str, list[str]]:
    """source → up to `PHOTOS_PER_SOURCE` image paths.

    Drawn by a hash of the path, so that photos added later replace few; in turn from photos with the same labels, scores halved.
    """
    order = [blake2b(path.encode(), digest_size=8).hexdigest() for path in table["image_path"]]
    shuffled = table.assign(order=order).sort_values("order").drop_duplicates("group")
    labels = shuffled[label_columns(questions)].round().fillna(-1).astype(str).agg(" ".join, axis=1)
    turn = labels.groupby([shuffled["source"], labels]).cumcount()
    chosen = shuffled.assign(turn=turn).sort_values(["source", "turn", "order"]).groupby("source").head(PHOTOS_PER_SOURCE)
    return {str(source): photos["image_path"].tolist() for source, photos in chosen.groupby("source")}
