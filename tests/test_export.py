"""export and inference: the model file answers as torch does, describes itself, and is refused when it is not what it should be."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.export.card import MEASURES, CardFacts, draw_model_card
from carinspect.export.describe import describe_model
from carinspect.export.graph import AnsweringNetwork, to_onnx
from carinspect.export.parity import compare, refuse_disparity
from carinspect.images.decode import load_image
from carinspect.inference.bundle import METADATA_KEY, ModelBundle, open_bundle
from carinspect.inference.seal import KEY, SEAL_BYTES, seal
from carinspect.model.backbones import build_backbone
from carinspect.model.checkpoint import Checkpoint
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.config import Recipe
from conftest import make_recipe
from test_evaluation import evaluate, make_table

SIDE = 32
NAN = float("nan")
TEMPERATURE = {"clean": 2.0, "weather": 0.5}
UNCERTAINTY = {"samples": 10, "dropout": 0.2, "seed": 3}
OFFSET = {"clean": [-0.2, 0.1], "weather": [0.0, 0.5, -1.0, 2.0]}
CALIBRATION: dict[str, Any] = {"temperature": TEMPERATURE, "logit_offset": OFFSET, "uncertainty": UNCERTAINTY}


def answering(recipe: Recipe, uncertainty: dict[str, Any] | None = UNCERTAINTY) -> AnsweringNetwork:
    torch.manual_seed(0)
    network = CarInspectionNetwork(recipe.model, backbone=build_backbone(recipe.model.backbone, image_side_px=SIDE))
    # Statistics of their own, as training would leave: with the first ones a batch norm does nothing.
    network.train()(torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8))
    return AnsweringNetwork(network.eval(), CALIBRATION | {"uncertainty": uncertainty})


def make_threshold(T_clean: float | None) -> dict[str, Any]:
    return {"T_clean": T_clean, "T_low": None, "T_high": T_clean, "proves": None, "proves_low": None}


def export(recipe: Recipe, network: AnsweringNetwork, *, threshold: float | None = 0.5) -> onnx.ModelProto:
    model = to_onnx(network, image_side_px=SIDE)
    checkpoint = Checkpoint(model=recipe.model, image_side_px=SIDE, weights={}, lineage={"data_revision": "abc"})
    uncertainty = None if network.spread is None else UNCERTAINTY
    calibration, selection = CALIBRATION | {"uncertainty": uncertainty}, make_threshold(threshold)
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
    return open_bundle(seal(model.SerializeToString()))


def test_the_file_answers_as_torch_does_at_any_batch_size(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    comparison = compare(network, bundle_of(model), photos(7))
    refuse_disparity(comparison, tolerance=1e-4)
    assert comparison["photos"] == 7
    alone = np.concatenate([bundle_of(model).predict(photo[None])["p_clean"] for photo in photos(7)])
    assert np.allclose(alone, bundle_of(model).predict(photos(7), batch_size=3)["p_clean"], atol=1e-5)


def test_another_model_or_another_temperature_is_found(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    other = AnsweringNetwork(network.network, CALIBRATION | {"temperature": TEMPERATURE | {"clean": 1.0}})
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
        "p_clean_std": (7,), "cleanliness_std": (7,), "damage_std": (7,), "p_weather_std": (7,),
    }  # fmt: skip


def test_the_file_says_what_it_is(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    info = bundle_of(exported[1]).info
    assert (info["image_side_px"], info["threshold"], info["lineage"]) == (SIDE, make_threshold(0.5), {"data_revision": "abc"})
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
    assert set(bundle.predict(photos(2))) == {"weather_logits", "p_weather", "p_weather_std"}
    assert bundle.threshold is None


def test_the_spreads_in_the_file_are_those_of_its_own_masks(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    assert bundle_of(model).info["uncertainty"] == UNCERTAINTY
    assert (bundle_of(model).predict(photos())["damage_std"] > 0).all()
    other = AnsweringNetwork(network.network, CALIBRATION | {"uncertainty": UNCERTAINTY | {"seed": 4}})
    with pytest.raises(UserError, match=r"disagree: p_clean_std_max_difference is"):
        refuse_disparity(compare(other, bundle_of(model), photos()), tolerance=1e-5)


def test_without_dropout_the_file_has_no_spreads() -> None:
    recipe = make_recipe()
    bundle = bundle_of(export(recipe, answering(recipe, uncertainty=None)))
    assert bundle.info["uncertainty"] is None
    assert not [name for name in bundle.predict(photos(2)) if name.endswith("_std")]


def foreign_model() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [value], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def with_info(model: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    altered = onnx.ModelProto()
    altered.CopyFrom(model)
    (entry,) = [entry for entry in altered.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | changes)
    return altered


def test_a_missing_broken_or_foreign_file_is_refused(tmp_path: Path, exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    path = tmp_path / "best.onnx"
    with pytest.raises(UserError, match=r"no such model file\. Make one \(dvc repro\)"):
        open_bundle(path)
    for content, reason in (
        (b"", "does not end in a seal"),
        (b"some text", "does not end in a seal"),
        (foreign_model().SerializeToString(), "does not end in a seal"),
        (seal(exported[1].SerializeToString())[:-1], "altered or damaged"),
        (seal(exported[1].SerializeToString())[:1000], "does not end in a seal"),
        (seal(b"some text"), "not a model that onnxruntime can open"),
        (seal(foreign_model().SerializeToString()), "not of this project"),
        (seal(with_info(exported[1], resize_contract="letterbox").SerializeToString()), "Export it again"),
        (seal(with_info(exported[1], format=1).SerializeToString()), "Export it again"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as refusal:
            open_bundle(path)
        assert str(refusal.value).startswith(f"{path}: ")


def test_a_flipped_byte_is_found_wherever_it_lies(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    content = seal(exported[1].SerializeToString(deterministic=True))
    places = np.linspace(0, len(content) - 1, 40).astype(int).tolist()
    # The threshold in the metadata, and every part of the seal.
    places += [content.index(b"T_clean"), content.index(b"T_clean") + 10, *range(len(content) - SEAL_BYTES, len(content))]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1
        with pytest.raises(UserError, match="altered or damaged|does not end in a seal"):
            open_bundle(bytes(flipped))
    open_bundle(content)


def test_without_the_seal_an_edited_threshold_would_pass(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    edited = with_info(exported[1], threshold={"T_clean": 0.1}).SerializeToString(deterministic=True)
    with pytest.raises(UserError, match="altered or damaged"):
        open_bundle(edited + seal(exported[1].SerializeToString(deterministic=True))[-SEAL_BYTES:])
    # Integrity, not authenticity: a seal made anew is a good seal.
    assert open_bundle(seal(edited)).threshold == 0.1


def test_other_onnx_tools_read_a_sealed_file(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    model = onnx.load_from_string(seal(exported[1].SerializeToString()))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY, KEY.decode()]


# ---- the model card


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """metrics/evaluate.json of drawn predictions; one source has few groups."""
    table = make_table()
    lot = table[table["source"] == "lot"]["group"].unique()
    return evaluate(table[~table["group"].isin(lot[9:])]) | {"alarms": ["weather: an alarm."]}


def card_facts(report: dict[str, Any], **changes: Any) -> CardFacts:
    """What the stage reads, with `changes`."""
    table = pd.DataFrame(
        {
            "source": ["wash", "wash", "a|b"], "group": ["1", "1", "2"], "split": ["train", "train", "test"],
            "clean": [1.0, NAN, 0.0], "cleanliness_score": [NAN] * 3, "damage_score": [NAN] * 3, "weather_condition": [2.0] * 3,
        }
    )  # fmt: skip
    seen = {"precision": 0.97, "precision_low": 0.91, "precision_high": 0.99, "recall": 0.8, "accepted_groups": 61, "wrong_groups": 2}
    threshold = {
        "T_clean": 0.7432, "reason": None, "source": "calib", "target_precision": 0.95, "warnings": [], "on_source": seen, "on_test": seen,
        "proves": {"precision": 0.95, "confidence": 0.9, "of": "a photo of a new group"},
    }  # fmt: skip
    lineage = {"data_revision": "d4ta", "code_revision": "c0de", "best_epoch": 7, "recipe": make_recipe().model_dump()}
    known = {
        "checkpoint": Checkpoint(model=make_recipe().model, image_side_px=SIDE, weights={}, lineage=lineage),
        "table": table,
        "split": {"leaks": 0},
        "describe": {"warnings": ["the source gives it away"]},
        "evaluate": report,
        "calibration": {"temperature": {"clean": 2.0, "weather": None}},
        "threshold": threshold,
        "parity": {"photos": 64, "flipped_decisions": 0},
    }
    return CardFacts(**known | changes)


def rows_of(card: str, *, first: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in card.splitlines() if line.startswith("| ")]
    return [row for row in cells if row[0] == first]


def test_the_cards_figures_are_those_of_the_metrics(report: dict[str, Any]) -> None:
    facts = card_facts(report)
    card = draw_model_card(facts)
    for task in facts.checkpoint.model.tasks:
        scores = facts.evaluate["test"][task]
        quality = {row[1]: row for row in rows_of(card, first=task) if len(row) == 7}
        for key, words, constant in MEASURES[task]:
            interval = f"{scores[f'{key}_low']:.3f} to {scores[f'{key}_high']:.3f}"
            compared = f"{scores[constant]:.3f}" if constant else ""
            assert quality[words][2:] == [f"{scores[key]:.3f}", interval, compared, str(scores["photos"]), str(scores["groups"])]
        (errs,) = [row for row in rows_of(card, first=task) if len(row) == 6]
        assert errs[1] == f"{scores['aurc']:.3f}"
    for name, scores in facts.evaluate["sources"].items():
        row = rows_of(card, first=name)[-1]
        assert row[1:3] == [str(scores["photos"]), str(scores["groups"])]
        part = scores["damage"]
        if part["photos"]:
            assert row[5].startswith(f"{part['mae']:.3f}")
            assert ("too few" in row[5]) == part["too_few"]
    assert facts.evaluate["sources"]["lot"]["damage"]["too_few"]
    assert "- Alarm of the evaluation: weather: an alarm." in card
    assert "- Shortcut in the data: the source gives it away." in card
    assert "Proved at the confidence 0.9: it is clean with a\nprobability of at least 0.95" in card
    assert "Data `d4ta`, code `c0de`, epoch 7" in card


def test_the_card_counts_the_photos_and_the_labels_of_the_table(report: dict[str, Any]) -> None:
    card = draw_model_card(card_facts(report))
    assert [row for row in rows_of(card, first="wash") if len(row) == 7][0] == ["wash", "2", "1", "1", "0", "0", "2"]
    assert "| a\\|b | 1 | 1 |" in card
    assert "| train | learning | 2 | 1 | 1 | 0 | 0 | 2 |" in card
    assert draw_model_card(card_facts(report)) == card


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"T_clean": None, "reason": "too few groups"}, "**Nothing is called clean**: too few groups."),
        ({"proves": None}, "**This proves nothing for new cars**"),
        ({"warnings": ["The target is low."]}, "Warning: The target is low."),
    ],
)
def test_the_card_says_what_the_rule_does_not_promise(report: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    facts = card_facts(report)
    card = draw_model_card(replace(facts, threshold=facts.threshold | changes))
    assert words in card
    assert words not in draw_model_card(facts)


def test_a_card_of_figures_that_are_unknown_says_so(report: dict[str, Any]) -> None:
    facts = card_facts(report)
    test = facts.evaluate["test"]
    nothing = {task: dict.fromkeys(scores) | {"photos": 0, "groups": 0} for task, scores in test.items() if isinstance(scores, dict)}
    card = draw_model_card(replace(facts, evaluate=facts.evaluate | {"test": test | nothing}))
    assert "| damage | mean absolute error | unknown | none | unknown | 0 | 0 |" in card
    assert "None" not in card
