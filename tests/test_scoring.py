import json
import math
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matfill import bounds, checkpoint, cli, data, scoring
from matfill.config import Level, ModelConfig
from matfill.errors import ConfigError, DataError, MaskError, MatfillError, WeightsError
from matfill.model import MatNet
from matfill.scoring import BLOCK, MOST_SAMPLES, Scores, block_noise, protocol_of, score, score_data
from tests.test_bounds import Exact
from tests.tiny import holes, images, tiny_model


def eight_bit(count: int, channels: int = 3, *, binary: bool = False) -> torch.Tensor:
    return (255 * images(count, channels, binary=binary)).round().byte()


@pytest.fixture(scope="module")
def photos() -> tuple[torch.Tensor, torch.Tensor]:
    """Two blocks and a half."""
    return eight_bit(5 * BLOCK // 2), holes(5 * BLOCK // 2)


# --- what the figures are --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    """A model whose likelihood is known, many copies of an image for it, and its exact -log p."""
    model = Exact()
    copies = (255 * model.x).byte().expand(1500, -1, -1, -1), model.missing.expand(1500, -1, -1, -1)
    return model.model, copies, -model.log_likelihood(model.x)


def test_scores_fall_with_k_to_the_exact_value(exact):
    model, copies, truth = exact
    means, errors = [], []
    for k in (1, 3, 20, 150):
        scores = score(model, *copies, samples=k, seed=k, batch=1536)
        found = scores.summary()["iwae_bound"]
        means.append(found["mean"])
        errors.append(found["se"])
        assert found["mean"] > truth - 4 * found["se"]
        assert found["se"] == pytest.approx(float(scores.iwae_bound.std()) / math.sqrt(1500))
    assert means == sorted(means, reverse=True)
    assert means[0] > truth + 0.1
    assert means[-1] == pytest.approx(truth, abs=max(0.01, 4 * errors[-1]))


def test_with_one_sample_the_bound_averages_to_the_free_energy(exact):
    model, copies, truth = exact
    scores = score(model, *copies, samples=1, seed=7, batch=1536)
    difference = scores.iwae_bound - scores.free_energy
    assert difference.std() > 0.01
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(1500)
    assert scores.free_energy.mean() > truth


def test_the_free_energy_is_of_the_first_sample_whatever_k_is(exact):
    model, copies, _ = exact
    one, many = (score(model, *copies, samples=k, seed=0, batch=1536) for k in (1, 5))
    assert torch.equal(one.free_energy, many.free_energy)
    assert all(torch.equal(one.rates[key], many.rates[key]) for key in one.rates)
    assert (one.iwae_bound != many.iwae_bound).all()


def test_scores_are_the_bounds_of_traces(photos):
    model, (x, missing) = tiny_model(), (part[:BLOCK] for part in photos)
    scores = score(model, x, missing, samples=3, seed=5)
    noise = block_noise(5, [0], missing, 3)
    with torch.no_grad():
        traces = [model(x.float() / 255, missing, noise) for _ in range(3)]
    torch.testing.assert_close(scores.free_energy, bounds.free_energy(traces[0]).double())
    torch.testing.assert_close(scores.iwae_bound, bounds.iwae_bound(traces).double())
    assert torch.equal(scores.dims, bounds.missing_dims(traces[0]))
    assert list(scores.rates) == list(bounds.rates(traces[0]))
    for key, wanted in bounds.rates(traces[0]).items():
        torch.testing.assert_close(scores.rates[key], wanted.double())
    found = scores.summary()
    assert [len(stage) for stage in found["rates"]] == [3, 3]
    assert found["rates"][1][2] == pytest.approx(float(scores.rates[1, 2].mean()))
    assert found["distortion"] + sum(map(sum, found["rates"])) == pytest.approx(found["free_energy"]["mean"])


def test_effective_samples_of_known_weights():
    rows = [[1.0, 5.0, 1.0], [1.0, 1e-30, 2.0], [1.0, 1e-30, 3.0], [1.0, 1e-30, 0.0]]
    weights = torch.tensor(rows, dtype=torch.float64)
    found = bounds.ImportanceWeights()
    for row in weights:
        found.add(row.log() - 2000)  # far below what exp could bear
    wanted = weights.sum(0) ** 2 / weights.square().sum(0)
    assert wanted[:2].tolist() == pytest.approx([4, 1])
    torch.testing.assert_close(found.effective_samples(), wanted)
    torch.testing.assert_close(found.bound(), 2000 - weights.mean(0).log())


def scores_of(free_energy: list[float], dims: list[int], effective: float = 1.0, samples: int = 50) -> Scores:
    nats = torch.tensor(free_energy, dtype=torch.float64)
    return Scores(
        free_energy=nats,
        iwae_bound=nats - 1,
        effective_samples=torch.full_like(nats, effective),
        rates={(0, 0): nats / 4, (0, 1): nats / 2},
        dims=torch.tensor(dims),
        samples=samples,
        seconds=2.0,
        sample_cost=0.5,
    )


def test_means_errors_and_bits():
    found = scores_of([10.0, 20.0, 60.0], [5, 10, 15]).summary()
    assert found["free_energy"]["mean"] == pytest.approx(30)
    assert found["free_energy"]["se"] == pytest.approx(math.sqrt((400 + 100 + 900) / 2 / 3))
    assert found["free_energy"]["bits_per_dim"] == pytest.approx(90 / 30 / math.log(2))
    assert found["iwae_bound"]["mean"] == pytest.approx(29)
    assert found["rates"] == [[pytest.approx(7.5), pytest.approx(15)]]
    assert found["distortion"] == pytest.approx(7.5)
    assert (found["images"], found["samples"], found["images_per_second"]) == (3, 50, 1.5)
    assert scores_of([10.0], [5]).summary()["free_energy"]["se"] is None


@pytest.mark.parametrize(
    ("effective", "samples", "collapsed"), [(1.2, 50, True), (2.5, 50, False), (1.2, 10, True), (1.2, 9, False)]
)
def test_a_collapse_is_told(effective, samples, collapsed):
    assert scores_of([1.0, 2.0], [1, 1], effective, samples).collapsed == collapsed


def test_effective_samples_tell_a_good_posterior_from_a_bad_one(exact):
    model, copies, _ = exact
    good = score(model, *copies, samples=30, seed=0, batch=1536).effective_samples
    assert (good >= 1).all() and (good <= 30).all()
    assert good.median() > 5
    bad = tiny_model(stages=1)
    with torch.no_grad():
        for level, merges in zip(bad.config.levels, bad.stages[0].inference.merges, strict=True):
            merges[0].head.conv.bias[: level.latents] += 3
    scores = score(bad, eight_bit(8), holes(8), samples=30, seed=0)
    assert 1 <= scores.effective_samples.median() < 2
    assert scores.collapsed


# --- what they do not depend on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "logistic", "mixtures": 2},
        {"output": "bernoulli", "stages": 1, "autoregression": 2, "autoregression_channels": 4},
        {"output": "gaussian"},
    ],
    ids=lambda changes: changes["output"],
)
def test_scores_do_not_depend_on_the_batch_nor_on_later_images(photos, changes):
    model = tiny_model(**changes)
    x, missing = photos
    if changes["output"] == "bernoulli":
        x = eight_bit(len(x), binary=True)
    whole = score(model, x, missing, samples=2, seed=3)
    for other in (
        score(model, x, missing, samples=2, seed=3, batch=2 * BLOCK),
        score(model, x[:100], missing[:100], samples=2, seed=3, batch=1),
    ):
        count = len(other.dims)
        torch.testing.assert_close(other.free_energy, whole.free_energy[:count], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(other.iwae_bound, whole.iwae_bound[:count], rtol=1e-4, atol=1e-3)
    another = score(model, x, missing, samples=2, seed=4)
    assert (another.iwae_bound != whole.iwae_bound).all()


def test_an_unconditional_model_is_scored_where_all_is_missing():
    model = tiny_model(conditional=False, stages=1, merge_to_top_down=False, prior_components=3)
    x, missing = eight_bit(10), torch.ones(10, 1, 8, 8, dtype=torch.bool)
    scores = score(model, x, missing, samples=3, seed=0)
    assert scores.dims.tolist() == [3 * 64] * 10
    assert list(scores.rates) == [(0, 0), (0, 1), (0, 2)]
    with pytest.raises(MaskError, match="unconditional"):
        score(model, x, holes(10), samples=1, seed=0)


def test_noise_is_normal_and_each_images_own():
    missing = holes(2 * BLOCK)
    noise = block_noise(0, [3, 4], missing, 3)
    first, second = noise((2 * BLOCK, 5, 4, 4)), noise((2 * BLOCK, 5, 4, 4))
    rows = torch.cat([first, second]).flatten(1)
    assert abs(float(rows.mean())) < 0.03 and float(rows.std()) == pytest.approx(1, abs=0.03)
    assert (torch.corrcoef(rows).triu(1).abs() < 0.6).all()
    pixels = noise((int(missing.sum()), 3))
    assert pixels.shape == (missing.sum(), 3)
    alone = block_noise(0, [4], missing[BLOCK:-9], 3)
    assert torch.equal(alone((BLOCK - 9, 5, 4, 4)), first[BLOCK:-9])
    assert torch.equal(alone((BLOCK - 9, 5, 4, 4)), second[BLOCK:-9])
    theirs = missing[BLOCK:-9].sum()
    start = missing[:BLOCK].sum()
    assert torch.equal(alone((int(theirs), 3)), pixels[start : start + theirs])


@pytest.mark.parametrize(("size", "together"), [(1, 1024), (4, 1024), (8, 256), (16, BLOCK), (64, BLOCK)])
def test_a_pass_on_the_cpu_takes_more_images_where_maps_are_small(size, together, monkeypatch):
    levels = (Level(size=size, channels=4, latents=1),)
    model = MatNet(ModelConfig(image_size=size, image_channels=1, levels=levels, stages=1)).eval()
    seen, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda x, *rest, **options: seen.append(len(x)) or encode(x, *rest, **options))
    images = torch.zeros(together + 1, 1, size, size, dtype=torch.uint8)
    score(model, images, torch.ones_like(images, dtype=torch.bool), samples=1, seed=0)
    assert seen == [together, 1]


