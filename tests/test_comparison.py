"""comparison: a real difference is found, noise is not, and different photos are refused."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from scipy.stats import binomtest, ttest_rel
from sklearn.metrics import roc_auc_score

from carinspect.comparison.differences import FEWEST_GROUPS, Comparison, Model, compare_predictions, one_of_each_group
from carinspect.comparison.words import say, tell
from carinspect.core.errors import UserError
from carinspect.core.files import write_json
from carinspect.core.questions import Question, by_name
from conftest import QUESTIONS

ASKED = tuple(question for question in QUESTIONS if question.name != "damaged")
WEATHER_CLASSES = by_name(QUESTIONS)["weather"].classes


def draw_sides(*, groups: int = 100, seed: int = 0, noise: tuple[float, float] = (1.0, 1.0)) -> tuple[Model, Model]:
    """Two models on the same photos, two a group, which err together; each as good as its `noise` is small."""
    random = np.random.default_rng(seed)
    photos, group = 2 * groups, np.repeat(np.arange(groups), 2)
    clean, damage, weather = random.integers(0, 2, photos).astype(float), random.random(photos), random.integers(0, 4, photos)
    hard = np.repeat(random.normal(0, 0.7, groups), 2)
    truth = pd.DataFrame(
        {
            "image_path": [f"{index:05}.jpg" for index in range(photos)],
            "sha256": [f"{index:064x}" for index in range(photos)],
            "group": [f"{index:05}" for index in group],
            "split": "test",
            "clean": clean,
            "cleanliness_score": damage,
            "damaged": np.nan,
            "damage_score": damage,
            "weather_condition": weather.astype(float),
        }
    )
    sides = []
    for name, scale in zip("ab", noise, strict=True):
        logit = (2 * clean - 1) * 1.5 + hard + random.normal(0, scale, photos) + np.repeat(random.normal(0, scale, groups), 2)
        weather_logits = 2 * np.eye(4)[weather] + random.normal(0, scale, (photos, 4))
        errors = {task: np.repeat(random.normal(0, 0.2 * scale, groups), 2) for task in ("cleanliness", "damage")}
        table = truth.assign(clean_logit=logit, p_clean=expit(logit), **{task: damage + error for task, error in errors.items()})
        table[[f"weather_logit_{word}" for word in WEATHER_CLASSES]] = weather_logits
        table[[f"p_weather_{word}" for word in WEATHER_CLASSES]] = softmax(weather_logits, axis=1)
        sides.append(Model(name, ASKED, table, {"clean": 0.6}))
    return sides[0], sides[1]


def compare(a: Model, b: Model) -> Comparison:
    return compare_predictions(a, b, confidence=0.95)


def changed(side: Model, **columns: object) -> Model:
    return replace(side, predictions=side.predictions.assign(**columns))


def test_a_model_does_not_differ_from_itself() -> None:
    a, _ = draw_sides()
    found = compare(a, replace(a, name="b", predictions=a.predictions.sample(frac=1, random_state=1)))
    assert found.verdict == "no clear difference"
    assert {(metric.difference, metric.low, metric.high) for metric in found.metrics} == {(0.0, 0.0, 0.0)}
    assert {decision.p_value for decision in found.decisions} == {1.0}


def test_a_planted_better_model_is_found_from_either_side() -> None:
    a, b = draw_sides(noise=(1.0, 0.5))
    found, turned = compare(a, b), compare(b, a)
    assert found.verdict == "better"
    assert turned.verdict == "worse"
    verdicts = {(metric.question, metric.metric): metric.verdict for metric in found.metrics}
    assert verdicts["damage", "mae"] == verdicts["clean", "brier"] == verdicts["clean", "roc_auc"] == "better"
    assert {(metric.question, metric.metric) for metric in turned.metrics if metric.verdict == "worse"} == {
        key for key, verdict in verdicts.items() if verdict == "better"
    }


def test_better_in_one_question_and_worse_in_another_is_mixed() -> None:
    a, b = draw_sides(noise=(1.0, 0.5))
    found = compare(a, changed(b, damage=1 - b.predictions["damage"]))
    assert found.verdict == "mixed"
    assert "but worse in mae of damage" in say(found)


@pytest.mark.parametrize("groups", [FEWEST_GROUPS, 40])
def test_noise_is_called_a_difference_in_at_most_one_comparison_in_twenty(groups: int) -> None:
    draws = 100
    verdicts = Counter(compare(*draw_sides(groups=groups, seed=seed)).verdict for seed in range(draws))
    wrong = draws - verdicts["no clear difference"]
    # As many as a rate of 5 % itself would show in 99 of 100 such tests.
    assert binomtest(wrong, draws, 0.05, alternative="greater").pvalue > 0.01, verdicts


def test_the_figures_are_scikit_learns_and_the_test_is_mcnemars() -> None:
    a, b = draw_sides(noise=(1.0, 0.7))
    found = compare(a, b)
    auc = next(metric for metric in found.metrics if metric.metric == "roc_auc")
    scores = [roc_auc_score(side.predictions["clean"], side.predictions["p_clean"]) for side in (a, b)]
    assert (auc.a, auc.b) == pytest.approx(scores)
    assert auc.difference == pytest.approx(scores[1] - scores[0])
    drawn = one_of_each_group(a.predictions)
    right_a, right_b = (((side.predictions["p_clean"] >= 0.6) == (side.predictions["clean"] == 1)).to_numpy()[drawn] for side in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    decisions = found.decisions[0]
    assert (decisions.only_a_right, decisions.only_b_right, decisions.groups) == (only_a, only_b, 100)
    # From the definition: twice the smaller tail of a fair coin.
    tail = sum(comb(only_a + only_b, count) for count in range(min(only_a, only_b) + 1)) / 2 ** (only_a + only_b)
    assert decisions.p_value == pytest.approx(min(1.0, 2 * tail))


def test_the_interval_is_scipys_paired_one_over_groups() -> None:
    a, b = draw_sides(groups=60)
    mae = next(metric for metric in compare(a, b).metrics if metric.question == "damage")
    errors = [(side.predictions["damage"] - side.predictions["damage_score"]).abs() for side in (a, b)]
    first, second = (error.groupby(a.predictions["group"]).mean() for error in errors)
    theirs = ttest_rel(second, first).confidence_interval(1 - 0.05 / 9)
    assert (mae.low, mae.high) == pytest.approx((theirs.low, theirs.high))


def test_very_few_groups_give_no_interval() -> None:
    found = compare(*draw_sides(groups=FEWEST_GROUPS - 1, noise=(1.0, 0.1)))
    assert {(metric.low, metric.detectable, metric.verdict) for metric in found.metrics} == {(None, None, "no clear difference")}


def test_a_difference_of_the_stated_size_is_found_in_about_four_of_five() -> None:
    found = []
    sizes = [one.detectable for seed in range(10) for one in compare(*draw_sides(groups=40, seed=seed)).metrics if one.question == "damage"]
    size = float(np.mean(sizes))
    for seed in range(60):
        a, b = draw_sides(groups=40, seed=seed)
        error = b.predictions["damage"] - b.predictions["damage_score"]
        # The absolute error grows by exactly that much.
        b = changed(b, damage=b.predictions["damage"] + np.where(error < 0, -size, size))
        found.append(next(one for one in compare(a, b).metrics if one.question == "damage").verdict == "worse")
    assert 0.65 <= np.mean(found) <= 0.95


def test_the_lead_that_is_needed_is_the_smallest_clear_one() -> None:
    a, b = draw_sides(noise=(1.0, 0.6))
    decisions = compare(a, b).decisions[0]
    differing, alpha = decisions.only_a_right + decisions.only_b_right, 0.05 / 9
    lead = decisions.detectable
    assert binomtest((differing - lead) // 2, differing).pvalue < alpha <= binomtest((differing - lead) // 2 + 1, differing).pvalue
    nothing = compare(a, replace(a, name="b")).decisions[0]
    assert nothing.detectable is None


def test_no_clear_difference_says_what_could_have_been_found() -> None:
    assert "would have shown a difference of roc_auc of clean by 0." in say(compare(*draw_sides()))


def test_the_rule_decides_not_the_score_alone() -> None:
    a, _ = draw_sides()
    found = compare(a, replace(a, name="never clean", T_high={"clean": None}))
    assert {metric.verdict for metric in found.metrics} == {"no clear difference"}
    assert found.decisions[0].verdict == found.verdict == "worse"
    assert "decisions of clean" in say(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table[table.index > 2], r"197 photos are in both, 3 only in a \(e\.g\. 00000\.jpg\)"),
        (lambda table: table.assign(sha256=table["sha256"].mask(table.index == 4, "ff")), "'sha256' differs for 1 of 200 photos.*00004"),
        (lambda table: table.assign(group="one"), "'group' differs for 200 of 200 photos"),
        (lambda table: table.assign(clean=table["clean"].mask(table.index == 7)), "'clean' differs for 1 of 200 photos"),
    ],
)
def test_different_test_photos_or_labels_are_refused_with_what_differs(change: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    a, b = draw_sides()
    with pytest.raises(UserError, match=f"the test photos differ: .*{words}"):
        compare(a, replace(b, predictions=change(b.predictions)))


def test_photos_of_other_splits_do_not_matter() -> None:
    a, b = draw_sides()
    more = pd.concat([b.predictions, b.predictions.assign(split="val", image_path="val/" + b.predictions["image_path"])])
    assert compare(a, replace(b, predictions=more)) == compare(a, b)


def test_a_question_that_one_of_them_does_not_answer_is_left_out() -> None:
    a, b = draw_sides()
    found = compare(a, changed(b, damage=np.nan, clean_logit=np.nan, p_clean=np.nan))
    assert {metric.question for metric in found.metrics} == {"cleanliness", "weather"}
    assert [decision.question for decision in found.decisions] == ["weather"]
    blank = dict.fromkeys(["cleanliness", *(f"weather_logit_{word}" for word in WEATHER_CLASSES)], np.nan)
    with pytest.raises(UserError, match="no question has labels in test and answers of both"):
        compare(a, changed(b, damage=np.nan, clean_logit=np.nan, **blank))


def test_what_is_printed_and_written_is_what_was_found(tmp_path: Path) -> None:
    a, b = draw_sides(noise=(1.0, 0.5))
    found = compare(a, b)
    text = tell(found)
    assert text.startswith("A = a, B = b: 200 test photos in 100 groups")
    mae = next(metric for metric in found.metrics if metric.question == "damage")
    assert f"{mae.difference:+.4f}  {mae.low:+.4f} to {mae.high:+.4f}" in text
    assert text.splitlines()[-1] == say(found)
    assert "B (b) is better than A (a) in " in text
    write_json(tmp_path / "comparison.json", found.as_dict())
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["verdict"] == "better"
    assert len(written["metrics"]) == 7


def test_a_question_of_ones_own_is_compared_and_one_that_was_declared_otherwise_is_not() -> None:
    a, b = draw_sides(noise=(1.0, 0.5))
    glass = Question(name="glass_ok", kind="binary", column="glass_ok", classes=("intact", "broken"), good="intact")
    clean = by_name(ASKED)["clean"]

    def asked_too(model: Model, question: Question) -> Model:
        columns = {"glass_ok": 1 - model.predictions["clean"], "glass_ok_logit": 0.0, "p_glass_ok": 1 - model.predictions["p_clean"]}
        return replace(
            model, questions=(clean, question), predictions=model.predictions.assign(**columns), T_high={"clean": 0.6, "glass_ok": 0.6}
        )

    found = compare(asked_too(a, glass), asked_too(b, glass))
    verdicts = {(metric.question, metric.metric): metric.verdict for metric in found.metrics}
    assert verdicts["glass_ok", "roc_auc"] == verdicts["clean", "roc_auc"] == "better"
    # The good class is class 0 here: p_good is 1 - p, and the decisions are those of the mirror question.
    (of_clean, of_glass) = found.decisions
    assert (of_clean.a_right, of_clean.b_right) == (of_glass.a_right, of_glass.b_right)
    other = glass.model_copy(update={"good": "broken"})
    assert {metric.question for metric in compare(asked_too(a, glass), asked_too(b, other)).metrics} == {"clean"}
