"""Running jobs: every photo gets what it should, whatever happens to the others; nothing is ever there in part."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny import refuse

from matfill import filling_jobs, holes
from matfill.errors import ImageError
from matfill.filling_jobs import Report, run
from matfill.filling_plan import Wanted, plan
from matfill.images import load_mask, load_photo


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(*names, size=(12, 8)):
    for i, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)


def fill_all(works, samples=1):
    """Fillings of one shade, which tells the seed and the sample; a photo 13 wide cannot be filled."""
    for work in works:
        if work.photo.width == 13:
            yield work, RuntimeError("out of memory:\n12 GiB"), {}
            continue
        shades = [(work.seed + 50 * i) % 256 / 255 for i in range(samples)]
        shape = (work.missing.sum(), 3)
        filled = [work.photo.composite(np.full(shape, shade, np.float32), work.missing) for shade in shades]
        std = np.where(work.missing, np.float32(np.std(shades)), np.float32(0))
        mean = work.photo.composite(np.full(shape, np.mean(shades), np.float32), work.missing)
        yield work, SimpleNamespace(sample=filled.__getitem__, mean=mean, std=std), {}


def do(tops, hole="box:1,1,4,4", out="out", seed=0, fill=fill_all, **wanted):
    """Entries of the report, by photo."""
    entries = []
    chosen = Wanted(**wanted)
    jobs = plan([Path(top) for top in tops], out, seed, chosen)
    run(jobs, holes.parse([hole]), lambda works: fill(works, chosen.samples), chosen, entries.append)
    assert len(entries) == len(jobs)
    return {entry["photo"]: entry for entry in entries}


def tree(folder="out"):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_listed_fails_by_itself(here, monkeypatch):
    photos("in/a.png", "in/shut/b.png", "in/z/c.png")
    refuse(monkeypatch, "in/shut")
    for status in ("filled", "skipped"):
        entries = do(["in"])
        assert {path: entry["status"] for path, entry in entries.items()} == {
            "in/a.png": status,
            "in/z/c.png": status,
            "in/shut": "failed",
        }
        assert "cannot read in/shut: Permission denied" in entries["in/shut"]["error"]


def test_all_that_is_wanted_is_written(here):
    photos("in/a.png")
    everything = {"mean": True, "uncertainty": True, "mask": True, "sheet": True}
    entry = do(["in"], samples=3, **everything)["in/a.png"]
    assert tree() == {"a_1.png", "a_2.png", "a_3.png", "a_mean.png", "a_uncertainty.png", "a_mask.png", "a_sheet.png"}
    assert sorted(entry["output"]) == sorted(f"out/{name}" for name in tree())
    assert entry["status"] == "filled" and entry["error"] is None and entry["bits_per_dim"] is None
    assert entry["hole"] == 16 / 96 and entry["seconds"] >= 0
    missing = load_mask("out/a_mask.png", 12, 8)
    before = load_photo("in/a.png").pixels
    for name in ("a_1", "a_2", "a_3", "a_mean"):
        after = load_photo(f"out/{name}.png").pixels
        np.testing.assert_array_equal(after[~missing], before[~missing])
        assert (after[missing] == after[missing][0]).all()
    heat = load_photo("out/a_uncertainty.png").pixels
    assert (heat[~missing] == (0, 0, 4)).all() and (heat[missing].sum(axis=1) > 100).all()


def test_each_photo_has_its_own_seed_and_alone_that_gives_the_same(here):
    photos("in/a.png", "in/sub/b.png")
    entries = do(["in"], hole="random1x4", seed=5)
    seed = entries["in/sub/b.png"]["seed"]
    assert seed != entries["in/a.png"]["seed"]
    do(["in/sub/b.png"], hole="random1x4", seed=seed, out="alone/")
    assert Path("alone/b.png").read_bytes() == Path("out/sub/b.png").read_bytes()


def test_what_is_there_is_skipped_and_what_is_not_is_made(here):
    photos("in/a.png", "in/b.png", "in/c.png")
    first = do(["in"], samples=2)
    whole = {name: Path("out", name).read_bytes() for name in tree()}
    Path("out/a_1.png").write_bytes(b"mine")
    Path("out/b_1.png").write_bytes(b"mine, too")
    Path("out/b_2.png").unlink()
    Path("out/c_1.png").unlink()
    Path("out/c_2.png").unlink()
    again = do(["in"], samples=2)
    assert [again[name]["status"] for name in sorted(again)] == ["skipped", "filled", "filled"]
    assert again["in/a.png"]["output"] == first["in/a.png"]["output"]
    assert Path("out/a_1.png").read_bytes() == b"mine"
    assert Path("out/b_1.png").read_bytes() == b"mine, too"
    for name in tree() - {"a_1.png", "b_1.png"}:
        assert Path("out", name).read_bytes() == whole[name]
    do(["in"], samples=2, overwrite=True)
    assert {name: Path("out", name).read_bytes() for name in tree()} == whole


def test_broken_photos_cost_one_line_each_and_nothing_else(here):
    photos("in/a.png", "in/z.png")
    photos("in/odd.png", size=(13, 8))
    photos("in/small.png", size=(4, 4))
    Path("in/text.jpg").write_text("no image")
    Path("in/empty.png").touch()
    entries = do(["in"])
    assert tree() == {"a.png", "z.png"}
    failed = {name: entry["error"] for name, entry in entries.items() if entry["status"] == "failed"}
    assert set(failed) == {"in/odd.png", "in/small.png", "in/text.jpg", "in/empty.png"}
    for name, line in failed.items():
        assert name in line and "\n" not in line
        assert entries[name]["output"] == [] and entries[name]["hole"] is None
    assert failed["in/odd.png"].endswith("RuntimeError: out of memory: 12 GiB")
    assert "4x4" in failed["in/small.png"]


def test_results_that_cannot_be_written_cost_one_line_each(here):
    photos("in/a.png", "in/sub/b.png", "in/c.png")
    Path("out").mkdir()
    Path("out/sub").touch()
    entries = do(["in"])
    assert [entries[name]["status"] for name in sorted(entries)] == ["filled", "filled", "failed"]
    assert "cannot make the folder out/sub" in entries["in/sub/b.png"]["error"]


def test_nothing_is_left_of_a_run_that_breaks_off(here):
    photos(*(f"in/{i}.png" for i in range(6)))

    def breaking(works, samples):
        for i, done in enumerate(fill_all(works, samples)):
            if i == 3:
                raise KeyboardInterrupt
            yield done

    with pytest.raises(KeyboardInterrupt):
        do(["in"], fill=breaking)
    assert tree() == {"0.png", "1.png", "2.png"}
    assert sum(entry["status"] == "skipped" for entry in do(["in"]).values()) == 3
    assert len(tree()) == 6


def test_photos_are_read_ahead_of_the_filling_and_written_behind_it_in_bounds(here, monkeypatch):
    photos(*(f"in/{i:02}.png" for i in range(20)))
    monkeypatch.setattr(filling_jobs, "ROOM", 4 * 96)  # four photos beside the one that is filled
    main, threads, inside, most = threading.get_ident(), set(), [0], [0]
    lock, read, write = threading.Lock(), filling_jobs._read, filling_jobs._write

    def reading(*args):
        threads.add(("read", threading.get_ident() == main))
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        return read(*args)

    def writing(*args):
        threads.add(("write", threading.get_ident() == main))
        entry = write(*args)
        with lock:
            inside[0] -= 1
        return entry

    monkeypatch.setattr(filling_jobs, "_read", reading)
    monkeypatch.setattr(filling_jobs, "_write", writing)
    ahead = []

    def slow(works, samples):
        for done in fill_all(works, samples):
            threading.Event().wait(0.01)
            ahead.append(inside[0])
            yield done

    do(["in"], fill=slow)
    assert threads == {("read", False), ("write", False)}
    assert max(ahead) > 1  # something was read while this was filled
    assert most[0] <= 6
    assert len(tree()) == 20


def test_one_photo_larger_than_the_room_is_filled_all_the_same(here, monkeypatch):
    photos("in/a.png", "in/b.png", "in/c.png")
    monkeypatch.setattr(filling_jobs, "ROOM", 1)
    do(["in"])
    assert len(tree()) == 3


def test_an_engine_may_take_several_photos_before_it_gives_any_back(here):
    photos(*(f"in/{i}.png" for i in range(7)))
    assert {entry["status"] for entry in do(["in"], fill=lambda works, n: fill_all(list(works), n)).values()} == {
        "filled"
    }


def test_content_counts_and_not_the_name(here):
    photos("in/a.png")
    Path("in/a.png").rename("in/a.jpg")
    do(["in"])
    with Image.open("out/a.jpg") as image:
        assert image.format == "PNG"
    do(["in/a.jpg"], out="chosen.jpg")
    with Image.open("chosen.jpg") as image:
        assert image.format == "JPEG"


def test_metadata_are_stripped_where_asked(here):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    Path("in").mkdir()
    Image.new("RGB", (12, 8)).save("in/a.jpg", exif=exif)
    do(["in"], out="kept/")
    do(["in"], out="out", strip=True)
    with Image.open("kept/a.jpg") as kept, Image.open("out/a.jpg") as stripped:
        assert kept.getexif()[0x010F] == "A camera" and not stripped.getexif()


# --- the report ------------------------------------------------------------------------------------------------------


def reported(path="report.json"):
    found = json.loads(Path(path).read_text())
    return found, {entry["photo"]: entry for entry in found["files"]}


def test_the_report_lists_every_photo_and_remembers_those_that_a_later_run_skips(here):
    photos("in/a.png", "in/b.png")
    Path("in/text.jpg").write_text("no image")
    for _ in range(2):
        log = Report(Path("report.json"), {"seed": 0})
        for entry in do(["in"]).values():
            log.add(entry)
        log.write()
        found, entries = reported()
        assert found["seed"] == 0 and list(entries) == ["in/a.png", "in/b.png", "in/text.jpg"]
        assert set(entries["in/a.png"]) == {
            *("photo", "status", "seed", "hole", "seconds", "bits_per_dim", "best", "output", "kept", "error")
        }
        assert entries["in/b.png"]["hole"] == 16 / 96 and entries["in/b.png"]["seconds"] is not None
        assert "not an image" in entries["in/text.jpg"]["error"]
    assert entries["in/b.png"]["status"] == "skipped"


def test_the_report_is_there_before_the_end(here, monkeypatch):
    photos("in/a.png", "in/b.png")
    entries = list(do(["in"]).values())
    monkeypatch.setattr(filling_jobs, "EVERY", 0.0)
    log = Report(Path("report.json"), {})
    log.add(entries[0])
    assert len(reported()[1]) == 1
    log.add(entries[1])
    assert len(reported()[1]) == 2


def test_what_was_there_already_is_told_from_what_is_new(here):
    photos("in/a.png")
    do(["in"], samples=2)
    entry = do(["in"], samples=2, sheet=True, seed=1)["in/a.png"]
    assert entry["status"] == "filled" and entry["kept"] == ["out/a_1.png", "out/a_2.png"]
    assert entry["output"] == [*entry["kept"], "out/a_sheet.png"]


def test_a_run_that_is_killed_again_and_again_forgets_nothing(here):
    photos("in/a.png", "in/b.png")
    log = Report(Path("report.json"), {})
    log.entries = list(do(["in"]).values())
    log.write()
    before = reported()[1]
    entries = list(do(["in"]).values())
    Report(Path("report.json"), {}).add(entries[0])  # killed here
    assert reported()[1]["in/b.png"] == before["in/b.png"]
    log = Report(Path("report.json"), {})
    log.entries = entries  # as they come from other processes, which know no report
    log.write(whole=True)
    assert all(entry["hole"] == 16 / 96 for entry in reported()[1].values())
    Path("in/a.png").unlink()
    log = Report(Path("report.json"), {})
    log.entries = list(do(["in"]).values())
    log.write(whole=True)
    assert list(reported()[1]) == ["in/b.png"]


@pytest.mark.parametrize("text", ["no json", "[]", '{"files": 3}', '{"files": [{}]}'])
def test_a_file_that_is_no_report_is_not_replaced(here, text):
    Path("report.json").write_text(text)
    with pytest.raises(ImageError, match="no report"):
        Report(Path("report.json"), {})
    with pytest.raises(ImageError, match="cannot write the report"):
        Report(Path("nowhere/report.json"), {}).write()
