"""Weights files: what goes in comes out, and whatever else lies in a file is refused in one line."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file
from tiny import holes, images, seeded_noise, tiny_model

from matfill import checkpoint
from matfill.checkpoint import (
    FORMAT,
    WEIGHTS_NAME,
    bundled,
    describe,
    find,
    load_tensors,
    load_weights,
    save_tensors,
    save_weights,
)
from matfill.errors import WeightsError

CARD = {"data": {"name": "none"}, "temperature": [1.0, 0.5, 0.5]}


@pytest.fixture
def model():
    model = tiny_model()
    model.mean_image.uniform_()
    return model


@pytest.fixture
def path(tmp_path, model):
    path = tmp_path / "tiny.safetensors"
    save_weights(path, model, CARD, torch.float32)
    return path


def rewrite(path, tensors=None, **changes):
    """The same file with other tensors, or another card."""
    old_tensors, card = load_tensors(path)
    save_tensors(path, old_tensors if tensors is None else tensors, {**card, **changes})


def raw_file(path, header, data=b""):
    """A safetensors file by hand."""
    blob = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(blob)) + blob + data)


def assert_refused(path, match=None):
    for read in (load_weights, describe):
        with pytest.raises(WeightsError, match=match) as error:
            read(path)
        message = str(error.value)
        assert "\n" not in message and "Traceback" not in message and str(path) in message


# --- round trip ------------------------------------------------------------------------------------------------------


def test_full_precision_comes_back_bit_by_bit(path, model):
    loaded, card = load_weights(path)
    assert loaded.config == model.config
    assert card == {"format": FORMAT, **CARD, "model": json.loads(json.dumps(model.config.to_dict()))}
    wanted, found = model.state_dict(), loaded.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_float32_and_rounded(tmp_path, model, dtype):
    save_weights(tmp_path / "half.safetensors", model, CARD, dtype)
    found = load_weights(tmp_path / "half.safetensors")[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.to(dtype).float())


def test_a_loaded_model_works_as_the_saved_one(path, model):
    loaded, _ = load_weights(path)
    x, missing = images(2), holes(2)
    a, b = (m.compose(x, m.generate(x, missing, seeded_noise(), (1.0,) * 3)) for m in (model, loaded))
    assert torch.equal(a, b)
    assert not loaded.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())


def test_a_loaded_model_does_not_hang_on_its_file(path, model):
    loaded, _ = load_weights(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_loading_leaves_the_random_state_alone(path):
    before = torch.random.get_rng_state()
    load_weights(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tensors_and_card_of_any_kind_come_back(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3).mT, "b": torch.tensor(1.5), "c": torch.zeros(0, 3)}
    save_tensors(tmp_path / "t", tensors, {"text": "ä\n", "list": [1, None]})
    found, card = load_tensors(tmp_path / "t")
    assert card == {"text": "ä\n", "list": [1, None]}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == tensors[k].dtype for k in tensors)


# --- strictness ------------------------------------------------------------------------------------------------------


def assert_tensors_refused(path, name):
    with pytest.raises(WeightsError, match=name) as error:
        load_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_tensor_is_named(path):
    tensors = load_tensors(path)[0]
    del tensors["stages.1.path.start"]
    rewrite(path, tensors)
    assert_tensors_refused(path, r"stages\.1\.path\.start")


def test_an_extra_tensor_is_named(path):
    rewrite(path, {**load_tensors(path)[0], "stages.7.extra": torch.zeros(1)})
    assert_tensors_refused(path, r"stages\.7\.extra")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_is_refused(path, value):
    tensors = load_tensors(path)[0]
    tensors["stages.0.output.conv.bias"][0] = value
    rewrite(path, tensors)
    assert_tensors_refused(path, r"stages\.0\.output\.conv\.bias")


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t[None], lambda t: t.flatten(), lambda t: t.mT])
def test_a_wrong_shape_is_refused(path, change):
    tensors = load_tensors(path)[0]
    tensors["stages.0.output.conv.weight"] = change(tensors["stages.0.output.conv.weight"])
    rewrite(path, tensors)
    assert_tensors_refused(path, r"stages\.0\.output\.conv\.weight")


def config_with(path, **changes):
    return {**load_tensors(path)[1]["model"], **changes}


def test_an_unknown_config_key_is_named(path):
    rewrite(path, model=config_with(path, attention=True))
    assert_tensors_refused(path, "attention")


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [("image_size", "8", "image_size"), ("stages", 9, "stages"), ("levels", [], "levels"), ("levels", [{}], "'size'")],
)
def test_an_impossible_config_is_refused(path, name, value, named):
    rewrite(path, model=config_with(path, **{name: value}))
    assert_tensors_refused(path, named)


@pytest.mark.parametrize("config", [None, [], "tiny", {}])
def test_a_card_without_a_model_is_refused(path, config):
    rewrite(path, model=config)
    assert_tensors_refused(path, "ModelConfig")


def test_a_config_of_another_model_is_refused(path):
    rewrite(path, model=config_with(path, stages=1))
    assert_tensors_refused(path, r"stages\.1")


def test_a_config_of_absurd_size_is_refused_before_it_is_built(path):
    levels = [{"size": 4, "channels": 10**6, "latents": 1}]
    rewrite(path, model=config_with(path, levels=levels, stages=1))
    assert_tensors_refused(path, "does not hold the model")


@pytest.mark.parametrize("name", [None, "matfill weights 99", "matfill checkpoint 1", 1])
def test_another_format_is_refused(path, name):
    rewrite(path, format=name)
    assert_refused(path, match=FORMAT)


# --- other files -----------------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def pickled(path):
    path.write_bytes(pickle.dumps(Bomb()))


OTHERS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("These are not the weights you are looking for.\n" * 20),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "pickle": pickled,
    "torch.save": lambda path: torch.save({"weight": torch.zeros(3), "bomb": Bomb()}, path),
    "no card": lambda path: save_file({"weight": torch.zeros(3)}, path),
    "another card": lambda path: save_file({"weight": torch.zeros(3)}, path, {"format": "pt"}),
    "card of no JSON": lambda path: save_file({"weight": torch.zeros(3)}, path, {"matfill": "{"}),
    "card of a list": lambda path: save_file({"weight": torch.zeros(3)}, path, {"matfill": "[1]"}),
    "no header": lambda path: path.write_bytes(struct.pack("<Q", 10**12) + b"{}"),
    "bad header": lambda path: raw_file(path, {"weight": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_weights_file_is_refused_and_never_unpickled(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.safetensors"
    OTHERS[kind](path)
    assert_refused(path)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_a_file_cut_short_is_refused(path, share):
    blob = path.read_bytes()
    path.write_bytes(blob[: int(share * len(blob))])
    assert_refused(path)


def test_a_file_with_something_behind_it_is_refused(path):
    path.write_bytes(path.read_bytes() + b"more")
    assert_refused(path)


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_keeps_the_old_file(path, model, monkeypatch, call):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(WeightsError, match="No space left") as error:
            save_weights(path, tiny_model(seed=1), CARD, torch.float32)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_writing_into_no_folder_is_a_weights_error(tmp_path, model):
    with pytest.raises(WeightsError, match="nowhere"):
        save_weights(tmp_path / "nowhere" / "tiny.safetensors", model, CARD, torch.float32)


def test_a_file_is_replaced_by_the_next(path):
    save_weights(path, tiny_model(seed=1, stages=1), {}, torch.float16)
    assert load_weights(path)[0].config.stages == 1


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose bundled weights are `faces` and `grey`."""
    folder = tmp_path / "site-packages" / "matfill" / "weights"
    folder.mkdir(parents=True)
    for seed, name in enumerate(("grey", "faces")):
        save_weights(folder / f"{name}.safetensors", tiny_model(seed=seed), {"name": name}, torch.float16)
    (folder / "README.md").write_text("cards")
    monkeypatch.setattr(checkpoint.matfill, "__file__", str(folder.parent / "__init__.py"))
    return folder


