"""The data sets that have a name: looking them up, and fetching all their files."""

import hashlib
import re

import pytest

from matfill import datasets
from matfill.array_sets import PUBLISHED
from matfill.arrays import is_array_file
from matfill.datasets import CATALOGUE, DataSet, File, download, find, locate
from matfill.errors import DataError
from tests.server import CONTENT, free_port, serving


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty user's cache, and no other place to look."""
    monkeypatch.delenv("MATFILL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "xdg" / "matfill"


def made_up(*mirrors):
    """A data set of two files, each of which any mirror answers with the same CONTENT."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    files = tuple(File(name, len(CONTENT), digest) for name in ("one.bin", "two.bin"))
    return DataSet("tiny-set", "images", "free", "http://page", tuple(mirrors), files)


@pytest.fixture
def publish(monkeypatch):
    """Puts a data set into the catalogue, on a server that sends its files in the given ways."""
    with serving() as server:

        def run(*ways):
            dataset = made_up(*(server.url(way).removesuffix("file.bin") for way in ways))
            monkeypatch.setitem(datasets.CATALOGUE, "tiny-set", dataset)
            return server

        yield run


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- the catalogue ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", CATALOGUE.values(), ids=CATALOGUE)
def test_the_catalogue_is_in_order(dataset):
    assert CATALOGUE[dataset.name] is dataset
    assert dataset.mirrors and all(re.fullmatch(r"https?://\S+/", mirror) for mirror in dataset.mirrors)
    assert dataset.licence and dataset.page.startswith("http") and dataset.size > 10**7
    for file in dataset.files:
        digests = [file.sha256] + ([file.unpacked_sha256] if file.unpacked_sha256 else [])
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    digests = [file.sha256 for file in dataset.files]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("dataset", CATALOGUE.values(), ids=CATALOGUE)
def test_what_is_fetched_can_be_read(dataset, tmp_path):
    assert all(is_array_file(tmp_path / file.name) or file.name in PUBLISHED for file in dataset.files)


# --- looking up ------------------------------------------------------------------------------------------------------


def test_a_path_wins_then_data_then_the_environment_then_the_cache(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("MATFILL_DATA", str(tmp_path / "env"))
    monkeypatch.chdir(tmp_path)
    places = [cache, tmp_path / "env", tmp_path / "data", tmp_path]
    for place in places:
        (place / "mnist").mkdir(parents=True)
        assert locate("mnist", tmp_path / "data").resolve() == place / "mnist"
    assert locate(tmp_path / "env") == tmp_path / "env"
    (tmp_path / "data" / "faces" / "train").mkdir(parents=True)
    assert locate("faces/train", tmp_path / "data") == tmp_path / "data" / "faces" / "train"


def test_hyphen_and_underscore_are_the_same(tmp_path):
    for folder, name in (("binarized_mnist", "binarized-mnist"), ("my-set", "my_set"), ("a-b_c", "a-b_c")):
        (tmp_path / folder).mkdir()
        assert locate(name, tmp_path) == tmp_path / folder


def test_what_is_not_found_says_where_it_was_looked_for_and_what_to_do(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("MATFILL_DATA", str(tmp_path / "env"))
    for name in ("binarized-mnist", "binarized_mnist"):
        with pytest.raises(DataError, match="`matfill data binarized-mnist` fetches it") as caught:
            locate(name, tmp_path / "data")
        for place in (tmp_path / "data", tmp_path / "env", cache):
            assert str(place) in str(caught.value)
    with pytest.raises(DataError, match=r"there is no folder imagenet.*name one of mnist, binarized-mnist, omni"):
        locate("imagenet")
    assert find("mnist") is None


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/matfill"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/x/matfill"),
        ("linux", {}, "/home/me/.cache/matfill"),
        ("darwin", {}, "/home/me/Library/Caches/matfill"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/matfill/cache"),
    ],
)
def test_the_cache_lies_where_the_system_has_it(monkeypatch, platform, variables, expected):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(datasets.sys, "platform", platform)
    monkeypatch.setattr(datasets.Path, "home", lambda: datasets.Path("/home/me"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert datasets.user_cache().as_posix() == expected


# --- fetching --------------------------------------------------------------------------------------------------------


def test_a_data_set_is_fetched_below_the_first_root_and_found_there(publish, tmp_path, cache):
    publish("well")
    seen = {}
    folder = download("tiny_set", on_progress=lambda file, done, total: seen.update({file: (done, total)}))
    assert folder == cache / "tiny-set" == locate("tiny_set")
    assert files_of(folder) == ["one.bin", "two.bin"]
    assert seen == dict.fromkeys(("one.bin", "two.bin"), (len(CONTENT), len(CONTENT)))
    assert download("tiny-set", tmp_path / "data") == tmp_path / "data" / "tiny-set"


def test_the_folder_has_its_name_only_when_it_is_whole(publish, cache):
    publish("well", "halfwhole")
    (cache / "tiny-set.part" / "two.bin.part").mkdir(parents=True)  # something that no file can be written to
    with pytest.raises(DataError, match="cannot write"):
        download("tiny-set")
    assert files_of(cache) == ["tiny-set.part/one.bin"] and find("tiny-set") is None
    (cache / "tiny-set.part" / "two.bin.part").rmdir()
    server = publish("well")
    server.asked.clear()
    download("tiny-set")
    assert files_of(cache) == ["tiny-set/one.bin", "tiny-set/two.bin"]
    assert len(server.asked) == 1  # the first file was there


def test_what_is_there_is_kept_and_what_is_missing_added(publish, tmp_path):
    server = publish("well")
    folder = tmp_path / "tiny_set"
    folder.mkdir()
    (folder / "one.bin").write_bytes(CONTENT)
    (folder / "mine.txt").write_text("mine")
    assert download("tiny-set", tmp_path) == folder
    assert files_of(tmp_path) == ["tiny_set/mine.txt", "tiny_set/one.bin", "tiny_set/two.bin"]
    assert len(server.asked) == 1
    (folder / "one.bin").write_bytes(b"other")
    with pytest.raises(DataError, match=r"one.bin is not the file as it was published"):
        download("tiny-set", tmp_path)


def test_without_a_network_one_line_says_what_to_do(monkeypatch, cache):
    monkeypatch.setitem(datasets.CATALOGUE, "tiny-set", made_up(f"http://127.0.0.1:{free_port()}/"))
    with pytest.raises(DataError) as caught:
        download("tiny-set")
    said = str(caught.value)
    assert "\n" not in said
    for part in ("one.bin", "Connection refused", "run this again", "one.bin, two.bin by hand", "http://page"):
        assert part in said
    assert said.endswith(f"into {cache / 'tiny-set'}")
    assert not files_of(cache)


def test_a_place_that_cannot_be_written_and_a_name_that_nobody_knows(publish, tmp_path):
    publish("well")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot make the folder .*; choose another with --data"):
        download("tiny-set", tmp_path / "file")
    with pytest.raises(DataError, match="there is no data set 'imagenet'; name one of mnist"):
        download("imagenet")
