"""What a model is shown of a photo: windows around its holes, or the whole of it, squeezed to the model's size.

Both are generators that ask for `Looks` to be filled and are sent the fillings; what they end with is each sample's
missing pixels, (n, C) in row-major order, of the photo's depth.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from matfill.errors import MaskError
from matfill.images import Photo
from matfill.model import Hint, enlarge_twice, push_pull
from matfill.windows import GRID, Octave, Window, boxes, halved

TOGETHER = 64  # looks that are asked for at a time
ENOUGH = 16  # times the model's size: a frame with sides that long is squeezed as well as any larger one


@dataclass(frozen=True)
class Looks:
    """Squares of the model's size to be filled, one sample of each."""

    x: Tensor  #: (B, C, S, S) in [0, 1]
    missing: Tensor  #: bool (B, 1, S, S)
    seeds: Sequence[Sequence[int]]
    hint: Hint | None = None


FillingRows = Generator[Looks, Tensor, list[np.ndarray]]


def check(photo: Photo, missing: np.ndarray) -> None:
    """MaskError where `missing` (H, W) does not fit the photo, or leaves nothing to fill or to go by."""
    if missing.shape != (photo.height, photo.width):
        size = f"{missing.shape[1]}x{missing.shape[0]}"
        raise MaskError(f"the mask is {size} but the image {photo.width}x{photo.height}; make them the same")
    if not missing.any():
        raise MaskError("the mask is empty: there is nothing to fill")
    if missing.all():
        raise MaskError("the mask covers the whole image: nothing is left to go by")


# --- through windows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Canvas:
    """One sample of an octave, while it is filled."""

    pixels: np.ndarray  #: (H, W, C)
    missing: np.ndarray  #: bool (H, W), what is still to be filled, at this scale or a finer one

    def put(self, octave: Octave, window: Window, filled: np.ndarray) -> None:
        """Take over the core of a window's filling (S, S, C) in [0, 1]."""
        new = self.missing[window.core] & octave.wanted[window.core]
        white = np.iinfo(self.pixels.dtype).max
        self.pixels[window.core][new] = np.rint(filled[window.inner][new] * white).astype(self.pixels.dtype)
        self.missing[window.core][new] = False


def by_windows(scales: list[Octave], size: int, seeds: list[tuple[int, int]]) -> FillingRows:
    """Fill the octaves, the coarsest first, every window going by what windows before it filled."""
    coarser: list[Canvas] = []
    for number, octave in reversed(list(enumerate(scales))):
        canvases = [Canvas(octave.pixels.copy(), octave.missing.copy()) for _ in seeds]
        for turn, windows in enumerate(octave.turns):
            places = [(sample, i) for sample in range(len(seeds)) for i in range(len(windows))]
            for first in range(0, len(places), TOGETHER):
                some = places[first : first + TOGETHER]
                asked = [(canvases[s], coarser[s] if coarser else None, windows[i]) for s, i in some]
                x, missing, hint = look(asked, size)
                looks = Looks(x, missing, [(*seeds[s], number, turn, i) for s, i in some], hint)
                filled = (yield looks).movedim(1, -1).numpy()
                for (sample, i), values in zip(some, filled, strict=True):
                    canvases[sample].put(octave, windows[i], values)
        coarser = canvases
    return [canvas.pixels[scales[0].missing] for canvas in coarser]


