"""matfill plot: the curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matfill.errors import one_line


def plot(
    run: Annotated[Path, typer.Argument(help="A run folder, of matfill train.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File with the extension .png or .svg; or, without one, the name of both.",
            show_default="RUN/curves",
        ),
    ] = None,
) -> None:
    """Draw the curves of a run, while it goes on or afterwards.

    Above, the bound on training and on held-out images; below, the rate of every module, stacked: light lines separate
    modules, dark ones levels, the coarsest at the bottom. In nats per image, against updates and minutes.

    Needs matplotlib: pip install 'matfill[plot]'

    Example: matfill plot runs/faces
    """
    from matfill import curves

    print(one_line(" and ".join(map(str, curves.plot(run, out)))))
