"""The data sets that have a name: where they are published, how they are fetched, and where they are found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matfill.errors import DataError
from matfill.fetch import Unreachable, fetch


@dataclass(frozen=True)
class File:
    """A file as it was published."""

    name: str
    size: int  #: bytes
    sha256: str
    unpacked_sha256: str | None = None  #: of what a .gz holds: it is also accepted packed by another gzip


@dataclass(frozen=True)
class DataSet:
    """A published set of images."""

    name: str
    images: str  #: what they show, and in what form
    licence: str
    page: str  #: what to read, and where to fetch the files by hand
    mirrors: tuple[str, ...]  #: to which a file's name is appended, the quickest first
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch, in all."""
        return sum(file.size for file in self.files)


MNIST = DataSet(
    name="mnist",
    images="digits, 28x28 grey",
    licence="CC BY-SA 3.0",
    page="http://yann.lecun.com/exdb/mnist/",
    mirrors=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    files=(
        File(
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        File(
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        File(
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        File(
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)

BINARIZED_MNIST = DataSet(
    name="binarized-mnist",
    images="digits, 28x28 black and white",
    licence="as MNIST",
    page="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    mirrors=(
        "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    ),
    files=(
        File(
            "binarized_mnist_train.amat", 78400000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
        ),
        File(
            "binarized_mnist_valid.amat", 15680000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
        ),
        File("binarized_mnist_test.amat", 15680000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ),
)

OMNIGLOT = DataSet(
    name="omniglot",
    images="drawn characters, 28x28 grey",
    licence="MIT",
    page="https://github.com/brendenlake/omniglot",
    mirrors=(
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
        "https://github.com/brendenlake/omniglot/raw/master/python/",
    ),
    files=(
        File("images_background.zip", 9464212, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
        File("images_evaluation.zip", 6462886, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    ),
)

CIFAR10 = DataSet(
    name="cifar10",
    images="photographs, 32x32 colour",
    licence="none stated",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    mirrors=(
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
        "https://www.cs.toronto.edu/~kriz/",
    ),
    files=(
        File("cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    ),
)

CATALOGUE = {dataset.name: dataset for dataset in (MNIST, BINARIZED_MNIST, OMNIGLOT, CIFAR10)}


def get(name: str) -> DataSet:
    """The data set of that name, - and _ being the same; DataError where there is none."""
    if dataset := CATALOGUE.get(name.replace("_", "-")):
        return dataset
    raise DataError(f"there is no data set {name!r}; name one of {', '.join(CATALOGUE)}")


def user_cache() -> Path:
    """Where matfill keeps what it fetched, unless told otherwise; it need not exist."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "matfill"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "matfill" / "cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "matfill"


def roots(data: Path | None = None) -> list[Path]:
    """Where data sets are looked up, in this order: `data`, $MATFILL_DATA, the user's cache."""
    named = os.environ.get("MATFILL_DATA")
    return list(dict.fromkeys([*([data] if data else []), *([Path(named)] if named else []), user_cache()]))


def find(name: str, data: Path | None = None) -> Path | None:
    """A file or folder called `name` (- and _ are the same) below one of the roots; None where there is none."""
    return next((path for root in roots(data) for path in _spellings(root, name) if os.path.exists(path)), None)


def _spellings(root: Path, name: str) -> list[Path]:
    return [root / name, root / name.replace("-", "_"), root / name.replace("_", "-")]


def locate(name: str | os.PathLike[str], data: Path | None = None) -> Path:
    """The file or folder `name`: as a path, else below the roots. DataError, saying what to do, where it is not."""
    if os.path.exists(name):
        return Path(name)
    name = os.fspath(name)
    if found := find(name, data):
        return found
    looked = " or ".join(map(str, roots(data)))
    if known := CATALOGUE.get(name.replace("_", "-")):
        raise DataError(f"the data set {known.name} is not below {looked}; `matfill data {known.name}` fetches it")
    raise DataError(
        f"there is no folder {name}, here or below {looked}; check the path, or name one of {', '.join(CATALOGUE)}"
    )


def download(
    name: str,
    data: Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda file, done, total: None,
) -> Path:
    """Fetch the data set `name` into a folder below the first root; what is there already is checked and kept.

    `on_progress(file, done, total)` counts bytes. The folder gets its name when all files are there. DataError with
    what to do where that cannot be.
    """
    dataset = get(name)
    root = roots(data)[0]
    final = next((path for path in _spellings(root, dataset.name) if os.path.exists(path)), root / dataset.name)
    work = final if os.path.exists(final) else root / f"{dataset.name}.part"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {work}: {error.strerror}; choose another with --data") from None
    for file in dataset.files:
        urls = [mirror + file.name for mirror in dataset.mirrors]
        try:
            sums = {"size": file.size, "sha256": file.sha256, "unpacked_sha256": file.unpacked_sha256}
            fetch(urls, work / file.name, **sums, on_progress=partial(on_progress, file.name))
        except Unreachable as error:
            files = ", ".join(file.name for file in dataset.files)
            raise DataError(
                f"{error}; run this again when the network is there, it goes on where it stopped; or fetch {files} by "
                f"hand (see {dataset.page}) into {final}"
            ) from None
    if work != final:
        try:
            work.rename(final)
        except OSError as error:
            raise DataError(f"cannot rename {work} to {final}: {error.strerror}; rename it by hand") from None
    return final
