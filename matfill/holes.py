"""Holes in photos: what `--mask` may say, united, grown, and how a filling fades into what was there.

config.HOLE_GRAMMAR and MASK_GRAMMAR list what may be said. A hole is a function of the photo, its name and its seed.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from PIL import ImageColor

from matfill import masks
from matfill.errors import MaskError
from matfill.images import WHITE, Photo, load_mask

Mark = Callable[[Photo, PurePath, np.random.Generator], np.ndarray]  # a photo, its name, chance -> missing (H, W)


@dataclass(frozen=True, eq=False)
class Hole:
    """What is missing in one photo, and how a filling is put into it."""

    missing: np.ndarray  #: bool (H, W)
    weight: np.ndarray | None = None  #: float32 in (0, 1], one per missing pixel, of the filling; None is 1 throughout
    opaque: bool = False  #: whether the photo's transparency ends in the hole

    def finish(self, photo: Photo, filled: Photo) -> Photo:
        """`filled`, blended with `photo` inside the hole as the weights say; outside nothing is touched."""
        if self.weight is not None:
            old, new = (one.pixels[self.missing].astype(np.float32) for one in (photo, filled))
            pixels = filled.pixels.copy()
            pixels[self.missing] = np.rint(old + (new - old) * self.weight[:, None]).astype(pixels.dtype)
            filled = replace(filled, pixels=pixels)
        if self.opaque and filled.alpha is not None:
            alpha = filled.alpha.copy()
            alpha[self.missing] = np.iinfo(alpha.dtype).max
            filled = replace(filled, alpha=alpha)
        return filled

    def fade(self, std: np.ndarray) -> np.ndarray:
        """The spread of fillings, float32 (H, W), as it is after `finish`."""
        if self.weight is None:
            return std
        std = std.copy()
        std[self.missing] *= self.weight
        return std


@dataclass(frozen=True)
class HoleMaker:
    """Makes the holes of photos out of one or more things that `--mask` may say, united."""

    texts: tuple[str, ...]
    marks: tuple[Mark, ...]
    grow: int = 0
    feather: int = 0

    def hole(self, photo: Photo, name: str | PurePath = "", seed: int = 0) -> Hole:
        """The hole of a photo that lies at `name` below its folder. MaskError where nothing, or all, is missing."""
        rng = np.random.default_rng(seed)
        missing = functools.reduce(np.logical_or, (mark(photo, PurePath(name), rng) for mark in self.marks))
        if not missing.any():
            raise MaskError(f"nothing is missing by {', '.join(self.texts)}: {self._why_nothing(photo)}")
        opaque = "alpha" in self.texts
        hole = make_hole(missing, self.grow, self.feather, opaque=opaque, what=", ".join(self.texts))
        if opaque and hole.weight is not None:  # transparent pixels have no colour to fade from
            clear = self.marks[self.texts.index("alpha")](photo, PurePath(name), rng)
            hole = replace(hole, weight=np.where(clear[hole.missing], np.float32(1), hole.weight))
        return hole

    def _why_nothing(self, photo: Photo) -> str:
        if "alpha" in self.texts and photo.alpha is None:
            return "the image has no transparency; erase what is to be filled, or give a mask"
        if any(text.startswith("color:") for text in self.texts):
            return "no pixel has that colour; JPEG alters colours a little: try color:#ff00ff~20"
        return "paint white what is to be filled; --invert-mask takes black"


def parse(
    texts: Sequence[str],
    *,
    invert: bool = False,
    threshold: int = WHITE,
    grow: int = 0,
    feather: int = 0,
) -> HoleMaker:
    """The maker of holes that are the union of `texts`, see config.HOLE_GRAMMAR. MaskError where one is not allowed.

    `invert` takes black for missing in mask images, which are white from `threshold` (of 255); alpha below it counts
    as transparent. The union is grown by `grow` pixels, and a filling fades in over `feather` pixels from its edge.
    """
    marks = tuple(_mark(text, invert, threshold) for text in texts)
    return HoleMaker(tuple(texts), marks, grow, feather)


def make_hole(missing: np.ndarray, grow: int = 0, feather: int = 0, *, opaque: bool = False, what: str = "") -> Hole:
    """A hole, grown and feathered. MaskError where nothing, or all, is missing; `what` names the mask in it."""
    mask = f"the mask {what}" if what else "the mask"
    if not missing.any():
        raise MaskError(f"{mask} marks nothing as missing")
    if grow:
        missing = grown(missing, grow)
    if missing.all():
        raise MaskError(f"{mask} covers the whole image: nothing is left to go by")
    weight = None
    if feather:
        rows, columns = _box(missing, feather + 1)
        depth = np.sqrt(_squared_distance(missing[rows, columns], feather + 1), dtype=np.float32)
        weight = np.minimum(depth[missing[rows, columns]] / (feather + 1), 1)
    return Hole(missing, weight, opaque)


# --- what may be said ------------------------------------------------------------------------------------------------


def _mark(text: str, invert: bool, threshold: int) -> Mark:
    if text == "alpha":
        return lambda photo, _name, _rng: _transparent(photo, threshold)
    if text.startswith("color:"):
        return _parse_color(text)
    if text.startswith("box:"):
        return _parse_box(text)
    kind = _kind(text)
    if kind == "folder":
        return _from_folder(Path(text), invert, threshold)
    if kind == "file":
        return lambda photo, _name, _rng: load_mask(text, photo.width, photo.height, invert=invert, threshold=threshold)
    if kind:
        raise MaskError(f"the mask {text} is {kind}; give an image")
    if Path(text).suffix or "/" in text or os.sep in text:
        raise MaskError(f"there is no mask {text}; check the path")
    sampler = masks.parse(text)
    return lambda photo, _name, rng: sampler.sample(photo.height, photo.width, rng)


def _kind(text: str) -> str:
    """What lies at a path: "file", "folder", "" for nothing, or something else, in words."""
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):  # not there, too long for a name, a link in a circle
        return ""
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "no regular file"


def _transparent(photo: Photo, threshold: int) -> np.ndarray:
    if photo.alpha is None:
        return np.zeros((photo.height, photo.width), bool)
    return photo.alpha < threshold * (int(np.iinfo(photo.alpha.dtype).max) // 255)


def _parse_color(text: str) -> Mark:
    name, _, tolerance = text.removeprefix("color:").partition("~")
    try:
        color = ImageColor.getrgb(name)[:3]
        away = int(tolerance or 0)
    except ValueError:
        raise MaskError(f"{text!r} is no colour; write color:#ff00ff, or color:#ff00ff~20 for shades of it") from None

    def mark(photo: Photo, _name: PurePath, _rng: np.random.Generator) -> np.ndarray:
        pixels = photo.colors()
        unit = int(np.iinfo(pixels.dtype).max) // 255
        missing = np.ones(pixels.shape[:2], bool)
        for channel, value in zip(np.moveaxis(pixels, -1, 0), color, strict=True):
            low, high = max(value - away, 0) * unit, min(value + away, 255) * unit
            missing &= (channel >= low) & (channel <= high)
        return missing

    return mark


def _parse_box(text: str) -> Mark:
    match = re.fullmatch(r"box:(\d{1,7}),(\d{1,7}),([1-9]\d{0,6}),([1-9]\d{0,6})", text)
    if not match:
        raise MaskError(f"{text!r} is no box; write box:X,Y,WIDTH,HEIGHT in whole pixels, such as box:10,20,64,48")
    left, top, width, height = map(int, match.groups())

    def mark(photo: Photo, _name: PurePath, _rng: np.random.Generator) -> np.ndarray:
        if left + width > photo.width or top + height > photo.height:
            raise MaskError(f"{text} reaches beyond the image, which is {photo.width}x{photo.height}; make it smaller")
        missing = np.zeros((photo.height, photo.width), bool)
        missing[top : top + height, left : left + width] = True
        return missing

    return mark


def _from_folder(folder: Path, invert: bool, threshold: int) -> Mark:
    listing = functools.lru_cache(64)(_listing)  # each folder once, since there may be as many masks as photos

    def mark(photo: Photo, name: PurePath, _rng: np.random.Generator) -> np.ndarray:
        found = listing(folder / name.parent).get(name.stem) or listing(folder).get(name.stem)
        if not found:
            raise MaskError(f"there is no mask {folder / name.parent / name.stem}.*; add one, or leave the photo out")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise MaskError(f"{found[0].parent} holds several masks for {name}: {names}; leave one")
        return load_mask(found[0], photo.width, photo.height, invert=invert, threshold=threshold)

    return mark


def _listing(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by their stems; none where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise MaskError(f"cannot list {folder}: {error.strerror}") from None
    found: dict[str, list[Path]] = {}
    for name in names:
        path = folder / name
        if not name.startswith(".") and not path.is_dir():
            found.setdefault(path.stem, []).append(path)
    return found


# --- growing and fading ----------------------------------------------------------------------------------------------


def grown(missing: np.ndarray, by: int) -> np.ndarray:
    """`missing` (H, W) and all within `by` pixels of it."""
    rows, columns = _box(missing, by)
    out = missing.copy()
    out[rows, columns] |= _squared_distance(~missing[rows, columns], by) <= by * by
    return out


def _box(missing: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Where the missing pixels lie, and `margin` more on each side, within the frame."""
    spans = []
    for axis in (1, 0):
        (found,) = missing.any(axis=axis).nonzero()
        spans.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
    return spans[0], spans[1]


def _squared_distance(inside: np.ndarray, limit: int) -> np.ndarray:
    """uint32 (H, W): squared distance of each pixel from the nearest that is not `inside`, at most (limit + 1)^2."""
    height, width = inside.shape
    cap = limit + 1
    along = np.empty((height, width), np.uint16 if cap < 2**16 else np.uint32)  # distances along the row
    at = np.arange(width, dtype=np.int64)
    for top in range(0, height, 64):  # in strips, for the sake of memory
        part = inside[top : top + 64]
        left = np.maximum.accumulate(np.where(part, -cap, at), axis=1)
        right = np.minimum.accumulate(np.where(part, width + cap, at)[:, ::-1], axis=1)[:, ::-1]
        along[top : top + 64] = np.minimum(np.minimum(at - left, right - at), cap)
    squares = along.astype(np.uint32) ** 2
    nearest = squares.copy()
    for step in range(1, min(limit, height - 1) + 1):
        shift = np.uint32(step * step)
        np.minimum(nearest[step:], squares[:-step] + shift, out=nearest[step:])
        np.minimum(nearest[:-step], squares[step:] + shift, out=nearest[:-step])
    return nearest
