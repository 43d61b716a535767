"""Where is the damage? Maps for photos of a source that the head was never taught on, beside baselines that see no photo.

    PYTHONPATH=src python benchmarks/marks.py ROOT examples/real_photos/sources.yaml tf_efficientnet_lite0 weights.safetensors --sides 224

For each side in pixels and each source with outlines of damage, the head of `training.marks` learns on the frozen pretrained backbone, from
all other sources, and maps the photos of that source. Half of the groups of photos without damage teach, and the others are mapped with the
`--whole` source's and with photos of the folders `--other`, which nobody judged for damage. Printed are, over all outlined photos: pointing
(the hottest place is marked; in brackets within 5 % of the side), the same for photos of which less than 5 % is marked, average precision
of the cells, mean IoU at the cut chosen on val, and the share of whole and of other photos with a mark, from the strength on at which nine
tenths of the marks of val are right.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.core.data import DataParams
from carinspect.core.params import load_params, read_section
from carinspect.core.programs import run_program
from carinspect.core.seeds import derive_seed
from carinspect.core.tables import write_table
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.marks import Mapper, measure_marks
from carinspect.evaluation.predictions import read_pixels
from carinspect.images.label_maps import read_outlines
from carinspect.model.backbones import build_backbone
from carinspect.model.network import CarInspectionNetwork
from carinspect.splits.config import SplitParams
from carinspect.splits.ledger import Ledger
from carinspect.splits.split import split_photos
from carinspect.thresholds.marks import count_trials, judged_marks
from carinspect.training.marks import count_outlined, teach_marks
from carinspect.training.recipe import resolve_recipe

OUTLINES = Path(".carinspect/benchmark_outlines.csv")
PRECISE = 0.9
FIGURES = ("pointing", "pointing_small", "pixel_ap", "mean_iou")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("sources")
    parser.add_argument("backbone")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[224])
    parser.add_argument("--other", nargs="*", default=["folders/", "weather/"], help="where paths of unjudged photos begin")
    parser.add_argument("--without", nargs="*", default=["cleanliness"], help="questions of params.yaml that no source labels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params()
    params["model"] |= {"backbone": arguments.backbone}
    params["questions"] = {name: one for name, one in params["questions"].items() if name not in arguments.without}
    recipe = resolve_recipe(params, pretrained="sha256:benchmark", resume="none")
    data = DataParams(root=str(arguments.root), sources=arguments.sources)
    converted = convert(data, read_section("convert_annotations", ConvertAnnotationsParams, params), recipe.questions)
    write_table(converted.outlines, OUTLINES)
    outlines = read_outlines(OUTLINES)
    split = split_photos(
        converted.table, arguments.root, params=read_section("split", SplitParams, params), questions=recipe.questions,
        ledger=Ledger({}, {}),
    )  # fmt: skip
    table = split.table
    sources = [name for name, rows in table.groupby("source") if count_outlined(rows, outlines, "damage") >= 20]
    unmarked = np.array([any(mask.form == "none" for mask in outlines.get(path, {}).get("damage", ())) for path in table["image_path"]])
    coin = np.array([derive_seed("half of the whole cars", group) % 2 for group in table["group"]])
    other = table["image_path"].str.startswith(tuple(arguments.other)).to_numpy()
    print(f"{len(table)} photos, {count_outlined(table, outlines, 'damage')} with outlined damage, sources: {', '.join(sources)}")
    evaluation = read_section("evaluate", EvaluateParams, params)
    for side_px in arguments.sides:
        backbone = build_backbone(arguments.backbone, image_side_px=side_px, pretrained=arguments.weights)
        network = CarInspectionNetwork(recipe.model, recipe.questions, backbone=backbone).eval()
        pixels = read_pixels(table, root=arguments.root, image_side_px=side_px)
        parts = []
        for left_out in sources:
            tested = (table["source"] == left_out).to_numpy()
            groups = set(table["group"][tested])
            teaches = ~table["group"].isin(groups).to_numpy() & ~(unmarked & (coin == 1)) & ~other
            taught_rows = place_val(table[teaches])
            taught = teach_marks(
                network, taught_rows, outlines, recipe, root=arguments.root, side_px=side_px, workers=0
            )  # fmt: skip
            assert taught.fit is not None
            fit = taught.fit
            mapper = Mapper(network, fit, pixels, table["image_path"].tolist())
            val = set(taught_rows["image_path"][taught_rows["split"] == "val"])
            whole = unmarked & (coin == 1)
            splits = np.where(table["image_path"].isin(val), "val", np.where(tested, "test", "whole"))
            known = np.flatnonzero((splits != "whole") | whole)
            rows = table.iloc[known].assign(split=splits[known])
            maps_of = partial(map_rows, mapper, known)
            found = measure_marks(rows, maps_of, fit, outlines, recipe.questions, evaluation)
            strength = working_point(found.table)
            of_source = found.report["damage"]["sources"][left_out]
            marks = found.table[(found.table["what"] == "mark") & (found.table["strength"] >= strength)]
            photos = found.table[(found.table["what"] == "photo") & (found.table["split"] == "whole")]
            false = photos["image_path"].isin(marks["image_path"]).mean()
            others = np.flatnonzero(other)
            hottest = np.concatenate([mapper.maps(part)[:, 0].max(axis=(1, 2)) for part in np.array_split(others, len(others) // 32 + 1)])
            paths = table["image_path"].iloc[others].str.split("/")
            folders = (paths.str[0] + "/" + paths.str[-2]).to_numpy()
            by_folder = pd.Series(hottest >= strength).groupby(folders).mean().round(3).to_dict()
            parts.append(of_source)
            print(f"{side_px} px, without {left_out}: {say(of_source)}; from strength {strength:.2f} whole cars {false:.3f}, {by_folder}")
            print("   " + " | ".join(f"{name} {say(of_source, '_' + name)}" for name in ("centre", "prior", "random")), flush=True)
        for end in ("", "_centre", "_prior", "_random"):
            print(f"{side_px} px, all{end}: {say(pool(parts, end), end)}", flush=True)


def map_rows(mapper: Mapper, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The maps of the `chosen` ones of `rows`, which are places among all photos."""
    return mapper.maps(rows[chosen])


