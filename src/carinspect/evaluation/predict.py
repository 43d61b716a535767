"""Owns the raw predictions, every photo of the scored splits once, by the trained network, and their spreads."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carinspect.core.tasks import SPREAD, WEATHER_CLASSES
from carinspect.images.store import open_store
from carinspect.model.answers import Calibrated
from carinspect.model.network import CarInspectionNetwork
from carinspect.model.uncertainty import DropoutSpread

SCORED_SPLITS = ("val", "calib", "test")
BATCH = 64


@torch.inference_mode()
def predict(network: CarInspectionNetwork, table: pd.DataFrame, *, root: Path, image_side_px: int) -> tuple[pd.DataFrame, torch.Tensor]:
    """`table` with the columns `clean_logit`, `cleanliness`, `damage`, `weather_logit_<class>`; NaN for a task the network lacks.

    And the features of its photos that all answers come from, float32 (N, F), for `add_spreads`.
    """
    pixels = open_store(root, table["image_path"].tolist(), table["sha256"].tolist(), side_px=image_side_px)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    starts = tqdm(range(0, len(table), BATCH), desc="predicting", unit="batch", disable=None)
    parts = [network.features(torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)) for start in starts]
    features_NF = torch.cat(parts)
    logits = {task: values.double().cpu() for task, values in network.answer(features_NF).items()}
    unknown = np.full(len(table), np.nan)
    weather = logits["weather"].numpy() if "weather" in logits else np.full((len(table), len(WEATHER_CLASSES)), np.nan)
    predictions = table.assign(
        clean_logit=logits["clean"].numpy() if "clean" in logits else unknown,
        cleanliness=torch.sigmoid(logits["cleanliness"]).numpy() if "cleanliness" in logits else unknown,
        damage=torch.sigmoid(logits["damage"]).numpy() if "damage" in logits else unknown,
        **{f"weather_logit_{name}": weather[:, place] for place, name in enumerate(WEATHER_CLASSES)},
    )
    return predictions, features_NF


@torch.inference_mode()
def add_spreads(
    table: pd.DataFrame, network: CarInspectionNetwork, features_NF: torch.Tensor, *, calibration: dict[str, Any]
) -> pd.DataFrame:
    """`table` with the spreads `*_std` over the masks of `calibration["uncertainty"]`; NaN where there are none."""
    plan = calibration["uncertainty"]
    columns: dict[str, Any] = dict.fromkeys(SPREAD.values(), np.nan)
    if plan is not None:
        spread = DropoutSpread(network, plan, Calibrated(calibration)).to(features_NF.device)
        parts = [spread(features_BF) for features_BF in features_NF.split(BATCH)]
        columns |= {SPREAD[task]: torch.cat([part[task] for part in parts]).double().cpu().numpy() for task in network.heads}
    return table.assign(**columns)
