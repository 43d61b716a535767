"""Makes the table data/predictions.csv: each photo of val, calib and test once, with the network's answers.

| column | meaning |
|---|---|
| `<binary>_logit` | log-odds of class 1, before calibration |
| `<score>` | 0..1, 1 = good |
| `<classes>_logit_<class>` | before calibration and softmax |
| `p_<binary>` | calibrated probability of class 1, 0..1 |
| `p_<classes>_<class>` | calibrated, 0..1; they sum to 1 |
| `p_<binary>_std`, `<score>_std` | spread of the answer over the masks of Monte-Carlo dropout |
| `p_<classes>_std` | the same, of the likeliest class |
| `strangeness` | the largest measure of the gate; 0 is usual, 1 is rare |

The table also has the columns of the dataset. The spreads are NaN for a network without dropout, or with `evaluate.dropout_samples` 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.evaluation.config import EvaluateParams
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.backbones import reading_side
from carinspect.model.calibration import Calibrated, Calibration, Reading
from carinspect.model.checkpoint import Checkpoint
from carinspect.model.gate import Array as Floats
from carinspect.model.gate import Gate, GateFit, fit_gate, measure_pictures
from carinspect.model.network import CarInspectionNetwork
from carinspect.model.uncertainty import DropoutSpread
from carinspect.scoring.ranking import Array

SCORED_SPLITS = ("val", "calib", "test")
BATCH = 64
MOST_KNOWN = 5000


@dataclass(frozen=True)
class Predicted:
    """What one pass of the network over N photos gives."""

    table: pd.DataFrame
    """With the raw columns of each question."""
    features_NF: torch.Tensor
    """The shared features, float32, for `add_spreads`."""
    early_NC: Floats
    """The early features and, in the next, what `measure_pictures` gives: for the gate."""
    pictures_NQ: Floats


def reading_of(checkpoint: Checkpoint, network: CarInspectionNetwork, params: EvaluateParams) -> Reading:
    """How photos are read by `network`, which was built from `checkpoint`."""
    return Reading(
        image_side_px=reading_side(
            network.backbone,
            params.image_side_px,
            pretrained=checkpoint.model.pretrained != "none",
            training_side_px=checkpoint.image_side_px,
        ),
        mirror=params.mirror,
    )


def predict(network: CarInspectionNetwork, table: pd.DataFrame, *, root: Path, reading: Reading) -> Predicted:
    """The network's answers to the photos of `table`, read as `reading` says."""
    return predict_pixels(network, table, read_pixels(table, root=root, image_side_px=reading.image_side_px), mirror=reading.mirror)


def read_pixels(table: pd.DataFrame, *, root: Path, image_side_px: int) -> np.ndarray:
    """The photos of `table`, uint8 (N, S, S, 3), from the cache of resized photos."""
    return open_pixel_cache(root, table["image_path"].tolist(), table["sha256"].tolist(), side_px=image_side_px)


