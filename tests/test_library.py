"""matfill from Python: what goes in comes out, filled."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

import matfill
from matfill import checkpoint, library, scoring
from matfill.config import TrainConfig
from matfill.errors import ConfigError, ImageError, MaskError, WeightsError
from matfill.images import load_photo, save_photo
from matfill.library import Inpainter

MISSING = np.zeros((20, 30), bool)
MISSING[5:14, 8:20] = True


@pytest.fixture(scope="module", params=["crop", "patches"])
def model(request):
    """One that looks at the whole, and one that looks through windows."""
    model = Inpainter(tiny_model(), {"temperature": [1, 1, 1], "data": {"fit": request.param}})
    assert model.windows == (request.param == "patches")
    return model


def picture(mode, size=(30, 20)):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    if mode == "P":
        return picture("RGB", size).quantize(50)
    if mode == "1":
        return Image.fromarray(rng.random(size[::-1]) < 0.5)
    bands = Image.new(mode, (1, 1)).getbands()
    pixels = rng.integers(0, 256, (*size[::-1], len(bands)), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "I;16", "P", "1"])
def test_an_image_comes_back_as_an_image(model, mode):
    image = picture(mode)
    image.info["dpi"] = (300, 300)
    result = model.inpaint(image, MISSING, samples=2)
    plain = image.convert({"P": "RGB", "1": "L"}.get(mode, mode))
    assert len(result.samples) == 2 and result.seed == 0
    for one in (*result.samples, result.mean):
        assert (one.mode, one.size, one.info["dpi"]) == (plain.mode, (30, 20), (300, 300))
        before, after = np.asarray(plain), np.asarray(one)
        np.testing.assert_array_equal(after[~MISSING], before[~MISSING])
        assert (after[MISSING] != before[MISSING]).mean() > 0.3
        if mode in ("LA", "RGBA"):
            np.testing.assert_array_equal(after[..., -1], before[..., -1])
    assert result.std.shape == (20, 30) and result.std.dtype == np.float32
    assert (result.std[MISSING] > 0).any() and (result.std[~MISSING] == 0).all()
    np.testing.assert_array_equal(result.missing, MISSING)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_an_array_comes_back_as_an_array(model, dtype, shape):
    rng = np.random.default_rng(0)
    whole = np.issubdtype(dtype, np.integer)
    array = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype) if whole else rng.random(shape).astype(dtype)
    before = array.copy()
    filled = model.inpaint(array, MISSING).samples[0]
    assert (filled.dtype, filled.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(filled[~MISSING], array[~MISSING])
    assert (filled[MISSING] != array[MISSING]).any()
    np.testing.assert_array_equal(array, before)


def test_the_command_and_the_library_fill_alike(model, tmp_path):
    image = picture("RGB")
    image.save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    filled = model.fill(photo, MISSING, samples=1, seed=3, temperature=model.temperatures()).sample(0)
    save_photo(filled, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as written:
        np.testing.assert_array_equal(np.asarray(model.inpaint(image, MISSING, seed=3).samples[0]), np.asarray(written))


def test_what_is_missing_may_be_said_in_many_ways(model):
    image = picture("RGB")
    white = Image.fromarray(MISSING.astype(np.uint8) * 255)
    for missing in (MISSING, MISSING[..., None], white, white.convert("RGB"), "box:8,5,12,9"):
        np.testing.assert_array_equal(model.inpaint(image, missing).missing, MISSING)
    both = model.inpaint(image, ["box:8,5,12,9", "box:0,0,2,2"]).missing
    assert both.sum() == MISSING.sum() + 4
    clear = picture("RGBA")
    clear.putalpha(Image.fromarray(np.where(MISSING, 0, 255).astype(np.uint8)))
    result = model.inpaint(clear, "alpha")
    np.testing.assert_array_equal(result.missing, MISSING)
    assert np.asarray(result.samples[0])[..., 3].min() == 255


def test_grow_and_feather_and_temperature(model):
    image = picture("RGB")
    plain, soft = model.inpaint(image, MISSING), model.inpaint(image, MISSING, grow=2, feather=2)
    assert soft.missing.sum() > plain.missing.sum()
    cold = model.inpaint(image, MISSING, samples=2, temperature=0)
    np.testing.assert_array_equal(*(np.asarray(one) for one in cold.samples))
    assert model.temperatures() == (1.0, 1.0, 1.0) and model.temperatures([1, 0.5, 0]) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("image", "missing", "kind", "says"),
    [
        ("photo.png", MISSING, ImageError, "str"),
        (torch.zeros(20, 30), MISSING, ImageError, "Tensor"),
        (np.zeros((20, 30), bool), MISSING, ImageError, "bool"),
        (np.zeros((20, 30), np.int32), MISSING, ImageError, "int32"),
        (np.zeros((3, 20, 30), np.uint8), MISSING, ImageError, r"\(3, 20, 30\)"),
        (np.zeros((0, 30), np.uint8), MISSING, ImageError, r"\(0, 30\)"),
        (np.full((20, 30), 200.0), MISSING, ImageError, "between 0 and 1"),
        (np.full((20, 30), np.nan), MISSING, ImageError, "between 0 and 1"),
        (Image.new("F", (30, 20)), MISSING, ImageError, "32 bits"),
        (np.zeros((20, 30), np.uint8), MISSING.T, MaskError, "20x30 but the image 30x20"),
        (np.zeros((20, 30), np.uint8), MISSING.astype(np.uint8), MaskError, "uint8"),
        (np.zeros((20, 30), np.uint8), ~MISSING | MISSING, MaskError, "whole image"),
        (np.zeros((20, 30), np.uint8), MISSING & ~MISSING, MaskError, "nothing"),
        (np.zeros((20, 30), np.uint8), None, MaskError, "neither"),
        (np.zeros((20, 30), np.uint8), [], MaskError, "neither"),
        (np.zeros((20, 30), np.uint8), "alpha", MaskError, "no transparency"),
        (np.zeros((20, 30), np.uint8), "nope", MaskError, "write one of"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(model, image, missing, kind, says):
    with pytest.raises(kind, match=says) as caught:
        model.inpaint(image, missing)
    assert "\n" not in str(caught.value)


def test_wrong_numbers_are_refused(model):
    for options in ({"samples": 0}, {"seed": -1}, {"grow": -1}, {"feather": -1}):
        with pytest.raises(MaskError):
            model.inpaint(picture("RGB"), MISSING, **options)
    with pytest.raises(ConfigError, match="2 temperatures"):
        model.inpaint(picture("RGB"), MISSING, temperature=[1, 2])


def test_a_score_is_what_scoring_a_data_set_finds(model):
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    missing = np.zeros((8, 8), bool)
    missing[2:6, 3:7] = True
    x, hole = torch.from_numpy(pixels).movedim(-1, 0)[None], torch.from_numpy(missing)[None, None]
    found = scoring.score(model.model, x, hole, samples=300, seed=0)
    wanted = float(found.iwae_bound) / (16 * 3) / np.log(2)
    assert model.score(pixels, missing, samples=300) == pytest.approx(wanted, rel=0.01)
    assert model.score(pixels, missing, seed=1) == model.score(pixels, missing, seed=1)
    assert model.score(pixels, missing, seed=1) != model.score(pixels, missing, seed=2)
    with pytest.raises(MaskError, match="samples"):
        model.score(pixels, missing, samples=0)


def test_what_is_likely_scores_less_than_what_is_not(model):
    image = np.full((20, 30, 3), 128, np.uint8)
    odd = image.copy()
    odd[MISSING] = np.random.default_rng(0).integers(0, 2, (MISSING.sum(), 3)) * 255
    assert model.score(image, MISSING) < model.score(odd, MISSING)


def test_a_file_that_is_broken_is_found_when_its_pixels_are_asked_for(model, tmp_path):
    picture("RGB").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(ImageError, match="cannot be read"):
        model.inpaint(image, MISSING)
    with Image.open(tmp_path / "a.png") as mask, pytest.raises(MaskError, match="cannot be read"):
        model.inpaint(picture("RGB"), mask)


def test_the_front_door(tmp_path):
    path = tmp_path / "tiny.safetensors"
    card = {"temperature": [1, 0.5, 0], "recipe": TrainConfig(updates=1).to_dict()}
    checkpoint.save_weights(path, tiny_model(), card, torch.float16)
    model = matfill.load(str(path), device="cpu")
    assert isinstance(model, matfill.Inpainter)
    assert model.temperatures() == (1.0, 0.5, 0.0)
    assert isinstance(model.inpaint(picture("RGB"), MISSING), matfill.Inpainted)
    assert matfill.load is library.load
    assert issubclass(WeightsError, matfill.MatfillError)
    with pytest.raises(WeightsError):
        matfill.load("no such weights")
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        matfill.nope  # noqa: B018
    assert {"load", "__version__"} <= set(dir(matfill))


def test_importing_matfill_imports_nothing_heavy():
    probe = "import sys, matfill; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", probe], timeout=60).returncode == 0
