"""Pictures about pictures: contact sheets, holes, uncertainty maps.

Images are uint8 arrays (H, W), (H, W, 1) or (H, W, 3); everything drawn is RGB. Pillow and numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HOLE = (224, 32, 200)  #: what is missing, in a colour that photos hardly have
BACKGROUND = (236, 236, 236)  # not white, so that white masks have an edge
INK = (40, 40, 40)
SMALLEST, USUAL, LARGEST = 128, 192, 320  # side of a cell, pixels
MARGIN, THIN = 8, 2
SHEET = 1024  # width of a sheet of many images, pixels, where their own size allows

#: Black, violet, red, orange, pale yellow at equal steps: "inferno" of matplotlib (CC0), whose lightness rises evenly.
COLOURS = np.array(
    [
        (0, 0, 4),
        (33, 12, 74),
        (87, 16, 110),
        (138, 34, 106),
        (188, 55, 84),
        (228, 90, 49),
        (249, 142, 9),
        (249, 203, 53),
        (252, 255, 164),
    ],
    dtype=float,
)

Cell = tuple[str, np.ndarray]  # caption, image


def contact_sheet(rows: Sequence[Sequence[Cell]], cell: int | None = None, gap: int = MARGIN) -> Image.Image:
    """Captioned images on a grid, `gap` pixels apart, all of one scale of cells, left-aligned where rows differ in
    length.

    Every image is scaled, in its own proportions, until its longer side is `cell` pixels; by default the longest side
    of all images, doubled, tripled ... where that is tiny, and at most 320. Empty captions everywhere take no room.
    """
    if not any(rows):
        raise ValueError("a contact sheet needs at least one image")
    side = max(max(image.shape[:2]) for row in rows for _, image in row)
    pictures = [[_scaled(image, cell or _cell_side(side)) for _, image in row] for row in rows]
    width = max(picture.width for row in pictures for picture in row)
    height = max(picture.height for row in pictures for picture in row)
    font = ImageFont.load_default(min(max(width // 13, 11), 18))
    has_captions = any(caption for row in rows for caption, _ in row)
    line = math.ceil(sum(font.getmetrics())) + MARGIN // 2 if has_captions else 0

    columns = max(map(len, rows))
    size = (columns * (width + gap) + gap, len(rows) * (height + line + gap) + gap)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (caption, _) in enumerate(row):
            picture = pictures[i][j]
            left, top = gap + j * (width + gap), gap + i * (height + line + gap)
            sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            text = _shortened(caption, font, width)
            draw.text((left + width / 2, top + height + MARGIN // 2), text, fill=INK, font=font, anchor="ma")
    return sheet


def uncertainty_map(std: np.ndarray, scale: float = 0.25) -> np.ndarray:
    """Standard deviations (H, W), in units of the full range from black to white, as colours: uint8 (H, W, 3).

    Black is 0, pale yellow is `scale` or more; lightness rises in between. The scale is fixed, so that maps can be
    compared: 0.25 is half of the most that values between 0 and 1 can spread.
    """
    at = np.linspace(0, scale, len(COLOURS))
    return np.stack([np.interp(std, at, channel) for channel in COLOURS.T], axis=-1).round().astype(np.uint8)


def show_hole(pixels: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The image with its hole, boolean (H, W), painted in HOLE: uint8 (H, W, 3)."""
    shown = _rgb(pixels).copy()
    shown[missing] = HOLE
    return shown


def inpainting_sheet(
    photo: np.ndarray,
    missing: np.ndarray,
    samples: Sequence[np.ndarray],
    mean: np.ndarray,
    std: np.ndarray,
) -> Image.Image:
    """The photo, its hole, every sample, and, of two samples or more, their mean and uncertainty map.

    photo, samples and mean are images of one size; missing (H, W) boolean; std (H, W) as for `uncertainty_map`.
    """
    first: list[Cell] = [("photo", photo), ("missing", show_hole(photo, missing))]
    drawn: list[Cell] = [(f"sample {i}", sample) for i, sample in enumerate(samples, start=1)]
    if len(drawn) < 2:
        return contact_sheet([first + drawn])
    first += [(f"mean of {len(drawn)}", mean), ("uncertainty", uncertainty_map(std))]
    return contact_sheet([first, *_wrapped(drawn, 4 if len(drawn) <= 8 else 8)])


