"""images: reading a photo, what is refused, the resize contract, the store of pre-resized photos."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from carinspect.core.errors import UserError
from carinspect.images import decode
from carinspect.images.decode import FORMATS, PhotoError, decode_photo, load_image
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.images.properties import properties_of
from conftest import encode_photo as as_bytes


def photo(width: int = 64, height: int = 48, *, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", FORMATS)
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
        (b"\xff\xd8\xff\xd9", "not a photo in a known format"),
    ],
)
def test_a_broken_photo_is_refused_with_its_reason_and_never_comes_back_black(content: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason):
        load_image(content, 32)


# ---- damaged photos


def detailed(mode: str = "RGB") -> Image.Image:
    """Noise at two scales: no row and no block of it is plain."""
    noise = np.random.default_rng(1).integers(1, 60, (120, 160, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(photo(160, 120)) // 2 + noise).convert(mode)


def picture_data(jpeg: bytes) -> tuple[int, int]:
    """Where the data of the first scan begins, and where the end marker stands."""
    place = 2
    while jpeg[place + 1] != 0xDA:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big"), jpeg.rindex(b"\xff\xd9")


def cut_jpeg(jpeg: bytes, share: float) -> bytes:
    start, end = picture_data(jpeg)
    return jpeg[: start + int(share * (end - start))] + b"\xff\xd9"


def with_hole(jpeg: bytes, size: int, filling: bytes) -> bytes:
    start, end = picture_data(jpeg)
    place = start + int(0.4 * (end - start))
    return jpeg[:place] + filling + jpeg[place + size :]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(image: Image.Image, *, rows: int, interlaced: bool = False) -> bytes:
    """An RGB PNG in which only the first `rows` of its data are there; with right checksums and a whole stream."""
    pixels = np.asarray(image)
    steps = (
        ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        if interlaced
        else ((0, 0, 1, 1),)
    )
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in steps]
    lines = [b"\0" + row.tobytes() for one in passes for row in one]
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, interlaced)
    kept = lines[: rows or None]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(kept))) + chunk(b"IEND", b"")


def scans_of(jpeg: bytes) -> Iterator[int]:
    """Where the scans of a progressive JPEG begin."""
    place = jpeg.find(b"\xff\xda")
    while place >= 0:
        yield place
        place = jpeg.find(b"\xff\xda", place + 2)


PLAIN, PROGRESSIVE = as_bytes(detailed(), "JPEG", quality=90), as_bytes(detailed(), "JPEG", quality=90, progressive=True)
JPEGS = {
    "plain": PLAIN,
    "progressive": PROGRESSIVE,
    "with its own code tables": as_bytes(detailed(), "JPEG", quality=90, optimize=True),
    "with restart markers": as_bytes(detailed(), "JPEG", quality=90, restart_marker_rows=1),
    "of full colour": as_bytes(detailed(), "JPEG", quality=90, subsampling=0),
    "of half colour": as_bytes(detailed(), "JPEG", quality=90, subsampling=1),
    "grey": as_bytes(detailed("L"), "JPEG", quality=90),
    "for print": as_bytes(detailed("CMYK"), "JPEG", quality=90),
    "not converted": as_bytes(detailed(), "JPEG", quality=90, keep_rgb=True),
    **{
        f"sampled {name}": cv2.imencode(".jpg", np.asarray(detailed()), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
        for name, factor in (("4:1:1", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411), ("4:4:0", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440))
    },
}
NOISE = np.random.default_rng(2).bytes(400)
EMPTY_SCAN = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0)
DAMAGED: dict[str, bytes] = {
    **{f"a JPEG {name}, cut at {share:.0%} and closed": cut_jpeg(one, share) for name, one in JPEGS.items() for share in (0.3, 0.5, 0.8)},
    **{f"a JPEG {name} with a hole of zeros": with_hole(one, 400, bytes(400)) for name, one in JPEGS.items()},
    **{f"a JPEG {name} with a hole of ones": with_hole(one, 400, b"\xff" * 400) for name, one in JPEGS.items()},
    **{f"a JPEG {name} with a hole of noise": with_hole(one, 400, NOISE.replace(b"\xff", b"\0")) for name, one in JPEGS.items()},
    **{f"a JPEG {name} that lacks a piece": with_hole(one, 400, b"") for name, one in JPEGS.items()},
    **{f"a JPEG cut before scan {number}": PROGRESSIVE[:place] + b"\xff\xd9" for number, place in enumerate(scans_of(PROGRESSIVE), 1)},
    "a JPEG with an empty scan": PROGRESSIVE[:-2] + EMPTY_SCAN + PROGRESSIVE[-2:],
    "a JPEG with its end overwritten by zeros": PLAIN[: len(PLAIN) // 2] + bytes(len(PLAIN) // 2) + b"\xff\xd9",
    "a PNG with half its rows": png(detailed(), rows=60),
    "a PNG with all rows but one": png(detailed(), rows=119),
    "an interlaced PNG with half its rows": png(detailed(), rows=120, interlaced=True),
    "an interlaced PNG of uneven height without its last pass": png(detailed().crop((0, 0, 160, 119)), rows=150, interlaced=True),
    "a PNG with a hole of zeros": as_bytes(detailed(), "PNG")[:9000] + bytes(400) + as_bytes(detailed(), "PNG")[9400:],
    **{f"a {kind} cut in half": as_bytes(detailed(), kind)[: len(as_bytes(detailed(), kind)) // 2] for kind in FORMATS},
    **{
        f"a TIFF of {compression} cut by a tenth": as_bytes(detailed(), "TIFF", compression=compression)[:-4000]
        for compression in ("tiff_lzw", "tiff_deflate")
    },
    "a WEBP cut in half whose sizes say so": (
        lambda whole, half: whole[:4] + struct.pack("<I", half + 12) + whole[8:16] + struct.pack("<I", half) + whole[20 : 20 + half]
    )(as_bytes(detailed(), "WEBP"), 4000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_photo_that_lacks_part_of_its_picture_is_refused_at_any_scale_and_where_stages_read_it(name: str) -> None:
    for read in (decode_photo, properties_of, lambda content: load_image(content, 32)):
        with pytest.raises(PhotoError, match=r"cannot be decoded: \w|not a photo"):
            read(DAMAGED[name])


def test_pillow_alone_answers_most_damaged_jpegs_and_pngs() -> None:
    def answers(content: bytes) -> bool:
        try:
            Image.open(io.BytesIO(content)).load()
        except OSError:
            return False
        return True

    tried = [name for name in DAMAGED if ("JPEG" in name or "PNG" in name) and "in half" not in name]
    answered = [name for name in tried if answers(DAMAGED[name])]
    assert len(answered) > 0.7 * len(tried)
    assert {"a JPEG plain, cut at 30% and closed", "a JPEG with an empty scan", "a PNG with half its rows"} <= set(answered)


BEFORE_THE_END = {
    "nothing": b"",
    "zeros": bytes(30),
    "many zeros": bytes(3000),
    "fill bytes": b"\xff" * 30,
    "one byte again and again": b"\x5a" * 300,
}


@pytest.mark.parametrize("padding", BEFORE_THE_END)
@pytest.mark.parametrize("name", JPEGS)
def test_a_sound_jpeg_of_any_kind_is_accepted_as_pillow_sees_it_padded_or_not(name: str, padding: str) -> None:
    content = JPEGS[name][:-2] + BEFORE_THE_END[padding] + JPEGS[name][-2:]
    if name == "progressive" and padding == "nothing":
        content += b"\0\0\0\x18ftypmp42" + bytes(3000)  # phones put a video behind a photo
    expected = Image.open(io.BytesIO(JPEGS[name]))
    for at_least_px in (None, 30):
        expected = Image.open(io.BytesIO(JPEGS[name]))
        if at_least_px:
            expected.draft("RGB", (at_least_px, at_least_px))
        assert np.array_equal(decode_photo(content, at_least_px=at_least_px), expected.convert("RGB"))


def test_a_jpeg_of_several_pictures_is_its_first() -> None:
    content = as_bytes(detailed(), "MPO", save_all=True, append_images=[photo()])
    assert decode_photo(content).size == detailed().size


@pytest.mark.parametrize(
    "factors",
    [(0x21, 0x11, 0x21), (0x22, 0x21, 0x12)],
)
def test_a_jpeg_of_odd_sampling_is_decoded_by_pillow(factors: tuple[int, int, int]) -> None:
    content = bytearray(JPEGS["of full colour"])
    for place, factor in enumerate(factors):
        content[content.index(b"\xff\xc0") + 11 + 3 * place] = factor
    assert decode_photo(bytes(content)).size == (160, 120)
    odd_version = PLAIN.replace(b"JFIF\0\x01", b"JFIF\0\x03")
    assert np.array_equal(decode_photo(odd_version), decode_photo(PLAIN))


@pytest.mark.parametrize(
    ("mode", "interlaced"), [("RGB", False), ("RGB", True), ("L", False), ("P", False), ("RGBA", False), ("1", False), ("I;16", False)]
)
def test_a_sound_png_with_a_black_bottom_is_accepted(mode: str, interlaced: bool) -> None:
    image = detailed("L" if mode == "I;16" else mode)
    image.paste(0 if len(image.getbands()) == 1 else (0,) * len(image.getbands()), (0, 60, 160, 120))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    content = png(image, rows=0, interlaced=True) if interlaced else as_bytes(image, "PNG")
    assert np.asarray(decode_photo(content))[-1].max() in (0, 255)  # what is transparent is white


@pytest.mark.skipif("CARINSPECT_REAL_DATA" not in os.environ, reason="needs a folder with real photos")
def test_no_real_photo_is_refused_in_any_form() -> None:
    paths = sorted(Path(os.environ["CARINSPECT_REAL_DATA"]).rglob("*.jpg"))
    assert len(paths) > 1000
    for path in paths:
        load_image(path, 128)
    forms = {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"quality": 30}
    for path in paths[::50]:
        image = Image.open(path)
        variants = [
            image.convert("RGB"),
            image.convert("L"),
            image.convert("CMYK"),
            image.convert("RGB").transpose(Image.Transpose.ROTATE_90),
        ]
        for content in [as_bytes(one, "JPEG", **form) for one in variants for form in forms]:
            load_image(content, 128)
        for kind in FORMATS:
            load_image(as_bytes(variants[0], kind), 128)


# ---- EXIF


def ifd(*entries: tuple[int, int, int], turned: tuple[int, int, int] = (0x0112, 3, 1)) -> bytes:
    """EXIF that says "turn me" (6) and holds entries of tag, type and count with nonsense as value. Source: TIFF 6.0, section 2."""
    values = [struct.pack("<HHII", *turned, 6), *(struct.pack("<HHII", *entry, 8) for entry in sorted(entries))]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(values)) + b"".join(values) + bytes(4)


ODD_EXIF = [
    ifd((tag, kind, count))
    for tag in (0x0100, 0x010F, 0x011A, 0x0132, 0x0201, 0x8769, 0x8825, 0x9286, 0x927C, 0xA005)
    for kind in (0, 1, 2, 5, 7, 10, 11, 13)
    for count in (0, 1, 4, 2**31)
]


def test_a_sound_turned_photo_is_upright_whatever_else_its_exif_says() -> None:
    content = as_bytes(photo(), "JPEG")
    turned = [content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + content[2:] for exif in ODD_EXIF]
    assert [decode_photo(one).size for one in turned] == [(48, 64)] * len(turned)
    for one in turned:
        properties_of(one)

    def pillow_takes(one: bytes) -> bool:
        image = Image.open(io.BytesIO(one))
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:
            return False
        return True

    # Pillow's own function writes the EXIF anew, and cannot write all that it has read.
    assert 0 < sum(map(pillow_takes, turned)) < len(turned)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_odd_exif_of_other_formats_refuses_nothing(kind: str) -> None:
    assert decode_photo(as_bytes(photo(), kind, exif=ifd((0x010F, 5, 1), (0x011A, 1, 1)))).size == (48, 64)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40, ifd(turned=(0x0112, 2, 9))]
)
def test_broken_exif_turns_nothing_and_refuses_nothing(exif: bytes) -> None:
    content = as_bytes(photo(), "JPEG")
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + content[2:]
    assert decode_photo(content).size == (64, 48)
    properties_of(content)


def test_a_turned_heic_or_tiff_photo_is_turned_once() -> None:
    turn = Image.Exif()
    turn[0x0112] = 6
    for kind in ("HEIF", "TIFF", "AVIF", "PNG"):
        assert decode_photo(as_bytes(photo().transpose(Image.Transpose.ROTATE_90), kind, exif=turn.tobytes())).size == (64, 48), kind


# ---- files and the store


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
