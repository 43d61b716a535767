"""`carinspect audit`: draws photos for a person to judge, takes the verdicts in, and says whether the promise still holds."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from carinspect.audit.ledger import Verdict, append, read_ledger
from carinspect.audit.martingale import Finding
from carinspect.audit.sheet import ANSWERS, KEY, Drawn, describe_photo, draw, read_rows, write_sheet
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
    ledger: Path
    out: Path


def draw_sheet(scores: Path, options: DrawOptions) -> int:
    """Write the sheet for photos drawn from those of `scores` that were called the word; cars in the ledger are left out. Returns 0."""
    bundle = open_bundle(options.model)
    rule, side, _ = promise_of(rules_in_use(bundle.thresholds), options.word)
    question, decision = rule.question.name, f"{rule.question.name}_decision"
    columns = ["image_path", decision, *([options.car_column] if options.car_column else [])]
    judged = {verdict.car for verdict in verdicts_on(read_ledger(options.ledger), bundle.sha256, question, options.word)}
    called: dict[str, list[str]] = {}
    for row in read_rows(scores, columns):
        car = row[options.car_column] if options.car_column else row["image_path"]
        if not car:
            raise UserError(f"{scores}: '{row['image_path']}' has no {options.car_column}. Fill it in, or use no --car-column.")
        if row[decision] == options.word:
            called.setdefault(car, []).append(row["image_path"])
    if options.car_column:
        called = {car: paths for car, paths in called.items() if car not in judged}
    if not called:
        raise UserError(f"{scores}: no photo is called '{options.word}' that was not judged before. Score more photos.")

    predictor = make_predictor(bundle)
    drawn: dict[str, Drawn] = {}
    for car, path in draw(called, len(called), seed=options.seed):
        one = describe_photo(
            options.root, path, car=car if options.car_column else None, model_sha256=bundle.sha256, question=question, word=options.word
        )
        if one.car in judged or one.car in drawn:
            continue
        answer = predictor.answer(predictor.load(options.root / name_of_text(path))[None])[0][question]
        if not isinstance(answer, BinaryAnswer) or answer.side != side:
            raise UserError(f"{scores}: {options.model} does not call '{path}' {options.word}. Score the photos by this model again.")
        drawn[one.car] = one
        if len(drawn) == options.photos:
            break
    if not drawn:
        raise UserError(f"{scores}: every photo that is called '{options.word}' was judged before. Score more photos.")
    title = f"Is this {' or '.join(rule.question.classes)}?"
    write_sheet(options.out, list(drawn.values()), root=options.root, title=title, words=rule.question.classes)
    print(f"{options.out}: {len(drawn)} photos, one of a car, drawn from {len(called):,} with the seed {options.seed}.")
    print(f"Give it to the reviewer, and keep {options.out.with_suffix('.key.csv')}, which says what the model called them.")
    return HOLDS


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
        verdicts.append(Verdict(photo.photo_sha256, photo.car, photo.model_sha256, photo.question, photo.word, row["verdict"],
                                row["by"], now, row["comment"]))  # fmt: skip
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
    status, seen = HOLDS, 0
    for one in audit_promises(read, rules_in_use(bundle.thresholds), bundle.sha256):
        seen += one.finding.verdicts
        if one.not_counted:
            print(f"{one.word}: {one.not_counted} verdicts on further photos of a car are not counted.")
        print(f"{one.question}, {one.word}: {say_finding(one.finding, one.promise)}")
        status = BROKEN if one.finding.state == "broken" else status
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
