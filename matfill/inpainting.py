"""Filling: batches of images at a model's own size, and photos of any size.

A photo is shown to the model as a whole, squeezed to the model's size; the filling is scaled back and joined to the
photo's own pixels. Every filling is a function of its seed and of the photo alone, however many are made at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from matfill.errors import ConfigError, MaskError
from matfill.images import Photo
from matfill.model import MatNet, push_pull
from matfill.stacks import Noise

BATCH = 32  # images in one pass


@dataclass(frozen=True, eq=False)
class Fillings:
    """Several fillings of one photo."""

    samples: list[Photo]
    mean: Photo  #: their mean
    std: np.ndarray  #: float32 (H, W) in [0, 1]: their standard deviation, averaged over channels; 0 where observed


def temperatures(value: float | Sequence[float], levels: int) -> tuple[float, ...]:
    """One temperature per level, coarsest first, from one for all or from that many."""
    values = [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) not in (1, levels):
        raise ConfigError(f"{len(values)} temperatures for a model of {levels} levels; give 1 or {levels}")
    if wrong := [v for v in values if not 0 <= v < float("inf")]:
        raise ConfigError(f"temperature {wrong[0]} is out of range; give numbers from 0")
    return tuple(values * levels if len(values) == 1 else values)


def row_noise(seeds: Sequence[Sequence[int]]) -> Noise:
    """Standard normal noise whose row i depends on seeds[i] alone, whatever else is in the batch; always from the CPU,
    so that one seed means one picture on every device."""
    states = [int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1) for seed in seeds]
    generators = [torch.Generator().manual_seed(state) for state in states]
    return lambda shape: torch.stack([torch.randn(shape[1:], generator=g) for g in generators])


@torch.inference_mode()
def fill(
    model: MatNet, x: Tensor, missing: Tensor, seeds: Sequence[Sequence[int]], temperature: tuple[float, ...]
) -> Tensor:
    """x (B, C, S, S) in [0, 1] with its missing (B, 1, S, S) pixels filled, one sample each, drawn with seeds[i].

    S is the model's image_size. Observed pixels come back exactly as they were; a model of binary images sees them in
    black and white.
    """
    binary = model.config.output == "bernoulli"
    device = model.mean_image.device
    out = []
    for i in range(0, len(x), BATCH):
        part, hole = x[i : i + BATCH].to(device), missing[i : i + BATCH].to(device)
        noise = row_noise(seeds[i : i + BATCH])
        seen = (part >= 0.5).to(part.dtype) if binary else part
        trace = model.generate(seen, hole, lambda shape, noise=noise: noise(shape).to(device), temperature)
        out.append(model.compose(part, trace).cpu())
    return torch.cat(out)


def fill_batch(
    model: MatNet,
    images: np.ndarray,
    missing: np.ndarray,
    *,
    samples: int,
    seed: int,
    temperature: tuple[float, ...],
) -> np.ndarray:
    """`samples` fillings of images uint8 (N, H, W, C) where missing (N, H, W): uint8 (samples, N, H, W, C).

    H = W is the model's image_size. Sample s of image i is drawn with seed (seed, s, i).
    """
    x = torch.tensor(images).movedim(-1, 1).float() / 255
    holes = torch.tensor(missing)[:, None]
    done = []
    for sample in range(samples):
        filled = fill(model, x, holes, [(seed, sample, i) for i in range(len(images))], temperature)
        done.append(filled.mul(255).round().byte().movedim(1, -1).numpy())
    return np.stack(done)


def inpaint(
    model: MatNet,
    photo: Photo,
    missing: np.ndarray,
    *,
    samples: int,
    seed: int,
    temperature: tuple[float, ...],
) -> Fillings:
    """Fill `missing` (H, W) of a photo of any size, `samples` times. Pixels outside the hole keep their exact values.

    MaskError where nothing is missing, or nothing observed.
    """
    if missing.shape != (photo.height, photo.width):
        size = f"{missing.shape[1]}x{missing.shape[0]}"
        raise MaskError(f"the mask is {size} but the image {photo.width}x{photo.height}; make them the same")
    if not missing.any():
        raise MaskError("the mask is empty: there is nothing to fill")
    if missing.all():
        raise MaskError("the mask covers the whole image: nothing is left to go by")
    pixels = torch.from_numpy(photo.view(model.config.image_channels)).movedim(-1, 0)[None]
    hole = torch.tensor(missing)[None, None]
    small, small_hole = squeeze(pixels, hole, model.config.image_size)
    # one by one: over a larger batch sums may round differently, and a filling must not depend on those beside it
    filled = [fill(model, small, small_hole, [(seed, sample)], temperature) for sample in range(samples)]
    full = torch.cat([enlarge(one, pixels, hole) for one in filled])
    std = full.std(0, correction=0).mean(0).numpy() if samples > 1 else np.zeros(missing.shape, np.float32)
    return Fillings(
        samples=[photo.composite(one.movedim(0, -1).numpy(), missing) for one in full],
        mean=photo.composite(full.mean(0).movedim(0, -1).numpy(), missing),
        std=np.where(missing, std, np.float32(0)),
    )


def squeeze(pixels: Tensor, missing: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The whole frame (1, C, H, W) and its hole (1, 1, H, W) at `size` x `size`, antialiased.

    A small pixel is missing where any part of it is, or, where a scattered hole would leave none that way, where more
    of it is than of the average pixel. What lies in the hole has no influence on anything.
    """
    clean = push_pull(pixels, missing)
    if pixels.shape[-2:] == (size, size):
        return clean, missing
    small = F.interpolate(clean, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    share = F.adaptive_avg_pool2d(missing.float(), size)
    touched = share > 0
    return small.clamp(0, 1), share > share.mean() if touched.all() else touched


def enlarge(small: Tensor, pixels: Tensor, missing: Tensor) -> Tensor:
    """A filled small frame (1, C, S, S) at the size of the photo `pixels` (1, C, H, W), joined to it without a seam.

    What the photo has over the enlarged frame (detail, a shade) is known around the hole; it is carried on smoothly
    into the hole and added.
    """
    if small.shape == pixels.shape:
        return small
    large = F.interpolate(small, size=pixels.shape[-2:], mode="bicubic", align_corners=False)
    return (large + push_pull(pixels - large, missing)).clamp(0, 1)
