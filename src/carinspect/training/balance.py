"""Owns how often each photo and each class counts in training, and the class prior that the model is thereby shown.

Three knobs shift it: `train.sampler` draws the rarer class of `clean` more often, `train.class_weights` and `train.focal_alpha` let it
weigh more. A photo without a `clean` label is drawn at its plain rate, once an epoch on average.
"""

import numpy as np
import torch

from carinspect.core.errors import UserError
from carinspect.core.seeds import derive_seed
from carinspect.core.tasks import LABEL_COLUMN
from carinspect.model.config import CLASS_COUNT
from carinspect.model.losses import Labels
from carinspect.training.config import TrainRecipe


def draw_epoch(recipe: TrainRecipe, *, clean: torch.Tensor, epoch: int) -> np.ndarray:
    """Positions of the photos in the order of an epoch: a function of (seed, epoch) and the labels `clean`, NaN where unknown.

    none: each photo once. weighted: as many draws, with replacement. oversample: every photo once, and the rarer class again and again
    until it makes up `oversample_ratio` of the commoner; which of its photos come up once more than others is drawn anew each epoch.
    """
    random = np.random.default_rng(derive_seed(recipe.seed, "order", epoch))
    photos = len(clean)
    match recipe.sampler:
        case "none":
            return random.permutation(photos)
        case "weighted":
            return random.choice(photos, size=photos, p=expected_draws(recipe, clean=clean) / photos)
        case "oversample":
            rarer, _ = _rarer_and_commoner(recipe, clean)
            missing = _oversampled_count(recipe, clean) - len(rarer)
            whole_rounds, rest = divmod(missing, len(rarer))
            again = [rarer] * whole_rounds + [random.choice(rarer, size=rest, replace=False)]
            return random.permutation(np.concatenate([np.arange(photos), *again]))


def expected_draws(recipe: TrainRecipe, *, clean: torch.Tensor) -> np.ndarray:
    """How often each photo comes up in an epoch on average, shape (photos,).

    weighted: by inverse class frequency, so that dirty and clean share the labelled draws evenly.
    """
    draws = np.ones(len(clean))
    if recipe.sampler == "none":
        return draws
    rarer, commoner = _rarer_and_commoner(recipe, clean)
    if recipe.sampler == "oversample":
        draws[rarer] = _oversampled_count(recipe, clean) / len(rarer)
        return draws
    for members in (rarer, commoner):
        draws[members] = (len(rarer) + len(commoner)) / 2 / len(members)
    return draws


def class_weights(recipe: TrainRecipe, labels: Labels) -> dict[str, torch.Tensor]:
    """The weights of the classes of `clean` and `weather`, float32 of shape (K,); a task that is not in it has none.

    auto: photos / (classes x photos of the class), as scikit-learn's "balanced"; `labels` are those of the split train.
    """
    if recipe.focal_alpha is not None:
        return {"clean": torch.tensor(recipe.focal_alpha)}
    if recipe.class_weights == "none":
        return {}
    if recipe.class_weights == "auto":
        counts = {task: _count(labels, task, np.ones(len(labels["clean"]))) for task in CLASS_COUNT}
        return {task: torch.tensor(_inverse(count), dtype=torch.float32) for task, count in counts.items()}
    return {task: torch.tensor(values) for task, values in recipe.class_weights.items()}


def training_priors(recipe: TrainRecipe, labels: Labels, *, tasks: list[str]) -> dict[str, dict[str, list[float]]]:
    """The prior of each class as it occurs among the labelled photos of train, and as the loss sees it; layout in `model.priors`."""
    draws = expected_draws(recipe, clean=labels["clean"])
    weights = class_weights(recipe, labels)
    priors = {}
    for task in CLASS_COUNT:
        if task not in tasks:
            continue
        natural = _count(labels, task, np.ones(len(draws)))
        seen = _count(labels, task, draws)
        if task in weights:
            seen = seen * weights[task].double().numpy()
        priors[task] = {"natural": (natural / natural.sum()).tolist(), "trained": (seen / seen.sum()).tolist()}
    return priors


def _count(labels: Labels, task: str, draws: np.ndarray) -> np.ndarray:
    values = labels[LABEL_COLUMN[task]].numpy()  # type: ignore[index]
    known = ~np.isnan(values)
    return np.bincount(values[known].astype(int), weights=draws[known], minlength=CLASS_COUNT[task])


def _inverse(counts: np.ndarray) -> np.ndarray:
    # A class that never occurs never weighs, and is no class to share with.
    present = counts > 0
    return np.divide(counts.sum(), present.sum() * counts, out=np.ones(len(counts)), where=present)


def _rarer_and_commoner(recipe: TrainRecipe, clean: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    dirty_and_clean = [np.flatnonzero(clean.numpy() == value) for value in (0, 1)]
    rarer, commoner = sorted(dirty_and_clean, key=len)
    if not len(rarer):
        raise UserError(
            f"train.sampler is '{recipe.sampler}', and the {len(commoner)} photos of the split train with a label for 'clean' all have the "
            "same. Set train.sampler: none."
        )
    return rarer, commoner


def _oversampled_count(recipe: TrainRecipe, clean: torch.Tensor) -> int:
    rarer, commoner = _rarer_and_commoner(recipe, clean)
    return max(len(rarer), round(recipe.oversample_ratio * len(commoner)))
