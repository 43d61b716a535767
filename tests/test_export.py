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
from onnx import TensorProto, helper
from PIL import Image

from carinspect.core import gate
from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.export.card import MARK_FIGURES, MEASURES, draw_model_card, pick_headlines
from carinspect.export.graph import AnsweringNetwork
from carinspect.export.metadata import Trained, amend
from carinspect.export.parity import compare, refuse_disparity, torch_answers
from carinspect.images.decode import load_image
from carinspect.inference.bundle import METADATA_KEY, ModelBundle, open_bundle
from carinspect.inference.rules import MarkPromise, MarkRule, Promise, Rule
from carinspect.inference.seal import KEY, SEAL_BYTES, seal
from carinspect.model.calibration import Calibration
from carinspect.model.checkpoint import Checkpoint
from conftest import (
    QUESTIONS,
    make_calibration,
    make_gate,
    make_model,
    make_outcome,
    make_recipe,
    make_rule,
    make_thresholds,
    untrained_network,
)
from test_evaluation import evaluate, make_table

SIDE = 32
NAN = float("nan")
CLEAN, CLEANLINESS, DAMAGED, DAMAGE, WEATHER = QUESTIONS
OFFSETS = {"clean": [-0.2, 0.1], "weather": [0.0, 0.5, -1.0, 2.0]}
TEMPERATURE = {"clean": 2.0, "damaged": 1.0, "weather": 0.5}
CALIBRATION = make_calibration(temperature=TEMPERATURE, offsets=OFFSETS, samples=10)


def export(
    calibration: Calibration = CALIBRATION, questions: tuple[Question, ...] = QUESTIONS, *, stages: int = 0
) -> tuple[AnsweringNetwork, onnx.ModelProto]:
    """An untrained network and its model file."""
    network = untrained_network(questions=questions, stages=stages).eval()
    model = make_model(
        network, thresholds=make_thresholds(questions=questions), calibration=calibration, metrics={"clean": {"roc_auc": 0.9}}
    )
    return AnsweringNetwork(network, calibration, make_gate(network)), model


@pytest.fixture(scope="module")
def exported() -> tuple[AnsweringNetwork, onnx.ModelProto]:
    return export()


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
    comparison = compare(torch_answers(network, photos(7)), bundle_of(model), photos(7))
    refuse_disparity(comparison, tolerance=1e-4)
    assert comparison["photos"] == 7
    alone = np.concatenate([bundle_of(model).predict(photo[None])["p_clean"] for photo in photos(7)])
    assert np.allclose(alone, bundle_of(model).predict(photos(7), batch_size=3)["p_clean"], atol=1e-5)


def test_heads_that_see_several_stages_answer_as_torch_does() -> None:
    network, model = export(stages=3)
    refuse_disparity(compare(torch_answers(network, photos(7)), bundle_of(model), photos(7)), tolerance=1e-4)


def test_with_mirror_averaging_a_photo_and_its_mirror_image_have_the_same_answers(
    exported: tuple[AnsweringNetwork, onnx.ModelProto],
) -> None:
    calibration = make_calibration(temperature=TEMPERATURE, offsets=OFFSETS, samples=10, mirror=True)
    network, model = export(calibration)
    refuse_disparity(compare(torch_answers(network, photos(7)), bundle_of(model), photos(7)), tolerance=1e-4)
    mirrored = np.ascontiguousarray(photos(7)[:, :, ::-1])

    def differ(bundle: ModelBundle) -> float:
        return float(np.abs(bundle.predict(photos(7))["clean_logit"] - bundle.predict(mirrored)["clean_logit"]).max())

    assert differ(bundle_of(model)) < 1e-4 < differ(bundle_of(exported[1]))
    one, other = (bundle_of(exported[1]).predict(some)["clean_logit"] for some in (photos(7), mirrored))
    assert np.allclose(bundle_of(model).predict(photos(7))["clean_logit"], (one + other) / 2, atol=1e-4)


