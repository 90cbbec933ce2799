"""matfill masks: sample masks and show them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from matfill.config import MASK_GRAMMAR
from matfill.errors import MaskError
from matfill.files import make_folder


def masks(
    spec: Annotated[str, typer.Argument(help="One of the specifications above, or a mask image (white = missing).")],
    size: Annotated[str, typer.Option(help="Pixels, SIDE or WIDTHxHEIGHT; a mask image has its own.")] = "64",
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the random draws.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks and the sheet.")] = Path("masks"),
) -> None:
    import numpy as np

    from matfill.images import Photo, load_mask, load_photo, save_mask, save_photo
    from matfill.masks import parse
    from matfill.plots import mask_sheet

    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", size)
    if not match:
        raise typer.BadParameter(f"{size!r} is no size; write 64 or 178x218", param_hint="--size")
    width, height = int(match[1]), int(match[2] or match[1])
    if os.path.isfile(spec):
        if os.path.realpath(out) == os.path.dirname(os.path.realpath(spec)):
            raise MaskError(f"{spec} lies in {out} itself, where it or others might be replaced; choose another -o")
        photo = load_photo(spec)
        drawn = [load_mask(spec, photo.width, photo.height)]
    else:
        sampler = parse(spec)
        drawn = [sampler.sample(height, width, np.random.default_rng((seed, i))) for i in range(count)]
    make_folder(out)
    for i, missing in enumerate(drawn, start=1):
        save_mask(missing, out / f"mask_{i}.png")
    save_photo(Photo(np.asarray(mask_sheet(drawn))), out / "sheet.png")
    shares = [float(missing.mean()) for missing in drawn]
    print(
        f"{len(drawn)} masks and sheet.png in {out}: {np.mean(shares):.1%} missing on average, "
        f"{min(shares):.1%} to {max(shares):.1%}"
    )


# Not inside the function: a docstring cannot be an f-string.
masks.__doc__ = f"""Sample masks and show them: PNG files, white where missing, and a contact sheet.

    \b
    {MASK_GRAMMAR.replace(chr(10), chr(10) + "    ")}

    Example: matfill masks random3x20 --count 16 -o masks/
    """
