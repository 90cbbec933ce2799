"""The conditional MatNet: one stage, or a guess and its refinement (sections 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matfill.config import ModelConfig
from matfill.distributions import PIXELS, PixelDistribution, dequantise
from matfill.layers import ImageOutput
from matfill.stacks import (
    GeneratorStack,
    InferenceStack,
    Latent,
    LatentSource,
    Noise,
    States,
    TopDownPath,
    descend,
    from_posterior,
    from_prior,
)


@dataclass(frozen=True)
class Trace:
    """One pass through a model: every z with its p and q, and the distribution of the missing pixels.

    `pixels` has one row for each missing pixel of the batch, in row-major order of `missing` (B, 1, H, W); `target`
    (rows, C) holds the true values (dequantised for a Gaussian output), and is None where nothing was inferred.
    """

    latents: tuple[Latent, ...]
    pixels: PixelDistribution
    missing: Tensor
    target: Tensor | None


def push_pull(x: Tensor, missing: Tensor) -> Tensor:
    """Fill the missing pixels smoothly from the observed ones: average down an image pyramid, fill on the way up.

    x (B, C, H, W), missing (B, 1, H, W) bool -> (B, C, H, W), equal to x where observed, whatever x holds elsewhere;
    an image with nothing observed comes out at 0.5. (Gortler et al. 1996, "The Lumigraph", section 3.6.)
    """
    if x.shape[-2:] == (1, 1):
        return torch.where(missing, 0.5, x)
    x = torch.where(missing, 0, x)
    window = [min(2, side) for side in x.shape[-2:]]
    known = F.avg_pool2d((~missing).to(x.dtype), window, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(x, window, ceil_mode=True, count_include_pad=False) / known.clamp_min(1e-6)
    coarse = push_pull(coarse, known == 0)
    filled = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(missing, filled, x)


class Stage(nn.Module):
    """One conditional MatNet: generator and inference stacks around a shared top-down path."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        seen = config.image_channels + 1  # image with its hole filled, missing
        self.generator = GeneratorStack(seen, config)
        self.inference = InferenceStack(seen + config.image_channels, config)
        self.path = TopDownPath(config)
        self.output = ImageOutput(seen, PIXELS[config.output].parameters(config), config)

    def encode(self, seen: Tensor, x: Tensor | None) -> tuple[States, States | None]:
        """Bottom-up states of the generator stack and, where the true image x is given, of the inference stack."""
        states = self.generator.bottom_up(seen)
        return states, None if x is None else self.inference.bottom_up(torch.cat([seen, 2 * x - 1], dim=1))

    def decode(self, seen: Tensor, states: tuple[States, States | None], source: LatentSource, stage: int):
        """Raw output parameters (B, P, H, W) and the stage's latents."""
        generator_states, inference_states = states
        h_td, latents = descend(
            self.path,
            self.generator,
            generator_states,
            source,
            stage=stage,
            inference=self.inference if inference_states else None,
            inference_states=inference_states,
        )
        return self.output(h_td, seen), latents


class ConditionalMatNet(nn.Module):
    """p(x^u | x^k) of eq. 3. Images x (B, C, H, W) are in [0, 1]; `missing` (B, 1, H, W) is True where x is unknown.

    With two stages, the second sees the first one's mean in the hole, and their output parameters add up.
    `mean_image` (C, H, W), the training mean, stands in the hole where the configuration says fill="mean".
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(Stage(config) for _ in range(config.stages))
        size = config.image_size
        self.register_buffer("mean_image", torch.full((config.image_channels, size, size), 0.5))

    def fill(self, x: Tensor, missing: Tensor) -> Tensor:
        """x with something simple in the hole, (B, C, H, W), a function of the observed pixels only."""
        if self.config.fill == "mean":
            return torch.where(missing, self.mean_image.to(x.dtype), x)
        return push_pull(x, missing)

    def trace(self, x: Tensor, missing: Tensor, source: LatentSource, *, infer: bool, noise: Noise | None) -> Trace:
        """One pass. Only with `infer` is x looked at where it is missing, and only by the inference stacks."""
        config = self.config
        filled = base = self.fill(x, missing)
        raw: Tensor | None = None
        latents: list[Latent] = []
        for number, stage in enumerate(self.stages):
            seen = torch.cat([2 * filled - 1, 2 * missing.to(x.dtype) - 1], dim=1)
            seen = seen.contiguous(memory_format=torch.channels_last)
            states = stage.encode(seen, x if infer else None)
            update, drawn = stage.decode(seen, states, source, number)
            raw = update if raw is None else raw + update
            latents += drawn
            if number + 1 < len(self.stages):
                filled = torch.where(missing, self._distribution(raw, base).mean.movedim(-1, 1).clamp(0, 1), x)
        where = missing[:, 0]
        rows = self._distribution(raw, base, where)
        target = x.movedim(1, -1)[where] if infer else None
        if infer and config.output == "gaussian":
            target = dequantise(target, Normal01.cdf(noise(target.shape)))
        return Trace(tuple(latents), rows, missing, target)

    def _distribution(self, raw: Tensor, base: Tensor, where: Tensor | None = None) -> PixelDistribution:
        """Of all pixels (B, H, W), or of the rows that `where` (B, H, W) selects."""
        raw, base = raw.movedim(1, -1), base.movedim(1, -1)
        if where is not None:
            raw, base = raw[where], base[where]
        return PIXELS[self.config.output](raw, base, self.config)

    def forward(self, x: Tensor, missing: Tensor, noise: Noise) -> Trace:
        """z from q: for training and scoring (see bounds.py)."""
        return self.trace(x, missing, from_posterior(noise), infer=True, noise=noise)

    def generate(self, x: Tensor, missing: Tensor, noise: Noise, temperature: tuple[float, ...]) -> Trace:
        """z from p, each level at its own temperature, coarsest first; x is not looked at where it is missing."""
        return self.trace(x, missing, from_prior(noise, temperature), infer=False, noise=None)

    def compose(self, x: Tensor, trace: Trace) -> Tensor:
        """x (B, C, H, W) with the mean of the pixel distributions where it is missing, clamped to [0, 1]."""
        out = x.movedim(1, -1).clone()
        out[trace.missing[:, 0]] = trace.pixels.mean.clamp(0, 1).to(out.dtype)
        return out.movedim(-1, 1)


Normal01 = torch.distributions.Normal(0.0, 1.0, validate_args=False)
