"""Looking into an unconditional model: samples, its clusters, and what each latent decides (the paper's figure 3).

Pictures come back as arrays uint8 (..., H, W, C).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count as counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from matfill import datasets
from matfill.batches import binarised
from matfill.data import open_for
from matfill.distributions import GaussianMixture, component_kls
from matfill.errors import ConfigError, DataError
from matfill.model import Encoded, MatNet
from matfill.noise import row_noise
from matfill.stacks import LatentSource, Noise, Prior, from_posterior, from_prior

BATCH = 32  # images in one pass, always: how sums are rounded, and so a sample, may depend on it
_DRAW, _SORT, _KEEP = range(3)  # second words of seeds, that no draws for different ends share a stream

Progress = Callable[[str, int, int], None]  #: what is being done, how much of it, out of how much


def require_unconditional(model: MatNet, name: str) -> None:
    """ConfigError where the model, called `name`, is a conditional one."""
    if model.config.conditional:
        raise ConfigError(f"{name} is a conditional model, it only fills holes: use matfill inpaint")


# --- samples ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def sample(
    model: MatNet,
    count: int,
    *,
    seed: int,
    temperature: tuple[float, ...],
    means: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> np.ndarray:
    """`count` images drawn from an unconditional model, uint8 (count, H, W, C).

    z from p, each level at its temperature; then the pixels given z, or, with `means`, their means given z (and, where
    there is a local autoregression, given the pixels drawn before). Image i depends on `seed` and i alone.
    """
    blank, drawn = torch.zeros_like(model.mean_image).repeat(BATCH, 1, 1, 1), []
    for first in range(0, count, BATCH):
        noise = _noise(model, [(seed, _DRAW, i) for i in range(first, first + BATCH)])
        encoded = model.encode(blank, _all_missing(blank), infer=False)
        drawn.append(_draw(model, encoded, from_prior(noise, temperature), noise, means))
        on_progress("drawing", min(first + BATCH, count), count)
    return np.concatenate(drawn)[:count]


def keeping(noise: Noise, keep: int, temperature: tuple[float, ...]) -> LatentSource:
    """z ~ q in the first `keep` modules, z ~ p in those after them. Good for one descent: it counts the modules."""
    kept, fresh, modules = from_posterior(noise), from_prior(noise, temperature), counter()

    def draw(level: int, p: Prior, q: Normal | None) -> Tensor:
        return (kept if next(modules) < keep else fresh)(level, p, q)

    return draw


@torch.inference_mode()
def resample(
    model: MatNet, x: Tensor, keep: int, seeds: Sequence[Sequence[int]], temperature: tuple[float, ...], means: bool
) -> np.ndarray:
    """One sample beside each of images x (B, C, H, W) in [0, 1]: its first `keep` latents come from q(z | x).

    uint8 (B, H, W, C); row i is drawn with seeds[i]. Nothing else of x is seen: a local autoregression goes on from the
    pixels it has drawn itself.
    """
    noise = _noise(model, seeds)
    encoded = model.encode(x, _all_missing(x), infer=True)
    blind = replace(encoded, x=torch.zeros_like(x), infer=False, look=None)
    return _draw(model, blind, keeping(noise, keep, temperature), noise, means)


def _draw(model: MatNet, encoded: Encoded, source: LatentSource, noise: Noise, means: bool) -> np.ndarray:
    trace = model.decode(encoded, source, noise)
    x = model.compose(encoded.x, trace) if means else model.draw(encoded.x, trace, noise)
    return x.mul(255).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()


def _noise(model: MatNet, seeds: Sequence[Sequence[int]]) -> Noise:
    noise, device = row_noise(seeds), model.mean_image.device
    return lambda shape: noise(shape).to(device)


def _all_missing(x: Tensor) -> Tensor:
    return torch.ones_like(x[:, :1], dtype=torch.bool)


# --- clusters --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def component_log_odds(model: MatNet, x: Tensor) -> Tensor | None:
    """log q(c | x) / (1 - q(c | x)) of every component of the mixture over z_0, (B, k); None without a mixture.

    q(c | x) is distributions.component_posterior's (section 2.3). Its log-odds order images as it does itself, but
    still where it has come so close to 1 that float32 has no room for the difference.
    """
    if model.config.prior_components < 2:
        return None
    stage = model.stages[0]
    encoded = model.encode(x, _all_missing(x), infer=True)
    generator, inference = stage.generator.start(encoded.states[0]), stage.inference.start(encoded.states[1])
    h_td = stage.path.first_state(len(x))
    p = generator.distribution(0, 0, h_td)
    assert isinstance(p, GaussianMixture)
    logits = -component_kls(inference.distribution(0, 0, h_td, p), p)
    others = logits.unsqueeze(1).expand(-1, logits.shape[1], -1)
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=x.device)
    return logits - others.masked_fill(own, -math.inf).logsumexp(-1)


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """The share of images (N,) whose label is the commonest one of their cluster; 1 is perfect, and so is one each."""
    return float(_contingency(clusters, labels).max(axis=1).sum() / len(labels))


def normalised_mutual_information(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Mutual information of clusters and labels (N,), over the mean of their entropies: 0 (unrelated) to 1 (the same).

    1 where all is one cluster and one label, as scikit-learn has it.
    """
    joint = _contingency(clusters, labels) / len(labels)
    entropy = _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))
    return max(0.0, 2 * (1 - _entropy(joint.ravel()) / entropy)) if entropy > 0 else 1.0


