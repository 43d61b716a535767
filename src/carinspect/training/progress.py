"""Owns what a run has so far; all of it goes into the state that survives a kill."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Progress:
    """Plain values and tensors only."""

    epochs_done: int = 0
    steps_done: int = 0
    """Of the epoch after those."""
    loss_sums: dict[str, float] = field(default_factory=dict)
    """Of these steps: each task's losses and the total."""
    loss_counts: dict[str, int] = field(default_factory=dict)
    skipped_steps: int = 0
    """Of these steps: dropped, for a loss or gradient was not finite."""
    best_epoch: int = 0
    best_score: float = float("-inf")
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch: learning rate, mean training losses, dropped steps, validation skills and score."""

    def add_step(self, losses: dict[str, float] | None) -> None:
        """Count one step; None for a dropped one."""
        self.steps_done += 1
        self.skipped_steps += losses is None
        for name, loss in (losses or {}).items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + loss
            self.loss_counts[name] = self.loss_counts.get(name, 0) + 1

    def close_epoch(self, row: dict[str, Any]) -> None:
        """Add a row to the history and begin the next epoch."""
        self.history.append(row)
        self.epochs_done += 1
        self.steps_done, self.loss_sums, self.loss_counts, self.skipped_steps = 0, {}, {}, 0

    def mean_losses(self) -> dict[str, float]:
        """`train_loss_<task>` over the steps of this epoch."""
        return {f"train_loss_{name}": total / self.loss_counts[name] for name, total in self.loss_sums.items()}
