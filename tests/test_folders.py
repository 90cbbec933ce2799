"""Folders of images and their cache."""

import errno
import json
import os
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny import tiny_config

from matfill import cli, folders, recipes, training
from matfill.config import TrainConfig
from matfill.data import open_data
from matfill.errors import ConfigError, DataError
from matfill.folders import open_folder


def paint(path, value, size=(8, 8), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def grey_folder(folder, count, start=0):
    """`count` grey images, each of one value of its own."""
    for value in range(start, start + count):
        paint(folder / f"{value:03}.png", value)
    return folder


def opened(folder, cache=None, **options):
    cache = cache or folder.parent / "cache"
    return open_folder(folder, **{"size": 8, "channels": 1, "cache": cache, "seed": 0} | options)


def values(images):
    return [int(image[0, 0, 0]) for image in images]


def everything(folder):
    return [*values(folder.train), *values(folder.val), *values(folder.test)]


@pytest.fixture
def never_decode(monkeypatch):
    def forbid():
        def decoding(*_args):
            pytest.fail("an image was decoded again")

        monkeypatch.setattr(folders, "decode_squares", decoding)

    return forbid


# --- reading a folder ------------------------------------------------------------------------------------------------


def test_every_image_lands_in_one_split_under_its_name(tmp_path):
    folder = opened(grey_folder(tmp_path / "in", 40))
    assert (len(folder.train), len(folder.val), len(folder.test)) == (36, 2, 2)
    for split in ("train", "val", "test"):
        images = getattr(folder, split)
        assert isinstance(images, np.memmap) and images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1)
        assert values(images) == [int(name.removesuffix(".png")) for name in folder.names[split]]
    assert sorted(everything(folder)) == list(range(40))
    with pytest.raises(ValueError):
        folder.train[0] = 0


def test_the_split_depends_on_the_seed_and_on_nothing_else(tmp_path):
    first = opened(grey_folder(tmp_path / "in", 40), tmp_path / "a")
    again = opened(grey_folder(tmp_path / "elsewhere", 40), tmp_path / "b")
    other = opened(tmp_path / "in", tmp_path / "c", seed=1)
    assert first.names == again.names and first.fingerprint == again.fingerprint
    assert set(first.names["test"]) != set(other.names["test"]) and first.fingerprint != other.fingerprint


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (10, (8, 1, 1))])
def test_small_folders_are_split_as_far_as_they_go(tmp_path, count, expected):
    folder = opened(grey_folder(tmp_path / "in", count))
    assert (len(folder.train), len(folder.val), len(folder.test)) == expected


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_respected_and_what_lies_beside_them_is_not_read(tmp_path, val):
    for name, start, count in (("train/cats", 0, 5), ("train/dogs", 5, 5), (val, 10, 3), ("test", 20, 2)):
        grey_folder(tmp_path / "in" / name, count, start)
    paint(tmp_path / "in" / "logo.png", 99)
    folder = opened(tmp_path / "in")
    assert sorted(values(folder.train)) == list(range(10))
    assert sorted(values(folder.val)) == [10, 11, 12] and sorted(values(folder.test)) == [20, 21]
    assert set(folder.summary()["split"].values()) == {"folder"}


def test_a_missing_val_is_taken_from_train_but_a_missing_test_is_not(tmp_path):
    grey_folder(tmp_path / "in" / "train", 40)
    folder = opened(tmp_path / "in")
    assert (len(folder.train), len(folder.val), len(folder.test)) == (38, 2, 0)
    assert folder.summary()["split"] == {"train": "folder", "val": "train", "test": "none"}
    for split in ("train", "val"):
        assert [f"train/{value:03}.png" for value in values(getattr(folder, split))] == list(folder.names[split])


def test_sub_folders_odd_suffixes_and_hidden_files(tmp_path):
    paint(tmp_path / "in" / "a" / "b" / "one.PNG", 1)
    paint(tmp_path / "in" / "two.JPeG", 2)
    paint(tmp_path / "in" / "three.bmp", 3)
    for hidden in (".four.png", ".thumbs/five.png"):
        paint(tmp_path / "in" / hidden, 99)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    folder = opened(tmp_path / "in")
    assert sorted(sum(folder.names.values(), ())) == ["a/b/one.PNG", "three.bmp", "two.JPeG"]
    assert not folder.unreadable


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names are text there")
def test_a_file_name_may_be_any_bytes(tmp_path, never_decode):
    grey_folder(tmp_path / "in", 3)
    os.rename(tmp_path / "in" / "001.png", os.fsencode(tmp_path / "in") + b"/caf\xe9.png")
    first = opened(tmp_path / "in")
    never_decode()
    assert sorted(everything(first)) == [0, 1, 2] and opened(tmp_path / "in").names == first.names


