"""Image formats: what a file holds besides its pixels, and writing another file like it.

Lossless formats give back exactly the same pixels. A JPEG file is written with its own quantisation tables, so that
what was not filled suffers least.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

from matfill import deep_color, exif, tiff
from matfill.errors import ImageError

PLAIN = ("L", "LA", "RGB", "RGBA")
WEB = ("icc_profile", "exif", "xmp")


@dataclass(frozen=True)
class Format:
    suffixes: tuple[str, ...]  #: the usual one first
    modes: tuple[str, ...]  #: what it holds without loss of depth, inks or alpha; ";16" is 16 bits a channel
    keeps: tuple[str, ...] = ()  #: what of an Origin Pillow's encoder takes
    options: Mapping[str, Any] = field(default_factory=dict)  #: of Pillow's encoder
    quality_replaces: tuple[str, ...] | None = None  #: options that go where one is chosen; None where none can be


#: By Pillow's names of them.
FORMATS = {
    "PNG": Format((".png",), (*PLAIN, "L;16", "LA;16", "RGB;16", "RGBA;16")),
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        ("L", "RGB", "CMYK"),
        (*WEB, "dpi", "comment"),
        {"quality": 95, "subsampling": 0},
        ("qtables",),
    ),
    "WEBP": Format((".webp",), PLAIN, WEB, {"lossless": True, "exact": True}, ("lossless", "exact")),
    "TIFF": Format((".tif", ".tiff"), (*PLAIN, "CMYK", "L;16", "RGB;16", "RGBA;16", "CMYK;16")),
    "AVIF": Format((".avif",), PLAIN, WEB, {"quality": 95, "subsampling": "4:4:4"}, ()),
    "HEIF": Format((".heic", ".heif", ".hif"), PLAIN, WEB, {"quality": 95}, ()),
    "JPEG2000": Format((".jp2",), (*PLAIN, "L;16"), ("comment",)),
    "BMP": Format((".bmp",), ("L", "RGB"), ("dpi",)),
    "PPM": Format((".ppm", ".pgm", ".pnm"), ("L", "RGB")),
    "TGA": Format((".tga",), PLAIN),
}
BY_SUFFIX = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}
#: What pillow-heif tells of HEIC's colours, and takes (ITU-T H.273).
NCLX = ("color_primaries", "transfer_characteristics", "matrix_coefficients", "full_range_flag")
UNSPECIFIED = 2  # among primaries, and transfer characteristics
WITHOUT_GREY = ("WEBP", "AVIF", "HEIF")  # grey becomes RGB, which a profile of grey does not fit

#: Chunks of PNG that stay true of a filled picture and go from file to file as they are.
PNG_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"tEXt", b"zTXt", b"iTXt")
PNG_TEXTS = PNG_CHUNKS[4:]
PNG_HEAD = 8 + 25  # bytes: the signature, and the chunk IHDR
PNG_XMP = b"XML:com.adobe.xmp\0"
#: EXIF and Photoshop's resources written as text: both may hold a thumbnail, and EXIF is kept in a chunk of its own.
RAW_PROFILES = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"Raw profile type 8bim\0")
XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[2-8]')
IPTC = 0x0404  # Photoshop's number of that resource
JPEG_ROOM = 65000  # bytes of one segment, about


@dataclass(frozen=True)
class Origin:
    """What an image file held besides its pixels, and how it held them: all that it takes to write another like it."""

    format: str = ""  #: Pillow's name of it; "" for a picture out of no file
    orientation: int = 1  #: EXIF's: how the pixels are turned on the file; those of a Photo are upright
    encoding: Mapping[str, Any] = field(default_factory=dict)  #: options that repeat how it was encoded
    icc_profile: bytes | None = None
    exif: bytes | None = None  #: a block, its thumbnail blotted out, which would show what is filled
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None  #: of JPEG
    chunks: tuple[tuple[bytes, bytes], ...] = ()  #: (kind, data) of PNG: texts, and what its numbers mean as colours
    dpi: tuple[float, float] | None = None  #: along rows, along columns, as they lie on the file

    def stripped(self) -> Origin:
        """Without all that tells of the photo or its maker: of the description, colours and resolution stay."""
        chunks = tuple(chunk for chunk in self.chunks if chunk[0] not in PNG_TEXTS)
        return replace(self.upright(), exif=None, xmp=None, iptc=None, comment=None, chunks=chunks)

    def upright(self) -> Origin:
        """The same, said of pixels that are stored upright."""
        return replace(
            self,
            orientation=1,
            exif=exif.tidied(self.exif, 1) if self.exif else None,
            xmp=_upright_xmp(self.xmp) if self.xmp else None,
            chunks=tuple((kind, _upright_xmp(data) if PNG_XMP in data else data) for kind, data in self.chunks),
            dpi=self.dpi[::-1] if self.dpi and self.orientation >= 5 else self.dpi,
        )


def _upright_xmp(data: bytes) -> bytes:
    return XMP_ORIENTATION.sub(rb"\g<1>1", data)


# --- reading ---------------------------------------------------------------------------------------------------------


@functools.cache
def register_plugins() -> None:
    """Let Pillow read and write HEIC, where pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def describe(image: Image.Image, path: Path) -> Origin:
    """What the file at `path` holds besides pixels; `image` is it, opened and not loaded yet."""
    info = image.info
    name = "JPEG" if image.format == "MPO" else image.format or ""
    encoding, chunks, block, iptc = {}, (), info.get("exif"), None
    if name == "JPEG":
        encoding = _jpeg_encoding(image)
        iptc = info.get("photoshop", {}).get(IPTC)
    elif name == "TIFF":
        encoding = {"compress": info.get("compression") != "raw"}
        block = tiff.read_exif(image)
        iptc = image.tag_v2.get(ExifTags.Base.IPTCNAA)
    elif name == "PNG":
        chunks, block = _png_chunks(image, path)
    elif name == "HEIF":
        encoding, chunks = _heif_encoding(info)
    turn = exif.orientation(image)
    origin = Origin(
        format=name,
        orientation=turn,
        encoding=encoding,
        icc_profile=_bytes(info.get("icc_profile")),
        exif=exif.tidied(block, turn) if block else None,
        xmp=_bytes(info.get("xmp")),
        iptc=_bytes(iptc),
        comment=_bytes(info.get("comment")),
        chunks=chunks,
        dpi=_dpi(info),
    )
    said = exif.orientation_in(origin.exif or b"")
    return origin if said == turn else origin.upright()  # what XMP alone said, or damaged EXIF, cannot be said again


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _jpeg_encoding(image: Image.Image) -> dict[str, Any]:
    """The options that repeat a JPEG file's quantisation, subsampling and kind."""
    layers, tables = image.layer, image.quantization
    sampling = JpegImagePlugin.get_sampling(image)
    options = {
        "subsampling": max(sampling, 0),  # what Pillow has no name for becomes 4:4:4
        "progressive": bool(image.info.get("progressive")),
        "keep_rgb": len(layers) == 3 and image.info.get("adobe_transform") == 0,
    }
    if layers and all(layer[3] in tables for layer in layers):
        used = [list(tables[layer[3]]) for layer in layers]  # of each channel
        while used[-2:-1] == used[-1:]:  # the last one serves the channels that follow, too
            used.pop()
        options |= {"qtables": used, "quality": -1}
    return options


