"""The section `evaluate` of params.yaml."""

from pydantic import Field, field_validator

from carinspect.core.params import Section
from carinspect.core.questions import Share


class EvaluateParams(Section):
    """How the evaluation computes intervals and spreads."""

    bootstrap_samples: int = Field(ge=100)
    """Number of bootstrap resamples of groups for every interval."""
    confidence: Share
    """Confidence of the intervals: the share of repeated data sets whose interval contains the true metric."""
    seed: int
    """Seed of the resampling and of the dropout masks."""
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

    @field_validator("dropout_samples")
    @classmethod
    def _none_or_a_spread(cls, value: int) -> int:
        if value == 1:
            raise ValueError("has the value 1. A spread needs at least 2 samples, e.g. 30; 0 gives none.")
        return value