def test_modes_and_sizes_may_be_mixed(tmp_path):
    paint(tmp_path / "in" / "a.png", (255, 0, 0), (30, 20), "RGB")
    paint(tmp_path / "in" / "b.png", 65535, (9, 9), "I;16")
    paint(tmp_path / "in" / "c.png", (0, 0, 0, 0), (100, 3), "RGBA")
    for channels, expected in ((1, [76, 255, 255]), (3, [(255, 0, 0), (255,) * 3, (255,) * 3])):
        folder = opened(tmp_path / "in", tmp_path / f"cache{channels}", channels=channels)
        images = {}
        for split, names in folder.names.items():
            images |= dict(zip(names, getattr(folder, split), strict=True))
        for name, value in zip("abc", expected, strict=True):
            assert (images[f"{name}.png"] == value).all()


def test_crop_keeps_the_centre_and_squeeze_the_whole_frame(tmp_path):
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (8, 0, 24, 16))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png")
    assert (opened(tmp_path / "in", tmp_path / "c").train == 255).all()
    squeezed = opened(tmp_path / "in", tmp_path / "s", fit="squeeze").train[0, 4, :, 0]
    assert squeezed[0] < 30 and squeezed[-1] < 30 and squeezed[3] > 225 and squeezed[4] > 225


def test_an_image_of_the_right_size_is_not_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    np.testing.assert_array_equal(opened(tmp_path / "in", channels=3).train[0], pixels)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_shrinking_is_antialiased(tmp_path, name):
    """A fine checkerboard has to become an even grey."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(board).save(tmp_path / "in" / name, quality=95)
    small = opened(tmp_path / "in").train.astype(int)
    assert np.abs(small - 127).max() <= 3


def test_a_jpeg_decoded_at_a_fraction_of_its_size_is_as_good(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    for name in ("jpg/a.jpg", "png/a.png"):
        (tmp_path / name).parent.mkdir()
    Image.fromarray(noise).resize((1024, 1024), Image.Resampling.BICUBIC).save(tmp_path / "jpg" / "a.jpg", quality=95)
    with Image.open(tmp_path / "jpg" / "a.jpg") as image:
        image.save(tmp_path / "png" / "a.png")
    jpg, png = (opened(tmp_path / kind, tmp_path / f"cache-{kind}", size=128).train for kind in ("jpg", "png"))
    assert np.abs(jpg.astype(int) - png).max() <= 12 and np.abs(jpg.astype(int) - png).mean() < 2


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("L", (16, 16), 0)
    image.paste(255, (0, 0, 16, 8))  # stored: white on top; shown, turned by 180 degrees: white at the bottom
    exif = Image.Exif()
    exif[274] = 3
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png", exif=exif)
    shown = opened(tmp_path / "in", size=16).train[0]
    assert (shown[:8] == 0).all() and (shown[8:] == 255).all()


def test_unreadable_files_are_named_and_the_others_read(tmp_path):
    grey_folder(tmp_path / "in", 20)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    whole = (tmp_path / "in" / "000.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    folder = opened(tmp_path / "in")
    assert [name for name, _ in folder.unreadable] == ["bad.png", "cut.png"]
    assert all(reason and "\n" not in reason for _, reason in folder.unreadable)
    assert sorted(everything(folder)) == list(range(20))
    assert folder.summary()["unreadable"] == 2
    assert opened(tmp_path / "in").unreadable == folder.unreadable


def test_the_summary_is_plain_json(tmp_path):
    summary = opened(grey_folder(tmp_path / "in", 40), fit="squeeze").summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["images"] == {"train": 36, "val": 2, "test": 2}
    assert (summary["size"], summary["channels"], summary["fit"], summary["seed"]) == (8, 1, "squeeze", 0)


def test_progress_counts_up_to_all_files(tmp_path):
    seen = []
    opened(grey_folder(tmp_path / "in", 12), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


# --- patches ---------------------------------------------------------------------------------------------------------


def noise(path, size, mark=0, **options):
    """A photo of random colours; its red is `mark` alone, which no scaling changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(mark).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., 0] = mark
    Image.fromarray(pixels).save(path, **options)


def marked_folder(folder, marks, size=(17, 12)):
    for mark in marks:
        noise(folder / f"{mark:03}.png", size, mark)
    return folder


