"""Builds the decision problems of a binary question: is a photo good, also in a group of photos, and is a car good?

A car is good if all its photos are, and its p_good is the lowest of theirs: one dirty side makes a dirty car. Each further photo is another
chance of an error, so cars are divided into strata by their number of photos. A car with a label for only some of its photos is left out:
whether it is good is unknown, and with its labelled photos alone it would be an easier car than it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.questions import Costs, DeclaredQuestion, Question
from carinspect.inference.rules import Stratum, Unit
from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.evidence import Target
from carinspect.thresholds.plan import Reference, fit_forecast
from carinspect.thresholds.sample import Sample, take_sample

CAR = ["source", "family"]
MOST_GROUPS = 50


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
    missing: int | None = None
    """Where the obstacle is a small number of groups: so many more would do."""
    stratum: Stratum | None = None
    """Which cars; None for photos."""
    members: tuple[str, str] | None = None
    """Column and value of a group of photos; None for all."""


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


def pose_groups(
    table: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams, *, classes: Mapping[str, Sequence[str]]
) -> list[Problem]:
    """The problem of photos for each value that a column of `select_threshold.groups` has in the source split; blank is no group.

    They share the level with the promise for all photos. A group with too few photos for any proof gets no share, and an obstacle.
    classes: label column → the names of its values. Raises `UserError` for a column that the predictions lack, or that has more than
    `MOST_GROUPS` values.
    """
    rows, problems = with_p_good(table, question), []
    for column in params.groups:
        if column not in rows.columns:
            raise UserError(f"select_threshold.groups: the predictions have no column '{column}'. {did_you_mean(column, table.columns)}")
        values = rows.loc[(rows["split"] == params.source) & rows[column].notna() & (rows[column] != ""), column].unique()
        if len(values) > MOST_GROUPS:
            raise UserError(f"select_threshold.groups: '{column}' has {len(values)} values. Name a column with at most {MOST_GROUPS}.")
        for value in sorted(values):
            problem = _pose(
                rows[rows[column] == value], question, params, unit="photo", trained=_is_trained(table, question), labelled=rows
            )
            # A group that val lacks is planned from the scores of all photos.
            if not len(problem.reference.score):
                problem = replace(problem, reference=_refer(rows, rows, params))
            if problem.obstacle is None and not len(problem.reference.score):
                problem = replace(problem, obstacle=f"no prediction in split '{params.reference_split}'")
            problems.append(replace(problem, members=(column, _name(value, classes.get(column, ())))))
    return _share_level(problems, besides=1) if params.method == "guaranteed" else problems


def _name(value: str | float, classes: Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    return classes[int(value)] if classes else f"{value:g}"


def pose_cars(table: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams) -> list[Problem]:
    """The problem of each stratum of cars with so many photos that occurs in the source split.

    The strata share the level, so that their promises hold together. Strata with too few cars for any proof get no share of it.
    """
    cars = collect_cars(with_p_good(table, question), sources=params.car_sources)
    of_source, trained = cars[cars["split"] == params.source], _is_trained(table, question)
    found = []
    for least, following in zip(params.car_photos, [*params.car_photos[1:], None], strict=True):
        counts = of_source.loc[of_source["good"].notna() & _within(of_source, least, following), "photos"]
        if counts.empty:
            continue
        # No further than the cars that there are: a promise of "5 and more", proved on 5 and 6, would be broken by cars of 20.
        first, last = int(counts.min()), int(counts.max())
        partly = of_source["good"].isna() & (of_source["labelled"] > 0) & _within(of_source, first, last + 1)
        stratum = Stratum(photos_from=first, photos_to=last, cars=len(counts), cars_left_out=int(partly.sum()))
        rows = cars[_within(cars, first, last + 1)]
        problem = _pose(rows, question, params, unit="car", trained=trained, labelled=cars)
        # A stratum that val lacks is planned from the scores of its other cars: the plan costs power, and never the promise.
        if not len(problem.reference.score):
            problem = replace(problem, reference=_refer(cars, cars, params))
        if problem.obstacle is None and not len(problem.reference.score):
            problem = replace(problem, obstacle=f"no car of {params.reference_split}, whose scores fix the thresholds that are tried")
        found.append(replace(problem, stratum=stratum))
    return _share_level(found) if params.method == "guaranteed" else found


def _within(cars: pd.DataFrame, least: int, following: int | None) -> pd.Series:
    return (cars["photos"] >= least) & (cars["photos"] < (np.inf if following is None else following))


def _share_level(problems: list[Problem], *, besides: int = 0) -> list[Problem]:
    """The problems with the level divided among those that have enough groups for a proof; the others get an obstacle instead.

    besides: so many other promises that share it.
    """
    groups = [problem.source.groups for problem in problems]
    kept = families_within_reach(groups, problems[0].target, besides=besides) if problems else []
    shared = []
    for place, problem in enumerate(problems):
        target = replace(problem.target, families=besides + len(kept) + (place not in kept))
        obstacle, missing = problem.obstacle, None
        if obstacle is None and place not in kept:
            needed = accepted_needed(target=target.precision, alpha=target.level_of_one_start, precision=1.0)
            who = "labelled groups" if problem.stratum is None else f"cars of {problem.stratum.in_words} with a label for each"
            obstacle = f"{groups[place]} {who} are too few: a proof takes {needed} called so without one error"
            missing = None if needed is None else needed - groups[place]
        shared.append(replace(problem, target=target, obstacle=obstacle, missing=missing))
    return shared


def families_within_reach(groups: Sequence[int], target: Target, *, besides: int = 0) -> list[int]:
    """Places of the families, with so many labelled groups each, that can be proved while they and others, `besides`, share the level.

    Decided by the numbers alone, so that neither labels nor scores choose what is tested.
    """
    kept = [place for place, number in enumerate(groups) if number]
    while kept:
        level = replace(target, families=len(kept) + besides).level_of_one_start
        needed = accepted_needed(target=target.precision, alpha=level, precision=1.0)
        fewest = min(kept, key=lambda place: groups[place])
        if needed is not None and groups[fewest] >= needed:
            break
        kept.remove(fewest)
    return kept


def with_p_good(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """`table` with `p_good`, and `good`: 1 or 0, NaN where there is no label."""
    good_label, (answer,) = question.label_of("good"), question.answer_columns
    p = table[answer] if answer in table.columns else pd.Series(np.nan, index=table.index)
    labels = table[question.column]
    return table.assign(p_good=p if good_label == 1 else 1.0 - p, good=(labels == good_label).astype(float).where(labels.notna()))


def collect_cars(table: pd.DataFrame, *, sources: Sequence[str]) -> pd.DataFrame:
    """One row for each car: `image_path` (its first), `group`, `split`, `good`, `p_good`, `photos`, `labelled`, `passed`.

    `good` is NaN unless all `photos` of the car have a label; so many are `labelled`. `passed`: whether the gate lets all of them through.
    table: as `with_p_good` returns it. Only in `sources` does `family` name a vehicle or a session; elsewhere it groups copies of a photo.
    """
    shown = table["source"].isin(list(sources)) & (table["family"] != "")
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
            labelled=("good", "count"),
        )
        .reset_index(drop=True)
    )
    return cars.assign(good=cars["good"].where(cars["labelled"] == cars["photos"]))


def _is_trained(table: pd.DataFrame, question: Question) -> bool:
    (answer,) = question.answer_columns
    return answer in table.columns and bool(table[answer].notna().any())


def _pose(
    rows: pd.DataFrame,
    question: DeclaredQuestion,
    params: SelectThresholdParams,
    *,
    unit: Unit,
    trained: bool | None = None,
    labelled: pd.DataFrame | None = None,
) -> Problem:
    """labelled: the rows whose labels make the forecast; None: `rows`."""
    assert question.decide is not None
    trained = bool(rows["p_good"].notna().any()) if trained is None else trained
    decide = question.decide
    source, test = (take_sample(rows[rows["split"] == split]) for split in (params.source, "test"))
    return Problem(
        question=question.asked,
        unit=unit,
        target=Target(precision=decide.target_precision, confidence=decide.confidence, starts=params.starts, bad_rate=decide.field_rate),
        costs=decide.costs,
        source=source,
        test=test,
        reference=_refer(rows, rows if labelled is None else labelled, params),
        obstacle=None if trained else f"the model was not trained on '{question.name}'",
    )


def _refer(rows: pd.DataFrame, labelled: pd.DataFrame, params: SelectThresholdParams) -> Reference:
    """The scores of `rows` in the reference split, with the forecast that the labels of `labelled` make there."""
    scores, known = (
        one[(one["split"] == params.reference_split) & one["p_good"].notna() & one["passed"]]
        for one in (rows, labelled[labelled["good"].notna()])
    )
    calibrate = fit_forecast(known["p_good"].to_numpy(np.float64), known["good"].to_numpy(np.float64))
    score = scores["p_good"].to_numpy(np.float64)
    return Reference(score=score, probability=calibrate(score))
