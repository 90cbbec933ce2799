"""benchmarks/photo_quality.py, photo_speed.py and the classical methods beside them."""

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from matfill.checkpoint import save_weights

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # they are programs, and import each other as such

classical, quality, speed = map(importlib.import_module, ("classical", "photo_quality", "photo_speed"))

needs_bench = pytest.mark.skipif(
    not all(map(find_spec, classical.PACKAGES)), reason="needs the bench extra: opencv-python-headless, scikit-image"
)


@pytest.fixture
def texture() -> tuple[np.ndarray, np.ndarray]:
    """A photo of noise, uint8 (48, 64, 3), and its hole."""
    missing = np.zeros((48, 64), bool)
    missing[5:30, 20:50] = True
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8), missing


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, tiny_model(), {"data": {"fit": "patches"}}, torch.float16)
    return path


# --- quality ---------------------------------------------------------------------------------------------------------


def test_a_perfect_filling_has_the_truths_texture(texture):
    truth, missing = texture
    found = quality.measure(truth, truth, missing)
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 * 12))  # of rounding errors alone
    assert [found[key] for key in ("gradients", "variance", "variance_sign")] == [0, 0, 0]


def test_other_noise_is_nearer_in_texture_than_grey_which_is_nearer_in_pixels(texture):
    truth, missing = texture
    noise = np.random.default_rng(1).integers(0, 256, truth.shape, dtype=np.uint8)
    of_noise, of_grey = (quality.measure(truth, filled, missing) for filled in (noise, np.full_like(truth, 128)))
    assert of_grey["psnr"] > of_noise["psnr"] + 2
    assert of_noise["gradients"] < 0.05 < 0.9 < of_grey["gradients"] <= 1
    assert of_noise["variance"] < 1 < 5 < of_grey["variance"] == pytest.approx(-of_grey["variance_sign"])
    assert abs(of_noise["variance_sign"]) < 0.2


def test_only_missing_pixels_count(texture):
    truth, missing = texture
    filled = truth.copy()
    filled[missing] = filled[missing][::-1]
    elsewhere = np.where(missing[..., None], filled, 255 - filled)
    assert quality.measure(truth, elsewhere, missing) == quality.measure(truth, filled, missing)


def test_the_psnr_is_of_the_mean_squared_error_over_the_hole(texture):
    truth, missing = texture
    truth = truth // 2
    filled = truth.copy()
    filled[5:30, 20:35] += 20  # half of the hole
    assert quality.measure(truth, filled, missing)["psnr"] == pytest.approx(10 * np.log10(255**2 / 200))


def test_gradients_and_variances_of_a_ramp():
    ramp = np.tile(10.0 * np.arange(8), (8, 1))
    hole = np.zeros((8, 8), bool)
    hole[1:7, 1:7] = True
    share = quality.gradients(ramp, hole)
    assert share[np.searchsorted(quality.EDGES, 10, side="right") - 1] == share.sum() == 1
    np.testing.assert_allclose(quality.variances(ramp, hole), [200] * 4)  # 2 x 2 patches; 100 times that of 0 to 4
    assert quality.gradients(100 * ramp, hole)[-1] == 1  # beyond the last bin
    assert np.isnan(quality.gradients(ramp, np.eye(8, dtype=bool))).all()


def test_divergence_is_in_bits():
    p, q = np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])
    assert quality.divergence(p, q) == quality.divergence(q, p) == 1
    assert quality.divergence(p, p) == 0


def test_photos_without_a_figure_do_not_count():
    scores = [dict.fromkeys(quality.FIGURES, 1.0), dict.fromkeys(quality.FIGURES, 3.0)]
    found = quality.summary([*scores, dict.fromkeys(quality.FIGURES, np.nan)])
    assert (found["psnr"], found["psnr_error"]) == (2, 1)
    assert quality.line("ours", found)[:3] == ("ours", "2.00 ± 1.00", "2.00 ± 1.00")
    assert quality.line("ours", quality.summary(scores[:1]))[1:] == ("",) * len(quality.FIGURES)


