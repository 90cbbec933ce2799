"""Generator and inference stacks, the shared top-down path, and the one descent through them (sections 2.1, 2.2).

A stack is bottom-up modules (eq. 9) with merge modules (eqs. 10, 11). The inference stack sees everything and gives
q(z_i | z_<i, x) of eqs. 2 and 4. The generator's side is another stack, which sees only what is observed and gives
p(z_i | z_<i, x^k) of eq. 3; or, in an unconditional model, Priors, which see nothing and give p(z_i | z_<i) of eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from matfill.config import WARP_VALUES, ModelConfig
from matfill.distributions import GaussianMixture, to_uniform
from matfill.layers import Down, ImageInput, Up
from matfill.modules import (
    BottomUp,
    LadderMerge,
    LadderTopDown,
    Merge,
    MixturePrior,
    StandardNormal,
    TopDown,
    TopDownPrior,
)
from matfill.noise import Noise

#: h_bu of every module, one list per level from the coarsest, in the order in which the descent meets them
States = list[list[Tensor]]
Prior = Normal | GaussianMixture


@dataclass(frozen=True)
class Latent:
    """One module's latents: z (B, Z, S, S), the generator's p, and the inference stack's q where it took part."""

    stage: int  #: 0 is the first (or only) stage
    level: int  #: index into ModelConfig.levels, 0 the coarsest
    z: Tensor
    p: Prior
    q: Normal | None


#: where z comes from: (level, p, q) -> z
LatentSource = Callable[[int, Prior, Normal | None], Tensor]


def from_posterior(noise: Noise, levels: int | None = None) -> LatentSource:
    """z ~ q, reparametrised: for training and scoring. With `levels`, in that many of the coarsest levels only; in the
    finer ones z is the mean of p."""

    def draw(level: int, p: Prior, q: Normal | None) -> Tensor:
        if levels is not None and level >= levels:
            return p.mean
        assert q is not None, "the descent met no inference stack"
        return q.mean + q.stddev * noise(q.mean.shape)

    return draw


def from_prior(noise: Noise, temperature: tuple[float, ...]) -> LatentSource:
    """z ~ p with its standard deviation multiplied by the level's temperature (coarsest first): for generation.

    Of a mixture, that is the standard deviation of the component, which is drawn at any temperature.
    """

    def draw(level: int, p: Prior, q: Normal | None) -> Tensor:
        if isinstance(p, GaussianMixture):
            p = p.pick(to_uniform(noise(p.batch_shape)))
        return p.mean + temperature[level] * p.stddev * noise(p.mean.shape)

    return draw


def from_latents(latents: Iterable[Latent]) -> LatentSource:
    """The same z once more, in their order."""
    known = iter(latents)
    return lambda level, p, q: next(known).z


class ModuleGrid(nn.ModuleList):
    """Modules of one kind, level by level: `counts` of them, or one for a whole level where they share parameters."""

    def __init__(self, kind: Callable[..., nn.Module], config: ModelConfig, counts: list[int]):
        built = [min(count, 1) if config.shared_modules else count for count in counts]
        pairs = zip(config.levels, built, strict=True)
        super().__init__(nn.ModuleList(kind(level, config) for _ in range(count)) for level, count in pairs)

    def at(self, level: int, i: int) -> nn.Module:
        modules = self[level]
        return modules[i % len(modules)]


class Stack(nn.Module):
    """Bottom-up and merge modules of every level: a GeneratorStack or an InferenceStack, as its input decides."""

    def __init__(self, inputs: int, config: ModelConfig):
        super().__init__()
        levels = config.levels
        self.ladder = config.ladder
        self.counts = [level.modules for level in levels]
        self.image = ImageInput(inputs, config)
        self.bottom_ups = ModuleGrid(BottomUp, config, self.counts)
        self.merges = ModuleGrid(LadderMerge if self.ladder else Merge, config, self.counts)
        pairs = list(pairwise(levels))
        self.downs = nn.ModuleList(Down(fine, coarse, config) for coarse, fine in pairs)
        if not self.ladder:
            self.ups = nn.ModuleList(Up(coarse, fine, config) for coarse, fine in pairs)

    def bottom_up(self, image: Tensor) -> States:
        """Image channels (B, inputs, image_size, image_size) to the states of every module."""
        h = self.image(image)
        states: States = []
        for level in reversed(range(len(self.counts))):
            found = []
            for i in range(self.counts[level]):
                h = self.bottom_ups.at(level, i)(h)
                found.append(h)
            states.append(found[::-1])
            if level:
                h = self.downs[level - 1](h)
        return states[::-1]

    def start(self, states: States) -> Merging:
        return Merging(self, states)


