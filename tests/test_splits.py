"""Groups, splits, their memory and their certificate."""

import io
import json
import os
import runpy
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps
from scipy.stats import binom

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.core.questions import by_name, dump_questions, load_questions
from carinspect.core.tables import ONLY_TRAIN, SPLITS, annotation_columns, dataset_columns, read_table, write_table
from carinspect.splits import near_duplicates
from carinspect.splits.assignment import balance_splits, draw_splits
from carinspect.splits.candidates import Candidates, find_candidates
from carinspect.splits.certificate import certify_split, declared_overlaps, find_gaps
from carinspect.splits.check import find_leaks
from carinspect.splits.chunks import Chunk, plan_chunks
from carinspect.splits.config import SplitParams
from carinspect.splits.contact_sheet import choose_pairs, write_contact_sheet
from carinspect.splits.correlation import correlate_detail, correlate_layouts
from carinspect.splits.fingerprints import (
    LAYOUT_PX,
    SIDE_PX,
    VARIANTS,
    Fingerprints,
    find_content,
    fingerprint_thumbnail,
    hash_variants,
    hold_picture,
    make_thumbnail,
)
from carinspect.splits.groups import Link, label_groups, link_equal, name_groups
from carinspect.splits.labels import label_classes
from carinspect.splits.ledger import Ledger, extend_ledger, read_ledger, write_ledger
from carinspect.splits.link_table import describe_links, read_links, write_links
from carinspect.splits.near_duplicates import comparison_memory, find_near_duplicates
from carinspect.splits.placement import assign_splits
from carinspect.splits.scenes import (
    LEAST_INLIERS,
    count_inliers,
    find_same_scenes,
    place_verdicts,
    read_key_points,
    read_suspicions,
    read_verdicts,
)
from carinspect.splits.split import place_photos, renumber, require_no_leaks, split_photos
from conftest import QUESTIONS

REPOSITORY = Path(__file__).parents[1]
FRACTIONS = {"train": 0.5, "val": 0.12, "calib": 0.22, "test": 0.16}
PARAMS = SplitParams(
    seed=1, policy="fresh", fractions=FRACTIONS, near_duplicate_bits=12, near_duplicate_correlation=0.5, same_scene="report"
)
RESPECT = PARAMS.model_copy(update={"policy": "respect"})
NO_LEDGER = Ledger({}, {})
ASKED = by_name(QUESTIONS)


@pytest.fixture(autouse=True)
def _own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("checkout")))


# Pictures


def fingerprint_thumbnails(thumbnails: np.ndarray) -> Fingerprints:
    return Fingerprints(*(np.stack(parts) for parts in zip(*map(fingerprint_thumbnail, thumbnails), strict=True)))


