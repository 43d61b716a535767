"""Draws docs/damage_score.png: one demo photo, its masks, and the damage score that follows from them.

Run from the repository's root: PYTHONPATH=src python docs/draw_damage_score.py. Reads nothing but params.yaml.
"""

import io
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.outline_kinds import area_shares, score_from_shares
from carinspect.core.files import write_bytes
from carinspect.core.params import read_section
from carinspect.demo.photo import Picture, draw_photo
from carinspect.demo.scene import choose_photo_plan, choose_subject

SEED = 21
PHOTO_PX = (480, 360)
INK, SOFT, VEHICLE, DAMAGES = "#1a202c", "#5a6472", "#1c9cc4", ("#e0245e", "#f08a00", "#7b2cbf", "#2f9e44")


def main() -> None:
    params = read_section("convert_annotations", ConvertAnnotationsParams)
    subject = choose_subject(SEED, dirty=False, damaged=True)
    picture = draw_photo(choose_photo_plan(SEED, subject, weather="clear"))
    areas_px: dict[str, int] = {}
    for name in sorted({name for name, _ in picture.marks}):
        # The union: two marks of a class that overlap count once.
        areas_px[name] = int(np.any([mask > 0 for kind, mask in picture.marks if kind == name], axis=0).sum())
    vehicle_px = int((picture.vehicle > 0).sum())
    shares = area_shares(areas_px, vehicle_px=vehicle_px, photo_px=picture.vehicle.size)
    score = score_from_shares(shares, params.damage_severity, exponent=params.area_exponent)
    colours = dict(zip(areas_px, DAMAGES, strict=False))
    sheet = Image.new("RGB", (2 * PHOTO_PX[0] + 24, PHOTO_PX[1] + 40 + 26 * (len(shares) + 3)), "white")
    sheet.paste(_photo(picture), (0, 0))
    sheet.paste(_outlined(picture, colours), (PHOTO_PX[0] + 24, 0))
    _write_sums(sheet, params, areas_px, shares, vehicle_px=vehicle_px, score=score, colours=colours)
    buffer = io.BytesIO()
    sheet.quantize(160, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    write_bytes(Path("docs/damage_score.png"), buffer.getvalue())


def _photo(picture: Picture) -> Image.Image:
    return Image.fromarray(picture.pixels).resize(PHOTO_PX, Image.Resampling.LANCZOS)


def _outlined(picture: Picture, colours: dict[str, str]) -> Image.Image:
    photo = Image.blend(_photo(picture), Image.new("RGB", PHOTO_PX, "white"), 0.35)
    draw = ImageDraw.Draw(photo)
    for name, mask in [("vehicle", picture.vehicle), *picture.marks]:
        small = cv2.resize(mask, PHOTO_PX, interpolation=cv2.INTER_AREA)
        contours, _ = cv2.findContours((small > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            points = [(int(x), int(y)) for x, y in contour.reshape(-1, 2)]
            if len(points) > 2:
                draw.polygon(points, fill=colours.get(name), outline=colours.get(name, VEHICLE), width=3 if name == "vehicle" else 1)
    return photo


def _write_sums(
    sheet: Image.Image, params: ConvertAnnotationsParams, areas_px: dict[str, int], shares: dict[str, float], *, vehicle_px: int,
    score: float, colours: dict[str, str],
) -> None:  # fmt: skip
    draw, top = ImageDraw.Draw(sheet), PHOTO_PX[1] + 16
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 16)
    lines = [(VEHICLE, f"vehicle: {vehicle_px:,} px")]
    for name, share in shares.items():
        cost = params.damage_severity[name] * share**params.area_exponent
        sums = f"severity {params.damage_severity[name]:g} × ({areas_px[name]:,} / {vehicle_px:,}) ^ {params.area_exponent:g} = {cost:.3f}"
        lines.append((colours[name], f"{name}: {sums}"))
    costs = [f"{params.damage_severity[name] * share**params.area_exponent:.3f}" for name, share in shares.items()]
    lines.append((INK, f"damage_score = 1 − min(1, {' + '.join(costs)}) = {score:.3f}"))
    for row, (colour, line) in enumerate(lines):
        draw.rectangle((4, top + 26 * row + 4, 16, top + 26 * row + 16), fill=colour)
        draw.text((26, top + 26 * row), line, fill=INK, font=font)
    draw.text((26, top + 26 * len(lines)), "Left: a drawn photo. Right: the union of each class's masks.", fill=SOFT, font=font)


if __name__ == "__main__":
    main()
