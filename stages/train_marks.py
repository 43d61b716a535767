"""Teaches the trained network where damage and dirt are, from the outlines of annotators: a head on its maps; the network stays as it is.

Reads: data/recipe.yaml, models/best.pt, data/car_inspection_dataset.csv, data/outlines.csv, the photos. Writes: models/marks.pt,
metrics/train_marks.json. Params: data, evaluate.image_side_px. `hardware` is read too, and changes no result beyond the recipe.
"""

from pathlib import Path

import torch

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.tables import dataset_columns, read_table
from carinspect.images.label_maps import read_outlines
from carinspect.model.backbones import reading_side
from carinspect.model.checkpoint import build_network, load_checkpoint
from carinspect.model.marks import save_marks
from carinspect.training.marks import say_taught, teach_marks
from carinspect.training.profiles import read_profiles
from carinspect.training.recipe import read_recipe
from carinspect.training.runtime import settle_runtime


def main() -> None:
    params, recipe = load_params(), read_recipe()
    checkpoint = load_checkpoint(Path("models/best.pt"))
    table = read_table(
        Path("data/car_inspection_dataset.csv"), columns=dataset_columns(checkpoint.questions), questions=checkpoint.questions
    )
    chosen, profiles = read_profiles(params)
    machine = settle_runtime(profiles[chosen].runtime, recipe.train, nodes=1)
    if machine.device == "cpu":
        # As in the training: sums then do not depend on the number of cores.
        torch.set_num_threads(1)
    network = build_network(checkpoint).to(machine.device)
    side_px = reading_side(
        network.backbone,
        params["evaluate"]["image_side_px"],
        pretrained=checkpoint.model.pretrained != "none",
        training_side_px=checkpoint.image_side_px,
    )
    root = read_section("data", DataParams, params).root_path
    taught = teach_marks(
        network, table, read_outlines(Path("data/outlines.csv")), recipe, root=root, side_px=side_px, workers=machine.workers
    )
    save_marks(taught.fit, Path("models/marks.pt"))
    write_json(Path("metrics/train_marks.json"), taught.metrics)
    print("\n".join(say_taught(taught, recipe.questions)))


if __name__ == "__main__":
    run_stage(main, "train_marks")
