"""Devices by name, and what cannot be had."""

import pytest
import torch

from matfill.devices import fastest_precision, pick_device
from matfill.errors import ConfigError


def test_each_process_of_a_machine_has_a_gpu_of_its_own_or_none_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="finds 2 GPUs"):
        pick_device("auto")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_precision_is_found():
    assert fastest_precision(torch.device("cpu")) in ("float32", "bfloat16")
