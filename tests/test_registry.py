"""registry: a release needs a proof and a clear gain, and another project finds it by its name."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import dvc.api
import pytest
from onnx import TensorProto, helper

from carinspect.comparison.differences import Model, compare_predictions
from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes, write_json
from carinspect.core.tables import write_table
from carinspect.images.decode import RESIZE_CONTRACT
from carinspect.inference.bundle import FORMAT, METADATA_KEY, open_bundle
from carinspect.inference.rules import Thresholds
from carinspect.inference.seal import seal
from carinspect.registry.gate import Candidate, no_baseline, not_better, unproved, weakened
from carinspect.registry.releases import Reference, parse_reference, release
from conftest import make_rule, make_thresholds, own_settings_of_dvc
from test_cli import Done, carinspect
from test_comparison import ASKED, draw_sides

ROOT = Path(__file__).parent.parent
CLEAN = ASKED[0]


def thresholds(
    *, T_high: float | None = 0.6, T_low: float | None = None, promised: bool = True, precision: float = 0.95, predictions: str = "abc"
) -> Thresholds:
    """A rule for clean alone, of predictions with that digest."""
    rule = make_rule(CLEAN, T_high=T_high, T_low=T_low, promised=("good",) if promised and T_high is not None else ())
    if rule.good.promise:
        promise = rule.good.promise.model_copy(update={"precision": precision})
        rule = rule.model_copy(update={"good": rule.good.model_copy(update={"promise": promise})})
    never = make_rule(CLEAN, unit="car", T_high=None, T_low=None)
    made = make_thresholds({"clean": (rule, never)}, questions=ASKED)
    return made.model_copy(update={"predictions_sha256": predictions})


# ---- the gate alone


LINEAGE = {"recipe": {"train": {"lr": 0.1, "epochs": 3}}, "code_revision": "c0de", "data_revision": "da7a"}


def candidate(*, leaks: int = 0, carried: Thresholds | None = None, **changes: Any) -> Candidate:
    own = thresholds(**changes)
    return Candidate(
        thresholds=own, predictions_sha256="abc", certificate={"leaks": leaks}, carried_thresholds=carried or own, lineage=LINEAGE,
        model_sha256="candidate",
    )  # fmt: skip


def test_a_proved_model_without_leaks_passes() -> None:
    assert unproved(candidate()) == []


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (candidate(T_high=None), "'clean' is infeasible: too few groups"),
        (candidate(promised=False), "threshold of 'clean' proves nothing"),
        (candidate(leaks=3), "leaks (3 times"),
        (candidate(predictions="def"), "other predictions"),
        (candidate(carried=thresholds(T_high=0.5)), "another threshold"),
    ],
)
def test_each_fault_is_a_reason(model: Candidate, reason: str) -> None:
    (said,) = unproved(model)
    assert reason in said


def test_only_a_clear_gain_takes_a_place() -> None:
    a, b = draw_sides(noise=(3.0, 0.5))

    def gain(first: Model, second: Model) -> list[str]:
        return not_better(compare_predictions(first, second, confidence=0.95))

    assert gain(a, b) == []
    assert "is worse than" in gain(b, a)[0]
    assert "No clear difference" in gain(a, replace(a, name="again"))[0]
    mixed = replace(b, name="mixed", predictions=b.predictions.assign(damage=9.0))
    assert "but worse in" in gain(a, mixed)[0]


RELEASED = replace(candidate(), model_sha256="released", lineage=LINEAGE | {"data_revision": "old"})


def aimed_at(precision: float) -> Thresholds:
    """The thresholds of a rule with another target."""
    own = thresholds()
    rules = own.rules["clean"]
    photo = rules.photo.model_copy(update={"target_precision": precision})
    return own.model_copy(update={"rules": {"clean": rules.model_copy(update={"photo": photo})}})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"model_sha256": "released", "lineage": RELEASED.lineage}, None),
        ({"model_sha256": "candidate"}, "the candidate's own model"),
        ({"lineage": LINEAGE | {"recipe": {"train": {"lr": 9.0, "epochs": 3}}}}, "another recipe than the released model (train.lr)"),
        ({"lineage": LINEAGE | {"code_revision": "0ther"}}, "other code (0ther)"),
        ({"lineage": LINEAGE | {"data_revision": "few"}}, "other data than the candidate"),
        ({"predictions_sha256": "def"}, "other predictions"),
        ({"thresholds": aimed_at(0.999), "carried_thresholds": aimed_at(0.999)}, "other targets"),
    ],
)
def test_a_baseline_is_the_released_model_or_the_same_training_on_the_new_data(change: dict[str, Any], fault: str | None) -> None:
    baseline = replace(candidate(), **{"model_sha256": "again"} | change)
    said = no_baseline(baseline, holder=RELEASED, candidate=candidate())
    assert (fault is None) == (said == [])
    assert fault is None or fault in said[0]


def promising(*, at_rate: float | None = None, side: str = "good", unit: str = "photo", **terms: float) -> Thresholds:
    """A promise of one word of clean, with these terms."""
    rule = make_rule(CLEAN, unit=unit, promised=(side,))
    given = getattr(rule, side)
    promise = given.promise.model_copy(update={"at_rate": at_rate, **terms})
    rule = rule.model_copy(update={side: given.model_copy(update={"promise": promise})})
    other = make_rule(CLEAN, unit="car" if unit == "photo" else "photo")
    return make_thresholds({"clean": (rule, other) if unit == "photo" else (other, rule)}, questions=ASKED)


@pytest.mark.parametrize(
    ("new", "old", "terms"),
    [
        (promising(), promising(), []),
        (promising(precision=0.99), promising(), []),
        (promising(precision=0.9), promising(), ["clean.target"]),
        (promising(confidence=0.8), promising(), ["clean.confidence"]),
        (promising(precision=0.9, confidence=0.8), promising(), ["clean.target", "clean.confidence"]),
        (promising(at_rate=0.1), promising(at_rate=0.2), ["clean.field_rate"]),
        (promising(at_rate=0.3), promising(at_rate=0.2), []),
        (promising(at_rate=0.3, side="bad"), promising(at_rate=0.2, side="bad"), ["clean.field_rate"]),
        (promising(at_rate=0.1, side="bad"), promising(at_rate=0.2, side="bad"), []),
        (promising(at_rate=0.2), promising(), ["clean.field_rate"]),
        (promising(), promising(at_rate=0.2), ["clean.field_rate"]),
        (promising(), promising(unit="car"), ["clean.car"]),
        (promising(unit="car"), promising(), ["clean.promise"]),
        (promising(side="bad"), promising(), ["clean.promise"]),
        (make_thresholds({}, questions=ASKED[1:]), promising(), ["clean.question", "clean.promise"]),
    ],
)
def test_a_weaker_promise_is_named(new: Thresholds, old: Thresholds, terms: list[str]) -> None:
    assert list(weakened(new, old)) == terms


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("car-inspection", Reference("car-inspection")),
        ("car-inspection@v1.2.0", Reference("car-inspection", version="v1.2.0")),
        ("car-inspection@production", Reference("car-inspection", stage="production")),
        ("car-inspection@1.2", Reference("car-inspection", stage="1.2")),
    ],
)
def test_a_reference_is_a_name_with_a_version_or_a_stage(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize("text", ["", "@production", "car-inspection@"])
def test_half_a_reference_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no reference to a model"):
        parse_reference(text)


# ---- promotion, in a repository with a remote


def model_carrying(carried: Thresholds, lineage: dict[str, Any]) -> bytes:
    """A model file that answers nothing and carries these thresholds and this lineage."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    info = {
        "format": FORMAT, "resize_contract": RESIZE_CONTRACT, "image_side_px": 32, "threshold": carried.model_dump(mode="json"),
        "lineage": lineage,
    }  # fmt: skip
    helper.set_model_props(model, {METADATA_KEY: json.dumps(info)})
    return seal(model.SerializeToString())


