"""The round trip with a labelling tool: photos and our answers go out, what people said comes back as a source of a data root.

The folder of an export has the tool's files, `photos/`, and `tasks.csv`, by which what comes back is known again. The folder of the source
has `answers.jsonl`: what each person said of each photo, as it came back; labels and outlines are made of it, at each import anew.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from carinspect.annotations.outline_kinds import OUTLINE_KINDS
from carinspect.annotations.photos import differ_in_shape
from carinspect.audit.sheet import csv_bytes, read_rows
from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.images.properties import read_properties
from carinspect.inference.photo_list import name_of_text
from carinspect.inference.rules import UNSURE
from carinspect.labelling import coco, cvat, label_studio
from carinspect.labelling.agreement import Decided, Disagreement, decide
from carinspect.labelling.records import Outline, Returned, Task, Words
from carinspect.labelling.source import check_photo, csv_entry, declare, find_declared, suffix_of, write_labels

Tool = Literal["label-studio", "cvat", "coco"]

MANIFEST = ("file", "image_path", "photo_sha256", "width_px", "height_px", "chosen_by_model", "answered")
PHOTOS, TASKS, ANSWERS = "photos", "tasks.csv", "answers.jsonl"


class Format(NamedTuple):
    """One tool."""

    write_tasks: Callable[..., dict[str, bytes]]
    read_export: Callable[[Path, Words], list[Returned]]


TOOLS: Mapping[Tool, Format] = {
    "label-studio": Format(label_studio.write_tasks, label_studio.read_export),
    "cvat": Format(cvat.write_tasks, cvat.read_export),
    "coco": Format(coco.write_tasks, coco.read_export),
}

LeftOut = defaultdict[str, list[str]]
"""Reason → the photos that it concerns."""


# ---- out


def read_list(path: Path) -> dict[str, bool]:
    """image_path → whether a model chose the photo: so it is where the list of `carinspect next` does not say otherwise."""
    columns = ["image_path"]
    with_origin = "chosen_by_model" in path.read_text(encoding="utf-8-sig").split("\n", 1)[0].split(",") if path.is_file() else False
    rows = read_rows(path, [*columns, "chosen_by_model"] if with_origin else columns)
    for row in rows:
        if with_origin and row["chosen_by_model"] not in ("true", "false"):
            raise UserError(f"{path}: chosen_by_model has the value {row['chosen_by_model']!r}. Write true or false.")
    return {row["image_path"]: row.get("chosen_by_model") != "false" for row in rows}


def read_answers(scores: Path, words: Words) -> dict[str, dict[str, str]]:
    """image_path → question → decided class, from the table of `carinspect score`. What is unsure is no answer."""
    table = pd.read_csv(scores, dtype=str, keep_default_na=False) if scores.is_file() else pd.DataFrame()
    if "image_path" not in table.columns:
        raise UserError(f"{scores}: no CSV of `carinspect score` with the column image_path. Name it, or leave --answers out.")
    found: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        answers = found[row["image_path"]] = {}
        for name, classes in words.classes.items():
            word = row.get(f"{name}_decision" if len(classes) == 2 else name, "")
            if word and word != UNSURE:
                words.check_class(name, word, where=str(scores))
                answers[name] = word
    return found


def export_tasks(
    listed: Mapping[str, bool],
    words: Words,
    *,
    answers: Mapping[str, Mapping[str, str]],
    marks: Mapping[str, tuple[Outline, ...]],
    root: Path,
    tool: Tool,
    author: str,
    out: Path,
) -> tuple[list[Task], LeftOut]:
    """Write the folder of an export. listed: as `read_list`; answers: as `read_answers`; marks: as `coco.read_marks`; root: folder of the
    photos.

    Raises `UserError` where there is such a folder, where no photo is left, and for a list with photos of both origins: a source has one.
    """
    if (out / TASKS).exists():
        raise UserError(f"{out}: holds an export already. Name a new folder: --out.")
    if len(set(listed.values())) > 1:
        raise UserError("the list has photos that a model chose, which only train, and others. Export them apart, from two lists.")
    tasks, left_out, taken = [], LeftOut(list), set[str]()
    found = read_properties(root, [name_of_text(path) for path in listed])
    for image_path, digest, seen, problem in zip(listed, *found, strict=True):
        if problem or digest in taken:
            left_out[problem or "the same photo stands there twice"].append(image_path)
            continue
        taken.add(digest)
        file = f"{digest}{suffix_of(seen['format'].decode())}"
        said = answers.get(image_path, {}), marks.get(image_path, ())
        tasks.append(Task(file, image_path, int(seen["width_px"]), int(seen["height_px"]), *said))
    if not tasks:
        raise UserError("no photo of the list can be exported. --root names the folder that the list's paths start from.")
    for task in tasks:
        write_bytes(out / PHOTOS / task.file, (root / name_of_text(task.image_path)).read_bytes())
    for name, content in TOOLS[tool].write_tasks(tasks, words, author=author).items():
        write_bytes(out / name, content)
    # The last step: a folder without it is no export yet. People who see the model's answers tend to agree, so their labels only train.
    chosen = any(listed.values()) or any(task.is_answered for task in tasks)
    rows = [[task.file, task.image_path, Path(task.file).stem, task.width_px, task.height_px, str(chosen).lower(),
             str(task.is_answered).lower()] for task in tasks]  # fmt: skip
    write_bytes(out / TASKS, csv_bytes(MANIFEST, rows))
    return tasks, left_out


# ---- back


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    photos: int
    """With a label or an outline, in the source."""
    new: int
    chosen_by_model: bool
    left_out: LeftOut
    """Reason → photos of this import."""
    notes: LeftOut
    """What people contradict each other about → photos of the whole source."""


def import_answers(
    files: Sequence[Path],
    words: Words,
    questions: Sequence[Question],
    *,
    tool: Tool,
    export: Path,
    sources: Path,
    name: str,
    disagreement: Disagreement | None,
) -> Imported:
    """Add what people said, `files` of the tool, to the source `name` beside `sources`, the data root's sources.yaml.

    export: the folder that `export_tasks` wrote. disagreement: None takes what the source states, `leave_out` for a new one.
    Nothing is added when `UserError` is raised: for another file, unknown words, another source of that name or one with another statement.
    """
    if not (export / TASKS).is_file():
        raise UserError(f"{export}: no {TASKS} in it. Name the folder that `carinspect labels export` wrote: --export.")
    manifest = {row["file"]: row for row in read_rows(export / TASKS, MANIFEST)}
    chosen = any(row["chosen_by_model"] == "true" for row in manifest.values())
    folder = sources.parent / name
    origin = {"chosen_by_model": True} if chosen else {}
    declared, stated = _statement(sources, _names(name, words), origin, disagreement)
    returned = [one for file in files for one in TOOLS[tool].read_export(file, words)]
    fresh, left_out = _sort_out(returned, manifest, export, tells_answers=tool == "label-studio")
    known = _read_known(folder / ANSWERS, words)
    known |= {(one.file, one.who): one for one in fresh}
    by_photo: defaultdict[str, list[Returned]] = defaultdict(list)
    for (file, _), one in sorted(known.items()):
        by_photo[file].append(one)
    decided = {file: decide(said, words, questions, disagreement=stated) for file, said in by_photo.items()}
    notes = LeftOut(list)
    for file, made in decided.items():
        for note in made.notes:
            notes[note].append(file)
    usable = {file: made for file, made in decided.items() if made.classes or made.outlines}
    if not usable and not declared:
        return Imported(0, 0, chosen, left_out, notes)
    held = {path.name: path for each in _names(name, words) for path in (sources.parent / each / PHOTOS).glob("*")}
    write_bytes(folder / ANSWERS, b"".join(_dump(one) for _, one in sorted(known.items())))
    entries = _write_source(usable, by_photo, words, questions, root=sources.parent, name=name, held=held, photos=export / PHOTOS)
    # A source without a photo is an error of the data root.
    gone = set(_names(name, words)) - {entry["name"] for entry in entries}
    declare(sources, *({**entry, **origin, "disagreement": stated} for entry in entries), gone=gone)
    return Imported(len(usable), len(usable.keys() - held.keys()), chosen, left_out, notes)


def _names(name: str, words: Words) -> list[str]:
    """Of the sources that an import can make: with labels alone, and with outlines of each set of kinds."""
    kinds = sorted(set(words.kinds.values()))
    return [name, *("_".join([name, *some]) for count in range(1, len(kinds) + 1) for some in combinations(kinds, count))]


def _statement(sources: Path, names: Sequence[str], origin: dict[str, Any], asked: Disagreement | None) -> tuple[bool, Disagreement]:
    """Whether there are such sources, and what they say of disagreements. Raises `UserError` where another statement was asked for."""
    entries = [csv_entry(names[0]), *({"name": name, "path": name} for name in names[1:])]
    for declared in (find_declared(sources, entry | origin) for entry in entries):
        if declared is None:
            continue
        if asked is not None and asked != declared.disagreement:
            said = f"the source '{declared.name}' says disagreement: {declared.disagreement}"
            raise UserError(f"{sources}: {said}. Change it there, or drop --disagreement.")
        return True, declared.disagreement
    return False, asked or "leave_out"


def _sort_out(
    returned: Sequence[Returned], manifest: Mapping[str, Mapping[str, str]], export: Path, *, tells_answers: bool
) -> tuple[list[Returned], LeftOut]:
    """What counts, one entry for each photo and person, with outlines in the photo's own pixels, and what was left out, and why.

    tells_answers: whether the tool tells what a person said from what it was given; else a person must have said `checked`.
    """
    left_out, kept = LeftOut(list), dict[tuple[str, str], Returned]()
    twice: set[tuple[str, str]] = set()
    state: dict[str, str] = {}
    for one in returned:
        row = manifest.get(one.file)
        if row is not None and one.file not in state:
            state[one.file] = check_photo(export / PHOTOS / one.file, row["photo_sha256"])[1]
        reason = "it is no photo of this export" if row is None else state[one.file]
        if row is not None and not reason:
            scaled = _scale(one, int(row["width_px"]), int(row["height_px"]))
            if one.skipped:
                reason = "it was skipped"
            elif not one.answers and not one.outlines:
                reason = "nothing was said of it"
            elif not tells_answers and row["answered"] == "true" and not one.checked:
                reason = "it was exported with answers, and nobody called it 'checked'"
            elif scaled is None:
                reason = "the tool had it in another shape"
            elif kept.setdefault((one.file, one.who), scaled) != scaled:
                twice.add((one.file, one.who))
        if reason:
            left_out[reason].append(one.file)
    for file, who in sorted(twice):
        del kept[file, who]
        left_out["one person gave two different answers"].append(file)
    left_out["it is missing in what came back"] += sorted(manifest.keys() - {one.file for one in returned})
    return list(kept.values()), LeftOut(list, {reason: files for reason, files in left_out.items() if files})


def _scale(one: Returned, width_px: int, height_px: int) -> Returned | None:
    """The same in the photo's own pixels; None where the tool had it in other proportions, so that nobody knows where an outline lies."""
    if one.size_px is None or one.size_px == (width_px, height_px):
        return replace(one, size_px=(width_px, height_px))
    width, height = one.size_px
    if min(one.size_px) < 1 or differ_in_shape(one.size_px, (width_px, height_px)):
        return None
    outlines = tuple(
        Outline(outline.word, tuple((x * width_px / width, y * height_px / height) for x, y in outline.points)) for outline in one.outlines
    )
    return replace(one, size_px=(width_px, height_px), outlines=outlines)


