"""Plans the photos to draw: which source gets which car, under which file name, in which split."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from carinspect.core.seeds import derive_seed
from carinspect.demo.config import RenderDemoParams
from carinspect.demo.scene import OUTDOORS, PhotoPlan, Weather, choose_photo_plan, choose_subject

ImageKind = Literal["JPEG", "PNG", "WEBP"]

WEATHER_FOLDERS: dict[Weather, str] = {"clear": "clear day", "rain": "rain", "fog": "foggy", "snow": "snow", "sand": "sand"}


@dataclass(frozen=True)
class Copy:
    """An augmented copy of a photo."""

    path: str
    split: str
    seed: int


@dataclass(frozen=True)
class Shot:
    """One photo to draw, and the files that it becomes. Paths are relative to the data root."""

    plan: PhotoPlan
    source: str
    path: str
    split: str
    kind: ImageKind = "JPEG"
    orientation: int = 1
    vehicle_id: str = ""
    overshoot: bool = False
    """The car's outline is annotated beyond the frame."""
    copies: tuple[Copy, ...] = ()


def _plan(seed: int, source: str, index: int, *, state: int, weather: Weather | None = None, cut: bool = False) -> PhotoPlan:
    """`state` 0..3 fixes whether the car is dirty (bit 0) and damaged (bit 1): all four are equally frequent in every source."""
    photo_seed = derive_seed(seed, "photo", source, index)
    subject = choose_subject(photo_seed, dirty=bool(state & 1), damaged=bool(state & 2))
    return choose_photo_plan(photo_seed, subject, weather=weather, cut=cut)


def _splits(rng: np.random.Generator, count: int, shares: dict[str, float]) -> list[str]:
    """`count` split names in random order, each at least once where `count` allows."""
    held_out = [name for name, share in list(shares.items())[1:] for _ in range(max(1, round(share * count)))]
    names = [next(iter(shares))] * (count - len(held_out)) + held_out
    return [names[index] for index in rng.permutation(count)]


def _export_path(split: str, number: int, key: int) -> str:
    """As Roboflow names its exports: copies of one photo share what stands before `.rf.`."""
    return f"body_shop/{split}/IMG_{number:04d}_jpg.rf.{blake2b(str(key).encode(), digest_size=16).hexdigest()}.jpg"


def _body_shop(seed: int, count: int) -> list[Shot]:
    rng = np.random.default_rng(derive_seed(seed, "body_shop"))
    splits = _splits(rng, count, {"train": 0.7, "valid": 0.2, "test": 0.1})
    numbers = rng.permutation(count) + 101
    # At least one copy of a train photo lies in valid and one in test, also where few photos are drawn.
    leaks = dict(zip((index for index, split in enumerate(splits) if split == "train"), ("valid", "test"), strict=False))
    shots = []
    for index, (split, number) in enumerate(zip(splits, numbers, strict=True)):
        plan = _plan(seed, "body_shop", index, state=index % 4, cut=index == 0 or rng.random() < 0.03)
        landed: list[tuple[str, int]] = []
        for copy in range(int(rng.choice([1, 2])) if split == "train" and rng.random() < 0.25 else 0):
            # The trap: the export tool split its copies after making them.
            landed.append((("train", "valid", "test")[rng.choice(3, p=(0.8, 0.12, 0.08))], derive_seed(plan.seed, "copy", copy)))
        if index in leaks:
            landed.append((leaks[index], derive_seed(plan.seed, "leak")))
        copies = tuple(Copy(path=_export_path(other, number, key), split=other, seed=key) for other, key in landed)
        path = _export_path(split, number, plan.seed)
        shots.append(Shot(plan=plan, source="body_shop", path=path, split=split, copies=copies, overshoot=index == 0))
    return shots


def _boxes(seed: int, count: int) -> list[Shot]:
    plans = [_plan(seed, "boxes", index, state=index % 4) for index in range(count)]
    return [Shot(plan=plan, source="boxes", path=f"boxes/hasar-{index + 1:03d}.jpg", split="") for index, plan in enumerate(plans)]


def _wash(seed: int, count: int) -> list[Shot]:
    rng = np.random.default_rng(derive_seed(seed, "wash"))
    splits = {dirty: _splits(rng, (count + 1 - dirty) // 2, {"train": 0.75, "test": 0.25}) for dirty in (0, 1)}
    numbers = rng.permutation(count) + 1
    odd_names = {0: "car {:04d}.jpg", 1: "-car{:04d}.jpg"}
    orientations = {2: 6, 3: 8, 4: 3}
    shots = []
    for index in range(count):
        split = splits[index % 2][index // 2]
        name = odd_names.get(index, "car{:04d}.jpg").format(numbers[index])
        path = f"wash/{split}/{('clean', 'dirty')[index % 2]}/{name}"
        plan = _plan(seed, "wash", index, state=index % 4)
        shots.append(Shot(plan=plan, source="wash", path=path, split=split, orientation=orientations.get(index, 1)))
    return shots


def _dashcam(seed: int, count: int) -> list[Shot]:
    rng = np.random.default_rng(derive_seed(seed, "dashcam"))
    numbers = rng.permutation(count) + 1
    sandy = max(1, round(0.012 * count))
    kinds: dict[int, ImageKind] = {0: "PNG", 1: "WEBP"}
    shots = []
    for index in range(count):
        weather = "sand" if index >= count - sandy else OUTDOORS[index % 4]
        kind = kinds.get(index, "JPEG")
        suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
        plan = _plan(seed, "dashcam", index, state=index // 4 % 4, weather=weather)
        path = f"dashcam/{WEATHER_FOLDERS[weather]}/frame_{numbers[index]:05d}.{suffix}"
        shots.append(Shot(plan=plan, source="dashcam", path=path, split="", kind=kind))
    return shots


def _fleet(seed: int, count: int) -> list[Shot]:
    """Two or three photos of each vehicle, from other sides and in other weather."""
    rng = np.random.default_rng(derive_seed(seed, "fleet"))
    shots: list[Shot] = []
    vehicle = 0
    while len(shots) < count:
        car_seed = derive_seed(seed, "vehicle", vehicle)
        subject = choose_subject(car_seed, dirty=bool(vehicle & 1), damaged=bool(vehicle & 2))
        split = ("train", "train", "test", "train", "valid")[vehicle % 5]
        for view in range(min(int(rng.integers(2, 4)), count - len(shots))):
            weather = OUTDOORS[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))]
            plan = choose_photo_plan(derive_seed(car_seed, "view", view), subject, weather=weather)
            path = f"fleet/photos/FL-{vehicle + 1:03d}_{view + 1}.jpg"
            shots.append(Shot(plan=plan, source="fleet", path=path, split=split, vehicle_id=f"FL-{vehicle + 1:03d}"))
        vehicle += 1
    return shots


_SOURCES: dict[str, tuple[float, Callable[[int, int], list[Shot]]]] = {
    "body_shop": (0.42, _body_shop), "boxes": (0.10, _boxes), "wash": (0.18, _wash), "dashcam": (0.20, _dashcam), "fleet": (0.10, _fleet),
}  # fmt: skip
"""Each source's share of the photos, and what plans them."""


def plan_shots(params: RenderDemoParams) -> list[Shot]:
    """All photos of the data root, `params.photos` of them, before copies and traps."""
    counts = {source: int(params.photos * share) for source, (share, _) in _SOURCES.items()}
    counts["body_shop"] += params.photos - sum(counts.values())
    return [shot for source, (_, plan) in _SOURCES.items() for shot in plan(params.seed, counts[source])]
