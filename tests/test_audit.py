"""The audit: a test that may be looked at daily, a ledger that shows what was done to it, and a sheet that tells nobody the answer."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.integrate import trapezoid
from scipy.stats import beta, binom

from carinspect.audit.ledger import Verdict, append, count_once, read_ledger
from carinspect.audit.martingale import BETTER, WORSE, judge, log_e_broken, log_e_proved, more_needed, precision_interval
from carinspect.audit.sheet import draw
from carinspect.core.errors import UserError
from carinspect.inference.bundle import open_bundle
from carinspect.inference.predictor import BinaryAnswer, make_predictor
from carinspect.inference.seal import seal
from conftest import QUESTIONS, make_calibration, make_model, make_rule, make_thresholds, untrained_network
from test_cli import carinspect

TARGET, LEVEL = 0.95, 0.05


def verdict(photo: str, said: str = "clean", **changes: str) -> Verdict:
    values = {"photo_sha256": photo, "car": photo, "model_sha256": "m", "question": "clean", "word": "clean", "verdict": said,
              "by": "Ada", "at": "2026-11-01T00:00:00+00:00", "comment": ""}  # fmt: skip
    return Verdict(**(values | changes))


# ---- the test


@pytest.mark.parametrize(("verdicts", "wrong"), [(0, 0), (1, 1), (30, 0), (60, 4), (60, 12), (200, 6)])
def test_the_e_processes_are_their_integrals(verdicts: int, wrong: int) -> None:
    for log_e, prior, (low, high) in ((log_e_broken, WORSE, (0.05, 1.0)), (log_e_proved, BETTER, (0.0, 0.05))):
        expected = 0.0
        for weight, a, b in prior:
            grid = np.linspace(low, high, 200_001)
            density = beta.pdf(grid, a, b)
            ratio = binom.pmf(wrong, verdicts, grid) / binom.pmf(wrong, verdicts, 0.05)
            expected += weight * trapezoid(density * ratio, grid) / trapezoid(density, grid)
        assert math.exp(log_e(verdicts, wrong, target=TARGET)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("log_e", "shares"), [(log_e_broken, [0.0, 0.03, 0.05]), (log_e_proved, [0.05, 0.08, 0.5])])
def test_under_its_hypothesis_no_verdict_is_expected_to_raise_an_e_process(log_e, shares: list[float]) -> None:
    # Exact, over all counts: E[next | now] <= now. That, and nothing about one simulation, makes Ville's inequality apply.
    for verdicts in range(60):
        for wrong in range(verdicts + 1):
            now, right, mistaken = (
                math.exp(log_e(n, x, target=TARGET)) for n, x in ((verdicts, wrong), (verdicts + 1, wrong), (verdicts + 1, wrong + 1))
            )
            for share in shares:
                assert (1 - share) * right + share * mistaken <= now * (1 + 1e-9)


def test_that_check_sees_a_bet_that_is_not_fair() -> None:
    assert 0.9 * math.exp(log_e_broken(1, 0, target=TARGET)) + 0.1 * math.exp(log_e_broken(1, 1, target=TARGET)) > 1.0


def test_the_interval_covers_at_all_times_together() -> None:
    # The precision is outside of the interval exactly when the two-sided mixture has reached 1 / level.
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        wrong = (random.random(200) < 0.05).cumsum()
        missed += any(
            not low <= 0.95 <= high for low, high in (precision_interval(n, int(wrong[n - 1]), level=LEVEL) for n in range(5, 201, 5))
        )
    assert missed <= 11
    assert precision_interval(0, 0, level=LEVEL) == (0.0, 1.0)
    assert precision_interval(5, 5, level=LEVEL)[0] == 0.0


def test_the_states_are_said_with_what_would_change_them() -> None:
    start = judge([], target=TARGET, level=LEVEL)
    assert (start.state, start.highest_against) == ("holds so far", 1.0)
    assert judge([False] * start.more, target=TARGET, level=LEVEL).state == "proved anew"
    assert judge([False] * (start.more - 1), target=TARGET, level=LEVEL).state == "holds so far"
    broken = judge([True] * 10 + [False] * 500, target=TARGET, level=LEVEL)
    # Later luck does not undo it.
    assert (broken.state, broken.more) == ("broken", None)
    assert more_needed(100, 10, target=TARGET, level=LEVEL) is None


# ---- the ledger


def test_nothing_is_counted_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert append(path, [verdict("a"), verdict("b", "dirty")]) == 2
    assert append(path, [verdict("a", by="Bob"), verdict("c")]) == 1
    assert [one.photo_sha256 for one in read_ledger(path).verdicts] == ["a", "b", "c"]


@pytest.mark.parametrize("sheet", [[verdict("new"), verdict("a", "dirty")], [verdict("new"), verdict("new", "dirty")]])
def test_two_verdicts_that_differ_are_refused_and_leave_the_ledger_as_it_was(tmp_path: Path, sheet: list[Verdict]) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, [verdict("a")])
    before = path.read_bytes()
    with pytest.raises(UserError, match="Nothing was taken in: agree on one verdict"):
        append(path, sheet)
    assert path.read_bytes() == before


def test_a_torn_last_line_is_left_out_and_then_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, [verdict("a"), verdict("b")])
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1])):
        path.write_bytes(whole[:-cut])
        assert (len(read_ledger(path).verdicts), read_ledger(path).torn) == (1, True)
    append(path, [verdict("b")])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("edit", [
    lambda lines: [lines[0].replace(b'"verdict": "clean"', b'"verdict": "dirty"'), *lines[1:]],
    lambda lines: lines[1:],
    lambda lines: [lines[0], lines[2], lines[1]],
    lambda lines: [lines[0], lines[0], *lines[1:]],
    lambda lines: [b"[]", *lines],
])  # fmt: skip
def test_an_edited_ledger_is_noticed(tmp_path: Path, edit) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, [verdict("a"), verdict("b"), verdict("c")])
    path.write_bytes(b"\n".join([*edit(path.read_bytes().splitlines()), b""]))
    with pytest.raises(UserError, match="line [12] (does not follow|is no verdict)"):
        read_ledger(path)


def test_a_car_counts_once() -> None:
    first, second = verdict("a", car="car"), verdict("b", "dirty", car="car")
    assert count_once([first, second, verdict("c")]) == [first, verdict("c")]


# ---- the draw


def test_every_car_is_drawn_equally_often_and_one_photo_of_it() -> None:
    called = {f"car{number}": [f"{number}/{photo}" for photo in range(number + 1)] for number in range(6)}
    drawn = [pair for seed in range(600) for pair in draw(called, 2, seed=seed)]
    counts = {car: sum(one == car for one, _ in drawn) for car in called}
    # Each is drawn in 200 of 600, with a deviation of 11.5.
    assert all(150 < count < 250 for count in counts.values())
    assert {path for car, path in drawn if car == "car5"} == set(called["car5"])
    assert draw(called, 3, seed=1) == draw(called, 3, seed=1)


# ---- the command


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A model, photos and the table of their scores by it, two photos of each car."""
    asked = QUESTIONS[0]
    rules = {
        asked.name: (make_rule(asked, promised=["good"], T_high=0.042, T_low=0.02), make_rule(asked, unit="car", T_high=None, T_low=None))
    }
    model = make_model(untrained_network(), thresholds=make_thresholds(rules), calibration=make_calibration())
    (tmp_path / "best.onnx").write_bytes(seal(model.SerializeToString(deterministic=True)))
    predictor = make_predictor(open_bundle(tmp_path / "best.onnx"))
    random = np.random.default_rng(3)
    rows = []
    for number in range(80):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (1, 1, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)).save(path)
        answer = predictor.answer(predictor.load(path)[None])[0]["clean"]
        assert isinstance(answer, BinaryAnswer)
        rows.append([path.name, f"car{number // 2}", answer.decision])
    write(tmp_path / "scores.csv", ["image_path", "car", "clean_decision"], rows)
    return tmp_path


