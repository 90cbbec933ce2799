"""Fetching a file from servers that truncate, corrupt, refuse and fall silent."""

import errno
import gzip
import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from matfill import fetch as fetch_module
from matfill.errors import DataError
from matfill.fetch import Unreachable, fetch
from tests.server import CONTENT, free_port, serving, wait_until

SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as one:
        yield one


@pytest.fixture
def get(server, tmp_path):
    """Fetches from the server's ways, in turn, and gives what came of it."""

    def run(*ways, **options):
        path = tmp_path / "file.bin"
        urls = [server.url(way) for way in ways]
        fetch(urls, path, **{"size": SIZE, "sha256": SHA256, "timeout": 5} | options)
        assert not part_of(path).exists()
        return path.read_bytes()

    return run


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@pytest.mark.parametrize("way", ["well", "whole", "unmeasured"])
def test_a_file_comes_whole(get, way, tmp_path):
    seen = []
    assert get(way, on_progress=lambda *counts: seen.append(counts)) == CONTENT
    assert seen == sorted(seen) and len(seen) > 2 and seen[-1] == (SIZE, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("halfwhole", f"breaks off after {SIZE // 2} of {SIZE} bytes"),
        ("nothing", f"breaks off after 0 of {SIZE} bytes"),
        ("corrupt", "damaged, its SHA-256 is wrong"),
        ("endless", "damaged"),
        ("otherpart", "offers other bytes"),
        ("page", f"offers 12 bytes where {SIZE} are needed"),
        ("forbidden", "HTTP 403"),
        ("busy", "HTTP 503"),
        ("reset", "reset"),
        ("rubbish", "no HTTP"),
    ],
)
def test_a_bad_mirror_is_named_with_its_reason_and_the_next_one_serves(get, server, tmp_path, way, says):
    path = tmp_path / "file.bin"
    with pytest.raises(Unreachable, match=says) as caught:
        get(way)
    assert f"127.0.0.1:{server.port}" in str(caught.value) and "\n" not in str(caught.value)
    assert "file.bin" in str(caught.value)
    assert not path.exists()  # whatever came is under another name
    assert get(way, "well") == CONTENT


def test_no_more_is_taken_than_the_file_can_be(get, server):
    with pytest.raises(Unreachable):
        get("endless")
    assert server.rounds < 200


def test_silence_is_not_waited_for(get):
    with pytest.raises(Unreachable, match=r"no answer within 0.1 s"):
        get("silence", timeout=0.1)
    assert get("silence", "well", timeout=0.3) == CONTENT


def test_nobody_there(tmp_path, server):
    urls = [f"http://127.0.0.1:{free_port()}/file.bin", "http://no-such-host.invalid/file.bin"]
    with pytest.raises(Unreachable, match=r"Connection refused.*no-such-host.invalid: ") as caught:
        fetch(urls, tmp_path / "file.bin", size=SIZE, sha256=SHA256)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["half", "resetlater"])
def test_a_mirror_that_keeps_breaking_off_is_asked_again_for_the_rest(get, server, way):
    assert get(way) == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for _, asked in server.asked]
    assert starts == sorted(set(starts)) and len(starts) > 2


def test_the_next_mirror_goes_on_where_the_last_one_broke_off(get, server):
    assert get("halfwhole", "busy", "well") == CONTENT
    assert server.asked[-1] == ("well", f"bytes={SIZE // 2}-")


@pytest.mark.parametrize("way", ["well", "whole"])
def test_what_an_earlier_call_left_is_gone_on_from(get, server, tmp_path, way):
    part_of(tmp_path / "file.bin").write_bytes(CONTENT[:1234])
    seen = []
    assert get(way, on_progress=lambda done, total: seen.append(done)) == CONTENT
    assert server.asked == [(way, "bytes=1234-")]
    assert (seen[0] > 1234) or way == "whole"


@pytest.mark.parametrize("left", [CONTENT[:999] + b"?", bytes(SIZE), bytes(SIZE + 1)])
def test_a_damaged_remainder_is_fetched_anew_from_the_same_mirror(get, server, tmp_path, left):
    part_of(tmp_path / "file.bin").write_bytes(left)
    assert get("well") == CONTENT
    assert server.asked[-1] == ("well", None)


def test_a_login_page_does_not_spoil_what_came_before(get, tmp_path):
    part = part_of(tmp_path / "file.bin")
    part.write_bytes(CONTENT[:1234])
    with pytest.raises(Unreachable):
        get("page", "busy", "reset")
    assert part.read_bytes() == CONTENT[:1234]


def test_a_file_that_is_there_is_checked_and_not_fetched_again(get, server, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    assert get("well") == CONTENT
    for other in (CONTENT[:-1], CONTENT[:-1] + b"?"):
        path.write_bytes(other)
        with pytest.raises(DataError, match=r"file.bin is not the file as it was published; move it away"):
            get("well")
        assert path.read_bytes() == other
    assert not server.asked


def test_a_file_packed_anew_is_the_same_file(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(CONTENT, 1))
    fetch([], path, size=1, sha256="", unpacked_sha256=SHA256)
    for other in (gzip.compress(CONTENT[1:]), path.read_bytes()[:-20], CONTENT):
        path.write_bytes(other)
        with pytest.raises(DataError, match="not the file"):
            fetch([], path, size=1, sha256="", unpacked_sha256=SHA256)


def test_a_full_disk_is_one_line_and_no_mirrors_fault(get, server, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(fetch_module.os, "fsync", full)
        with pytest.raises(DataError, match=r"cannot write .*file.bin: No space left") as caught:
            get("well", "whole")
    assert not isinstance(caught.value, Unreachable)
    assert len(server.asked) == 1


SCRIPT = """
    import sys
    from pathlib import Path
    from matfill.fetch import fetch
    fetch([{url!r}], Path({path!r}), size={size}, sha256={sha256!r})
"""


def test_after_kill_9_in_the_middle_the_rest_is_fetched(get, server, tmp_path):
    path = tmp_path / "file.bin"
    code = textwrap.dedent(SCRIPT.format(url=server.url("slowly"), path=str(path), size=SIZE, sha256=SHA256))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: part_of(path).exists() and part_of(path).stat().st_size > 0)
    finally:
        process.kill()
        process.wait()
    there = part_of(path).stat().st_size
    assert 0 < there < SIZE and not path.exists()
    assert get("well") == CONTENT
    assert server.asked[-1] == ("well", f"bytes={there}-")
