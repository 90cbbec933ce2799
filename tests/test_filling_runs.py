"""matfill inpaint on many photos at once: shared among processes, and broken off."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matfill import checkpoint, cli
from matfill.config import TrainConfig
from tests.tiny import tiny_model

ROOT = Path(__file__).parent.parent


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    checkpoint.save_weights(path, tiny_model(), {"recipe": TrainConfig(updates=1).to_dict()}, torch.float16)
    return path


def photo(path: Path, width: int = 30, height: int = 20) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(path)


def run(arguments, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code or 0


def test_two_processes_share_the_files_and_report_once(weights, tmp_path, monkeypatch, capsys):
    """As under torchrun; this process is the first of the two."""
    (tmp_path / "in").mkdir()
    for i in range(5):
        photo(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "broken.png").write_text("no image")
    arguments = ["matfill", "inpaint", tmp_path / "in", "--mask", "random1x5", "--weights", weights, "--device", "cpu"]
    alone, both = ([*map(str, arguments), "-o", str(tmp_path / name)] for name in ("alone", "both"))
    both += ["--report", str(tmp_path / "report.json")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    second = subprocess.Popen(
        [sys.executable, "-m", *both],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **common, "RANK": "1", "LOCAL_RANK": "1"},
    )
    try:
        assert run(alone, monkeypatch) == 1
        capsys.readouterr()
        for name, value in {**common, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        assert run(both, monkeypatch) == 1
        said, error = second.communicate(timeout=60)
    finally:
        second.kill()
    assert (second.returncode, said) == (0, b""), error.decode()
    out, first_error = capsys.readouterr()
    assert "5 photos filled" in out and "1 failed" in out
    assert (first_error + error.decode()).count("not an image") == 1
    statuses = [entry["status"] for entry in json.loads((tmp_path / "report.json").read_text())["files"]]
    assert sorted(statuses) == ["failed", *["filled"] * 5]
    for i in range(5):
        assert (tmp_path / "both" / f"{i}.png").read_bytes() == (tmp_path / "alone" / f"{i}.png").read_bytes()


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="elsewhere a file has a temporary name while it is written")
def test_killed_in_the_middle_and_run_again_it_finishes_the_rest(weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for i in range(60):
        photo(tmp_path / "in" / f"{i:02}.png", 150, 100)
    arguments = ["matfill", "inpaint", tmp_path / "in", "--mask", "random1x5", "--weights", weights]
    arguments += ["--samples", 2, "-o", tmp_path / "out"]
    victim = subprocess.Popen([sys.executable, "-m", *map(str, arguments)], cwd=ROOT)
    try:
        for _ in range(6000):
            done = list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else []
            if len(done) >= 5 or victim.poll() is not None:
                break
            time.sleep(0.01)
    finally:
        victim.kill()
        victim.wait()
    assert 5 <= len(done) < 120
    for path in (tmp_path / "out").iterdir():  # hidden ones, too
        with Image.open(path) as image:
            image.load()
            assert path.suffix == ".png" and image.size == (150, 100)
    assert run(arguments, monkeypatch) == 0
    again = tmp_path / "again"
    assert run([*arguments[:-1], again], monkeypatch) == 0
    assert len(list(again.iterdir())) == 120
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
