"""The paper's likelihood tables, with our rows in place.

    python benchmarks/paper_tables.py                # from benchmarks/scores
    python benchmarks/paper_tables.py FOLDER --markdown

Published figures are those of the tables in figure 2 of P. Bachman, *An Architecture for Deep, Hierarchical Generative
Models*, NIPS 2016: his own and those he quotes. Ours come from the JSON files in the folder, each of them one object
that `matfill eval --json` wrote, and from nowhere else: the last measured tables are what this prints. A file belongs
to a table by its weights; a run folder or a file counts as the weights of its name. It fills a cell only if it scores
the table's data and masks, test split; any other is listed below the table.

All figures are upper bounds on the negative log-likelihood of what is missing, means over images; ours with their
standard errors. k is the number of importance samples: the paper's is from its section 3, that of the quadrants from
its code (see matfill.scoring.PUBLISHED).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console

from matfill.errors import DataError, MatfillError, one_line

SCORES = Path(__file__).parent / "scores"
PIPED = 200  #: characters in a line where there is no terminal: wide enough for every table

Score = dict[str, Any]  #: what `matfill eval --json` wrote, its strings fit to be shown; and "file", its name
Line = tuple[str, ...]  #: the cells of a row as they are shown


# --- the paper's tables ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A row of the paper."""

    method: str
    figures: tuple[str, ...]  #: as printed there, one for each column
    samples: str = ""  #: k, where it is known


@dataclass(frozen=True)
class Ours:
    """A row of ours: the name of the weights, and the mask of each column."""

    weights: str
    masks: tuple[str, ...] = ("all",)
    label: str = ""  #: what is to be said beside the name
    always: bool = True  #: whether the row is there while nothing of it is measured


@dataclass(frozen=True)
class Table:
    title: str
    data: str  #: name of the data set whose test split counts
    rows: tuple[Published | Ours, ...]
    columns: tuple[str, ...] = ("test NLL",)
    dims: int | None = None  #: values in an image where the unit is bits per dimension; None: nats per image
    remark: str = ""  #: to be kept in mind beside our figures

    @property
    def unit(self) -> str:
        return "bits per dimension" if self.dims else "nats per image"

    @property
    def ours(self) -> list[Ours]:
        return [row for row in self.rows if isinstance(row, Ours)]

    def figure(self, nats: Mapping[str, float | None]) -> str:
        """`mean ± standard error` in the table's unit, of both in nats per image."""
        scale, digits = (1 / (self.dims * math.log(2)), 3) if self.dims else (1, 2)
        return " ± ".join(f"{nats[key] * scale:.{digits}f}" for key in ("mean", "se") if nats[key] is not None)


