"""Scores of a data set: free energy and importance-weighted bound of every image, with standard errors.

Figures do not depend on how many processes share the work, nor on how many images go through the model at a time.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from matfill import bounds, datasets, masks
from matfill.batches import heldout
from matfill.checkpoint import load_weights
from matfill.config import PRECISIONS
from matfill.data import open_for
from matfill.devices import fastest_precision, pick_device
from matfill.errors import ConfigError, DataError, MaskError, MatfillError
from matfill.image_set import SPLITS
from matfill.model import MatNet
from matfill.noise import Noise, generator
from matfill.processes import agree, process_group
from matfill.provenance import source_version, today
from matfill.stacks import from_posterior

MOST_SAMPLES = 100_000
BLOCK = 64  # images that share a stream of noise, and are never divided between processes
GPU_BATCH = 512  # images in one pass
CPU_BATCH = 1024  # likewise, of a fully connected model; others get fewer, down to a BLOCK, for the caches' sake
CPU_POSITIONS = 16_384  # of the finest level's maps, in such a pass
COLLAPSED = 2.0  # median effective sample size below which the bound tells more of k than of the model
FEW = 10  # samples, with which that says nothing yet

ALL = "all"  # in place of a split
Progress = Callable[[str, int, int], None]  #: what is being done, how much of it, out of how much


# --- a model's scores ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores:
    """What every image scored: float64 (N,), on the CPU; nats, unless it says otherwise."""

    free_energy: Tensor  #: distortion + rate, of a single sample
    iwae_bound: Tensor  #: importance-weighted, of all samples
    effective_samples: Tensor  #: a number of samples, see bounds.ImportanceWeights
    rates: dict[tuple[int, int], Tensor]  #: of each (stage, level), of the sample of the free energy
    dims: Tensor  #: missing values, channels counted
    samples: int  #: k
    seconds: float  #: that it took
    sample_cost: float  #: time of one importance sample, as a share of a full pass

    @property
    def collapsed(self) -> bool:
        """Whether in half of the images hardly more than one sample has all the weight, out of FEW or more."""
        return self.samples >= FEW and float(self.effective_samples.median()) < COLLAPSED

    def summary(self) -> dict[str, Any]:
        """Means over images in nats per image, their standard errors, bits per missing dimension; ready for JSON."""
        rates: dict[int, list[float]] = {}
        for (stage, _), nats in self.rates.items():
            rates.setdefault(stage, []).append(float(nats.mean()))
        return {
            "images": len(self.dims),
            "samples": self.samples,
            "free_energy": _mean(self.free_energy, self.dims),
            "iwae_bound": _mean(self.iwae_bound, self.dims),
            "distortion": float(self.free_energy.mean()) - sum(map(sum, rates.values())),
            "rates": list(rates.values()),
            "effective_samples": {
                "mean": float(self.effective_samples.mean()),
                "median": float(self.effective_samples.median()),
                "collapsed": self.collapsed,
            },
            "seconds": self.seconds,
            "images_per_second": len(self.dims) / self.seconds,
            "sample_cost": self.sample_cost,
        }


def _mean(nats: Tensor, dims: Tensor) -> dict[str, float | None]:
    """Of nats (N,) per image; a single image has no standard error."""
    error = float(nats.std()) / math.sqrt(len(nats)) if len(nats) > 1 else None
    return {"mean": float(nats.mean()), "se": error, "bits_per_dim": float(bounds.bits_per_dim(nats, dims))}


@torch.inference_mode()
def score(
    model: MatNet,
    images: Tensor,
    missing: Tensor,
    *,
    samples: int,
    seed: int,
    precision: str = "float32",
    batch: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score images uint8 (N, C, H, W) where `missing` (N, 1, H, W) with k = `samples` importance samples each.

    What does not depend on a latent is computed once for each image; memory does not grow with k. Image i's noise is a
    function of `seed` and i. `batch` is the number of images in one pass, rounded down to whole BLOCKs. Where
    processes.process_group has joined several processes, each scores a share, and all of them return the whole.
    `on_progress` counts samples of images, of this process's share.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise ConfigError(f"samples is {samples}; allowed: 1 to {MOST_SAMPLES}")
    if not missing.any():
        raise MaskError("the masks are empty: there is nothing to score")
    device = model.mean_image.device
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share = np.array_split(np.arange(math.ceil(len(images) / BLOCK)), world)[rank].tolist()
    if batch is None:
        positions = model.config.levels[-1].size ** 2
        batch = GPU_BATCH if device.type != "cpu" else min(CPU_BATCH, CPU_POSITIONS // positions)
    together = max(1, batch // BLOCK)
    keys = [(stage, level) for stage in range(model.config.stages) for level in range(len(model.config.levels))]
    table = torch.zeros(len(images), 3 + len(keys), dtype=torch.float64)
    total, done, costs = sum(len(images[b * BLOCK : (b + 1) * BLOCK]) for b in share) * samples, 0, []
    start = time.perf_counter()
    for first in range(0, len(share), together):
        blocks = share[first : first + together]
        rows = slice(blocks[0] * BLOCK, (blocks[-1] + 1) * BLOCK)
        x, hole = images[rows].to(device).float() / 255, missing[rows].to(device)
        noise = block_noise(seed, blocks, hole, x.shape[1])
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            begin = _now(device)
            encoded = model.encode(x, hole, infer=True)
            middle = _now(device)
            weights = bounds.ImportanceWeights()
            for sample in range(samples):
                trace = model.decode(encoded, from_posterior(noise), noise)
                weights.add(bounds.log_weight(trace))
                if sample == 0:
                    rates = bounds.rates(trace)
                    table[rows, 0] = bounds.free_energy(trace).cpu().double()
                    table[rows, 3:] = torch.stack([rates[key] for key in keys], dim=1).cpu().double()
                done += len(x)
                on_progress(done, total)
            decoding = (_now(device) - middle) / samples
        table[rows, 1], table[rows, 2] = weights.bound(), weights.effective_samples()
        costs.append(decoding / (middle - begin + decoding))
    seconds, cost = agree(device, time.perf_counter() - start, statistics.median(costs) if costs else 0.0)
    if world > 1:
        gathered = table.to(device)
        dist.all_reduce(gathered)
        table = gathered.cpu()
    if wrong := int((~table.isfinite()).any(1).sum()):
        raise MatfillError(f"{wrong} of {len(table)} scores are not finite; try --precision float32, or other weights")
    return Scores(
        free_energy=table[:, 0],
        iwae_bound=table[:, 1],
        effective_samples=table[:, 2],
        rates={key: table[:, 3 + i] for i, key in enumerate(keys)},
        dims=images.shape[1] * missing.sum((1, 2, 3)),
        samples=samples,
        seconds=seconds,
        sample_cost=cost,
    )


def block_noise(seed: int, blocks: Sequence[int], missing: Tensor, channels: int) -> Noise:
    """Standard normal noise for the images of `blocks`, of which `missing` (B, 1, H, W) is cut from; call by call.

    Every block has a stream of its own, drawn for BLOCK images even where it has fewer: an image's noise depends on
    `seed`, its place, and on how many draws went before. For missing pixels (rows, C), it is that of their places.
    """
    device = missing.device
    generators = [generator((seed, 2, block), device) for block in blocks]

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.cat([torch.randn((BLOCK, *shape), generator=g, device=device) for g in generators])[: len(missing)]

    def noise(shape: torch.Size) -> Tensor:
        if len(shape) == 2:
            return draw((*missing.shape[2:], channels))[missing[:, 0]]
        return draw(shape[1:])

    return noise


def _now(device: torch.device) -> float:
    """Seconds on a clock that runs on only when the device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


