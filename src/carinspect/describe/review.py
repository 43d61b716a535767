"""The list of doubtful labels as a CSV for a person to correct."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from carinspect.core.files import write_bytes
from carinspect.describe.examination import Examination
from carinspect.describe.suspects import Suspect

REVIEW_COLUMNS = ("image_path", "picture", "question", "label", "reason", "new_label", "who", "when")
"""The last three are blank, for the person who looks: then the file is what `corrections` of sources.yaml takes.

`picture` is the photo's path on this machine; `image_path` that of the tables.
"""


def list_for_review(examination: Examination) -> pd.DataFrame:
    """One row for each doubtful label, all of them: contradictions of copies, then of families, then what a predictor doubts."""
    suspects: Sequence[Suspect] = [
        *examination.contradictions,
        *examination.family_contradictions,
        *(suspect for doubts in examination.doubts for suspect in doubts.suspects),
    ]
    root = examination.evidence.root.resolve()
    names = {asked.column: asked.name for asked in examination.evidence.questions}
    rows = [(one.image_path, str(root / one.image_path), names[one.column], one.label, one.reason, "", "", "") for one in suspects]
    return pd.DataFrame(rows, columns=list(REVIEW_COLUMNS)).drop_duplicates(["image_path", "question"])


def write_review(examination: Examination, path: Path) -> int:
    """Write `list_for_review` and return the number of its rows."""
    rows = list_for_review(examination)
    write_bytes(path, rows.to_csv(index=False, lineterminator="\n").encode())
    return len(rows)