def draw_scene(seed: int) -> Image.Image:
    """A cluttered picture, 320 x 240, that no other seed draws."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 240), tuple(random.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, width, height = random.integers([-40, -40, 10, 10], [300, 220, 110, 80]).tolist()
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + width, y + height), fill=tuple(random.integers(0, 255, 3).tolist()))
    return image


def draw_car(*, roof: tuple[int, int], paint: str, stripes: list[int], wheel: int) -> Image.Image:
    """A car, side on, before a plain wall."""
    image = Image.new("RGB", (320, 240), "#c8c8c0")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 190, 320, 240), fill="#9a9a98")
    draw.polygon([(60, 150), (roof[0], 105), (roof[1], 105), (260, 150)], fill="#30363c")
    draw.rounded_rectangle((40, 145, 285, 190), 12, fill=paint)
    for x in stripes:
        draw.line((x, 147, x + 8, 188), fill="black", width=3)
    for x in (90, 230):
        draw.ellipse((x - wheel, 190 - wheel, x + wheel, 190 + wheel), fill="#181818")
        draw.ellipse((x - wheel // 2, 190 - wheel // 2, x + wheel // 2, 190 + wheel // 2), fill="#b0b0b0")
    return image


def encode(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def mark(image: Image.Image) -> Image.Image:
    """A slanted word all over the picture, a third opaque."""
    layer = Image.new("L", image.size)
    for y in range(-20, 260, 40):
        ImageDraw.Draw(layer).text((y % 60 - 40, y), "  SAMPLE PHOTO" * 4, fill=85, font=ImageFont.load_default(size=20))
    return Image.composite(Image.new("RGB", image.size, "white"), image, layer.rotate(25))


def tied(*images: Image.Image, correlation: float = 0.5) -> bool:
    """Whether the pixels of all `images` put them in one group."""
    thumbnails = [make_thumbnail(image.convert("RGB")) for image in images]
    links = find_near_duplicates(fingerprint_thumbnails(np.stack(thumbnails)), [], bits=12, correlation=correlation)
    return bool((label_groups(len(images), links) == 0).all())


COPIES = {
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "mirrored": ImageOps.mirror,
    "turned and mirrored": lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    "grey": lambda image: image.convert("L"),
    "encoded again": lambda image: encode(image, 30),
    "a third of the size": lambda image: image.resize((107, 80)),
    "stretched to a square": lambda image: image.resize((200, 200)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "grey and equalised": lambda image: ImageOps.equalize(image.convert("L")),
    "cropped by 5 % on all sides": lambda image: image.crop((8, 6, 312, 234)),
    "cropped by 5 % in a corner": lambda image: image.crop((0, 0, 304, 228)),
    "cropped by 10 % in a corner": lambda image: image.crop((32, 24, 320, 240)),
    "tilted by 6 degrees, black corners": lambda image: image.rotate(6),
    "cropped by 10 % on all sides": lambda image: image.crop((32, 24, 288, 216)),
    "in a white border": lambda image: ImageOps.expand(image, 30, "white"),
    "in a red border": lambda image: ImageOps.expand(image, 25, "#a02030"),
    "letterboxed": lambda image: ImageOps.pad(image, (320, 320)),
    "with a watermark": lambda image: mark(image),
    "all at once": lambda image: encode(ImageOps.mirror(image.rotate(-5)).convert("L").resize((160, 120)), 60),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_tied_to_its_original(name: str) -> None:
    copy = COPIES[name]
    missed = [seed for seed in range(10) if not tied(draw_scene(seed), copy(draw_scene(seed)))]
    assert len(missed) <= 1, f"missed the copies of {missed}"


def test_different_scenes_are_not_tied() -> None:
    thumbnails = np.stack([np.asarray(draw_scene(seed).convert("L").resize((SIDE_PX, SIDE_PX))) for seed in range(60)])
    assert find_near_duplicates(fingerprint_thumbnails(thumbnails), [], bits=20, correlation=0.5) == []


def test_what_was_compared_is_not_compared_again_and_the_links_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [draw_scene(seed) for seed in range(12)]
    images = [*scenes, *(encode(scene, 40) for scene in scenes[:6]), *(ImageOps.mirror(scene) for scene in scenes[3:9])]
    prints = fingerprint_thumbnails(np.stack([make_thumbnail(image.convert("RGB")) for image in images]))
    compared = []
    monkeypatch.setattr(near_duplicates, "correlate_layouts", lambda *pair, **held: compared.append(1) or correlate_layouts(*pair, **held))

    def find(photos: int, *, remembered: bool = True, correlation: float = 0.5) -> tuple[list[Link], int]:
        compared.clear()
        some = Fingerprints(*(part[:photos] for part in prints))
        memory = comparison_memory() if remembered else None
        return find_near_duplicates(some, [], bits=20, correlation=correlation, memory=memory), len(compared)

    links, whole = find(24, remembered=False)
    assert label_groups(24, links).max() == 11
    _, before = find(20)
    assert find(24) == (links, whole - before)
    assert find(24) == (links, 0)
    # What is remembered is how alike two pictures are, so that another threshold finds what it found before.
    assert find(24, correlation=0.9) == (find(24, remembered=False, correlation=0.9)[0], 0)
    # Another picture is not taken for the one of that row before.
    prints.thumbnails[0] = 255 - prints.thumbnails[23]
    assert find(24)[1] > 0


SEDAN = {"roof": (110, 200), "paint": "#a02020", "stripes": [130, 180], "wheel": 24}
ESTATE = {"roof": (100, 225), "paint": "#205a9a", "stripes": [120, 165, 215], "wheel": 20}


def test_two_cars_before_one_plain_wall_are_not_tied() -> None:
    assert not tied(draw_car(**SEDAN), draw_car(**ESTATE))


def test_only_the_second_look_keeps_them_apart() -> None:
    thumbnails = [np.asarray(draw_car(**car).convert("L").resize((SIDE_PX, SIDE_PX))) for car in (SEDAN, ESTATE)]
    prints = fingerprint_thumbnails(np.stack(thumbnails))
    assert len(find_candidates(prints.hashes, at_most_bits=12).bits) == 1
    # Grey for grey, the two pictures are as good as one.
    assert np.corrcoef(thumbnails[0].ravel(), thumbnails[1].ravel())[0, 1] > 0.9
    assert correlate_layouts(prints.layouts[0], prints.layouts[1], variant=VARIANTS[0]) > 0.85
    assert correlate_detail(thumbnails[0], thumbnails[1], variant=VARIANTS[0]).most < 0.3


def test_one_car_before_one_plain_wall_is_tied_to_its_copy() -> None:
    assert tied(draw_car(**SEDAN), encode(ImageOps.mirror(draw_car(**SEDAN)), 40))


@pytest.mark.parametrize("colour", ["black", "white", "#a02030"])
def test_a_border_of_any_colour_is_no_content(colour: str) -> None:
    sent = encode(ImageOps.expand(draw_scene(1).resize((432, 352)), (40, 80), colour), 80)
    left, top, right, bottom = find_content(np.asarray(sent.resize((128, 128), Image.Resampling.BOX)))
    assert all(inner <= found <= inner + 2 for found, inner in [(left, 10), (top, 20), (128 - right, 10), (128 - bottom, 20)])


def test_a_plain_picture_and_one_without_a_border_stay_whole() -> None:
    for image in (Image.new("RGB", (128, 128), "white"), draw_scene(2).resize((128, 128)), draw_scene(1).resize((9, 9)).resize((128, 128))):
        assert find_content(np.asarray(image)) == (0, 0, 128, 128)


def test_plain_surfaces_are_not_tied() -> None:
    assert not tied(Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "grey"), correlation=0.01)


def test_a_picture_without_contrast_correlates_with_nothing() -> None:
    plain = np.full((SIDE_PX, SIDE_PX), 128, dtype=np.uint8)
    assert correlate_detail(plain, plain, variant=VARIANTS[0]).most == 0.0


def test_the_hash_of_an_upright_picture_is_that_of_imagehash() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (LAYOUT_PX, LAYOUT_PX)).astype(np.uint8)
    expected = imagehash.phash(Image.fromarray(pixels)).hash.ravel()
    ours = hash_variants(pixels.astype(np.float16))[:1].view(np.uint8)
    assert np.array_equal(np.unpackbits(ours).astype(bool), expected)


def test_quarter_turns_and_mirrors_move_pixels_exactly() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    held = {hold_picture(picture, variant).tobytes() for variant in VARIANTS[:8]}
    turned = [np.rot90(side, quarters) for side in (picture, picture.T) for quarters in range(4)]
    assert held == {np.ascontiguousarray(one).tobytes() for one in turned}


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_window_shows_the_corner_that_it_names(across: float, down: float) -> None:
    picture = np.asarray(draw_scene(3).convert("L").resize((96, 96)))
    variant = next(one for one in VARIANTS if (one.across, one.down) == (across, down))
    left, top, side = across * 96 * (1 - variant.window), down * 96 * (1 - variant.window), 96 * variant.window
    box = (left, top, left + side, top + side)
    expected = np.asarray(Image.fromarray(picture).resize((96, 96), Image.Resampling.BILINEAR, box=box), dtype=float)
    difference = np.abs(hold_picture(picture, variant)[2:-2, 2:-2] - expected[2:-2, 2:-2])
    assert difference.mean() < 1.0


def compare_all_with_all(hashes: np.ndarray, at_most_bits: int) -> Candidates:
    """The candidates by their definition: every pair of photos, either one in every variant."""
    best = {}
    for (first, variant), second in product(np.ndindex(hashes.shape), range(len(hashes))):
        bits = (int(hashes[first, variant]) ^ int(hashes[second, 0])).bit_count()
        if first != second and bits <= at_most_bits:
            pair = (min(first, second), max(first, second))
            best[pair] = min(best.get(pair, (65,)), (bits, first, second, variant))
    rows = [best[pair] for pair in sorted(best, key=lambda pair: (best[pair][0], *pair))]
    return Candidates(*np.array(rows, dtype=int).reshape(-1, 4).T)


def draw_hashes(random: np.random.Generator, photos: int, variants: int, *, flips: int) -> np.ndarray:
    """Words around a few centres, up to `flips` bits away: pairs at every distance, equal ones and ties among them."""
    centres = random.integers(0, 2**64, 4, dtype=np.uint64)
    places = random.integers(0, 64, (photos, variants, flips + 1), dtype=np.uint64)
    words = np.bitwise_or.reduce(np.uint64(1) << places, axis=2) & random.integers(0, 2**64, (photos, variants), dtype=np.uint64)
    return centres[random.integers(0, 4, (photos, variants))] ^ words


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 5), st.integers(0, 24), st.integers(0, 20))
def test_candidates_are_those_of_comparing_all_with_all(seed: int, photos: int, variants: int, flips: int, bits: int) -> None:
    hashes = draw_hashes(np.random.default_rng(seed), photos, variants, flips=flips)
    found, expected = find_candidates(hashes, at_most_bits=bits), compare_all_with_all(hashes, bits)
    for column, wanted in zip(found, expected, strict=True):
        assert column.tolist() == wanted.tolist()


def test_chunks_as_wide_as_a_million_photos_want_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [Chunk(0, 20, 4), Chunk(20, 22, 3), Chunk(42, 22, 3)]
    monkeypatch.setattr("carinspect.splits.candidates.plan_chunks", lambda **_: plan)
    hashes = draw_hashes(np.random.default_rng(1), 60, 3, flips=12)
    found, expected = find_candidates(hashes, at_most_bits=12), compare_all_with_all(hashes, 12)
    assert len(expected[0]) > 20
    for column, wanted in zip(found, expected, strict=True):
        assert column.tolist() == wanted.tolist()


@pytest.mark.parametrize("photos", [1, 1_000, 10_000, 70_000, 2_000_000])
@pytest.mark.parametrize("bits", [0, 5, 12, 20])
def test_near_words_nearly_agree_in_a_chunk_whatever_the_number_of_photos(photos: int, bits: int) -> None:
    plan, random = plan_chunks(queries=64 * photos, words=photos, at_most_bits=bits), np.random.default_rng(bits)
    assert sum(chunk.radius + 1 for chunk in plan) == bits + 1
    assert not any(missed_by(plan, random, bits) for _ in range(300))
    # It can fail: a chunk that is looked at less far misses some.
    cut = [plan[0]._replace(radius=plan[0].radius - 1), *plan[1:]]
    assert any(missed_by(cut, random, bits) for _ in range(2_000))


def missed_by(plan: list[Chunk], random: np.random.Generator, bits: int) -> bool:
    """Whether no chunk of `plan` brings together two words that differ in `bits` bits, spread as they would be missed most easily."""
    differing = np.uint64(0)
    spread = [chunk.shift + random.choice(chunk.width, min(chunk.radius + 1, chunk.width), replace=False) for chunk in plan]
    for bit in random.permutation(np.concatenate(spread))[:bits]:
        differing |= np.uint64(1) << np.uint64(bit)
    return not any(np.bitwise_count(chunk.values(differing)) <= chunk.radius for chunk in plan)


def test_a_table_of_photos_that_are_all_alike_is_cut_to_what_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.full((300, 8), 0x0F0F0F0F0F0F0F0F, dtype=np.uint64)
    whole = find_candidates(hashes, at_most_bits=12)
    assert len(whole.bits) == 300 * 299 // 2
    monkeypatch.setattr("carinspect.splits.candidates._TABLE", 1_000)
    assert all(np.array_equal(a, b) for a, b in zip(whole, find_candidates(hashes, at_most_bits=12), strict=True))


# Groups

pairs_of_rows = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20)


def closure(photos: int, pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    """Groups by the definition: merge what shares a member until nothing changes."""
    groups = [{row} for row in range(photos)]
    for pair in pairs:
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if not group & set(pair)] + [set().union(*touched)]
    return {frozenset(group) for group in groups}


@given(pairs_of_rows, st.randoms(use_true_random=False))
def test_groups_are_transitive_and_know_no_order(pairs: list[tuple[int, int]], random: object) -> None:
    shuffled = [pair if random.random() < 0.5 else pair[::-1] for pair in pairs]  # type: ignore[attr-defined]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for order in (pairs, shuffled):
        labels = label_groups(15, [Link("family", first, second) for first, second in order])
        assert {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels)} == closure(15, pairs)


def test_equal_values_are_chained_and_blank_ones_are_not() -> None:
    assert link_equal(["a", "", "b", "a", "", "a"], "family") == [Link("family", 0, 3), Link("family", 3, 5)]


def test_a_group_bears_the_name_of_its_first_photo() -> None:
    names = name_groups(np.array([0, 1, 0]), pd.Series(["z.jpg", "k.jpg", "b.jpg"]))
    assert names.tolist() == ["b.jpg", "k.jpg", "b.jpg"]


# Tables


def make_table(photos: int, *, seed: int = 0, offset: int = 0, of_a_group: int = 3) -> pd.DataFrame:
    """Rows with `group`, three sources that judge different things, classes of unequal size, groups of up to `of_a_group` photos."""
    random = np.random.default_rng(seed)
    number = np.arange(offset, offset + photos)
    source = random.choice(["shop", "wash", "road"], photos, p=[0.5, 0.3, 0.2])
    group_of = offset + np.cumsum(random.random(photos) < 2 / (of_a_group + 1)) if of_a_group > 1 else number
    score = np.where(random.random(photos) < 0.4, 1.0, random.beta(4, 1, photos))
    table = pd.DataFrame({
        "image_path": [f"{index:06}.jpg" for index in number], "source": source, "width_px": 64.0, "height_px": 48.0,
        "sha256": [sha256(str(index).encode()).hexdigest() for index in number],
        "phash": [sha256(f"p{index}".encode()).hexdigest()[:16] for index in number],
        "family": "", "declared_split": "",
        "clean": np.where(source != "road", random.random(photos) < 0.3, np.nan),
        "cleanliness_score": np.where(source == "wash", random.random(photos), np.nan),
        "damaged": np.where(source == "shop", score < 1, np.nan), "damage_score": np.where(source == "shop", score, np.nan),
        "weather_condition": np.where(source == "road", random.choice(4, photos, p=[0.6, 0.2, 0.15, 0.05]), np.nan),
    })  # fmt: skip
    return table.assign(group=table["image_path"].groupby(group_of).transform("min"))


def splits_of(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["sha256"], table["split"], strict=True))


def deviation(table: pd.DataFrame) -> float:
    return certify_split(table, [], questions=QUESTIONS, moved={})["largest_deviation_points"]


def test_shares_of_every_label_agree_within_two_points() -> None:
    table = assign_splits(make_table(2000), PARAMS, QUESTIONS, NO_LEDGER)
    assert deviation(table) < 2.0
    sizes = table["split"].value_counts(normalize=True)
    assert all(abs(sizes[split] - FRACTIONS[split]) < 0.01 for split in SPLITS)


def test_a_draw_alone_would_not_bring_the_shares_together() -> None:
    table = make_table(2000)
    names = sorted(table["group"].unique())
    drawn = draw_splits(np.tile(list(FRACTIONS.values()), (len(names), 1)), names, seed=1)
    assert deviation(table.assign(split=table["group"].map(dict(zip(names, np.array(SPLITS)[drawn], strict=True))))) > 2.0


def test_balancing_never_worsens_the_imbalance_and_keeps_what_is_given() -> None:
    random = np.random.default_rng(0)
    from scipy.sparse import csr_array

    counts = random.integers(0, 3, (200, 6)).astype(float)
    fractions, start = np.array([0.5, 0.12, 0.22, 0.16]), random.integers(0, 4, 200)
    allowed = np.ones((200, 4), dtype=bool)
    allowed[:50] = np.eye(4, dtype=bool)[start[:50]]
    end = balance_splits(start, csr_array(counts), weights=np.ones(6), allowed=allowed, fractions=fractions)

    def imbalance(splits: np.ndarray) -> float:
        wanted = counts.sum(axis=0)[:, None] * fractions
        held = np.stack([counts[splits == split].sum(axis=0) for split in range(4)], axis=1)
        return float(((held - wanted) ** 2 / wanted).sum())

    assert np.array_equal(end[:50], start[:50])
    best = imbalance(end)
    assert best < imbalance(start)
    # No single allowed move does better: the descent stopped where it says.
    for group in range(50, 200):
        for split in range(4):
            other = end.copy()
            other[group] = split
            assert imbalance(other) > best - 1e-6


def test_another_seed_is_another_split() -> None:
    first, second = (assign_splits(make_table(500), PARAMS.model_copy(update={"seed": seed}), QUESTIONS, NO_LEDGER) for seed in (1, 2))
    assert (first["split"] != second["split"]).mean() > 0.3


def test_the_order_of_rows_changes_nothing() -> None:
    table = make_table(400)
    shuffled = assign_splits(table.sample(frac=1, random_state=3), PARAMS, QUESTIONS, NO_LEDGER)
    assert splits_of(shuffled) == splits_of(assign_splits(table, PARAMS, QUESTIONS, NO_LEDGER))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(40, 200), st.integers(1, 200), st.sampled_from([PARAMS, RESPECT]))
def test_adding_photos_moves_no_old_group(seed: int, old: int, new: int, params: SplitParams) -> None:
    before = assign_splits(make_table(old, seed=seed), params, QUESTIONS, NO_LEDGER)
    more = pd.concat([make_table(old, seed=seed), make_table(new, seed=seed + 1, offset=old)], ignore_index=True)
    after = assign_splits(more, params, QUESTIONS, extend_ledger(NO_LEDGER, splits_of(before)))
    assert splits_of(before).items() <= splits_of(after).items()


def test_without_the_ledger_some_group_would_move() -> None:
    before = splits_of(assign_splits(make_table(200), PARAMS, QUESTIONS, NO_LEDGER))
    more = pd.concat([make_table(200), make_table(100, seed=1, offset=200)], ignore_index=True)
    assert not before.items() <= splits_of(assign_splits(more, PARAMS, QUESTIONS, NO_LEDGER)).items()


def test_new_photos_bring_the_shares_back_to_even() -> None:
    skewed = make_table(300).assign(clean=1.0)
    ledger = extend_ledger(NO_LEDGER, splits_of(assign_splits(skewed, PARAMS, QUESTIONS, NO_LEDGER)))
    more = pd.concat([skewed, make_table(1700, seed=1, offset=300)], ignore_index=True)
    assert deviation(assign_splits(more, PARAMS, QUESTIONS, ledger)) < 2.0


def test_a_photo_that_ties_two_old_groups_sends_both_to_what_a_model_saw_first() -> None:
    table = make_table(60, of_a_group=1)
    before = assign_splits(table, PARAMS, QUESTIONS, NO_LEDGER)
    ledger = extend_ledger(NO_LEDGER, splits_of(before))
    test, val = (before.loc[before["split"] == split, "image_path"].iloc[0] for split in ("test", "val"))
    tied_now = table.assign(group=table["group"].where(~table["image_path"].isin([test, val]), min(test, val)))
    after = assign_splits(tied_now, PARAMS, QUESTIONS, ledger).set_index("image_path")["split"]
    assert after[test] == after[val] == "val"
    digest = table.set_index("image_path")["sha256"][test]
    extended = extend_ledger(ledger, splits_of(after.reset_index().merge(table)))
    assert extended.moved == {digest: "test"}
    # A second run finds the same, and says the same of the past.
    assert extend_ledger(extended, splits_of(after.reset_index().merge(table))) == extended


def test_a_ledger_survives_the_disk_and_other_settings_start_anew(tmp_path: Path) -> None:
    ledger = Ledger({"a": "train", "b": "test"}, {"b": "val"})
    write_ledger(tmp_path / "ledger.json", ledger, PARAMS)
    assert read_ledger(tmp_path / "ledger.json", PARAMS) == ledger
    for change in ({"seed": 2}, {"policy": "respect"}, {"fractions": {**FRACTIONS, "train": 0.4, "test": 0.26}}):
        assert read_ledger(tmp_path / "ledger.json", PARAMS.model_copy(update=change)) == NO_LEDGER
    assert read_ledger(tmp_path / "none.json", PARAMS) == NO_LEDGER


def test_a_photo_that_went_and_returns_has_its_old_split() -> None:
    before = assign_splits(make_table(100), PARAMS, QUESTIONS, NO_LEDGER)
    ledger = extend_ledger(NO_LEDGER, splits_of(before))
    without = assign_splits(make_table(100).iloc[30:], PARAMS, QUESTIONS, ledger)
    assert splits_of(assign_splits(make_table(100), PARAMS, QUESTIONS, extend_ledger(ledger, splits_of(without)))) == splits_of(before)


# Policies


def declared_table() -> pd.DataFrame:
    table = make_table(600, of_a_group=1)
    declared = np.random.default_rng(5).choice(["train", "val", "test", ""], 600, p=[0.6, 0.15, 0.15, 0.1])
    return table.assign(declared_split=declared)


def test_respect_keeps_declared_splits_but_for_calib() -> None:
    table = assign_splits(declared_table(), RESPECT, QUESTIONS, NO_LEDGER)
    known = table[table["declared_split"] != ""]
    kept = known["split"] == known["declared_split"]
    assert set(known.loc[~kept, "split"]) == {"calib"}
    assert set(known.loc[~kept, "declared_split"]) == {"train", "val"}
    assert abs((table["split"] == "calib").mean() - FRACTIONS["calib"]) < 0.02
    assert set(table.loc[table["declared_split"] == "", "split"]) == set(SPLITS)


def test_fresh_ignores_declared_splits() -> None:
    assert splits_of(assign_splits(declared_table(), PARAMS, QUESTIONS, NO_LEDGER)) == splits_of(
        assign_splits(declared_table().assign(declared_split=""), PARAMS, QUESTIONS, NO_LEDGER)
    )


def test_respect_sends_a_straddling_group_to_train_so_that_test_stays_unseen() -> None:
    table = declared_table()
    test, train = (table.loc[table["declared_split"] == split, "image_path"].iloc[0] for split in ("test", "train"))
    table.loc[table["image_path"].isin([test, train]), "group"] = min(test, train)
    split = assign_splits(table, RESPECT, QUESTIONS, NO_LEDGER).set_index("image_path")["split"]
    assert split[test] == split[train]
    assert split[test] in ("train", "calib")


# Leaks


def sound_table() -> pd.DataFrame:
    return assign_splits(make_table(300), PARAMS, QUESTIONS, NO_LEDGER)


def test_a_sound_table_has_no_leak() -> None:
    assert find_leaks(sound_table()) == []


@pytest.mark.parametrize("kind", ["group", "family", "sha256", "phash"])
def test_a_planted_leak_of_each_kind_is_found_and_fails_the_split(kind: str) -> None:
    table = sound_table()
    rows = [table.index[table["split"] == split][0] for split in ("train", "test")]
    table.loc[rows, kind] = "00ff00ff00ff00ff"
    (leak,) = find_leaks(table)
    assert (leak.kind, leak.splits) == (kind, ("train", "test"))
    assert set(leak.image_paths) >= set(table.loc[rows, "image_path"])
    with pytest.raises(UserError, match="lie in train and test"):
        require_no_leaks(table)


@pytest.mark.parametrize(("kind", "blank"), [("family", ""), ("phash", ""), ("phash", "8000000000000000")])
def test_blank_values_and_hashes_of_plain_surfaces_are_no_leak(kind: str, blank: str) -> None:
    assert find_leaks(sound_table().assign(**{kind: blank})) == []


# The look for same scenes


def crop(image: Image.Image, share: float = 0.3) -> Image.Image:
    width, height = image.size
    return image.crop((round(share * width), round(share * height), round((1 - share) * width), round((1 - share) * height)))


def draw_clutter(seed: int) -> Image.Image:
    """A picture, 320 x 240, with detail everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)


