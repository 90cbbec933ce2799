"""Random holes: the mask grammar and its samplers.

A mask is a boolean array (H, W), True where a pixel is missing. Every sampler draws from the generator it is handed
and from nothing else, so a mask is a pure function of its seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from matfill.config import MASK_GRAMMAR as GRAMMAR
from matfill.errors import MaskError

STROKE_COVERAGE = (0.10, 0.30)  # drawing stops once past a share drawn from here; the last dab may add up to 5 %
STROKE_THICKNESS = (0.06, 0.15)  # diameter of a brush, as a share of the image's shorter side
STROKE_STEP = (0.05, 0.20)  # length of one straight piece, likewise
STROKE_PIECES = (3, 12)  # pieces in one stroke
STROKE_BEND = 0.6  # standard deviation of the turn between two pieces, radians

BOX_SIDES = (0.10, 0.75)  # of a box, as shares of the image's sides
BOXES = 3  # at most; and of several, none that would make them cover more than
BOX_COVERAGE = 0.75

Draw = Callable[[int, int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class MaskSampler:
    """Masks of one specification, for images of any size. Equal where the specifications are; can be pickled."""

    spec: str
    _draw: Draw = field(repr=False, compare=False)

    def sample(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """One mask, boolean (height, width). MaskError where the image is too small for it."""
        return self._draw(height, width, rng)

    __call__ = sample


def parse(spec: str) -> MaskSampler:
    """The sampler that `spec` names, see GRAMMAR. MaskError where it names none."""
    if "," in spec:
        return MaskSampler(spec, partial(_one_of, tuple(parse(part) for part in spec.split(","))))
    for pattern, draw in _FORMS:
        if match := re.fullmatch(pattern, spec):
            return MaskSampler(spec, partial(draw, *map(int, match.groups())))
    if spec in _HALVES:
        return MaskSampler(spec, partial(_half, spec))
    forms = "; ".join(line.split("  ")[0] for line in GRAMMAR.splitlines())
    raise MaskError(f"{spec!r} is no mask; write one of: {forms} (e.g. random3x20, center32, quadrants2, pixels50)")


def sample_batch(sampler: MaskSampler, height: int, width: int, seeds: Iterable[Sequence[int]]) -> np.ndarray:
    """One mask per seed, boolean (len(seeds), height, width).

    Mask i depends on seed i alone, so any slice of the seeds gives the same slice of the masks. A seed is a sequence
    of whole numbers from 0; keep the lengths equal, since numpy does not tell (1,) from (1, 0).
    """
    masks = [sampler.sample(height, width, np.random.default_rng(seed)) for seed in seeds]
    return np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool)


def _squares(count: int, side: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    _check_fits(side, height, width)
    missing = np.zeros((height, width), dtype=bool)
    tops = rng.integers(height - side + 1, size=count).tolist()
    lefts = rng.integers(width - side + 1, size=count).tolist()
    for top, left in zip(tops, lefts, strict=True):
        missing[top : top + side, left : left + side] = True
    return missing


def _boxes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes whose centres lie anywhere in the image: many of them are cut off by its edge."""
    missing = np.zeros((height, width), dtype=bool)
    for _ in range(rng.integers(1, BOXES, endpoint=True)):
        sides = np.maximum(1, np.rint(rng.uniform(*BOX_SIDES, 2) * missing.shape)).astype(int)
        top, left = np.rint(rng.uniform(0, missing.shape) - sides / 2).astype(int)
        more = missing.copy()
        more[max(top, 0) : max(top + sides[0], 1), max(left, 0) : max(left + sides[1], 1)] = True
        if more.mean() <= BOX_COVERAGE or not missing.any():
            missing = more
    return missing


def _center(side: int, height: int, width: int, _rng: np.random.Generator) -> np.ndarray:
    _check_fits(side, height, width)
    missing = np.zeros((height, width), dtype=bool)
    top, left = (height - side) // 2, (width - side) // 2
    missing[top : top + side, left : left + side] = True
    return missing


