"""Owns drawing wheels, and the dark around them."""

import numpy as np

from carinspect.demo.brush import circle, fill, scale
from carinspect.demo.camera import Camera
from carinspect.demo.vehicle import GAP, TYRE, Car


def draw_far_wheels(canvas: np.ndarray, vehicle: np.ndarray, car: Car, camera: Camera) -> None:
    radius = car.body.wheel_radius_m
    for wheel_x in car.body.wheels_x_m:
        ring = circle(centre=(wheel_x, radius), radius=radius)
        far = camera.project(np.stack([ring[:, 0], np.full(len(ring), -car.body.width_m / 2 + 0.12), ring[:, 1]], axis=1))
        fill(canvas, far, TYRE)
        fill(vehicle, far, 255)
    # The underbody: what one sees between the wheels is dark.
    front, rear = car.body.wheels_x_m
    low = car.body.sill_m * 0.72
    under = [(front + 0.2, 0.7, low), (rear - 0.2, 0.7, low), (rear - 0.2, 0.7, 0.5), (front + 0.2, 0.7, 0.5)]
    fill(canvas, camera.project(np.array(under)), GAP)
    fill(vehicle, camera.project(np.array(under)), 255)


def draw_wheel(canvas: np.ndarray, masks: tuple[np.ndarray, np.ndarray], car: Car, camera: Camera, wheel_x: float) -> None:
    vehicle, bare = masks
    radius = car.body.wheel_radius_m
    flank = car.body.width_m / 2

    def disc(ring: np.ndarray, inset_m: float) -> np.ndarray:
        return camera.project(np.stack([ring[:, 0], np.full(len(ring), flank - inset_m), ring[:, 1]], axis=1))

    arch = circle(centre=(wheel_x, radius), radius=radius * 1.2, start=-0.12, stop=np.pi + 0.12)
    fill(canvas, disc(arch, 0.0), GAP)
    fill(bare, disc(arch, 0.0), 255)
    for inset_m, colour in ((0.24, GAP), (0.04, TYRE)):
        tyre = disc(circle(centre=(wheel_x, radius), radius=radius), inset_m)
        for mask in (vehicle, bare):
            fill(mask, tyre, 255)
        fill(canvas, tyre, colour)
    fill(canvas, disc(circle(centre=(wheel_x, radius), radius=radius * 0.68), 0.03), car.rim)
    fill(canvas, disc(circle(centre=(wheel_x, radius), radius=radius * 0.58), 0.03), scale(car.rim, 0.32))
    turn = (car.seed % 628) / 100
    for spoke in range(car.spokes):
        angle = turn + 2 * np.pi * spoke / car.spokes
        tip = circle(centre=(wheel_x, radius), radius=radius * 0.62, count=2, start=angle - 0.16, stop=angle + 0.16)
        root = circle(centre=(wheel_x, radius), radius=radius * 0.12, count=2, start=angle + 0.9, stop=angle - 0.9)
        fill(canvas, disc(np.concatenate([tip, root]), 0.03), car.rim)
    fill(canvas, disc(circle(centre=(wheel_x, radius), radius=radius * 0.14), 0.03), scale(car.rim, 0.8))