def _png_chunks(image: Image.Image, path: Path) -> tuple[tuple[tuple[bytes, bytes], ...], bytes | None]:
    """Those of PNG_CHUNKS, and EXIF, wherever they stand in the file."""
    found = []
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in (*PNG_CHUNKS, b"eXIf"):
                found.append((kind, file.read(length)))
                length = 0
            file.seek(length + 4, os.SEEK_CUR)
    block = next((data for kind, data in found if kind == b"eXIf"), None)
    if block is None and any(data.startswith(RAW_PROFILES) for _, data in found):
        with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse the picture
            block = image.getexif().tobytes()
    return tuple(one for one in found if one[0] != b"eXIf" and not one[1].startswith(RAW_PROFILES)), block


def _heif_encoding(info: Mapping[Any, Any]) -> tuple[dict[str, Any], tuple[tuple[bytes, bytes], ...]]:
    """The options that repeat a HEIC file's depth, subsampling and colours, and PNG's chunk for the colours."""
    options = {key: info[key] for key in ("bit_depth", "chroma") if info.get(key)}
    if not (nclx := info.get("nclx_profile")):
        return options, ()
    options |= {key: nclx[key] for key in NCLX}
    meaning = bytes((nclx["color_primaries"], nclx["transfer_characteristics"], 0, 1))  # PNG's: RGB, in the full range
    return options, () if UNSPECIFIED in meaning else ((b"cICP", meaning),)


