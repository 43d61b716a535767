"""`carinspect next`: which photos to label next, for the training or for the proof of a promise, and how many labels that takes."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from carinspect.audit.sheet import read_rows
from carinspect.cli.check_split import read_learned
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import write_bytes
from carinspect.core.machine import usable_cores
from carinspect.core.params import load_params, read_section
from carinspect.core.questions import DeclaredQuestion, by_name, read_questions
from carinspect.core.seeds import derive_seed
from carinspect.core.tables import dataset_columns, read_table
from carinspect.describe.oddities import measure_photos
from carinspect.images.properties import read_properties
from carinspect.inference.batching import batch_count, score_batches
from carinspect.inference.bundle import open_bundle
from carinspect.inference.photo_list import Listing, list_column, list_photos, text_of_name
from carinspect.inference.predictor import Predictor, make_predictor
from carinspect.inference.rows import columns_of
from carinspect.labelling.choice import choose_at_random, choose_teaching, measure_uncertainty
from carinspect.labelling.promise import MOST_GROUPS, StillNeeded, foresee_promise
from carinspect.scoring.ranking import Array
from carinspect.splits.config import SplitParams
from carinspect.splits.groups import label_groups, name_groups
from carinspect.splits.split import find_links
from carinspect.thresholds.config import SelectThresholdParams

DATASET, PREDICTIONS = Path("data/car_inspection_dataset.csv"), Path("data/predictions.csv")
COLUMNS = ("image_path", "chosen_by_model", "why")
_BATCH = 32


@dataclass(frozen=True)
class NextOptions:
    """The command's options; each is explained in cli/main.py."""

    budget: int
    purpose: Literal["training", "promise"]
    question: str | None
    model: Path
    column: str | None
    car_column: str | None
    root: Path | None
    seed: int
    out: Path


