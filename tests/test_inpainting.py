"""Fillings: nothing outside the hole changes, nothing inside it matters, and one seed means one picture."""

import warnings

import numpy as np
import pytest
import torch
from tiny import holes, images, tiny_model

from matfill import inpainting
from matfill.config import Level
from matfill.errors import ConfigError, MaskError
from matfill.images import Photo
from matfill.inpainting import fill, fill_batch, fill_together, filling, inpaint, temperatures
from matfill.looks import Looks, enlarge, reduced, squeeze, tensors

ONES = (1.0, 1.0, 1.0)
SIZES = [(8, 8), (64, 64), (178, 218), (33, 70), (5, 3), (300, 8), (8, 300), (2, 1)]  # width, height
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def plain_model():
    """Its filling is what it starts from: the hole filled smoothly."""
    model = tiny_model()
    for stage in model.stages:
        torch.nn.init.zeros_(stage.output.conv.weight)
    return model


def random_photo(size, channels=3, dtype=np.uint8, *, alpha=False, seed=0):
    width, height = size
    values = np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (height, width, channels + alpha), dtype=dtype, endpoint=True
    )
    return Photo(values[..., :channels], values[..., channels] if alpha else None)


def middle(size):
    """A hole in the middle third, at least one pixel large."""
    width, height = size
    missing = np.zeros((height, width), bool)
    missing[height // 3 : 2 * height // 3 + 1, width // 3 : max(width // 3 + 1, 2 * width // 3)] = True
    return missing


ways = pytest.mark.parametrize("windows", [False, True], ids=["whole", "windows"])


def fillings(model, photo, missing, samples=2, seed=0, temperature=ONES, windows=False):
    return inpaint(model, photo, missing, samples=samples, seed=seed, temperature=temperature, windows=windows)


def samples_of(found):
    return [found.sample(i) for i in range(len(found.rows))]


def everything(found):
    return [photo.pixels for photo in (*samples_of(found), found.mean)] + [found.std]


# --- what is observed ------------------------------------------------------------------------------------------------


@sizes
@pytest.mark.parametrize(("channels", "dtype", "alpha"), [(3, np.uint8, False), (1, np.uint16, True)])
@ways
def test_observed_pixels_keep_their_exact_values(model, size, channels, dtype, alpha, windows):
    photo, missing = random_photo(size, channels, dtype, alpha=alpha), middle(size)
    found = fillings(model, photo, missing, windows=windows)
    for filled in (*samples_of(found), found.mean):
        assert filled.pixels.dtype == dtype and filled.pixels.shape == photo.pixels.shape
        np.testing.assert_array_equal(filled.pixels[~missing], photo.pixels[~missing])
        assert (filled.alpha is None) if photo.alpha is None else np.array_equal(filled.alpha, photo.alpha)
    assert found.std.shape == missing.shape and found.std.dtype == np.float32
    assert (found.std[~missing] == 0).all() and np.isfinite(found.std).all()


@pytest.mark.parametrize("photo_channels", [1, 3])
@pytest.mark.parametrize("model_channels", [1, 3])
@ways
def test_models_and_photos_may_differ_in_channels(model_channels, photo_channels, windows):
    size = (20, 15)
    photo, missing = random_photo(size, photo_channels), middle(size)
    found = fillings(tiny_model(image_channels=model_channels), photo, missing, windows=windows)
    assert found.sample(0).pixels.shape == photo.pixels.shape
    np.testing.assert_array_equal(found.sample(0).pixels[~missing], photo.pixels[~missing])
    assert (found.sample(0).pixels[missing] != photo.pixels[missing]).any()


def test_16_bits_are_filled_in_16_bits(model):
    size = (20, 15)
    inside = fillings(model, random_photo(size, 1, np.uint16), middle(size)).sample(0).pixels[middle(size)]
    assert len(np.unique(inside % 257)) > 5


# --- what is missing -------------------------------------------------------------------------------------------------


@sizes
@pytest.mark.parametrize("value", [0, 255])
@ways
def test_what_lies_in_the_hole_has_no_influence(model, size, value, windows):
    photo, missing = random_photo(size), middle(size)
    pixels = photo.pixels.copy()
    pixels[missing] = value
    for a, b in zip(
        everything(fillings(model, photo, missing, windows=windows)),
        everything(fillings(model, Photo(pixels), missing, windows=windows)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@ways
def test_the_whole_hole_is_filled(model, windows):
    """Wherever it lies, and however little of the photo is left."""
    size = (40, 30)
    for missing in (middle(size), ~middle(size), np.indices((30, 40)).sum(0) % 2 == 0):
        photo = random_photo(size, 3, np.uint16)
        found = fillings(model, photo, missing, samples=4, windows=windows)
        assert (found.sample(0).pixels != photo.pixels).any(-1)[missing].mean() > 0.95
        assert (found.std[missing] > 0).mean() > 0.95


# --- seeds and samples -----------------------------------------------------------------------------------------------


@sizes
@ways
def test_a_filling_depends_on_its_seed_alone(model, size, windows):
    """Not on how many are made: sample 1 of 4 is sample 1 of 1, bit by bit, in 16 bits."""
    photo, missing = random_photo(size, 3, np.uint16), middle(size)
    four, one = (
        fillings(model, photo, missing, samples=4, seed=3, windows=windows),
        fillings(model, photo, missing, samples=1, seed=3, windows=windows),
    )
    again, other = (
        fillings(model, photo, missing, samples=4, seed=3, windows=windows),
        fillings(model, photo, missing, seed=4, windows=windows),
    )
    np.testing.assert_array_equal(four.sample(0).pixels, one.sample(0).pixels)
    for a, b in zip(everything(four), everything(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (four.sample(0).pixels != other.sample(0).pixels).any()
    assert (four.sample(0).pixels != four.sample(1).pixels).any()


@ways
def test_the_global_random_state_has_no_part(model, windows):
    photo, missing = random_photo((20, 15)), middle((20, 15))
    first = fillings(model, photo, missing, windows=windows)
    torch.manual_seed(1234)
    np.testing.assert_array_equal(first.mean.pixels, fillings(model, photo, missing, windows=windows).mean.pixels)


@ways
def test_mean_and_std_are_those_of_the_samples(model, windows):
    size = (40, 30)
    photo, missing = random_photo(size, 3, np.uint16), middle(size)
    found = fillings(model, photo, missing, samples=6, windows=windows)
    values = np.stack([sample.pixels for sample in samples_of(found)]) / 65535
    np.testing.assert_allclose(found.mean.pixels / 65535, values.mean(0), atol=2e-5)
    np.testing.assert_allclose(found.std, np.where(missing, values.std(0).mean(-1), 0), atol=2e-5)
    assert found.std.max() > 1e-3


@ways
def test_one_sample_has_no_spread(model, windows):
    found = fillings(model, random_photo((20, 15)), middle((20, 15)), samples=1, windows=windows)
    assert (found.std == 0).all()
    np.testing.assert_array_equal(found.mean.pixels, found.sample(0).pixels)


@ways
def test_at_temperature_0_all_samples_are_one(model, windows):
    found = fillings(
        model, random_photo((20, 15)), middle((20, 15)), samples=3, temperature=(0.0, 0.0, 0.0), windows=windows
    )
    for sample in samples_of(found)[1:]:
        np.testing.assert_array_equal(sample.pixels, found.sample(0).pixels)
    assert found.std.max() < 1e-6


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.5, (0.5, 0.5, 0.5)), (1, (1.0, 1.0, 1.0)), ([0.7], (0.7, 0.7, 0.7)), ((1, 0.5, 0), (1.0, 0.5, 0.0))],
)
def test_temperatures_are_one_for_all_levels_or_one_each(value, wanted):
    assert temperatures(value, 3) == wanted


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([1, 1], "2 temperatures.*3 levels"),
        ([], "0 temperatures"),
        ([1, 1, 1, 1], "4"),
        (-0.1, r"-0\.1"),
        ([1, float("nan"), 1], "nan"),
        ([1, 1, float("inf")], "inf"),
    ],
)
def test_temperatures_out_of_range_are_refused(value, match):
    with pytest.raises(ConfigError, match=match):
        temperatures(value, 3)


