"""Turns logits into calibrated probabilities: the content of models/calibration.json, and the same computation in torch.

p = softmax((logits + logit_offset) / temperature), for a binary question over the two logits (0, logit).

The offset corrects the class prior: a model trained with more photos of the rarer class than occur predicts that class too often. The
priors are stored in the checkpoint's lineage, for each question with classes: `{"natural": [share of each class], "trained": [share of
each class as weighted in the loss]}`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from torch import nn

from carinspect.core.errors import UserError
from carinspect.core.params import Section, load_json, parse_section
from carinspect.core.questions import Question, by_name

Priors = Mapping[str, Mapping[str, Sequence[float]]]


class QuestionCalibration(Section):
    """The calibration of one question with classes."""

    logit_offset: list[float]
    """Added to the logits, one number for each class; zeros when training did not change the class prior."""
    temperature: float | None
    """None when none could be fitted; it then counts as 1."""
    photos: int
    """Number of photos used for the fit."""
    nll_before: float | None
    """Mean negative log-likelihood in nats without offset and temperature; None without a fit."""
    nll_after: float | None
    """The same, with both."""
    reason: str | None
    """Why there is no temperature; None when there is one."""


class DropoutPlan(Section):
    """How the masks of Monte-Carlo dropout are drawn (model.uncertainty)."""

    samples: int
    dropout: float
    seed: int


class Reading(Section):
    """How the network reads a photo. What was measured and proved about its answers holds for this reading only."""

    image_side_px: int
    """Side of the square that the photo is resized to."""
    mirror: bool
    """Whether its features are averaged with those of its mirror image, in a second pass of the network."""


class Calibration(Section):
    """The content of models/calibration.json."""

    fitted_on: str
    """Name of the split."""
    questions: dict[str, QuestionCalibration]
    """By name, for every trained question with classes."""
    uncertainty: DropoutPlan | None
    """None when no spreads are computed."""
    reading: Reading | None
    """Of the photos that it was fitted on, which the model file keeps; None for answers that are not exported."""


def read_calibration(path: Path) -> Calibration:
    """Read models/calibration.json. Raises `UserError` when it is missing or has another format."""
    try:
        return parse_section("calibration", Calibration, load_json(path), file=str(path))
    except UserError as error:
        raise UserError(f"{error} Make {path} again: dvc repro --force evaluate.") from None


def logit_offsets(questions: Iterable[Question], priors: Priors) -> dict[str, list[float]]:
    """For each question with classes, the offset of its logits, one number for each class; zeros for an unchanged prior.

    p(class | photo) under the natural prior is proportional to p_trained(class | photo) x natural(class) / trained(class): Saerens,
    Latinne and Decaestecker (2002), equation 2.4; for two classes Elkan (2001), theorem 2. The logit of a class
    that never occurred in training is not changed.
    """
    offsets = {}
    for question in questions:
        if not question.has_classes:
            continue
        offsets[question.name] = [0.0] * len(question.classes)
        if question.name in priors:
            natural_K, trained_K = (np.asarray(priors[question.name][name]) for name in ("natural", "trained"))
            seen_K = (natural_K > 0) & (trained_K > 0)
            ratio_K = np.divide(natural_K, trained_K, out=np.ones(len(natural_K)), where=seen_K)
            offsets[question.name] = np.log(ratio_K).tolist()
    return offsets


def add_offset(question: Question, logits: torch.Tensor, offset_K: Sequence[float]) -> torch.Tensor:
    """The logits with the class offset added. A binary question has one logit, the log-odds of class 1; a score has no offset."""
    match question.kind:
        case "binary":
            return logits + (offset_K[1] - offset_K[0])
        case "score":
            return logits
        case "classes":
            return logits + torch.tensor(offset_K, dtype=logits.dtype, device=logits.device)
        case _:
            assert_never(question.kind)


class Calibrated(nn.Module):
    """Computes answers from logits, for the evaluation's spreads and for the model file. A temperature of None counts as 1."""

    def __init__(self, questions: Iterable[Question], calibration: Calibration) -> None:
        super().__init__()
        self.questions = by_name(questions)
        self.temperature = {name: fitted.temperature or 1.0 for name, fitted in calibration.questions.items()}
        self.shift = {name: fitted.logit_offset[1] - fitted.logit_offset[0] for name, fitted in calibration.questions.items()}
        for name, fitted in calibration.questions.items():
            self.register_buffer(f"offset_{name}", torch.tensor(fitted.logit_offset))

    def forward(self, name: str, logits: torch.Tensor) -> torch.Tensor:
        """Probability or score 0..1 of the question `name`, of the shape of `logits`: (...), or (..., K) for classes."""
        question = self.questions[name]
        match question.kind:
            case "binary":
                return torch.sigmoid((logits + self.shift[name]) / self.temperature[name])
            case "score":
                return torch.sigmoid(logits)
            case "classes":
                offset_K: torch.Tensor = getattr(self, f"offset_{name}")
                return torch.softmax((logits + offset_K) / self.temperature[name], dim=-1)
            case _:
                assert_never(question.kind)
