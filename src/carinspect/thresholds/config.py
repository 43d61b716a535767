"""Owns the sections `select_threshold` and `decision` of params.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, field_validator

from carinspect.core.params import Number, Section


def _check_share(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"has the value {value}. It must lie between 0 and 1, e.g. 0.95.")
    return value


def _check_price(value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"has the value {value}. A price is a number from 0 on.")
    return value


Share = Annotated[Number, AfterValidator(_check_share)]
"""Between 0 and 1, neither of them."""
Price = Annotated[Number, AfterValidator(_check_price)]
"""In any one unit of money, for one car."""


class SelectThresholdParams(Section):
    """How the rule "clean when p_clean >= T_clean" gets its threshold."""

    method: Literal["guaranteed", "empirical"]
    """`guaranteed` proves the target for new cars; `empirical` takes the lowest threshold that met it on the source split: no proof."""
    source: str
    """Split whose labels decide: `calib`, which serves nothing else, or `val`."""
    target_precision: Share
    """Share of right answers among those called clean, between 0 and 1."""
    confidence: Share
    """Share of calibration sets for which the proof holds, between 0 and 1."""
    starts: int
    """The proof may begin at this many thresholds, which share 1 - confidence: few need fewer photos, many trust the scores less."""

    @field_validator("source")
    @classmethod
    def _unspent(cls, value: str) -> str:
        if value == "test":
            raise ValueError("has the value 'test'. A threshold chosen there leaves nothing to test it on. Use 'calib' or 'val'.")
        if value == "train":
            raise ValueError("has the value 'train'. The model has learnt those answers by heart. Use 'calib' or 'val'.")
        if value not in ("calib", "val"):
            raise ValueError(f"has the value {value!r}. Use 'calib' or 'val'.")
        return value

    @field_validator("starts")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"has the value {value}. The test needs at least one start.")
        return value


class CleanCosts(Section):
    """What a decision about dirt costs; a right word costs nothing."""

    wrong_clean: Price
    """A dirty car called clean."""
    wrong_dirty: Price
    """A clean car called dirty."""
    review: Price
    """A person looks, and is right."""


class DamageCosts(Section):
    """What a decision about damage costs; a right word costs nothing."""

    wrong_undamaged: Price
    """A damaged car called undamaged."""
    wrong_damaged: Price
    """An undamaged car called damaged."""
    review: Price
    """A person looks, and is right."""


class DamageDecisionParams(Section):
    """Damaged or not: what counts as undamaged, and what is promised of either word."""

    cutoff: Number
    """A photo labelled with a damage_score of at least this is undamaged, above 0 and at most 1."""
    target_precision: Share
    """Share of right answers among those called undamaged, and among those called damaged."""
    confidence: Share
    """Share of calibration sets for which the proof of either word holds."""
    costs: DamageCosts

    @field_validator("cutoff")
    @classmethod
    def _a_score(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError(f"has the value {value}. It is a damage score: above 0, at most 1 (undamaged).")
        return value


class DecisionParams(Section):
    """What is decided with the answers, at which prices, and where."""

    field_dirty_rate: Share | None
    """Share of dirty cars where the model will work: the promise is then kept at that rate. None: as in the source split."""
    costs: CleanCosts
    damage: DamageDecisionParams
    car_sources: list[str]
    """Sources whose `family` is a vehicle or a session, so that its photos show one car. Elsewhere it is an export's copy of one photo."""
