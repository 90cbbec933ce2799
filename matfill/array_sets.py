"""Which arrays of a file or folder are images to train on, to validate and to test on, and which their labels.

Names tell: train.npy, binarized_mnist_valid.amat, t10k-images-idx3-ubyte.gz, x_train and y_train in an .npz. In place
of labels there may be the names of the files that the images came from (train in a names.npz): those of one folder are
one class. The data sets that are published in a form of their own are read from that: CIFAR-10 and Omniglot.
Omniglot, in whatever form, is divided as the literature divides it.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from matfill.arrays import Entry, contents, is_array_file, reading
from matfill.errors import DataError
from matfill.image_set import split_of

ALL = "all"  # in place of a split, where nothing tells which is which
LABEL_WORDS = {"y", "label", "labels", "target", "targets"}
NAME_WORDS = {"names", "filenames"}


@dataclass(frozen=True)
class ArraySet:
    """Arrays by split, or by ALL: images as `arrays.as_images` takes them, and integer labels, (N,) or (N, 1)."""

    images: Mapping[str, Entry]
    labels: Mapping[str, Entry]


def find_arrays(source: Path) -> ArraySet | None:
    """The arrays in a file, or at the top of a folder; None where there are none, and images may be files each.

    DataError where a file of arrays holds no images, or two arrays could be the same split.
    """
    for path in (source, *(source / name for name in PUBLISHED)):
        if path.name in PUBLISHED and os.path.exists(path):
            with reading(path):
                return _in_memory(path, PUBLISHED[path.name](path))
    if source.is_dir():
        return _in_folder(source)
    if not is_array_file(source):
        return None
    entries = contents(source)
    found = _by_role({entry.key: entry for entry in entries}, source)
    if not found.images:
        held = ", ".join(map(str, entries)) or "nothing"
        raise DataError(f"{source} holds no images, but {held}; images are (N, H, W) or (N, H, W, 3)")
    return found


def _in_folder(folder: Path) -> ArraySet | None:
    with reading(folder):
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    arrays = [path for path in files if is_array_file(path) and path.is_file()]
    # Of a file and its packed twin, the file.
    arrays = [path for path in arrays if path.suffix != ".gz" or path.with_suffix("") not in arrays]
    entries = [entry for path in arrays for entry in contents(path)]
    found = _by_role({f"{entry.path.name}/{entry.key}".rstrip("/"): entry for entry in entries}, folder)
    # An array that does not say what it is, beside files of other kinds, may be anything.
    return found if found.images and (ALL not in found.images or len(arrays) == len(files)) else None


def _by_role(entries: Mapping[str, Entry], source: Path) -> ArraySet:
    """Images and labels of each split, by what the arrays are called, and by their shapes."""
    images: dict[str, list[str]] = {}
    labels: dict[str, Entry] = {}
    files: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        role, words = split_of(name) or ALL, set(re.split(r"[^a-z]+", name.lower()))
        if LABEL_WORDS & words:
            if entry.dtype.kind in "bui" and entry.shape[1:] in ((), (1,)):
                labels[role] = entry
        elif NAME_WORDS & words and entry.dtype.kind == "U" and len(entry.shape) == 1:
            files[role] = entry.load()
            labels.setdefault(role, replace(entry, load=lambda files=files[role]: _folders(files)))
        elif entry.image_shape():
            images.setdefault(role, []).append(name)
    if len(images) > 1:
        images.pop(ALL, None)
    for role, names in images.items():
        if len(names) > 1:
            what = "images" if role == ALL else f"images of {role}"
            raise DataError(f"{source}: {' and '.join(names)} could all be the {what}; keep one, or rename the others")
    chosen = {role: entries[name] for role, (name,) in images.items()}
    if _names_drawings(chosen, files):
        with reading(source):
            pairs = (zip(names, chosen[role].load(), strict=True) for role, names in files.items())
            return _in_memory(source, _by_drawing(dict(chain(*pairs))))
    return ArraySet(chosen, labels)


def _names_drawings(images: Mapping[str, Entry], files: Mapping[str, np.ndarray]) -> bool:
    """Whether there is a file name for each image, and these are the names of Omniglot's drawings."""
    alike = {role: len(names) for role, names in files.items()} == {role: e.shape[0] for role, e in images.items()}
    return bool(files) and alike and all(map(DRAWING.search, chain(*files.values())))


def _folders(names: Iterable[str]) -> np.ndarray:
    """For each file's name the number of its folder, in alphabetic order: (N,)."""
    return np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)[1]


# --- data sets as they are published ---------------------------------------------------------------------------------