# --- a data set's scores ---------------------------------------------------------------------------------------------


def score_data(
    source: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    mask: str | None = None,
    *,
    data: Path | None = None,
    split: str = "test",
    count: int | None = None,
    samples: int = 50,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    on_progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Scores of the images in `source` (a path, or the name of a data set, also below `data`), as plain values.

    `mask` says what is missing: with an unconditional model "all", which then need not be given. `count` of the images
    of `split` (or ALL splits) are scored, drawn by `seed` like their holes, always the same ones; all of them where it
    is None. They are fitted to the model as its training data were. Under torchrun every process calls this, and gets
    the same figures. MatfillError says what does not fit what.
    """
    if split not in (*SPLITS, ALL):
        raise ConfigError(f"split is {split!r}; allowed: {', '.join(SPLITS)}, {ALL}")
    if precision not in ("auto", *PRECISIONS):
        raise ConfigError(f"precision is {precision!r}; allowed: auto, {', '.join(PRECISIONS)}")
    if mask is not None:
        masks.parse(mask)
    made = {"date": today(), "version": source_version()}  # as it begins: a checkout may move on meanwhile
    chosen = pick_device(device)
    model, card = load_weights(weights)
    if mask is None:
        if model.config.conditional:
            raise ConfigError(f"{weights} is a conditional model; say which holes it fills, such as --mask random3x20")
        mask = "all"
    path = datasets.locate(source, data)
    with process_group(chosen), tempfile.TemporaryDirectory(prefix="matfill-", ignore_cleanup_errors=True) as cache:
        images, missing, fingerprint = _examples(
            path, model, card, mask, split, count, seed, cache, lambda *counts: on_progress("decoding", *counts)
        )
        if precision == "auto":
            precision = fastest_precision(chosen)
        scores = score(
            model.to(chosen),
            images,
            missing,
            samples=samples,
            seed=seed,
            precision=precision,
            on_progress=lambda *counts: on_progress("scoring", *counts),
        )
    return {
        "weights": str(weights),
        "data": str(source),
        "split": split,
        "fingerprint": fingerprint,
        "mask": mask,
        "protocol": protocol_of(mask),
        "seed": seed,
        "precision": precision,
        "device": str(chosen),
        **made,
        **scores.summary(),
    }


def _examples(
    path: Path,
    model: MatNet,
    card: dict[str, Any],
    mask: str,
    split: str,
    count: int | None,
    seed: int,
    cache: str,
    on_progress: Callable[[int, int], None],
) -> tuple[Tensor, Tensor, str]:
    """What `score` takes, and the fingerprint of the data."""
    config = model.config
    found = open_for(path, config, card, cache=cache, on_progress=on_progress)
    there = {name: getattr(found, name) for name in SPLITS}
    images = np.concatenate(list(there.values())) if split == ALL else there[split]
    if not len(images):
        others = ", ".join(f"{name} ({len(some)})" for name, some in there.items() if len(some))
        raise DataError(f"{path} has no {split} images; choose another split: {others}")
    if count is not None and not 1 <= count <= len(images):
        what = "images" if split == ALL else f"{split} images"
        raise DataError(f"{count} images cannot be scored: {path} has {len(images)} {what}; ask for 1 to that many")
    binary = config.output == "bernoulli"
    return *heldout(images, count or len(images), mask, seed, binary=binary), found.fingerprint


# --- what is known from the literature -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Nats per image of binarised MNIST with one, two and three visible quadrants, as published."""

    name: str
    protocol: str | None  #: None where it is not stated
    samples: int | None  #: likewise
    nats: tuple[float, float, float]


PUBLISHED = (
    Published("MatNet (Bachman 2016)", "random", 1, (57.45, 36.82, 17.96)),
    Published("CVAE (Sohn et al. 2015)", None, None, (63.91, 44.73, 20.95)),
)


def protocol_of(mask: str) -> str | None:
    """ "random" or "fixed" where a mask is one of the quadrants protocols, else None."""
    match = re.fullmatch(r"quadrants[1-3](fixed)?", mask)
    return (match[1] or "random") if match else None
