"""The section `evaluate` of params.yaml."""

from pydantic import Field, field_validator

from carinspect.core.params import Section
from carinspect.core.questions import Share


class EvaluateParams(Section):
    """How the intervals and the spreads of the evaluation are made."""

    bootstrap_samples: int = Field(ge=100)
    """Resamples of groups behind every interval."""
    confidence: Share
    """Share of other data sets for which the interval holds its metric."""
    seed: int
    """Of the resampling, and of the dropout masks."""
    dropout_samples: int = Field(ge=0)
    """Masks of Monte-Carlo dropout behind every `*_std`; 0 gives none."""
    slice_min_groups: int = Field(ge=2)
    """A slice of the test split with fewer labelled groups gets no interval, and is marked as too small to judge by."""
    leave_one_source_out: bool
    """Also train once without each source, and score its photos by a model that never saw it."""

    @field_validator("dropout_samples")
    @classmethod
    def _none_or_a_spread(cls, value: int) -> int:
        if value == 1:
            raise ValueError("has the value 1. A spread needs at least 2 samples, e.g. 30; 0 gives none.")
        return value