def test_an_image_is_encoded_once_and_no_sample_is_kept(photos, monkeypatch):
    model, traces, encoded, alive = tiny_model(), [], [], []
    encode, decode = model.encode, model.decode

    def counting(*arguments, **options):
        alive.append(sum(trace() is not None for trace in traces))
        traces.append(weakref.ref(trace := decode(*arguments, **options)))
        return trace

    monkeypatch.setattr(
        model, "encode", lambda x, *rest, **options: encoded.append(len(x)) or encode(x, *rest, **options)
    )
    monkeypatch.setattr(model, "decode", counting)
    seen = []
    scores = score(model, *photos, samples=4, seed=0, batch=BLOCK, on_progress=lambda *counts: seen.append(counts))
    assert encoded == [BLOCK, BLOCK, BLOCK // 2]
    assert len(traces) == 3 * 4
    assert max(alive) <= 1
    assert seen[0] == (BLOCK, 10 * BLOCK)
    assert seen[-1] == (10 * BLOCK, 10 * BLOCK)
    assert 0 < scores.sample_cost < 1
    assert scores.summary()["images_per_second"] > 0


def test_bfloat16_is_close(photos):
    model = tiny_model()
    long, short = (score(model, *photos, samples=1, seed=0, precision=name) for name in ("float32", "bfloat16"))
    assert (long.free_energy != short.free_energy).any()
    assert float(short.free_energy.mean()) == pytest.approx(float(long.free_energy.mean()), rel=0.02)


# --- data sets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    checkpoint.save_weights(path, tiny_model(), {"data": {"fit": "squeeze", "seed": 5}}, torch.float32)
    return path


@pytest.fixture
def arrays(tmp_path) -> Path:
    draw = np.random.default_rng(0)
    path = tmp_path / "sets"
    path.mkdir()
    for name, count in (("train", 150), ("test", 12)):
        np.save(path / f"{name}.npy", draw.integers(0, 256, (count, 8, 8, 3), np.uint8))
    return path


def run(source, weights, mask="random2x3", **options):
    return score_data(source, weights, mask, **{"samples": 2, "device": "cpu", "precision": "float32", **options})


def test_a_split_or_all_of_them_or_some_are_scored(arrays, weights):
    assert [run(arrays, weights, split=split)["images"] for split in ("test", "val", "train", "all")] == [
        12,
        15,
        135,
        162,
    ]
    found = run(arrays, weights, count=5)
    assert (found["images"], found["split"], found["samples"], found["precision"]) == (5, "test", 2, "float32")
    assert run(arrays, weights, count=5, seed=1)["free_energy"] != found["free_energy"]
    assert run(arrays, weights, count=5)["free_energy"] == found["free_energy"]
    assert run("sets", weights, data=arrays.parent)["images"] == 12


def test_binary_models_see_binary_images(arrays, tmp_path, monkeypatch):
    path = tmp_path / "binary.safetensors"
    checkpoint.save_weights(path, tiny_model(output="bernoulli"), {}, torch.float32)
    seen = []
    original = score
    monkeypatch.setattr(
        scoring, "score", lambda model, x, *rest, **options: seen.append(x) or original(model, x, *rest, **options)
    )
    run(arrays, path)
    assert set(seen[0].unique().tolist()) == {0, 255}


def test_a_folder_is_fitted_as_the_training_data_were_and_leaves_nothing_behind(weights, tmp_path, monkeypatch):
    folder, temporary = tmp_path / "photos", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for i in range(6):
        Image.new("RGB", (20, 10), (40 * i, 100, 0)).save(folder / f"{i}.png")
    asked = []
    original = data.open_data
    monkeypatch.setattr(data, "open_data", lambda *a, **options: asked.append(options) or original(*a, **options))
    steps = []
    found = run(folder, weights, split="all", on_progress=lambda *counts: steps.append(counts))
    assert (asked[0]["fit"], asked[0]["seed"]) == ("squeeze", 5)
    assert found["images"] == 6
    assert steps[0] == ("decoding", 1, 6)
    assert steps[-1] == ("scoring", 12, 12)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"count": 13}, DataError, "has 12 test images"),
        ({"count": 0}, DataError, "ask for 1"),
        ({"samples": 0}, ConfigError, "allowed: 1 to 100000"),
        ({"samples": MOST_SAMPLES + 1}, ConfigError, "allowed: 1 to 100000"),
        ({"split": "tset"}, ConfigError, "allowed: test, val, train, all"),
        ({"precision": "float8"}, ConfigError, "allowed: auto, float32, bfloat16"),
        ({"device": "abacus"}, ConfigError, "abacus"),
        ({"mask": "center9"}, MaskError, "9x9"),
        ({"mask": "nope"}, MaskError, "nope"),
        ({"weights": "nowhere"}, WeightsError, "nowhere"),
        ({"source": "nowhere"}, DataError, "nowhere"),
    ],
)
def test_what_cannot_be_scored_is_said(arrays, weights, options, error, says):
    with pytest.raises(error, match=says) as caught:
        run(**{"source": arrays, "weights": weights, **options})
    assert "\n" not in str(caught.value)


