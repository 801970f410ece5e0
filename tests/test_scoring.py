"""Scoring a list of images: one batch an image, any number of threads, a row for each, nothing skipped."""

import csv
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference import command, scorer
from inference.command import (
    Branch,
    format_table,
    open_writer,
    output_path,
    parse_devices,
    print_summary,
    run_script,
    seen_images,
)
from inference.networks import Networks
from inference.scorer import ImageResult, Scorer, score_images, worker_count
from models import load_model
from models.base import ScoreNet
from utils.arguments import inference_parser
from utils.files import image_id
from utils.images import ImageList, list_images
from utils.scores import ScoreRows, read_scores


@pytest.fixture(autouse=True)
def _threads_and_signals_as_before(monkeypatch):
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def branches(weights: dict[str, Path]) -> dict[str, ScoreNet]:
    return {dimension: load_model(path) for dimension, path in weights.items()}


def score_all(scorer: Scorer, images: ImageList, path: Path, columns: list[str], workers: int = 2) -> Path:
    """Score into one file, which has the columns named."""
    branch = Branch(scorer.engine.replicas.networks[columns[0]], path, columns, {columns[0]: "x"})
    with open_writer(branch, images) as writer:
        score_images(scorer, images, {columns[0]: writer}, workers)
    return path


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_all_branches_together_give_what_each_gives_alone(branches, gallery):
    together = Scorer(Networks(branches, ["cpu"]))
    for name in list_images(gallery).names:
        row = together(gallery / name, {})
        assert row.error == ""
        assert set(row.scores) == {"CF", "SCC", "PR"}
        for dimension in ("CF", "SCC"):
            alone = Scorer(Networks({dimension: branches[dimension]}, ["cpu"]))(gallery / name, {})
            assert alone.scores == {dimension: row.scores[dimension]}
        pair = {dimension: row.scores[dimension] for dimension in ("CF", "SCC")}
        assert Scorer(Networks({"PR": branches["PR"]}, ["cpu"]))(gallery / name, pair).scores == row.scores


def test_scores_are_rounded_as_the_file_holds_them_before_pr_reads_them(branches, gallery):
    row = Scorer(Networks(branches, ["cpu"]))(gallery / "x.png", {})
    assert all(value == float(f"{value:.6f}") for value in row.scores.values())
    pr = branches["PR"].score(gallery / "x.png", cf=row.scores["CF"], scc=row.scores["SCC"])
    assert row.scores["PR"] == round(pr, 6)


def test_pr_reads_the_scores_that_are_given(branches, gallery):
    scorer = Scorer(Networks({"PR": branches["PR"]}, ["cpu"]))
    low, high = (scorer(gallery / "x.png", {"CF": v, "SCC": v}).scores["PR"] for v in (-0.9, 0.9))
    assert low != high
    assert "PR" not in scorer(gallery / "x.png", {"CF": 0.5}).scores


def test_networks_are_left_in_evaluation_mode_by_threads(branches, gallery, tmp_path):
    score_all(Scorer(Networks(branches, ["cpu"])), list_images(gallery), tmp_path / "cf.csv", ["CF"], workers=4)
    assert not any(module.training for module in branches["CF"].modules())


@pytest.mark.parametrize("error", [RuntimeError("out of\nmemory"), MemoryError(), ValueError("x"), OSError(5, "I/O")])
def test_a_image_that_breaks_a_network_gets_an_error_row(branches, gallery, monkeypatch, error):
    def broken(*_: object) -> float:
        raise error

    scorer = Scorer(Networks({"CF": branches["CF"]}, ["cpu"]))
    monkeypatch.setattr(branches["CF"], "score_prepared", broken)
    row = scorer(gallery / "x.png", {})
    assert row.scores == {}
    assert row.error.startswith(f"x.png: {type(error).__name__}")


def test_an_error_that_no_image_causes_is_not_hidden(branches, gallery, tmp_path, monkeypatch):
    def broken(*_: object) -> float:
        raise AttributeError("our bug")

    monkeypatch.setattr(branches["CF"], "score_prepared", broken)
    with pytest.raises(AttributeError, match="our bug"):
        score_all(Scorer(Networks({"CF": branches["CF"]}, ["cpu"])), list_images(gallery), tmp_path / "cf.csv", ["CF"])
    assert not (tmp_path / "cf.csv").exists()
    assert not list(tmp_path.glob("*.lock"))


