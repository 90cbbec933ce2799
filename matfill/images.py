"""Image files <-> arrays. What the model did not fill is saved exactly as it was read.

A photo is upright, at its file's own depth (8 or 16 bits) and in its own inks; what else the file held is kept beside.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from matfill import deep_color, exif, formats
from matfill.errors import ImageError, MaskError
from matfill.files import write_atomic
from matfill.formats import Origin, format_of

LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R 601, as Pillow has it
WHITE = 128  # the darkest 8-bit grey that counts as white in a mask


# --- decoding --------------------------------------------------------------------------------------------------------


def plain(image: Image.Image) -> Image.Image:
    """`image` as L, LA, RGB, RGBA, CMYK or I;16, which is 16-bit grey.

    1-bit becomes grey; palettes and other colour spaces become RGB; transparency of any kind becomes alpha. ImageError
    where the pixels are 32 bits deep, since nothing says what their black and white are.
    """
    mode = image.mode
    if mode in ("I", "F"):
        raise ImageError("its pixels are 32 bits deep; convert it to 8 or 16 bits")
    if mode.startswith("I;16"):
        values = Image.fromarray(np.asarray(image).astype(np.uint16))
        values.info = image.info
        return values
    clear = "transparency" in image.info and mode != "CMYK"
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK") and not clear:
        return image
    if mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise ImageError(f"its colours ({mode}) are of a kind that cannot be kept; convert it to RGB")
    grey = mode in ("1", "L", "LA", "La")
    clear = clear or mode in ("LA", "La", "PA", "RGBA", "RGBa")
    return image.convert(("LA" if grey else "RGBA") if clear else ("L" if grey else "RGB"))


def decode(image: Image.Image, channels: int) -> Image.Image:
    """`image` as 8-bit grey (`channels` 1, mode L) or RGB (3), upright; what is transparent shows white."""
    image = plain(exif.upright(image))
    if image.mode == "I;16":
        image = Image.fromarray(_in_8_bits(np.asarray(image)))
    elif image.mode == "CMYK":
        image = _inks_to_rgb(image, image.info.get("icc_profile"))
    elif image.mode in ("LA", "RGBA"):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert(image.mode[:-1])
    return image.convert("L" if channels == 1 else "RGB")


def _in_8_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16, rounded."""
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _inks_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK as sRGB, by way of its profile where that is usable; inks cannot be told from numbers alone."""
    return _by_profile(image, profile, "RGB") or image.convert("RGB")


def _rgb_to_inks(image: Image.Image, profile: bytes | None) -> Image.Image:
    """sRGB as CMYK, likewise."""
    return _by_profile(image, profile, "CMYK") or image.convert("CMYK")


def _by_profile(image: Image.Image, profile: bytes | None, mode: str) -> Image.Image | None:
    """`image` between sRGB and the inks of `profile`, as `mode`; None where the profile cannot tell."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            ends = (ImageCms.createProfile("sRGB"), ImageCms.getOpenProfile(io.BytesIO(profile)))
            return ImageCms.profileToProfile(image, *(ends if mode == "CMYK" else ends[::-1]), outputMode=mode)
    return None


