"""The model file's copies and what a person can read of it: smaller, near enough, and honest about what was proved."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from carinspect.core.errors import UserError
from carinspect.core.tables import dataset_columns, read_table
from carinspect.export.config import ExportParams
from carinspect.export.metadata import Trained, amend, without_promise
from carinspect.export.model_files import Exported, Photos, export_model, export_variants, measure_latency
from carinspect.export.parity import refuse_variant
from carinspect.inference.bundle import open_bundle
from carinspect.inference.rules import Thresholds
from carinspect.inference.seal import SEAL_BYTES, seal
from carinspect.model.calibration import Reading
from carinspect.model.checkpoint import Checkpoint
from conftest import QUESTIONS, make_calibration, make_dataset, make_gate, make_recipe, make_rule, make_thresholds, untrained_network
from test_cli import carinspect

PARAMS = ExportParams(
    parity_photos=8, tolerance=1e-4, half=True, half_tolerance=0.02, int8=True, int8_tolerance=0.3, int8_photos=16,
    flip_rate=0.5, latency_runs=0,
)  # fmt: skip
CLEAN, DAMAGED = QUESTIONS[0], QUESTIONS[2]


@pytest.fixture(scope="module")
def trained() -> Trained:
    network = untrained_network()
    weights = network.state_dict()
    checkpoint = Checkpoint(questions=QUESTIONS, model=make_recipe().model, image_side_px=32, weights=weights, lineage={})
    return Trained(checkpoint, make_calibration(temperature=1.0), make_thresholds(), make_gate(network), None, {"evaluate": {"test": {}}})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    path = make_dataset(tmp_path_factory.mktemp("variants"), photos=40)
    return Photos(read_table(path, columns=dataset_columns(QUESTIONS), questions=QUESTIONS), path.parent / "root", side_px=32)


@pytest.fixture(scope="module")
def exported(trained: Trained, photos: Photos) -> Exported:
    return export_model(trained, photos, PARAMS)


@pytest.fixture(scope="module")
def variants(exported: Exported, photos: Photos) -> dict[str, Exported]:
    return dict(export_variants(exported, photos, PARAMS))


def test_variants_are_smaller_and_answer_nearly_alike(exported: Exported, variants: dict[str, Exported], photos: Photos) -> None:
    assert len(variants["fp16"].content) < 0.7 * len(exported.content)
    assert len(variants["int8"].content) < 0.7 * len(exported.content)
    original, some = open_bundle(exported.content), photos.of("test")
    for name, tolerance in (("fp16", 0.01), ("int8", 0.2)):
        bundle = open_bundle(variants[name].content)
        ends = [(end.name, end.type, end.shape) for end in (*bundle.session.get_inputs(), *bundle.session.get_outputs())]
        assert ends == [(end.name, end.type, end.shape) for end in (*original.session.get_inputs(), *original.session.get_outputs())]
        for output in (asked.outputs[-1] for asked in QUESTIONS):
            assert np.allclose(bundle.predict(some)[output], original.predict(some)[output], atol=tolerance), (name, output)
        assert bundle.info["number_format"] == name
        assert len(bundle.predict(some, batch_size=3)["p_clean"]) == len(some)


def test_a_variant_too_far_off_is_refused_by_its_numbers_and_by_its_decisions(exported: Exported, photos: Photos) -> None:
    with pytest.raises(UserError, match="the fp16 variant is not written: .*_max_difference is .*half_tolerance"):
        list(export_variants(exported, photos, PARAMS.model_copy(update={"half_tolerance": 1e-9})))
    comparison = {"photos": 100, "flipped_decisions": 3, "p_clean_max_difference": 0.01}
    with pytest.raises(UserError, match="3 decisions flip on 100 photos"):
        refuse_variant("int8", comparison, tolerance=0.1, flip_rate=0.02, key="int8")
    refuse_variant("int8", comparison, tolerance=0.1, flip_rate=0.03, key="int8")
    with pytest.raises(UserError, match="is nan"):
        refuse_variant("int8", comparison | {"p_clean_max_difference": float("nan")}, tolerance=0.1, flip_rate=0.1, key="int8")


def test_a_file_is_timed_on_one_photo_after_the_other(exported: Exported, photos: Photos) -> None:
    found = measure_latency(exported.content, photos.of("val"), runs=5)
    assert 0 < found["p50"] <= found["p95"]


def with_thresholds(exported: Exported, thresholds: Thresholds) -> Exported:
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    amend(model, {"threshold": thresholds.model_dump(mode="json")})
    return Exported(model, seal(model.SerializeToString(deterministic=True)), exported.comparison)


def test_a_variant_keeps_the_promise_only_where_no_proved_decision_changes(
    exported: Exported, variants: dict[str, Exported], photos: Photos
) -> None:
    was, now = (open_bundle(file.content).predict(photos.of("calib"))["p_clean"] for file in (exported, variants["fp16"]))
    furthest = np.abs(now - was).argmax()
    only_half = PARAMS.model_copy(update={"int8": False})
    for T_high, flips in ((1.0, 0), (float(was[furthest] / 2 + now[furthest] / 2), 1)):
        rules = make_rule(CLEAN, T_high=T_high, T_low=None, promised=["good"]), make_rule(CLEAN, unit="car", T_high=None, T_low=None)
        ((_, variant),) = export_variants(with_thresholds(exported, make_thresholds({"clean": rules})), photos, only_half)
        bundle = open_bundle(variant.content)
        kept = bundle.thresholds.rules["clean"].photo
        assert (kept.T_high, kept.has_promise) == (T_high, flips == 0)
        assert min(variant.comparison["flipped_promised"], 1) == flips
        assert ("warnings" in bundle.info) == (flips == 1)


def test_variants_are_made_only_when_asked_for(exported: Exported, photos: Photos) -> None:
    assert list(export_variants(exported, photos, PARAMS.model_copy(update={"half": False, "int8": False}))) == []


def test_the_file_reads_photos_at_the_side_of_its_calibration(trained: Trained, photos: Photos) -> None:
    calibration = trained.calibration.model_copy(update={"reading": Reading(image_side_px=48, mirror=False)})
    larger = open_bundle(
        export_model(dataclasses.replace(trained, calibration=calibration), dataclasses.replace(photos, side_px=48), PARAMS).content
    )
    assert larger.image_side_px == 48
    assert larger.session.get_inputs()[0].shape[1:] == [48, 48, 3]
    assert larger.thresholds == make_thresholds()


def test_a_promise_ends_for_every_rule(exported: Exported) -> None:
    both = {
        asked.name: (make_rule(asked, promised=["good", "bad"]), make_rule(asked, unit="car", T_high=0.7, T_low=0.4, promised=["bad"]))
        for asked in (CLEAN, DAMAGED)
    }
    model = with_thresholds(exported, make_thresholds(both)).model
    assert all(rule.has_promise for pair in both.values() for rule in pair)
    without_promise(model, "for a test")
    for rules in open_bundle(seal(model.SerializeToString())).thresholds.rules.values():
        assert not rules.photo.has_promise
        assert not rules.cars[0].has_promise
        assert (rules.photo.T_high, rules.cars[0].T_low, rules.photo.confidence_of_both) == (0.5, 0.4, None)


def test_the_same_export_gives_the_same_bytes(exported: Exported, variants: dict[str, Exported], trained: Trained, photos: Photos) -> None:
    again = export_model(trained, photos, PARAMS)
    assert again.content == exported.content
    assert {name: variant.content for name, variant in export_variants(again, photos, PARAMS)} == {
        name: variant.content for name, variant in variants.items()
    }


# ---- carinspect inspect


def test_inspect_prints_all_that_the_file_knows(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "best.onnx").write_bytes(exported.content)
    done = carinspect("inspect", tmp_path / "best.onnx")
    assert done.returncode == 0, done.stderr
    for words in (
        "intact",
        "uint8 (batch, 32, 32, 3)",
        "'clean' when P(clean) >= 0.5000 keeps the precision 0.95",
        "question weather",
        "number_format",
        "jpeg-draft",
    ):
        assert words in done.stdout
    found = json.loads(carinspect("inspect", tmp_path / "best.onnx", "--json").stdout)
    assert Thresholds.model_validate(found["threshold"]) == make_thresholds()
    assert found["outputs"]["p_weather"] == {"type": "tensor(float)", "shape": ["batch", 4]}
    assert found["sha256"] == open_bundle(exported.content).sha256
    assert found["reference"]["photos"] == 8


def test_inspect_refuses_an_altered_and_a_foreign_file(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    altered = bytearray(exported.content)
    altered[len(altered) // 2] ^= 1
    for content, reason in ((bytes(altered), "altered or damaged since its export"), (b"PK\x03\x04", "does not end in a seal")):
        path.write_bytes(content)
        done = carinspect("inspect", path)
        assert done.returncode == 1
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_file_without_a_threshold_is_refused_by_every_command(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load_from_string(exported.content[:-SEAL_BYTES])
    amend(model, {"threshold": None})
    (tmp_path / "best.onnx").write_bytes(seal(model.SerializeToString()))
    for words in (("inspect", tmp_path / "best.onnx"), ("score", tmp_path, "--model", tmp_path / "best.onnx", "--out", tmp_path / "s.csv")):
        done = carinspect(*words)
        assert done.returncode > 0
        assert done.returncode == 2 or "Make it again: dvc repro --force select_threshold, then dvc repro." in done.stderr
