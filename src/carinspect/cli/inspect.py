"""`carinspect inspect`: prints the metadata of a model file as text or JSON."""

import json
from pathlib import Path
from typing import Any

from carinspect.inference.bundle import ModelBundle, open_bundle
from carinspect.inference.predictor import make_predictor
from carinspect.inference.rules import SIDES, car_rules_in_use, say_mark_promise, say_promise


def show_model(path: Path, *, as_json: bool) -> int:
    """Print the metadata of the file at `path`; returns 0. Raises `UserError` for a file of another project or an altered one."""
    bundle = open_bundle(path)
    if bundle.thresholds.marks:
        # Refuses rules that do not fit the file's maps.
        bundle = bundle.with_maps()
    if as_json:
        print(json.dumps(facts_of(bundle), indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    print(f"{path}: intact")
    lines = _lines(bundle)
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


def _lines(bundle: ModelBundle) -> list[tuple[str, str]]:
    facts = facts_of(bundle)
    lines = [("sha256", bundle.sha256), ("size", f"{bundle.file_bytes / 1e6:.2f} MB")]
    for kind in ("inputs", "outputs"):
        for name, end in facts.pop(kind).items():
            lines.append((f"{kind[:-1]} {name}", f"{end['type'][7:-1]} ({', '.join(map(str, end['shape']))})"))
    lines += [(f"question {asked.name}", f"{asked.kind} {', '.join(asked.classes)}".strip()) for asked in bundle.questions]
    rules = make_predictor(bundle).rules
    for name, rule in rules.items():
        lines += [(f"{name}: {rule.say(side)}", say_promise(rule, side)) for side in SIDES]
    for name, cars in car_rules_in_use(bundle.thresholds, rules).items():
        for stratum, rule in cars.strata:
            lines += [(f"{name}, a car of {stratum.in_words}: {rule.say(side)}", say_promise(rule, side)) for side in SIDES]
        lines.append((f"{name}, a car of any other number", "decided without a promise"))
    lines += [
        (f"{name}: possible classes", f"have the true one in a share of {one.coverage:g}" if one.reason is None else f"none: {one.reason}")
        for name, one in bundle.thresholds.sets.items()
    ]
    lines += [(f"{name}: marks", say_mark_promise(rule)) for name, rule in bundle.thresholds.marks.items()]
    left_out = ("sha256", "bytes", "threshold", "reference")
    return lines + _flat({key: value for key, value in facts.items() if key not in left_out})


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [line for key in value for line in _flat(value[key], f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value))]
