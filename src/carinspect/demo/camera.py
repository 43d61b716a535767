"""Owns the projection from metres to canvas pixels: a pinhole camera that looks level at a car."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.bodies import Body, half_width


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

    def depth(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) metres → (N,) metres away from the camera."""
        x, y, _ = np.asarray(points_m, float).T
        return self.distance_m - (x * np.sin(self.yaw_rad) + y * np.cos(self.yaw_rad))

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

    def side_map(self, body: Body, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """For each canvas pixel the x and z, in metres, where it meets the plane of the near side; two float32 (H, W)."""
        corners = np.array([(-2, 0.2), (2, 0.2), (2, 1.5), (-2, 1.5)], np.float32)
        side = np.stack([corners[:, 0], np.full(4, body.width_m / 2), corners[:, 1]], axis=1)
        back = cv2.getPerspectiveTransform(self.project(side).astype(np.float32), corners)
        rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        scale = back[2, 0] * columns + back[2, 1] * rows + back[2, 2]
        x = (back[0, 0] * columns + back[0, 1] * rows + back[0, 2]) / scale
        z = (back[1, 0] * columns + back[1, 1] * rows + back[1, 2]) / scale
        return x.astype(np.float32), z.astype(np.float32)


def fit_camera(
    body: Body,
    *,
    yaw_rad: float,
    distance_m: float,
    height_m: float,
    canvas: tuple[int, int],
    fill: float,
    offset: tuple[float, float],
    mirrored: bool,
) -> Camera:
    """The camera whose picture of `body` fills the share `fill` of the canvas's width (less where the height would not hold it).

    `canvas` is (height, width) in pixels; `offset` moves the car's middle, in shares of the canvas.
    """
    rough = Camera(yaw_rad, distance_m, height_m, 1.0, 0.0, 0.0, mirrored)
    x = np.array([station[0] for station in body.profile])
    z = np.array([station[1] for station in body.profile])
    sides = [np.stack([x, sign * half_width(body, x, z), height], axis=1) for sign in (1, -1) for height in (z, np.zeros_like(z))]
    points = rough.project(np.concatenate(sides))
    low, high = points.min(axis=0), points.max(axis=0)
    focal = min(fill * canvas[1] / (high[0] - low[0]), 0.78 * canvas[0] / (high[1] - low[1]))
    middle = (low + high) / 2 * focal
    return Camera(
        yaw_rad=yaw_rad, distance_m=distance_m, height_m=height_m, focal_px=focal,
        centre_x_px=canvas[1] * (0.5 + offset[0]) - middle[0], horizon_px=canvas[0] * (0.56 + offset[1]) - middle[1], mirrored=mirrored,
    )  # fmt: skip
