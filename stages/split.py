"""Groups photos that belong together, and assigns each group to one split.

Reads: data/annotations.csv, data/questions.yaml, data.root, data/split_ledger.json. Writes:
data/car_inspection_dataset.csv, data/split_ledger.json, metrics/split.json, reports/split/near_duplicates.csv and .png. Params: data.root,
split.
"""

from pathlib import Path

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import load_questions
from carinspect.core.tables import annotation_columns, dataset_columns, read_table, write_table
from carinspect.splits.config import SplitParams
from carinspect.splits.contact_sheet import choose_pairs, write_contact_sheet
from carinspect.splits.ledger import read_ledger, write_ledger
from carinspect.splits.link_table import describe_links, write_links
from carinspect.splits.split import split_photos

LEDGER = Path("data/split_ledger.json")
REPORTS = Path("reports/split")


def main() -> None:
    root, params, questions = read_section("data", DataParams).root_path, read_section("split", SplitParams), load_questions()
    annotations = read_table(Path("data/annotations.csv"), columns=annotation_columns(questions), questions=questions)
    result = split_photos(annotations, root, params=params, questions=questions, ledger=read_ledger(LEDGER, params))
    pairs = describe_links(result.table, result.links)
    write_links(pairs, REPORTS / "near_duplicates.csv")
    write_contact_sheet(choose_pairs(pairs), root, REPORTS / "near_duplicates.png")
    write_table(result.table[dataset_columns(questions)], Path("data/car_inspection_dataset.csv"), questions)
    write_ledger(LEDGER, result.ledger, params)
    write_json(Path("metrics/split.json"), result.certificate)
    counts = ", ".join(f"{split} {photos:,}" for split, photos in result.certificate["photos"].items())
    print(f"{len(result.table):,} photos in {result.certificate['groups']['all']:,} groups: {counts}; no leak of the kinds looked for.")


if __name__ == "__main__":
    run_stage(main, "split")
