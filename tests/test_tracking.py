"""training: the sinks under runs/, the bar, and the picture of the curves."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.core.questions import by_name
from carinspect.training import tracking
from carinspect.training.config import Recipe, TrackingParams
from carinspect.training.pictures import confusion_counts, draw_confusions, draw_curves, tile_batch
from carinspect.training.tracking import Tracker, check_tracking, group_rates, open_sinks, run_folder
from conftest import QUESTIONS, WANDB
from test_engine import ROOT, final_files, finish_training, make_workspace, start_training

ASKED = [by_name(QUESTIONS)[name] for name in ("clean", "weather")]
OFF = TrackingParams(wandb=False, wandb_project="carinspect")
LOGITS = {"clean": torch.tensor([2.0, -1.0, 3.0]), "weather": torch.eye(4)[:3] * 5}
LABELS = {"clean": torch.tensor([1.0, 1.0, float("nan")]), "weather_condition": torch.tensor([0.0, 1.0, 1.0])}


def epoch_row(epoch: int, **more: float) -> dict[str, float]:
    row = {"epoch": epoch, "lr": 0.1 / epoch, "train_loss_clean": 1.0, "train_loss_total": 1.0, "val_skill_clean": 0.5, "val_score": 0.5}
    return row | {"loss_weight_clean": 0.7} | more


def write_epochs(folder: Path, recipe: Recipe, epochs: range, *, epochs_done: int, writes: bool = True) -> None:
    """A process that tracks `epochs`, counted from 1, and ends."""
    with Tracker(ASKED, partial(open_sinks, folder, OFF, recipe) if writes else None) as tracker:
        tracker.start(epochs_done=epochs_done, photos_done=0, photos_total=100)
        for epoch in epochs:
            batches = iter([torch.full((4, 8, 8, 3), epoch, dtype=torch.uint8)] * 2)
            assert len(list(tracker.show_first(batches, epoch - 1))) == 2
            tracker.advance(10)
            tracker.write_epoch(epoch_row(epoch), rates={"times_1": 0.1, "times_0.1": 0.01}, val_logits=LOGITS, val_labels=LABELS)


def read_events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


# ---- TensorBoard


def test_a_run_carries_the_name_of_its_experiment_or_what_it_trains(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    train = tiny_recipe.train
    what = f"{tiny_recipe.model.backbone}-{train.image_side_px}px-batch{train.effective_batch_size}-0123abcd"
    assert run_folder(tiny_recipe, key="0123abcd4567") == tmp_path / "runs" / what
    monkeypatch.setenv("DVC_EXP_NAME", "bigger batch")
    named = run_folder(tiny_recipe, key="0123abcd4567")
    assert named == tmp_path / "runs" / "bigger_batch-0123abcd"


def test_a_training_that_resumes_under_another_name_goes_on_in_its_folder(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_EXP_NAME", "rusty-monk")
    first = run_folder(tiny_recipe, key="0123abcd4567")
    first.mkdir(parents=True)
    monkeypatch.setenv("DVC_EXP_NAME", "vocal-smut")
    assert run_folder(tiny_recipe, key="0123abcd4567") == first
    assert run_folder(tiny_recipe, key="89abcdef4567").name == "vocal-smut-89abcdef"


def test_tensorboard_holds_scalars_rates_loss_weights_batches_and_confusions(tmp_path: Path, tiny_recipe: Recipe) -> None:
    write_epochs(tmp_path, tiny_recipe, range(1, 6), epochs_done=0)
    events = read_events(tmp_path)
    assert set(events.Tags()["scalars"]) == {
        "lr/lr", "lr/times_1", "lr/times_0.1", "train/loss_clean", "train/loss_total", "val/skill_clean", "val/score", "loss_weight/clean",
    }  # fmt: skip
    assert [point.step for point in events.Scalars("val/score")] == [1, 2, 3, 4, 5]
    assert [point.step for point in events.Images("augmented batch")] == [1, 2, 3]
    assert [point.step for point in events.Images("val confusion/clean")] == [1, 2, 3, 4, 5]
    assert events.Images("val confusion/weather")[0].width > 100


def test_a_resumed_run_shows_each_epoch_once(tmp_path: Path, tiny_recipe: Recipe) -> None:
    # Killed after epoch 3 was shown and before its state was kept: it goes on after epoch 2.
    write_epochs(tmp_path, tiny_recipe, range(1, 4), epochs_done=0)
    write_epochs(tmp_path, tiny_recipe, range(3, 5), epochs_done=2)
    events = read_events(tmp_path)
    assert [point.step for point in events.Scalars("val/score")] == [1, 2, 3, 4]
    assert [point.step for point in events.Images("val confusion/clean")] == [1, 2, 3, 4]
    # Told that nothing was done, the same two processes show epochs 3 and 4 alone: it is the step that decides.
    write_epochs(tmp_path / "other", tiny_recipe, range(1, 4), epochs_done=0)
    write_epochs(tmp_path / "other", tiny_recipe, range(3, 5), epochs_done=0)
    assert [point.step for point in read_events(tmp_path / "other").Scalars("val/score")] == [3, 4]


def test_other_processes_write_nothing(tmp_path: Path, tiny_recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    write_epochs(tmp_path / "run", tiny_recipe, range(1, 3), epochs_done=0, writes=False)
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_there_is_one_line_an_epoch_and_no_bar(
    tmp_path: Path, tiny_recipe: Recipe, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_epochs(tmp_path / "1", tiny_recipe, range(1, 3), epochs_done=0)
    out, err = capfd.readouterr()
    assert [line[:11] for line in out.splitlines()] == ["epoch   1  ", "epoch   2  "]
    assert err == ""
    # On a terminal the bar is there, with its rate.
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    write_epochs(tmp_path / "2", tiny_recipe, range(1, 3), epochs_done=0)
    assert "photos/s" in capfd.readouterr().err


def test_the_rate_of_each_group_is_named_by_its_share() -> None:
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    groups = [
        {"params": [parameter], "lr": 0.1 * share, "lr_scale": share} for parameter, share in zip(parameters, (1.0, 0.1, 0.1), strict=True)
    ]
    assert group_rates(torch.optim.SGD(groups, lr=0.1)) == pytest.approx({"times_1": 0.1, "times_0.1": 0.01})


# ---- pictures


def test_confusions_are_counted_as_scikit_learn_does() -> None:
    random = np.random.default_rng(0)
    logits, label = random.normal(size=(200, 4)), random.integers(0, 4, 200).astype(float)
    label[::7] = np.nan
    known = ~np.isnan(label)
    expected = confusion_matrix(label[known].astype(int), logits[known].argmax(axis=1), labels=range(4))
    assert (confusion_counts(logits, label, ASKED[1]) == expected).all()
    clean = (label > 1).astype(float)
    expected = confusion_matrix(clean, logits[:, 0] > 0)
    assert (confusion_counts(logits[:, 0], clean, ASKED[0]) == expected).all()


def test_a_question_without_labels_or_without_classes_has_no_confusion() -> None:
    logits, labels = ({name: values.numpy() for name, values in some.items()} for some in (LOGITS, LABELS))
    unknown = labels | {"weather_condition": np.full(3, np.nan, np.float32)}
    assert set(draw_confusions(ASKED, logits, labels)) == {"clean", "weather"}
    assert set(draw_confusions(ASKED, logits, unknown)) == {"clean"}
    damage = by_name(QUESTIONS)["damage"]
    assert draw_confusions([damage], {"damage": np.zeros(3)}, {"damage_score": np.zeros(3)}) == {}


def test_a_batch_is_tiled_in_order() -> None:
    photos = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    tiled = tile_batch(photos)
    assert tiled.shape == (8, 32, 3)
    assert tiled[::4, ::4, 0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0, 0, 0]]
    assert tile_batch(photos[:3]).shape == (4, 12, 3)


def test_the_picture_of_the_curves_is_the_same_each_time_and_bears_an_epoch_without_a_question(tmp_path: Path) -> None:
    history = [epoch_row(epoch) for epoch in range(1, 5)]
    del history[1]["train_loss_clean"]
    for name in ("1", "2"):
        draw_curves(history, best_epoch=2, path=tmp_path / f"{name}.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    draw_curves(history, best_epoch=3, path=tmp_path / "3.png")
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "3.png").read_bytes()
    assert Image.open(tmp_path / "1.png").size == (1320, 432)


# ---- Weights & Biases


def test_wandb_without_its_package_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on = TrackingParams(wandb=True, wandb_project="carinspect")
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    check_tracking(on)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    check_tracking(OFF)
    with pytest.raises(UserError, match=r"tracking\.wandb is true, and the package wandb is not installed\..*pip install -e '\.\[wandb\]'"):
        check_tracking(on)


def test_a_mistyped_tracking_key_is_named() -> None:
    with pytest.raises(UserError, match=r"tracking\.wandb_projekt: unknown key\. Did you mean 'wandb_project'"):
        parse_section("tracking", TrackingParams, {"wandb": False, "wandb_project": "x", "wandb_projekt": "y"})


def read_log(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, which wandb's offline file has behind seven bytes of its own (doc/log_format.md of LevelDB)."""
    whole, place = b"", 7
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def read_wandb_records(folder: Path) -> dict[str, list]:
    """What an offline run folder holds: configuration, history rows, artifacts."""
    found: dict[str, list] = {"config": [], "history": [], "artifact": []}
    from wandb.proto import wandb_internal_pb2  # in the folder `WANDB` alone

    (file,) = folder.glob("offline-run-*/run-*.wandb")
    for data in read_log(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                found["config"].append({item.key: json.loads(item.value_json) for item in record.run.config.update})
            case "history":
                found["history"].append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
            case "artifact":
                contents = [entry.path for entry in record.artifact.manifest.contents]
                found["artifact"].append((record.artifact.name, record.artifact.type, contents))
    return found


@pytest.mark.slow
def test_wandb_offline_holds_metrics_parameters_and_the_model_and_changes_no_result(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(WANDB)])
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name, wandb in (("without", False), ("with", True)):
        workspace = make_workspace(tmp_path / name, tiny_recipe, processes=2)
        params = yaml.safe_load((workspace / "params.yaml").read_text())
        params["tracking"]["wandb"] = wandb
        (workspace / "params.yaml").write_text(yaml.safe_dump(params))
        finish_training(start_training(workspace, PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{WANDB}"))
    assert final_files(tmp_path / "with") == final_files(tmp_path / "without")
    assert not list((tmp_path / "without").glob("runs/*/wandb"))
    (run,) = (tmp_path / "with").glob("runs/*")
    found = read_wandb_records(run / "wandb")
    assert found["config"][0]["train"]["lr"] == tiny_recipe.train.lr
    scores = [float(row["val/score"]) for row in found["history"] if "val/score" in row]
    curves = (tmp_path / "with" / "reports/train_ddp/curves.csv").read_text().splitlines()
    column = curves[0].split(",").index("val_score")
    assert scores == pytest.approx([float(line.split(",")[column]) for line in curves[1:]], abs=1e-6)
    ((name, kind, files),) = found["artifact"]
    assert (name, kind, files) == ("car-inspection", "model", ["best.pt"])
    model = (tmp_path / "with" / "models/best.pt").read_bytes()
    assert any(path.is_file() and path.read_bytes() == model for path in run.rglob("*"))


@pytest.mark.slow
def test_wandb_without_a_key_and_a_terminal_is_one_line(tmp_path: Path, tiny_recipe: Recipe) -> None:
    code = (
        "from pathlib import Path; from carinspect.core.programs import run_stage; from carinspect.training.tracking import WandbSink; "
        "run_stage(lambda: WandbSink(Path('run'), project='carinspect', config={}), 'train_ddp')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9", "PYTHONPATH": os.pathsep.join([*sys.path, str(WANDB)])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "tracking.wandb: Weights & Biases refused to start" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr
