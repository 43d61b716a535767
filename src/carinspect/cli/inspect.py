"""Owns `carinspect inspect`: all that a model file says of itself, as a page of text or as JSON."""

import json
from pathlib import Path
from typing import Any

from carinspect.inference.bundle import ModelBundle, open_bundle
from carinspect.inference.decision import DecisionRule, Label, read_rule


def show_model(path: Path, *, as_json: bool) -> int:
    """Print what the file at `path` knows; 0. Raises `UserError` for a file that is foreign, altered, or decides nothing."""
    bundle = open_bundle(path)
    rule = read_rule(bundle.info.get("threshold"))
    if as_json:
        print(json.dumps(facts_of(bundle), indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    print(f"{path}: intact")
    lines = _lines(bundle, rule)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 0


def facts_of(bundle: ModelBundle) -> dict[str, Any]:
    """The metadata, the graph's inputs and outputs, and the file's size and SHA-256."""

    def described(values: Any) -> dict[str, Any]:
        return {value.name: {"type": value.type, "shape": list(value.shape)} for value in values}

    ends = {"inputs": described(bundle.session.get_inputs()), "outputs": described(bundle.session.get_outputs())}
    return {**bundle.info, **ends, "sha256": bundle.sha256, "bytes": bundle.file_bytes}


def _lines(bundle: ModelBundle, rule: DecisionRule) -> list[tuple[str, str]]:
    facts = facts_of(bundle)
    lines = [("sha256", bundle.sha256), ("size", f"{bundle.file_bytes / 1e6:.2f} MB")]
    for kind in ("inputs", "outputs"):
        for name, end in facts.pop(kind).items():
            lines.append((f"{kind[:-1]} {name}", f"{end['type'][7:-1]} ({', '.join(map(str, end['shape']))})"))
    lines += [
        ("promise", promise_in_words(rule, "clean")),
        ("promise of dirty", promise_in_words(rule, "dirty")),
        ("T_low, T_clean, T_high", f"{rule.T_low}, {rule.T_clean}, {rule.T_high}"),
    ]
    left_out = ("sha256", "bytes", "threshold", "reference")
    return lines + _flat({key: value for key, value in facts.items() if key not in left_out})


def promise_in_words(rule: DecisionRule, word: Label) -> str:
    """One sentence on what `word` promises."""
    threshold, side = (rule.T_clean, ">=") if word == "clean" else (rule.T_low, "<")
    promise = rule.promises.get(word)
    if threshold is None:
        return f"none: no threshold could be proved, so nothing is ever called {word}"
    said = f"{word} when p_clean {side} {threshold:.4f}"
    if promise is None:
        return f"none; {said}"
    return f"{said} keeps the precision {promise['precision']:g} at the confidence {promise['confidence']:g}, for {promise['of']}"


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [line for key in value for line in _flat(value[key], f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value))]
