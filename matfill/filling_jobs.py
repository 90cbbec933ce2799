"""Filling photo files, one or thousands: reading and writing beside the computing, and the report.

A job is a function of its photo, its mask and its seed. What is written is whole, so that a job that was interrupted is
simply done again.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from matfill import plots
from matfill.errors import ImageError, MatfillError
from matfill.files import make_folder, write_atomic
from matfill.filling_plan import Job, Wanted
from matfill.formats import FORMATS
from matfill.holes import Hole, HoleMaker
from matfill.images import Photo, load_photo, opened, save_mask, save_photo

AHEAD = 32  # photos in memory beside the one that is filled, at most
EVERY = 5.0  # seconds between two versions of the report
ROOM = 50_000_000  # pixels of them, at most, where there is more than one

Entry = dict[str, Any]  # what the report says of one photo
#: Takes works, and gives each back with its Fillings, or the error it met, and with what else to enter in the report.
FillAll = Callable[[Iterable["Work"]], Iterator[tuple["Work", Any, Entry]]]


class Fillings(Protocol):
    """What filling a photo gives; see `matfill.inpainting`."""

    mean: Photo
    std: np.ndarray

    def sample(self, number: int) -> Photo: ...


@dataclass(eq=False)
class Work:
    """A job whose photo is read."""

    job: Job
    photo: Photo
    hole: Hole
    started: float = 0.0  #: when it was handed over to be filled

    @property
    def seed(self) -> int:
        return self.job.seed

    @property
    def missing(self) -> np.ndarray:
        return self.hole.missing


# --- running ---------------------------------------------------------------------------------------------------------


def run(
    jobs: Sequence[Job], holes: HoleMaker, fill_all: FillAll, wanted: Wanted, on_done: Callable[[Entry], None]
) -> None:
    """Do the jobs; `on_done` is called with the report's entry of each, in this thread, as soon as it is finished.

    Photos are read ahead and results written behind, in threads, while `fill_all` computes. What goes wrong with one
    photo is in its entry.
    """
    todo = []
    for job in jobs:
        if job.error:
            on_done(_entry(job, "failed", error=job.error))
        elif not wanted.overwrite and all(os.path.lexists(path) for path in job.outputs.values()):
            on_done(_entry(job, "skipped", output=[str(path) for path in job.outputs.values()]))
        else:
            todo.append(job)
    threads = max(2, (os.cpu_count() or 2) // 2)
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as readers,
        ThreadPoolExecutor(threads) as writers,
    ):
        warnings.simplefilter("ignore")  # here for all threads: Pillow's remarks on odd metadata and on large images
        reading: deque[tuple[int, Job, Future[Work | Exception]]] = deque()  # with the photo's pixels
        writing: deque[tuple[int, Future[Entry]]] = deque()

        def works() -> Iterator[Work]:
            following = ((_area(job.path), job) for job in todo)
            area, job = next(following, (0, None))
            while job or reading:
                hand_on(AHEAD)
                busy = sum(one[0] for one in itertools.chain(reading, writing))
                if job and len(reading) < AHEAD and (not busy or busy + area <= ROOM):
                    reading.append((area, job, readers.submit(_read, job, holes, wanted)))
                    area, job = next(following, (0, None))
                elif reading:
                    _, current, future = reading.popleft()
                    work = future.result()
                    if isinstance(work, Work):
                        work.started = time.perf_counter()
                        yield work
                    else:
                        on_done(_entry(current, "failed", error=_line(current, work)))
                    del work, future
                else:
                    hand_on(len(writing) - 1)  # there is room for the next photo once another is written

        def hand_on(most: int) -> None:
            """Report what is written, and wait until no more than `most` are still to be."""
            while writing and (len(writing) > most or writing[0][1].done()):
                on_done(writing.popleft()[1].result())

        try:
            for work, filled, found in fill_all(works()):
                seconds = time.perf_counter() - work.started
                if isinstance(filled, Exception):
                    on_done(_entry(work.job, "failed", error=_line(work.job, filled)))
                else:
                    area = work.photo.width * work.photo.height
                    writing.append((area, writers.submit(_write, work, filled, wanted, seconds, found)))
                del work, filled  # nothing is to be kept in memory while the next one is computed
        finally:
            readers.shutdown(wait=True, cancel_futures=True)
            hand_on(0)  # what is filled is written, also where the run is broken off


def _area(path: Path) -> int:
    """Pixels of an image file, 0 where it cannot be read."""
    try:
        with opened(path) as image:
            return image.width * image.height
    except Exception:  # reading it will say why
        return 0


def _read(job: Job, holes: HoleMaker, wanted: Wanted) -> Work | Exception:
    try:
        photo = load_photo(job.path)
        if wanted.strip:
            photo = replace(photo, origin=photo.origin.stripped())
        return Work(job, photo, holes.hole(photo, job.name, job.seed))
    except Exception as error:
        return error


def _write(work: Work, filled: Fillings, wanted: Wanted, seconds: float, found: Entry) -> Entry:
    """Write the outputs of one job, each as soon as it is made; those that exist already are left alone."""
    job, photo, hole = work.job, work.photo, work.hole
    kept: list[str] = []
    try:
        for kind, path in job.outputs.items():
            if not wanted.overwrite and os.path.lexists(path):
                kept.append(str(path))
                continue
            make_folder(path.parent)
            if kind == "mask":
                save_mask(hole.missing, path)
            elif kind == "uncertainty":
                save_photo(Photo(_heat_map(hole, filled.std)), path)
            elif kind == "sheet":
                save_photo(Photo(_sheet(work, filled, wanted.samples)), path)
            else:
                one = hole.finish(photo, filled.mean if kind == "mean" else filled.sample(int(kind) - 1))
                own = photo.origin.format if path.suffix == job.path.suffix else None  # whatever the extension says
                save_photo(one, path, quality=wanted.quality, format=job.format or (own if own in FORMATS else None))
    except Exception as error:
        return _entry(job, "failed", error=_line(job, error))
    found = {"hole": float(hole.missing.mean()), "seconds": round(seconds, 3)} | found
    return _entry(job, "filled", output=[str(path) for path in job.outputs.values()], kept=kept, **found)


def _heat_map(hole: Hole, std: np.ndarray) -> np.ndarray:
    """How much the fillings differ, as colours, uint8 (H, W, 3): black outside the hole."""
    colors = np.zeros((*hole.missing.shape, 3), np.uint8)
    colors[:] = plots.uncertainty_map(np.zeros((1, 1)))[0, 0]
    colors[hole.missing] = plots.uncertainty_map(hole.fade(std)[hole.missing][None])[0]
    return colors


def _sheet(work: Work, filled: Fillings, samples: int) -> np.ndarray:
    side = plots.LARGEST
    photo = work.photo.preview(side)
    drawn = [work.hole.finish(work.photo, filled.sample(i)).preview(side) for i in range(samples)]
    mean = work.hole.finish(work.photo, filled.mean).preview(side)
    size = photo.shape[1::-1]
    missing = Image.fromarray(work.hole.missing.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    std = Image.fromarray(work.hole.fade(filled.std)).resize(size, Image.Resampling.BOX)
    sheet = plots.inpainting_sheet(photo, np.asarray(missing) >= 128, drawn, mean, np.asarray(std))
    return np.asarray(sheet)


# --- the report ------------------------------------------------------------------------------------------------------


def _entry(job: Job, status: str, **found: Any) -> Entry:
    unknown = dict.fromkeys(("hole", "seconds", "bits_per_dim", "best")) | {"output": [], "kept": [], "error": None}
    return {"photo": str(job.path), "status": status, "seed": job.seed} | unknown | found


def _line(job: Job, error: Exception) -> str:
    """What went wrong, in one line that names the photo."""
    if isinstance(error, MatfillError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "it does not fit in memory; scale it down"
    else:
        text = f"{type(error).__name__}: {' '.join(str(error).split()[:40])}"
    return text if str(job.path) in text else f"{job.path}: {text}"


class Report:
    """What became of each photo, in a JSON file: `head`, and under "files" one entry per photo, sorted by name.

    It is written now and then, so that a run that is killed leaves it behind; what it says of photos that a later run
    skips, or has not come to yet, is kept. Without a path, only `entries` are collected. ImageError where the file is
    no report, or not to be written.
    """

    def __init__(self, path: Path | None, head: Entry):
        self.path, self.head = path, head
        self.entries: list[Entry] = []
        self.earlier: dict[tuple[str, ...], Entry] = {}
        self.saved = -math.inf
        if path is None:
            return
        try:
            files = json.loads(path.read_bytes())["files"]
            self.earlier = {tuple(entry["output"]): entry for entry in files if entry["status"] != "failed"}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            message = f"{path} is there already and is no report of matfill; give --report another name"
            raise ImageError(message) from None

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if time.monotonic() > self.saved + EVERY:
            self.write()

    def write(self, *, whole: bool = False) -> None:
        """Write what is known so far; `whole` says that the run is over, so that no other photo belongs to it."""
        self.saved = time.monotonic()
        if self.path is None:
            return
        earlier, files = dict(self.earlier), []
        for entry in self.entries:
            known = earlier.pop(tuple(entry["output"]), None)
            if known and entry["status"] == "skipped":
                entry = entry | {key: known.get(key) for key in ("seed", "hole", "seconds", "bits_per_dim", "best")}
            files.append(entry)
        files = sorted(files if whole else [*files, *earlier.values()], key=lambda entry: entry["photo"])
        try:
            write_atomic(self.path, json.dumps(self.head | {"files": files}, indent=1).encode() + b"\n")
        except OSError as error:
            raise ImageError(f"cannot write the report {self.path}: {error.strerror}") from None
