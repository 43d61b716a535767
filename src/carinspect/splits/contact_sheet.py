"""The picture of pairs that were linked, for a person who judges whether near-duplicates are what they say."""

import io
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from carinspect.core.files import write_bytes
from carinspect.images.decode import decode_photo

_PAIRS = 10
_COLUMNS = 2  # of pairs
_PHOTO_PX, _CAPTION_PX, _GAP_PX = 220, 48, 8
_CHARACTERS = 36  # of a caption's line


def choose_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Up to ten rows of `describe_links`, each of another group.

    Before all, those that straddle the exports' own splits; among them those found by their pixels; among them the most doubtful.
    """
    first, second = pairs["first_declared_split"], pairs["second_declared_split"]
    order = pd.DataFrame({
        "together": ~((first != second) & (first != "") & (second != "")),
        "told": pairs["reason"] != "near-duplicate",
        "correlation": pairs["correlation"].fillna(1.0),
    })  # fmt: skip
    # The sort is stable, and the pairs come sorted by their paths.
    return pairs.loc[order.sort_values(list(order), kind="stable").index].drop_duplicates("group").head(_PAIRS)


def write_contact_sheet(pairs: pd.DataFrame, root: Path, path: Path) -> None:
    """Write the rows of `choose_pairs` as a PNG, two photos and their captions for each; a sheet without pairs says so."""
    rows = max(1, -(-len(pairs) // _COLUMNS))
    cell_width, cell_height = 2 * _PHOTO_PX + 2 * _GAP_PX, _PHOTO_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (_COLUMNS * cell_width, rows * cell_height), "white")
    if pairs.empty:
        ImageDraw.Draw(sheet).text((_GAP_PX, _GAP_PX), "No two photos were tied together.", fill="black", font=ImageFont.load_default())
    for position, pair in enumerate(pairs.itertuples()):
        row, column = divmod(position, _COLUMNS)
        seen = "" if pd.isna(pair.correlation) else f" {pair.correlation:.2f}"
        for side, (name, declared) in enumerate([(pair.first, pair.first_declared_split), (pair.second, pair.second_declared_split)]):
            lines = [name[-_CHARACTERS:], f"{pair.reason}{seen}" if side == 0 else "", f"declared {declared}" if declared else ""]
            _paste(sheet, root / name, lines, at=(column * cell_width + side * (_PHOTO_PX + _GAP_PX // 2), row * cell_height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _paste(sheet: Image.Image, photo: Path, lines: list[str], *, at: tuple[int, int]) -> None:
    picture = decode_photo(photo, at_least_px=_PHOTO_PX)
    picture.thumbnail((_PHOTO_PX, _PHOTO_PX))
    sheet.paste(picture, at)
    ImageDraw.Draw(sheet).text((at[0], at[1] + _PHOTO_PX + 2), "\n".join(lines), fill="black", font=ImageFont.load_default())
