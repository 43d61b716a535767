"""Drift: quiet on photos like the calibration photos, loud on others, and a log that remembers nobody's photo."""

import json
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from carinspect.cli.drift import conclude, look
from carinspect.core.errors import UserError
from carinspect.export.metadata import amend, describe_classes
from carinspect.inference.bundle import open_bundle
from carinspect.inference.drift_log import FEWEST_PHOTOS, DriftLog, read_log
from carinspect.inference.histograms import Counts, add_up, count, edges_of, measure, measure_answers
from carinspect.inference.label_shift import ClassReference, QuestionReference, Share, bad_share, design_effect, precision_of
from carinspect.inference.predictor import Answer, BinaryAnswer, ClassesAnswer, ScoreAnswer
from carinspect.inference.seal import SEAL_BYTES, seal
from carinspect.inference.shifts import find_shifts, kolmogorov_smirnov, stability_index
from conftest import QUESTIONS, load_benchmark
from test_cli import carinspect

simulate = load_benchmark("drift")


def draw(random: np.random.Generator, photos: int, *, darker: float = 0.0) -> list[dict[str, float]]:
    """Quantities of as many photos, `darker` grey levels darker."""
    return [
        {
            "p_clean": random.beta(0.5, 0.5), "cleanliness": random.beta(2, 2), "damage": random.beta(5, 1),
            "brightness": random.normal(120, 25) - darker, "contrast": random.normal(50, 10), "sharpness": random.lognormal(2, 0.7),
            "aspect": random.choice([1.0, 4 / 3, 16 / 9]), "megapixels": random.choice([0.3, 2.0, 12.0]),
        }
        for _ in range(photos)
    ]  # fmt: skip


def answer(p_clean: float) -> Answer:
    return {
        "clean": BinaryAnswer(p=p_clean, p_good=p_clean, label="clean", side="good", decision="clean", threshold=0.5, std=None),
        "cleanliness": ScoreAnswer(0.9, None),
        "damage": ScoreAnswer(0.8, None),
        "weather": ClassesAnswer("rain", {"clear": 0.25, "rain": 0.75}, None),
    }


# ---- the comparison


@pytest.mark.parametrize("photos", [100, 1000])
def test_photos_of_the_same_kind_are_quiet_in_nearly_every_draw(photos: int) -> None:
    random = np.random.default_rng(photos)
    loud = 0
    for _ in range(100):
        reference, found = count(draw(random, 300)), count(draw(random, photos))
        loud += any(shift.level for shift in find_shifts(reference, found, level=0.01))
    assert loud <= 4


def test_the_index_alone_would_cry_wolf_on_small_samples() -> None:
    random = np.random.default_rng(1)
    high = 0
    for _ in range(50):
        shifts = find_shifts(count(draw(random, 100)), count(draw(random, 100)), level=0.01)
        high += any(shift.psi >= 0.1 for shift in shifts)
    assert high >= 40


@pytest.mark.parametrize("photos", [100, 1000])
def test_darker_photos_are_found_and_named(photos: int) -> None:
    random = np.random.default_rng(photos)
    for _ in range(20):
        shifts = {
            shift.quantity: shift for shift in find_shifts(count(draw(random, 300)), count(draw(random, photos, darker=30.0)), level=0.01)
        }
        assert (shifts["brightness"].level, shifts["brightness"].higher) == (2, False)
        assert shifts["contrast"].level < 2


def test_a_shift_that_is_sure_but_small_is_no_drift() -> None:
    random = np.random.default_rng(3)
    (shift,) = [
        s for s in find_shifts(count(draw(random, 5000)), count(draw(random, 5000, darker=5.0)), level=0.01) if s.quantity == "brightness"
    ]
    assert shift.p_value < 1e-6
    assert shift.level == 0


def test_kolmogorov_smirnov_is_scipys_on_binned_values() -> None:
    random = np.random.default_rng(0)
    middles = (edges_of("p_clean")[:-1] + edges_of("p_clean")[1:]) / 2
    for _ in range(20):
        first, second = random.choice(middles, 400), random.choice(middles, 300, p=np.r_[np.full(20, 0.02), np.full(20, 0.03)])
        distance, p_value = kolmogorov_smirnov(*(np.histogram(values, edges_of("p_clean"))[0].astype(float) for values in (first, second)))
        expected = ks_2samp(first, second, method="asymp")
        assert distance == pytest.approx(expected.statistic)
        assert p_value == pytest.approx(expected.pvalue, rel=0.25, abs=1e-4)


