"""Ways to tell photos that a model was not proved for, at an equal cost: 2 % of photos like the known ones are turned away.

    python benchmarks/gate.py FOLDER tf_efficientnet_lite0 weights.safetensors

FOLDER has `sources.csv` (columns `path` and `source_repo`) and photos whose folder's name is their class; it is only read. Printed are

- the share of photos that each way lets through: held-out photos of the known sources (0.98 is wanted), photos of each source when the
  others are known (much is wanted), drawn pictures without a car (0 is wanted), and photos that were spoilt (the worse, the less);
- how well each way tells interiors (photos with an annotation `airbag`) and sandstorms (folders `sand`) from held-out photos: ROC AUC;
- with `--cells N`: for N photos of each pair of classes in `PAIRS`, every corruption at every severity: the share that a linear probe still
  decides and the precision of what it decides, without and with the model's gate. Probe, gate and limits come from photos of other groups
  (cross-validation). The rule is the one that reaches `TARGET` on sharp photos of other groups; it proves nothing.
"""

import argparse
import json
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from pathlib import Path

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from carinspect.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from carinspect.images.pixel_cache import load_photos
from carinspect.model.backbones import build_backbone
from carinspect.model.features import StageFeatures, frozen_features
from carinspect.model.gate import PICTURE_COLUMNS, SHRINKAGE, Array, Distance, Gate, fit_gate, fit_gaussian, measure_pictures

SIDE_PX = 224
SHARE = 0.02
DRAWN = 60
PAIRS = (("dirty", "clean"), ("damaged", "whole"))
"""Bad class and good class of each question of the cells."""
TARGET = 0.95
FOLDS = 4
UNUSUAL = ("interior", "sand")
SPOILT = {
    "noise": A.GaussNoise(std_range=(0.1, 0.2), p=1),
    "night": A.Compose([A.RandomBrightnessContrast((-0.7, -0.5), 0, p=1), A.ISONoise(intensity=(0.3, 0.5), p=1)]),
    "over-exposed": A.RandomBrightnessContrast((0.3, 0.5), 0, p=1),
    "defocus": A.Defocus((5, 8), p=1),
    "motion": A.MotionBlur((15, 23), p=1),
    "zoom": A.ZoomBlur((1.1, 1.25), p=1),
    "fog": A.RandomBrightnessContrast((0.1, 0.2), (-0.7, -0.5), p=1),
    "JPEG 10": A.ImageCompression(quality_range=(10, 10), p=1),
    "small": A.Downscale((0.2, 0.3), p=1),
}
Strangeness = Callable[[Array], Array]
"""Features (N, F) → how strange each photo is (N,)."""


