import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matfill import checkpoint, recipes, training
from matfill.bounds import free_energy
from matfill.config import TrainConfig
from matfill.data import open_for
from matfill.errors import ConfigError, DataError, MatfillError, WeightsError
from matfill.model import take_over
from matfill.noise import gaussian_noise
from matfill.trainer import CHECKPOINT_NAME, MOST_SKIPS, Trainer, load_checkpoint
from tests.tiny import holes, images, tiny_config, tiny_model

CONFIG = TrainConfig(
    mask="random2x3",
    batch=4,
    updates=6,
    learning_rate=1e-3,
    muon_learning_rate=0.02,
    kl_warmup=2,
    warmup=2,
    decay=0.8,
    flip=True,
    own_samples_every=2,
    own_samples_from=2,
    holdout=4,
)


def tiny_recipe():
    return tiny_config(), CONFIG


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tiny", tiny_recipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i in range(24):
        low = Image.fromarray(draw.integers(0, 256, (3, 3, 3), np.uint8))
        low.resize((12, 10), Image.Resampling.BICUBIC).save(path / f"{i:02d}.png")
    return path


def run(folder: Path, out: Path, report=lambda event: None, **kwargs) -> str:
    changes = {"precision": "float32", **kwargs.pop("changes", {})}
    return training.run(folder, out, recipe="tiny", device="cpu", changes=changes, report=report, **kwargs)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / training.METRICS_NAME).read_text().splitlines()]


def step_count(out: Path) -> int:
    return load_checkpoint(out)[1]["state"]["progress"]["update"]


