"""What training minimises and what it reports of it, in nats per image value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from matfill import bounds
from matfill.config import Level
from matfill.model import Hint, MatNet, enlarge_twice, halve
from matfill.noise import Noise, gaussian_noise
from matfill.stacks import from_posterior


def unit_images(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, C, H, W) -> float32 in [0, 1] on `device`."""
    return images.to(device).float() / 255


class Objective(nn.Module):
    """What is minimised, in nats per image value, and what is reported of it.

    Free energy with weighted rates, plus `prediction_weight` times the squared error of a prediction: the mean of the
    output with z ~ q in some of the coarsest levels only, and at the mean of p in the finer ones. It is taken on every
    second image, in nats of a Gaussian with a standard deviation of 0.1. With no level from q this trains the
    generator by itself, like the hybrid of Sohn et al. 2015 (section 4.2); with some, every level has to tell as much
    as it can without help from finer ones (nested dropout, Rippel et al. 2014). Plus `component_entropy` times the
    uncertainty about the component of a mixture prior (section 2.3), weighted like the rate it belongs to: in full from
    the start, when all images look alike, it would hold them to one component. Plus `top_down_weight` times the
    distortion by the top-down output alone: without that, a local autoregression soon explains so much that latents
    fall out of use (Lucas & Verbeek 2018, section 3.2). The bound stays as it is.

    With more than one of `importance_samples`, their importance-weighted bound takes the place of the free energy as
    soon as all rates have their full weight: z from q need not be right every time, only once among so many, which
    leaves the model more freedom (Burda et al. 2015).
    """

    def __init__(
        self,
        model: MatNet,
        prediction_weight: float = 0.0,
        component_entropy: float = 0.0,
        importance_samples: int = 1,
    ):
        super().__init__()
        self.model, self.prediction_weight, self.component_entropy = model, prediction_weight, component_entropy
        self.importance_samples = importance_samples

    def forward(
        self,
        x: Tensor,
        missing: Tensor,
        noise: Noise,
        kl_weights: list[float],
        informed: int = 0,
        top_down_weight: float = 0.0,
        hinted: Tensor | None = None,
        warp: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Loss (a scalar), and sums over the batch: missing dims; of one sample, distortion, rate of each module.

        `kl_weights` are the rates' weights, level by level from the coarsest; `informed` is the number of levels with
        z ~ q in the prediction; `hinted`, bool (B,), says whose hole is known at half the resolution; `warp` is that of
        `MatNet.encode`.
        """
        hint = None
        if hinted is not None:
            hint = Hint(enlarge_twice(halve(x)), hinted.view(-1, 1, 1, 1).expand_as(missing))
        encoded = self.model.encode(x, missing, infer=True, hint=hint, warp=warp)
        samples = self.importance_samples if min(kl_weights) == 1 else 1
        trace, *others = (self.model.decode(encoded, from_posterior(noise), noise) for _ in range(samples))
        distortion, rates = bounds.distortion(trace), bounds.module_rates(trace)
        if others:
            loss = bounds.iwae_bound([trace, *others]).mean()
        else:
            weights = [kl_weights[latent.level] for latent in trace.latents]
            loss = distortion.mean() + sum(weight * rate.mean() for weight, rate in zip(weights, rates, strict=True))
        if self.component_entropy:
            entropy = bounds.component_entropy(trace).mean()
            loss = loss + self.component_entropy * kl_weights[0] * entropy
        if top_down_weight:
            loss = loss + top_down_weight * -trace.top_down.log_prob(trace.target).sum() / len(x)
        if self.prediction_weight:
            half = hint and Hint(hint.image[::2], hint.there[::2])
            told = None if warp is None else warp[::2]
            error = self._prediction_error(x[::2], missing[::2], noise, informed, half, told)
            loss = loss + self.prediction_weight * error / len(x[::2])
        parts = [bounds.missing_dims(trace), distortion, *rates]
        return loss / self.model.config.dims, torch.stack([part.detach().float().sum() for part in parts])

    def _prediction_error(
        self, x: Tensor, missing: Tensor, noise: Noise, informed: int, hint: Hint | None, warp: Tensor | None
    ) -> Tensor:
        encoded = self.model.encode(x, missing, infer=informed > 0, hint=hint, warp=warp)
        trace = self.model.decode(encoded, from_posterior(noise, informed), noise, autoregress=False)
        target = x.movedim(1, -1)[missing[:, 0]]
        return (trace.pixels.mean - target).square().sum() / (2 * 0.1**2)


def summarise(sums: Tensor, images: int, levels: tuple[Level, ...]) -> dict[str, Any]:
    """What `Objective` summed up over some images, as means for people: bits/dim, nats per image.

    `rates` are those of each level of each stage, `module_rates` those of each module of each level of each stage.
    """
    dims, distortion, *rates = sums.tolist()
    means = iter([rate / images for rate in rates])
    stages = len(rates) // sum(level.modules for level in levels)
    nested = [[[next(means) for _ in range(level.modules)] for level in levels] for _ in range(stages)]
    return {
        "bits_per_dim": (distortion + sum(rates)) / dims / math.log(2),
        "distortion": distortion / images,
        "rates": [[sum(level) for level in stage] for stage in nested],
        "module_rates": nested,
    }


@torch.no_grad()
def heldout_scores(
    model: MatNet, images: Tensor, missing: Tensor, *, seed: int, precision: str, batch: int = 64
) -> dict[str, Any]:
    """Single-sample free energy of uint8 images (N, C, H, W), summarised; noise is a function of `seed`."""
    device = model.mean_image.device
    objective, total, noise = Objective(model), 0, gaussian_noise(device, seed, 1)
    ones = [1.0] * len(model.config.levels)
    for x, hole in zip(images.split(batch), missing.split(batch), strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            total = total + objective(unit_images(x, device), hole.to(device), noise, ones)[1]
    return summarise(total, len(images), model.config.levels)
