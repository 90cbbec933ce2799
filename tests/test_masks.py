"""Masks: what each specification covers, that draws are fair, and that they depend on their own seed alone."""

import pickle

import numpy as np
import pytest

from matfill.errors import MaskError
from matfill.masks import GRAMMAR, parse, sample_batch

ALL = ["random3x20", "center32", "quadrants2", "left", "right", "top", "bottom", "boxes", "strokes", "pixels50"]


def seeds(count, seed=0):
    return [(seed, 0, index) for index in range(count)]


def quadrants_of(missing):
    """The four quadrants of one mask of an even size, each all True or all False."""
    height, width = missing.shape
    blocks = missing.reshape(2, height // 2, 2, width // 2).transpose(0, 2, 1, 3).reshape(4, -1)
    assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all()
    return tuple(blocks[:, 0].tolist())


@pytest.mark.parametrize("spec", ALL)
def test_a_mask_is_a_boolean_array_with_missing_and_visible_pixels(spec):
    for height, width in ((64, 64), (48, 80)):
        missing = parse(spec).sample(height, width, np.random.default_rng(0))
        assert missing.dtype == bool and missing.shape == (height, width)
        assert 0 < missing.sum() < missing.size


def test_random_squares_cover_each_pixel_as_often_as_independent_uniform_positions_do():
    side, square, count, draws = 16, 5, 3, 20_000
    starts = side - square + 1
    covering = np.array([min(i, starts - 1) - max(i - square + 1, 0) + 1 for i in range(side)]) / starts
    expected = 1 - (1 - np.outer(covering, covering)) ** count
    masks = sample_batch(parse("random3x5"), side, side, seeds(draws))
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(masks.mean(axis=0) - expected) < 5 * error).all()


def test_a_random_square_reaches_every_position_up_to_the_border():
    masks = sample_batch(parse("random1x20"), 24, 32, seeds(2000))
    assert (masks.sum(axis=(1, 2)) == 400).all()
    positions = {(m.any(axis=1).argmax(), m.any(axis=0).argmax()) for m in masks}
    assert positions == {(top, left) for top in range(5) for left in range(13)}


def test_the_papers_squares_take_a_quarter_of_the_image():
    assert 0.24 < sample_batch(parse("random3x20"), 64, 64, seeds(2000)).mean() < 0.265


def test_a_square_keeps_its_size_in_pixels_in_any_image():
    for shape in ((20, 20), (20, 300), (500, 33)):
        assert parse("random1x20").sample(*shape, np.random.default_rng(1)).sum() == 400
        assert parse("center20").sample(*shape, np.random.default_rng(1)).sum() == 400


@pytest.mark.parametrize("visible", [1, 2, 3])
def test_quadrants_leave_n_visible_and_every_choice_equally_often(visible):
    masks = sample_batch(parse(f"quadrants{visible}"), 28, 28, seeds(3000))
    choices, counts = np.unique([quadrants_of(m) for m in masks], axis=0, return_counts=True)
    assert (choices.sum(axis=1) == 4 - visible).all()
    assert len(choices) == {1: 4, 2: 6, 3: 4}[visible]
    assert (np.abs(counts / 3000 - 1 / len(choices)) < 0.04).all()


def test_quadrants_of_an_odd_image_meet_without_gap_or_overlap():
    masks = sample_batch(parse("quadrants3"), 5, 7, seeds(100))
    distinct = np.unique(masks.reshape(100, -1), axis=0)
    assert len(distinct) == 4 and (distinct.sum(axis=0) == 1).all()


def test_halves_are_where_their_names_say_and_opposite_ones_are_complements():
    left, right, top, bottom = (
        parse(spec).sample(5, 7, np.random.default_rng(0)) for spec in ("left", "right", "top", "bottom")
    )
    assert left[:, :3].all() and not left[:, 3:].any()
    assert top[:2].all() and not top[2:].any()
    assert (right == ~left).all() and (bottom == ~top).all()


def test_center_is_in_the_centre():
    missing = parse("center4").sample(8, 10, np.random.default_rng(0))
    assert missing[2:6, 3:7].all() and missing.sum() == 16


@pytest.mark.parametrize("percent", [1, 25, 99])
def test_pixels_are_exactly_that_many_and_spread_evenly(percent):
    masks = sample_batch(parse(f"pixels{percent}"), 20, 30, seeds(2000))
    assert (masks.sum(axis=(1, 2)) == 6 * percent).all()
    p = percent / 100
    assert (np.abs(masks.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / 2000)).all()


