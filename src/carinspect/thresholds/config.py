"""The section `select_threshold` of params.yaml; the target of each question is under `questions.<name>.decide`."""

from typing import Literal

from pydantic import Field, field_validator

from carinspect.core.params import Section
from carinspect.core.questions import Share


class MarksTarget(Section):
    """What is to be proved about the marks of damage and of dirt."""

    target_precision: Share
    """Share of the marks that touch what they point at."""
    confidence: Share


class SelectThresholdParams(Section):
    """How thresholds are chosen."""

    method: Literal["guaranteed", "empirical"]
    """`guaranteed` proves the target for new cars; `empirical` takes the loosest threshold that reached it on the source split."""
    source: str
    """Split whose labels choose the thresholds: `calib`, which is held out for this alone, or `val`."""
    starts: int = Field(ge=1, le=100)
    """Number of thresholds at which the test may start; they share 1 - confidence. Few need fewer photos; many rely less on the scores."""
    gate_share: Share
    """Of photos like those of `source` the gate may turn away so many; they are unsure."""
    car_sources: list[str]
    """Sources in which `family` names a vehicle or a session, so its photos show one car. In other sources it groups copies of a photo."""
    car_photos: list[int]
    """The least number of photos of each stratum of cars, ascending. A stratum ends before the next begins."""

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

    groups: list[str]
    """Columns of the predictions: each of their values is a group of photos for which a promise of its own is asked. Empty: none."""
    coverage: Share | None
    """Each question of several classes gets a set of classes that has the true one with this probability. None: no sets."""
    marks: MarksTarget

    @field_validator("car_photos")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if not value or value[0] < 1 or value != sorted(set(value)):
            raise ValueError(
                f"has the value {value}. Give numbers of photos from 1 on, each larger than the one before, e.g. [1, 2, 3, 5]."
            )
        return value

    @property
    def reference_split(self) -> str:
        """The split that gives the candidate thresholds, so that they do not depend on the labels of `source`."""
        return "val" if self.source == "calib" else "calib"