@pytest.mark.parametrize("size", [4, 6, 7])
def test_models_of_tiny_images_fill_photos_too(size):
    levels = (Level(1, 6, 2), Level(size, 4, 1))
    photo, missing = random_photo((40, 30)), middle((40, 30))
    found = fillings(tiny_model(image_size=size, levels=levels), photo, missing)
    np.testing.assert_array_equal(found.sample(0).pixels[~missing], photo.pixels[~missing])
    assert (found.sample(0).pixels != photo.pixels).any(-1)[missing].mean() > 0.9


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_size_names_both(model):
    with pytest.raises(MaskError, match=r"70x33.*40x30"):
        fillings(model, random_photo((40, 30)), middle((70, 33)))


def test_an_empty_and_a_full_mask_are_refused(model):
    photo = random_photo((40, 30))
    with pytest.raises(MaskError, match="nothing to fill"):
        fillings(model, photo, np.zeros((30, 40), bool))
    with pytest.raises(MaskError, match="whole image"):
        fillings(model, photo, np.ones((30, 40), bool))


# --- joining ---------------------------------------------------------------------------------------------------------


def ramp(size):
    """A photo whose shade rises smoothly from the top left to the bottom right."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    shade = 0.2 + 0.3 * x / width + 0.3 * y / height
    return Photo(np.rint(255 * shade[..., None] * [1, 0.9, 0.8]).astype(np.uint8))


def jumps(pixels, missing):
    """Largest difference between neighbours of which one is missing, in 8-bit levels."""
    values = pixels.astype(int)
    across = np.abs(np.diff(values, axis=1)).max(-1)[missing[:, 1:] != missing[:, :-1]]
    down = np.abs(np.diff(values, axis=0)).max(-1)[missing[1:] != missing[:-1]]
    return max(across.max(initial=0), down.max(initial=0))


SMOOTH = [(64, 64), (178, 218), (33, 70), (300, 20), (20, 300), (256, 256)]


@pytest.mark.parametrize("size", SMOOTH, ids=str)
def test_a_smooth_photo_is_filled_without_a_seam(plain_model, size):
    photo, missing = ramp(size), middle(size)
    filled = fillings(plain_model, photo, missing).sample(0).pixels
    assert jumps(filled, missing) <= jumps(photo.pixels, missing) + 12
    assert np.abs(filled.astype(int) - photo.pixels).max() < 40


@pytest.mark.parametrize("size", SMOOTH, ids=str)
def test_a_shade_of_the_models_own_is_corrected(size):
    """What a model has too bright or too dark around the hole does not show as an edge."""
    photo, missing = ramp(size), middle(size)
    pixels, hole = tensors(photo.view(3), missing)
    small, _ = squeeze(pixels, torch.zeros_like(hole), 8)
    everywhere = (slice(0, size[1]), slice(0, size[0]))
    joined = enlarge(0.8 * small + 0.1, pixels, hole, everywhere, missing.shape)
    joined = torch.where(hole, joined, pixels)[0].movedim(0, -1).mul(255).round().numpy()
    assert jumps(joined, missing) <= jumps(photo.pixels, missing) + 8


def test_a_part_of_an_enlarged_frame_is_that_part_of_the_whole():
    """As torch's own interpolation has it."""
    small, pixels = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 50, 70)
    hole = torch.ones(1, 1, 50, 70, dtype=torch.bool)
    hole[..., 10:40, 20:60] = False  # what is known has it
    large = torch.nn.functional.interpolate(small, (50, 70), mode="bicubic", align_corners=False)
    box = (slice(10, 40), slice(20, 60))
    part = enlarge(small, large[..., 10:40, 20:60], hole[..., 10:40, 20:60], box, (50, 70))
    torch.testing.assert_close(part, large[..., 10:40, 20:60].clamp(0, 1), atol=1e-5, rtol=0)
    joined = enlarge(small, pixels[..., 10:40, 20:60], hole[..., 10:40, 20:60], box, (50, 70))
    torch.testing.assert_close(joined, pixels[..., 10:40, 20:60])