# --- photos ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image at its file's own depth, and what is needed to save it again."""

    pixels: np.ndarray  #: uint8 or uint16 (H, W, C); C = 1 grey, 3 RGB, 4 CMYK
    alpha: np.ndarray | None = None  #: (H, W), of the same depth; 0 is transparent
    origin: Origin = field(default_factory=Origin)  #: what else its file held

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def view(self, channels: int) -> np.ndarray:
        """What a model of `channels` (1 grey, 3 RGB) sees: (H, W, channels), uint8 or uint16; alpha is ignored."""
        pixels = self.colors() if self.pixels.shape[2] == 4 else self.pixels
        if pixels.shape[2] == 3 and channels == 1:
            return np.rint(_with_channels(pixels, 1)).astype(pixels.dtype)
        return _with_channels(pixels, channels)

    def colors(self, step: int = 1) -> np.ndarray:
        """RGB of every `step`-th pixel, (h, w, 3), of the photo's depth, or uint8 where it is in CMYK."""
        pixels = self.pixels[::step, ::step]
        return self._rgb(pixels) if pixels.shape[2] == 4 else np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def preview(self, side: int) -> np.ndarray:
        """Its colours on a screen, no side longer than `side`: uint8 (h, w, 3); alpha is ignored."""
        shrink = max(self.pixels.shape[:2]) / side
        image = Image.fromarray(_in_8_bits(self.colors(max(int(shrink) // 4, 1))))  # more pixels would not show
        if shrink > 1:
            size = tuple(max(1, round(length / shrink)) for length in (self.width, self.height))
            image = image.resize(size, Image.Resampling.BOX)
        return np.asarray(image)

    def composite(self, filling: np.ndarray, missing: np.ndarray) -> Photo:
        """This photo with `filling`, float32 (n, 1 or 3) in [0, 1], at the n pixels where `missing`, bool (H, W), is.

        All other pixels keep their exact values; so does alpha everywhere. Values beyond [0, 1] are clipped.
        """
        if missing.shape != (self.height, self.width):
            raise MaskError(f"the mask is {_size(missing)} but the image {_size(self.pixels)}; make them the same")
        pixels = self.pixels.copy()
        pixels[missing] = self._as_pixels(filling)
        return replace(self, pixels=pixels)

    def _as_pixels(self, values: np.ndarray) -> np.ndarray:
        """float32 (N, 1 or 3) in [0, 1] in this photo's own depth and channels, (N, C)."""
        channels = self.pixels.shape[2]
        values = np.clip(_with_channels(values, min(channels, 3)), 0, 1)
        if channels < 4:
            white = np.iinfo(self.pixels.dtype).max
            return np.rint(values * np.float32(white)).astype(self.pixels.dtype)
        image = Image.fromarray(np.rint(values * np.float32(255)).astype(np.uint8)[None])
        inks = np.asarray(_rgb_to_inks(image, self.origin.icc_profile))[0]
        return inks if self.pixels.dtype == np.uint8 else inks.astype(np.uint16) * 257

    def _rgb(self, inks: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of CMYK (H, W, 4)."""
        inks = np.ascontiguousarray(_in_8_bits(inks))
        image = Image.frombuffer("CMYK", inks.shape[1::-1], inks, "raw", "CMYK", 0, 1)
        return np.asarray(_inks_to_rgb(image, self.origin.icc_profile))


def load_photo(path: str | os.PathLike[str]) -> Photo:
    """The image file at `path`. ImageError, in one line, for whatever cannot be read as a single image."""
    path = Path(path)
    with _reading(path), opened(path) as image:
        _require_single(image)
        _require_depth(image, path)
        key = image.info.get("transparency")  # a colour to be taken for transparent: Pillow knows it with 8 bits only
        origin = formats.describe(image, path)
        pixels = deep_color.read_16bit(path)
        if pixels is None:
            image = plain(exif.upright(image))
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
        elif image.format != "TIFF":  # Pillow turns those as it loads them
            pixels = exif.as_seen(pixels, exif.orientation(image))
    alpha = None
    if pixels.shape[2] in (2, 4) and image.mode != "CMYK":
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    elif pixels.dtype == np.uint16 and key is not None:
        alpha = np.where((pixels == key).all(axis=2), 0, 65535).astype(np.uint16)
    return Photo(np.ascontiguousarray(pixels), None if alpha is None else np.ascontiguousarray(alpha), origin)


def save_photo(
    photo: Photo, path: str | os.PathLike[str], *, quality: int | None = None, format: str | None = None
) -> None:
    """Write `photo` to `path`, whole or not at all, in the format its extension names, or in `format` (of FORMATS).

    Lossless formats give back exactly the same pixels; `quality`, 1 to 100, is for the others and for WebP. ImageError
    where the format cannot hold the photo, or the system will not have the file.
    """
    path = Path(path)
    try:
        write_atomic(path, formats.encode(photo.pixels, photo.alpha, photo.origin, format or format_of(path), quality))
    except ImageError as error:
        raise ImageError(f"cannot save {path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"cannot save {path}: there is no folder {path.parent}; create it first") from None
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full; free some space" if full else (error.strerror or str(error))
        raise ImageError(f"cannot save {path}: {reason}") from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image file, opened and not loaded. A named pipe would be waited for, a device read for ever: neither is."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise ImageError("it is no regular file; give an image file")
    formats.register_plugins()
    with open(path, "rb") as file, Image.open(file) as image:  # by its name, Pillow would map some files wrongly
        yield image


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
    except UnidentifiedImageError:
        heic = path.suffix.lower() in formats.FORMATS["HEIF"].suffixes and "HEIF" not in Image.OPEN
        how = "install pillow-heif to read HEIC" if heic else "give a PNG, JPEG, WebP or TIFF file"
        raise ImageError(f"{path} is not an image of a known format; {how}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ImageError(f"{path} has more than {limit} million pixels; scale it down") from None
    except MemoryError:
        raise ImageError(f"{path} does not fit in memory; scale it down") from None
    except Exception as error:  # Pillow's plugins raise anything at all on a damaged file
        if isinstance(error, OSError) and error.filename is not None:
            raise ImageError(f"cannot read {path}: {error.strerror}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path} is damaged or cut short: {reason}") from None


def _require_single(image: Image.Image) -> None:
    """ImageError for animations and pages; previews inside a JPEG (MPO) and the layers of a PSD are no frames."""
    frames = 1 if image.format in ("MPO", "PSD") else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"it holds {frames} frames or pages; save the one you want as a file of its own")


def _require_depth(image: Image.Image, path: Path) -> None:
    """ImageError where Pillow would read 16 bits as 8 without a word, or planes as if they were interleaved."""
    deep = False
    if image.format == "TIFF":
        tags = image.tag_v2
        deep = 16 in tags.get(ExifTags.Base.BitsPerSample, ())
        if deep and tags.get(ExifTags.Base.PlanarConfiguration) == 2:
            raise ImageError("its 16-bit channels lie in separate planes; save it again with interleaved ones")
        if deep and tags.get(ExifTags.Base.ExtraSamples, (2,))[0] != 2:
            raise ImageError("its fourth 16-bit channel is no plain alpha; save it again with such, or without")
        return
    if image.format == "PPM" and image.mode == "RGB":
        deep = isinstance(image.tile[0].args, tuple) and image.tile[0].args[1] > 255
    elif image.format == "JPEG2000" and image.mode != "I;16":
        with open(path, "rb") as file:
            _, found, size = file.read(2**16).partition(b"\xff\x4f\xff\x51")
        deep = bool(found) and size[38] & 127 > 7
    if deep:
        raise ImageError(f"its 16-bit channels cannot be read from {image.format}; save it as a PNG or TIFF file")


def _with_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """float32 (..., 1 or 3) as grey (`channels` 1: luma) or RGB (3: the grey, three times)."""
    if values.shape[-1] == channels:
        return values
    return (values @ LUMA)[..., None] if channels == 1 else np.repeat(values, 3, axis=-1)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


# --- masks -----------------------------------------------------------------------------------------------------------


def load_mask(
    path: str | os.PathLike[str], width: int, height: int, *, invert: bool = False, threshold: int = WHITE
) -> np.ndarray:
    """The mask file at `path`, bool (height, width), True where its luma is `threshold` (of 255) or more.

    `invert` takes all the rest for missing instead; alpha is ignored. MaskError where it cannot be read or is of
    another size.
    """
    path = Path(path)
    try:
        with _reading(path), opened(path) as image:
            _require_single(image)
            missing = mask_of(plain(exif.upright(image)), threshold)
    except ImageError as error:
        raise MaskError(f"mask: {error}") from None
    if missing.shape != (height, width):
        turned = missing.shape == (width, height)
        hint = "; a photo is taken as it looks, turned as its EXIF says" if turned and width != height else ""
        size = _size(missing)
        raise MaskError(f"the mask {path} is {size} but the image {width}x{height}; give one of the same size{hint}")
    return ~missing if invert else missing


def mask_of(image: Image.Image, threshold: int = WHITE) -> np.ndarray:
    """An image as a mask, bool (H, W): True where its luma is `threshold` (of 255) or more; alpha is ignored."""
    image = plain(image)
    if image.mode == "I;16":
        return _in_8_bits(np.asarray(image)) >= threshold
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
    return np.asarray(image.convert("L")) >= threshold


def save_mask(missing: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a mask, bool (H, W), as a grey image: white = missing. Raises like `save_photo`."""
    save_photo(Photo(np.where(missing, np.uint8(255), np.uint8(0))[..., None]), path)
