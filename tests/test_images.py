"""images: reading a photo, the resize contract, the store of pre-resized photos."""

import io
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.images import decode
from carinspect.images.decode import PhotoError, decode_photo, load_image
from carinspect.images.pixel_cache import open_pixel_cache


def photo(width: int = 64, height: int = 48, *, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def as_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_known_format_comes_out_as_the_same_square(kind: str) -> None:
    pixels = load_image(as_bytes(photo(), kind), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    reference = np.asarray(photo().resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(pixels - reference).mean() < 4


def test_a_phone_photo_is_turned_upright() -> None:
    upright = photo()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to see it
    stored = as_bytes(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    seen = decode_photo(stored)
    assert seen.size == upright.size
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(upright)).mean() < 4
    assert decode_photo(as_bytes(upright.transpose(Image.Transpose.ROTATE_90), "JPEG")).size != upright.size


def test_a_reduced_decode_agrees_with_the_full_one() -> None:
    content = as_bytes(photo(1600, 1200), "JPEG", quality=92)
    full = np.asarray(decode_photo(content).resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(load_image(content, 96) - full).mean() < 2


def test_transparent_and_16_bit_and_grey_photos_become_rgb() -> None:
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert load_image(as_bytes(clear, "PNG"), 32).min() == 255  # on white, not on black
    deep = Image.fromarray(np.full((40, 40), 32768, dtype=np.uint16))
    assert abs(int(load_image(as_bytes(deep, "PNG"), 32).mean()) - 128) <= 1  # not clipped to white
    assert load_image(as_bytes(photo().convert("L"), "JPEG"), 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("kind", "white"),
    [("f4", 1.0), ("f4", 255.0), ("f4", 65_535.0), ("i4", 255), ("i4", 65_535), ("i4", 2**31 - 1), ("u2", 65_535)],
)
def test_a_grey_photo_of_deep_pixels_looks_as_in_eight_bits(kind: str, white: float) -> None:
    eight_bits = np.linspace(0, 255, 40 * 40).round().reshape(40, 40)
    deep = Image.fromarray((eight_bits / 255 * white).astype(kind))
    seen = np.asarray(decode_photo(as_bytes(deep, "TIFF")))[:, :, 0]
    # White in 31 bits is half of the scale of 32.
    expected = eight_bits / 2 if white == 2**31 - 1 else eight_bits
    assert np.abs(seen - expected).max() <= 1
    assert seen.max() > 100


def test_what_is_no_number_in_a_float_photo_is_black_and_spoils_nothing() -> None:
    grey = np.full((40, 40), 128.0, dtype="f4")
    grey[0, :4] = [np.nan, np.inf, -np.inf, -5.0]
    seen = np.asarray(decode_photo(as_bytes(Image.fromarray(grey), "TIFF")))[:, :, 0]
    assert seen[0, :4].tolist() == [0, 0, 0, 0]
    assert set(seen[1:].ravel()) == {128}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not a photo at all", "not a photo in a known format"),
        (b"GIF89a" + bytes(40), "not a photo in a known format"),
        (as_bytes(photo(), "JPEG")[:-100], "cannot be decoded"),
        (as_bytes(photo(), "PNG")[:200], "cannot be decoded"),
    ],
)
def test_a_broken_photo_is_refused_with_its_reason_and_never_comes_back_black(content: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason):
        load_image(content, 32)


def test_an_absurdly_large_photo_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(PhotoError, match="more than 3,071 pixels"):
        load_image(as_bytes(photo(), "PNG"), 32)
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 48)
    load_image(as_bytes(photo(), "PNG"), 32)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no such file"):
        load_image(tmp_path / "none.jpg", 32)


def make_photos(root: Path, count: int) -> tuple[list[str], list[str]]:
    names = [f"{index}.png" for index in range(count)]
    for index, name in enumerate(names):
        (root / name).write_bytes(as_bytes(photo(seed=index), "PNG"))
    return names, [sha256((root / name).read_bytes()).hexdigest() for name in names]


@pytest.mark.parametrize("count", [3, 70])
def test_the_store_holds_what_the_one_function_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    names, digests = make_photos(tmp_path, count)
    store = open_pixel_cache(tmp_path, names, digests, side_px=32)
    assert all((store[place] == load_image(tmp_path / name, 32)).all() for place, name in enumerate(names))
    assert not store.flags.writeable


def test_the_store_follows_the_content_and_not_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    names, digests = make_photos(tmp_path, 3)
    before = open_pixel_cache(tmp_path, names, digests, side_px=32).copy()
    (tmp_path / names[0]).write_bytes(as_bytes(photo(seed=9), "PNG"))
    changed = [sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    after = open_pixel_cache(tmp_path, names, changed, side_px=32)
    assert (after[0] != before[0]).any()
    assert (after[1:] == before[1:]).all()


def test_a_photo_that_broke_since_the_table_was_made_is_named_and_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    names, digests = make_photos(tmp_path, 3)
    (tmp_path / names[1]).write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.png: empty file"):
        open_pixel_cache(tmp_path, names, digests, side_px=32)
    assert not list((tmp_path / ".carinspect" / "photos").iterdir())
