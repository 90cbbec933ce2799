"""matfill from Python: pictures in, pictures out.

    import matfill

    model = matfill.load("photos")
    result = model.inpaint(image, missing, samples=4, seed=0)
    result.samples[0].save("filled.png")

A picture is a PIL image or a NumPy array and comes back as what it was: of the same kind, size, mode or dtype (but
palettes come back as RGB), and exactly the same outside the hole. The command line goes through the same class.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from matfill import holes, inpainting
from matfill.checkpoint import load_weights
from matfill.devices import pick_device
from matfill.errors import ImageError, MaskError
from matfill.holes import Hole
from matfill.images import Origin, Photo, mask_of, plain
from matfill.inpainting import Filling, Fillings, fill_together, filling
from matfill.model import MatNet
from matfill.photo_scoring import bits_per_dim

Picture = Image.Image | np.ndarray
Missing = Picture | str | Sequence[str]

_UNREADABLE = (OSError, SyntaxError, ValueError)  # Pillow reads a file only when asked for its pixels


class Work(Protocol):
    """One photo of many, as `Inpainter.fill_all` takes them."""

    photo: Photo
    seed: int

    @property
    def missing(self) -> np.ndarray: ...


SomeWork = TypeVar("SomeWork", bound=Work)


@dataclass(frozen=True, eq=False)
class Inpainted:
    """The fillings of one picture. All pictures are of the kind that was handed in."""

    samples: list[Any]  #: PIL images or arrays
    mean: Any  #: their mean
    std: np.ndarray  #: float32 (H, W), their standard deviation, of a full range of 1; 0 outside the hole
    missing: np.ndarray  #: bool (H, W), the hole as it was filled
    seed: int  #: that gives the same again


def load(weights: str | os.PathLike[str] = "photos", device: str = "auto") -> Inpainter:
    """A model that fills pictures: a bundled name (see `matfill info`), a weights file, or a run folder.

    `device` is auto, cpu, cuda or mps. WeightsError or ConfigError where there is none such.
    """
    model, card = load_weights(weights)
    return Inpainter(model.to(pick_device(device)), card)


class Inpainter:
    """A model on a device, ready to fill."""

    def __init__(self, model: MatNet, card: dict[str, Any]):
        self.model = model
        self.card = card  #: what the weights file says of itself

    @property
    def windows(self) -> bool:
        """Whether the model looks at photos through windows: where it was trained on patches. Else, at the whole."""
        return self.card.get("data", {}).get("fit") == "patches"

    @property
    def device(self) -> torch.device:
        return self.model.mean_image.device

    def inpaint(
        self,
        image: Picture,
        missing: Missing,
        *,
        samples: int = 1,
        seed: int = 0,
        temperature: float | Sequence[float] | None = None,
        grow: int = 0,
        feather: int = 0,
    ) -> Inpainted:
        """Fill what is missing in a picture, `samples` times.

        image: a PIL image of any mode with 8 or 16 bits, or an array (H, W) or (H, W, C), C = 1 grey, 2 grey and
            alpha, 3 RGB, 4 RGBA: uint8, uint16, or floating point from 0 to 1. EXIF's orientation is not applied.
        missing: a boolean array (H, W), True where the picture is to be filled; a PIL image, white there; or what
            `--mask` takes ("center64", "box:10,20,64,48", "alpha", a path), one or several to be united.
        temperature: how boldly to draw, one number or one per level, coarsest first; by default what the weights say.
        grow, feather: pixels by which the hole is made larger, and over which a filling fades in from its edge.

        ImageError, MaskError or ConfigError where something does not fit.
        """
        if samples < 1 or seed < 0 or grow < 0 or feather < 0:
            raise MaskError("samples must be 1 or more, and seed, grow and feather 0 or more")
        photo, back = _open(image)
        hole = _hole(missing, photo, seed, grow, feather)
        filled = self.fill(photo, hole.missing, samples=samples, seed=seed, temperature=self.temperatures(temperature))
        return Inpainted(
            [back(hole.finish(photo, filled.sample(i)), hole) for i in range(samples)],
            back(hole.finish(photo, filled.mean), hole),
            hole.fade(filled.std),
            hole.missing,
            seed,
        )

    def score(self, image: Picture, missing: Missing, *, samples: int | None = None, seed: int = 0) -> float:
        """How improbable is what the picture really has where it is said to be `missing`, given the rest.

        An upper bound on the negative log-likelihood, importance-weighted with that many samples (by default, as many
        as are worth their time), in bits per missing value, as the model sees the picture: through windows, or the
        whole of it, squeezed; with 8 bits. Of two pictures of one hole, the one that scores less is the more probable.
        Takes and raises what `inpaint` does.
        """
        if (samples is not None and samples < 1) or seed < 0:
            raise MaskError("samples must be 1 or more, and seed 0 or more")
        photo, _ = _open(image)
        return self.bits_per_dim(photo, _hole(missing, photo, seed, 0, 0).missing, samples=samples, seed=seed)

    def temperatures(self, temperature: float | Sequence[float] | None = None) -> tuple[float, ...]:
        """One temperature per level; those of the weights where None is given."""
        given = self.card.get("temperature", 1.0) if temperature is None else temperature
        return inpainting.temperatures(given, len(self.model.config.levels))

    def fill(
        self, photo: Photo, missing: np.ndarray, *, samples: int, seed: int, temperature: tuple[float, ...]
    ) -> Fillings:
        """Fillings of one photo, as the engine gives them: neither feathered nor opaque yet."""
        options = {"samples": samples, "seed": seed, "temperature": temperature, "windows": self.windows}
        return inpainting.inpaint(self.model, photo, missing, **options)

    def bits_per_dim(self, photo: Photo, missing: np.ndarray, *, samples: int | None = None, seed: int = 0) -> float:
        """What `score` says, of a photo."""
        return bits_per_dim(self.model, photo, missing, samples=samples, seed=seed, windows=self.windows)

    def fill_all(
        self,
        works: Iterable[SomeWork],
        *,
        samples: int,
        temperature: tuple[float, ...],
        best: bool = False,
        score: bool = False,
    ) -> Iterator[tuple[SomeWork, Fillings | Exception, dict[str, Any]]]:
        """Fillings of many photos, each under its own seed; what cannot be filled comes back as the error it raised.

        With each comes what there is to say of it: with `score` the bits_per_dim of what the photo really has in the
        hole; with `best`, which keeps the most probable sample alone, under "best" its number and its bits_per_dim.
        Works are taken as they are needed, so that they may be read meanwhile.
        """

        def tasks() -> Iterator[tuple[SomeWork, int, Filling]]:
            for work in works:
                photo, options = work.photo, {"samples": samples, "seed": work.seed, "windows": self.windows}
                yield work, photo.width * photo.height, filling(self.model, photo, work.missing, **options)

        for work, filled in fill_together(self.model, tasks(), temperature):
            found: dict[str, Any] = {}
            try:
                if isinstance(filled, Exception):
                    raise filled
                if score:
                    found["bits_per_dim"] = self.bits_per_dim(work.photo, work.missing, seed=work.seed)
                if best:
                    numbers = range(samples)
                    scores = [self.bits_per_dim(filled.sample(i), work.missing, seed=work.seed) for i in numbers]
                    which = int(np.argmin(scores))
                    found["best"] = {"sample": which + 1, "bits_per_dim": scores[which]}
                    filled = replace(filled, rows=[filled.rows[which]])
                yield work, filled, found
            except Exception as error:  # of a batch of thousands, one must not end all
                yield work, error, {}


# --- pictures --------------------------------------------------------------------------------------------------------

Back = Callable[[Photo, Hole], Picture]


def _open(image: Picture) -> tuple[Photo, Back]:
    """A picture as a photo, and what makes a picture of its kind out of a filled photo."""
    if isinstance(image, Image.Image):
        return _open_image(image)
    if isinstance(image, np.ndarray):
        return _open_array(image)
    raise ImageError(f"the image is a {type(image).__name__}; give a PIL image or a NumPy array")


def _open_image(image: Image.Image) -> tuple[Photo, Back]:
    if getattr(image, "n_frames", 1) > 1 and image.format not in ("MPO", "PSD"):
        raise ImageError("the image holds several frames; give a copy of the one you mean")
    try:
        values = plain(image)
        pixels = np.asarray(values).reshape(values.height, values.width, -1)
    except _UNREADABLE as error:
        raise ImageError(f"the image cannot be read: {error}") from None
    mode, info = values.mode, {key: value for key, value in image.info.items() if key != "transparency"}
    photo = Photo(*_split(pixels, mode.endswith("A")), Origin(icc_profile=image.info.get("icc_profile")))

    def back(filled: Photo, _hole: Hole) -> Image.Image:
        joined = _join(filled)
        if mode == "CMYK":
            out = Image.frombytes(mode, image.size, joined.tobytes())
        else:
            out = Image.fromarray(joined[..., 0] if joined.shape[2] == 1 else joined)
        out.info = dict(info)
        return out

    return photo, back


def _open_array(array: np.ndarray) -> tuple[Photo, Back]:
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ImageError(f"the array is of shape {array.shape}; give (height, width) or (height, width, 1 to 4)")
    floating = np.issubdtype(array.dtype, np.floating)
    if not floating and array.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"the array is of {array.dtype}; give uint8, uint16, or floating point from 0 to 1")
    if floating and not (array.min() >= 0 and array.max() <= 1):
        raise ImageError("the array is not between 0 and 1; divide it by its white, such as 255")
    pixels = array.reshape(*array.shape[:2], -1)
    if floating:
        pixels = np.rint(pixels.astype(np.float64) * 65535).astype(np.uint16)
    photo = Photo(*_split(pixels, pixels.shape[2] in (2, 4)))

    def back(filled: Photo, hole: Hole) -> np.ndarray:
        joined = _join(filled).reshape(array.shape)
        if not floating:
            return joined
        out = array.copy()
        out[hole.missing] = joined[hole.missing] / 65535.0
        return out

    return photo, back


def _split(pixels: np.ndarray, has_alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, C) and alpha (H, W)."""
    if not has_alpha:
        return pixels, None
    return np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1])


