"""matfill inpaint: fill what is missing in photos, several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matfill.commands.options import Device, Weights, numbers
from matfill.config import HOLE_GRAMMAR, MASK_GRAMMAR
from matfill.errors import one_line

Photos = Annotated[
    list[Path], typer.Argument(help="A photo, several, or folders of photos with sub-folders.", show_default=False)
]
Mask = Annotated[list[str], typer.Option(help="What is missing, as above; several are united.", show_default=False)]
Threshold = Annotated[
    int,
    typer.Option(
        min=1, max=255, help="The darkest grey, of 255, that is white in mask images; alpha below it is transparent."
    ),
]
Invert = Annotated[bool, typer.Option("--invert-mask", help="Black = missing in mask images.")]
Grow = Annotated[int, typer.Option(min=0, max=1000, help="Pixels by which the hole is made larger.")]
Feather = Annotated[
    int,
    typer.Option(
        min=0, max=1000, help="Pixels from the hole's edge inwards over which the filling replaces the photo."
    ),
]
Samples = Annotated[int, typer.Option(min=1, max=1000, help="How many fillings: NAME_1 ... NAME_N if more than one.")]
Seed = Annotated[
    int, typer.Option(min=0, help="Of the fillings, and of a random mask; of several photos, see --report.")
]
Temperature = Annotated[
    str | None,
    typer.Option(
        help="Spread of the fillings: one number, or one per level from coarsest to finest (1,1,1,0.3).",
        show_default="the weights' own",
    ),
]
Out = Annotated[
    str, typer.Option("--out", "-o", help="Folder; or, of one photo, the file, in the format of its extension.")
]
Quality = Annotated[
    int | None,
    typer.Option(
        min=1, max=100, help="Of JPEG, WebP, AVIF, HEIC.", show_default="a JPEG file's own; WebP lossless; else 95"
    ),
]
Best = Annotated[
    bool, typer.Option("--best", help="Keep the sample alone that is the most probable by the model, and say how much.")
]
Score = Annotated[
    bool,
    typer.Option("--score", help="Say how improbable is what is really there, where the hole is an artificial one."),
]
Mean = Annotated[bool, typer.Option("--mean", help="Write the mean of the samples, too: NAME_mean.")]
Uncertainty = Annotated[
    bool, typer.Option("--uncertainty", help="Write how much the samples differ, as a heat map: NAME_uncertainty.png.")
]
WriteMask = Annotated[bool, typer.Option("--write-mask", help="Write the hole as it was filled: NAME_mask.png.")]
Sheet = Annotated[bool, typer.Option("--sheet", help="Write a contact sheet of all of these: NAME_sheet.png.")]
Strip = Annotated[bool, typer.Option("--strip-metadata", help="Leave EXIF, GPS, XMP, IPTC and texts behind.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write anew what exists already, instead of skipping it.")]
ReportFile = Annotated[
    Path | None, typer.Option(help="JSON file to write: each photo's seed, hole, seconds, output.", show_default=False)
]


def inpaint(
    photos: Photos,
    mask: Mask,
    threshold: Threshold = 128,
    invert_mask: Invert = False,
    grow: Grow = 0,
    feather: Feather = 0,
    weights: Weights = "photos",
    samples: Samples = 1,
    seed: Seed = 0,
    temperature: Temperature = None,
    device: Device = "auto",
    out: Out = "filled",
    quality: Quality = None,
    best: Best = False,
    score: Score = False,
    mean: Mean = False,
    uncertainty: Uncertainty = False,
    write_mask: WriteMask = False,
    sheet: Sheet = False,
    strip_metadata: Strip = False,
    overwrite: Overwrite = False,
    report: ReportFile = None,
) -> None:
    import time
    from functools import partial

    from matfill import __version__, holes, library
    from matfill.display import FillingDisplay
    from matfill.filling_jobs import Report, run
    from matfill.filling_plan import Wanted, plan
    from matfill.processes import gatherer, is_first, process_group, shared

    for option, given in (("--best", best), ("--mean", mean), ("--uncertainty", uncertainty)):
        if given and samples < 2:
            raise typer.BadParameter("takes --samples 2 or more", param_hint=option)
    wanted = Wanted(1 if best else samples, mean, uncertainty, write_mask, sheet, quality, strip_metadata, overwrite)
    maker = holes.parse(mask, invert=invert_mask, threshold=threshold, grow=grow, feather=feather)
    jobs = plan(photos, out, seed, wanted, mask)
    model = library.load(weights, device)
    spread = model.temperatures(numbers(temperature, "--temperature") if temperature else None)
    head = {"matfill": __version__, "weights": weights, "temperature": spread, "samples": samples, "seed": seed}
    fill_all = partial(model.fill_all, samples=samples, temperature=spread, best=best, score=score)
    start = time.perf_counter()
    with process_group(model.device):
        gather, mine = gatherer(), shared(jobs)
        log = Report(report if is_first() else None, head)
        with FillingDisplay(len(mine) if is_first() else 0) as display:

            def on_done(entry: dict) -> None:
                log.add(entry)
                display(entry)

            try:
                run(mine, maker, fill_all, wanted, on_done)
            except BaseException:
                log.write()
                raise
        log.entries = [entry for entries in gather(log.entries) for entry in entries]
        if not is_first():
            return
    log.write(whole=True)
    _summarise(log.entries, jobs[0].path.name if len(jobs) == 1 else "", spread, out, time.perf_counter() - start)
    if any(entry["error"] for entry in log.entries):
        raise typer.Exit(1)


def _summarise(entries: list[dict], alone: str, spread: tuple[float, ...], out: str, seconds: float) -> None:
    """What was done, in one line; of a single photo that failed, all is said already."""
    drawn = f"temperature {','.join(f'{t:g}' for t in spread)}"
    counts = {status: sum(entry["status"] == status for entry in entries) for status in ("filled", "skipped", "failed")}
    if alone:
        (entry,) = entries
        paths = ", ".join(entry["output"])
        if entry["kept"]:
            paths += f" (there already: {', '.join(entry['kept'])})"
        if entry["status"] == "filled":
            took = f"{entry['hole']:.1%} of {alone} filled in {entry['seconds']:.1f} s"
            print(one_line(f"{took} (seed {entry['seed']}, {drawn}): {paths}{_scores([entry])}"))
        elif entry["status"] == "skipped":
            print(one_line(f"{paths}: there already; --overwrite writes it anew"))
        return
    speed = f", {counts['filled'] / seconds:.2f} images/s" if counts["filled"] else ""
    skipped = f", {counts['skipped']} were there already" if counts["skipped"] else ""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    scores = _scores([entry for entry in entries if entry["status"] == "filled"])
    print(one_line(f"{counts['filled']} photos filled ({drawn}){skipped}{failed}{speed}: {out}{scores}"))


def _scores(entries: list[dict]) -> str:
    """What --score and --best found, on average."""
    said = ""
    if real := [entry["bits_per_dim"] for entry in entries if entry["bits_per_dim"] is not None]:
        said += f"; what is really there: at most {sum(real) / len(real):.3f} bits/dim"
    if best := [entry["best"] for entry in entries if entry["best"]]:
        which = f"sample {best[0]['sample']}" if len(best) == 1 else "samples"
        said += f"; kept {which}: at most {sum(one['bits_per_dim'] for one in best) / len(best):.3f} bits/dim"
    return said


# Not inside the function: a docstring cannot be an f-string.
inpaint.__doc__ = f"""Fill what is missing in photos, several ways. Outside the hole, nothing changes.

    What is missing, --mask, is one of these, or several of them united:

    \b
    {(HOLE_GRAMMAR + MASK_GRAMMAR).replace(chr(10), chr(10) + "    ")}

    A photo comes out in its own format and depth, with its metadata, the right way up. Of several photos, each has a
    seed of its own, drawn from --seed and its name.

    Example: matfill inpaint photo.png --mask random3x20 --samples 8 --sheet -o filled/
    """
