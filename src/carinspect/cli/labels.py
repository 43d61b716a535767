"""`carinspect labels`: photos and our answers to a labelling tool, and what people said back as a source of a data root."""

from dataclasses import dataclass
from pathlib import Path

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.core.data import DataParams
from carinspect.core.params import load_params, read_section
from carinspect.core.questions import Question, read_questions
from carinspect.labelling.agreement import Disagreement
from carinspect.labelling.coco import read_marks
from carinspect.labelling.exchange import LeftOut, Tool, export_tasks, import_answers, read_answers, read_list
from carinspect.labelling.records import Words, read_words

_SHOWN = 3


@dataclass(frozen=True)
class ImportOptions:
    """The options of `labels import`; each is explained in cli/main.py."""

    tool: Tool
    export: Path
    into: Path
    source: str
    disagreement: Disagreement | None


def export_labels(listed: Path, *, tool: Tool, answers: Path | None, marks: Path | None, root: Path, out: Path) -> int:
    """Write the folder for the tool, and say what is in it. Returns 0. Raises `UserError` as `export_tasks` does."""
    _, words = _read_questions()
    tasks, left_out = export_tasks(
        read_list(listed), words,
        answers={} if answers is None else read_answers(answers, words),
        marks={} if marks is None else read_marks(marks, words),
        root=root, tool=tool, author=" and ".join(path.name for path in (answers, marks) if path is not None), out=out,
    )  # fmt: skip
    answered = sum(task.is_answered for task in tasks)
    print(f"{out}: {len(tasks):,} photos for {tool}, {answered:,} of them with the model's answers.")
    if answered:
        print("People who see answers tend to agree: these labels will only train (chosen_by_model).")
    _say(left_out, "Left out")
    return 0


def import_labels(files: list[Path], options: ImportOptions) -> int:
    """Add what people said to the source of the data root, and say what came of it. Returns 0. Raises `UserError` as `import_answers`."""
    questions, words = _read_questions()
    sources = options.into / Path(read_section("data", DataParams).sources).name
    done = import_answers(
        files, words, questions, tool=options.tool, export=options.export, sources=sources, name=options.source,
        disagreement=options.disagreement,
    )  # fmt: skip
    use = "They only train" if done.chosen_by_model else "They were drawn at random, and may serve all splits"
    print(f"{sources}: the source '{options.source}' has {done.photos:,} photos, {done.new:,} of them new. {use}.")
    _say(done.left_out, "Left out")
    _say(done.notes, "To look at")
    return 0


def _read_questions() -> tuple[tuple[Question, ...], Words]:
    questions = tuple(question.asked for question in read_questions(load_params(Path("params.yaml"))))
    return questions, read_words(questions, read_section("convert_annotations", ConvertAnnotationsParams))


def _say(photos: LeftOut, what: str) -> None:
    for reason, files in sorted(photos.items()):
        named = ", ".join(files[:_SHOWN]) + (", …" if len(files) > _SHOWN else "")
        print(f"{what}: {len(files):,} photos, for {reason}: {named}")
