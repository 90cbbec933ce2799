"""Gaussian noise that is a function of seeds: whole numbers from 0, as many as tell one draw from all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

#: float32 standard normal noise of a given shape; the caller decides on seeds
Noise = Callable[[torch.Size], Tensor]


def generator(seed: Sequence[int], device: torch.device | str = "cpu") -> torch.Generator:
    """Chance that depends on the words of the seed, and on the kind of device."""
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(state)


def gaussian_noise(device: torch.device, *seed: int) -> Noise:
    """Noise of any shape."""
    chance = generator(seed, device)
    return lambda shape: torch.randn(shape, generator=chance, device=device)


def row_noise(seeds: Sequence[Sequence[int]]) -> Noise:
    """Noise whose row i depends on seeds[i] alone, whatever else is in the batch; always from the CPU, so that one seed
    means one picture on every device."""
    rows = [generator(seed) for seed in seeds]
    return lambda shape: torch.stack([torch.randn(shape[1:], generator=row) for row in rows])
