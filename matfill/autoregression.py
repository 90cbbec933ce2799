"""Local autoregression (section 2.3): masked convolutions over the true image that refine the top-down output.

Pixels are taken in raster order. A pixel's distribution sees the values of a few rows above it and to its left,
whether they were missing or not, and the top-down output without restriction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matfill.config import ModelConfig
from matfill.layers import Conv2d, lrelu

FIRST_KERNEL, KERNEL = 5, 3

#: values (B, n, C) drawn for raw parameters (B, n, P) of the pixels at places (n,), indices in raster order
Draw = Callable[[Tensor, Tensor], Tensor]


class CausalConv2d(Conv2d):
    """Convolution that sees only pixels before its own in raster order, and its own too unless `strict`.

    In raster order the taps that it may see come first, so its weight is a matrix (out, taps * in) of those alone.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, strict: bool, scale: float = 1.0):
        taps = kernel * (kernel // 2) + kernel // 2 + (0 if strict else 1)
        super().__init__(inputs, outputs, kernel, taps=taps, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        reach = self.kernel // 2
        inputs = x.shape[1]
        weight = F.pad(self.weight, (0, ((reach + 1) * self.kernel - self.taps) * inputs))
        weight = weight.view(-1, reach + 1, self.kernel, inputs).permute(0, 3, 1, 2)
        return F.conv2d(F.pad(x, (0, 0, reach, 0)), weight, self.bias, padding=(0, reach))

    def offsets(self, stride: int) -> Tensor:
        """How far each tap lies from the centre in an image of rows of `stride`: (taps,)."""
        reach = self.kernel // 2
        tap = torch.arange(self.taps)
        return (tap // self.kernel - reach) * stride + tap % self.kernel - reach


class LocalAutoregression(nn.Module):
    """`autoregression` masked layers, each of which sees the top-down features too; the last gives an update to the
    raw parameters of every pixel's distribution."""

    def __init__(self, features: int, parameters: int, config: ModelConfig):
        super().__init__()
        channels, layers = config.autoregression_channels, config.autoregression
        self.first = CausalConv2d(config.image_channels, channels, FIRST_KERNEL, strict=True)
        self.layers = nn.ModuleList(
            CausalConv2d(channels, channels, KERNEL, strict=False, scale=config.branch_scale) for _ in range(layers - 1)
        )
        self.conditions = nn.ModuleList(Conv2d(features, channels, 1) for _ in range(layers))
        self.output = Conv2d(channels, parameters, 1, output=True)

    def look(self, x: Tensor) -> Tensor:
        """The first layer's view of images x (B, C, H, W) in [0, 1]; independent of all latents."""
        return self.first(2 * x - 1)

    def forward(self, features: Tensor, look: Tensor) -> Tensor:
        """Update (B, P, H, W) to all pixels' raw parameters, given the true image's `look`."""
        features = features.to(look.dtype)  # once, for all layers
        h = lrelu(self.conditions[0](features) + look)
        for layer, condition in zip(self.layers, self.conditions[1:], strict=True):
            h = lrelu(layer(h) + h + condition(features))
        return self.output(h)

    @torch.no_grad()
    def sample(self, features: Tensor, raw: Tensor, x: Tensor, missing: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Draw the missing pixels of x (B, C, H, W) one after the other; x with them, and raw (B, P, H, W), updated.

        Every layer's value is computed once for each pixel. Pixels whose predecessors are all known go together: those
        with the same reach * row + column, a slanting wavefront, some (reach + 1) H + W steps in all.
        """
        batch, _, height, width = x.shape
        reach = FIRST_KERNEL // 2
        stride = width + 2 * reach
        place = torch.arange(height * width, device=x.device)
        rows, columns = place // width, place % width
        centre = (rows + reach) * stride + columns + reach
        front = (reach + 1) * rows + columns
        conditions = [condition(features).flatten(2).mT for condition in self.conditions]
        raw, values = (t.flatten(2).mT.clone() for t in (raw, x))  # from here on, pixels are rows: (B, H W, ...)
        missing = missing.flatten(2).mT
        image = x.new_zeros(batch, (height + 2 * reach) * stride, x.shape[1])  # in [-1, 1], with a margin; filled below
        convolutions = [self.first, *self.layers]
        offsets = [layer.offsets(stride).to(x.device) for layer in convolutions]
        hidden = (batch, image.shape[1], self.first.weight.shape[0])
        states = [image, *(image.new_zeros(hidden) for _ in convolutions)]
        for step in range(int(front[-1]) + 1):
            now = (front == step).nonzero()[:, 0]
            if not len(now):
                continue
            here = centre[now]
            h = 0
            for i, layer in enumerate(convolutions):
                seen = states[i][:, here[:, None] + offsets[i]].flatten(2)
                h = lrelu(h + F.linear(seen, layer.weight, layer.bias) + conditions[i][:, now])
                states[i + 1][:, here] = h.to(states[i + 1].dtype)
            raw[:, now] += F.linear(h, self.output.weight, self.output.bias)
            values[:, now] = torch.where(missing[:, now], draw(raw[:, now], now).to(values.dtype), values[:, now])
            image[:, here] = 2 * values[:, now] - 1
        return tuple(rows.mT.unflatten(2, (height, width)) for rows in (values, raw))