def test_a_score_that_is_not_finite_is_an_error_row(branches, gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(branches["CF"], "score_prepared", lambda *_: float("nan"))
    rows = rows_of(
        score_all(Scorer(Networks({"CF": branches["CF"]}, ["cpu"])), list_images(gallery), tmp_path / "cf.csv", ["CF"])
    )
    assert {row["CF"] for row in rows.values()} == {""}
    assert {row["error"] for row in rows.values()} == {"CF score is not finite"}


def test_rows_belong_to_their_images_whatever_thread_ends_first(gallery, branches, tmp_path):
    images = list_images(gallery)

    class Slow(Scorer):
        """The first image ends last."""

        def __call__(self, path: Path, known: Mapping[str, float], name: str = "") -> ImageResult:
            if images.path(images.names[0]) == path:
                assert others_done.wait(30)
            row = ImageResult({"CF": images.names.index(path.relative_to(gallery).as_posix()) / 100})
            if path == images.path(images.names[-1]):
                others_done.set()
            return row

    others_done = threading.Event()
    path = score_all(Slow(Networks({"CF": branches["CF"]}, ["cpu"])), images, tmp_path / "cf.csv", ["CF"], workers=2)
    assert read_scores(path)["CF"].tolist() == [i / 100 for i in range(len(images.names))]
    assert read_scores(path)["image"].tolist() == images.names


def test_no_more_images_wait_than_two_a_thread(branches, gallery, tmp_path):
    images = ImageList(gallery, [f"{n:03}.png" for n in range(60)])  # none exists, so all are error rows
    waiting, most = 0, 0
    lock = threading.Lock()

    class Counting(scorer.ThreadPoolExecutor):
        def submit(self, *values: object) -> object:
            nonlocal waiting, most
            with lock:
                waiting += 1
                most = max(most, waiting)
            future = super().submit(*values)
            future.add_done_callback(lambda _: done())
            return future

    def done() -> None:
        nonlocal waiting
        with lock:
            waiting -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "ThreadPoolExecutor", Counting)
        path = score_all(Scorer(Networks({"CF": branches["CF"]}, ["cpu"])), images, tmp_path / "cf.csv", ["CF"], workers=3)
    assert len(rows_of(path)) == 60
    assert 3 <= most <= 6