def test_a_resumed_run_equals_an_unbroken_one(folder, tmp_path):
    assert run(folder, tmp_path / "whole") == "finished"

    def stop_at_three(event):
        if event["event"] == "update" and event["update"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(folder, tmp_path / "parts", stop_at_three) == "stopped"
    assert 3 <= step_count(tmp_path / "parts") < CONFIG.updates
    assert run(folder, tmp_path / "parts", resume=True) == "finished"
    whole, parts = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole[0].keys() == parts[0].keys()
    assert all(torch.equal(whole[0][name], parts[0][name]) for name in whole[0])
    assert lines(tmp_path / "whole")[-1]["heldout"] == lines(tmp_path / "parts")[-1]["heldout"]


def test_an_unconditional_model_takes_the_same_way(folder, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, mask="all", prediction_weight=0.0, component_entropy=0.1)
    model = tiny_config(conditional=False, prior_components=3, update="gru")
    monkeypatch.setitem(recipes.RECIPES, "tiny", lambda: (model, config))
    assert run(folder, tmp_path) == "finished"
    assert run(folder, tmp_path, resume=True, changes={"updates": 8}) == "finished"
    for line in lines(tmp_path):
        scores = line["heldout"] if line["event"] == "checkpoint" else line["train"]
        assert [[len(level) for level in stage] for stage in scores["module_rates"]] == [[1, 2, 1]]
    loaded, _ = checkpoint.load_weights(tmp_path)
    assert loaded.config == model


def test_training_lowers_the_bound(folder, tmp_path):
    run(folder, tmp_path / "run", changes={"updates": 150, "checkpoint_minutes": 0.002})
    found = [line["heldout"]["bits_per_dim"] for line in lines(tmp_path / "run") if line["event"] == "checkpoint"]
    assert len(found) > 2
    assert found[-1] < found[0] - 0.5


def test_metrics_name_the_update_and_never_go_back(folder, tmp_path):
    run(folder, tmp_path)
    with (tmp_path / training.METRICS_NAME).open("a") as file:
        file.write('{"event": "log", "update": 99}\n{"event": "lo')  # after the checkpoint, then killed while writing
    run(folder, tmp_path, resume=True, changes={"updates": 8})
    updates = [line["update"] for line in lines(tmp_path)]
    assert updates == sorted(updates)
    assert updates[-1] == 8
    logged = [line for line in lines(tmp_path) if line["event"] == "log"]
    assert {"images_per_second", "skipped", "train"} <= logged[-1].keys()
    assert {"bits_per_dim", "distortion", "rates"} <= logged[-1]["train"].keys()


SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    import torch
    torch.set_num_threads(1)
    from matfill import recipes, training
    from tests.test_training import tiny_recipe
    recipes.RECIPES["tiny"] = tiny_recipe
    changes = dict(updates=100000, checkpoint_minutes=0.001, precision="float32")
    print(training.run(Path({folder!r}), Path({out!r}), recipe="tiny", device="cpu", changes=changes), flush=True)
"""


def started(folder: Path, out: Path) -> subprocess.Popen:
    """A process that trains until it is told not to, once it has saved something."""
    root = str(Path(__file__).parent.parent)
    code = textwrap.dedent(SCRIPT.format(root=root, folder=str(folder), out=str(out)))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / CHECKPOINT_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # into the middle of something
    return process


def test_after_kill_9_a_run_goes_on(folder, tmp_path):
    process = started(folder, tmp_path)
    process.kill()
    process.communicate()
    before = step_count(tmp_path)
    assert run(folder, tmp_path, resume=True, changes={"updates": before + 2}) == "finished"
    assert step_count(tmp_path) == before + 2
    checkpoint.load_weights(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_cleanly(folder, tmp_path, number):
    process = started(folder, tmp_path)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "stopped\n"
    assert lines(tmp_path)[-1]["update"] == step_count(tmp_path)


def test_an_exploding_gradient_changes_nothing_and_is_counted():
    trainer = Trainer(tiny_model().train(), CONFIG, torch.device("cpu"))
    batch = (images(4) * 255).byte(), holes(4)
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    trainer.step(*batch, noise=lambda shape: torch.full(shape, torch.nan))
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.state_dict().items())
    assert trainer.progress.skipped == 1
    for _ in range(60):
        trainer.step(*batch)
    assert trainer.progress.skipped == 1
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    trainer.progress.usual_norm /= 1e6  # what is usual is suddenly far too much
    trainer.step(*batch)
    assert trainer.progress.skipped == 2
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.state_dict().items())


def test_nan_for_good_ends_the_run_and_spares_the_checkpoint(folder, tmp_path, monkeypatch):
    run(folder, tmp_path)
    good = (tmp_path / CHECKPOINT_NAME).read_bytes()
    nan = lambda device, *seed: lambda shape: torch.full(shape, torch.nan)  # noqa: E731
    monkeypatch.setattr("matfill.trainer.gaussian_noise", nan)
    with pytest.raises(MatfillError, match="diverged"):
        run(folder, tmp_path, resume=True, changes={"updates": 10 * MOST_SKIPS})
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == good


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    trainer = Trainer(tiny_model().train(), CONFIG, torch.device("cpu"))
    trainer.save(tmp_path, {})
    good = (tmp_path / CHECKPOINT_NAME).read_bytes()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.inf)
    with pytest.raises(MatfillError, match="no longer finite"):
        trainer.save(tmp_path, {})
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == good


def test_a_full_disk_is_one_line_and_spares_the_checkpoint(folder, tmp_path, monkeypatch):
    run(folder, tmp_path)
    good = (tmp_path / CHECKPOINT_NAME).read_bytes()

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(WeightsError, match="No space left") as caught:
        run(folder, tmp_path, resume=True, changes={"updates": 9})
    assert "\n" not in str(caught.value)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == good


def test_init_starts_from_weights_and_says_so(folder, tmp_path):
    run(folder, tmp_path / "first")
    run(
        folder,
        tmp_path / "second",
        init=str(tmp_path / "first"),
        changes={"updates": 1, "learning_rate": 1e-12, "muon_learning_rate": 0.0},
    )
    first, _ = checkpoint.load_weights(tmp_path / "first")
    second, card = checkpoint.load_weights(tmp_path / "second")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert card["training"]["init"]["training"]["updates"] == CONFIG.updates


def test_a_run_says_that_it_cannot_make_its_folder(tmp_path):
    np.save(tmp_path / "train.npy", np.zeros((10, 8, 8, 3), np.uint8))
    with pytest.raises(MatfillError, match=r"cannot make the folder .*run"):
        run(tmp_path / "train.npy", tmp_path / "train.npy" / "run", changes={"updates": 1})


def test_weights_know_which_validation_images_they_were_trained_on(tmp_path):
    source, draw = tmp_path / "in", np.random.default_rng(0)
    source.mkdir()
    for split in ("train", "val"):
        np.save(source / f"{split}.npy", draw.integers(0, 256, (10, 8, 8, 3), np.uint8))

    def as_trained(weights):
        model, card = checkpoint.load_weights(weights)
        return open_for(source, model.config, card, cache=tmp_path / "cache")

    run(source, tmp_path / "out", changes={"updates": 1, "most_val": 3})
    run(source, tmp_path / "out", resume=True, changes={"updates": 2})
    card = checkpoint.load_weights(tmp_path / "out")[1]
    assert card["data"]["images"] == {"train": 17, "val": 3, "test": 0} and card["validation"]["images"] == 3
    found = as_trained(tmp_path / "out")
    assert len(found.val) == 3 and found.fingerprint == card["data"]["fingerprint"]
    for most in ({}, {"most_val": 4}):
        with pytest.raises(ConfigError, match=r"all but 3 of the validation images.*most_val=3"):
            run(source, tmp_path / "next", init=str(tmp_path / "out"), changes={"updates": 1, **most})
    assert not (tmp_path / "next").exists()
    run(source, tmp_path / "fewer", init=str(tmp_path / "out"), changes={"updates": 1, "most_val": 2})
    seen = {image.tobytes() for image in found.train}
    fewer = as_trained(tmp_path / "fewer")
    assert len(fewer.val) == 2 and not seen & {image.tobytes() for image in fewer.val}
    np.save(source / "val.npy", np.load(source / "val.npy")[::-1])  # other data, as far as anybody can know
    run(source, tmp_path / "others", init=str(tmp_path / "out"), changes={"updates": 1})


def test_a_run_of_the_inference_stacks_alone_keeps_the_generator_bit_by_bit(folder, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for file in sorted(folder.iterdir())[:12]:
        shutil.copy(file, others)
    run(folder, tmp_path / "first")
    only = {"inference_only": True, "own_samples_every": 1, "own_samples_from": 0, "own_latents": True, "updates": 2}
    run(others, tmp_path / "second", init=str(tmp_path / "first"), changes=only)
    run(others, tmp_path / "second", resume=True, changes={"updates": 3})
    first, second = (checkpoint.load_weights(tmp_path / name)[0].state_dict() for name in ("first", "second"))
    changed = {name for name, tensor in second.items() if not torch.equal(tensor, first[name])}
    assert changed and all(".inference." in name for name in changed)


@pytest.mark.parametrize("change", [{}, {"autoregression": 2}])
def test_inference_only_needs_a_generator_that_is_trained(folder, tmp_path, change):
    if change:
        run(folder, tmp_path / "first")
    with pytest.raises(ConfigError, match="--init") as caught:
        run(
            folder,
            tmp_path / "second",
            init=str(tmp_path / "first") if change else None,
            changes={"inference_only": True, **change},
        )
    assert "\n" not in str(caught.value) and not (tmp_path / "second").exists()


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_parts_are_added_to_what_a_run_starts_from_or_left_out(before, after):
    start, model = (tiny_model(seed=seed, autoregression=layers) for seed, layers in ((1, before), (2, after)))
    random = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_over(model, start)
    given, output = start.state_dict(), "stages.0.output.conv.weight"
    for name, tensor in model.state_dict().items():
        if name.startswith("autoregression."):
            assert torch.equal(tensor, random[name])
        else:
            shared = min(len(tensor), len(given[name])) if tensor.ndim else None
            assert torch.equal(tensor[:shared], given[name][:shared])
            assert torch.equal(tensor[shared:], random[name][shared:])
    assert len(model.state_dict()[output]) != len(given[output])


@pytest.mark.parametrize("stages", [1, 2])
def test_the_output_can_be_widened_without_a_change_of_what_it_says(stages):
    start, wide = tiny_model(seed=1, stages=stages), tiny_model(seed=2, stages=stages, output_channels=9)
    take_over(wide, start)
    assert [len(stage.output.hidden.weight) for stage in wide.stages] == [9] * stages
    x, missing = images(2), holes(2)
    nats = [free_energy(model(x, missing, gaussian_noise(torch.device("cpu"), 0, 1))) for model in (start, wide)]
    torch.testing.assert_close(*nats)
    narrow = tiny_model(seed=3, stages=stages)
    take_over(narrow, wide)
    assert all(torch.equal(a, b) for a, b in zip(narrow.parameters(), start.parameters(), strict=True))


def test_the_autoregression_can_be_widened_without_a_change_of_what_it_says():
    parts = {"autoregression": 3, "output_channels": 9}
    start, wide = (tiny_model(seed=i, autoregression_channels=4 + i, **parts) for i in (1, 2))
    with torch.no_grad():  # as small as they are at first, a change would not show
        for model in (start, wide):
            model.autoregression.output.weight.normal_()
    take_over(wide, start)
    x, missing = images(2), holes(2)
    nats = [free_energy(model(x, missing, gaussian_noise(torch.device("cpu"), 0, 1))) for model in (start, wide)]
    torch.testing.assert_close(*nats)
    narrow = tiny_model(seed=3, autoregression_channels=5, **parts)
    take_over(narrow, wide)
    assert all(torch.equal(a, b) for a, b in zip(narrow.parameters(), start.parameters(), strict=True))


def test_a_run_on_warped_images_may_tell_the_model_how_they_were(folder, tmp_path):
    run(folder, tmp_path / "first")
    changes = {"warp": 0.1, "warp_share": 0.5, "sees_warp": True}
    assert run(folder, tmp_path / "second", init=str(tmp_path / "first"), changes=changes) == "finished"
    model, card = checkpoint.load_weights(tmp_path / "second")
    assert card["recipe"]["warp_share"] == 0.5 and model.config.sees_warp
    assert all(stage.path.warp.weight.abs().max() > 0 for stage in model.stages)
    assert run(folder, tmp_path / "third", init=str(tmp_path / "second"), changes={"sees_warp": False}) == "finished"


@pytest.mark.parametrize(
    ("change", "says"),
    [({"flat_channels": 4}, "only parts can be added"), ({"mixtures": 2}, "parameters for each pixel")],
)
def test_what_has_another_shape_cannot_be_taken_over(folder, tmp_path, change, says):
    run(folder, tmp_path / "first")
    with pytest.raises(ConfigError, match=says) as caught:
        run(folder, tmp_path / "second", init=str(tmp_path / "first"), changes=change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "says", "kwargs"),
    [
        (WeightsError, "nothing to resume", {"resume": True}),
        (ConfigError, "no recipe 'nope'", {"recipe": "nope"}),
        (ConfigError, "batch is 0", {"changes": {"batch": 0}}),
        (DataError, "too few", {"changes": {"batch": 100}}),
        (MatfillError, "no mask", {"changes": {"mask": "nope"}}),
        (ConfigError, "device is 'abacus'", {"device": "abacus"}),
        (ConfigError, "fit is 'bend'", {"changes": {"fit": "bend"}}),
    ],
)
def test_what_cannot_work_is_one_line(folder, tmp_path, error, says, kwargs):
    kwargs = {"recipe": "tiny", "device": "cpu", "changes": {"precision": "float32"}} | kwargs
    with pytest.raises(error, match=says) as caught:
        training.run(folder, tmp_path, **kwargs)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / CHECKPOINT_NAME).exists()


def test_a_run_is_never_overwritten_nor_bent(folder, tmp_path):
    run(folder, tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        run(folder, tmp_path)
    with pytest.raises(ConfigError, match="batch 4, not 8"):
        run(folder, tmp_path, resume=True, changes={"batch": 8})
    for option, given in (("--init", {"init": "faces"}), ("--paper", {"paper": True})):
        with pytest.raises(ConfigError, match=option):
            run(folder, tmp_path, resume=True, **given)


def test_the_rate_falls_to_zero_and_minutes_end_a_run():
    trainer = Trainer(tiny_model(), dataclasses.replace(CONFIG, updates=None, minutes=2.0), torch.device("cpu"))
    trainer.progress.update = 1000
    factors = []
    for trainer.progress.seconds in (0.0, 23.0, 72.0, 119.0, 200.0):
        factors.append(trainer._rate_factor(1000))
    assert factors[:2] == [1, 1]  # CONFIG.decay is the last 80 %
    assert factors == sorted(factors, reverse=True)
    assert factors[2] == pytest.approx(0.5)
    assert factors[-1] == 0
    assert trainer.share_done() == 1


WORKER = """
    import sys
    sys.path.insert(0, {root!r})
    import torch
    from torch import distributed as dist
    torch.set_num_threads(1)
    from tests.test_training import three_updates
    dist.init_process_group("gloo")
    three_updates({out!r})
    dist.destroy_process_group()
"""


def three_updates(out: str) -> None:
    """Three updates of a tiny model, the last one with a step on its own samples, all with the noise fixed.

    The first process saves what came of them.
    """
    from matfill.batches import TrainBatches

    trainer = Trainer(tiny_model().train(), CONFIG, torch.device("cpu"))
    data = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    batches = TrainBatches(data, batch=4, mask="random2x3", seed=0, flip=True, rank=trainer.rank, world=trainer.world)
    for update in range(3):
        trainer.step(*batches[update], noise=torch.ones)
    if trainer.rank == 0:
        torch.save(trainer.model.state_dict(), out)


def test_two_processes_make_the_update_of_one(tmp_path):
    three_updates(str(tmp_path / "one.pt"))
    script = tmp_path / "worker.py"
    root = str(Path(__file__).parent.parent)
    script.write_text(textwrap.dedent(WORKER.format(root=root, out=str(tmp_path / "two.pt"))))
    torchrun(["--nproc-per-node", "2", str(script)])
    one, two, start = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt"), tiny_model().state_dict()
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in one)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-5)


def torchrun(arguments: list[str], *, fails: bool = False) -> str:
    """What the processes print; where they have to fail, what they say on standard error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--master-port", "0", "--standalone", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def test_under_torchrun_an_error_of_one_process_is_one_line_of_all(tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ["-m", "matfill", "train", str(tmp_path / "empty"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    said = torchrun(["--nproc-per-node", "2", *arguments], fails=True)
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert "no image file" in said and "Connection closed" not in said and "RuntimeError" not in said


def test_torchrun_trains_one_run_and_resumes_it(folder, tmp_path):
    script = tmp_path / "worker.py"
    root = str(Path(__file__).parent.parent)
    code = SCRIPT.replace("updates=100000", "updates=int(sys.argv[1])").replace(
        'recipe="tiny",', 'recipe="tiny", resume="--resume" in sys.argv,'
    )
    script.write_text(textwrap.dedent(code.format(root=root, folder=str(folder), out=str(tmp_path / "run"))))
    assert torchrun(["--nproc-per-node", "2", str(script), "3"]).count("finished") == 2
    assert torchrun(["--nproc-per-node", "2", str(script), "5", "--resume"]).count("finished") == 2
    updates = [line["update"] for line in lines(tmp_path / "run")]
    assert updates == sorted(updates)
    assert step_count(tmp_path / "run") == 5
