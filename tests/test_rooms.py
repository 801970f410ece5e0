"""Who may import whom: rooms import from the floors below, never upward, sideways or in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SCRIPTS = "scripts"  # the files at the top of the repository
FLOORS = (
    ("utils",),
    ("models", "data"),
    ("training", "inference", "evaluation"),
    ("tools", "baselines", "report"),
    ("icqa",),
    (SCRIPTS,),
    ("benchmarks", "examples"),
)
MAY_IMPORT = {
    room: {room if room != SCRIPTS else ""} | {below for floor in FLOORS[:number] for below in floor}
    for number, floor in enumerate(FLOORS)
    for room in floor
}
FILES = [path for folder in (".", *MAY_IMPORT) for path in sorted((REPO / folder).glob("*.py"))]
TOP = {path.stem for path in REPO.glob("*.py")}


def room_of(module: str) -> str | None:
    """The room of a dotted name; None for a package that is not ours."""
    first = module.partition(".")[0]
    return SCRIPTS if first in TOP else first if first in MAY_IMPORT else None


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports anywhere in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: write the whole name of the module"
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    return {module for module in modules if room_of(module)}


def upward(path: Path, room: str) -> list[str]:
    """Modules that a file of this room must not import and does."""
    return sorted(module for module in imported(path) if room_of(module) not in MAY_IMPORT[room])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_a_file_imports_from_its_room_and_the_floors_below(path):
    room = SCRIPTS if path.parent == REPO else path.parent.name
    assert not upward(path, room), f"{path.name} in {room} may import {', '.join(sorted(MAY_IMPORT[room]))}"


@pytest.mark.parametrize(
    ("room", "line", "refused"),
    [
        ("utils", "from models import load_model", ["models", "models.load_model"]),
        ("data", "def f():\n    import models.base", ["models.base"]),
        ("models", "from data.table import load_dataset", ["data.table", "data.table.load_dataset"]),
        ("evaluation", "import training", ["training"]),
        ("baselines", "from report import page", ["report", "report.page"]),
        ("tools", "def f():\n    from train_CF import main", ["train_CF", "train_CF.main"]),
        (SCRIPTS, "import train_CF", ["train_CF"]),
        ("report", "import numpy, utils.color, evaluation.pairs", []),
        ("benchmarks", "import train_SCC, benchmarks.measure", []),
    ],
)
def test_an_import_up_or_sideways_is_found(tmp_path, room, line, refused):
    (tmp_path / "file.py").write_text(line)
    assert upward(tmp_path / "file.py", room) == refused


def test_every_folder_with_code_is_a_room():
    ours = {path.parent.name for path in REPO.glob("[a-z]*/*.py")} - {"tests", "runs"}
    assert ours == set(MAY_IMPORT) - {SCRIPTS}
    assert not [path for room in MAY_IMPORT for path in (REPO / room).glob("*/*.py")]  # no rooms within rooms


def test_each_room_says_what_lives_there_file_by_file():
    for room in set(MAY_IMPORT) - {SCRIPTS}:
        text = ast.get_docstring(ast.parse((REPO / room / "__init__.py").read_text(encoding="utf-8")))
        files = [path.stem for path in (REPO / room).glob("*.py") if path.stem != "__init__" and not moved_to(path)]
        assert [name for name in files if f"\n{name}: " not in text] == [], room


def moved_to(path: Path) -> str | None:
    """Where a script went, if all that is left is an error that says so."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.removeprefix("Moved to ").removesuffix(".") if text.startswith("Moved to ") else None


def test_a_script_that_moved_says_where(run):
    moved = {path.relative_to(REPO).as_posix(): moved_to(path) for path in FILES if moved_to(path)}
    assert len(moved) == 10
    for old, new in moved.items():
        assert (REPO / new).is_file()
        done = run(old, "--some", "arguments")
        assert (done.code, done.out) == (1, "")
        assert done.err == f"error: {old} has moved; run python {new}, with the same arguments\n"


def test_evaluation_runs_without_torch():
    names = [f"evaluation.{path.stem}" for path in sorted((REPO / "evaluation").glob("*.py")) if path.stem != "__init__"]
    code = f"import sys, {', '.join(names)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