def test_a_large_frame_is_halved_before_it_is_squeezed_unless_nothing_is_left():
    view, missing = random_photo((700, 300)).pixels, middle((700, 300))
    frame, hole = reduced(view, missing, 8)
    assert frame.shape == (38, 88, 3) and hole.shape == (38, 88)
    assert abs(hole.mean() - missing.mean()) < 0.02
    scratch = np.zeros_like(missing)
    scratch[150] = True
    assert reduced(view, scratch, 8)[1].any() and not reduced(view, ~scratch, 8)[1].all()


@sizes
def test_a_small_pixel_is_missing_where_any_part_of_it_is(size):
    width, height = size
    pixels, hole = torch.rand(1, 3, height, width), torch.from_numpy(middle(size))[None, None]
    small, small_hole = squeeze(pixels, hole, 8)
    assert small.shape == (1, 3, 8, 8) and small_hole.shape == (1, 1, 8, 8) and small_hole.dtype == torch.bool
    for row, column in hole[0, 0].nonzero().tolist():
        y, x = int((row + 0.5) * 8 / height), int((column + 0.5) * 8 / width)
        assert small_hole[0, 0, y, x]
    if min(size) >= 33:
        assert not small_hole[0, 0, [0, -1]].any() and not small_hole[0, 0, :, [0, -1]].any()


