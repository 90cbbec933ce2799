"""How long does `matfill inpaint` take for large photos, and how much memory, beside OpenCV and scikit-image?

    python benchmarks/photo_speed.py --weights photos --large

Needs the `bench` extra. Photos of 0.3, 3, 12 and 24 megapixels are examples/china.jpg (640x427), at its own resolution
and repeated as in a mirror beyond its edges, saved as JPEG of quality 92 in a temporary folder. Holes are three squares
of 20 pixels (`random3x20`, always the same) and, with --large, a centred square of 5 % of the photo; all methods read
the same mask from a PNG file.

Each measurement is a process of its own, from its start to its end: interpreter, libraries, weights, reading the JPEG
file, filling, writing one. matfill is run as on the command line; the others read and write with Pillow
(classical.py). Methods take turns, --repeat times, and of each method there is

* seconds: wall time, the least of all;
* against Telea: those, divided by OpenCV Telea's with the same photo and hole;
* peak, MiB: the largest resident memory, the most of all; on a GPU, that of the host alone.

What takes a competitor more than --limit seconds is broken off, not repeated, and shown as "> 120 s"; matfill may take
as long as it likes.

Last measured on 23 November 2026, 2 cores of an AMD EPYC, --weights photos --large --repeat 1 --limit 15; seconds (as a
multiple of Telea's) and peak MiB:

| photo, hole | matfill photos | OpenCV Telea | scikit-image biharmonic |
|---|---|---|---|
| 0.3 MP, random3x20 | 2.68 (8.8), 310 | 0.31, 55 | 0.71 (2.3), 100 |
| 3 MP, random3x20 | 2.30 (7.2), 355 | 0.32, 110 | 1.39 (4.3), 390 |
| 12 MP, random3x20 | 2.74 (3.7), 488 | 0.75, 290 | 4.78 (6.4), 1,360 |
| 24 MP, random3x20 | 3.43 (2.8), 623 | 1.23, 530 | 8.90 (7.3), 2,653 |
| 0.3 MP, 5 % | 3.39 (18), 314 | 0.19, 56 | 0.81 (4.4), 141 |
| 3 MP, 5 % | 7.40 (16), 388 | 0.45, 110 | 6.08 (14), 991 |
| 12 MP, 5 % | 16.1 (11), 579 | 1.42, 290 | > 15 s |
| 24 MP, 5 % | 30.8 (14), 706 | 2.26, 531 | > 15 s |
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import classical
import numpy as np
from inpainting_quality import heading
from paper_tables import Section, show
from PIL import Image
from rich.console import Console
from rich.progress import track

from matfill import images, masks

PHOTO = Path(__file__).parent.parent / "examples" / "china.jpg"
SIZES = ("640x480", "2000x1500", "4000x3000", "6000x4000")
SMALL, LARGE = "random3x20", "one square of 5 %"
SEED = 0
TELEA = "OpenCV Telea"
COMPETITORS = (TELEA, "scikit-image biharmonic")
HEADER = ("method", "seconds", "against Telea", "peak, MiB")


# --- photos and holes ------------------------------------------------------------------------------------------------


def photo_of(width: int, height: int) -> np.ndarray:
    """The example photo, repeated as in a mirror: uint8 (height, width, 3)."""
    with Image.open(PHOTO) as file:
        pixels = np.asarray(file)
    more = [(0, max(wished - there, 0)) for wished, there in zip((height, width), pixels.shape, strict=False)]
    return np.pad(pixels, [*more, (0, 0)], mode="symmetric")[:height, :width]


def hole_of(kind: str, width: int, height: int) -> np.ndarray:
    """Of SMALL or LARGE: bool (height, width)."""
    spec = f"center{round(math.sqrt(0.05 * width * height))}" if kind == LARGE else kind
    return masks.parse(spec)(height, width, np.random.default_rng(SEED))


def prepare(folder: Path, sizes: Sequence[str], holes: Sequence[str]) -> None:
    """Writes SIZE.jpg and SIZE HOLE.png."""
    for size in sizes:
        width, height = map(int, size.split("x"))
        Image.fromarray(photo_of(width, height)).save(folder / f"{size}.jpg", quality=classical.QUALITY)
        for hole in holes:
            images.save_mask(hole_of(hole, width, height), folder / f"{size} {hole}.png")


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a process needed."""

    seconds: float  #: wall time
    peak: float  #: resident memory, MiB
    late: bool = False  #: whether it was broken off
    error: str = ""  #: what it said last, if it failed

    @property
    def wrong(self) -> bool:
        return self.late or bool(self.error)


