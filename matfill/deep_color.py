"""Colour of more than 8 bits, which Pillow reads and writes with 8 only.

PNG and TIFF are read through it twice, and PNG is written by hand; of HEIC, pillow-heif itself does both.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from matfill.errors import ImageError

# PNG colour type by number of channels: grey, grey + alpha, RGB, RGB + alpha
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def read_16bit(path: Path) -> np.ndarray | None:
    """uint16 (H, W, C) of a 16-bit PNG or TIFF, or of a HEIC file of 10 or 12 bits, which is scaled to 16.

    C = 2 grey + alpha, 3 RGB, 4 RGB + alpha or CMYK; TIFF's are upright. None for any other file; grey of PNG and TIFF
    is left to Pillow, which keeps it. Raises what Pillow raises.
    """
    with Image.open(path) as image:
        if image.format == "HEIF":
            return _read_heif(path) if image.info["bit_depth"] > 8 else None
        if not image.tile:
            return None
        layout = _layout(image.tile[0].args)
    if layout == "LA;16B":  # as wide as 8-bit RGBA, so that it can be read as such: both bytes of grey, both of alpha
        return _read_as(path, "RGBA").view(">u2").astype(np.uint16)
    if not (match := re.fullmatch(r"(RGBA?|CMYK);16([BLN])", layout)):
        return None
    # Pillow keeps the high byte of each value. Told of the other byte order, it keeps the low one.
    mode, order = match.groups()
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    low = _read_as(path, f"{mode};16{'B' if little else 'L'}")
    return _read_as(path, layout).astype(np.uint16) << 8 | low


def _read_heif(path: Path) -> np.ndarray:
    """uint16 (H, W, C), C = 1 grey, 3 RGB, 4 RGB + alpha. ImageError where colours are multiplied by alpha."""
    import pillow_heif  # it is there, or the file had not been opened

    file = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
    if file.premultiplied_alpha:
        raise ImageError("its colours are multiplied by their alpha; save it as a PNG or TIFF file")
    pixels = np.asarray(file)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels | pixels >> file.info["bit_depth"]  # its own bits again in the low ones: white is 65535


def encode_heif(pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    """A HEIC file of uint16 pixels (H, W, C), C as for `encode_png`; `options` are pillow-heif's, `bit_depth` too."""
    import pillow_heif

    height, width, channels = pixels.shape
    out = io.BytesIO()
    mode = {1: "L;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    pillow_heif.encode(mode, (width, height), np.ascontiguousarray(pixels).tobytes(), out, **options)
    return out.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint16 pixels (H, W, C), C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPES[channels], 0, 0, 0)
    values = np.ascontiguousarray(pixels, dtype=">u2").view(np.uint8).reshape(height, -1)
    rows = np.empty((height, 1 + values.shape[1]), np.uint8)
    rows[:, 0] = 1  # filter "Sub": each byte less its left neighbour's, which compresses far better
    rows[:, 1:] = values
    rows[:, 1 + 2 * channels :] -= values[:, : -2 * channels]
    parts = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows.data)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _layout(args: object) -> str:
    """Pillow's name for how the values lie in the file, out of its instructions for one tile."""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _read_as(path: Path, layout: str) -> np.ndarray:
    """The file's uint8 pixels (H, W, C), its values taken to lie as `layout` says."""
    with Image.open(path) as image:
        image.tile = [
            tile._replace(args=(layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout)
            for tile in image.tile
        ]
        return np.array(image)
