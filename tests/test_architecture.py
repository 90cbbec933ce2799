"""The shape of the package: who imports whom, how long a module is, what the command line costs before it works."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import matfill

PACKAGE = Path(matfill.__file__).parent
LONGEST = 350  # lines

#: A module imports only from lower floors.
FLOORS = {
    "__init__": 10,  # the front door: what it offers it fetches from below, when asked
    "commands.__init__": 0,
    "errors": 0,
    "config": 0,
    "files": 0,
    "fetch": 0,
    "arrays": 0,
    "image_set": 0,
    "masks": 0,
    "windows": 0,
    "noise": 0,
    "deep_color": 0,
    "exif": 0,
    "tiff": 0,
    "processes": 0,
    "provenance": 0,
    "distributions": 0,
    "layers": 0,
    "muon": 0,
    "devices": 1,
    "recipes": 1,
    "formats": 1,
    "modules": 1,
    "array_sets": 1,
    "datasets": 1,
    "images": 2,
    "filling_plan": 2,
    "stacks": 2,
    "batches": 2,
    "autoregression": 2,
    "folders": 3,
    "holes": 3,
    "model": 3,
    "data": 4,
    "bounds": 4,
    "checkpoint": 4,
    "looks": 4,
    "objective": 5,
    "inpainting": 5,
    "trainer": 6,
    "scoring": 5,
    "photo_scoring": 5,
    "plots": 5,
    "display": 5,
    "curves": 5,
    "training": 7,
    "library": 6,
    "exploring": 6,
    "filling_jobs": 6,
    "commands.options": 6,
    "commands.data": 8,
    "commands.evaluate": 8,
    "commands.explore": 8,
    "commands.info": 8,
    "commands.inpaint": 8,
    "commands.masks": 8,
    "commands.plot": 8,
    "commands.sample": 8,
    "commands.train": 8,
    "cli": 9,
    "__main__": 10,
}
#: What all may use, the ground floor itself included.
FOR_ALL = {"__init__", "errors", "config", "files"}

MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


def text(module: str) -> str:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")


def tree(module: str) -> ast.Module:
    return ast.parse(text(module))


def imports(module: str) -> set[str]:
    """Full names of all that the module imports, in functions too; `from a import b` gives a and a.b."""
    found = set()
    above = ["matfill", *module.split(".")[:-1]]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) + 1 - node.level] if node.level else []
            source = ".".join(base + ([node.module] if node.module else []))
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def siblings(module: str) -> set[str]:
    """Modules of the package that the module imports."""
    names = imports(module)
    return {other for other in MODULES if any(f"{name}.".startswith(f"matfill.{other}.") for name in names)}


def test_the_only_folder_of_modules_is_that_of_the_commands():
    assert {path.parent for path in PACKAGE.rglob("*.py")} == {PACKAGE, PACKAGE / "commands"}


def test_the_walk_finds_imports():
    assert "errors" in siblings("config")
    assert "cli" in siblings("__main__")
    assert "commands.train" in siblings("cli")
    assert {"commands.options", "training"} <= siblings("commands.train")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_floors(module):
    assert module in FLOORS, f"{module}.py has no floor yet"
    upwards = {other for other in siblings(module) - FOR_ALL if FLOORS[other] >= FLOORS[module]}
    assert not upwards, f"{module}.py (floor {FLOORS[module]}) imports {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module):
    assert text(module).count("\n") <= LONGEST


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_unpickled(module):
    picklers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert not {name.split(".")[0] for name in imports(module)} & picklers
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        options = {option.arg: option.value for option in node.keywords}
        if ast.unparse(node.func) == "torch.load":
            weights_only = options.get("weights_only")
            assert isinstance(weights_only, ast.Constant) and weights_only.value is True
        unpickle = options.get("allow_pickle")
        assert unpickle is None or (isinstance(unpickle, ast.Constant) and unpickle.value is False)


@pytest.mark.parametrize(
    "module", ["matfill", "matfill.cli", "matfill.config", "matfill.data", "matfill.masks", "matfill.plots"]
)
def test_torch_is_not_imported_before_it_is_needed(module):
    probe = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], timeout=60).returncode == 0


def test_help_does_not_import_torch():
    probe = (
        "import sys\n"
        "from matfill.cli import main\n"
        "sys.argv = ['matfill', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as leaving:\n"
        "    assert not leaving.code, leaving.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "inpaint" in done.stdout
