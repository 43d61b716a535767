"""`carinspect audit`: draws photos for a person to judge, takes the verdicts in, and says whether the promise still holds."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np

from carinspect.audit.ledger import Verdict, append, read_ledger, require_same_strata, weight_problem
from carinspect.audit.martingale import Finding
from carinspect.audit.sheet import ANSWERS, KEY, Drawn, chances_of, digest_of, draw, read_rows, write_sheet
from carinspect.audit.state import audit_promises, verdicts_on
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.questions import Side
from carinspect.inference.bundle import open_bundle
from carinspect.inference.photo_list import name_of_text
from carinspect.inference.predictor import BinaryAnswer, make_predictor
from carinspect.inference.rules import DecisionRule, Promise, rules_in_use

HOLDS, BROKEN = 0, 1


@dataclass(frozen=True)
class DrawOptions:
    """What is drawn, from what, to where."""

    model: Path
    word: str
    photos: int
    seed: int
    root: Path
    car_column: str | None
    strata: str | None
    ledger: Path
    out: Path


def draw_sheet(scores: Path, options: DrawOptions) -> int:
    """Write the sheet for photos drawn from those of `scores` that were called the word; cars in the ledger are left out. Returns 0."""
    bundle = open_bundle(options.model)
    rule, side, _ = promise_of(rules_in_use(bundle.thresholds), options.word)
    question, decision = rule.question.name, f"{rule.question.name}_decision"
    before = verdicts_on(read_ledger(options.ledger), bundle.sha256, question, options.word)
    require_same_strata(before[-1].strata if before else "", options.strata or "", where=str(options.ledger))
    strata = _read_strata(scores, options, decision)

    # All cars count for the shares, those judged before too: they are missing from what is left, not from the table.
    sizes = {stratum: len(cars) for stratum, cars in sorted(strata.items())}
    chances = chances_of(sizes)
    weights = {stratum: size / sum(sizes.values()) / chances[stratum] for stratum, size in sizes.items()}
    predictor, random, seen = make_predictor(bundle), np.random.default_rng(options.seed), {verdict.car for verdict in before}

    def fresh(stratum: str) -> Iterator[Drawn]:
        """The cars of a stratum that were not judged yet, in a random order."""
        cars = list(strata[stratum])
        for place in random.permutation(len(cars)):
            path = strata[stratum][cars[place]]
            digest = digest_of(options.root, path)
            car = cars[place] if options.car_column else digest
            if car in seen:
                continue
            seen.add(car)
            answer = predictor.answer(predictor.load(options.root / name_of_text(path))[None])[0][question]
            if not isinstance(answer, BinaryAnswer) or answer.side != side:
                raise UserError(f"{scores}: {options.model} does not call '{path}' {options.word}. Score the photos by this model again.")
            yield Drawn(digest, path, car, bundle.sha256, question, options.word, options.strata or "", stratum,
                        repr(weights[stratum]), repr(max(weights.values())))  # fmt: skip

    drawn, empty = draw({stratum: fresh(stratum) for stratum in sizes}, chances, options.photos, random=random)
    if not drawn:
        where = f" with the {options.strata} '{empty}'" if options.strata else ""
        raise UserError(f"{scores}: every photo that is called '{options.word}'{where} was judged before. Score more photos.")
    title = f"Is this {' or '.join(rule.question.classes)}?"
    write_sheet(options.out, drawn, root=options.root, title=title, words=rule.question.classes)
    print(f"{options.out}: {len(drawn)} photos, one of a car, drawn from {sum(sizes.values()):,} with the seed {options.seed}.")
    if options.strata:
        counts = Counter(one.stratum for one in drawn)
        print(f"By {options.strata}: " + ", ".join(f"{name} {counts[name]} (weight {weights[name]:.3f})" for name in sizes) + ".")
        if len(drawn) < options.photos:
            print(f"No other '{empty}' is left, which ends the draw. Score more photos, or merge rare values in a column of your own.")
    print(f"Give it to the reviewer, and keep {options.out.with_suffix('.key.csv')}, which says what the model called them.")
    return HOLDS


def _read_strata(scores: Path, options: DrawOptions, decision: str) -> dict[str, dict[str, str]]:
    """Stratum → car → its photo, of what was called the word. Raises `UserError` where there is none, or a cell is empty."""
    columns = ["image_path", decision, *(name for name in (options.car_column, options.strata) if name)]
    called: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(scores, columns):
        if row[decision] != options.word:
            continue
        for name in columns:
            if not row[name]:
                raise UserError(f"{scores}: '{row['image_path']}' has no {name}. Fill it in, or draw without that column.")
        called.setdefault(row[options.car_column or "image_path"], []).append(row)
    if not called:
        raise UserError(f"{scores}: no photo is called '{options.word}'. Score more photos.")
    strata: dict[str, dict[str, str]] = {}
    for car in sorted(called):
        # One photo by the hash of the car's name, so that another draw from the table finds the car in the same stratum.
        rows = sorted(called[car], key=lambda row: row["image_path"])
        row = rows[int(sha256(car.encode("utf-8", "surrogateescape")).hexdigest(), 16) % len(rows)]
        strata.setdefault(row[options.strata] if options.strata else "", {})[car] = row["image_path"]
    return strata


def take_verdicts(answers: Path, key: Path, *, model: Path, ledger: Path) -> int:
    """Add the answered lines to the ledger, all or none, and say how many. Returns 0."""
    bundle = open_bundle(model)
    asked = {row["photo_sha256"]: Drawn(**row) for row in read_rows(key, KEY)}
    classes = {question.name: question.classes for question in bundle.questions}
    now, verdicts, blank = datetime.now(UTC).isoformat(timespec="seconds"), [], 0
    for row in read_rows(answers, ANSWERS):
        photo = asked.get(row["photo_sha256"])
        if photo is None:
            raise UserError(
                f"{answers}: the photo {row['photo_sha256'][:12]} is not in {key}. Name the key that was drawn with this sheet."
            )
        if photo.model_sha256 != bundle.sha256:
            raise UserError(f"{key}: drawn for the model {photo.model_sha256[:12]}, and {model} is {bundle.sha256[:12]}. Name that model.")
        if not row["verdict"]:
            blank += 1
            continue
        words = classes.get(photo.question, ())
        if row["verdict"] not in words:
            hint = did_you_mean(row["verdict"], words)
            raise UserError(f"{answers}: '{row['verdict']}' is no class of {photo.question}. {hint}")
        if not row["by"]:
            raise UserError(f"{answers}: the verdict on {row['photo_sha256'][:12]} has no name under 'by'. Say who judged.")
        try:
            weight, highest = float(photo.weight), float(photo.highest_weight)
        except ValueError:
            weight = highest = math.nan
        if problem := weight_problem(weight, highest):
            raise UserError(f"{key}: the photo {photo.photo_sha256[:12]}: {problem} Take the key as it was drawn.")
        verdicts.append(Verdict(photo.photo_sha256, photo.car, photo.model_sha256, photo.question, photo.word, row["verdict"],
                                row["by"], now, row["comment"], photo.strata, photo.stratum, weight, highest))  # fmt: skip
    new = append(ledger, verdicts)
    print(f"{ledger}: {new} new verdicts, {len(verdicts) - new} known before, {blank} photos without an answer.")
    return HOLDS


def report_state(ledger: Path, model: Path) -> int:
    """Print the finding for each promised word of the model; 1 when a promise is broken. Raises `UserError` without a verdict on it."""
    bundle = open_bundle(model)
    if not ledger.exists():
        raise UserError(f"{ledger}: no such ledger. `carinspect audit take` writes one.")
    read = read_ledger(ledger)
    if read.torn:
        print(f"{ledger}: its last line is unfinished and left out. Take those answers in again.")
    status, seen, used = HOLDS, 0, 0
    for one in audit_promises(read, rules_in_use(bundle.thresholds), bundle.sha256):
        seen += one.finding.verdicts
        used += one.finding.verdicts + one.not_counted
        if one.not_counted:
            print(f"{one.word}: {one.not_counted} verdicts on further photos of a car are not counted.")
        if one.strata:
            print(
                f"{one.word}: " + ", ".join(f"{name} {wrong} of {count} wrong" for name, (wrong, count) in sorted(one.strata.items())) + "."
            )
        print(f"{one.question}, {one.word}: {say_finding(one.finding, one.promise)}")
        status = BROKEN if one.finding.state == "broken" else status
    if unused := sum(verdict.model_sha256 == bundle.sha256 for verdict in read.verdicts) - used:
        print(f"{unused} verdicts on photos called unsure, or a word without a promise, are not used: no promise is about them.")
    if not seen:
        raise UserError(f"{ledger}: no verdict on a promised word of {model} ({bundle.sha256[:12]}). Draw some: carinspect audit draw")
    return status


def say_finding(finding: Finding, promise: Promise) -> str:
    """One sentence on the promise."""
    counts = f"{finding.wrong} of {finding.verdicts} wrong, precision {finding.precision_low:.3f} to {finding.precision_high:.3f}"
    first = f"{finding.state} ({counts}; promised {promise.precision:g}, level {finding.level:.3g})."
    match finding.state:
        case "broken":
            return f"{first} Do not rely on the word: label photos from use, and prove it again (dvc repro)."
        case "proved anew":
            return first
        case "holds so far":
            more = (
                "No number proves it while so many are wrong." if finding.more is None else f"{finding.more} more like these prove it anew."
            )
            return f"{first} {more}"


def promise_of(rules: dict[str, DecisionRule], word: str) -> tuple[DecisionRule, Side, Promise]:
    """The rule, the side and the promise behind a word. Raises `UserError` for a word that promises nothing."""
    found = {rule.say(side): (rule, side, promise) for rule in rules.values() for side, promise in rule.promises.items()}
    if word not in found:
        raise UserError(f"--word is '{word}'. The model promises: {', '.join(found) or 'nothing, so there is nothing to audit'}.")
    return found[word]
