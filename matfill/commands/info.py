"""matfill info: list weights, or show one."""

from __future__ import annotations

import json
from typing import Annotated

import typer


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
