"""Windows: where, at which scale and in which order a model looks at a photo to fill its holes.

A hole that fits well into a window is filled in one look, at the photo's own resolution. Where a hole is deep, so that
a window in its middle would see nothing but hole, a photo of half the resolution is filled there first; and so on,
octave by octave. Windows overlap, and each fills only its core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

GRID = 8  # blocks along the side of a window: what is deep, and what belongs together, is told by blocks
CORE = 4  # blocks along the side of a core, where a hole takes several
ALONE = 5  # blocks along the longer side of the largest hole that is filled in one look


@dataclass(frozen=True)
class Window:
    """What is looked at, and what of it is filled. Beyond its edges a photo goes on mirrored."""

    top: int  #: of the window, even; may lie outside the photo
    left: int
    core: tuple[slice, slice]  #: rows and columns of the photo

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the core within the window."""
        (rows, columns), top, left = self.core, self.top, self.left
        return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)

    def take(self, image: np.ndarray, size: int, margin: int = 0, shrink: int = 1) -> np.ndarray:
        """The window's part of image (H, W, ...), `size` pixels large and `margin` more on every side.

        `shrink` is the number of pixels of the window's own octave along one of the image's.
        """
        tops = (self.top // shrink, self.left // shrink)
        rows, columns = (
            _mirrored(np.arange(top - margin, top + size + margin), length)
            for top, length in zip(tops, image.shape, strict=False)
        )
        return image[rows[:, None], columns]


@dataclass(frozen=True, eq=False)
class Octave:
    """A photo, or its part around the holes, at one scale."""

    pixels: np.ndarray  #: (H, W, C), 0 where missing
    missing: np.ndarray  #: bool (H, W)
    wanted: np.ndarray  #: bool (H, W), what of it is filled at this scale
    turns: list[list[Window]]  #: windows that do not overlap, turn by turn


def surroundings(missing: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns of all that a model with windows of `size` pixels looks at to fill `missing` (H, W)."""
    rows, columns = (np.flatnonzero(missing.any(axis)) for axis in (1, 0))
    box = missing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    reach = size
    while max(box.shape) > size and deep(box, size).any():
        box = halved(None, box)[1]
        reach *= 2
    spans = []
    for found, length in zip((rows, columns), missing.shape, strict=True):
        start = max(found[0] - reach, 0) // reach * reach  # a grid of its own would shift the coarser pixels
        spans.append(slice(int(start), int(min(found[-1] + reach + 1, length))))
    return spans[0], spans[1]


def octaves(pixels: np.ndarray, missing: np.ndarray, size: int) -> list[Octave]:
    """The octaves in which to fill `missing` (H, W) of pixels (H, W, C) of 8 or 16 bits, the finest first."""
    pixels = np.where(missing[..., None], pixels.dtype.type(0), pixels)
    wanted, found = missing, []
    while True:
        found.append(Octave(pixels, missing, wanted, turns(windows(wanted, size), size)))
        below = deep(missing, size) if max(missing.shape) > size else np.zeros((1, 1), bool)
        if not below.any():
            return found
        block = size // GRID
        near = dilated(dilated(below)).repeat(block, 0).repeat(block, 1)[: missing.shape[0], : missing.shape[1]]
        pixels, missing = halved(pixels, missing)
        wanted = missing & _pooled(near, 2, np.any)


def halved(pixels: np.ndarray | None, missing: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Half the resolution of pixels (H, W, C), 0 where `missing` (H, W): means of what is known of each 2x2 pixels.

    A pixel is missing where less than half of it is known.
    """
    even = [(0, length % 2) for length in missing.shape]
    missing = np.pad(missing, even, mode="edge")
    count = np.zeros([length // 2 for length in missing.shape], np.uint8)
    quarters = [(slice(i, None, 2), slice(j, None, 2)) for i in (0, 1) for j in (0, 1)]
    for quarter in quarters:
        count += ~missing[quarter]
    if pixels is None:
        return None, count < 2
    if any(odd for _, odd in even):
        pixels = np.pad(pixels, [*even, (0, 0)], mode="edge")
    total = np.zeros((*count.shape, pixels.shape[2]), np.uint16 if pixels.dtype == np.uint8 else np.uint32)
    for quarter in quarters:
        total += pixels[quarter]
    weight = np.maximum(count, 1).astype(total.dtype)[..., None]
    total += weight // 2
    total //= weight
    total[count < 2] = 0
    return total.astype(pixels.dtype), count < 2


def deep(missing: np.ndarray, size: int) -> np.ndarray:
    """Blocks of `missing` (H, W) that lie so far inside that a window at this scale cannot tell what belongs there."""
    return ~dilated(~_pooled(missing, size // GRID, np.all))


def dilated(blocks: np.ndarray) -> np.ndarray:
    """Blocks bool (h, w), and all their eight neighbours."""
    for axis in (0, 1):
        wide = np.pad(blocks, [(1, 1) if axis == i else (0, 0) for i in (0, 1)])
        blocks = np.lib.stride_tricks.sliding_window_view(wide, 3, axis).any(-1)
    return blocks


def windows(wanted: np.ndarray, size: int) -> list[Window]:
    """Windows whose cores cover all of `wanted` (H, W): one for a small hole, or several; of a larger one, a grid."""
    block = size // GRID
    cores: list[list[int]] = []  # top, left, bottom, right
    small: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
    for hole in _components(_pooled(wanted, block, np.any)):
        (top, left), (bottom, right) = hole.min(0) * block, (hole.max(0) + 1) * block
        rows, columns = (np.flatnonzero(wanted[top:bottom, left:right].any(axis)) for axis in (1, 0))
        box = [int(x) for x in (top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1)]
        if _side(box) <= ALONE * block:
            _add_or_join(small, box, ALONE * block)
            continue
        for rows in _cut(box[0], box[2], CORE * block):
            for columns in _cut(box[1], box[3], CORE * block):
                if wanted[slice(*rows), slice(*columns)].any():
                    cores.append([rows[0], columns[0], rows[1], columns[1]])
    cores += [box for boxes in small.values() for box in boxes]
    return [_around(core, wanted.shape, size) for core in sorted(cores)]


def boxes(missing: np.ndarray, block: int, margin: int) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Rows and columns of every connected hole of `missing` (H, W) and `margin` blocks around it, and the hole in them.

    Holes that are less than about `block` pixels apart count as one.
    """
    found = []
    blocks = _pooled(missing, block, np.any)
    for hole in _components(blocks):
        spans = [
            slice(max(int(start), 0), min(int(stop), length))
            for start, stop, length in zip(hole.min(0) - margin, hole.max(0) + 1 + margin, blocks.shape, strict=True)
        ]
        own = np.zeros(blocks.shape, bool)
        own[tuple(hole.T)] = True
        rows, columns = (
            slice(span.start * block, min(span.stop * block, length))
            for span, length in zip(spans, missing.shape, strict=True)
        )
        part = missing[rows, columns]
        own = own[tuple(spans)].repeat(block, 0).repeat(block, 1)[: part.shape[0], : part.shape[1]]
        found.append(((rows, columns), part & own))
    return found


def turns(found: list[Window], size: int) -> list[list[Window]]:
    """The same windows, so that none overlaps another of its turn: each may rely on what earlier turns filled."""
    order: list[list[Window]] = []
    cells: dict[tuple[int, int], list[tuple[Window, int]]] = defaultdict(list)
    for window in found:
        row, column = window.top // size, window.left // size
        taken = {
            turn
            for cell in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1))
            for other, turn in cells.get(cell, ())
            if abs(other.top - window.top) < size and abs(other.left - window.left) < size
        }
        turn = next(i for i in range(len(taken) + 1) if i not in taken)
        cells[row, column].append((window, turn))
        if turn == len(order):
            order.append([])
        order[turn].append(window)
    return order


def _components(blocks: np.ndarray) -> Iterator[np.ndarray]:
    """Row and column (n, 2) of the blocks of each connected hole."""
    left = set(map(tuple, np.argwhere(blocks).tolist()))
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        found, todo = [start], [start]
        while todo:
            row, column = todo.pop()
            for near in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if near in left:
                    left.remove(near)
                    found.append(near)
                    todo.append(near)
        yield np.array(found)


def _add_or_join(small: dict[tuple[int, int], list[list[int]]], box: list[int], most: int) -> None:
    """Add a box to those found so far, or make one of it and of another close by."""
    row, column = (int(start) // most for start in box[:2])
    for cell in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        for other in small.get(cell, ()):
            joined = [*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:])]
            if _side(joined) <= most:
                other[:] = joined
                return
    small[row, column].append(box)


def _cut(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """A span in parts of about the same length, none longer than `most`."""
    count = -(-(stop - start) // most)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _side(box: list[int]) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _around(core: list[int], shape: tuple[int, ...], size: int) -> Window:
    """The window with a core in its middle, or as near as the photo's edges allow."""
    starts = []
    for start, stop, length in zip(core[:2], core[2:], shape, strict=True):
        wished = (start + stop - size) // 2
        inside = min(max(wished, 0), length - size) if length >= size else (length - size) // 2
        starts.append(int(inside + inside % 2))
    return Window(starts[0], starts[1], (slice(core[0], core[2]), slice(core[1], core[3])))


def _pooled(mask: np.ndarray, block: int, what: Callable[..., np.ndarray]) -> np.ndarray:
    """`what` (np.any or np.all) of every block x block pixels, of a mask; the edge cuts some off."""
    rows, columns = (-length % block for length in mask.shape)
    mask = np.pad(mask, [(0, rows), (0, columns)], constant_values=what is np.all)
    height, width = (length // block for length in mask.shape)
    return what(mask.reshape(height, block, width, block), axis=(1, 3))


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    """Indices of an axis that goes on mirrored at both ends, for ever."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
