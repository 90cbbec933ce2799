"""Holes: what may be said, what it marks, how they grow, and how fillings fade into the photo."""

import numpy as np
import pytest
from PIL import Image

from matfill import masks
from matfill.errors import MaskError
from matfill.holes import Hole, grown, make_hole, parse
from matfill.images import Photo, save_mask


def photo(width=12, height=8, dtype=np.uint8, channels=3, *, alpha=False):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels + 1), dtype=dtype)
    return Photo(values[..., :channels].copy(), values[..., channels].copy() if alpha else None)


def box(left, top, width, height, size=(12, 8)):
    missing = np.zeros(size[::-1], bool)
    missing[top : top + height, left : left + width] = True
    return missing


def marked(*texts, of=None, name="photo.png", seed=0, **options):
    return parse(texts, **options).hole(of or photo(), name, seed).missing


def refusal(*texts, **options):
    with pytest.raises(MaskError) as caught:
        marked(*texts, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what may be said ------------------------------------------------------------------------------------------------


def test_a_box_is_where_it_says_and_never_beyond():
    np.testing.assert_array_equal(marked("box:3,1,4,2"), box(3, 1, 4, 2))
    np.testing.assert_array_equal(marked("box:8,6,4,2"), box(8, 6, 4, 2))
    for text in ("box:9,6,4,2", "box:8,7,4,2", "box:12,0,1,1"):
        assert "12x8" in refusal(text)
    for text in ("box:1,2,3", "box:1,2,0,3", "box:-1,2,3,4", "box:1.5,2,3,4", "box:", "box:1,2,3,4,5"):
        assert "is no box" in refusal(text)


def test_several_are_united():
    np.testing.assert_array_equal(marked("box:0,0,2,2", "box:1,1,3,3"), box(0, 0, 2, 2) | box(1, 1, 3, 3))


def test_a_specification_is_drawn_with_the_seed_as_ever():
    drawn = masks.parse("random2x3").sample(8, 12, np.random.default_rng(5))
    np.testing.assert_array_equal(marked("random2x3", seed=5), drawn)
    np.testing.assert_array_equal(marked("random2x3", "box:0,0,1,1", seed=5), drawn | box(0, 0, 1, 1))
    assert (marked("random2x3", seed=6) != drawn).any()


def test_of_several_some_may_mark_nothing():
    for text in ("alpha", "color:#010203"):
        np.testing.assert_array_equal(marked(text, "box:0,0,1,1"), box(0, 0, 1, 1))
        assert "nothing is missing" in refusal(text)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_where_the_photo_is_transparent(dtype):
    clear = photo(dtype=dtype, alpha=True)
    unit = np.iinfo(dtype).max // 255
    clear.alpha[:] = 255 * unit
    clear.alpha[1, 1:4] = (0, 127 * unit, 128 * unit)
    np.testing.assert_array_equal(marked("alpha", of=clear), box(1, 1, 2, 1))
    np.testing.assert_array_equal(marked("alpha", of=clear, threshold=255), box(1, 1, 3, 1))
    assert "no transparency" in refusal("alpha")


def test_a_colour_is_meant_exactly_or_within_what_is_said():
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[2, 3:6] = (255, 0, 255), (250, 4, 255), (255, 30, 255)
    shown = Photo(pixels)
    np.testing.assert_array_equal(marked("color:#ff00ff", of=shown), box(3, 2, 1, 1))
    np.testing.assert_array_equal(marked("color:magenta~5", of=shown), box(3, 2, 2, 1))
    np.testing.assert_array_equal(marked("color:#ff00ff~30", of=Photo(pixels.astype(np.uint16) * 257)), box(3, 2, 3, 1))
    assert "~20" in refusal("color:#00ff00", of=shown)
    for text in ("color:", "color:nope", "color:#12", "color:#ff00ff~x"):
        assert "is no colour" in refusal(text)


def test_a_grey_photo_has_only_grey_colours():
    pixels = np.zeros((8, 12, 1), np.uint8)
    pixels[2, 3] = 255
    np.testing.assert_array_equal(marked("color:#ffffff", of=Photo(pixels)), box(3, 2, 1, 1))
    assert "no pixel" in refusal("color:#ff00ff", of=Photo(pixels))


def test_a_mask_image_of_any_mode(tmp_path):
    missing = box(2, 1, 3, 4)
    grey = Image.fromarray(np.where(missing, 200, 90).astype(np.uint8))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        grey.convert(mode, **({"dither": Image.Dither.NONE} if mode == "1" else {})).save(path)
        np.testing.assert_array_equal(marked(str(path)), missing)
        np.testing.assert_array_equal(marked(str(path), invert=True), ~missing)
        if mode not in ("1", "CMYK"):
            assert "nothing" in refusal(str(path), threshold=201)
            assert "whole" in refusal(str(path), threshold=80)
    assert "9x9 but the image 12x8" in refusal(str(write(tmp_path / "other.png", np.ones((9, 9), bool))))
    assert "EXIF" in refusal(str(write(tmp_path / "turned.png", np.ones((12, 8), bool))))


def write(path, missing):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mask(missing, path)
    return path


def test_a_folder_of_masks_is_matched_by_name(tmp_path):
    write(tmp_path / "a.png", box(0, 0, 1, 1))
    write(tmp_path / "sub" / "a.bmp", box(1, 1, 1, 1))
    write(tmp_path / "sub" / "b.c.png", box(2, 2, 1, 1))
    (tmp_path / ".a.png").touch()
    (tmp_path / "d.png").mkdir()
    np.testing.assert_array_equal(marked(str(tmp_path), name="a.jpg"), box(0, 0, 1, 1))
    np.testing.assert_array_equal(marked(str(tmp_path), name="sub/a.jpg"), box(1, 1, 1, 1))
    np.testing.assert_array_equal(marked(str(tmp_path), name="sub/b.c.jpg"), box(2, 2, 1, 1))
    np.testing.assert_array_equal(marked(str(tmp_path), name="elsewhere/a.jpg"), box(0, 0, 1, 1))
    assert "no mask" in refusal(str(tmp_path), name="sub/d.jpg")
    write(tmp_path / "a.bmp", box(0, 0, 1, 1))
    message = refusal(str(tmp_path), name="a.jpg")
    assert "a.bmp and a.png" in message


def test_what_is_not_there_is_said_to_be_missing(tmp_path):
    assert "write one of: randomNxS" in refusal("nope")
    for text in ("nope.png", str(tmp_path / "nope"), "x" * 5000 + ".png"):
        assert "there is no mask" in refusal(text)
    assert "no regular file" in refusal("/dev/null")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "there is no mask" in refusal(str(tmp_path / "loop"))


# --- growing and fading ----------------------------------------------------------------------------------------------


def distances(missing):
    """From every pixel to the nearest that is missing, by hand."""
    where = np.argwhere(missing)
    at = np.stack(np.indices(missing.shape), axis=-1)
    return np.sqrt(((at[:, :, None] - where) ** 2).sum(-1)).min(-1)


@pytest.mark.parametrize("by", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("shape", [(40, 30), (1, 50), (50, 1), (130, 9)])
def test_a_hole_grows_by_what_lies_within_a_distance(by, shape):
    missing = np.random.default_rng(by).random(shape) < 0.01
    missing[0, 0] = True
    np.testing.assert_array_equal(grown(missing, by), distances(missing) <= by)


@pytest.mark.parametrize("feather", [1, 3, 10])
def test_a_filling_fades_in_with_the_distance_from_what_is_observed(feather):
    missing = np.zeros((40, 30), bool)
    missing[5:30, :18] = True  # to the frame's edge, where nothing fades
    missing[33:36, 20:22] = True
    hole = make_hole(missing, feather=feather)
    wanted = np.minimum(distances(~missing) / (feather + 1), 1)[missing]
    np.testing.assert_allclose(hole.weight, wanted, rtol=1e-6)
    assert 0 < hole.weight.min() < 1 and hole.weight.max() == 1


def test_growing_first_a_feathered_filling_replaces_all_that_was_marked():
    missing = box(10, 10, 6, 5, (30, 30))
    hole = make_hole(missing, grow=4, feather=3)
    weight = np.zeros((30, 30), np.float32)
    weight[hole.missing] = hole.weight
    assert (weight[missing] == 1).all() and (weight[hole.missing & ~missing] < 1).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blending_stays_inside_the_hole(dtype):
    old, top = photo(dtype=dtype, alpha=True), np.iinfo(dtype).max
    missing = box(2, 1, 7, 6)
    new = Photo(np.where(missing[..., None], top, old.pixels).astype(dtype), old.alpha)
    hole = make_hole(missing, feather=2)
    blended = hole.finish(old, new)
    np.testing.assert_array_equal(blended.pixels[~missing], old.pixels[~missing])
    np.testing.assert_array_equal(blended.alpha, old.alpha)
    weight = hole.weight[:, None].astype(float)
    wanted = old.pixels[missing] * (1 - weight) + top * weight
    np.testing.assert_allclose(blended.pixels[missing], wanted, atol=0.51)
    assert new.pixels[missing].min() == top  # what was handed in is left alone
    std = np.where(missing, np.float32(0.5), np.float32(0))
    np.testing.assert_allclose(hole.fade(std)[missing], 0.5 * hole.weight)


def test_without_feather_or_alpha_nothing_is_copied():
    old = photo()
    assert Hole(box(1, 1, 2, 2)).finish(old, old) is old


def test_where_alpha_was_the_hole_the_photo_becomes_opaque():
    old = photo(alpha=True)
    old.alpha[:] = 200
    old.alpha[1:3, 1:3] = 0
    hole = parse(["alpha"]).hole(old)
    alpha = hole.finish(old, old).alpha
    assert (alpha[hole.missing] == 255).all() and (alpha[~hole.missing] == 200).all()
    assert (old.alpha[1:3, 1:3] == 0).all()
    other = parse(["box:1,1,2,2"]).hole(old)
    assert other.finish(old, old).alpha is old.alpha


def test_what_was_transparent_has_no_colour_to_fade_from():
    old = photo(20, 20, alpha=True)
    old.alpha[:] = 255
    old.alpha[5:10, 5:10] = 0
    clear = box(5, 5, 5, 5, (20, 20))
    hole = parse(["alpha", "box:12,12,6,6"], grow=2, feather=3).hole(old)
    weight = np.zeros((20, 20), np.float32)
    weight[hole.missing] = hole.weight
    assert (weight[clear] == 1).all()
    assert 0 < weight[3, 7] < 1 and 0 < weight[11, 14] < 1


def test_a_hole_is_neither_nothing_nor_everything():
    assert "whole image" in refusal("box:0,0,12,8")
    with pytest.raises(MaskError, match="marks nothing"):
        make_hole(np.zeros((4, 4), bool))
    with pytest.raises(MaskError, match="whole image"):
        make_hole(np.ones((4, 4), bool))
    with pytest.raises(MaskError, match="whole image"):
        make_hole(np.eye(4, dtype=bool), grow=4)
