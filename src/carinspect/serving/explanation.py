"""The occlusion map: which places of the photo the answer depends on, found by covering one cell after another.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4.2.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from carinspect.inference.predictor import Predictor

CHUNK = 32


@dataclass(frozen=True)
class Explanation:
    """How much an answer falls (negative: rises) when a cell of the photo is covered."""

    of: Annotated[str, Field(description="The output in question: the answer to the first question, e.g. p_clean.")]
    grid: Annotated[list[list[float]], Field(description="Cells, row by row from the upper left corner of the photo.")]


def explain(predictor: Predictor, pixels: np.ndarray, *, grid: int) -> Explanation:
    """The map of `pixels`, uint8 (side, side, 3), with `grid` cells along each side; each covered by the photo's mean colour."""
    covered = _cover_cells(pixels, grid)
    photos = np.concatenate([pixels[None], covered])
    outputs = predictor.bundle.predict(photos, batch_size=CHUNK)
    of = predictor.questions[0].outputs[-1]
    values = outputs[of].astype(np.float64)
    if values.ndim == 2:
        # Of several classes: the probability of the class that is likeliest for the whole photo.
        values = values[:, values[0].argmax()]
    falls = (values[0] - values[1:]).reshape(grid, grid)
    return Explanation(of=of, grid=[[round(float(fall), 6) for fall in row] for row in falls])


def _cover_cells(pixels: np.ndarray, grid: int) -> np.ndarray:
    """The photo once for each cell, that cell covered: uint8 (grid * grid, side, side, 3)."""
    edges = np.linspace(0, len(pixels), grid + 1).round().astype(int)
    covered = np.repeat(pixels[None], grid * grid, axis=0)
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for row in range(grid):
        for column in range(grid):
            covered[row * grid + column, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = colour
    return covered
