"""Walking a folder; and writing files that are whole or not there: to a temporary neighbour, flushed, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from matfill.errors import MatfillError

LINKS = "/proc/self/fd"  # Linux has a link here to each open file

_UMASK = threading.Lock()


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file open for writing that becomes `path` when the block ends, or vanishes when it raises.

    On Linux a new file has no name before it is whole, so that not even a process that is killed leaves anything there;
    one that replaces another has a temporary name for the moment in between.
    Raises the OSErrors of the system as they come (no such folder, no permission, no space).
    """
    path = Path(path)
    handle, temporary = _unnamed(path.parent), None
    if handle is None:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if temporary is None:
                os.fchmod(file.fileno(), _usual_mode(path))
                temporary = _name(file.fileno(), path)
            else:
                os.chmod(temporary, _usual_mode(path))
        if temporary is not None:
            os.replace(temporary, path)
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise
    _flush_folder(path.parent)


def _unnamed(folder: Path) -> int | None:
    """A handle of a new file in `folder` that has no name yet; None where the system has no such thing."""
    if not (hasattr(os, "O_TMPFILE") and os.path.isdir(LINKS)):
        return None
    with contextlib.suppress(OSError):  # some file systems have none either; what is wrong with the folder shows later
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    return None


def _name(handle: int, path: Path) -> str | None:
    """Make an unnamed file `path`, or, where that is there already, give it a temporary name beside it: that name."""
    name, temporary = str(path), None
    while True:
        with contextlib.suppress(FileExistsError):
            os.link(f"{LINKS}/{handle}", name, src_dir_fd=handle)  # any handle: it makes Python follow the link
            return temporary
        name = temporary = str(path.parent / f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, all of it or nothing. Raises OSError like `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def make_folder(folder: Path) -> None:
    """With those above it; it may be there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MatfillError(f"cannot make the folder {folder}: {error.strerror}") from None


def walk(
    folder: str | os.PathLike[str], on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below `folder`, in sorted order, hidden ones left out, links followed (but never in a circle).

    Where a sub-folder, or what is in it, cannot be read, `on_error` gets the system's OSError; without it, that is
    raised.
    """
    return _walk(Path(folder), frozenset(), on_error)


def _walk(
    folder: Path, above: frozenset[str], on_error: Callable[[OSError], None] | None
) -> Iterator[tuple[Path, os.stat_result]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        names = os.listdir(folder)
    except OSError as error:
        if on_error is None or not above:
            raise
        return on_error(error)
    for name in sorted(name for name in names if not name.startswith(".")):
        path = folder / name
        try:
            status = path.stat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # a link that leads nowhere, or a file that is gone
                continue
            if on_error is None:
                raise
            on_error(error)
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, above | {real}, on_error)
        elif stat.S_ISREG(status.st_mode):
            yield path, status


def _usual_mode(path: Path) -> int:
    """Permissions of the file to be replaced, or else those of any new file (mkstemp gives 0600)."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777
    with _UMASK:  # to be known it has to be set, and is every thread's
        umask = os.umask(0)
        os.umask(umask)
    return 0o666 & ~umask


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened (Windows does not)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
