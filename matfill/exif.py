"""EXIF: which way up a picture is, and blocks changed in place.

In place, whatever is not meant stays where it is, byte by byte, as maker notes need.
A block is a small TIFF file: a header, a directory (IFD0) of entries of 12 bytes (tag, type, number, value or where the
value lies), and where the next directory is (IFD1, which describes a thumbnail), 0 for nowhere.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.Image import Transpose

PREFIX = b"Exif\0\0"  # of a block in a JPEG file, and of all that Pillow hands out
ORIENTATION = 0x0112
INTEGERS = {3: "H", 4: "I"}  # those of TIFF's types of whole numbers that are in use
THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # tags of where the thumbnail's bytes lie and how many: JPEG, plain


#: What turns the stored pixels upright, by orientation; 1 needs nothing.
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


# --- which way up ----------------------------------------------------------------------------------------------------


def orientation(image: Image.Image) -> int:
    """1 to 8, from the EXIF or XMP of an image just opened; 1, upright, where nothing sensible is said."""
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse the picture
        found = image.getexif().get(ORIENTATION, 1)
        return found if found in TURNS else 1
    return 1


def upright(image: Image.Image) -> Image.Image:
    """The image, loaded, its pixels turned as its orientation says; what else it carries is left as it is."""
    image.load()  # which turns a TIFF file, and forgets its orientation
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels (H, W, C) as a file of that orientation holds them; a view."""
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)
    flip = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    down, across = flip.get(orientation, (1, 1))
    return upright[::down, ::across]


def as_seen(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The other way round: what `as_stored` made of upright pixels, upright again; a view."""
    return as_stored(stored, {6: 8, 8: 6}.get(orientation, orientation))


# --- blocks ----------------------------------------------------------------------------------------------------------


def orientation_in(block: bytes) -> int:
    """What an EXIF block says, 1 to 8; 1 where it says nothing sensible."""
    with contextlib.suppress(struct.error, ValueError):
        data, order, start = _open(block)
        for tag, kind, number, at in _entries(data, order, start):
            if tag == ORIENTATION and number == 1 and kind in INTEGERS:
                value = _number(data, order, kind, at)
                return value if value in TURNS else 1
    return 1


def tidied(block: bytes, turn: int) -> bytes | None:
    """The same block, its orientation (where it has one) set to `turn` and its thumbnail blotted out and unlinked.

    The thumbnail would show what has been filled. None where the block is too damaged to be read.
    """
    try:
        data, order, start = _open(block)
        for tag, kind, number, at in _entries(data, order, start):
            if tag == ORIENTATION and number == 1 and kind in INTEGERS:
                struct.pack_into(order + INTEGERS[kind], data, at, turn)
        (count,) = struct.unpack_from(order + "H", data, start)
        link = start + 2 + 12 * count
        (second,) = struct.unpack_from(order + "I", data, link)
    except (struct.error, ValueError):
        return None
    if second:
        with contextlib.suppress(struct.error):  # a damaged IFD1 is unlinked all the same
            found = {tag: (kind, number, at) for tag, kind, number, at in _entries(data, order, second)}
            for pair in THUMBNAILS:
                if all(found.get(tag, (0, 0, 0))[1] == 1 and found[tag][0] in INTEGERS for tag in pair):
                    where, length = (_number(data, order, *found[tag][::2]) for tag in pair)
                    end = min(where + length, len(data))
                    data[where:end] = bytes(max(end - where, 0))
        struct.pack_into(order + "I", data, link, 0)
    return PREFIX + bytes(data)


def _open(block: bytes) -> tuple[bytearray, str, int]:
    """The block without its prefix, struct's sign for its byte order, where IFD0 begins. ValueError for no block."""
    while block.startswith(PREFIX):
        block = block[len(PREFIX) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("no EXIF")
    return bytearray(block), order, struct.unpack_from(order + "I", block, 4)[0]


def _entries(data: bytearray, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, number, where the value field is) of each entry of the directory at `start`."""
    (count,) = struct.unpack_from(order + "H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        yield *struct.unpack_from(order + "HHI", data, at), at + 8


def _number(data: bytearray, order: str, kind: int, at: int) -> int:
    return struct.unpack_from(order + INTEGERS[kind], data, at)[0]