def working_point(marks: pd.DataFrame) -> float:
    """The least strength from which at least `PRECISE` of the marks of val touch damage, one mark a group."""
    val = judged_marks(marks, "damage", "val")
    for strength in np.unique(val.strength):
        groups, wrong = count_trials(val, strength)
        if wrong <= (1 - PRECISE) * groups:
            return float(strength)
    return 1.0


def place_val(rows: pd.DataFrame) -> pd.DataFrame:
    """A tenth of the groups is val, the rest train."""
    lot = np.array([derive_seed("val of the benchmark", group) % 10 for group in rows["group"]])
    return rows.assign(split=np.where(lot == 0, "val", "train")).reset_index(drop=True)


def pool(parts: list[dict[str, float]], end: str) -> dict[str, float]:
    """The figures over all photos: means over sources, weighted by their photos."""
    names = [f"{figure}{near}{end}" for figure in FIGURES for near in ("", "_near")]
    return {
        name: float(np.average([part[name] for part in told], weights=[part["photos"] for part in told]))
        for name in names
        if (told := [part for part in parts if part.get(name) is not None])
    }


def say(figures: dict[str, float], end: str = "") -> str:
    """The figures in one line."""

    def show(name: str) -> str:
        value = figures.get(f"{name}{end}")
        return "-" if value is None else f"{value:.2f}"

    return (
        f"pointing {show('pointing')} ({show('pointing_near')}), small {show('pointing_small')} ({show('pointing_small_near')}), "
        f"AP {show('pixel_ap')}, IoU {show('mean_iou')}"
    )


if __name__ == "__main__":
    run_program(main, "benchmarks/marks.py")
