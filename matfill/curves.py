"""Curves of a run: its bound over training, and where its rate goes, module by module (the paper's figure 4).

What a run measured is read from the metrics.jsonl in its folder. matplotlib, an extra, is imported when a figure is
drawn, and then without any window or global state.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matfill.checkpoint import METRICS_NAME, WEIGHTS_NAME, load_tensors
from matfill.errors import ConfigError, DataError, MatfillError, WeightsError
from matfill.files import make_folder, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
DOTS_PER_INCH = 150
MOST_POINTS = 500  # of a curve: where there are more, neighbours are averaged
EARLY = 0.1  # first share of a run whose figures, orders of magnitude above all others, may leave the picture
#: of levels, coarsest first, and so on again (Okabe and Ito's, that the colour-blind can tell apart)
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
STAGES = ("guess", "refine")

Nested = list[list[list[float]]]  #: of each module of each level of each stage, nats per image


@dataclass(frozen=True, eq=False)
class Curve:
    """What was measured of some images, point by point: float64 (N,)."""

    updates: np.ndarray
    minutes: np.ndarray  #: of training, pauses between resumes not counted
    bound: np.ndarray  #: free energy, nats per image

    def __len__(self) -> int:
        return len(self.updates)


@dataclass(frozen=True, eq=False)
class History:
    """What a run measured."""

    train: Curve  #: means over the updates of some seconds
    heldout: Curve  #: at the checkpoints, with averaged weights
    rates: np.ndarray  #: (len(train), M), nats per image: of every module, or of every level in older files
    groups: tuple[tuple[int, int], ...]  #: (stage, level) of each of the M, in order


def plot(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> list[Path]:
    """Draw the curves of a run folder, into `out`.png and `out`.svg, or into the one that the extension of `out` names.

    Without `out`, beside the metrics: RUN/curves.png and RUN/curves.svg. Returns what was written. DataError where
    there is nothing to draw, MatfillError where matplotlib is missing.
    """
    run = Path(run)
    paths = _paths(run / "curves" if out is None else Path(out))
    history = read(run)
    figure = draw(history, level_names(run, history.groups), run.resolve().name)
    make_folder(paths[0].parent)
    for path in paths:
        blob = io.BytesIO()
        figure.savefig(blob, format=path.suffix[1:].lower(), dpi=DOTS_PER_INCH)
        try:
            write_atomic(path, blob.getvalue())
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return paths


def _paths(out: Path) -> list[Path]:
    if not out.suffix:
        return [out.with_name(out.name + suffix) for suffix in FORMATS]
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"unknown extension {out.suffix!r}; use {' or '.join(FORMATS)}, or none to get both")
    return [out]


# --- what a run measured ---------------------------------------------------------------------------------------------


def read(run: Path) -> History:
    """The metrics of a run folder; DataError where there are none, or something else is in their place.

    What a killed run left of a last line is passed over, and so are figures that are not finite. Where the updates go
    back, the run began anew from there: what had been measured beyond is forgotten, as it is on a resume.
    """
    path = run / METRICS_NAME
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{run} is no run folder: there is no {METRICS_NAME} in it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    points: list[_Point] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = _point(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if number == len(lines):  # not ended by a line break: torn
                break
            raise DataError(f"line {number} of {path} is not what a run writes; remove it") from None
        while points and points[-1].update > found.update:
            points.pop()
        points.append(found)
    points = [point for point in points if math.isfinite(point.bound)]
    train = [point for point in points if not point.heldout]
    if not points:
        raise DataError(f"{path} holds no figures yet: let the run go on for some seconds")
    rates, groups = _table(path, train)
    return History(_curve(train), _curve([point for point in points if point.heldout]), rates, groups)


@dataclass(frozen=True)
class _Point:
    """One line of metrics.jsonl."""

    heldout: bool
    update: int
    minutes: float
    bound: float
    rates: Nested
    by_module: bool


def _point(line: dict[str, Any]) -> _Point:
    """What a line says; ValueError, KeyError, TypeError or AttributeError where it says something else."""
    scores = line["heldout"] if line["event"] == "checkpoint" else line["train"]
    levels = [[float(rate) for rate in stage] for stage in scores["rates"]]
    rates = [[[rate] for rate in stage] for stage in levels]
    if by_module := "module_rates" in scores:
        rates = [[[float(rate) for rate in level] for level in stage] for stage in scores["module_rates"]]
    bound = float(scores["distortion"]) + sum(map(sum, levels))
    return _Point(line["event"] == "checkpoint", int(line["update"]), float(line["minutes"]), bound, rates, by_module)


def _curve(points: Sequence[_Point]) -> Curve:
    columns = zip(*((point.update, point.minutes, point.bound) for point in points), strict=True)
    return Curve(*(np.array(column, dtype=float) for column in columns)) if points else Curve(*np.empty((3, 0)))


def _table(path: Path, points: Sequence[_Point]) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Rates (N, M) and what each of the M belongs to; of levels only, where some lines are of an older version."""
    rates = [point.rates for point in points]
    if not all(point.by_module for point in points):
        rates = [[[[sum(level)] for level in stage] for stage in nested] for nested in rates]
    shapes = {tuple((s, i) for s, stage in enumerate(one) for i, at in enumerate(stage) for _ in at) for one in rates}
    if len(shapes) > 1:
        raise DataError(f"{path} is of several models: its lines differ in their number of rates")
    groups = next(iter(shapes), ())
    flat = [[rate for stage in nested for level in stage for rate in level] for nested in rates]
    return np.array(flat, dtype=float).reshape(len(flat), len(groups)), groups