@pytest.fixture(autouse=True, scope="module")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """DVC's and git's own settings, away from those of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own_settings_of_dvc(tmp_path_factory.mktemp("dvc")).items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        yield


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


WEAK, STRONG = draw_sides(noise=(3.0, 0.5))
BEST = draw_sides(noise=(3.0, 0.01))[1]


class Project:
    """A repository that holds what a run of the pipeline leaves for the registry, each model a commit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin = folder / "project", folder / "origin.git"
        self.weak = self.strong = ""
        self.said: list[Done] = []
        self.folder.mkdir()
        run(folder, "git", "init", "-q", "--bare", "-b", "main", str(self.origin))
        run(self.folder, "git", "init", "-q", "-b", "main")
        run(self.folder, "git", "remote", "add", "origin", str(self.origin))
        run(self.folder, "dvc", "init", "-q")
        run(self.folder, "dvc", "remote", "add", "-q", "-d", "storage", str(folder / "remote"))
        (self.folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        artifacts = (ROOT / "dvc.yaml").read_text().split("\nartifacts:\n")[1].split("\n\n")[0]
        (self.folder / "dvc.yaml").write_text(f"artifacts:\n{artifacts}\n")

    def commit(self, side: Model, *, leaks: int = 0, lineage: dict[str, Any] = LINEAGE, **changes: Any) -> str:
        """Commit and push a model that predicts as `side` does and was trained by `lineage`; the commit."""
        predictions = self.folder / "data" / "predictions.csv"
        predictions.parent.mkdir(exist_ok=True)
        write_table(side.predictions, predictions, side.questions)
        chosen = thresholds(predictions=sha256(predictions.read_bytes()).hexdigest(), **changes)
        write_json(self.folder / "models" / "threshold.json", chosen.model_dump(mode="json"))
        write_bytes(self.folder / "models" / "best.onnx", model_carrying(chosen, lineage))
        write_json(self.folder / "metrics" / "split.json", {"leaks": leaks})
        run(self.folder, "dvc", "add", "-q", "models/best.onnx", "models/threshold.json", "data/predictions.csv")
        run(self.folder, "dvc", "push", "-q")
        run(self.folder, "git", "add", "-A")
        run(self.folder, "git", "commit", "-qm", "model", "--allow-empty")
        return run(self.folder, "git", "rev-parse", "HEAD")

    def promote(self, *words: str) -> Done:
        return carinspect("promote", *words, folder=self.folder)

    def tags(self) -> list[str]:
        return run(self.folder, "git", "tag").split()

    def share(self) -> None:
        run(self.folder, "git", "push", "-q", "origin", "main", "--tags")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two releases: the weak model's, then that of the strong one that took its place."""
    project = Project(tmp_path_factory.mktemp("registry"))
    project.weak = project.commit(WEAK)
    project.said.append(project.promote("HEAD"))
    # The time of a git tag is in seconds, and the later of two tags counts.
    time.sleep(1.1)
    project.strong = project.commit(STRONG)
    project.said.append(project.promote("main"))
    project.share()
    return project


def test_the_first_needs_only_its_proof_and_the_next_to_be_better(project: Project) -> None:
    first, second = project.said
    assert first.returncode == second.returncode == 0, first.stdout + second.stdout
    assert "there is none to be better than" in first.stdout
    assert "is better than A" in second.stdout
    assert project.tags() == [
        "car-inspection#production#1", "car-inspection#production#2", "car-inspection@v0.0.1", "car-inspection@v0.0.2",
    ]  # fmt: skip
    assert run(project.folder, "git", "rev-parse", "car-inspection@v0.0.2^{}") == project.strong


@pytest.mark.parametrize(
    ("side", "changes", "reason"),
    [
        (WEAK, {}, "is worse than A"),
        (replace(STRONG, predictions=STRONG.predictions.sample(frac=1, random_state=1)), {"T_low": 0.1}, "No clear difference"),
        (STRONG, {"promised": False}, "proves nothing"),
        (STRONG, {"leaks": 2}, "leaks (2 times"),
    ],
)
def test_a_refusal_changes_nothing_and_is_exit_status_1(project: Project, side: Model, changes: dict, reason: str) -> None:
    before = project.tags()
    commit = project.commit(side, **changes)
    done = project.promote(commit)
    assert (done.returncode, project.tags()) == (1, before)
    assert f"Refused: {commit}" in done.stdout
    assert reason in done.stdout.split("Refused")[1]


@pytest.fixture(scope="module")
def better(project: Project) -> str:
    """A model clearly better than the one in production."""
    return project.commit(BEST)


def test_a_trial_changes_nothing(project: Project, better: str) -> None:
    before = project.tags()
    assert "may be promoted to production. Nothing was changed." in project.promote(better, "--dry-run").stdout
    assert project.tags() == before


def test_a_hopeless_baseline_is_none(project: Project, better: str) -> None:
    hopeless = project.commit(WEAK, lineage=LINEAGE | {"recipe": {"train": {"lr": 0.1, "epochs": 1}}})
    for model in (better, project.commit(WEAK)):
        done = project.promote(model, hopeless)
        assert done.returncode == 1
        assert f"{hopeless} is no baseline: It was trained with another recipe than the released model (train.epochs)" in done.stdout


def test_the_released_model_trained_again_is_a_baseline(project: Project, better: str) -> None:
    again = project.commit(replace(STRONG, predictions=STRONG.predictions.sample(frac=1, random_state=2)))
    done = project.promote(better, again, "--dry-run")
    assert (done.returncode, f"A = {again}" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize("baseline", ["weak", "strong", "better", "mian"])
def test_no_baseline_lets_the_released_model_pass(project: Project, better: str, baseline: str) -> None:
    known = {"weak": project.weak, "strong": project.strong, "better": better}
    assert project.promote(project.strong, known.get(baseline, baseline)).returncode == 1


def test_a_baseline_that_is_the_candidate_is_refused(project: Project, better: str) -> None:
    assert "is no baseline: It is the candidate's own model." in project.promote(better, better).stdout


def test_a_baseline_that_was_tested_on_other_photos_is_refused(project: Project, better: str) -> None:
    before = project.tags()
    done = project.promote(better, project.commit(draw_sides(groups=30, seed=3)[1]))
    assert (done.returncode, project.tags()) == (1, before)
    assert "the test photos differ" in done.stdout


def test_a_baseline_that_does_not_exist_is_one_line_and_tags_nothing(project: Project, better: str) -> None:
    before = project.tags()
    done = project.promote(better, "mian")
    assert (done.returncode, project.tags()) == (1, before)
    assert done.stderr == "carinspect: 'mian' is no git revision and no experiment of `dvc exp list`. Commit the model first.\n"


@pytest.mark.parametrize("words", [("--stage", "no stage"), ("--version", "one")])
def test_a_name_that_git_or_gto_refuses_is_one_line_and_tags_nothing(project: Project, better: str, words: tuple[str, ...]) -> None:
    before = project.tags()
    done = project.promote(better, *words)
    assert (done.returncode, done.stderr.count("\n"), project.tags()) == (1, 1, before)
    assert words[1] in done.stderr


def test_a_release_whose_second_tag_fails_leaves_no_first(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        run(project.folder, "git", "tag", "car-inspection@v7.0.0")
        raise OSError("No space left on device")

    before = project.tags()
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("gto.api.assign", fail)
    with pytest.raises(UserError, match="cannot be given the stage 'staging': No space left on device"):
        release(project.strong, stage="staging", version="v7.0.0", message=None)
    assert project.tags() == before


def test_a_low_confidence_in_the_workspace_makes_no_gain_clear(project: Project) -> None:
    params = project.folder / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("confidence: 0.95 ", "confidence: 0.01 ").replace("confidence: 0.95\n", "confidence: 0.01\n"))
    try:
        assert "at the confidence 0.95" in project.promote(project.weak).stdout
    finally:
        params.write_text(before)


def test_a_weaker_promise_is_released_by_name_alone_and_stands_in_the_tag(project: Project) -> None:
    weaker = project.commit(BEST, precision=0.9)
    refused = project.promote(weaker)
    assert refused.returncode == 1
    assert "falls from 0.95 to 0.9. To release it all the same: --weaker clean.target" in refused.stdout
    assert "Did you mean 'clean.target'" in project.promote(weaker, "--weaker", "clean.tarhet").stderr
    time.sleep(1.1)
    assert project.promote(weaker, "--weaker", "clean.target", "--stage", "production", "--version", "v0.9.0").returncode == 0
    tag = run(project.folder, "git", "describe", "--tags", "--abbrev=0", "--match", "*production*", weaker)
    try:
        assert "falls from 0.95 to 0.9" in run(project.folder, "git", "tag", "-n5", "-l", tag)
    finally:
        run(project.folder, "git", "tag", "-d", tag, "car-inspection@v0.9.0")


def test_an_empty_stage_has_no_baseline_and_nothing_to_weaken(project: Project) -> None:
    for words in ((project.weak,), ("--weaker", "clean.target")):
        done = project.promote(project.strong, *words, "--stage", "staging")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no model is in staging yet" in done.stderr


def test_what_holds_the_stage_is_not_promoted_again(project: Project) -> None:
    assert "It is the model that is in production" in project.promote(project.strong).stdout


def test_other_test_photos_are_no_comparison(project: Project) -> None:
    other = draw_sides(groups=30, seed=3)[1]
    done = project.promote(project.commit(other))
    assert done.returncode == 1
    assert "It cannot be compared with" in done.stdout
    assert "the test photos differ" in done.stdout


def test_an_unknown_revision_is_one_line(project: Project) -> None:
    done = project.promote("mian")
    assert (done.returncode, done.stderr) == (
        1, "carinspect: 'mian' is no git revision and no experiment of `dvc exp list`. Commit the model first.\n",
    )  # fmt: skip


# ---- from another project


@pytest.mark.parametrize(("reference", "made_by"), [("", "strong"), ("@production", "strong"), ("@v0.0.1", "weak")])
def test_a_release_is_fetched_by_its_name(project: Project, tmp_path: Path, reference: str, made_by: str) -> None:
    done = carinspect("fetch", f"car-inspection{reference}", "--repo", str(project.origin), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert getattr(project, made_by)[:7] in done.stdout
    assert "keeps the precision 0.95 at the confidence 0.95" in done.stdout
    assert open_bundle(tmp_path / "models" / "best.onnx").thresholds.rules["clean"].photo.T_high == 0.6


def test_another_model_is_not_overwritten_unasked(project: Project, tmp_path: Path) -> None:
    def fetch(version: str, *more: str) -> Done:
        return carinspect("fetch", f"car-inspection@{version}", "--repo", str(project.origin), "--out", "m.onnx", *more, folder=tmp_path)

    assert fetch("v0.0.1").returncode == fetch("v0.0.1").returncode == 0
    before = (tmp_path / "m.onnx").read_bytes()
    assert "Add --force" in fetch("v0.0.2").stderr
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert fetch("v0.0.2", "--force").returncode == 0
    assert (tmp_path / "m.onnx").read_bytes() != before


@pytest.mark.parametrize(
    ("reference", "message"),
    [("car-inspection@v9.0.0", "no such release"), ("car-inspection@staging", "no such release"), ("lorry@v0.0.1", "no such release")],
)
def test_a_release_that_is_not_there_is_one_line(project: Project, tmp_path: Path, reference: str, message: str) -> None:
    done = carinspect("fetch", reference, "--repo", str(project.origin), folder=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_repository_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = carinspect("fetch", "car-inspection", "--repo", str(tmp_path / "nothing"), folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_dvc_itself_finds_the_release(project: Project, tmp_path: Path) -> None:
    origin, released = str(project.origin), "car-inspection@v0.0.2"
    run(tmp_path, "dvc", "artifacts", "get", origin, "car-inspection", "--rev", "v0.0.2", "-o", "by-version.onnx")
    run(tmp_path, "dvc", "artifacts", "get", origin, "car-inspection", "--stage", "production", "-o", "by-stage.onnx")
    run(tmp_path, "dvc", "get", origin, "models/best.onnx", "--rev", released, "-o", "by-path.onnx")
    contents = {path.read_bytes() for path in tmp_path.glob("*.onnx")}
    assert contents == {dvc.api.read("models/best.onnx", repo=origin, rev=released, mode="rb")}
    (content,) = contents
    assert open_bundle(content).info["threshold"] == json.loads(dvc.api.read("models/threshold.json", repo=origin, rev=released))
    assert "car-inspection" in run(tmp_path, "gto", "show", "--repo", origin)


def test_going_back_is_one_tag(project: Project, tmp_path: Path) -> None:
    time.sleep(1.1)
    run(project.folder, "gto", "assign", "car-inspection", "--version", "v0.0.1", "--stage", "production", "--force")
    assert project.weak[:7] in carinspect("fetch", "car-inspection@production", "--repo", str(project.folder), folder=tmp_path).stdout
    run(project.folder, "git", "tag", "-d", "car-inspection#production#3")