def _dump(one: Returned) -> bytes:
    content = {
        "file": one.file,
        "who": one.who,
        "size_px": one.size_px,
        "answers": {name: sorted(words) for name, words in one.answers.items()},
        "outlines": [[outline.word, outline.points] for outline in one.outlines],
    }
    return json.dumps(content).encode() + b"\n"


def _read_known(path: Path, words: Words) -> dict[tuple[str, str], Returned]:
    """(file, who) → what earlier imports brought. Raises `UserError` that names a line which is no such answer."""
    known = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), start=1):
        where = f"{path}: line {number}"
        try:
            one = json.loads(line)
            outlines = tuple(Outline(word, tuple((x, y) for x, y in points)) for word, points in one["outlines"])
            answers = {name: frozenset(chosen) for name, chosen in one["answers"].items()}
            (width, height) = one["size_px"]
            known[one["file"], one["who"]] = Returned(one["file"], one["who"], (width, height), answers, outlines)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{where} is no answer of a person. Restore the file from its last version.") from None
        for name, chosen in answers.items():
            for word in chosen:
                words.check_class(name, word, where=where)
        for outline in outlines:
            words.check_outline(outline.word, where=where)
    return known


# ---- the source


def _write_source(
    decided: Mapping[str, Decided],
    by_photo: Mapping[str, Sequence[Returned]],
    words: Words,
    questions: Sequence[Question],
    *,
    root: Path,
    name: str,
    held: Mapping[str, Path],
    photos: Path,
) -> list[dict[str, Any]]:
    """Write photos, labels and outlines below `root`, and return the entries for sources.yaml.

    Photos without a usable outline are a source with a table of labels. Those with outlines are a COCO source for each set of kinds, for
    what is outlined on all photos of a source, and nothing else, was judged there.
    """
    by_kinds: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for file, one in decided.items():
        by_kinds[one.kinds(words)].append(file)
    entries = []
    columns = {question.name: question for question in questions if question.has_classes}
    if labelled := by_kinds.pop((), []):
        rows = {f"{PHOTOS}/{file}": {columns[asked].column: str(columns[asked].classes.index(word))
                                     for asked, word in decided[file].classes.items()} for file in labelled}  # fmt: skip
        _place(labelled, root / name / PHOTOS, held, photos)
        write_labels(
            root / name / "labels.csv",
            pd.DataFrame.from_dict(rows, orient="index", columns=[question.column for question in columns.values()]),
        )
        entries.append(csv_entry(name))
    for kinds, files in sorted(by_kinds.items()):
        folder = root / "_".join([name, *kinds])
        told = {column for kind in kinds for column in (OUTLINE_KINDS[kind].score_column, OUTLINE_KINDS[kind].binary_column)}
        stated = {asked for asked, question in columns.items() if question.column not in told}
        tasks = []
        for file in sorted(files):
            width_px, height_px = by_photo[file][0].size_px or (0, 0)
            answers = {asked: word for asked, word in decided[file].classes.items() if asked in stated}
            tasks.append(Task(file, file, width_px, height_px, answers, decided[file].outlines))
        said = {f"{asked}:{word}" for task in tasks for asked, word in task.answers.items()}
        drawn = {outline.word for task in tasks for outline in task.outlines}
        _place(files, folder / PHOTOS, held, photos)
        write_bytes(folder / PHOTOS / "outlines.json", coco.dump_coco(tasks, dict.fromkeys([*sorted(said), *sorted(drawn)], ""), info=name))
        entries.append({
            "name": folder.name, "format": "coco", "path": folder.name,
            "judges": [question.name for question in questions if question.column in told],
            "categories": {tag: {words.tags[tag][0]: words.tags[tag][1]} for tag in sorted(said)} | {word: word for word in sorted(drawn)},
        })  # fmt: skip
    return entries


def _place(files: Sequence[str], folder: Path, held: Mapping[str, Path], photos: Path) -> None:
    """Let `folder` hold these photos, from where the source has them already, or from those of the export."""
    for file in files:
        at = held.get(file)
        if at is None:
            write_bytes(folder / file, (photos / file).read_bytes())
        elif at.parent != folder:
            folder.mkdir(parents=True, exist_ok=True)
            at.rename(folder / file)
