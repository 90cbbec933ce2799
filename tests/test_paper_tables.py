"""benchmarks/paper_tables.py: which score gets into which cell, in which unit, and what is said of the rest."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import paper_tables
from benchmarks.paper_tables import QUADRANTS, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLES, Published, main, name_of
from matfill import datasets, recipes, scoring

VERSION = "0.1.0 (0123456789ab)"


@pytest.fixture
def put(tmp_path):
    """Writes a file of scores as `matfill eval --json` does: of nats and their standard errors."""

    def write(name: str, weights: str, data: str, *, nats=(80.0, 0.5), free=(85.0, 0.6), **others) -> Path:
        bounds = (("iwae_bound", nats), ("free_energy", free))
        score = {
            "weights": weights,
            "data": data,
            "split": "test",
            "mask": "all",
            "images": 10_000,
            "samples": 2500,
            "date": "2016-12-31",
            "version": VERSION,
            **{key: {"mean": mean, "se": se, "bits_per_dim": 1.0} for key, (mean, se) in bounds},
            **others,
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(score))
        return path

    return write


@pytest.fixture
def tables(tmp_path, capsys):
    """Tables of the folder, as the cells of each row by title; and the lines below each."""

    def run() -> tuple[dict[str, list[list[str]]], dict[str, list[str]]]:
        assert main([str(tmp_path), "--markdown"]) == 0
        rows, notes, title = {}, {}, ""
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("**"):
                title = line.strip("*").rsplit(",", 1)[0]
                rows[title], notes[title] = [], []
            elif line.startswith("|"):
                rows[title].append([cell.strip() for cell in line.strip("|").split("|")])
            elif line:
                notes[title].append(line)
        return {title: found[2:] for title, found in rows.items()}, notes

    return run


def after(rows: list[list[str]], method: str, count: int) -> list[list[str]]:
    """The rows that follow one."""
    (first,) = [i for i, row in enumerate(rows) if row[0] == method]
    return rows[first + 1 : first + 1 + count]


MADE = ["10,000", "2016-12-31", VERSION]


# --- what is published -----------------------------------------------------------------------------------------------


def test_every_row_has_a_figure_for_every_column():
    for table in TABLES:
        for row in table.rows:
            assert len(row.figures if isinstance(row, Published) else row.masks) == len(table.columns)
        assert table.data in datasets.CATALOGUE
        known = {*recipes.RECIPES, "mnist-fc-ladder", "cifar10-plain"}
        assert {row.weights for row in table.ours} <= known


def test_quadrants_are_those_that_eval_shows():
    printed = [row.figures for row in QUADRANTS.rows if isinstance(row, Published)]
    for known in scoring.PUBLISHED:
        assert tuple(f"{nats:.2f}" for nats in known.nats) in printed


def test_without_scores_the_papers_rows_are_there_and_ours_are_not_measured(tables):
    rows, notes = tables()
    assert list(rows) == [table.title for table in TABLES]
    assert not any(notes.values())
    assert rows[TABLE_4.title] == [
        ["DRAW (16 steps, no attention)", "", "< 87.4", "", "", ""],
        ["VAE + IWAE", "", "< 82.9", "", "", ""],
        ["Prob Ladder", "", "< 81.2", "", "", ""],
        ["FC MatNet", "2500", "< 80.5", "", "", ""],
        ["matfill mnist-fc", "", "not measured", "", "", ""],
    ]
    assert [row[0] for row in after(rows[TABLE_1.title], "MatNet", 9)] == ["matfill omniglot", "matfill omniglot-gmm"]
    assert after(rows[QUADRANTS.title], "MatNet", 9) == [
        ["matfill quadrants, random protocol", "", *["not measured"] * 3, "", "", ""]
    ]


# --- what is ours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "weights", "data", "beside", "label"),
    [
        (TABLE_1, "omniglot", "omniglot", "MatNet", "matfill omniglot"),
        (TABLE_1, "omniglot-gmm", "sets/omniglot", "matfill omniglot", "matfill omniglot-gmm"),
        (TABLE_3, "mnist", "binarized-mnist", "MatNet", "matfill mnist"),
        (TABLE_3, "runs/mnist", "sets/binarized_mnist", "MatNet", "matfill mnist"),
        (TABLE_3, "mnist-ar", "binarized-mnist", "matfill mnist", "matfill mnist-ar, with local autoregression"),
        (TABLE_4, "mnist-fc", "mnist", "FC MatNet", "matfill mnist-fc"),
    ],
)
def test_a_score_fills_its_cell_in_nats(put, tables, table, weights, data, beside, label):
    put("a", weights, data, nats=(81.234, 0.126), free=(84.005, 0.25), samples=500)
    rows, _ = tables()
    assert after(rows[table.title], beside, 2) == [
        [label, "500", "81.23 ± 0.13", *MADE],
        ["the same, free energy", "1", "84.00 ± 0.25", *MADE],
    ]
    assert sum("±" in cell for found in rows.values() for row in found for cell in row) == 2


def test_cifar_is_in_bits_per_dimension(put, tables):
    bit = 3072 * math.log(2)
    put("a", "cifar10", "cifar10", nats=(3.2104 * bit, 0.0126 * bit), free=(3.25 * bit, 0.02 * bit), images=9975)
    rows, notes = tables()
    ours = after(rows[TABLE_2.title], "MatNet+AR", 2)
    assert [row[2:4] for row in ours] == [["3.210 ± 0.013", "9,975"], ["3.250 ± 0.020", "9,975"]]
    assert "10,000" in notes[TABLE_2.title][0]


def test_quadrants_come_from_three_files(put, tables):
    for n, nats in ((1, 60.0), (2, 40.0)):
        put(str(n), "quadrants", "mnist", mask=f"quadrants{n}", nats=(nats, 0.5), free=(nats + 1, 0.5), samples=100 * n)
    rows, _ = tables()
    random = after(rows[QUADRANTS.title], "MatNet", 9)
    assert random == [
        ["matfill quadrants, random protocol", "100 / 200", "60.00 ± 0.50", "40.00 ± 0.50", "not measured", *MADE],
        ["the same, free energy", "1", "61.00 ± 0.50", "41.00 ± 0.50", "not measured", *MADE],
    ]
    put("3", "quadrants", "mnist", mask="quadrants3fixed", nats=(20.0, None), free=(21.0, 0.5))
    rows, _ = tables()
    assert after(rows[QUADRANTS.title], "MatNet", 9) == [
        *random,
        ["matfill quadrants, fixed protocol", "2500", "not measured", "not measured", "20.00", *MADE],
        ["the same, free energy", "1", "not measured", "not measured", "21.00 ± 0.50", *MADE],
    ]


@pytest.mark.parametrize(
    "others",
    [
        {"split": "val"},
        {"split": "train"},
        {"split": "all"},
        {"data": "mnist"},
        {"mask": "left"},
        {"mask": "quadrants1"},
    ],
)
def test_what_does_not_count_is_told_below_the_table(put, tables, others):
    put("a", **{"weights": "mnist", "data": "binarized-mnist", "images": 1000, **others})
    rows, notes = tables()
    assert after(rows[TABLE_3.title], "MatNet", 1) == [["matfill mnist", "", "not measured", "", "", ""]]
    (said,) = notes.pop(TABLE_3.title)
    split = {"val": "validation", "train": "training", "all": "all splits"}.get(others.get("split"), "test")
    data, mask = others.get("data", "binarized-mnist"), others.get("mask", "all")
    assert said == (
        f"Not counted: mnist on {data}, mask {mask}, {split}, 1,000 images: bound 80.00 ± 0.50 (k = 2500), "
        f"free energy 85.00 ± 0.60 nats per image; 2016-12-31, {VERSION}, a.json"
    )
    assert not any(notes.values())


def test_other_weights_are_in_none_of_the_tables(put, tables):
    put("a", "faces", "mnist")
    rows, notes = tables()
    assert "±" not in str(rows)
    assert [len(found) for found in notes.values()] == [0] * len(TABLES) + [1]


def test_weights_are_known_by_their_name():
    asked = "mnist", "runs/mnist", "runs/mnist/", "runs/mnist/weights.safetensors", "weights/mnist.safetensors"
    assert {name_of(weights) for weights in asked} == {"mnist"}
    assert name_of("runs/mnist-0.1") == "mnist-0.1"


# --- what cannot be used ---------------------------------------------------------------------------------------------


def refused(capsys, folder: Path) -> str:
    """What is said of the folder, in one line."""
    assert main([str(folder)]) == 1
    said, error = capsys.readouterr()
    assert (said, error.count("\n")) == ("", 1)
    return error


def test_two_files_for_one_cell_are_both_named(put, tmp_path, capsys):
    put("one", "mnist", "binarized-mnist")
    put("two", "runs/mnist", "binarized_mnist", samples=50)
    error = refused(capsys, tmp_path)
    assert error.startswith("error: one.json and two.json both score mnist, mask all")
    put("two", "mnist", "binarized-mnist", split="val")
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"{} {}", b"[]", b"3", b"{}", b'{"weights": "mnist"}']
)
def test_a_damaged_file_is_named(put, tmp_path, capsys, content):
    put("good", "mnist", "binarized-mnist")
    (tmp_path / "bad.json").write_bytes(content)
    assert str(tmp_path / "bad.json") in refused(capsys, tmp_path)


@pytest.mark.parametrize("key", ["weights", "data", "split", "mask", "images", "samples", "date", "version"])
def test_a_missing_or_wrong_value_is_named(put, tmp_path, capsys, key):
    path = put("a", "mnist", "binarized-mnist")
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, key: None}))
    assert f"{path} has null for {key!r}" in refused(capsys, tmp_path)
    del found[key]
    path.write_text(json.dumps(found))
    assert f"{path} has no {key!r}" in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"iwae_bound": {"mean": 80.0}}, "no 'se'"),
        ({"free_energy": {"se": 0.5}}, "no 'mean'"),
        ({"free_energy": 80.0}, "80.0 for 'free_energy'"),
        ({"nats": (math.nan, 0.5)}, "NaN for 'mean'"),
        ({"nats": ("80", 0.5)}, "\"80\" for 'mean'"),
        ({"images": True}, "true for 'images'"),
    ],
)
def test_figures_have_to_be_figures(put, tmp_path, capsys, others, says):
    path = put("a", "mnist", "binarized-mnist", **others)
    error = refused(capsys, tmp_path)
    assert str(path) in error and says in error


def test_a_folder_has_to_be_there(tmp_path, capsys):
    assert "nowhere is not a folder" in refused(capsys, tmp_path / "nowhere")


# --- the program -----------------------------------------------------------------------------------------------------


def test_the_scores_that_are_kept_can_be_shown(capsys):
    assert main([]) == 0
    assert "matfill cifar10" in capsys.readouterr().out


def test_into_a_pipe_it_prints_plain_lines(put, tmp_path):
    put("a", "quadrants", "mnist", mask="quadrants2")
    put("b", "quadrants", "mnist", mask="quadrants1", split="val", version="[red]1|2")
    program = [sys.executable, paper_tables.__file__, tmp_path]
    plain, markdown = (
        subprocess.run([*program, *flags], capture_output=True, encoding="utf-8", check=True).stdout
        for flags in ([], ["--markdown"])
    )
    assert "\x1b" not in plain
    (row,) = [line.split() for line in plain.splitlines() if "matfill quadrants" in line]
    assert (
        row
        == f"matfill quadrants, random protocol 2500 not measured 80.00 ± 0.50 not measured {' '.join(MADE)}".split()
    )
    (said,) = [line for line in plain.splitlines() if "validation" in line]
    assert "[red]1|2, b.json" in said
    assert "| method | k | 1 quadrant | 2 quadrants | 3 quadrants | images | date | version |\n| --- |" in markdown