def test_only_missing_and_changed_images_are_scored_again(branches, gallery, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(gallery, folder)
    images = list_images(folder)
    scored: list[str] = []

    class Noting(Scorer):
        def __call__(self, path: Path, known: Mapping[str, float], name: str = "") -> ImageResult:
            scored.append(path.relative_to(folder).as_posix())
            return super().__call__(path, known, name)

    scorer = Noting(Networks({"CF": branches["CF"]}, ["cpu"]))
    before = rows_of(score_all(scorer, images, tmp_path / "cf.csv", ["CF"], workers=1))
    assert scored == images.names
    scored.clear()
    shutil.copy(folder / "deep/er/1.png", folder / "new.png")
    shutil.copy(folder / "x.jpg", folder / "x.png")
    (folder / "gray.png").unlink()
    after = rows_of(score_all(scorer, list_images(folder), tmp_path / "cf.csv", ["CF"], workers=1))
    assert scored == ["new.png", "x.png"]
    assert after["new.png"]["CF"] == before["deep/er/1.png"]["CF"]
    assert after["x.png"]["CF"] == after["x.jpg"]["CF"]
    assert set(after) == set(before) - {"gray.png"} | {"new.png"}


def test_large_images_are_worked_on_one_at_a_time(branches, gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer, "_ALONE_PIXELS", 10)  # every image of the gallery is larger
    lock, together = threading.Lock(), []

    def alone(*_: object) -> float:
        together.append(lock.acquire(blocking=False))
        threading.Event().wait(0.005)
        if together[-1]:
            lock.release()
        return 0.5

    monkeypatch.setattr(branches["CF"], "score_prepared", alone)
    score_all(Scorer(Networks({"CF": branches["CF"]}, ["cpu"])), list_images(gallery), tmp_path / "cf.csv", ["CF"], workers=4)
    assert together == [True] * len(list_images(gallery).names)


def test_images_used_in_training_are_known_by_content_under_any_name(branches, gallery, tmp_path, capsys, monkeypatch):
    shutil.copy(gallery / "x.png", tmp_path / "renamed.webp")
    shutil.copy(gallery / "x.jpg", tmp_path / "other.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing")
    size, identity = (gallery / "x.png").stat().st_size, image_id(gallery / "x.png")
    monkeypatch.setattr(branches["CF"], "seen", (frozenset({size}), frozenset({identity})))
    images = list_images(tmp_path)
    assert seen_images(branches["CF"], images) == 1
    with open_writer(Branch(branches["CF"], tmp_path / "cf.csv", ["CF"], {"CF": "x"}), images) as writer:
        writer.add("other.jpg", {"CF": 0.5}, gray=False)
    assert "1 of 3 images were used to train the CF weights: in-sample scores" in capsys.readouterr().out
    assert read_scores(tmp_path / "cf.csv").attrs["meta"]["sample"] == "in-sample"


def table(*rows: tuple[str, float, str], gray: tuple[str, ...] = ()) -> ScoreRows:
    found = [{"image": image, "CF": score, "error": error, "gray": image in gray} for image, score, error in rows]
    return ScoreRows(["CF"], found, {})


def test_report_goes_from_best_to_worst_and_ends_with_the_errors():
    frame = table(("a.png", 0.1, ""), ("b.png", np.nan, "in/b.png: is empty"), ("c.png", 0.9, ""), gray=("a.png",))
    for row, score in zip(frame.rows, [0.4, np.nan, 0.2], strict=True):
        row["SCC"] = score
    lines = format_table(frame, "CF", ["SCC", "CF"]).splitlines()
    assert [line.split() for line in lines[:-2]] == [
        ["image", "SCC", "CF"],
        ["c.png", "0.200", "0.900"],
        ["a.png", "0.400", "0.100", "gray"],
        ["ERROR", "in/b.png:", "is", "empty"],
    ]
    assert lines[-2].startswith("Compare images of the same scene")
    assert "index.csv (image, scene, method)" in lines[-1]


def test_report_names_the_image_of_an_error_that_does_not():
    lines = format_table(table(("b.png", np.nan, "CF score is not finite")), "CF", ["CF"]).splitlines()
    assert lines[-1] == "ERROR  b.png: CF score is not finite"


def test_report_of_many_images_shows_both_ends():
    lines = format_table(table(*((f"{n:03}.png", n / 100, "") for n in range(100))), "CF", ["CF"]).splitlines()
    assert len(lines) == 44
    assert lines[1].startswith("099.png")
    assert lines[21] == "... 60 more ..."
    assert lines[-3].startswith("000.png")


BY_NAME = ["ORG_1.png", "CIC_1.png", "ORG_2.png", "CIC_2.png", "BIG_2.png"]
NAMED = ["ORG_x9.png", "CIC_x9.png", "ORG_y.png", "CIC_y.png", "BIG_y.png"]
FOLDERS = ["gt/1.png", "CIC/1.png", "gt/2.png", "CIC/2.png", "BIG/2.png"]
PLAIN = ["a.png", "b.png", "c.png", "d.png", "e.png"]
INDEX = "image,scene,method\na.png,1,original\nb.png,1,CIC\nc.png,2,Original\nd.png,2,CIC\ne.png,2,BIG\nelse.png,2,X\n"


@pytest.mark.parametrize(
    ("names", "index", "scenes"),
    [
        (BY_NAME, None, ("1", "2")),
        (NAMED, None, ("x9", "y")),
        (FOLDERS, None, ("1", "2")),
        (PLAIN, INDEX, ("1", "2")),
        (PLAIN, "\ufeff" + INDEX.replace(",", ";"), ("1", "2")),
        (PLAIN, INDEX.replace("b.png", ".\\b.png"), ("1", "2")),
        (BY_NAME, "image,scene\nORG_1.png,1\n", ("1", "2")),
        (BY_NAME, INDEX, ("1", "2")),
    ],
)
@pytest.mark.parametrize("file", ["index.csv", "samples.csv"])
def test_report_is_by_scene_with_originals_marked_where_scenes_are_known(tmp_path, names, index, scenes, file):
    if index is not None:
        (tmp_path / file).write_text(index, encoding="utf-8")
    frame = table(*((name, score, "") for name, score in zip(names, (0.1, 0.2, 0.3, 0.5, -0.5), strict=True)))
    frame.meta["root"] = str(tmp_path)
    lines = format_table(frame, "CF", ["CF"]).splitlines()
    assert [line.split() for line in lines[1:10]] == [
        [],
        ["scene", scenes[0]],
        [names[1], "0.200"],
        [names[0], "0.100", "original"],
        [],
        ["scene", scenes[1]],
        [names[3], "0.500"],
        [names[2], "0.300", "original"],
        [names[4], "-0.500"],
    ]
    assert lines[-1].startswith("Compare a colorization with its original and with others of the same scene, not one scene")
    wrong = index is not None and names is BY_NAME
    assert [f"{tmp_path / file} is not used: it has no" in line for line in lines[10:]] == [True, False][not wrong :]


def test_report_by_scene_shows_whole_scenes_and_says_how_many_images_it_does_not():
    names = [f"{method}_{scene}.png" for scene in range(10, 30) for method in "ABC"]
    lines = format_table(table(*((name, 0.1, "") for name in names)), "CF", ["CF"]).splitlines()
    assert sum(line.startswith("scene ") for line in lines) == 13
    assert lines[-2] == "... 21 more of other scenes ..."
    assert lines[-1].startswith("Compare images of the same scene")
    one = format_table(table(*((f"{n}_1.png", n / 100, "") for n in range(60))), "CF", ["CF"]).splitlines()
    assert "... 20 more ..." in one
    assert len(one) == 1 + 2 + 41 + 1


def test_report_of_a_camera_folder_or_of_one_image_is_not_by_scene(tmp_path):
    lines = format_table(table(*((f"IMG_{n:04}.jpg", n / 10, "") for n in range(5))), "CF", ["CF"]).splitlines()
    assert lines[1].startswith("IMG_0004.jpg")
    assert len(format_table(table(("ORG_1.png", 0.1, "")), "CF", ["CF"]).splitlines()) == 2


def test_report_keeps_a_row_a_line_whatever_a_name_holds():
    names = ["new\nline.png", "carriage\r.png", "tab\t.png", "red\x1b[31m.png", "\u202egnp.png", "\u2028.png", "grün 写.png"]
    lines = format_table(table(*((name, 0.5, "") for name in names)), "CF", ["CF"]).split("\n")
    assert len(lines) == 1 + len(names) + 2  # what to compare, and how to name scenes
    assert all(char.isprintable() for line in lines for char in line)
    assert {line.split()[0] for line in lines if line} >= {r"new\nline.png", r"red\x1b[31m.png", "grün"}


def test_a_name_that_is_not_utf_8_gets_an_error_row_and_the_others_are_scored(branches, gallery, tmp_path):
    folder, odd = tmp_path / "in", os.fsdecode(b"odd\xff.png")
    folder.mkdir()
    try:
        for name in ("a.png", "new\nline.png", odd):
            shutil.copy(gallery / "x.png", folder / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    images = list_images(folder)
    rows = rows_of(score_all(Scorer(Networks({"CF": branches["CF"]}, ["cpu"])), images, tmp_path / "cf.csv", ["CF"]))
    assert rows[r"odd\udcff.png"]["error"].startswith(r"odd\udcff.png: the file name is not UTF-8")
    assert rows["a.png"]["CF"] == rows["new\nline.png"]["CF"] != ""


def test_report_of_errors_only():
    assert "ERROR  x.jpg: empty" in format_table(table(("x.jpg", np.nan, "x.jpg: empty")), "CF", ["CF"])


def test_score_file_is_named_after_what_was_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.v1").mkdir()
    Image.new("RGB", (2, 2)).save("one.png")
    here = Path()
    assert output_path(None, Path("set.v1"), Path("set.v1"), "CF") == Path("results/set.v1_CF.csv")
    assert output_path(None, Path("one.png"), here, "SCC") == Path("results/one_SCC.csv")
    assert output_path(None, Path("set.v1/.."), here, "PR") == Path("results") / f"{tmp_path.name}_PR.csv"
    assert output_path(Path("mine.csv"), Path("set.v1"), here, "CF") == Path("mine.csv")


def test_files_of_folders_with_one_name_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    # by folder: the stem, and what an earlier run left: PR, CF alone, the journal of a killed run
    cases = {"a": ("imgs", "_PR.csv.json"), "b": ("b_imgs", "_CF.csv.json"), "x/b": ("x_b_imgs", "_PR.csv.partial")}
    for place, (stem, left) in cases.items():
        folder = tmp_path / place / "imgs"
        folder.mkdir(parents=True)
        assert output_path(None, folder, folder, "PR") == Path("results") / f"{stem}_PR.csv"
        Path("results", stem + left).write_text(json.dumps({"root": str(folder)}) + "\n")
        assert output_path(None, folder, folder, "PR") == Path("results") / f"{stem}_PR.csv"  # the run goes on


def test_devices_come_as_a_list_and_one_that_is_not_there_is_refused():
    assert parse_devices("cpu, cpu") == ["cpu", "cpu"]
    with pytest.raises(ValueError, match=r"--device gpu cannot be used .*expected cpu, cuda or cuda:N"):
        parse_devices("gpu")
    with pytest.raises(ValueError, match=r"--device cuda:99 cannot be used"):
        parse_devices("cpu,cuda:99")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs core affinity")
def test_one_thread_a_core_this_process_may_use():
    assert worker_count(["cpu"]) == len(os.sched_getaffinity(0))
    assert worker_count(["cuda:0", "cuda:1"]) == 6


def test_two_devices_share_the_work_and_give_the_same(branches, gallery, tmp_path):
    one, two = (Scorer(Networks({"CF": branches["CF"]}, devices)) for devices in (["cpu"], ["cpu", "cpu"]))
    one = score_all(one, list_images(gallery), tmp_path / "1.csv", ["CF"])
    two = score_all(two, list_images(gallery), tmp_path / "2.csv", ["CF"], workers=4)
    assert one.read_bytes() == two.read_bytes()


def raiser(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("error", [ValueError("expected"), FileNotFoundError("x"), FileExistsError("x"), OSError("x")])
def test_usage_errors_end_a_script_with_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(raiser(error))
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_interruption_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(raiser(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(TypeError):
        run_script(raiser(TypeError("bug")))


def test_exit_status_and_json_follow_the_errors(branches, tmp_path, capsys):
    (tmp_path / "cf.csv").write_text("image,CF,gray,error\na.png,0.5,0,\nb.png,,0,b.png: empty\n")
    scored = [Branch(branches["CF"], tmp_path / "cf.csv", ["CF"], {})]
    assert print_summary(scored, ["CF"], tmp_path / "cf.json") == 1
    assert not (tmp_path / "cf.json").exists()
    assert "1 of 2 images have no score, see the column error; no JSON was written" in capsys.readouterr().err
    (tmp_path / "cf.csv").write_text("image,CF,gray,error\na.png,0.5,0,\n")
    assert print_summary(scored, ["CF"], tmp_path / "cf.json") == 0
    assert "left out" not in capsys.readouterr().out
    assert print_summary(scored, ["CF"], None, left_out="3 .heic, 1 .svg") == 0
    assert "\nleft out: 3 .heic, 1 .svg\n" in capsys.readouterr().out
    assert (tmp_path / "cf.json").read_text() == '{\n    "a": 0.5\n}\n'


def test_parser_reads_the_shared_arguments():
    args = inference_parser("x", "CF").parse_args(["folder", "-o", "a.csv", "--json", "a.json", "--overwrite"])
    assert (args.images, args.output, args.json, args.overwrite) == (Path("folder"), Path("a.csv"), Path("a.json"), True)
    assert (args.weights, args.device, args.workers) == ("CF", None, None)
