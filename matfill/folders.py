"""Folders of images, decoded once into memory-mapped arrays, uint8 (N, H, W, C)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from matfill.errors import DataError
from matfill.files import atomic_file, walk, write_atomic
from matfill.image_set import SPLIT_NAMES, SPLITS, VAL_SHARE, ImageSet, random_shares
from matfill.images import decode

FORMAT = 1  # of the cache; a change of what is decoded, or how, asks for the next number
INDEX = "index.json"

PATCHES = "patches"  # the fit that makes many squares of one file
COVERING = 2  # times that the patches of a scale would cover it, if they lay side by side
MOST_PATCHES = 64  # of one file at one scale
NEARLY = 1.1  # sizes: where the shorter side of the last halving is no longer, it stands for the whole photo

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

    `fit` "crop" keeps the largest centred square of each image, "squeeze" all of it, "patches" many squares at several
    scales, see `decode_squares`; those of one file are all in one split. Sub-folders train/, val/ (valid/, validation/)
    and test/ are respected; else, 5 % of the files each become val and test, at random. The cache serves again until a
    file's name, size or time, or a setting, changes. `on_progress(done, total)`, in files, is called while decoding.
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
            squares = sum(_squares_in(folder / name, size, fit) for name, *_ in files)
            needed = squares * size * size * channels / 2**20
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


def _own_seed(seed: int, name: str) -> bytes:
    """Of one file: what is drawn by it depends on `seed` and `name` alone, whatever other files there are."""
    return os.fsencode(f"{seed}/{name}")  # a name may be any bytes


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    """`names` in a random order that depends on `seed` and on each name alone: one more image moves no other two."""
    return sorted(names, key=lambda name: hashlib.sha256(_own_seed(seed, name)).digest())


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


# --- the squares of one file -----------------------------------------------------------------------------------------


def decode_squares(path: str | os.PathLike[str], size: int, channels: int, fit: str, draw: random.Random) -> np.ndarray:
    """One image file as uint8 (N, size, size, channels), antialiased. Raises whatever Pillow raises.

    `fit` "crop" takes the largest centred square, "squeeze" the whole frame; N is 1. "patches" takes squares of `size`
    pixels from the image as it is, halved, halved again and so on while its shorter side is `size` or more, and from
    the image scaled until that side is `size`; at each scale about COVERING times what would cover it, MOST_PATCHES at
    most, at places that `draw` chooses. Of an image that is smaller than `size` it takes what "crop" does.
    """
    with Image.open(path) as image:
        if fit != PATCHES:
            image.draft(None, (3 * size, 3 * size))  # JPEG: decode at 1/2, 1/4 or 1/8, while well above what is needed
        image = decode(image, channels)
    if fit == PATCHES and min(image.size) >= size:
        squares = list(_patches(image, size, draw))
    else:
        if fit != "squeeze":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        squares = [image.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)]
    return np.stack([np.asarray(square).reshape(size, size, channels) for square in squares])


def _patches(photo: Image.Image, size: int, draw: random.Random) -> Iterator[Image.Image]:
    for scale in _scales(*photo.size, size):
        photo = photo.resize(scale, Image.Resampling.LANCZOS)
        across = photo.width - size + 1
        for place in draw.sample(range(_places(*scale, size)), _patches_at(*scale, size)):
            top, left = divmod(place, across)
            yield photo.crop((left, top, left + size, top + size))


def _scales(width: int, height: int, size: int) -> list[tuple[int, int]]:
    """The (width, height) that patches are taken at, falling; none where a side is shorter than `size`."""
    short = min(width, height)
    scales = [(width >> step, height >> step) for step in range((short // size).bit_length())]
    if scales and min(scales[-1]) > NEARLY * size:
        scales.append((round(width * size / short), round(height * size / short)))
    return scales


def _patches_at(width: int, height: int, size: int) -> int:
    """How many patches are taken at this scale; no two at the same place."""
    return min(MOST_PATCHES, _places(width, height, size), round(COVERING * width * height / size**2))


def _places(width: int, height: int, size: int) -> int:
    return (width - size + 1) * (height - size + 1)


def _squares_in(path: Path, size: int, fit: str) -> int:
    """How many squares `decode_squares` finds, as far as the file's header tells."""
    if fit == PATCHES:
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return sum(_patches_at(*scale, size) for scale in _scales(*image.size, size)) or 1
    return 1