def _quadrants(visible: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    _check_halves(height, width)
    missing = np.ones((height, width), dtype=bool)
    rows = (slice(None, height // 2), slice(height // 2, None))
    columns = (slice(None, width // 2), slice(width // 2, None))
    for quadrant in rng.choice(4, size=visible, replace=False).tolist():
        missing[rows[quadrant // 2], columns[quadrant % 2]] = False
    return missing


def _quadrants_fixed(visible: int, height: int, width: int, _rng: np.random.Generator) -> np.ndarray:
    """The tasks of Sohn et al. 2015 as the Pyro tutorial on conditional VAEs has them."""
    _check_halves(height, width)
    missing = np.zeros((height, width), dtype=bool)
    missing[height // 2 :, width // 2 :] = True
    if visible < 3:
        missing[: height // 2, width // 2 :] = True
    if visible < 2:
        missing[: height // 2, : width // 2] = True
    return missing


def _one_of(samplers: Sequence[MaskSampler], height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    return samplers[rng.integers(len(samplers))].sample(height, width, rng)


_HALVES: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "left": lambda height, width: (slice(None), slice(None, width // 2)),
    "right": lambda height, width: (slice(None), slice(width // 2, None)),
    "top": lambda height, width: (slice(None, height // 2), slice(None)),
    "bottom": lambda height, width: (slice(height // 2, None), slice(None)),
}


def _half(side: str, height: int, width: int, _rng: np.random.Generator) -> np.ndarray:
    _check_halves(height, width)
    missing = np.zeros((height, width), dtype=bool)
    missing[_HALVES[side](height, width)] = True
    return missing


def _pixels(percent: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    missing = np.zeros(height * width, dtype=bool)
    count = max(1, round(percent / 100 * missing.size))
    missing[rng.choice(missing.size, size=count, replace=False)] = True
    return missing.reshape(height, width)


def _everything(height: int, width: int, _rng: np.random.Generator) -> np.ndarray:
    return np.ones((height, width), dtype=bool)


def _strokes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes of a round brush that wanders, until the share of the image that was drawn is covered."""
    side = min(height, width)
    missing = np.zeros((height, width), dtype=bool)
    wanted = rng.uniform(*STROKE_COVERAGE) * missing.size
    while True:
        # 0.75 pixel: even the thinnest brush covers the pixel it stands on, so that the loop ends in any image
        radius = max(0.5 * side * rng.uniform(*STROKE_THICKNESS), 0.75)
        heading = rng.uniform(0, 2 * np.pi)
        here = rng.uniform((0, 0), (height, width))
        for _ in range(rng.integers(*STROKE_PIECES, endpoint=True)):
            heading += rng.normal(0, STROKE_BEND)
            step = side * rng.uniform(*STROKE_STEP)
            there = np.clip(here + step * np.array((np.sin(heading), np.cos(heading))), 0, (height, width))
            _draw_capsule(missing, here, there, radius)
            if np.count_nonzero(missing) >= wanted:
                return missing
            here = there


def _draw_capsule(missing: np.ndarray, start: np.ndarray, stop: np.ndarray, radius: float) -> None:
    """Set all pixels of `missing` whose centre lies within `radius` of the segment; points are (row, column)."""
    top, left = np.maximum(np.minimum(start, stop) - radius, 0).astype(int)
    bottom, right = np.ceil(np.maximum(start, stop) + radius).astype(int)
    box = missing[top:bottom, left:right]
    y = np.arange(top, top + box.shape[0])[:, None] + 0.5 - start[0]
    x = np.arange(left, left + box.shape[1])[None, :] + 0.5 - start[1]
    dy, dx = stop - start
    along = np.clip((y * dy + x * dx) / max(dy * dy + dx * dx, 1e-12), 0, 1)
    box |= (y - along * dy) ** 2 + (x - along * dx) ** 2 <= radius * radius


def _check_fits(side: int, height: int, width: int) -> None:
    if side > min(height, width):
        raise MaskError(f"a {side}x{side} square does not fit in an image of {width}x{height} pixels; make it smaller")


def _check_halves(height: int, width: int) -> None:
    if min(height, width) < 2:
        raise MaskError(f"an image of {width}x{height} pixels has no halves; use one of at least 2x2")


# Four or five digits at most: enough for any image, and a slip of the finger cannot ask for a billion squares.
_FORMS: tuple[tuple[str, Callable[..., np.ndarray]], ...] = (
    (r"random([1-9][0-9]{0,3})x([1-9][0-9]{0,4})", _squares),
    (r"center([1-9][0-9]{0,4})", _center),
    (r"quadrants([1-3])", _quadrants),
    (r"quadrants([1-3])fixed", _quadrants_fixed),
    (r"pixels([1-9][0-9]?)", _pixels),
    (r"boxes", _boxes),
    (r"strokes", _strokes),
    (r"all", _everything),
)
