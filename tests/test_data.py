"""One way in to folders of images, arrays, and data sets as they are published."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from matfill.data import open_data
from matfill.errors import ConfigError, DataError
from tests.test_arrays import idx, write


def numbered(count, start=0, side=4, channels=1):
    """`count` images (side, side, channels), each of one value of its own."""
    values = np.arange(start, start + count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, side, side, channels)).copy()


def opened(source, **options):
    return open_data(source, **{"size": 4, "channels": 1, "cache": source.parent / "cache", "seed": 0} | options)


def values(images):
    return images[:, 0, 0, 0].tolist()


def counts(found):
    return len(found.train), len(found.val), len(found.test)


def refusal(source, **options):
    with pytest.raises(DataError) as caught:
        opened(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


# --- which array is what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test", "train_labels", "test_labels"),
        ("x_train", "x_valid", "x_test", "y_train", "y_test"),
        ("train_images", "validation_images", "test_images", "train_targets", "test_targets"),
        ("X-training", "X-val", "X-testing", "Y-training", "Y-testing"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
def test_names_tell_splits_and_labels(tmp_path, names, packed):
    parts = numbered(30), numbered(4, 100), numbered(5, 200), np.arange(30) % 10, np.arange(5)[:, None]
    arrays = dict(zip(names, parts, strict=True))
    if packed:
        np.savez(tmp_path / "digits.npz", **arrays)
        found = opened(tmp_path / "digits.npz")
    else:
        found = opened(saved(tmp_path / "in", **arrays))
    assert values(found.train) == list(range(30))
    assert values(found.val) == [100, 101, 102, 103]
    assert values(found.test) == [200, 201, 202, 203, 204]
    assert found.origin == dict.fromkeys(("train", "val", "test"), "folder")
    assert {split: array.tolist() for split, array in found.labels.items()} == {
        "train": [i % 10 for i in range(30)],
        "test": [0, 1, 2, 3, 4],
    }


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_mnist_as_distributed_holds_out_its_last_images(tmp_path, packed):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, count, start in (("train", 60, 0), ("t10k", 7, 100)):
        write(folder / f"{prefix}-images-idx3-ubyte{packed}", numbered(count, start)[..., 0])
        write(folder / f"{prefix}-labels-idx1-ubyte{packed}", np.arange(count, dtype=np.uint8) % 10)
    found = opened(folder)
    assert values(found.train) == list(range(54)) and values(found.val) == list(range(54, 60))
    assert values(found.test) == list(range(100, 107))
    assert found.origin == {"train": "folder", "val": "train", "test": "folder"}
    assert found.labels["val"].tolist() == [4, 5, 6, 7, 8, 9] and len(found.labels["train"]) == 54


def test_never_more_than_5000_are_held_out(tmp_path):
    write(tmp_path / "train-images-idx3-ubyte", np.zeros((60_000, 4, 4), np.uint8))
    assert counts(opened(tmp_path)) == (55_000, 5_000, 0)


def test_arrays_that_do_not_say_what_they_are_give_way_to_those_that_do(tmp_path):
    np.savez(tmp_path / "a.npz", mean=numbered(1), basis=numbered(3), train=numbered(20))
    assert counts(opened(tmp_path / "a.npz")) == (18, 2, 0)


def test_a_file_and_its_packed_twin_are_one(tmp_path):
    for name in ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"):
        write(tmp_path / name, numbered(20)[..., 0])
    assert counts(opened(tmp_path)) == (18, 2, 0)


def test_files_of_one_folder_are_a_class_where_there_are_no_labels(tmp_path):
    saved(tmp_path / "in", train=numbered(20), test=numbered(4))
    names = {"test": np.array(["b/a/1.png", "a/1.png", "b/a/2.png", "a/b/3.png"]), "train": np.arange(20)}
    np.savez(tmp_path / "in" / "names.npz", **names)
    assert {split: array.tolist() for split, array in opened(tmp_path / "in").labels.items()} == {"test": [2, 0, 2, 1]}
    np.save(tmp_path / "in" / "labels_test.npy", np.array([7, 8, 9, 9]))
    assert opened(tmp_path / "in").labels["test"].tolist() == [7, 8, 9, 9]


def test_other_sets_are_divided_at_random_and_labels_follow(tmp_path):
    saved(tmp_path / "in", train=numbered(200), train_labels=np.arange(200))
    found, again, other = (opened(tmp_path / "in", seed=seed) for seed in (0, 0, 1))
    assert counts(found) == (180, 20, 0)
    assert sorted(values(found.train) + values(found.val)) == list(range(200))
    assert values(found.val) != list(range(180, 200)) and sorted(values(found.val)) != sorted(values(other.val))
    for split in ("train", "val"):
        assert values(getattr(found, split)) == found.labels[split].tolist()
        assert values(getattr(found, split)) == values(getattr(again, split))
    assert found.fingerprint == again.fingerprint != other.fingerprint
    np.testing.assert_array_equal(np.load(tmp_path / "in" / "train.npy"), numbered(200))  # the file is as it was


@pytest.mark.parametrize("form", ["a file", "a file called test", "an npz", "a folder"])
def test_what_names_no_split_is_divided_like_a_folder_of_images(tmp_path, form):
    path = tmp_path / {"a file called test": "test.npy", "an npz": "a.npz"}.get(form, "a.npy")
    if form == "an npz":
        np.savez(path, images=numbered(100), labels=np.arange(100))
    else:
        np.save(path, numbered(100))
    found = opened(tmp_path if form == "a folder" else path)
    assert counts(found) == (90, 5, 5)
    assert sorted(values(found.train) + values(found.val) + values(found.test)) == list(range(100))
    assert set(found.origin.values()) == {"all"}
    if form == "an npz":
        assert values(found.test) == found.labels["test"].tolist()


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1))])
def test_a_few_images_are_divided_as_far_as_they_go(tmp_path, count, expected):
    np.save(tmp_path / "a.npy", numbered(count))
    assert counts(opened(tmp_path / "a.npy")) == expected


def test_test_images_alone_are_for_tests(tmp_path):
    found = opened(saved(tmp_path / "in", test=numbered(5)))
    assert counts(found) == (0, 0, 5) and found.train.shape == (0, 4, 4, 1)
    assert found.origin == {"train": "none", "val": "none", "test": "folder"}


def test_the_arrays_cannot_be_written_to(tmp_path):
    found = opened(saved(tmp_path / "in", train=numbered(30)))
    for images in (found.train, found.val):
        with pytest.raises(ValueError):
            images[0] = 0


def test_the_same_images_have_the_same_fingerprint_in_any_form(tmp_path):
    train, test = numbered(30), numbered(5, 100)
    saved(tmp_path / "a", train=train, val=test, test=test)
    np.savez(tmp_path / "b.npz", x_train=train.transpose(0, 3, 1, 2) / 255, x_val=test[..., 0], x_test=test.astype(int))
    saved(tmp_path / "c", train=test, val=test, test=train)
    saved(tmp_path / "d", train=train[1:], val=np.concatenate([test, train[:1]]), test=test)  # rows in the same order
    a, b, c, d = (opened(tmp_path / name) for name in ("a", "b.npz", "c", "d"))
    assert a.fingerprint == b.fingerprint
    assert len({a.fingerprint, c.fingerprint, d.fingerprint}) == 3
    summary = a.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["images"] == {"train": 30, "val": 5, "test": 5}
    assert (summary["size"], summary["channels"], summary["fit"], summary["seed"]) == (4, 1, "crop", 0)


@pytest.mark.parametrize("given", [True, False], ids=["own validation images", "some of the training images"])
def test_training_has_the_validation_images_that_are_not_kept(tmp_path, given):
    arrays = {"train": numbered(40), "val": numbered(10, 100), "test": numbered(5, 200), "val_labels": np.arange(10)}
    source = saved(tmp_path / "in", **{name: array for name, array in arrays.items() if given or "val" not in name})
    whole, found, again = opened(source), opened(source, most_val=3), opened(source, most_val=3)
    assert len(found.val) == 3 and set(values(found.val)) < set(values(whole.val))
    assert sorted(values(found.train) + values(found.val)) == sorted(values(whole.train) + values(whole.val))
    assert values(found.test) == values(whole.test)
    assert values(found.val) == values(again.val) and found.fingerprint == again.fingerprint != whole.fingerprint
    assert found.summary()["most_val"] == 3 and "most_val" not in whole.summary()
    assert not {"train", "val"} & found.labels.keys()
    assert not found.train.flags.writeable and not found.val.flags.writeable
    assert sorted(values(opened(source, most_val=99).train)) == sorted(values(whole.train))


def test_folders_of_images_stay_what_they_are(tmp_path):
    folder = tmp_path / "in"
    (folder / "train").mkdir(parents=True)
    for i in range(10):
        Image.new("L", (9, 7), i).save(folder / "train" / f"{i}.png")
    np.save(folder / "features.npy", np.zeros((10, 4, 4)))  # could be images, but does not say so
    np.save(folder / "train_labels.npy", np.zeros(10))
    found = opened(folder)
    assert counts(found) == (9, 1, 0) and len(found.names["train"]) == 9 and not found.labels


# --- data sets as they are published ---------------------------------------------------------------------------------


def test_cifar10_in_its_binary_version(tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (60, 3, 32, 32), np.uint8), draw.integers(0, 10, 60, np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(60, -1)], axis=1)
    files = {f"data_batch_{i + 1}.bin": records[10 * i : 10 * i + 10].tobytes() for i in range(5)}
    files |= {"test_batch.bin": records[50:].tobytes(), "batches.meta.txt": b"airplane\n"}
    unpacked = tmp_path / "unpacked" / "cifar-10-batches-bin"
    unpacked.mkdir(parents=True)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, data in reversed(files.items()):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            (unpacked / name).write_bytes(data)
    packed = tmp_path / "cifar-10-binary.tar.gz"
    fingerprints = set()
    for source in (packed, tmp_path, unpacked, unpacked.parent):
        found = opened(source, size=32, channels=3)
        fingerprints.add(found.fingerprint)
        assert counts(found) == (45, 5, 10)
        np.testing.assert_array_equal(found.test, images[50:].transpose(0, 2, 3, 1))
        assert found.labels["test"].tolist() == labels[50:].tolist()
        for split in ("train", "val"):
            for image, label in zip(getattr(found, split), found.labels[split], strict=True):
                (row,) = np.flatnonzero((images[:50].transpose(0, 2, 3, 1) == image).all((1, 2, 3)))
                assert labels[row] == label
    assert len(fingerprints) == 1
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    assert "cifar-10-binary.tar.gz is damaged" in refusal(packed, size=32, channels=3)
    (unpacked / "test_batch.bin").write_bytes(b"123")
    assert "not all of it" in refusal(unpacked, size=32, channels=3)


def test_omniglot_is_read_from_its_archives_with_the_ink_bright(tmp_path):
    ink = np.zeros((105, 105), np.uint8)
    ink[:15, 60:] = 1  # top right: 4 rows and 12 columns of 28
    for name, alphabet in (("background", "Latin"), ("evaluation", "Greek")):
        with zipfile.ZipFile(tmp_path / f"images_{name}.zip", "w") as archive:
            for drawing in reversed(range(1, 21)):
                png = io.BytesIO()
                Image.fromarray(255 * (1 - ink * (drawing == 18))).convert("1").save(png, "PNG")
                archive.writestr(f"images_{name}/{alphabet}/character01/0001_{drawing:02}.png", png.getvalue())
            archive.writestr(f"__MACOSX/images_{name}/{alphabet}/character01/._0001_01.png", b"no image")
            archive.writestr(f"images_{name}/overview.png", b"no drawing")
    found = opened(tmp_path, size=28)
    assert counts(found) == (27, 3, 10)  # 15 drawings of each character to train on, 5 to test on
    assert found.labels["test"].tolist() == [0] * 5 + [1] * 5 and len(found.labels["train"]) == 27
    assert not found.train.any()
    assert (found.test[[2, 7], :4, 16:] == 255).all() and found.test.sum() == 2 * 255 * 4 * 12
    (tmp_path / "images_background.zip").unlink()
    with zipfile.ZipFile(tmp_path / "images_evaluation.zip", "w") as archive:
        archive.writestr("images_evaluation/Greek/overview.png", b"no drawing")
    assert "images_evaluation.zip holds none of Omniglot's drawings" in refusal(tmp_path, size=28)


def test_omniglot_is_divided_alike_where_an_npz_names_its_drawings(tmp_path):
    drawings = numbered(80, side=28)
    characters = [f"{alphabet}/character0{i}" for alphabet in ("Tagalog", "Greek") for i in (1, 2)]
    names = np.array([f"{character}/0007_{i:02}.png" for character in characters for i in range(1, 21)])
    saved(tmp_path / "in", train=drawings[:40], test=drawings[40:])
    np.savez(tmp_path / "in" / "names.npz", train=names[:40], test=names[40:])
    found = opened(tmp_path / "in", size=28)
    assert counts(found) == (54, 6, 20)
    last = [f"{character}/0007_{i}.png" for character in sorted(characters) for i in range(16, 21)]
    np.testing.assert_array_equal(found.test, np.concatenate([drawings[names == name] for name in last]))
    np.savez(tmp_path / "in" / "names.npz", train=names[:40], test=np.char.replace(names[40:], "character", ""))
    assert counts(opened(tmp_path / "in", size=28)) == (36, 4, 40)  # not Omniglot: as its owner divided it
    np.savez(tmp_path / "in" / "names.npz", train=names[:39], test=names[40:])
    assert "39 labels for the 40 images" in refusal(tmp_path / "in", size=28)


def test_chardata_mat_is_read_where_scipy_is_there(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    columns = (images / 255).transpose(0, 2, 1).reshape(30, -1).T  # MATLAB's order, an image each column
    scipy_io.savemat(tmp_path / "chardata.mat", {"data": columns[:, :20], "testdata": columns[:, 20:]})
    found = opened(tmp_path, size=28)
    assert counts(found) == (18, 2, 10)
    np.testing.assert_array_equal(found.test[..., 0], images[20:])
    (tmp_path / "chardata.mat").write_bytes(b"")
    assert "damaged" in refusal(tmp_path, size=28)
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    assert "pip install scipy" in refusal(tmp_path, size=28)


# --- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "takes"), [({"size": 8}, "8x8 grey"), ({"channels": 3}, "4x4 colour"), ({"size": 64}, "64x64 grey")]
)
def test_arrays_are_never_fitted_to_the_model(tmp_path, options, takes):
    saved(tmp_path / "in", train=numbered(30))
    said = refusal(tmp_path / "in", **options)
    assert f"train.npy are 4x4 grey, the model takes {takes}" in said
    saved(tmp_path / "in", train=numbered(30), test=numbered(5, side=6))
    assert "test.npy are 6x6 grey, the model takes 4x4 grey" in refusal(tmp_path / "in")


def test_arrays_that_cannot_serve_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.array(["a", "b"]), mean=np.zeros(7))
    assert "a.npz holds no images, but train (2 <U1), mean (7 float64)" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    assert "holds no images, but nothing" in refusal(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", a=numbered(3), b=numbered(3))
    assert "a and b could all be the images; keep one" in refusal(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", numbered(3).reshape(-1))
    assert "d.npy holds no images, but 48 uint8" in refusal(tmp_path / "d.npy")
    np.savez(tmp_path / "e.npz", x=numbered(0))
    assert "none in them: x (0x4x4x1 uint8)" in refusal(tmp_path / "e.npz")
    np.savez(tmp_path / "f.npz", train=numbered(3), train_labels=np.zeros(4, int))
    assert "4 labels for the 3 images" in refusal(tmp_path / "f.npz")
    saved(tmp_path / "g", train=numbered(3), train_images=numbered(3))
    assert "train.npy and train_images.npy could all be the images of train" in refusal(tmp_path / "g")
    (tmp_path / "h").mkdir()
    np.save(tmp_path / "h" / "a.npy", np.zeros(3))
    assert "holds no image file and no arrays" in refusal(tmp_path / "h")
    (tmp_path / "i-idx3-ubyte").write_bytes(idx(numbered(9)[..., 0])[:-1])
    assert "cut short" in refusal(tmp_path / "i-idx3-ubyte")
    (tmp_path / "j.txt").write_text("text")
    assert "j.txt is a file, but none of arrays" in refusal(tmp_path / "j.txt")
    assert "there is no folder" in refusal(tmp_path / "nowhere")
    assert "nowhere.npy" in refusal(tmp_path / "nowhere.npy")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'stretch'; allowed: crop, squeeze"):
        opened(saved(tmp_path / "in", train=numbered(30)), fit="stretch")
