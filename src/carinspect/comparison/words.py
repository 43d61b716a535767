"""Formats a comparison as text: a table, then a verdict."""

from carinspect.comparison.differences import POWER, Comparison, DecisionDifference, MetricDifference


def tell(comparison: Comparison) -> str:
    """The table and the verdict, without a final line break."""
    head = f"A = {comparison.a}, B = {comparison.b}: {comparison.photos:,} test photos in {comparison.groups:,} groups"
    rows: list[tuple[str, ...]] = [("", "A", "B", "B - A", "interval", "detectable", "B is")]
    rows += [_metric_row(metric) for metric in comparison.metrics]
    decisions: list[tuple[str, ...]] = [
        ("decisions, one photo a group", "A right", "B right", "only A", "only B", "p", "lead needed", "B is")
    ]
    decisions += [_decision_row(decision) for decision in comparison.decisions]
    parts = [head, "", *_aligned(rows)]
    if comparison.decisions:
        parts += ["", *_aligned(decisions)]
    return "\n".join([*parts, "", say(comparison)])


def say(comparison: Comparison) -> str:
    """The verdict, in one or two sentences."""
    found = [(metric.verdict, f"{metric.metric} of {metric.question}") for metric in comparison.metrics]
    found += [(decision.verdict, f"decisions of {decision.question}") for decision in comparison.decisions]
    better, worse = (", ".join(what for verdict, what in found if verdict == wanted) for wanted in ("better", "worse"))
    together = f"All intervals and tests hold together at the confidence {comparison.confidence:g}."
    match comparison.verdict:
        case "better":
            return f"B ({comparison.b}) is better than A ({comparison.a}) in {better}, and nowhere clearly worse. {together}"
        case "worse":
            return f"B ({comparison.b}) is worse than A ({comparison.a}) in {worse}, and nowhere clearly better. {together}"
        case "mixed":
            return f"B ({comparison.b}) is better than A ({comparison.a}) in {better}, but worse in {worse}. {together}"
        case _:
            sizes = [f"{one.metric} of {one.question} by {one.detectable:.3f}" for one in comparison.metrics if one.detectable]
            could = f" With a chance of {POWER:g} they would have shown a difference of {', '.join(sizes)}." if sizes else ""
            return f"No clear difference: these {comparison.groups:,} groups of test photos cannot tell A and B apart.{could} {together}"


def _metric_row(found: MetricDifference) -> tuple[str, ...]:
    interval = "–" if found.low is None or found.high is None else f"{found.low:+.4f} to {found.high:+.4f}"
    better = "higher" if found.higher_is_better else "lower"
    return (
        f"{found.question} {found.metric} ({better} is better)",
        _number(found.a),
        _number(found.b),
        "–" if found.difference is None else f"{found.difference:+.4f}",
        interval,
        "–" if found.detectable is None else f"{found.detectable:.4f}",
        found.verdict,
    )


def _decision_row(found: DecisionDifference) -> tuple[str, ...]:
    counts = (found.a_right, found.b_right, found.only_a_right, found.only_b_right)
    return (
        f"{found.question}, {found.groups:,} groups",
        *(f"{count:,}" for count in counts),
        f"{found.p_value:.3g}",
        _count(found.detectable),
        found.verdict,
    )


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others, last in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:-1], strict=True)), last]
        lines.append("  ".join(cells).rstrip())
    return lines
