"""Measures the maps of marks beside three baselines that see no photo: a random place, the centre, and how often train is marked there.

data/marks.csv has, for each photo of val, calib and test about which something is known, and each question with a map, these rows:

| what | `strength` | `right` |
|---|---|---|
| `photo` | the hottest cell's probability | 1: it has outlines, 0: somebody looked, and nothing is marked |
| `mark` | the highest probability in a marked region | 1: it touches an outline, 0: it does not, blank: nobody knows |
| `outline` | the same of the strongest region that touches this outlined region; 0 where none does | 1 |

`share` is the marked part of the photo, 0..1, for an outline that of its region.

    {<question>: {"test": {figures}, "sources": {<source>: {figures}}}}

The figures are `pointing` (the hottest place lies within an outline), `pointing_near` (within 5 % of the side of one), `pointing_small` and
`pointing_small_near` (photos of which less than 5 % is marked), `pixel_ap` (average precision of the cells), `mean_iou` at the cut, each
with its interval; `<figure>_random`, `_centre` and `_prior` are the baselines'. Boxes count for pointing only: their rim is not the mark's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.core.tables import write_table
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.predictions import BATCH
from carinspect.images.label_maps import MARKED, UNKNOWN, UNMARKED, Mask, Outlines, draw_label_map, overlap_of
from carinspect.inference.marks import find_marks, find_regions
from carinspect.inference.rules import MarkRule
from carinspect.model.marks import MarksFit, MarksHead
from carinspect.model.network import CarInspectionNetwork
from carinspect.scoring.intervals import estimate
from carinspect.scoring.ranking import Array, divide

Report = dict[str, Any]

FINE_PX = 256
"""Side of the label map that pointing is judged on."""
NEAR = 0.05
SMALL = 0.05
SHARES = 10_000
LEVELS = 1000
"""Of the probabilities of cells, for the average precision: a million cells are not sorted anew without each group."""
COLUMNS = ("image_path", "source", "group", "split", "question", "what", "strength", "right", "share")
FIGURES = ("pointing", "pointing_near", "pointing_small", "pointing_small_near", "pixel_ap", "mean_iou")
BASELINES = ("random", "centre", "prior")

Maps = np.ndarray
"""Probabilities, float32 (N, K, h, w)."""


@dataclass
class Judged:
    """One outlined photo: what is measured of our map and of each baseline. A figure that it does not tell is NaN."""

    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """Answerer (`ours` or a baseline) → figure → value."""
    cells: dict[str, Array] = field(default_factory=dict)
    """Answerer → its values of the known cells; `truth`: 1 where they are marked."""


@dataclass(frozen=True)
class Mapper:
    """A network and its head, with the photos that they map."""

    network: CarInspectionNetwork
    fit: MarksFit
    pixels: np.ndarray
    """uint8 (N, S, S, 3)."""
    image_paths: Sequence[str]

    @torch.inference_mode()
    def maps(self, places: np.ndarray) -> Maps:
        """The maps of the photos at `places`."""
        device = next(self.network.parameters()).device
        photos = torch.from_numpy(np.stack([self.pixels[place] for place in places])).to(device)
        return np.asarray(torch.sigmoid(self.head.to(device)(self.network.maps(photos, self.fit.stages))).cpu())

    def outlines(self, image_path: str) -> dict[str, list[list[tuple[float, float]]]]:
        """For pictures: question → the regions at the cut, as corners in shares of the photo's sides."""
        maps_Khw = self.maps(np.array([self._places[image_path]]))[0]
        found = {}
        for name, map_hw in zip(self.fit.questions, maps_Khw, strict=True):
            rule = MarkRule(question=name, kind="", cut=self.fit.cuts[name], promise=None)
            marks = find_marks(map_hw, rule, width_px=SHARES, height_px=SHARES)
            found[name] = [[(x / SHARES, y / SHARES) for x, y in mark.polygon] for mark in marks]
        return found

    @cached_property
    def head(self) -> MarksHead:
        """The head, in evaluation mode."""
        return self.fit.build()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {path: place for place, path in enumerate(self.image_paths)}


@dataclass(frozen=True)
class Measured:
    """The table data/marks.csv, and the report."""

    table: pd.DataFrame
    report: Report