def mask_sheet(masks: Sequence[np.ndarray]) -> Image.Image:
    """Masks, boolean (H, W), white where missing, each with the share that is missing."""
    cells = [(f"{missing.mean():.1%}", np.where(missing, 255, 0).astype(np.uint8)) for missing in masks]
    return contact_sheet(_wrapped(cells, min(max(math.isqrt(len(cells) - 1) + 1, 4), 16) if cells else 1))


def sample_sheet(samples: np.ndarray) -> Image.Image:
    """Images uint8 (N, H, W, C) in their order, on a grid about as high as wide, with thin gaps and no captions."""
    columns = math.isqrt(len(samples) - 1) + 1
    return contact_sheet(_wrapped([("", one) for one in samples], columns), _small_cell(samples[0], columns), THIN)


def group_sheet(
    groups: Sequence[tuple[str, Sequence[Sequence[np.ndarray]]]], names: Sequence[str], most_columns: int = 18
) -> Image.Image:
    """Captioned groups of columns of images, all of one size, side by side, as in the paper's figure 3.

    Each column has an image for each of `names`, which stand at the left; the first row stands off from the others.
    Groups are wrapped into bands of at most `most_columns` columns.
    """
    widest = max(len(columns) for _, columns in groups)
    bands = [
        list(groups[i : i + step]) for step in [max(1, most_columns // widest)] for i in range(0, len(groups), step)
    ]
    example = groups[0][1][0][0]
    height, width = example.shape[:2]
    factor = _small_cell(example, max(len(bands[0]) * widest, 4)) / max(height, width)
    height, width = round(height * factor), round(width * factor)
    font = ImageFont.load_default(13)
    line = math.ceil(sum(font.getmetrics())) + THIN
    gutter = math.ceil(max(map(font.getlength, names))) + 2 * MARGIN
    span = widest * (width + THIN) + MARGIN  # of a group
    tall = line + len(names) * (height + THIN) + 2 * MARGIN  # of a band
    most = max(map(len, bands))
    sheet = Image.new("RGB", (gutter + most * span, len(bands) * tall + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for b, band in enumerate(bands):
        top = MARGIN + b * tall
        rows = [top + line + i * (height + THIN) + (MARGIN if i else 0) for i in range(len(names))]
        for name, y in zip(names, rows, strict=True):
            draw.text((gutter - MARGIN, y + height / 2), name, fill=INK, font=font, anchor="rm")
        for g, (caption, columns) in enumerate(band):
            left = gutter + g * span
            draw.text((left, top), _shortened(caption, font, span - MARGIN), fill=INK, font=font)
            for c, images in enumerate(columns):
                for image, y in zip(images, rows, strict=True):
                    sheet.paste(_scaled(image, max(height, width)), (left + c * (width + THIN), y))
    return sheet


def _small_cell(image: np.ndarray, columns: int) -> int:
    """The longest side of cells that are many: its pixels a whole number of times, some SHEET pixels in all a row."""
    side = max(image.shape[:2])
    return side * max(1, min(USUAL, SHEET // columns) // side)


def _wrapped(cells: list[Cell], columns: int) -> list[list[Cell]]:
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def _cell_side(side: int) -> int:
    """What the longest side of all images becomes: a whole multiple, so that pixels of tiny images stay square."""
    return side * math.ceil(USUAL / side) if side < SMALLEST else min(side, LARGEST)


def _scaled(image: np.ndarray, longest: int) -> Image.Image:
    picture = Image.fromarray(_rgb(image))
    factor = longest / max(picture.size)
    size = tuple(max(1, round(factor * side)) for side in picture.size)
    whole = factor >= 1 and factor == round(factor)
    return picture.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _shortened(caption: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The caption, or its beginning and three dots where it is wider than `width` pixels."""
    if font.getlength(caption) <= width:
        return caption
    end = len(caption)
    while end > 1 and font.getlength(caption[:end] + "...") > width:
        end -= 1
    return caption[:end] + "..."


def _rgb(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) -> (H, W, 3)."""
    if image.ndim == 2:
        image = image[..., None]
    return np.broadcast_to(image, (*image.shape[:2], 3))
