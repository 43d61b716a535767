"""The section `describe` of params.yaml: when a label counts as readable from the file alone, and how much the report shows."""

from pydantic import Field

from carinspect.core.params import Number, Section


class DescribeParams(Section):
    """How the data are examined."""

    seed: int
    """Of the folds, the trees and the dealt labels that chance is measured by."""
    folds: int = Field(ge=2, le=20)
    """Of the cross-validation; a group lies in one fold."""
    shortcut_auc: Number = Field(gt=0.5, le=1)
    """A class that image statistics or the source's name tell with at least this ROC AUC is warned of."""
    shortcut_r2: Number = Field(gt=0, le=1)
    """A score of which they explain at least this share of the variance is warned of."""
    chance_draws: int = Field(ge=1, le=1000)
    """How often labels are shuffled over the groups, to see what chance alone reaches."""
