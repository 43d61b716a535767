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

The table also has the columns of the dataset. The spreads are NaN for a network without dropout, or with `evaluate.dropout_samples` 0.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.calibration import Calibrated, Calibration
from carinspect.model.network import CarInspectionNetwork
from carinspect.model.uncertainty import DropoutSpread
from carinspect.scoring.ranking import Array

SCORED_SPLITS = ("val", "calib", "test")
BATCH = 64


@torch.inference_mode()
def predict(network: CarInspectionNetwork, table: pd.DataFrame, *, root: Path, image_side_px: int) -> tuple[pd.DataFrame, torch.Tensor]:
    """`table` with the raw columns of each question, and the shared features, float32 (N, F), for `add_spreads`."""
    pixels = open_pixel_cache(root, table["image_path"].tolist(), table["sha256"].tolist(), side_px=image_side_px)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    starts = tqdm(range(0, len(table), BATCH), desc="predicting", unit="batch", disable=None)
    features_NF = torch.cat([network.features(torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)) for start in starts])
    columns: dict[str, Array] = {}
    for name, logits in network.answer(features_NF).items():
        question, raw = network.questions[name], logits.double().cpu()
        raw_NxK = (raw if question.has_classes else torch.sigmoid(raw)).reshape(len(table), -1).numpy()
        columns |= dict(zip(question.raw_columns, raw_NxK.T, strict=True))
    return table.assign(**columns), features_NF


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
