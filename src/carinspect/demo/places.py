"""Draws the places where cars stand: street, car park, garage, field, wall."""

from dataclasses import dataclass

import numpy as np

from carinspect.demo.brush import Colour, blend, box, circle, empty_mask, fill, gradient, mix, noise, scale, stroke
from carinspect.demo.car_drawing import PAINTS
from carinspect.demo.geometry import Camera
from carinspect.demo.scene import Light, Place

SKIES: dict[Light, tuple[Colour, Colour]] = {
    "sun": ((92, 146, 214), (198, 220, 238)),
    "overcast": ((168, 176, 186), (206, 210, 214)),
    "dusk": ((70, 84, 134), (222, 184, 190)),
    "indoor": ((120, 122, 122), (170, 170, 166)),
}
"""Colour overhead and at the horizon."""


@dataclass(frozen=True)
class Backdrop:
    """A place that is being drawn. Everything is drawn in place on `canvas`, what is farther away first."""

    canvas: np.ndarray
    camera: Camera
    sky: tuple[Colour, Colour]
    snow: bool
    wet: bool
    rng: np.random.Generator

    def draw(self, place: Place) -> None:
        """Sky, horizon and `place`."""
        horizon = self.camera.horizon_px
        gradient(self.canvas, top=0, bottom=horizon, colours=self.sky)
        # What no place covers between the horizon and its own ground.
        gradient(self.canvas, top=horizon, bottom=self.canvas.shape[0], colours=((170, 174, 176), (120, 120, 120)))
        match place:
            case "street":
                self._street()
            case "car park":
                self._car_park()
            case "garage":
                self._garage()
            case "field":
                self._field()
            case "wall":
                self._wall()

    def _at(self, depth_m: float) -> tuple[float, float]:
        """The canvas row of the ground at this depth, and the pixels of a metre there."""
        metre = self.camera.focal_px / depth_m
        return self.camera.horizon_px + self.camera.height_m * metre, metre

    def _any_x(self) -> float:
        return self.rng.uniform(0, self.canvas.shape[1])

    def _any_of(self, colours: tuple[Colour, ...]) -> Colour:
        return colours[self.rng.integers(len(colours))]

    def _band(self, *, top: float, bottom: float, colour: Colour) -> None:
        """A box as wide as the canvas."""
        box(self.canvas, left=0, right=self.canvas.shape[1], top=top, bottom=bottom, colour=colour)

    def _bar(self, x: float, half_px: float, *, top: float, bottom: float, colour: Colour) -> None:
        """A box that reaches `half_px` to both sides of `x`."""
        box(self.canvas, left=x - half_px, right=x + half_px, top=top, bottom=bottom, colour=colour)

    def _ground(self, *, top: float, colour: Colour, grain: float) -> None:
        """Ground from the row `top` down, coarser towards the camera; white under snow, darker when wet."""
        if self.snow:
            colour, grain = (226, 231, 238), 16.0
        elif self.wet:
            colour = scale(colour, 0.62)
        gradient(self.canvas, top=top, bottom=self.canvas.shape[0], colours=(mix(colour, self.sky[1], 0.15), scale(colour, 0.95)))
        ground = self.canvas[max(0, int(top)) :]
        if len(ground) < 4:
            return
        texture = noise(self.rng, ground.shape, cell_px=(120, 20), octaves=4)
        texture = texture + 0.5 * self.rng.random(ground.shape[:2], dtype=np.float32) - 0.25
        shifted = ground.astype(np.float32) + grain * 2.2 * (texture[..., None] - 0.5)
        ground[:] = np.clip(shifted, 0, 255).astype(np.uint8)

    def _tree(self, *, x: float, base: float, height: float) -> None:
        self._bar(x, height * 0.03, top=base - height * 0.5, bottom=base, colour=(64, 62, 58))
        green = (float(self.rng.integers(40, 78)), float(self.rng.integers(84, 120)), float(self.rng.integers(40, 64)))
        for _ in range(7):
            centre = (x + height * self.rng.normal(0, 0.13), base - height * self.rng.uniform(0.45, 0.9))
            leaf = scale(green, self.rng.uniform(0.75, 1.15))
            crown = circle(centre=centre, radius=height * self.rng.uniform(0.13, 0.22), count=14)
            fill(self.canvas, crown, (214, 220, 228) if self.snow and self.rng.random() < 0.55 else leaf)

    def _house(self, *, left: float, right: float, base: float, height: float) -> None:
        walls = ((168, 164, 156), (146, 108, 108), (190, 188, 182), (128, 134, 140), (160, 168, 150), (104, 108, 116))
        wall = scale(self._any_of(walls), self.rng.uniform(0.8, 1.1))
        roof = (232, 236, 242) if self.snow else scale(wall, 0.55)
        top = base - height
        box(self.canvas, left=left, right=right, top=top, bottom=base, colour=wall)
        box(self.canvas, left=left - 3, right=right + 3, top=top - 10, bottom=top + 4, colour=roof)
        columns, step = max(1, int((right - left) / 46)), height / 3.2
        for row in range(3):
            for column in range(columns):
                x = left + (column + 0.5) * (right - left) / columns
                lintel = top + step * (row + 0.25)
                sill = lintel + step * 0.55
                lit = self.rng.random() < 0.12
                pane = (226, 218, 170) if lit else mix((52, 60, 70), self.sky[1], 0.35 * self.rng.random())
                self._bar(x, 10, top=lintel, bottom=sill, colour=scale(wall, 1.15))
                self._bar(x, 8, top=lintel + 2, bottom=sill - 2, colour=pane)
                if self.snow:
                    self._bar(x, 11, top=sill - 2, bottom=sill + 3, colour=(235, 239, 244))

    def _parked_car(self, *, x: float, depth_m: float) -> None:
        """Another car in the distance: two boxes and two wheels."""
        base, metre = self._at(depth_m)
        colour = scale(self._any_of(PAINTS), 0.9)
        cabin = np.array([(-1.2, 0.8), (-0.7, 1.4), (0.7, 1.4), (1.3, 0.8)]) * (metre, -metre) + (x, base)
        self._bar(x, 2.1 * metre, top=base - 0.9 * metre, bottom=base - 0.25 * metre, colour=colour)
        fill(self.canvas, cabin, (56, 64, 72))
        stroke(self.canvas, cabin, (240, 242, 246) if self.snow else colour, width_px=max(2, int(0.09 * metre)))
        for wheel in (-1.3, 1.3):
            fill(self.canvas, circle(centre=(x + wheel * metre, base - 0.3 * metre), radius=0.32 * metre, count=16), (26, 26, 28))

    def _street(self) -> None:
        rng, width = self.rng, self.canvas.shape[1]
        depth_m = rng.uniform(11, 16)
        base, metre = self._at(depth_m)
        x = -rng.uniform(0, 120.0)
        while x < width:
            house = metre * rng.uniform(5, 11)
            self._house(left=x, right=x + house, base=base, height=metre * rng.uniform(5, 9))
            x += house + (metre * rng.uniform(1, 4) if rng.random() < 0.4 else 0)
        for _ in range(rng.integers(0, 3)):
            self._tree(x=self._any_x(), base=base, height=metre * rng.uniform(3, 6))
        self._ground(top=base, colour=(150, 148, 142), grain=8)
        kerb, _ = self._at(depth_m - 2.5)
        self._ground(top=kerb, colour=(98, 98, 102), grain=11)
        self._band(top=kerb - 3, bottom=kerb + 3, colour=(236, 239, 243) if self.snow else (176, 174, 168))
        if rng.random() < 0.6:
            self._parked_car(x=self._any_x(), depth_m=depth_m - 1.5)
        if rng.random() < 0.5:
            self._bar(self._any_x(), 3, top=base - 4.5 * metre, bottom=base + 4, colour=(84, 88, 92))

    def _car_park(self) -> None:
        rng, width = self.rng, self.canvas.shape[1]
        depth_m = rng.uniform(18, 30)
        base, metre = self._at(depth_m)
        for _ in range(rng.integers(5, 12)):
            self._tree(x=self._any_x(), base=base, height=metre * rng.uniform(4, 9))
        if rng.random() < 0.5:
            left = rng.uniform(-0.2, 0.7) * width
            self._house(left=left, right=left + metre * rng.uniform(10, 20), base=base, height=metre * rng.uniform(4, 7))
        self._ground(top=base, colour=(112, 112, 114), grain=12)
        for _ in range(rng.integers(1, 4)):
            self._parked_car(x=self._any_x(), depth_m=depth_m - rng.uniform(2, 6))
        if not self.snow:
            (near, _), (far, _) = self._at(4.5), self._at(11)
            for x in np.arange(-1.0, 2.0, 0.35) + rng.uniform(0, 0.3):
                top_x, bottom_x = width * (0.5 + (x - 0.5) * 0.6), width * (0.5 + (x - 0.5) * 1.5)
                fill(self.canvas, np.array([(top_x, far), (top_x + 4, far), (bottom_x + 9, near), (bottom_x, near)]), (196, 196, 188))

    def _garage(self) -> None:
        rng, (height, width, _) = self.rng, self.canvas.shape
        base, metre = self._at(rng.uniform(9.5, 12))
        wall = self._any_of(((150, 154, 156), (168, 170, 160), (120, 136, 146), (134, 140, 132)))
        gradient(self.canvas, top=0, bottom=base, colours=(scale(wall, 0.7), wall))
        for x in np.arange(rng.uniform(0, 60), width, metre * 1.2):
            box(self.canvas, left=x, right=x + 2, top=0, bottom=base, colour=scale(wall, 0.85))
        for _ in range(rng.integers(1, 4)):
            x, lamp = self._any_x(), rng.uniform(0.02, 0.12) * height
            self._bar(x, 60, top=lamp, bottom=lamp + 8, colour=(248, 250, 246))
        for _ in range(rng.integers(1, 4)):
            left = self._any_x()
            right = left + metre * rng.uniform(0.7, 1.6)
            tall = metre * rng.uniform(0.9, 2.2)
            cabinet = scale(self._any_of(PAINTS), 0.8)
            box(self.canvas, left=left, right=right, top=base - tall, bottom=base, colour=cabinet)
            for shelf in np.arange(0.2, 1.0, 0.25):
                top = base - tall * shelf
                box(self.canvas, left=left + 3, right=right - 3, top=top, bottom=top + 4, colour=scale(cabinet, 0.6))
        self._ground(top=base, colour=(130, 130, 128), grain=7)
        for _ in range(rng.integers(0, 4)):
            centre = (self._any_x(), base - 0.3 * metre)
            fill(self.canvas, circle(centre=centre, radius=0.32 * metre, count=24), (28, 28, 30))
            fill(self.canvas, circle(centre=centre, radius=0.16 * metre, count=20), scale(wall, 0.8))

    def _field(self) -> None:
        rng, width, horizon = self.rng, self.canvas.shape[1], self.camera.horizon_px
        columns = np.arange(0, width, 4)
        for layer in range(3):
            line = noise(rng, (1, width), cell_px=(width / 2.5, 1))[0]
            rise = (34 - layer * 9) * line + 6
            green = mix((92, 116, 76), self.sky[1], 0.55 - 0.2 * layer)
            hill = mix((222, 227, 234), self.sky[1], 0.3) if self.snow else green
            ridge = np.stack([columns, horizon - rise[columns]], axis=1)
            fill(self.canvas, np.concatenate([ridge, [(width, horizon + 40), (0, horizon + 40)]]), scale(hill, 1 - 0.1 * layer))
        base, metre = self._at(26)
        for _ in range(rng.integers(2, 8)):
            self._tree(x=self._any_x(), base=base, height=metre * rng.uniform(3, 8))
        self._ground(top=horizon + 6, colour=self._any_of(((104, 126, 66), (118, 130, 84), (88, 114, 70))), grain=20)
        if rng.random() < 0.5:
            base, metre = self._at(13)
            for x in np.arange(rng.uniform(0, metre), width, metre * 2):
                self._bar(x, 3, top=base - metre, bottom=base, colour=(86, 84, 80))
            for rail in (0.45, 0.85):
                self._band(top=base - metre * rail - 2, bottom=base - metre * rail + 2, colour=(100, 98, 94))
        self._ground(top=self._at(10)[0], colour=(124, 124, 118), grain=15)

    def _wall(self) -> None:
        rng, width = self.rng, self.canvas.shape[1]
        base, metre = self._at(rng.uniform(8.5, 11))
        wall = self._any_of(((140, 96, 98), (184, 182, 174), (108, 116, 122), (134, 146, 128), (92, 110, 124)))
        top = base - metre * rng.uniform(2.2, 5)
        self._band(top=top, bottom=base, colour=wall)
        if rng.random() < 0.6:
            course = metre * 0.22
            for row, y in enumerate(np.arange(base, top, -course)):
                self._band(top=y - 1.2, bottom=y + 0.6, colour=scale(wall, 0.72))
                for x in np.arange((row % 2) * course, width, course * 2):
                    box(self.canvas, left=x, right=x + 1.8, top=y - course, bottom=y, colour=scale(wall, 0.72))
        else:
            for x in np.arange(rng.uniform(0, metre * 0.3), width, metre * 0.3):
                box(self.canvas, left=x, right=x + metre * 0.1, top=top, bottom=base, colour=scale(wall, 0.84))
        stained = empty_mask(self.canvas)
        box(stained, left=0, right=width, top=top, bottom=base, colour=255)
        blotches = noise(rng, self.canvas.shape, cell_px=(110, 110))
        blend(self.canvas, scale(wall, 0.5), np.clip(blotches - 0.6, 0, 0.5) * (stained / 255.0))
        if rng.random() < 0.4:
            left = rng.uniform(0, 0.8) * width
            right, lintel = left + metre * 2.4, base - metre * 2.1
            box(self.canvas, left=left, right=right, top=lintel, bottom=base, colour=(88, 92, 98))
            for y in np.arange(lintel, base, metre * 0.3):
                box(self.canvas, left=left, right=right, top=y, bottom=y + 2, colour=(62, 66, 72))
        if self.snow:
            self._band(top=top - 8, bottom=top + 6, colour=(236, 240, 245))
        self._ground(top=base, colour=(114, 114, 112), grain=13)
