"""Owns models/threshold.json: the rule, what it proves, and what it does.

| key | meaning |
|---|---|
| `method`, `source`, `target_precision`, `confidence`, `starts` | from params.yaml |
| `feasible` | whether the chosen method found a T_clean |
| `T_clean`, `T_high` | the same number: clean when p_clean >= T_clean. None: never say clean |
| `T_low` | dirty when p_clean < T_low; between the two *unsure*. Chosen as T_clean, for dirty. None: never say dirty |
| `proves` | `{precision, confidence, of}`, or None where nothing is proven |
| `reason` | why there is no T_clean, in words; None where there is one |
| `needed` | groups that a proof takes, see `choice.needed_for_proof`; None for a model not trained on `clean` |
| `base_rate` | share of clean among one photo of each labelled group of the source split |
| `warnings` | sentences |
| `on_source`, `on_test` | `outcome.look_at` T_clean. The source split chose it, so its figures flatter; the test split is only looked at |
| `dirty_on_source`, `dirty_on_test` | the same for T_low |
| `methods` | both methods side by side: `T_clean`, `T_low`, `on_source`, `on_test` |
"""

from typing import Any

import pandas as pd

from carinspect.core.errors import UserError
from carinspect.thresholds.choice import NEVER, Choice, choose_empirical, choose_guaranteed, needed_for_proof
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.outcome import look_at
from carinspect.thresholds.sample import Sample, take_sample

COLUMNS = ("image_path", "group", "split", "clean", "p_clean")
"""What the table of predictions must have."""

PROVEN = "a photo drawn at random from a new group (car), from the population of the calibration photos, that the rule calls clean"


def select_threshold(table: pd.DataFrame, params: SelectThresholdParams) -> dict[str, Any]:
    """The content of models/threshold.json from predictions with `COLUMNS`. A model not trained on `clean` gets no threshold.

    Raises `UserError` when the source split has no labelled photo, the split that fixes the candidates is empty, or p_clean has gaps.
    """
    source, test = (take_sample(table[table["split"] == split]) for split in (params.source, "test"))
    choices, needed, obstacle = {"guaranteed": NEVER, "empirical": NEVER}, None, "the model was not trained on 'clean'"
    if table["p_clean"].notna().any():
        _check(table, params)
        reference = table.loc[table["split"] == _reference_split(params), "p_clean"].to_numpy()
        choices = {"guaranteed": choose_guaranteed(source, reference, params), "empirical": choose_empirical(source, params)}
        needed = needed_for_proof(source, reference, params)
        obstacle = _obstacle(needed, source, params)
    chosen = choices[params.method]
    base_rate = float(source.one_a_group().clean.mean()) if source.groups else None
    methods = {name: _describe(choice, source, test, params) for name, choice in choices.items()}
    return (
        params.model_dump()
        | methods[params.method]
        | {
            "feasible": chosen.T_clean is not None,
            "T_high": chosen.T_clean,
            "proves": _proves(chosen, params),
            "reason": obstacle if chosen.T_clean is None else None,
            "needed": needed,
            "base_rate": base_rate,
            "warnings": _warnings(base_rate, params),
            "dirty_on_source": look_at(source, chosen.T_low, confidence=params.confidence, word="dirty"),
            "dirty_on_test": look_at(test, chosen.T_low, confidence=params.confidence, word="dirty"),
            "methods": methods,
        }
    )


def _reference_split(params: SelectThresholdParams) -> str:
    return "val" if params.source == "calib" else "calib"


def _check(table: pd.DataFrame, params: SelectThresholdParams) -> None:
    missing = int(table["p_clean"].isna().sum())
    if missing:
        raise UserError(f"p_clean is blank for {missing} of {len(table)} predictions. Make them again: dvc repro --force evaluate.")
    if not (table["clean"].notna() & (table["split"] == params.source)).any():
        raise UserError(
            f"select_threshold.source has the value '{params.source}', but no photo of that split has a 'clean' label. "
            "Add labels, or enlarge the split under split.fractions."
        )
    if not (table["split"] == _reference_split(params)).any():
        raise UserError(f"no prediction in split '{_reference_split(params)}', whose scores fix the thresholds that are tried.")


def _describe(choice: Choice, source: Sample, test: Sample, params: SelectThresholdParams) -> dict[str, Any]:
    return {
        "T_clean": choice.T_clean,
        "T_low": choice.T_low,
        "on_source": look_at(source, choice.T_clean, confidence=params.confidence),
        "on_test": look_at(test, choice.T_clean, confidence=params.confidence),
    }


def _proves(chosen: Choice, params: SelectThresholdParams) -> dict[str, Any] | None:
    # val has already chosen the epoch and the temperature, so that its photos are no new ones to the model.
    if params.method != "guaranteed" or params.source != "calib" or chosen.T_clean is None:
        return None
    return {"precision": params.target_precision, "confidence": params.confidence, "of": PROVEN}


def _obstacle(needed: dict[str, Any], source: Sample, params: SelectThresholdParams) -> str:
    target = f"{params.target_precision:g}"
    if params.method == "empirical":
        return f"no threshold reaches the precision {target} on the {len(source.clean)} labelled photos of {params.source}"
    why = f"{source.groups} labelled groups of {params.source} cannot prove the precision {target} at the confidence {params.confidence:g}"
    least = f"it takes {needed['without_errors']} groups called clean without one error"
    observed = needed["observed_precision"]
    if observed is None:
        return f"{why}: {least}"
    if needed["at_observed_precision"] is None:
        return f"{why}: {least}, and the best precision seen, {observed:.3f}, does not exceed the target, so that no number would do"
    return (
        f"{why}: {least}, or {needed['at_observed_precision']} with the precision {observed:.3f} seen here, "
        f"for which about {needed['labelled_groups']} labelled groups would do"
    )


def _warnings(base_rate: float | None, params: SelectThresholdParams) -> list[str]:
    warnings = []
    if base_rate is not None and params.target_precision <= base_rate:
        warnings.append(
            f"The target {params.target_precision:g} does not exceed the share of clean cars, {base_rate:.3f}: "
            "calling every car clean would reach it too."
        )
    if params.source == "val":
        warnings.append("val has also chosen the epoch and the temperature, so that nothing is proven for new cars.")
    return warnings
