"""Writes reports/model_card.md: what a person should know before using the model. All figures come from the pipeline's files.

The sections follow Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, assert_never

import jinja2
import pandas as pd

from carinspect.core.questions import Kind, Question, Side
from carinspect.core.tables import SPLITS
from carinspect.export.metadata import Trained
from carinspect.inference.rules import MarkRule, Rule

MEASURES: dict[Kind, tuple[tuple[str, str, str | None], ...]] = {
    "binary": (
        ("roc_auc", "ROC AUC", None),
        ("average_precision", "average precision", "positive_share"),
        ("brier", "Brier score", "constant_brier"),
    ),
    "score": (
        ("mae", "mean absolute error", "constant_mae"),
        ("rmse", "root mean squared error", "constant_rmse"),
        ("spearman", "rank correlation", None),
    ),
    "classes": (("accuracy", "accuracy", "constant_accuracy"), ("macro_f1", "macro F1", "constant_macro_f1")),
}
"""Key in metrics/evaluate.json, its name on the card, and the key of the constant answer's figure. Slices and headlines have the first."""

MARK_FIGURES = {
    "pointing": "the hottest place is marked",
    "pointing_near": "or within 5 % of the side of a mark",
    "pointing_small": "the hottest place is marked, small",
    "pixel_ap": "average precision of the cells",
    "mean_iou": "mean IoU",
}
"""Key in metrics/evaluate.json under `marks`, and its name on the card."""

OTHER_CARS = "A car of which another number of photos is shown is decided without a promise."
SIDES: tuple[Side, Side] = ("good", "bad")


def draw_model_card(trained: Trained, table: pd.DataFrame, *, parity: Mapping[str, Any]) -> str:
    """The card as Markdown; parity: metrics/export_onnx.json. The same inputs give the same text: it has no date."""
    questions, evaluate = trained.checkpoint.questions, trained.metrics["evaluate"]
    return _template().render(
        checkpoint=trained.checkpoint,
        calibration=trained.calibration.questions,
        evaluate=evaluate,
        leaks=trained.metrics["split"]["leaks"],
        shortcuts=trained.metrics["describe"]["warnings"],
        parity=parity,
        questions=[(asked, _say_answer(asked), evaluate["test"][asked.name]) for asked in questions],
        measures=MEASURES,
        sources=_counts(table, "source", sorted(table["source"].unique()), questions),
        splits=_counts(table, "split", SPLITS, questions),
        corrupted=_say_corrupted(evaluate["corruptions"], trained.metrics["select_threshold"]["corruptions"], questions),
        marks={name: parts["test"] for name, parts in evaluate["marks"].items()},
        mark_figures=MARK_FIGURES,
        mark_promises=[_say_marks(rule) for rule in trained.thresholds.marks.values()],
        decisions={
            name: [*(_say_rule(rule) for rule in (rules.photo, *rules.cars)), [OTHER_CARS]]
            for name, rules in trained.thresholds.rules.items()
        },
    )


def pick_headlines(trained: Trained, table: pd.DataFrame) -> dict[str, Any]:
    """The content of metrics/headline.json: the figures by which two experiments are compared at a glance.

    Of the data `photos`, `groups` and `leaks`; of each question on test the first of its `MEASURES`, and where something is decided about
    it `T_high`, `precision` and `recall` of the good word. None where there is no such figure.
    """
    test, rules = trained.metrics["evaluate"]["test"], trained.thresholds.rules
    found: dict[str, Any] = {"photos": len(table), "groups": table["group"].nunique(), "leaks": trained.metrics["split"]["leaks"]}
    for asked in trained.checkpoint.questions:
        (key, _, _), *_ = MEASURES[asked.kind]
        found[asked.name] = {key: test[asked.name].get(key)}
        if asked.name in rules:
            good = rules[asked.name].photo.good
            found[asked.name] |= {"T_high": good.threshold, "precision": good.on_test.precision, "recall": good.on_test.recall}
    return found


def _say_answer(question: Question) -> str:
    match question.kind:
        case "binary":
            return f"probability of {question.classes[1]}, else {question.classes[0]}"
        case "score":
            return "0 to 1, 1 = good"
        case "classes":
            return f"one of {', '.join(question.classes)}"
        case _:
            assert_never(question.kind)


