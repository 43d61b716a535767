"""The shapes of the cars in metres, and the camera that projects them onto the canvas.

Axes: x along the car with the front at +x, y to the car's left, z up from the ground; the origin lies under the car's middle.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

Surface = Literal["end", "top", "glass"]

Station = tuple[float, float, Surface]
"""x, z of a profile point, and the surface from it to the next point."""


@dataclass(frozen=True)
class Body:
    """One kind of car."""

    width_m: float
    sill_m: float
    belt_m: float
    wheel_radius_m: float
    wheels_x_m: tuple[float, float]
    profile: tuple[Station, ...]
    """From the front bumper's lower edge over the roof to the rear bumper's."""
    windows: tuple[tuple[tuple[float, float], ...], ...]
    doors_x_m: tuple[float, ...]
    """Where the gaps between panels stand."""

    @property
    def half_length_m(self) -> float:
        return max(abs(x) for x, _, _ in self.profile)

    @property
    def height_m(self) -> float:
        return max(z for _, z, _ in self.profile)


BODIES: dict[str, Body] = {
    "hatchback": Body(
        width_m=1.75, sill_m=0.24, belt_m=0.95, wheel_radius_m=0.31, wheels_x_m=(1.27, -1.25), doors_x_m=(0.85, -0.3, -1.0),
        profile=(
            (1.95, 0.22, "end"), (2.0, 0.50, "end"), (1.93, 0.72, "end"), (1.78, 0.82, "top"), (0.98, 0.98, "glass"), (0.25, 1.42, "top"),
            (-0.5, 1.48, "top"), (-1.45, 1.41, "glass"), (-1.86, 1.0, "end"), (-1.95, 0.85, "end"), (-2.0, 0.55, "end"),
            (-1.94, 0.25, "end"),
        ),
        windows=(
            ((0.80, 1.0), (0.27, 1.34), (-0.27, 1.38), (-0.27, 0.99)),
            ((-0.34, 0.99), (-0.34, 1.39), (-1.2, 1.34), (-1.5, 1.05), (-1.45, 1.0)),
        ),
    ),
    "saloon": Body(
        width_m=1.8, sill_m=0.24, belt_m=0.93, wheel_radius_m=0.32, wheels_x_m=(1.42, -1.38), doors_x_m=(0.9, -0.2, -1.05),
        profile=(
            (2.25, 0.22, "end"), (2.32, 0.48, "end"), (2.25, 0.68, "end"), (2.08, 0.78, "top"), (0.98, 0.95, "glass"), (0.22, 1.38, "top"),
            (-0.45, 1.43, "top"), (-1.1, 1.37, "glass"), (-1.75, 1.02, "top"), (-2.2, 0.98, "end"), (-2.28, 0.72, "end"),
            (-2.3, 0.45, "end"), (-2.23, 0.25, "end"),
        ),
        windows=(
            ((0.80, 0.97), (0.24, 1.30), (-0.17, 1.34), (-0.17, 0.96)),
            ((-0.24, 0.96), (-0.24, 1.34), (-0.95, 1.31), (-1.45, 1.04), (-1.4, 0.98)),
        ),
    ),
    "suv": Body(
        width_m=1.85, sill_m=0.34, belt_m=1.1, wheel_radius_m=0.37, wheels_x_m=(1.38, -1.36), doors_x_m=(0.9, -0.15, -1.05),
        profile=(
            (2.18, 0.32, "end"), (2.24, 0.6, "end"), (2.2, 0.88, "end"), (2.02, 1.0, "top"), (1.05, 1.12, "glass"), (0.45, 1.6, "top"),
            (-0.5, 1.7, "top"), (-1.85, 1.64, "glass"), (-2.12, 1.15, "end"), (-2.2, 0.95, "end"), (-2.24, 0.55, "end"),
            (-2.16, 0.34, "end"),
        ),
        windows=(
            ((0.88, 1.14), (0.43, 1.52), (-0.12, 1.58), (-0.12, 1.13)),
            ((-0.19, 1.13), (-0.19, 1.58), (-1.0, 1.57), (-1.0, 1.13)),
            ((-1.08, 1.13), (-1.08, 1.57), (-1.72, 1.53), (-1.88, 1.2), (-1.85, 1.14)),
        ),
    ),
    "van": Body(
        width_m=1.9, sill_m=0.3, belt_m=1.15, wheel_radius_m=0.34, wheels_x_m=(1.6, -1.45), doors_x_m=(1.25, 0.35, -0.85),
        profile=(
            (2.4, 0.27, "end"), (2.46, 0.55, "end"), (2.4, 0.88, "end"), (2.22, 1.02, "top"), (1.78, 1.18, "glass"), (1.1, 1.84, "top"),
            (0.5, 1.95, "top"), (-2.3, 1.94, "end"), (-2.42, 1.8, "end"), (-2.46, 0.6, "end"), (-2.4, 0.3, "end"),
        ),
        windows=(((1.55, 1.2), (1.06, 1.7), (0.46, 1.76), (0.46, 1.2)),),
    ),
    "pickup": Body(
        width_m=1.88, sill_m=0.4, belt_m=1.1, wheel_radius_m=0.39, wheels_x_m=(1.62, -1.55), doors_x_m=(1.05, 0.15, -0.88),
        profile=(
            (2.48, 0.37, "end"), (2.55, 0.65, "end"), (2.48, 0.92, "end"), (2.3, 1.04, "top"), (1.25, 1.14, "glass"), (0.65, 1.66, "top"),
            (0.1, 1.73, "top"), (-0.6, 1.68, "glass"), (-0.86, 1.12, "top"), (-1.0, 1.07, "top"), (-2.5, 1.07, "end"), (-2.56, 0.9, "end"),
            (-2.56, 0.6, "end"), (-2.46, 0.4, "end"),
        ),
        windows=(
            ((1.05, 1.14), (0.65, 1.57), (0.2, 1.62), (0.2, 1.13)),
            ((0.13, 1.13), (0.13, 1.62), (-0.5, 1.59), (-0.68, 1.16)),
        ),
    ),
}  # fmt: skip


def vary(body: Body, *, length: float, height: float, wheels: float) -> Body:
    """The same kind of car from another maker: factors near 1 for its length, its height and its wheels."""
    return replace(
        body,
        sill_m=body.sill_m * height,
        belt_m=body.belt_m * height,
        wheel_radius_m=body.wheel_radius_m * wheels,
        wheels_x_m=(body.wheels_x_m[0] * length, body.wheels_x_m[1] * length),
        profile=tuple((x * length, z * height, surface) for x, z, surface in body.profile),
        windows=tuple(tuple((x * length, z * height) for x, z in window) for window in body.windows),
        doors_x_m=tuple(x * length for x in body.doors_x_m),
    )


def rounded(profile: tuple[Station, ...]) -> tuple[np.ndarray, list[Surface]]:
    """The profile with its corners cut twice (Chaikin, 1974): points float (N, 2) and the surface of each of the N - 1 stretches."""
    points = np.array([(x, z) for x, z, _ in profile])
    surfaces: list[Surface] = [surface for _, _, surface in profile[:-1]]
    for _ in range(2):
        cut = np.empty((2 * len(points) - 2, 2))
        cut[0::2] = points[:-1] * 0.75 + points[1:] * 0.25
        cut[1::2] = points[:-1] * 0.25 + points[1:] * 0.75
        points = np.concatenate([points[:1], cut, points[-1:]])
        # A corner belongs to the stretch before it, so that glass keeps its lower edge.
        surfaces = [surfaces[0]] + [surface for surface in surfaces for _ in range(2)]
    return points, surfaces


def half_width(body: Body, x_m: np.ndarray, z_m: np.ndarray) -> np.ndarray:
    """Half of the body's width at (x, z), in metres: narrower towards both ends and above the belt line."""
    towards_end = np.clip((np.abs(x_m) - (body.half_length_m - 0.5)) / 0.5, 0, 1)
    above_belt = np.clip((z_m - body.belt_m) / (body.height_m - body.belt_m), 0, 1)
    return body.width_m / 2 - 0.15 * towards_end**2 - 0.17 * above_belt