TABLE_1 = Table(
    "Table 1: Omniglot, 28x28",
    "omniglot",
    (
        Published("VAE (2 layers, 5 samples)", ("106.31",)),
        Published("IWAE (2 layers, 50 samples)", ("103.38",)),
        Published("RBM (500 hidden)", ("100.46",)),
        Published("DRAW", ("< 96.5",)),
        Published("Conv DRAW", ("< 91.0",)),
        Published("MatNet", ("< 89.5",), "2500"),
        Ours("omniglot"),
        Ours("omniglot-gmm"),
    ),
    remark="Published figures are on chardata.mat: 24,345 images to train on, 15 times its 1,623 characters, and 8,070 "
    "others to test on. Ours were resized from the original drawings, and are divided alike: of each character 15 to "
    "train on, 5 to test on (8,115).",
)
TABLE_2 = Table(
    "Table 2: CIFAR-10",
    "cifar10",
    (
        Published("Uniform Distribution", ("8.00",)),
        Published("Multivariate Gaussian", ("4.70",)),
        Published("NICE", ("4.48",)),
        Published("Deep Diffusion", ("4.20",)),
        Published("Deep GMMs", ("4.00",)),
        Published("Pixel RNN", ("3.00",)),
        Published("DRAW", ("< 4.13",)),
        Published("Conv DRAW", ("< 3.58",)),
        Published("MatNet", ("< 3.68",), "2500"),
        Published("MatNet+AR", ("< 3.24",), "2500"),
        Ours("cifar10-plain", label="without local autoregression", always=False),
        Ours("cifar10"),
    ),
    dims=32 * 32 * 3,
    remark="The test set has 10,000 images: with fewer, ours are on those that could be had. The card of the weights "
    "says on how many of 50,000 they were trained.",
)
TABLE_3 = Table(
    "Table 3: MNIST, convolutional, fixed binarisation",
    "binarized-mnist",
    (
        Published("DRAW (64 steps, Gaussian attention)", ("≤ 80.9",)),
        Published("DRAW (80 steps, ST att and CGRU canvas)", ("≤ 80.5",)),
        Published("Pixel RNN", ("≤ 79.2",)),
        Published("MatNet", ("≤ 78.5",), "2500"),
        Ours("mnist"),
        Ours("mnist-ar", label="with local autoregression"),
    ),
)
TABLE_4 = Table(
    "Table 4: MNIST, fully connected, dynamic binarisation",
    "mnist",
    (
        Published("DRAW (16 steps, no attention)", ("< 87.4",)),
        Published("VAE + IWAE", ("< 82.9",)),
        Published("Prob Ladder", ("< 81.2",)),
        Published("FC MatNet", ("< 80.5",), "2500"),
        Ours("mnist-fc"),
        Ours("mnist-fc-ladder", label="a probabilistic ladder network", always=False),
    ),
)
RANDOM = tuple(f"quadrants{n}" for n in (1, 2, 3))
FIXED = tuple(f"quadrants{n}fixed" for n in (1, 2, 3))
#: the table without a number, at the lower right of figure 2
QUADRANTS = Table(
    "Structured prediction: MNIST with n quadrants visible",
    "mnist",
    (
        Published("NN", ("99.75", "62.18", "25.99")),
        Published("GSNN", ("99.82", "62.41", "26.29")),
        Published("CVAE", ("68.39", "45.34", "20.96")),
        Published("CVAE", ("63.91", "44.73", "20.95")),
        Published("MatNet", ("57.45", "36.82", "17.96"), "1"),
        Ours("quadrants", RANDOM, "random protocol"),
        Ours("quadrants", FIXED, "fixed protocol", always=False),
        Ours("quadrants-plain", RANDOM, "random protocol", always=False),
        Ours("quadrants-plain", FIXED, "fixed protocol", always=False),
    ),
    columns=("1 quadrant", "2 quadrants", "3 quadrants"),
)
TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, QUADRANTS)
OTHERS = Table("In none of the tables", "", ())


# --- our scores ------------------------------------------------------------------------------------------------------

BOUNDS = ("iwae_bound", "free_energy")
TEXTS = ("weights", "data", "split", "mask", "date", "version")
COUNTS = ("images", "samples")


def read(folder: Path) -> list[Score]:
    """What all JSON files of a folder hold, in the order of their names; DataError about the first that is no score."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    return [read_score(path) for path in sorted(folder.glob("*.json"))]


def read_score(path: Path) -> Score:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from None
    score: Score = {"file": path.name}
    score |= {key: one_line(_get(path, found, key, str)) for key in TEXTS}
    score |= {key: _get(path, found, key, int) for key in COUNTS}
    for key in BOUNDS:
        nats = _get(path, found, key, dict)
        score[key] = {"mean": _get(path, nats, "mean", float), "se": _get(path, nats, "se", float, type(None))}
    return score


def _get(path: Path, found: Any, key: str, *kinds: type) -> Any:
    """A value of an object in the file, of one of these kinds; numbers have to be finite."""
    if not isinstance(found, dict) or key not in found:
        raise DataError(f"{path} has no {key!r}; keep there what this version's matfill eval --json writes")
    value = found[key]
    if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(f"{path} has {json.dumps(value)[:40]} for {key!r}, which matfill eval --json does not write")
    return value


def name_of(weights: str) -> str:
    """The name of weights, bundled or not: "mnist" of mnist, runs/mnist, and the file of either."""
    path = Path(weights)
    return (path.parent if path.name == "weights.safetensors" else path).name.removesuffix(".safetensors")


def table_of(score: Score) -> Table:
    """The table that its weights belong to."""
    name = name_of(score["weights"])
    return next((table for table in TABLES if name in {row.weights for row in table.ours}), OTHERS)


def counts(score: Score, table: Table) -> bool:
    """Whether it is what a cell of its table asks for."""
    name, data = name_of(score["weights"]), Path(score["data"]).name.replace("_", "-")
    masks = {mask for row in table.ours if row.weights == name for mask in row.masks}
    return score["split"] == "test" and data == table.data and score["mask"] in masks


# --- tables, as they are shown ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A table and what is said below it."""

    title: str
    header: Line
    lines: list[Line]
    notes: list[str]


