"""Chooses from which strength on a marked region is shown, and says what is proved about such marks: that they touch what they point at.

A trial is one mark, drawn at random among those of a group that are strong enough; groups are independent, so the binomial test is exact.
The promise is about **a mark drawn at random from a new group that has one**. Strengths are tested from a start downwards as long as each
is proved (fixed sequence testing; Bauer 1991), so the level is not shared. The start is where the reference split foretells the greatest
power; labels of the source split do not move it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binom

from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.core.seeds import derive_seed
from carinspect.inference.rules import MarkPromise, MarkRule
from carinspect.thresholds.binomial import Floats, lower_bound, p_value
from carinspect.thresholds.config import SelectThresholdParams

CANDIDATES = 40
ROUNDING = 1e-6
"""Strengths stand in the table with six decimals; the rule's is lowered by this, so that it keeps each mark that it was proved with."""


def read_marks(path: Path) -> pd.DataFrame:
    """The table data/marks.csv, whose columns evaluation/marks.py describes. Raises `UserError` when it is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such table. Run the stage that writes it: dvc repro evaluate.")
    text = dict.fromkeys(("image_path", "source", "group", "split", "question", "what"), str)
    return pd.read_csv(path, dtype=text | dict.fromkeys(("strength", "right", "share"), float), keep_default_na=False, na_values=[""])


def choose_marks(
    table: pd.DataFrame, questions: Sequence[Question], cuts: Mapping[str, float], params: SelectThresholdParams, *, passing: set[str]
) -> dict[str, MarkRule]:
    """The rule of each question with a map, by name.

    table: data/marks.csv. cuts: by question, the cut of its map. passing: photos that the gate lets through; the promise is about those.
    """
    table = table[table["image_path"].isin(passing)]
    return {asked.name: _choose(table, asked, cuts[asked.name], params) for asked in questions if asked.name in cuts}


def _choose(table: pd.DataFrame, question: Question, cut: float, params: SelectThresholdParams) -> MarkRule:
    source, reference = (judged_marks(table, question.name, split) for split in (params.source, params.reference_split))
    strengths = np.unique(np.quantile(reference.strength, np.linspace(0, 1, CANDIDATES))) if len(reference) else np.zeros(0)
    target = params.marks
    least = prove(source, reference, strengths, precision=target.target_precision, confidence=target.confidence)
    promise = None
    if least is not None and params.source == "calib":
        groups, wrong = count_trials(source, least)
        bound = lower_bound(groups, wrong, confidence=target.confidence)
        promise = MarkPromise(
            target_precision=target.target_precision, confidence=target.confidence, bound=bound, groups=groups, wrong=wrong
        )
    return MarkRule(
        question=question.name,
        kind=str(question.marks),
        cut=cut,
        least_strength=cut if least is None else max(cut, least - ROUNDING),
        promise=promise,
    )


@dataclass(frozen=True)
class JudgedMarks:
    """Marks of which it is known whether they are right, in a random order that does not depend on that; all arrays of shape (N,)."""

    group: npt.NDArray[np.int64]
    strength: Floats
    right: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.group)


def judged_marks(table: pd.DataFrame, question: str, split: str) -> JudgedMarks:
    """Those of one split."""
    rows = table[(table["question"] == question) & (table["split"] == split) & (table["what"] == "mark") & table["right"].notna()]
    turn = rows.groupby("image_path").cumcount()
    lot = [derive_seed("drawn from its group", path, int(one)) for path, one in zip(rows["image_path"], turn, strict=True)]
    order = np.argsort(np.array(lot, dtype=np.int64), kind="stable")
    group, strength, right = pd.factorize(rows["group"])[0][order], rows["strength"].to_numpy()[order], rows["right"].to_numpy()[order]
    return JudgedMarks(group.astype(np.int64), strength.astype(np.float64), right == 1)


def count_trials(marks: JudgedMarks, strength: float) -> tuple[int, int]:
    """Groups with a mark of at least `strength`, and those whose drawn mark is wrong."""
    enough = marks.strength >= strength
    _, drawn = np.unique(marks.group[enough], return_index=True)
    return len(drawn), int((~marks.right[enough][drawn]).sum())


def prove(source: JudgedMarks, reference: JudgedMarks, strengths: Floats, *, precision: float, confidence: float) -> float | None:
    """The least of the ascending `strengths` that is proved; None where the test stops at its start."""
    least = None
    for strength in strengths[: foretell_start(source, reference, strengths, precision=precision, confidence=confidence) + 1][::-1]:
        groups, wrong = count_trials(source, strength)
        if p_value(np.array([groups]), np.array([wrong]), target=precision)[0] > 1 - confidence:
            break
        least = float(strength)
    return least


def foretell_start(source: JudgedMarks, reference: JudgedMarks, strengths: Floats, *, precision: float, confidence: float) -> int:
    """Index of the strength whose test is the likeliest to prove `precision`; of equal ones the least. -1 without strengths.

    The share of wrong marks is taken from the reference split, of `source` only the number of groups.
    """
    powers = []
    for strength in strengths:
        known, wrong = count_trials(reference, strength)
        groups, _ = count_trials(source, strength)
        counts = np.arange(groups + 1)
        allowed = counts[p_value(np.full(groups + 1, groups), counts, target=precision) <= 1 - confidence]
        # With Jeffreys' prior: a few marks of val that are all right do not foretell that all are.
        powers.append(float(binom.cdf(allowed.max(), groups, (wrong + 0.5) / (known + 1))) if allowed.size else 0.0)
    return int(np.argmax(powers)) if powers else -1


def headline_marks(rules: Mapping[str, MarkRule], table: pd.DataFrame) -> dict[str, Any]:
    """For metrics/select_threshold.json: each rule with its marks on test.

    `on_test`: `groups` with a mark, `wrong` of these trials, `found` (share of the outlined regions that a mark touches), `false_photos`
    (share of the unmarked photos with a mark) and `unmarked_photos`.
    """
    found: dict[str, Any] = {}
    for name, rule in rules.items():
        test = table[(table["question"] == name) & (table["split"] == "test")]
        photos, outlined = test[(test["what"] == "photo") & (test["right"] == 0)], test[test["what"] == "outline"]
        shown = test[(test["what"] == "mark") & (test["strength"] >= rule.least_strength)]
        groups, wrong = count_trials(judged_marks(test, name, "test"), rule.least_strength)
        found[name] = rule.model_dump() | {
            "on_test": {
                "groups": groups,
                "wrong": wrong,
                "found": float((outlined["strength"] >= rule.least_strength).mean()) if len(outlined) else None,
                "false_photos": float(photos["image_path"].isin(shown["image_path"]).mean()) if len(photos) else None,
                "unmarked_photos": len(photos),
            }
        }
    return found


def say_marks(headline: Mapping[str, Any]) -> list[str]:
    """One line for each question with a map."""
    lines = []
    for name, one in headline.items():
        promise, test = one["promise"], one["on_test"]
        proved = (
            "nothing is proved about them, so they are shown as unproved"
            if promise is None
            else f"at least {promise['target_precision']:.0%} touch real {one['kind']}, proved at {promise['confidence']:.0%} confidence "
            f"({promise['groups']} groups, {promise['wrong']} wrong)"
        )
        lines.append(f"{name}: marks of {one['kind']} from strength {one['least_strength']:.3f}: {proved}; on test {test['wrong']} of "
                     f"{test['groups']} wrong")  # fmt: skip
    return lines
