"""export and inference: the model file answers as torch does, describes itself, and is refused when it is not what it should be."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.export.describe import describe_model
from carinspect.export.graph import AnsweringNetwork, to_onnx
from carinspect.export.parity import compare, refuse_disparity
from carinspect.images.decode import load_image
from carinspect.inference.bundle import METADATA_KEY, ModelBundle, open_bundle
from carinspect.model.backbones import build_backbone
from carinspect.model.checkpoint import Checkpoint
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.config import Recipe
from conftest import make_recipe

SIDE = 32
TEMPERATURE = {"clean": 2.0, "weather": 0.5}
OFFSET = {"clean": [-0.2, 0.1], "weather": [0.0, 0.5, -1.0, 2.0]}


def answering(recipe: Recipe) -> AnsweringNetwork:
    torch.manual_seed(0)
    network = CarInspectionNetwork(recipe.model, backbone=build_backbone(recipe.model.backbone, image_side_px=SIDE))
    # Statistics of their own, as training would leave: with the first ones a batch norm does nothing.
    network.train()(torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8))
    return AnsweringNetwork(network.eval(), TEMPERATURE, OFFSET)


def export(recipe: Recipe, network: AnsweringNetwork, *, threshold: float | None = 0.5) -> onnx.ModelProto:
    model = to_onnx(network, image_side_px=SIDE)
    checkpoint = Checkpoint(model=recipe.model, image_side_px=SIDE, weights={}, lineage={"data_revision": "abc"})
    calibration, selection = {"temperature": TEMPERATURE, "logit_offset": OFFSET}, {"T_clean": threshold}
    describe_model(
        model, checkpoint=checkpoint, calibration=calibration, threshold=selection, metrics={"test": {"clean": {"roc_auc": 0.9}}}
    )
    return model


@pytest.fixture(scope="module")
def exported() -> tuple[AnsweringNetwork, onnx.ModelProto]:
    recipe = make_recipe()
    network = answering(recipe)
    return network, export(recipe, network)


def photos(count: int = 7) -> np.ndarray:
    drawn = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((64, 48)).save(buffer, "JPEG")
        drawn.append(load_image(buffer.getvalue(), SIDE))
    return np.stack(drawn)


def bundle_of(model: onnx.ModelProto) -> ModelBundle:
    return open_bundle(model.SerializeToString())


def test_the_file_answers_as_torch_does_at_any_batch_size(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    comparison = compare(network, bundle_of(model), photos(7))
    refuse_disparity(comparison, tolerance=1e-4)
    assert comparison["photos"] == 7
    alone = np.concatenate([bundle_of(model).predict(photo[None])["p_clean"] for photo in photos(7)])
    assert np.allclose(alone, bundle_of(model).predict(photos(7), batch_size=3)["p_clean"], atol=1e-5)


def test_another_model_or_another_temperature_is_found(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    other = AnsweringNetwork(network.network, TEMPERATURE | {"clean": 1.0}, OFFSET)
    with pytest.raises(UserError, match=r"disagree: p_clean_max_difference is"):
        refuse_disparity(compare(other, bundle_of(model), photos()), tolerance=1e-4)


def test_a_decision_that_differs_is_refused_however_small_the_difference() -> None:
    comparison: dict[str, Any] = {"photos": 3, "flipped_decisions": 1, "p_clean_max_difference": 1e-9}
    with pytest.raises(UserError, match="disagree in 1 decisions on 3 photos"):
        refuse_disparity(comparison, tolerance=1e-4)
    refuse_disparity(comparison | {"flipped_decisions": 0}, tolerance=1e-4)
    with pytest.raises(UserError, match="is nan"):
        refuse_disparity(comparison | {"flipped_decisions": 0, "p_clean_max_difference": float("nan")}, tolerance=1e-4)


def test_the_prior_temperature_and_normalisation_are_inside(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    answers = bundle_of(exported[1]).predict(photos())
    assert np.allclose(answers["p_clean"], 1 / (1 + np.exp(-(answers["clean_logit"] + 0.3) / 2.0)), atol=1e-6)
    weather = np.exp((answers["weather_logits"] + OFFSET["weather"]) / 0.5)
    assert np.allclose(answers["p_weather"], weather / weather.sum(axis=1, keepdims=True), atol=1e-5)
    assert {name: values.shape for name, values in answers.items()} == {
        "clean_logit": (7,), "p_clean": (7,), "cleanliness": (7,), "damage": (7,), "weather_logits": (7, 4), "p_weather": (7, 4),
    }  # fmt: skip


def test_the_file_says_what_it_is(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    info = bundle_of(exported[1]).info
    assert (info["image_side_px"], info["threshold"], info["lineage"]) == (SIDE, {"T_clean": 0.5}, {"data_revision": "abc"})
    assert info["weather_classes"] == ["clear", "rain", "fog", "snow"]
    assert info["metrics"] == {"clean": {"roc_auc": 0.9}}


def test_the_same_model_gives_the_same_bytes_and_no_path_of_this_machine(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    recipe = make_recipe()
    again = export(recipe, answering(recipe)).SerializeToString(deterministic=True)
    assert again == exported[1].SerializeToString(deterministic=True)
    assert str(Path(__file__).parent.parent).encode() not in again
    assert b"site-packages" not in again


def test_a_task_that_was_not_trained_has_no_answer() -> None:
    recipe = make_recipe()
    only = Recipe(model=recipe.model.model_copy(update={"tasks": ["weather"]}), train=recipe.train)
    bundle = bundle_of(export(only, answering(only), threshold=None))
    assert set(bundle.predict(photos(2))) == {"weather_logits", "p_weather"}
    assert bundle.threshold is None


def test_a_missing_broken_or_foreign_file_is_refused(tmp_path: Path, exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    path = tmp_path / "best.onnx"
    with pytest.raises(UserError, match=r"no such model file\. Make one \(dvc repro\)"):
        open_bundle(path)
    path.write_bytes(exported[1].SerializeToString()[:1000])
    with pytest.raises(UserError, match="not a model that onnxruntime can open"):
        open_bundle(path)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [value], [result])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    with pytest.raises(UserError, match="not of this project"):
        open_bundle(path)
    altered = onnx.ModelProto()
    altered.CopyFrom(exported[1])
    (entry,) = [entry for entry in altered.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | {"resize_contract": "letterbox"})
    path.write_bytes(altered.SerializeToString())
    with pytest.raises(UserError, match="Export it again"):
        open_bundle(path)
