"""Chooses how much the network and how much the linear probe counts in their ensemble, on the split val."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, logit

from carinspect.core.questions import Question
from carinspect.evaluation.predictions import answered, numbers
from carinspect.evaluation.temperature import fit_temperature, logits_of, negative_log_likelihood
from carinspect.model.backbones import build_pretrained
from carinspect.model.calibration import logit_offsets
from carinspect.model.checkpoint import Checkpoint
from carinspect.model.ensemble import EnsembleFit
from carinspect.scoring.ranking import Array

SHARES = tuple(round(share, 1) for share in np.linspace(1, 0, 11).tolist())
"""Of the network; of equally good ones the first is taken."""

EDGE = 1e-6
"""Scores nearer to 0 or 1 count as this far from it: the log-odds of 0 and 1 are infinite."""


def fit_ensemble(
    checkpoint: Checkpoint, val: pd.DataFrame, baseline: pd.DataFrame, *, probe: Path, pretrained: bool | str | None
) -> EnsembleFit:
    """The ensemble of `checkpoint` and the probe in the file `probe`.

    val: photos of val with the network's raw columns; baseline: the content of data/probe.csv. pretrained: `model.pretrained` of
    params.yaml; its file is only read where the training changed the backbone. Raises `UserError` when it is not the recipe's.
    """
    offsets = logit_offsets(checkpoint.questions, checkpoint.lineage["priors"])
    shares = {}
    for question in checkpoint.questions:
        known = answered(val, question)
        if set(question.raw_columns) <= set(baseline.columns) and len(known):
            of_probe = known[["image_path"]].merge(baseline, on="image_path", validate="one_to_one")
            shares[question.name] = _choose_share(known, of_probe, question, offsets=offsets)
    return EnsembleFit(
        probe=torch.load(probe, map_location="cpu", weights_only=True),
        shares=shares,
        offsets=offsets,
        backbone=None if _still_pretrained(checkpoint) else _load_backbone(checkpoint, pretrained),
    )


def _choose_share(network: pd.DataFrame, probe: pd.DataFrame, question: Question, *, offsets: Mapping[str, list[float]]) -> float:
    """The share with the least loss on the labelled rows: after the temperature of its own, or the absolute error of a score."""
    labels_N = numbers(network, question.column)
    if not question.has_classes:
        of_network_N, of_probe_N = (logit(numbers(rows, question.raw_columns[0]).clip(EDGE, 1 - EDGE)) for rows in (network, probe))
        return min(SHARES, key=lambda share: float(np.abs(expit(share * of_network_N + (1 - share) * of_probe_N) - labels_N).mean()))
    network_NxK, probe_NxK = logits_of(network, question) + np.asarray(offsets[question.name]), logits_of(probe, question)

    def loss(share: float) -> float:
        mixed_NxK: Array = share * network_NxK + (1 - share) * probe_NxK
        return negative_log_likelihood(mixed_NxK, labels_N, temperature=fit_temperature(mixed_NxK, labels_N))

    return min(SHARES, key=loss)


def _still_pretrained(checkpoint: Checkpoint) -> bool:
    """Whether the probe's features are among those that the heads see."""
    return checkpoint.model.begins_with_probe and checkpoint.lineage["recipe"]["train"]["backbone_lr_factor"] == 0


def _load_backbone(checkpoint: Checkpoint, pretrained: bool | str | None) -> dict[str, torch.Tensor]:
    return build_pretrained(checkpoint.model, pretrained, image_side_px=checkpoint.image_side_px).state_dict()
