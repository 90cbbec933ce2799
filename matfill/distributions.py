"""Distributions of a pixel given the output layer's raw parameters (end of section 2.2), and the mixture over z_0.

Values are images in [0, 1], of 8 bits: k / 255. Pixels are rows: raw parameters (..., P), values (..., C), one log
probability (...,) in nats for all the channels of a pixel. Whatever torch.distributions has is used from there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
    register_kl,
)
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
        """8-bit values (..., C) from uniform noise (..., C + 1) in (0, 1); the last column is not used."""
        y = self.normal.icdf(uniform[..., :-1].clamp(1e-6, 1 - 1e-6))
        return y.mul(256).floor().clamp(0, 255).div(255)


PixelDistribution = LogisticPixels | BernoulliPixels | GaussianPixels
PIXELS: dict[str, type[PixelDistribution]] = {
    "logistic": LogisticPixels,
    "bernoulli": BernoulliPixels,
    "gaussian": GaussianPixels,
}


def dequantise(x: Tensor, uniform: Tensor) -> Tensor:
    """8-bit values x in [0, 1] spread over their bins by uniform noise in [0, 1) of the same shape."""
    return (255 * x + uniform) / 256


def to_uniform(noise: Tensor) -> Tensor:
    """Standard normal noise as uniform noise in [0, 1] of the same shape."""
    return 0.5 * (1 + torch.erf(noise / math.sqrt(2)))


# --- the prior over z_0 (section 2.3) --------------------------------------------------------------------------------


class GaussianMixture(MixtureSameFamily):
    """k diagonal Gaussians of equal weight over a whole z (Z, S, S), for a batch of B; `log_prob` (B,) is exact, nats.

    `means` and `stddevs` are (k, Z, S, S). Its KL divergence from a Normal, see `mixture_kl`, is not exact.
    """

    def __init__(self, means: Tensor, stddevs: Tensor, batch: int):
        shape = (batch, *means.shape)
        normals = Normal(means.expand(shape), stddevs.expand(shape), validate_args=False)
        weights = Categorical(logits=torch.zeros(shape[:2], device=means.device), validate_args=False)
        super().__init__(weights, Independent(normals, 3, validate_args=False), validate_args=False)

    @property
    def normals(self) -> Normal:
        """The components, over (B, k, Z, S, S)."""
        return self.component_distribution.base_dist

    def pick(self, uniform: Tensor) -> Normal:
        """One component for each image, over (B, Z, S, S), from uniform noise (B,) in [0, 1]."""
        count = self.normals.mean.shape[1]
        choice = (uniform * count).long().clamp(0, count - 1)
        rows = torch.arange(len(choice), device=choice.device)
        return Normal(self.normals.mean[rows, choice], self.normals.stddev[rows, choice], validate_args=False)


def component_kls(q: Normal, p: GaussianMixture) -> Tensor:
    """KL(q || p_i) for q over (B, Z, S, S) and every component: (B, k), nats."""
    wide = Normal(q.mean.unsqueeze(1), q.stddev.unsqueeze(1), validate_args=False)
    return kl_divergence(wide, p.normals).sum((2, 3, 4))


def component_posterior(q: Normal, p: GaussianMixture) -> Categorical:
    """Which component an image belongs to, batch (B,): proportional to exp(-KL(q || p_i)), see `mixture_kl`."""
    return Categorical(logits=-component_kls(q, p), validate_args=False)


@register_kl(Normal, GaussianMixture)
def mixture_kl(q: Normal, p: GaussianMixture) -> Tensor:
    """Upper bound on KL(q || p), eq. 12 with the components' weights 1/k: -log (1/k) sum_i exp(-KL(q || p_i)), (B,).

    It is the least KL(q(z) r(i) || p_i(z) / k) over all r(i), reached at `component_posterior`; leaving i out can only
    lower it. So a free energy with it is a bound, whereas eq. 12 as printed, without the weights, is smaller by log k:
    it may even be negative, and bounds nothing. Exact for one component and for k equal ones, and in the limit of
    components so far apart that q lies in one of them: log k above KL(q || p_i). Too large where q straddles some:
    for q = N(0, 1) and components N(-d, 1) and N(d, 1) it is 0.50 instead of 0.13 at d = 1, and 2.00 instead of 0.94
    at d = 2.
    """
    kls = component_kls(q, p)
    return math.log(kls.shape[1]) - torch.logsumexp(-kls, dim=1)
