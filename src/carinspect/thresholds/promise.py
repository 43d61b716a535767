"""Owns what is promised of a rule, on either side of it."""

from dataclasses import dataclass
from typing import Literal

Side = Literal["above", "below"]
"""`above`: the word said when score >= T_high (clean, undamaged). `below`: the word said when score < T_low (dirty, damaged)."""


@dataclass(frozen=True)
class Promise:
    """A share `target_precision` of right answers on each side, each side at `confidence` on its own; all between 0 and 1."""

    target_precision: float
    confidence: float
    starts: int
    """Thresholds at which the test may begin; they share 1 - confidence."""
    lower_class_rate: float | None
    """Share of the class below (dirty) where the rule will work; None: as among the labelled photos that decide."""

    @property
    def alpha(self) -> float:
        return 1 - self.confidence

    @property
    def level_of_one_start(self) -> float:
        return self.alpha / self.starts

    def wrong_rate(self, side: Side) -> float | None:
        """Share of the class that the word of `side` would be wrong for; None where no rate is given."""
        if self.lower_class_rate is None:
            return None
        return self.lower_class_rate if side == "above" else 1 - self.lower_class_rate
