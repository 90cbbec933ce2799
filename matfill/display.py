"""What the command line shows of a run: a live table on a terminal, plain lines into a pipe."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Event = dict[str, Any]


class TrainingDisplay:
    """Renders the events of `training.run`; use as a context manager, call with each event."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self.task = self.bar.add_task("decoding", total=1.0)
        self.train: Event = {}
        self.heldout: Event = {}
        self.live = Live(console=console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> TrainingDisplay:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def __call__(self, event: Event) -> None:
        getattr(self, f"_on_{event['event']}")(event)

    def _on_decode(self, event: Event) -> None:
        self.bar.update(self.task, completed=event["done"] / event["total"])

    def _on_data(self, event: Event) -> None:
        if event["rebuilt"]:
            self._say("the folder or its settings changed: decoded again")
        counts = event["images"]
        self._say(f"{counts['train']} images to train on, {counts['val']} held out, {counts['test']} for tests")
        if unreadable := event["unreadable"]:
            self._say(f"{len(unreadable)} could not be read and are left out:")
            for name, reason in unreadable[:10]:
                self._say(f"  {name}: {reason}")
            if len(unreadable) > 10:
                self._say(f"  ... and {len(unreadable) - 10} more")

    def _on_start(self, event: Event) -> None:
        config = event["config"]
        length = f"{config.updates} updates" if config.updates else f"{config.minutes:g} minutes"
        where = f"from update {event['update']}, " if event["update"] else ""
        self._say(
            f"{event['parameters'] / 1e6:.2f} million parameters, {where}{length} in batches of {config.batch}, "
            f"{config.precision} on {event['device']}, seed {config.seed}"
        )
        self.bar.reset(self.task, description="training", total=1.0)

    def _on_notice(self, event: Event) -> None:
        self._say(event["text"])

    def _on_update(self, event: Event) -> None:
        self.bar.update(self.task, completed=event["done"], description=f"update {event['update']}")

    def _on_skip(self, event: Event) -> None:
        self._say(f"update {event['update']}: gradient norm {event['norm']:.3g}, skipped ({event['skipped']} so far)")

    def _on_log(self, event: Event) -> None:
        self.train = event
        if not self.console.is_terminal:
            speed = f"{event['images_per_second']:.1f} images/s"
            self._say(
                f"update {event['update']}  {event['minutes']:.1f} min  {speed}  train {_scores(event['train'])}"
                f"{self._left()}"
            )

    def _on_checkpoint(self, event: Event) -> None:
        self.heldout = event
        self._say(f"update {event['update']}  saved; held-out {_scores(event['heldout'])}")

    def _left(self) -> str:
        left = self.bar.tasks[0].time_remaining
        return "" if left is None else f"  {left / 60:.0f} min left"

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _render(self) -> Group:
        table = Table("", "bits/dim", "distortion, nats", "rate by level, coarse to fine, nats", box=None)
        rows = ("train", self.train, "train"), ("held-out, averaged weights", self.heldout, "heldout")
        for name, event, key in rows:
            if event:
                scores = event[key]
                table.add_row(name, f"{scores['bits_per_dim']:.3f}", f"{scores['distortion']:.0f}", _rates(scores))
        speed = f"{self.train['images_per_second']:.1f} images/s" if self.train else ""
        return Group(self.bar, speed, table)


def _rates(scores: Event) -> str:
    return "  +  ".join(" ".join(f"{rate:.1f}" for rate in stage) for stage in scores["rates"])


def _scores(scores: Event) -> str:
    return f"{scores['bits_per_dim']:.3f} bits/dim (distortion {scores['distortion']:.0f}, rates {_rates(scores)} nats)"


def show_cards(cards: dict[str, Event]) -> None:
    """One line per weights file."""
    table = Table("weights", "size", "images", "missing in training", "trained on", box=None)
    for name, card in cards.items():
        model, data = card["model"], card.get("data", {})
        shape = f"{model['image_size']}x{model['image_size']}x{model['image_channels']}"
        size = f"{card['file']['mebibytes']:.1f} MiB"
        table.add_row(name, size, shape, card["recipe"]["mask"], str(data.get("name", data.get("folder", ""))))
    Console().print(table if cards else "no weights are bundled")


def show_card(name: str, card: Event) -> None:
    """Everything a weights file says of itself."""
    table = Table(title=name, box=None, show_header=False, title_justify="left")
    for section, values in card.items():
        if not isinstance(values, dict):
            values = {"": values}
        for i, (key, value) in enumerate(values.items()):
            table.add_row(section if i == 0 else "", key, value if isinstance(value, str) else json.dumps(value))
    Console(soft_wrap=False).print(table, markup=False, highlight=False)
