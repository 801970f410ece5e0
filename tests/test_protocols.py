"""Protocols that train: which images are trained and tested on, and one whole trial with tiny networks."""

import argparse
import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_image
from PIL import Image
from scipy import stats
from test_arguments import parsers_of

import cross_validate
from evaluation import protocols
from evaluation.protocols import TrialError, measure_trials, plan, run_trial, summarize_trials, with_method_mean

METHODS = ("BIG", "CIC", "DDC")
OPTIONS = ["--backbone", "test_efficientnet", "--random-init", "--size", "64", "--epochs", "1", "--workers", "0"]
QUICK = [*OPTIONS, "--device", "cpu", "--no-augment"]


def make_icqa2k(root: Path, train: list[int], test: list[int]) -> Path:
    """A data set in the layout of ICQA-2K with these scenes."""
    for split, scenes in (("train", train), ("test", test)):
        folder = root / f"ICQA_2K_{split}"
        folder.mkdir(parents=True)
        mos = {}
        for scene in scenes:
            for number, method in enumerate(METHODS):
                stem = f"{method}_{scene:012d}"
                Image.fromarray(make_image(scene * 10 + number, 30, 40)).save(folder / f"{stem}.jpg")
                mos[stem] = round(0.3 * (number - 1) + 0.02 * scene, 3)
        for dimension in ("CF", "SCC", "PR"):
            (root / f"ICQA_2K_{split}_{dimension}_mos.json").write_text(json.dumps(mos))
    return root