def patches(folder, cache=None, **options):
    return opened(folder, cache, **{"channels": 3, "fit": "patches"} | options)


def marks(images):
    assert (images[..., 0] == images[:, :1, :1, 0]).all()
    return set(images[:, 0, 0, 0].tolist())


def of_each_mark(folder):
    """The patches of each photo, in order."""
    images = np.concatenate([folder.train, folder.val, folder.test])
    return {mark: images[images[:, 0, 0, 0] == mark].tolist() for mark in marks(images)}


def places(images, photo):
    """Where in the photo each of the images lies, (top, left); AssertionError where it is in no place, or in many."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(photo), images.shape[1:])[:, :, 0]
    found = [np.argwhere((windows == image).all(axis=(2, 3, 4))).tolist() for image in images]
    assert all(len(some) == 1 for some in found)
    return [tuple(place) for (place,) in found]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3, 100), [1]),
        ((7, 7), [1]),
        ((8, 8), [1]),
        ((8, 9), [2]),
        ((9, 9), [3, 1]),
        ((8, 200), [50]),
        ((16, 16), [8, 1]),
        ((200, 100), [64, 64, 39, 9, 4]),
    ],
)
def test_a_photo_gives_patches_of_every_scale(tmp_path, size, expected):
    noise(tmp_path / "in" / "a.png", size)
    found = patches(tmp_path / "in").train
    assert found.shape == (sum(expected), 8, 8, 3) and found.dtype == np.uint8


@pytest.mark.parametrize(("side", "expected"), [(42, [9, 2]), (46, [11, 3, 1])])
def test_a_last_halving_of_nearly_the_right_size_is_the_smallest_scale(tmp_path, side, expected):
    noise(tmp_path / "in" / "a.png", (side, side))
    assert len(patches(tmp_path / "in", size=20).train) == sum(expected)


@pytest.mark.parametrize("turned", [False, True])
def test_patches_are_pieces_of_the_scaled_photo(tmp_path, turned):
    exif = Image.Exif()
    exif[274] = 6 if turned else 1
    noise(tmp_path / "in" / "a.png", (24, 40) if turned else (40, 24), exif=exif)
    found = patches(tmp_path / "in").train
    with Image.open(tmp_path / "in" / "a.png") as image:
        photo = ImageOps.exif_transpose(image)
    half = photo.resize((20, 12), Image.Resampling.LANCZOS)
    smallest = half.resize((13, 8), Image.Resampling.LANCZOS)
    assert len(found) == 30 + 8 + 3
    first = places(found[:30], photo)
    for where in (first, places(found[30:38], half), places(found[38:], smallest)):
        assert len(set(where)) == len(where)
    top, left = np.array(first).T
    assert top.min() < 5 and top.max() > 11 and left.min() < 9 and left.max() > 23  # of 0 to 16 and 0 to 32


@pytest.mark.parametrize(("size", "other"), [((8, 9), (1, 0)), ((9, 8), (0, 1))])
def test_patches_reach_the_edges(tmp_path, size, other):
    noise(tmp_path / "in" / "a.png", size)
    with Image.open(tmp_path / "in" / "a.png") as image:
        assert sorted(places(patches(tmp_path / "in").train, image)) == [(0, 0), other]


def test_patches_of_a_jpeg_file_show_every_pixel_of_it(tmp_path):
    noise(tmp_path / "in" / "a.jpg", (96, 96), quality=95)
    with Image.open(tmp_path / "in" / "a.jpg") as image:
        assert len(places(patches(tmp_path / "in").train[:64], image)) == 64


@pytest.mark.parametrize("size", [(5, 7), (30, 6), (8, 8)])
def test_what_is_no_larger_than_the_model_is_cropped(tmp_path, size):
    noise(tmp_path / "in" / "a.png", size)
    cropped = opened(tmp_path / "in", tmp_path / "crop", channels=3)
    np.testing.assert_array_equal(patches(tmp_path / "in").train, cropped.train)


def test_the_smallest_scale_is_that_of_crop(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).resize((90, 90), Image.Resampling.BICUBIC).save(tmp_path / "in" / "a.png")
    cropped = opened(tmp_path / "in", tmp_path / "crop", channels=3, size=16).train[0]
    assert np.abs(patches(tmp_path / "in", size=16).train[-1].astype(int) - cropped).max() <= 4


def test_patches_depend_on_the_seed_and_on_their_file_alone(tmp_path):
    first = of_each_mark(patches(marked_folder(tmp_path / "in", range(12)), tmp_path / "a"))
    again = of_each_mark(patches(marked_folder(tmp_path / "elsewhere", range(12)), tmp_path / "b"))
    more = of_each_mark(patches(marked_folder(tmp_path / "elsewhere", range(12, 15)), tmp_path / "c"))
    other = of_each_mark(patches(tmp_path / "in", tmp_path / "d", seed=1))
    assert again == first and more.keys() == set(range(15))
    assert {mark: more[mark] for mark in range(12)} == first
    assert all(other[mark] != first[mark] for mark in range(12))
    noise(tmp_path / "twins" / "a.png", (40, 24))
    noise(tmp_path / "twins" / "b.png", (40, 24))
    both = patches(tmp_path / "twins", tmp_path / "e").train
    assert both[:41].tolist() != both[41:].tolist()


@pytest.mark.parametrize(
    ("names", "files"), [([""], (36, 2, 2)), (["train"], (38, 2, 0)), (["train", "val", "test"], (40, 40, 40))]
)
def test_all_patches_of_a_file_are_in_one_split(tmp_path, names, files):
    for start, name in enumerate(names):
        marked_folder(tmp_path / "in" / name, range(40 * start, 40 * start + 40))
    folder = patches(tmp_path / "in")
    found = [marks(images) for images in (folder.train, folder.val, folder.test)]
    assert tuple(map(len, found)) == files and len(set.union(*found)) == sum(files)
    each = 6 + 3  # of 17x12, and of 11x8
    assert folder.summary()["images"] == dict(zip(("train", "val", "test"), (each * n for n in files), strict=True))
    assert not folder.names


def test_photos_of_all_sizes_and_broken_ones_together(tmp_path):
    for mark, size in enumerate([(8, 8), (40, 24), (3, 5), (17, 12)]):
        noise(tmp_path / "in" / f"{mark}.png", size, mark)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    seen = []
    folder = patches(tmp_path / "in", on_progress=lambda *counts: seen.append(counts))
    assert {mark: len(found) for mark, found in of_each_mark(folder).items()} == {0: 1, 1: 41, 2: 1, 3: 9}
    assert [name for name, _ in folder.unreadable] == ["bad.png"]
    assert seen == [(done, 5) for done in range(1, 6)]


def test_patches_are_cached_like_other_images(tmp_path, never_decode):
    marked_folder(tmp_path / "in", range(5))
    assert not opened(tmp_path / "in", channels=3).rebuilt
    first = patches(tmp_path / "in")
    assert first.rebuilt and len(first.train) == 3 * 9
    never_decode()
    second = patches(tmp_path / "in")
    assert not second.rebuilt and second.summary() == first.summary() and of_each_mark(second) == of_each_mark(first)


def test_the_room_that_patches_need_is_told(tmp_path, monkeypatch):
    for value in range(12):
        paint(tmp_path / "in" / f"{value}.png", value, (256, 256))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")

    def fail(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match="no room for 2 MiB"):  # 12 times 32 + 8 + 1 of 64x64
        patches(tmp_path / "in", size=64, channels=1)


def test_arrays_of_the_right_size_are_their_own_patches_and_others_are_refused(tmp_path):
    def found(side, fit="patches"):
        np.save(tmp_path / "a.npy", np.zeros((20, side, side), np.uint8))
        return open_data(tmp_path / "a.npy", size=8, channels=1, fit=fit, cache=tmp_path / "cache")

    assert (len(found(8).train), found(8).settings["fit"]) == (18, "patches")
    with pytest.raises(
        DataError, match="are 16x16 grey, the model takes 8x8 grey, and arrays are never scaled or cut;"
    ):
        found(16)
    with pytest.raises(ConfigError, match="'tiles'; allowed: crop, squeeze, patches"):
        found(8, "tiles")


def test_the_command_line_takes_patches(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(recipes.RECIPES, "tiny", lambda: (tiny_config(), TrainConfig(updates=1)))
    monkeypatch.setattr(training, "Trainer", lambda *_: MagicMock())
    monkeypatch.setattr(training, "train", lambda *_: "finished")
    marked_folder(tmp_path / "in", range(12))

    def train(fit):
        command = ["train", tmp_path / "in", "--recipe", "tiny", "--out", tmp_path / "run", "--fit", fit]
        monkeypatch.setattr(sys, "argv", ["matfill", *map(str, command)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
            raise SystemExit(0)
        return leaving.value.code or 0, capsys.readouterr()

    code, said = train("tiles")
    assert code == 1 and said.err.count("\n") == 1
    assert "fit is 'tiles'; allowed: crop, squeeze, patches" in said.err
    code, said = train("patches")
    assert code == 0, said.err
    assert "90 images to train on, 9 held out, 9 for tests" in said.out


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_second_opening_decodes_nothing(tmp_path, never_decode):
    first = opened(grey_folder(tmp_path / "in", 12))
    never_decode()
    second = opened(tmp_path / "in", on_progress=lambda *_: pytest.fail("progress of what?"))
    assert not first.rebuilt and not second.rebuilt
    assert second.names == first.names and second.summary() == first.summary()
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(second, split), getattr(first, split))


def test_a_moved_folder_keeps_its_cache(tmp_path, never_decode):
    opened(grey_folder(tmp_path / "in", 12))
    (tmp_path / "in").rename(tmp_path / "moved")
    never_decode()
    assert not opened(tmp_path / "moved").rebuilt


@pytest.mark.parametrize("change", ["added", "removed", "rewritten", "touched", "renamed"])
def test_a_changed_folder_is_decoded_again(tmp_path, change):
    folder = grey_folder(tmp_path / "in", 12)
    before = opened(folder)
    if change == "added":
        paint(folder / "new.png", 200)
    elif change == "removed":
        (folder / "003.png").unlink()
    elif change == "renamed":
        (folder / "003.png").rename(folder / "new.png")
    elif change == "rewritten":
        paint(folder / "003.png", 200)
    else:
        os.utime(folder / "003.png", (1, 1))
    after = opened(folder)
    assert after.rebuilt
    three = {"added": [3, 200], "removed": [], "rewritten": [200], "touched": [3], "renamed": [3]}[change]
    assert sorted(everything(after)) == sorted([v for v in range(12) if v != 3] + three)
    assert (after.fingerprint == before.fingerprint) == (change == "touched")
    assert not opened(folder).rebuilt
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the outdated array is gone


@pytest.mark.parametrize(
    "options", [{"size": 16}, {"channels": 3}, {"fit": "squeeze"}, {"fit": "patches"}, {"seed": 5}]
)
def test_changed_settings_are_noticed(tmp_path, options):
    opened(grey_folder(tmp_path / "in", 12))
    folder = opened(tmp_path / "in", **options)
    assert folder.rebuilt and options.items() <= folder.settings.items()
    assert folder.train.shape[1:] == (folder.settings["size"],) * 2 + (folder.settings["channels"],)


@pytest.mark.parametrize("damage", ["array gone", "array cut", "index cut", "index of another kind", "older format"])
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    opened(grey_folder(tmp_path / "in", 12))
    index, array = tmp_path / "cache" / folders.INDEX, next((tmp_path / "cache").glob("*.npy"))
    if damage == "array gone":
        array.unlink()
    elif damage == "array cut":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "index cut":
        index.write_bytes(index.read_bytes()[:-100])
    elif damage == "index of another kind":
        index.write_text("[1, 2, 3]")
    else:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"format": -1}))
    folder = opened(tmp_path / "in")
    assert folder.rebuilt and len(folder.train) == 10


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written_leaves_no_half_cache(tmp_path, monkeypatch, error):
    grey_folder(tmp_path / "in", 12)

    def fail(_handle):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(DataError, match="no room" if error == errno.ENOSPC else "cannot write") as caught:
            opened(tmp_path / "in")
    assert str(tmp_path / "cache") in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())
    assert len(opened(tmp_path / "in").train) == 10


# --- what cannot be used ---------------------------------------------------------------------------------------------


def refusal(folder):
    with pytest.raises(DataError) as caught:
        opened(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_folders_that_cannot_serve_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    grey_folder(tmp_path / "only" / "test", 3)
    grey_folder(tmp_path / "half" / "test", 3)
    (tmp_path / "half" / "train").mkdir()
    (tmp_path / "half" / "train" / "b.png").write_text("no image")
    assert "there is no folder" in refusal(tmp_path / "nowhere")
    assert "is a file" in refusal(tmp_path / "file")
    assert "holds no image file" in refusal(tmp_path / "empty")
    assert "holds no image file" in refusal(tmp_path / "text")
    assert "a.png" in refusal(tmp_path / "broken")
    assert "none in train/" in refusal(tmp_path / "only")
    assert "train/b.png" in refusal(tmp_path / "half")
    assert not list((tmp_path / "cache").iterdir())
