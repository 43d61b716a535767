"""`make recipe`: the best values are found on val alone, each with what it brought, and within its time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, mean_absolute_error

from carinspect.core.errors import UserError
from carinspect.sweep.search import Losses, SearchParams, losses_of, mean_skill, search, tabulate_trials, vary, write_found
from carinspect.training.config import Recipe
from conftest import QUESTIONS

CLEAN, CLEANLINESS, _, _, WEATHER = QUESTIONS
GROUPS = np.repeat(np.arange(30), 2).astype(str)


class Clock:
    """Minutes pass only by trainings."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def trainer(clock: Clock, loss_of: Callable[[Recipe], float], *, seconds: float = 60) -> Callable[[Recipe], Losses]:
    """Losses around that of the recipe; a training of 1 epoch at 32 px takes `seconds`."""
    noise_N = np.random.default_rng(0).normal(0, 0.02, len(GROUPS))

    def train(recipe: Recipe) -> Losses:
        clock.now_s += seconds * recipe.train.epochs * (recipe.train.image_side_px / 32) ** 2
        return {"clean": (loss_of(recipe) + noise_N * recipe.train.lr, np.ones(len(GROUPS)))}

    return train


def run_search(recipe: Recipe, tried: dict[str, list[Any]], loss_of: Callable[[Recipe], float], *, minutes: float = 1000) -> Any:
    clock, told = Clock(), list[str]()
    params = SearchParams(minutes=minutes, tried=tried)
    found = search(recipe, params, trainer(clock, loss_of), groups_N=GROUPS, tell=told.append, clock=clock)
    assert len(told) == len(found.trials)
    return found


def test_each_parameter_is_varied_with_the_best_of_those_before_it(tiny_recipe: Recipe) -> None:
    start = vary(vary(vary(tiny_recipe, "train.epochs", 1), "train.image_side_px", 32), "train.lr", 0.01)

    def loss_of(recipe: Recipe) -> float:
        return 0.5 + abs(recipe.train.lr - 0.02) - 0.1 * (recipe.train.lr == 0.02 and recipe.train.epochs == 2)

    tried = {"train.lr": [0.01, 0.02, 0.04], "train.epochs": [1, 2]}
    found = run_search(start, tried, loss_of)
    assert (found.recipe.train.lr, found.recipe.train.epochs, found.left_out) == (0.02, 2, [])
    assert [(one.parameter, one.value, one.kept) for one in found.trials] == [
        ("", None, False), ("train.lr", 0.02, True), ("train.lr", 0.04, False), ("train.epochs", 2, True),
    ]  # fmt: skip
    # What a value brought is told against the recipe that it varies, and covers it.
    for trial, gain in zip(found.trials[1:], (0.01, -0.01, 0.1), strict=True):
        assert trial.gain.low <= gain <= trial.gain.high
        assert trial.gain.value == pytest.approx(gain, abs=1e-3)
    said = write_found(found, tried)
    assert "  lr: 0.02  # 0.02, +0.0100 (" in said
    assert "; 0.04, -0.0100 (" in said
    assert "  epochs: 2  # 2, +0.1000" in said
    table = tabulate_trials(found.trials)
    assert table["kept"].tolist() == [False, True, False, True]


def test_a_value_that_is_no_better_is_not_taken(tiny_recipe: Recipe) -> None:
    found = run_search(tiny_recipe, {"train.lr": [0.5]}, lambda recipe: 0.5)
    assert found.recipe == tiny_recipe
    assert not any(trial.kept for trial in found.trials)


def test_what_would_end_too_late_is_left_out_and_the_cheaper_is_still_tried(tiny_recipe: Recipe) -> None:
    start = vary(vary(tiny_recipe, "train.epochs", 1), "train.image_side_px", 32)
    found = run_search(start, {"train.image_side_px": [128, 64], "train.lr": [0.5]}, lambda recipe: 0.5, minutes=6.5)
    assert found.left_out == ["train.image_side_px: 128"]
    assert [trial.parameter for trial in found.trials] == ["", "train.image_side_px", "train.lr"]


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        ({"train.lr": [0.01], "train.epoch": [3]}, r"no parameter of the recipe is called 'train.epoch'. Did you mean 'train.epochs'\?"),
        ({"train.lr": [0.01, -1]}, "train.lr"),
        ({"data.root": ["x"]}, "no parameter of the recipe is called 'data.root'"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_training(tiny_recipe: Recipe, tried: dict[str, list[Any]], message: str) -> None:
    def train(recipe: Recipe) -> Losses:
        pytest.fail("it trained")

    with pytest.raises(UserError, match=message) as raised:
        search(tiny_recipe, SearchParams(minutes=1, tried=tried), train, groups_N=GROUPS, tell=print)
    assert "\n" not in str(raised.value)


def test_the_score_is_the_mean_skill_against_the_best_constant_answer() -> None:
    random = np.random.default_rng(1)
    clean, p = random.integers(0, 2, 40).astype(float), random.uniform(0.05, 0.95, 40)
    cleanliness, said = random.uniform(size=40), random.uniform(size=40)
    weather, chances = random.integers(0, 4, 40).astype(float), random.dirichlet(np.ones(4), 40)
    table = pd.DataFrame({CLEAN.column: clean, "p_clean": p, CLEANLINESS.column: cleanliness, "cleanliness": said, WEATHER.column: weather})
    table[WEATHER.answer_columns] = chances
    table.loc[:9, CLEANLINESS.column] = np.nan
    losses = losses_of(table, [CLEAN, CLEANLINESS, WEATHER])
    known = cleanliness[10:]
    expected = [
        1 - log_loss(clean, p) / log_loss(clean, np.full(40, clean.mean())),
        1 - mean_absolute_error(known, said[10:]) / mean_absolute_error(known, np.full(30, np.median(known))),
        1 - log_loss(weather, chances) / log_loss(weather, np.tile(np.bincount(weather.astype(int)) / 40, (40, 1))),
    ]
    rows = np.arange(40.0)
    assert mean_skill(losses)(rows, rows, np.ones((1, 40)))[0] == pytest.approx(np.mean(expected))
