"""Distributions of a pixel given the output layer's raw parameters (end of section 2.2).

Values are images in [0, 1], of 8 bits: k / 255. Pixels are rows: raw parameters (..., P), values (..., C), one log
probability (...,) in nats for all the channels of a pixel. Whatever torch.distributions has is used from there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal
from torch.nn import functional as F

from matfill.config import ModelConfig

HALF_BIN = 0.5 / 255
MIN_LOG_SCALE = -7.0


class LogisticPixels:
    """A mixture of "integrated" logistics (Kingma et al. 2016): each of the 256 bins gets the mass of its interval,
    the two at the edges get the tails as well.

    P = K (1 + 2C) raw parameters: logits, means (added to `base`) and log-scales, component by component; with
    `channel_coupling` K C(C-1)/2 more: within a component, the mean of channel c moves by a linear function of how far
    channels 0..c-1 came out from their own means.
    """

    def __init__(self, raw: Tensor, base: Tensor, config: ModelConfig):
        channels, mixtures = config.image_channels, config.mixtures
        raw = raw.float().unflatten(-1, (mixtures, -1))  # (..., K, P / K)
        logits, means, log_scales, coupling = raw.split(_logistic_split(channels, config.channel_coupling), dim=-1)
        self.log_weights = logits.squeeze(-1).log_softmax(-1)  # (..., K)
        self.means = base.float().unsqueeze(-2) + means  # (..., K, C)
        self.log_scales = (log_scales - 2.5).clamp(MIN_LOG_SCALE, 5.0)
        self.coupling = coupling

    @staticmethod
    def parameters(config: ModelConfig) -> int:
        return config.mixtures * sum(_logistic_split(config.image_channels, config.channel_coupling))

    @property
    def mean(self) -> Tensor:
        """Mean of the underlying logistics, (..., C), not clamped to [0, 1]."""
        return (self.log_weights.exp().unsqueeze(-1) * self.means).sum(-2)

    def _shift(self, values: list[Tensor], channel: int) -> Tensor:
        """Mean of `channel` (..., K) once `values`, the channels before it, each (..., K), are known."""
        mean = self.means[..., channel]
        if self.coupling.shape[-1]:
            first = channel * (channel - 1) // 2
            for i, value in enumerate(values):
                mean = mean + self.coupling[..., first + i] * (value - self.means[..., i])
        return mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability (...,) of 8-bit values x (..., C) in [0, 1]."""
        x = x.unsqueeze(-2).expand(self.means.shape)
        channels = list(x.unbind(-1))
        means = torch.stack([self._shift(channels[:c], c) for c in range(len(channels))], dim=-1)
        inverse = torch.exp(-self.log_scales)
        centred = x - means
        below = F.logsigmoid((centred + HALF_BIN) * inverse)  # log P(up to the bin's upper edge)
        above = F.logsigmoid((HALF_BIN - centred) * inverse)  # log P(from the bin's lower edge on)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no cancellation, finite gradients
        inside = below + above + torch.log(-torch.expm1(-2 * HALF_BIN * inverse))
        log_bins = torch.where(x < HALF_BIN, below, torch.where(x > 1 - HALF_BIN, above, inside))
        return torch.logsumexp(self.log_weights + log_bins.sum(-1), dim=-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Values (..., C) on the 8-bit grid from uniform noise (..., C + 1) in (0, 1): last column picks components."""
        uniform = uniform.clamp(1e-6, 1 - 1e-6)
        choice = (uniform[..., -1:] > self.log_weights.exp().cumsum(-1)[..., :-1]).sum(-1, keepdim=True)  # (..., 1)
        values: list[Tensor] = []
        for c in range(self.means.shape[-1]):
            noise = torch.logit(uniform[..., c : c + 1]) * self.log_scales[..., c].exp()
            values.append((self._shift(values, c) + noise).clamp(0, 1).mul(255).round().div(255))
        return torch.stack(values, dim=-1).take_along_dim(choice.unsqueeze(-1), dim=-2).squeeze(-2)


def _logistic_split(channels: int, coupling: bool) -> list[int]:
    return [1, channels, channels, channels * (channels - 1) // 2 if coupling else 0]


class BernoulliPixels:
    """Independent binary values; raw parameters are logits, P = C. `base` is not used."""

    def __init__(self, raw: Tensor, base: Tensor, config: ModelConfig):
        self.bernoulli = Bernoulli(logits=raw.float(), validate_args=False)

    @staticmethod
    def parameters(config: ModelConfig) -> int:
        return config.image_channels

    @property
    def mean(self) -> Tensor:
        return self.bernoulli.probs

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability (...,) of values x (..., C), 0 or 1."""
        return self.bernoulli.log_prob(x).sum(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Values (..., C), 0 or 1, from uniform noise (..., C + 1); the last column is not used."""
        return (uniform[..., :-1] < self.mean).float()


class GaussianPixels:
    """Diagonal Gaussian over dequantised values y = (255 x + u) / 256, u ~ U[0, 1) (Theis & Bethge 2015).

    P = 2C: means (added to `base`), log-variances. Its density over y, divided by 256 for each value, bounds the
    probability of the 8-bit value from below.
    """

    def __init__(self, raw: Tensor, base: Tensor, config: ModelConfig):
        means, log_variances = raw.float().chunk(2, dim=-1)
        scale = torch.exp(0.5 * (log_variances - 3.0).clamp(2 * MIN_LOG_SCALE, 10.0))
        self.normal = Normal(base.float() + means, scale, validate_args=False)

    @staticmethod
    def parameters(config: ModelConfig) -> int:
        return 2 * config.image_channels

    @property
    def mean(self) -> Tensor:
        return self.normal.mean

    def log_prob(self, y: Tensor) -> Tensor:
        """Lower bound (...,) in nats on the log probability of the 8-bit values behind dequantised y (..., C)."""
        return (self.normal.log_prob(y) - math.log(256)).sum(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Values (..., C) in [0, 1] from uniform noise (..., C + 1) in (0, 1); the last column is not used."""
        return self.normal.icdf(uniform[..., :-1].clamp(1e-6, 1 - 1e-6)).clamp(0, 1)


PixelDistribution = LogisticPixels | BernoulliPixels | GaussianPixels
PIXELS: dict[str, type[PixelDistribution]] = {
    "logistic": LogisticPixels,
    "bernoulli": BernoulliPixels,
    "gaussian": GaussianPixels,
}


def dequantise(x: Tensor, uniform: Tensor) -> Tensor:
    """8-bit values x in [0, 1] spread over their bins by uniform noise in [0, 1) of the same shape."""
    return (255 * x + uniform) / 256