def write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def audit(folder: Path, *arguments: object):
    return carinspect("audit", *arguments, "--model", folder / "best.onnx", folder=folder)


def draw_photos(folder: Path, *, seed: int = 1):
    return audit(folder, "draw", "scores.csv", "--word", "clean", "--seed", seed, "--photos", 15, "--car-column", "car")


def key_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "audit/sheet.key.csv").open() as file:
        return list(csv.DictReader(file))


def answer_sheet(folder: Path, said: str = "clean") -> None:
    rows = [[one["photo_sha256"], said, "Ada", "a, comment"] for one in key_of(folder)]
    write(folder / "answers.csv", ["photo_sha256", "verdict", "by", "comment"], rows)


def test_a_sheet_is_drawn_answered_and_judged(workspace: Path) -> None:
    assert audit(workspace, "state").returncode == 2
    done = draw_photos(workspace)
    assert done.returncode == 0, done.stderr
    key = key_of(workspace)
    assert 0 < len(key) == len({one["car"] for one in key})
    page = (workspace / "audit/sheet.html").read_text()
    assert "http" not in page
    assert "/*CONTENT*/" not in page
    # The reviewer's files don't tell what the model said: every photo comes with both words.
    assert "word" not in (workspace / "audit/sheet.csv").read_text().splitlines()[0].split(",")
    assert json.loads(page.split("const content = ")[1].split(";\nconst find")[0])["words"] == ["dirty", "clean"]

    answer_sheet(workspace)
    assert audit(workspace, "take", "answers.csv").returncode == 0
    again = audit(workspace, "take", "answers.csv")
    assert f"0 new verdicts, {len(key)} known before" in again.stdout
    state = audit(workspace, "state")
    assert (state.returncode, f"holds so far (0 of {len(key)} wrong" in state.stdout) == (0, True), state.stdout + state.stderr

    if draw_photos(workspace, seed=2).returncode == 0:
        assert not {one["car"] for one in key} & {one["car"] for one in key_of(workspace)}


