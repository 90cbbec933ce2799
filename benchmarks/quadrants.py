"""What do simpler methods make of missing quadrants? Baselines beside matfill: same digits, same holes.

    python benchmarks/quadrants.py --data "$MATFILL_DATA" --weights quadrants

Figures are nats per image over the missing pixels of binarised MNIST, upper bounds on the negative log-likelihood, with
their standard errors; k is the number of importance samples. All methods are fitted to the first 55,000 training
images, each one model for one, two and three visible quadrants; the last 5,000 are the validation split, which is
scored unless `--split test` asks for the test set.

* nearest neighbours: every missing pixel is Bernoulli, with the mean intensity of the training images that are nearest
  in the visible pixels (squared distance), drawn a little towards the mean of all.
* neural network: a deterministic network of two hidden layers of 500 units, the baseline ("NN") of Sohn et al. 2015,
  section 4.2, as the Pyro tutorial on conditional VAEs has it.
* CVAE: a conditional VAE (Sohn et al. 2015) of such networks: q(z | x), p(z | x^k) and p(x^u | z, x^k), 50 latents.

Last measured on 25 November 2026 with `--minutes 8 --samples 50` on one core of an AMD EPYC: 5,000 validation digits,
random protocol, seed 0. The networks are still far from converged (with 2 minutes the bounds were 94.94 / 58.78 /
27.48; Sohn et al. report 63.91 / 44.73 / 20.95 for a CVAE):

| method | k | 1 visible | 2 visible | 3 visible |
|---|---|---|---|---|
| nearest neighbours |  | 118.08 ± 0.62 | 67.32 ± 0.39 | 31.21 ± 0.22 |
| neural network |  | 111.11 ± 0.56 | 61.91 ± 0.36 | 27.40 ± 0.20 |
| CVAE, free energy | 1 | 81.00 ± 0.39 | 50.17 ± 0.27 | 23.86 ± 0.16 |
| CVAE, bound | 50 | 77.71 ± 0.37 | 47.76 ± 0.25 | 22.27 ± 0.15 |
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader

from matfill import datasets
from matfill.batches import TrainBatches, heldout
from matfill.data import open_data
from matfill.image_set import ImageSet
from matfill.scoring import score_data

SIZE, HIDDEN, LATENTS = 28, 500, 50
NEIGHBOURS, PULL = 10, 1.0  #: nearest images, and how many of them the mean of all counts for
ANY = "quadrants1,quadrants2,quadrants3"

#: nats (B,) of binary images x (B, 784) where missing (B, 784)
Scorer = Callable[[Tensor, Tensor], Tensor]


def nats(probabilities: Tensor, x: Tensor, missing: Tensor) -> Tensor:
    """-log p of the missing values of x (B, 784): (B,)."""
    return -(Bernoulli(probs=probabilities, validate_args=False).log_prob(x) * missing).sum(-1)


def nearest_neighbours(images: np.ndarray) -> Scorer:
    train = torch.tensor(images.reshape(len(images), -1)).float() / 255
    squares, mean = train.square(), train.mean(0).clamp(0.001, 0.999)

    def scorer(x: Tensor, missing: Tensor) -> Tensor:
        seen = (~missing).float()
        distance = seen @ squares.T - 2 * (seen * x) @ train.T  # what is the same for all neighbours is left out
        near = distance.topk(NEIGHBOURS, largest=False).indices
        return nats((train[near].sum(1) + PULL * mean) / (NEIGHBOURS + PULL), x, missing)

    return scorer


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


def visible(x: Tensor, missing: Tensor) -> Tensor:
    """What all networks see of the visible pixels: (B, 1568)."""
    return torch.cat([torch.where(missing, 0, 2 * x - 1), missing.to(x.dtype)], dim=-1)


class NeuralNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(2 * SIZE**2, SIZE**2)

    def loss(self, x: Tensor, missing: Tensor) -> Tensor:
        return nats(self.network(visible(x, missing)).sigmoid(), x, missing)

    def bound(self, x: Tensor, missing: Tensor, samples: int) -> Tensor:
        return self.loss(x, missing)


class ConditionalVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior = mlp(2 * SIZE**2, 2 * LATENTS)
        self.posterior = mlp(3 * SIZE**2, 2 * LATENTS)
        self.output = mlp(2 * SIZE**2 + LATENTS, SIZE**2)

    def _parts(self, x: Tensor, missing: Tensor) -> tuple[Tensor, Normal, Normal]:
        seen = visible(x, missing)
        p, q = (
            Normal(mean, (0.5 * log_variance.clamp(-10, 10)).exp(), validate_args=False)
            for mean, log_variance in (
                self.prior(seen).chunk(2, dim=-1),
                self.posterior(torch.cat([seen, 2 * x - 1], dim=-1)).chunk(2, dim=-1),
            )
        )
        return seen, p, q

    def _distortion(self, seen: Tensor, z: Tensor, x: Tensor, missing: Tensor) -> Tensor:
        return nats(self.output(torch.cat([seen, z], dim=-1)).sigmoid(), x, missing)

    def loss(self, x: Tensor, missing: Tensor) -> Tensor:
        seen, p, q = self._parts(x, missing)
        return self._distortion(seen, q.rsample(), x, missing) + kl_divergence(q, p).sum(-1)

    def bound(self, x: Tensor, missing: Tensor, samples: int) -> Tensor:
        seen, p, q = self._parts(x, missing)
        weights = []
        for _ in range(samples):
            z = q.sample()
            weights.append((p.log_prob(z) - q.log_prob(z)).sum(-1) - self._distortion(seen, z, x, missing))
        return math.log(samples) - torch.logsumexp(torch.stack(weights), dim=0)


def fit(model: NeuralNetwork | ConditionalVAE, images: np.ndarray, minutes: float) -> NeuralNetwork | ConditionalVAE:
    """Train with Adam on batches of 256, the step falling along a cosine, for that long."""
    batches = TrainBatches(images, mask=ANY, batch=256, seed=0, binary=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    start = time.monotonic()
    for x, missing, _ in DataLoader(batches, batch_size=None, sampler=range(2**62)):
        done = (time.monotonic() - start) / (60 * minutes)
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.zero_grad()
        model.loss(x.flatten(1).float() / 255, missing.flatten(1)).mean().backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def scores(scorer: Scorer, images: np.ndarray, seed: int) -> list[str]:
    """`mean ± standard error` with one, two and three visible quadrants."""
    found = []
    for visible_quadrants in (1, 2, 3):
        x, missing = heldout(images, len(images), f"quadrants{visible_quadrants}", seed, binary=True)
        x, missing = x.flatten(1).float() / 255, missing.flatten(1)
        each = torch.cat([scorer(*part) for part in zip(x.split(250), missing.split(250), strict=True)]).double()
        found.append(f"{each.mean():.2f} ± {each.std() / math.sqrt(len(each)):.2f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MATFILL_DATA"), help="folder that holds mnist/")
    parser.add_argument("--weights", action="append", default=[], help="also score these; repeatable")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--minutes", type=float, default=5, help="of training, for each of the two networks")
    parser.add_argument("--samples", type=int, default=100, help="k")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data: ImageSet = open_data(
        datasets.locate("mnist", options.data), size=SIZE, channels=1, fit="crop", cache=Path(), seed=0
    )
    images = getattr(data, options.split)
    torch.manual_seed(options.seed)
    rows = [("nearest neighbours", "", scores(nearest_neighbours(data.train), images, options.seed))]
    network = fit(NeuralNetwork(), data.train, options.minutes)
    rows.append(("neural network", "", scores(lambda x, m: network.bound(x, m, 1), images, options.seed)))
    cvae = fit(ConditionalVAE(), data.train, options.minutes)
    rows.append(("CVAE, free energy", "1", scores(cvae.loss, images, options.seed)))
    bound = scores(lambda x, m: cvae.bound(x, m, options.samples), images, options.seed)
    rows.append(("CVAE, bound", str(options.samples), bound))
    for name in options.weights:
        found = [
            score_data(
                "mnist",
                name,
                f"quadrants{n}",
                data=options.data,
                split=options.split,
                samples=options.samples,
                seed=options.seed,
            )
            for n in (1, 2, 3)
        ]
        for what, key, k in (("free energy", "free_energy", 1), ("bound", "iwae_bound", options.samples)):
            rows.append(
                (f"matfill {name}, {what}", str(k), [f"{s[key]['mean']:.2f} ± {s[key]['se']:.2f}" for s in found])
            )
    print(f"{len(images):,} {options.split} digits, random protocol, seed {options.seed}, {options.minutes:g} minutes")
    print(f"{datetime.date.today()}, {machine()}, torch {torch.__version__}\n")
    print("| method | k | 1 visible | 2 visible | 3 visible |\n|---|---|---|---|---|")
    for name, k, values in rows:
        print(f"| {name} | {k} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
