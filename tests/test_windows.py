"""Windows: every missing pixel is filled once, in an order in which each window may rely on those before it."""

import itertools

import numpy as np
import pytest

from matfill import masks
from matfill.windows import Octave, Window, boxes, deep, dilated, halved, octaves, surroundings, turns, windows

SIZE = 64
SPECS = ["random3x20", "random1x150", "center90", "strokes", "left", "pixels20", "boxes", "pixels95", "random900x3"]
SHAPES = [(200, 301), (64, 64), (63, 500), (1, 900), (33, 17), (129, 128)]


def sampled(spec, shape, seed=0):
    try:
        missing = masks.parse(spec).sample(*shape, np.random.default_rng(seed))
    except masks.MaskError:
        pytest.skip("does not fit")
    if missing.all():
        pytest.skip("nothing is left")
    return missing


def photo(shape, channels=3, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (*shape, channels), dtype, endpoint=True)


every_hole = pytest.mark.parametrize("spec", SPECS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[1]}x{shape[0]}")


@every_hole
@every_shape
def test_cores_cover_what_is_wanted_and_lie_in_their_windows(spec, shape):
    for octave in octaves(photo(shape), sampled(spec, shape), SIZE):
        covered = np.zeros(octave.missing.shape, bool)
        for window in itertools.chain(*octave.turns):
            rows, columns = window.core
            covered[window.core] = True
            assert window.top % 2 == 0 and window.left % 2 == 0
            assert window.top <= rows.start < rows.stop <= window.top + SIZE
            assert window.left <= columns.start < columns.stop <= window.left + SIZE
            assert octave.wanted[window.core].any()
        assert not (octave.wanted & ~octave.missing).any() and covered[octave.wanted].all()


@every_hole
@every_shape
def test_windows_of_one_turn_do_not_overlap(spec, shape):
    for octave in octaves(photo(shape), sampled(spec, shape), SIZE):
        for turn in octave.turns:
            places = np.array([(window.top, window.left) for window in turn])
            apart = np.abs(places[:, None] - places).max(-1) + SIZE * np.eye(len(places), dtype=int)
            assert apart.min() >= SIZE


def test_turns_keep_all_windows():
    found = windows(sampled("left", (300, 400)), SIZE)
    assert sorted(map(repr, itertools.chain(*turns(found, SIZE)))) == sorted(map(repr, found))
    assert len(turns(found, SIZE)) <= 9


def test_small_holes_take_one_look_in_the_middle_of_a_window():
    missing = np.zeros((1000, 1500), bool)
    for top, left in ((100, 103), (301, 1200), (950, 20)):
        missing[top : top + 20, left : left + 20] = True
    (octave,) = octaves(photo(missing.shape), missing, SIZE)
    (turn,) = octave.turns
    assert len(turn) == 3
    window = turn[0]
    assert (abs(2 * window.top + SIZE - 220), abs(2 * window.left + SIZE - 226)) <= (2, 2)


def test_specks_close_to_each_other_share_windows():
    missing = np.zeros((400, 400), bool)
    missing[10:390:19, 10:390:19] = True
    found = windows(missing, SIZE)
    assert len(found) <= missing.sum() / 4


def test_a_large_hole_goes_on_until_it_fits():
    missing = np.zeros((512, 768), bool)
    missing[100:400, 200:600] = True
    scales = octaves(photo(missing.shape), missing, SIZE)
    assert [octave.missing.shape for octave in scales] == [(512 >> i, 768 >> i) for i in range(len(scales))]
    assert 4 <= len(scales) <= 5
    assert not deep(scales[-1].missing, SIZE).any() or max(scales[-1].missing.shape) <= SIZE


def test_only_what_is_deep_is_filled_at_a_coarser_scale():
    """Of a wide and a thin hole, far apart, the thin one is left to the photo's own resolution."""
    missing = np.zeros((300, 600), bool)
    missing[50:150, 50:150] = True
    missing[250:256, 300:590] = True
    finest, coarser = octaves(photo(missing.shape), missing, SIZE)[:2]
    assert (finest.wanted == missing).all()
    assert coarser.wanted[25:75, 25:75].all() and coarser.missing[125:128, 150:295].all()
    assert not coarser.wanted[100:].any()


def test_deep_is_what_lies_two_blocks_inside():
    missing = np.zeros((80, 80), bool)
    missing[16:40, 16:40] = True
    assert deep(missing, SIZE).sum() == 1 and deep(missing, SIZE)[3, 3]
    missing[39, 39] = False
    assert not deep(missing, SIZE).any()


