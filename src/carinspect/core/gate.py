"""The catalogue of reasons for which the gate turns a photo away, in the words that a driver reads.

The gate asks whether a photo is like those on which the promise was proved. It has one measure for each reason; `model.gate` computes
them, and the model file has them as its output `gate`.
"""

OUTPUT = "gate"
"""Output of the model file: each measure, shape (B, M). 0 is the median of the known photos; about 1 % of them lie above 1."""

REASONS: dict[str, str] = {
    "dark": "too dark: take the photo in better light",
    "bright": "too bright: take the photo without direct light in the lens",
    "flat": "too little contrast: clean the lens, or wait until mist has gone",
    "blurred": "blurred: hold the camera still and clean the lens",
    "noisy": "too noisy: take the photo in better light",
    "framed": "a border or a screenshot: send the photo itself",
    "unlike": "unlike the photos that the model was tested on",
}
"""Measure → why, and what to do. The order is that of the output."""

MEASURES = tuple(REASONS)
