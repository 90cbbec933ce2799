"""Filling: batches of images at a model's own size, and photos of any size, one or many at a time.

Every filling is a function of its seed and of the photo alone, whatever is filled along with it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from matfill.errors import ConfigError
from matfill.images import Photo
from matfill.looks import TOGETHER, Looks, by_frame, by_windows, check
from matfill.model import Hint, MatNet
from matfill.noise import row_noise
from matfill.windows import octaves, surroundings

#: Squares in one pass; fewer are filled up to that, for in passes of another size the last bits may come out otherwise
BATCH = {"cpu": 4}
GPU_BATCH = 64
ROOM = 8_000_000  # pixels of photos, or of samples of one photo, in progress at the same time

Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Fillings:
    """Several fillings of one photo, of which only the hole is kept."""

    photo: Photo
    missing: np.ndarray  #: bool (H, W)
    rows: list[np.ndarray]  #: of each sample, the n missing pixels in row-major order: (n, C), of the photo's depth
    mean_rows: np.ndarray  #: float32 (n, C) in [0, 1]
    std_rows: np.ndarray  #: float32 (n,), the standard deviation, averaged over channels

    def sample(self, number: int) -> Photo:
        """The photo with sample `number`, from 0, in its hole."""
        rows = self.rows[number]
        return self.photo.composite(rows / np.float32(np.iinfo(rows.dtype).max), self.missing)

    @property
    def mean(self) -> Photo:
        """The photo with the mean of the samples in its hole."""
        return self.photo.composite(self.mean_rows, self.missing)

    @property
    def std(self) -> np.ndarray:
        """float32 (H, W) in [0, 1]: the samples' standard deviation, averaged over channels; 0 where observed."""
        std = np.zeros(self.missing.shape, np.float32)
        std[self.missing] = self.std_rows
        return std


#: Asks for looks to be filled, is sent them (B, C, S, S), and ends with the fillings of a photo.
Filling = Generator[Looks, Tensor, Fillings]


def temperatures(value: float | Sequence[float], levels: int) -> tuple[float, ...]:
    """One temperature per level, coarsest first, from one for all or from that many."""
    values = [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) not in (1, levels):
        raise ConfigError(f"{len(values)} temperatures for a model of {levels} levels; give 1 or {levels}")
    if wrong := [v for v in values if not 0 <= v < float("inf")]:
        raise ConfigError(f"temperature {wrong[0]} is out of range; give numbers from 0")
    return tuple(values * levels if len(values) == 1 else values)


# --- squares ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def fill(model: MatNet, looks: Looks, temperature: tuple[float, ...]) -> Tensor:
    """x (B, C, S, S) of the looks with its missing pixels filled, row i with seeds[i], in passes of one size.

    S is the model's image_size. Observed pixels come back exactly as they were; a model of binary images sees them in
    black and white.
    """
    device, binary = model.mean_image.device, model.config.output == "bernoulli"
    size = BATCH.get(device.type, GPU_BATCH)
    out = []
    for i in range(0, len(looks.x), size):
        places = [min(i + row, len(looks.x) - 1) for row in range(size)]
        x, missing = looks.x[places].to(device), looks.missing[places].to(device)
        hint = looks.hint and Hint(looks.hint.image[places].to(device), looks.hint.there[places].to(device))
        noise = row_noise([looks.seeds[place] for place in places])
        seen = (x >= 0.5).to(x.dtype) if binary else x
        trace = model.generate(seen, missing, lambda shape, noise=noise: noise(shape).to(device), temperature, hint)
        out.append(model.compose(x, trace)[: len(looks.x) - i].cpu())
    return torch.cat(out)


def fill_batch(
    model: MatNet,
    images: np.ndarray,
    missing: np.ndarray,
    *,
    samples: int,
    seed: int,
    temperature: tuple[float, ...],
) -> np.ndarray:
    """`samples` fillings of images uint8 (N, H, W, C) where missing (N, H, W): uint8 (samples, N, H, W, C).

    H = W is the model's image_size. Sample s of image i is drawn with seed (seed, s, i).
    """
    x = torch.tensor(images).movedim(-1, 1).float() / 255
    holes = torch.tensor(missing)[:, None]
    done = []
    for sample in range(samples):
        filled = fill(model, Looks(x, holes, [(seed, sample, i) for i in range(len(images))]), temperature)
        done.append(filled.mul(255).round().byte().movedim(1, -1).numpy())
    return np.stack(done)


