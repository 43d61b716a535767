"""What is served: one model file, opened, checked against the settings and proven to answer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from carinspect.core.errors import UserError
from carinspect.core.questions import dump_questions
from carinspect.inference.bundle import open_bundle
from carinspect.inference.predictor import Predictor, make_predictor, open_gate, override_lead
from carinspect.inference.rules import CarRules, DecisionRule, car_rules_in_use
from carinspect.serving.config import ServiceConfig

VERSION_DIGITS = 16


@dataclass(frozen=True)
class LoadedModel:
    """A predictor that has answered at least once."""

    predictor: Predictor
    marker: Predictor | None
    """The same with its maps, for photos whose marks are asked for; None: the model has none."""

    @property
    def version(self) -> str:
        """The beginning of the model file's SHA-256."""
        return self.predictor.bundle.sha256[:VERSION_DIGITS]

    @property
    def on_gpu(self) -> bool:
        return self.predictor.bundle.provider != "CPUExecutionProvider"

    @property
    def car_rules(self) -> dict[str, CarRules]:
        """For all photos of one car. Where an operator set thresholds, or the file has none for cars: the photo's, which proves nothing."""
        return car_rules_in_use(self.predictor.bundle.thresholds, self.predictor.rules)

    def describe(self) -> dict[str, Any]:
        """What `GET /model` tells."""
        bundle = self.predictor.bundle
        info = bundle.info
        return {
            "model_version": self.version,
            "sha256": bundle.sha256,
            "provider": bundle.provider,
            "image_side_px": bundle.image_side_px,
            "resize_contract": info["resize_contract"],
            "questions": dump_questions(bundle.questions),
            "rules": {name: _describe(rule) for name, rule in self.predictor.rules.items()},
            "rules_for_cars": {
                name: [
                    {"photos_from": stratum.photos_from, "photos_to": stratum.photos_to, **_describe(rule)} for stratum, rule in cars.strata
                ]
                for name, cars in self.car_rules.items()
            },
            "marks": {name: rule.model_dump() for name, rule in bundle.thresholds.marks.items()},
            "gate": bundle.thresholds.gate.model_dump() | {"mode": self.predictor.gate},
            "lineage": info["lineage"],
            "metrics": info["metrics"],
        }


def _describe(rule: DecisionRule) -> dict[str, Any]:
    return {
        "T_label": rule.T_label,
        "T_low": rule.T_low,
        "T_high": rule.T_high,
        "overridden": rule.overridden,
        "promises": {rule.say(side): promise.model_dump() for side, promise in rule.promises.items()},
    }


def load_model(path: Path, config: ServiceConfig) -> LoadedModel:
    """The model in the file, with the operator's thresholds. Raises `UserError` when it is not fit to serve under `config`."""
    predictor = _open(path, config)
    bundle = predictor.bundle
    loaded = LoadedModel(predictor, replace(predictor, bundle=bundle.with_maps()) if bundle.thresholds.marks else None)
    _prove(loaded.marker or predictor, path)
    return loaded


def _open(path: Path, config: ServiceConfig) -> Predictor:
    # One thread a run: photos are answered side by side, and a pool inside onnxruntime would spin on the same cores.
    bundle = open_bundle(path, device=config.device, threads=1)
    side_px = bundle.image_side_px
    if config.imgsz not in (None, side_px):
        fix = "Unset it, or export a model of that side."
        raise UserError(f"IMGSZ has the value {config.imgsz}, and {path} takes photos of {side_px} px. {fix}")
    try:
        predictor = override_lead(make_predictor(bundle), T_label=config.thresh, T_low=config.t_low, T_high=config.t_high)
    except UserError as error:
        raise UserError(f"THRESH, T_LOW, T_HIGH: {error}") from None
    return open_gate(predictor, config.gate)


def _prove(predictor: Predictor, path: Path) -> None:
    side_px = predictor.image_side_px
    grey = np.full((1, side_px, side_px, 3), 128, np.uint8)
    outputs = predictor.bundle.predict(grey)
    strange = [name for name, values in outputs.items() if not np.isfinite(values).all()]
    if strange:
        raise UserError(f"{path}: its {strange[0]} is not a finite number. Train again with a lower train.lr.")
    predictor.answer(grey)
