"""The params section `render_demo`."""

from pydantic import field_validator

from carinspect.core.params import Section

MINIMUM_PHOTOS = 40
"""With fewer, some source would lack a class, a split or a trap."""


class RenderDemoParams(Section):
    """What decides every byte of the demo data root."""

    seed: int
    """Any whole number; the same seed draws the same photos."""

    photos: int
    """How many different photos are drawn, before augmented copies and traps."""

    @field_validator("photos")
    @classmethod
    def _enough_for_every_source(cls, photos: int) -> int:
        if photos < MINIMUM_PHOTOS:
            raise ValueError(f"{photos} photos are too few for five sources with their classes and traps. The minimum is {MINIMUM_PHOTOS}.")
        return photos
