"""The third look for photos that belong together: pairs that may show one scene, for a person to judge.

Large crops, turns, cut-outs, collages and screenshots keep no layout that a hash could compare. Learned features still find them near each
other, and enough local features lie in the same places of both photos, up to one affine map. So do the walls of one studio behind two cars:
this is a suspicion. It ties photos only where `split.same_scene` is `merge`, or where a person confirmed it in data/same_scene.csv.

A crop is like a part of its photo, and one photo of a collage is a part of it: so each whole photo is compared with the windows of the
others, by regional means as in Tolias, Sicre and Jégou (2016), "Particular object retrieval with integral max-pooling of CNN activations".

Shapes: N photos; W windows, the whole photo first; C features; K key points of a photo.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from carinspect.core.errors import UserError, did_you_mean, shorten
from carinspect.core.files import write_bytes
from carinspect.core.machine import usable_cores
from carinspect.core.tables import SPLITS
from carinspect.images.decode import PhotoError, decode_photo

LEAST_COSINE = 0.25
"""Of the features of a photo and of a window of another. Low, for a crop of a sixth of a photo has 0.27 to 0.9; the geometry tells
strangers apart."""

LEAST_INLIERS, LEAST_SIMILAR = 20, 10
"""Local features that lie in the same places of both photos, up to an affine map (6 numbers) or a turn, scale and shift (4): a map that
is less free fits fewer by chance."""

_NEIGHBOURS = 100
"""Of each photo, outside its group. Among many thousand photos of cars a copy has others that are nearer: then it is missed."""

_SIDE_PX = 480  # of the longer side; a collage or screenshot shows the photo at half its size
_KEY_POINTS = 1000
_LEAST_CONTRAST = 0.02  # half of Lowe's: a car's panel has little
_RATIO = 0.8  # a match must be nearer than the second best by this: Lowe (2004), section 7.1
_STRAY_PX = 4.0
_MOST_STRETCH, _MOST_SHEAR = 6.0, 2.5  # of either axis, and of one against the other: exports stretch photos to squares
_LEAST_SPREAD = 0.02  # of the photo that the inliers span: a logo or a date in the corner is no scene

_ROWS = 1024  # of the table of cosines at a time

VERDICTS_FILE = Path("data/same_scene.csv")
VERDICTS = ("same", "different")
VERDICT_COLUMNS = ("first", "second", "verdict", "who", "when")


class Suspicion(NamedTuple):
    """Two photos, by their rows, that may show one scene."""

    first: int
    second: int
    cosine: float
    inliers: int


def find_same_scenes(
    paths: Sequence[Path], windows_NxWxC: np.ndarray, labels_N: np.ndarray, apart: Sequence[tuple[int, int]]
) -> list[Suspicion]:
    """Pairs of photos of different groups that may show one scene: of two groups the pair that is most alike.

    windows_NxWxC: see `model.learned`. labels_N: the group of each photo. apart: rows of pairs that a person called different;
    their groups are not compared. Raises `UserError` for a photo that cannot be read.
    """
    pairs, cosines = _find_neighbours(windows_NxWxC, labels_N, apart)
    used = sorted({row for pair in pairs for row in pair})
    # Each thread multiplies small matrices, so a BLAS with threads of its own would take turns with itself.
    with ThreadPoolExecutor(usable_cores()) as pool, threadpool_limits(1, user_api="blas"):
        read = tqdm(pool.map(lambda row: read_key_points(paths[row]), used), total=len(used), desc="local features", disable=None)
        points = dict(zip(used, read, strict=True))
        count = partial(_count_pair, points)
        counted = list(tqdm(pool.map(count, pairs), total=len(pairs), desc="comparing scenes", disable=None))
    return [
        Suspicion(first, second, round(cosine, 3), inliers)
        for (first, second), cosine, inliers in zip(pairs, cosines, counted, strict=True)
        if inliers
    ]


def _find_neighbours(
    windows_NxWxC: np.ndarray, labels_N: np.ndarray, apart: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[float]]:
    """The pairs to compare, each the nearest of its two groups, and their cosines; sorted by rows."""
    units_WxNxC = np.moveaxis(windows_NxWxC / np.maximum(np.linalg.norm(windows_NxWxC, axis=2, keepdims=True), 1e-12), 1, 0)
    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    for start in range(0, len(labels_N), _ROWS):
        cosines = _most_alike(units_WxNxC[:, start : start + _ROWS], units_WxNxC)
        cosines[labels_N[start : start + _ROWS, None] == labels_N] = -1.0
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :_NEIGHBOURS]
        for offset, row in enumerate(nearest):
            for other in row[cosines[offset, row] >= LEAST_COSINE].tolist():
                first, second = sorted((start + offset, other))
                groups = (int(labels_N[first]), int(labels_N[second]))
                key = (min(groups), max(groups))
                # Rounded, so that one pair, seen from both sides, ties with itself.
                best[key] = max(best.get(key, (-1.0, 0, 0)), (round(float(cosines[offset, other]), 5), -first, -second))
    for first, second in apart:
        groups = (int(labels_N[first]), int(labels_N[second]))
        best.pop((min(groups), max(groups)), None)
    found = sorted((-first, -second, cosine) for cosine, first, second in best.values())
    return [(first, second) for first, second, _ in found], [cosine for _, _, cosine in found]


def _most_alike(some_WxRxC: np.ndarray, all_WxNxC: np.ndarray) -> np.ndarray:
    """(R, N): the largest cosine of one photo, whole, and any window of the other, either way."""
    cosines = some_WxRxC[0] @ all_WxNxC[0].T
    for some_RxC, all_NxC in zip(some_WxRxC[1:], all_WxNxC[1:], strict=True):
        np.maximum(cosines, some_WxRxC[0] @ all_NxC.T, out=cosines)
        np.maximum(cosines, some_RxC @ all_WxNxC[0].T, out=cosines)
    return cosines


class KeyPoints(NamedTuple):
    """Of one photo: places float32 (K, 2) in pixels of a picture with the area `area_px`, descriptors uint8 (K, 128)."""

    places: np.ndarray
    descriptors: np.ndarray
    area_px: int


def read_key_points(path: Path) -> KeyPoints:
    """SIFT (Lowe 2004) of the photo's grey picture. Raises `UserError` for a photo that cannot be read."""
    try:
        photo = decode_photo(path, at_least_px=_SIDE_PX).convert("L")
    except PhotoError as error:
        raise UserError(f"{path}: {error}. The annotations know it as sound: restore it, or run dvc repro.") from None
    scale = _SIDE_PX / max(photo.size)
    # A crop is enlarged, too: of a small picture SIFT sees too few scales.
    photo = photo.resize((max(8, round(scale * photo.width)), max(8, round(scale * photo.height))), Image.Resampling.BICUBIC)
    sift = cv2.SIFT.create(nfeatures=_KEY_POINTS, contrastThreshold=_LEAST_CONTRAST)
    found, descriptors = sift.detectAndCompute(np.asarray(photo), None)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    places = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    # They are whole numbers up to 255: a quarter of the memory.
    return KeyPoints(places, descriptors.astype(np.uint8), photo.width * photo.height)


