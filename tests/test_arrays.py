"""Files of arrays, and what of them can be images."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from matfill.arrays import as_images, contents, is_array_file
from matfill.errors import DataError

GREY = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
COLOUR = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)


def idx(array, kind=8):
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def write(path, array):
    """`array` in the form that the name of `path` asks for."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, images=array)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(idx(array)))
    elif path.suffix == ".amat":
        path.write_text("".join(" ".join(map(str, row)) + "\n" for row in array.reshape(len(array), -1)))
    else:
        path.write_bytes(idx(array))
    return path


def only(path):
    (entry,) = contents(path)
    return entry


def images(path):
    return as_images(only(path))


def refusal(path):
    with pytest.raises(DataError) as caught:
        images(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


NAMES = ("a.npy", "a.npz", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "train-images.idx3-ubyte", "a.idx")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_back_what_was_saved(tmp_path, name):
    path = write(tmp_path / name, GREY)
    entry = only(path)
    assert is_array_file(path)
    assert (entry.shape, entry.dtype) == (GREY.shape, np.uint8)
    found = as_images(entry)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, GREY[..., None])


def test_amat_is_lines_of_zeros_and_ones(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (6, 16))
    found = images(write(tmp_path / "a.amat", bits))
    np.testing.assert_array_equal(found.reshape(6, 16), 255 * bits)
    assert found.shape == (6, 4, 4, 1)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (GREY, GREY[..., None]),
        (GREY[..., None], GREY[..., None]),
        (GREY[:, None], GREY[..., None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (GREY[:, :4].reshape(2, 16), GREY[:, :4, :, None]),
        (COLOUR[:, :4].transpose(0, 3, 1, 2).reshape(2, 48), COLOUR[:, :4]),  # as in CIFAR-10: first all that is red
    ],
    ids=["NHW", "NHW1", "N1HW", "NHW3", "N3HW", "flat grey", "flat colour"],
)
def test_the_shapes_that_images_come_in(tmp_path, saved, expected):
    path = tmp_path / "a.npy"
    np.save(path, saved)
    assert only(path).image_shape() == expected.shape
    np.testing.assert_array_equal(images(path), expected)


@pytest.mark.parametrize("array", [np.zeros(9), np.zeros((9, 10)), np.zeros((2, 5, 4, 2)), np.full((9, 4, 4), "a")])
def test_other_shapes_and_types_are_no_images(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert only(tmp_path / "a.npy").image_shape() is None
    assert "holds no images" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 1], np.uint8), [0, 255]),
        (np.array([False, True]), [0, 255]),
        (np.array([0, 1], np.int64), [0, 255]),
        (np.array([0.0, 1.0]), [0, 255]),
        (np.array([0, 255], np.int32), [0, 255]),
        (np.array([1, 2], np.uint8), [1, 2]),
        (np.array([0, 100.4 / 255, 100.6 / 255, 1], np.float32), [0, 100, 101, 255]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_black_is_0_and_white_255_whatever_the_type(tmp_path, values, expected):
    array = np.resize(values, (5000, 2, 2))  # more than are converted at a time
    np.save(tmp_path / "a.npy", array)
    found = images(tmp_path / "a.npy")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.reshape(-1), np.resize(expected, array.size))


@pytest.mark.parametrize("values", [[-1, 3], [0, 256], [0.0, 1.5], [0.0, 255.0], [0.0, np.nan]])
def test_values_that_are_no_brightness_are_refused(tmp_path, values):
    np.save(tmp_path / "a.npy", np.resize(values, (2, 2, 2)))
    assert "has values from" in refusal(tmp_path / "a.npy")


def test_an_array_of_bytes_is_mapped_not_read_and_writing_to_it_spares_the_file(tmp_path):
    path = write(tmp_path / "a.npy", GREY)
    found = images(path)
    assert isinstance(found, np.memmap)
    found[0] = 77
    np.testing.assert_array_equal(np.load(path), GREY)


def test_an_npz_tells_all_it_holds_without_reading_it(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=GREY, y=np.array([1, 2]), names=np.array(["a", "bc"]), objects=np.array([{}, None]))
    found = {entry.key: entry for entry in contents(path)}
    assert {key: str(entry) for key, entry in found.items()} == {
        "x": "x (2x5x4 uint8)",
        "y": "y (2 int64)",
        "names": "names (2 <U2)",
        "objects": "objects (2 object)",
    }
    with pytest.raises(DataError, match="allow_pickle"):
        found["objects"].load()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a-idx3-ubyte", "a-idx3-ubyte.gz", "a.amat"])
@pytest.mark.parametrize("damage", ["empty", "header cut", "cut", "garbage", "gone", "a folder"])
def test_damaged_files_are_one_line(tmp_path, name, damage):
    path = write(tmp_path / name, np.random.default_rng(0).integers(0, 2, (60, 8, 8), dtype=np.uint8))
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        kept = {"empty": 0, "header cut": 6, "cut": len(whole) - 9, "garbage": 0}[damage]
        path.write_bytes(whole[:kept] or (b"" if damage == "empty" else np.random.default_rng(1).bytes(3000)))
    refusal(path)


def test_a_cut_idx_says_what_is_missing_and_a_long_one_what_is_too_much(tmp_path):
    path = tmp_path / "a-idx3-ubyte"
    path.write_bytes(idx(GREY)[:-3])
    assert "cut short: 2x5x4 values take 40 bytes and there are 37" in refusal(path)
    path.write_bytes(gzip.compress(idx(GREY) + b"123"))
    assert "too long: 2x5x4 values take 40 bytes and there are 43" in refusal(path)


def test_a_flipped_bit_in_a_packed_file_is_noticed(tmp_path):
    path = write(tmp_path / "a-idx3-ubyte.gz", np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refusal(path)


def test_idx_has_other_types_too(tmp_path):
    for kind, dtype in ((9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")):
        array = (GREY[0] % 2).astype(dtype)
        (tmp_path / "a.idx").write_bytes(idx(array, kind))
        np.testing.assert_array_equal(only(tmp_path / "a.idx").load(), array)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Bomb()))
    refusal(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([Bomb()]), allow_pickle=True)
    refusal(tmp_path / "b.npy")
    np.savez(tmp_path / "c.npz", x=np.array([Bomb()]))
    with pytest.raises(DataError):
        only(tmp_path / "c.npz").load()
