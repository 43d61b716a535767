"""From logits to probabilities that mean what they say: what models/calibration.json holds, and the same step in torch for the model file.

p = softmax((logits + logit_offset) / temperature), over the two classes (0, logit) for a binary question.

The offset undoes a shifted class prior: a model that saw the rarer class more often than it occurs finds it too often. Priors are recorded
in the checkpoint's lineage, for each question with classes: `{"natural": [share of each class], "trained": [the same, as the loss saw
them]}`.
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
    """Of one question with classes."""

    logit_offset: list[float]
    """What to add to the logits, one number a class; zeros where training showed the classes as they occur."""
    temperature: float | None
    """None where none could be fitted; the logits then stand as they are."""
    photos: int
    """That it was fitted on."""
    nll_before: float | None
    """Mean negative log-likelihood in nats of the bare model, without offset and temperature; None without a fit."""
    nll_after: float | None
    reason: str | None
    """Why there is no temperature; None where there is one."""


class DropoutPlan(Section):
    """The masks of Monte-Carlo dropout, drawn once (model.uncertainty)."""

    samples: int
    dropout: float
    seed: int


class Calibration(Section):
    """The content of models/calibration.json."""

    fitted_on: str
    """The split."""
    questions: dict[str, QuestionCalibration]
    """By name, of every trained question with classes."""
    uncertainty: DropoutPlan | None
    """None: there are no spreads."""


def read_calibration(path: Path) -> Calibration:
    """Raises `UserError` for a file that is missing or was written by other code."""
    try:
        return parse_section("calibration", Calibration, load_json(path), file=str(path))
    except UserError as error:
        raise UserError(f"{error} Make {path} again: dvc repro --force evaluate.") from None


def logit_offsets(questions: Iterable[Question], priors: Priors) -> dict[str, list[float]]:
    """For each question with classes what to add to its logits, one number a class; zeros where nothing was shifted.

    p(class | photo) under the natural prior is proportional to p_trained(class | photo) x natural(class) / trained(class): Saerens,
    Latinne and Decaestecker (2002), equation 2.4; for two classes Elkan (2001), theorem 2. A class that training has never seen keeps its
    logit.
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
    """The logits with a class offset: of a binary question the one logit is the log-odds of class 1."""
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
    """Answers from logits, alike in the evaluation's spreads and in the model file. No temperature (None) counts as 1."""

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
