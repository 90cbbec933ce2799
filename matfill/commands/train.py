"""matfill train: fit a model to images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from matfill.commands.options import Data, Device, Images


def train(
    images: Images,
    recipe: Annotated[
        str, typer.Option(help="Named model and settings; what is left out below, it decides.")
    ] = "faces",
    minutes: Annotated[float | None, typer.Option(help="Length of the run, minutes of training.")] = None,
    updates: Annotated[int | None, typer.Option(help="Length of the run in updates, instead of minutes.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per update, over all processes.")] = None,
    mask: Annotated[str | None, typer.Option(help="Holes to train on, see matfill masks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, holes and noise.")] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="crop (largest centred square), squeeze (whole frame) or patches (many, at all scales)."),
    ] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one here.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/RECIPE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    init: Annotated[str | None, typer.Option(help="Weights to start from: a bundled name, file or run folder.")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's own modules, without our changes.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting of training or model, NAME=VALUE (learning_rate=5e-4); repeatable."
        ),
    ] = None,
    data: Data = None,
) -> None:
    """Fit a model to images.

    Example: matfill train celeba/ --minutes 360 --out runs/faces
    """
    if minutes is not None and updates is not None:
        raise typer.BadParameter("give --minutes or --updates, not both")
    from rich.console import Console

    from matfill import training
    from matfill.datasets import locate
    from matfill.display import TrainingDisplay

    given = {
        "minutes": minutes,
        "updates": updates,
        "batch": batch,
        "mask": mask,
        "seed": seed,
        "fit": fit,
        "precision": None if precision == "auto" else precision,
    }
    first = os.environ.get("RANK", "0") == "0"
    out = out or Path("runs") / recipe
    with TrainingDisplay(Console(quiet=not first)) as display:
        ended = training.run(
            locate(images, data),
            out,
            recipe=recipe,
            paper=paper,
            resume=resume,
            init=init,
            device=device,
            changes=_settings(settings or []) | {k: v for k, v in given.items() if v is not None},
            report=display,
        )
    if first:
        print(f"{ended}; weights and checkpoint in {out}" + ("" if ended == "finished" else "; go on with --resume"))


def _settings(pairs: list[str]) -> dict[str, object]:
    """NAME=VALUE as fields of TrainConfig or ModelConfig; values as in JSON, text that is none stands for itself."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r}: write NAME=VALUE", param_hint="--set")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