# --- photos ----------------------------------------------------------------------------------------------------------


def inpaint(
    model: MatNet,
    photo: Photo,
    missing: np.ndarray,
    *,
    samples: int,
    seed: int,
    temperature: tuple[float, ...],
    windows: bool = False,
) -> Fillings:
    """Fill `missing` (H, W) of a photo of any size, `samples` times. Pixels outside the hole keep their exact values.

    `windows` says how the photo is shown to the model: through windows, or else whole. MaskError where nothing is
    missing, or nothing observed.
    """
    task = filling(model, photo, missing, samples=samples, seed=seed, windows=windows)
    ((_, found),) = fill_together(model, [(None, photo.width * photo.height, task)], temperature)
    if isinstance(found, Exception):
        raise found
    return found


def fill_together(
    model: MatNet, tasks: Iterable[tuple[Key, int, Filling]], temperature: tuple[float, ...]
) -> Iterator[tuple[Key, Fillings | Exception]]:
    """Carry out fillings, several at a time where they are small, and give each back, or the error that it raised.

    A task comes with a key of the caller's and the photo's number of pixels. Tasks are taken as they are needed.
    """
    tasks, more = iter(tasks), True
    waiting: list[tuple[Key, int, Filling, Looks]] = []
    while True:
        while more and _has_room(waiting):
            task = next(tasks, None)
            if more := task is not None:
                yield from _go_on(waiting, *task, None)
        if not waiting:
            return
        current, waiting = waiting, []
        filled = fill(model, _joined([looks for *_, looks in current]), temperature)
        parts = filled.split([len(looks.x) for *_, looks in current])
        for (key, area, task, _), part in zip(current, parts, strict=True):
            yield from _go_on(waiting, key, area, task, part)


def _has_room(waiting: list[tuple[Key, int, Filling, Looks]]) -> bool:
    squares, area = sum(len(looks.x) for *_, looks in waiting), sum(area for _, area, *_ in waiting)
    return not waiting or (squares < TOGETHER and area <= ROOM)


def _go_on(
    waiting: list[tuple[Key, int, Filling, Looks]], key: Key, area: int, task: Filling, filled: Tensor | None
) -> Iterator[tuple[Key, Fillings | Exception]]:
    """Send a task what it asked for; it waits for more, or is done."""
    try:
        waiting.append((key, area, task, task.send(filled)))
    except StopIteration as end:
        yield key, end.value
    except Exception as error:  # of a batch of thousands, one must not end all
        yield key, error


def _joined(looks: list[Looks]) -> Looks:
    """Looks of several tasks of the same kind as one."""
    if len(looks) == 1:
        return looks[0]
    hint = None
    if looks[0].hint:
        hint = Hint(torch.cat([one.hint.image for one in looks]), torch.cat([one.hint.there for one in looks]))
    x, missing = (torch.cat([getattr(one, name) for one in looks]) for name in ("x", "missing"))
    return Looks(x, missing, [seed for one in looks for seed in one.seeds], hint)


def filling(model: MatNet, photo: Photo, missing: np.ndarray, *, samples: int, seed: int, windows: bool) -> Filling:
    """The task of filling a photo, see `inpaint`. Sample s is drawn with seeds that begin with (seed, s)."""
    check(photo, missing)
    config = model.config
    pixels = photo.view(config.image_channels)
    if windows:
        around = surroundings(missing, config.image_size)
        pixels, hole = pixels[around], missing[around]
        paint = partial(by_windows, octaves(pixels, hole, config.image_size), config.image_size)
    else:
        hole = missing
        paint = partial(by_frame, pixels, hole, config.image_size)
    del pixels  # it may be large, and what is painted on has it
    seeds, together = [(seed, sample) for sample in range(samples)], max(1, ROOM // hole.size)
    rows: list[np.ndarray] = []
    for first in range(0, samples, together):
        rows += yield from paint(seeds[first : first + together])
    white = np.float32(np.iinfo(rows[0].dtype).max)
    mean, square = np.zeros(rows[0].shape), np.zeros(rows[0].shape)
    for values in rows:
        mean += values / white / samples
    for values in rows:
        square += (values / white - mean) ** 2 / samples
    return Fillings(photo, missing, rows, mean.astype(np.float32), np.sqrt(square).mean(-1).astype(np.float32))