def test_a_hole_at_the_edge_is_as_deep_as_what_is_known_is_far():
    missing = np.zeros((80, 80), bool)
    missing[:, :16] = True
    assert deep(missing, SIZE)[:, 0].all() and not deep(missing, SIZE)[:, 1:].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (1, 5)])
def test_halving_takes_the_mean_of_what_is_known(shape, dtype):
    pixels, missing = photo(shape, 3, dtype), np.random.default_rng(0).random(shape) < 0.4
    pixels[missing] = 0
    small, hole = halved(pixels, missing)
    assert small.dtype == dtype and small.shape[:2] == hole.shape == tuple(-(-n // 2) for n in shape)
    for row, column in np.ndindex(hole.shape):
        rows, columns = (np.minimum((2 * i, 2 * i + 1), n - 1) for i, n in zip((row, column), shape, strict=True))
        some, known = pixels[np.ix_(rows, columns)].reshape(4, 3), ~missing[np.ix_(rows, columns)].ravel()
        assert hole[row, column] == (known.sum() < 2)
        wanted = some[known].mean(0) if known.sum() >= 2 else np.zeros(3)
        assert np.abs(small[row, column] - wanted).max() <= 0.5


def test_the_hole_of_an_octave_holds_nothing():
    missing = sampled("center90", (200, 200))
    for octave in octaves(photo((200, 200)), missing, SIZE):
        assert (octave.pixels[octave.missing] == 0).all()


def test_dilation_is_by_one_in_all_directions():
    blocks = np.zeros((5, 6), bool)
    blocks[0, 0] = blocks[3, 4] = True
    wanted = np.zeros((5, 6), bool)
    wanted[:2, :2] = wanted[2:5, 3:6] = True
    np.testing.assert_array_equal(dilated(blocks), wanted)


@every_hole
def test_the_surroundings_hold_all_that_is_looked_at(spec):
    """Wherever the hole lies, the windows of the cut are those of the whole photo."""
    missing = np.zeros((1500, 1200), bool)
    missing[700:1000, 601:901] = sampled(spec, (300, 300))
    rows, columns = surroundings(missing, SIZE)
    assert missing[rows, columns].sum() == missing.sum()
    assert rows.start % 2 == 0 and columns.start % 2 == 0
    whole, cut = (octaves(photo((1500, 1200))[at], missing[at], SIZE) for at in (np.s_[:, :], (rows, columns)))
    assert len(whole) == len(cut)
    for number, (a, b) in enumerate(zip(whole, cut, strict=True)):
        shift = (rows.start >> number, columns.start >> number)
        assert seen(a, (0, 0)) == seen(b, shift)


def seen(octave: Octave, shift):
    return [
        [(w.top + shift[0], w.left + shift[1], w.take(octave.pixels, SIZE).tobytes()) for w in turn]
        for turn in octave.turns
    ]


def test_a_window_beyond_the_edge_is_mirrored():
    image = np.arange(12).reshape(3, 4)
    window = Window(-2, -2, (slice(0, 3), slice(0, 4)))
    wanted = np.pad(image, ((2, 3), (2, 2)), mode="symmetric")
    np.testing.assert_array_equal(window.take(image, 8), wanted)
    np.testing.assert_array_equal(window.take(image, 4, margin=1, shrink=2), window.take(image, 8)[:6, :6][:6])


def test_a_coarser_image_is_taken_at_the_same_place():
    fine = np.arange(64).reshape(8, 8)
    coarse = fine[::2, ::2]
    window = Window(2, 4, (slice(2, 4), slice(4, 6)))
    np.testing.assert_array_equal(window.take(coarse, 2, shrink=2), coarse[1:3, 2:4])
    np.testing.assert_array_equal(window.take(coarse, 2, margin=1, shrink=2), coarse[0:4, [1, 2, 3, 3]])


def test_boxes_hold_every_hole_with_its_surroundings():
    missing = np.zeros((200, 300), bool)
    missing[10:30, 0:20] = missing[150:160, 200:290] = True
    found = boxes(missing, 8, 2)
    assert [box for box, _ in found] == [(slice(0, 48), slice(0, 40)), (slice(128, 176), slice(184, 300))]


def test_boxes_that_overlap_have_each_a_hole_of_their_own():
    missing = np.zeros((60, 60), bool)
    missing[8:21, 8:21] = missing[30:50, 25:51] = True
    parts = np.zeros((60, 60), int)
    for box, own in boxes(missing, 4, 8):
        parts[box] += own
        assert own.sum() in (13 * 13, 20 * 26)
    np.testing.assert_array_equal(parts, missing)