def measure_marks(
    rows: pd.DataFrame, maps_of: Callable[[np.ndarray], Maps], fit: MarksFit, outlines: Outlines, questions: Sequence[Question],
    params: EvaluateParams,
) -> Measured:  # fmt: skip
    """What the maps of the photos `rows` are worth. maps_of: positions among the rows → their maps."""
    kinds = {asked.name: str(asked.marks) for asked in questions if asked.name in fit.questions}
    known = np.array([place for place, path in enumerate(rows["image_path"]) if not set(kinds.values()).isdisjoint(outlines.get(path, {}))])
    table: list[tuple[Any, ...]] = []
    judged: dict[str, list[tuple[pd.Series, Judged]]] = {name: [] for name in kinds}
    for start in range(0, len(known), BATCH):
        places = known[start : start + BATCH]
        for place, maps_Khw in zip(places, maps_of(places), strict=True):
            row = rows.iloc[place]
            for channel, name in enumerate(fit.questions):
                masks = outlines[row["image_path"]].get(kinds[name])
                if masks is None:
                    continue
                origin = tuple(row[column] for column in ("image_path", "source", "group", "split"))
                table += [(*origin, name, *found) for found in _rows_of(maps_Khw[channel], masks, fit.cuts[name])]
                if row["split"] == "test" and any(mask.form != "none" for mask in masks):
                    judged[name].append((row, judge(maps_Khw[channel], masks, cut=fit.cuts[name], prior=fit.priors[name].numpy())))
    report: Report = {}
    for name, found in judged.items():
        sources = sorted({row["source"] for row, _ in found})
        report[name] = {
            "test": summarise(found, params),
            "sources": {source: summarise([one for one in found if one[0]["source"] == source], params) for source in sources},
        }
    return Measured(pd.DataFrame(table, columns=list(COLUMNS)), report)


def write_marks(measured: Measured | None, path: Path) -> None:
    """Write data/marks.csv; None: without a row."""
    write_table(pd.DataFrame(columns=list(COLUMNS)) if measured is None else measured.table, path)


def _rows_of(map_hw: np.ndarray, masks: Sequence[Mask], cut: float) -> list[tuple[str, float, float, float]]:
    truth = draw_label_map(masks, side_px=len(map_hw))
    outlined = any(mask.form != "none" for mask in masks)
    whole = any(mask.rest == "unmarked" for mask in masks)
    # Where the rest is unmarked, what is not surely marked is the rim of an outline, which touches it.
    touched = truth != UNMARKED if whole else truth == MARKED
    regions = find_regions(map_hw, cut)
    marked_share = float((truth == MARKED).mean())
    found: list[tuple[str, float, float, float]] = [("photo", float(map_hw.max()), float(outlined), marked_share)]
    strengths = {}
    for number in range(1, int(regions.max()) + 1):
        region = regions == number
        strengths[number] = float(map_hw[region].max())
        right = 1.0 if touched[region].any() else (0.0 if whole else np.nan)
        found.append(("mark", strengths[number], right, float(region.mean())))
    marked, count = ndimage.label(touched, structure=np.ones((3, 3), int))
    for number in range(1, count + 1):
        region = marked == number
        if (truth[region] == MARKED).any():
            touching = set(regions[region].tolist()) - {0}
            found.append(("outline", max((strengths[one] for one in touching), default=0.0), 1.0, float(region.mean())))
    return found


def judge(map_hw: np.ndarray, masks: Sequence[Mask], *, cut: float, prior: np.ndarray) -> Judged:
    """The figures of one photo with an outline, whose map is `map_hw`."""
    fine = draw_label_map(masks, side_px=FINE_PX)
    hit = fine != UNMARKED if any(mask.rest == "unmarked" for mask in masks) else fine == MARKED
    near = _widen(hit)
    small = float(hit.mean()) < SMALL
    answers = {"ours": map_hw, "centre": _centre(map_hw.shape[0]), "prior": prior}
    judged = Judged()
    for name, answer_hw in answers.items():
        y, x = (int((place + 0.5) * FINE_PX / len(answer_hw)) for place in np.unravel_index(answer_hw.argmax(), answer_hw.shape))
        judged.figures[name] = _pointing(float(hit[y, x]), float(near[y, x]), small=small)
    judged.figures["random"] = _pointing(float(hit.mean()), float(near.mean()), small=small)
    if all(mask.form == "outline" for mask in masks):
        truth = draw_label_map(masks, side_px=len(map_hw))
        known = truth != UNKNOWN
        judged.cells = {name: answer_hw[known].astype(np.float64) for name, answer_hw in answers.items()}
        judged.cells["truth"] = (truth[known] == MARKED).astype(np.float64)
        for name in ("ours", "prior"):
            judged.figures[name]["mean_iou"] = overlap_of(answers[name] >= cut, truth)
    return judged


def _pointing(hit: float, near: float, *, small: bool) -> dict[str, float]:
    return {
        "pointing": hit, "pointing_near": near,
        "pointing_small": hit if small else np.nan, "pointing_small_near": near if small else np.nan,
    }  # fmt: skip


def _widen(hit: np.ndarray) -> np.ndarray:
    """Where a place within `NEAR` of the side hits."""
    distance = cv2.distanceTransform((~hit).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= NEAR * FINE_PX)


def _centre(cells: int) -> np.ndarray:
    """A map that is highest in the centre."""
    offset = (np.arange(cells) + 0.5) / cells - 0.5
    return np.asarray(1 - np.hypot(offset[:, None], offset[None]))


