"""TIFF files by hand: Pillow writes neither 16-bit colour nor, into a compressed file, the directories of EXIF and GPS.

Its class for TIFF directories does the greater part of the work.
"""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import ExifTags, Image, TiffTags
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

STRIP = 2**18  # bytes of pixels compressed at a time, about
RAW, DEFLATE = 1, 8  # TIFF's numbers of compressions
GREY, RGB, INKS = 1, 2, 5  # TIFF's numbers of kinds of colour
DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)

#: Tags that say something of the picture rather than of how it lies in the file.
DESCRIPTIVE = {
    Base.DocumentName,
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.Orientation,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Copyright,
    Base.Rating,
    Base.RatingPercent,
    Base.XPTitle,
    Base.XPComment,
    Base.XPAuthor,
    Base.XPKeywords,
    Base.XPSubject,
    *DIRECTORIES,
}


def read_exif(image: Image.Image) -> bytes | None:
    """What an open TIFF file says of its picture, as an EXIF block; to be asked before the pixels are loaded."""
    found, kept = image.getexif(), Image.Exif()
    for tag in DESCRIPTIVE & set(found):
        kept[tag] = dict(found.get_ifd(tag)) if tag in DIRECTORIES else found[tag]
    return kept.tobytes() if kept else None


def encode(
    pixels: np.ndarray,
    *,
    has_alpha: bool = False,
    compress: bool = True,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """A TIFF file of uint8 or uint16 pixels (H, W, C): grey, RGB or CMYK, followed by alpha if `has_alpha`."""
    height, width, channels = pixels.shape
    ifd = ImageFileDirectory_v2(prefix=b"II")
    if exif:
        block = Image.Exif()
        block.load(exif)
        for tag in DESCRIPTIVE & set(block):
            ifd[tag] = dict(block.get_ifd(tag)) if tag in DIRECTORIES else block[tag]
    for tag, value in ((Base.XMLPacket, xmp), (Base.IPTCNAA, iptc), (Base.InterColorProfile, icc_profile)):
        if value:
            ifd[tag] = value
    if dpi:
        ifd[Base.XResolution], ifd[Base.YResolution], ifd[Base.ResolutionUnit] = *dpi, 2  # per inch
    strips, rows = _strips(pixels, compress)
    ends = np.cumsum([len(strip) for strip in strips]).tolist()
    ifd[Base.ImageWidth], ifd[Base.ImageLength] = width, height
    ifd[Base.BitsPerSample] = (8 * pixels.itemsize,) * channels
    ifd[Base.SamplesPerPixel] = channels
    ifd[Base.PhotometricInterpretation] = {1: GREY, 3: RGB, 4: INKS}[channels - has_alpha]
    ifd[Base.PlanarConfiguration] = 1  # the channels of a pixel side by side
    ifd[Base.Compression] = DEFLATE if compress else RAW
    if compress:
        ifd[Base.Predictor] = 2  # each value less its left neighbour's
    if has_alpha:
        ifd[Base.ExtraSamples] = 2  # alpha by which the colours are not multiplied
    ifd[Base.RowsPerStrip] = rows
    ifd[Base.StripByteCounts] = tuple(len(strip) for strip in strips)
    ifd[Base.StripOffsets] = (0, *ends[:-1])  # the directory adds its own length
    ifd.tagtype[Base.StripByteCounts] = ifd.tagtype[Base.StripOffsets] = TiffTags.LONG
    file = io.BytesIO()
    ifd.save(file)
    for strip in strips:
        file.write(strip)
    return file.getvalue()


def _strips(pixels: np.ndarray, compress: bool) -> tuple[list[bytes], int]:
    """The bytes of each strip of rows, and how many rows make one."""
    rows = max(1, STRIP // max(pixels[0].nbytes, 1))
    strips = []
    for top in range(0, len(pixels), rows):
        part = np.ascontiguousarray(pixels[top : top + rows], dtype=pixels.dtype.newbyteorder("<"))
        if compress:
            steps = part.copy()
            steps[:, 1:] -= part[:, :-1]
            strips.append(zlib.compress(steps))
        else:
            strips.append(part.tobytes())
    return strips, rows
