"""Trains the model under torchrun: one process for each GPU or share of the cores, on one machine or several.

Reads: data/recipe.yaml, data/car_inspection_dataset.csv, models/probe.pt, the photos. Writes: models/best.pt, reports/train_ddp
(curves.csv, curves.png, augmented.png), metrics/train_ddp.json. Params: the recipe. `data`, `hardware`, `tracking`, `model.pretrained` and
`train.resume` are read too; the result depends only on what the recipe says of them.
"""

import argparse
import os
import sys
from pathlib import Path

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.model.config import ModelParams
from carinspect.training.config import TrackingParams, TrainParams
from carinspect.training.launch import become_torchrun, is_worker, join_launcher, lock_run, read_cluster
from carinspect.training.lease import take_share
from carinspect.training.profiles import read_profiles
from carinspect.training.recipe import CHECKPOINT_FILE, read_recipe, resume_from
from carinspect.training.run import Job, finish, prepare, run
from carinspect.training.runtime import settle_runtime

PROBE = Path("models/probe.pt")


def main() -> None:
    if is_worker():
        join_launcher()
    arguments = read_arguments()
    params = load_params()
    resume = arguments.resume or read_section("train", TrainParams, params).resume
    recipe = resume_from(arguments.resume, read_recipe())
    cluster = read_cluster(os.environ, joins=arguments.join)
    chosen, profiles = read_profiles(params)
    machine = settle_runtime(profiles[chosen].runtime, recipe.train, nodes=cluster.nodes)
    job = Job(
        recipe=recipe,
        machine=machine,
        root=read_section("data", DataParams, params).root_path,
        table=Path("data/car_inspection_dataset.csv"),
        pretrained=read_section("model", ModelParams, params).pretrained,
        resume=Path(resume) if resume else None,
        probe=PROBE,
        joins=cluster.joins,
        checkpoint=CHECKPOINT_FILE,
        curves=Path("reports/train_ddp/curves.csv"),
        curves_picture=Path("reports/train_ddp/curves.png"),
        augmentation_sheet=Path("reports/train_ddp/augmented.png"),
        tracking=read_section("tracking", TrackingParams, params),
    )
    if not is_worker():
        prepare(job)
        if not cluster.joins:
            lock_run(job.lock_file)
        if cluster.nodes == 1:
            # On a cluster the scheduler assigns the GPUs.
            machine = take_share(machine, profiles[chosen].runtime)
        print(f"training on {machine.device} with {machine.processes} processes and {machine.workers} loader workers each", flush=True)
        become_torchrun(__file__, sys.argv[1:], processes=machine.processes, cluster=cluster, anew=machine.device == "cuda")
    metrics = run(job)
    if metrics:
        write_json(Path("metrics/train_ddp.json"), metrics)
        finish(job)


def read_arguments() -> argparse.Namespace:
    """Options for use by hand; DVC starts the stage without any."""
    parser = argparse.ArgumentParser(description="Train the recipe in data/recipe.yaml.")
    parser.add_argument("--resume", metavar="FILE", help="begin with the weights of this checkpoint, as train.resume does")
    parser.add_argument("--join", action="store_true", help="help the training of another machine; it writes the outputs")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main, "train_ddp")
