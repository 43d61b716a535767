"""Builds the rule for each decision problem (thresholds, promises, results, costs), and all rules of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carinspect.core.questions import DeclaredQuestion, Side
from carinspect.inference.gate import GateRule
from carinspect.inference.rules import (
    FORMAT,
    SIDES,
    Alternative,
    FieldRates,
    GroupPromise,
    MarkRule,
    Needed,
    Pair,
    Promise,
    QuestionRules,
    Rule,
    SetRule,
    SideRule,
    Thresholds,
)
from carinspect.thresholds.choice import NEVER, Choice, break_even, choose_empirical, choose_guaranteed, needed_for_proof
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.costs import CostMap, forecast, map_costs
from carinspect.thresholds.evidence import Evidence, gather, highest_wrong_rate, lower_precision_at, precision_at
from carinspect.thresholds.gate import passes_gate
from carinspect.thresholds.plan import cut_points
from carinspect.thresholds.problems import Problem, pose_cars, pose_groups, pose_photo
from carinspect.thresholds.sample import Sample, count_outcome


@dataclass(frozen=True)
class Selected:
    """The rules of one question, and the data for their plots."""

    rules: QuestionRules
    source: Sample
    """The labelled photos of the source split."""
    costs: CostMap | None
    """Costs of all pairs of thresholds; None when there are too few labels to compute them."""


def select_thresholds(
    table: pd.DataFrame, questions: Sequence[DeclaredQuestion], params: SelectThresholdParams, *, gate: GateRule
) -> dict[str, Selected]:
    """The rules of every question with `decide`, by name, behind `gate`, from a table of predictions."""
    table = table.assign(passed=passes_gate(table, gate))
    selected: dict[str, Selected] = {}
    classes = {question.column: question.classes for question in questions}
    for question in questions:
        if question.decide is None:
            continue
        photo, groups = pose_photo(table, question, params), pose_groups(table, question, params, classes=classes)
        # The promise for all photos shares the level with those of the groups that can be proved.
        photo = replace(photo, target=replace(photo.target, families=1 + sum(group.obstacle is None for group in groups)))
        rule, costs = select(photo, params, groups)
        cars = [select(problem, params)[0] for problem in pose_cars(table, question, params)]
        rules = QuestionRules(photo=rule, cars=cars, field=restate(photo, rule))
        selected[question.name] = Selected(rules, photo.source, costs)
    return selected


def collect_thresholds(
    selected: dict[str, Selected],
    questions: Sequence[DeclaredQuestion],
    *,
    gate: GateRule,
    predictions_sha256: str,
    sets: dict[str, SetRule] | None = None,
    marks: dict[str, MarkRule] | None = None,
) -> Thresholds:
    """The content of models/threshold.json. sets: see `choose_sets`; marks: see `choose_marks`."""
    asked = [question.asked for question in questions]
    rules = {name: one.rules for name, one in selected.items()}
    return Thresholds(
        format=FORMAT, questions=asked, gate=gate, rules=rules, sets=sets or {}, predictions_sha256=predictions_sha256, marks=marks or {}
    )


def select(problem: Problem, params: SelectThresholdParams, groups: Sequence[Problem] = ()) -> tuple[Rule, CostMap | None]:
    """The rule for one problem, and the costs of all pairs of thresholds, None when they are unknown.

    groups: those of its photos for which a promise is asked, too.
    """
    target, source, test = problem.target, problem.source, problem.test
    choices = {"guaranteed": NEVER, "empirical": NEVER}
    needed: dict[Side, Needed | None] = dict.fromkeys(SIDES)
    tested = [group for group in groups if group.obstacle is None]
    if problem.obstacle is None:
        guaranteed = choose_guaranteed(source, problem.reference, target, [(group.source, group.reference) for group in tested])
        choices = {"guaranteed": guaranteed, "empirical": choose_empirical(source, target)}
        needed = {side: needed_for_proof(source, problem.reference, target, side=side) for side in SIDES}
    chosen = choices[params.method]
    base_rate = float(source.one_a_group().good.mean()) if source.groups else None

    def side_rule(side: Side, threshold: float | None) -> SideRule:
        return SideRule(
            word=problem.question.word(side),
            threshold=threshold,
            promise=_promise(problem, params, threshold, side=side),
            reason=_reason(problem, params, needed[side], side=side) if threshold is None else None,
            needed=needed[side],
            groups=_promise_groups(groups, chosen, params, side=side),
            on_source=count_outcome(source, threshold, confidence=target.confidence, side=side),
            on_test=count_outcome(test, threshold, confidence=target.confidence, side=side),
        )

    good, bad = side_rule("good", chosen.T_high), side_rule("bad", chosen.T_low)
    pair = _priced(problem, chosen)
    costs = cheapest = allowed = None
    if problem.obstacle is None and pair.on_source.cost is not None:
        cuts = {side: cut_points(source.one_a_group().passed, side=side) for side in SIDES}
        costs = _map(problem, low=cuts["bad"], high=cuts["good"])
        cheapest = _priced(problem, costs.cheapest())
        allowed = _priced(problem, _map(problem, low=chosen.may_be_low, high=chosen.may_be_high).cheapest())
    both = good.promise is not None and bad.promise is not None
    rule = Rule(
        question=problem.question.name,
        unit=problem.unit,
        method=params.method,
        source=params.source,
        target_precision=target.precision,
        confidence=target.confidence,
        confidence_of_both=2 * target.confidence - 1 if both else None,
        starts=target.starts,
        good=good,
        bad=bad,
        base_rate=base_rate,
        warnings=_warnings(problem, params, base_rate),
        methods={name: _alternative(problem, choice) for name, choice in choices.items()},
        chosen=pair,
        cheapest=cheapest,
        cheapest_allowed=allowed,
        stratum=problem.stratum,
    )
    return rule, costs


def _promise_groups(groups: Sequence[Problem], chosen: Choice, params: SelectThresholdParams, *, side: Side) -> list[GroupPromise]:
    threshold, tested, found = chosen.T_high if side == "good" else chosen.T_low, 0, []
    for group in groups:
        assert group.members is not None
        column, value = group.members
        promise, reason, missing = None, group.obstacle, group.missing
        if reason is None:
            promise = _promise(group, params, threshold, side=side) if chosen.proves(side, tested) else None
            tested += 1
        if promise is None and reason is None:
            needed = needed_for_proof(group.source, group.reference, group.target, side=side)
            reason = _reason(group, params, needed, side=side) if params.method == "guaranteed" else "method: empirical proves nothing"
            missing = None if needed.labelled_groups is None else max(0, needed.labelled_groups - group.source.groups)
        on_source, on_test = (
            count_outcome(sample, threshold, confidence=group.target.confidence, side=side) for sample in (group.source, group.test)
        )
        found.append(
            GroupPromise(column=column, value=value, promise=promise, reason=reason, missing=missing, on_source=on_source, on_test=on_test)
        )
    return found


def _map(problem: Problem, *, low: np.ndarray, high: np.ndarray) -> CostMap:
    return map_costs(problem.source, problem.costs, low=low, high=high, bad_rate=problem.target.bad_rate)


def _alternative(problem: Problem, choice: Choice) -> Alternative:
    confidence = problem.target.confidence
    return Alternative(
        T_high=choice.T_high,
        T_low=choice.T_low,
        on_source=count_outcome(problem.source, choice.T_high, confidence=confidence),
        on_test=count_outcome(problem.test, choice.T_high, confidence=confidence),
    )


def _priced(problem: Problem, choice: Choice) -> Pair:
    target = problem.target
    on_source, on_test = (
        forecast(sample, choice, problem.costs, bad_rate=target.bad_rate, confidence=target.confidence)
        for sample in (problem.source, problem.test)
    )
    return Pair(T_high=choice.T_high, T_low=choice.T_low, on_source=on_source, on_test=on_test)


def _promise(problem: Problem, params: SelectThresholdParams, threshold: float | None, *, side: Side) -> Promise | None:
    # val has already chosen the epoch and the temperature, so its photos are not new to the model and prove nothing.
    if params.method != "guaranteed" or params.source != "calib" or threshold is None:
        return None
    target = problem.target
    trial, population = "photo drawn at random from a new group (car)", "calibration photos"
    if problem.stratum is not None:
        trial, population = f"car of {problem.stratum.in_words}", "calibration cars whose photos all have a label"
    if problem.members is not None:
        population += " where {} is {}".format(*problem.members)
    of = f"a {trial}, from the population of the {population}, that the rule calls {problem.question.word(side)}"
    if target.bad_rate is not None:
        of += f", where the share of {problem.question.bad} cars is {target.bad_rate:g}"
    return Promise(precision=target.precision, confidence=target.confidence, of=of, at_rate=target.bad_rate)


def _reason(problem: Problem, params: SelectThresholdParams, needed: Needed | None, *, side: Side) -> str:
    if needed is None:
        return problem.obstacle or ""
    word, other = problem.question.word(side), problem.question.word("bad" if side == "good" else "good")
    target, source = problem.target, problem.source
    if params.method == "empirical":
        labelled = f"the {len(source.good)} labelled {problem.unit}s of {params.source}"
        return f"no threshold reaches the precision {target.precision:g} on {labelled}"
    groups = "groups" if problem.unit == "photo" else "cars"
    rate = "" if target.bad_rate is None else f" where {target.bad_rate:g} of the cars are {problem.question.bad}"
    bar = f"the precision {target.precision:g} at the confidence {target.confidence:g}{rate}"
    why = f"{source.groups} labelled {groups} of {params.source} cannot prove {bar}"
    if target.bad_rate is not None:
        if needed.other_class_groups is None:
            return f"{why}: too few of the {word} ones are called {word} for any number to do"
        return f"{why}: it takes about {needed.other_class_groups} labelled {other} {groups}, none of them called {word}"
    least = f"it takes {needed.without_errors} {groups} called {word} without one error"
    if needed.observed_precision is None:
        return f"{why}: {least}"
    observed = f"{needed.observed_precision:.3f}"
    if needed.at_observed_precision is None:
        return f"{why}: {least}, and the best precision seen, {observed}, does not exceed the target, so that no number would do"
    return (
        f"{why}: {least}, or {needed.at_observed_precision} with the precision {observed} seen here, "
        f"for which about {needed.labelled_groups} labelled {groups} would do"
    )


def _warnings(problem: Problem, params: SelectThresholdParams, base_rate: float | None) -> list[str]:
    warnings = []
    rate, target, good = problem.target.bad_rate, problem.target.precision, problem.question.word("good")
    share = base_rate if rate is None else 1 - rate
    if share is not None and target <= share:
        warnings.append(
            f"The target {target:g} does not exceed the share of {good} cars, {share:.3f}: calling every car {good} would reach it too."
        )
    if params.source == "val":
        warnings.append("val has also chosen the epoch and the temperature, so that nothing is proven for new cars.")
    return warnings


# ---- at another share of the bad class


def restate(problem: Problem, rule: Rule) -> FieldRates:
    """The precision of T_high at the field's share of the bad class, and the shares up to which it is proven."""
    target, T_high = problem.target, rule.T_high
    found = {place: _evidence_at(sample, T_high) for place, sample in (("source", problem.source), ("test", problem.test))}
    restated: dict[str, float | None] = {
        "rate": target.bad_rate,
        "source_rate": None if rule.base_rate is None else 1 - rule.base_rate,
        "break_even_rate": None,
        "test_break_even_rate": None,
    }
    if rule.good.promise is not None and T_high is not None:
        restated["break_even_rate"] = break_even(problem.source, problem.reference, target, T_high)
    if found["test"] is not None:
        reached = highest_wrong_rate(found["test"], target=target.precision, level=target.alpha)
        restated["test_break_even_rate"] = float(reached[0])
    for place, evidence in found.items():
        precision = lower_bound = None
        if target.bad_rate is not None and evidence is not None and evidence.right[0] + evidence.wrong[0] > 0:
            precision = float(precision_at(evidence, target.bad_rate)[0])
            lower_bound = float(lower_precision_at(evidence, target.bad_rate, level=target.alpha)[0])
        restated |= {f"precision_on_{place}": precision, f"lower_bound_on_{place}": lower_bound}
    return FieldRates(**restated)


def _evidence_at(sample: Sample, threshold: float | None) -> Evidence | None:
    """The counts at `threshold`; None without a threshold, or when one class has no labels."""
    drawn = sample.one_a_group()
    if threshold is None or not (drawn.labelled("good") and drawn.labelled("bad")):
        return None
    return gather(drawn, np.array([threshold]), side="good")
