"""Several processes started by torchrun that work as one, and requests to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist

from matfill.errors import MatfillError

PATIENCE = timedelta(days=30)  # for one another: decoding and scoring may take hours longer than torch waits by itself

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes where torchrun started this one; do nothing elsewhere."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def in_turns(build: Callable[[], T]) -> T:
    """`build()` in the first process, then in each machine's first, then in the others: a cache is built once each.

    A MatfillError in one of them is raised in all.
    """
    if not dist.is_initialized():
        return build()
    turn = 0 if dist.get_rank() == 0 else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
    errors: list[MatfillError | None] = [None] * dist.get_world_size()
    for current in range(3):
        error = None
        if current == turn:
            try:
                result = build()
            except MatfillError as found:
                error = found
        dist.all_gather_object(errors, error)
        for one in filter(None, errors):
            raise one
    return result


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def shared(items: Sequence[T]) -> Sequence[T]:
    """What of `items` is this process's to do; all of it where there is no other."""
    return items[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else items


def gatherer() -> Callable[[T], list[T]]:
    """A function that gives each process the values of all, and waits for them.

    To be made while the processes are still abreast.
    """
    if not dist.is_initialized():
        return lambda value: [value]
    group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def gather(value: T) -> list[T]:
        found: list[T] = [value] * dist.get_world_size()
        dist.all_gather_object(found, value, group=group)
        return found

    return gather


def agree(device: torch.device, *values: float) -> list[float]:
    """The largest of each value over all processes, so that all of them stop, and decay, at the same update."""
    if not dist.is_initialized():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Inside the block Ctrl-C and SIGTERM only ask for a stop: the function it yields says whether one did."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: asked.set()) for number in numbers]
    try:
        yield asked.is_set
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
