"""Folders of images, decoded once into memory-mapped arrays, uint8 (N, H, W, C)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from matfill.errors import DataError
from matfill.files import atomic_file, walk, write_atomic
from matfill.image_set import SPLIT_NAMES, SPLITS, VAL_SHARE, ImageSet, random_shares
from matfill.images import decode_square

FORMAT = 1  # of the cache; a change of what is decoded, or how, asks for the next number
INDEX = "index.json"

Progress = Callable[[int, int], None]
Files = list[list[Any]]  # [relative name, bytes, time of last change in ns] of each file


def open_folder(
    folder: str | os.PathLike[str],
    *,
    size: int,
    channels: int,
    fit: str = "crop",
    cache: str | os.PathLike[str],
    seed: int = 0,
    on_progress: Progress | None = None,
) -> ImageSet:
    """The images below `folder` as squares of `size` pixels, decoded once and kept in the directory `cache`.

    `fit` "crop" keeps the largest centred square of each image, "squeeze" all of it. Sub-folders train/, val/ (valid/,
    validation/) and test/ are respected; else, 5 % of the images each become val and test, at random. The cache serves
    again until a file's name, size or time, or a setting, changes. `on_progress(done, total)` is called while decoding.
    DataError where there is nothing to read, or no room for the cache.
    """
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
        raise DataError(f"{folder} is a file, but none of arrays; give the folder that holds the images")
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    try:
        found = [(path, status) for path, status in walk(folder) if path.suffix.lower() in known]
    except OSError as error:
        raise DataError(f"cannot list {error.filename or folder}: {error.strerror or error}") from None
    files = [[path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns] for path, status in found]
    if not files:
        raise DataError(
            f"{folder} holds no image file and no arrays; give a folder of .png, .jpg, ..., of .npy, .npz or IDX files"
        )
    splits = {split for name, *_ in files if (split := _split_of(name))}
    if splits and "train" not in splits:
        raise DataError(f"{folder} has images in {'/, '.join(sorted(splits))}/ but none in train/; add them there")
    return [file for file in files if _split_of(file[0])] if splits else files


def _split_of(name: str) -> str | None:
    top, slash, _ = name.partition("/")
    return SPLIT_NAMES.get(top.lower()) if slash else None


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    """`names` in a random order that depends on `seed` and on each name alone: one more image moves no other two."""
    return sorted(names, key=lambda name: hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest())


def _split(names: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Names (shuffled) of each split, and where the split came from."""
    own: dict[str | None, list[str]] = {}
    for name in names:
        own.setdefault(_split_of(name), []).append(name)
    if None in own:
        tests, vals = random_shares(len(names))
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
) -> ImageSet | None:
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
    return ImageSet(
        **{split: array[part] for split, part in parts.items()},
        names={split: tuple(rows[part]) for split, part in parts.items()},
        origin=index["origin"],
        unreadable=tuple((name, reason) for name, reason in index["unreadable"]),
        settings=settings,
        fingerprint=index["fingerprint"],
        rebuilt=rebuilt,
    )