def settings(root: Path, protocol: str, output: Path, **changes: object) -> argparse.Namespace:
    base = {
        "root": root,
        "protocol": protocol,
        "output": output,
        "repeats": 3,
        "train_root": None,
        "options": QUICK,
        "scc_options": ["--prior", "none", "--object-prior", "none"],
        "scc_scoring": [],
        "folds": 2,
        "seed": 0,
        "mos_range": (-1.0, 1.0),
    }
    return argparse.Namespace(**base | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_icqa2k(tmp_path_factory.mktemp("data"), [1, 2, 3, 4, 5, 6], [7, 8])


def scenes(table: pd.DataFrame) -> set[str]:
    return set(table["scene"])


def test_scene_splits_are_disjoint_and_differ_from_each_other(data, tmp_path):
    trials = plan(settings(data, "scene", tmp_path))
    assert [t.name for t in trials] == ["scene01", "scene02", "scene03"]
    for t in trials:
        assert not scenes(t.train) & scenes(t.test)
        assert len(t.train) + len(t.test) == 24
        assert len(scenes(t.test)) == 2  # a fifth of eight
        assert scenes(t.split["train"]) | scenes(t.split["val"]) == scenes(t.train)
        assert t.split["test"].empty
    assert len({frozenset(scenes(t.test)) for t in trials}) > 1


def test_a_left_out_colorizer_is_tested_alone_on_scenes_not_trained_on(data, tmp_path):
    trials = plan(settings(data, "colorizer", tmp_path))
    assert [t.name for t in trials] == [f"without_{m}" for m in METHODS]
    for t, method in zip(trials, METHODS, strict=True):
        assert set(t.test["method"]) == {method}
        assert set(t.train["method"]) == set(METHODS) - {method}
        assert not scenes(t.train) & scenes(t.test)


def test_the_official_protocol_takes_the_folders_as_they_are(data, tmp_path):
    (t,) = plan(settings(data, "official", tmp_path))
    assert scenes(t.test) == {f"{n:012d}" for n in (7, 8)}
    assert scenes(t.train) == {f"{n:012d}" for n in range(1, 7)}


def test_official_folders_that_share_scenes_are_also_divided_anew(tmp_path):
    root = make_icqa2k(tmp_path / "data", [1, 2, 3, 4, 5], [5, 6])
    official, anew = plan(settings(root, "official", tmp_path))
    assert scenes(official.train) & scenes(official.test) == {f"{5:012d}"}
    assert len(official.test) == 6
    assert anew.name == "scene_disjoint"
    assert not scenes(anew.train) & scenes(anew.test)
    assert len(anew.train) + len(anew.test) == 21


def test_a_relative_folder_is_found_from_everywhere(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    (t,) = plan(settings(Path(data.name), "official", tmp_path))
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in [*t.train["path"], *t.test["path"]])


def test_the_official_protocol_needs_given_folders(rated, tmp_path):
    with pytest.raises(ValueError, match="has no ICQA_2K_train and ICQA_2K_test"):
        plan(settings(rated, "official", tmp_path))


def test_across_data_sets_one_is_trained_on_and_the_other_tested(data, rated, tmp_path):
    (t,) = plan(settings(rated, "cross", tmp_path, train_root=data))
    assert len(t.train) == 24
    assert set(t.test["method"]) == {"ORG", "DULL", "SWAP", "STAIN"}


def test_across_data_sets_a_image_of_both_is_refused_under_any_name(data, tmp_path):
    copy = make_icqa2k(tmp_path / "copy", [11], [12])
    image = "ICQA_2K_test/CIC_000000000012.jpg"
    (copy / image).write_bytes((data / "ICQA_2K_train" / "BIG_000000000003.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"1 of 6 images of .*copy are in .*, e\.g\. .*CIC_000000000012\.jpg"):
        plan(settings(copy, "cross", tmp_path, train_root=data))


def test_the_method_mean_is_that_of_the_training_images():
    train = pd.DataFrame({"method": ["A", "A", "B", ""], "CF": [0.1, 0.3, -0.5, 0.9], "SCC": np.nan, "PR": [0.0, 0.2, 0.4, 1]})
    test = pd.DataFrame(
        {
            "scene": ["1", "1", "2", "2", "2", "2"],
            "method": ["A", "B", "A", "B", "new", ""],
            "dimension": "CF",
            "mos": [0.5, -0.2, 0.3, 0.1, 0.0, 0.2],
            "prediction": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )
    found = with_method_mean(test, train)
    assert found["method_mean"].tolist() == pytest.approx([0.2, -0.5, 0.2, -0.5, np.nan, np.nan], nan_ok=True)
    measured = measure_trials({"t": found}).set_index(["predictor", "metric"])
    expected = stats.pearsonr([0.2, -0.5, 0.2, -0.5], [0.5, -0.2, 0.3, 0.1]).statistic
    assert measured.loc[("method mean", "PLCC"), "value"] == pytest.approx(expected)
    assert (measured.loc[("method mean", "PLCC"), "n"], measured.loc[("network", "PLCC"), "n"]) == (4, 6)
    left_out = measure_trials({"t": with_method_mean(test[test["method"] == "new"], train)})
    assert set(left_out["predictor"]) == {"network"}  # nothing is known of a colorizer that is left out


def test_what_was_done_is_shown_with_shared_scenes_and_no_mean_over_trials_that_differ_in_kind(tmp_path, monkeypatch):
    root = make_icqa2k(tmp_path / "data", [1, 2, 3, 4, 5], [5, 6])

    def tested(args: argparse.Namespace, t: protocols.Trial) -> pd.DataFrame:
        rows = t.test.assign(dimension="PR", mos=t.test["PR"])
        return rows.assign(prediction=rows["mos"] ** 3)[["image", "scene", "method", "dimension", "mos", "prediction"]]

    monkeypatch.setattr(protocols, "run_trial", tested)
    protocols.run_protocol(settings(root, "official", tmp_path / "official"), 0.921)
    page = (tmp_path / "official" / "protocol.md").read_text(encoding="utf-8")
    assert "| official | PR | network | 6 | 2 | 1 | 1.000 |" in page
    assert "| scene_disjoint | PR | method mean |" in page
    assert page.count("| 0.9210 |") == 4
    assert "Median" not in page
    protocols.run_protocol(settings(root, "scene", tmp_path / "scene"), None)
    page = (tmp_path / "scene" / "protocol.md").read_text(encoding="utf-8")
    assert "also trained on" not in page
    assert "Median" not in page  # trials of three images
    assert "Trials of fewer than 10 rated test images are in no median" in page
    assert set(pd.read_csv(tmp_path / "scene" / "protocol.csv")["trials"]) == {0}
    monkeypatch.setattr(protocols, "MIN_IMAGES", 3)
    protocols.run_protocol(settings(root, "scene", tmp_path / "scene"), None)
    page = (tmp_path / "scene" / "protocol.md").read_text(encoding="utf-8")
    assert "Median ± standard deviation of 3 trials" in page
    assert "| PR | network | 1.000 ± 0.000 |" in page
    protocols.run_protocol(settings(root, "colorizer", tmp_path / "colorizer"), None)
    page = (tmp_path / "colorizer" / "protocol.md").read_text(encoding="utf-8")
    assert "| without_BIG | PR | network | 1 | 1 | n/a |" in page
    assert re.search(r"\| all together \| PR \| network \| 3 \| 1 \| 1\.000 \|.* 1\.000 \|\n", page)
    assert "Median" not in page


def test_a_trial_scores_every_test_image_with_networks_that_have_not_seen_it(data, run, tmp_path, monkeypatch):
    def call(folder: Path, script: str, *arguments: object) -> None:
        done = run(script, *arguments)
        assert done.code == 0, done.err
        calls.append(script)

    calls: list[str] = []
    monkeypatch.setattr(protocols, "run_logged", call)
    args = settings(data, "official", tmp_path)
    (t,) = plan(args)
    rows = run_trial(args, t)
    assert calls == ["train_CF.py", "infer_CF.py", "train_SCC.py", "infer_SCC.py", "train_PR.py", "infer_PR.py"]
    assert rows.groupby("dimension").size().to_dict() == {"CF": 6, "PR": 6, "SCC": 6}
    with open(tmp_path / "official" / "PR.csv", newline="", encoding="utf-8") as file:
        written = {row["image"]: float(row["PR"]) for row in csv.DictReader(file)}
    of_pr = rows[rows["dimension"] == "PR"]
    assert dict(zip(of_pr["image"], of_pr["prediction"], strict=True)) == written
    for dimension in ("CF", "SCC", "PR"):
        meta = json.loads((tmp_path / "official" / f"{dimension}.csv.json").read_text())
        assert meta["sample"] == "unseen"
    # a second time nothing is trained, and other options are refused
    again = run_trial(args, t)
    assert len(calls) == 6
    assert np.allclose(again["prediction"], rows["prediction"])
    with pytest.raises(ValueError, match="made with other images or options"):
        run_trial(settings(data, "official", tmp_path, folds=3), t)


def test_a_script_that_fails_is_told_with_the_end_of_what_it_said(tmp_path):
    with pytest.raises(TrialError, match=r"train_CF.py ended with status 2(.|\n)*required: --data") as error:
        protocols.run_logged(tmp_path, "train_CF.py")
    assert "log.txt" in str(error.value)


def test_trials_are_measured_as_scipy_does_and_summed_up_by_the_median():
    rng = np.random.default_rng(0)
    trials = {}
    for number in range(3):
        mos = rng.normal(size=20)
        pred = mos + rng.normal(size=20)
        trials[f"t{number}"] = pd.DataFrame(
            {"scene": ["a", "b"] * 10, "dimension": "PR", "mos": mos, "prediction": pred, "image": "", "method": ""}
        )
    measured = measure_trials(trials)
    of_srcc = measured[measured["metric"] == "SRCC"]["value"].tolist()
    expected = [stats.spearmanr(t["prediction"], t["mos"]).statistic for t in trials.values()]
    assert of_srcc == pytest.approx(expected)
    row = summarize_trials(measured).set_index(["dimension", "predictor", "metric"]).loc[("PR", "network", "SRCC")]
    assert row["median"] == pytest.approx(sorted(expected)[1])
    assert row["std"] == pytest.approx(np.std(expected, ddof=1))
    assert row["trials"] == 3


def test_a_protocol_needs_a_data_set_and_a_folder(run):
    result = run("cross_validate.py", "--protocol", "scene")
    assert result.code == 2
    assert "the following arguments are required: --root, --output" in result.err
    result = run("cross_validate.py", "--protocol", "cross", "--root", "x", "--output", "y")
    assert "--protocol cross and --train-root need each other" in result.err
    ready = ("cross_validate.py", "--protocol", "scene", "--root", "x", "--output", "y")
    for more, message in (
        (["--repeats", "0"], "--repeats: expected a whole number from 1 to 10000, got 0"),
        (["--output", __file__], "--output must be a folder"),
        (["--root", "gone"], "no file or folder gone"),
    ):
        assert message in run(*ready, *more).err


@pytest.mark.parametrize("flag", ["--protocol", "--repeats", "--train-root", "--train-options", "--scc-options", "--folds"])
def test_an_old_command_line_of_evaluate_says_what_replaced_it(run, flag):
    result = run("evaluate.py", flag, "x", "--root", "data/HECD", "--output", "y")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"{flag} is gone; cross_validate.py trains and tests" in result.err


def test_flags_go_to_the_training_scripts_that_have_them():
    flags = ["--no-augment", "--labels", "a", "b", "--epochs", "5", "--prior=none", "--device", "cpu"]
    shared, scc = cross_validate.split_flags(flags)
    assert shared == ["--no-augment", "--epochs", "5", "--device", "cpu"]
    assert scc == ["--labels", "a", "b", "--prior=none"]


def test_flags_of_train_scc_alone_are_those_that_cf_and_pr_lack(monkeypatch):
    options = {}
    for script in ("train_CF.py", "train_SCC.py", "train_PR.py"):
        (parser, *_) = parsers_of(script, monkeypatch)
        options[script] = {text for action in parser._actions for text in action.option_strings}
    alone = options["train_SCC.py"] - options["train_CF.py"] - options["train_PR.py"]
    assert alone == set(cross_validate._SCC_ALONE)
