"""The `model` section of params.yaml."""

from typing import Literal

from pydantic import Field

from carinspect.core.params import Number, Section


class ModelKnobs(Section):
    """The fields that both `ModelParams` and `ModelRecipe` have."""

    hidden_features: int = Field(ge=1)
    """Width of the layer shared by the heads."""
    dropout: Number = Field(ge=0, lt=1)
    """Share of that layer's features dropped in training."""


class ModelParams(ModelKnobs):
    """The section as a person writes it."""

    backbone: str | None
    """Name of a timm model; None uses that of the profile."""
    feature_stages: int | None = Field(ge=0)
    """As in `ModelRecipe`; None: `features.PRETRAINED_STAGES` for pretrained weights, else 0."""
    pretrained: bool | str | None
    """False trains from scratch, True takes the weights from timm's hub, a path takes a local file; None does as the profile says."""
    ensemble: Literal["none", "probe"]
    """`probe`: the answers are those of the network and of the linear probe together. It changes nothing in the training."""


class ModelRecipe(ModelKnobs):
    """The values that the training uses."""

    backbone: str
    """Name of a timm model."""
    feature_stages: int
    """The heads see the pooled features of so many last stages beside the backbone's own; 0: these alone, and only through the shared
    layer."""
    pretrained: str
    """`none`, `hub:<digest>` or `sha256:<digest of the weights file>`; no path, so that the recipe is the same on every machine."""

    def weights_of(self, given: bool | str | None) -> bool | str:
        """What the backbone is built from: False, True (timm's hub), or a path. given: `ModelParams.pretrained`, of which only a path is
        used, so that the rest depends on the recipe alone."""
        if self.pretrained == "none":
            return False
        return given if isinstance(given, str) else True

    @property
    def begins_with_probe(self) -> bool:
        """Whether the heads of the network begin with the weights of the linear probe."""
        return self.feature_stages > 0 and self.pretrained != "none"
