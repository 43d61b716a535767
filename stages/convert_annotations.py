"""Converts the labels of a data root, in any format that it has, into one table.

Reads: data.root, data.sources, data/questions.yaml. Writes: data/annotations.csv, data/rejected.csv, data/outlines.csv,
metrics/convert_annotations.json. Params: data, convert_annotations.
"""

from pathlib import Path

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import load_questions
from carinspect.core.tables import write_table


def main() -> None:
    data, questions = read_section("data", DataParams), load_questions()
    params = read_section("convert_annotations", ConvertAnnotationsParams)
    conversion = convert(data, params, questions, needs_every_label=True)
    write_table(conversion.table, Path("data/annotations.csv"), questions)
    write_table(conversion.rejected, Path("data/rejected.csv"))
    write_table(conversion.outlines, Path("data/outlines.csv"))
    write_json(Path("metrics/convert_annotations.json"), conversion.metrics)
    for repair in conversion.metrics["repaired"]:
        print(repair)
    print(f"{len(conversion.table):,} photos; {len(conversion.rejected):,} rejected (data/rejected.csv says why).")


if __name__ == "__main__":
    run_stage(main, "convert_annotations")