class Merging:
    """A stack on its way down, beside the top-down path: its merge state, and the distribution of each z in turn."""

    def __init__(self, stack: Stack, states: States):
        self.stack, self.states = stack, states
        self.h_merge = None if stack.ladder else torch.zeros_like(states[0][0])

    def enlarge(self, level: int) -> None:
        """From the level above down to `level`."""
        if self.h_merge is not None:
            self.h_merge = self.stack.ups[level - 1](self.h_merge)

    def distribution(self, level: int, i: int, h_td: Tensor, p: Prior | None = None) -> Normal:
        """Of module i's z; p is the generator's, where this is the inference stack."""
        merge, h_bu = self.stack.merges.at(level, i), self.states[level][i]
        if self.stack.ladder:
            return merge(h_bu, p)
        self.h_merge, normal = merge(self.h_merge, h_bu, h_td)
        return normal


class GeneratorStack(Stack):
    """Gives p(z_i | z_<i, x^k) (eq. 3) from the observed pixels; must never see x^u."""


class InferenceStack(Stack):
    """Gives q(z_i | z_<i, x^k, x^u) (eq. 4), or q(z_i | z_<i, x) (eq. 2), from the whole image."""


class Priors(nn.Module):
    """What an unconditional model has in a generator stack's place: p(z_0), and p(z_i | z_<i) of eq. 8."""

    h_merge = None

    def __init__(self, config: ModelConfig):
        super().__init__()
        first, *others = config.levels
        self.first = MixturePrior(first, config) if config.prior_components > 1 else StandardNormal(first)
        self.levels = ModuleGrid(TopDownPrior, config, [first.modules - 1, *(level.modules for level in others)])

    def start(self, states: None) -> Priors:
        return self

    def enlarge(self, level: int) -> None:
        """Nothing to do: all that is remembered is in h_td."""

    def distribution(self, level: int, i: int, h_td: Tensor) -> Prior:
        """Of module i's z."""
        if level == 0:
            return self.levels.at(0, i - 1)(h_td) if i else self.first(h_td)
        return self.levels.at(level, i)(h_td)


class TopDownPath(nn.Module):
    """The top-down modules of every level, shared by generation and inference (eq. 7)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        levels = config.levels
        self.counts = [level.modules for level in levels]
        start = torch.zeros(1, levels[0].channels, levels[0].size, levels[0].size)
        if config.ladder:  # where no module looks at the state before z_0, there is nothing to learn
            self.register_buffer("start", start)
        else:
            self.start = nn.Parameter(start)
        self.warp = nn.Linear(WARP_VALUES, levels[0].channels, bias=False) if config.sees_warp else None
        if self.warp:
            nn.init.zeros_(self.warp.weight)  # so that weights without it can be gone on from as they are
        self.levels = ModuleGrid(LadderTopDown if config.ladder else TopDown, config, self.counts)
        self.ups = nn.ModuleList(Up(a, b, config) for a, b in pairwise(levels))

    def first_state(self, batch: int, warp: Tensor | None = None) -> Tensor:
        """h_td before the first module, (batch, C, S, S), in the precision of the networks.

        With `sees_warp` it depends on how images were warped, and so does all that follows from it, p as well as q: the
        model learns from warped images without taking them for true ones (Jun et al. 2020, "Distribution Augmentation
        for Generative Modeling").
        """
        device = self.start.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.start.dtype
        state = self.start.to(dtype).expand(batch, -1, -1, -1)
        return state if self.warp is None or warp is None else state + self.warp(warp)[:, :, None, None]


def descend(
    path: TopDownPath,
    batch: int,
    generator: Merging | Priors,
    source: LatentSource,
    *,
    stage: int = 0,
    warp: Tensor | None = None,
    inference: Merging | None = None,
) -> tuple[Tensor, list[Latent]]:
    """Walk down all levels, drawing every z from `source`; the only such loop, for training, scoring and generation.

    Returns the final top-down state h_td (B, C, S, S) of the finest level, and every module's latents in order.
    """
    h_td = path.first_state(batch, warp)
    latents: list[Latent] = []
    for level, count in enumerate(path.counts):
        if level:
            h_td = path.ups[level - 1](h_td)
            generator.enlarge(level)
            if inference:
                inference.enlarge(level)
        for i in range(count):
            p = generator.distribution(level, i, h_td)
            q = inference.distribution(level, i, h_td, p) if inference else None
            z = source(level, p, q)
            latents.append(Latent(stage, level, z, p, q))
            h_td = path.levels.at(level, i)(h_td, z, generator.h_merge)
    return h_td, latents
