"""Teaches the head of `model.marks` from outlines. The trained network stays as it is: only the head learns, on its maps.

Cells that nobody judged teach nothing. The loss of a question is the sum of three means:

- the cross-entropy of the known cells;
- 1 - the Dice coefficient of each marked photo (Milletari et al. 2016, "V-Net"): marks are few cells, and most are not marked;
- the cross-entropy of pointing: with a softmax over the known cells, -log of the part that falls on marked ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from carinspect.core.questions import Question
from carinspect.core.seeds import derive_seed
from carinspect.images.label_maps import MARKED, UNKNOWN, Outlines, draw_label_map, overlap_of
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.marks import MarksFit, MarksHead, channels_of, marked_stages
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.augment import Augmentation
from carinspect.training.batches import Photos, labels_as_tensors
from carinspect.training.config import Recipe

EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 10, 16, 3e-3, 1e-3
POINTING = 0.2
"""Weight of its loss: it is the largest of the three, and says nothing about the number of cells."""
LEAST_PHOTOS = 20
"""With fewer outlined photos in train, or none in val, a question gets no map."""
CUTS = (0.02, 0.05, *np.round(np.arange(0.1, 0.91, 0.05), 2).tolist())
STANDARDISED = 512
"""So many photos of train give the mean and the spread of each channel."""


@dataclass(frozen=True)
class MarkedPhotos:
    """The photos of one split about whose marks something is known."""

    photos: Photos
    outlines: Outlines
    questions: tuple[Question, ...]
    """Those with a map, in its order."""

    def __len__(self) -> int:
        return len(self.photos)

    def label_maps(self, position: int, *, side_px: int) -> list[np.ndarray]:
        """One for each question, uint8 (side_px, side_px): see `images.label_maps`."""
        known = self.outlines[self.photos.image_paths[position]]
        return [
            draw_label_map(known[kind], side_px=side_px) if kind in known else np.full((side_px, side_px), UNKNOWN, np.uint8)
            for kind in (str(asked.marks) for asked in self.questions)
        ]


@dataclass(frozen=True)
class Taught:
    """What the training gives."""

    fit: MarksFit | None
    metrics: dict[str, Any]


def count_outlined(rows: pd.DataFrame, outlines: Outlines, kind: str) -> int:
    """Photos of `rows` with a mark of `kind` that has a place."""
    return sum(any(mask.form != "none" for mask in outlines.get(path, {}).get(kind, ())) for path in rows["image_path"])


def teach_marks(
    network: CarInspectionNetwork, table: pd.DataFrame, outlines: Outlines, recipe: Recipe, *, root: Path, side_px: int, workers: int
) -> Taught:
    """Train the head on the split train of `table`, the dataset, and choose its epoch and its cuts on val.

    side_px: at which photos are read, here as in the evaluation. Without a question that has `LEAST_PHOTOS` outlined photos, or without
    maps of the backbone, there is no head, and the metrics say so.
    """
    train, val = (table[table["split"] == split] for split in ("train", "val"))
    asked = [question for question in recipe.questions if question.marks is not None]
    outlined = {one.name: [count_outlined(rows, outlines, str(one.marks)) for rows in (train, val)] for one in asked}
    taught = tuple(one for one in asked if outlined[one.name][0] >= LEAST_PHOTOS and outlined[one.name][1] > 0)
    told: dict[str, Any] = {name: {"train_outlined": counts[0], "val_outlined": counts[1]} for name, counts in outlined.items()}
    stages = marked_stages(network.backbone)
    if not taught or not stages:
        return Taught(None, {"questions": told})
    read = {name: _open(rows, outlines, taught, recipe, root=root, side_px=side_px) for name, rows in (("train", train), ("val", val))}
    torch.manual_seed(derive_seed(recipe.train.seed, "marks"))
    head = MarksHead(channels_of(network.backbone, stages), questions=len(taught))
    _standardise(head, network, read["train"], stages)
    epoch, history = _train(head, network, read, recipe, stages, side_px=side_px, workers=workers)
    probabilities = _map_all(head, network, read["val"], stages)
    priors = _priors(read["train"], cells=probabilities.shape[-1])
    truths = [read["val"].label_maps(position, side_px=probabilities.shape[-1]) for position in range(len(read["val"]))]
    cuts: dict[str, float] = {}
    for place, one in enumerate(taught):
        outlined_maps = [
            (maps[place], truth[place]) for maps, truth in zip(probabilities, truths, strict=True) if (truth[place] == MARKED).any()
        ]
        overlap = {cut: float(np.mean([overlap_of(map_hw >= cut, truth) for map_hw, truth in outlined_maps])) for cut in CUTS}
        cuts[one.name] = max(overlap, key=overlap.__getitem__)
        told[one.name] |= {"cut": cuts[one.name], "val_mean_iou": overlap[cuts[one.name]]}
    weights = {name: value.detach().clone() for name, value in head.state_dict().items()}
    fit = MarksFit(tuple(one.name for one in taught), tuple(stages), tuple(channels_of(network.backbone, stages)), cuts, priors, weights)
    counted = {"epoch": epoch, "train_photos": len(read["train"]), "val_photos": len(read["val"]), "val_loss": history}
    return Taught(fit, counted | {"questions": told})


def cell_targets(maps_BKSS: torch.Tensor, *, cells: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which cells are marked, and which are known, float32 (B, K, h, w) of 0 and 1, from label maps, by the rule of `draw_label_map`."""
    covered = nn.functional.adaptive_avg_pool2d((maps_BKSS == MARKED).float(), cells)
    known = nn.functional.adaptive_avg_pool2d((maps_BKSS != UNKNOWN).float(), cells)
    peak = covered.amax(dim=(2, 3), keepdim=True)
    marked = (covered > 0) & (covered >= (peak / 2).clamp(max=0.5))
    return marked.float(), (marked | ((covered == 0) & (known >= 0.5))).float()


