"""Owns the three questions that a rule is chosen for: is the photo clean, is it undamaged, is the car clean."""

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from carinspect.core.errors import UserError
from carinspect.thresholds.cars import collect_cars
from carinspect.thresholds.config import DamageDecisionParams, DecisionParams, SelectThresholdParams
from carinspect.thresholds.costs import Prices
from carinspect.thresholds.plan import Reference
from carinspect.thresholds.promise import Promise
from carinspect.thresholds.sample import Sample, take_sample
from carinspect.thresholds.selection import Question

COLUMNS = ("image_path", "source", "family", "group", "split", "clean", "damaged", "damage_score", "p_clean", "damage")
"""What the table of predictions must have."""

UNTRAINED = "the model was not trained on 'clean'"
NOTHING = Reference(score=np.zeros(0), probability=np.zeros(0))


def ask_clean(table: pd.DataFrame, params: SelectThresholdParams, decision: DecisionParams) -> Question:
    """Is this photo's car clean? By p_clean, which is its own forecast.

    Raises `UserError` when the source split has no labelled photo, the split that fixes the candidates is empty, or p_clean has gaps.
    """
    trained = bool(table["p_clean"].notna().any())
    if trained:
        _check_clean(table, params)
    question = _ask_by_p_clean(table, params, decision, unit="photo")
    return question if trained else replace(question, obstacle=UNTRAINED)


def ask_car(table: pd.DataFrame, params: SelectThresholdParams, decision: DecisionParams) -> Question:
    """Is the car clean, all its photos taken together? By the lowest p_clean among them."""
    question = _ask_by_p_clean(collect_cars(table, sources=decision.car_sources), params, decision, unit="car")
    if table["p_clean"].isna().all():
        return replace(question, obstacle=UNTRAINED)
    if not question.source.groups:
        sources = ", ".join(decision.car_sources) or "none"
        return replace(question, obstacle=f"no car of {params.source} has two labelled photos (decision.car_sources: {sources})")
    if not len(question.reference.score):
        fixing = reference_split(params)
        return replace(question, obstacle=f"no car of {fixing} has two labelled photos, whose scores fix the thresholds that are tried")
    return question


def _ask_by_p_clean(rows: pd.DataFrame, params: SelectThresholdParams, decision: DecisionParams, *, unit: str) -> Question:
    source, test = _samples(rows, params, score="p_clean", upper="clean")
    p_clean = rows.loc[rows["split"] == reference_split(params), "p_clean"].to_numpy(np.float64)
    costs = decision.costs
    return Question(
        above="clean",
        below="dirty",
        unit=unit,
        promise=Promise(
            target_precision=params.target_precision,
            confidence=params.confidence,
            starts=params.starts,
            lower_class_rate=decision.field_dirty_rate,
        ),
        prices=Prices(wrong_above=costs.wrong_clean, wrong_below=costs.wrong_dirty, review=costs.review),
        source=source,
        test=test,
        reference=Reference(score=p_clean, probability=p_clean),
        obstacle=None,
    )


def ask_damage(table: pd.DataFrame, params: SelectThresholdParams, decision: DamageDecisionParams) -> Question:
    """Is this photo's car undamaged, that is, is its damage_score at least the cut-off? By the predicted damage score."""
    table = table.assign(undamaged=undamaged(table, cutoff=decision.cutoff))
    source, test = _samples(table, params, score="damage", upper="undamaged")
    reference = table[(table["split"] == reference_split(params)) & table["damage"].notna()]
    obstacle = None
    if table["damage"].isna().all():
        obstacle = "the model was not trained on 'damage'"
    elif not source.groups:
        obstacle = f"no photo of {params.source} has a damage label"
    elif reference.empty:
        obstacle = f"no prediction in split '{reference_split(params)}', whose scores fix the thresholds that are tried"
    promise = Promise(
        target_precision=decision.target_precision, confidence=decision.confidence, starts=params.starts, lower_class_rate=None
    )
    costs = decision.costs
    return Question(
        above="undamaged",
        below="damaged",
        unit="photo",
        promise=promise,
        prices=Prices(wrong_above=costs.wrong_undamaged, wrong_below=costs.wrong_damaged, review=costs.review),
        source=source,
        test=test,
        reference=NOTHING if obstacle else _foretell_undamaged(reference),
        obstacle=obstacle,
    )


def undamaged(table: pd.DataFrame, *, cutoff: float) -> pd.Series:
    """1 where the label says at least `cutoff`, 0 where it says less, NaN where nobody judged.

    A photo known only as damaged or not counts by that word: somebody saw a damage worth the name.
    """
    by_score = (table["damage_score"] >= cutoff).astype(float).where(table["damage_score"].notna())
    return by_score.fillna(1 - table["damaged"])


def reference_split(params: SelectThresholdParams) -> str:
    """The split that fixes the candidates, so that the labels that decide don't."""
    return "val" if params.source == "calib" else "calib"


def _foretell_undamaged(rows: pd.DataFrame) -> Reference:
    """A predicted score is no probability; a logistic regression on this split's own labels makes it one, where there are both words."""
    score = rows["damage"].to_numpy(np.float64)
    labelled = rows["undamaged"].notna().to_numpy()
    words = rows["undamaged"].to_numpy()[labelled]
    if len(np.unique(words)) < 2 or np.ptp(score[labelled]) == 0:
        return Reference(score=score, probability=score)
    scaled = ((score - score[labelled].mean()) / score[labelled].std())[:, None]
    fitted = LogisticRegression().fit(scaled[labelled], words.astype(int))
    return Reference(score=score, probability=fitted.predict_proba(scaled)[:, 1])


def _samples(rows: pd.DataFrame, params: SelectThresholdParams, *, score: str, upper: str) -> tuple[Sample, Sample]:
    source, test = (take_sample(rows[rows["split"] == split], score=score, upper=upper) for split in (params.source, "test"))
    return source, test


def _check_clean(table: pd.DataFrame, params: SelectThresholdParams) -> None:
    missing = int(table["p_clean"].isna().sum())
    if missing:
        raise UserError(f"p_clean is blank for {missing} of {len(table)} predictions. Make them again: dvc repro --force evaluate.")
    if not (table["clean"].notna() & (table["split"] == params.source)).any():
        raise UserError(
            f"select_threshold.source has the value '{params.source}', but no photo of that split has a 'clean' label. "
            "Add labels, or enlarge the split under split.fractions."
        )
    if not (table["split"] == reference_split(params)).any():
        raise UserError(f"no prediction in split '{reference_split(params)}', whose scores fix the thresholds that are tried.")
