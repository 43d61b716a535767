"""`carinspect next`: what is chosen, what it may serve, and how many labels a promise still takes."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chisquare

from carinspect.cli.next import say_needed
from carinspect.core.params import load_params
from carinspect.core.questions import by_name, read_questions
from carinspect.core.tables import dataset_columns
from carinspect.labelling.choice import choose_at_random, choose_teaching, measure_uncertainty
from carinspect.labelling.exchange import read_list
from carinspect.labelling.promise import StillNeeded, foresee
from carinspect.thresholds.plan import Reference, fit_forecast
from carinspect.thresholds.sample import Sample
from conftest import QUESTIONS, load_benchmark
from serving_tools import photo_bytes
from test_cli import carinspect

REPOSITORY = Path(__file__).parents[1]
replay = load_benchmark("next")
TARGET = replay.TARGET


# ---- what teaches most


def test_uncertainty_is_the_margin_between_the_two_likeliest_classes() -> None:
    asked = [by_name(QUESTIONS)[name] for name in ("clean", "weather")]
    p = {"clear": [0.5, 0.25], "rain": [0.3, 0.25], "fog": [0.2, 0.25], "snow": [0.0, 0.25]}
    answers = pd.DataFrame({"p_clean": [0.9, 0.5], **{f"p_weather_{word}": values for word, values in p.items()}})
    assert measure_uncertainty(answers, asked[:1]) == pytest.approx([0.2, 1.0])
    assert measure_uncertainty(answers, asked[1:]) == pytest.approx([0.8, 1.0])
    assert measure_uncertainty(answers, asked) == pytest.approx([0.5, 1.0])


def test_one_photo_of_a_group_is_chosen_and_no_two_alike_ones_before_another_hard_one() -> None:
    random = np.random.default_rng(0)
    # 40 near copies of one hard photo, 20 hard ones that differ, 100 easy ones; each a group of two photos.
    features = np.concatenate([np.full((40, 8), 3.0) + random.normal(0, 1e-3, (40, 8)), random.normal(0, 3, (120, 8))])
    uncertainty = np.concatenate([np.full(60, 0.95), np.full(100, 0.05)])
    groups = np.array([f"car {place // 2}" for place in range(160)])
    copies, hard = [], []
    for seed in range(20):
        chosen = choose_teaching(uncertainty, features, groups, budget=10, random=np.random.default_rng(seed))
        assert len(set(groups[chosen])) == 10
        copies.append((chosen < 40).sum())
        hard.append((chosen < 60).sum())
    assert np.mean(copies) < 2
    assert np.mean(hard) > 8
    # The twin: by the margin alone two in three would be copies.
    assert (np.argsort(-uncertainty, kind="stable")[:10] < 40).all()


@pytest.mark.parametrize("features", [np.zeros((6, 3)), np.arange(18.0).reshape(6, 3)])
def test_a_budget_above_the_number_of_groups_takes_one_of_each(features: np.ndarray) -> None:
    groups, random = np.array(["a", "a", "b", "c", "c", "c"]), np.random.default_rng(0)
    for chosen in (
        choose_teaching(np.zeros(6), features, groups, budget=99, random=random),
        choose_at_random(groups, budget=99, random=random),
    ):
        assert sorted(groups[chosen]) == ["a", "b", "c"]


def test_a_random_draw_gives_every_group_and_every_photo_of_it_the_same_chance() -> None:
    groups = np.array(["many"] * 6 + ["two"] * 2 + [f"one {place}" for place in range(4)])
    drawn = np.zeros(len(groups))
    for seed in range(1000):
        chosen = choose_at_random(groups, budget=2, random=np.random.default_rng(seed))
        assert len(set(groups[chosen])) == 2
        drawn[chosen] += 1
    by_group = pd.Series(drawn).groupby(groups).sum()
    assert chisquare(by_group).pvalue > 0.001
    assert chisquare(drawn[:6]).pvalue > 0.001
    # The twin: a draw of photos would prefer the group with many.
    photos = sum(np.bincount(np.random.default_rng(seed).permutation(12)[:2], minlength=12) for seed in range(1000))
    assert chisquare(pd.Series(photos).groupby(groups).sum()).pvalue < 0.001


# ---- what a promise still takes


def make_world(random: np.random.Generator, groups: int, *, noise: float) -> Sample:
    """Groups of which half are good. The model's score is calibrated; noise: how often it is unsure."""
    score = random.beta(noise, noise, groups).round(6)
    return Sample(score, (random.random(groups) < score).astype(np.int64), np.ones(groups, bool))