def choose_next(photos: list[str], options: NextOptions) -> int:
    """Write the list of photos to label, and say what it is for. Returns 0.

    Raises `UserError` where no photo is left, for an unknown question or column, and as `open_bundle` does.
    """
    asked = _read_asked(options.question)
    predictor = make_predictor(open_bundle(options.model))
    listing, cars = _list(photos, options)
    table = _describe(listing, cars)
    answers = _answer(predictor, listing, table)
    groups = _group(table, listing)
    random = np.random.default_rng(derive_seed(options.seed, "next", options.purpose))
    if options.purpose == "promise":
        chosen = choose_at_random(groups, budget=options.budget, random=random)
        why = ["drawn at random"] * len(chosen)
    else:
        known = [question for question in asked if question.has_classes and set(question.answer_columns) <= set(answers.columns)]
        uncertainty = measure_uncertainty(answers, known)
        chosen = choose_teaching(uncertainty, _features(table, listing), groups, budget=options.budget, random=random)
        why = [f"uncertainty {value:.3f}" for value in uncertainty[chosen]]
    rows = table.iloc[chosen].assign(chosen_by_model=str(options.purpose == "training").lower(), why=why)
    write_bytes(options.out, rows[list(COLUMNS)].to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogateescape"))
    print(f"{options.out}: {len(rows):,} photos, each of another car, of {len(table):,} photos of {len(set(groups)):,} cars.")
    if options.purpose == "training":
        print("The model chose them, so they will only train. For calib and test draw photos at random: --for promise.")
        return 0
    print("They were drawn at random. If people label them without seeing an answer they may serve all splits, calib and test too.")
    for line in _say_promises(asked, predictor, answers, seed=options.seed):
        print(line)
    return 0


def _read_asked(name: str | None) -> list[DeclaredQuestion]:
    questions = by_name(read_questions(load_params()))
    if name is None:
        return list(questions.values())
    if name not in questions:
        raise UserError(f"--question is '{name}'. {did_you_mean(name, questions)}")
    if not questions[name].has_classes:
        raise UserError(f"--question is '{name}', a score, of which a model is not unsure. Name a question with classes.")
    return [questions[name]]


# ---- the photos


def _list(photos: list[str], options: NextOptions) -> tuple[Listing, dict[str, str]]:
    """The photos, and photo → car, where a column says so."""
    if options.column is None:
        if options.car_column is not None or options.root is not None:
            raise UserError("--car-column and --root belong to a table. Name its column of photos, too: --column image_path.")
        return list_photos(photos), {}
    if len(photos) != 1:
        raise UserError(f"--column wants one table, and {len(photos)} were given.")
    listing = list_column(Path(photos[0]), options.column, root=options.root)
    if options.car_column is None:
        return listing, {}
    rows = read_rows(Path(photos[0]), [options.column, options.car_column])
    return listing, {row[options.column]: row[options.car_column] for row in rows}


def _describe(listing: Listing, cars: dict[str, str]) -> pd.DataFrame:
    """`image_path`, `place` in the listing, `sha256`, `phash`, `family` (the car) of each photo that can be read and has no label yet."""
    found = read_properties(listing.folder, listing.names)
    names = [text_of_name(name) for name in listing.names]
    table = pd.DataFrame({
        "image_path": names,
        "place": range(len(names)),
        "sha256": found.digests,
        "phash": [value.decode() for value in found.records["phash"]],
        "family": [cars.get(name, "") for name in names],
    })  # fmt: skip
    sound = np.array([not problem for problem in found.problems])
    if not sound.all():
        first = int(np.flatnonzero(~sound)[0])
        print(f"Left out: {(~sound).sum():,} photos that cannot be read, e.g. {names[first]}: {found.problems[first]}.")
    known = _labelled()
    seen = table["sha256"].isin(known["sha256"]) | (table["phash"].isin(known["phash"]) & (table["phash"] != ""))
    if (seen & sound).any():
        print(f"Left out: {(seen & sound).sum():,} photos that {DATASET} has already, themselves or a copy.")
    left = table[sound & ~seen].reset_index(drop=True)
    if left.empty:
        raise UserError("no photo is left to choose from. Name others.")
    return left


def _labelled() -> pd.DataFrame:
    if not DATASET.is_file():
        return pd.DataFrame({"sha256": [], "phash": []}, dtype=str)
    return read_table(DATASET, columns=("image_path", "sha256", "phash"))


def _group(table: pd.DataFrame, listing: Listing) -> npt.NDArray[np.str_]:
    """Each photo's group: one car, or copies of one photo, as the split finds them."""
    names = pd.DataFrame({**table, "image_path": [listing.names[place] for place in table["place"]]})
    links = find_links(names, listing.folder, read_section("split", SplitParams))
    return name_groups(label_groups(len(table), links), table["image_path"]).to_numpy(str)


def _answer(predictor: Predictor, listing: Listing, table: pd.DataFrame) -> pd.DataFrame:
    """The model's answers, with the columns of `carinspect score`, for the rows of `table`."""
    some = Listing(tuple(listing.names[place] for place in table["place"]), listing.folder, 0)
    numbers = range(batch_count(some, batch=_BATCH))
    with tqdm(desc="scoring", total=len(table), unit="photo", disable=None) as progress:
        rows = []
        for scored in score_batches(predictor, some, numbers, batch=_BATCH, workers=usable_cores()):
            rows += scored
            progress.update(len(scored))
    return pd.DataFrame(rows, columns=list(columns_of(predictor)))


def _features(table: pd.DataFrame, listing: Listing) -> Array:
    """What photos differ by: frozen features of the pretrained backbone, or without weights their coarse layout. (N, D)"""
    named = table.assign(image_path=[listing.names[place] for place in table["place"]])
    learned = read_learned(listing.folder, named)
    if learned is None:
        return measure_photos(listing.folder, named["image_path"].tolist()).layouts
    return learned.stages_NxF.astype(np.float64)


# ---- the promises


def _say_promises(asked: list[DeclaredQuestion], predictor: Predictor, answers: pd.DataFrame, *, seed: int) -> list[str]:
    """A sentence for each word of each decided question: how many more labels its promise takes."""
    params, split = read_section("select_threshold", SelectThresholdParams), read_section("split", SplitParams)
    if params.method != "guaranteed" or params.source != "calib":
        return ["Nothing is promised: select_threshold has another method than guaranteed, or another source than calib."]
    questions = [question.asked for question in asked]
    predictions = read_table(PREDICTIONS, columns=dataset_columns(questions), questions=questions)
    lines = []
    for question in asked:
        if question.decide is None or question.name not in predictor.rules:
            continue
        for word in foresee_promise(predictions, question, params, gate=predictor.bundle.thresholds.gate, seed=seed):
            lines.append(f"{question.name}: {say_needed(word, fraction=split.fractions['calib'], shown=_share(question, word, answers))}")
    return lines or ["No question has a promise: questions.<name>.decide."]


def _share(question: DeclaredQuestion, word: StillNeeded, answers: pd.DataFrame) -> float | None:
    """The share of the photos that would get the word at the threshold where it is just proved."""
    if word.threshold is None:
        return None
    p = answers[question.answer_columns[0]].to_numpy(np.float64)
    p_good = p if question.label_of("good") == 1 else 1 - p
    passes = answers["reason"].isna().to_numpy()
    called = (p_good >= word.threshold) if word.side == "good" else (p_good < word.threshold)
    return float((called & passes).mean())


def say_needed(word: StillNeeded, *, fraction: float, shown: float | None) -> str:
    """How many labels a promise takes. fraction: of the split calib; shown: the share of the photos at hand that would get the word."""
    if word.proved:
        return f"'{word.word}' is proved already."
    if word.groups is None or word.called is None:
        return f"'{word.word}' is not proved by {MOST_GROUPS:,} more groups in calib: the model is too often wrong, or says it too seldom."
    high = f"{word.high:,}" if word.high is not None else f"more than {MOST_GROUPS:,}"
    here = "" if shown is None else f"; of the photos here {shown:.0%} are"
    return (
        f"'{word.word}' takes about {word.groups:,} more labelled groups in calib, drawn at random (90 %: {word.low:,} to {high}); "
        f"of them about {round(word.groups * word.called):,} are called {word.word}{here}. At split.fractions.calib {fraction:g} that is "
        f"about {math.ceil(word.groups / fraction):,} in all."
    )
