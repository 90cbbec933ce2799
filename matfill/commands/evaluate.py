"""matfill eval: score a data set."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from matfill.commands.options import Data, Device


def evaluate(
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder of images or of IDX, .npy or .npz files, one such file, or the name of a data set (see "
            "matfill data).",
            show_default="mnist with --quadrants",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A bundled name (see matfill info), a file, or a run folder.",
            show_default="quadrants with --quadrants",
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Holes, in pixels of the model's images: see matfill masks.", show_default="all, if unconditional"
        ),
    ] = None,
    quadrants: Annotated[
        int | None,
        typer.Option(min=1, max=3, help="Visible quadrants of MNIST's digits, instead of --mask.", show_default=False),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Which quadrants are visible: random (drawn for each image) or fixed (the same in all).",
            show_default="random",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=100_000, help="Importance samples k of each image; time grows with them.")
    ] = 50,
    count: Annotated[
        int | None, typer.Option("--images", min=1, help="How many images, drawn by --seed.", show_default="all")
    ] = None,
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Of images, holes, binarisation and noise.")] = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one here.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    data: Data = None,
) -> None:
    """Score a data set: upper bounds on the negative log-likelihood of what is missing.

    Prints mean and standard error over images, in nats per image, and bits per missing dimension, of the free energy
    (of one sample) and of the importance-weighted bound (of k). Runs under torchrun, too.

    Example: matfill eval --quadrants 2
    """
    if quadrants:
        if mask:
            raise typer.BadParameter("--quadrants says which mask; leave --mask out")
        if protocol not in (None, "random", "fixed"):
            raise typer.BadParameter(f"{protocol!r}: write random or fixed", param_hint="--protocol")
        images, weights = images or "mnist", weights or "quadrants"
        mask = f"quadrants{quadrants}{'fixed' if protocol == 'fixed' else ''}"
    elif protocol:
        raise typer.BadParameter("--protocol goes with --quadrants")
    if not (images and weights):
        raise typer.BadParameter("give DATA and --weights; or --quadrants")
    from rich.console import Console

    from matfill.display import progress_bar, show_scores
    from matfill.scoring import PUBLISHED, score_data

    first = os.environ.get("RANK", "0") == "0"
    with progress_bar(Console(stderr=True, quiet=not first)) as show:
        found = score_data(
            images,
            weights,
            mask,
            data=data,
            split=split,
            count=count,
            samples=samples,
            seed=seed,
            device=device,
            precision=precision,
            on_progress=show,
        )
    if not first:
        return
    if found["effective_samples"]["collapsed"]:
        print(
            f"note: in half of the images, one of the {samples} samples has nearly all of the weight. The bound holds, "
            "but with more samples it would fall further: report k with it",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps(found))
    else:
        known = [(one.name, one.protocol, one.samples, one.nats[quadrants - 1]) for one in PUBLISHED if quadrants]
        show_scores(found, known)
