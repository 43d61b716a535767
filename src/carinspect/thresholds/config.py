"""Owns the section `select_threshold` of params.yaml."""

from typing import Literal

from pydantic import field_validator

from carinspect.core.params import Number, Section


class SelectThresholdParams(Section):
    """How the rule "clean when p_clean >= T_clean" gets its threshold."""

    method: Literal["guaranteed", "empirical"]
    """`guaranteed` proves the target for new cars; `empirical` takes the lowest threshold that met it on the source split: no proof."""
    source: str
    """Split whose labels decide: `calib`, which serves nothing else, or `val`."""
    target_precision: Number
    """Share of right answers among those called clean, between 0 and 1."""
    confidence: Number
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

    @field_validator("target_precision", "confidence")
    @classmethod
    def _between_0_and_1(cls, value: float) -> float:
        if not 0 < value < 1:
            raise ValueError(f"has the value {value}. It must lie between 0 and 1, e.g. 0.95.")
        return value

    @field_validator("starts")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"has the value {value}. The test needs at least one start.")
        return value