Arrays = dict[str, tuple[np.ndarray, np.ndarray | None]]  # images and labels of each split
DRAWING = re.compile(r"[^/]+/character\d+/\d+_(\d\d)\.png$")  # how Omniglot calls each of 20 drawings of a character


def _in_memory(path: Path, arrays: Arrays) -> ArraySet:
    def entry(split: str, array: np.ndarray) -> Entry:
        return Entry(path, split, array.shape, array.dtype, lambda: array)

    return ArraySet(
        {split: entry(split, images) for split, (images, _) in arrays.items()},
        {split: entry(split, labels) for split, (_, labels) in arrays.items() if labels is not None},
    )


def _cifar10(path: Path) -> Arrays:
    """The binary version of CIFAR-10, packed or not: records of a label and 3x32x32 bytes."""
    batches = {}
    if path.is_dir():
        batches = {file.name: file.read_bytes() for file in path.glob("*_batch*.bin")}
    else:
        with tarfile.open(path) as archive:  # in one go: going back in it means unpacking it anew
            for member in archive:
                if re.search(r"_batch\w*\.bin$", member.name) and member.isfile():
                    batches[Path(member.name).name] = archive.extractfile(member).read()
    if not batches or any(len(data) % 3073 for data in batches.values()):
        raise DataError(f"{path} is not the binary version of CIFAR-10, or not all of it; fetch it again")
    found = {}
    for split, prefix in (("train", "data_"), ("test", "test_")):
        data = b"".join(batches[name] for name in sorted(batches) if name.startswith(prefix))
        records = np.frombuffer(data, np.uint8).reshape(-1, 3073)
        if len(records):
            found[split] = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    return found


def _omniglot(path: Path) -> Arrays:
    """Omniglot's drawings, black on white and 105x105: box-filtered to 28x28 with the ink bright."""
    drawings: dict[str, np.ndarray] = {}
    for name in ("images_background.zip", "images_evaluation.zip"):
        if path.with_name(name).exists():
            with zipfile.ZipFile(path.with_name(name)) as archive:
                drawings |= {name: _drawing(archive.read(name)) for name in filter(DRAWING.search, archive.namelist())}
    if not drawings:
        raise DataError(f"{path} holds none of Omniglot's drawings, or is not its archive; fetch it again")
    return _by_drawing(drawings)


def _by_drawing(drawings: Mapping[str, np.ndarray]) -> Arrays:
    """Omniglot by file name: of every character, drawings 1 to 15 to train on, 16 to 20 to test on; in order of names.

    The literature's chardata.mat (Burda et al., 2015) has 15 of each to train on as well. Lake et al.'s background and
    evaluation sets, which are of different alphabets, are for learning a character from one drawing.
    """
    parts: dict[str, dict[str, np.ndarray]] = {"train": {}, "test": {}}
    for name, image in drawings.items():
        drawing = DRAWING.search(name)
        parts["train" if int(drawing[1]) <= 15 else "test"][drawing[0]] = image
    found = {split: dict(sorted(images.items())) for split, images in parts.items() if images}
    return {split: (np.stack([*images.values()]), _folders(images)) for split, images in found.items()}


def _drawing(png: bytes) -> np.ndarray:
    ink = 255 - np.asarray(Image.open(io.BytesIO(png), formats=("PNG",)).convert("L"))
    return np.asarray(Image.fromarray(ink).resize((28, 28), Image.Resampling.BOX))


def _chardata(path: Path) -> Arrays:
    """Omniglot at 28x28 as the literature has it (Burda et al., 2015): a MATLAB file of columns, fractions."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise DataError(f"{path} is a MATLAB file, which takes SciPy to read: pip install scipy") from None
    try:
        arrays = loadmat(path, variable_names=("data", "testdata"))
    except MatReadError as error:
        raise ValueError(error) from None
    if missing := {"data", "testdata"} - arrays.keys():
        raise DataError(f"{path} has no {' and no '.join(sorted(missing))}; fetch it again")
    columns = {"train": arrays["data"], "test": arrays["testdata"]}
    return {split: (data.T.reshape(-1, 28, 28).transpose(0, 2, 1), None) for split, data in columns.items()}


#: How to read a file or folder of this name.
PUBLISHED: Mapping[str, Callable[[Path], Arrays]] = {
    "chardata.mat": _chardata,
    "cifar-10-binary.tar.gz": _cifar10,
    "cifar-10-batches-bin": _cifar10,
    "images_background.zip": _omniglot,
    "images_evaluation.zip": _omniglot,
}