def test_boxes_lie_everywhere_at_the_edges_too_and_leave_something():
    found = sample_batch(parse("boxes"), 40, 60, seeds(2000))
    covered = found.mean((1, 2))
    assert covered.max() <= 0.75 and 0.15 < covered.mean() < 0.4
    often = found.mean(0)
    assert often.min() > 0.06 and often.max() < 6 * often.min()
    assert found[:, 0].any(1).mean() > 0.3 and found[:, 0].all(1).mean() < 0.02
    assert parse("boxes").sample(1, 1, np.random.default_rng(0)).all()


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (64, 160), (300, 200)])
def test_strokes_cover_a_sensible_share(shape):
    coverage = sample_batch(parse("strokes"), *shape, seeds(100)).mean(axis=(1, 2))
    assert coverage.min() >= 0.10 and coverage.max() <= 0.36
    assert coverage.std() > 0.03


def test_strokes_are_brush_strokes_not_specks_and_go_everywhere():
    masks = sample_batch(parse("strokes"), 64, 64, seeds(300))
    inside = masks[:, 1:-1, 1:-1]
    touching = masks[:, :-2, 1:-1] | masks[:, 2:, 1:-1] | masks[:, 1:-1, :-2] | masks[:, 1:-1, 2:]
    assert (touching | ~inside).all()  # no pixel stands alone
    assert masks.any(axis=0).all()
    assert len(np.unique(masks.reshape(300, -1), axis=0)) == 300


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 50)])
def test_strokes_end_in_the_tiniest_image(shape):
    assert parse("strokes").sample(*shape, np.random.default_rng(0)).any()


@pytest.mark.parametrize("spec", ALL)
def test_a_mask_depends_on_its_own_seed_alone(spec):
    sampler = parse(spec)
    whole = sample_batch(sampler, 64, 64, seeds(8))
    assert (sample_batch(sampler, 64, 64, seeds(8)[3:6]) == whole[3:6]).all()
    assert (sample_batch(pickle.loads(pickle.dumps(sampler)), 64, 64, seeds(8)) == whole).all()


@pytest.mark.parametrize("spec", ["random3x20", "boxes", "strokes", "pixels50"])
def test_other_seeds_give_other_masks(spec):
    masks = sample_batch(parse(spec), 64, 64, [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    assert len(np.unique(masks.reshape(4, -1), axis=0)) == 4


def test_all_is_everything():
    assert parse("all").sample(5, 3, np.random.default_rng(0)).all()


def test_no_seeds_no_masks():
    assert sample_batch(parse("left"), 4, 6, []).shape == (0, 4, 6)


def test_samplers_are_equal_by_their_specification():
    assert parse("random3x20") == parse("random3x20") != parse("random3x21")
    assert parse("random3x20").spec == "random3x20"


@pytest.mark.parametrize(
    "spec",
    [
        *("", "middle", "left\n", "Left", "random", "random3", "randomx20", "3x20", "random0x20", "random3x0"),
        *("random3x-2", "random3x20 ", "Random3x20", "random3x99999999999", "random३x20", "center", "center0"),
        *("quadrants", "quadrants0", "quadrants4", "pixels0", "pixels100", "pixels1.5"),
    ],
)
def test_anything_else_is_refused_with_the_grammar_in_one_line(spec):
    with pytest.raises(MaskError) as caught:
        parse(spec)
    message = str(caught.value)
    assert repr(spec) in message and "\n" not in message.replace(repr(spec), "")
    for form in ("randomNxS", "centerS", "quadrantsN", "left, right, top, bottom", "strokes", "pixelsP"):
        assert form in message and form in GRAMMAR


@pytest.mark.parametrize("spec", ["random3x20", "center20"])
def test_a_square_that_does_not_fit_names_both_sizes(spec):
    with pytest.raises(MaskError, match=r"20x20.*32x19"):
        parse(spec).sample(19, 32, np.random.default_rng(0))


@pytest.mark.parametrize("spec", ["left", "bottom", "quadrants1"])
def test_an_image_too_small_to_halve_is_refused(spec):
    with pytest.raises(MaskError, match="1x8"):
        parse(spec).sample(8, 1, np.random.default_rng(0))


@pytest.mark.parametrize(("visible", "seen"), [(1, [(1, 0)]), (2, [(0, 0), (1, 0)]), (3, [(0, 0), (0, 1), (1, 0)])])
def test_fixed_quadrants_are_those_of_the_protocol(visible, seen):
    missing = parse(f"quadrants{visible}fixed").sample(28, 28, np.random.default_rng(0))
    for row in range(2):
        for column in range(2):
            quadrant = missing[14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
            assert quadrant.all() != ((row, column) in seen) and quadrant.any() == quadrant.all()


def test_a_list_draws_each_of_its_masks_as_often():
    sampler = parse("left,right,top")
    drawn = [sampler.sample(4, 4, np.random.default_rng(seed)) for seed in range(300)]
    for name in ("left", "right", "top"):
        alone = parse(name).sample(4, 4, np.random.default_rng(0))
        assert 60 < sum(np.array_equal(alone, missing) for missing in drawn) < 140


@pytest.mark.parametrize("spec", ["left,", ",left", "left,nothing", "left, right"])
def test_a_list_with_a_part_that_is_no_mask_is_refused(spec):
    with pytest.raises(MaskError, match="is no mask"):
        parse(spec)
