"""What several test files share: tiny data roots and a recipe that trains in seconds."""

import importlib.util
import io
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carinspect.core.gate import MEASURES
from carinspect.core.params import load_params
from carinspect.core.questions import Question, Side, read_questions
from carinspect.core.tables import dataset_columns, write_table
from carinspect.evaluation.config import EvaluateParams
from carinspect.images.label_maps import OUTLINE_COLUMNS
from carinspect.inference.gate import GateRule
from carinspect.inference.rules import (
    FORMAT,
    FieldRates,
    Forecast,
    MarkPromise,
    MarkRule,
    Outcome,
    Pair,
    Promise,
    QuestionRules,
    Rule,
    SideRule,
    Stratum,
    Thresholds,
    Unit,
)
from carinspect.model.config import ModelRecipe
from carinspect.training.config import AugmentParams, LossKnobs, Recipe, TrainRecipe

if TYPE_CHECKING:
    import onnx

    from carinspect.model.calibration import Calibration
    from carinspect.model.gate import GateFit
    from carinspect.model.network import CarInspectionNetwork

WANDB = Path(sys.prefix) / "wandb"
"""Where `make test-slow` installs tests/requirements-wandb.txt."""

QUESTIONS: tuple[Question, ...] = tuple(one.asked for one in read_questions(load_params(Path(__file__).parents[1] / "params.yaml")))
"""The shipped questions, as data and model files know them."""

# Quiet and offline, whatever the machine.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def own_leases(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Trainings of the tests wait for none of this machine's others."""
    os.environ["CARINSPECT_LEASES"] = str(tmp_path_factory.mktemp("leases"))


def load_benchmark(name: str) -> Any:
    """The module benchmarks/<name>.py, which may import others of that folder. `train` or `next` would be no names for modules of tests."""
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.fixture
def tiny_recipe() -> Recipe:
    """The recipe of `make_recipe`."""
    return make_recipe()


def make_recipe(questions: Sequence[Question] = QUESTIONS) -> Recipe:
    """timm's own test network at 32 px: an epoch takes a fraction of a second."""
    augment = AugmentParams(
        flip=0.5, crop=0.5, crop_min_area=0.8, rotate_degrees=5, perspective=0, brightness=0.2, contrast=0.2, saturation=0.2, hue=0, grey=0,
        shadow=0, flare=0, blur=0, noise=0.2, compression=0, compression_min_quality=40, erase=0, erase_max_area=0.02, rain=0, fog=0,
        snow=0, weather_sure_from=0.5,
    )  # fmt: skip
    model = ModelRecipe(backbone="test_resnet", feature_stages=0, pretrained="none", hidden_features=16, dropout=0.2)
    losses = {asked.name: LossKnobs(loss="smooth_l1" if asked.kind == "score" else "cross_entropy", weight=1.0) for asked in questions}
    train = TrainRecipe(
        seed=1, epochs=2, sampler="none", sampler_question="clean", oversample_ratio=1.0,
        focal_gamma=2.0, focal_alpha=None, label_smoothing=0.0, class_weights="none", loss_weighting="fixed", losses=losses,
        optimiser="adamw", momentum=0.9, lr=0.002, backbone_lr_factor=1.0, layer_decay=1.0, freeze_backbone_epochs=0, freeze_norm=False,
        schedule="cosine", warmup_fraction=0.1, plateau_factor=0.3, plateau_epochs=2, weight_decay=0.02, grad_clip_norm=1.0,
        ema_decay=0.9, early_stop_epochs=0, on_nonfinite="stop", resume="none", augment=augment,
        batch_size=16, accumulate_steps=1, norm_batch_size=8, image_side_px=32, precision="fp32",
    )  # fmt: skip
    return Recipe(questions=tuple(questions), model=model, train=train)


