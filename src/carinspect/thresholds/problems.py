"""Builds the two decision problems of a binary question: is one photo good, and is a car with several photos good?

A car is good if all its labelled photos are, and its p_good is the lowest of theirs: one dirty side makes a dirty car. Photos without a
label are left out, because they would change the car's score but not its label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.questions import Costs, DeclaredQuestion, Question
from carinspect.inference.rules import Unit
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.evidence import Target
from carinspect.thresholds.plan import Reference
from carinspect.thresholds.sample import Sample, take_sample

CAR = ["source", "family"]


@dataclass(frozen=True)
class Problem:
    """One question about photos or cars, with its target, costs and samples."""

    question: Question
    unit: Unit
    target: Target
    costs: Costs
    source: Sample
    test: Sample
    reference: Reference
    """Empty when the model was not trained on the question, or the reference split has no predictions."""
    obstacle: str | None
    """Why no threshold can be chosen; None when one can be searched for."""
    units: int | None = None
    """Number of cars in the source split; None for photos."""
    photos_a_unit: float | None = None
    """Mean number of photos of such a car."""


def pose_photo(table: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams) -> Problem:
    """The problem for single photos. Raises `UserError` when some predictions, but not all, lack p_good."""
    rows = with_p_good(table, question)
    if 0 < (blank := int(rows["p_good"].isna().sum())) < len(rows):
        answer = question.answer_columns[0]
        raise UserError(f"{answer} is blank for {blank} of {len(rows)} predictions. Make them again: dvc repro --force evaluate.")
    problem = _pose(rows, question, params, unit="photo")
    if problem.obstacle is None and not problem.source.groups:
        obstacle = f"no photo of {params.source} has a label for '{question.name}'"
    elif problem.obstacle is None and not len(problem.reference.score):
        obstacle = f"no prediction in split '{params.reference_split}', whose scores fix the thresholds that are tried"
    else:
        return problem
    return replace(problem, obstacle=obstacle)


def pose_car(table: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams) -> Problem:
    """The problem for cars, whose p_good is the lowest of their photos."""
    cars = collect_cars(with_p_good(table, question), sources=params.car_sources)
    problem = _pose(cars, question, params, unit="car", trained=_is_trained(table, question))
    of_source = cars[cars["split"] == params.source]
    mean = float(of_source["photos"].mean()) if len(of_source) else None
    obstacle = problem.obstacle
    if obstacle is None and not problem.source.groups:
        sources = ", ".join(params.car_sources) or "none"
        obstacle = f"no car of {params.source} has two labelled photos (select_threshold.car_sources: {sources})"
    elif obstacle is None and not len(problem.reference.score):
        obstacle = f"no car of {params.reference_split} has two labelled photos, whose scores fix the thresholds that are tried"
    return replace(problem, obstacle=obstacle, units=len(of_source), photos_a_unit=mean)


def with_p_good(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """`table` with `p_good`, and `good`: 1 or 0, NaN where there is no label."""
    good_label, (answer,) = question.label_of("good"), question.answer_columns
    p = table[answer] if answer in table.columns else pd.Series(np.nan, index=table.index)
    labels = table[question.column]
    return table.assign(p_good=p if good_label == 1 else 1.0 - p, good=(labels == good_label).astype(float).where(labels.notna()))


def collect_cars(table: pd.DataFrame, *, sources: Sequence[str]) -> pd.DataFrame:
    """One row for each car with at least two labelled photos: `image_path` (its first), `group`, `split`, `good`, `p_good`, `photos`.

    `passed`: whether the gate lets all of them through. table: as `with_p_good` returns it. Only in `sources` does `family` name a vehicle
    or a session; elsewhere it groups copies of a photo.
    """
    shown = table["source"].isin(list(sources)) & (table["family"] != "") & table["good"].notna() & table["p_good"].notna()
    cars = (
        table[shown]
        .groupby(CAR, sort=True)
        .agg(
            image_path=("image_path", "min"),
            group=("group", "min"),
            split=("split", "min"),
            good=("good", "min"),
            p_good=("p_good", "min"),
            passed=("passed", "all"),
            photos=("image_path", "size"),
        )
        .reset_index(drop=True)
    )
    return cars[cars["photos"] >= 2]


def _is_trained(table: pd.DataFrame, question: Question) -> bool:
    (answer,) = question.answer_columns
    return answer in table.columns and bool(table[answer].notna().any())


def _pose(
    rows: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams, *, unit: Unit, trained: bool | None = None
) -> Problem:
    assert question.decide is not None
    trained = bool(rows["p_good"].notna().any()) if trained is None else trained
    decide = question.decide
    source, test = (take_sample(rows[rows["split"] == split]) for split in (params.source, "test"))
    referred = (rows["split"] == params.reference_split) & rows["p_good"].notna() & rows["passed"]
    p_good = rows.loc[referred, "p_good"].to_numpy(np.float64)
    return Problem(
        question=question.asked,
        unit=unit,
        target=Target(precision=decide.target_precision, confidence=decide.confidence, starts=params.starts, bad_rate=decide.field_rate),
        costs=decide.costs,
        source=source,
        test=test,
        reference=Reference(score=p_good, probability=p_good),
        obstacle=None if trained else f"the model was not trained on '{question.name}'",
    )
