"""Trains one combination of the sweep by the pipeline's own stage, and scores it on val and test.

Reads: data/recipe.yaml, data/car_inspection_dataset.csv, the photos. Writes: sweeps/metrics/<backbone>-<seed>.json. Params: the recipe,
with the backbone and the seed of the command line.
"""

import argparse
from pathlib import Path

from carinspect.core.files import write_json
from carinspect.core.params import load_params
from carinspect.core.programs import run_stage
from carinspect.core.tables import dataset_columns, read_table
from carinspect.sweep.combination import combine, score_combination
from carinspect.training.recipe import read_recipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    recipe = combine(read_recipe(), backbone=arguments.backbone, seed=arguments.seed)
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(recipe.questions), questions=recipe.questions)
    scores = score_combination(recipe, table, load_params())
    write_json(Path(f"sweeps/metrics/{arguments.backbone}-{arguments.seed}.json"), scores)
    print(f"{arguments.backbone}, seed {arguments.seed}: {scores['val']}")


if __name__ == "__main__":
    run_stage(main, "sweep")
