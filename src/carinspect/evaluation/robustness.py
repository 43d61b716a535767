"""Measures how much worse the answers become when photos of test are corrupted.

Reads nothing but pixels that are already in memory: each photo is decoded once, and then changed in 15 ways and up to 5 severities. The
answers to every cell go into data/corrupted.csv, because the stage `select_threshold` knows the rule and computes its precision there.

| column of data/corrupted.csv | meaning |
|---|---|
| `image_path`, `group`, the label columns | as in the dataset |
| `corruption`, `severity` | a key of `CORRUPTIONS`, 1..5; `none` and 0: the photo as it is |
| `strangeness`, the answer columns | as in data/predictions.csv |

Report: {"photos": drawn, "sharp": {<question>: its headline metric on the photos as they are},
"drop": {<corruption>: {<question>: [by severity]}}, "mean_drop": {<question>: over all cells}}. A drop is how much worse the metric
is, so above 0 is worse for errors too; None where it is unknown.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from carinspect.core.files import write_bytes
from carinspect.core.machine import usable_cores
from carinspect.core.questions import Question, label_columns
from carinspect.core.seeds import derive_seed
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.corruptions import CORRUPTIONS, corrupt
from carinspect.evaluation.metrics import Report, headline
from carinspect.evaluation.predictions import add_strangeness, answers_to, numbers, predict_pixels
from carinspect.evaluation.temperature import add_probabilities
from carinspect.model.calibration import Calibration
from carinspect.model.gate import GateFit
from carinspect.model.network import CarInspectionNetwork
from carinspect.scoring.heat_map import HeatMap, write_heat_maps
from carinspect.scoring.intervals import point

NONE = "none"


def draw_to_corrupt(scored: pd.DataFrame, questions: Sequence[Question], params: EvaluateParams) -> pd.DataFrame:
    """At most `params.corruption_photos` rows of test that have a label, one of each group, drawn by their paths; the index is kept."""
    labelled = scored[(scored["split"] == "test") & scored[label_columns(questions)].notna().any(axis=1)]
    lots = [derive_seed(params.seed, "corrupted", path) for path in labelled["image_path"]]
    drawn = labelled.assign(lot=lots).sort_values("lot").drop_duplicates("group").head(params.corruption_photos)
    return drawn.drop(columns="lot").sort_values("image_path", kind="stable")


def score_corrupted(
    network: CarInspectionNetwork,
    scored: pd.DataFrame,
    pixels_NSS3: np.ndarray,
    params: EvaluateParams,
    *,
    calibration: Calibration,
    gate: GateFit,
) -> pd.DataFrame:
    """The rows of data/corrupted.csv: cell by cell, in each the same photos. pixels: those of the rows of `scored`, uint8."""
    questions = list(network.questions.values())
    photos = draw_to_corrupt(scored, questions, params)
    pixels_PSS3 = np.array(pixels_NSS3[photos.index])
    kept = [
        "image_path",
        "group",
        *label_columns(questions),
        "strangeness",
        *(column for one in questions for column in one.answer_columns),
    ]
    cells = [(NONE, 0), *product(CORRUPTIONS, params.corruptions)]
    parts = []
    # Threads: NumPy and OpenCV do the work outside Python's lock.
    with ThreadPoolExecutor(usable_cores()) as pool:
        for kind, severity in tqdm(cells, desc="corrupting", unit="cell", disable=None):
            changed = pixels_PSS3
            if severity:
                changes = zip(pixels_PSS3, photos["sha256"], strict=True)
                changed = np.stack([*pool.map(lambda one: corrupt(one[0], kind, severity, digest=one[1]), changes)])  # noqa: B023
            found = predict_pixels(network, photos, changed, mirror=params.mirror)
            answers = add_probabilities(add_strangeness(found.table, found, gate), questions, calibration)
            parts.append(answers[kept].assign(corruption=kind, severity=severity))
    return pd.concat(parts, ignore_index=True)


def measure_drops(corrupted: pd.DataFrame, questions: Sequence[Question]) -> Report:
    """The report that the module describes."""
    cells = dict(list(corrupted.groupby(["corruption", "severity"], sort=False)))
    sharp = cells.pop((NONE, 0))
    before = {asked.name: _metric(sharp, asked) for asked in questions}
    drop: dict[str, dict[str, list[float | None]]] = {}
    for (kind, _), rows in cells.items():
        for asked in questions:
            sign = -1 if asked.kind == "score" else 1
            was, now = before[asked.name], _metric(rows, asked)
            lost = None if was is None or now is None else sign * (was - now)
            drop.setdefault(kind, {}).setdefault(asked.name, []).append(lost)
    means = {asked.name: _mean([lost for kind in drop.values() for lost in kind[asked.name]]) for asked in questions}
    return {"photos": len(sharp), "sharp": before, "drop": drop, "mean_drop": means}


def _metric(rows: pd.DataFrame, question: Question) -> float | None:
    known = rows[rows[question.column].notna() & rows[question.answer_columns].notna().all(axis=1)]
    _, metric = headline(question)
    return point(metric, numbers(known, question.column), answers_to(known, question)) if len(known) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def say_drops(report: Report, questions: Sequence[Question]) -> str:
    """A table in text: the mean drop over the severities, a row for each corruption."""
    names = {asked.name: f"{asked.name} ({headline(asked)[0]})" for asked in questions}
    rows = {kind: {names[name]: _mean(lost) for name, lost in of.items()} for kind, of in report["drop"].items()}
    sharp = {words: report["sharp"][name] for name, words in names.items()}
    table = pd.DataFrame([sharp, *rows.values()], index=["as it is", *rows], dtype=float)
    return f"{report['photos']} photos of test, corrupted: how much worse, mean over the severities\n" + table.round(3).to_string(
        na_rep="–"
    )


def write_drops(report: Report, questions: Sequence[Question], severities: Sequence[int], path: Path) -> None:
    """Draw a heat map for each question."""
    maps = []
    for asked in questions:
        cells = pd.DataFrame({kind: of[asked.name] for kind, of in report["drop"].items()}, index=list(severities), dtype=float).T
        maps.append(HeatMap(f"{asked.name}: loss of {headline(asked)[0]}", cells, best=0.0, worst=0.4))
    write_heat_maps(maps, path)


def write_corrupted(table: pd.DataFrame, path: Path) -> None:
    """Write data/corrupted.csv, six decimals."""
    write_bytes(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode())