def summarise(found: Sequence[tuple[pd.Series, Judged]], params: EvaluateParams) -> Report:
    """The figures of some photos, with intervals of ours; None where no photo tells."""
    groups_N = np.array([row["group"] for row, _ in found], dtype=str)
    report: Report = {"photos": len(found), "groups": len(set(groups_N.tolist()))}
    for figure in FIGURES:
        for answerer in ("ours", *BASELINES):
            name = figure if answerer == "ours" else f"{figure}_{answerer}"
            if figure == "pixel_ap":
                value, low, high = _cells_precision(found, groups_N, answerer, params)
            else:
                values_N = np.array([one.figures[answerer].get(figure, np.nan) for _, one in found])
                told = ~np.isnan(values_N)
                one = estimate(_mean, values_N[told], values_N[told], groups_N=groups_N[told], confidence=params.confidence, scale="share")
                value, low, high = one.value, one.low, one.high
            report[name] = value
            if answerer == "ours":
                report |= {f"{figure}_low": low, f"{figure}_high": high}
    return report


def _mean(labels_N: Array, _: Array, weights_SxN: Array) -> Array:
    return divide(weights_SxN @ labels_N, weights_SxN.sum(axis=1))


def _cells_precision(
    found: Sequence[tuple[pd.Series, Judged]], groups_N: np.ndarray, answerer: str, params: EvaluateParams
) -> tuple[float | None, float | None, float | None]:
    """Over the known cells of all photos with outlines; of a random answer it is the share of marked cells."""
    told = [place for place, (_, one) in enumerate(found) if one.cells]
    if not told:
        return None, None, None
    truths = [found[place][1].cells["truth"] for place in told]
    if answerer == "random":
        return float(np.concatenate(truths).mean()), None, None
    values = [found[place][1].cells[answerer] for place in told]
    levels = np.unique(np.quantile(np.concatenate(values), np.linspace(0, 1, LEVELS)))
    binned = [len(levels) - np.searchsorted(levels, one, side="right") for one in values]
    marked_NxU, unmarked_NxU = (
        np.array([
            np.bincount(bins[truth == label], minlength=len(levels) + 1) for bins, truth in zip(binned, truths, strict=True)
        ], np.float64)
        for label in (1, 0)
    )  # fmt: skip

    def precision(_: Array, __: Array, weights_SxN: Array) -> Array:
        """As `scoring.ranking.average_precision`, from counts of cells by photo and level, the highest level first."""
        marked_SxU, unmarked_SxU = weights_SxN @ marked_NxU, weights_SxN @ unmarked_NxU
        right_SxU = np.cumsum(marked_SxU, axis=1)
        share_SxU = divide(right_SxU, right_SxU + np.cumsum(unmarked_SxU, axis=1))
        return divide((marked_SxU * np.nan_to_num(share_SxU)).sum(axis=1), marked_SxU.sum(axis=1))

    places_N = np.arange(len(told), dtype=np.float64)
    if answerer != "ours":
        return float(precision(places_N, places_N, np.ones((1, len(told))))[0]), None, None
    one = estimate(precision, places_N, places_N, groups_N=groups_N[told], confidence=params.confidence, scale="share")
    return one.value, one.low, one.high


def write_froc(measured: Measured, folder: Path) -> None:
    """Write `draw_froc` of each question as marks_<question>.csv."""
    for question in measured.report:
        buffer = draw_froc(measured.table, question).to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_bytes(folder / f"marks_{question}.csv", buffer.encode())


def draw_froc(table: pd.DataFrame, question: str, *, split: str = "test") -> pd.DataFrame:
    """The free-response curve (Bunch et al. 1978): for each strength the share of outlined regions found and false marks a photo.

    Columns: `strength`, `found`, `false_marks` (a photo), `false_photos` (share of the unmarked photos that get a mark). Only photos whose
    every cell is known count.
    """
    rows = table[(table["question"] == question) & (table["split"] == split)]
    marks = rows[(rows["what"] == "mark") & rows["right"].notna()]
    photos, outlined = rows[rows["what"] == "photo"], rows[rows["what"] == "outline"]
    unmarked = photos[photos["right"] == 0]["image_path"]
    false = marks[marks["right"] == 0]
    strongest = false[false["image_path"].isin(unmarked)].groupby("image_path")["strength"].max()
    points = []
    for strength in np.round(np.arange(0.05, 1.0, 0.05), 2):
        points.append({
            "strength": strength,
            "found": float((outlined["strength"] >= strength).mean()) if len(outlined) else np.nan,
            "false_marks": float((false["strength"] >= strength).sum() / len(photos)) if len(photos) else np.nan,
            "false_photos": float((strongest >= strength).sum() / len(unmarked)) if len(unmarked) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(points)


def say_marks(report: Report) -> list[str]:
    """One line for each question with a map."""
    lines = []
    for name, parts in report.items():
        one = parts["test"]
        if one["photos"]:
            lines.append(
                f"{name}: the hottest place is marked on {_share(one['pointing'])} of {one['photos']} outlined photos of test (centre "
                f"{_share(one['pointing_centre'])}, most usual place {_share(one['pointing_prior'])}, random "
                f"{_share(one['pointing_random'])}); mean IoU {_share(one['mean_iou'])}"
            )
    return lines


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
