"""The section `select_threshold` of params.yaml; what is promised of each question stands under `questions.<name>.decide`."""

from typing import Literal

from pydantic import Field, field_validator

from carinspect.core.params import Section


class SelectThresholdParams(Section):
    """How rules get their thresholds."""

    method: Literal["guaranteed", "empirical"]
    """`guaranteed` proves the target for new cars; `empirical` takes the loosest threshold that met it on the source split: no proof."""
    source: str
    """Split whose labels decide: `calib`, which serves nothing else, or `val`."""
    starts: int = Field(ge=1)
    """The proof may begin at this many thresholds, which share 1 - confidence: few need fewer photos, many trust the scores less."""
    car_sources: list[str]
    """Sources whose `family` is a vehicle or a session, so that its photos show one car. Elsewhere it is an export's copy of one photo."""

    @field_validator("source")
    @classmethod
    def _unspent(cls, value: str) -> str:
        if value == "test":
            raise ValueError("has the value 'test'. A threshold chosen there leaves nothing to test it on. Use 'calib' or 'val'.")
        if value == "train":
            raise ValueError("has the value 'train'. The model has been trained on those labels. Use 'calib' or 'val'.")
        if value not in ("calib", "val"):
            raise ValueError(f"has the value {value!r}. Use 'calib' or 'val'.")
        return value

    @property
    def reference_split(self) -> str:
        """The split that fixes the candidates, so that the labels that decide don't."""
        return "val" if self.source == "calib" else "calib"
