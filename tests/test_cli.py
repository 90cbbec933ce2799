import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matfill import checkpoint, cli, recipes
from matfill.config import TrainConfig
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

COMMANDS = ("train", "masks", "inpaint", "info")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_that_the_readme_has_too(matfill, command):
    code, said, _ = matfill(command, "--help")
    assert code == 0
    assert re.search(rf"Example: matfill {command}", said)
    assert f"matfill {command}" in README.read_text()


def test_every_option_in_the_readme_exists(matfill):
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(matfill(command, "--help")[1] for command in COMMANDS)))
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README.read_text(), flags=re.DOTALL))
    lines = " ".join(re.findall(r"matfill (?:train|masks|inpaint|info).*", blocks))
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


# --- inpaint ---------------------------------------------------------------------------------------------------------


def test_inpaint_fills_the_hole_and_nothing_else(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    out = tmp_path / "filled"
    code, said, _ = matfill("inpaint", source, "--mask", "center8", "--weights", weights, "--samples", 3, "-o", out)
    assert code == 0
    assert "10.7%" in said
    before, mask = pixels(source), pixels(out / "photo_mask.png") == 255
    assert mask.sum() == 64
    filled = [pixels(out / f"photo_{i}.png") for i in (1, 2, 3)]
    for one in filled:
        assert (one[~mask] == before[~mask]).all()
        assert (one[mask] != before[mask]).any()
    assert any((filled[0] != one).any() for one in filled[1:])
    assert pixels(out / "photo_sheet.png").ndim == 3


def test_the_same_seed_gives_the_same_pictures(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        matfill("inpaint", source, "--mask", "random2x6", "--weights", weights, "--seed", seed, "-o", tmp_path / name)
    first = {name: (tmp_path / name / "photo_2.png").read_bytes() for name in "abc"}
    assert first["a"] == first["b"] != first["c"]


def test_temperature_zero_leaves_nothing_to_chance(matfill, weights, tmp_path):
    source = photo(tmp_path / "photo.png")
    matfill("inpaint", source, "--mask", "left", "--weights", weights, "--temperature", "0", "-o", tmp_path / "a.png")
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
        changed = (pixels(out / "photo_1.png") != pixels(source)).any(-1)
        half = changed[:, 15:] if not flags else changed[:, :15]
        assert changed.any()
        assert not half.any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.png", "--mask", "left"], "there is no image nowhere.png"),
        (["text.png", "--mask", "left"], "text.png is not an image"),
        (["photo.png", "--mask", "nope"], "write one of: randomNxS"),
        (["photo.png", "--mask", "nope.png"], "there is no mask nope.png"),
        (["photo.png", "--mask", "other.png"], "other.png is 9x9 but the image 30x20"),
        (["photo.png", "--mask", "black.png"], "marks nothing as missing"),
        (["photo.png", "--mask", "center21"], "21"),
        (["photo.png", "--mask", "left", "--weights", "nope"], "no weights 'nope'"),
        (["photo.png", "--mask", "left", "--weights", "text.png"], "text.png is not a matfill weights file"),
        (["photo.png", "--mask", "left", "--temperature", "1,2"], "2 temperatures for a model of 3 levels"),
        (["photo.png", "--mask", "left", "--temperature", "-1"], "temperature -1.0 is out of range"),
        (["photo.png", "--mask", "left", "--device", "abacus"], "device is 'abacus'"),
        (["photo.png", "--mask", "left", "-o", "out.xyz"], "unknown extension '.xyz'"),
        (["photo.png", "--mask", "left", "-o", "text.png/filled"], "cannot make the folder"),
    ],
)
def test_what_cannot_be_filled_is_one_line_and_exit_code_1(matfill, weights, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    photo(Path("photo.png"))
    photo(Path("other.png"), 9, 9)
    Path("text.png").write_text("no image")
    Image.new("L", (30, 20)).save("black.png")
    before = sorted(tmp_path.iterdir())
    chosen = [] if "--weights" in arguments else ["--weights", weights]
    code, said, error = matfill("inpaint", *arguments, *chosen)
    assert (code, said) == (1, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", [["--samples", "0"], ["--temperature", "warm"], ["--seed", "-1"], ["--nope"]])
def test_wrong_usage_is_exit_code_2(matfill, weights, tmp_path, arguments):
    source = photo(tmp_path / "photo.png")
    assert matfill("inpaint", source, "--mask", "left", "--weights", weights, *arguments)[0] == 2


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
