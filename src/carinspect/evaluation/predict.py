"""Owns the raw predictions: every photo of the scored splits once, by the trained network."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carinspect.core.tasks import WEATHER_CLASSES
from carinspect.images.store import open_store
from carinspect.model.network import CarInspectionNetwork

SCORED_SPLITS = ("val", "calib", "test")
BATCH = 64


@torch.inference_mode()
def predict(network: CarInspectionNetwork, table: pd.DataFrame, *, root: Path, image_side_px: int) -> pd.DataFrame:
    """`table` with the columns `clean_logit`, `cleanliness`, `damage`, `weather_logit_<class>`; NaN for a task the network lacks."""
    pixels = open_store(root, table["image_path"].tolist(), table["sha256"].tolist(), side_px=image_side_px)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    starts = tqdm(range(0, len(table), BATCH), desc="predicting", unit="batch", disable=None)
    parts = [network(torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)) for start in starts]
    logits = {task: torch.cat([part[task] for part in parts]).double().cpu() for task in network.heads}
    unknown = np.full(len(table), np.nan)
    weather = logits["weather"].numpy() if "weather" in logits else np.full((len(table), len(WEATHER_CLASSES)), np.nan)
    return table.assign(
        clean_logit=logits["clean"].numpy() if "clean" in logits else unknown,
        cleanliness=torch.sigmoid(logits["cleanliness"]).numpy() if "cleanliness" in logits else unknown,
        damage=torch.sigmoid(logits["damage"]).numpy() if "damage" in logits else unknown,
        **{f"weather_logit_{name}": weather[:, place] for place, name in enumerate(WEATHER_CLASSES)},
    )
