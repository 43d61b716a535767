"""Owns what is served: one model file, opened, checked against the settings and proven to answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carinspect.core.errors import UserError
from carinspect.inference.bundle import open_bundle
from carinspect.inference.car import CarRule, read_car_rule
from carinspect.inference.predictor import Predictor, make_predictor
from carinspect.serving.config import ServiceConfig

VERSION_DIGITS = 16


@dataclass(frozen=True)
class LoadedModel:
    """A predictor that has answered at least once."""

    predictor: Predictor

    @property
    def version(self) -> str:
        """The beginning of the model file's SHA-256."""
        return self.predictor.bundle.sha256[:VERSION_DIGITS]

    @property
    def on_gpu(self) -> bool:
        return self.predictor.bundle.provider != "CPUExecutionProvider"

    @property
    def car_rule(self) -> CarRule:
        """For all photos of one car. Where an operator set thresholds, or the file has none for cars: the photo's, which proves nothing."""
        rule, threshold = self.predictor.rule, self.predictor.bundle.info["threshold"]
        if rule.overridden or "car" not in threshold:
            return CarRule(rule.T_high, rule.T_low, level="photo", promise=None, promise_low=None)
        return read_car_rule(threshold)

    def describe(self) -> dict[str, Any]:
        """What `GET /model` tells."""
        bundle, rule = self.predictor.bundle, self.predictor.rule
        info = bundle.info
        return {
            "model_version": self.version,
            "sha256": bundle.sha256,
            "provider": bundle.provider,
            "image_side_px": info["image_side_px"],
            "resize_contract": info["resize_contract"],
            "tasks": info["tasks"],
            "weather_classes": info["weather_classes"],
            "rule": {"T_clean": rule.T_clean, "T_low": rule.T_low, "T_high": rule.T_high, "overridden": rule.overridden},
            "promise": rule.promise,
            "promise_low": rule.promise_low,
            "lineage": info["lineage"],
            "metrics": info["metrics"],
        }


def load_model(path: Path, config: ServiceConfig) -> LoadedModel:
    """The model in the file, with the operator's thresholds. Raises `UserError` when it is not fit to serve under `config`."""
    # One thread a run: photos are answered side by side, and a pool inside onnxruntime would spin on the same cores.
    bundle = open_bundle(path, device=config.device, threads=1)
    side_px = bundle.info["image_side_px"]
    if config.imgsz not in (None, side_px):
        mend = "Unset it, or export a model of that side."
        raise UserError(f"IMGSZ has the value {config.imgsz}, and {path} takes photos of {side_px} px. {mend}")
    predictor = make_predictor(bundle)
    try:
        rule = predictor.rule.override(T_clean=config.thresh, T_low=config.t_low, T_high=config.t_high)
    except UserError as error:
        raise UserError(f"THRESH, T_LOW, T_HIGH: {error}") from None
    loaded = LoadedModel(Predictor(bundle, rule))
    _prove(loaded.predictor, path)
    return loaded


def _prove(predictor: Predictor, path: Path) -> None:
    side_px = predictor.image_side_px
    grey = np.full((1, side_px, side_px, 3), 128, np.uint8)
    outputs = predictor.bundle.predict(grey)
    strange = [name for name, values in outputs.items() if not np.isfinite(values).all()]
    if strange:
        raise UserError(f"{path}: its {strange[0]} is not a finite number. Train again with a lower train.lr.")
    predictor.answer(grey)
