import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matfill import checkpoint, cli, datasets, library, recipes
from matfill.config import TrainConfig
from matfill.errors import WeightsError
from tests.server import CONTENT, serving
from tests.tiny import tiny_config, tiny_model

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def matfill(monkeypatch, capsys):
    """Runs the command line; gives its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["matfill", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    card = {
        "temperature": [1, 0.5, 0],
        "recipe": TrainConfig(updates=1).to_dict(),
        "data": {"folder": "photos"},
        "training": {"updates": 1},
    }
    checkpoint.save_weights(path, tiny_model(), card, torch.float16)
    return path


def photo(path: Path, width: int = 30, height: int = 20) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# --- help ------------------------------------------------------------------------------------------------------------

COMMANDS = ("train", "plot", "data", "masks", "inpaint", "sample", "explore", "info")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_that_the_readme_has_too(matfill, command):
    code, said, _ = matfill(command, "--help")
    assert code == 0
    assert re.search(rf"Example: matfill {command}", said)
    assert f"matfill {command}" in README.read_text()


def test_every_option_in_the_readme_exists(matfill):
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(matfill(command, "--help")[1] for command in COMMANDS)))
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README.read_text(), flags=re.DOTALL))
    lines = " ".join(re.findall(rf"matfill (?:{'|'.join(COMMANDS)}).*", blocks))
    used = set(re.findall(r"(?<=\s)--[a-z][a-z-]+", lines))
    assert used <= known
    assert {"--mask", "--samples", "--resume"} <= used


def test_the_version(matfill):
    assert matfill("--version")[:2] == (0, "matfill 0.1.0\n")


# --- masks -----------------------------------------------------------------------------------------------------------


def test_masks_are_white_where_missing(matfill, tmp_path):
    code, said, _ = matfill("masks", "center4", "--size", "10x8", "--count", "3", "-o", tmp_path)
    assert code == 0
    assert "20.0%" in said
    for i in (1, 2, 3):
        mask = pixels(tmp_path / f"mask_{i}.png")
        assert mask.shape == (8, 10)
        assert (mask[2:6, 3:7] == 255).all()
        assert mask.astype(int).sum() == 16 * 255
    assert (tmp_path / "sheet.png").exists()


def test_masks_depend_on_the_seed_alone(matfill, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        matfill("masks", "random3x5", "--size", 32, "--count", 2, "--seed", seed, "-o", tmp_path / name)
    first = {name: (tmp_path / name / "mask_2.png").read_bytes() for name in "abc"}
    assert first["a"] == first["b"] != first["c"]


def test_a_mask_file_is_shown_as_it_is(matfill, tmp_path):
    matfill("masks", "left", "--size", 8, "--count", 1, "-o", tmp_path / "a")
    code, said, _ = matfill("masks", tmp_path / "a" / "mask_1.png", "-o", tmp_path / "b")
    assert (code, "50.0%" in said) == (0, True)
    assert (pixels(tmp_path / "a" / "mask_1.png") == pixels(tmp_path / "b" / "mask_1.png")).all()


def test_a_mask_file_is_not_shown_in_its_own_folder(matfill, tmp_path):
    matfill("masks", "random2x3", "--size", 8, "--count", 2, "-o", tmp_path / "a")
    before = (tmp_path / "a" / "mask_1.png").read_bytes()
    code, _, error = matfill("masks", tmp_path / "a" / "mask_2.png", "-o", tmp_path / "a")
    assert code == 1 and "choose another -o" in error
    assert (tmp_path / "a" / "mask_1.png").read_bytes() == before


# --- inpaint ---------------------------------------------------------------------------------------------------------


def test_inpaint_fills_the_hole_and_nothing_else(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    out = tmp_path / "filled"
    wanted = ("--samples", 3, "--mean", "--uncertainty", "--write-mask", "--sheet")
    code, said, _ = matfill("inpaint", source, "--mask", "center8", "--weights", weights, *wanted, "-o", out)
    assert code == 0
    assert "10.7%" in said
    assert len(list(out.iterdir())) == 7
    before, mask = pixels(source), pixels(out / "photo_mask.png") == 255
    assert mask.sum() == 64
    filled = [pixels(out / f"photo_{i}.png") for i in (1, 2, 3)]
    for one in (*filled, pixels(out / "photo_mean.png")):
        assert (one[~mask] == before[~mask]).all()
        assert (one[mask] != before[mask]).any()
    assert any((filled[0] != one).any() for one in filled[1:])
    assert pixels(out / "photo_uncertainty.png")[mask].any()
    assert pixels(out / "photo_sheet.png").ndim == 3


def test_one_filling_has_the_photos_name_and_nothing_else_is_written(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    assert matfill("inpaint", source, "--mask", "left", "--weights", weights, "-o", tmp_path / "out")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]


def test_the_same_seed_gives_the_same_pictures(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    options = ("--mask", "random2x6", "--weights", weights, "--samples", 2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        matfill("inpaint", source, *options, "--seed", seed, "-o", tmp_path / name)
    first = {name: (tmp_path / name / "photo_2.png").read_bytes() for name in "abc"}
    assert first["a"] == first["b"] != first["c"]


def test_temperature_zero_leaves_nothing_to_chance(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    options = ("--mask", "left", "--weights", weights, "--temperature", "0", "--samples", 4, "--sheet")
    matfill("inpaint", source, *options, "-o", tmp_path / "a.png")
    assert (tmp_path / "a_1.png").read_bytes() == (tmp_path / "a_4.png").read_bytes()
    assert (tmp_path / "a_sheet.png").exists()


def test_a_mask_file_and_its_inverse(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    matfill("masks", "left", "--size", "30x20", "--count", 1, "-o", tmp_path)
    for flags in ((), ("--invert-mask",)):
        out = tmp_path / f"out{len(flags)}"
        mask = tmp_path / "mask_1.png"
        code, _, said = matfill("inpaint", source, "--mask", mask, "--weights", weights, "-o", out, *flags)
        assert code == 0, said
        changed = (pixels(out / "photo.png") != pixels(source)).any(-1)
        half = changed[:, 15:] if not flags else changed[:, :15]
        assert changed.any()
        assert not half.any()


def test_masks_are_united_grown_and_feathered(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    boxes = ("--mask", "box:2,2,4,4", "--mask", "box:20,10,4,4", "--weights", weights, "--write-mask")
    sizes = {}
    for name, flags in (("plain", ()), ("grown", ("--grow", 2)), ("soft", ("--grow", 2, "--feather", 2))):
        code, _, said = matfill("inpaint", source, *boxes, *flags, "-o", tmp_path / name)
        assert code == 0, said
        mask = pixels(tmp_path / name / "photo_mask.png") == 255
        sizes[name] = mask.sum()
        assert not (pixels(tmp_path / name / "photo.png") != pixels(source)).any(-1)[~mask].any()
    assert sizes["plain"] == 32 < sizes["grown"] == sizes["soft"]
    assert (tmp_path / "grown" / "photo.png").read_bytes() != (tmp_path / "soft" / "photo.png").read_bytes()


def test_what_is_there_is_left_alone_unless_it_is_to_be_overwritten(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    options = ("--mask", "left", "--weights", weights, "-o", tmp_path / "a.png")
    assert matfill("inpaint", source, *options)[0] == 0
    first = (tmp_path / "a.png").read_bytes()
    code, said, _ = matfill("inpaint", source, *options, "--seed", 1)
    assert (code, "there already" in said, (tmp_path / "a.png").read_bytes() == first) == (0, True, True)
    assert matfill("inpaint", source, *options, "--seed", 1, "--overwrite")[0] == 0
    assert (tmp_path / "a.png").read_bytes() != first


def test_the_best_sample_is_kept_and_what_is_there_is_scored(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png", 8, 8)
    options = ("--mask", "box:2,2,4,4", "--weights", weights, "--samples", 5)
    out = ("-o", tmp_path / "best", "--report", tmp_path / "report.json")
    code, said, error = matfill("inpaint", source, *options, *out, "--best", "--score")
    assert code == 0, error
    (entry,) = json.loads((tmp_path / "report.json").read_text())["files"]
    assert matfill("inpaint", source, *options, "-o", tmp_path / "all")[0] == 0
    model = library.load(weights)
    scores = [model.score(Image.open(tmp_path / "all" / f"photo_{i}.png"), "box:2,2,4,4") for i in range(1, 6)]
    which = int(np.argmin(scores)) + 1
    assert entry["best"] == {"sample": which, "bits_per_dim": pytest.approx(min(scores))}
    assert entry["bits_per_dim"] == pytest.approx(model.score(Image.open(source), "box:2,2,4,4"))
    assert f"kept sample {which}: at most {min(scores):.3f} bits/dim" in said
    assert f"what is really there: at most {entry['bits_per_dim']:.3f} bits/dim" in said
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["photo.png"]
    assert (tmp_path / "best" / "photo.png").read_bytes() == (tmp_path / "all" / f"photo_{which}.png").read_bytes()


def test_a_folder_is_filled_as_a_whole_with_a_report(matfill, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/sub/b.png", "masks/a.png", "masks/sub/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        photo(Path(name))
    Path("in/broken.jpg").write_text("no image")
    options = ("--mask", "masks", "--weights", weights, "-o", "out", "--report", "report.json")
    code, said, error = matfill("inpaint", "in", *options)
    assert code == 1
    assert said.startswith("2 photos filled") and "1 failed" in said and said.count("\n") == 1
    assert error == "error: in/broken.jpg is not an image of a known format; give a PNG, JPEG, WebP or TIFF file\n"
    assert {path.as_posix() for path in Path("out").rglob("*.*")} == {"out/a.png", "out/sub/b.png"}
    report = json.loads(Path("report.json").read_text())
    assert report["weights"] == str(weights) and report["temperature"] == [1, 0.5, 0]
    assert [entry["status"] for entry in report["files"]] == ["filled", "failed", "filled"]
    Path("in/broken.jpg").unlink()
    code, said, error = matfill("inpaint", "in", *options)
    assert (code, error) == (0, "")
    assert "2 were there already" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.png", "--mask", "left"], "there is no image nowhere.png"),
        (["text.png", "--mask", "left"], "text.png is not an image"),
        (["photo.png", "--mask", "nope"], "write one of: randomNxS"),
        (["photo.png", "--mask", "nope.png"], "there is no mask nope.png"),
        (["photo.png", "--mask", "other.png"], "other.png is 9x9 but the image 30x20"),
        (["photo.png", "--mask", "black.png"], "nothing is missing by black.png"),
        (["photo.png", "--mask", "black.png", "--invert-mask"], "covers the whole image"),
        (["photo.png", "--mask", "center21"], "21"),
        (["photo.png", "--mask", "alpha"], "photo.png: nothing is missing by alpha: the image has no transparency"),
        (["photo.png", "--mask", "box:1,2,3"], "is no box"),
        (["photo.png", "--mask", "color:nope"], "is no colour"),
        (["photo.png", "--mask", "left", "--weights", "nope"], "no weights 'nope'"),
        (["photo.png", "--mask", "left", "--weights", "text.png"], "text.png is not a matfill weights file"),
        (["photo.png", "--mask", "left", "--temperature", "1,2"], "2 temperatures for a model of 3 levels"),
        (["photo.png", "--mask", "left", "--temperature", "-1"], "temperature -1.0 is out of range"),
        (["photo.png", "--mask", "left", "--device", "abacus"], "device is 'abacus'"),
        (["photo.png", "--mask", "left", "-o", "out.xyz"], "unknown extension '.xyz'"),
        (["photo.png", "--mask", "left", "-o", "text.png/filled"], "cannot make the folder"),
        (["photo.png", "--mask", "left", "-o", "."], "would replace a photo"),
        (["photo.png", "--mask", "left", "--report", "text.png"], "is no report"),
        (["empty", "--mask", "left"], "no image file in empty"),
    ],
)
def test_what_cannot_be_filled_is_one_line_and_exit_code_1(matfill, weights, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    photo(Path("photo.png"))
    photo(Path("other.png"), 9, 9)
    Path("text.png").write_text("no image")
    Path("empty").mkdir()
    Image.new("L", (30, 20)).save("black.png")
    before = sorted(tmp_path.iterdir())
    chosen = [] if "--weights" in arguments else ["--weights", weights]
    code, said, error = matfill("inpaint", *arguments, *chosen)
    assert (code, said) == (1, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--samples", "0"],
        ["--temperature", "warm"],
        ["--seed", "-1"],
        ["--nope"],
        ["--quality", "101"],
        ["--threshold", "0"],
        ["--grow", "-1"],
        ["--feather", "x"],
        ["--mean"],
        ["--best"],
        ["--uncertainty"],
    ],
)
def test_wrong_usage_is_exit_code_2(matfill, weights, tmp_path, arguments):
    source = photo(tmp_path / "photo.png")
    assert matfill("inpaint", source, "--mask", "left", "--weights", weights, *arguments)[0] == 2
    assert matfill("inpaint", source)[0] == 2


# --- info ------------------------------------------------------------------------------------------------------------


def test_info_shows_a_card(matfill, weights):
    code, said, _ = matfill("info", weights)
    assert code == 0
    assert "image_size" in said
    assert "photos" in said
    card = json.loads(matfill("info", weights, "--json")[1])[str(weights)]
    assert card["temperature"] == [1, 0.5, 0]
    assert card["model"]["levels"][0]["size"] == 1


def test_info_lists_what_is_bundled(matfill, weights, monkeypatch):
    monkeypatch.setattr(checkpoint, "bundled", lambda: {"tiny": weights})
    code, said, _ = matfill("info")
    assert code == 0
    assert "tiny" in said
    assert "8x8x3" in said


def test_bundled_weights_are_what_their_cards_say(matfill):
    for name, path in checkpoint.bundled().items():
        model, card = checkpoint.load_weights(name)
        assert path.stat().st_size < 12 * 2**20
        assert {"recipe", "data", "training", "scores", "temperature"} <= card.keys()
        assert len(card["temperature"]) == len(model.config.levels)


# --- train -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    config = TrainConfig(mask="center4", batch=4, updates=2)
    monkeypatch.setitem(recipes.RECIPES, "tiny", lambda: (tiny_config(), config))
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(12):
        photo(path / f"{i}.png")
    (path / "broken.jpg").write_text("no image")
    return path


def test_train_info_inpaint(matfill, folder, tmp_path):
    out = tmp_path / "run"
    code, said, error = matfill("train", folder, "--recipe", "tiny", "--out", out, "--fit", "squeeze")
    assert code == 0, error
    assert "broken.jpg" in said
    assert "bits/dim" in said
    assert "\x1b" not in said  # no escape codes into a pipe
    assert matfill("train", folder, "--out", out, "--resume", "--updates", 3)[0] == 0
    card = json.loads(matfill("info", out, "--json")[1])[str(out)]
    assert card["training"]["updates"] == 3
    assert card["data"]["fit"] == "squeeze"
    code, _, error = matfill("inpaint", folder / "1.png", "--mask", "left", "--weights", out, "-o", tmp_path / "filled")
    assert code == 0, error


def test_train_finds_its_folder_below_data(matfill, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MATFILL_DATA", str(folder.parent))
    assert matfill("train", "photos", "--recipe", "tiny", "--out", tmp_path / "run")[0] == 0


def test_train_reads_arrays_and_says_what_does_not_fit(matfill, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MATFILL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data = tmp_path / "xdg" / "matfill" / "mnist"
    data.mkdir(parents=True)
    np.save(data / "train.npy", np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8))
    code, said, error = matfill("train", "mnist", "--recipe", "tiny", "--out", tmp_path / "run")
    assert code == 0, error
    assert "11 images to train on, 1 held out, 0 for tests" in said
    assert json.loads(matfill("info", tmp_path / "run", "--json")[1]).popitem()[1]["data"]["folder"] == "mnist"
    np.save(data / "train.npy", np.zeros((12, 9, 9), np.uint8))
    code, _, error = matfill("train", "mnist", "--recipe", "tiny", "--out", tmp_path / "other")
    assert (code, error.count("\n")) == (1, 1)
    assert "train.npy are 9x9 grey, the model takes 8x8 colour" in error
    (data / "train.npy").rename(data / "test.npy")
    np.save(data / "test.npy", np.zeros((12, 8, 8, 3), np.uint8))
    code, _, error = matfill("train", "mnist", "--recipe", "tiny", "--out", tmp_path / "other")
    assert (code, error.count("\n")) == (1, 1)
    assert "has no training images" in error


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--batch", "50"], 1),
        (["--recipe", "nope"], 1),
        (["--updates", "0"], 1),
        (["--device", "abacus"], 1),
        (["--precision", "float8"], 1),
        (["--set", "nope=1"], 1),
        (["--set", "ema=2"], 1),
        (["--set", "ema"], 2),
        (["--resume"], 1),
        (["--init", "nope"], 1),
        (["--mask", "random1x99"], 1),
        (["--updates", "2", "--minutes", "2"], 2),
        (["--updates", "many"], 2),
    ],
)
def test_train_says_what_it_cannot_do(matfill, folder, tmp_path, arguments, code):
    recipe = [] if "--recipe" in arguments else ["--recipe", "tiny"]
    found, _, error = matfill("train", folder, "--out", tmp_path / "run", *recipe, *arguments)
    assert found == code
    assert "Traceback" not in error
    if code == 1:
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_train_needs_a_folder_with_images(matfill, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        code, _, error = matfill("train", folder, "--out", tmp_path / "run")
        assert code == 1
        assert str(folder) in error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()


# --- data ------------------------------------------------------------------------------------------------------------


def test_data_lists_and_fetches(matfill, tmp_path, monkeypatch):
    monkeypatch.delenv("MATFILL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("COLUMNS", "300")
    assert matfill("data")[1].count("not here yet") == len(datasets.CATALOGUE)
    file = datasets.File("a-idx3-ubyte", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    with serving() as server:
        for way, expected in (("forbidden", 1), ("well", 0)):
            mirror = server.url(way).removesuffix("file.bin")
            tiny = datasets.DataSet("tiny", "digits", "free", "http://page", (mirror,), (file,))
            monkeypatch.setitem(datasets.CATALOGUE, "tiny", tiny)
            code, said, error = matfill("data", "tiny", "--data", tmp_path / "data")
            assert code == expected, error
            assert (error.count("\n"), "HTTP 403" in error) == ((1, True) if code else (0, False))
    assert f"tiny is in {tmp_path / 'data' / 'tiny'}: digits; licence free" in said
    assert str(tmp_path / "data" / "tiny") in matfill("data", "--data", tmp_path / "data")[1]
    code, _, error = matfill("data", "nope")
    assert (code, error) == (
        1,
        "error: there is no data set 'nope'; name one of " + ", ".join(datasets.CATALOGUE) + "\n",
    )


# --- eval ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path) -> tuple[Path, Path]:
    """A file of grey images, and weights of a binary model for them."""
    data, path = tmp_path / "digits.npz", tmp_path / "binary.safetensors"
    draw = np.random.default_rng(0)
    np.savez(data, train=draw.integers(0, 256, (20, 8, 8), np.uint8), test=draw.integers(0, 256, (9, 8, 8), np.uint8))
    model = tiny_model(image_channels=1, output="bernoulli", stages=1)
    checkpoint.save_weights(path, model, {"data": {"fit": "crop"}}, torch.float16)
    return data, path


def test_eval_prints_one_object(matfill, digits, monkeypatch):
    monkeypatch.setattr("matfill.scoring.today", lambda: "2016-12-31")
    monkeypatch.setattr("matfill.scoring.source_version", lambda: "0.0.1 (0123456789ab)")
    data, path = digits
    arguments = (data, "--weights", path, "--mask", "center4", "--samples", 3, "--images", 7, "--seed", 2)
    code, said, error = matfill("eval", *arguments, "--json")
    assert (code, error) == (0, "")
    assert said.count("\n") == 1
    found = json.loads(said)
    assert found["weights"] == str(path) and found["data"] == str(data)
    assert [found[key] for key in ("mask", "protocol", "images", "samples", "seed")] == ["center4", None, 7, 3, 2]
    for key in ("free_energy", "iwae_bound"):
        assert found[key].keys() == {"mean", "se", "bits_per_dim"}
        assert found[key]["bits_per_dim"] == pytest.approx(found[key]["mean"] / 16 / np.log(2))
        assert found[key]["se"] > 0
    assert [len(stage) for stage in found["rates"]] == [3]
    assert found["images_per_second"] > 0
    assert 0 < found["sample_cost"] < 1
    assert (found["date"], found["version"]) == ("2016-12-31", "0.0.1 (0123456789ab)")
    again = json.loads(matfill("eval", *arguments, "--json")[1])
    assert again["free_energy"] == found["free_energy"]
    said = matfill("eval", *arguments)[1]
    assert f"{found['free_energy']['mean']:.2f} ± {found['free_energy']['se']:.2f}" in said
    assert f"{found['iwae_bound']['bits_per_dim']:.4f}" in said
    assert "MatNet" not in said


def test_eval_of_an_unconditional_model_scores_whole_images(matfill, tmp_path):
    data, path = tmp_path / "train.npy", tmp_path / "whole.safetensors"
    model = tiny_model(image_channels=1, output="bernoulli", conditional=False)
    checkpoint.save_weights(path, model, {}, torch.float32)
    np.save(data, np.random.default_rng(0).integers(0, 2, (20, 8, 8), np.uint8))
    arguments = ("eval", data, "--weights", path, "--split", "all", "--json")
    short, long = (json.loads(matfill(*arguments, *mask)[1]) for mask in ((), ("--mask", "all")))
    assert short["mask"] == long["mask"] == "all"
    assert short["free_energy"] == long["free_energy"]
    assert short["free_energy"]["bits_per_dim"] == pytest.approx(short["free_energy"]["mean"] / 64 / np.log(2))


@pytest.mark.parametrize(("visible", "paper"), [(1, "57.45"), (2, "36.82"), (3, "17.96")])
def test_eval_of_quadrants_shows_the_papers_row(matfill, digits, visible, paper):
    data, path = digits
    arguments = ("eval", data, "--weights", path, "--quadrants", visible, "--samples", 2)
    said = matfill(*arguments)[1]
    (row,) = [line.split() for line in said.splitlines() if "MatNet" in line]
    assert row[-3:] == ["random", "1", paper]
    ours = [line.split() for line in said.splitlines() if "±" in line]
    assert [row[-7:-4] for row in ours] == [["random", "1", "9"], ["random", "2", "9"]]
    found = json.loads(matfill(*arguments, "--protocol", "fixed", "--json")[1])
    assert (found["mask"], found["protocol"]) == (f"quadrants{visible}fixed", "fixed")
    assert found["free_energy"]["bits_per_dim"] == pytest.approx(
        found["free_energy"]["mean"] / (16 * (4 - visible)) / np.log(2)
    )


def test_eval_knows_what_quadrants_are_short_for(matfill, monkeypatch):
    asked = []

    def refuse(*arguments, **options):
        asked.append(arguments)
        raise WeightsError("none")

    monkeypatch.setattr("matfill.scoring.score_data", refuse)
    assert matfill("eval", "--quadrants", 3)[0] == 1
    assert matfill("eval", "--quadrants", 1, "--protocol", "fixed", "--weights", "mine")[0] == 1
    assert asked == [("mnist", "quadrants", "quadrants3"), ("mnist", "mine", "quadrants1fixed")]


def test_eval_warns_of_a_collapse_beside_its_object(matfill, digits, monkeypatch):
    monkeypatch.setattr("matfill.scoring.Scores.collapsed", True)
    arguments = ("eval", digits[0], "--weights", digits[1], "--mask", "left", "--samples", 2, "--json")
    code, said, error = matfill(*arguments)
    assert code == 0
    assert json.loads(said)["effective_samples"]["collapsed"] is True
    assert error.startswith("note: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["digits.npz", "--weights", "tiny.safetensors", "--mask", "left"], 1, "8x8 grey, the model takes 8x8 colour"),
        (["large.npz", "--weights", "binary.safetensors", "--mask", "left"], 1, "9x9 grey, the model takes 8x8 grey"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "left", "--images", "10"], 1, "has 9 test images"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "center9"], 1, "9x9 square does not fit"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "left", "--split", "x"], 1, "split is 'x'"),
        (["nowhere", "--weights", "binary.safetensors", "--mask", "left"], 1, "nowhere"),
        (["digits.npz", "--weights", "nope", "--mask", "left"], 1, "no weights 'nope'"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "left", "--images", "0"], 2, "--images"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "left", "--samples", "0"], 2, "--samples"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "left", "--samples", "100001"], 2, "--samples"),
        (["digits.npz", "--weights", "binary.safetensors", "--mask", "left", "--protocol", "fixed"], 2, "--quadrants"),
        (["digits.npz", "--weights", "binary.safetensors"], 1, "say which holes"),
        (["digits.npz", "--mask", "left"], 2, "--weights"),
        (["--quadrants", "4"], 2, "--quadrants"),
        (["--quadrants", "1", "--mask", "left"], 2, "--mask"),
        (["--quadrants", "1", "--protocol", "other"], 2, "random or fixed"),
    ],
)
def test_eval_says_what_it_cannot_do(matfill, weights, digits, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    np.savez("large.npz", train=np.zeros((20, 9, 9), np.uint8), test=np.zeros((9, 9, 9), np.uint8))
    found, said, error = matfill("eval", *arguments)
    assert (found, said) == (code, "")
    assert says in error
    if code == 1:
        assert error.startswith("error: ")
        assert error.count("\n") == 1


# --- sample, explore, plot -------------------------------------------------------------------------------------------


@pytest.fixture
def unconditional(tmp_path) -> Path:
    path = tmp_path / "unconditional.safetensors"
    model = tiny_model(conditional=False, prior_components=3)
    checkpoint.save_weights(path, model, {"temperature": [1, 0.5, 0]}, torch.float32)
    return path


def test_sample_draws_a_sheet(matfill, unconditional, tmp_path):
    for name, options in (("a", ()), ("b", ()), ("c", ("--seed", 1)), ("d", ("--means",)), ("e", ("--temperature", 2))):
        out = tmp_path / "new" / f"{name}.png"
        code, said, error = matfill("sample", "--weights", unconditional, "--count", 3, *options, "-o", out)
        assert (code, error, said.count("\n")) == (0, "", 1)
        assert str(out) in said
        assert ("temperature 2,2,2" if name == "e" else "temperature 1,0.5,0") in said
    a, *others = (pixels(tmp_path / "new" / f"{name}.png") for name in "abcde")
    assert [(one == a).all() for one in others] == [True, False, False, False]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--weights", "tiny.safetensors"], 1, "use matfill inpaint"),
        (["--weights", "nope"], 1, "no weights 'nope'"),
        (["--weights", "unconditional.safetensors", "-o", "a.xyz"], 1, "unknown extension '.xyz'"),
        (["--weights", "unconditional.safetensors", "-o", "tiny.safetensors/a.png"], 1, "cannot make the folder"),
        (["--weights", "unconditional.safetensors", "--temperature", "1,2"], 1, "2 temperatures for a model of 3"),
        (["--weights", "unconditional.safetensors", "--temperature", "warm"], 2, "--temperature"),
        (["--weights", "unconditional.safetensors", "--count", "0"], 2, "--count"),
        (["--weights", "unconditional.safetensors", "--seed", "-1"], 2, "--seed"),
    ],
)
def test_sample_says_what_it_cannot_do(matfill, weights, unconditional, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    found, said, error = matfill("sample", *arguments)
    assert (found, said) == (code, "")
    assert says in error
    assert code == 2 or (error.startswith("error: ") and error.count("\n") == 1)
    assert not Path("samples.png").exists()


def test_explore_shows_components_and_how_they_agree_with_labels(matfill, unconditional, tmp_path):
    draw = np.random.default_rng(0)
    arrays = {"test": draw.integers(0, 256, (12, 8, 8, 3), np.uint8), "test_labels": np.arange(12) % 4}
    out = tmp_path / "new" / "sheet.png"
    for labelled in (True, False):
        np.savez(tmp_path / "set.npz", **{key: arrays[key] for key in list(arrays)[: 1 + labelled]})
        code, said, error = matfill("explore", unconditional, tmp_path / "set.npz", "-o", out)
        assert (code, error) == (0, "")
        assert "12 test images in " in said and " of 3 components; " in said
        assert ("with 4 labels: purity 0." in said, "no labels to compare with" in said) == (labelled, not labelled)
    assert pixels(out).ndim == 3
    checkpoint.save_weights(unconditional, tiny_model(conditional=False), {}, torch.float32)
    code, said, error = matfill("explore", unconditional, tmp_path / "set.npz", "--images", 2, "-o", out)
    assert (code, error) == (0, "")
    assert "the prior over z_0 is no mixture" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["tiny.safetensors", "digits.npz"], 1, "use matfill inpaint"),
        (["nope", "digits.npz"], 1, "no weights 'nope'"),
        (["unconditional.safetensors", "nowhere"], 1, "nowhere"),
        (["unconditional.safetensors", "digits.npz"], 1, "8x8 grey, the model takes 8x8 colour"),
        (["unconditional.safetensors", "digits.npz", "-o", "a.xyz"], 1, "unknown extension '.xyz'"),
        (["unconditional.safetensors", "digits.npz", "--images", "0"], 2, "--images"),
        (["unconditional.safetensors"], 2, "images"),
    ],
)
def test_explore_says_what_it_cannot_do(
    matfill, weights, unconditional, digits, tmp_path, monkeypatch, arguments, code, says
):
    monkeypatch.chdir(tmp_path)
    found, said, error = matfill("explore", *arguments)
    assert (found, said) == (code, "")
    assert says in error
    assert code == 2 or (error.startswith("error: ") and error.count("\n") == 1)


def test_plot_draws_the_curves_of_a_run(matfill, tmp_path):
    pytest.importorskip("matplotlib")
    scores = {"distortion": 1.0, "rates": [[2.0, 3.0]]}
    lines = [{"event": "log", "update": i, "minutes": i, "train": scores} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"eve')
    code, said, error = matfill("plot", tmp_path, "-o", tmp_path / "a.svg")
    assert (code, said, error) == (0, f"{tmp_path / 'a.svg'}\n", "")
    assert "level 2" in (tmp_path / "a.svg").read_text()
    for arguments, says in (
        ((tmp_path, "-o", "a.pdf"), "unknown extension '.pdf'"),
        ((tmp_path / "nowhere",), "is no run folder"),
    ):
        code, said, error = matfill("plot", *arguments)
        assert (code, said) == (1, "")
        assert says in error and error.count("\n") == 1
    assert matfill("plot")[0] == 2
