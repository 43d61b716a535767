"""`carinspect review`: turns what people said of answers into a source of a data root, whose photos only train."""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd
from dvc.utils.serialize import modify_yaml

from carinspect.annotations.csv_source import read_text_table
from carinspect.annotations.sources import load_sources
from carinspect.audit.inbox import PHOTOS, REMARKS, Remark, read_remarks
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import write_bytes
from carinspect.core.params import load_params, read_section
from carinspect.core.questions import Question, by_name, read_questions
from carinspect.images.decode import PhotoError, open_photo

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}


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
    declared = _is_declared(sources, source)
    review = _judge(inbox, read_remarks(inbox), questions)
    folder, columns = root / source, [question.column for question in questions.values() if question.has_classes]
    table = folder / "labels.csv"
    before = read_text_table(table).set_index("image_path") if table.is_file() else pd.DataFrame(columns=columns)
    after = before.reindex(columns=columns).fillna("")
    for name, labels in review.labels.items():
        write_bytes(folder / name, (inbox / PHOTOS / Path(name).stem).read_bytes())
        for column, label in labels.items():
            after.loc[name, column] = str(label)
    for digest, column in review.withdrawn:
        after.loc[after.index.str.startswith(f"photos/{digest}"), column] = ""
    after = after.fillna("").sort_index()
    if len(after):
        write_bytes(table, after.to_csv(index_label="image_path", lineterminator="\n").encode())
        if not declared:
            # The last step: what was killed before left a source that nothing names yet.
            _declare(sources, source)
    new = len(after.index.difference(before.index))
    print(f"{table}: {len(after):,} photos, {new:,} of them new. They only train: {sources.name} says chosen_by_model.")
    for reason, count in sorted(review.left_out.items()):
        print(f"Left out: {count:,} remarks, {reason}.")
    return 0


def _judge(inbox: Path, remarks: list[Remark], questions: dict[str, Question]) -> _Review:
    said: dict[tuple[str, str], list[str]] = {}
    for remark in remarks:
        question = questions.get(remark.question)
        if question is None:
            raise UserError(f"{inbox}: no question is called '{remark.question}'. {did_you_mean(remark.question, questions)}")
        if remark.verdict not in question.classes:
            hint = did_you_mean(remark.verdict, question.classes)
            raise UserError(f"{inbox}: '{remark.verdict}' is no class of {remark.question}. {hint}")
        said.setdefault((remark.photo_sha256, remark.question), []).append(remark.verdict)
    review = _Review({}, set(), Counter())
    state: dict[str, tuple[str, str]] = {}
    for (digest, name), verdicts in said.items():
        if digest not in state:
            state[digest] = _open(inbox / PHOTOS / digest, digest)
        question = questions[name]
        suffix, reason = state[digest]
        if not reason and len(set(verdicts)) > 1:
            reason = "for people contradict each other about the photo"
            review.withdrawn.add((digest, question.column))
        if reason:
            review.left_out[reason] += len(verdicts)
            continue
        review.labels.setdefault(f"photos/{digest}{suffix}", {})[question.column] = question.classes.index(verdicts[0])
    return review


def _open(path: Path, digest: str) -> tuple[str, str]:
    """The suffix that the photo's file is to have, and why it cannot be used; one of them is blank."""
    try:
        content = path.read_bytes()
    except OSError:
        return "", "for the photo is gone"
    if sha256(content).hexdigest() != digest:
        return "", "for the photo was altered"
    try:
        kind = open_photo(content).format or ""
    except PhotoError as error:
        return "", f"for the file is {error}"
    return _SUFFIXES.get(kind, f".{kind.lower()}"), ""


def _entry(name: str) -> dict[str, str | bool]:
    return {"name": name, "format": "csv", "path": f"{name}/labels.csv", "chosen_by_model": True}


def _is_declared(path: Path, name: str) -> bool:
    """Whether sources.yaml has the source. Raises `UserError` where there is none, or the name is another source's."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. --into names a data root, which describes itself there (docs/labels.md).")
    known = {source.name: source for source in load_sources(path).sources}
    if name in known and (not known[name].chosen_by_model or known[name].path != _entry(name)["path"]):
        raise UserError(f"{path}: the source {name!r} is another one. Choose a name for this one: --source.")
    return name in known


def _declare(path: Path, name: str) -> None:
    """Add the source to sources.yaml, whose comments stay."""
    with modify_yaml(path) as content:
        content["sources"].append(_entry(name))