def test_the_stability_index_is_its_formula() -> None:
    expected, actual = np.full(10, 10.0), np.array([20.0, *[10.0] * 8, 0.0])
    e, a = (expected + 0.5) / 105, (actual + 0.5) / 105
    assert stability_index(expected, actual) == pytest.approx(sum((x - y) * np.log(x / y) for x, y in zip(a, e, strict=True)))
    assert stability_index(expected, expected) == 0.0
    # All of one value: the photos of the reference lie in one bin, and those in use in another.
    assert stability_index(np.array([100.0, 0.0]), np.array([0.0, 100.0])) > 1.0


def test_a_quantity_without_a_photo_is_not_compared() -> None:
    empty, some = [0] * 40, [1] * 40
    assert find_shifts({"p_clean": empty, "damage": some}, {"p_clean": empty, "damage": empty}, level=0.01) == []


@pytest.mark.parametrize(("away", "level"), [(6, 0), (9, 0), (90, 2)])
def test_more_photos_that_the_gate_turns_away_are_a_shift(away: int, level: int) -> None:
    def turned_away(photos: int) -> Counts:
        reasons = ["blurred"] * photos + [None] * (300 - photos)
        return count([measure_answers({"clean": replace(answer(0.5)["clean"], reason=reason)}) for reason in reasons])

    shifts = {shift.quantity: shift for shift in find_shifts(turned_away(6), turned_away(away), level=0.01)}
    assert (shifts["turned_away"].level, shifts["turned_away"].higher) == (level, away > 6)
    assert shifts["p_clean"].level == 0


def test_the_statistics_of_a_photo_mean_what_they_say() -> None:
    flat = np.full((8, 8, 3), 100, dtype=np.uint8)
    found = measure(answer(0.7), flat, width_px=300, height_px=400)
    assert found == pytest.approx({
        "turned_away": 0.0, "p_clean": 0.7, "cleanliness": 0.9, "damage": 0.8, "p_weather_clear": 0.25, "p_weather_rain": 0.75,
        "brightness": 100.0, "contrast": 0.0, "sharpness": 0.0, "aspect": 4 / 3, "megapixels": 0.12,
    })  # fmt: skip
    checkered = (np.indices((8, 8)).sum(axis=0) % 2 * 200)[..., None].repeat(3, axis=2).astype(np.uint8)
    assert measure(answer(0.7), checkered, width_px=8, height_px=8)["sharpness"] == 800.0
    assert all(sum(counts) == 1 for counts in count([found]).values())
    assert add_up([count([found]), count([found])])["damage"][32] == 2


# ---- the log


def test_the_log_holds_counts_and_times_and_nothing_of_a_photo(tmp_path: Path) -> None:
    now = [1_000_000.0]
    log = DriftLog(tmp_path / "log.jsonl", window_s=60, model_sha256="ab", clock=lambda: now[0])
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    for number in range(FEWEST_PHOTOS + 5):
        now[0] += 10
        log.note_request(1)
        log.add(answer(number / 100), pixels, width_px=4, height_px=3)
    # The window was over long before, with too few photos to be private.
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["photos"] == FEWEST_PHOTOS
    assert set(line) == {"model_sha256", "from", "until", "photos", "requests", "histograms"}
    assert line["requests"] == {"1": FEWEST_PHOTOS}
    assert line["from"] == "1970-01-12T13:46:40+00:00"
    assert all(type(value) is int for counts in line["histograms"].values() for value in counts)
    log.close()
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def test_many_threads_lose_no_photo(tmp_path: Path) -> None:
    log = DriftLog(tmp_path / "log.jsonl", window_s=0, model_sha256="ab")
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)

    def use() -> None:
        for _ in range(10 * FEWEST_PHOTOS):
            log.add(answer(0.5), pixels, width_px=4, height_px=3)

    threads = [Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(line["photos"] for line in read_log(tmp_path / "log.jsonl")) == 40 * FEWEST_PHOTOS


@pytest.mark.parametrize("text", ["no json\n", "[]\n", '{"photos": 3}\n', '{"histograms": {"damage": [1]}}\n'])
def test_a_strange_log_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match="line 1 is no line of this version"):
        read_log(tmp_path / "log.jsonl")


# ---- the share of the bad class

RANDOM = np.random.default_rng(8)
SCORES = {"good": RANDOM.beta(3.0, 1.2, 400), "bad": RANDOM.beta(1.2, 3.0, 400)}
SHARES = {side: np.histogram(scores, edges_of("p"))[0].tolist() for side, scores in SCORES.items()}
KNOWN = QuestionReference(
    good=ClassReference(histogram=SHARES["good"], said_good=200, said_bad=10),
    bad=ClassReference(histogram=SHARES["bad"], said_good=8, said_bad=300),
)


