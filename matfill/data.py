"""Folders of images as memory-mapped arrays, and the batches of images and holes a model is trained on.

Images are uint8 arrays (N, H, W, C). Everything drawn at random is a pure function of a seed and of a position, so a
run that resumes, or that is spread over processes, sees the same images and holes as one that is not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from matfill import masks
from matfill.errors import ConfigError, DataError
from matfill.files import atomic_file, walk, write_atomic
from matfill.images import decode_square

FITS = ("crop", "squeeze")
SPLITS = ("test", "val", "train")  # in the order of their rows
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
VAL_SHARE, TEST_SHARE = 0.05, 0.05  # of the images, where the folder does not say
FORMAT = 1  # of the cache; a change of what is decoded, or how, asks for the next number
INDEX = "index.json"

# The first word of every seed: draws for different ends never share a stream.
_ORDER, _FLIP, _MASK, _HELDOUT = range(4)

Progress = Callable[[int, int], None]
Files = list[list[Any]]  # [relative name, bytes, time of last change in ns] of each file


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, decoded. Arrays are read-only memory maps, uint8 (N, H, W, C), in a seeded random order."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    names: Mapping[str, tuple[str, ...]]  #: of each split, relative to the folder, in the order of the array
    origin: Mapping[str, str]  #: of each split: "folder" (it has its own), "train" (taken from train), "all" or "none"
    unreadable: tuple[tuple[str, str], ...]  #: (relative name, reason) of files that could not be decoded
    settings: Mapping[str, Any]  #: size, channels, fit, seed
    fingerprint: str  #: of the names, the split and every pixel; the same on any machine
    rebuilt: bool  #: an older cache no longer matched the folder or the settings, so all was decoded again

    def summary(self) -> dict[str, Any]:
        """What a weights file should remember of its data; plain values that JSON can store."""
        return {
            "images": {"train": len(self.train), "val": len(self.val), "test": len(self.test)},
            "unreadable": len(self.unreadable),
            "split": dict(self.origin),
            **self.settings,
            "fingerprint": self.fingerprint,
        }


def open_folder(
    folder: str | os.PathLike[str],
    *,
    size: int,
    channels: int,
    fit: str = "crop",
    cache: str | os.PathLike[str],
    seed: int = 0,
    on_progress: Progress | None = None,
) -> ImageFolder:
    """The images below `folder` as squares of `size` pixels, decoded once and kept in the directory `cache`.

    `fit` "crop" keeps the largest centred square of each image, "squeeze" all of it. Sub-folders train/, val/ (valid/,
    validation/) and test/ are respected; else, 5 % of the images each become val and test, at random. The cache serves
    again until a file's name, size or time, or a setting, changes. `on_progress(done, total)` is called while decoding.
    DataError where there is nothing to read, or no room for the cache.
    """
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}; allowed: {', '.join(FITS)}")
    folder, cache = Path(folder), Path(cache)
    settings = {"size": size, "channels": channels, "fit": fit, "seed": seed}
    files = _list_files(folder)
    index = _read_index(cache)
    if fresh := _open_cache(cache, index, files, settings):
        return fresh
    try:
        cache.mkdir(parents=True, exist_ok=True)
        built = _build_cache(folder, cache, files, settings, on_progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            needed = len(files) * size * size * channels / 2**20
            raise DataError(f"no room for {needed:.0f} MiB of decoded images in {cache}; free some space") from None
        raise DataError(f"cannot write decoded images to {cache}: {error.strerror or error}") from None
    opened = _open_cache(cache, built, files, settings, rebuilt=index is not None)
    if opened is None:
        raise DataError(f"{cache} changed while it was being written; run again, one process at a time")
    return opened


# --- what is in the folder -------------------------------------------------------------------------------------------


def _list_files(folder: Path) -> Files:
    """All image files below `folder`, sorted; only those of its split folders, where it has train/."""
    if not folder.exists():
        raise DataError(f"there is no folder {folder}; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give the folder that holds the images")
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    try:
        found = [(path, status) for path, status in walk(folder) if path.suffix.lower() in known]
    except OSError as error:
        raise DataError(f"cannot list {error.filename or folder}: {error.strerror or error}") from None
    files = [[path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns] for path, status in found]
    if not files:
        raise DataError(f"{folder} holds no image file; give a folder of .png, .jpg, ... or of folders of them")
    splits = {split for name, *_ in files if (split := _split_of(name))}
    if splits and "train" not in splits:
        raise DataError(f"{folder} has images in {'/, '.join(sorted(splits))}/ but none in train/; add them there")
    return [file for file in files if _split_of(file[0])] if splits else files


def _split_of(name: str) -> str | None:
    top, slash, _ = name.partition("/")
    return SPLIT_FOLDERS.get(top.lower()) if slash else None


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    """`names` in a random order that depends on `seed` and on each name alone: one more image moves no other two."""
    return sorted(names, key=lambda name: hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest())


def _split(names: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Names (shuffled) of each split, and where the split came from."""
    own: dict[str | None, list[str]] = {}
    for name in names:
        own.setdefault(_split_of(name), []).append(name)
    if None in own:
        tests, vals = (max(1, round(share * len(names))) if len(names) >= 3 else 0 for share in (TEST_SHARE, VAL_SHARE))
        parts = {"test": names[:tests], "val": names[tests : tests + vals], "train": names[tests + vals :]}
        return {split: list(part) for split, part in parts.items()}, dict.fromkeys(SPLITS, "all")
    origin = {split: "folder" if split in own else "none" for split in SPLITS}
    if "val" not in own and len(own.get("train", ())) >= 2:
        vals = max(1, round(VAL_SHARE * len(own["train"])))
        own["val"], own["train"] = own["train"][:vals], own["train"][vals:]
        origin["val"] = "train"
    return {split: own.get(split, []) for split in SPLITS}, origin


