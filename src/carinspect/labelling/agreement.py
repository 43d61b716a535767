"""One set of labels from what several people said of a photo. Where they contradict each other it is reported, and nothing is guessed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from carinspect.annotations.outline_kinds import OUTLINE_KINDS
from carinspect.core.questions import Question
from carinspect.labelling.records import Outline, Returned, Words

Disagreement = Literal["leave_out", "majority"]
"""What becomes of a label about which people disagree: unknown, or what more than half of those who answered say."""


class Decided(NamedTuple):
    """The labels of one photo."""

    classes: Mapping[str, str]
    """Question → class."""
    outlines: tuple[Outline, ...]
    """Of one person, for each kind; each says which class of damage or dirt it shows."""
    notes: tuple[str, ...]
    """What was not taken over as it was said, in words."""

    def kinds(self, words: Words) -> tuple[str, ...]:
        """Of the outlines."""
        return tuple(sorted({words.kinds[outline.word] for outline in self.outlines}))


def decide(said: Sequence[Returned], words: Words, questions: Iterable[Question], *, disagreement: Disagreement) -> Decided:
    """The labels of one photo from what each person `said` of it, one entry for each person.

    An outline says that the photo is marked, e.g. damaged. No outline says nothing. One that is called just `damage` is a mark of an
    unknown class, so that the score is unknown, too.
    """
    asked = {question.column: question for question in questions}
    marked = {kind: asked[one.binary_column] for kind, one in OUTLINE_KINDS.items() if one.binary_column in asked}
    notes: list[str] = []
    own = {one.who: _own_answers(one, words, marked, notes) for one in said}
    classes: dict[str, str] = {}
    for name in words.classes:
        votes = Counter(answers[name] for answers in own.values() if name in answers)
        if not votes:
            continue
        word, count = votes.most_common(1)[0]
        if len(votes) == 1:
            classes[name] = word
        elif disagreement == "majority" and count > votes.total() / 2:
            classes[name] = word
            notes.append(f"people disagree about '{name}', and most say {word}")
        else:
            notes.append(f"people disagree about '{name}', so that it stays unknown")
    outlines: list[Outline] = []
    for kind in sorted(set(words.kinds.values())):
        if kind not in marked or classes.get(marked[kind].name) == _marked_class(marked[kind], kind):
            outlines += _outlines_of(said, kind, words, notes)
    return Decided(classes, tuple(outlines), tuple(notes))


def _marked_class(question: Question, kind: str) -> str:
    return question.classes[int(OUTLINE_KINDS[kind].marked)]


def _own_answers(one: Returned, words: Words, marked: Mapping[str, Question], notes: list[str]) -> dict[str, str]:
    """What one person says: question → class, without what the person contradicts."""
    answers = {}
    for name, chosen in one.answers.items():
        if len(chosen) == 1:
            (answers[name],) = chosen
        elif chosen:
            notes.append(f"one person gives several classes of '{name}', so that none counts")
    for kind in sorted({words.kinds[outline.word] for outline in one.outlines} & marked.keys()):
        name, word = marked[kind].name, _marked_class(marked[kind], kind)
        if answers.setdefault(name, word) != word:
            notes.append(f"one person says {answers.pop(name)} and outlines {kind}, so that neither counts")
    return answers


def _outlines_of(said: Sequence[Returned], kind: str, words: Words, notes: list[str]) -> list[Outline]:
    """Those of the first person, by name, whose outlines of the kind all say of which class they are."""
    unclear = False
    for one in sorted(said, key=lambda one: one.who):
        own = [outline for outline in one.outlines if words.kinds[outline.word] == kind]
        if own and all(outline.word != kind for outline in own):
            return own
        unclear |= bool(own)
    if unclear:
        notes.append(f"an outline is just called '{kind}', so that the photo is marked and its score unknown")
    return []
