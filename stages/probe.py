"""Fits the baseline that the network has to beat: a linear probe on frozen features of the pretrained backbone.

Reads: data/network.yaml, data/questions.yaml, data/car_inspection_dataset.csv, the photos. Writes: data/probe.csv (its answers on val,
calib and test), data/probe_left_out.csv (with evaluate.leave_one_source_out: the answers on each source of a probe fitted without it),
models/probe.pt, metrics/probe.json; all empty without pretrained weights. Params: data, train.seed, evaluate.image_side_px,
evaluate.leave_one_source_out; `model.pretrained` is read too, and changes no result beyond the digest in data/network.yaml.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import NETWORK_FILE, load_params, load_yaml, parse_section, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import label_columns, load_questions
from carinspect.core.tables import dataset_columns, read_table, write_table
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.backbones import build_pretrained, reading_side
from carinspect.model.config import ModelParams, ModelRecipe
from carinspect.model.features import StageFeatures, frozen_features
from carinspect.model.probe import EMPTY, answer_left_out, fit_probe


def main() -> None:
    params, network, questions = load_params(), load_yaml(NETWORK_FILE), load_questions()
    model = parse_section("model", ModelRecipe, network["model"], file=str(NETWORK_FILE))
    evaluate, seed, root = params["evaluate"], params["train"]["seed"], read_section("data", DataParams, params).root_path
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(questions), questions=questions)
    labelled = table[label_columns(questions)].notna().any(axis=1)
    # The same photos as in the evaluation, at the same side: so they are decoded once for both.
    train = table[(table["split"] == "train") & labelled].reset_index(drop=True)
    scored = table[table["split"] != "train"].reset_index(drop=True)

    probe, answers = EMPTY, scored[["image_path"]].head(0)
    left_out = answers
    if model.pretrained != "none":
        trained_px = network["image_side_px"]
        backbone = build_pretrained(model, read_section("model", ModelParams, params).pretrained, image_side_px=trained_px)
        side_px = reading_side(backbone, evaluate["image_side_px"], pretrained=True, training_side_px=trained_px)
        features = StageFeatures(backbone, stages=model.feature_stages, mirror=True)

        def read(rows: pd.DataFrame) -> np.ndarray:
            return frozen_features(features, open_pixel_cache(root, rows["image_path"].tolist(), rows["sha256"].tolist(), side_px=side_px))

        of_train_NF, of_scored_NF = read(train), read(scored)
        probe = fit_probe(of_train_NF, train, questions, seed=seed)
        answers = scored[["image_path"]].assign(**probe.answer(of_scored_NF, questions))
        if evaluate["leave_one_source_out"]:
            both_NF = np.concatenate([of_train_NF, of_scored_NF])
            left_out = answer_left_out(both_NF, pd.concat([train, scored], ignore_index=True), questions, seed=seed)
    write_table(answers, Path("data/probe.csv"))
    write_table(left_out, Path("data/probe_left_out.csv"))
    probe.save(Path("models/probe.pt"))
    write_json(Path("metrics/probe.json"), probe.describe())
    print(probe.say())


if __name__ == "__main__":
    run_stage(main, "probe")