def beside(image: Image.Image) -> Image.Image:
    """The image and another one, side by side at half the size."""
    sheet = Image.new("RGB", (image.width, image.height // 2))
    sheet.paste(image.resize((image.width // 2, image.height // 2)))
    sheet.paste(draw_clutter(99).resize((image.width // 2, image.height // 2)), (image.width // 2, 0))
    return sheet


def shared(first: Image.Image, second: Image.Image, folder: Path) -> int:
    points = []
    for place, image in enumerate((first, second)):
        image.convert("RGB").save(folder / f"{place}.png")
        points.append(read_key_points(folder / f"{place}.png"))
    return count_inliers(*points)


CHANGES = {"crop": crop, "turn": lambda image: image.rotate(15), "beside": beside}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_photo_shares_local_features_with_its_original_and_another_scene_does_not(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        assert shared(CHANGES[name](draw_clutter(seed)), draw_clutter(seed), tmp_path) >= LEAST_INLIERS
        assert shared(CHANGES[name](draw_clutter(seed)), draw_clutter(seed + 10), tmp_path) == 0


def test_only_the_third_look_sees_a_large_crop() -> None:
    assert not tied(draw_clutter(3), crop(draw_clutter(3)))


def test_a_plain_picture_has_nothing_to_share(tmp_path: Path) -> None:
    assert shared(Image.new("RGB", (80, 60), "grey"), draw_scene(0), tmp_path) == 0


def write_scenes(folder: Path) -> list[Path]:
    """Two scenes, a crop of the first one, and a turned copy of that crop."""
    images = [draw_clutter(0), draw_clutter(1), crop(draw_clutter(0)), crop(draw_clutter(0)).rotate(10)]
    for place, image in enumerate(images):
        image.save(folder / f"{place}.png")
    return [folder / f"{place}.png" for place in range(len(images))]


def test_of_two_groups_the_pair_that_is_most_alike_is_listed_and_none_once_a_person_said_no(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path)
    whole, groups = np.array([[1, 0.0], [0, 1], [1, 0.1], [1, 0.2]])[:, None], np.array([0, 1, 2, 2])
    (found,) = find_same_scenes(paths, whole, groups, [])
    assert (found.first, found.second) == (0, 2)
    assert found.cosine == pytest.approx(1 / np.sqrt(1.01), abs=1e-3)
    assert find_same_scenes(paths, whole, groups, [(3, 0)]) == []
    # Far from each other in the features, they are not compared; in one group, they need not be.
    assert find_same_scenes(paths, np.eye(4)[:, None], groups, []) == []
    assert find_same_scenes(paths, whole, np.array([0, 1, 0, 0]), []) == []


@pytest.mark.parametrize("crop_row", [0, 2])
def test_a_crop_is_compared_with_a_photo_of_which_a_window_is_like_it(tmp_path: Path, crop_row: int) -> None:
    """Whole, no two of these photos are alike; nor does it count that a window of one is like a window of another."""
    paths = write_scenes(tmp_path)[:3]
    windows = np.repeat(np.eye(6)[[0, 1, 2], None], 3, axis=1)
    windows[2 - crop_row, 2] = windows[crop_row, 0]
    windows[1, 1] = windows[2, 1] = np.eye(6)[5]
    (found,) = find_same_scenes(paths, windows, np.arange(3), [])
    assert (found.first, found.second, found.cosine) == (0, 2, 1.0)


def test_verdicts_are_read_and_those_of_absent_photos_counted(tmp_path: Path) -> None:
    path = tmp_path / "same_scene.csv"
    assert read_verdicts(path) == []
    path.write_text("first,second,verdict,who,when\nb.jpg,a.jpg,same,anna,2026-11-27\nb.jpg,c.jpg,different,anna,2026-11-27\n")
    verdicts = read_verdicts(path)
    assert place_verdicts(verdicts, ["a.jpg", "b.jpg"]) == ([(0, 1)], [], 1)
    assert place_verdicts(verdicts, ["a.jpg", "b.jpg", "c.jpg"]) == ([(0, 1)], [(1, 2)], 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,b,sam,anna,today", "row 2: verdict has the value 'sam'. Did you mean 'same'?"),
        ("a,a,same,anna,today", "row 2: first and second are 'a' and 'a'. Name two photos."),
        ("a,b,same,anna,today\nb,a,different,ben,today", "row 3: these two photos stand in row 2 already"),
        ("a,b,same,,today", "row 2: who or when is blank"),
    ],
)
def test_a_mistake_in_a_verdict_is_one_line_with_its_row(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "same_scene.csv").write_text(f"first,second,verdict,who,when\n{rows}\n")
    with pytest.raises(UserError) as error:
        read_verdicts(tmp_path / "same_scene.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Certificate


def test_the_certificate_counts_what_is_in_the_table() -> None:
    table = make_table(8, of_a_group=1).assign(
        source="s", clean=[1, 0, 1, 0, 1, 0, np.nan, 1], split=["train"] * 3 + ["val"] * 2 + ["calib"] + ["test"] * 2
    )
    table.loc[1, "group"] = table.loc[0, "group"]
    certificate = certify_split(table, [Link("family", 0, 1), Link("near-duplicate", 0, 1, 0.9)], questions=QUESTIONS, moved={})
    assert certificate["photos"] == {"train": 3, "val": 2, "calib": 1, "test": 2}
    assert certificate["groups"] == {"all": 7, "train": 2, "val": 2, "calib": 1, "test": 2}
    assert certificate["links"] == {
        "family": {"groups": 1, "pairs": 1}, "bytes": {"groups": 0, "pairs": 0}, "near-duplicate": {"groups": 1, "pairs": 1},
        "confirmed": {"groups": 0, "pairs": 0}, "same-scene": {"groups": 0, "pairs": 0},
    }  # fmt: skip
    clean = certificate["labels"]["clean"]
    assert clean["splits"]["train"] == {"photos": 3, "groups": 2, "shares": {"clean": 2 / 3, "dirty": 1 / 3}}
    assert clean["splits"]["test"] == {"photos": 1, "groups": 1, "shares": {"clean": 1.0, "dirty": 0.0}}
    # calib has one judged photo, a dirty one, where 4 of 7 are clean.
    assert clean["largest_deviation_points"] == pytest.approx(100 * 4 / 7)
    assert (certificate["largest_group"], certificate["leaks"]) == (2, 0)


def test_a_missing_label_belongs_to_no_class() -> None:
    table = make_table(3).assign(clean=[1, np.nan, 0], damage_score=[1, 0.2, np.nan], cleanliness_score=np.nan)
    classes = label_classes(table, QUESTIONS)
    assert classes["clean"].tolist() == ["clean", "", "dirty"]
    assert classes["damage_score"].tolist() == ["perfect", "low", ""]
    assert classes["cleanliness_score"].tolist() == ["", "", ""]


def test_overlaps_of_declared_splits_are_counted_for_each_source() -> None:
    table = make_table(5, of_a_group=1).assign(
        source=["a", "a", "a", "b", "b"], declared_split=["train", "test", "train", "train", "val"], group=["g", "g", "g", "h", "i"]
    )
    assert declared_overlaps(table) == {"a": {"groups": 1, "photos": 3}}


# Errors


def section(**change: object) -> dict[str, object]:
    return {**PARAMS.model_dump(), **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": {**FRACTIONS, "test": 0.2}}, "split.fractions: they sum to 1.04. Make them sum to 1."),
        ({"fractions": {"train": 0.5, "val": 0.3, "test": 0.2}}, "split.fractions: calib is missing."),
        ({"fractions": {**FRACTIONS, "test": -0.16}}, "split.fractions: test has the value -0.16. It must be above 0."),
        ({"fractions": {**FRACTIONS, "tset": 0.1}}, "split.fractions: 'tset' is no split. Did you mean 'test'?"),
        ({"same_scene": "tie"}, "split.same_scene has the value 'tie'. Input should be 'report' or 'merge'."),
        ({"policy": "fersh"}, "split.policy: has the value 'fersh'. Did you mean 'fresh'?"),
        ({"near_duplicate_bits": 40}, "split.near_duplicate_bits has the value 40."),
        ({"near_duplicate_bit": 4}, "split.near_duplicate_bit: unknown key. Did you mean 'near_duplicate_bits'?"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_fix(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_section("split", SplitParams, section(**change))
    assert message in str(error.value)


def test_the_shipped_parameters_are_sound() -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    assert parse_section("split", SplitParams, params["split"]).policy == "fresh"
    assert tuple(params["split"]["fractions"]) == SPLITS


@pytest.mark.parametrize("text", ["{}", "[]", "questions: clean", "questions: {clean: {kind: binary}}"])
def test_a_recipe_without_a_list_of_questions_says_which_stage_writes_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=r"recipe.yaml has no list 'questions'. Run dvc repro resolve_recipe\.") as error:
        load_questions(tmp_path / "recipe.yaml")
    assert "\n" not in str(error.value)


def test_a_value_that_is_no_hash_is_named() -> None:
    with pytest.raises(UserError, match="phash has the value 'zz'. It must be 16 hexadecimal digits, or blank."):
        find_leaks(sound_table().assign(phash="zz"))


def test_a_question_without_any_label_is_named() -> None:
    (gap,) = find_gaps(sound_table().assign(cleanliness_score=np.nan), [ASKED["clean"], ASKED["cleanliness"]])
    assert gap == "no photo has a label for 'cleanliness': add a source that judges it, or take it out of questions."


def test_a_split_without_a_label_and_one_with_a_single_class_are_named() -> None:
    table = sound_table()
    none = table.assign(weather_condition=table["weather_condition"].mask(table["split"] == "calib"))
    (gap,) = find_gaps(none, [ASKED["weather"]])
    assert gap.startswith("no photo of the split 'calib' has a label for 'weather' (")
    one = table.assign(clean=table["clean"].mask((table["split"] == "val") & (table["clean"] == 0)))
    (gap,) = find_gaps(one, [ASKED["clean"]])
    assert gap.startswith("every photo of the split 'val' has the same label for 'clean', clean (")
    assert find_gaps(table, QUESTIONS) == []


def test_what_several_splits_lack_is_said_once() -> None:
    table = sound_table()
    rare = table.assign(clean=table["clean"].mask((table["split"] != "train") & (table["clean"] == 0)))
    (gap,) = find_gaps(rare, [ASKED["clean"]])
    assert gap.startswith("every photo of the splits 'val' and 'calib' and 'test' has the same label for 'clean', clean (")
    assert gap.count("are too few") == 1
    none = rare.assign(clean=rare["clean"].mask(rare["split"] == "val"))
    (gap,) = find_gaps(none, [ASKED["clean"]])
    assert gap.startswith("no photo of the split 'val' has a label for 'clean', and every photo of the splits 'calib' and 'test' has")


def test_a_photo_known_only_as_damaged_is_a_label_for_damaged_and_none_for_damage() -> None:
    table = sound_table().assign(damage_score=np.nan)
    assert find_gaps(table, [ASKED["damaged"]]) == []
    assert find_gaps(table, [ASKED["damage"]]) != []


def test_too_few_groups_are_counted_with_how_many_are_needed() -> None:
    with pytest.raises(UserError, match=r"the photos form 5 groups that must each stay together; 0.12 of them for val needs at least 9\."):
        assign_splits(make_table(5, of_a_group=1), PARAMS, QUESTIONS, NO_LEDGER)


@pytest.mark.parametrize("text", ["{", "[]", '{"photos": {"a": "dev"}, "moved": {}, "settings": {}}', '{"photos": {}}'])
def test_a_damaged_ledger_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(UserError, match="not a ledger of splits. Restore it"):
        read_ledger(tmp_path / "ledger.json", PARAMS)


# Photos that a model chose


def with_chosen(table: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    return table.assign(declared_split=np.where(chosen, ONLY_TRAIN, ""))


def place(table: pd.DataFrame, params: SplitParams = PARAMS, ledger: Ledger = NO_LEDGER) -> tuple[pd.DataFrame, int]:
    placed, kept = place_photos(table, params=params, questions=QUESTIONS, ledger=ledger)
    return placed, int((~kept).sum())


@pytest.mark.parametrize("params", [PARAMS, RESPECT])
def test_photos_that_a_model_chose_only_train_and_move_no_other_photo(params: SplitParams) -> None:
    drawn = make_table(300)
    added = make_table(200, seed=1, offset=300)
    # Half of them are further photos of cars that are known.
    added.loc[:99, "group"] = drawn["group"].to_numpy()[:100]
    both = with_chosen(pd.concat([drawn, added], ignore_index=True), pd.Series(np.arange(500) >= 300))
    alone, _ = place(drawn, params)
    placed, left_out = place(both, params)
    chosen = placed["declared_split"] == ONLY_TRAIN
    assert set(placed.loc[chosen, "split"]) == {"train"}
    assert splits_of(placed[~chosen]) == splits_of(alone)
    held_out = alone[alone["split"] != "train"]["group"]
    assert left_out == 500 - len(placed) == int(added["group"].isin(held_out).sum()) > 10
    assert find_leaks(placed.assign(family="", phash="")) == []


def test_links_are_between_the_rows_that_are_left() -> None:
    table = with_chosen(make_table(60, of_a_group=1), pd.Series(np.arange(60) == 10))
    table.loc[[9, 10, 40], "group"] = "tied"
    seen = set()
    for seed in range(20):
        params = PARAMS.model_copy(update={"seed": seed})
        placed, kept = place_photos(table, params=params, questions=QUESTIONS, ledger=NO_LEDGER)
        links = renumber([Link("bytes", 9, 10), Link("bytes", 9, 40)], kept)
        tied = [(placed["image_path"][link.first], placed["image_path"][link.second]) for link in links]
        assert tied == [("000009.jpg", "000010.jpg"), ("000009.jpg", "000040.jpg")][(~kept).sum() :]
        assert set(placed.loc[placed["group"] == "000009.jpg", "image_path"]) == {name for pair in tied for name in pair}
        seen.add(len(tied))
    assert seen == {1, 2}


def broken_promises(*, enforced: bool, draws: int = 100) -> float:
    """Share of draws in which calib proves a precision of 0.95 of a model whose precision is 0.9.

    Each draw has 200 photos drawn at random that the model calls clean, and 1,000 on which people remarked; people remark "right" on a
    photo that is right ten times as often as they notice one that is wrong.
    """
    broken = 0
    for seed in range(draws):
        random = np.random.default_rng(seed)
        noticed = random.random(4000) < 0.9
        remarked = np.flatnonzero(random.random(4000) < np.where(noticed, 0.5, 0.05))[:1000]
        right = np.concatenate([random.random(200) < 0.9, noticed[remarked]])
        table = make_table(1200, seed=seed, of_a_group=1).assign(clean=right.astype(float))
        placed, _ = place(with_chosen(table, pd.Series((np.arange(1200) >= 200) & enforced)))
        of_calib = placed.loc[placed["split"] == "calib", "clean"]
        broken += binom.cdf((of_calib == 0).sum(), len(of_calib), 0.05) <= 0.05
    return broken / draws


def test_a_promise_is_kept_since_chosen_photos_do_not_prove_and_would_be_broken_if_they_did() -> None:
    assert broken_promises(enforced=True) <= 0.05
    assert broken_promises(enforced=False) > 0.3


# The stage


def write_root(folder: Path, *, scenes: int = 24) -> None:
    """A data root with a grey copy of each third scene, its table and params.yaml, as the stage wants them under `folder`."""
    root = folder / "photos"
    root.mkdir(parents=True)
    rows = []
    for scene in range(scenes):
        images = {f"{scene:02}.jpg": draw_scene(scene)}
        if scene % 3 == 0:
            images[f"copy {scene:02}.jpg"] = ImageOps.mirror(draw_scene(scene)).convert("L")
        for name, image in images.items():
            image.save(root / name, quality=90)
            rows.append({
                "image_path": name, "source": "drawn", "width_px": 320.0, "height_px": 240.0,
                "sha256": sha256((root / name).read_bytes()).hexdigest(), "phash": str(imagehash.phash(image)), "family": "",
                "declared_split": "test" if name.startswith("copy") else "train", "clean": float(scene % 2),
                "cleanliness_score": np.nan, "damaged": np.nan, "damage_score": np.nan, "weather_condition": np.nan,
            })  # fmt: skip
    asked = [ASKED["clean"]]
    write_table(pd.DataFrame(rows)[annotation_columns(QUESTIONS)], folder / "data/annotations.csv", QUESTIONS)
    (folder / "data/questions.yaml").write_text(yaml.safe_dump({"questions": dump_questions(asked)}))
    (folder / "data/network.yaml").write_text(yaml.safe_dump({"model": NETWORK}))
    split = {**PARAMS.model_dump(), "fractions": dict.fromkeys(SPLITS, 0.25)}
    model = {"backbone": None, "pretrained": False, "feature_stages": None, "hidden_features": 8, "dropout": 0.0, "ensemble": "none"}
    params = {"data": {"root": "photos", "sources": "none"}, "model": model, "split": split}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


NETWORK = {"backbone": "test_resnet", "pretrained": "none", "feature_stages": 0, "hidden_features": 8, "dropout": 0.0}

OUTPUTS = [
    "data/car_inspection_dataset.csv", "data/split_ledger.json", "metrics/split.json",
    "reports/split/near_duplicates.csv", "reports/split/near_duplicates.png", "reports/split/same_scene.csv",
]  # fmt: skip


def run_stage_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.chdir(folder)
    runpy.run_path(str(REPOSITORY / "stages/split.py"), run_name="__main__")
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def test_the_stage_ties_copies_and_repeats_itself_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(tmp_path)
    first = run_stage_in(tmp_path, monkeypatch)
    assert run_stage_in(tmp_path, monkeypatch) == first

    asked = [ASKED["clean"]]
    table = read_table(tmp_path / OUTPUTS[0], columns=dataset_columns(asked), questions=asked)
    assert list(table.columns) == dataset_columns(asked)
    assert table["group"].nunique() == 24
    certificate = json.loads(first["metrics/split.json"])
    assert certificate["leaks"] == 0
    assert certificate["links"]["near-duplicate"] == {"groups": 8, "pairs": 8}
    assert certificate["declared_overlaps"] == {"drawn": {"groups": 8, "photos": 16}}

    # From nothing, with the rows in another order: the same again.
    (tmp_path / "data/split_ledger.json").unlink()
    lines = (tmp_path / "data/annotations.csv").read_text().splitlines()
    (tmp_path / "data/annotations.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert run_stage_in(tmp_path, monkeypatch) == first


def change_params(folder: Path, section: str, **values: object) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def test_the_stage_lists_a_large_crop_with_weights_and_obeys_what_people_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(tmp_path)
    annotations = read_table(tmp_path / "data/annotations.csv", columns=["image_path"], questions=QUESTIONS).set_index("image_path")
    for name, image in {"01.jpg": draw_clutter(1), "02.jpg": crop(draw_clutter(1))}.items():
        image.save(tmp_path / "photos" / name, quality=90)
        annotations.loc[name, ["sha256", "phash"]] = sha256((tmp_path / "photos" / name).read_bytes()).hexdigest(), ""
    annotations = annotations.reset_index()
    write_table(annotations, tmp_path / "data/annotations.csv", QUESTIONS)

    def certificate() -> dict[str, Any]:
        return json.loads(run_stage_in(tmp_path, monkeypatch)["metrics/split.json"])

    def listed() -> list[tuple[str, str]]:
        pairs = read_suspicions(tmp_path / "reports/split/same_scene.csv")
        return list(zip(pairs["first"], pairs["second"], strict=True))

    # Without weights nobody looks, and the certificate says so.
    assert any("crops of up to 30 %" in kind for kind in certificate()["not_looked_for"])
    assert listed() == []
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "weights.pth")
    change_params(tmp_path, "model", pretrained="weights.pth")
    network = NETWORK | {"pretrained": f"sha256:{sha256((tmp_path / 'weights.pth').read_bytes()).hexdigest()}"}
    (tmp_path / "data/network.yaml").write_text(yaml.safe_dump({"model": network}))
    found = certificate()
    assert any("crops of up to 30 %" in kind for kind in found["looked_for_as_a_suspicion"])
    assert found["groups"]["all"] == 24
    assert listed() == [("01.jpg", "02.jpg")]
    assert found["suspicions"]["pairs"] == 1
    # A person says no, then yes; and without a person `merge` ties them.
    head = "first,second,verdict,who,when\n"
    (tmp_path / "data/same_scene.csv").write_text(head + "02.jpg,01.jpg,different,anna,2026-11-27\n")
    assert certificate()["verdicts"]["different"] == 1
    assert listed() == []
    (tmp_path / "data/same_scene.csv").write_text(head + "02.jpg,01.jpg,same,anna,2026-11-27\n")
    found = certificate()
    assert (found["groups"]["all"], found["links"]["confirmed"], found["leaks"]) == (23, {"groups": 1, "pairs": 1}, 0)
    (tmp_path / "data/same_scene.csv").unlink()
    change_params(tmp_path, "split", same_scene="merge")
    found = certificate()
    assert (found["groups"]["all"], found["links"]["same-scene"]) == (23, {"groups": 1, "pairs": 1})
    assert any("crops of up to 30 %" in kind for kind in found["looked_for"])


def test_the_stage_says_in_one_line_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_root(tmp_path, scenes=9)
    (tmp_path / "photos/00.jpg").unlink()
    with pytest.raises(SystemExit):
        run_stage_in(tmp_path, monkeypatch)
    assert capsys.readouterr().err == (
        "split: photos/00.jpg: no such file. The annotations know it as sound: restore it, or run dvc repro.\n"
    )
    (tmp_path / "data/annotations.csv").unlink()
    with pytest.raises(SystemExit):
        run_stage_in(tmp_path, monkeypatch)
    assert capsys.readouterr().err == "split: data/annotations.csv: no such table. Run the stage that writes it: dvc repro.\n"
    assert not (tmp_path / "data/car_inspection_dataset.csv").exists()


def test_the_sheet_shows_one_pair_of_each_group_and_straddling_ones_first(tmp_path: Path) -> None:
    table = make_table(6, of_a_group=1).assign(declared_split=["train", "train", "train", "test", "", ""], group=list("aaabcc"))
    links = [Link("family", 0, 1), Link("near-duplicate", 1, 2, 0.6), Link("near-duplicate", 4, 5, 0.9), Link("bytes", 2, 3)]
    chosen = choose_pairs(describe_links(table.assign(group=list("aaaacc")), links))
    assert chosen["reason"].tolist() == ["bytes", "near-duplicate"]
    write_contact_sheet(chosen.head(0), tmp_path, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_a_written_list_of_pairs_is_read_back(tmp_path: Path) -> None:
    table = make_table(4, of_a_group=1).assign(declared_split=["train", "", "val", "test"], group=list("aabb"))
    pairs = describe_links(table, [Link("family", 0, 1), Link("near-duplicate", 2, 3, 0.625)])
    write_links(pairs, tmp_path / "pairs.csv")
    pd.testing.assert_frame_equal(read_links(tmp_path / "pairs.csv"), pairs, check_dtype=False)
    with pytest.raises(UserError, match="no such table"):
        read_links(tmp_path / "none.csv")


# Real photos


@pytest.mark.skipif("CARINSPECT_REAL_DATA" not in os.environ, reason="needs a folder with real photos")
def test_grey_equalised_turned_copies_of_real_photos_are_tied() -> None:
    root = Path(os.environ["CARINSPECT_REAL_DATA"])
    paths = sorted([*root.glob("damage-folders/*/damaged/*.jpg"), *root.glob("coco-folders/car-scratch-and-dent/*/*.jpg")])
    stems = [path.name.split(".rf.")[0] for path in paths]
    thumbnails = [np.asarray(Image.open(path).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)) for path in paths]
    labels = label_groups(len(paths), find_near_duplicates(fingerprint_thumbnails(np.stack(thumbnails)), [], bits=12, correlation=0.5))
    grey = np.array(["coco-folders" in str(path) for path in paths])
    found = [labels[a] == labels[b] for a in np.flatnonzero(grey) for b in np.flatnonzero(~grey) if stems[a] == stems[b]]
    assert np.mean(found) > 0.8


def test_split_photos_rejects_what_no_model_could_learn(tmp_path: Path) -> None:
    write_root(tmp_path)
    annotations = read_table(tmp_path / "data/annotations.csv", columns=annotation_columns(QUESTIONS), questions=QUESTIONS)
    with pytest.raises(UserError, match="no photo has a label for 'weather'"):
        split_photos(annotations, tmp_path / "photos", params=PARAMS, questions=[ASKED["clean"], ASKED["weather"]], ledger=NO_LEDGER)
