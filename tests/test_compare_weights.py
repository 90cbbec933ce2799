"""benchmarks/compare_weights.py."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model

from matfill.checkpoint import save_weights

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # they are programs, and import each other as such

compare = importlib.import_module("compare_weights")


@pytest.fixture
def digits(tmp_path) -> Path:
    """A folder of 40 binary images, uint8 (40, 8, 8), ten of them to validate on."""
    images = np.random.default_rng(0).integers(0, 2, (40, 8, 8), dtype=np.uint8) * 255
    folder = tmp_path / "digits"
    folder.mkdir()
    np.save(folder / "train.npy", images[:30])
    np.save(folder / "val.npy", images[30:])
    return folder


def saved(path: Path, **settings) -> str:
    model = tiny_model(conditional=False, image_channels=1, **settings)
    save_weights(path, model, {"data": {"fit": "crop"}}, torch.float32)
    return str(path)


def test_the_difference_is_taken_image_by_image():
    base = torch.tensor([10.0, 20, 60], dtype=torch.float64)
    assert compare.difference(base - 1, base) == "-1.000 ± 0.000"
    changes = torch.tensor([0.0, 1, 2], dtype=torch.float64)
    assert compare.difference(base + changes, base) == "+1.000 ± 0.577"


def test_weights_differ_from_others_but_not_from_themselves(digits, tmp_path, capsys):
    one = saved(tmp_path / "one.safetensors", output="bernoulli")
    two = saved(tmp_path / "two.safetensors", output="bernoulli", seed=1)
    assert compare.main([str(digits), one, one, two, "--samples", "3", "--precision", "float32"]) == 0
    shown = capsys.readouterr().out
    first, same, other = (re.split(r" *\| *", line)[1:-1] for line in shown.splitlines()[-3:])
    assert "10 val images" in shown
    assert first[2::2] == ["", ""]
    assert same[1::2] == first[1::2]
    assert same[2::2] == ["+0.000 ± 0.000"] * 2
    for before, after, change in zip(first[1::2], other[1::2], other[2::2], strict=True):
        assert float(change.split()[0]) == pytest.approx(float(after) - float(before), abs=0.011)
        assert float(change.split()[-1]) > 0


def test_other_outputs_are_not_compared(digits, tmp_path, capsys):
    one = saved(tmp_path / "one.safetensors", output="bernoulli")
    two = saved(tmp_path / "two.safetensors", output="gaussian")
    assert compare.main([str(digits), one, two]) == 1
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith(f"error: {two} scores gaussian images of 1 x 8 x 8, {one} bernoulli ")


def test_one_image_is_too_few(digits, capsys):
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(digits), "mnist-fc", "--images", "1"])
    assert "--images is 1; a standard error takes two or more" in capsys.readouterr().err
