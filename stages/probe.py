"""Fits the baseline that the network has to beat: a linear probe on frozen features of the pretrained backbone.

Reads: data/recipe.yaml, data/car_inspection_dataset.csv, the photos. Writes: data/probe.csv (its answers on val, calib and test),
data/probe_left_out.csv (with evaluate.leave_one_source_out: the answers on each source of a probe fitted without it), models/probe.pt,
metrics/probe.json; all empty without pretrained weights. Params: the recipe's model, questions, image side and seed;
evaluate.image_side_px, evaluate.leave_one_source_out. `data` and `model.pretrained` are read too, and change no result beyond the recipe.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import label_columns
from carinspect.core.tables import dataset_columns, read_table, write_table
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.backbones import build_pretrained, reading_side
from carinspect.model.config import ModelParams
from carinspect.model.features import StageFeatures, frozen_features
from carinspect.model.probe import EMPTY, answer_left_out, fit_probe
from carinspect.training.recipe import read_recipe


def main() -> None:
    recipe = read_recipe()
    questions, root, evaluate = recipe.questions, read_section("data", DataParams).root_path, load_params()["evaluate"]
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(questions), questions=questions)
    labelled = table[label_columns(questions)].notna().any(axis=1)
    # The same photos as in the evaluation, at the same side: so they are decoded once for both.
    train = table[(table["split"] == "train") & labelled].reset_index(drop=True)
    scored = table[table["split"] != "train"].reset_index(drop=True)

    probe, answers = EMPTY, scored[["image_path"]].head(0)
    left_out = answers
    if recipe.model.pretrained != "none":
        trained_px = recipe.train.image_side_px
        backbone = build_pretrained(recipe.model, read_section("model", ModelParams).pretrained, image_side_px=trained_px)
        side_px = reading_side(backbone, evaluate["image_side_px"], pretrained=True, training_side_px=trained_px)
        features = StageFeatures(backbone, stages=recipe.model.feature_stages, mirror=True)

        def read(rows: pd.DataFrame) -> np.ndarray:
            return frozen_features(features, open_pixel_cache(root, rows["image_path"].tolist(), rows["sha256"].tolist(), side_px=side_px))

        of_train_NF, of_scored_NF = read(train), read(scored)
        probe = fit_probe(of_train_NF, train, questions, seed=recipe.train.seed)
        answers = scored[["image_path"]].assign(**probe.answer(of_scored_NF, questions))
        if evaluate["leave_one_source_out"]:
            both_NF = np.concatenate([of_train_NF, of_scored_NF])
            left_out = answer_left_out(both_NF, pd.concat([train, scored], ignore_index=True), questions, seed=recipe.train.seed)
    write_table(answers, Path("data/probe.csv"))
    write_table(left_out, Path("data/probe_left_out.csv"))
    probe.save(Path("models/probe.pt"))
    write_json(Path("metrics/probe.json"), probe.describe())
    print(probe.say())


if __name__ == "__main__":
    run_stage(main, "probe")
