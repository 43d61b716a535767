"""`carinspect describe`: summarises a data root or a finished table on the terminal and in one HTML page."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.annotations.drawn import read_drawn_outlines
from carinspect.annotations.records import REJECTED_COLUMNS
from carinspect.cli.check_split import read_finished_table, read_learned
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.core.params import load_json, load_params, read_section
from carinspect.core.questions import Question, read_questions
from carinspect.core.tables import dataset_columns, read_table
from carinspect.describe.config import DescribeParams
from carinspect.describe.examination import Evidence, Looks, examine, summarise
from carinspect.describe.page import draw_page
from carinspect.describe.review import write_review
from carinspect.splits.certificate import list_looks
from carinspect.splits.check import find_leaks
from carinspect.splits.config import SplitParams
from carinspect.splits.contact_sheet import choose_pairs
from carinspect.splits.groups import label_groups, name_groups
from carinspect.splits.link_table import describe_links
from carinspect.splits.scenes import describe_suspicions, read_verdicts
from carinspect.splits.split import find_ties


def describe_root(root: Path, sources: Path, out: Path, review: Path | None) -> None:
    """Describe the photos under `root`, labelled as the file `sources` says; there is no split yet."""
    data = DataParams(root=str(root), sources=str(sources))
    questions = declared_questions()
    conversion = convert(data, read_section("convert_annotations", ConvertAnnotationsParams), questions)
    table = conversion.table.assign(group="", split="")
    _describe(questions, table, conversion.rejected, data, out, review, repairs=conversion.metrics["repaired"])


def describe_table(path: Path, *, root: Path | None, sources: Path | None, out: Path, review: Path | None) -> None:
    """Describe the finished table at `path`. root, sources: None takes those of params.yaml; a rejected.csv beside the table is shown.

    So is what ../metrics/convert_annotations.json, where the pipeline writes it, says of repairs.
    """
    read_finished_table(path)
    stated = read_section("data", DataParams)
    data = DataParams(root=str(root or stated.root), sources=str(sources or stated.sources))
    beside = path.with_name("rejected.csv")
    rejected = read_table(beside, columns=REJECTED_COLUMNS) if beside.is_file() else pd.DataFrame(columns=list(REJECTED_COLUMNS))
    questions = declared_questions()
    metrics = path.parent.parent / "metrics/convert_annotations.json"
    repairs = load_json(metrics).get("repaired", []) if metrics.is_file() else []
    table = read_table(path, columns=dataset_columns(questions), questions=questions)
    _describe(questions, table, rejected, data, out, review, repairs=repairs)


def declared_questions() -> tuple[Question, ...]:
    """The questions of params.yaml."""
    return tuple(question.asked for question in read_questions(load_params()))


def _describe(
    questions: Sequence[Question],
    table: pd.DataFrame,
    rejected: pd.DataFrame,
    data: DataParams,
    out: Path,
    review: Path | None,
    *,
    repairs: Sequence[str],
) -> None:
    if out.is_dir():
        raise UserError(f"--out is {str(out)!r}, a folder. Name the page to write, e.g. {out / 'data_report.html'}.")
    table = table.sort_values("image_path").reset_index(drop=True)
    params, learned = read_section("split", SplitParams), read_learned(data.root_path, table)
    windows = None if learned is None else learned.windows_NxWxC
    links, suspicions, _ = find_ties(table, data.root_path, params, windows=windows, verdicts=read_verdicts())
    finished = bool((table["split"] != "").all())
    if not finished:
        table = table.assign(group=name_groups(label_groups(len(table), links), table["image_path"]))
    pairs = describe_links(table, links)
    evidence = Evidence(
        questions=questions,
        root=data.root_path,
        table=table,
        rejected=rejected,
        pairs=pairs,
        shown_pairs=choose_pairs(pairs),
        leaks=[str(leak) for leak in find_leaks(table)] if finished else [],
        suspicions=describe_suspicions(table, suspicions),
        looks=Looks(*list_looks(learned=learned is not None, merged=params.same_scene == "merge")),
        learned=None if learned is None else learned.stages_NxF.astype(np.float64),
        repairs=repairs,
    )
    examination = examine(evidence, read_section("describe", DescribeParams))
    outlines = partial(read_drawn_outlines, data, read_section("convert_annotations", ConvertAnnotationsParams), questions)
    page = draw_page(examination, outlines).encode()
    write_bytes(out, page)
    print(f"{summarise(examination)}\n{out}: {len(page) / 1e6:.1f} MB")
    if review is not None:
        print(f"{review}: {write_review(examination, review)} labels to look at")