def test_bundled_weights_are_found_by_name(package):
    assert bundled() == {name: package / f"{name}.safetensors" for name in ("faces", "grey")}
    assert find("faces") == package / "faces.safetensors"
    assert load_weights("grey")[1]["name"] == "grey"


def test_in_a_checkout_weights_lie_beside_the_package(package, monkeypatch):
    package.rename(package.parent.parent / "weights")
    assert find("faces") == package.parent.parent / "weights" / "faces.safetensors"


def test_weights_are_found_by_path_and_by_run_folder(tmp_path, path, package, model):
    assert find(path) == find(str(path)) == path
    run = tmp_path / "run"
    run.mkdir()
    save_weights(run / WEIGHTS_NAME, model, {"name": "run"}, torch.float16)
    assert find(run) == run / WEIGHTS_NAME
    assert load_weights(str(run))[1]["name"] == "run"


@pytest.mark.parametrize("weights", ["landscapes", "/nowhere/at/all", "x" * 5000, "", "a\0b"])
def test_what_is_not_found_is_told_the_known_names(package, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="faces, grey"):
        find(weights)


def test_a_run_folder_without_weights_yet_is_refused(tmp_path, package):
    with pytest.raises(WeightsError, match="faces, grey"):
        load_weights(tmp_path)


# --- describing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.float16, 2)])
def test_describe_is_the_card_and_the_files_size(tmp_path, model, dtype, width):
    path = tmp_path / "tiny.safetensors"
    save_weights(path, model, CARD, dtype)
    found = describe(path)
    values = sum(tensor.numel() for tensor in model.state_dict().values())
    assert found.pop("file") == {
        "path": str(path),
        "mebibytes": round(path.stat().st_size / 2**20, 2),
        "parameters": values,
    }
    assert path.stat().st_size > width * values
    assert found == load_weights(path)[1]