def refer(val: Sample) -> Reference:
    return Reference(val.score, fit_forecast(val.score, val.good.astype(np.float64))(val.score))


@pytest.mark.parametrize("side", ["good", "bad"])
def test_the_number_foretold_is_what_it_then_takes(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carinspect.labelling.promise.DRAWS", 40)
    told, took, inside = [], [], []
    for seed in range(10):
        random = np.random.default_rng(seed)
        source, val, new = (make_world(random, groups, noise=0.15) for groups in (20, 300, 1000))
        found = foresee(source, replay.join(source, val), refer(val), TARGET, side=side, word="x", seed=seed)
        needed = replay.needed_of(source, new, refer(val), side)
        assert None not in (found.groups, found.low, found.high, needed)
        told.append(found.groups)
        took.append(needed)
        inside.append(found.low <= needed <= found.high)
    assert np.median(told) == pytest.approx(np.median(took), rel=0.3)
    assert np.mean(inside) >= 0.7


def test_with_hardly_an_error_it_takes_as_many_as_the_textbook_says() -> None:
    # A proof without an error takes the smallest n with .9^n <= .025: 36 called so; half of the groups are.
    random = np.random.default_rng(1)
    score = np.repeat([1e-6, 1 - 1e-6], 2000)[random.permutation(4000)]
    world = Sample(score, (score > 0.5).astype(np.int64), np.ones(4000, bool))
    few = Sample(score[:20], world.good[:20], world.drawn[:20])
    found = foresee(few, world, refer(world), TARGET, side="good", word="clean", seed=0)
    (least,) = [n for n in range(1, 100) if binom.pmf(n, n, 0.9) <= 0.025 < binom.pmf(n - 1, n - 1, 0.9)]
    assert least == 36
    assert found.groups == pytest.approx(2 * (least - few.good.sum()), abs=8)
    assert found.called == pytest.approx(0.5, abs=0.05)
    assert found.low <= found.groups <= found.high


def test_what_is_proved_needs_nothing_and_what_cannot_be_proved_has_no_number() -> None:
    random = np.random.default_rng(0)
    good = make_world(random, 2000, noise=0.05)
    assert foresee(good, good, refer(good), TARGET, side="good", word="clean", seed=0) == StillNeeded(
        "clean", "good", proved=True, groups=0, low=0, high=0, called=None, threshold=None
    )
    blind = Sample(random.random(300).round(6), random.integers(0, 2, 300), np.ones(300, bool))
    found = foresee(blind, blind, refer(blind), TARGET, side="good", word="clean", seed=0)
    assert (found.proved, found.groups, found.high) == (False, None, None)
    assert "is not proved by 4,000 more groups" in say_needed(found, fraction=0.3, shown=None)


def test_the_words_name_the_number_its_interval_and_the_predicted_kind() -> None:
    found = StillNeeded("clean", "good", proved=False, groups=90, low=60, high=None, called=1 / 3, threshold=0.8)
    said = say_needed(found, fraction=0.3, shown=0.25)
    for part in ("about 90 more", "60 to more than 4,000", "about 30 are called clean", "of the photos here 25% are", "about 300 in all"):
        assert part in said
    assert "proved already" in say_needed(StillNeeded("clean", "good", True, 0, 0, 0, None, None), fraction=0.3, shown=None)


# ---- the command


@pytest.fixture
def folder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model, a dataset that has photo 0, predictions, and 12 new photos; 1 and 2 are copies of one another."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for name in ("models", "data", "photos"):
        Path(name).mkdir()
    shutil.copy(model, "models/best.onnx")
    for seed in range(12):
        Path(f"photos/{seed:02}.jpg").write_bytes(photo_bytes(seed=1 if seed == 2 else seed))
    questions = read_questions(load_params())
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"image_path": [f"old/{place}.jpg" for place in range(400)]})
    rows = rows.assign(source="s", width_px=9, height_px=9, sha256="", phash="", family="", declared_split="", group=rows["image_path"])
    rows["split"] = ["val", "calib", "calib", "test"] * 100
    for question in questions:
        rows[question.column] = np.nan
    rows["p_clean"] = random.beta(0.1, 0.1, 400).round(6)
    rows["clean"] = (random.random(400) < rows["p_clean"]).astype(float)
    rows["p_damaged"], rows["strangeness"] = random.random(400).round(6), 0.0
    rows.to_csv("data/predictions.csv", index=False)
    known = rows[dataset_columns(questions)].head(1).assign(sha256=sha_of(0))
    known.to_csv("data/car_inspection_dataset.csv", index=False)
    return tmp_path


