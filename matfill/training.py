"""Runs: started, resumed, carried to their end on any number of processes, and leaving their mark in a folder.

It knows nothing of the terminal: progress goes to a callback and to `metrics.jsonl` in the run folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from matfill import recipes
from matfill.batches import TrainBatches, heldout, loader, mean_image
from matfill.checkpoint import METRICS_NAME, load_weights
from matfill.config import ModelConfig, TrainConfig
from matfill.data import open_data
from matfill.devices import fastest_precision, pick_device
from matfill.errors import ConfigError, DataError, MatfillError
from matfill.files import make_folder, write_atomic
from matfill.image_set import ImageSet
from matfill.model import MatNet, take_over
from matfill.objective import heldout_scores, summarise
from matfill.processes import agree, in_turns, process_group, stop_requests
from matfill.provenance import source_version
from matfill.trainer import CHECKPOINT_NAME, Trainer, load_checkpoint

LOG_SECONDS = 10.0
LENGTH = {"minutes", "updates"}  # fields of TrainConfig of which one is given
MODEL_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)}
TRAIN_FIELDS = {field.name for field in dataclasses.fields(TrainConfig)}  # no name is in both

Event = dict[str, Any]
Card = dict[str, Any]  #: what a weights file says of itself
Report = Callable[[Event], None]


# --- one run, from its arguments -------------------------------------------------------------------------------------


def run(
    source: Path,
    out: Path,
    *,
    recipe: str = "faces",
    paper: bool = False,
    resume: bool = False,
    init: str | None = None,
    device: str = "auto",
    changes: dict[str, Any] | None = None,
    report: Report = lambda event: None,
) -> str:
    """Train on the images of `source`; "finished", or "stopped" by Ctrl-C or SIGTERM, with a checkpoint saved.

    `changes` replace fields of the recipe's TrainConfig and ModelConfig, or, on `resume`, only the run's length; `init`
    names weights to start from, whose model takes the place of the recipe's. Under torchrun every process calls this;
    the first one writes. On several machines, `out` has to be a folder that all share for a run to be resumed.
    """
    if resume and (init or paper):
        raise ConfigError(f"{'--init' if init else '--paper'} begins a run, --resume goes on with one; give one")
    chosen, changes = pick_device(device), changes or {}
    with process_group(chosen):
        plan = resumed(out, changes) if resume else fresh(out, recipe, paper, init, changes, chosen)
        data = in_turns(lambda: training_images(source, out, plan, report))
        report({**data.summary(), "event": "data", "unreadable": data.unreadable, "rebuilt": data.rebuilt})
        trainer, card = plan.build(data, chosen)
        if card["data"]["fingerprint"] != data.fingerprint:
            report({"event": "notice", "text": "the images are not those that this run began with"})
        report(
            {
                "event": "start",
                "config": plan.config,
                "device": str(chosen),
                "update": trainer.progress.update,
                "parameters": sum(p.numel() for p in trainer.model.parameters()),
            }
        )
        return train(trainer, data, out, card | {"data": {"folder": source.name, **data.summary()}}, report)


@dataclass(frozen=True)
class Plan:
    """What a run is before its images are known; `build` makes its trainer, and the card of its weights, from them."""

    model: ModelConfig
    config: TrainConfig
    build: Callable[[ImageSet, torch.device], tuple[Trainer, Card]]


def fresh(out: Path, recipe: str, paper: bool, init: str | None, changes: dict[str, Any], device: torch.device) -> Plan:
    """A run of a recipe with changes, from random weights or those that `init` names."""
    if os.path.exists(out / CHECKPOINT_NAME):
        raise ConfigError(f"{out} already holds a run: add --resume to go on with it, or choose another --out")
    start, start_card = load_weights(init) if init else (None, {})
    model_config, config = new_config(recipe, paper, start and start.config, changes, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MatNet(model_config)
    if start:
        take_over(model, start)

    def build(data: ImageSet, device: torch.device) -> tuple[Trainer, Card]:
        data.require_unseen(start_card.get("data", {}))
        if not config.inference_only:  # else it is the generator's, trained on whatever that was trained on
            model.mean_image.copy_(mean_image(data.train))
        training = {"source": source_version(), "recipe": recipe, "paper": paper}
        if init:
            training["init"] = {"weights": init, "training": start_card.get("training")}
        return Trainer(model, config, device), {"data": data.summary(), "training": training}

    return Plan(model_config, config, build)


def resumed(out: Path, changes: dict[str, Any]) -> Plan:
    """The run in `out` where its checkpoint left it; only its length may change."""
    tensors, header = load_checkpoint(out)
    card = header["card"]
    model_config = ModelConfig.from_dict(header["model"])
    config = resumed_config(model_config, TrainConfig.from_dict(card["recipe"]), changes)

    def build(data: ImageSet, device: torch.device) -> tuple[Trainer, Card]:
        trainer = Trainer(MatNet(model_config), config, device)
        trainer.restore(tensors, header["state"])
        return trainer, card

    return Plan(model_config, config, build)


def new_config(
    recipe: str, paper: bool, init: ModelConfig | None, changes: dict[str, Any], device: torch.device
) -> tuple[ModelConfig, TrainConfig]:
    """What a fresh run is: the recipe, or its training and the model of `init`, with changes."""
    model, config = recipes.recipe(recipe)
    if init and paper:
        raise ConfigError("--paper has no say in a run with --init: the model is the one that the weights describe")
    model = init or (model.paper() if paper else model)
    if not changes.get("sees_warp", model.sees_warp):  # a recipe's warped images are for models that are told of it
        config = dataclasses.replace(config, warp=0.0)
    model, config = changed(model, config, {"precision": fastest_precision(device)} | changes)
    config.require_fit(model)
    if config.inference_only and model != init:
        raise ConfigError(
            "inference_only trains a model's inference stacks and leaves its generator as it is: name its weights with "
            "--init, and change none of its settings"
        )
    return model, config


def resumed_config(model: ModelConfig, saved: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The run's own configuration with its length changed; ConfigError where anything else would differ."""
    new_model, config = changed(model, saved, changes)
    for old, new in ((model, new_model), (saved, config)):
        for field in dataclasses.fields(old):
            before, after = getattr(old, field.name), getattr(new, field.name)
            if before != after and field.name not in LENGTH:
                raise ConfigError(
                    f"this run has {field.name} {before!r}, not {after!r}; a resumed run keeps its own settings, only "
                    "--minutes or --updates can change"
                )
    return config


