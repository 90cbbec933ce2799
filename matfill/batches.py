"""Batches of images and holes to train on, and the fixed ones to score on.

Images are uint8 arrays (N, H, W, C). Everything drawn at random is a pure function of a seed and of a position, so a
run that resumes, or that is spread over processes, sees the same images and holes as one that is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from matfill import masks
from matfill.config import WARP_VALUES
from matfill.errors import ConfigError, DataError

# The first word of every seed: draws for different ends never share a stream.
_ORDER, _FLIP, _MASK, _HELDOUT, _BINARY, _WARP = range(6)

GPU_LOADERS = 2  # processes that make batches beside a GPU; beside CPUs they would only take time from training


class TrainBatches(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """The batches of a run: `batches[update]` is (images, missing, warp) of one update, for one of `world` processes.

    images uint8 (batch / world, C, H, W); missing bool (batch / world, 1, H, W), True = to be predicted; warp float
    (batch / world, WARP_VALUES), what MatNet.encode takes. They depend on the seed, the update and the place in the
    whole batch alone: nothing is remembered from one update to the next, and the processes' shares, laid end to end,
    are what a single process sees. Every image is seen once per epoch, in an order of that epoch's own; a batch may
    straddle two epochs. With `warp`, each, or a share of them, goes through a linear map of its own, with entries up to
    that far from the identity's; with `binary`, pixels are binarised afresh every time.
    """

    def __init__(
        self,
        images: np.ndarray,
        *,
        mask: str,
        batch: int,
        seed: int,
        flip: bool = False,
        warp: float = 0.0,
        warp_share: float = 1.0,
        binary: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        shares = 2 * world if world > 1 else 1  # even ones: of every second image predictions are trained
        if batch % shares:
            raise ConfigError(
                f"a batch of {batch} cannot be shared evenly by {world} processes; use a multiple of {shares}"
            )
        if len(images) < batch:
            count = len(images)
            raise DataError(f"{count} images are too few for a batch of {batch}: add some, or lower batch to {count}")
        self.images = images
        self.batch, self.seed, self.flip, self.binary = batch, seed, flip, binary
        self.warp, self.warp_share = warp, warp_share
        self._sampler = masks.parse(mask)
        self._sampler.sample(*images.shape[1:3], np.random.default_rng(0))  # a mask that does not fit fails here
        self._share = slice(rank * (batch // world), (rank + 1) * (batch // world))
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, update: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        places = range(self.batch)[self._share]
        rows = self.images[[self._row(update * self.batch + place) for place in places]]
        if self.flip:
            flipped = np.random.default_rng((_FLIP, self.seed, update)).random(self.batch)[self._share] < 0.5
            rows[flipped] = rows[flipped, :, ::-1]
        warp = np.zeros((len(rows), WARP_VALUES), np.float32)
        if self.warp:
            draw = np.random.default_rng((_WARP, self.seed, update))
            changes = draw.uniform(-self.warp, self.warp, (self.batch, 2, 2))[self._share]
            chosen = draw.random(self.batch)[self._share] < self.warp_share
            rows[chosen] = warped(rows[chosen], np.eye(2) + changes[chosen])
            warp[chosen] = np.insert(10 * changes[chosen].reshape(-1, 4), 0, 1, axis=1)
        if self.binary:
            draw = np.random.default_rng((_BINARY, self.seed, update))  # one for all: one for each takes thrice as long
            chances = draw.random((self.batch, *rows.shape[1:]), np.float32)
            rows = binarise(rows, chances[self._share])
        seeds = [(_MASK, self.seed, update, place) for place in places]
        missing = masks.sample_batch(self._sampler, *rows.shape[1:3], seeds)
        return *_to_tensors(rows, missing), torch.from_numpy(warp)

    def _row(self, position: int) -> int:
        """The image at `position` of the endless sequence of epochs."""
        epoch, place = divmod(position, len(self.images))
        if epoch not in self._orders:
            order = np.random.default_rng((_ORDER, self.seed, epoch)).permutation(len(self.images))
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1} | {epoch: order}
        return int(self._orders[epoch][place])


def loader(batches: TrainBatches, update: int, device: torch.device) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The batches from that update on, one after the other, for training on `device`."""
    gpu = device.type == "cuda"
    updates, workers = range(update, 2**62), GPU_LOADERS if gpu else 0
    return DataLoader(batches, batch_size=None, sampler=updates, num_workers=workers, pin_memory=gpu)