def look(asked: list[tuple[Canvas, Canvas | None, Window]], size: int) -> tuple[Tensor, Tensor, Hint]:
    """x, missing and hint of windows, each of its own canvas, and of the canvas of half its resolution, if any."""
    x, missing = _taken([(canvas, window) for canvas, _, window in asked], size)
    image, there = torch.zeros_like(x), torch.zeros_like(missing)
    below = [(coarser, window) for _, coarser, window in asked if coarser]
    if below:  # of all, or of none
        halves, unknown = _taken(below, size // 2, margin=1, shrink=2)
        image, known = (enlarge_twice(half)[..., 2:-2, 2:-2] for half in (halves, (~unknown).float()))
        there = known > 0.999
    return x, missing, Hint(image, there & missing)


def _taken(wanted: list[tuple[Canvas, Window]], size: int, margin: int = 0, shrink: int = 1) -> tuple[Tensor, Tensor]:
    """Pixels (B, C, S, S) in [0, 1] and missing (B, 1, S, S) of windows; see Window.take."""
    pixels = np.stack([window.take(canvas.pixels, size, margin, shrink) for canvas, window in wanted])
    missing = np.stack([window.take(canvas.missing, size, margin, shrink) for canvas, window in wanted])
    x = torch.from_numpy(pixels / np.float32(np.iinfo(pixels.dtype).max)).movedim(-1, 1)
    return x, torch.from_numpy(missing)[:, None]


# --- as a whole ------------------------------------------------------------------------------------------------------


def by_frame(view: np.ndarray, missing: np.ndarray, size: int, seeds: list[tuple[int, int]]) -> FillingRows:
    """Fill the whole frame (H, W, C), squeezed; what comes back is enlarged, hole by hole, and only these are kept."""
    small, small_hole = squeeze(*tensors(*reduced(view, missing, size)), size)
    count = len(seeds)
    filled = yield Looks(small.expand(count, -1, -1, -1), small_hole.expand(count, -1, -1, -1), seeds)
    places = [(box, own, tensors(view[box], missing[box])) for box, own in boxes(missing, max(size // GRID, 1), GRID)]
    rows = []
    for one in filled.split(1):
        out = np.zeros_like(view)
        for box, own, (pixels, hole) in places:
            part = enlarge(one, pixels, hole, box, missing.shape)[0].movedim(0, -1).numpy()
            out[box][own] = np.rint(part[own] * np.iinfo(view.dtype).max).astype(view.dtype)
        rows.append(out[missing])
    return rows


def reduced(view: np.ndarray, missing: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A large frame (H, W, C) and its hole (H, W), halved until it is cheap to squeeze, and something of it known."""
    while max(missing.shape) > ENOUGH * size:
        smaller, hole = halved(np.where(missing[..., None], view.dtype.type(0), view), missing)
        if hole.all() or not hole.any():
            break
        view, missing = smaller, hole
    return view, missing


def tensors(view: np.ndarray, missing: np.ndarray) -> tuple[Tensor, Tensor]:
    """(1, C, H, W) in [0, 1] and (1, 1, H, W)."""
    pixels = torch.from_numpy(view / np.float32(np.iinfo(view.dtype).max)).movedim(-1, 0)[None]
    return pixels, torch.tensor(missing)[None, None]


def squeeze(pixels: Tensor, missing: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The whole frame (1, C, H, W) and its hole (1, 1, H, W) at `size` x `size`, antialiased.

    A small pixel is missing where any part of it is, or, where a scattered hole would leave none that way, where more
    of it is than of the average pixel, or, where the hole is the same all over, in the dark fields of a chessboard.
    What lies in the hole has no influence on anything.
    """
    clean = push_pull(pixels, missing)
    if pixels.shape[-2:] == (size, size):
        return clean, missing
    small = F.interpolate(clean, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    share = F.adaptive_avg_pool2d(missing.float(), size)
    hole = share > 0
    if hole.all():
        hole = share > share.mean()
        if not hole.any():
            place = torch.arange(size)
            hole = ((place[:, None] + place) % 2 == 1).expand_as(share)
    return small.clamp(0, 1), hole


def enlarge(small: Tensor, pixels: Tensor, missing: Tensor, box: tuple[slice, slice], frame: tuple[int, ...]) -> Tensor:
    """What a filled small frame (1, C, S, S) shows in a box of the photo, `pixels` (1, C, h, w), joined to it.

    What the photo has over the enlarged frame (detail, a shade) is known around the hole; it is carried on smoothly
    into the hole and added. `box` are the rows and columns of the photo, of height and width `frame`.
    """
    if small.shape[2:] == frame:
        return small[..., box[0], box[1]]
    y, x = ((torch.arange(at.start, at.stop) + 0.5) * (2 / length) - 1 for at, length in zip(box, frame, strict=True))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    large = F.grid_sample(small, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return (large + push_pull(pixels - large, missing)).clamp(0, 1)
