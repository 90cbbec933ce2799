"""The command line: parse, call one library function, show what came of it. Nothing here imports torch up front."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from matfill import __version__
from matfill.config import MASK_GRAMMAR
from matfill.errors import ImageError, MaskError, MatfillError

app = typer.Typer(
    name="matfill",
    help="Fill missing parts of images, several ways, with a deep hierarchical generative model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: a MatfillError becomes one line and exit code 1."""
    try:
        app()
    except MatfillError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun, once a machine
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"matfill {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


Folder = Annotated[
    Path,
    typer.Argument(help="Folder of images, with sub-folders; train/, val/, test/ are respected.", show_default=False),
]
Weights = Annotated[str, typer.Option(help="A bundled name (see matfill info), a file, or a run folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.command()
def train(
    folder: Folder,
    recipe: Annotated[
        str, typer.Option(help="Named model and settings; what is left out below, it decides.")
    ] = "faces",
    minutes: Annotated[float | None, typer.Option(help="Length of the run, minutes of training.")] = None,
    updates: Annotated[int | None, typer.Option(help="Length of the run in updates, instead of minutes.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per update, over all processes.")] = None,
    mask: Annotated[str | None, typer.Option(help="Holes to train on, see matfill masks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, holes and noise.")] = None,
    fit: Annotated[str, typer.Option(help="crop (largest centred square) or squeeze (whole frame).")] = "crop",
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one here.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/RECIPE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    init: Annotated[str | None, typer.Option(help="Weights to start from: a bundled name, file or run folder.")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's own modules, without our changes.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other training setting, NAME=VALUE (learning_rate=5e-4); repeatable."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where FOLDER is looked up too.", envvar="MATFILL_DATA", show_default=False)
    ] = None,
) -> None:
    """Fit a model to a folder of images.

    Example: matfill train celeba/ --minutes 360 --out runs/faces
    """
    if minutes is not None and updates is not None:
        raise typer.BadParameter("give --minutes or --updates, not both")
    from rich.console import Console

    from matfill import training
    from matfill.display import TrainingDisplay

    given = {
        "minutes": minutes,
        "updates": updates,
        "batch": batch,
        "mask": mask,
        "seed": seed,
        "precision": None if precision == "auto" else precision,
    }
    first = os.environ.get("RANK", "0") == "0"
    out = out or Path("runs") / recipe
    with TrainingDisplay(Console(quiet=not first)) as display:
        ended = training.run(
            _locate(folder, data),
            out,
            recipe=recipe,
            paper=paper,
            fit=fit,
            resume=resume,
            init=init,
            device=device,
            changes=_settings(settings or []) | {k: v for k, v in given.items() if v is not None},
            report=display,
        )
    if first:
        print(f"{ended}; weights and checkpoint in {out}" + ("" if ended == "finished" else "; go on with --resume"))


def _settings(pairs: list[str]) -> dict[str, object]:
    """NAME=VALUE as fields of TrainConfig; values are written as in JSON, and text that is none stands for itself."""
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


def _locate(folder: Path, data: Path | None) -> Path:
    return data / folder if data and not folder.exists() and (data / folder).exists() else folder


@app.command(
    help=f"""Sample masks and show them: PNG files, white where missing, and a contact sheet.

    \b
    {MASK_GRAMMAR.replace(chr(10), chr(10) + "    ")}

    Example: matfill masks random3x20 --count 16 -o masks/
    """
)
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
    if Path(spec).is_file():
        photo = load_photo(spec)
        drawn = [load_mask(spec, photo.width, photo.height)]
    else:
        sampler = parse(spec)
        drawn = [sampler.sample(height, width, np.random.default_rng((seed, i))) for i in range(count)]
    _make_folder(out)
    for i, missing in enumerate(drawn, start=1):
        save_mask(missing, out / f"mask_{i}.png")
    save_photo(Photo(np.asarray(mask_sheet(drawn))), out / "sheet.png")
    shares = [float(missing.mean()) for missing in drawn]
    print(
        f"{len(drawn)} masks and sheet.png in {out}: {np.mean(shares):.1%} missing on average, "
        f"{min(shares):.1%} to {max(shares):.1%}"
    )


@app.command()
def inpaint(
    photo: Annotated[Path, typer.Argument(help="The image to fill.", show_default=False)],
    mask: Annotated[
        str,
        typer.Option(
            help="What is missing: a mask image of the photo's size (white = missing), or a specification, in the "
            "photo's pixels (see matfill masks).",
            show_default=False,
        ),
    ],
    weights: Weights = "faces",
    samples: Annotated[int, typer.Option(min=1, help="How many fillings.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the fillings, and of a random mask.")] = 0,
    temperature: Annotated[
        str | None,
        typer.Option(
            help="Spread of the fillings: one number, or one per level from coarsest to finest (1,1,1,0.3).",
            show_default="the weights' own",
        ),
    ] = None,
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Black = missing in the mask image.")] = False,
    device: Device = "auto",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder; or a file to number: face.png gives face_1.png ... face_sheet.png."),
    ] = Path("filled"),
) -> None:
    """Fill what is missing in a photo, several ways, and draw a contact sheet.

    Example: matfill inpaint photo.png --mask random3x20 --samples 8 -o filled/
    """
    import time

    import numpy as np

    from matfill import inpainting, plots
    from matfill.checkpoint import load_weights
    from matfill.devices import pick_device
    from matfill.images import Photo, load_mask, load_photo, save_mask, save_photo
    from matfill.masks import parse

    image = load_photo(photo)
    if Path(mask).is_file():
        missing = load_mask(mask, image.width, image.height, invert=invert_mask)
    elif Path(mask).suffix:
        raise MaskError(f"there is no mask {mask}; check the path")
    else:
        missing = parse(mask).sample(image.height, image.width, np.random.default_rng(seed))
    model, card = load_weights(weights)
    model.to(pick_device(device))
    levels = len(model.config.levels)
    spread = inpainting.temperatures(_numbers(temperature) if temperature else card.get("temperature", 1.0), levels)
    start = time.perf_counter()
    filled = inpainting.inpaint(model, image, missing, samples=samples, seed=seed, temperature=spread)
    seconds = time.perf_counter() - start
    folder, stem, suffix = (out.parent, out.stem, out.suffix) if out.suffix else (out, photo.stem, ".png")
    _make_folder(folder)
    for i, sample in enumerate(filled.samples, start=1):
        save_photo(sample, folder / f"{stem}_{i}{suffix}")
    save_mask(missing, folder / f"{stem}_mask.png")
    shown, mean, *fillings = (
        np.rint(255 * one.view(3)).astype(np.uint8) for one in (image, filled.mean, *filled.samples)
    )
    sheet = plots.inpainting_sheet(shown, missing, fillings, mean, filled.std)
    save_photo(Photo(np.asarray(sheet)), folder / f"{stem}_sheet.png")
    numbers = "_1" if samples == 1 else f"_1 to _{samples}"
    print(
        f"{missing.mean():.1%} of {photo.name} filled in {seconds:.1f} s (seed {seed}, temperature "
        f"{','.join(f'{t:g}' for t in spread)}): {folder / stem}{numbers}{suffix}, _mask.png, _sheet.png"
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        message = f"{text!r}: write one number, or several with commas"
        raise typer.BadParameter(message, param_hint="--temperature") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the folder {folder}: {error.strerror}") from None


@app.command()
def info(
    weights: Annotated[
        str | None,
        typer.Argument(help="A bundled name, a file, or a run folder.", show_default="list the bundled ones"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the weights that come with matfill, or show one: configuration, data, training, scores.

    Example: matfill info faces
    """
    from matfill.checkpoint import bundled, describe

    cards = {weights: describe(weights)} if weights else {name: describe(name) for name in bundled()}
    if as_json:
        print(json.dumps(cards, indent=2))
        return
    from matfill.display import show_card, show_cards

    if weights:
        show_card(weights, cards[weights])
    else:
        show_cards(cards)
