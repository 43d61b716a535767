"""How many wrong labels the list of doubtful labels holds: labels of real photos are flipped at random, and looked for.

    python benchmarks/doubts.py FOLDER tf_efficientnet_lite0 weights.safetensors [--share 0.05] [--draws 4]

FOLDER has class folders `clean` and `dirty` at any depth; it is only read. Draw 0 of the table is without a flipped label.
"""

import argparse
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from growth import QUESTIONS

from carinspect.core.params import read_section
from carinspect.core.questions import by_name
from carinspect.describe.config import DescribeParams
from carinspect.describe.oddities import measure_photos
from carinspect.describe.suspects import find_doubts
from carinspect.model.learned import read_learned_features
from carinspect.splits.config import SplitParams
from carinspect.splits.groups import label_groups, name_groups
from carinspect.splits.split import find_links


def read_photos(folder: Path) -> pd.DataFrame:
    """The columns of the tables that the search reads; copies of one export have one family."""
    paths = sorted(path for name in ("clean", "dirty") for path in folder.rglob(f"{name}/*") if path.is_file())
    names = [path.name.split(".rf.")[0] if ".rf." in path.name else "" for path in paths]
    table = pd.DataFrame({"image_path": [str(path.relative_to(folder)) for path in paths], "family": names, "phash": ""})
    table["sha256"] = [sha256(path.read_bytes()).hexdigest() for path in paths]
    table["clean"] = [float(path.parent.name == "clean") for path in paths]
    links = find_links(table, folder, read_section("split", SplitParams))
    return table.assign(group=name_groups(label_groups(len(table), links), table["image_path"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("weights")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    table, params = read_photos(args.folder), read_section("describe", DescribeParams)
    paths, digests = table["image_path"].tolist(), table["sha256"].tolist()
    found = read_learned_features(args.folder, paths, digests, backbone=args.backbone, pretrained=args.weights)
    learned = None if found is None else found.stages_NxF.astype(np.float64)
    measured = measure_photos(args.folder, table["image_path"].tolist())
    print(
        f"{len(table)} photos in {table['group'].nunique()} groups\n{'draw':>5} {'flipped':>8} {'listed':>7} {'found':>6} {'without weights':>16}"  # noqa: E501
    )
    for draw in range(args.draws + 1):
        flipped = np.random.default_rng(draw).choice(len(table), round(args.share * len(table)) if draw else 0, replace=False)
        clean = table["clean"].to_numpy().copy()
        clean[flipped] = 1 - clean[flipped]
        wrong = set(table["image_path"].iloc[flipped])
        found = []
        for features in (learned, None):
            (doubts,) = find_doubts(table.assign(clean=clean), [by_name(QUESTIONS)["clean"]], measured, params, features)
            found.append([suspect.image_path for suspect in doubts.suspects])
        hits = [len(wrong & set(paths)) for paths in found]
        print(f"{draw:5} {len(wrong):8} {len(found[0]):7} {hits[0]:6} {f'{hits[1]} of {len(found[1])}':>16}", flush=True)


if __name__ == "__main__":
    main()
