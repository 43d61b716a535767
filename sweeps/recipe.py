"""Finds a recipe: varies one parameter of sweeps/recipe.yaml after the other, and keeps the value that answers val best.

Reads: sweeps/recipe.yaml, data/recipe.yaml, data/car_inspection_dataset.csv, the photos. Writes: sweeps/recipe.csv, each training;
sweeps/found.yaml, what to put into params.yaml. No stage of DVC, as sweeps/sweep.py; finished trainings are not repeated.
"""

from functools import partial
from pathlib import Path

from carinspect.core.files import write_bytes
from carinspect.core.params import load_params, load_yaml, parse_section
from carinspect.core.programs import run_stage
from carinspect.core.tables import dataset_columns, read_table
from carinspect.sweep.combination import train_and_answer
from carinspect.sweep.search import Losses, SearchParams, losses_of, search, tabulate_trials, write_found
from carinspect.training.config import Recipe
from carinspect.training.recipe import read_recipe

SEARCH = Path("sweeps/recipe.yaml")


def main() -> None:
    params = parse_section("recipe", SearchParams, load_yaml(SEARCH), file=str(SEARCH))
    recipe, settings = read_recipe(), load_params()
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(recipe.questions), questions=recipe.questions)

    def train(candidate: Recipe) -> Losses:
        answers = train_and_answer(candidate, table, settings, what="a training of the search", splits=["val"])
        return losses_of(answers, recipe.questions)

    groups_N = table.loc[table["split"] == "val", "group"].to_numpy(str)
    found = search(recipe, params, train, groups_N=groups_N, tell=partial(print, flush=True))
    write_bytes(Path("sweeps/recipe.csv"), tabulate_trials(found.trials).to_csv(index=False, lineterminator="\n").encode())
    said = write_found(found, params.tried)
    write_bytes(Path("sweeps/found.yaml"), said.encode())
    for one in found.left_out:
        print(f"No time was left for {one}. Raise `minutes` in {SEARCH}; what is trained is kept.")
    print(f"For params.yaml (sweeps/found.yaml):\n{said}", end="")


if __name__ == "__main__":
    run_stage(main, "recipe")