# --- the cache -------------------------------------------------------------------------------------------------------


def _build_cache(
    folder: Path, cache: Path, files: Files, settings: dict[str, Any], on_progress: Progress | None
) -> dict[str, Any]:
    """Decode every file into one array in `cache`, rows in the order of SPLITS; returns the index written beside it."""
    names = _shuffled([name for name, *_ in files], settings["seed"])
    names.sort(key=lambda name: SPLITS.index(_split_of(name) or "train"))
    square = (settings["size"], settings["size"], settings["channels"])
    rows: list[str] = []
    unreadable: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    # Named after what it is made from: an index never points at an array of another making, even if a build is cut off.
    array = f"images-{hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()[:16]}.npy"
    with atomic_file(cache / array) as out:
        # How many files can be read is known last: the header, whose length does not depend on it, is written twice.
        _write_header(out, (len(names), *square))
        for done, (name, pixels) in enumerate(_decode_all(folder, names, settings), start=1):
            if isinstance(pixels, str):
                unreadable.append((name, pixels))
            else:
                rows.append(name)
                digest.update(pixels.data)
                out.write(pixels.data)
            if on_progress:
                on_progress(done, len(names))
        parts, origin = _split(rows)
        if not parts["train"]:
            name, reason = unreadable[-1]
            raise DataError(f"none of the images in {folder} to train on can be read; {name}: {reason}")
        _write_header(out, (len(rows), *square))
    digest.update(json.dumps(parts).encode())
    index = {
        "format": FORMAT,
        "settings": settings,
        "files": files,
        "array": array,
        "rows": rows,
        "counts": {split: len(part) for split, part in parts.items()},
        "origin": origin,
        "unreadable": sorted(unreadable),
        "fingerprint": digest.hexdigest()[:16],
    }
    write_atomic(cache / INDEX, json.dumps(index).encode())
    for outdated in set(cache.glob("images-*.npy")) - {cache / array}:
        with contextlib.suppress(OSError):  # Windows keeps a file that some process has open
            outdated.unlink()
    return index


def _write_header(out: IO[bytes], shape: tuple[int, ...]) -> None:
    out.seek(0)
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _decode_all(folder: Path, names: list[str], settings: dict[str, Any]) -> Iterator[tuple[str, np.ndarray | str]]:
    """(name, pixels or the reason why there are none) of each file, in order, a few hundred in memory at a time."""
    size, channels, fit = settings["size"], settings["channels"], settings["fit"]

    def attempt(name: str) -> np.ndarray | str:
        try:
            return decode_square(folder / name, size, channels, fit)
        except Exception as error:  # Pillow's plugins raise anything at all on a damaged file
            return " ".join(str(error).split()) or type(error).__name__

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        for start in range(0, len(names), 256):
            some = names[start : start + 256]
            yield from zip(some, pool.map(attempt, some), strict=True)


