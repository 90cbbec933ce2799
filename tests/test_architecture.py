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
    "__init__": 0,
    "errors": 0,
    "config": 0,
    "files": 0,
    "masks": 0,
    "deep_color": 0,
    "devices": 0,
    "distributions": 0,
    "layers": 0,
    "recipes": 1,
    "images": 1,
    "modules": 1,
    "data": 2,
    "stacks": 2,
    "model": 3,
    "bounds": 4,
    "checkpoint": 4,
    "inpainting": 5,
    "trainer": 5,
    "scoring": 5,
    "plots": 5,
    "display": 5,
    "training": 6,
    "cli": 7,
    "__main__": 8,
}
#: What all may use, the ground floor itself included.
FOR_ALL = {"__init__", "errors", "config", "files"}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Full names of all that the module imports, in functions too; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(["matfill"] * bool(node.level) + ([node.module] if node.module else []))
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def siblings(module: str) -> set[str]:
    """Modules of the package that the module imports."""
    parts = [name.split(".") for name in imports(module)]
    return {names[1] for names in parts if names[0] == "matfill" and len(names) > 1 and names[1] in MODULES}


def test_the_package_has_no_folders_of_modules():
    assert {path.parent for path in PACKAGE.rglob("*.py")} == {PACKAGE}


def test_the_walk_finds_imports():
    assert "errors" in siblings("config")
    assert "cli" in siblings("__main__")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_floors(module):
    assert module in FLOORS, f"{module}.py has no floor yet"
    upwards = {other for other in siblings(module) - FOR_ALL if FLOORS[other] >= FLOORS[module]}
    assert not upwards, f"{module}.py (floor {FLOORS[module]}) imports {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module):
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST


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


@pytest.mark.parametrize("module", ["matfill", "matfill.cli", "matfill.config", "matfill.masks", "matfill.plots"])
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
