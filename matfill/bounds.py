"""Upper bounds on -log p(x^u | x^k) as functions of a Trace (eqs. 5, 6). Every result is (B,), in nats."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from matfill.errors import MatfillError
from matfill.model import Trace


def distortion(trace: Trace) -> Tensor:
    """-log p(x^u | z, x^k), summed over missing pixels only: (B,), nats."""
    if trace.target is None:
        raise MatfillError("a generated trace has no distortion: only a pass that saw the missing pixels has")
    image = trace.missing[:, 0].nonzero()[:, 0]  # which image each row belongs to
    total = torch.zeros(len(trace.missing), device=image.device)
    return total.index_add(0, image, -trace.pixels.log_prob(trace.target))


def rates(trace: Trace) -> dict[tuple[int, int], Tensor]:
    """KL(q_i || p_i) summed over the modules of each (stage, level), stages and levels in order: (B,) each, nats."""
    found: dict[tuple[int, int], Tensor] = {}
    for latent in trace.latents:
        kl = kl_divergence(latent.q, latent.p).sum((1, 2, 3))
        key = (latent.stage, latent.level)
        found[key] = found[key] + kl if key in found else kl
    return found


def rate(trace: Trace) -> Tensor:
    """sum_i KL(q_i || p_i) over all latents: (B,), nats."""
    return torch.stack(list(rates(trace).values())).sum(0)


def free_energy(trace: Trace) -> Tensor:
    """distortion + rate, eq. 6 with its sign turned: (B,), nats, to be minimised; in expectation >= -log p."""
    return distortion(trace) + rate(trace)


def log_weight(trace: Trace) -> Tensor:
    """log p(x^u, z | x^k) - log q(z | x): (B,), nats; minus its mean is the free energy, without closed-form KL."""
    total = -distortion(trace)
    for latent in trace.latents:
        total = total + (latent.p.log_prob(latent.z) - latent.q.log_prob(latent.z)).sum((1, 2, 3))
    return total


def iwae_bound(traces: Iterable[Trace]) -> Tensor:
    """-log (1/k) sum_i exp(log_weight_i) over k independent traces of one batch: (B,), nats (Burda et al. 2015).

    In expectation it falls with k towards -log p(x^u | x^k). Traces are consumed one by one, so memory does not grow.
    """
    total: Tensor | None = None
    count = 0
    for trace in traces:
        weight = log_weight(trace)
        total = weight if total is None else torch.logaddexp(total, weight)
        count += 1
    if total is None:
        raise MatfillError("an importance-weighted bound needs at least one sample")
    return math.log(count) - total


def missing_dims(trace: Trace) -> Tensor:
    """Missing values, channels counted: (B,)."""
    return trace.missing.sum((1, 2, 3)) * trace.pixels.mean.shape[-1]


def bits_per_dim(nats: Tensor, dims: Tensor) -> Tensor:
    """Nats per image, averaged over images, as bits per missing dimension: a scalar."""
    return nats.sum() / dims.sum() / math.log(2)