def level_names(run: Path, groups: Sequence[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """What (stage, level) is called: by its size, where the run has saved weights already, which say it."""
    try:
        sizes = [level["size"] for level in load_tensors(run / WEIGHTS_NAME, card_only=True)[1]["model"]["levels"]]
    except (WeightsError, KeyError, TypeError):
        sizes = []
    stages = 1 + max((stage for stage, _ in groups), default=0)
    names = {}
    for stage, level in dict.fromkeys(groups):
        size = sizes[level] if level < len(sizes) else None
        name = f"level {level + 1}" if size is None else "fully connected" if size == 1 else f"{size}x{size}"
        names[stage, level] = f"{STAGES[stage]}, {name}" if 1 < stages <= len(STAGES) else name
    return names


# --- pictures --------------------------------------------------------------------------------------------------------


def draw(history: History, names: dict[tuple[int, int], str], title: str = "") -> Figure:
    """Two panels over the updates, minutes of training at the top: the bound, and the rates stacked as in figure 4.

    Both are in nats per image. In the lower panel light lines separate modules and dark ones levels, the coarsest
    level at the bottom. MatfillError where there is no matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MatfillError("curves are drawn with matplotlib: pip install 'matfill[plot]'") from None
    style = {"font.size": 9, "svg.hashsalt": "matfill", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 7.5), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_bound(above, history)
        _draw_rates(below, history, names)
        curves = [curve for curve in (history.train, history.heldout) if len(curve)]
        last = max(curve.updates[-1] for curve in curves)
        below.set_xlim(0, 1.01 * last or 1)
        _show_minutes(above, max(curves, key=len))
        figure.suptitle(title)
    return figure


def _draw_bound(axes: Axes, history: History) -> None:
    train, heldout = history.train, history.heldout
    if len(train):
        axes.plot(_thinned(train.updates), _thinned(train.bound), color=COLOURS[0], lw=1, label="training images")
    if len(heldout):
        label = "held-out images, averaged weights"
        axes.plot(heldout.updates, heldout.bound, "o-", ms=3, lw=1, color=COLOURS[5], label=label)
    axes.set_ylabel("bound, nats per image")
    axes.set_ylim(*_limits([train, heldout]))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """From below the least value to above the largest one that is not among the first EARLY of all updates."""
    values = np.concatenate([curve.bound for curve in curves])
    updates = np.concatenate([curve.updates for curve in curves])
    late = values[updates >= EARLY * updates.max()]
    least, most = values.min(), late.max()
    room = 0.05 * (most - least) or 1.0
    return least - room, most + room


def _draw_rates(axes: Axes, history: History, names: dict[tuple[int, int], str]) -> None:
    axes.set_ylabel("rate, nats per image")
    axes.set_xlabel("updates")
    if not history.groups:
        return
    updates, rates = _thinned(history.train.updates), _thinned(history.rates)
    tops = np.cumsum(rates, axis=1)
    bottoms = tops - rates
    groups, first = history.groups, {}
    for i, group in enumerate(groups):
        colour = _colour(*group)
        first.setdefault(group, axes.fill_between(updates, bottoms[:, i], tops[:, i], color=colour, lw=0))
    for i, group in enumerate(groups):
        ends = i + 1 == len(groups) or groups[i + 1] != group
        axes.plot(updates, tops[:, i], color="black" if ends else "white", lw=0.8 if ends else 0.5)
    late = tops[updates >= EARLY * updates[-1], -1]
    axes.set_ylim(0, 1.05 * late.max() or 1)
    handles = list(first.items())[::-1]  # as they lie above each other
    labels = [_label(names[group], groups.count(group)) for group, _ in handles]
    axes.legend([patch for _, patch in handles], labels, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _colour(stage: int, level: int) -> tuple[float, ...]:
    """The level's colour; paler in the second stage."""
    digits = COLOURS[level % len(COLOURS)][1:]
    return tuple(1 - (1 - int(digits[i : i + 2], 16) / 255) / (1 + stage) for i in (0, 2, 4))


def _label(name: str, modules: int) -> str:
    return name if modules == 1 else f"{name}, {modules} modules"


def _show_minutes(axes: Axes, curve: Curve) -> None:
    """Minutes of training along the top of a panel whose x are updates."""
    from matplotlib.ticker import MaxNLocator

    if curve.minutes[-1] <= 0:
        return
    updates, minutes = np.append(0.0, curve.updates), np.append(0.0, curve.minutes)
    ticks = [t for t in MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, minutes[-1]) if 0 <= t <= minutes[-1]]
    top = axes.secondary_xaxis("top")
    top.set_xticks(np.interp(ticks, minutes, updates), [f"{tick:g}" for tick in ticks])
    top.set_xlabel("minutes of training")


def _thinned(values: np.ndarray) -> np.ndarray:
    """Values (N, ...) at MOST_POINTS at most, each the mean of a run of neighbours."""
    if len(values) <= MOST_POINTS:
        return values
    return np.stack([part.mean(axis=0) for part in np.array_split(values, MOST_POINTS)])