def _dpi(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if min(x, y) > 0 and max(x, y) < 1e6 else None


# --- writing ---------------------------------------------------------------------------------------------------------


def format_of(path: Path) -> str:
    """Pillow's name of the format that the extension stands for. ImageError where none can be written."""
    name = BY_SUFFIX.get(path.suffix.lower())
    if name is None:
        known = ", ".join(form.suffixes[0] for form in FORMATS.values())
        raise ImageError(f"unknown extension {path.suffix!r}; use one of {known}")
    return name


def encode(
    pixels: np.ndarray, alpha: np.ndarray | None, origin: Origin, name: str, quality: int | None = None
) -> bytes:
    """A file in the format `name`, one of FORMATS, of upright pixels (H, W, 1 grey, 3 RGB or 4 CMYK) and alpha (H, W).

    They are stored upright, but for a JPEG file's back into JPEG: as they lay there, even if on their side, since only
    on the same grid of blocks do they survive nearly unchanged. `quality`, 1 to 100, is for formats that have one.
    ImageError where the format cannot hold the picture.
    """
    form = FORMATS[name]
    space = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}[pixels.shape[2]]
    mode = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}[space]
    if alpha is not None and not ("LA" in form.modes or (alpha == np.iinfo(alpha.dtype).max).all()):
        raise ImageError(f"{name} does not hold transparency like this image's; save it as .png")
    if alpha is not None and "LA" in form.modes:  # else nothing is transparent, and nothing is lost
        pixels, mode = np.concatenate((pixels, alpha[..., None]), axis=2), f"{mode}A"
    if pixels.dtype == np.uint16:
        mode = f"{mode};16"
    same = name == origin.format
    deep_heif = same and name == "HEIF" and pixels.dtype == np.uint16  # the 10 or 12 bits that it had
    if mode not in form.modes and not deep_heif:
        what = " and ".join(["16-bit pixels"] * mode.endswith(";16") + ["CMYK inks"] * (space == b"CMYK"))
        raise ImageError(
            f"{name} does not hold {what} like this image's; save it as .{'tif' if 'C' in mode else 'png'}"
        )

    if not (same and name == "JPEG"):
        origin = origin.upright()
    pixels = np.ascontiguousarray(exif.as_stored(pixels, origin.orientation))
    profile = origin.icc_profile or b""
    if (not same and profile[16:20] != space) or (space == b"GRAY" and name in WITHOUT_GREY):
        origin = replace(origin, icc_profile=None)  # one of other inks or colours says nothing about these
    if name == "TIFF":
        return tiff.encode(
            pixels,
            has_alpha="A" in mode,
            compress=origin.encoding.get("compress", True),
            **{key: getattr(origin, key) for key in ("icc_profile", "exif", "xmp", "iptc", "dpi")},
        )
    if name == "PNG":
        file = deep_color.encode_png(pixels) if pixels.dtype == np.uint16 else _save(pixels, mode, name, {})
        return file[:PNG_HEAD] + b"".join(deep_color.png_chunk(*chunk) for chunk in _chunks(origin)) + file[PNG_HEAD:]
    options = {**form.options, **(origin.encoding if same else {})}
    if quality is not None and form.quality_replaces is not None:
        options = {key: value for key, value in options.items() if key not in form.quality_replaces}
        options["quality"] = quality
    for key in form.keeps:
        value = getattr(origin, key)
        if value and (name != "JPEG" or key == "icc_profile" or len(value) < JPEG_ROOM):
            options[key] = value
    if name == "JPEG" and origin.iptc and len(origin.iptc) < JPEG_ROOM:
        options["extra"] = _iptc_segment(origin.iptc)
    return _save(pixels, mode, name, options)


def _save(pixels: np.ndarray, mode: str, name: str, options: Mapping[str, Any]) -> bytes:
    """The file that Pillow, or its plugin, makes of them."""
    register_plugins()
    Image.init()
    if name not in Image.SAVE:
        how = "pip install pillow-heif" if name == "HEIF" else "install a Pillow that can"
        raise ImageError(f"Pillow cannot write {name} here; {how}, or save it as .png")
    out = io.BytesIO()
    try:
        if name == "HEIF" and pixels.dtype == np.uint16:
            return deep_color.encode_heif(pixels, options)
        if mode == "CMYK":
            image = Image.frombuffer(mode, pixels.shape[1::-1], pixels, "raw", mode, 0, 1)
        else:
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(out, name, **options)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise ImageError(f"Pillow cannot make it {name} ({' '.join(str(error).split())}); save it as .png") from None
    return out.getvalue()


def _chunks(origin: Origin) -> Iterator[tuple[bytes, bytes]]:
    """The chunks that go between the head of a PNG file and its pixels."""
    if origin.icc_profile:
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(origin.icc_profile)
    yield from (chunk for chunk in origin.chunks if not (chunk[0] == b"sRGB" and origin.icc_profile))
    if origin.xmp and not any(data.startswith(PNG_XMP) for _, data in origin.chunks):
        yield b"iTXt", PNG_XMP + bytes(4) + origin.xmp
    if origin.dpi:
        yield b"pHYs", struct.pack(">IIB", *(round(x / 0.0254) for x in origin.dpi), 1)
    if origin.exif:
        yield b"eXIf", origin.exif.removeprefix(exif.PREFIX)


def _iptc_segment(iptc: bytes) -> bytes:
    """A segment of a JPEG file that holds nothing else, as Photoshop writes it."""
    resource = b"8BIM" + struct.pack(">HHI", IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    data = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(data) + 2) + data
