"""Owns the section `evaluate` of params.yaml."""

from pydantic import Field, field_validator

from carinspect.core.params import Number, Section


class EvaluateParams(Section):
    """How the intervals and the spreads of the evaluation are made."""

    bootstrap_samples: int
    """Resamples of groups behind every interval, at least 100."""
    confidence: Number
    """Share of other data sets for which the interval holds its metric, between 0 and 1."""
    seed: int
    """Of the resampling, and of the dropout masks."""
    dropout_samples: int
    """Masks of Monte-Carlo dropout behind every `*_std`; 0 gives none."""
    slice_min_groups: int = Field(ge=2)
    """A source or a weather with fewer labelled groups gets no interval, and is marked as too small to judge by."""
    leave_one_source_out: bool
    """Also train once without each source, and score its photos by a model that never saw it."""

    @field_validator("bootstrap_samples")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value < 100:
            raise ValueError(f"has the value {value}. An interval needs at least 100 resamples.")
        return value

    @field_validator("dropout_samples")
    @classmethod
    def _none_or_a_spread(cls, value: int) -> int:
        if value < 0 or value == 1:
            raise ValueError(f"has the value {value}. A spread needs at least 2 samples, e.g. 30; 0 gives none.")
        return value

    @field_validator("confidence")
    @classmethod
    def _between_0_and_1(cls, value: float) -> float:
        if not 0 < value < 1:
            raise ValueError(f"has the value {value}. It must lie between 0 and 1, e.g. 0.95.")
        return value