@needs_bench
def test_quality_of_small_photos(tmp_path, weights, capsys):
    folder, out = tmp_path / "photos", tmp_path / "scores.json"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, height in (("a.png", 24), ("b.png", 31)):
        Image.fromarray(noise.integers(0, 256, (height, 28, 3), dtype=np.uint8)).save(folder / name)
    options = ["--data", str(folder), "--weights", str(weights), "--mask", "random2x7", "--samples", "3"]
    assert quality.main([*options, "--json", str(out)]) == 0
    report, shown = json.loads(out.read_text()), capsys.readouterr().out
    names = [f"matfill {weights}, one sample", f"matfill {weights}, mean of 3"]
    assert list(report["methods"]) == [*classical.METHODS, *names]
    assert all(name in shown for name in report["methods"])
    for found in report["methods"].values():
        assert found["images"] == 2
        assert all(np.isfinite(found[key]) and found[f"{key}_error"] >= 0 for key in quality.FIGURES)
    assert report["methods"]["scikit-image biharmonic"]["over_biharmonic"] == 0
    assert quality.main([*options, "--mask", "random2x25"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


# --- speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(64, 48), (700, 900)])
def test_the_photo_goes_on_mirrored(width, height):
    photo = speed.photo_of(width, height)
    assert photo.shape == (height, width, 3)
    if height > 427:
        np.testing.assert_array_equal(photo[427:437], photo[417:427][::-1])


def test_holes():
    assert speed.hole_of(speed.SMALL, 640, 480).sum() == 1200
    np.testing.assert_array_equal(speed.hole_of(speed.SMALL, 640, 480), speed.hole_of(speed.SMALL, 640, 480))
    assert speed.hole_of(speed.LARGE, 640, 480).mean() == pytest.approx(0.05, rel=0.01)


def test_time_and_memory_are_those_of_the_process():
    found = speed.run([sys.executable, "-c", "import time; x = b'x' * 2**29; time.sleep(0.2)"])
    assert not found.wrong
    assert found.seconds >= 0.2
    assert found.peak >= 512


def test_what_fails_or_takes_too_long_is_said():
    broken = speed.run([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert speed.line("a", broken, broken)[1] == "failed: no such thing"
    late = speed.run([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.1)
    assert late.seconds == 0.1
    assert late.late and not late.error
    assert speed.joined([speed.Run(1, 10), late]) is late


def test_the_least_time_is_shown_and_divided_by_teleas():
    best = speed.joined([speed.Run(3, 10), speed.Run(2, 30), speed.Run(4, 20)])
    assert best == speed.Run(2, 30)
    assert speed.line("a", best, speed.Run(0.5, 1)) == ("a", "2.00", "4.00", "30")
    assert speed.line("a", best, speed.Run(120, 1, late=True)) == ("a", "2.00", "", "30")
    assert speed.line("a", speed.Run(120, 2000, late=True), best) == ("a", "> 120 s", "", "2,000")


@needs_bench
def test_speed_with_a_small_photo(tmp_path, weights, capsys):
    out = tmp_path / "speed.json"
    options = ["--weights", str(weights), "--sizes", "64x48", "--repeat", "1", "--json", str(out)]
    assert speed.main(options) == 0
    results, shown = json.loads(out.read_text())["results"], capsys.readouterr().out
    assert [one["method"] for one in results] == [f"matfill {weights}", *speed.COMPETITORS]
    assert not any(one["error"] for one in results)
    assert "0.0 megapixels (64x48), random3x20" in shown


# --- classical methods -----------------------------------------------------------------------------------------------


@needs_bench
@pytest.mark.parametrize("method", classical.METHODS.values())
@pytest.mark.parametrize("channels", [1, 3])
def test_classical_methods_change_the_hole_alone(method, channels, texture):
    truth, missing = texture
    photo = np.where(missing[..., None], np.uint8(0), truth // 4 + 120)[..., :channels]
    filled = method(photo, missing)
    np.testing.assert_array_equal(filled[~missing], photo[~missing])
    assert filled[missing].mean() > 100


def test_what_is_not_installed_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(classical, "find_spec", lambda name: None if name == "cv2" else name)
    with pytest.raises(SystemExit, match=r"^error: opencv-python-headless not installed: pip install '.\[bench\]'$"):
        classical.require()
