"""Fetching a published file: from several mirrors, resumed where it broke off, checked, whole or not there at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from matfill import __version__
from matfill.errors import DataError

CHUNK = 1 << 16  # bytes read at a time
TIMEOUT = 30.0  # seconds without a sign of life from a server

Progress = Callable[[int, int], None]  #: bytes so far, bytes in all


class Unreachable(DataError):
    """No mirror has sent the file."""


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    size: int,
    sha256: str,
    unpacked_sha256: str | None = None,
    timeout: float = TIMEOUT,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Put the file of `size` bytes and that SHA-256 at `path`, from the first of `urls` that sends it whole.

    What has come so far is kept beside it, in NAME.part, and the next call goes on from there. A file that is there
    already is checked and left alone; one of gzip may have been packed anew, where `unpacked_sha256` is known.
    Unreachable where no mirror sends it; DataError where the file that is there is another one, or the disk refuses.
    """
    try:
        if path.exists():
            if not (_is_whole(path, size, sha256) or (unpacked_sha256 and _holds(path, unpacked_sha256))):
                raise DataError(f"{path} is not the file as it was published; move it away, then fetch it again")
            return
        part = path.with_name(path.name + ".part")
        reasons = []
        for url in urls:
            try:
                _fetch_from(url, part, size, sha256, timeout, on_progress)
            except _Refused as refused:
                reasons.append(f"{urlsplit(url).netloc}: {refused}")
            else:
                os.replace(part, path)
                return
    except OSError as error:
        raise DataError(f"cannot write {error.filename or path}: {error.strerror or error}") from None
    raise Unreachable(f"cannot fetch {path.name} ({'; '.join(reasons)})")


class _Refused(Exception):
    """Why this mirror cannot be used."""


def _fetch_from(url: str, part: Path, size: int, sha256: str, timeout: float, on_progress: Progress) -> None:
    """All of the file into `part`, asking again as long as every answer brings it further."""
    inherited = _length(part) > 0
    while True:
        before = _length(part)
        if before < size:
            _receive(url, part, size, timeout, on_progress)
        after = _length(part)
        if after >= size:
            if _is_whole(part, size, sha256):
                return
            part.unlink()
            if not inherited:
                raise _Refused("what it sends is damaged, its SHA-256 is wrong")
            inherited = False  # what an earlier call has left may be what is damaged: once more, from the start
        elif after <= before:
            raise _Refused(f"it breaks off after {after} of {size} bytes")


def _receive(url: str, part: Path, size: int, timeout: float, on_progress: Progress) -> None:
    """Append to `part` what one answer brings, or write it anew where the server begins from the start."""
    with _answer(url, _length(part), size, timeout) as (begin, chunks), open(part, "ab" if begin else "wb") as file:
        done = begin
        for chunk in chunks:
            file.write(chunk)
            done += len(chunk)
            on_progress(min(done, size), size)
            if done > size:
                break
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _answer(url: str, begin: int, size: int, timeout: float) -> Iterator[tuple[int, Iterator[bytes]]]:
    """(First byte, the bytes from there on) of a file of `size` bytes, asked for from `begin` on.

    _Refused where the server does not answer, or with something else. If it falls silent later, the bytes just end.
    """
    headers = {"User-Agent": f"matfill/{__version__}"} | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise _Refused(f"HTTP {error.code} {error.reason}".strip()) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Refused(_reason(error, timeout)) from None

    def chunks() -> Iterator[bytes]:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while chunk := response.read1(CHUNK):  # what has arrived; `read` would lose it when the rest does not
                yield chunk

    with response:
        offered = response.headers.get("Content-Length")
        if response.status != 206:
            begin = 0
        elif response.headers.get("Content-Range") != f"bytes {begin}-{size - 1}/{size}":
            raise _Refused(f"it offers other bytes than asked for: {response.headers.get('Content-Range')}")
        if offered is not None and offered != str(size - begin):
            raise _Refused(f"it offers {offered} bytes where {size - begin} are needed")
        yield begin, chunks()


def _reason(error: Exception, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    if _length(path) != size:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _holds(path: Path, sha256: str) -> bool:
    """Whether a gzip file unpacks to what has that SHA-256."""
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False
