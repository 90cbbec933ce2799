"""The machine that a benchmark ran on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def machine(device: torch.device | None = None) -> str:
    """The processor's name and how many of its cores we may use; and the GPU's, where `device` is one."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device and device.type == "cuda":
        import torch

        cores = f"{torch.cuda.get_device_name(device)}; {cores}"
    return f"{cores} cores of {name}, {platform.system()}, Python {platform.python_version()}"
