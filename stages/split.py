"""Groups photos that belong together, and assigns each group to one split.

Reads: data/annotations.csv, data.root, data/split_ledger.json, data/same_scene.csv, data/questions.yaml, the network in data/network.yaml.
Writes: data/car_inspection_dataset.csv, data/split_ledger.json, metrics/split.json, reports/split/near_duplicates.csv and .png,
reports/split/same_scene.csv. Params: data, split. `model.pretrained` is
read too, and changes no result beyond the digest in data/network.yaml.
"""

from pathlib import Path

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import NETWORK_FILE, load_yaml, parse_section, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import load_questions
from carinspect.core.tables import annotation_columns, dataset_columns, read_table, write_table
from carinspect.model.config import ModelParams, ModelRecipe
from carinspect.model.learned import read_learned_features
from carinspect.splits.config import SplitParams
from carinspect.splits.contact_sheet import choose_pairs, write_contact_sheet
from carinspect.splits.ledger import read_ledger, write_ledger
from carinspect.splits.link_table import describe_links, write_links
from carinspect.splits.scenes import describe_suspicions, read_verdicts, write_suspicions
from carinspect.splits.split import split_photos

LEDGER = Path("data/split_ledger.json")
REPORTS = Path("reports/split")


def main() -> None:
    root, params, questions = read_section("data", DataParams).root_path, read_section("split", SplitParams), load_questions()
    annotations = read_table(Path("data/annotations.csv"), columns=annotation_columns(questions), questions=questions)
    network = parse_section("model", ModelRecipe, load_yaml(NETWORK_FILE)["model"], file=str(NETWORK_FILE))
    learned = read_learned_features(
        root,
        annotations["image_path"].tolist(),
        annotations["sha256"].tolist(),
        backbone=network.backbone,
        pretrained=network.weights_of(read_section("model", ModelParams).pretrained),
    )
    result = split_photos(
        annotations,
        root,
        params=params,
        questions=questions,
        ledger=read_ledger(LEDGER, params),
        windows=None if learned is None else learned.windows_NxWxC,
        verdicts=read_verdicts(),
    )
    pairs = describe_links(result.table, result.links)
    write_links(pairs, REPORTS / "near_duplicates.csv")
    write_contact_sheet(choose_pairs(pairs), root, REPORTS / "near_duplicates.png")
    write_suspicions(describe_suspicions(result.table, result.suspicions), REPORTS / "same_scene.csv")
    write_table(result.table[dataset_columns(questions)], Path("data/car_inspection_dataset.csv"), questions)
    write_ledger(LEDGER, result.ledger, params)
    write_json(Path("metrics/split.json"), result.certificate)
    counts = ", ".join(f"{split} {photos:,}" for split, photos in result.certificate["photos"].items())
    print(f"{len(result.table):,} photos in {result.certificate['groups']['all']:,} groups: {counts}; no leak of the kinds looked for.")
    if apart := result.certificate["suspicions"]["in_two_splits"]:
        print(f"{apart:,} pairs in two splits may show one scene: reports/describe/report.html shows them.")
    verdicts = result.certificate["verdicts"]
    if together := verdicts["different_but_in_one_group"]:
        print(f"data/same_scene.csv: {together} pairs called different are tied by a family, their bytes, their pixels or other photos.")
    if unknown := verdicts["of_photos_that_are_not_there"]:
        print(f"data/same_scene.csv: {unknown} rows name a photo that is not in the table.")


if __name__ == "__main__":
    run_stage(main, "split")
