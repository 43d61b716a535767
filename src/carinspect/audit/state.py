"""Says what a ledger's verdicts mean for each promise of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from carinspect.audit.ledger import Ledger, Verdict, count_once
from carinspect.audit.martingale import Finding, judge
from carinspect.inference.rules import DecisionRule, Promise


@dataclass(frozen=True)
class Audited:
    """A promised word and what the verdicts on it say."""

    question: str
    word: str
    promise: Promise
    finding: Finding
    not_counted: int
    """Verdicts on further photos of a car."""
    strata: dict[str, tuple[int, int]]
    """Stratum → wrong words, verdicts; empty where no draw was stratified."""


def audit_promises(ledger: Ledger, rules: Mapping[str, DecisionRule], model_sha256: str) -> Iterator[Audited]:
    """Each promised word of the model `model_sha256`; verdicts on other models are left out."""
    for rule in rules.values():
        for side, promise in rule.promises.items():
            word = rule.say(side)
            own = verdicts_on(ledger, model_sha256, rule.question.name, word)
            counted = count_once(own)
            wrongs, stakes = [verdict.verdict != word for verdict in counted], [verdict.stake for verdict in counted]
            finding = judge(wrongs, stakes, target=promise.precision, level=1 - promise.confidence)
            strata: dict[str, tuple[int, int]] = {}
            for verdict, is_wrong in zip(counted, wrongs, strict=True):
                if verdict.strata:
                    wrong, seen = strata.get(verdict.stratum, (0, 0))
                    strata[verdict.stratum] = wrong + is_wrong, seen + 1
            yield Audited(rule.question.name, word, promise, finding, len(own) - len(counted), strata)


def verdicts_on(ledger: Ledger, model_sha256: str, question: str, word: str) -> list[Verdict]:
    """Those on one word of one model."""
    return [
        verdict for verdict in ledger.verdicts if (verdict.model_sha256, verdict.question, verdict.word) == (model_sha256, question, word)
    ]
