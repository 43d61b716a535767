"""`carinspect review`: turns what people said of answers into a source of a data root, whose photos only train."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from carinspect.audit.inbox import PHOTOS, REMARKS, Remark, read_remarks
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import write_bytes
from carinspect.core.params import load_params, read_section
from carinspect.core.questions import Question, by_name, read_questions
from carinspect.labelling.source import check_photo, csv_entry, declare, find_declared, read_labels, write_labels


@dataclass
class _Review:
    labels: dict[str, dict[str, int]]
    """Photo's name in the source, `photos/<SHA-256><suffix>` → label column → class."""
    withdrawn: set[tuple[str, str]]
    """Digest and column of labels about which people contradict each other."""
    left_out: Counter[str]
    """Reason → remarks."""


def review_inbox(inbox: Path, root: Path, *, source: str) -> int:
    """Add the inbox's photos and labels to `source` of the data root, and say what came of each remark. Returns 0.

    Run again it adds what is new. Raises `UserError` for no inbox, a question or class that params.yaml does not declare, a source of
    that name with other photos.
    """
    if not (inbox / REMARKS).is_file():
        raise UserError(f"{inbox}: no {REMARKS} in it. Name the folder that CARINSPECT_FEEDBACK_DIR names for the service.")
    sources = root / Path(read_section("data", DataParams).sources).name
    questions = by_name([one.asked for one in read_questions(load_params(Path("params.yaml")))])
    entry = csv_entry(source) | {"chosen_by_model": True}
    declared = find_declared(sources, entry)
    review = _judge(inbox, read_remarks(inbox), questions)
    folder, columns = root / source, [question.column for question in questions.values() if question.has_classes]
    table = folder / "labels.csv"
    before = read_labels(table, columns)
    after = before.copy()
    for name, labels in review.labels.items():
        write_bytes(folder / name, (inbox / PHOTOS / Path(name).stem).read_bytes())
        for column, label in labels.items():
            after.loc[name, column] = str(label)
    for digest, column in review.withdrawn:
        after.loc[after.index.str.startswith(f"photos/{digest}"), column] = ""
    if len(after):
        write_labels(table, after)
        if declared is None:
            declare(sources, entry)
    new = len(after.index.difference(before.index))
    print(f"{table}: {len(after):,} photos, {new:,} of them new. They only train: {sources.name} says chosen_by_model.")
    for reason, count in sorted(review.left_out.items()):
        print(f"Left out: {count:,} remarks, for {reason}.")
    return 0


def _judge(inbox: Path, remarks: list[Remark], questions: dict[str, Question]) -> _Review:
    said: dict[tuple[str, str], list[str]] = {}
    left_out: Counter[str] = Counter()
    for remark in remarks:
        question = questions.get(remark.question)
        if question is None:
            raise UserError(f"{inbox}: no question is called '{remark.question}'. {did_you_mean(remark.question, questions)}")
        if remark.verdict not in question.classes:
            hint = did_you_mean(remark.verdict, question.classes)
            raise UserError(f"{inbox}: '{remark.verdict}' is no class of {remark.question}. {hint}")
        if remark.of_several and remark.verdict != question.good:
            # A car is good where all of its photos are; it is not known which of them shows what is bad.
            left_out["the car has several photos, and it is not said which of them shows it"] += 1
            continue
        said.setdefault((remark.photo_sha256, remark.question), []).append(remark.verdict)
    review = _Review({}, set(), left_out)
    state: dict[str, tuple[str, str]] = {}
    for (digest, name), verdicts in said.items():
        if digest not in state:
            state[digest] = check_photo(inbox / PHOTOS / digest, digest)
        question = questions[name]
        suffix, reason = state[digest]
        if not reason and len(set(verdicts)) > 1:
            reason = "people contradict each other about the photo"
            review.withdrawn.add((digest, question.column))
        if reason:
            review.left_out[reason] += len(verdicts)
            continue
        review.labels.setdefault(f"photos/{digest}{suffix}", {})[question.column] = question.classes.index(verdicts[0])
    return review