def run(program: Sequence[str | Path], limit: float = math.inf) -> Run:
    """One process, broken off after `limit` seconds."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        late = False
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if not late and time.perf_counter() - start > limit:
                os.kill(process.pid, signal.SIGKILL)
                late = True
            time.sleep(0.002)
        seconds = time.perf_counter() - start
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
    if late:
        return Run(limit, peak, late=True)
    return Run(seconds, peak, error=[f"exit code {process.returncode}", *lines][-1] if process.returncode else "")


def joined(runs: Sequence[Run]) -> Run:
    """Of several runs the least time and the most memory; but the last, if that went wrong."""
    return runs[-1] if runs[-1].wrong else Run(min(one.seconds for one in runs), max(one.peak for one in runs))


def command(method: str, weights: str, photo: Path, mask: Path) -> list[str | Path]:
    """Fills a photo and writes filled.jpg beside it."""
    out = photo.with_name("filled.jpg")
    if method in classical.METHODS:
        return [sys.executable, classical.__file__, method, photo, mask, out]
    options = ["--weights", weights, "--seed", str(SEED), "--overwrite", "-o", out]
    return [sys.executable, "-m", "matfill", "inpaint", photo, "--mask", mask, *options]


# --- the comparison --------------------------------------------------------------------------------------------------


def compare(folder: Path, photo: str, hole: str, weights: str, repeat: int, limit: float) -> dict[str, Run]:
    """What each method needs."""
    files = folder / f"{photo}.jpg", folder / f"{photo} {hole}.png"
    runs: dict[str, list[Run]] = {method: [] for method in (f"matfill {weights}", *COMPETITORS)}
    for _ in range(repeat):
        for method, done in runs.items():
            if not (done and done[-1].wrong):
                limited = limit if method in COMPETITORS else math.inf
                done.append(run(command(method, weights, *files), limited))
    return {method: joined(done) for method, done in runs.items()}


def line(method: str, found: Run, telea: Run) -> tuple[str, ...]:
    """A row of the table."""
    peak = f"{found.peak:,.0f}"
    if found.error:
        return method, f"failed: {found.error}", "", peak
    if found.late:
        return method, f"> {found.seconds:.0f} s", "", peak
    ratio = "" if telea.wrong else f"{found.seconds / telea.seconds:.2f}"
    return method, f"{found.seconds:.2f}", ratio, peak


def size(text: str) -> str:
    """WxH, from the command line; what raises a ValueError is said to be none."""
    width, height = map(int, text.split("x"))
    if min(width, height) < 20:
        raise ValueError("too small for the holes")
    return f"{width}x{height}"


def main(given: Sequence[str] | None = None) -> int:
    """The program; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, help="name or file of the model's weights")
    add("--sizes", nargs="+", type=size, default=SIZES, metavar="WxH", help=f"(default: {' '.join(SIZES)})")
    add("--large", action="store_true", help="also fill a hole of 5 %% of the photo")
    add("--repeat", type=int, default=3, help="(default: %(default)s)")
    add("--limit", type=float, default=120, help="seconds that a competitor may take (default: %(default)s)")
    add("--json", type=Path, help="write all figures here as well")
    options = parser.parse_args(given)
    classical.require()
    holes = [SMALL, LARGE] if options.large else [SMALL]
    pairs = [(photo, hole) for hole in holes for photo in options.sizes]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        # A process counts the memory of the one that started it as its own, so this one stays small.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            apart.submit(prepare, Path(folder), options.sizes, holes).result()
        found = [
            compare(Path(folder), *pair, options.weights, options.repeat, options.limit)
            for pair in track(pairs, "measuring", console=console, disable=not console.is_terminal)
        ]
    report = heading(["numpy", *classical.PACKAGES.values(), "torch"]) | {"results": []}
    print()
    for (photo, hole), runs in zip(pairs, found, strict=True):
        lines = [line(method, one, runs[TELEA]) for method, one in runs.items()]
        width, height = map(int, photo.split("x"))
        show([Section(f"{width * height / 1e6:.1f} megapixels ({photo}), {hole}", HEADER, lines, [])])
        report["results"] += [
            {"photo": photo, "hole": hole, "method": name} | asdict(one) for name, one in runs.items()
        ]
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(one["error"] for one in report["results"]))


if __name__ == "__main__":
    sys.exit(main())