@torch.inference_mode()
def predict_pixels(network: CarInspectionNetwork, table: pd.DataFrame, pixels: np.ndarray, *, mirror: bool) -> Predicted:
    """The network's answers to `pixels`, uint8 (N, S, S, 3), of the rows of `table`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    starts = tqdm(range(0, len(table), BATCH), desc="predicting", unit="batch", disable=None)
    parts: list[tuple[torch.Tensor, ...]] = []
    for start in starts:
        photos_BSS3 = torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)
        parts.append((*network.features_and_early(photos_BSS3, mirror=mirror), measure_pictures(photos_BSS3)))
    features_NF, early_NC, pictures_NQ = (torch.cat(part) for part in zip(*parts, strict=True))
    columns: dict[str, Array] = {}
    for name, logits in network.answer(features_NF).items():
        question, raw = network.questions[name], logits.double().cpu()
        raw_NxK = (raw if question.has_classes else torch.sigmoid(raw)).reshape(len(table), -1).numpy()
        columns |= dict(zip(question.raw_columns, raw_NxK.T, strict=True))
    return Predicted(table.assign(**columns), features_NF, early_NC.double().cpu().numpy(), pictures_NQ.double().cpu().numpy())


def fit_gate_to(known: Predicted, scored: Predicted) -> GateFit:
    """The gate of training photos, `known`, scaled by the photos of val among `scored`."""
    held_out = (scored.table["split"] == "val").to_numpy()
    return fit_gate(
        early_NC=known.early_NC,
        pictures_NQ=known.pictures_NQ,
        held_out_early_NC=scored.early_NC[held_out],
        held_out_pictures_NQ=scored.pictures_NQ[held_out],
    )


def add_strangeness(table: pd.DataFrame, scored: Predicted, fit: GateFit) -> pd.DataFrame:
    """`table`, whose photos are those of `scored`, with `strangeness`."""
    early_NC, pictures_NQ = (torch.tensor(array, dtype=torch.float32) for array in (scored.early_NC, scored.pictures_NQ))
    measures_NM = Gate(fit).scale(pictures_NQ, early_NC).double().numpy()
    return table.assign(strangeness=measures_NM.max(axis=1))


@torch.inference_mode()
def add_spreads(table: pd.DataFrame, network: CarInspectionNetwork, features_NF: torch.Tensor, *, calibration: Calibration) -> pd.DataFrame:
    """`table` with the spread of each question over the masks of `calibration.uncertainty`; NaN where there are none."""
    questions, plan = network.questions, calibration.uncertainty
    if plan is None:
        return table.assign(**{asked.spread: np.nan for asked in questions.values()})
    spread = DropoutSpread(network, plan, Calibrated(questions.values(), calibration)).to(features_NF.device)
    parts = [spread(features_BF) for features_BF in features_NF.split(BATCH)]
    return table.assign(
        **{asked.spread: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name, asked in questions.items()}
    )


def some_of(rows: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_KNOWN` rows, evenly spaced, which are enough for the statistics of the gate."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MOST_KNOWN).astype(int))] if len(rows) > MOST_KNOWN else rows


def check_finite(table: pd.DataFrame, questions: Sequence[Question]) -> None:
    """Raise `UserError` when an answer is not a finite number."""
    for question in questions:
        wrong = ~np.isfinite(table[question.raw_columns].to_numpy(np.float64)).all(axis=1)
        if wrong.any():
            photo = table["image_path"][wrong].iloc[0]
            raise UserError(
                f"{question.name}: the model's answer is not a finite number for {int(wrong.sum())} photos, e.g. {photo!r}. "
                "Its training diverged; lower train.lr and train again."
            )


def answered(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """The rows with a label and an answer of the model."""
    return table[table[question.column].notna() & table[question.raw_columns].notna().all(axis=1)]


def numbers(table: pd.DataFrame, column: str) -> Array:
    """One column as float64."""
    return table[column].to_numpy(np.float64)


def answers_to(rows: pd.DataFrame, question: Question) -> Array:
    """What the metrics compare with the labels, shape (N,): probability of class 1, score or likeliest class."""
    return chosen_class(rows, question) if question.kind == "classes" else numbers(rows, question.answer_columns[0])


def class_probabilities(rows: pd.DataFrame, question: Question) -> Array:
    """Calibrated, shape (N, K), of a question with classes."""
    answers_NxK = rows[question.answer_columns].to_numpy(np.float64)
    return np.hstack([1.0 - answers_NxK, answers_NxK]) if question.kind == "binary" else answers_NxK


def chosen_class(rows: pd.DataFrame, question: Question) -> Array:
    """The likeliest class, numbered as in the labels, shape (N,); for a binary question class 1 when p >= 0.5."""
    probabilities_NxK = class_probabilities(rows, question)
    if question.kind == "binary":
        return (probabilities_NxK[:, 1] >= 0.5).astype(np.float64)
    return probabilities_NxK.argmax(axis=1).astype(np.float64)
