"""Owns undoing a shifted class prior: a model that saw the rarer class more often than it occurs finds it too often.

Priors are recorded in the checkpoint's lineage, for each task that chooses among classes and was trained:

    {"clean": {"natural": [share of dirty, share of clean], "trained": [the same, as the loss saw them]},
     "weather": {the same, of four}}
"""

from collections.abc import Mapping, Sequence

import numpy as np

from carinspect.model.config import CLASS_COUNT

Priors = Mapping[str, Mapping[str, Sequence[float]]]


def logit_offsets(priors: Priors) -> dict[str, list[float]]:
    """For each task what to add to its logits, one number a class (`clean`: dirty, clean); zeros where nothing was shifted.

    p(class | photo) under the natural prior is proportional to p_trained(class | photo) x natural(class) / trained(class): Saerens,
    Latinne and Decaestecker (2002), equation 2.4; for two classes Elkan (2001), theorem 2. A class that training has never seen keeps its
    logit.
    """
    offsets = {task: [0.0] * count for task, count in CLASS_COUNT.items()}
    for task, prior in priors.items():
        natural_K, trained_K = np.asarray(prior["natural"]), np.asarray(prior["trained"])
        seen_K = (natural_K > 0) & (trained_K > 0)
        ratio_K = np.divide(natural_K, trained_K, out=np.ones(len(natural_K)), where=seen_K)
        offsets[task] = np.log(ratio_K).tolist()
    return offsets


def clean_offset(offsets: Mapping[str, Sequence[float]]) -> float:
    """What to add to the one logit of `clean`, the log-odds of clean."""
    dirty, clean = offsets["clean"]
    return clean - dirty
