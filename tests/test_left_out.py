"""Leave-one-source-out: what is trained on, what is scored, and that nothing is trained twice."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from carinspect.core.params import parse_section
from carinspect.core.questions import by_name
from carinspect.core.tables import dataset_columns, read_table, write_table
from carinspect.evaluation import left_out
from carinspect.evaluation.left_out import FIGURES, learnable_questions, score_source, taught_questions, without_source
from carinspect.evaluation.predictions import predict
from carinspect.evaluation.retraining import Retrained, ask_only
from carinspect.model.calibration import Reading
from carinspect.model.checkpoint import Checkpoint, build_network, load_checkpoint
from carinspect.training.config import Recipe
from carinspect.training.recipe import write_parts, write_recipe
from conftest import QUESTIONS, make_dataset, make_evaluate_params, make_recipe, untrained_network, without_outlines
from test_label_maps import mask_of, pixels_with

ROOT = Path(__file__).parents[1]
COLUMNS = dataset_columns(QUESTIONS)
CLEAN, CLEANLINESS, DAMAGED, DAMAGE, WEATHER = QUESTIONS
READING = Reading(image_side_px=32, mirror=False)
PARAMS = make_evaluate_params(leave_one_source_out=True)
PHOTOS = 120
"""Of either source there are 24 in train: enough to teach where damage is."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Sources `lot`, which alone judges weather, and `wash`; two photos of either are copies of one picture."""
    table = read_table(make_dataset(tmp_path_factory.mktemp("drawn"), photos=PHOTOS), columns=COLUMNS, questions=QUESTIONS)
    table["source"] = np.where(np.arange(len(table)) % 10 < 5, "lot", "wash")
    table.loc[table["source"] == "wash", "weather_condition"] = np.nan
    table.loc[5, "group"] = table.loc[0, "group"]
    return table


# ---- what is left


def test_no_photo_of_the_source_and_no_copy_of_one_is_trained_on(table: pd.DataFrame) -> None:
    rest = without_source(table, "lot")
    assert set(rest["source"]) == {"wash"}
    assert not set(rest["group"]) & set(table["group"][table["source"] == "lot"])
    assert len(rest) == (table["source"] == "wash").sum() - 1


def test_only_what_both_train_and_val_teach_can_be_learnt(table: pd.DataFrame) -> None:
    assert learnable_questions(table, QUESTIONS) == list(QUESTIONS)
    assert learnable_questions(without_source(table, "lot"), QUESTIONS) == [CLEAN, CLEANLINESS, DAMAGED, DAMAGE]
    no_clean_in_val = table.assign(clean=table["clean"].where(table["split"] != "val"))
    assert CLEAN in taught_questions(no_clean_in_val, QUESTIONS)
    assert CLEAN not in learnable_questions(no_clean_in_val, QUESTIONS)


def test_a_photo_known_only_as_damaged_teaches_that_question_and_no_other(table: pd.DataFrame) -> None:
    blank = table.assign(damage_score=np.nan, damaged=np.nan)
    assert DAMAGED not in taught_questions(blank, QUESTIONS)
    assert DAMAGED in taught_questions(blank.assign(damaged=1.0), QUESTIONS)
    assert DAMAGE not in taught_questions(blank.assign(damaged=1.0), QUESTIONS)


def test_a_recipe_for_fewer_questions_is_a_recipe_whatever_was_tuned_for_the_others() -> None:
    tuned = make_recipe().model_dump()
    tuned["train"]["losses"]["clean"]["loss"] = "focal"
    changes = (
        {"sampler": "weighted"},
        {"focal_alpha": [0.3, 0.7]},
        {"class_weights": {"clean": [1.0, 2.0], "weather": [1.0, 1.0, 2.0, 2.0]}},
    )
    for change in changes:
        recipe = tuned | {"train": tuned["train"] | change}
        parse_section("recipe", Recipe, recipe)
        fewer = parse_section("recipe", Recipe, ask_only(recipe, [DAMAGED, WEATHER]))
        assert [asked.name for asked in fewer.questions] == ["damaged", "weather"]
        assert set(fewer.train.losses) == {"damaged", "weather"}
        everything = parse_section("recipe", Recipe, ask_only(recipe, QUESTIONS))
        assert everything.train == parse_section("recipe", Recipe, recipe).train
        assert by_name(fewer.questions)["weather"] == WEATHER


