"""`carinspect compare`: compares the predictions of two revisions, which it fetches through DVC."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dvc.api
from dvc.exceptions import DvcException
from dvc.scm import SCMError

from carinspect.comparison.differences import Comparison, Model, compare_predictions
from carinspect.comparison.words import tell
from carinspect.core.errors import UserError, one_line
from carinspect.core.files import write_json
from carinspect.core.params import load_json, read_section
from carinspect.core.questions import label_columns
from carinspect.core.tables import read_table
from carinspect.evaluation.config import EvaluateParams
from carinspect.inference.rules import Thresholds, read_thresholds

PREDICTIONS = Path("data/predictions.csv")
THRESHOLD = Path("models/threshold.json")
WORKSPACE = "workspace"


def compare_revisions(a: str, b: str, *, json_file: Path | None) -> None:
    """Print the table and the verdict; `a` and `b` are git revisions, names of experiments, or `workspace`."""
    comparison = compare_at(a, b, params=read_section("evaluate", EvaluateParams))
    if json_file is not None:
        write_json(json_file, comparison.as_dict())
    print(tell(comparison))


def compare_at(a: str, b: str, *, params: EvaluateParams) -> Comparison:
    """The comparison of two revisions, with the confidence of `params`."""
    return compare_predictions(fetch(a), fetch(b), confidence=params.confidence)


def fetch(revision: str) -> Model:
    """Predictions and thresholds of a revision, from the workspace, DVC's cache or its remote."""
    thresholds = thresholds_at(revision)
    questions = tuple(thresholds.questions)
    with TemporaryDirectory() as folder:
        table = Path(folder) / PREDICTIONS.name
        table.write_bytes(read_at(PREDICTIONS, revision))
        answers = [column for asked in questions for column in (*asked.raw_columns, *asked.answer_columns)]
        columns = ("image_path", "sha256", "group", "split", *label_columns(questions), *answers)
        predictions = read_table(table, columns=columns, questions=questions)
    T_high = {name: rules.photo.T_high for name, rules in thresholds.rules.items()}
    return Model(name=revision, questions=questions, predictions=predictions, T_high=T_high)


def thresholds_at(revision: str) -> Thresholds:
    """models/threshold.json of a revision."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / THRESHOLD.name
        file.write_bytes(read_at(THRESHOLD, revision))
        return read_thresholds(load_json(file), file=f"{THRESHOLD} at '{revision}'")


def read_at(path: Path, revision: str) -> bytes:
    """The bytes of a file at a git revision, an experiment or `workspace`, in git or in DVC. Raises `UserError` if it is not there."""
    try:
        with dvc.api.open(str(path), rev=None if revision == WORKSPACE else revision, mode="rb") as file:
            return bytes(file.read())
    except (DvcException, SCMError, OSError) as error:
        reason = one_line(error)
        raise UserError(
            f"{path} at '{revision}' cannot be read ({reason}). Give a git revision, an experiment of `dvc exp list`, or workspace; "
            "`dvc pull --all-commits` or `dvc exp pull` fetches what is not here."
        ) from None
