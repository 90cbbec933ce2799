"""What commands share: the types of their options, and what they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Images = Annotated[
    str,
    typer.Argument(
        help="A folder of images (train/, val/, test/ are respected) or of IDX, .npy or .npz files, one such file, or "
        "the name of a data set (see matfill data).",
        show_default=False,
    ),
]
Weights = Annotated[str, typer.Option(help="A bundled name (see matfill info), a file, or a run folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of data sets, by name; without, or where it has none of that name: the user's cache.",
        envvar="MATFILL_DATA",
        show_default=False,
    ),
]
LatentSpread = Annotated[
    str | None,
    typer.Option(
        "--temperature",
        help="Spread of the latents that are drawn: one number, or one per level from coarsest to finest (1,1,0.5).",
        show_default="the weights' own",
    ),
]
Means = Annotated[bool, typer.Option("--means", help="Show the means of the pixels, instead of drawing them.")]


def numbers(text: str, option: str) -> list[float]:
    """The value of an option: one number, or several with commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        message = f"{text!r}: write one number, or several with commas"
        raise typer.BadParameter(message, param_hint=option) from None