def marks_loss(logits_BKhw: torch.Tensor, marked_BKhw: torch.Tensor, known_BKhw: torch.Tensor) -> torch.Tensor:
    """The loss, summed over the questions; 0 of a question without a known cell."""
    cells = (2, 3)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits_BKhw, marked_BKhw, reduction="none") * known_BKhw
    total = (entropy.sum(dim=(0, 2, 3)) / known_BKhw.sum(dim=(0, 2, 3)).clamp(min=1)).sum()
    has_marks = (marked_BKhw.sum(dim=cells) > 0).float()
    count_K = has_marks.sum(dim=0).clamp(min=1)
    p = torch.sigmoid(logits_BKhw) * known_BKhw
    dice = 1 - 2 * (p * marked_BKhw).sum(dim=cells) / (p.sum(dim=cells) + marked_BKhw.sum(dim=cells)).clamp(min=1e-6)
    total = total + ((dice * has_marks).sum(dim=0) / count_K).sum()
    least = torch.finfo(logits_BKhw.dtype).min
    everywhere = torch.logsumexp(logits_BKhw.masked_fill(known_BKhw == 0, least), dim=cells)
    on_marks = torch.logsumexp(logits_BKhw.masked_fill(marked_BKhw == 0, least), dim=cells)
    return total + POINTING * (((everywhere - on_marks) * has_marks).sum(dim=0) / count_K).sum()


class _Augmented(Dataset):
    def __init__(self, marked: MarkedPhotos, recipe: Recipe, *, side_px: int) -> None:
        self.marked, self.side_px = marked, side_px
        self.sky_labels = marked.photos.sky_labels(recipe)
        at_side = recipe.train.model_copy(update={"image_side_px": side_px})
        self.augmentation = Augmentation(recipe.model_copy(update={"train": at_side}))

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = key
        photo, maps = self.augmentation.with_maps(
            np.array(self.marked.photos.pixels[position]),
            self.marked.label_maps(position, side_px=self.side_px),
            epoch=epoch,
            image_path=self.marked.photos.image_paths[position],
            sky_label=self.sky_labels[position],
        )
        return photo, np.stack(maps)


def _open(
    rows: pd.DataFrame, outlines: Outlines, questions: tuple[Question, ...], recipe: Recipe, *, root: Path, side_px: int
) -> MarkedPhotos:
    kinds = {str(asked.marks) for asked in questions}
    rows = rows[[not kinds.isdisjoint(outlines.get(path, {})) for path in rows["image_path"]]].reset_index(drop=True)
    paths = rows["image_path"].tolist()
    pixels = open_pixel_cache(root, paths, rows["sha256"].tolist(), side_px=side_px)
    return MarkedPhotos(Photos(paths, pixels, labels_as_tensors(rows, recipe.questions)), outlines, questions)


@torch.no_grad()
def _standardise(head: MarksHead, network: CarInspectionNetwork, marked: MarkedPhotos, stages: Sequence[int]) -> None:
    chosen = np.unique(np.linspace(0, len(marked) - 1, min(STANDARDISED, len(marked))).astype(int))
    sums = [[torch.zeros(()), torch.zeros(())] for _ in stages]
    for start in range(0, len(chosen), BATCH):
        maps = network.maps(_as_batch(marked, chosen[start : start + BATCH], network), stages)
        for total, one in zip(sums, maps, strict=True):
            for place, power in enumerate((1, 2)):
                # The mean of a photo has the same weight in each stage, however many cells it has there.
                total[place] = total[place] + (one.double() ** power).mean(dim=(2, 3)).sum(dim=0).cpu()
    for stage, (first, second) in enumerate(sums):
        mean, square = first / len(chosen), second / len(chosen)
        spread = (square - mean**2).clamp(min=0).sqrt()
        head.get_buffer(f"mean_{stage}").copy_(mean.float()[:, None, None])
        # A channel that is 0 everywhere stays so.
        head.get_buffer(f"scale_{stage}").copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)).float()[:, None, None])


