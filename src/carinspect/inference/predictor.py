"""Owns the way from photos to answers that batch scoring and serving share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from carinspect.core.tasks import SPREAD
from carinspect.images.decode import load_image
from carinspect.inference.bundle import ModelBundle
from carinspect.inference.decision import Decision, DecisionRule, Label, read_rule

STDS = tuple(SPREAD.values())
"""Outputs of a model with Monte-Carlo heads: standard deviations over its masks, the last that of the likeliest weather."""


@dataclass(frozen=True)
class Answer:
    """What the model says of one photo. None where it was not trained on the task."""

    label: Label | None
    """`DecisionRule.label`; None also where no threshold could be proved."""
    p_clean: float | None
    """Calibrated, 0..1."""
    threshold: float | None
    """T_clean of the rule."""
    decision: Decision | None
    """`DecisionRule.decide`."""
    cleanliness: float | None
    """0..1, 1 = clean."""
    damage: float | None
    """0..1, 1 = undamaged."""
    weather: str | None
    """The likeliest class."""
    p_weather: dict[str, float] | None
    """Class → calibrated probability."""
    uncertainty: dict[str, float | None] | None
    """`STDS` → standard deviation; None for a model without Monte-Carlo heads."""


@dataclass(frozen=True)
class Predictor:
    """A model file with the rule that decides. Safe to use from several threads."""

    bundle: ModelBundle
    rule: DecisionRule

    @property
    def image_side_px(self) -> int:
        return int(self.bundle.info["image_side_px"])

    def load(self, source: Path | bytes | Image.Image) -> np.ndarray:
        """One photo as the model takes it: uint8 (side, side, 3), source as in `images.decode.load_image`. Raises its `PhotoError`."""
        return load_image(source, self.image_side_px)

    def answer(self, photos: np.ndarray) -> list[Answer]:
        """Answers for uint8 photos of shape (B, side, side, 3), B at least 1, in one run of the model."""
        outputs = self.bundle.predict(photos, batch_size=len(photos))
        columns = {name: values.tolist() for name, values in outputs.items()}
        return [self._answer_of({name: column[place] for name, column in columns.items()}) for place in range(len(photos))]

    def _answer_of(self, row: dict[str, Any]) -> Answer:
        p_clean: float | None = row.get("p_clean")
        p_weather: dict[str, float] | None = None
        if "p_weather" in row:
            p_weather = dict(zip(self.bundle.info["weather_classes"], row["p_weather"], strict=True))
        return Answer(
            label=None if p_clean is None else self.rule.label(p_clean),
            p_clean=p_clean,
            threshold=self.rule.T_clean,
            decision=None if p_clean is None else self.rule.decide(p_clean),
            cleanliness=row.get("cleanliness"),
            damage=row.get("damage"),
            weather=None if p_weather is None else max(p_weather, key=p_weather.__getitem__),
            p_weather=p_weather,
            uncertainty={name: row.get(name) for name in STDS} if any(name in row for name in STDS) else None,
        )


def make_predictor(bundle: ModelBundle) -> Predictor:
    """The predictor with the model's own rule. Raises `UserError` when the file has none, or a broken one."""
    return Predictor(bundle, read_rule(bundle.info.get("threshold")))
