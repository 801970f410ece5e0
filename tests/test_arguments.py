"""Help and mistakes of the command line: at once, in groups, and the same names everywhere."""

import argparse
import contextlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import train_baseline
from baselines.afine import ADAMW
from baselines.aigciqa import RECIPE
from baselines.scorer import _NETWORKS
from inference.command import parse_devices
from tools.label_files import _FORMS
from utils.arguments import LIMITS, ScriptParser
from utils.choices import FORMS, SYSTEMS

REPO = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(REPO).as_posix()
    for folder in ("", "data", "docs", "tools", "benchmarks")
    for path in (REPO / folder).glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
SLOW = {"torch", "torchvision", "timm", "numpy", "pandas", "scipy", "matplotlib", "jinja2", "tqdm"}
ALLOWED = {"tools/make_samples.py": {"numpy", "scipy"}}

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
    alone = ("data/hecd.py", "tools/make_samples.py", "benchmarks/reference.py")  # with a parser of their own
    assert len(text.splitlines()) == (2 if script in alone else 1)
    assert f"{Path(script).name}: error: " in text


@pytest.mark.parametrize(
    ("script", "groups"),
    {
        "train_CF.py": "data model optimization run",
        "train_SCC.py": "data model optimization run",
        "train_PR.py": "data model optimization run",
        "train_baseline.py": "data model optimization run",
        "tools/train_color_prior.py": "data model optimization run",
        "infer_CF.py": "data model run",
        "infer_SCC.py": "data model run",
        "infer_PR.py": "data model run",
        "infer_baseline.py": "data model run",
        "tools/detect_objects.py": "data model run",
        "tools/build_color_prior.py": "data prior run",
        "tools/compute_mos.py": "data method run",
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


def parsers_of(script: str, monkeypatch: pytest.MonkeyPatch) -> list[ScriptParser]:
    """The parser of a script, and those of its commands, with nothing required."""
    found: list[ScriptParser] = []

    def stop(parser: ScriptParser, *_: object) -> None:
        found.append(parser)
        raise SystemExit

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(ScriptParser, "parse_args", stop)
        patch.setattr(ScriptParser, "parse_known_args", stop)
        patch.setattr(sys, "argv", [script])
        runpy.run_path(str(REPO / script), run_name="__main__")
    commands = [a.choices.values() for a in found[0]._actions if isinstance(a, argparse._SubParsersAction)]
    found += [parser for choices in commands for parser in choices]
    for parser in found:
        for action in [*parser._actions, *parser._mutually_exclusive_groups]:
            action.required = False
    return found


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if path not in ("tools/make_samples.py", "data/hecd.py", "benchmarks/reference.py")]
)
def test_every_number_has_a_least_and_a_most(script, monkeypatch, capsys):
    for parser in parsers_of(script, monkeypatch):
        for action in parser._actions:
            is_number = action.type in (int, float) or action.dest == "seed"
            if not is_number:
                continue
            least, most = parser.limits.get(action.dest) or LIMITS[action.dest]
            flag, count = action.option_strings[0], action.nargs if isinstance(action.nargs, int) else 1
            wrong = [
                "word",
                "",
                str(int(least) - 1),
                str(int(most) + 1),
                str(10**30),
                *(["nan", "inf"] if action.type is float else ["1.5"]),
            ]
            for value in wrong:
                with pytest.raises(SystemExit) as stop:
                    parser.parse_args([flag, *[value] * count])
                text = capsys.readouterr().err
                assert (stop.value.code, len(text.splitlines())) == (2, 1), (flag, value)
                assert flag in text, (flag, value)
            if count == 1:
                for value in (least, most):
                    parser.parse_args([flag, str(int(value) if action.type is not float else value)])
            else:
                with pytest.raises(SystemExit):
                    parser.parse_args([flag, "1", "1"])
                assert "expected LOW below HIGH, got 1 and 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--val", 0.5, "--test", 0.5], "--val 0.5 and --test 0.5 leave no scenes to train on"),
        (["--folds", 1], "--folds 1 leaves nothing to train on"),
        (["--oof", "x.csv"], "--oof x.csv needs --folds"),
        (["--output", __file__], "--output must be a folder"),
        (["--resume", "--overwrite"], "not allowed with argument"),
    ],
)
@pytest.mark.parametrize("script", [["train_CF.py"], ["train_SCC.py"], ["train_baseline.py", "dpam"]])
def test_arguments_that_cannot_be_together_are_refused_in_one_line(run, tmp_path, script, options, words):
    result = run(*script, "--data", "x", "--output", tmp_path / "run", *options)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert words in result.err


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("mps", "GPUs of Apple lack float64"),
        ("cuda:99", r"there are \d+ CUDA GPUs here"),
        ("gpu", "there is no such device"),
        ("", "there is no such device"),
        ("meta", "there is no such device"),
        ("-1", "there is no such device"),
    ],
)
def test_a_device_that_cannot_be_used_is_named_before_any_work(run, tmp_path, device, words):
    message = rf"--device {device} cannot be used \({words}\S*.*; expected cpu, cuda or cuda:N"
    with pytest.raises(ValueError, match=message):
        run("train_CF.py", "--data", "nowhere", "--output", tmp_path / "run", f"--device={device}")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=message):
        parse_devices(device)