def _train(
    head: MarksHead,
    network: CarInspectionNetwork,
    read: dict[str, MarkedPhotos],
    recipe: Recipe,
    stages: Sequence[int],
    *,
    side_px: int,
    workers: int,
) -> tuple[int, list[float]]:
    """Train `head` in place; the epoch that was best on val, from 1, and the loss there after each epoch."""
    device = next(network.parameters()).device
    head.to(device)
    train = read["train"]
    keys: list[list[tuple[int, int]]] = []
    loader = DataLoader(_Augmented(train, recipe, side_px=side_px), batch_sampler=keys, num_workers=workers, persistent_workers=workers > 0)
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    history: list[float] = []
    best: dict[str, torch.Tensor] = {}
    with tqdm(total=steps, desc="marks", unit="batch", disable=None) as progress:
        for epoch in range(EPOCHS):
            order = np.random.default_rng(derive_seed(recipe.train.seed, "marks", epoch)).permutation(len(train))
            keys[:] = [[(epoch, int(place)) for place in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
            head.train()
            for photos, maps in loader:
                loss = _loss(head, network, photos.to(device), maps.to(device), stages)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                progress.update()
            head.eval()
            history.append(_val_loss(head, network, read["val"], stages, side_px=side_px))
            if history[-1] == min(history):
                best = {name: value.detach().clone() for name, value in head.state_dict().items()}
    head.load_state_dict(best)
    return 1 + int(np.argmin(history)), history


def _loss(head: MarksHead, network: CarInspectionNetwork, photos: torch.Tensor, maps: torch.Tensor, stages: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        seen = network.maps(photos, stages)
    logits = head(seen)
    return marks_loss(logits, *cell_targets(maps, cells=(logits.shape[2], logits.shape[3])))


@torch.no_grad()
def _val_loss(head: MarksHead, network: CarInspectionNetwork, val: MarkedPhotos, stages: Sequence[int], *, side_px: int) -> float:
    total = 0.0
    for places in _in_batches(len(val)):
        maps = torch.from_numpy(np.stack([np.stack(val.label_maps(int(place), side_px=side_px)) for place in places]))
        photos = _as_batch(val, places, network)
        total += len(places) * float(_loss(head, network, photos, maps.to(photos.device), stages))
    return total / len(val)


@torch.no_grad()
def _map_all(head: MarksHead, network: CarInspectionNetwork, marked: MarkedPhotos, stages: Sequence[int]) -> np.ndarray:
    parts = [torch.sigmoid(head(network.maps(_as_batch(marked, places, network), stages))).cpu() for places in _in_batches(len(marked))]
    return torch.cat(parts).numpy()


def _priors(train: MarkedPhotos, *, cells: int) -> dict[str, torch.Tensor]:
    totals = np.zeros((len(train.questions), cells, cells))
    counts = np.zeros(len(train.questions))
    for position in range(len(train)):
        for place, truth in enumerate(train.label_maps(position, side_px=cells)):
            if (truth == MARKED).any():
                totals[place] += truth == MARKED
                counts[place] += 1
    return {
        asked.name: torch.tensor(totals[place] / max(1, counts[place]), dtype=torch.float32) for place, asked in enumerate(train.questions)
    }


def _in_batches(count: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def _as_batch(marked: MarkedPhotos, places: np.ndarray, network: CarInspectionNetwork) -> torch.Tensor:
    photos = torch.from_numpy(np.stack([marked.photos.pixels[place] for place in places]))
    return photos.to(next(network.parameters()).device)


def say_taught(taught: Taught, questions: Sequence[Question]) -> list[str]:
    """One line for each question with `marks`."""
    lines = []
    for asked in (one for one in questions if one.marks is not None):
        found = taught.metrics["questions"][asked.name]
        outlined = f"{found['train_outlined']} photos of train and {found['val_outlined']} of val have outlines of {asked.marks}"
        if taught.fit is not None and asked.name in taught.fit.questions:
            lines.append(f"{asked.name}: {outlined}; mean IoU on val {found['val_mean_iou']:.2f} at the cut {found['cut']:.2f}")
        elif found["train_outlined"] >= LEAST_PHOTOS and found["val_outlined"]:
            lines.append(f"{asked.name}: no map, since timm shows no maps of this backbone.")
        else:
            lines.append(f"{asked.name}: no map. Only {outlined}; it takes {LEAST_PHOTOS} and 1.")
    return lines