def test_another_model_or_another_temperature_is_found(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    calibration = make_calibration(temperature=TEMPERATURE | {"clean": 1.0}, offsets=OFFSETS, samples=10)
    other = AnsweringNetwork(network.network, calibration, make_gate(network.network))
    with pytest.raises(UserError, match=r"disagree: p_clean_max_difference is"):
        refuse_disparity(compare(torch_answers(other, photos()), bundle_of(model), photos()), tolerance=1e-4)


def test_a_decision_that_differs_is_refused_however_small_the_difference() -> None:
    comparison: dict[str, Any] = {"photos": 3, "flipped_decisions": 1, "p_clean_max_difference": 1e-9}
    with pytest.raises(UserError, match="disagree in 1 decisions on 3 photos"):
        refuse_disparity(comparison, tolerance=1e-4)
    refuse_disparity(comparison | {"flipped_decisions": 0}, tolerance=1e-4)
    with pytest.raises(UserError, match="is nan"):
        refuse_disparity(comparison | {"flipped_decisions": 0, "p_clean_max_difference": float("nan")}, tolerance=1e-4)


def test_decisions_that_differ_are_counted_for_every_rule_and_class(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    answers = bundle_of(exported[1]).predict(photos())

    def flips(rules: dict[str, tuple[Rule, Rule]], **moved: np.ndarray) -> tuple[int, int]:
        """Decisions and promised ones that differ where the first model's answers are `answers` but for `moved`."""
        model = onnx.ModelProto()
        model.CopyFrom(exported[1])
        amend(model, {"threshold": make_thresholds(rules).model_dump(mode="json")})
        found = compare(answers | moved, bundle_of(model), photos())
        return found["flipped_decisions"], found["flipped_promised"]

    def at(question: Question, T_high: float, *, car: float = 1.0, promised: bool = True) -> tuple[Rule, Rule]:
        sides = ["good"] if promised else []
        return (
            make_rule(question, T_high=T_high, T_low=None, promised=sides),
            make_rule(question, unit="car", T_high=car, T_low=None, promised=sides),
        )

    lowest = answers["p_clean"].copy()
    lowest[lowest.argmin()] -= 0.2
    between = float(answers["p_clean"].min()) - 0.1
    assert flips({"clean": at(CLEAN, between)}, p_clean=lowest) == (1, 1)
    assert flips({"clean": at(CLEAN, between, promised=False)}, p_clean=lowest) == (1, 0)
    # A car's promise ends where a photo changes sides of the car's own threshold.
    assert flips({"clean": at(CLEAN, 1.0, car=between)}, p_clean=lowest) == (0, 1)
    # The rule works on the probability of the good class, which is class 0 here.
    worst = answers["p_damaged"].copy()
    worst[worst.argmax()] += 0.2
    assert flips({"damaged": at(DAMAGED, 1 - float(answers["p_damaged"].max()) - 0.1)}, p_damaged=worst) == (1, 1)
    turned = answers["p_weather"][:, [1, 2, 3, 0]]
    assert flips({"clean": at(CLEAN, 1.0)}, p_weather=turned) == (len(photos()), 0)


def test_the_prior_temperature_and_normalisation_are_inside(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    answers = bundle_of(exported[1]).predict(photos())
    assert np.allclose(answers["p_clean"], 1 / (1 + np.exp(-(answers["clean_logit"] + 0.3) / 2.0)), atol=1e-6)
    weather = np.exp((answers["weather_logits"] + OFFSETS["weather"]) / 0.5)
    assert np.allclose(answers["p_weather"], weather / weather.sum(axis=1, keepdims=True), atol=1e-5)
    assert {name: values.shape for name, values in answers.items()} == {
        "clean_logit": (7,), "p_clean": (7,), "cleanliness": (7,), "damaged_logit": (7,), "p_damaged": (7,), "damage": (7,),
        "weather_logits": (7, 4), "p_weather": (7, 4),
        "p_clean_std": (7,), "cleanliness_std": (7,), "p_damaged_std": (7,), "damage_std": (7,), "p_weather_std": (7,),
        "gate": (7, len(gate.MEASURES)),
    }  # fmt: skip


def test_the_file_says_what_it_is(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    bundle = bundle_of(exported[1])
    assert bundle.thresholds == make_thresholds()
    assert bundle.questions == QUESTIONS
    assert (bundle.image_side_px, bundle.info["lineage"]) == (SIDE, {"data_revision": "abc"})
    assert Calibration.model_validate(bundle.info["calibration"]) == CALIBRATION
    assert bundle.info["metrics"] == {"clean": {"roc_auc": 0.9}}


def test_the_same_model_gives_the_same_bytes_and_no_path_of_this_machine(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    again = export()[1].SerializeToString(deterministic=True)
    assert again == exported[1].SerializeToString(deterministic=True)
    assert str(Path(__file__).parent.parent).encode() not in again
    assert b"site-packages" not in again


def test_the_file_answers_the_questions_of_its_network_and_no_other() -> None:
    body = Question(name="body", kind="classes", column="body_type", classes=("sedan", "hatchback", "estate", "van", "pickup"))
    bundle = bundle_of(export(make_calibration(questions=[body]), (body,))[1])
    answers = bundle.predict(photos(2))
    shapes = {name: values.shape for name, values in answers.items() if name != "gate"}
    assert shapes == {"body_logits": (2, 5), "p_body": (2, 5), "p_body_std": (2,)}
    assert bundle.thresholds.rules == {}


def test_the_spreads_in_the_file_are_those_of_its_own_masks(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    network, model = exported
    assert CALIBRATION.uncertainty is not None
    assert bundle_of(model).info["uncertainty"] == CALIBRATION.uncertainty.model_dump()
    assert (bundle_of(model).predict(photos())["damage_std"] > 0).all()
    plan = CALIBRATION.uncertainty.model_copy(update={"seed": 4})
    other = AnsweringNetwork(network.network, CALIBRATION.model_copy(update={"uncertainty": plan}), make_gate(network.network))
    with pytest.raises(UserError, match=r"disagree: p_clean_std_max_difference is"):
        refuse_disparity(compare(torch_answers(other, photos()), bundle_of(model), photos()), tolerance=1e-5)


def test_without_dropout_the_file_has_no_spreads() -> None:
    bundle = bundle_of(export(make_calibration(samples=0))[1])
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
    places += [content.index(b"T_high"), content.index(b"T_high") + 10, *range(len(content) - SEAL_BYTES, len(content))]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1
        with pytest.raises(UserError, match="altered or damaged|does not end in a seal"):
            open_bundle(bytes(flipped))
    open_bundle(content)


def test_without_the_seal_an_edited_threshold_would_pass(exported: tuple[AnsweringNetwork, onnx.ModelProto]) -> None:
    rules = {"clean": (make_rule(CLEAN, T_high=0.3), make_rule(CLEAN, unit="car"))}
    edited = with_info(exported[1], threshold=make_thresholds(rules).model_dump(mode="json")).SerializeToString(deterministic=True)
    with pytest.raises(UserError, match="altered or damaged"):
        open_bundle(edited + seal(exported[1].SerializeToString(deterministic=True))[-SEAL_BYTES:])
    # Integrity, not authenticity: a seal made anew is a good seal.
    assert open_bundle(seal(edited)).thresholds.rules["clean"].photo.T_high == 0.3


def test_thresholds_of_another_format_are_refused_with_the_way_to_make_them_again(
    exported: tuple[AnsweringNetwork, onnx.ModelProto],
) -> None:
    for old in ({"T_clean": 0.5, "T_low": 0.2, "T_high": 0.5}, None, make_thresholds().model_dump(mode="json") | {"format": 2}):
        with pytest.raises(UserError, match=r"its thresholds have the format .* Make it again: dvc repro --force select_threshold"):
            bundle_of(with_info(exported[1], threshold=old))


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
    return evaluate(table[~table["group"].isin(lot[9:])]) | {"alarms": ["weather: an alarm."], "probe": {"missing": "no weights"}}


def card_facts(report: dict[str, Any], corruptions: dict[str, Any] | None = None, **rule: Any) -> tuple[Trained, pd.DataFrame]:
    """What the stage reads, with changes to the rule of photos for `clean`."""
    table = pd.DataFrame(
        {
            "source": ["wash", "wash", "a|b"], "group": ["1", "1", "2"], "split": ["train", "train", "test"],
            "clean": [1.0, NAN, 0.0], "cleanliness_score": [NAN] * 3, "damaged": [1.0, 1.0, NAN], "damage_score": [NAN] * 3,
            "weather_condition": [2.0] * 3,
        }
    )  # fmt: skip
    seen = make_outcome(precision=0.97, precision_low=0.91, precision_high=0.99, recall=0.8, accepted_groups=61, wrong_groups=2)
    promise = Promise(precision=0.95, confidence=0.9, of="a photo of a new group", at_rate=None)
    photo, car = make_rule(CLEAN, T_high=0.7432), make_rule(CLEAN, unit="car", T_high=None, T_low=None)
    good = photo.good.model_copy(update={"promise": promise, "on_source": seen, "on_test": seen})
    thresholds = make_thresholds({"clean": (photo.model_copy(update={"good": good} | rule), car)})
    lineage = {"data_revision": "d4ta", "code_revision": "c0de", "best_epoch": 7, "recipe": make_recipe().model_dump()}
    trained = Trained(
        checkpoint=Checkpoint(questions=QUESTIONS, model=make_recipe().model, image_side_px=SIDE, weights={}, lineage=lineage),
        calibration=make_calibration(temperature={"clean": 2.0, "damaged": 1.0, "weather": None}),
        thresholds=thresholds,
        gate=make_gate(untrained_network()),
        metrics={
            "split": {"leaks": 0},
            "describe": {"warnings": ["the source gives it away"]},
            "evaluate": {"corruptions": {"photos": 9, "drop": {}}, "marks": {}} | report,
            "select_threshold": {"corruptions": corruptions or {"passed": {}}},
        },
        ensemble=None,
    )
    return trained, table


def test_the_card_shows_marks_beside_answers_that_see_no_photo(report: dict[str, Any]) -> None:
    figures = dict.fromkeys(MARK_FIGURES, 0.75) | {
        f"{key}_{other}": 0.25 for key in MARK_FIGURES for other in ("prior", "centre", "random")
    }
    figures |= {f"{key}_{end}": value for key in MARK_FIGURES for end, value in (("low", 0.7), ("high", 0.8))}
    trained, table = card_facts(report | {"marks": {"damage": {"test": figures | {"photos": 20, "groups": 12}, "sources": {}}}})
    promise = MarkPromise(target_precision=0.9, confidence=0.95, bound=0.91, groups=80, wrong=2)
    rules = {
        "cleanliness": MarkRule(question="cleanliness", kind="dirt", cut=0.5, promise=None),
        "damage": MarkRule(question="damage", kind="damage", cut=0.5, promise=promise),
    }
    card = draw(replace(trained, thresholds=trained.thresholds.model_copy(update={"marks": rules})), table)
    rows = rows_of(card, first="damage (20 photos, 12 groups)")
    assert [row[1:] for row in rows][0] == ["the hottest place is marked", "0.750", "0.700 to 0.800", "0.250", "0.250", "0.250"]
    assert len(rows) == len(MARK_FIGURES)
    assert "**Nothing is proved about marks of dirt**" in card
    assert "80 groups, 2 of them wrong" in card
    assert "The model says no places" in draw(*card_facts(report))


def draw(trained: Trained, table: pd.DataFrame) -> str:
    return draw_model_card(trained, table, parity={"photos": 64, "flipped_decisions": 0})


def test_the_headlines_are_a_dozen_figures_of_the_metrics_and_of_the_rules(report: dict[str, Any]) -> None:
    trained, table = card_facts(report)
    test = report["test"]
    assert pick_headlines(trained, table) == {
        "photos": 3, "groups": 2, "leaks": 0,
        "clean": {"roc_auc": test["clean"]["roc_auc"], "T_high": 0.7432, "precision": 0.97, "recall": 0.8},
        "cleanliness": {"mae": test["cleanliness"]["mae"]},
        "damaged": {"roc_auc": test["damaged"]["roc_auc"]},
        "damage": {"mae": test["damage"]["mae"]},
        "weather": {"accuracy": test["weather"]["accuracy"]},
    }  # fmt: skip


def rows_of(card: str, *, first: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in card.splitlines() if line.startswith("| ")]
    return [row for row in cells if row[0] == first]


def test_the_cards_figures_are_those_of_the_metrics(report: dict[str, Any]) -> None:
    card = draw(*card_facts(report))
    for asked in QUESTIONS:
        scores = report["test"][asked.name]
        quality = {row[1]: row for row in rows_of(card, first=asked.name) if len(row) == 7}
        for key, words, constant in MEASURES[asked.kind]:
            interval = f"{scores[f'{key}_low']:.3f} to {scores[f'{key}_high']:.3f}"
            compared = f"{scores[constant]:.3f}" if constant else ""
            assert quality[words][2:] == [f"{scores[key]:.3f}", interval, compared, str(scores["photos"]), str(scores["groups"])]
        (errs,) = [row for row in rows_of(card, first=asked.name) if len(row) == 6]
        assert errs[1] == f"{scores['aurc']:.3f}"
    for name, scores in report["slices"]["source"].items():
        row = rows_of(card, first=name)[-1]
        assert row[1:3] == [str(scores["photos"]), str(scores["groups"])]
        part = scores["damage"]
        if part["photos"]:
            assert row[6].startswith(f"{part['mae']:.3f}")
            assert ("too few" in row[6]) == part["too_few"]
    assert report["slices"]["source"]["lot"]["damage"]["too_few"]
    assert "- Alarm of the evaluation: weather: an alarm." in card
    assert "- Shortcut in the data: the source gives it away." in card
    assert "Calibration of weather: expected calibration error" in card
    assert card.count("(none could be fitted)") == 1
    assert (
        "A photo is called clean where the probability of clean is at least 0.743. Proved at the confidence 0.9: it is clean with a" in card
    )
    assert "This holds for a photo of a new group. The proof rests on 61 groups of the split calib" in card
    assert "On test: precision 0.970 (0.910 to 0.990), recall 0.800, 61 groups called so." in card
    assert "Data `d4ta`, code `c0de`, epoch 7" in card


def test_the_card_shows_what_corruptions_cost_and_says_where_they_were_not_measured(report: dict[str, Any]) -> None:
    lost = {asked.name: [0.1, None, 0.3] for asked in QUESTIONS} | {"weather": [None, None]}
    drops = {"corruptions": {"photos": 9, "drop": {"gaussian_blur": lost}}}
    words = {"clean": {"said": [8, 2], "wrong": [1, 1]}, "dirty": {"said": [0, 0], "wrong": [0, 0]}}
    rules = {"passed": {"none": [1.0], "gaussian_blur": [0.5, 0.25]}, "clean": {"gaussian_blur": {"decided": [0.4, 0.2]} | words}}
    (row,) = rows_of(draw(*card_facts(report | drops, rules)), first="gaussian blur")
    assert row[1:] == ["0.375", *["0.200"] * 4, "–", "0.300", "0.800 (n = 10)", "–"]
    assert "Not measured: `evaluate.corruptions` is empty." in draw(*card_facts(report))


def test_the_card_counts_the_photos_and_the_labels_of_the_table(report: dict[str, Any]) -> None:
    card = draw(*card_facts(report))
    assert [row for row in rows_of(card, first="wash") if len(row) == 8][0] == ["wash", "2", "1", "1", "0", "2", "0", "2"]
    assert "| a\\|b | 1 | 1 |" in card
    assert "| train | learning | 2 | 1 | 1 | 0 | 2 | 0 | 2 |" in card
    assert draw(*card_facts(report)) == card


def test_every_question_and_every_rule_has_its_place_in_the_card(report: dict[str, Any]) -> None:
    card = draw(*card_facts(report))
    assert "| clean | probability of clean, else dirty |" in card
    assert "| damage | 0 to 1, 1 = good |" in card
    assert "| weather | one of clear, rain, fog, snow |" in card
    assert "A photo is called dirty where the probability of clean is below 0.200." in card
    assert "**No car of 2 to 6 photos is called clean**: too few groups." in card
    assert "### damaged" not in card, "nothing is decided about it"
    trained, table = card_facts(report)
    assert "### damaged" in draw(replace(trained, thresholds=make_thresholds()), table)
    assert "Nothing is decided." in draw(replace(trained, thresholds=make_thresholds({})), table)
    assert "| label of weather | photos | groups |" in card


NO_WORD = make_rule(CLEAN, T_high=None).good
NO_PROMISE = make_rule(CLEAN).good


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"good": NO_WORD}, "**No photo is called clean**: too few groups."),
        (
            {"good": NO_PROMISE, "bad": make_rule(CLEAN, promised=["bad"]).bad},
            "clean is at least 0.500. **This proves nothing for new cars**",
        ),
        (
            {"bad": make_rule(CLEAN, promised=["bad"]).bad},
            "Proved at the confidence 0.95: it is dirty with a probability of at least 0.95.",
        ),
        ({"warnings": ["The target is low."]}, "Warning: The target is low."),
        ({"confidence_of_both": 0.85}, "Both promises hold together at the confidence 0.85."),
    ],
)
def test_the_card_says_what_the_rule_promises_and_what_not(report: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    assert words in draw(*card_facts(report, **changes))
    assert words not in draw(*card_facts(report))


def test_a_card_of_figures_that_are_unknown_says_so(report: dict[str, Any]) -> None:
    test = report["test"]
    nothing = {name: dict.fromkeys(scores) | {"photos": 0, "groups": 0} for name, scores in test.items() if isinstance(scores, dict)}
    card = draw(*card_facts(report | {"test": test | nothing}))
    assert "| damage | mean absolute error | unknown | none | unknown | 0 | 0 |" in card
    assert "None" not in card
