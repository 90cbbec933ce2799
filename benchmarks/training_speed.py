"""How much of the machine does training use? Images per second, and the share of its convolution peak.

    python benchmarks/training_speed.py --recipe faces

The peak is measured in the same run, on the model's own layer shapes in the training precision: every convolution that
an update makes (bottom-up to output, 1x1 kernels and whole-map kernels included) is timed alone, forwards and
backwards, over and over on the same tensors. An update that did nothing else would reach 100 %; what is missing is
spent on everything else (activations, concatenations, densities, random numbers, the optimisers, and memory that
tensors of a whole network do not share a cache with). Operations are counted as 2 per multiplication and addition,
three times a forward pass; those of the optimisers do not count.

Images are random: speed does not depend on what they show.

Last measured:

    2026-11-25, 2 cores of AMD EPYC, 2 threads, torch 2.13.0+cpu, bfloat16 on cpu
    recipe faces, batch 32, 24 updates of 364 GFLOP each
    training:            39.0 images/s,    443 GFLOP/s
    convolutions only:   60.7 images/s,    690 GFLOP/s (the peak)
    share of the peak:  64.2%

The machine is shared: two runs minutes before that gave 42.9 and 43.0 images/s, and 61.9 and 69.8 %.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from machine import machine

from matfill import masks, recipes
from matfill.devices import fastest_precision, pick_device
from matfill.layers import Conv2d
from matfill.model import MatNet
from matfill.trainer import Trainer

#: input shape (B, C, H, W), outputs, taps of the kernel, its side, stride, padding
Shape = tuple[tuple[int, ...], int, int, int, int, int]


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[tuple[Counter[Shape], dict[Shape, Conv2d]]]:
    """Counts of the convolutions that the model makes in the block, and a layer of each kind."""
    calls: Counter[Shape] = Counter()
    layers: dict[Shape, Conv2d] = {}

    def note(layer: Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        batch, _, *sizes = inputs[0].shape
        channels = sum(x.shape[1] for x in inputs)
        outputs, columns = layer.weight.shape
        taps = columns // channels  # of a masked kernel, those that it has
        shape = (batch, channels, *sizes), outputs, taps, layer.kernel, layer.stride, layer.padding
        calls[shape] += 1
        layers.setdefault(shape, layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in model.modules() if isinstance(layer, Conv2d)]
    try:
        yield calls, layers
    finally:
        for hook in hooks:
            hook.remove()


def operations(shape: Shape) -> int:
    """Of one forward and backward pass of a convolution."""
    (batch, inputs, height, width), outputs, taps, kernel, stride, padding = shape
    rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    return 3 * 2 * batch * outputs * rows * columns * inputs * taps


def fastest(function: Callable[[], None], seconds: float) -> float:
    """Seconds of the fastest of as many calls as fit into `seconds`, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def alone(layer: Conv2d, size: tuple[int, ...], device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Seconds of one forward and backward pass of a convolution by itself."""
    layer = copy.deepcopy(layer).to(dtype)
    x = torch.randn(size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(layer(x))

    def once() -> None:
        layer(x).backward(gradient)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return fastest(once, seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", default="faces", help="(default: %(default)s)")
    add("--batch", type=int, help="images per update (default: the recipe's)")
    add("--updates", type=int, default=24, help="updates to time, after 4 that do not count (default: %(default)s)")
    add("--device", default="auto", help="(default: %(default)s)")
    add("--precision", default="auto", help="auto, float32 or bfloat16 (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    device = pick_device(options.device)
    precision = fastest_precision(device) if options.precision == "auto" else options.precision
    model_config, config = recipes.recipe(options.recipe)
    config = dataclasses.replace(config, precision=precision, batch=options.batch or config.batch)
    trainer = Trainer(MatNet(model_config), config, device)

    side = model_config.image_size
    images = torch.randint(0, 256, (config.batch, model_config.image_channels, side, side), dtype=torch.uint8)
    seeds = [(0, i) for i in range(config.batch)]
    holes = masks.sample_batch(masks.parse(config.mask), side, side, seeds)
    missing = torch.from_numpy(holes)[:, None]

    def seconds() -> float:
        start = time.perf_counter()
        trainer.step(images, missing)
        return time.perf_counter() - start

    for _ in range(4):
        seconds()
    with recorded(trainer.model) as (calls, layers):
        step = statistics.fmean(seconds() for _ in range(options.updates))
    work = sum(count * operations(shape) for shape, count in calls.items()) / options.updates
    dtype = getattr(torch, precision)
    peaks = {shape: alone(layer, shape[0], device, dtype, 0.15) for shape, layer in layers.items()}
    ideal = sum(count * peaks[shape] for shape, count in calls.items()) / options.updates

    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{datetime.date.today()}, {machine()}, {threads}, {precision} on {device}")
    print(f"recipe {options.recipe}, batch {config.batch}, {options.updates} updates of {work / 1e9:.0f} GFLOP each")
    print(f"training:          {config.batch / step:6.1f} images/s, {work / step / 1e9:6.0f} GFLOP/s")
    print(f"convolutions only: {config.batch / ideal:6.1f} images/s, {work / ideal / 1e9:6.0f} GFLOP/s (the peak)")
    print(f"share of the peak: {ideal / step:6.1%}")
    print("\nlargest shares of the convolutions' time, alone:")
    for shape, count in sorted(calls.items(), key=lambda item: -item[1] * peaks[item[0]])[:8]:
        (_, inputs, height, _), outputs, _, kernel, stride, _ = shape
        share = count * peaks[shape] / options.updates / ideal
        print(
            f"  {kernel}x{kernel}/{stride} {inputs:4d} -> {outputs:4d} at {height:2d}: {share:5.1%} "
            f"{operations(shape) / peaks[shape] / 1e9:6.0f} GFLOP/s"
        )


if __name__ == "__main__":
    main()
