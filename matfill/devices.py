"""Where to compute, and in which precision."""

from __future__ import annotations

import os
import time

import torch
from torch.nn import functional as F

from matfill.errors import ConfigError
from matfill.processes import agree


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first of cuda, mps and cpu that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    if name not in there:
        raise ConfigError(f"device is {name!r}; allowed: auto, {', '.join(there)}")
    if not there[name]:
        raise ConfigError(f"no {name} device is to be had here; use --device auto")
    if name != "cuda":
        return torch.device(name)
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(f"process {number + 1} of this machine finds {count} GPUs; use --nproc-per-node {count}")
    return torch.device(name, number)


def fastest_precision(device: torch.device) -> str:
    """The precision in which this device convolves faster, measured in a fraction of a second.

    One for all processes: where one of them prefers bfloat16, all do.
    """
    seconds = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x = torch.ones(16, 64, 32, 32, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.ones(64, 64, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            F.conv2d(x, kernel, padding=1).sum().item()
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    (short,) = agree(device, float(seconds["bfloat16"] < seconds["float32"]))
    return "bfloat16" if short else "float32"
