"""Generator and inference stacks, the shared top-down path, and the one descent through them (sections 2.1, 2.2).

A stack is bottom-up modules (eq. 9) with merge modules (eqs. 10, 11). The generator stack sees only what is observed
and gives p(z_i | z_<i, x^k) of eq. 3; the inference stack sees everything and gives q(z_i | z_<i, x) of eq. 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from matfill.config import ModelConfig
from matfill.layers import Down, ImageInput, Up
from matfill.modules import BottomUp, Merge, TopDown

#: h_bu of every module, one list per level from the coarsest, in the order in which the descent meets them
States = list[list[Tensor]]
#: float32 standard normal noise of a given shape; the caller decides on seeds
Noise = Callable[[torch.Size], Tensor]


@dataclass(frozen=True)
class Latent:
    """One module's latents: z (B, Z, S, S), the generator's p, and the inference stack's q where it took part."""

    stage: int  #: 0 is the first (or only) stage
    level: int  #: index into ModelConfig.levels, 0 the coarsest
    z: Tensor
    p: Normal
    q: Normal | None


#: where z comes from: (level, p, q) -> z
LatentSource = Callable[[int, Normal, Normal | None], Tensor]


def from_posterior(noise: Noise, levels: int | None = None) -> LatentSource:
    """z ~ q, reparametrised: for training and scoring. With `levels`, in that many of the coarsest levels only; in the
    finer ones z is the mean of p."""

    def draw(level: int, p: Normal, q: Normal | None) -> Tensor:
        if levels is not None and level >= levels:
            return p.mean
        assert q is not None, "the descent met no inference stack"
        return q.mean + q.stddev * noise(q.mean.shape)

    return draw


def from_prior(noise: Noise, temperature: tuple[float, ...]) -> LatentSource:
    """z ~ p with its standard deviation multiplied by the level's temperature (coarsest first): for generation."""

    def draw(level: int, p: Normal, q: Normal | None) -> Tensor:
        return p.mean + temperature[level] * p.stddev * noise(p.mean.shape)

    return draw


class Stack(nn.Module):
    """Bottom-up and merge modules of every level: a GeneratorStack or an InferenceStack, as its input decides."""

    def __init__(self, inputs: int, config: ModelConfig):
        super().__init__()
        levels = config.levels
        self.image = ImageInput(inputs, config)
        self.bottom_ups = nn.ModuleList(
            nn.ModuleList(BottomUp(level, config) for _ in range(level.modules)) for level in levels
        )
        self.merges = nn.ModuleList(
            nn.ModuleList(Merge(level, config) for _ in range(level.modules)) for level in levels
        )
        pairs = list(pairwise(levels))
        self.downs = nn.ModuleList(Down(fine, coarse, config) for coarse, fine in pairs)
        self.ups = nn.ModuleList(Up(coarse, fine, config) for coarse, fine in pairs)

    def bottom_up(self, image: Tensor) -> States:
        """Image channels (B, inputs, image_size, image_size) to the states of every module."""
        h = self.image(image)
        states: States = []
        for level in reversed(range(len(self.bottom_ups))):
            found = []
            for module in self.bottom_ups[level]:
                h = module(h)
                found.append(h)
            states.append(found[::-1])
            if level:
                h = self.downs[level - 1](h)
        return states[::-1]


class GeneratorStack(Stack):
    """Gives p(z_i | z_<i, x^k) (eq. 3) from the observed pixels; must never see x^u."""


class InferenceStack(Stack):
    """Gives q(z_i | z_<i, x^k, x^u) (eq. 4) from the whole image."""


class TopDownPath(nn.Module):
    """The top-down modules of every level, shared by generation and inference (eq. 7)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        levels = config.levels
        self.start = nn.Parameter(torch.zeros(1, levels[0].channels, levels[0].size, levels[0].size))
        self.levels = nn.ModuleList(
            nn.ModuleList(TopDown(level, config) for _ in range(level.modules)) for level in levels
        )
        self.ups = nn.ModuleList(Up(a, b, config) for a, b in pairwise(levels))


def descend(
    path: TopDownPath,
    generator: Stack,
    generator_states: States,
    source: LatentSource,
    *,
    stage: int = 0,
    inference: Stack | None = None,
    inference_states: States | None = None,
) -> tuple[Tensor, list[Latent]]:
    """Walk down all levels, drawing every z from `source`; the only such loop, for training, scoring and generation.

    Returns the final top-down state h_td (B, C, S, S) of the finest level, and every module's latents in order.
    """
    first = generator_states[0][0]
    h_td = path.start.to(first.dtype).expand(first.shape)
    h_generator = h_inference = torch.zeros_like(first)
    latents: list[Latent] = []
    for level, modules in enumerate(path.levels):
        if level:
            h_td = path.ups[level - 1](h_td)
            h_generator = generator.ups[level - 1](h_generator)
            h_inference = inference.ups[level - 1](h_inference) if inference else h_inference
        for i, top_down in enumerate(modules):
            h_generator, p = generator.merges[level][i](h_generator, generator_states[level][i], h_td)
            q = None
            if inference:
                h_inference, q = inference.merges[level][i](h_inference, inference_states[level][i], h_td)
            z = source(level, p, q)
            latents.append(Latent(stage, level, z, p, q))
            h_td = top_down(h_td, z, h_generator)
    return h_td, latents