def warped(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W, C) under linear maps (N, 2, 2) about their centres, in units of half the sides.

    Place (x, y) of a result shows what was at `map @ (x, y)`, resampled bicubically; the edge goes on beyond the edge.
    Each channel of a result has the very values of its image's, put where the resampled ones have the same rank:
    resampling blurs, and of a blurred digit more pixels are a matter of chance when it is binarised.
    """
    if not len(images):
        return images
    pixels = np.array(images.transpose(0, 3, 1, 2), order="C")
    theta = F.pad(torch.from_numpy(maps).float(), (0, 1))
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(torch.from_numpy(pixels).float(), grid, "bicubic", "border", align_corners=False)
    values = pixels.reshape(*pixels.shape[:2], -1)
    fixed_point = (64 * moved).short().numpy().reshape(values.shape)  # numpy sorts 16 bits four times as fast as floats
    ranked = fixed_point.argsort(axis=-1, kind="stable")
    np.put_along_axis(values, ranked, np.sort(values, axis=-1, kind="stable"), axis=-1)
    return pixels.transpose(0, 2, 3, 1)


def binarise(images: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Values of images uint8 as 255 with probability value / 255, else 0; `chances`, as many, are uniform in [0, 1)."""
    return np.where(255 * chances < images, np.uint8(255), np.uint8(0))


def binarised(images: np.ndarray, seeds: Sequence[Sequence[int]]) -> np.ndarray:
    """Images uint8 (N, H, W, C) binarised, the same way for the same seeds: image i depends on seeds[i] alone."""
    return binarise(images, np.stack([np.random.default_rng(s).random(images.shape[1:], np.float32) for s in seeds]))


def heldout(
    images: np.ndarray, count: int, spec: str, seed: int, *, binary: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` of the images (all, where there are fewer), always the same ones with the same holes, for one seed.

    With `binary` they are binarised, always the same way too. Returns images uint8 (n, C, H, W) and missing bool
    (n, 1, H, W). The first n of a greater count are these n.
    """
    if not len(images):
        raise DataError("there is no held-out image to score; add images: from three on, some are set aside")
    chosen = np.random.default_rng((_HELDOUT, seed)).permutation(len(images))[:count]
    rows, places = images[chosen], range(len(chosen))
    if binary:
        rows = binarised(rows, [(_BINARY, seed, place) for place in places])
    seeds = [(_HELDOUT, seed, place) for place in places]
    return _to_tensors(rows, masks.sample_batch(masks.parse(spec), *images.shape[1:3], seeds))


def mean_image(images: np.ndarray, limit: int = 10_000) -> torch.Tensor:
    """The mean of the images, float32 (C, H, W) in [0, 1]; of `limit` of them, evenly spread, where there are more."""
    if not len(images):
        raise DataError("there is no image to take the mean of")
    chosen = np.linspace(0, len(images) - 1, min(limit, len(images))).astype(int)
    total = sum(images[some].sum(axis=0, dtype=np.float64) for some in np.array_split(chosen, len(chosen) // 256 + 1))
    return torch.from_numpy(total / (255 * len(chosen))).permute(2, 0, 1).float().contiguous()


def _to_tensors(rows: np.ndarray, missing: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (b, H, W, C) and bool (b, H, W) -> tensors uint8 (b, C, H, W) and bool (b, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2))), torch.from_numpy(missing[:, None])
