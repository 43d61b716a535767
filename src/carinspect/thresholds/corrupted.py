"""Applies the rule to the corrupted photos of test (data/corrupted.csv): what is still decided, and how much of it is right.

Report: {"passed": {<corruption>: [by severity]}, <question>: {<corruption>: {"decided": […], <word>: {"said": […], "wrong": […]}}}}.
`passed`: share of the photos that the gate lets through; `decided`: share that gets either word; `said` and `wrong` count labelled
photos. The corruption `none` has one entry: the same photos as they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.questions import Question, Side, by_name
from carinspect.inference.rules import QuestionRules, Thresholds
from carinspect.scoring.heat_map import HeatMap, write_heat_maps
from carinspect.thresholds.gate import passes_gate
from carinspect.thresholds.problems import with_p_good
from carinspect.thresholds.sample import count_outcome, take_sample

SIDES: tuple[Side, Side] = ("good", "bad")
NONE = "none"
Report = dict[str, Any]


def read_corrupted(path: Path) -> pd.DataFrame:
    """The table of data/corrupted.csv. Raises `UserError` when there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such table. Make it: dvc repro evaluate.")
    return pd.read_csv(path, dtype={"group": str}, keep_default_na=False, na_values=[""])


def apply_rules(corrupted: pd.DataFrame, thresholds: Thresholds) -> Report:
    """The report that the module describes, for every question with a rule."""
    corrupted = corrupted.assign(passed=passes_gate(corrupted, thresholds.gate))
    names = by_name(thresholds.questions)
    report: Report = {"passed": {}} | {name: {} for name in thresholds.rules}
    # sort=False: corruptions stay in the order of the table, severities ascend there.
    for (kind, _), rows in corrupted.groupby(["corruption", "severity"], sort=False):
        report["passed"].setdefault(kind, []).append(float(rows["passed"].mean()))
        for name, rules in thresholds.rules.items():
            cell = _apply(with_p_good(rows, names[name]), rules)
            found = report[name].setdefault(
                kind, {"decided": []} | {rules.photo.side(side).word: {"said": [], "wrong": []} for side in SIDES}
            )
            found["decided"].append(cell.pop("decided"))
            for word, counts in cell.items():
                for key, count in counts.items():
                    found[word][key].append(count)
    return report


def _apply(rows: pd.DataFrame, rules: QuestionRules) -> Report:
    """The counts of one cell."""
    rule, p_good = rules.photo, rows["p_good"].where(rows["passed"])
    said_good = p_good >= (np.inf if rule.T_high is None else rule.T_high)
    said_bad = p_good < (-np.inf if rule.T_low is None else rule.T_low)
    cell: Report = {"decided": float((said_good | said_bad).mean())}
    sample = take_sample(rows)
    for side in SIDES:
        chosen = rule.side(side)
        outcome = count_outcome(sample, chosen.threshold, confidence=rule.confidence, side=side)
        cell[chosen.word] = {"said": outcome.accepted_photos, "wrong": outcome.wrong_photos}
    return cell


def write_corrupted_plot(report: Report, questions: Sequence[Question], path: Path) -> None:
    """Heat maps: what passes the gate, then for each question what is decided and the precision of each word. None without corruptions."""
    kinds = [kind for kind in report["passed"] if kind != NONE]
    if not kinds:
        return
    maps = [HeatMap("passes the gate", _table({kind: report["passed"][kind] for kind in kinds}), best=1.0, worst=0.0)]
    for asked in questions:
        if asked.name not in report:
            continue
        of = {kind: report[asked.name][kind] for kind in kinds}
        maps.append(HeatMap(f"{asked.name}: decided", _table({kind: one["decided"] for kind, one in of.items()}), best=1.0, worst=0.0))
        for side in SIDES:
            word = asked.word(side)
            precision = {kind: [precision_of(*pair) for pair in zip(*one[word].values(), strict=True)] for kind, one in of.items()}
            maps.append(HeatMap(f"precision of {word}", _table(precision), best=1.0, worst=0.5))
    write_heat_maps(maps, path)


def precision_of(said: int, wrong: int) -> float | None:
    """1 - wrong / said; None where nothing was said."""
    return 1 - wrong / said if said else None


def _table(cells: dict[str, list[float | None]]) -> pd.DataFrame:
    return pd.DataFrame(cells, dtype=float).T.rename(columns=lambda place: place + 1)


def say_corrupted(report: Report) -> str:
    """A table in text: a row for each corruption, over all its severities together."""
    rows: dict[str, dict[str, Any]] = {}
    for kind, passed in report["passed"].items():
        row: dict[str, Any] = {"passes the gate": np.mean(passed)}
        for name, of in report.items():
            if name == "passed":
                continue
            row[f"{name}: decided"] = np.mean(of[kind]["decided"])
            for word, counts in of[kind].items():
                if word != "decided":
                    row[f"precision of {word}"] = precision_of(sum(counts["said"]), sum(counts["wrong"]))
        rows["as it is" if kind == NONE else kind] = row
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float).round(3)
    return "Photos of test, corrupted, under this rule; all severities together\n" + table.to_string(na_rep="–")
