"""What a run wrote is read as it was meant, whatever its age and end; the figure shows it, module by module."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from matfill import checkpoint, curves, training
from matfill.errors import ConfigError, DataError, MatfillError

MODULES = [[[1.0], [2.0, 3.0], [4.0]]]  # of each level of the only stage
GROUPS = ((0, 0), (0, 1), (0, 1), (0, 2))


def scores(distortion=10.0, modules=MODULES):
    rates = [[sum(level) for level in stage] for stage in modules]
    return {"bits_per_dim": 1.0, "distortion": distortion, "rates": rates, "module_rates": modules}


def log(update, **changes):
    return {"event": "log", "update": update, "minutes": update / 10, "train": scores(**changes)}


def checkpointed(update, **changes):
    return {"event": "checkpoint", "update": update, "minutes": update / 10, "heldout": scores(**changes)}


def older(line):
    """The line as it was written before there were rates of modules."""
    key = "train" if line["event"] == "log" else "heldout"
    return line | {key: {k: v for k, v in line[key].items() if k != "module_rates"}}


@pytest.fixture
def run(tmp_path):
    """Makes a run folder of some lines, with `tail` after the last one."""

    def make(*lines, tail=""):
        folder = tmp_path / "my run"
        folder.mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / curves.METRICS_NAME).write_text(text + tail)
        return folder

    return make


def test_the_file_is_the_one_that_training_writes():
    assert curves.METRICS_NAME == training.METRICS_NAME


# --- reading ---------------------------------------------------------------------------------------------------------


def test_bounds_and_rates_are_in_nats_per_image(run):
    history = curves.read(run(log(5), log(9, distortion=7.5), checkpointed(9, distortion=6.0)))
    assert history.train.updates.tolist() == [5, 9]
    assert history.train.minutes.tolist() == [0.5, 0.9]
    assert history.train.bound.tolist() == [20, 17.5]
    assert history.heldout.bound.tolist() == [16]
    assert history.rates.tolist() == [[1, 2, 3, 4]] * 2
    assert history.groups == GROUPS


def test_older_lines_have_rates_of_levels_only(run):
    history = curves.read(run(older(log(5)), log(9), older(checkpointed(9))))
    assert history.train.bound.tolist() == [20, 20]
    assert history.rates.tolist() == [[1, 5, 4]] * 2
    assert history.groups == ((0, 0), (0, 1), (0, 2))


def test_two_stages_are_told_apart(run):
    history = curves.read(run(log(1, modules=MODULES * 2), log(2, modules=MODULES * 2)))
    assert history.groups == GROUPS + tuple((1, level) for _, level in GROUPS)
    assert history.train.bound.tolist() == [30, 30]
    names = curves.level_names(run(), history.groups)
    assert list(names.values())[2:4] == ["guess, level 3", "refine, level 1"]


@pytest.mark.parametrize("tail", ['{"event": "log", "upd', '{"event": "log"}', "12", "\0\0\0"])
def test_a_torn_last_line_is_passed_over(run, tail):
    assert curves.read(run(log(5), log(9), tail=tail)).train.updates.tolist() == [5, 9]


def test_a_run_that_began_anew_forgets_what_came_after(run):
    history = curves.read(run(log(5), log(9), checkpointed(9), log(6), log(7)))
    assert history.train.updates.tolist() == [5, 6, 7]
    assert len(history.heldout) == 0


def test_figures_that_are_not_finite_are_left_out(run):
    assert curves.read(run(log(5), log(6, distortion=float("nan")), log(7))).train.updates.tolist() == [5, 7]


@pytest.mark.parametrize(
    ("lines", "tail", "says"),
    [
        ([], "", "holds no figures yet"),
        ([], '{"event"', "holds no figures yet"),
        ([log(1)], "nonsense\n", "line 2 of"),
        ([log(1), {"event": "log", "update": 2, "minutes": 1}], "", "line 2 of"),
        ([log(1), [1]], "", "line 2 of"),
        ([log(1), log(2, modules=[[[1.0], [2.0]]])], "", "of several models"),
    ],
)
def test_what_no_run_wrote_is_refused_in_one_line(run, lines, tail, says):
    with pytest.raises(DataError, match=says) as found:
        curves.read(run(*lines, tail=tail))
    assert "\n" not in str(found.value)


def test_there_has_to_be_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(DataError, match="is no run folder"):
            curves.plot(folder)


# --- drawing ---------------------------------------------------------------------------------------------------------


def axes(history, names=None):
    pytest.importorskip("matplotlib")
    names = names or {group: str(group) for group in history.groups}
    return curves.draw(history, names).axes


def test_rates_are_stacked_with_dark_lines_between_levels_and_light_ones_between_modules(run):
    below = axes(curves.read(run(log(0), log(100))))[1]
    heights = [line.get_ydata().tolist() for line in below.lines]
    assert heights == [[1, 1], [3, 3], [6, 6], [10, 10]]
    assert [line.get_color() for line in below.lines] == ["black", "white", "black", "black"]
    areas = [area.get_paths()[0].get_extents() for area in below.collections]
    assert [(area.y0, area.y1) for area in areas] == [(0, 1), (1, 3), (3, 6), (6, 10)]
    colours = [tuple(area.get_facecolor()[0]) for area in below.collections]
    assert colours[1] == colours[2] and len(set(colours)) == 3
    labels = [text.get_text() for text in below.get_legend().get_texts()]
    assert labels == ["(0, 2)", "(0, 1), 2 modules", "(0, 0)"]


def test_both_bounds_are_drawn_against_updates_and_minutes(run):
    lines = [log(update, distortion=1000 / update) for update in (1, 50, 100)]
    above = axes(curves.read(run(*lines, checkpointed(100, distortion=5.0))))[0]
    train, heldout = above.lines
    assert train.get_xdata().tolist() == [1, 50, 100]
    assert train.get_ydata().tolist() == [1010, 30, 20]
    assert heldout.get_ydata().tolist() == [15]
    low, high = above.get_ylim()
    assert low < 15 and 30 < high < 100  # what a run starts from would flatten all else
    (top,) = above.child_axes
    ticks = dict(zip(top.get_xticks(), [text.get_text() for text in top.get_xticklabels()], strict=True))
    assert {round(place): label for place, label in ticks.items()}[100] == "10"


@pytest.mark.parametrize("lines", [[log(0)], [checkpointed(3)]])
def test_a_run_that_has_just_begun_can_be_drawn(run, tmp_path, lines):
    pytest.importorskip("matplotlib")
    (path,) = curves.plot(run(*lines), tmp_path / "a.svg")
    assert "bound, nats per image" in path.read_text()


def test_long_runs_are_thinned_by_averaging():
    values = np.arange(3000.0).reshape(1500, 2)
    thinned = curves._thinned(values)
    assert thinned.shape == (curves.MOST_POINTS, 2)
    assert thinned.mean(0) == pytest.approx(values.mean(0))
    assert (thinned[0] == values[:3].mean(0)).all()


def test_png_and_svg_lie_in_the_run_or_where_they_are_wanted(run, tmp_path):
    pytest.importorskip("matplotlib")
    folder = run(log(1), log(2), checkpointed(2))
    checkpoint.save_weights(folder / checkpoint.WEIGHTS_NAME, tiny_model(), {}, torch.float16)
    assert curves.plot(folder) == [folder / "curves.png", folder / "curves.svg"]
    with Image.open(folder / "curves.png") as image:
        assert min(image.size) > 500
    svg = (folder / "curves.svg").read_text()
    for text in ("my run", "fully connected", "2x2, 2 modules", "4x4", "minutes of training"):
        assert f"<!-- {text} -->" in svg
    assert curves._paths(tmp_path / "a.b.PNG") == [tmp_path / "a.b.PNG"]
    assert curves._paths(tmp_path / "c") == [tmp_path / "c.png", tmp_path / "c.svg"]
    with pytest.raises(ConfigError, match=r"unknown extension '\.pdf'"):
        curves.plot(folder, tmp_path / "c.pdf")
    (tmp_path / "d.svg").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        curves.plot(folder, tmp_path / "d.svg")


def test_without_matplotlib_it_says_how_to_get_it(run, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MatfillError, match=r"pip install 'matfill\[plot\]'"):
        curves.plot(run(log(1)))
