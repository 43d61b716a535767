"""Leave-one-source-out: evaluates each source with a model that was trained without its photos.

    {<source>: {"trained_photos": photos of train and val that were used,
                <question>: {"left_out": {figures}, "probe": {figures} | null, "trained_with": {figures}} | null,
                "marks": {<question with a map>: {figures of `marks.py`}}}}

for each source and each question that it has labels for. `left_out`: all its labelled photos, by the model trained without the source;
`trained_with`: those of its test split, by models/best.pt. Figures: `FIGURES`, each with `_low` and `_high`, beside `photos` and
`groups`. `probe`: as `left_out`, by the linear probe; null where there is none. Null: no other source has enough labels for the question.
`marks`: of all outlined photos of the source, by maps that the other sources' outlines taught.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.questions import Kind, Question
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.marks import Mapper, measure_marks, say_marks
from carinspect.evaluation.metrics import Report, score_question
from carinspect.evaluation.predictions import predict_pixels, read_pixels
from carinspect.evaluation.retraining import retrain
from carinspect.evaluation.temperature import add_probabilities, fit_calibration
from carinspect.images.label_maps import read_outlines
from carinspect.model.calibration import Reading
from carinspect.model.checkpoint import Checkpoint, build_network
from carinspect.model.probe import of_other_sources

FIGURES: dict[Kind, tuple[str, ...]] = {"binary": ("roc_auc",), "score": ("mae", "spearman"), "classes": ("accuracy", "macro_f1")}
"""Figures that do not depend on the temperature, because none can be fitted for a source that was left out."""


def leave_sources_out(
    checkpoint: Checkpoint,
    table: pd.DataFrame,
    predictions: pd.DataFrame,
    probe: pd.DataFrame,
    outlines: Path,
    *,
    root: Path,
    reading: Reading,
    evaluation: EvaluateParams,
    params: dict[str, Any],
) -> Report:
    """The report, one training for each source of `table`, which is the dataset.

    predictions: of val, calib and test by `checkpoint`, with probabilities. probe: the content of data/probe_left_out.csv. outlines:
    data/outlines.csv. params: all of params.yaml. See `retrain` for what is kept.
    """
    report: Report = {}
    sources = sorted(source for source, rows in table.groupby("source") if taught_questions(rows, checkpoint.questions))
    for number, source in enumerate(sources, start=1):
        own, others = table[table["source"] == source].reset_index(drop=True), without_source(table, source)
        asked = taught_questions(own, checkpoint.questions)
        learnable = learnable_questions(others, checkpoint.questions)
        learnt = others[others["split"].isin(("train", "val"))]
        report[source] = {"trained_photos": len(learnt), **dict.fromkeys(question.name for question in asked), "marks": {}}
        what = f"leaving out source {number} of {len(sources)}, '{source}'"
        both = [question for question in asked if question in learnable]
        if not both:
            print(f"{what}: no other source teaches {' or '.join(question.name for question in asked)}", flush=True)
            continue
        print(f"{what}: training on {len(learnt):,} photos of the others", flush=True)
        model, fit = retrain(checkpoint, others, questions=learnable, params=params, what=what, outlines=outlines)
        network, pixels = build_network(model), read_pixels(own, root=root, image_side_px=reading.image_side_px)
        raw = predict_pixels(network, own, pixels, mirror=reading.mirror).table
        # With an empty split no temperature is fitted: the source's own labels must not influence its answers.
        calibration = fit_calibration(raw.assign(split=""), learnable, priors=model.lineage["priors"])
        answers = add_probabilities(raw, learnable, calibration).assign(**{question.spread: np.nan for question in learnable})
        baseline = own.merge(probe, on="image_path").assign(**{question.spread: np.nan for question in learnable})
        seen = predictions[(predictions["source"] == source) & (predictions["split"] == "test")]
        for question in both:
            report[source][question.name] = {
                "left_out": score_source(answers, question, evaluation),
                "probe": _score_probe(baseline, question, evaluation),
                "trained_with": score_source(seen, question, evaluation),
            }
        if fit is not None:
            mapper = Mapper(network, fit, pixels, own["image_path"].tolist())
            measured = measure_marks(own.assign(split="test"), mapper.maps, fit, read_outlines(outlines), learnable, evaluation).report
            report[source]["marks"] = {name: parts["test"] for name, parts in measured.items()}
            print("\n".join(say_marks(measured)), flush=True)
    return report


def _score_probe(rows: pd.DataFrame, question: Question, evaluation: EvaluateParams) -> Report | None:
    if not set(question.raw_columns) <= set(rows.columns) or rows[question.raw_columns].isna().all(axis=None):
        return None
    calibration = fit_calibration(rows.assign(split=""), [question], priors={})
    return score_source(add_probabilities(rows, [question], calibration), question, evaluation)


def without_source(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows of other sources, without groups that also have a photo of `source`."""
    return table[of_other_sources(table, source)].reset_index(drop=True)


def taught_questions(rows: pd.DataFrame, questions: Sequence[Question]) -> list[Question]:
    """The questions for which at least one row has a label."""
    return [question for question in questions if rows[question.column].notna().any()]


def learnable_questions(rows: pd.DataFrame, questions: Sequence[Question]) -> list[Question]:
    """The questions for which both train and val have labels."""
    return taught_questions(rows[rows["split"] == "val"], taught_questions(rows[rows["split"] == "train"], questions))


def score_source(rows: pd.DataFrame, question: Question, evaluation: EvaluateParams) -> Report:
    """The figures of `question` on rows of one source."""
    scores = score_question(rows, question, params=evaluation, train_labels=None)
    names = [f"{name}{end}" for name in FIGURES[question.kind] for end in ("", "_low", "_high")]
    return {name: scores[name] for name in ("photos", "groups", *names)}