def mixed(random: np.random.Generator, *, bad: float, cars: int, photos: int = 1) -> list[int]:
    """A histogram of p of that many cars, all photos of a car alike."""
    is_bad = random.random(cars) < bad
    p = np.where(is_bad, random.beta(1.2, 3.0, cars), random.beta(3.0, 1.2, cars))
    return np.histogram(np.repeat(p, photos), edges_of("p"))[0].tolist()


@pytest.mark.parametrize("bad", [0.1, 0.6])
def test_the_interval_of_the_share_holds_for_cars_of_six_photos(bad: float) -> None:
    random = np.random.default_rng(1)
    held, as_independent = 0, 0
    for _ in range(100):
        drawn = {
            side: np.histogram(random.beta(*ab, 300), edges_of("p"))[0].tolist() for side, ab in (("good", (3, 1.2)), ("bad", (1.2, 3)))
        }
        known = QuestionReference(**{side: ClassReference(histogram=one, said_good=0, said_bad=0) for side, one in drawn.items()})
        used = mixed(random, bad=bad, cars=100, photos=6)
        held += (found := bad_share(known, used, design_effect=6.0, level=0.05)).low <= bad <= found.high
        # The twin: photos counted as if each were a car of its own.
        as_independent += (found := bad_share(known, used, design_effect=1.0, level=0.05)).low <= bad <= found.high
    assert held >= 90
    assert as_independent < 85


def test_the_share_is_the_mixture_that_has_the_mean_in_use() -> None:
    middles = (edges_of("p")[:-1] + edges_of("p")[1:]) / 2
    mixture = np.multiply(SHARES["good"], 3) + SHARES["bad"]
    good, bad, used = (np.average(middles, weights=counts) for counts in (SHARES["good"], SHARES["bad"], mixture))
    found = bad_share(KNOWN, mixture.tolist(), design_effect=1.0, level=0.05)
    assert found.value == pytest.approx(0.25) == pytest.approx((used - good) / (bad - good))
    assert found.low < 0.25 < found.high


def test_classes_that_do_not_differ_leave_the_share_open() -> None:
    same = ClassReference(histogram=SHARES["good"], said_good=1, said_bad=0)
    found = bad_share(QuestionReference(good=same, bad=same), SHARES["good"], design_effect=1.0, level=0.05)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_precision_that_follows_is_bayes_rule() -> None:
    share = Share(0.25, 0.2, 0.3)
    good, bad = precision_of("good", KNOWN, share, level=0.05), precision_of("bad", KNOWN, share, level=0.05)
    assert good.value == pytest.approx(0.75 * 0.5 / (0.75 * 0.5 + 0.25 * 0.02))
    assert bad.value == pytest.approx(0.25 * 0.75 / (0.25 * 0.75 + 0.75 * 0.025))
    assert good.low < good.value < good.high
    assert bad.low < bad.value < bad.high
    never = QuestionReference(good=replace_said(KNOWN.good), bad=replace_said(KNOWN.bad))
    assert precision_of("good", never, share, level=0.05) is None


def replace_said(one: ClassReference) -> ClassReference:
    return one.model_copy(update={"said_good": 0})


def test_photos_of_one_request_count_as_one() -> None:
    assert design_effect({"1": 50}) == 1.0
    assert design_effect({"6": 10}) == 6.0
    assert design_effect({"1": 6, "6": 1}) == pytest.approx((6 + 36) / 12)
    assert design_effect({}) == 1.0


def test_the_reference_counts_one_labelled_photo_of_each_group_by_class() -> None:
    rows = pd.DataFrame({"image_path": list("abcdef"), "group": list("111234"), "clean": [1.0, 1.0, 1.0, 0.0, np.nan, 1.0]})
    answers = [{"clean": replace(answer(p)["clean"], side=side)} for p, side in zip(
        (0.9, 0.9, 0.9, 0.1, 0.5, 0.7), ("good", "good", "good", "bad", None, None), strict=True)]  # fmt: skip
    found = describe_classes(rows, answers, QUESTIONS[0])
    assert (sum(found["good"]["histogram"]), found["good"]["said_good"], found["good"]["said_bad"]) == (2, 1, 0)
    assert (sum(found["bad"]["histogram"]), found["bad"]["said_good"], found["bad"]["said_bad"]) == (1, 0, 1)
    assert found["bad"]["histogram"][4] == 1
    nobody = describe_classes(rows.assign(clean=np.nan), answers, QUESTIONS[0])
    assert sum(nobody["good"]["histogram"]) == sum(nobody["bad"]["histogram"]) == 0


# ---- many looks