@pytest.mark.parametrize("step", ["rows", "columns", "chessboard"])
def test_a_hole_that_is_the_same_all_over_leaves_the_model_something_to_fill(model, step):
    y, x = np.indices((32, 16))
    missing = {"rows": y, "columns": x, "chessboard": x + y}[step] % 2 == 1
    found = fillings(model, random_photo((16, 32)), missing)
    assert (found.rows[0] != found.rows[1]).any()


# --- batches ---------------------------------------------------------------------------------------------------------


def image_batch(count, channels=3):
    pixels = (images(count, channels) * 255).round().byte().movedim(1, -1).numpy()
    return np.ascontiguousarray(pixels), holes(count)[:, 0].numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_filled_several_times(channels):
    pixels, missing = image_batch(5, channels)
    found = fill_batch(
        tiny_model(image_channels=channels), pixels, missing, samples=3, seed=0, temperature=(1.0, 1.0, 1.0)
    )
    assert found.shape == (3, 5, 8, 8, channels) and found.dtype == np.uint8
    for sample in found:
        np.testing.assert_array_equal(sample[~missing], pixels[~missing])
    assert (found[0][missing] != found[1][missing]).any()


def test_all_8bit_values_survive_a_batch(model):
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    missing = np.zeros((4, 8, 8), bool)
    missing[0, 0, 0] = True
    found = fill_batch(model, pixels, missing, samples=1, seed=0, temperature=ONES)[0]
    np.testing.assert_array_equal(found[~missing], pixels[~missing])


def test_a_batch_is_rounded_to_the_nearest_level(model):
    x, missing = images(3), holes(3)
    pixels, _ = image_batch(3)
    found = fill_batch(model, pixels, missing[:, 0].numpy(), samples=1, seed=5, temperature=ONES)[0]
    wanted = fill(model, Looks(x, missing, [(5, 0, i) for i in range(3)]), ONES).movedim(1, -1).numpy()
    np.testing.assert_array_equal(found, np.rint(wanted * 255))


def test_an_image_of_a_batch_is_filled_as_it_is_alone(model, monkeypatch):
    """But for the last bits: in batches of any size, at any place."""
    x, missing, seeds = images(5), holes(5), [(9, i) for i in range(5)]
    together = fill(model, Looks(x, missing, seeds), ONES)
    monkeypatch.setitem(inpainting.BATCH, "cpu", 2)
    torch.testing.assert_close(fill(model, Looks(x, missing, seeds), ONES), together, rtol=0, atol=1e-5)
    alone = fill(model, Looks(x[3:4], missing[3:4], seeds[3:4]), ONES)
    torch.testing.assert_close(alone, together[3:4], rtol=0, atol=1e-5)
    assert (fill(model, Looks(x[3:4], missing[3:4], [(9, 0)]), ONES) - alone).abs().max() > 1e-3


def test_arrays_may_be_read_only(model):
    pixels, missing = image_batch(2)
    pixels.flags.writeable = missing.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill_batch(model, pixels, missing, samples=1, seed=0, temperature=ONES)
        fillings(model, Photo(pixels[0]), missing[0])


# --- several photos --------------------------------------------------------------------------------------------------


