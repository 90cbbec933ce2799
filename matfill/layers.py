"""Layers shared by all modules: convolution, the residual branch, resampling between levels, images in and out.

Feature maps are (B, C, S, S); a fully connected level is one with S = 1. lrelu is the leaky ReLU of slope 0.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matfill.config import Level, ModelConfig


def lrelu(h: Tensor) -> Tensor:
    # in place where that pays: a view, which is what a 1x1 convolution gives, costs copies of its gradient
    return F.leaky_relu(h, 0.1, inplace=not (h.requires_grad and h._is_view()))


class Conv2d(nn.Module):
    """Shape-preserving convolution ("conv" in the paper), or strided (`stride`), or of a whole map (`padding=0`).

    The weight is kept as a matrix (out, k * k * in): that is a channels-last kernel, the fast layout, and what
    torch.optim.Muon takes. `taps` are fewer than k * k where a subclass uses a part of the kernel. `output` marks the
    last layer before a distribution's parameters, initially small.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int | None = None,
        taps: int | None = None,
        scale: float = 1.0,
        output: bool = False,
    ):
        super().__init__()
        self.kernel, self.stride, self.output, self.taps = kernel, stride, output, taps or kernel * kernel
        self.padding = kernel // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(outputs, self.taps * inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        rows, columns = self.weight.shape
        gain = 0.2 if output else math.sqrt(2 / (1 + 0.1**2))
        nn.init.orthogonal_(self.weight, gain * scale * math.sqrt(max(1.0, rows / columns)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """conv([h; h'; ...]) of all inputs side by side."""
        if self.kernel == 1:  # as matrix products: half the time of a 1x1 convolution on CPUs
            batch, _, *sizes = inputs[0].shape
            first, *others = (x.movedim(1, -1).flatten(0, 2) for x in inputs)  # pixels as rows
            part, *parts = self.weight.split([x.shape[1] for x in inputs], dim=1)
            out = F.linear(first, part, self.bias)
            for x, part in zip(others, parts, strict=True):  # summed: a concatenation's gradients are strided, and slow
                out = torch.addmm(out, x, part.mT)
            return out.unflatten(0, (batch, *sizes)).movedim(-1, 1)
        x = side_by_side(*inputs)
        weight = self.weight.view(self.weight.shape[0], self.kernel, self.kernel, -1).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Branch(nn.Module):
    """conv(lrelu(conv(x))), what eqs. 7, 9 and 10 add to a state; x is all inputs side by side."""

    def __init__(self, inputs: int, channels: int, *, first_kernel: int = 3, kernel: int = 3, scale: float = 1.0):
        super().__init__()
        self.first = Conv2d(inputs, channels, first_kernel)
        self.second = Conv2d(channels, channels, kernel, scale=scale)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.second(lrelu(self.first(*inputs)))


class Residual(Branch):
    """h <- lrelu(h + conv(lrelu(conv([h; inputs])))), the update of a state in eqs. 7, 9 and 10."""

    def forward(self, h: Tensor, *inputs: Tensor) -> Tensor:
        return lrelu(super().forward(h, *inputs).add_(h))  # in place: a twentieth of a pass saved


class Gated(nn.Module):
    """h <- (1 - u) h + u tanh(conv([r h; inputs])), [u; r] = sigmoid(conv([h; inputs])): a GRU, convolutional where
    maps are larger than 1x1 (section 2.2; without other inputs, a Neural GPU, Kaiser & Sutskever 2016)."""

    def __init__(self, inputs: int, channels: int, *, first_kernel: int = 3, kernel: int = 3):
        super().__init__()
        self.gates = Conv2d(inputs, 2 * channels, first_kernel)
        self.candidate = Conv2d(inputs, channels, kernel)
        nn.init.constant_(self.gates.bias[:channels], -1.0)  # a state passes many modules: at first, most of it is kept

    def forward(self, h: Tensor, *inputs: Tensor) -> Tensor:
        u, r = torch.sigmoid(self.gates(h, *inputs)).chunk(2, dim=1)
        return h + u * (torch.tanh(self.candidate(r * h, *inputs)) - h)


def side_by_side(*maps: Tensor) -> Tensor:
    """[h; h'; ...] along the channels."""
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Down(nn.Module):
    """From a finer level to the next coarser one, (B, C, S, S) -> (B, C', S', S'); section 2.2."""

    def __init__(self, fine: Level, coarse: Level, config: ModelConfig):
        super().__init__()
        flat = config.flat_channels if coarse.size == 1 else 0
        self.narrow = Conv2d(fine.channels, flat, 1) if flat else None
        if coarse.size == 1:
            self.conv = Conv2d(flat or fine.channels, coarse.channels, fine.size, padding=0)
        else:
            ratio = fine.size // coarse.size
            self.conv = Conv2d(fine.channels, coarse.channels, 2 * ratio - 1, stride=ratio)  # passes nothing by

    def forward(self, h: Tensor) -> Tensor:
        if self.narrow:
            h = lrelu(self.narrow(h))
        return lrelu(self.conv(h))


class Up(nn.Module):
    """From a coarser level to the next finer one, (B, C', S', S') -> (B, C, S, S); section 2.2."""

    def __init__(self, coarse: Level, fine: Level, config: ModelConfig):
        super().__init__()
        self.ratio = fine.size // coarse.size
        self.flat = coarse.size == 1
        self.first = config.narrow_concat or self.flat  # a 1x1 convolution costs less before enlarging than after
        flat = config.flat_channels or fine.channels
        self.spread = Conv2d(coarse.channels, flat * fine.size**2, 1) if self.flat else None
        self.conv = Conv2d(flat if self.flat else coarse.channels, fine.channels, 1 if self.first else 3)

    def forward(self, h: Tensor) -> Tensor:
        if self.spread:
            return lrelu(self.conv(F.pixel_shuffle(lrelu(self.spread(h)), self.ratio)))
        if self.first:
            return enlarge(lrelu(self.conv(h)), self.ratio)
        return lrelu(self.conv(enlarge(h, self.ratio)))


def enlarge(h: Tensor, ratio: int) -> Tensor:
    """Nearest-neighbour enlargement, (B, C, S, S) -> (B, C, ratio S, ratio S)."""
    return h if ratio == 1 else F.interpolate(h, scale_factor=ratio, mode="nearest")


class ImageInput(nn.Module):
    """Image channels (B, inputs, image_size, image_size) -> features of the finest level; linear where that is 1x1."""

    def __init__(self, inputs: int, config: ModelConfig):
        super().__init__()
        finest = config.levels[-1]
        ratio, flat = config.image_size // finest.size, finest.size == 1
        self.shuffle = ratio if config.pixel_shuffle or flat else 1
        if self.shuffle == ratio:
            kernel, stride = 1 if flat else 3, 1
        else:
            kernel, stride = max(5, 2 * ratio - 1), ratio
        self.conv = Conv2d(inputs * self.shuffle**2, finest.channels, kernel, stride=stride)

    def forward(self, image: Tensor) -> Tensor:
        return lrelu(self.conv(F.pixel_unshuffle(image, self.shuffle)))


class ImageOutput(nn.Module):
    """Final top-down state (B, C, S, S) -> raw parameters of the pixel distributions (B, P, image_size, image_size).

    With `pixel_shuffle` it works at the finest level's size, and sees the stage's input image (`inputs` channels, none
    for an unconditional model) once more, so that what it puts into the hole can join what is around it to the pixel.
    """

    def __init__(self, inputs: int, parameters: int, config: ModelConfig):
        super().__init__()
        finest = config.levels[-1]
        self.ratio, flat = config.image_size // finest.size, finest.size == 1
        self.shuffle = config.pixel_shuffle or flat
        self.hidden, channels = None, finest.channels
        if config.pixel_shuffle:
            seen, channels = channels + inputs * self.ratio**2, config.output_channels or channels
            self.hidden = Conv2d(seen, channels, 1 if flat else 3)
        if self.shuffle:
            self.conv = Conv2d(channels, parameters * self.ratio**2, 1, output=True)
        else:
            self.conv = Conv2d(finest.channels, parameters, 3, output=True)

    def forward(self, h_td: Tensor, image: Tensor | None) -> Tensor:
        if not self.shuffle:
            return self.conv(enlarge(h_td, self.ratio))
        if self.hidden:
            seen = [] if image is None else [F.pixel_unshuffle(image, self.ratio).to(h_td.dtype)]
            h_td = lrelu(self.hidden(h_td, *seen))
        return F.pixel_shuffle(self.conv(h_td), self.ratio)
