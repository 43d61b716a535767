"""The `split` section of params.yaml."""

import math
from typing import Literal

from pydantic import Field, field_validator

from carinspect.core.errors import did_you_mean
from carinspect.core.params import Number, Section

POLICIES = ("fresh", "respect")

_SPLITS = ("train", "val", "calib", "test")  # core.tables has them too, and pandas with them


class SplitParams(Section):
    """How groups are found and where they go."""

    seed: int
    """Another seed is another split."""
    policy: str
    """`fresh` ignores the splits that exports declare; `respect` keeps them, but for groups that straddle and for calib's share."""
    fractions: dict[str, Number]
    """Share of the photos that goes to train, val, calib and test; they sum to 1."""
    near_duplicate_bits: int = Field(ge=0, le=20)
    """Pairs are looked at a second time when their hashes differ in at most this many of 64 bits.

    Each hash has 32 bits set, so that two differ in an even number. 14 finds one copy in ten more, for five times the work.
    """
    near_duplicate_correlation: Number = Field(gt=0, le=1)
    """Pairs are one group when nine tenths of their fine detail, aligned, correlate at least this much. Different photos reach 0.41.

    Two more rules, for watermarks and noise, stand in correlation.py: a pair of theirs is listed with a lower correlation.
    """

    same_scene: Literal["report", "merge"]
    """What becomes of photos that only seem to show one scene: a list for a person, or one group. Needs `model.pretrained`."""

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, policy: str) -> str:
        if policy not in POLICIES:
            raise ValueError(f"has the value '{policy}'. {did_you_mean(policy, POLICIES)}")
        return policy

    @field_validator("fractions")
    @classmethod
    def _whole_fractions(cls, fractions: dict[str, float]) -> dict[str, float]:
        for name, fraction in fractions.items():
            if name not in _SPLITS:
                raise ValueError(f"'{name}' is no split. {did_you_mean(name, _SPLITS)}")
            if not fraction > 0:
                raise ValueError(f"{name} has the value {fraction:g}. It must be above 0.")
        missing = [name for name in _SPLITS if name not in fractions]
        if missing:
            raise ValueError(f"{missing[0]} is missing. Give each of {', '.join(_SPLITS)} its share.")
        total = math.fsum(fractions.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"they sum to {total:g}. Make them sum to 1.")
        return {name: fractions[name] for name in _SPLITS}
