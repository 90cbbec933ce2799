"""Batches depend on a seed and a position alone."""

import pickle

import numpy as np
import pytest
import torch

from matfill.batches import TrainBatches, binarised, heldout, loader, mean_image, warped
from matfill.config import WARP_VALUES
from matfill.errors import ConfigError, DataError, MaskError


def numbered(count, side=4):
    """Images (count, side, side, 1), each filled with its own number."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2)


def batches(count=10, **options):
    return TrainBatches(numbered(count), **{"mask": "random2x2", "batch": 4, "seed": 0} | options)


def numbers(batch):
    return batch[0][:, 0, 0, 0].tolist()


def test_a_batch_has_the_promised_shapes():
    images = np.zeros((9, 6, 8, 3), np.uint8)
    pixels, missing, warp = TrainBatches(images, mask="left", batch=4, seed=0)[0]
    assert pixels.dtype == torch.uint8 and pixels.shape == (4, 3, 6, 8) and pixels.is_contiguous()
    assert missing.dtype == torch.bool and missing.shape == (4, 1, 6, 8)
    assert warp.dtype == torch.float32 and torch.equal(warp, torch.zeros(4, WARP_VALUES))
    assert missing[..., :4].all() and not missing[..., 4:].any()


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (12, 4), (7, 7), (11, 3)])
def test_every_image_is_seen_once_in_each_epoch(count, batch):
    source = batches(count, batch=batch)
    seen = [number for update in range(3 * count) for number in numbers(source[update])]
    epochs = [seen[i * count : (i + 1) * count] for i in range(3 * batch)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_update_does_not_depend_on_those_before():
    in_order = [batches(flip=True)[update] for update in range(12)]
    source = batches(flip=True)
    for update in (11, 0, 5, 2, 2, 7, 10, 1, 6):
        for ours, theirs in zip(source[update], in_order[update], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("world", [2, 4])
def test_the_processes_shares_make_up_the_whole_batch(world):
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    options = {"mask": "strokes", "batch": 8, "seed": 3, "flip": True, "warp": 0.1, "warp_share": 0.5}
    whole = TrainBatches(images, **options)
    shares = [TrainBatches(images, **options, rank=rank, world=world) for rank in range(world)]
    for update in range(6):
        for part, expected in enumerate(whole[update]):
            assert torch.equal(torch.cat([share[update][part] for share in shares]), expected)


def test_seeds_and_updates_draw_anew():
    one, other = batches(100), batches(100, seed=1)
    assert numbers(one[0]) != numbers(other[0]) and not torch.equal(one[0][1], other[0][1])
    masks = torch.cat([batches(100, mask="pixels50")[update][1] for update in range(10)])
    assert len(masks.flatten(1).unique(dim=0)) == 40


def test_flip_mirrors_half_of_the_images_left_to_right_and_nothing_else():
    images = np.arange(4, dtype=np.uint8)[None, None, :, None].repeat(50, 0).repeat(3, 1)
    plain = TrainBatches(images, mask="top", batch=50, seed=0)
    flipped = TrainBatches(images, mask="top", batch=50, seed=0, flip=True)
    rows = torch.cat([flipped[update][0] for update in range(10)])[:, 0, 0]
    assert set(map(tuple, rows.tolist())) == {(0, 1, 2, 3), (3, 2, 1, 0)}
    assert 0.4 < (rows[:, 0] == 3).float().mean() < 0.6
    assert (plain[0][0][:, 0, 0, 0] == 0).all()
    assert (images[:, 0, 0] == 0).all()  # the images themselves stay as they are


def test_warped_images_are_turned_stretched_and_sheared_about_their_centres():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    maps = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, 1]]])
    same, turned, mirrored = warped(images, maps)
    assert np.array_equal(same, images[0])
    assert np.array_equal(turned, np.rot90(images[1], -1))
    assert np.array_equal(mirrored, images[2][:, ::-1])
    bar = np.zeros((16, 16, 1), np.uint8)
    bar[:, 9:12] = [[100], [250], [100]]  # its middle 2.5 pixels right of the centre
    moved = warped(np.stack([bar, bar]), np.array([[[0.5, 0], [0, 1]], [[1, 0.25], [0, 1]]]))[..., 0].astype(float)
    places = np.arange(16) - 7.5
    stretched, sheared = (moved * places).sum(2) / moved.sum(2)  # the bar's middle in every row
    assert np.abs(stretched - 5).max() <= 0.5
    assert np.abs(sheared - (2.5 - 0.25 * places)).max() <= 0.5


def test_a_warped_image_is_as_sharp_as_it_was():
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    moved = warped(images, np.tile([[1.05, 0.08], [-0.1, 0.95]], (4, 1, 1)))
    assert not (moved == images).all((1, 2)).any()
    for image, result in zip(images, moved, strict=True):
        assert np.array_equal(np.sort(image.reshape(-1, 3), axis=0), np.sort(result.reshape(-1, 3), axis=0))


def test_warp_changes_every_image_a_little_and_each_time_anew():
    dot = np.zeros((50, 29, 29, 1), np.uint8)
    dot[:, 14, 14], dot[:, 4:7, 23:26] = 255, 255  # the centre, and a blot some 9 pixels up and right of it
    source = TrainBatches(dot, mask="top", batch=50, seed=0, warp=0.1)
    first, second = source[0][0].double(), source[1][0].double()
    assert not torch.equal(first, second) and (first[:, 0, 14, 14] > 200).all()
    first[:, 0, 11:18, 11:18] = 0
    places = torch.arange(29.0, dtype=torch.float64) - 14
    mass = first.sum((1, 2, 3))
    rows, columns = (first[:, 0] * places[:, None]).sum((1, 2)) / mass, (first[:, 0] * places).sum((1, 2)) / mass
    for moved, at in ((rows, -9), (columns, 10)):
        assert moved.std() > 0.3 and (moved - at).abs().max() < 3
    assert (dot[:, 5, 24] == 255).all()  # the images themselves stay as they are


def test_a_share_of_the_images_is_warped_and_each_says_by_what_map():
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    options = {"mask": "top", "batch": 40, "seed": 0}
    plain = TrainBatches(images, **options)[3][0].numpy()
    moved, _, warp = TrainBatches(images, **options, warp=0.2, warp_share=0.5)[3]
    flags, tenths = warp[:, 0].numpy() == 1, warp[:, 1:].numpy().astype(np.float64)
    assert 8 < flags.sum() < 32 and (warp[~flags] == 0).all()
    assert np.array_equal(moved.numpy()[~flags], plain[~flags])
    maps = np.eye(2) + tenths[flags].reshape(-1, 2, 2) / 10
    assert 0.15 < np.abs(maps - np.eye(2)).max() <= 0.2
    expected = warped(plain[flags].transpose(0, 2, 3, 1), maps).transpose(0, 3, 1, 2)
    assert (moved.numpy()[flags] != expected).mean() < 0.01  # the maps are rounded to float32
    assert not (moved.numpy()[flags] == plain[flags]).all((1, 2, 3)).any()
    none = TrainBatches(images, **options, warp=0.2, warp_share=0.0)[3]
    assert np.array_equal(none[0].numpy(), plain) and not none[2].any()


@pytest.mark.filterwarnings("ignore:.*pin_memory", "ignore:This DataLoader will create")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_loader_gives_the_batches_from_any_update_on_beside_a_gpu_too(device):
    source = batches()
    for update, batch in zip(range(5, 8), loader(source, 5, torch.device(device)), strict=False):
        assert all(torch.equal(a, b) for a, b in zip(batch, source[update], strict=True))
    assert numbers(pickle.loads(pickle.dumps(source))[3]) == numbers(source[3])


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(ConfigError, match="batch of 4 cannot be shared evenly by 3"):
        batches(world=3)
    with pytest.raises(DataError, match="3 images are too few for a batch of 4"):
        batches(3)
    with pytest.raises(MaskError, match=r"20x20.*4x4"):
        batches(mask="random3x20")


# --- held-out images and the mean ------------------------------------------------------------------------------------


def test_heldout_is_always_the_same_and_a_smaller_count_is_its_beginning():
    images = numbered(50, 8)
    pixels, missing = heldout(images, 20, "strokes", 0)
    assert pixels.shape == (20, 1, 8, 8) and pixels.dtype == torch.uint8
    assert missing.shape == (20, 1, 8, 8) and missing.dtype == torch.bool
    assert len(set(pixels[:, 0, 0, 0].tolist())) == 20
    fewer = heldout(images, 7, "strokes", 0)
    assert torch.equal(fewer[0], pixels[:7]) and torch.equal(fewer[1], missing[:7])
    other = heldout(images, 20, "strokes", 1)
    assert not torch.equal(other[0], pixels) and not torch.equal(other[1], missing)
    assert len(heldout(images, 512, "strokes", 0)[0]) == 50


def test_no_held_out_image_is_an_error():
    with pytest.raises(DataError, match="no held-out image"):
        heldout(np.zeros((0, 4, 4, 1), np.uint8), 5, "left", 0)


def test_mean_image_is_the_mean():
    images = np.random.default_rng(0).integers(0, 256, (700, 4, 5, 3), dtype=np.uint8)
    mean = mean_image(images)
    assert mean.dtype == torch.float32 and mean.shape == (3, 4, 5)
    np.testing.assert_allclose(mean.numpy(), images.mean(axis=0).transpose(2, 0, 1) / 255, atol=1e-6)


def test_mean_image_takes_a_limited_number_from_all_over():
    halves = np.zeros((1000, 1, 1, 1), np.uint8)
    halves[500:] = 255
    assert mean_image(halves, limit=100).item() == pytest.approx(0.5)
    with pytest.raises(DataError, match="no image"):
        mean_image(halves[:0])


def test_binary_images_are_drawn_afresh_each_time_with_their_values_as_chances():
    grey = np.full((400, 4, 4, 1), 64, np.uint8)
    drawn = TrainBatches(grey, mask="left", batch=400, seed=0, binary=True)
    first, second = drawn[0][0], drawn[1][0]
    assert set(first.unique().tolist()) == {0, 255}
    assert not torch.equal(first, second) and torch.equal(first, drawn[0][0])
    assert first.float().mean().item() / 255 == pytest.approx(64 / 255, abs=4 * (0.25 * 0.75 / 6400) ** 0.5)


def test_binary_shares_make_up_the_whole_batch():
    grey = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    options = {"mask": "left", "batch": 8, "seed": 3, "binary": True}
    shares = [TrainBatches(grey, **options, rank=rank, world=2)[5][0] for rank in range(2)]
    assert torch.equal(torch.cat(shares), TrainBatches(grey, **options)[5][0])


def test_values_that_are_binary_already_stay():
    black_and_white = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (20, 8, 8, 1))
    assert np.array_equal(binarised(black_and_white, [(i,) for i in range(20)]), black_and_white)


def test_binary_heldout_is_always_the_same():
    grey = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    once, again = (heldout(grey, 20, "strokes", 0, binary=True)[0] for _ in range(2))
    assert torch.equal(once, again) and set(once.unique().tolist()) == {0, 255}
    assert torch.equal(heldout(grey, 7, "strokes", 0, binary=True)[0], once[:7])