def _contingency(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images have each cluster and each label: (clusters, labels)."""
    (rows, i), (columns, j) = (np.unique(values, return_inverse=True) for values in (clusters, labels))
    return np.bincount(i * len(columns) + j, minlength=len(rows) * len(columns)).reshape(len(rows), len(columns))


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


# --- figure 3 --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Group:
    """A component of the mixture, or, without a mixture, any test images."""

    component: int | None
    members: int  #: test images that belong to it, shown or not
    columns: list[list[np.ndarray]]  #: of each image shown: itself, then a sample for each entry of `kept`


@dataclass(frozen=True, eq=False)
class Exploration:
    """What `explore` found."""

    groups: list[Group]  #: those with the most members, in this order
    kept: tuple[int, ...]  #: how many of the first latents are kept in each row of samples; in the last one, all
    images: int  #: test images that were looked at
    components: int  #: of the mixture; 1 without one
    used: int  #: components with a member
    classes: int | None  #: number of different labels; None, like the following, where there are no labels or clusters
    purity: float | None
    information: float | None  #: normalised mutual information of components and labels


def doublings(latents: int) -> tuple[int, ...]:
    """1, 2, 4, ... below `latents`, and `latents` itself."""
    return (*(2**i for i in range((latents - 1).bit_length())), latents)


def explore(
    model: MatNet,
    card: dict[str, Any],
    source: str | os.PathLike[str],
    *,
    temperature: tuple[float, ...],
    data: Path | None = None,
    count: int | None = None,
    groups: int = 12,
    columns: int = 3,
    seed: int = 0,
    means: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> Exploration:
    """The paper's figure 3, of an unconditional model and `count` test images of `source` (all, where it is None).

    Where p(z_0) is a mixture, each image belongs to its most probable component q(c | x); of the `groups` components
    with the most images, the `columns` most certain ones are shown. Without a mixture, the groups are of any
    images, drawn by `seed`. Under each image are samples that keep its first 1, 2, 4 ... latents. Pixels are
    drawn, or with `means` are means, as in `sample`. DataError where there are no test images.
    """
    images, labels = _test_images(model, card, source, data, count, seed, on_progress)
    odds = _all_log_odds(model, images, on_progress)
    clusters = None if odds is None else odds.argmax(axis=1)
    if odds is None:
        some = np.arange(min(len(images), groups * columns))
        chosen = [(None, len(images), some[i : i + columns]) for i in range(0, len(some), columns)]
    else:
        sizes = np.bincount(clusters, minlength=odds.shape[1])
        largest = [c for c in np.argsort(-sizes, kind="stable").tolist() if sizes[c]][:groups]
        chosen = [(c, int(sizes[c]), _most_certain(odds, c)[:columns]) for c in largest]
    kept = doublings(sum(level.modules for level in model.config.levels))
    shown = np.concatenate([rows for *_, rows in chosen])
    cells = [images[shown]]
    for done, keep in enumerate(kept):
        on_progress("drawing", done, len(kept))
        parts = []
        for i in range(0, len(shown), BATCH):
            rows = shown[i : i + BATCH]
            seeds = [(seed, _KEEP, keep, int(row)) for row in rows]
            parts.append(resample(model, _unit(model, images[rows]), keep, seeds, temperature, means))
        cells.append(np.concatenate(parts))
    on_progress("drawing", len(kept), len(kept))
    columns_of = iter(zip(*cells, strict=True))
    known = clusters is not None and labels is not None
    return Exploration(
        groups=[Group(c, members, [list(next(columns_of)) for _ in rows]) for c, members, rows in chosen],
        kept=kept,
        images=len(images),
        components=model.config.prior_components,
        used=1 if clusters is None else len(np.unique(clusters)),
        classes=len(np.unique(labels)) if known else None,
        purity=purity(clusters, labels) if known else None,
        information=normalised_mutual_information(clusters, labels) if known else None,
    )


def _test_images(
    model: MatNet,
    card: dict[str, Any],
    source: str | os.PathLike[str],
    data: Path | None,
    count: int | None,
    seed: int,
    on_progress: Progress,
) -> tuple[np.ndarray, np.ndarray | None]:
    """`count` test images as the model takes them, uint8 (n, H, W, C), drawn by `seed`; and their labels (n,)."""
    config = model.config
    with tempfile.TemporaryDirectory(prefix="matfill-", ignore_cleanup_errors=True) as cache:
        found = open_for(
            datasets.locate(source, data),
            config,
            card,
            cache=cache,
            on_progress=lambda *counts: on_progress("decoding", *counts),
        )
        if not len(found.test):
            raise DataError(f"{source} has no test images to look at; choose data that has some")
        chosen = np.random.default_rng((seed, _SORT)).permutation(len(found.test))[:count]
        images, labels = found.test[chosen], found.labels.get("test")
    if config.output == "bernoulli":
        images = binarised(images, [(seed, _SORT, int(row)) for row in chosen])
    return images, None if labels is None else labels[chosen]


def _all_log_odds(model: MatNet, images: np.ndarray, on_progress: Progress) -> np.ndarray | None:
    """`component_log_odds` of images uint8 (N, H, W, C): float32 (N, k)."""
    found = []
    for first in range(0, len(images), BATCH):
        odds = component_log_odds(model, _unit(model, images[first : first + BATCH]))
        if odds is None:
            return None
        found.append(odds.float().cpu().numpy())
        on_progress("sorting", min(first + BATCH, len(images)), len(images))
    return np.concatenate(found)


def _most_certain(odds: np.ndarray, component: int) -> np.ndarray:
    """Rows of the images that belong to a component, the surest first."""
    members = np.flatnonzero(odds.argmax(axis=1) == component)
    return members[np.argsort(-odds[members, component], kind="stable")]


def _unit(model: MatNet, images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, C) -> (B, C, H, W) in [0, 1], on the model's device."""
    return torch.tensor(images, device=model.mean_image.device).movedim(-1, 1).float() / 255
