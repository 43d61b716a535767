"""Backbones × seeds: trains each combination by the pipeline's own stage, scores it on val and test, and shows how much the seeds differ.

Reads: sweeps/sweep.yaml, data/recipe.yaml, data/car_inspection_dataset.csv, the photos. Writes: sweeps/metrics/<backbone>-<seed>.json,
sweeps/spread.csv, sweeps/spread.png. No stage of DVC, since `dvc status` would list a sweep after each change of the pipeline: a finished
training is known by the digest of its recipe, its photos and its code instead, and is not repeated.
"""

from pathlib import Path

from pydantic import Field

from carinspect.core.files import write_json
from carinspect.core.params import Section, load_params, load_yaml, parse_section
from carinspect.core.programs import run_stage
from carinspect.core.tables import dataset_columns, read_table
from carinspect.sweep.combination import combine, score_combination
from carinspect.sweep.spread import draw_spread, tabulate, write_spread
from carinspect.training.recipe import read_recipe

SWEEP = Path("sweeps/sweep.yaml")


class SweepParams(Section):
    """What is combined."""

    backbones: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)


def main() -> None:
    sweep = parse_section("sweep", SweepParams, load_yaml(SWEEP), file=str(SWEEP))
    recipe = read_recipe()
    # All of them, before the first training costs.
    recipes = [combine(recipe, backbone=backbone, seed=seed) for backbone in sweep.backbones for seed in sweep.seeds]
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(recipe.questions), questions=recipe.questions)
    scores = []
    for one in recipes:
        scores.append(score_combination(one, table, load_params()))
        write_json(Path(f"sweeps/metrics/{one.model.backbone}-{one.train.seed}.json"), scores[-1])
        print(f"{one.model.backbone}, seed {one.train.seed}: {scores[-1]['val']}", flush=True)
    spread = tabulate(scores)
    write_spread(spread, Path("sweeps/spread.csv"))
    draw_spread(spread, Path("sweeps/spread.png"))
    print(spread.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    run_stage(main, "sweep")