def encode_photo(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A photo's file in one of `images.decode.FORMATS`."""
    buffer = io.BytesIO()
    if kind == "HEIF":
        import pillow_heif  # noqa: PLC0415 - only the tests have an encoder

        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_settings_of_dvc(folder: Path) -> dict[str, str]:
    """Environment variables that keep a test's DVC and git away from the machine's: DVC's folders in `folder`, and an author."""
    dvc = {f"DVC_{name}": str(folder) for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR")}
    return dvc | {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def untrained_network(*, seed: int = 0, questions: Sequence[Question] = QUESTIONS, stages: int = 0) -> "CarInspectionNetwork":
    """The network of `make_recipe` with random weights, in training mode; its heads see so many stages."""
    import torch

    from carinspect.model.backbones import build_backbone
    from carinspect.model.network import CarInspectionNetwork

    recipe = make_recipe(questions)
    torch.manual_seed(seed)
    model = recipe.model.model_copy(update={"feature_stages": stages})
    network = CarInspectionNetwork(model, recipe.questions, backbone=build_backbone(model.backbone, image_side_px=32))
    # Statistics of their own, as training would leave: with the first ones a batch norm does nothing.
    network.train()(torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8))
    return network


OPEN_GATE = GateRule(threshold=1e9, share=0.02, groups=100, measures=list(MEASURES))
"""Lets every photo through."""

PROMISE = Promise(precision=0.95, confidence=0.95, of="a photo", at_rate=None)


def make_outcome(**changes: Any) -> Outcome:
    """What a threshold did to no photo at all, with `changes`."""
    counts = {name: 0 for name in Outcome.model_fields if name.endswith(("photos", "groups"))}
    return Outcome(**dict.fromkeys(Outcome.model_fields) | counts | changes)


def make_rule(
    question: Question,
    *,
    unit: Unit = "photo",
    T_high: float | None = 0.5,
    T_low: float | None = 0.2,
    promised: Sequence[Side] = (),
    photos: tuple[int, int] = (2, 6),
) -> Rule:
    """A rule whose sides in `promised` keep `PROMISE`; that of cars speaks of cars with so many `photos`."""
    sides = {
        side: SideRule(
            word=question.word(side),
            threshold=threshold,
            promise=PROMISE if side in promised else None,
            reason="too few groups" if threshold is None else None,
            needed=None,
            groups=[],
            on_source=make_outcome(),
            on_test=make_outcome(),
        )
        for side, threshold in (("good", T_high), ("bad", T_low))
    }
    forecast = Forecast(**dict.fromkeys(Forecast.model_fields))
    return Rule(
        question=question.name, unit=unit, method="guaranteed", source="calib", target_precision=0.95, confidence=0.95,
        confidence_of_both=0.9 if set(promised) == {"good", "bad"} else None, starts=2, **sides, base_rate=None, warnings=[], methods={},
        chosen=Pair(T_high=T_high, T_low=T_low, on_source=forecast, on_test=forecast), cheapest=None, cheapest_allowed=None,
        stratum=Stratum(photos_from=photos[0], photos_to=photos[1], cars=100, cars_left_out=0) if unit == "car" else None,
    )  # fmt: skip


def make_thresholds(rules: Mapping[str, tuple[Rule, Rule]] | None = None, *, questions: Sequence[Question] = QUESTIONS) -> Thresholds:
    """Thresholds of `questions` with the `rules`, (photo, car) by question.

    None: every binary question decides photos at 0.5 and 0.2 and no cars, and only the good word of the first has a promise.
    """
    if rules is None:
        binary = [asked for asked in questions if asked.kind == "binary"]
        rules = {
            asked.name: (
                make_rule(asked, promised=["good"] if asked is binary[0] else []),
                make_rule(asked, unit="car", T_high=None, T_low=None),
            )
            for asked in binary
        }
    field = FieldRates(**dict.fromkeys(FieldRates.model_fields))
    return Thresholds(
        format=FORMAT,
        questions=list(questions),
        gate=OPEN_GATE,
        rules={name: QuestionRules(photo=photo, cars=[car], field=field) for name, (photo, car) in rules.items()},
        sets={},
        predictions_sha256="abc",
    )


def make_calibration(
    *, temperature: float | Mapping[str, float] = 0.05, offsets: Mapping[str, list[float]] | None = None, samples: int = 4,
    questions: Sequence[Question] = QUESTIONS, mirror: bool = False,
) -> "Calibration":  # fmt: skip
    """A calibration of `questions` with one temperature, or one a question, and spreads over `samples` masks; 0: none."""
    from carinspect.model.calibration import Calibration, QuestionCalibration, Reading
    from carinspect.model.uncertainty import plan_dropout

    return Calibration(
        fitted_on="val",
        questions={
            asked.name: QuestionCalibration(
                logit_offset=(offsets or {}).get(asked.name, [0.0] * len(asked.classes)),
                temperature=temperature[asked.name] if isinstance(temperature, Mapping) else temperature,
                photos=0,
                nll_before=None,
                nll_after=None,
                reason=None,
            )
            for asked in questions
            if asked.has_classes
        },
        uncertainty=plan_dropout(samples=samples, dropout=0.2, seed=1),
        reading=Reading(image_side_px=32, mirror=mirror),
    )


def make_gate(network: "CarInspectionNetwork", *, seed: int = 0) -> "GateFit":
    """A gate of drawn features; with it and `OPEN_GATE` every photo passes."""
    from carinspect.model.gate import PICTURE_COLUMNS, fit_gate
    from carinspect.model.network import early_stages

    described: Any = network.backbone
    width = sum(described.feature_info[place]["num_chs"] for place in early_stages(network.backbone))
    random = np.random.default_rng(seed)
    early_NC, pictures_NQ = random.normal(size=(60, width)), random.normal(size=(60, PICTURE_COLUMNS))
    return fit_gate(early_NC=early_NC, pictures_NQ=pictures_NQ, held_out_early_NC=early_NC[:30], held_out_pictures_NQ=pictures_NQ[:30])


def make_model(
    network: "CarInspectionNetwork", *, thresholds: Thresholds, calibration: "Calibration", **described: Any
) -> "onnx.ModelProto":
    """The ONNX model of `network` at 32 px, which says what it is. described: `lineage` and `metrics` (of test) where they matter."""
    from carinspect.export.graph import AnsweringNetwork, to_onnx
    from carinspect.export.metadata import Trained, describe_model
    from carinspect.model.checkpoint import Checkpoint

    lineage = described.get("lineage", {"data_revision": "abc"})
    checkpoint = Checkpoint(
        questions=tuple(network.questions.values()), model=make_recipe().model, image_side_px=32, weights={}, lineage=lineage
    )
    metrics = {"evaluate": {"test": described.get("metrics", {})}}
    gate = make_gate(network)
    model = to_onnx(AnsweringNetwork(network.eval(), calibration, gate), image_side_px=32)
    describe_model(model, Trained(checkpoint, calibration, thresholds, gate, None, metrics))
    return model


MARK_RULES = {
    "cleanliness": MarkRule(question="cleanliness", kind="dirt", cut=0.6, promise=None),
    "damage": MarkRule(
        question="damage", kind="damage", cut=0.5,
        promise=MarkPromise(target_precision=0.9, confidence=0.95, bound=0.92, groups=120, wrong=4),
    ),
}  # fmt: skip
"""Rules of the maps that `add_maps` adds."""


def add_maps(model: "onnx.ModelProto", *, cells: int = 8) -> None:
    """Give `model`, of `make_model`, maps with `cells` a side: green shows dirt and red damage. Their rules are `MARK_RULES`."""
    import json

    import onnx
    from onnx import TensorProto, helper

    from carinspect.export.metadata import amend

    graph, photos = model.graph, model.graph.input[0].name
    pool = 32 // cells
    graph.initializer.extend([
        helper.make_tensor("m_white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("m_channels", TensorProto.INT64, [2], [1, 0]),
    ])  # fmt: skip
    graph.node.extend([
        helper.make_node("Cast", [photos], ["m_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["m_float"], ["m_BCHW"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["m_BCHW"], ["m_pooled"], kernel_shape=[pool, pool], strides=[pool, pool]),
        helper.make_node("Div", ["m_pooled", "m_white"], ["m_shares"]),
        helper.make_node("Gather", ["m_shares", "m_channels"], ["marks"], axis=1),
    ])  # fmt: skip
    graph.output.append(helper.make_tensor_value_info("marks", TensorProto.FLOAT, ["batch", 2, cells, cells]))
    onnx.checker.check_model(model)
    (described,) = [entry for entry in model.metadata_props if entry.key == "carinspect"]
    thresholds = json.loads(described.value)["threshold"]
    amend(model, {"threshold": thresholds | {"marks": {name: rule.model_dump(mode="json") for name, rule in MARK_RULES.items()}}})


@pytest.fixture(scope="session")
def model_content() -> bytes:
    """The bytes of the file of `untrained_network`, with `make_thresholds`; its probabilities lie well apart."""
    from carinspect.inference.seal import seal

    model = make_model(untrained_network(), thresholds=make_thresholds(), calibration=make_calibration())
    return seal(model.SerializeToString(deterministic=True))


@pytest.fixture(scope="session")
def marking_content(model_content: bytes) -> bytes:
    """As `model_content`, with the maps of `add_maps`."""
    import onnx

    from carinspect.inference.seal import seal

    model = onnx.load_from_string(model_content)
    add_maps(model)
    return seal(model.SerializeToString(deterministic=True))


@pytest.fixture
def model_file(model_content: bytes, tmp_path: Path) -> Path:
    """`model_content` as a file."""
    path = tmp_path / "best.onnx"
    path.write_bytes(model_content)
    return path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two nodes' worth of Ray's processes with one CPU each; the address of their head, which is this machine's own.

    Ray looks for a head said to be on 127.0.0.1 at this machine's own address, and finds none there.
    """
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "src"))
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(**node)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


def make_dataset(folder: Path, *, photos: int = 80, seed: int = 0) -> Path:
    """Photos under `folder`/root and a dataset table beside it; each label shows in its own quarter. Returns the table's path."""
    random = np.random.default_rng(seed)
    root = folder / "root"
    root.mkdir(parents=True)
    rows = []
    for index in range(photos):
        clean, weather, damage = int(random.integers(2)), int(random.integers(4)), float(random.random())
        pixels = random.integers(0, 60, (48, 64, 3)).astype(np.uint8)
        pixels[:24, :32] += np.uint8(120 * clean)
        pixels[24:, :32, weather % 3] += np.uint8(120 + 60 * (weather == 3))
        pixels[:, 32:, 0] += np.uint8(150 * damage)
        name = f"{index:04}.jpg"
        Image.fromarray(pixels).save(root / name, quality=95)
        known = random.random(4) < 0.7
        rows.append({
            "image_path": name, "source": "drawn", "width_px": 64, "height_px": 48,
            "sha256": sha256((root / name).read_bytes()).hexdigest(), "phash": f"{index:016x}", "family": "", "declared_split": "",
            "clean": clean if known[0] else np.nan, "cleanliness_score": clean * 0.8 if known[1] else np.nan,
            "damaged": float(damage < 0.98) if known[2] else 1.0 if index % 7 == 0 else np.nan,
            "damage_score": damage if known[2] else np.nan,
            "weather_condition": weather if known[3] else np.nan,
            "group": name, "split": ("train", "train", "val", "calib", "test")[index % 5],
        })  # fmt: skip
    table = folder / "dataset.csv"
    write_table(pd.DataFrame(rows)[dataset_columns(QUESTIONS)], table, QUESTIONS)
    return table


LONGEST = ("test_tutorial.py", "test_experiments.py", "test_engine.py", "test_docs_commands.py", "test_pipeline.py", "test_questions.py")
"""Files of minutes, the longest first: begun last, one of them would run alone while the other processes have nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print as a table what tests recorded by `record_property`."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome) if report.when == "call"]
    lines = [(name, value) for report in reports for name, value in report.user_properties]
    if lines:
        width = max(len(name) for name, _ in lines)
        terminalreporter.section("recorded")
        for name, value in lines:
            terminalreporter.write_line(f"{name:{width}}  {value}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed model file with untrained weights, for a service."""
    from serving_tools import model_bytes  # imports the server, which few tests need

    path = tmp_path_factory.mktemp("model") / "best.onnx"
    path.write_bytes(model_bytes())
    return path


def without_outlines(folder: Path) -> None:
    """What `convert_annotations` and `train_marks` write in a project without outlines."""
    from carinspect.model.marks import save_marks

    write_table(pd.DataFrame(columns=list(OUTLINE_COLUMNS)), folder / "data/outlines.csv")
    save_marks(None, folder / "models/marks.pt")


def make_evaluate_params(**changes: Any) -> EvaluateParams:
    """The section `evaluate` for small tests."""
    values: dict[str, Any] = {
        "confidence": 0.95, "seed": 1, "dropout_samples": 0, "image_side_px": None, "mirror": False, "slice_min_groups": 10,
        "leave_one_source_out": False, "corruptions": [1, 5], "corruption_photos": 20,
    }  # fmt: skip
    return EvaluateParams(**values | changes)
