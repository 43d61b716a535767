"""Owns the formula from marked areas to a score.

    score = 1 - min(1, sum over classes c of severity_c x share_c ^ exponent)

share_c is the union of the class's masks over the vehicle's area where a vehicle is outlined, else over the photo's. A union, so that two
outlines of one dent cost no more than one; saturating, so that a wreck scores 0 and not less.
"""

from collections.abc import Mapping


def area_shares(areas_px: Mapping[str, int], *, vehicle_px: int, photo_px: int) -> dict[str, float]:
    """Share of each class, in 0..1, from the areas of the unions.

    vehicle_px: area of the union of the vehicle masks, 0 where none is outlined. A mark is not cut to the vehicle's outline, and its share
    stops at 1: vehicles are often outlined loosely, and a mark that somebody drew must not vanish beside one.
    """
    whole_px = vehicle_px or photo_px
    return {name: min(1.0, area_px / whole_px) for name, area_px in areas_px.items()}


def score_from_shares(shares: Mapping[str, float], severities: Mapping[str, float], *, exponent: float) -> float:
    """The score, in 0..1: 1 without marks. shares: class → share in 0..1; severities: class → weight."""
    # Sorted, for a sum of floats depends on its order.
    return 1.0 - min(1.0, sum(severities[name] * shares[name] ** exponent for name in sorted(shares)))
