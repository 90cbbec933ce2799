"""Scores of photos: through windows they are sums of what each look says, and bounds of what was there."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from matfill import photo_scoring
from matfill.errors import ConfigError, MaskError
from matfill.images import Photo
from matfill.photo_scoring import bits_per_dim


def photo(height, width, seed=0, dtype=np.uint8):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Photo(values if dtype == np.uint8 else values.astype(np.uint16) * 257)


def hole(height, width, top, left, side):
    missing = np.zeros((height, width), bool)
    missing[top : top + side, left : left + side] = True
    return missing


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_where_a_window_is_the_photo_both_ways_say_the_same(model):
    given, missing = photo(8, 8), hole(8, 8, 2, 3, 3)
    whole, window = (bits_per_dim(model, given, missing, samples=200, windows=windows) for windows in (False, True))
    assert window == pytest.approx(whole, rel=1e-5)


def test_every_second_row_has_its_price(model):
    missing = np.arange(16)[:, None] % 2 * np.ones((1, 16)) == 1
    assert 0 < bits_per_dim(model, photo(16, 16), missing, samples=2, windows=False) < 100


def test_two_holes_far_apart_cost_what_each_costs(model):
    given = photo(60, 90)
    one, other = hole(60, 90, 5, 5, 4), hole(60, 90, 40, 70, 3)
    each = [bits_per_dim(model, given, missing, samples=100, windows=True) * missing.sum() for missing in (one, other)]
    both = bits_per_dim(model, given, one | other, samples=100, windows=True)
    assert both == pytest.approx(sum(each) / (one | other).sum(), rel=0.02)


def test_every_pixel_is_scored_once_at_each_scale(model, monkeypatch):
    """And with all that was scored before it in sight."""
    counted, given, missing = {}, photo(50, 70), hole(50, 70, 10, 12, 26)
    inner = photo_scoring.look

    def look(asked, size):
        for canvas, coarser, window in asked:
            assert coarser is None or coarser.missing.shape[0] == -(-canvas.missing.shape[0] // 2)
            counted.setdefault(canvas.missing.shape, []).append(window)
        return inner(asked, size)

    monkeypatch.setattr(photo_scoring, "look", look)
    looks = list(photo_scoring._by_windows(model, given, missing))
    assert len(counted) >= 3
    finest = max(counted)
    assert sum(int(one.sum()) for *_, one in looks[-len(looks) :]) >= missing.sum()
    total = sum(int(one[at].sum()) for *_, one in looks for at in range(len(one)))
    assert total < missing.sum() * (1 + 1 / 4 + 1 / 16 + 1 / 64 + 0.2)
    assert all((one <= unknown).all() for _, unknown, _, one in looks)
    assert finest == (50, 70)


def test_the_scales_hold_the_photos_own_pixels(model):
    """A look at half the resolution knows the means of the real pixels, in the hole as outside."""
    given = Photo(np.full((64, 64, 3), 200, np.uint8))
    for x, _, hint, _ in photo_scoring._by_windows(model, given, hole(64, 64, 4, 4, 50)):
        assert (x * 255 == 200).all() and torch.isin((hint.image * 255).round(), torch.tensor([0.0, 200.0])).all()


def test_depth_does_not_matter(model):
    missing = hole(30, 40, 3, 3, 20)
    shallow, deep = (
        bits_per_dim(model, photo(30, 40, dtype=kind), missing, windows=True) for kind in (np.uint8, np.uint16)
    )
    assert shallow == deep


def test_the_likely_costs_less_than_the_unlikely_in_a_large_hole(model):
    plain, missing = Photo(np.full((60, 60, 3), 128, np.uint8)), hole(60, 60, 10, 10, 40)
    odd = plain.pixels.copy()
    odd[missing] = np.random.default_rng(0).integers(0, 2, (missing.sum(), 3)) * 255
    assert bits_per_dim(model, plain, missing, windows=True) < bits_per_dim(model, Photo(odd), missing, windows=True)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(MaskError, match="empty"):
        bits_per_dim(model, photo(9, 9), np.zeros((9, 9), bool), windows=True)
    with pytest.raises(ConfigError, match="one by one"):
        bits_per_dim(tiny_model(autoregression=1), photo(9, 9), hole(9, 9, 1, 1, 2), windows=True)
