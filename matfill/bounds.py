"""Upper bounds on -log p(x^u | x^k), or on -log p(x) of an unconditional model, as functions of a Trace (eqs. 5, 6).

Every result is (B,), in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from matfill.distributions import GaussianMixture, component_posterior
from matfill.errors import MatfillError
from matfill.model import Trace


def distortion(trace: Trace, counted: Tensor | None = None) -> Tensor:
    """-log p(x^u | z, x^k), summed over missing pixels only: (B,), nats.

    With `counted`, bool (B, 1, H, W), over those alone that are in it: p of these is a bound on their marginal, without
    a local autoregression.
    """
    if trace.target is None:
        raise MatfillError("a generated trace has no distortion: only a pass that saw the missing pixels has")
    image = trace.missing.flatten().nonzero()[:, 0] // trace.missing[0].numel()  # which one each row belongs to
    total = torch.zeros(len(trace.missing), device=image.device)
    nats = -trace.pixels.log_prob(trace.target)
    return total.index_add(0, image, nats if counted is None else nats * counted[trace.missing])


def module_rates(trace: Trace) -> list[Tensor]:
    """KL(q_i || p_i) of every module, in the order of `trace.latents`: (B,) each, nats.

    Where p(z_0) is a mixture, an upper bound on it (eq. 12, see distributions.mixture_kl).
    """
    return [_per_image(kl_divergence(latent.q, latent.p)) for latent in trace.latents]


def rates(trace: Trace) -> dict[tuple[int, int], Tensor]:
    """KL(q_i || p_i) summed over the modules of each (stage, level), stages and levels in order: (B,) each, nats."""
    found: dict[tuple[int, int], Tensor] = {}
    for latent, kl in zip(trace.latents, module_rates(trace), strict=True):
        key = (latent.stage, latent.level)
        found[key] = found[key] + kl if key in found else kl
    return found


def rate(trace: Trace) -> Tensor:
    """sum_i KL(q_i || p_i) over all latents: (B,), nats."""
    return torch.stack(list(rates(trace).values())).sum(0)


def free_energy(trace: Trace) -> Tensor:
    """distortion + rate, eq. 6 with its sign turned: (B,), nats, to be minimised; in expectation >= -log p.

    A mixture prior leaves it a bound, and a little looser.
    """
    return distortion(trace) + rate(trace)


def log_weight(trace: Trace, counted: Tensor | None = None) -> Tensor:
    """log p(x^u, z | x^k) - log q(z | x): (B,), nats; minus its mean is the free energy, without closed-form KL.

    A mixture prior counts with its exact density, so that there minus the mean is less than the free energy. `counted`
    is that of `distortion`.
    """
    total = -distortion(trace, counted)
    for latent in trace.latents:
        p, q = latent.p.log_prob(latent.z), latent.q.log_prob(latent.z)
        total = total + (_per_image(p - q) if p.shape == q.shape else p - _per_image(q))
    return total


def posterior_log_prob(trace: Trace) -> Tensor:
    """log q(z | x) of the latents as they are: (B,), nats. For z that q had no part in drawing."""
    return sum(_per_image(latent.q.log_prob(latent.z)) for latent in trace.latents)


class ImportanceWeights:
    """Importance weights of a batch's samples, added up as they come: memory does not grow with their number.

    Sums are kept as logarithms, in float64 on the CPU.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._sum = self._squares = torch.tensor(-math.inf, dtype=torch.float64)

    def add(self, log_weight: Tensor) -> None:
        """Count the `log_weight` (B,) of one more sample of every image."""
        log_weight = log_weight.cpu().double()
        self._sum = torch.logaddexp(self._sum, log_weight)
        self._squares = torch.logaddexp(self._squares, 2 * log_weight)
        self.samples += 1

    def bound(self) -> Tensor:
        """-log of the mean weight: (B,), nats (Burda et al. 2015); in expectation it falls with k to -log p."""
        return math.log(self.samples) - self._sum

    def effective_samples(self) -> Tensor:
        """(sum w)^2 / sum w^2, (B,), from 1 (one sample has all the weight) to k (all have the same)."""
        return torch.exp(2 * self._sum - self._squares)


def iwae_bound(traces: Iterable[Trace]) -> Tensor:
    """-log (1/k) sum_i exp(log_weight_i) over k independent traces of one batch: (B,), nats.

    See ImportanceWeights. Traces are consumed one by one, so memory does not grow.
    """
    weights = ImportanceWeights()
    for trace in traces:
        found = log_weight(trace)
        weights.add(found)
    if not weights.samples:
        raise MatfillError("an importance-weighted bound needs at least one sample")
    return weights.bound().to(found)


def missing_dims(trace: Trace) -> Tensor:
    """Missing values, channels counted: (B,)."""
    return trace.missing.sum((1, 2, 3)) * trace.pixels.mean.shape[-1]


def bits_per_dim(nats: Tensor, dims: Tensor) -> Tensor:
    """Nats per image, averaged over images, as bits per missing dimension: a scalar."""
    return nats.sum() / dims.sum() / math.log(2)


def component_entropy(trace: Trace) -> Tensor:
    """Entropy of the posterior over the components of a mixture prior (section 2.3): (B,), nats; 0 without one."""
    for latent in trace.latents:
        if isinstance(latent.p, GaussianMixture):
            return component_posterior(latent.q, latent.p).entropy()
    return torch.zeros(len(trace.missing), device=trace.missing.device)


def _per_image(values: Tensor) -> Tensor:
    """Values (B, Z, S, S) summed over each image; what is (B,) already, as it is."""
    return values if values.dim() == 1 else values.sum((1, 2, 3))
