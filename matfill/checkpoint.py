"""Weights files and training checkpoints: safetensors with JSON in the file's own metadata. Nothing is unpickled.

A weights file describes itself: its card (configuration, recipe, data, training, scores, default temperature) is all
that loading needs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import matfill
from matfill.config import ModelConfig
from matfill.errors import ConfigError, WeightsError
from matfill.files import write_atomic
from matfill.model import MatNet

SUFFIX = ".safetensors"
WEIGHTS_NAME = f"weights{SUFFIX}"  # in a run folder
METRICS_NAME = "metrics.jsonl"  # likewise
FORMAT = "matfill weights 1"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able card to `path`, all or nothing; WeightsError where the disk will not have it."""
    blob = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {"matfill": json.dumps(card)})
    try:
        write_atomic(path, blob)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"cannot write {path}: {reason}; what was there before is untouched") from None


def load_tensors(path: Path, *, card_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and card of a file that `save_tensors` wrote; WeightsError for anything else."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {} if card_only else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card = json.loads(metadata["matfill"])
        if not isinstance(card, dict):
            raise ValueError("its card is no JSON object")
    except FileNotFoundError:
        raise WeightsError(f"no such file: {path}") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = "it carries no matfill card" if isinstance(error, KeyError) else error
        raise WeightsError(f"{path} is not a matfill weights file: {reason}") from None
    return tensors, card


def save_weights(path: Path, model: MatNet, card: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write a model as a weights file; `card` says how it came to be, the model's configuration is added here."""
    tensors = {name: t.to(dtype) for name, t in model.state_dict().items()}
    save_tensors(path, tensors, {"format": FORMAT, **card, "model": model.config.to_dict()})


def load_weights(weights: str | os.PathLike[str]) -> tuple[MatNet, dict[str, Any]]:
    """The model (float32, on the CPU, in eval mode) and the card of a bundled name, a file, or a run folder."""
    path = find(weights)
    tensors, card = load_tensors(path)
    _require_format(path, card)
    try:
        with torch.device("meta"):  # shapes only: neither time nor random numbers go into initial weights
            model = MatNet(ModelConfig.from_dict(card.get("model")))
    except ConfigError as error:
        raise WeightsError(f"{path} needs another version of matfill: {error}") from None
    expected = model.state_dict()
    if wrong := sorted(set(expected) ^ set(tensors)):
        raise WeightsError(f"{path} does not hold the model its card describes: {wrong[0]} is missing or unknown")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or not tensor.isfinite().all():
            raise WeightsError(f"{path} does not hold the model its card describes: {name} has a wrong shape or value")
    model.load_state_dict({name: t.to(torch.float32, copy=True) for name, t in tensors.items()}, assign=True)
    return model.eval(), card


def _require_format(path: Path, card: Mapping[str, Any]) -> None:
    if card.get("format") != FORMAT:
        raise WeightsError(f"{path} says its format is {card.get('format')!r}; this version reads {FORMAT!r}")


def describe(weights: str | os.PathLike[str]) -> dict[str, Any]:
    """The card, with the file's size in MiB and its number of parameters; no tensor is read."""
    path = find(weights)
    card = load_tensors(path, card_only=True)[1]
    _require_format(path, card)
    with safe_open(os.fspath(path), framework="pt") as file:
        values = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    size = round(path.stat().st_size / 2**20, 2)
    return {**card, "file": {"path": os.fspath(path), "mebibytes": size, "parameters": values}}


def bundled() -> dict[str, Path]:
    """Names and files of the weights that come with matfill: in the installed package, or beside it in a checkout."""
    package = Path(matfill.__file__).parent
    for folder in (package / "weights", package.parent / "weights"):
        if files := sorted(folder.glob(f"*{SUFFIX}")):
            return {file.stem: file for file in files}
    return {}


def find(weights: str | os.PathLike[str]) -> Path:
    """The file behind a bundled name, a path, or a run folder; WeightsError that lists the names otherwise."""
    path, names = Path(weights), bundled()
    if str(weights) in names:
        return names[str(weights)]
    with contextlib.suppress(OSError):  # a name too long for the system, a folder it keeps closed
        if path.is_dir():
            path = path / WEIGHTS_NAME
        if path.is_file():
            return path
    raise WeightsError(f"no weights {str(weights)!r}: neither a file nor a bundled name ({', '.join(names) or 'none'})")
