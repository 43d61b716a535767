"""Ways to tell photos that a model was not proved for, at an equal cost: 2 % of photos like the known ones are turned away.

    python benchmarks/gate.py FOLDER tf_efficientnet_lite0 weights.safetensors

FOLDER has `sources.csv` (columns `path` and `source_repo`) and photos whose folder's name is their class; it is only read. Printed is the
share of photos that each way lets through: held-out photos of the known sources (0.98 is wanted), photos of each source when the others are
known (much is wanted), drawn pictures without a car (0 is wanted), and photos that were spoilt (the worse the photo, the less).
"""

import argparse
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from carinspect.images.pixel_cache import load_photos
from carinspect.model.backbones import build_backbone
from carinspect.model.features import StageFeatures, frozen_features
from carinspect.model.gate import Array, Gate, fit_gate

SIDE_PX = 224
SHARE = 0.02
DRAWN = 60
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
        def fit(known: Array, _: np.ndarray, held_out: Array) -> Strangeness:
            pictures = np.zeros((len(held_out), 5))
            gate = Gate(fit_gate(early_NC=known[:, columns], held_out_early_NC=held_out[:, columns], held_out_pictures_NQ=pictures))
            return lambda features: gate.distance(torch.tensor(features[:, columns], dtype=torch.float32)).double().numpy()

        return fit

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
        "Mahalanobis": mahalanobis(stages), "Mahalanobis, early": mahalanobis(early),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("weights", type=Path)
    args = parser.parse_args()
    network = build_backbone(args.backbone, image_side_px=SIDE_PX, pretrained=args.weights)
    channels = [stage["num_chs"] for stage in network.feature_info]
    extract = StageFeatures(network, stages=len(channels), mirror=False)
    table = pd.read_csv(args.folder / "sources.csv")
    table = table[[(args.folder / path).is_file() for path in table["path"]]].sort_values("path", ignore_index=True)
    photos = np.stack([*load_photos(args.folder, table["path"].tolist(), side_px=SIDE_PX)])
    features = frozen_features(extract, photos).astype(np.float64)
    classes = np.array([Path(path).parent.name for path in table["path"]])
    # Copies of one export share the name before ".rf.".
    lot = np.array([int(sha256(Path(path).name.split(".rf.")[0].encode()).hexdigest(), 16) % 100 for path in table["path"]])
    random = np.random.default_rng(0)
    strangers = {f"drawn: {name}": frozen_features(extract, drawn).astype(np.float64) for name, drawn in draw_pictures(random).items()}
    spoilt = photos[random.choice(len(photos), DRAWN, replace=False)]
    for name, change in SPOILT.items():
        change.set_random_seed(0)
        changed = np.stack([change(image=photo)["image"] for photo in spoilt])
        strangers[f"spoilt: {name}"] = frozen_features(extract, changed).astype(np.float64)

    stages = slice(0, sum(channels))
    early = slice(0, sum(stage["num_chs"] for stage in network.feature_info if stage["reduction"] <= 8))
    ways = methods(early, stages, slice(stages.stop, features.shape[1]))
    shares: dict[str, dict[str, float]] = {}
    for name, fit in ways.items():
        measure = fit(features[lot < 60], classes[lot < 60], features[(lot >= 60) & (lot < 80)])
        limit = np.quantile(measure(features[(lot >= 60) & (lot < 80)]), 1 - SHARE)
        found = {"held out": features[lot >= 80], **strangers}
        shares[name] = {kind: float((measure(some) < limit).mean()) for kind, some in found.items()}
        for source in sorted(set(table["source_repo"])):
            own = (table["source_repo"] == source).to_numpy()
            known, held_out = ~own & (lot < 70), ~own & (lot >= 70)
            measure = fit(features[known], classes[known], features[held_out])
            limit = np.quantile(measure(features[held_out]), 1 - SHARE)
            shares[name][f"source: {source.split('/')[0]}"] = float((measure(features[own]) < limit).mean())
    print(pd.DataFrame(shares).round(2).to_string())


if __name__ == "__main__":
    main()
