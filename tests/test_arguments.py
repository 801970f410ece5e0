"""Help and mistakes of the command line: at once, in groups, and the same names everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import train_baseline
from data.foreign_labels import _FORMS
from models.baselines.afine import ADAMW
from models.baselines.aigciqa import RECIPE
from models.baselines.scorer import _NETWORKS
from utils.choices import FORMS, SYSTEMS

REPO = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(REPO).as_posix()
    for folder in ("", "data", "docs", "benchmarks")
    for path in (REPO / folder).glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
SLOW = {"torch", "torchvision", "timm", "numpy", "pandas", "scipy", "matplotlib", "jinja2", "tqdm"}
ALLOWED = {"data/make_samples.py": {"numpy", "scipy"}}

# Runs all scripts in one process; what is loaded by one of them is new to that one.
_RUN_ALL = """
import contextlib, io, json, runpy, sys
known, said = set(sys.modules), {}
for script in sys.argv[1:]:
    said[script] = {}
    for argument in ("--help", "--mistyped"):
        sys.argv, out, code = [script, argument], io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as stop:
                code = stop.code
        said[script][argument] = [code, out.getvalue(), sorted(set(sys.modules) - known)]
        known |= set(sys.modules)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, tuple[int, str, list[str]]]]:
    """Exit status, text and newly imported modules of each script, by argument."""
    command = [sys.executable, "-c", _RUN_ALL, *sorted(SCRIPTS, key=lambda script: script in ALLOWED)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env={"COLUMNS": "80"}, check=True)
    return json.loads(done.stdout)


def test_help_and_a_mistyped_argument_import_nothing_slow(said):
    assert len(said) > 30
    for script, runs in said.items():
        assert [code for code, _, _ in runs.values()] == [0, 2], script
        for _, _, modules in runs.values():
            loaded = SLOW & {module.partition(".")[0] for module in modules}
            assert loaded <= ALLOWED.get(script, set()), script


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_argument_is_answered_in_one_line(said, script):
    text = said[script]["--mistyped"][1]
    alone = ("data/hecd.py", "data/make_samples.py", "benchmarks/reference.py")  # with a parser of their own
    assert len(text.splitlines()) == (2 if script in alone else 1)
    assert f"{Path(script).name}: error: " in text


@pytest.mark.parametrize(
    ("script", "groups"),
    {
        "train_CF.py": "data model optimization run",
        "train_SCC.py": "data model optimization run",
        "train_PR.py": "data model optimization run",
        "train_baseline.py": "data model optimization run",
        "data/train_color_prior.py": "data model optimization run",
        "infer_CF.py": "data model run",
        "infer_SCC.py": "data model run",
        "infer_PR.py": "data model run",
        "infer_baseline.py": "data model run",
        "data/detect_objects.py": "data model run",
        "data/build_color_prior.py": "data prior run",
        "data/compute_mos.py": "data method run",
    }.items(),
)
def test_help_shows_every_argument_in_a_group_and_fits_on_two_screens(said, script, groups):
    lines = said[script]["--help"][1].splitlines()
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ") and "  " not in line]
    assert titles[-len(groups.split()) - 1 :] == ["options", *groups.split()]
    after_options = lines[lines.index("options:") + 1 :]
    assert after_options.index("") == 1  # --help alone
    assert len(lines) <= 96


def test_choices_are_those_of_the_networks_and_readers():
    assert tuple(_NETWORKS) == SYSTEMS
    assert tuple(_FORMS) == FORMS


def test_recipes_of_the_script_are_those_of_the_networks():
    recipes = train_baseline._RECIPES
    assert {name: recipes["afine"][name] for name in ADAMW} == ADAMW
    assert recipes["nr_aigciqa"]["optimizer"] == RECIPE["optimizer"].lower()
    assert {name: recipes["nr_aigciqa"][name] for name in ("weight_decay", "batch_size")} == {
        name: RECIPE[name] for name in ("weight_decay", "batch_size")
    }
    assert recipes["nr_aigciqa"]["epochs"] == [RECIPE["epochs"]]
