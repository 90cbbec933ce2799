"""How improbable is what a photo really has in a hole: the bound on its negative log-likelihood.

Through windows, what is filled one after the other is scored one after the other, -log p(x) = sum -log p(x_i | x_<i),
and so are the octaves: a coarser one is a function of the photo, which says no less with it than without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from matfill import bounds
from matfill.errors import ConfigError
from matfill.images import Photo
from matfill.looks import TOGETHER, Canvas, check, look, reduced, squeeze, tensors
from matfill.model import Hint, MatNet
from matfill.noise import Noise, generator
from matfill.stacks import from_posterior
from matfill.windows import halved, octaves, surroundings

SAMPLES = 32  # importance samples of every look; of more, one learns little about one photo
PIXELS = 100_000  # missing pixels times samples of each window, about: of large holes, fewer samples are drawn
ROWS = 16  # samples in one pass

#: x (B, C, S, S) whose hole is known, missing (B, 1, S, S), hint, and what of the hole is to be scored (B, 1, S, S)
Known = tuple[Tensor, Tensor, Hint | None, Tensor]


@torch.inference_mode()
def bits_per_dim(
    model: MatNet,
    photo: Photo,
    missing: np.ndarray,
    *,
    samples: int | None = None,
    seed: int = 0,
    windows: bool = False,
) -> float:
    """An upper bound on -log2 p of what the photo has where it is `missing` (H, W), given the rest, per missing value.

    Importance-weighted, with `samples` of every look (SAMPLES; fewer where a large hole takes many looks). A value is
    an 8-bit one, as the model sees the photo: through `windows`, or squeezed. Raises what `inpainting.inpaint` does;
    ConfigError for a local autoregression that is to look through windows.
    """
    check(photo, missing)
    if windows and model.config.autoregression:
        raise ConfigError("a model with a local autoregression scores no windows: it knows pixels only one by one")
    chance = generator((seed,))  # of the CPU, so that all devices say the same
    device = model.mean_image.device

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(*shape, generator=chance).to(device)

    nats, dims = 0.0, int(missing.sum())
    samples = samples or (max(1, min(SAMPLES, PIXELS // dims)) if windows else SAMPLES)
    for x, hole, hint, counted in (_by_windows if windows else _by_frame)(model, photo, missing):
        nats += float(_bounds(model, x, hole, hint, counted, samples, noise).sum())
        if not windows:
            dims = int(hole.sum())
    return nats / dims / model.config.image_channels / math.log(2)


def _bounds(
    model: MatNet, x: Tensor, hole: Tensor, hint: Hint | None, counted: Tensor, samples: int, noise: Noise
) -> Tensor:
    """Importance-weighted bounds on -log p of what is counted: (B,), nats."""
    count, device = len(x), model.mean_image.device
    rows = min(samples, max(1, ROWS // count))  # samples in one pass

    def repeated(some: Tensor) -> Tensor:
        return some.to(device).repeat(rows, 1, 1, 1)

    x = (x >= 0.5).to(x.dtype) if model.config.output == "bernoulli" else x
    hint = hint and Hint(repeated(hint.image), repeated(hint.there))
    counted = repeated(counted)
    encoded = model.encode(repeated(x), repeated(hole), infer=True, hint=hint)
    weights = bounds.ImportanceWeights()
    while weights.samples < samples:
        trace = model.decode(encoded, from_posterior(noise), noise)
        for one in bounds.log_weight(trace, counted).view(rows, count)[: samples - weights.samples]:
            weights.add(one)
    return weights.bound()


def _by_frame(model: MatNet, photo: Photo, missing: np.ndarray) -> Iterator[Known]:
    size = model.config.image_size
    view = photo.view(model.config.image_channels)
    _, hole = squeeze(*tensors(*reduced(view, missing, size)), size)
    pixels, _ = tensors(view, missing)
    if pixels.shape[2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    yield (pixels.clamp(0, 1) * 255).round() / 255, hole, None, hole


def _by_windows(model: MatNet, photo: Photo, missing: np.ndarray) -> Iterator[Known]:
    """Every octave, turn by turn, with the photo's own pixels in place of fillings."""
    size = model.config.image_size
    around = surroundings(missing, size)
    pixels, hole = photo.view(model.config.image_channels)[around], missing[around]
    if pixels.dtype != np.uint8:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    scales = octaves(pixels, hole, size)
    real = [Canvas(pixels, scales[0].missing.copy())]
    for octave in scales[1:]:
        means, _ = halved(real[-1].pixels, np.zeros(real[-1].missing.shape, bool))
        means[~octave.missing] = octave.pixels[~octave.missing]
        real.append(Canvas(means, octave.missing.copy()))
    for number, octave in reversed(list(enumerate(scales))):
        coarser = real[number + 1] if number + 1 < len(scales) else None
        for turn in octave.turns:
            for first in range(0, len(turn), TOGETHER):
                windows = turn[first : first + TOGETHER]
                x, unknown, hint = look([(real[number], coarser, window) for window in windows], size)
                counted = torch.zeros_like(unknown)
                for window, row in zip(windows, counted, strict=True):
                    row[0][window.inner] = torch.from_numpy(
                        real[number].missing[window.core] & octave.wanted[window.core]
                    )
                yield x, unknown, hint, counted
            for window in turn:
                real[number].missing[window.core] &= ~octave.wanted[window.core]
