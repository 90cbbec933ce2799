"""The modules of a level (section 2.2). Feature maps h are (B, C, S, S), latents z (B, Z, S, S)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from matfill.config import Level, ModelConfig
from matfill.distributions import GaussianMixture
from matfill.layers import Branch, Conv2d, Gated, Residual, lrelu

# beyond these log-variances a latent is as good as fixed, or as noise; inside them exp cannot overflow
LOG_VARIANCES = (-14.0, 10.0)


def kernel_at(level: Level) -> int:
    """Side of a shape-preserving convolution's kernel; on 1x1 maps that is a linear layer."""
    return 3 if level.size > 1 else 1


def state_update(level: Level, others: int, config: ModelConfig) -> Residual | Gated:
    """What updates a state of the level, given it and `others` channels more: residual as in eqs. 7, 9 and 10, or the
    GRU-style update that section 2.2 has for fully connected models, and as an option for convolutional ones."""
    kernel = kernel_at(level)
    first = 1 if others and config.narrow_concat else kernel
    inputs, channels = level.channels + others, level.channels
    if config.update == "gru":
        return Gated(inputs, channels, first_kernel=first, kernel=kernel)
    return Residual(inputs, channels, first_kernel=first, kernel=kernel, scale=config.branch_scale)


class GaussianHead(nn.Module):
    """[mean; log-variance] = conv(h), eq. 11, as a float32 Normal over z (B, Z, S, S).

    With `bounded_latents` means stay within +-8 and log-variances within +-5, softly (as in NVAE, Vahdat & Kautz
    2020): without that, a rate may jump from hundreds of nats to billions within one update.
    """

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        self.bounded = config.bounded_latents
        self.conv = Conv2d(level.channels, 2 * level.latents, 1, output=True)

    def forward(self, h: Tensor) -> Normal:
        mean, log_variance = self.conv(h).float().chunk(2, dim=1)
        if self.bounded:
            mean, log_variance = 8 * torch.tanh(mean / 8), 5 * torch.tanh(log_variance / 5)
        return Normal(mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCES)), validate_args=False)


class BottomUp(nn.Module):
    """h_bu <- lrelu(h_bu + conv(lrelu(conv(h_bu)))), eq. 9."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        self.branch = state_update(level, 0, config)

    def forward(self, h_bu: Tensor) -> Tensor:
        return self.branch(h_bu)


class Merge(nn.Module):
    """h_merge <- lrelu(h_merge + conv(lrelu(conv([h_merge; h_bu; h_td])))), eq. 10; then a Normal over z, eq. 11."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        self.branch = state_update(level, 2 * level.channels, config)
        self.head = GaussianHead(level, config)

    def forward(self, h_merge: Tensor, h_bu: Tensor, h_td: Tensor) -> tuple[Tensor, Normal]:
        h_merge = self.branch(h_merge, h_bu, h_td)
        return h_merge, self.head(h_merge)


class TopDown(nn.Module):
    """h_td <- lrelu(h_td + conv(lrelu(conv([h_td; z])))), eq. 7.

    With `merge_to_top_down` the generator's merge state is a third input, so that what is observed reaches the output
    without passing through z.
    """

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        self.sees_merge = config.merge_to_top_down
        self.branch = state_update(level, level.latents + (level.channels if self.sees_merge else 0), config)

    def forward(self, h_td: Tensor, z: Tensor, h_merge: Tensor | None) -> Tensor:
        return self.branch(h_td, z.to(h_td.dtype), *([h_merge] if self.sees_merge else []))


# --- p(z_i | z_<i) of unconditional models ---------------------------------------------------------------------------


class StandardNormal(nn.Module):
    """p(z_0) = N(0, I)."""

    def __init__(self, level: Level):
        super().__init__()
        self.shape = (level.latents, level.size, level.size)

    def forward(self, h_td: Tensor) -> Normal:
        zero = torch.zeros(len(h_td), *self.shape, device=h_td.device)
        return Normal(zero, zero + 1, validate_args=False)


class MixturePrior(nn.Module):
    """p(z_0), a mixture of `prior_components` Gaussians of equal weight, learnt with everything else (section 2.3)."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        shape = (config.prior_components, level.latents, level.size, level.size)
        # apart, or they would stay alike for good; but all close to where every image is at first: what is far from
        # all images belongs to none, and has no gradient to come closer by
        self.means = nn.Parameter(0.2 * torch.randn(shape))
        self.log_variances = nn.Parameter(torch.zeros(shape))

    def forward(self, h_td: Tensor) -> GaussianMixture:
        stddevs = torch.exp(0.5 * self.log_variances.clamp(*LOG_VARIANCES))
        return GaussianMixture(self.means, stddevs, batch=len(h_td))


class TopDownPrior(nn.Module):
    """p(z_i | z_<i), a Normal = conv(lrelu(conv(h_td))), eq. 8."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        self.first = Conv2d(level.channels, level.channels, kernel_at(level))
        self.head = GaussianHead(level, config)

    def forward(self, h_td: Tensor) -> Normal:
        return self.head(lrelu(self.first(h_td)))


# --- probabilistic ladder networks, a special case (section 4) -------------------------------------------------------


class LadderTopDown(nn.Module):
    """h_td <- lrelu(conv(lrelu(conv(z)))), eq. 7 without the state: all that follows knows earlier latents by z alone.

    So there is no deterministic path past a z to the output.
    """

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        kernel = kernel_at(level)
        self.branch = Branch(level.latents, level.channels, first_kernel=kernel, kernel=kernel)

    def forward(self, h_td: Tensor, z: Tensor, h_merge: None) -> Tensor:
        return lrelu(self.branch(z.to(h_td.dtype)))


class LadderMerge(nn.Module):
    """q(z_i | z_<i, x), the normalised product of p(z_i | z_<i) and of Normal = conv(h_bu), which is all that tells of
    x; no merge state (Sønderby et al. 2016, "How to train deep variational autoencoders ...", section 2.2)."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        self.head = GaussianHead(level, config)

    def forward(self, h_bu: Tensor, p: Normal | GaussianMixture) -> Normal:
        seen = self.head(h_bu)
        precision = 1 / p.variance + 1 / seen.variance
        mean = (p.mean / p.variance + seen.mean / seen.variance) / precision
        return Normal(mean, precision.rsqrt(), validate_args=False)
