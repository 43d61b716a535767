"""The `convert_annotations` section of params.yaml: what an annotated class costs, and which photos are too small."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from carinspect.core.params import Number, Section

Severity = Annotated[Number, Field(gt=0, allow_inf_nan=False)]

RESERVED_MEANINGS = ("vehicle", "ignore")
"""Words of sources.yaml that no damage or dirt class may bear."""


class ConvertAnnotationsParams(Section):
    """Weights of the score formula (`annotations/scores.py`)."""

    damage_severity: dict[str, Severity]
    """Weight of each damage class. Its keys are the damage classes that sources.yaml may name."""
    dirt_severity: dict[str, Severity]
    """Weight of each dirt class. Its keys are the dirt classes that sources.yaml may name."""
    area_exponent: Number = Field(gt=0, le=4)
    """Exponent of the area share; below 1 a small mark already counts, above 1 only a large one does."""
    min_dimension_px: int = Field(ge=1)
    """A photo with a shorter side is rejected."""
    misnamed: Literal["reject", "read"]
    """What becomes of a photo whose suffix names another format than its bytes: rejected, or read as what it is."""

    @model_validator(mode="after")
    def _one_meaning_for_each_word(self) -> "ConvertAnnotationsParams":
        for word in self.damage_severity:
            if word in self.dirt_severity:
                raise ValueError(f"'{word}' stands in damage_severity and in dirt_severity. Keep one.")
        for word in (*self.damage_severity, *self.dirt_severity):
            if word in RESERVED_MEANINGS:
                raise ValueError(f"'{word}' cannot be a class: in sources.yaml the word means something else. Rename it.")
        return self
