"""How often each photo is drawn and how much each class weighs in training, and the class prior that results.

Three parameters change that prior: `train.sampler` draws the rarer class of one binary question more often; `train.class_weights` and
`train.focal_alpha` give it more weight. A photo without a label for that question is drawn once an epoch on average.
"""

from collections.abc import Mapping

import numpy as np
import torch

from carinspect.core.errors import UserError
from carinspect.core.questions import Question, by_name
from carinspect.core.seeds import derive_seed
from carinspect.training.config import Recipe

Labels = Mapping[str, torch.Tensor]
"""Label columns (core.questions) as float32 of shape (B,), NaN where unknown."""


def balanced_labels(recipe: Recipe, labels: Labels) -> torch.Tensor:
    """The labels that the sampler balances, shape (photos,)."""
    if recipe.train.sampler == "none":
        # Without a sampler only the length is used, and any column has one entry for each photo.
        return next(iter(labels.values()))
    return labels[by_name(recipe.questions)[recipe.train.sampler_question].column]


def draw_epoch(recipe: Recipe, *, balanced: torch.Tensor, epoch: int) -> np.ndarray:
    """Positions of the photos in the order of an epoch; depends only on (seed, epoch) and `balanced`, from `balanced_labels`.

    none: each photo once. weighted: the same number of draws, with replacement. oversample: every photo once, then the rarer class again
    until it has `oversample_ratio` times as many draws as the more common one; the photos of an incomplete last round are random.
    """
    random = np.random.default_rng(derive_seed(recipe.train.seed, "order", epoch))
    photos = len(balanced)
    match recipe.train.sampler:
        case "none":
            return random.permutation(photos)
        case "weighted":
            return random.choice(photos, size=photos, p=expected_draws(recipe, balanced=balanced) / photos)
        case "oversample":
            rarer, _ = _rarer_and_commoner(recipe, balanced)
            missing = _oversampled_count(recipe, balanced) - len(rarer)
            whole_rounds, rest = divmod(missing, len(rarer))
            again = [rarer] * whole_rounds + [random.choice(rarer, size=rest, replace=False)]
            return random.permutation(np.concatenate([np.arange(photos), *again]))


def expected_draws(recipe: Recipe, *, balanced: torch.Tensor) -> np.ndarray:
    """How often each photo is drawn in an epoch on average, shape (photos,).

    weighted: by inverse class frequency, so that both classes get the same number of draws.
    """
    draws = np.ones(len(balanced))
    if recipe.train.sampler == "none":
        return draws
    rarer, commoner = _rarer_and_commoner(recipe, balanced)
    if recipe.train.sampler == "oversample":
        draws[rarer] = _oversampled_count(recipe, balanced) / len(rarer)
        return draws
    for members in (rarer, commoner):
        draws[members] = (len(rarer) + len(commoner)) / 2 / len(members)
    return draws


def class_weights(recipe: Recipe, labels: Labels) -> dict[str, torch.Tensor]:
    """The weights of the classes of questions that have classes, float32 of shape (K,); a question without weights is left out.

    auto: photos / (classes x photos of the class), as scikit-learn's "balanced"; `labels` are those of the split train.
    """
    train = recipe.train
    if train.focal_alpha is not None:
        return {name: torch.tensor(train.focal_alpha) for name, knobs in train.losses.items() if knobs.loss == "focal"}
    if train.class_weights == "none":
        return {}
    if train.class_weights == "auto":
        counts = {asked.name: _count(labels, asked) for asked in recipe.questions if asked.has_classes}
        return {name: torch.tensor(_inverse(count), dtype=torch.float32) for name, count in counts.items()}
    return {name: torch.tensor(values) for name, values in train.class_weights.items()}


def training_priors(recipe: Recipe, labels: Labels) -> dict[str, dict[str, list[float]]]:
    """The share of each class among the labelled photos of train (`natural`), and as weighted in the loss (`trained`).

    The format is that of `model.calibration`.
    """
    draws = expected_draws(recipe, balanced=balanced_labels(recipe, labels))
    weights = class_weights(recipe, labels)
    priors = {}
    for asked in recipe.questions:
        if not asked.has_classes:
            continue
        natural, seen = _count(labels, asked), _count(labels, asked, draws)
        if asked.name in weights:
            seen = seen * weights[asked.name].double().numpy()
        priors[asked.name] = {"natural": (natural / natural.sum()).tolist(), "trained": (seen / seen.sum()).tolist()}
    return priors


def _count(labels: Labels, question: Question, draws: np.ndarray | None = None) -> np.ndarray:
    """Photos of each class, each counted as often as it is drawn; shape (K,)."""
    values = labels[question.column].numpy()
    known = ~np.isnan(values)
    weights = np.ones(len(values)) if draws is None else draws
    return np.bincount(values[known].astype(int), weights=weights[known], minlength=len(question.classes))


def _inverse(counts: np.ndarray) -> np.ndarray:
    # A class that never occurs gets the weight 1, and does not change the weights of the others.
    present = counts > 0
    return np.divide(counts.sum(), present.sum() * counts, out=np.ones(len(counts)), where=present)


def _rarer_and_commoner(recipe: Recipe, balanced: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    of_each_class = [np.flatnonzero(balanced.numpy() == value) for value in (0, 1)]
    rarer, commoner = sorted(of_each_class, key=len)
    if not len(rarer):
        raise UserError(
            f"train.sampler is '{recipe.train.sampler}', and the {len(commoner)} photos of the split train with a label for "
            f"'{recipe.train.sampler_question}' all have the same. Set train.sampler: none."
        )
    return rarer, commoner


def _oversampled_count(recipe: Recipe, balanced: torch.Tensor) -> int:
    rarer, commoner = _rarer_and_commoner(recipe, balanced)
    return max(len(rarer), round(recipe.train.oversample_ratio * len(commoner)))