def section(table: Table, scores: Sequence[Score]) -> Section:
    """The table with the scores of its weights in it, or below it; DataError where two claim one cell."""
    cells: dict[tuple[str, str], Score] = {}
    counted = [score for score in scores if counts(score, table)]
    for score in counted:
        name, mask = name_of(score["weights"]), score["mask"]
        first = cells.setdefault((name, mask), score)
        if first is not score:
            raise DataError(f"{first['file']} and {score['file']} both score {name}, mask {mask}: keep one of them")
    lines: list[Line] = []
    for row in table.rows:
        if isinstance(row, Published):
            lines.append((row.method, row.samples, *row.figures, "", "", ""))
        else:
            lines += our_lines(table, row, [cells.get((row.weights, mask)) for mask in row.masks])
    notes = [table.remark] if table.remark and counted else []
    notes += [note(table, score) for score in scores if score not in counted]
    title = f"{table.title}, {table.unit}" if lines else table.title
    return Section(title, ("method", "k", *table.columns, "images", "date", "version"), lines, notes)


def our_lines(table: Table, row: Ours, scores: Sequence[Score | None]) -> list[Line]:
    """The bound and, below it, the free energy, which is of one sample; a score, or None, for each column."""
    method = ", ".join(filter(None, (f"matfill {row.weights}", row.label)))
    measured = [score for score in scores if score]
    if not measured:
        return [(method, "", *["not measured"] * len(scores), "", "", "")] if row.always else []

    def each(key: str, form: str = "") -> str:
        """What all of them say, or what each says in turn."""
        values = [format(score[key], form) for score in measured]
        return values[0] if len(set(values)) == 1 else " / ".join(values)

    def figures(key: str) -> list[str]:
        return [table.figure(score[key]) if score else "not measured" for score in scores]

    made = each("images", ","), each("date"), each("version")
    return [
        (method, each("samples"), *figures("iwae_bound"), *made),
        ("the same, free energy", "1", *figures("free_energy"), *made),
    ]


def note(table: Table, score: Score) -> str:
    """A score that fills no cell, in a line."""
    split = {"val": "validation", "train": "training", "all": "all splits"}.get(score["split"], score["split"])
    bound, free_energy = (table.figure(score[key]) for key in BOUNDS)
    return (
        f"Not counted: {name_of(score['weights'])} on {Path(score['data']).name}, mask {score['mask']}, {split}, "
        f"{score['images']:,} images: bound {bound} (k = {score['samples']}), free energy {free_energy} {table.unit}; "
        f"{score['date']}, {score['version']}, {score['file']}"
    )


def show(sections: Sequence[Section]) -> None:
    """On a terminal, or as plain text into a pipe."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED
    for section in sections:
        console.print(section.title, style="bold")
        if section.lines:
            table = rich.table.Table(*section.header, box=None)
            for line in section.lines:
                table.add_row(*line)
            console.print(table)
        for text in section.notes:
            console.print(text, soft_wrap=True)
        console.print()


def show_markdown(sections: Sequence[Section]) -> None:
    """For GitHub."""
    for section in sections:
        print(f"**{section.title}**\n")
        if section.lines:
            for line in (section.header, ("---",) * len(section.header), *section.lines):
                print(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |")
            print()
        for text in section.notes:
            print(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=SCORES, help="of JSON files (default: benchmarks/scores)")
    add("--markdown", action="store_true", help="print tables for GitHub")
    options = parser.parse_args(arguments)
    try:
        scores = read(options.folder)
        sections = [section(table, [one for one in scores if table_of(one) is table]) for table in (*TABLES, OTHERS)]
    except MatfillError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    wanted = [one for one in sections if one.lines or one.notes]
    (show_markdown if options.markdown else show)(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