def _count_pair(points: Mapping[int, KeyPoints], pair: tuple[int, int]) -> int:
    return count_inliers(points[pair[0]], points[pair[1]])


def count_inliers(first: KeyPoints, second: KeyPoints) -> int:
    """Local features that one map takes from the first photo to the second; 0 where they are too few to say anything."""
    queries, trained = _match(first.descriptors, second.descriptors)
    here, there = first.places[queries], second.places[trained]
    sides = ((here, first), (there, second))
    for estimate, least in ((cv2.estimateAffine2D, LEAST_INLIERS), (cv2.estimateAffinePartial2D, LEAST_SIMILAR)):
        if len(queries) < least:
            continue
        matrix, inside = estimate(here, there, method=cv2.RANSAC, ransacReprojThreshold=_STRAY_PX, maxIters=2000, confidence=0.995)
        kept = np.zeros(len(queries), bool) if matrix is None else inside.ravel() > 0
        if kept.sum() < least or not _is_plausible(matrix):
            continue
        if min(cv2.contourArea(cv2.convexHull(side[kept])) / photo.area_px for side, photo in sides) >= _LEAST_SPREAD:
            return int(kept.sum())
    return 0


def _match(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the descriptors of two photos, uint8 (K, 128), that match; of several that match one of the second photo, the nearest.

    As `cv2.BFMatcher` with Lowe's ratio finds them, in a tenth of its time. One product gives all squares of distances: rows
    (-2 a, |a|^2, 1) times columns (b, 1, |b|^2). Its sums of whole numbers stay below 2^24, so that float32 is exact, whatever their order.
    """
    if min(len(first), len(second)) < LEAST_SIMILAR:
        return np.zeros(0, int), np.zeros(0, int)
    first, second = first.astype(np.float32), second.astype(np.float32)
    rows, columns = np.ones((len(first), 130), np.float32), np.ones((len(second), 130), np.float32)
    rows[:, :128], rows[:, 128] = -2 * first, (first * first).sum(axis=1)
    columns[:, :128], columns[:, 129] = second, (second * second).sum(axis=1)
    squares = rows @ columns.T
    places, nearest = np.arange(len(first)), squares.argmin(axis=1)
    best = squares[places, nearest]
    squares[places, nearest] = np.inf
    good = np.flatnonzero(best < _RATIO**2 * squares.min(axis=1))
    # Many points of a plain texture that match one and the same say nothing.
    good = good[np.lexsort((best[good], nearest[good]))]
    trained, firsts = np.unique(nearest[good], return_index=True)
    return good[firsts], trained


def _is_plausible(matrix: np.ndarray) -> bool:
    stretches = np.linalg.svd(matrix[:, :2], compute_uv=False)
    large, small = float(stretches.max()), float(stretches.min())
    return small > 1 / _MOST_STRETCH and large < _MOST_STRETCH and large < _MOST_SHEAR * small


# ---- what people said about pairs


class Verdict(NamedTuple):
    """What a person said about two photos."""

    first: str
    second: str
    same: bool


def read_verdicts(path: Path = VERDICTS_FILE) -> list[Verdict]:
    """The rows of the CSV `first,second,verdict,who,when`; none where there is no file.

    Raises `UserError` in one line that names the row: another verdict than `same` or `different`, a pair twice, a photo with itself.
    """
    if not path.is_file():
        return []
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a readable CSV: {' '.join(str(error).split())}. Save it again as UTF-8 with commas.") from None
    for column in VERDICT_COLUMNS:
        if column not in table.columns:
            raise UserError(f"{path}: column '{column}' is missing. {did_you_mean(column, table.columns)}")
    rows: dict[tuple[str, str], int] = {}
    verdicts = []
    for row, (one, other, verdict, who, when) in enumerate(table[list(VERDICT_COLUMNS)].itertuples(index=False), start=2):
        at = f"{path}, row {row}"
        first, second = sorted((one.strip(), other.strip()))
        if verdict not in VERDICTS:
            raise UserError(f"{at}: verdict has the value {shorten(verdict)!r}. {did_you_mean(verdict, VERDICTS)}")
        if not first or first == second:
            raise UserError(f"{at}: first and second are {first!r} and {second!r}. Name two photos.")
        if (first, second) in rows:
            raise UserError(f"{at}: these two photos stand in row {rows[first, second]} already. Keep one of the two rows.")
        if not who.strip() or not when.strip():
            raise UserError(f"{at}: who or when is blank. Name the person who decided, and the day.")
        rows[first, second] = row
        verdicts.append(Verdict(first, second, verdict == "same"))
    return verdicts


class PlacedVerdicts(NamedTuple):
    """Verdicts by rows of a table."""

    same: list[tuple[int, int]]
    different: list[tuple[int, int]]
    unknown: int
    """Verdicts on photos that are not in the table."""


def place_verdicts(verdicts: Sequence[Verdict], image_paths: Sequence[str]) -> PlacedVerdicts:
    """The rows of each verdict's photos in a table with `image_paths`."""
    rows = {path: row for row, path in enumerate(image_paths)}
    known = [verdict for verdict in verdicts if verdict.first in rows and verdict.second in rows]
    placed = [(rows[verdict.first], rows[verdict.second], verdict.same) for verdict in known]
    return PlacedVerdicts(
        [(first, second) for first, second, same in placed if same],
        [(first, second) for first, second, same in placed if not same],
        len(verdicts) - len(known),
    )


# ---- the table reports/split/same_scene.csv

SUSPICION_COLUMNS = ("first", "second", "first_split", "second_split", "cosine", "inliers")


def describe_suspicions(table: pd.DataFrame, suspicions: Sequence[Suspicion]) -> pd.DataFrame:
    """One row for each pair; those in two splits first, by these, the most inliers first. `table` has `split`, blank without one."""
    paths, splits = table["image_path"].tolist(), table["split"].tolist()
    order = {split: place for place, split in enumerate(SPLITS)}

    def key(one: Suspicion) -> tuple[bool, list[int], int, int, int]:
        pair = (splits[one.first], splits[one.second])
        return pair[0] == pair[1], sorted(order.get(split, len(order)) for split in pair), -one.inliers, one.first, one.second

    rows = [
        (paths[one.first], paths[one.second], splits[one.first], splits[one.second], one.cosine, one.inliers)
        for one in sorted(suspicions, key=key)
    ]
    return pd.DataFrame(rows, columns=list(SUSPICION_COLUMNS))


def write_suspicions(pairs: pd.DataFrame, path: Path) -> None:
    """Write the rows of `describe_suspicions` as CSV."""
    write_bytes(path, pairs.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode())


def read_suspicions(path: Path) -> pd.DataFrame:
    """What `write_suspicions` wrote. Raises `UserError` when it is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such table. Run the stage that writes it: dvc repro.")
    text = dict.fromkeys(("first", "second", "first_split", "second_split"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False).astype({"cosine": "float64", "inliers": "int64"})
