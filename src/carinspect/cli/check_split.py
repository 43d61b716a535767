"""`carinspect check-split`: finds leaks between the splits of a finished table, from its columns and, on request, its photos."""

from pathlib import Path

import pandas as pd

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import sha256_of
from carinspect.core.params import load_params, read_section
from carinspect.core.tables import SPLITS, read_table
from carinspect.model.config import ModelParams
from carinspect.model.learned import LearnedFeatures, read_learned_features
from carinspect.splits.certificate import list_looks
from carinspect.splits.check import LEAK_KINDS, count_compared, find_leaks
from carinspect.splits.config import SplitParams
from carinspect.splits.scenes import describe_suspicions, read_verdicts
from carinspect.splits.split import find_ties
from carinspect.training.profiles import read_pretrained, read_profiles


def report_leaks(path: Path, root: Path | None) -> int:
    """Print a line for each leak of the table at `path`, or that there is none; returns 1 if there are leaks, else 0.

    root: folder of the photos, which are then compared as in the stage `split`; None: only the table is checked.
    """
    table = read_finished_table(path)
    leaks = [str(leak) for leak in find_leaks(table)]
    if root is not None:
        found, suspicions, looks = _compare_photos(table, root)
        leaks += found
        print("\n".join([*suspicions, *looks]))
    for leak in leaks:
        print(leak)
    counts = ", ".join(f"{split} {(table['split'] == split).sum():,}" for split in SPLITS)
    verdict = f"{len(leaks):,} leak{'s' * (len(leaks) != 1)}" if leaks else "no leak of the kinds looked for"
    compared = _say_compared(table, path, with_photos=root is not None)
    print(f"{path}: {len(table):,} photos in {table['group'].nunique():,} groups: {counts}; {verdict} ({compared}).")
    return 1 if leaks else 0


def _say_compared(table: pd.DataFrame, path: Path, *, with_photos: bool) -> str:
    """What was compared, of how many photos where not of all, and what was not. Raises `UserError` where nothing was."""
    known = count_compared(table)
    words = {kind: word.removeprefix("the ") for kind, word in LEAK_KINDS.items()}
    done = [words[kind] + (f" of {count:,} photos" if count < len(table) else "") for kind, count in known.items() if count]
    blank = [words[kind] for kind, count in known.items() if not count]
    if not done and not with_photos:
        columns = ", ".join(LEAK_KINDS)
        raise UserError(f"{path}: nothing was compared, for {columns} are blank in every row. Name the folder of the photos: --root.")
    said = f"compared: {', '.join([*done, *(['the photos themselves'] if with_photos else [])])}"
    not_done = [*(f"{word}, which is blank" for word in blank), *([] if with_photos else ["the photos themselves, for want of --root"])]
    return said + (f"; not compared: {'; '.join(not_done)}" if not_done else "")


def read_finished_table(path: Path) -> pd.DataFrame:
    """A table in which every photo has a split. Raises `UserError` for a photo without one, and for a table without photos."""
    table = read_table(path, columns=("image_path", "split", *LEAK_KINDS))
    if table.empty:
        raise UserError(f"{path}: it has columns and no rows, so that there is nothing to check. Run the stage that writes it: dvc repro.")
    strange = table[~table["split"].isin(SPLITS)]
    if len(strange):
        split, photo = strange.iloc[0][["split", "image_path"]]
        raise UserError(f"{path}: split has the value {split!r} for {photo!r}. {did_you_mean(split, SPLITS)}")
    return table


def _compare_photos(table: pd.DataFrame, root: Path) -> tuple[list[str], list[str], list[str]]:
    """Lines for the leaks that the photos themselves show, for pairs in two splits that may show one scene, for the kinds looked for."""
    table = table.sort_values("image_path").reset_index(drop=True)
    paths, splits = table["image_path"], table["split"]
    params, learned = read_section("split", SplitParams), read_learned(root, table)
    ties = find_ties(table, root, params, windows=None if learned is None else learned.windows_NxWxC, verdicts=read_verdicts())
    leaks = [
        f"2 photos show the same {'picture' if link.correlation is not None else 'scene'} but lie in {splits[link.first]} and "
        f"{splits[link.second]}: {paths[link.first]}, {paths[link.second]}"
        for link in ties.links
        if (link.correlation is not None or link.kind in ("confirmed", "same-scene")) and splits[link.first] != splits[link.second]
    ]
    suspicions = [
        f"suspicion: 2 photos may show one scene but lie in {pair.first_split} and {pair.second_split}: {pair.first}, {pair.second}"
        for pair in describe_suspicions(table, ties.suspicions).itertuples()
        if pair.first_split != pair.second_split
    ]
    words = ("looked for", "looked for as a suspicion, no leak by itself", "not looked for")
    kinds = list_looks(learned=learned is not None, merged=params.same_scene == "merge")
    return leaks, suspicions, [f"{word}: {'; '.join(said)}" for word, said in zip(words, kinds, strict=True) if said]


def read_learned(root: Path, table: pd.DataFrame) -> LearnedFeatures | None:
    """Frozen features of the photos of `table` under `root` by the backbone of params.yaml; None without `model.pretrained`."""
    params = load_params()
    pretrained = read_pretrained(params)
    if pretrained is False:
        return None
    chosen, profiles = read_profiles(params)
    paths = table["image_path"].tolist()
    # A table from elsewhere may know no bytes, by which features are kept.
    digests = [
        digest or (sha256_of(root / path) if (root / path).is_file() else "") for path, digest in zip(paths, table["sha256"], strict=True)
    ]
    backbone = read_section("model", ModelParams, params).backbone or profiles[chosen].recipe.backbone
    return read_learned_features(root, paths, digests, backbone=backbone, pretrained=pretrained)
