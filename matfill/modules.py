"""The modules of a level (section 2.2). Feature maps h are (B, C, S, S), latents z (B, Z, S, S)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from matfill.config import Level, ModelConfig
from matfill.layers import Branch, Conv2d, lrelu


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
        # beyond these bounds a latent is as good as fixed, or as noise; inside them exp cannot overflow
        return Normal(mean, torch.exp(0.5 * log_variance.clamp(-14, 10)), validate_args=False)


class BottomUp(nn.Module):
    """h_bu <- lrelu(h_bu + conv(lrelu(conv(h_bu)))), eq. 9."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        kernel = 3 if level.size > 1 else 1
        self.branch = Branch(level.channels, level.channels, config, first_kernel=kernel, kernel=kernel)

    def forward(self, h_bu: Tensor) -> Tensor:
        return lrelu(h_bu + self.branch(h_bu))


class Merge(nn.Module):
    """h_merge <- lrelu(h_merge + conv(lrelu(conv([h_merge; h_bu; h_td])))), eq. 10; then a Normal over z, eq. 11."""

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        kernel = 3 if level.size > 1 else 1
        first = 1 if config.narrow_concat else kernel
        self.branch = Branch(3 * level.channels, level.channels, config, first_kernel=first, kernel=kernel)
        self.head = GaussianHead(level, config)

    def forward(self, h_merge: Tensor, h_bu: Tensor, h_td: Tensor) -> tuple[Tensor, Normal]:
        h_merge = lrelu(h_merge + self.branch(torch.cat([h_merge, h_bu, h_td], dim=1)))
        return h_merge, self.head(h_merge)


class TopDown(nn.Module):
    """h_td <- lrelu(h_td + conv(lrelu(conv([h_td; z])))), eq. 7.

    With `merge_to_top_down` the generator's merge state is a third input, so that what is observed reaches the output
    without passing through z.
    """

    def __init__(self, level: Level, config: ModelConfig):
        super().__init__()
        kernel = 3 if level.size > 1 else 1
        self.sees_merge = config.merge_to_top_down
        inputs = level.channels * (2 if self.sees_merge else 1) + level.latents
        first = 1 if config.narrow_concat else kernel
        self.branch = Branch(inputs, level.channels, config, first_kernel=first, kernel=kernel)

    def forward(self, h_td: Tensor, z: Tensor, h_merge: Tensor) -> Tensor:
        inputs = [h_td, z.to(h_td.dtype), *([h_merge] if self.sees_merge else [])]
        return lrelu(h_td + self.branch(torch.cat(inputs, dim=1)))