def _join(photo: Photo) -> np.ndarray:
    return photo.pixels if photo.alpha is None else np.concatenate((photo.pixels, photo.alpha[..., None]), axis=2)


def _hole(missing: Missing, photo: Photo, seed: int, grow: int, feather: int) -> Hole:
    if isinstance(missing, str):
        missing = [missing]
    if isinstance(missing, Image.Image):
        try:
            missing = mask_of(missing)
        except _UNREADABLE as error:
            raise MaskError(f"the mask cannot be read: {error}") from None
    if isinstance(missing, np.ndarray):
        if missing.dtype != bool:
            raise MaskError(f"missing is an array of {missing.dtype}; give booleans, such as mask >= 128")
        missing = missing[..., 0] if missing.ndim == 3 and missing.shape[2] == 1 else missing
        if missing.shape != (photo.height, photo.width):
            size = "x".join(map(str, missing.shape[::-1]))
            raise MaskError(f"missing is {size} but the image {photo.width}x{photo.height}; make them the same")
        return holes.make_hole(missing, grow, feather)
    if not isinstance(missing, Sequence) or not all(isinstance(text, str) for text in missing) or not missing:
        raise MaskError("missing is neither a boolean array, nor a PIL image, nor a mask in words")
    return holes.parse(missing, grow=grow, feather=feather).hole(photo, seed=seed)