def test_figures_have_intervals_over_groups_and_unknown_ones_are_none(table: pd.DataFrame) -> None:
    random = np.random.default_rng(0)
    rows = table.assign(clean_logit=random.normal(size=len(table)), damage=random.random(len(table)), cleanliness=0.5)
    rows = rows.assign(p_clean=1 / (1 + np.exp(-rows["clean_logit"])), **{asked.spread: np.nan for asked in QUESTIONS})
    found, known = score_source(rows, CLEAN, PARAMS), rows[rows["clean"].notna()]
    assert found["roc_auc"] == pytest.approx(roc_auc_score(known["clean"], known["clean_logit"]))
    assert found["roc_auc_low"] < found["roc_auc"] < found["roc_auc_high"]
    assert (found["photos"], found["groups"]) == (len(known), known["group"].nunique())
    one_class = score_source(rows[rows["clean"] == 1], CLEAN, PARAMS)
    assert one_class["roc_auc"] is None
    assert one_class["photos"] > 0


def test_the_probe_without_a_source_stands_beside_the_network_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: pd.DataFrame
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    root = make_dataset(tmp_path / "drawn", photos=PHOTOS).parent / "root"
    network = untrained_network().eval()
    checkpoint = Checkpoint(QUESTIONS, make_recipe().model, 32, network.state_dict(), {"priors": {}})
    monkeypatch.setattr(left_out, "retrain", lambda *_, questions, **__: Retrained(replace(checkpoint, questions=tuple(questions)), None))
    monkeypatch.setattr(left_out, "build_network", lambda model: untrained_network(questions=model.questions).eval())
    predictions = table.assign(
        **{column: 0.5 for asked in QUESTIONS for column in (*asked.raw_columns, *asked.answer_columns, asked.spread)}
    )
    random = np.random.default_rng(0)
    # The probe knows clean by heart, has no answer for weather where wash does not judge it, and none for damage at all.
    probe = table[["image_path"]].assign(clean_logit=table["clean"].fillna(0.5) * 4 - 2, damaged_logit=random.normal(size=len(table)))
    probe = probe.assign(**dict.fromkeys(WEATHER.raw_columns, np.nan))
    leave_out = partial(left_out.leave_sources_out, checkpoint, table, predictions)
    found = leave_out(probe, Path(), root=root, reading=READING, evaluation=PARAMS, params={})
    assert found["wash"]["clean"]["probe"]["roc_auc"] == 1.0
    assert found["wash"]["clean"]["left_out"]["roc_auc"] < 1.0
    assert found["wash"]["clean"]["probe"]["photos"] == found["wash"]["clean"]["left_out"]["photos"]
    assert found["wash"]["damage"]["probe"] is None
    none = leave_out(probe[["image_path"]].head(0), Path(), root=root, reading=READING, evaluation=PARAMS, params={})
    assert {none[source][name]["probe"] for source in ("lot", "wash") for name in ("clean", "damage")} == {None}


# ---- the stage itself