def changed(model: ModelConfig, config: TrainConfig, changes: dict[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """Both with some fields replaced, whose names tell which they belong to; a new length, in minutes or updates,
    replaces the old one."""
    if unknown := sorted(changes.keys() - MODEL_FIELDS - TRAIN_FIELDS):
        known = f"of training: {', '.join(sorted(TRAIN_FIELDS))}; of the model: {', '.join(sorted(MODEL_FIELDS))}"
        raise ConfigError(f"there is no setting {unknown[0]!r}; there are, {known}")
    if LENGTH & changes.keys():
        changes = dict.fromkeys(LENGTH) | changes
    of_model, of_training = ({k: v for k, v in changes.items() if k in names} for names in (MODEL_FIELDS, TRAIN_FIELDS))
    return ModelConfig.from_dict(model.to_dict() | of_model), TrainConfig.from_dict(config.to_dict() | of_training)


def training_images(source: Path, out: Path, plan: Plan, report: Report) -> ImageSet:
    """The images as the plan's model takes them; those decoded from files are kept beside the run."""

    def progress(done: int, total: int) -> None:
        report({"event": "decode", "done": done, "total": total})

    data = open_data(
        source,
        size=plan.model.image_size,
        channels=plan.model.image_channels,
        fit=plan.config.fit,
        most_val=plan.config.most_val,
        cache=out / "cache",
        on_progress=progress,
    )
    if not len(data.train):
        raise DataError(f"{source} has no training images, only others; add some")
    return data


# --- the loop --------------------------------------------------------------------------------------------------------


class Journal:
    """What a run measures, one JSON object a line in metrics.jsonl, each with `update`; lines also go to `report`."""

    def __init__(self, folder: Path, trainer: Trainer, report: Report):
        self.path, self.trainer, self.report = folder / METRICS_NAME, trainer, report
        self.forget(trainer.progress.update)
        self.restart()

    def forget(self, update: int) -> None:
        """Drop what was measured after the checkpoint of `update` that the run goes on from."""
        try:
            lines = self.path.read_text().splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("}\n"))
            write_atomic(self.path, "".join(x for x in whole if json.loads(x)["update"] <= update).encode())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.failed(error) from None

    def restart(self) -> None:
        """Begin a new window of updates, now."""
        self.sums, self.images, self.since = 0, 0, time.monotonic()

    def add(self, sums: Tensor, images: int, norm: float) -> None:
        """Count one update of `images` images, of which the sums over this process's share are known."""
        self.sums, self.images, self.norm = self.sums + sums, self.images + images, norm
        if time.monotonic() - self.since >= LOG_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what the window holds, if anything, and begin the next."""
        if self.images:
            progress, seconds = self.trainer.progress, time.monotonic() - self.since
            self.write(
                "log",
                {
                    "images_per_second": self.images * self.trainer.world / seconds,
                    "norm": self.norm,
                    "skipped": progress.skipped,
                    "train": summarise(self.sums, self.images, self.trainer.model.config.levels),
                },
            )
        self.restart()

    def write(self, event: str, values: Event) -> None:
        progress = self.trainer.progress
        line = {"event": event, "update": progress.update, "minutes": round(progress.seconds / 60, 3), **values}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self.failed(error) from None
        self.report(line)

    def failed(self, error: OSError) -> MatfillError:
        return MatfillError(f"cannot write {self.path}: {error.strerror or error}; the last good checkpoint is kept")


def train(trainer: Trainer, data: ImageSet, folder: Path, card: Card, report: Report) -> str:
    """The loop: until the configured end, or until asked to stop; see `run` for what it returns.

    `report` gets {"event": "update" | "log" | "skip" | "checkpoint", ...}; log and checkpoint events also go to
    metrics.jsonl. Only the first process reports and writes.
    """
    config, progress = trainer.config, trainer.progress
    binary = trainer.model.config.output == "bernoulli"
    batches = TrainBatches(
        data.train,
        batch=config.batch,
        mask=config.mask,
        seed=config.seed,
        flip=config.flip,
        warp=config.warp,
        warp_share=config.warp_share,
        binary=binary,
        rank=trainer.rank,
        world=trainer.world,
    )
    held = heldout(data.val, config.holdout, config.mask, config.seed, binary=binary)
    in_turns(lambda: make_folder(folder))  # not before: a run that is refused leaves nothing behind
    journal = Journal(folder, trainer, report) if trainer.rank == 0 else None

    def checkpoint() -> None:
        journal.flush()
        scores = heldout_scores(trainer.ema.module, *held, seed=config.seed, precision=config.precision)
        trainer.save(folder, {**card, "validation": {**scores, "images": len(held[0])}})
        journal.write("checkpoint", {"heldout": scores})
        journal.restart()

    with stop_requests() as asked:
        stop = False
        last = saved = time.monotonic()
        for images, missing, warp in loader(batches, progress.update, trainer.device):
            if stop or trainer.share_done() >= 1:
                break
            skipped = progress.skipped
            sums, norm = trainer.step(images, missing, warp)
            now = time.monotonic()
            seconds = now - last if trainer.rank == 0 else 0.0  # of the others, some went into waiting for it to save
            progress.seconds, stop = agree(trainer.device, progress.seconds + seconds, float(asked()))
            last = now
            if journal is None:
                continue
            report({"event": "update", "update": progress.update, "done": trainer.share_done()})
            if progress.skipped > skipped:
                report({"event": "skip", "update": progress.update, "norm": norm, "skipped": progress.skipped})
            journal.add(sums, len(images), norm)
            if now - saved >= 60 * config.checkpoint_minutes:
                checkpoint()
                last = saved = time.monotonic()
        if journal is not None:
            checkpoint()
    if dist.is_initialized():
        dist.barrier()
    return "finished" if trainer.share_done() >= 1 else "stopped"