def _say_rule(rule: Rule) -> list[str]:
    """Sentences on both words of a rule: what is proved for each, and its result on test."""
    said = [_say_side(rule, side) for side in ("good", "bad")]
    if rule.confidence_of_both is not None:
        said.append(f"Both promises hold together at the confidence {rule.confidence_of_both:g}.")
    for found in (rule.good, rule.bad):
        for group in found.groups:
            held = "holds, too" if group.promise is not None else f"is not proved: {group.reason}"
            said.append(f"Where {group.column} is {group.value} the promise of {found.word} {held}.")
    return said + [f"Warning: {warning}" for warning in rule.warnings]


def _say_side(rule: Rule, side: Side) -> str:
    found, who = rule.side(side), "photo" if rule.stratum is None else f"car of {rule.stratum.in_words}"
    if found.threshold is None:
        return f"**No {who} is called {found.word}**: {found.reason}."
    bound = f"at least {found.threshold:.3f}" if side == "good" else f"below {found.threshold:.3f}"
    said = [f"A {who} is called {found.word} where the probability of {rule.good.word} is {bound}."]
    promise, source, test = found.promise, found.on_source, found.on_test
    if promise is None:
        met = f"the threshold met the precision {rule.target_precision:g} on the split {rule.source}, on which it was chosen"
        said.append(f"**This proves nothing for new cars**: {met}.")
    else:
        rate = "" if promise.at_rate is None else f", where a share of {promise.at_rate:g} is {rule.bad.word}"
        said.append(
            f"Proved at the confidence {promise.confidence:g}: it is {found.word} with a probability of at least {promise.precision:g}."
        )
        said.append(
            f"This holds for {promise.of}{rate}. The proof rests on {source.accepted_groups} groups of the split {rule.source} that"
        )
        said.append(f"are called {found.word}, {source.wrong_groups} of them wrongly.")
    if test.precision is not None:
        interval, recall = _interval(test.model_dump(), "precision"), _figure(test.recall)
        said.append(f"On test: precision {_figure(test.precision)} ({interval}), recall {recall}, {test.accepted_groups} groups called so.")
    return " ".join(said)


def _say_marks(rule: MarkRule) -> str:
    promise = rule.promise
    if promise is None:
        return f"**Nothing is proved about marks of {rule.kind}**; they are shown as unproved."
    return (
        f"Proved at the confidence {promise.confidence:g}: a mark of {rule.kind} touches real {rule.kind} with a probability of at least "
        f"{promise.target_precision:g}. This holds for a mark drawn at random from a new group that has one, of a photo that passes the "
        f"gate. The proof rests on {promise.groups} groups, {promise.wrong} of them wrong."
    )


def _say_corrupted(drops: Mapping[str, Any], under_rule: Mapping[str, Any], questions: Sequence[Question]) -> list[list[str]]:
    """The table on corrupted photos, its head first: all severities of a corruption together. Empty where none were measured.

    drops: metrics/evaluate.json; under_rule: metrics/select_threshold.json, both under `corruptions`.
    """
    decided = [asked for asked in questions if asked.name in under_rule]
    head = ["corruption", "passes the gate", *(f"{asked.name}: loss of {MEASURES[asked.kind][0][1]}" for asked in questions)]
    head += [words for one in decided for words in (f"{one.name}: decided", *(f"precision of {one.word(side)}" for side in SIDES))]
    rows = []
    for kind, lost in drops["drop"].items():
        row = [kind.replace("_", " "), _mean(under_rule["passed"][kind]), *(_mean(lost[asked.name]) for asked in questions)]
        for one in decided:
            found = under_rule[one.name][kind]
            counts = [(sum(found[word]["said"]), sum(found[word]["wrong"])) for word in (one.word(side) for side in SIDES)]
            row += [_mean(found["decided"]), *(f"{1 - wrong / said:.3f} (n = {said})" if said else "–" for said, wrong in counts)]
        rows.append(row)
    return [head, *rows] if rows else []


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else "–"


def _counts(table: pd.DataFrame, column: str, names: Iterable[str], questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Photos, groups, and labelled photos of each question, for each value of `column` and in total."""
    parts = [(name, table[table[column] == name]) for name in names] + [("all", table)]
    return [
        {
            "name": name,
            "photos": len(rows),
            "groups": rows["group"].nunique(),
            "labels": [rows[one.column].notna().sum() for one in questions],
        }
        for name, rows in parts
    ]


def _template() -> jinja2.Template:
    text = resources.files("carinspect.export").joinpath("card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"figure": _figure, "interval": _interval, "cell": _cell}
    return environment.from_string(text)


def _cell(text: str) -> str:
    # A source's name may contain a bar, which would end the table cell.
    return text.replace("|", "\\|")


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _interval(scores: dict[str, Any], name: str) -> str:
    low, high = scores[f"{name}_low"], scores[f"{name}_high"]
    return "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"