@ways
def test_photos_are_filled_together_as_they_are_alone(windows):
    """Bit by bit, in 16 bits, whatever the others are; and each is given back under its own name.

    By models whose widths are multiples of 16, as those of all recipes: with others, the last bits may differ.
    """
    levels = (Level(1, 16, 4), Level(2, 16, 4, modules=2), Level(4, 16, 2))
    model = tiny_model(levels=levels, flat_channels=4)
    given = [
        (size, random_photo(size, 3, np.uint16, seed=i), middle(size)) for i, size in enumerate([*SIZES[:-1], (90, 90)])
    ]
    tasks = (
        (size, size[0] * size[1], filling(model, photo, missing, samples=3, seed=7, windows=windows))
        for size, photo, missing in given
    )
    together = dict(fill_together(model, tasks, ONES))
    for size, photo, missing in given:
        alone = fillings(model, photo, missing, samples=3, seed=7, windows=windows)
        for a, b in zip(everything(together[size]), everything(alone), strict=True):
            np.testing.assert_array_equal(a, b)


@ways
def test_a_photo_that_cannot_be_filled_spares_the_others(model, windows):
    size, photo = (40, 30), random_photo((40, 30))
    holes = {"none": np.zeros((30, 40), bool), "some": middle(size), "all": np.ones((30, 40), bool)}
    tasks = [
        (name, 1200, filling(model, photo, missing, samples=1, seed=0, windows=windows))
        for name, missing in holes.items()
    ]
    found = dict(fill_together(model, tasks, ONES))
    assert [isinstance(found[name], MaskError) for name in holes] == [True, False, True]


def test_tasks_are_taken_when_they_are_needed(model, monkeypatch):
    """A folder of thousands is not read into memory at once."""
    monkeypatch.setattr(inpainting, "ROOM", 2000)
    taken = []

    def tasks():
        for i in range(10):
            taken.append(i)
            yield i, 1200, filling(model, random_photo((40, 30)), middle((40, 30)), samples=1, seed=0, windows=False)

    ahead = [len(taken) - done for done, _ in enumerate(fill_together(model, tasks(), ONES))]
    assert len(taken) == 10 and max(ahead) <= 3


# --- through windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SMOOTH, ids=str)
def test_windows_leave_no_grid_and_no_seam(plain_model, size):
    photo, missing = ramp(size), middle(size)
    filled = fillings(plain_model, photo, missing, windows=True).sample(0).pixels.astype(int)
    assert jumps(filled, missing) <= jumps(photo.pixels, missing) + 12
    steps = [np.abs(np.diff(filled, axis=axis)).max(-1) for axis in (0, 1)]
    inside = [missing[1:] & missing[:-1], missing[:, 1:] & missing[:, :-1]]
    assert max(step[where].max(initial=0) for step, where in zip(steps, inside, strict=True)) <= 25
    assert np.abs(filled - photo.pixels).max() < 60


def test_a_window_goes_by_what_windows_before_it_filled(model, monkeypatch):
    """The later ones of two that overlap see no hole where the earlier have been."""
    missing = np.zeros((40, 60), bool)
    missing[19:21, 10:50] = True
    shares, inner = [], inpainting.fill
    monkeypatch.setattr(
        inpainting, "fill", lambda *args: shares.append(args[1].missing.float().mean((1, 2, 3))) or inner(*args)
    )
    fillings(model, random_photo((60, 40)), missing, samples=1, windows=True)
    assert len(shares) >= 2 and shares[-1].max() < shares[0].min()


def test_the_last_octave_goes_by_the_one_before(model, monkeypatch):
    """In a large hole, what is deep inside is hinted at, and what is filled there follows the hint."""
    hints, inner = [], inpainting.fill
    monkeypatch.setattr(inpainting, "fill", lambda *args: hints.append(args[1].hint) or inner(*args))
    photo, missing = ramp((120, 120)), np.zeros((120, 120), bool)
    missing[20:100, 20:100] = True
    found = fillings(model, photo, missing, samples=1, windows=True)
    assert not hints[0].there.any() and hints[-1].there.any()
    assert len(found.rows[0]) == 6400 and (found.rows[0] > 0).mean() > 0.95
