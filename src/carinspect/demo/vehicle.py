"""Owns the records of one car, and of where a canvas shows it."""

from dataclasses import dataclass

import numpy as np

from carinspect.demo.bodies import Body
from carinspect.demo.brush import Colour

TYRE: Colour = (24, 24, 26)
GAP: Colour = (22, 22, 24)

PAINTS: tuple[Colour, ...] = (
    (226, 228, 230), (178, 182, 186), (112, 116, 122), (40, 42, 46), (150, 20, 46), (36, 62, 128), (92, 148, 196), (30, 104, 70),
    (24, 98, 110), (92, 58, 116),
)  # fmt: skip
"""Neither brown nor orange: those are left to dirt and to rust, so that a small network can learn them from a few hundred photos."""


@dataclass(frozen=True)
class Car:
    """One car, whoever photographs it."""

    seed: int
    body: Body
    paint: Colour
    rim: Colour
    spokes: int


@dataclass(frozen=True)
class Parts:
    """Where the canvas shows what: masks, and for each pixel the place on the plane of the near side, in metres."""

    vehicle: np.ndarray
    paint: np.ndarray
    """Painted panels: no glass, wheels, lamps or plates."""
    side: np.ndarray
    """Painted panels of the near side, below the windows."""
    tops: np.ndarray
    """Bonnet, roof and boot lid, where snow would lie."""
    side_x_m: np.ndarray
    side_z_m: np.ndarray
