"""One way in to any images: folders of image files, IDX, .npy and .npz, data sets as they are published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matfill.array_sets import ALL, ArraySet, find_arrays
from matfill.arrays import as_images, is_idx
from matfill.config import FITS, ModelConfig
from matfill.errors import ConfigError, DataError
from matfill.folders import Progress, open_folder
from matfill.image_set import SPLITS, ImageSet, random_shares

MOST_VAL, SHARE_VAL = 5000, 0.1  # of training images that come as arrays and bring no validation images
CHUNK = 4096  # images hashed at a time


def open_data(
    source: str | os.PathLike[str],
    *,
    size: int,
    channels: int,
    fit: str = "crop",
    cache: str | os.PathLike[str],
    seed: int = 0,
    most_val: int | None = None,
    on_progress: Progress | None = None,
) -> ImageSet:
    """The images in a file or folder, for a model of images `size` pixels a side, with 1 or 3 `channels`.

    Files of images are fitted to that and kept in `cache`, see `folders.open_folder`. Arrays have to be what the model
    takes, whatever `fit` is. Where they bring no validation images, 10 % of the training images serve, 5,000 at
    most: the last ones of an IDX file, as is the custom with MNIST, else some at random, since many sets are sorted
    by class. Arrays that name no split at all are divided at random like folders, by `seed`. With `most_val`, at most
    that many images, whatever they are, stay validation images; the others are there to train on.
    DataError where images cannot be read, or are not what the model takes.
    """
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}; allowed: {', '.join(FITS)}")
    settings = {"size": size, "channels": channels, "fit": fit, "seed": seed}
    found = find_arrays(Path(source))
    if found is None:
        images = open_folder(source, **settings, cache=cache, on_progress=on_progress)
    else:
        images = _from_arrays(found, settings)
    return images if most_val is None else images.keeping(most_val)


def open_for(
    source: str | os.PathLike[str],
    model: ModelConfig,
    card: Mapping[str, Any],
    *,
    cache: str | os.PathLike[str],
    on_progress: Progress | None = None,
) -> ImageSet:
    """The images in a file or folder as a trained model takes them: fitted, and split, like those its card tells of.

    With the seed of its own split, no image counts as a test or validation image that it was trained on.
    """
    trained = card.get("data", {})
    return open_data(
        source,
        size=model.image_size,
        channels=model.image_channels,
        fit=trained.get("fit", "crop"),
        seed=trained.get("seed", 0),
        most_val=trained.get("most_val"),
        cache=cache,
        on_progress=on_progress,
    )


def _from_arrays(found: ArraySet, settings: Mapping[str, Any]) -> ImageSet:
    shape = (settings["size"], settings["size"], settings["channels"])
    for entry in found.images.values():
        if entry.image_shape()[1:] != shape:
            raise DataError(
                f"the images in {entry.path} are {_described(*entry.image_shape()[1:])}, the model takes "
                f"{_described(*shape)}, and arrays are never scaled or cut; choose a recipe or weights for such "
                "images, or other data"
            )
    parts = {role: _read(found, role) for role in found.images}
    origin = {split: "folder" if split in parts else "none" for split in SPLITS}
    draw = np.random.default_rng(settings["seed"])
    if ALL in parts:
        rest = parts.pop(ALL)
        for split, count in zip(("test", "val"), random_shares(len(rest)), strict=True):
            rest, parts[split] = rest.divided(draw.permutation(len(rest))[:count])
        parts["train"] = rest
        origin = dict.fromkeys(SPLITS, "all")
    elif "val" not in parts and "train" in parts and (total := len(parts["train"])) >= 2:
        count = min(MOST_VAL, max(1, int(SHARE_VAL * total)))
        last = is_idx(found.images["train"].path)
        rows = np.arange(total - count, total) if last else draw.permutation(total)[:count]
        parts["train"], parts["val"] = parts["train"].divided(rows)
        origin["val"] = "train"
    none = _Part(np.empty((0, *shape), np.uint8), None)
    images = {split: parts.get(split, none).images.view() for split in SPLITS}
    for array in images.values():
        array.flags.writeable = False
    labels = {split: part.labels for split, part in parts.items() if part.labels is not None}
    return ImageSet(**images, origin=origin, settings=settings, fingerprint=_fingerprint(images), labels=labels)


@dataclass(frozen=True)
class _Part:
    """Some images, uint8 (N, H, W, C), and their labels, (N,), where they are known."""

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def divided(self, rows: np.ndarray) -> tuple[_Part, _Part]:
        """(All but `rows`, `rows`). The arrays are used up: in them, what stays moves to the front.

        So only about as many images are copied as there are `rows`; the others may lie in a file that is larger than
        the memory.
        """
        rows = np.sort(rows)
        stay = len(self) - len(rows)
        gaps = rows[rows < stay]
        fillers = np.setdiff1d(np.arange(stay, len(self)), rows)
        kept, taken = [], []
        for array in (self.images, self.labels):
            taken.append(None if array is None else array[rows])
            if array is not None and len(gaps):
                array = array if array.flags.writeable else array.copy()
                array[gaps] = array[fillers]
            kept.append(None if array is None else array[:stay])
        return _Part(*kept), _Part(*taken)


def _read(found: ArraySet, role: str) -> _Part:
    entry, labels = found.images[role], found.labels.get(role)
    if not entry.shape[0]:
        raise DataError(f"{entry.path} holds arrays for images, but there is none in them: {entry}; add some")
    if labels and labels.shape[0] != entry.shape[0]:
        raise DataError(
            f"{labels.path} has {labels.shape[0]} labels for the {entry.shape[0]} images in {entry.path}; fetch or "
            "save both again"
        )
    return _Part(as_images(entry), labels and labels.load().reshape(-1))


def _described(height: int, width: int, channels: int) -> str:
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _fingerprint(images: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split} {images[split].shape}".encode())
        for start in range(0, len(images[split]), CHUNK):
            digest.update(np.ascontiguousarray(images[split][start : start + CHUNK]))
    return digest.hexdigest()[:16]
