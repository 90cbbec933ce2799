"""The command line: its commands, and one line for what went wrong. Nothing here imports torch up front."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from matfill import __version__
from matfill.commands.data import data
from matfill.commands.evaluate import evaluate
from matfill.commands.explore import explore
from matfill.commands.info import info
from matfill.commands.inpaint import inpaint
from matfill.commands.masks import masks
from matfill.commands.plot import plot
from matfill.commands.sample import sample
from matfill.commands.train import train
from matfill.errors import MatfillError, one_line

app = typer.Typer(
    name="matfill",
    help="Fill missing parts of images, several ways, with a deep hierarchical generative model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: a MatfillError becomes one line and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    try:
        app()
    except MatfillError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun, once a machine
            print(f"error: {one_line(error)}", file=sys.stderr)
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


for command in (train, plot, data, masks, inpaint, sample, explore, evaluate, info):  # in the order of the help
    app.command("eval" if command is evaluate else None)(command)