@dataclass(frozen=True)
class Camera:
    """A camera on a circle around the car. At yaw 0 it sees the car's left side; a positive yaw shows more of the front."""

    yaw_rad: float
    distance_m: float
    height_m: float
    focal_px: float
    centre_x_px: float
    horizon_px: float
    mirrored: bool

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) metres → (N, 2) canvas pixels."""
        x, y, z = np.asarray(points_m, float).T
        sine, cosine = np.sin(self.yaw_rad), np.cos(self.yaw_rad)
        across = -x * cosine + y * sine
        depth = self.distance_m - (x * sine + y * cosine)
        right = self.focal_px * across / depth * (-1 if self.mirrored else 1)
        return np.stack([self.centre_x_px + right, self.horizon_px - self.focal_px * (z - self.height_m) / depth], axis=1)

    def on_side(self, body: Body, points_m: np.ndarray) -> np.ndarray:
        """(N, 2) x, z on the car's near side → (N, 2) canvas pixels."""
        x, z = np.asarray(points_m, float).T
        return self.project(np.stack([x, half_width(body, x, z), z], axis=1))

    def on_end(self, body: Body, points: np.ndarray, outline: np.ndarray) -> np.ndarray:
        """(N, 2) share of the half width -1..1, z on the visible end (front or rear) → (N, 2) canvas pixels. `outline`: rounded profile."""
        share, z = np.asarray(points, float).T
        half = outline[outline[:, 0] > 0] if self.yaw_rad > 0 else outline[outline[:, 0] < 0][::-1]
        low = half[: int(np.argmax(half[:, 1])) + 1]
        x = np.interp(z, low[:, 1], low[:, 0])
        return self.project(np.stack([x, share * half_width(body, x, z), z], axis=1))

    def side_map(self, body: Body, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """For each canvas pixel the x and z, in metres, where it meets the plane of the near side; two float32 (H, W)."""
        corners = np.array([(-2, 0.2), (2, 0.2), (2, 1.5), (-2, 1.5)], np.float32)
        side = np.stack([corners[:, 0], np.full(4, body.width_m / 2), corners[:, 1]], axis=1)
        back = cv2.getPerspectiveTransform(self.project(side).astype(np.float32), corners)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        x, z, scale = (line[0] * columns + line[1] * rows + line[2] for line in back)
        return (x / scale).astype(np.float32), (z / scale).astype(np.float32)


def fit_camera(
    body: Body, *, yaw_rad: float, distance_m: float, height_m: float, mirrored: bool, canvas: tuple[int, ...], fill: float,
    offset: tuple[float, float],
) -> Camera:  # fmt: skip
    """The camera whose picture of `body` fills the share `fill` of the canvas's width (less where the height would not hold it).

    `canvas` is the canvas's (height, width) in pixels; `offset` moves the car's middle, in shares of the canvas.
    """
    rough = Camera(yaw_rad, distance_m, height_m, 1.0, 0.0, 0.0, mirrored)
    x, z = np.array([(x, z) for x, z, _ in body.profile]).T
    sides = [np.stack([x, sign * half_width(body, x, z), height], axis=1) for sign in (1, -1) for height in (z, np.zeros_like(z))]
    points = rough.project(np.concatenate(sides))
    low, high = points.min(axis=0), points.max(axis=0)
    focal = min(fill * canvas[1] / (high[0] - low[0]), 0.78 * canvas[0] / (high[1] - low[1]))
    middle = (low + high) / 2 * focal
    return replace(
        rough, focal_px=focal, centre_x_px=canvas[1] * (0.5 + offset[0]) - middle[0], horizon_px=canvas[0] * (0.56 + offset[1]) - middle[1]
    )  # fmt: skip