def draw_pictures(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Pictures that show no car: kind → uint8, (DRAWN, S, S, 3)."""

    def colour() -> tuple[int, int, int]:
        red, green, blue = random.integers(0, 256, 3).tolist()
        return red, green, blue

    def plain() -> np.ndarray:
        return np.full((SIDE_PX, SIDE_PX, 3), colour(), np.uint8)

    def gradient() -> np.ndarray:
        first, second = np.array(colour()), np.array(colour())
        return (first + (second - first) * np.linspace(0, 1, SIDE_PX)[:, None, None] * np.ones((1, SIDE_PX, 1))).astype(np.uint8)

    def noise() -> np.ndarray:
        return random.normal(random.integers(60, 200), random.integers(20, 90), (SIDE_PX, SIDE_PX, 3)).clip(0, 255).astype(np.uint8)

    def texture() -> np.ndarray:
        layers = [
            cv2.resize(random.normal(size=(2**size, 2**size, 3)), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC) / 2**size
            for size in range(2, 8)
        ]
        summed = np.sum(layers, axis=0)
        return (255 * (summed - summed.min()) / np.ptp(summed)).astype(np.uint8)

    def document() -> np.ndarray:
        page = np.full((SIDE_PX, SIDE_PX, 3), random.integers(225, 256), np.uint8)
        for y in range(14, SIDE_PX, int(random.integers(9, 16))):
            words = " ".join("".join(chr(letter) for letter in random.integers(97, 123, random.integers(2, 9))) for _ in range(8))
            cv2.putText(page, words, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (30, 30, 30), 1, cv2.LINE_AA)
        return page

    def shapes() -> np.ndarray:
        picture = plain()
        for _ in range(random.integers(3, 20)):
            x, y, width, height = random.integers(0, SIDE_PX, 4).tolist()
            if random.random() < 0.5:
                cv2.circle(picture, (x, y), 4 + width // 4, colour(), -1, cv2.LINE_AA)
            else:
                cv2.rectangle(picture, (x, y), (width, height), colour(), -1)
        return picture

    kinds = {"plain": plain, "gradient": gradient, "noise": noise, "texture": texture, "document": document, "shapes": shapes}
    return {name: np.stack([draw() for _ in range(DRAWN)]) for name, draw in kinds.items()}


def methods(early: slice, stages: slice, head: slice) -> dict[str, Callable[[Array, np.ndarray, Array], Strangeness]]:
    """Name → what fits on known features (N, F), the classes of their photos, and held-out features (which scale, and nothing else)."""

    def mahalanobis(columns: slice) -> Callable[[Array, np.ndarray, Array], Strangeness]:
        def fit(known: Array, _: np.ndarray, __: Array) -> Strangeness:
            distance = Distance(fit_gaussian(known[:, columns], shrinkage=SHRINKAGE))
            return lambda features: distance(torch.tensor(features[:, columns], dtype=torch.float32)).double().numpy()

        return fit

    def ours(known: Array, _: np.ndarray, held_out: Array) -> Strangeness:
        return fit_strangeness(known, held_out, early)

    def neighbours(known: Array, _: np.ndarray, __: Array) -> Strangeness:
        scaler = StandardScaler().fit(known[:, head])
        tree = NearestNeighbors(n_neighbors=5, metric="cosine").fit(scaler.transform(known[:, head]))
        return lambda features: tree.kneighbors(scaler.transform(features[:, head]))[0].mean(axis=1)

    def residual(known: Array, _: np.ndarray, __: Array) -> Strangeness:
        mean = known[:, head].mean(axis=0)
        main = np.linalg.svd(known[:, head] - mean, full_matrices=False)[2][:64]

        def strangeness(features: Array) -> Array:
            centred = features[:, head] - mean
            return np.linalg.norm(centred - centred @ main.T @ main, axis=1)

        return strangeness

    def logits(known: Array, classes: np.ndarray) -> Strangeness:
        scaler = StandardScaler().fit(known[:, head])
        model = LogisticRegression(C=1e-3, max_iter=500).fit(scaler.transform(known[:, head]), classes)
        return lambda features: model.decision_function(scaler.transform(features[:, head]))

    def softmax(known: Array, classes: np.ndarray, _: Array) -> Strangeness:
        answer = logits(known, classes)
        return lambda features: np.logaddexp.reduce(answer(features), axis=1) - answer(features).max(axis=1)

    def energy(known: Array, classes: np.ndarray, _: Array) -> Strangeness:
        answer = logits(known, classes)
        return lambda features: -np.logaddexp.reduce(answer(features), axis=1)

    return {
        "softmax": softmax, "energy": energy, "neighbours": neighbours, "residual": residual,
        "Mahalanobis": mahalanobis(stages), "Mahalanobis, early": mahalanobis(early), "ours": ours,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--cells", type=int, default=0, metavar="N")
    args = parser.parse_args()
    network = build_backbone(args.backbone, image_side_px=SIDE_PX, pretrained=args.weights)
    channels = [stage["num_chs"] for stage in network.feature_info]
    extract = StageFeatures(network, stages=len(channels), mirror=False)
    table = read_photos(args.folder)
    photos = np.stack([*load_photos(args.folder, table["path"].tolist(), side_px=SIDE_PX)])
    features = extract_all(extract, photos)
    stages = slice(0, sum(channels))
    early = slice(0, sum(stage["num_chs"] for stage in network.feature_info if stage["reduction"] <= 8))
    print(compare_ways(table, photos, features, extract, methods(early, stages, slice(stages.stop, -PICTURE_COLUMNS))))
    if args.cells:
        print(try_cells(table, photos, features, extract, early, most=args.cells))


def read_photos(folder: Path) -> pd.DataFrame:
    """`path`, `source_repo`, `family` (copies of one export share the name before ".rf."), `lot` 0..99 by family, and `kind`: the class."""
    table = pd.read_csv(folder / "sources.csv")
    table = table[[(folder / path).is_file() for path in table["path"]]].sort_values("path", ignore_index=True)
    table["family"] = [Path(path).name.split(".rf.")[0] for path in table["path"]]
    table["lot"] = [int(sha256(family.encode()).hexdigest(), 16) % 100 for family in table["family"]]
    table["kind"] = [Path(path).parent.name for path in table["path"]]
    table.loc[table["path"].isin(find_interiors(folder)), "kind"] = "interior"
    return table


def find_interiors(folder: Path) -> set[str]:
    """Photos with an annotation of the category `airbag`, as paths under `folder`."""
    found = set()
    for file in sorted(folder.rglob("*.json")):
        coco = json.loads(file.read_text(encoding="utf-8"))
        wanted = {one["id"] for one in coco["categories"] if one["name"] == "airbag"}
        images = {one["image_id"] for one in coco["annotations"] if one["category_id"] in wanted}
        found |= {str((file.parent / one["file_name"]).relative_to(folder)) for one in coco["images"] if one["id"] in images}
    return found


def compare_ways(
    table: pd.DataFrame, photos: np.ndarray, features: Array, extract: StageFeatures, ways: dict[str, Callable[..., Strangeness]]
) -> str:
    """The shares that pass, and the areas under the curve, by kind and method."""
    classes, lot = table["kind"].to_numpy(), table["lot"].to_numpy()
    usual = ~np.isin(classes, UNUSUAL)
    random = np.random.default_rng(0)
    strangers = {f"drawn: {name}": extract_all(extract, drawn) for name, drawn in draw_pictures(random).items()}
    spoilt = photos[random.choice(len(photos), DRAWN, replace=False)]
    for name, change in SPOILT.items():
        change.set_random_seed(0)
        changed = np.stack([change(image=photo)["image"] for photo in spoilt])
        strangers[f"spoilt: {name}"] = extract_all(extract, changed)

    shares: dict[str, dict[str, float]] = {}
    for name, fit in ways.items():
        known, scale, held_out = usual & (lot < 60), usual & (lot >= 60) & (lot < 80), usual & (lot >= 80)
        measure = fit(features[known], classes[known], features[scale])
        limit = np.quantile(measure(features[scale]), 1 - SHARE)
        found = {"held out": features[held_out], **strangers}
        shares[name] = {kind: float((measure(some) < limit).mean()) for kind, some in found.items()}
        for kind in UNUSUAL:
            both = held_out | (classes == kind)
            shares[name][f"AUC: {kind}"] = float(roc_auc_score(classes[both] == kind, measure(features[both])))
        for source in sorted(set(table["source_repo"][usual])):
            own = (table["source_repo"] == source).to_numpy() & usual
            known, held_out = usual & ~own & (lot < 70), usual & ~own & (lot >= 70)
            measure = fit(features[known], classes[known], features[held_out])
            limit = np.quantile(measure(features[held_out]), 1 - SHARE)
            shares[name][f"source: {source.split('/')[0]}"] = float((measure(features[own]) < limit).mean())
    return pd.DataFrame(shares).round(2).to_string()


def try_cells(table: pd.DataFrame, photos: np.ndarray, features: Array, extract: StageFeatures, early: slice, *, most: int) -> str:
    """What is decided, and how much of it is right, in each cell of corruption and severity; both questions together."""
    rows = []
    for bad, good in PAIRS:
        own = table.index[table["kind"].isin((bad, good))].to_numpy()
        is_good, families = (table["kind"][own] == good).to_numpy(), table["family"][own].to_numpy()
        drawn = table.loc[own].sample(frac=1, random_state=0).drop_duplicates("family").index[:most]
        for known, held_out in GroupKFold(FOLDS).split(own, groups=families):
            decide = fit_rule(features[own[known]], is_good[known], families[known], early)
            asked = np.intersect1d(own[held_out], drawn)
            good_ones = (table["kind"][asked] == good).to_numpy()
            for kind, severity in [("none", 0), *product(CORRUPTIONS, SEVERITIES)]:
                seen = photos[asked]
                if severity:
                    seen = np.stack([corrupt(photos[place], kind, severity, digest=table["path"][place]) for place in asked])
                said_good, said_bad, passes = decide(extract_all(extract, seen))
                right = np.where(said_good, good_ones, ~good_ones)
                cell = {"corruption": kind, "severity": severity, "said": said_good | said_bad, "right": right, "passes": passes}
                rows.append(pd.DataFrame(cell))
    answers = pd.concat(rows)
    answers["said behind"] = answers["said"] & answers["passes"]
    grouped = answers.groupby(["corruption", "severity"], sort=False)
    cells = pd.DataFrame({
        "passes": grouped["passes"].mean(),
        "decided, no gate": grouped["said"].mean(),
        "precision, no gate": answers[answers["said"]].groupby(["corruption", "severity"])["right"].mean(),
        "decided": grouped["said behind"].mean(),
        "precision": answers[answers["said behind"]].groupby(["corruption", "severity"])["right"].mean(),
    })  # fmt: skip
    sharp, cells_alone = cells.loc[("none", 0)], cells.drop(index=("none", 0))
    lines = [cells.round(2).to_string(na_rep="–")]
    for words in ("precision, no gate", "precision"):
        kept = (cells_alone[words].isna() | (cells_alone[words] >= sharp[words] - 0.05)).mean()
        worst = f"worst {cells_alone[words].min():.2f}"
        lines.append(f"{words}: {kept:.0%} of {len(cells_alone)} cells within 0.05 of the sharp {sharp[words]:.3f}, {worst}")
    return "\n".join(lines)


def fit_rule(
    features: Array, good: np.ndarray, families: np.ndarray, early: slice
) -> Callable[[Array], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Features of other photos → which are called good, which bad, and which pass the gate."""
    folds, p_good = [*GroupKFold(3).split(features, groups=families)], np.empty(len(features))
    for known, rest in folds:
        p_good[rest] = fit_probe(features[known], good[known])(features[rest])
    T_high, T_low = lowest_threshold(p_good, good), 1 - lowest_threshold(1 - p_good, ~good)
    answer = fit_probe(features, good)
    known, rest = folds[0]
    strangeness = fit_strangeness(features[known], features[rest[::2]], early)
    limit = np.quantile(strangeness(features[rest[1::2]]), 1 - SHARE)

    def decide(asked: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p_good = answer(asked)
        return p_good >= T_high, p_good < T_low, strangeness(asked) < limit

    return decide


def fit_strangeness(known: Array, held_out: Array, early: slice) -> Strangeness:
    """The highest measure of the model's gate."""
    pictures = slice(-PICTURE_COLUMNS, None)
    gate = Gate(
        fit_gate(
            early_NC=known[:, early],
            pictures_NQ=known[:, pictures],
            held_out_early_NC=held_out[:, early],
            held_out_pictures_NQ=held_out[:, pictures],
        )
    )

    def strangeness(features: Array) -> Array:
        pictures_NQ, early_NC = (torch.tensor(features[:, columns], dtype=torch.float32) for columns in (pictures, early))
        return gate.scale(pictures_NQ, early_NC).double().numpy().max(axis=1)

    return strangeness


def fit_probe(features: Array, good: np.ndarray) -> Strangeness:
    """A logistic regression: features → probability of good."""
    scaler = StandardScaler().fit(features[:, :-PICTURE_COLUMNS])
    model = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=500).fit(scaler.transform(features[:, :-PICTURE_COLUMNS]), good)
    return lambda asked: model.predict_proba(scaler.transform(asked[:, :-PICTURE_COLUMNS]))[:, 1]


def lowest_threshold(score: Array, wanted: np.ndarray) -> float:
    """The lowest at which a share `TARGET` of the photos at or above it is wanted; infinite where there is none."""
    order = np.argsort(-score)
    reached = np.flatnonzero(np.cumsum(wanted[order]) / np.arange(1, len(order) + 1) >= TARGET)
    return float(score[order][reached[-1]]) if len(reached) else float("inf")


def extract_all(extract: StageFeatures, photos: np.ndarray) -> Array:
    """The frozen features, then what `measure_pictures` gives."""
    batches = (torch.from_numpy(photos[start : start + 64]) for start in range(0, len(photos), 64))
    pictures = np.concatenate([measure_pictures(batch).numpy() for batch in batches])
    return np.hstack([frozen_features(extract, photos), pictures]).astype(np.float64)


if __name__ == "__main__":
    main()
