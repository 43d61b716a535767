"""The section `evaluate` of params.yaml."""

from pydantic import Field, field_validator

from carinspect.core.params import Section
from carinspect.core.questions import Share


class EvaluateParams(Section):
    """How the evaluation computes intervals and spreads."""

    confidence: Share
    """Confidence of the intervals: the share of repeated data sets whose interval contains the true metric."""
    seed: int
    """Seed of the dropout masks."""
    dropout_samples: int = Field(ge=0)
    """Number of Monte-Carlo dropout masks for every `*_std`; 0: no spreads."""
    image_side_px: int | None = Field(ge=32)
    """Side at which photos are read from the evaluation on, so that decisions, the model file and the service read them alike. None: the
    training side, or for pretrained weights up to 1.3 times that (`model.backbones.reading_side`)."""
    mirror: bool
    """Average a photo's features with those of its mirror image, from the evaluation on; the model file then takes twice the time."""
    slice_min_groups: int = Field(ge=2)
    """A slice of the test split with fewer labelled groups gets no interval, and is marked `too_few`."""
    leave_one_source_out: bool
    """Also train once without each source, and evaluate that model on the source left out."""
    corruptions: list[int]
    """Severities, 1 to 5 and ascending, at which photos of test are corrupted and scored; empty: none are."""
    corruption_photos: int = Field(ge=1)
    """At most so many photos of test are corrupted, one of a group."""

    @field_validator("dropout_samples")
    @classmethod
    def _none_or_a_spread(cls, value: int) -> int:
        if value == 1:
            raise ValueError("has the value 1. A spread needs at least 2 samples, e.g. 30; 0 gives none.")
        return value

    @field_validator("corruptions")
    @classmethod
    def _ascending_severities(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)) or not set(value) <= {1, 2, 3, 4, 5}:
            raise ValueError(f"has the value {value}. Severities are 1 to 5, each once and ascending, e.g. [1, 3, 5]; [] for none.")
        return value
