"""Owns the report: one HTML page with everything inside, so that it can be mailed, opened from a disk and read on a phone."""

from collections.abc import Callable, Collection
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from carinspect.audit.counts import count_labels, count_sources, draw_histograms
from carinspect.audit.examination import Examination
from carinspect.audit.examples import choose_examples
from carinspect.audit.labels import say_label
from carinspect.audit.oddities import Oddity
from carinspect.audit.pictures import COLOURS, Outlines, draw_picture
from carinspect.audit.shortcuts import EVIDENCE_WORDS
from carinspect.core.tables import LABEL_COLUMNS
from carinspect.images.statistics import STATISTICS

_ODDITIES_OF_KIND = 6
_CONTRADICTIONS = 12
_ROWS = 40  # of a long table

_LABEL_WORDS = {"cleanliness_score": "cleanliness", "damage_score": "damage score"}


def draw_page(examination: Examination, read_outlines: Callable[[Collection[str]], Outlines]) -> str:
    """The page as text. `read_outlines` is asked once, for the outlines of the photos that will be shown."""
    evidence = examination.evidence
    oddities = _first_of_each_kind(examination.oddities)
    examples = choose_examples(evidence.table)
    contradictions = examination.contradictions[:_CONTRADICTIONS]
    suspects = [suspect for doubts in examination.doubts for suspect in doubts.suspects]
    shown = {path for paths in examples.values() for path in paths} | {item.image_path for item in [*suspects, *contradictions]}
    outlines = read_outlines(shown)
    labels = evidence.table.set_index("image_path")

    @cache
    def picture(path: str) -> str:
        return draw_picture(evidence.root, path, outlines)

    def say_labels(path: str) -> str:
        row = labels.loc[path]
        return ", ".join(_say(column, row[column]) for column in LABEL_COLUMNS if pd.notna(row[column])) or "no label"

    def say_outlines(path: str) -> str:
        return ", ".join(sorted({name for _, name, _ in outlines.get(path, ())})) or "none"

    sources = count_sources(evidence.table)
    return _template().render(
        evidence=evidence,
        warnings=examination.warnings,
        sources=sources,
        # A group may span sources.
        totals=sources.sum().to_dict() | {"groups": evidence.table["group"].nunique()},
        labels=count_labels(evidence.table),
        histograms=draw_histograms(evidence.table),
        profile=examination.profile,
        examples=examples,
        pairs=_rows(evidence.shown_pairs),
        shortcuts=examination.shortcuts,
        doubts=examination.doubts,
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
    return environment.from_string(resources.files("carinspect.audit").joinpath("page.html").read_text(encoding="utf-8"))


def _say(column: str, label: float) -> str:
    words = say_label(column, label)
    return f"{_LABEL_WORDS[column]} {words}" if column in _LABEL_WORDS else words


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _first_of_each_kind(oddities: list[Oddity]) -> list[Oddity]:
    kinds = dict.fromkeys(oddity.kind for oddity in oddities)
    return [oddity for kind in kinds for oddity in [odd for odd in oddities if odd.kind == kind][:_ODDITIES_OF_KIND]]
