"""Draws the demo data root.

Reads: nothing. Writes: data/demo, metrics/render_demo.json. Params: render_demo.
"""

from pathlib import Path

from carinspect.core.files import write_json
from carinspect.core.params import read_section
from carinspect.core.programs import run_stage
from carinspect.demo.config import RenderDemoParams
from carinspect.demo.root import render_data_root


def main() -> None:
    params = read_section("render_demo", RenderDemoParams)
    metrics = render_data_root(Path("data/demo"), params)
    write_json(Path("metrics/render_demo.json"), metrics)


if __name__ == "__main__":
    run_stage(main, "render_demo")
