"""matfill data: the data sets that have a name, and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer

from matfill.commands.options import Data


def data(
    name: Annotated[
        str | None, typer.Argument(help="The data set to fetch.", show_default="list all, and where they are")
    ] = None,
    data: Data = None,
) -> None:
    """Fetch a data set by name, or list those that can be fetched.

    Files are checked against their SHA-256. Stop it as you like: the next call goes on from there.

    Example: matfill data mnist --data ~/data
    """
    from rich.console import Console

    from matfill import datasets

    if name is None:
        from rich.table import Table

        table = Table("name", "images", "to fetch", "licence", "where it is", box=None)
        for dataset in datasets.CATALOGUE.values():
            size, here = f"{dataset.size / 2**20:.0f} MiB", datasets.find(dataset.name, data)
            table.add_row(dataset.name, dataset.images, size, dataset.licence, str(here or "not here yet"))
        Console(markup=False, highlight=False).print(table)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        tasks = {}

        def show(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=total)
            progress.update(tasks[file], completed=done)

        folder = datasets.download(name, data, show)
    dataset = datasets.get(name)
    print(f"{dataset.name} is in {folder}: {dataset.images}; licence {dataset.licence}, see {dataset.page}")