def test_a_broken_promise_is_exit_status_1(workspace: Path) -> None:
    draw_photos(workspace)
    answer_sheet(workspace, "dirty")
    audit(workspace, "take", "answers.csv")
    state = audit(workspace, "state")
    assert (state.returncode, "broken" in state.stdout) == (1, True), state.stdout + state.stderr


def test_bad_answers_are_one_line_and_take_nothing_in(workspace: Path) -> None:
    draw_photos(workspace)
    (first, *_), columns = key_of(workspace), ["photo_sha256", "verdict", "by", "comment"]
    photo = first["photo_sha256"]
    for rows, said in (
        ([["f" * 64, "clean", "Ada", ""]], "is not in audit/sheet.key.csv"),
        ([[photo, "claen", "Ada", ""]], "Did you mean 'clean'?"),
        ([[photo, "clean", "", ""]], "Say who judged"),
        ([[photo, "clean", "Ada", ""], [photo, "dirty", "Bob", ""]], "agree on one verdict"),
    ):
        write(workspace / "answers.csv", columns, rows)
        done = audit(workspace, "take", "answers.csv")
        assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr
    key = workspace / "audit/sheet.key.csv"
    key.write_text(key.read_text().replace(first["model_sha256"], "0" * 64))
    answer_sheet(workspace)
    assert "drawn for the model 000000000000" in audit(workspace, "take", "answers.csv").stderr
    assert read_ledger(workspace / "audit/ledger.jsonl").verdicts == ()


def test_verdicts_on_another_model_say_nothing_of_this_one(workspace: Path) -> None:
    append(workspace / "audit/ledger.jsonl", [replace(verdict(str(number), "dirty"), model_sha256="another") for number in range(50)])
    done = audit(workspace, "state")
    assert (done.returncode, "no verdict on a promised word" in done.stderr) == (2, True)


def test_a_table_of_another_model_is_refused(workspace: Path) -> None:
    table = workspace / "scores.csv"
    table.write_text(table.read_text().replace("dirty", "clean").replace("unsure", "clean"))
    done = audit(workspace, "draw", "scores.csv", "--word", "clean", "--seed", 1, "--photos", 60)
    assert (done.returncode, "Score the photos by this model again" in done.stderr) == (2, True), done.stdout
