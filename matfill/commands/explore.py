"""matfill explore: the paper's figure 3."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matfill.commands.options import Data, Device, Images, LatentSpread, Means, numbers
from matfill.errors import one_line


def explore(
    weights: Annotated[
        str, typer.Argument(help="A bundled name (see matfill info), a file, or a run folder.", show_default=False)
    ],
    images: Images,
    groups: Annotated[int, typer.Option(min=1, max=1000, help="Components shown, those with the most images.")] = 12,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images of each, the most certain ones.")] = 3,
    count: Annotated[
        int | None,
        typer.Option("--images", min=1, help="Test images to sort, drawn by --seed.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of images, binarisation and samples.")] = 0,
    temperature: LatentSpread = None,
    means: Means = False,
    device: Device = "auto",
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Image file for the sheet.")] = Path("explored.png"),
) -> None:
    """Show what the latents of an unconditional model decide, and the classes that it found without labels.

    Each group of columns is a component of the mixture prior over the first latents, z_0: on top, its most certain test
    images; below each, samples that keep its first k = 1, 2, 4 ... latents and draw the others. Where the data has
    labels, also says how well the components agree with them.

    Example: matfill explore runs/omniglot-gmm omniglot -o explored.png
    """
    import numpy as np
    from rich.console import Console

    from matfill import exploring, library
    from matfill.display import progress_bar
    from matfill.files import make_folder
    from matfill.formats import format_of
    from matfill.images import Photo, save_photo
    from matfill.plots import group_sheet

    format_of(out)
    model = library.load(weights, device)
    exploring.require_unconditional(model.model, weights)
    with progress_bar(Console(stderr=True)) as show:
        found = exploring.explore(
            model.model,
            model.card,
            images,
            temperature=model.temperatures(numbers(temperature, "--temperature") if temperature else None),
            data=data,
            count=count,
            groups=groups,
            columns=columns,
            seed=seed,
            means=means,
            on_progress=show,
        )
    captioned = [
        ("" if group.component is None else f"{group.component}: {group.members} images", group.columns)
        for group in found.groups
    ]
    names = ["test image", *(f"k = {k}" for k in found.kept)]
    make_folder(out.parent)
    save_photo(Photo(np.asarray(group_sheet(captioned, names))), out)
    if found.components < 2:
        print("the prior over z_0 is no mixture, so there are no groups: some test images, and samples below them")
    else:
        agree = "no labels to compare with"
        if found.purity is not None:
            agree = (
                f"with {found.classes} labels: purity {found.purity:.3f}, normalised mutual information "
                f"{found.information:.3f}"
            )
        print(f"{found.images} test images in {found.used} of {found.components} components; {agree}")
    print(one_line(out))
