"""Trains the model under torchrun: as many processes as the machine has cards, or shares of cores.

Reads: data/recipe.yaml, data/car_inspection_dataset.csv, the photos. Writes: models/best.pt, reports/train_ddp (curves.csv,
curves.png, augmented.png), metrics/train_ddp.json. Params: the recipe. `data`, `hardware`, `tracking` and `model.pretrained` are read too,
and change no result beyond the recipe.
"""

from pathlib import Path

from carinspect.core.data import DataParams
from carinspect.core.errors import run_stage
from carinspect.core.files import write_json
from carinspect.core.params import load_params, read_section
from carinspect.training.config import TrackingParams
from carinspect.training.launch import exec_torchrun, is_worker, join_launcher
from carinspect.training.recipe import read_profiles, read_recipe
from carinspect.training.run import Job, prepare, run
from carinspect.training.runtime import settle_runtime


def main() -> None:
    if is_worker():
        join_launcher()
    params = load_params()
    recipe = read_recipe()
    chosen, profiles = read_profiles(params)
    machine = settle_runtime(profiles[chosen].runtime, recipe.train)
    job = Job(
        recipe=recipe,
        machine=machine,
        root=read_section("data", DataParams, params).root_path,
        table=Path("data/car_inspection_dataset.csv"),
        pretrained=params["model"]["pretrained"],
        checkpoint=Path("models/best.pt"),
        curves=Path("reports/train_ddp/curves.csv"),
        curves_picture=Path("reports/train_ddp/curves.png"),
        contact_sheet=Path("reports/train_ddp/augmented.png"),
        tracking=read_section("tracking", TrackingParams, params),
    )
    if not is_worker():
        prepare(job)
        print(f"training on {machine.device} with {machine.processes} processes and {machine.workers} loader workers each", flush=True)
        exec_torchrun(__file__, processes=machine.processes)
    metrics = run(job)
    if metrics:
        write_json(Path("metrics/train_ddp.json"), metrics)


if __name__ == "__main__":
    run_stage(main, "train_ddp")