def test_a_hundred_daily_looks_at_cars_of_six_photos_are_quiet_and_a_dirtier_season_is_found() -> None:
    # benchmarks/drift.py does this for many logs.
    no_change = [simulate.look_daily(np.random.default_rng((1, log)), [0.4] * 100, cars=17) for log in range(1)]
    assert not any(1 in statuses for statuses, _, _ in no_change)
    # The twin: photos counted as independent, at a level for one look.
    assert all(loud for _, _, loud in no_change)
    dirtier = [simulate.look_daily(np.random.default_rng((2, log)), [0.6], cars=3334)[0][-1] for log in range(5)]
    assert dirtier == [1] * 5


def test_new_drift_is_found_though_the_whole_log_dilutes_it() -> None:
    reference, rule, limit = simulate.prove(np.random.default_rng(3))
    lines = [
        simulate.write_day(np.random.default_rng(day), day, cars=400, photos_a_car=6, dirty=0.9 if day == 60 else 0.4) for day in range(61)
    ]
    newest, whole = look(lines, reference, {"clean": rule}, break_even={"clean": limit})
    assert newest.estimates[0].broken
    assert not whole.estimates[0].broken


def test_no_drift_is_never_said_while_the_interval_crosses_the_share_that_is_proved() -> None:
    reference, rule, _ = simulate.prove(np.random.default_rng(3))
    lines = [simulate.write_day(np.random.default_rng(1), 0, cars=200, photos_a_car=6, dirty=0.4)]
    (found,) = look(lines, reference, {"clean": rule}, break_even={"clean": 0.42})
    assert found.estimates[0].share.low < 0.42 < found.estimates[0].share.high
    status, told = conclude([found], [rule])
    assert (status, "cannot tell whether the promise of clean holds" in told) == (2, True)
    (found,) = look(lines, reference, {"clean": rule}, break_even={"clean": 0.9})
    assert conclude([found], [rule])[0] == 0


# ---- the command


@pytest.fixture
def model_with_reference(model_content: bytes, tmp_path: Path) -> Path:
    model = onnx.load_from_string(model_content[:-SEAL_BYTES])
    histograms = count(draw(np.random.default_rng(5), 300))
    own = {side: {"histogram": SHARES[side], "said_good": said, "said_bad": 0} for side, said in (("good", 150), ("bad", 4))}
    reference = {"split": "calib", "photos": 300, "groups": {"1": 300}, "histograms": histograms}
    amend(model, {"reference": reference | {"classes": {"clean": own}}})
    (tmp_path / "best.onnx").write_bytes(seal(model.SerializeToString(deterministic=True)))
    return tmp_path / "best.onnx"


def write_log(path: Path, model_sha256: str, histograms: Counts, *, photos: int) -> None:
    line = {"model_sha256": model_sha256, "from": "2026-11-01", "until": "2026-11-02", "photos": photos, "requests": {"1": photos},
            "histograms": histograms}  # fmt: skip
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_the_command_says_whether_the_promise_stands(model_with_reference: Path, tmp_path: Path) -> None:
    digest, log, random = open_bundle(model_with_reference).sha256, tmp_path / "log.jsonl", np.random.default_rng(6)
    write_log(log, digest, count(draw(random, 50)), photos=50)
    done = carinspect("drift", log, "--model", model_with_reference)
    assert (done.returncode, "50 photos answered by" in done.stderr) == (2, True)

    write_log(log, digest, count(draw(random, 250)), photos=250)
    write_log(log, "another", count(draw(random, 900, darker=90.0)), photos=900)
    done = carinspect("drift", log, "--model", model_with_reference)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "900 photos were answered by another model" in done.stdout
    assert "No drift found. The promise ('clean' when P(clean) >= 0.5000 keeps the precision 0.95" in done.stdout

    write_log(log, digest, count(draw(random, 900, darker=60.0)), photos=900)
    done = carinspect("drift", log, "--model", model_with_reference)
    assert done.returncode == 1
    assert "brightness is lower" in done.stdout
    assert "cannot be relied on for these" in done.stdout
    assert carinspect("drift", log, "--model", model_with_reference, "--since", "2026-12-01").returncode == 2


def test_bad_input_is_one_line(model_with_reference: Path, tmp_path: Path) -> None:
    log, random = tmp_path / "log.jsonl", np.random.default_rng(6)
    write_log(log, "another", count(draw(random, 900)), photos=900)
    for arguments, said in (
        ([], "0 photos answered by"),
        (["--since", "yesterday"], "--since is 'yesterday'. Give an ISO 8601 time in UTC"),
    ):
        done = carinspect("drift", log, "--model", model_with_reference, *arguments)
        assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr


def test_a_model_without_a_reference_says_how_to_get_one(model_file: Path, tmp_path: Path) -> None:
    done = carinspect("drift", tmp_path / "log.jsonl", "--model", model_file)
    assert done.returncode == 2
    assert "dvc repro export_onnx" in done.stderr