def _read_index(cache: Path) -> dict[str, Any] | None:
    """The index of an earlier build, or None where there is none; one that cannot be understood is empty."""
    try:
        index = json.loads((cache / INDEX).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _open_cache(
    cache: Path, index: dict[str, Any] | None, files: Files, settings: dict[str, Any], *, rebuilt: bool = False
) -> ImageFolder | None:
    """The cache in `cache`, or None where it is not of these files and settings, or damaged."""
    if not index or (index.get("format"), index.get("settings"), index.get("files")) != (FORMAT, settings, files):
        return None
    rows, counts = index["rows"], index["counts"]
    try:
        array = np.load(cache / index["array"], mmap_mode="r")
    except (OSError, ValueError):
        return None
    if array.shape != (len(rows), settings["size"], settings["size"], settings["channels"]):
        return None
    bounds = np.cumsum([0, *(counts[split] for split in SPLITS)]).tolist()
    parts = {split: slice(*pair) for split, pair in zip(SPLITS, itertools.pairwise(bounds), strict=True)}
    return ImageFolder(
        **{split: array[part] for split, part in parts.items()},
        names={split: tuple(rows[part]) for split, part in parts.items()},
        origin=index["origin"],
        unreadable=tuple((name, reason) for name, reason in index["unreadable"]),
        settings=settings,
        fingerprint=index["fingerprint"],
        rebuilt=rebuilt,
    )


# --- batches ---------------------------------------------------------------------------------------------------------


class TrainBatches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The batches of a run: `batches[update]` is (images, missing) of one update, for one of `world` processes.

    images uint8 (batch / world, C, H, W); missing bool (batch / world, 1, H, W), True = to be predicted. Both depend on
    the seed, the update and the place in the whole batch alone: nothing is remembered from one update to the next, and
    the processes' shares, laid end to end, are what a single process sees. Every image is seen once per epoch, in an
    order of that epoch's own; a batch may straddle two epochs.
    """

    def __init__(
        self,
        images: np.ndarray,
        *,
        mask: str,
        batch: int,
        seed: int,
        flip: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % world:
            raise ConfigError(f"a batch of {batch} cannot be shared by {world} processes; use a multiple of {world}")
        if len(images) < batch:
            count = len(images)
            raise DataError(f"{count} images are too few for a batch of {batch}: add some, or lower batch to {count}")
        self.images = images
        self.batch, self.seed, self.flip = batch, seed, flip
        self._sampler = masks.parse(mask)
        self._sampler.sample(*images.shape[1:3], np.random.default_rng(0))  # a mask that does not fit fails here
        self._share = range(rank * (batch // world), (rank + 1) * (batch // world))
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.images[[self._row(update * self.batch + place) for place in self._share]]
        if self.flip:
            flipped = np.random.default_rng((_FLIP, self.seed, update)).random(self.batch) < 0.5
            flipped = flipped[self._share.start : self._share.stop]
            rows[flipped] = rows[flipped, :, ::-1]
        seeds = [(_MASK, self.seed, update, place) for place in self._share]
        return _to_tensors(rows, masks.sample_batch(self._sampler, *rows.shape[1:3], seeds))

    def _row(self, position: int) -> int:
        """The image at `position` of the endless sequence of epochs."""
        epoch, place = divmod(position, len(self.images))
        if epoch not in self._orders:
            order = np.random.default_rng((_ORDER, self.seed, epoch)).permutation(len(self.images))
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1} | {epoch: order}
        return int(self._orders[epoch][place])


def heldout(images: np.ndarray, count: int, spec: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` of the images (all, where there are fewer), always the same ones with the same holes, for one seed.

    Returns images uint8 (n, C, H, W) and missing bool (n, 1, H, W). The first n of a greater count are these n.
    """
    if not len(images):
        raise DataError("there is no held-out image to score; add images: from three on, some are set aside")
    chosen = np.random.default_rng((_HELDOUT, seed)).permutation(len(images))[:count]
    seeds = [(_HELDOUT, seed, place) for place in range(len(chosen))]
    return _to_tensors(images[chosen], masks.sample_batch(masks.parse(spec), *images.shape[1:3], seeds))


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
