"""Images kept as arrays: IDX (MNIST's own format), NumPy's .npy and .npz, and the .amat text of binarised MNIST.

`contents` says what a file holds, from its header where it has one; an array is only read when it is asked for.
Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from matfill.errors import DataError

IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0}  # of all later versions: ..._2_0
_DAMAGED = (zlib.error, zipfile.BadZipFile, tarfile.TarError)
CHUNK = 4096  # images converted at a time


@dataclass(frozen=True)
class Entry:
    """One array of a file."""

    path: Path
    key: str  #: its name in a file of several, else ""
    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]  #: the array, perhaps a memory map; writing to it changes no file

    def __str__(self) -> str:
        what = f"{'x'.join(map(str, self.shape)) or 'one'} {self.dtype}"
        return f"{self.key} ({what})" if self.key else what

    def image_shape(self) -> tuple[int, int, int, int] | None:
        """(N, H, W, C) where the array can be images, see `as_images`; None where it cannot."""
        if self.dtype.kind not in "buif":
            return None
        match self.shape:
            case (n, h, w):
                return n, h, w, 1
            case (n, h, w, 1 | 3 as c) | (n, 1 | 3 as c, h, w):
                return n, h, w, c
            case (n, flat) if flat > 1:
                for c in (1, 3):
                    side = math.isqrt(flat // c)
                    if c * side * side == flat:
                        return n, side, side, c
        return None


def as_images(entry: Entry) -> np.ndarray:
    """An array of images as uint8 (N, H, W, C), not copied where it is that already.

    It can be (N, H, W), (N, H, W, 1 or 3), (N, 1 or 3, H, W), or flat: (N, S*S) or (N, 3*S*S), one colour after the
    other as in CIFAR-10. Its numbers: whole ones from 0 to 255, fractions from 0 to 1 (rounded to 1 / 255), or only 0
    and 1 (black and white). DataError where they are none of these.
    """
    shape, array = entry.image_shape(), entry.load()
    if shape is None:
        raise DataError(f"{entry.path} holds no images, but {entry}; images are (N, H, W) or (N, H, W, 3)")
    n, h, w, c = shape
    if array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == c):
        array = array.reshape(n, h, w, c)
    else:
        array = array.reshape(n, c, h, w).transpose(0, 2, 3, 1)
    if not n:
        return array.astype(np.uint8)
    fractions = array.dtype.kind == "f"
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= (1 if fractions else 255)):  # so with NaN as well
        place = f"{entry.path}{entry.key and ': '}{entry.key}"
        raise DataError(f"{place} has values from {low} to {high}; save whole numbers 0 to 255 or fractions 0 to 1")
    white = np.uint8(255 if high <= 1 else 1)
    if array.dtype == np.uint8 and white == 1:
        return array
    converted = np.empty(array.shape, np.uint8)
    for start in range(0, n, CHUNK):
        some = array[start : start + CHUNK]
        converted[start : start + CHUNK] = np.rint(255 * some) if fractions else white * some.astype(np.uint8)
    return converted


# --- each kind of file -----------------------------------------------------------------------------------------------


def is_array_file(path: Path) -> bool:
    """Whether `path` is called like a file that `contents` reads."""
    return _reader(path) is not None


def is_idx(path: Path) -> bool:
    """Whether `path` is called like an IDX file, packed or not."""
    return re.search(r"[.-]idx\d?(-ubyte)?(\.gz)?$", path.name.lower()) is not None


def contents(path: Path) -> list[Entry]:
    """The arrays in a file, in its order. DataError where it cannot be read, or is not what its name says."""
    read = _reader(path)
    if read is None:
        raise DataError(f"{path} is no file of arrays; give .npy, .npz, IDX (...-idx3-ubyte, also .gz) or .amat")
    with reading(path):
        return read(path)


def _reader(path: Path) -> Callable[[Path], list[Entry]] | None:
    return _idx if is_idx(path) else {".npy": _npy, ".npz": _npz, ".amat": _amat}.get(path.suffix.lower())


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block, as a DataError."""
    try:
        yield
    except (OSError, EOFError, ValueError, RuntimeError, *_DAMAGED) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged, cut short or of another kind ({reason}); fetch or save it again") from None


def _npy(path: Path) -> list[Entry]:
    array = np.lib.format.open_memmap(path, mode="c")  # copy on write: the file stays as it is
    return [Entry(path, "", array.shape, array.dtype, lambda: array)]


def _npz(path: Path) -> list[Entry]:
    def load(key: str) -> np.ndarray:
        with reading(path), np.load(path, allow_pickle=False) as archive:
            return archive[key]

    entries = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                shape, _, dtype = NPY_HEADERS.get(version, np.lib.format.read_array_header_2_0)(file)
            key = member.removesuffix(".npy")
            entries.append(Entry(path, key, shape, dtype, lambda key=key: load(key)))
    return entries


def _idx(path: Path) -> list[Entry]:
    def open_() -> IO[bytes]:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        return gzip.open(path) if packed else open(path, "rb")

    with open_() as file:
        magic = file.read(4)
        zeros, kind, dimensions = struct.unpack(">HBB", magic) if len(magic) == 4 else (1, 0, 0)
        sizes = file.read(4 * dimensions)
    if zeros or kind not in IDX_TYPES or not dimensions or len(sizes) < 4 * dimensions:
        raise DataError(f"{path} is no IDX file: it does not begin with 0, 0, a type and its sizes; fetch it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    dtype = np.dtype(IDX_TYPES[kind])

    def load() -> np.ndarray:
        with reading(path), open_() as file:
            file.seek(4 + len(sizes))
            data = file.read()
        if len(data) != (expected := math.prod(shape) * dtype.itemsize):
            what = f"{'x'.join(map(str, shape))} values take {expected} bytes and there are {len(data)}"
            raise DataError(f"{path} is {'cut short' if len(data) < expected else 'too long'}: {what}; fetch it again")
        return np.frombuffer(data, dtype).reshape(shape)

    return [Entry(path, "", shape, dtype, load)]


def _amat(path: Path) -> list[Entry]:
    """A line per image: 0 and 1 with spaces between."""
    with open(path, "rb") as file:
        width = len(file.readline().split())
    length = path.stat().st_size
    lines, rest = divmod(length, max(2 * width, 1))
    if rest or not width:
        what = f"{length} bytes are not whole lines of {width} digits 0 or 1 with spaces between"
        raise DataError(f"{path} is cut short or of another kind: {what}; fetch it again")

    def load() -> np.ndarray:
        with reading(path):
            text = np.fromfile(path, np.uint8).reshape(lines, width, 2)
        digits, between = text[..., 0] - ord("0"), text[..., 1]
        if digits.max() > 1 or (between[:, :-1] != ord(" ")).any() or (between[:, -1] != ord("\n")).any():
            raise DataError(f"{path} holds something else than 0 and 1 with spaces between; fetch it again")
        return digits

    return [Entry(path, "", (lines, width), np.dtype(np.uint8), load)]