def sha_of(place: int) -> str:
    from carinspect.core.files import sha256_of

    return sha256_of(Path(f"photos/{place:02}.jpg"))


def listed(out: Path = Path("next.csv")) -> list[dict[str, str]]:
    with out.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_the_model_chose_only_trains_and_the_list_says_so(folder: Path) -> None:
    done = carinspect("next", "photos", "--budget", "5", folder=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "5 photos, each of another car, of 11 photos of 10 cars" in done.stdout
    assert "Left out: 1 photos that data/car_inspection_dataset.csv has already" in done.stdout
    assert "so they will only train" in done.stdout
    rows = listed()
    assert [row["chosen_by_model"] for row in rows] == ["true"] * 5
    assert not {"photos/00.jpg"} & {row["image_path"] for row in rows}
    assert set(read_list(Path("next.csv")).values()) == {True}
    again = carinspect("next", "photos", "--budget", "5", "--out", "again.csv", folder=folder)
    assert again.returncode == 0
    assert listed(Path("again.csv")) == rows


def test_a_draw_for_a_promise_may_serve_all_splits_and_says_how_many_labels_it_takes(folder: Path) -> None:
    done = carinspect("next", "photos", "--budget", "99", "--for", "promise", folder=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    rows = listed()
    assert len(rows) == 10
    assert {row["chosen_by_model"] for row in rows} == {"false"}
    assert len({"photos/01.jpg", "photos/02.jpg"} & {row["image_path"] for row in rows}) == 1
    assert "may serve all splits" in done.stdout
    clean = [line for line in done.stdout.splitlines() if line.startswith("clean: ")]
    assert len(clean) == 2
    assert all("more labelled groups in calib" in line or "proved already" in line for line in clean)


def test_a_column_names_the_car(folder: Path) -> None:
    rows = "".join(f"{place:02}.jpg,{'van' if place > 5 else place}\n" for place in range(1, 12))
    Path("photos/list.csv").write_text("photo,car\n" + rows)
    done = carinspect("next", "photos/list.csv", "--column", "photo", "--car-column", "car", "--budget", "9", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "of 11 photos of 5 cars" in done.stdout
    assert sum(row["image_path"] > "05.jpg" for row in listed()) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("photos", "--question", "claen"), "--question is 'claen'. Did you mean 'clean'?"),
        (("photos", "--question", "damage"), "Name a question with classes."),
        (("photos", "--car-column", "car"), "--car-column and --root belong to a table."),
        (("photos", "--model", "gone.onnx"), "gone.onnx: no such model file."),
        (("photos/00.jpg",), "no photo is left to choose from. Name others."),
    ],
)
def test_a_wrong_word_is_one_line_and_writes_nothing(folder: Path, words: tuple[str, ...], reason: str) -> None:
    done = carinspect("next", *words, "--budget", "3", folder=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert reason in done.stderr
    assert not Path("next.csv").exists()


def test_a_photo_that_cannot_be_read_is_left_out_and_counted(folder: Path) -> None:
    Path("photos/03.jpg").write_bytes(b"no photo")
    done = carinspect("next", "photos", "--budget", "99", folder=folder)
    assert "Left out: 1 photos that cannot be read, e.g. photos/03.jpg" in done.stdout
    assert len(listed()) == 9
