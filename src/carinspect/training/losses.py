"""The loss of a training: each question's mean loss over an effective batch, and their weighted total.

A label that is NaN is unknown and does not count. Shapes: B photos, K classes, Q questions in the order of the recipe.
"""

import math
from collections.abc import Mapping
from typing import assert_never

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

from carinspect.core.questions import Question
from carinspect.training.balance import Labels, class_weights
from carinspect.training.config import Recipe, TrainRecipe


class Objective:
    """The losses of a recipe."""

    def __init__(self, recipe: Recipe, labels: Labels, *, device: torch.device) -> None:
        """`labels`: all labels of the split train, from which class weights by frequency are computed."""
        self.questions = recipe.questions
        self.names = [question.name for question in self.questions]
        self.weights = QuestionWeights(recipe).to(device)
        self._train = recipe.train
        self._class_weights = {name: weights.to(device) for name, weights in class_weights(recipe, labels).items()}

    def divisors(self, labels: Labels) -> dict[str, float]:
        """The divisor of each question's summed loss for these photos, one effective batch; 0 when none has a label.

        It is the number of labelled photos, weighted by class, as in torch.nn.CrossEntropyLoss with `weight`. Because it is taken over the
        whole effective batch, gradient accumulation is exact.
        """
        sums = {}
        for question in self.questions:
            known = labels[question.column][~labels[question.column].isnan()]
            weights = self._class_weights.get(question.name)
            sums[question.name] = float(len(known)) if weights is None else float(weights.cpu()[known.long()].sum(dtype=torch.float64))
        return sums

    def mean_losses(self, logits: Mapping[str, torch.Tensor], labels: Labels, divisors: Mapping[str, float]) -> torch.Tensor:
        """The part of each question's mean loss due to these photos, shape (Q,); the parts sum to the mean of the effective batch."""
        sums = []
        for question in self.questions:
            # Without a label the sum is 0 and so is its gradient; every parameter then has a gradient on every process.
            known = ~labels[question.column].isnan()
            loss = summed_loss(
                question,
                logits[question.name][known],
                labels[question.column][known],
                self._train,
                weights=self._class_weights.get(question.name),
            )
            sums.append(loss / (divisors[question.name] or 1.0))
        return torch.stack(sums)


def summed_loss(
    question: Question, logits: torch.Tensor, target: torch.Tensor, train: TrainRecipe, *, weights: torch.Tensor | None
) -> torch.Tensor:
    """The loss of one question, summed over labelled photos. `weights`: of its classes, shape (K,); None: all photos count equally."""
    loss = train.losses[question.name].loss
    match question.kind:
        case "binary":
            if loss == "focal":
                return focal_loss(logits, target, gamma=train.focal_gamma, weights=weights)
            return binary_cross_entropy(logits, target, smoothing=train.label_smoothing, weights=weights)
        case "score":
            return regression_loss(logits, target, loss)
        case "classes":
            return F.cross_entropy(logits, target.long(), weight=weights, reduction="sum", label_smoothing=train.label_smoothing)
        case _:
            assert_never(question.kind)


def binary_cross_entropy(logits: torch.Tensor, target: torch.Tensor, *, smoothing: float, weights: torch.Tensor | None) -> torch.Tensor:
    """Summed cross-entropy of two classes from one logit; equals torch's `cross_entropy` of the logits (0, z).

    `smoothing`: as in torch, Szegedy et al. (2016), section 7. `weights`: of the classes 0 and 1.
    """
    if smoothing:
        target = target * (1 - smoothing) + smoothing / 2
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return weights[0] * F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights[1] / weights[0], reduction="sum")


def focal_loss(logits: torch.Tensor, target: torch.Tensor, *, gamma: float, weights: torch.Tensor | None) -> torch.Tensor:
    """Summed -alpha_t (1 - p_t)^gamma log p_t, Lin et al. (2017), equation 5; `weights` holds alpha of the classes 0 and 1."""
    losses = sigmoid_focal_loss(logits, target, alpha=-1, gamma=gamma, reduction="none")
    return losses.sum() if weights is None else (weights[target.long()] * losses).sum()


def regression_loss(logits: torch.Tensor, target: torch.Tensor, loss: str) -> torch.Tensor:
    """Summed over scores 0..1, of the sigmoid of the logits: `smooth_l1` (Huber, quadratic below 0.1), `mse` or `bce`."""
    match loss:
        case "smooth_l1":
            return F.smooth_l1_loss(torch.sigmoid(logits), target, reduction="sum", beta=0.1)
        case "mse":
            return F.mse_loss(torch.sigmoid(logits), target, reduction="sum")
        case "bce":
            return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        case _:
            raise AssertionError(loss)


class QuestionWeights(nn.Module):
    """The weight of each question in the total loss, fixed or learnt.

    uncertainty: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", equations 7 and 10. With the
    log-variance s = log sigma^2 of a question as a parameter, total = sum over questions of w L + s / 2, where w = exp(-s) for classes
    and exp(-s) / 2 for a score. s starts where w equals the question's `loss_weight`; a question with weight 0 is left out.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.names = [question.name for question in recipe.questions]
        weights = [recipe.train.losses[name].weight for name in self.names]
        factors = [1.0 if question.has_classes else 0.5 for question in recipe.questions]
        self.fixed_Q: torch.Tensor
        self.factor_Q: torch.Tensor
        self.log_variance_Q: nn.Parameter | None = None
        # Not saved in the state, because both follow from the recipe.
        self.register_buffer("fixed_Q", torch.tensor(weights), persistent=False)
        self.register_buffer("factor_Q", torch.tensor(factors), persistent=False)
        if recipe.train.loss_weighting == "uncertainty":
            begin = [math.log(factor / weight) if weight else 0.0 for factor, weight in zip(factors, weights, strict=True)]
            self.log_variance_Q = nn.Parameter(torch.tensor(begin))

    def values(self) -> torch.Tensor:
        """The current weights, shape (Q,), detached: the network's gradient uses them as constants."""
        if self.log_variance_Q is None:
            return self.fixed_Q
        return self._learnt().detach()

    def total(self, losses_Q: torch.Tensor, present_Q: torch.Tensor) -> torch.Tensor:
        """The loss that is minimised, from the mean losses of an effective batch; `present_Q`: which questions have a label in it."""
        if self.log_variance_Q is None:
            return (self.fixed_Q * losses_Q).sum()
        terms_Q = self._learnt() * losses_Q + self.log_variance_Q / 2
        # Without this, the weight of a question without labels would grow without any data.
        return torch.where(present_Q & (self.fixed_Q > 0), terms_Q, 0.0).sum()

    def set_gradient(self, losses_Q: torch.Tensor, present_Q: torch.Tensor) -> None:
        """Set the gradient of the log-variances from the losses of the whole batch, which are equal on every rank."""
        if self.log_variance_Q is not None:
            (self.log_variance_Q.grad,) = torch.autograd.grad(self.total(losses_Q.detach(), present_Q), [self.log_variance_Q])

    def named_values(self) -> dict[str, float]:
        """`loss_weight_<question>` of learnt weights, for the history; {} when they are fixed, since the recipe has them."""
        if self.log_variance_Q is None:
            return {}
        return {f"loss_weight_{name}": value for name, value in zip(self.names, self.values().tolist(), strict=True)}

    def _learnt(self) -> torch.Tensor:
        assert self.log_variance_Q is not None
        return torch.where(self.fixed_Q > 0, self.factor_Q * torch.exp(-self.log_variance_Q), 0.0)
