"""Owns the decision: from the probability of clean to a word, and what that word promises."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from carinspect.core.errors import UserError

Label = Literal["clean", "dirty"]
Decision = Literal["clean", "dirty", "unsure"]

REMAKE = "Make the model file again: dvc repro export_onnx."


@dataclass(frozen=True)
class DecisionRule:
    """The rule of one model file, or what an operator put in its place.

    `label` is the plain answer of one threshold, `decide` the answer that may also be *unsure*.
    """

    T_clean: float | None
    """The label is clean when p_clean >= T_clean. None: no threshold could be proved, and nothing is ever called clean."""
    T_low: float | None
    """Dirty when p_clean < T_low. None: nothing is ever decided to be dirty."""
    T_high: float | None
    """Clean when p_clean >= T_high, unsure between the two. The model's own T_high is its T_clean."""
    promise: dict[str, Any] | None
    """What "clean" proves: `{precision, confidence, of}`; None where nothing is proved, and for every rule that was overridden."""
    promise_low: dict[str, Any] | None
    """The same of "dirty"."""
    overridden: bool
    """Whether an operator replaced one of the model's own numbers by another."""

    @property
    def promises(self) -> dict[Label, dict[str, Any]]:
        """Word → what it proves, for those that prove anything."""
        proved: dict[Label, dict[str, Any] | None] = {"clean": self.promise, "dirty": self.promise_low}
        return {word: promise for word, promise in proved.items() if promise is not None}

    def decide(self, p_clean: float) -> Decision:
        """The answer that stands behind the promise."""
        if self.T_high is not None and p_clean >= self.T_high:
            return "clean"
        if self.T_low is not None and p_clean < self.T_low:
            return "dirty"
        return "unsure"

    def label(self, p_clean: float) -> Label | None:
        """Clean or dirty, without *unsure*; None where there is no T_clean to tell them apart."""
        if self.T_clean is None:
            return None
        return "clean" if p_clean >= self.T_clean else "dirty"

    def override(self, *, T_clean: float | None = None, T_low: float | None = None, T_high: float | None = None) -> "DecisionRule":
        """This rule with an operator's numbers; None keeps the model's own. A number that differs from it ends the promise.

        T_clean alone moves T_high with it. Raises `UserError` unless 0 <= T_low <= T_clean <= T_high <= 1.
        """
        asked = {
            "T_clean": self.T_clean if T_clean is None else T_clean,
            "T_low": self.T_low if T_low is None else T_low,
            "T_high": T_high if T_high is not None else (self.T_high if T_clean is None else T_clean),
        }
        if asked == {"T_clean": self.T_clean, "T_low": self.T_low, "T_high": self.T_high}:
            return self
        check_order(**asked)
        return replace(self, **asked, promise=None, promise_low=None, overridden=True)


def read_rule(threshold: Any) -> DecisionRule:
    """The rule in `threshold`, the content of models/threshold.json as a model file carries it. Raises `UserError` unless it is whole."""
    missing = [
        key for key in ("T_clean", "T_low", "T_high", "proves", "proves_low") if not isinstance(threshold, dict) or key not in threshold
    ]
    if missing:
        raise UserError(f"the model's threshold lacks {', '.join(missing)}, so nothing can be decided. {REMAKE}")
    numbers = {key: threshold[key] for key in ("T_clean", "T_low", "T_high")}
    strange = [key for key, value in numbers.items() if not (value is None or type(value) in (int, float))]
    if strange:
        raise UserError(f"the model's threshold {strange[0]} has the value {numbers[strange[0]]!r}, which is no number. {REMAKE}")
    check_order(**numbers)
    for promise, number in (("proves", "T_clean"), ("proves_low", "T_low")):
        if threshold[promise] is not None and numbers[number] is None:
            raise UserError(f"the model's threshold promises a precision without a {number} to keep it. {REMAKE}")
    return DecisionRule(**numbers, promise=threshold["proves"], promise_low=threshold["proves_low"], overridden=False)


def check_order(*, T_clean: float | None, T_low: float | None, T_high: float | None) -> None:
    """Raise `UserError` unless those that are set rise from T_low to T_high within 0..1, T_clean and T_high both or neither."""
    numbers = {"T_low": T_low, "T_clean": T_clean, "T_high": T_high}
    stated = {name: value for name, value in numbers.items() if value is not None}
    for name, value in stated.items():
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{name} has the value {value}. It is a probability, from 0 to 1.")
    if (T_clean is None) != (T_high is None):
        raise UserError(f"T_clean is {T_clean} and T_high is {T_high}. Where one is set the other must be too.")
    if list(stated.values()) != sorted(stated.values()):
        said = ", ".join(f"{name} {value:g}" for name, value in stated.items())
        raise UserError(f"{said}: it must hold that T_low <= T_clean <= T_high.")
