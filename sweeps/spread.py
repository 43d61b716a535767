"""Shows how much the seeds of each backbone differ.

Reads: sweeps/metrics/<backbone>-<seed>.json of the command line's backbones and seeds. Writes: sweeps/spread.csv, sweeps/spread.png.
"""

import argparse
import json
from pathlib import Path

from carinspect.core.programs import run_stage
from carinspect.sweep.spread import draw_spread, tabulate, write_spread


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbones", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", required=True)
    arguments = parser.parse_args()
    names = [f"{backbone}-{seed}" for backbone in arguments.backbones for seed in arguments.seeds]
    table = tabulate([json.loads(Path(f"sweeps/metrics/{name}.json").read_text()) for name in names])
    write_spread(table, Path("sweeps/spread.csv"))
    draw_spread(table, Path("sweeps/spread.png"))
    print(table.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    run_stage(main, "sweep")