def test_images_that_the_model_does_not_take_are_refused(weights, tmp_path):
    for shape, says in (((9, 8, 8), "grey"), ((9, 10, 10, 3), "10x10")):
        np.save(tmp_path / "test.npy", np.zeros(shape, np.uint8))
        with pytest.raises(DataError, match=says):
            run(tmp_path / "test.npy", weights)


def test_a_split_without_images_is_refused(arrays, weights):
    (arrays / "test.npy").unlink()
    with pytest.raises(DataError, match=r"no test images; choose another split: val \(15\), train \(135\)"):
        run(arrays, weights)


def test_nothing_missing_and_broken_weights_are_refused(photos):
    with pytest.raises(MaskError):
        score(tiny_model(), photos[0], torch.zeros_like(photos[1]), samples=1, seed=0)
    broken = tiny_model()
    broken.mean_image.fill_(0.5)
    with torch.no_grad():
        next(broken.stages[0].output.parameters()).fill_(math.nan)
    with pytest.raises(MatfillError, match="64 of 64 scores are not finite"):
        score(broken, photos[0][:BLOCK], photos[1][:BLOCK], samples=1, seed=0)


def test_protocols():
    assert [protocol_of(mask) for mask in ("quadrants1", "quadrants3fixed", "quadrants1,quadrants2", "left")] == [
        "random",
        "fixed",
        None,
        None,
    ]


def test_two_processes_find_what_one_finds_and_print_it_once(arrays, weights, monkeypatch, capsys):
    """As under torchrun; this process is the first of the two."""
    one = run(arrays, weights, split="train", samples=3)
    arguments = ["matfill", "eval", arrays, "--weights", weights, "--mask", "random2x3", "--split", "train"]
    arguments += ["--samples", "3", "--device", "cpu", "--precision", "float32", "--json"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    second = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **common, "RANK": "1", "LOCAL_RANK": "1"},
    )
    try:
        for name, value in {**common, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        said, error = second.communicate(timeout=60)
    finally:
        second.kill()
    assert not leaving.value.code
    assert (second.returncode, said) == (0, b""), error.decode()
    two = json.loads(capsys.readouterr().out)
    for key in ("free_energy", "iwae_bound", "effective_samples"):
        assert two[key] == pytest.approx(one[key], rel=1e-4)
    assert two["rates"] == [pytest.approx(stage, rel=1e-4) for stage in one["rates"]]
    assert two["images"] == 135
