"""Questions are data: what a declaration may say, and two questions of a user's own from labels to answers without a line of code."""

import ast
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.core.params import load_params
from carinspect.core.questions import DeclaredQuestion, Question, dump_questions, load_questions, parse_questions, read_questions
from conftest import free_port, own_settings_of_dvc

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

GLASS: dict[str, Any] = {
    "kind": "binary", "column": "glass_ok", "classes": ["broken", "intact"], "good": "intact", "loss": "cross_entropy", "loss_weight": 1.0,
    "decide": {
        "target_precision": 0.7, "confidence": 0.9, "field_rate": None, "costs": {"wrong_good": 5.0, "wrong_bad": 3.0, "review": 1.0},
    },
}  # fmt: skip
BODY: dict[str, Any] = {
    "kind": "classes", "column": "body_type", "classes": ["sedan", "hatchback", "estate", "van", "pickup"], "loss": "cross_entropy",
    "loss_weight": 0.5,
}  # fmt: skip
SCORE: dict[str, Any] = {"kind": "score", "column": "wear_score", "loss": "mse", "loss_weight": 1.0}


def declare(**questions: dict[str, Any]) -> tuple[DeclaredQuestion, ...]:
    return read_questions({"questions": questions})


def test_the_shipped_questions_are_declared_and_survive_a_round_trip() -> None:
    shipped = read_questions(load_params(ROOT / "params.yaml"))
    assert [(asked.name, asked.kind) for asked in shipped] == [
        ("clean", "binary"), ("cleanliness", "score"), ("damaged", "binary"), ("damage", "score"), ("weather", "classes"),
    ]  # fmt: skip
    asked = tuple(one.asked for one in shipped)
    assert parse_questions(json.loads(json.dumps(dump_questions(asked))), file="x") == asked
    assert all(type(one) is Question for one in asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "bnary"}, r"questions\.glass\.kind has the value 'bnary'"),
        ({"classes": ["broken"]}, r"questions\.glass: classes \['broken'\]: a binary question has two, class 0 first"),
        ({"classes": ["broken", "broken"], "good": "broken"}, "a name repeats"),
        ({"classes": ["x" * 4000, "intact"]}, r"x… \(4,014 characters\): a class is one word of at most 64 letters, digits and _"),
        ({"classes": ["unsure", "intact"]}, "'unsure' is what is said when no class is decided"),
        ({"good": "fine"}, r"good is 'fine'\. It must be one of"),
        ({"column": "split"}, "column 'split' is no name for a label column"),
        ({"loss": "mse"}, r"loss is 'mse'\. For kind binary: cross_entropy, focal"),
        ({"loss_weight": -1}, r"questions\.glass\.loss_weight has the value -1"),
        ({"colum": "x"}, r"questions\.glass\.colum: unknown key\. Did you mean 'column'\?"),
        ({"decide": GLASS["decide"] | {"target_precision": 1.0}}, r"target_precision: has the value 1\.0\. It must lie between"),
        ({"from_score": {"column": "nothing", "below": 0.5}}, r"from_score\.column is 'nothing', and no question of kind score has it"),
    ],
)  # fmt: skip
def test_a_wrong_binary_question_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        declare(glass=GLASS | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ({"Glass ok": GLASS}, "'Glass ok' is no identifier"),
        ({"glass": GLASS, "panes": GLASS}, "'glass_ok' is taken by 'glass'"),
        ({"wear": SCORE | {"decide": GLASS["decide"]}}, "a score has no cut-off, so there are no two words to promise"),
        ({"wear": SCORE | {"classes": ["a", "b"]}}, "a score has neither classes nor a good one"),
        ({"wear": SCORE | {"column": "wear"}}, "column 'wear' is the answer's name as well"),
        ({"body": BODY | {"classes": ["sedan", "van"]}}, "name three or more, or set kind: binary"),
        ({"body": BODY | {"decide": GLASS["decide"]}}, "a promise is made for binary questions"),
        ({"glass": GLASS, "p_glass": SCORE}, "'p_glass' is taken by 'glass'"),
        ({"marks": GLASS}, "'marks' is taken by carinspect itself"),
        ({"gate": SCORE}, "'gate' is taken by carinspect itself"),
        ({"source": BODY}, "'source' is taken by carinspect itself"),
        ({}, "no section 'questions'"),
        ({"glass": 3}, "questions.glass has the value 3"),
    ],
)
def test_questions_that_cannot_stand_together_are_one_line(questions: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        declare(**questions)
    assert "\n" not in str(raised.value)


def test_labels_are_read_by_number_or_name() -> None:
    glass, body, wear = declare(glass=GLASS, body=BODY, wear=SCORE)
    assert [glass.read_label(value) for value in (0, 1, "broken", "intact")] == [0.0, 1.0, 0.0, 1.0]
    assert [body.read_label(value) for value in (4, "pickup", "sedan")] == [4.0, 4.0, 0.0]
    assert wear.read_label(0.25) == 0.25
    for question, wrong in ((glass, 2), (glass, True), (glass, "intakt"), (body, 1.5), (body, "coupe"), (wear, 1.2), (wear, "low")):
        with pytest.raises(ValueError, match="has the value"):
            question.read_label(wrong)


def test_the_good_class_may_be_either() -> None:
    glass = declare(glass=GLASS | {"good": "broken"})[0]
    assert (glass.word("good"), glass.bad, glass.label_of("good")) == ("broken", "intact", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file. Run dvc repro resolve_recipe"), ("questions: []", "has no list 'questions'"), ("[]", "has no list 'questions'")],
)
def test_a_recipe_without_questions_says_which_stage_writes_them(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_questions(path)


# ---- no code knows a question's name


NAMES = {
    name
    for asked in read_questions(load_params(ROOT / "params.yaml"))
    for name in (asked.name, asked.column, *asked.classes, *asked.outputs)
}
KNOW_NAMES = ("demo", "annotations/outline_kinds.py")
"""The drawn demo; and what an outline of damage or dirt says, which is the meaning of COCO's categories."""


def names_in(code: str) -> set[str]:
    """The questions' names, columns, classes and outputs that stand in `code` as strings."""
    return {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and node.value in NAMES}


MEANS_ANOTHER_THING = {
    "annotations/meanings.py": {"damage"},  # a kind of outline
    "core/questions.py": {"damage"},  # the same
    "labelling/records.py": {"damage"},  # the same
    "describe/page.py": {"damage"},  # the colour of such an outline
    "doctor/project.py": {"clean"},  # git's work tree
    "evaluation/corruptions.py": {"rain", "fog", "snow"},  # what is drawn over a photo of test
    "training/weather.py": {"weather", "clear", "rain", "fog", "snow"},  # what the augmentation draws into a question with these classes
}
"""File → words in it that are no question's."""


def test_only_the_demo_and_the_meanings_of_outlines_know_a_question() -> None:
    package = ROOT / "src" / "carinspect"
    names = {file.relative_to(package).as_posix(): names_in(file.read_text()) for file in package.rglob("*.py")}
    found = {file: known - MEANS_ANOTHER_THING.get(file, set()) for file, known in names.items() if not file.startswith(KNOW_NAMES)}
    assert {file: known for file, known in found.items() if known} == {}
    assert names_in("if task == 'weather': pass") == {"weather"}


# ---- a fifth and a sixth question, from labels to answers


def _draw(folder: Path, *, photos: int) -> pd.DataFrame:
    """Photos whose answers can be seen: brightness tells the glass, the colour of a stripe the body, a square the dirt."""
    random = np.random.default_rng(5)
    rows = []
    for number in range(photos):
        clean, intact, body = int(random.integers(2)), int(random.integers(2)), int(random.integers(5))
        damage = min(1.0, 1.5 * float(random.random()))  # a third of the cars is whole
        pixels = random.integers(0, 50, (48, 64, 3)).astype(np.uint8)
        pixels[:24, :32] += np.uint8(150 * clean)
        pixels[24:, :32] += np.uint8(150 * intact)
        pixels[:, 32:48, body % 3] += np.uint8(100 + 100 * (body > 2))
        pixels[:, 48:, 1] += np.uint8(200 * damage)
        name = f"{'intact' if intact else 'broken'}/{number:04}.jpg" if number % 3 == 0 else f"fleet/{number:04}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, quality=95)
        # A sixth of the labels is blank.
        blank = random.random(5) < 1 / 6
        labels = {"clean": clean, "cleanliness_score": 0.9 * clean, "damage_score": round(damage, 3), "glass_ok": intact, "body_type": body}
        rows.append(
            {"image_path": name} | {column: np.nan if gone else value for (column, value), gone in zip(labels.items(), blank, strict=True)}
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with `glass_ok` and `body` declared beside the shipped questions but weather, its pipeline run and committed."""
    folder = tmp_path_factory.mktemp("questions") / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    root = folder / "data" / "own"
    table = _draw(root, photos=300)
    table[table["image_path"].str.startswith("fleet/")].to_csv(root / "fleet.csv", index=False)
    (root / "sources.yaml").write_text(yaml.safe_dump({"sources": [
        {"name": "glass", "format": "folders", "path": ".", "exclude": ["fleet/*"],
         "categories": {"intact": {"glass_ok": 1}, "broken": {"glass_ok": "broken"}}},
        {"name": "fleet", "format": "csv", "path": "fleet.csv"},
    ]}))  # fmt: skip
    params = load_params(folder / "params.yaml")
    del params["questions"]["weather"]
    params["questions"] |= {"glass_ok": GLASS, "body": BODY}
    params["data"] = {"root": "data/own", "sources": "data/own/sources.yaml"}
    params["train"] |= {"epochs": 4, "image_side_px": 32}
    params["select_threshold"]["car_sources"] = []
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for name in ("dvc.lock", "demo/dvc.lock", "data/split_ledger.json"):
        (folder / name).unlink(missing_ok=True)
    run(folder, "dvc", "repro")
    # Nobody asked for the demo.
    assert not (folder / "data" / "demo").exists()
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "own questions")
    return folder


def run(folder: Path, *command: str) -> str:
    path = f"{BIN}:{os.environ['PATH']}"
    environment = os.environ | own_settings_of_dvc(folder.parent / "dvc") | {"PATH": path, "PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def carinspect(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "carinspect.cli.main", *arguments)


@pytest.mark.slow
def test_the_data_stages_know_them(project: Path) -> None:
    table = pd.read_csv(project / "data" / "car_inspection_dataset.csv")
    assert {"glass_ok", "body_type", "damaged", "damage_score"} <= set(table.columns)
    assert "weather_condition" not in table.columns
    assert 0.1 < table["body_type"][table["source"] == "fleet"].isna().mean() < 0.25
    # Class folders judged the glass and nothing else.
    folders = table[table["source"] == "glass"]
    assert folders["glass_ok"].notna().all()
    assert folders[["clean", "body_type", "damage_score"]].isna().all().all()
    # Undamaged from the cut-off on, unknown where the score is.
    known = table.dropna(subset=["damage_score"])
    assert ((known["damage_score"] < 0.98) == (known["damaged"] == 1)).all()
    certificate = json.loads((project / "metrics" / "split.json").read_text())
    assert {"glass_ok", "body_type"} <= set(certificate["labels"])


@pytest.mark.slow
def test_they_are_trained_measured_and_decided(project: Path) -> None:
    report = json.loads((project / "metrics" / "evaluate.json").read_text())
    assert report["test"]["glass_ok"]["roc_auc"] is not None
    assert report["test"]["body"]["accuracy"] is not None
    assert set(report["slices"]) == {"source", "body"}
    thresholds = json.loads((project / "models" / "threshold.json").read_text())
    assert set(thresholds["rules"]) == {"clean", "damaged", "glass_ok"}
    assert thresholds["rules"]["glass_ok"]["photo"]["good"]["word"] == "intact"
    predictions = pd.read_csv(project / "data" / "predictions.csv")
    assert np.allclose(predictions[[f"p_body_{word}" for word in BODY["classes"]]].sum(axis=1), 1, atol=1e-4)
    assert (project / "reports" / "select_threshold" / "glass_ok_threshold.png").is_file()
    card = (project / "reports" / "model_card.md").read_text()
    assert "glass_ok" in card
    assert "body" in card


@pytest.mark.slow
def test_a_table_of_scores_and_inspect_show_them(project: Path) -> None:
    carinspect(project, "score", "data/own/fleet", "--out", "scores.csv")
    scores = pd.read_csv(project / "scores.csv")
    assert set(scores["glass_ok_decision"]) <= {"intact", "broken", "unsure"}
    assert set(scores["body"]) <= set(BODY["classes"])
    assert scores["p_glass_ok"].between(0, 1).all()
    predictions = pd.read_csv(project / "data" / "predictions.csv").set_index("image_path")
    for row in scores.head(300).itertuples():
        name = f"fleet/{Path(str(row.image_path)).name}"
        if name in predictions.index:
            assert abs(row.p_glass_ok - predictions.loc[name, "p_glass_ok"]) < 1e-3
    said = carinspect(project, "inspect", "models/best.onnx")
    assert "glass_ok" in said
    assert "p_body" in said


@contextmanager
def served(project: Path) -> Iterator[str]:
    port = free_port()
    environment = os.environ | {"PYTHONPATH": "src", "CARINSPECT_WORKERS": "1"}
    command = [sys.executable, "-m", "carinspect.cli.main", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, "the service ended"
                assert time.monotonic() < deadline, "the service is not ready"
                try:
                    urllib.request.urlopen(f"{address}/readyz", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()


@pytest.mark.slow
def test_the_service_answers_them(project: Path) -> None:
    photo = next((project / "data" / "own" / "fleet").glob("*.jpg")).read_bytes()
    boundary = b"----b"
    body = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body += photo + b"\r\n--" + boundary + b"--\r\n"
    with served(project) as address:
        request = urllib.request.Request(
            f"{address}/predict/file", data=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        with urllib.request.urlopen(f"{address}/", timeout=30) as response:
            page = response.read().decode()
    assert set(answer["answers"]) == {"clean", "cleanliness", "damaged", "damage", "glass_ok", "body"}
    assert answer["answers"]["glass_ok"]["decision"] in ("intact", "broken", "unsure")
    assert answer["answers"]["body"]["value"] in BODY["classes"]
    assert answer["label"] in ("clean", "dirty", None)
    assert "weather" not in page


@pytest.mark.slow
def test_two_models_are_compared_by_them(project: Path) -> None:
    params = load_params(project / "params.yaml")
    params["train"]["seed"] = 7
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(project, "dvc", "repro", "export_onnx")
    said = carinspect(project, "compare", "HEAD", "workspace", "--json", "comparison.json")
    found = {(metric["question"], metric["metric"]) for metric in json.loads((project / "comparison.json").read_text())["metrics"]}
    assert {("glass_ok", "roc_auc"), ("body", "accuracy"), ("damaged", "roc_auc"), ("damage", "mae")} <= found
    assert "glass_ok" in said
