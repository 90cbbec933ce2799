"""What the command line shows of a run: a live table on a terminal, plain lines into a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from matfill.errors import one_line

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
            speed_estimate_period=600,  # seconds: a pause to score and save must not look like a slower pace
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


class FillingDisplay:
    """One bar for all photos, on a terminal only; what went wrong in one line each. Both on standard error."""

    def __init__(self, total: int):
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("filling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=total < 2 or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, speed="")

    def __enter__(self) -> FillingDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        if event["error"]:
            self.console.print(f"error: {one_line(event['error'])}", highlight=False, soft_wrap=True, markup=False)
        if event["status"] == "skipped":
            task = self.bar.tasks[0]
            self.bar.update(self.task, total=(task.total or 0) - 1)
            return
        self.bar.advance(self.task)
        speed = self.bar.tasks[0].speed
        self.bar.update(self.task, speed=f"{speed:.2f} images/s" if speed else "")


def show_cards(cards: dict[str, Event]) -> None:
    """One line per weights file."""
    table = Table("weights", "size", "images", "looks at", "missing in training", "trained on", box=None)
    for name, card in cards.items():
        model, data = card["model"], card.get("data", {})
        shape = f"{model['image_size']}x{model['image_size']}x{model['image_channels']}"
        size = f"{card['file']['mebibytes']:.1f} MiB"
        sight = "windows" if data.get("fit") == "patches" else "the whole"
        source = str(data.get("name", data.get("folder", "")))
        table.add_row(name, size, shape, sight, card["recipe"]["mask"], source)
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


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work, on a terminal: what it yields takes (what, how much is done, of how much)."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


def show_scores(found: Event, known: Sequence[tuple[str, str | None, int | None, float]] = ()) -> None:
    """What `scoring.score_data` found; beside it what is known: (name, protocol, samples, nats per image)."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"{found['weights']} on {found['images']} images of {found['data']} ({found['split']}), {found['mask']}, "
        f"seed {found['seed']}, {found['precision']} on {found['device']}"
    )
    protocol = found["protocol"] or "-"
    columns = "upper bound", "protocol", "k", "images", "nats per image", "bits/dim"
    table = Table(*columns, box=None)
    for name, key, samples in (("free energy", "free_energy", 1), ("importance-weighted", "iwae_bound", None)):
        score = found[key]
        error = "" if score["se"] is None else f" ± {score['se']:.2f}"
        figures = f"{score['mean']:.2f}{error}", f"{score['bits_per_dim']:.4f}"
        table.add_row(name, protocol, str(samples or found["samples"]), str(found["images"]), *figures)
    for name, protocol, samples, nats in known:
        table.add_row(name, protocol or "-", str(samples or "-"), "", f"{nats:.2f}", "")
    console.print(table)
    effective = found["effective_samples"]
    console.print(
        f"distortion {found['distortion']:.2f}, rate by level, coarse to fine, {_rates(found)} nats per image\n"
        f"effective samples: median {effective['median']:.1f}, mean {effective['mean']:.1f} of {found['samples']}\n"
        f"{found['images_per_second']:.2f} images/s, {found['seconds']:.0f} s; an importance sample costs "
        f"{found['sample_cost']:.2f} of a full pass"
    )
