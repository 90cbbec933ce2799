"""Files are whole or not there; folders are walked without going in circles."""

import errno
import os
from pathlib import Path

import pytest
from tiny import refuse

from matfill import files
from matfill.errors import MatfillError
from matfill.files import atomic_file, make_folder, walk, write_atomic

UNNAMED = hasattr(os, "O_TMPFILE") and os.path.isdir(files.LINKS)


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.skipif(not UNNAMED, reason="Linux only")), False])
def unnamed(request, monkeypatch):
    """Whether files have no name while they are written."""
    if not request.param:
        monkeypatch.setattr(files, "_unnamed", lambda folder: None)
    return request.param


def test_a_file_appears_when_it_is_whole(tmp_path, unnamed):
    with atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        file.flush()
        found = list(tmp_path.iterdir())
        assert tmp_path / "a" not in found
        assert len(found) == (not unnamed)  # a process that is killed here leaves nothing behind
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.skipif(not UNNAMED, reason="Linux only")
def test_a_new_file_never_has_another_name(tmp_path, monkeypatch):
    """Whoever kills the process between two names would leave the first one behind."""
    linked, link = [], os.link
    monkeypatch.setattr(
        os, "link", lambda source, name, **options: linked.append(name) or link(source, name, **options)
    )
    monkeypatch.setattr(os, "replace", None)
    write_atomic(tmp_path / "a", b"new")
    assert linked == [str(tmp_path / "a")]


def test_what_was_there_is_replaced_or_left_alone(tmp_path, unnamed):
    write_atomic(tmp_path / "a", b"old")
    os.chmod(tmp_path / "a", 0o640)
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old"
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_file_has_the_usual_permissions(tmp_path, unnamed):
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_names_may_be_odd_and_errors_are_those_of_the_system(tmp_path, unnamed):
    for name in ("é 写真", os.fsdecode(b"\xff"), "x" * 255, "a\nb"):
        write_atomic(tmp_path / name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "a", b"")
    with pytest.raises(OSError, match="too long"):
        write_atomic(tmp_path / ("x" * 256), b"")
    (tmp_path / "dir").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "dir", b"")
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_is_made_with_those_above_it(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(MatfillError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "b")


def test_a_walk_is_sorted_and_follows_links_but_in_no_circle(tmp_path):
    for name in ("b/2", "b/1", "a", ".hidden", ".git/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "nothing").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("b")
    names = [path.relative_to(tmp_path).as_posix() for path, _ in walk(tmp_path)]
    assert names == ["a", "b/1", "b/2", "link/1", "link/2"]


def test_a_folder_that_cannot_be_listed_ends_a_walk_or_is_told_of(tmp_path, monkeypatch):
    for name in ("a/1", "b/2", "c/3"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    refuse(monkeypatch, tmp_path / "b")
    with pytest.raises(PermissionError):
        list(walk(tmp_path))
    errors = []
    assert [path.name for path, _ in walk(tmp_path, errors.append)] == ["1", "3"]
    assert [error.filename for error in errors] == [str(tmp_path / "b")]
    refuse(monkeypatch, tmp_path)
    with pytest.raises(PermissionError):
        list(walk(tmp_path, errors.append))


def test_what_cannot_be_looked_at_ends_a_walk_or_is_told_of(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    inner = Path.stat

    def stat(path, **options):
        if path.name == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return inner(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(PermissionError):
        list(walk(tmp_path))
    errors = []
    assert [path.name for path, _ in walk(tmp_path, errors.append)] == ["a", "c"]
    assert [error.filename for error in errors] == [str(tmp_path / "b")]
