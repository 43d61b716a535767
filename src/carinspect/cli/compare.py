"""Owns `carinspect compare`: fetches what two revisions predicted, through DVC, and prints whether the difference is real."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import dvc.api
from dvc.exceptions import DvcException
from dvc.scm import SCMError

from carinspect.comparison.compare import Comparison, Side, compare_predictions
from carinspect.comparison.same_photos import PHOTO_COLUMNS
from carinspect.comparison.words import tell
from carinspect.core.errors import UserError, one_line
from carinspect.core.files import write_json
from carinspect.core.params import read_section
from carinspect.core.tables import read_table
from carinspect.evaluation.config import EvaluateParams

PREDICTIONS = Path("data/predictions.csv")
THRESHOLD = Path("models/threshold.json")
WORKSPACE = "workspace"


def compare_revisions(a: str, b: str, *, samples: int, json_file: Path | None) -> None:
    """Print the table and the verdict; `a` and `b` are git revisions, names of experiments, or `workspace`."""
    comparison = compare_at(a, b, samples=samples)
    if json_file is not None:
        write_json(json_file, comparison.as_dict())
    print(tell(comparison))


def compare_at(a: str, b: str, *, samples: int) -> Comparison:
    """What two revisions predicted, compared by the confidence and the seed of `evaluate`."""
    params = read_section("evaluate", EvaluateParams)
    return compare_predictions(fetch(a), fetch(b), samples=samples, confidence=params.confidence, seed=params.seed)


def fetch(revision: str) -> Side:
    """Predictions and threshold of a revision, from the workspace, DVC's cache or its remote."""
    with TemporaryDirectory() as folder:
        table = Path(folder) / PREDICTIONS.name
        table.write_bytes(read_at(PREDICTIONS, revision))
        predictions = read_table(table, columns=(*PHOTO_COLUMNS, "split", "p_clean"))
    return Side(name=revision, predictions=predictions, clean_from=json.loads(read_at(THRESHOLD, revision))["T_clean"])


def read_at(path: Path, revision: str) -> bytes:
    """The bytes of a file at a git revision, an experiment or `workspace`, be it in git or in DVC. Raises `UserError`."""
    try:
        with dvc.api.open(str(path), rev=None if revision == WORKSPACE else revision, mode="rb") as file:
            return bytes(file.read())
    except (DvcException, SCMError, OSError) as error:
        reason = one_line(error)
        raise UserError(
            f"{path} at '{revision}' cannot be read ({reason}). Give a git revision, an experiment of `dvc exp list`, or workspace; "
            "`dvc pull --all-commits` or `dvc exp pull` fetches what is not here."
        ) from None
