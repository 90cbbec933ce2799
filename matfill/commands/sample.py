"""matfill sample: draw from an unconditional model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matfill.commands.options import Device, LatentSpread, Means, Weights, numbers
from matfill.errors import one_line


def sample(
    weights: Weights = "mnist-fc",
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on it and on i alone.")] = 0,
    temperature: LatentSpread = None,
    means: Means = False,
    device: Device = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", help="Image file for the contact sheet.")] = Path("samples.png"),
) -> None:
    """Draw images from an unconditional model, onto one contact sheet.

    Example: matfill sample --weights mnist-fc --count 64 -o samples.png
    """
    import numpy as np
    from rich.console import Console

    from matfill import exploring, library
    from matfill.display import progress_bar
    from matfill.files import make_folder
    from matfill.formats import format_of
    from matfill.images import Photo, save_photo
    from matfill.plots import sample_sheet

    format_of(out)
    model = library.load(weights, device)
    exploring.require_unconditional(model.model, weights)
    spread = model.temperatures(numbers(temperature, "--temperature") if temperature else None)
    make_folder(out.parent)
    with progress_bar(Console(stderr=True)) as show:
        images = exploring.sample(model.model, count, seed=seed, temperature=spread, means=means, on_progress=show)
    save_photo(Photo(np.asarray(sample_sheet(images))), out)
    what = "images, means of their pixels" if means else "images"
    print(one_line(f"{count} {what}, seed {seed}, temperature {','.join(f'{t:g}' for t in spread)}: {out}"))
