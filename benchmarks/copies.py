"""Recall of the search for copies: which changed copies of real photos are tied to their originals, and which strangers with them.

    python benchmarks/copies.py [FOLDER] [--photos 150] [--kinds border watermark] [--sheet merges.png]
    python benchmarks/copies.py [FOLDER] --backbone tf_efficientnet_lite0 --weights FILE [--sheet scenes.png]

FOLDER, or the environment variable CARINSPECT_REAL_DATA, holds the photos; it is only read. Every copy is a new JPEG under a random name.
A copy counts when one group holds it and its original, among the originals and the copies of that kind. "tied strangers" are pairs of
originals that this search ties; --sheet shows those that the whole folder's photos have, for a person to judge. With a backbone's weights
the look for same scenes comes too, among all photos of the folder: "listed" is the recall with it, and the last column counts pairs of
strangers that it lists among originals and copies. The sheet then shows those among the drawn photos.
"""

import argparse
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from carinspect.core.params import read_section
from carinspect.images.decode import decode_photo
from carinspect.images.pixel_cache import load_photos
from carinspect.model.backbones import build_backbone
from carinspect.model.features import StageFeatures, frozen_features
from carinspect.model.learned import SIDE_PX
from carinspect.splits.config import SplitParams
from carinspect.splits.contact_sheet import write_contact_sheet
from carinspect.splits.fingerprints import read_fingerprints
from carinspect.splits.groups import label_groups
from carinspect.splits.link_table import describe_links
from carinspect.splits.near_duplicates import find_near_duplicates
from carinspect.splits.scenes import Suspicion, find_same_scenes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(share: float) -> Change:
    """Cut this share of the photo off each side."""
    return lambda image, _: image.crop(
        tuple(np.round(np.multiply([share, share, 1 - share, 1 - share], [*image.size, *image.size])).astype(int).tolist())
    )


def rotate(degrees: float) -> Change:
    """Turn either way; the corners that come in are black."""
    return lambda image, random: image.rotate(degrees * random.choice([-1, 1]), Image.Resampling.BICUBIC)


def border(colour: str, share: float = 0.08) -> Change:
    return lambda image, _: ImageOps.expand(image, round(share * max(image.size)), colour)


def letterbox(colour: str) -> Change:
    """Bars that make the photo square; a square one becomes 16:9."""

    def add(image: Image.Image, _: np.random.Generator) -> Image.Image:
        width, height = image.size
        size = (width, height) if width != height else (round(width * 16 / 9), height)
        return ImageOps.pad(image, (max(size), max(size)) if width != height else size, color=colour)

    return add


