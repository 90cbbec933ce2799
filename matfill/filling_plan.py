"""Which photo files become which files: what is wanted of each, and where it goes.

The seed of each photo is a function of its name, so that it matters neither what else is in the folder nor which
process fills it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from PIL import Image

from matfill.errors import ImageError
from matfill.files import walk
from matfill.formats import BY_SUFFIX, format_of, register_plugins


@dataclass(frozen=True)
class Wanted:
    """What is to be written of each photo, and how."""

    samples: int = 1  #: files of samples
    mean: bool = False
    uncertainty: bool = False
    mask: bool = False
    sheet: bool = False
    quality: int | None = None  #: 1 to 100; None keeps a JPEG file's own
    strip: bool = False  #: leave EXIF, GPS, texts behind
    overwrite: bool = False

    def names(self, stem: str, suffix: str) -> dict[str, str]:
        """File names by what they hold: "1" ... a sample, "mean", "uncertainty", "mask", "sheet"."""
        samples = {str(i): f"{stem}_{i}{suffix}" for i in range(1, self.samples + 1)}
        names = samples if self.samples > 1 else {"1": f"{stem}{suffix}"}
        extra = {"mean": suffix, "uncertainty": ".png", "mask": ".png", "sheet": ".png"}
        return names | {kind: f"{stem}_{kind}{end}" for kind, end in extra.items() if getattr(self, kind)}


@dataclass(frozen=True)
class Job:
    """One photo to fill."""

    path: Path
    name: PurePath  #: of the photo, below the folder that was named
    seed: int
    outputs: dict[str, Path]  #: by what they hold, see Wanted.names
    format: str | None = None  #: the format that the outputs' extension stands for, where the user chose one
    error: str | None = None  #: why there is nothing to fill: of a folder that cannot be listed


def plan(
    photos: Sequence[Path], out: str | Path, seed: int, wanted: Wanted, masks: Sequence[str | Path] = ()
) -> list[Job]:
    """The jobs of photo files and of all photos in folders; outputs go below `out`, in the folders' own structure.

    A single file is filled under `seed` itself, and `out` may name the file to write; otherwise each has its own seed,
    drawn from `seed` and its name. What lies in `out` or is one of the `masks`, files or folders of them, is no photo,
    unless the photos' own folder lies there. A sub-folder that cannot be listed is a job that has failed already.
    ImageError where there is no photo, or where an output would replace a photo or a mask.
    """
    out, is_folder = Path(out), str(out).endswith(("/", os.sep))
    if os.path.isdir(out) and any(_file(out) == _file(path) for path in (*photos, *masks)):
        raise ImageError(f"{out} is where the photos or their masks are; choose another folder with -o")
    unlisted: list[Job] = []
    tops = [os.path.realpath(top) for top in photos]
    others = {os.path.realpath(path) for path in (out, *masks)}
    others = {other for other in others if not any(_below(top, other) for top in tops)}
    found = list({path: (path, name) for path, name in _photos(photos, others, unlisted)}.values())  # each once
    if not found:
        raise ImageError(f"there is no image file in {', '.join(map(str, photos))}; check the path")
    alone = len(photos) == 1 and not os.path.isdir(photos[0])
    if alone and out.suffix and not is_folder and not os.path.isdir(out):
        try:
            name = format_of(out)
        except ImageError as error:
            raise ImageError(f"cannot save {out}: {error}") from None
        outputs = {kind: out.parent / file for kind, file in wanted.names(out.stem, out.suffix).items()}
        jobs = [Job(found[0][0], found[0][1], seed, outputs, name)]
    else:
        names = _outputs(found, wanted)
        jobs = [
            Job(path, name, seed if alone else seed_of(seed, name), {kind: out / file for kind, file in files.items()})
            for (path, name), files in zip(found, names, strict=True)
        ]
    originals = {_file(path) for path in (*masks, *(path for path, _ in found))} - {None}
    for job in jobs:
        for path in job.outputs.values():
            if _file(path) in originals:
                raise ImageError(f"{path} would replace a photo or a mask; choose another place with -o")
    return jobs + unlisted


def _file(path: str | Path) -> tuple[int, int] | None:
    """What a path leads to, whatever its spelling; None where there is nothing."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def seed_of(seed: int, name: PurePath) -> int:
    """The seed of one photo among several."""
    return int.from_bytes(hashlib.sha256(os.fsencode(f"{seed}/{name.as_posix()}")).digest()[:4], "big")


def _photos(photos: Sequence[Path], others: set[str], unlisted: list[Job]) -> Iterator[tuple[Path, PurePath]]:
    """Every photo file, and its name below its folder; none that is one of the `others`, or lies below one.

    To `unlisted` a failed job is added for each sub-folder that cannot be listed.
    """
    register_plugins()
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN} | set(BY_SUFFIX)

    @functools.cache
    def is_other(folder: Path) -> bool:
        real = os.path.realpath(folder)
        return any(_below(real, other) for other in others)

    def on_error(error: OSError) -> None:
        path, reason = Path(error.filename), f"cannot read {error.filename}: {error.strerror}"
        unlisted.append(Job(path, PurePath(path.name), 0, {}, error=reason))

    for top in photos:
        if not os.path.isdir(top):
            yield top, PurePath(top.name)
            continue
        try:
            for path, _ in walk(top, on_error):
                if path.suffix.lower() in known and not is_other(path.parent) and str(path.resolve()) not in others:
                    yield path, PurePath(path.relative_to(top))
        except OSError as error:
            raise ImageError(f"cannot list {error.filename or top}: {error.strerror}") from None


def _outputs(photos: Sequence[tuple[Path, PurePath]], wanted: Wanted) -> list[dict[str, str]]:
    """Paths below the output folder, as `Wanted.names` has them, of each photo; no two are the same anywhere.

    Where names alone would collide, digits are added that the photo's own path determines: what one run wrote of a
    photo is never taken for another's by the next, which may find more photos, or fewer.
    """
    stems = [name.stem for _, name in photos]
    for attempt in itertools.count():
        files = []
        for (_, name), stem in zip(photos, stems, strict=True):
            suffix = name.suffix if name.suffix.lower() in BY_SUFFIX else ".png"
            parent = name.parent
            files.append({kind: str(parent / file) for kind, file in wanted.names(stem, suffix).items()})
        taken = Counter(_folded(path) for paths in files for path in paths.values())
        clashes = [i for i, paths in enumerate(files) if any(taken[_folded(path)] > 1 for path in paths.values())]
        if not clashes:
            return files
        for i in clashes:
            path, name = photos[i]
            digits = hashlib.sha256(os.fsencode(path)).hexdigest()[: 4 * attempt]
            stems[i] = "_".join(filter(None, (name.stem, name.suffix[1:], digits)))
    raise AssertionError


def _below(path: str, folder: str) -> bool:
    """Whether a path is, or lies in, a folder, both without links."""
    return f"{path}{os.sep}".startswith(f"{folder.rstrip(os.sep)}{os.sep}")


def _folded(path: str) -> str:
    """The same for paths that some file system takes for one."""
    return unicodedata.normalize("NFC", path).casefold()
