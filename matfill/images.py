"""Image files <-> arrays. What the model did not fill is saved exactly as it was read.

A file is turned upright as its EXIF says, and its depth (8 or 16 bits), alpha, colour profile and EXIF are kept.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from matfill import deep_color
from matfill.errors import ImageError, MaskError
from matfill.files import write_atomic

LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R 601, as Pillow has it
READ_MODES = ("L", "LA", "RGB", "RGBA", "I;16")  # what `upright` returns; I;16 is 16-bit grey
WHITE = 128  # the darkest 8-bit grey that counts as white in a mask

# By extension: Pillow's name of the format, the modes it holds without loss of depth or alpha, and how it is written.
FORMATS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    ".png": ("PNG", ("L", "LA", "RGB", "RGBA"), {}),
    ".jpg": ("JPEG", ("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", ("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", ("L", "LA", "RGB", "RGBA"), {"lossless": True, "exact": True}),
    ".tif": ("TIFF", READ_MODES, {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", READ_MODES, {"compression": "tiff_deflate"}),
    ".bmp": ("BMP", ("L", "RGB"), {}),
}


# --- decoding --------------------------------------------------------------------------------------------------------


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says, in one of READ_MODES.

    1-bit becomes grey; palettes, CMYK and other colour spaces become RGB; transparency of any kind becomes alpha.
    ImageError where the pixels are 32 bits deep, since nothing says what their black and white are.
    """
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.PlanarConfiguration) == 2 and 16 in tags.get(ExifTags.Base.BitsPerSample, ()):
        raise ImageError("its 16-bit channels lie in separate planes; save it again with interleaved ones")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ImageError("its pixels are 32 bits deep; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        values = Image.fromarray(np.asarray(image).astype(np.uint16))
        values.info = image.info
        return values
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode in READ_MODES and "transparency" not in image.info:
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    transparent = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    return image.convert(("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB"))


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """sRGB, by way of the image's own profile where it has a usable one; inks cannot be told from numbers alone."""
    if profile := image.info.get("icc_profile"):
        with contextlib.suppress(ImageCms.PyCMSError):
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
            if converted is not None:
                converted.info = image.info | converted.info
                return converted
    return image.convert("RGB")


def decode(image: Image.Image, channels: int) -> Image.Image:
    """`image` as 8-bit grey (`channels` 1, mode L) or RGB (3), upright; what is transparent shows white."""
    image = upright(image)
    if image.mode == "I;16":
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("LA", "RGBA"):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert(image.mode[:-1])
    return image.convert("L" if channels == 1 else "RGB")


def decode_square(path: str | os.PathLike[str], size: int, channels: int, fit: str) -> np.ndarray:
    """One image file as uint8 (size, size, channels), antialiased. Raises whatever Pillow raises.

    `fit` "crop" takes the largest centred square, "squeeze" the whole frame.
    """
    with Image.open(path) as image:
        image.draft(None, (3 * size, 3 * size))  # JPEG: decode at 1/2, 1/4 or 1/8, while well above what is needed
        image = decode(image, channels)
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    image = image.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(image).reshape(size, size, channels)


# --- photos ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image at its file's own depth, and what is needed to save it again."""

    pixels: np.ndarray  #: uint8 or uint16 (H, W, C); C = 1 grey, 3 RGB
    alpha: np.ndarray | None = None  #: (H, W), of the same depth; 0 is transparent
    icc_profile: bytes | None = None  #: of grey where C = 1, of RGB where C = 3
    exif: bytes | None = None  #: without orientation and thumbnail
    dpi: tuple[float, float] | None = None  #: horizontal, vertical

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def view(self, channels: int) -> np.ndarray:
        """What a model of `channels` (1 grey, 3 RGB) sees: float32 (H, W, channels) in [0, 1]; alpha is ignored."""
        values = self.pixels / np.float32(np.iinfo(self.pixels.dtype).max)
        return _with_channels(values, channels)

    def composite(self, filling: np.ndarray, missing: np.ndarray) -> Photo:
        """This photo with `filling`, float32 (H, W, 1 or 3) in [0, 1], where `missing`, bool (H, W), is True.

        All other pixels keep their exact values; so does alpha everywhere. Values beyond [0, 1] are clipped.
        """
        size = (self.height, self.width)
        if missing.shape != size:
            raise MaskError(f"the mask is {_size(missing)} but the image {_size(self.pixels)}; make them the same")
        if filling.shape[:2] != size:
            raise ImageError(f"the filling is {_size(filling)} but the image {_size(self.pixels)}")
        white = np.iinfo(self.pixels.dtype).max
        inside = _with_channels(filling[missing].astype(np.float32), self.pixels.shape[2])
        pixels = self.pixels.copy()
        pixels[missing] = np.rint(np.clip(inside, 0, 1) * np.float32(white)).astype(pixels.dtype)
        return replace(self, pixels=pixels)


def load_photo(path: str | os.PathLike[str]) -> Photo:
    """The image file at `path`. ImageError, in one line, for whatever cannot be read as a single image."""
    path = Path(path)
    with _reading(path), Image.open(path) as image:
        _require_single(image)
        key = image.info.get("transparency")  # a colour to be taken for transparent: Pillow knows it with 8 bits only
        image = upright(image)
        pixels = deep_color.read_16bit(path)
        if pixels is None:
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
    alpha = None
    if pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    elif pixels.dtype == np.uint16 and key is not None:
        alpha = np.where((pixels == key).all(axis=2), 0, 65535).astype(np.uint16)
    space = b"GRAY" if pixels.shape[2] == 1 else b"RGB "
    profile = image.info.get("icc_profile") or b""
    return Photo(
        np.ascontiguousarray(pixels),
        None if alpha is None else np.ascontiguousarray(alpha),
        profile if profile[16:20] == space else None,  # a profile of CMYK inks says nothing about RGB
        _exif(image),
        _dpi(image),
    )


def save_photo(photo: Photo, path: str | os.PathLike[str]) -> None:
    """Write `photo` to `path`, whole or not at all, in the format its extension names; see FORMATS.

    All but JPEG give back exactly the same pixels. ImageError where the format cannot hold them, or on a full disk.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ImageError(f"cannot save {path}: unknown extension {path.suffix!r}; use one of {', '.join(FORMATS)}")
    try:
        write_atomic(path, _encode(photo, path))
    except FileNotFoundError:
        raise ImageError(f"cannot save {path}: there is no folder {path.parent}; create it first") from None
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full; free some space" if full else (error.strerror or str(error))
        raise ImageError(f"cannot save {path}: {reason}") from None


def _encode(photo: Photo, path: Path) -> bytes:
    """The bytes of the file that `path` is to be."""
    name, modes, options = FORMATS[path.suffix.lower()]
    pixels = photo.pixels if photo.alpha is None else np.concatenate((photo.pixels, photo.alpha[..., None]), axis=2)
    meta = {"icc_profile": photo.icc_profile, "exif": photo.exif, "dpi": photo.dpi}
    deep = pixels.dtype == np.uint16
    if deep and name == "PNG":
        return deep_color.encode_png(pixels, **meta)
    channels = pixels.shape[2]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    if deep:
        mode = "I;16" if channels == 1 else f"{mode};16"
    if mode not in modes:
        what = " and ".join(["16-bit pixels"] * deep + ["transparency"] * (photo.alpha is not None))
        raise ImageError(f"cannot save {path}: {name} does not hold {what} like this image's; save it as .png")
    if name == "WEBP" and photo.pixels.shape[2] == 1:
        meta["icc_profile"] = None  # it has no grey: the values are stored as RGB, which a grey profile does not fit
    out = io.BytesIO()
    try:
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        image.save(out, name, **options, **{key: value for key, value in meta.items() if value})
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot save {path} as {name}: {error}; save it as .png") from None
    return out.getvalue()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn all that may go wrong while Pillow reads `path` into an ImageError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata and on large images
            yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"there is no image {path}; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder; give one image file") from None
    except PermissionError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image of a known format; give a PNG, JPEG, WebP or TIFF file") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ImageError(f"{path} has more than {limit} million pixels; scale it down") from None
    except Exception as error:  # Pillow's plugins raise anything at all on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path} is damaged or cut short: {reason}") from None


def _require_single(image: Image.Image) -> None:
    """ImageError for animations and pages; previews inside a JPEG (MPO) and the layers of a PSD are no frames."""
    frames = 1 if image.format in ("MPO", "PSD") else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"it holds {frames} frames or pages; save the one you want as a file of its own")


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block of an upright image; written anew, which leaves the thumbnail behind: it shows what is filled."""
    if not image.info.get("exif"):
        return None
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse the image
        exif = image.getexif()
        return exif.tobytes() if exif else None
    return None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if min(x, y) > 0 and max(x, y) < 1e6 else None


def _with_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """float32 (..., 1 or 3) as grey (`channels` 1: luma) or RGB (3: the grey, three times)."""
    if values.shape[-1] == channels:
        return values
    return (values @ LUMA)[..., None] if channels == 1 else np.repeat(values, 3, axis=-1)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


# --- masks -----------------------------------------------------------------------------------------------------------


def load_mask(path: str | os.PathLike[str], width: int, height: int, *, invert: bool = False) -> np.ndarray:
    """The mask file at `path`, bool (height, width), True where it is white (luma >= 128 of 255); alpha is ignored.

    `invert` takes black for missing instead. MaskError where it cannot be read, is of another size, or marks nothing.
    """
    try:
        photo = load_photo(path)
    except ImageError as error:
        raise MaskError(f"mask: {error}") from None
    if (photo.width, photo.height) != (width, height):
        size = _size(photo.pixels)
        raise MaskError(f"the mask {path} is {size} but the image {width}x{height}; give one of the same size")
    missing = (np.rint(photo.view(1)[..., 0] * 255) >= WHITE) != invert
    if not missing.any():
        color = "black" if invert else "white"
        raise MaskError(f"the mask {path} marks nothing as missing; paint {color} what is to be filled, or invert it")
    return missing


def save_mask(missing: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a mask, bool (H, W), as a grey image: white = missing. Raises like `save_photo`."""
    save_photo(Photo(np.where(missing, np.uint8(255), np.uint8(0))[..., None]), path)
