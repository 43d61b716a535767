"""Owns models/threshold.json: the rule for a photo's dirt at the top, and below it those for `damage`, for a `car`, and the `field` rate.

The keys are those of selection.py; `damage` adds `cutoff`, `car` adds `cars` and `photos_a_car` of the source split; `field` is field.py's.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from carinspect.thresholds.cars import collect_cars
from carinspect.thresholds.config import DecisionParams, SelectThresholdParams
from carinspect.thresholds.costs import CostMap
from carinspect.thresholds.field import restate
from carinspect.thresholds.questions import ask_car, ask_clean, ask_damage
from carinspect.thresholds.sample import Sample
from carinspect.thresholds.selection import Selection, select


@dataclass(frozen=True)
class Rules:
    """What goes into models/threshold.json, and what is drawn beside it."""

    content: Selection
    clean_source: Sample
    """The photos that decided about clean."""
    clean_costs: CostMap | None
    damage_costs: CostMap | None


def choose_rules(table: pd.DataFrame, params: SelectThresholdParams, decision: DecisionParams) -> Rules:
    """All rules from predictions with `questions.COLUMNS`. Raises `UserError` as `questions.ask_clean` does."""
    question = ask_clean(table, params, decision)
    clean, clean_costs = select(question, params)
    damage, damage_costs = select(ask_damage(table, params, decision.damage), params)
    car, _ = select(ask_car(table, params, decision), params)
    content = clean | {
        "field": restate(question, clean),
        "damage": damage | {"cutoff": decision.damage.cutoff},
        "car": car | _count_cars(table, params, decision),
    }
    return Rules(content=content, clean_source=question.source, clean_costs=clean_costs, damage_costs=damage_costs)


def _count_cars(table: pd.DataFrame, params: SelectThresholdParams, decision: DecisionParams) -> dict[str, Any]:
    cars = collect_cars(table, sources=decision.car_sources)
    cars = cars[cars["split"] == params.source]
    return {"cars": len(cars), "photos_a_car": float(cars["photos"].mean()) if len(cars) else None}
