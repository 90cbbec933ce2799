"""Models, images and holes small enough for a test."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import torch

from matfill.config import Level, ModelConfig
from matfill.layers import Conv2d
from matfill.model import MatNet


def tiny_config(*, paper: bool = False, **changes) -> ModelConfig:
    """8x8 images, levels of 1x1, 2x2 and 4x4, two modules at the second; `paper` first, then `changes`.

    Where these say conditional=False, with all that has to go with it.
    """
    if not changes.get("conditional", True):
        changes = {"stages": 1, "merge_to_top_down": False, **changes}
    levels = (
        Level(size=1, channels=6, latents=2),
        Level(size=2, channels=5, latents=2, modules=2),
        Level(size=4, channels=4, latents=1),
    )
    config = ModelConfig(image_size=8, image_channels=3, levels=levels, flat_channels=3)
    return dataclasses.replace(config.paper() if paper else config, **changes)


def tiny_model(*, seed: int = 0, **changes) -> MatNet:
    torch.manual_seed(seed)
    return MatNet(tiny_config(**changes)).eval()


def holes(batch: int, size: int = 8, seed: int = 0) -> torch.Tensor:
    """missing (batch, 1, size, size): a rectangle of another size and place in each image."""
    draw = torch.Generator().manual_seed(seed)
    missing = torch.zeros(batch, 1, size, size, dtype=torch.bool)
    for image in missing:
        top, left = torch.randint(0, size - 2, (2,), generator=draw).tolist()
        height, width = torch.randint(2, size // 2 + 2, (2,), generator=draw).tolist()
        image[:, top : top + height, left : left + width] = True
    return missing


def images(batch: int, channels: int = 3, size: int = 8, *, binary: bool = False, seed: int = 0) -> torch.Tensor:
    """Random 8-bit (or binary) images (batch, channels, size, size) in [0, 1]."""
    top = 2 if binary else 256
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, top, (batch, channels, size, size), generator=draw) / (top - 1)


def seeded_noise(seed: int = 0) -> Callable[[torch.Size], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def kernel_of(conv: Conv2d) -> torch.Tensor:
    """The kernel (out, in, k, k) of torch.nn.functional.conv2d behind a layer's weights."""
    side = conv.kernel
    return conv.weight.detach().reshape(len(conv.weight), side, side, -1).permute(0, 3, 1, 2)


def refuse(monkeypatch, folder: str | Path) -> None:
    """Let the system refuse to list a folder, whoever asks: permissions stop no superuser."""
    inner = os.listdir

    def listdir(path="."):
        if os.path.realpath(path) == os.path.realpath(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return inner(path)

    monkeypatch.setattr(os, "listdir", listdir)