# --- the cache -------------------------------------------------------------------------------------------------------


def _build_cache(
    folder: Path, cache: Path, files: Files, settings: dict[str, Any], on_progress: Progress | None
) -> dict[str, Any]:
    """Decode every file into one array in `cache`, rows in the order of SPLITS; returns the index written beside it."""
    names = _shuffled([name for name, *_ in files], settings["seed"])
    names.sort(key=lambda name: SPLITS.index(_split_of(name) or "train"))
    square = (settings["size"], settings["size"], settings["channels"])
    found: dict[str, int] = {}  # squares of each file
    unreadable: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    # Named after what it is made from: an index never points at an array of another making, even if a build is cut off.
    array = f"images-{hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()[:16]}.npy"
    with atomic_file(cache / array) as out:
        # How many squares there are is known last: the header, whose length does not depend on it, is written twice.
        _write_header(out, (len(names), *square))
        for done, (name, squares) in enumerate(_decode_all(folder, names, settings), start=1):
            if isinstance(squares, str):
                unreadable.append((name, squares))
            else:
                found[name] = len(squares)
                digest.update(squares.data)
                out.write(squares.data)
            if on_progress:
                on_progress(done, len(names))
        parts, origin = _split(list(found))
        if not parts["train"]:
            name, reason = unreadable[-1]
            raise DataError(f"none of the images in {folder} to train on can be read; {name}: {reason}")
        _write_header(out, (sum(found.values()), *square))
    digest.update(json.dumps(parts).encode())
    index = {
        "format": FORMAT,
        "settings": settings,
        "files": files,
        "array": array,
        "rows": [] if settings["fit"] == PATCHES else list(found),  # the file of each, where every one has its own
        "counts": {split: sum(found[name] for name in part) for split, part in parts.items()},
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
    """(name, its squares or the reason why there are none) of each file, in order, a few files ahead of the caller."""
    size, channels, fit, seed = (settings[key] for key in ("size", "channels", "fit", "seed"))

    def attempt(name: str) -> np.ndarray | str:
        try:
            return decode_squares(folder / name, size, channels, fit, random.Random(_own_seed(seed, name)))
        except Exception as error:  # Pillow's plugins raise anything at all on a damaged file
            return " ".join(str(error).split()) or type(error).__name__

    workers = os.cpu_count() or 1
    ahead: deque[tuple[str, Future[np.ndarray | str]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        for name in names:
            ahead.append((name, pool.submit(attempt, name)))
            if len(ahead) > 4 * workers:  # more would only fill the memory, with megabytes of patches each
                first, squares = ahead.popleft()
                yield first, squares.result()
        for first, squares in ahead:
            yield first, squares.result()


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
    if array.shape != (sum(counts.values()), settings["size"], settings["size"], settings["channels"]):
        return None
    bounds = np.cumsum([0, *(counts[split] for split in SPLITS)]).tolist()
    parts = {split: slice(*pair) for split, pair in zip(SPLITS, itertools.pairwise(bounds), strict=True)}
    return ImageSet(
        **{split: array[part] for split, part in parts.items()},
        names={split: tuple(rows[part]) for split, part in parts.items()} if rows else {},
        origin=index["origin"],
        unreadable=tuple((name, reason) for name, reason in index["unreadable"]),
        settings=settings,
        fingerprint=index["fingerprint"],
        rebuilt=rebuilt,
    )