def watermark(image: Image.Image, random: np.random.Generator, *, opacity: float = 0.35) -> Image.Image:
    """A white word all over the photo, see-through and slanted, as agencies of stock photos print it."""
    side = max(image.size)
    layer = Image.new("L", (2 * side, 2 * side))
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(size=max(10, side // 14))
    for line in range(12):
        draw.text((-(line % 2) * side // 8, line * side // 6), "  SAMPLE PHOTO  " * 8, fill=round(255 * opacity), font=font)
    layer = layer.rotate(30 * random.choice([-1, 1])).crop((side // 2, side // 2, side // 2 + image.width, side // 2 + image.height))
    return Image.composite(Image.new("RGB", image.size, "white"), image, layer)


def add_noise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image) + random.normal(0, 20, (image.height, image.width, 3)), 0, 255).astype(np.uint8))


def encode_again(image: Image.Image, _: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


def cut_out(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """The middle as an ellipse on white, as sellers cut a car out of its background."""
    mask = Image.new("L", image.size)
    inset = np.multiply(image.size, 0.08).round().astype(int)
    ImageDraw.Draw(mask).ellipse((*inset.tolist(), image.width - int(inset[0]), image.height - int(inset[1])), fill=255)
    return Image.composite(image, Image.new("RGB", image.size, "white"), mask)


def screenshot(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """The photo across a phone's screen, with bars and lines of text above and below."""
    width = 360
    screen = Image.new("RGB", (width, 2 * width), "white" if random.random() < 0.5 else "#202124")
    draw = ImageDraw.Draw(screen)
    photo = ImageOps.contain(image, (width, width))
    top = int(random.integers(90, 2 * width - photo.height - 90)) if photo.height < 2 * width - 181 else 90
    screen.paste(photo, ((width - photo.width) // 2, top))
    draw.rectangle((0, 0, width, 60), fill="#3b5998")
    for line in range(8):
        for place in (70 + 6 * (line % 3), top + photo.height + 14 + 26 * line):
            if place < top - 20 or place > top + photo.height:
                draw.text((12, place), "Sold by owner, good condition, call after six"[: int(random.integers(15, 45))], fill="#808080")
    return screen


def collage(others: Sequence[Path], image: Image.Image, random: np.random.Generator) -> Image.Image:
    """One of four photos, each in a quarter; the other three are any of `others`."""
    sheet, places = Image.new("RGB", (480, 480), "white"), [(0, 0), (242, 0), (0, 242), (242, 242)]
    beside = [decode_photo(others[place]).convert("RGB") for place in random.choice(len(others), 3, replace=False)]
    for place, photo in zip(random.permutation(4), [image, *beside], strict=True):
        sheet.paste(ImageOps.fit(photo, (238, 238)), places[place])
    return sheet


KINDS: dict[str, Change] = {
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "quarter-turn": lambda image, random: image.rotate(90 * int(random.integers(1, 4)), expand=True),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "dark": lambda image, _: ImageEnhance.Brightness(image).enhance(0.5),
    "bright": lambda image, _: ImageEnhance.Brightness(image).enhance(1.5),
    "half-size": lambda image, _: image.resize((image.width // 2, image.height // 2)),
    "blur": lambda image, _: image.filter(ImageFilter.GaussianBlur(2)),
    "JPEG-20": encode_again,
    "noise": add_noise,
    "border-white": border("white"),
    "border-black": border("black"),
    "border-red": border("#a02030"),
    "letterbox-black": letterbox("black"),
    "letterbox-white": letterbox("white"),
    "watermark": watermark,
    "watermark-heavy": partial(watermark, opacity=0.5),
    "rotation-5": rotate(5),
    "rotation-10": rotate(10),
    "rotation-15": rotate(15),
    "crop-5": crop(0.05),
    "crop-10": crop(0.10),
    "crop-20": crop(0.20),
    "crop-30": crop(0.30),
    "cut-out": cut_out,
    "screenshot": screenshot,
    "collage": partial(collage, ()),
}  # fmt: skip


def copy_photos(paths: Sequence[Path], kind: str, folder: Path, *, seed: int, others: Sequence[Path]) -> list[Path]:
    """Write the copies of one kind and return their paths, in the order of `paths`. others: photos that stand beside them in a collage."""
    random = np.random.default_rng([seed, list(KINDS).index(kind)])
    change = partial(collage, others) if kind == "collage" else KINDS[kind]
    copies = []
    for path in paths:
        copies.append(folder / f"{random.bytes(8).hex()}.jpg")
        change(decode_photo(path).convert("RGB"), random).convert("RGB").save(copies[-1], quality=88)
    return copies


def tie(paths: Sequence[Path], params: SplitParams) -> tuple[np.ndarray, list]:
    """The group of each photo, and the links, by pixels alone."""
    links = find_near_duplicates(
        read_fingerprints(paths), [], bits=params.near_duplicate_bits, correlation=params.near_duplicate_correlation
    )
    return label_groups(len(paths), links), links


class ThirdLook:
    """The look for same scenes, with the features of the originals read once."""

    def __init__(self, backbone: str, weights: Path) -> None:
        network = build_backbone(backbone, image_side_px=SIDE_PX, pretrained=weights)
        self.stages = StageFeatures(network, stages=1, mirror=True, windows=True)
        self.known: dict[Path, np.ndarray] = {}

    def find(self, paths: Sequence[Path], labels: np.ndarray) -> list[Suspicion]:
        """The pairs that it lists among photos with these groups."""
        new = [path for path in paths if path not in self.known]
        photos = list(load_photos(Path("/"), [str(path.resolve()) for path in new], side_px=SIDE_PX))
        if new:
            self.known |= dict(zip(new, self.stages.part(frozen_features(self.stages, photos))[1], strict=True))
        return find_same_scenes(paths, np.stack([self.known[path] for path in paths]), labels, [])


def show_suspicions(paths: Sequence[Path], folder: Path, suspicions: Sequence[Suspicion], sheet: Path) -> None:
    """The pairs that the look for same scenes lists among photos of the folder, those with the fewest shared features first."""
    names = [str(path.relative_to(folder)) for path in paths]
    rows = [
        (names[one.first], names[one.second], f"cosine {one.cosine:.2f}, shared {one.inliers}", float("nan"), "", "")
        for one in sorted(suspicions, key=lambda one: one.inliers)
    ]
    columns = ["first", "second", "reason", "correlation", "first_declared_split", "second_declared_split"]
    write_contact_sheet(pd.DataFrame(rows, columns=columns).head(60), folder, sheet)


def show_merges(paths: Sequence[Path], folder: Path, params: SplitParams, sheet: Path) -> None:
    """What the search ties among all photos of the folder, the most doubtful pairs first."""
    table = pd.DataFrame({"image_path": [str(path.relative_to(folder)) for path in paths], "declared_split": "", "group": ""})
    pairs = describe_links(table, tie(paths, params)[1]).sort_values("correlation", kind="stable")
    print(f"{len(pairs)} links among {len(paths)} photos of the folder; the least like each other are in {sheet}")
    write_contact_sheet(pairs.head(60), folder, sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("CARINSPECT_REAL_DATA"))
    parser.add_argument("--photos", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    if args.folder is None:
        parser.error("name a folder of photos, or set CARINSPECT_REAL_DATA")
    params = read_section("split", SplitParams)
    paths = sorted(path for path in Path(args.folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    drawn = np.random.default_rng(args.seed).choice(len(paths), min(args.photos, len(paths)), replace=False)
    originals = [paths[place] for place in drawn]
    others = [path for path in paths if path not in set(originals)] or originals
    third = ThirdLook(args.backbone, args.weights) if args.weights else None
    print(
        f"{'copy':>16} {'recall':>7} {'missed':>7} {'tied strangers':>15}" + (f" {'listed':>7} {'listed strangers':>17}" if third else "")
    )
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            everyone = [*originals, *copy_photos(originals, kind, Path(folder), seed=args.seed, others=others)]
            groups, _ = tie(everyone, params)
            # All others are rivals for the nearest places. They share one group, so that no pair of them is compared.
            rivals = np.full(len(others), groups.max() + 1)
            found_scenes = third.find([*everyone, *others], np.concatenate([groups, rivals])) if third else []
            suspicions = [one for one in found_scenes if one.second < len(everyone)]
        half = len(originals)
        found = groups[:half] == groups[half:]
        line = f"{kind:>16} {found.mean():7.3f} {int((~found).sum()):7} {half - len(np.unique(groups[:half])):15}"
        if third:
            # A pair of groups is listed once, by its most alike photos.
            pairs = {frozenset((groups[one.first], groups[one.second])) for one in suspicions}
            own = {frozenset((groups[place], groups[half + place])) for place in range(half)}
            listed = np.array([found[place] or frozenset((groups[place], groups[half + place])) in pairs for place in range(half)])
            line += f" {listed.mean():7.3f} {len(pairs - own):17}"
        print(line, flush=True)
    if args.sheet and third:
        groups, _ = tie(originals, params)
        show_suspicions(originals, Path(args.folder), third.find(originals, groups), args.sheet)
    elif args.sheet:
        show_merges(paths, Path(args.folder), params, args.sheet)


if __name__ == "__main__":
    main()
