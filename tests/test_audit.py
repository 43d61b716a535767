"""The audit: a test that may be looked at daily, a ledger that shows what was done to it, and a sheet that tells nobody the answer."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.integrate import trapezoid
from scipy.stats import beta, binom

from carinspect.audit.ledger import Verdict, append, count_once, read_ledger
from carinspect.audit.martingale import BETTER, WORSE, Finding, judge, log_e_broken, log_e_proved, more_needed, precision_interval, tally_of
from carinspect.audit.sheet import Drawn, chances_of, draw
from carinspect.cli.audit import DrawOptions, draw_sheet, report_state, take_verdicts
from carinspect.core.errors import UserError
from carinspect.export.metadata import amend
from carinspect.inference.bundle import open_bundle
from carinspect.inference.predictor import BinaryAnswer, make_predictor
from carinspect.inference.seal import seal
from conftest import QUESTIONS, make_rule, make_thresholds
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
        assert math.exp(log_e(tally_of(verdicts, wrong), target=TARGET)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("log_e", [log_e_broken, log_e_proved])
def test_a_weighted_e_process_is_the_mean_over_all_ways_to_keep_verdicts_by_their_stakes(log_e) -> None:
    wrongs, stakes = [False, True, False, False, True, False, False], [1.0, 0.2, 0.6, 1.0, 0.9, 0.2, 0.6]
    expected = 0.0
    for kept in product([False, True], repeat=len(wrongs)):
        chance = math.prod(stake if keep else 1 - stake for keep, stake in zip(kept, stakes, strict=True))
        left = [wrong for keep, wrong in zip(kept, wrongs, strict=True) if keep]
        expected += chance * math.exp(log_e(tally_of(len(left), sum(left)), target=TARGET))
    tally = Counter(zip(wrongs, stakes, strict=True))
    assert math.exp(log_e(tally, target=TARGET)) == pytest.approx(expected, rel=1e-9)


def strata_of(shares: dict[str, tuple[float, float]]) -> list[tuple[float, float, float]]:
    """The chance of a draw from each stratum, its stake, and its share of wrong words. shares: of all, and of wrong words in it."""
    chances = chances_of({name: round(1000 * share) for name, (share, _) in shares.items()})
    weights = {name: share / chances[name] for name, (share, _) in shares.items()}
    assert max(weights.values()) <= 2
    return [(chances[name], weights[name] / max(weights.values()), wrong) for name, (_, wrong) in shares.items()]


ODD = [
    {"common": (0.7, 0.02), "some": (0.25, 0.06), "rare": (0.05, 0.42)},
    {"common": (0.94, 0.05 / 0.94), "some": (0.05, 0.0), "rare": (0.01, 0.0)},
]
"""Strata with .05 wrong of all: most of them in the rare one, or none."""


def expected_factor(log_e, tally: Counter, strata: list[tuple[float, float, float]]) -> float:
    """E[next] / now, exactly."""
    now = log_e(tally, target=TARGET)
    return sum(
        chance * part * math.exp(log_e(tally + Counter([(wrong, stake)]), target=TARGET) - now)
        for chance, stake, share in strata
        for wrong, part in ((True, share), (False, 1 - share))
    )


@pytest.mark.parametrize("log_e", [log_e_broken, log_e_proved])
@pytest.mark.parametrize("shares", ODD)
def test_no_verdict_of_a_stratified_draw_is_expected_to_raise_it_however_wrong_words_lie_in_the_strata(log_e, shares) -> None:
    strata, random = strata_of(shares), np.random.default_rng(0)
    assert sum(share * wrong for share, wrong in shares.values()) == pytest.approx(0.05)
    tally: Counter = Counter()
    for _ in range(60):
        assert expected_factor(log_e, tally, strata) <= 1 + 1e-9
        tally[bool(random.random() < 0.1), strata[random.integers(3)][1]] += 1


def test_that_check_sees_verdicts_whose_weights_were_dropped() -> None:
    for log_e, shares in ((log_e_broken, ODD[0]), (log_e_proved, ODD[1])):
        assert expected_factor(log_e, Counter(), [(chance, 1.0, wrong) for chance, _, wrong in strata_of(shares)]) > 1.001


def test_the_interval_of_a_stratified_draw_is_about_all_photos() -> None:
    # Half of the rare stratum is wrong, and it is over-represented: 4,000 verdicts just as they are expected.
    strata = strata_of({"common": (0.9, 0.01), "rare": (0.1, 0.5)})
    tally = {(wrong, stake): 4000 * chance * part for chance, stake, share in strata for wrong, part in ((True, share), (False, 1 - share))}
    low, high = precision_interval(tally, level=LEVEL)
    assert low < 1 - 0.9 * 0.01 - 0.1 * 0.5 < high < low + 0.04
    plain = precision_interval(tally_of(4000, round(sum(n for (wrong, _), n in tally.items() if wrong))), level=LEVEL)
    assert plain[1] < low


@pytest.mark.parametrize(("log_e", "shares"), [(log_e_broken, [0.0, 0.03, 0.05]), (log_e_proved, [0.05, 0.08, 0.5])])
def test_under_its_hypothesis_no_verdict_is_expected_to_raise_an_e_process(log_e, shares: list[float]) -> None:
    # Exact, over all counts: E[next | now] <= now. That, and nothing about one simulation, makes Ville's inequality apply.
    for verdicts in range(60):
        for wrong in range(verdicts + 1):
            now, right, mistaken = (
                math.exp(log_e(tally_of(n, x), target=TARGET))
                for n, x in ((verdicts, wrong), (verdicts + 1, wrong), (verdicts + 1, wrong + 1))
            )
            for share in shares:
                assert (1 - share) * right + share * mistaken <= now * (1 + 1e-9)


def test_that_check_sees_a_bet_that_is_not_fair() -> None:
    assert 0.9 * math.exp(log_e_broken(tally_of(1, 0), target=TARGET)) + 0.1 * math.exp(log_e_broken(tally_of(1, 1), target=TARGET)) > 1.0


def test_the_interval_covers_at_all_times_together() -> None:
    # The precision is outside of the interval exactly when the two-sided mixture has reached 1 / level.
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        wrong = (random.random(200) < 0.05).cumsum()
        missed += any(
            not low <= 0.95 <= high
            for low, high in (precision_interval(tally_of(n, int(wrong[n - 1])), level=LEVEL) for n in range(10, 201, 10))
        )
    assert missed <= 11
    assert precision_interval(tally_of(0, 0), level=LEVEL) == (0.0, 1.0)
    assert precision_interval(tally_of(5, 5), level=LEVEL)[0] == 0.0


def test_the_states_are_said_with_what_would_change_them() -> None:
    def judge_plain(wrongs: list[bool]) -> Finding:
        return judge(wrongs, [1.0] * len(wrongs), target=TARGET, level=LEVEL)

    start = judge_plain([])
    assert (start.state, start.highest_against) == ("holds so far", 1.0)
    assert judge_plain([False] * start.more).state == "proved anew"
    assert judge_plain([False] * (start.more - 1)).state == "holds so far"
    broken = judge_plain([True] * 10 + [False] * 500)
    # Later luck does not undo it.
    assert (broken.state, broken.more) == ("broken", None)
    assert more_needed(tally_of(100, 10), target=TARGET, level=LEVEL) is None


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


def drawn_from(sizes: dict[str, int], photos: int, *, seed: int) -> tuple[list[Drawn], str]:
    random = np.random.default_rng(seed)

    def rest(stratum: str) -> Iterator[Drawn]:
        for place in random.permutation(sizes[stratum]):
            yield Drawn("", "", f"{stratum}{place}", "m", "clean", "clean", "source", stratum, "", "")

    return draw({stratum: rest(stratum) for stratum in sizes}, chances_of(sizes), photos, random=random)


def test_every_car_is_drawn_equally_often_without_strata() -> None:
    counts = Counter(one.car for seed in range(600) for one in drawn_from({"": 6}, 2, seed=seed)[0])
    # Each is drawn in 200 of 600, with a deviation of 11.5.
    assert all(150 < counts[str(car)] < 250 for car in range(6))
    assert drawn_from({"": 6}, 3, seed=1) == drawn_from({"": 6}, 3, seed=1)


def test_strata_are_drawn_by_their_chances_and_no_car_twice() -> None:
    sizes = {"common": 9000, "rare": 1000}
    assert chances_of(sizes) == {"common": pytest.approx(0.7), "rare": pytest.approx(0.3)}
    drawn, _ = drawn_from(sizes, 2000, seed=1)
    assert len({one.car for one in drawn}) == 2000
    # 600 with a deviation of 20.
    assert 520 < sum(one.stratum == "rare" for one in drawn) < 680


def test_a_draw_ends_with_the_last_car_of_a_stratum() -> None:
    drawn, empty = drawn_from({"common": 900, "rare": 3}, 100, seed=1)
    assert (empty, drawn[-1].stratum, sum(one.stratum == "rare" for one in drawn)) == ("rare", "rare", 3)


# ---- the command


@pytest.fixture
def workspace(tmp_path: Path, model_content: bytes) -> Path:
    """A model, photos and the table of their scores by it, two photos of each car."""
    asked = QUESTIONS[0]
    rules = {
        asked.name: (make_rule(asked, promised=["good"], T_high=0.042, T_low=0.02), make_rule(asked, unit="car", T_high=None, T_low=None))
    }
    model = onnx.load_from_string(model_content)
    amend(model, {"threshold": make_thresholds(rules).model_dump(mode="json")})
    (tmp_path / "best.onnx").write_bytes(seal(model.SerializeToString(deterministic=True)))
    predictor = make_predictor(open_bundle(tmp_path / "best.onnx"))
    random = np.random.default_rng(3)
    rows = []
    for number in range(80):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 255, (1, 1, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)).save(path)
        answer = predictor.answer(predictor.load(path)[None])[0]["clean"]
        assert isinstance(answer, BinaryAnswer)
        rows.append([path.name, f"car{number // 2}", answer.decision, "gate" if number % 8 > 1 else "yard"])
    write(tmp_path / "scores.csv", ["image_path", "car", "clean_decision", "source"], rows)
    return tmp_path


def write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def audit(folder: Path, *arguments: object):
    return carinspect("audit", *arguments, "--model", folder / "best.onnx", folder=folder)


def draw_photos(folder: Path, *options: str, seed: int = 1, photos: int = 15):
    return audit(folder, "draw", "scores.csv", "--word", "clean", "--seed", seed, "--photos", photos, "--car-column", "car", *options)


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


def test_a_stratified_draw_keeps_its_weights_and_the_state_uses_them(workspace: Path) -> None:
    done = draw_photos(workspace, "--strata", "source", photos=4)
    assert (done.returncode, "weight" in done.stdout) == (0, True), done.stderr
    with (workspace / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    cars = {row["car"]: row["source"] for row in table if row["clean_decision"] == "clean"}
    shares = {name: list(cars.values()).count(name) / len(cars) for name in ("gate", "yard")}
    weights = {name: share / (share / 2 + 1 / 4) for name, share in shares.items()}
    for one in key_of(workspace):
        assert (one["strata"], one["stratum"]) == ("source", cars[one["car"]])
        assert (float(one["weight"]), float(one["highest_weight"])) == pytest.approx((weights[one["stratum"]], max(weights.values())))

    answer_sheet(workspace, "dirty")
    assert audit(workspace, "take", "answers.csv").returncode == 0
    kept = read_ledger(workspace / "audit/ledger.jsonl").verdicts
    assert [asdict(one)[name] for one in kept for name in ("strata", "stratum")] == (
        [one[name] for one in key_of(workspace) for name in ("strata", "stratum")]
    )
    low, high = precision_interval(Counter((True, one.stake) for one in kept), level=LEVEL)
    state = audit(workspace, "state").stdout
    assert f"4 of 4 wrong, precision {low:.3f} to {high:.3f}" in state
    assert all(f"{name} {n} of {n} wrong" in state for name, n in Counter(one.stratum for one in kept).items())


def test_a_bad_stratified_draw_is_refused(workspace: Path) -> None:
    model, ledger, key = workspace / "best.onnx", workspace / "ledger.jsonl", workspace / "sheet.key.csv"

    def draw_by(strata: str | None, photos: int = 4) -> int:
        return draw_sheet(
            workspace / "scores.csv",
            DrawOptions(model=model, word="clean", photos=photos, seed=1, root=workspace, car_column="car", strata=strata, ledger=ledger,
                        out=workspace / "sheet.html"),
        )  # fmt: skip

    with pytest.raises(UserError, match="no column 'sorce'. Did you mean 'source'?"):
        draw_by("sorce")
    draw_by("source")
    sound = key.read_text()
    rows = list(csv.DictReader(sound.splitlines()))
    write(
        workspace / "answers.csv", ["photo_sha256", "verdict", "by", "comment"], [[one["photo_sha256"], "clean", "Ada", ""] for one in rows]
    )
    for bad in ("0", "-1.0", "nan", "inf", "much", "99"):
        key.write_text(sound.replace(f",{rows[0]['weight']},", f",{bad},"))
        with pytest.raises(UserError, match="its weight is"):
            take_verdicts(workspace / "answers.csv", key, model=model, ledger=ledger)
    assert read_ledger(ledger).verdicts == ()
    key.write_text(sound)
    take_verdicts(workspace / "answers.csv", key, model=model, ledger=ledger)
    for strata, now in ((None, "without strata"), ("car", "by car")):
        with pytest.raises(UserError, match=f"drawn by source before, and now {now}. Draw with --strata source."):
            draw_by(strata)
    # Every car of the yard that is called clean is judged: 'yard' is named.
    table = (workspace / "scores.csv").read_text()
    judged = {one["car"] for one in rows}
    keep = [line for line in table.splitlines() if not line.endswith("yard") or line.split(",")[1] in judged]
    (workspace / "scores.csv").write_text("\n".join(keep) + "\n")
    with pytest.raises(UserError, match="with the source 'yard' was judged before"):
        draw_by("source")
    (workspace / "scores.csv").write_text(table.replace(",clean,yard", ",clean,"))
    with pytest.raises(UserError, match="has no source. Fill it in"):
        draw_by("source")


@pytest.mark.parametrize(("weight", "highest"), [(0, 1), (-1, 1), (math.nan, 1), (1, math.inf), ("1", 1), (True, 1), (1.5, 1.2)])
def test_a_line_with_a_bad_weight_is_named(tmp_path: Path, weight: object, highest: object) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, [replace(verdict("a"), weight=weight, highest_weight=highest)])
    with pytest.raises(UserError, match="line 1: its weight is"):
        read_ledger(path)


def test_draws_by_different_strata_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert append(path, [verdict("a"), verdict("b", strata="source"), verdict("c", strata="season", word="dirty")]) == 3
    before = path.read_bytes()
    for strata in ("season", ""):
        with pytest.raises(UserError, match="Draw with --strata source"):
            append(path, [verdict("d", strata="source"), verdict("e", strata=strata)])
    assert path.read_bytes() == before


def test_a_ledger_from_before_there_were_weights_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    old = {name: value for name, value in asdict(verdict("a")).items() if name not in ("strata", "stratum", "weight", "highest_weight")}
    line = json.dumps({"before": "0" * 64} | old).encode()
    path.write_bytes(line + b"\n")
    assert read_ledger(path).verdicts == (verdict("a"),)
    append(path, [verdict("b")])
    assert json.loads(path.read_bytes().splitlines()[1])["before"] == sha256(line).hexdigest()
    assert len(read_ledger(path).verdicts) == 2


def test_verdicts_on_unsure_photos_are_said_not_to_be_used(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, model = workspace / "ledger.jsonl", open_bundle(workspace / "best.onnx").sha256
    append(ledger, [verdict("a", model_sha256=model)])
    append(ledger, [verdict(str(number), "dirty", model_sha256=model, word="unsure") for number in range(50)])
    assert report_state(ledger, workspace / "best.onnx") == 0
    said = capsys.readouterr().out
    assert "0 of 1 wrong" in said
    assert "50 verdicts on photos called unsure, or a word without a promise, are not used" in said
