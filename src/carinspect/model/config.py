"""The `model` section of params.yaml."""

from pydantic import Field

from carinspect.core.params import Number, Section


class ModelKnobs(Section):
    """What the parameters and the recipe share."""

    hidden_features: int = Field(ge=1)
    """Width of the layer that the heads share."""
    dropout: Number = Field(ge=0, lt=1)
    """Share of that layer's features that are dropped in training."""


class ModelParams(ModelKnobs):
    """As a person writes them."""

    backbone: str | None
    """Name of a timm model; None takes the profile's."""
    pretrained: bool | str
    """False trains from scratch, True takes the weights from timm's hub, a path takes a local file."""


class ModelRecipe(ModelKnobs):
    """As the training runs them."""

    backbone: str
    """Name of a timm model."""
    pretrained: str
    """`none`, `hub:<digest>` or `sha256:<digest of the weights file>`; a path would tie the recipe to one machine."""