def run_stage(workspace: Path, name: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(workspace)}
    command = [sys.executable, f"stages/{name}.py"]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def set_option(workspace: Path, *, leave_one_source_out: bool) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"hardware": "cpu", "data": {"root": "root", "sources": "none"}}
    params["evaluate"] |= {"leave_one_source_out": leave_one_source_out}
    params["profiles"]["cpu"]["runtime"]["processes"] = 1
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.slow
def test_each_source_is_scored_by_a_model_that_never_saw_it_and_trained_once(
    tmp_path: Path, tiny_recipe: Recipe, table: pd.DataFrame
) -> None:
    shutil.copytree(make_dataset(tmp_path / "drawn", photos=PHOTOS).parent / "root", tmp_path / "root")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    write_table(table, tmp_path / "data/car_inspection_dataset.csv", QUESTIONS)
    write_recipe(tiny_recipe, tmp_path / "data/recipe.yaml")
    write_parts(tiny_recipe, tmp_path)
    set_option(tmp_path, leave_one_source_out=False)
    run_stage(tmp_path, "probe")
    run_stage(tmp_path, "train_ddp")
    without_outlines(tmp_path)
    # The right half, where damage shows, of every photo.
    half = mask_of(pixels_with((32, 0, 32, 64)))
    outline = {
        "kind": "damage",
        "class": "dent",
        "form": "outline",
        "height_px": 64,
        "width_px": 64,
        "counts": half.counts,
        "rest": half.rest,
    }
    write_table(table[["image_path"]].assign(**outline), tmp_path / "data/outlines.csv")
    run_stage(tmp_path, "evaluate")
    without = json.loads((tmp_path / "metrics/evaluate.json").read_text())
    assert "leave_one_source_out" not in without
    assert not (tmp_path / ".carinspect/retrained").exists()

    set_option(tmp_path, leave_one_source_out=True)
    output = run_stage(tmp_path, "evaluate")
    report = json.loads((tmp_path / "metrics/evaluate.json").read_text())
    found = report.pop("leave_one_source_out")
    assert report == without
    assert "source 1 of 2, 'lot'" in output
    assert "source 2 of 2, 'wash'" in output
    assert set(found["lot"]) == {"trained_photos", "marks", *by_name(QUESTIONS)}
    assert set(found["wash"]) == {"trained_photos", "marks", "clean", "cleanliness", "damaged", "damage"}
    assert found["lot"]["weather"] is None  # nobody else judges it
    for source, answers in found.items():
        own = table[table["source"] == source]
        for asked in (CLEAN, CLEANLINESS, DAMAGED, DAMAGE):
            for rows, which in ((own, "left_out"), (own[own["split"] == "test"], "trained_with")):
                assert answers[asked.name][which]["photos"] == rows[asked.column].notna().sum()
                assert {f"{name}_high" for name in FIGURES[asked.kind]} <= set(answers[asked.name][which])

    # By hand: the folders hold what they should, and the figures are those of their models.
    folders = sorted((tmp_path / ".carinspect/retrained").iterdir())
    assert len(folders) == 2
    for folder in folders:
        rows = read_table(folder / "data/car_inspection_dataset.csv", columns=COLUMNS)
        (kept,) = set(rows["source"])
        left = "lot" if kept == "wash" else "wash"
        assert rows["image_path"].tolist() == without_source(table, left)["image_path"].tolist()
        own = table[table["source"] == left].reset_index(drop=True)
        network = build_network(load_checkpoint(folder / "models/best.pt"))
        answers = predict(network, own, root=tmp_path / "root", reading=READING).table
        known = answers[answers["clean"].notna()]
        auc = roc_auc_score(known["clean"], known["clean_logit"])
        assert found[left]["clean"]["left_out"]["roc_auc"] == pytest.approx(auc)
        assert found[left]["trained_photos"] == rows["split"].isin(["train", "val"]).sum()
        # The place was taught by the other source alone, and is right for all photos of this one.
        marks = json.loads((folder / "metrics/train_marks.json").read_text())
        assert marks["questions"]["damage"]["train_outlined"] == (rows["split"] == "train").sum()
        assert set(found[left]["marks"]) == {"damage"}
        assert found[left]["marks"]["damage"]["photos"] == len(own)
        assert found[left]["marks"]["damage"]["pointing"] > 0.8 > found[left]["marks"]["damage"]["pointing_random"]

    # Again, with one of the two lost: the other is not trained twice.
    stamps = [(folder / "models/best.pt").stat().st_mtime_ns for folder in folders]
    (folders[0] / "models/best.pt").unlink()
    run_stage(tmp_path, "evaluate")
    assert json.loads((tmp_path / "metrics/evaluate.json").read_text())["leave_one_source_out"] == found
    assert [(folder / "models/best.pt").stat().st_mtime_ns == stamp for folder, stamp in zip(folders, stamps, strict=True)] == [False, True]
