"""Examines the finished table and its photos, and writes the page that shows what is in the data.

Reads: data/car_inspection_dataset.csv, data/rejected.csv, metrics/convert_annotations.json, metrics/split.json, reports/split, data.root,
data.sources, data/questions.yaml, the network in data/network.yaml. Writes: reports/describe/report.html, metrics/describe.json. Params:
data, describe, convert_annotations. `model.pretrained` is read too, and changes no result beyond the digest in data/network.yaml.
"""

from functools import partial
from pathlib import Path

import numpy as np

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.drawn import read_drawn_outlines
from carinspect.annotations.records import REJECTED_COLUMNS
from carinspect.core.data import DataParams
from carinspect.core.files import write_bytes, write_json
from carinspect.core.params import NETWORK_FILE, load_json, load_yaml, parse_section, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import load_questions
from carinspect.core.tables import dataset_columns, read_table
from carinspect.describe.config import DescribeParams
from carinspect.describe.examination import Evidence, Looks, examine, make_metrics, summarise
from carinspect.describe.page import draw_page
from carinspect.model.config import ModelParams, ModelRecipe
from carinspect.model.learned import read_learned_features
from carinspect.splits.check import find_leaks
from carinspect.splits.contact_sheet import choose_pairs
from carinspect.splits.link_table import read_links
from carinspect.splits.scenes import read_suspicions

REPORT = Path("reports/describe/report.html")


def main() -> None:
    data, questions = read_section("data", DataParams), load_questions()
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(questions), questions=questions)
    pairs = read_links(Path("reports/split/near_duplicates.csv"))
    network = parse_section("model", ModelRecipe, load_yaml(NETWORK_FILE)["model"], file=str(NETWORK_FILE))
    learned = read_learned_features(
        data.root_path,
        table["image_path"].tolist(),
        table["sha256"].tolist(),
        backbone=network.backbone,
        pretrained=network.weights_of(read_section("model", ModelParams).pretrained),
    )
    certificate = load_json(Path("metrics/split.json"))
    evidence = Evidence(
        questions=questions,
        root=data.root_path,
        table=table,
        rejected=read_table(Path("data/rejected.csv"), columns=REJECTED_COLUMNS),
        pairs=pairs,
        shown_pairs=choose_pairs(pairs),
        leaks=[str(leak) for leak in find_leaks(table)],
        suspicions=read_suspicions(Path("reports/split/same_scene.csv")),
        looks=Looks(*(certificate[key] for key in ("looked_for", "looked_for_as_a_suspicion", "not_looked_for"))),
        learned=None if learned is None else learned.stages_NxF.astype(np.float64),
        repairs=load_json(Path("metrics/convert_annotations.json"))["repaired"],
    )
    examination = examine(evidence, read_section("describe", DescribeParams))
    outlines = partial(read_drawn_outlines, data, read_section("convert_annotations", ConvertAnnotationsParams), questions)
    write_bytes(REPORT, draw_page(examination, outlines).encode())
    write_json(Path("metrics/describe.json"), make_metrics(examination))
    print(f"{summarise(examination)}\n{REPORT}: {REPORT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_stage(main, "describe")
