"""A score file survives kills, odd names and changed images, and no score is ever made up."""

import contextlib
import functools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.table import load_table
from utils.choices import VERSION
from utils.scores import (
    NO_ROW,
    Provenance,
    ScoreWriter,
    fingerprint,
    in_sample,
    join_scores,
    missing_scores,
    read_scores,
    write_json,
)

REPO = Path(__file__).parents[1]
NAMES = ["a/b.jpg", "a/c.jpg", "d.png", "e.png", "f.png"]
ODD_NAMES = ["x,y.jpg", 'say "hi".jpg', "grün/日本.png", "line\nbreak.jpg", "return\rcarriage.jpg", " lead.jpg", "NA", "007"]

# A run in a process of its own: scores as score() below, one image each 20 ms.
RUN = """
import sys, time
from tests.test_scores import score
from utils.scores import Provenance, ScoreWriter
out, root, *names = sys.argv[1:]
provenance = Provenance(root, weights={"CF": "0" * 64}, preprocessing={"size": [8, 8]}, sample="unseen")
writer = ScoreWriter(out, ["CF"], names, provenance)
with writer:
    for name in writer.remaining(names):
        time.sleep(0.02)
        writer.add(name, {"CF": score(name)}, gray=False)
"""


def score(name: str) -> float:
    return math.sin(sum(name.encode()))


def make_images(root: Path, names: list[str] = NAMES) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def open_writer(path: Path, root: Path, names: list[str] = NAMES, **changes: object) -> ScoreWriter:
    how = {"weights": {"CF": "0" * 64}, "preprocessing": {"size": (8, 8)}, "sample": "unseen"}
    provenance = Provenance(root, **{name: changes.pop(name, value) for name, value in how.items()})
    return ScoreWriter(path, changes.pop("columns", ["CF"]), names, provenance, **changes)


def score_all(writer: ScoreWriter, names: list[str] = NAMES, limit: int | None = None) -> list[str]:
    done = writer.remaining(names)[:limit]
    for name in done:
        writer.add(name, {"CF": score(name)}, gray=False)
    return done


def run_script(out: Path, root: Path, names: list[str], code: str = RUN) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, str(out), str(root), *names], cwd=REPO)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # other processes may have all cores
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def journal_lines(out: Path) -> int:
    journal = out.with_name(out.name + ".partial")
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def handmade(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


# Writing


def test_the_file_is_sorted_with_six_decimals_and_keeps_the_place_of_errors(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "new" / "cf.csv", root) as writer:
        writer.add("f.png", {"CF": -1e-9}, gray=True)
        writer.add("e.png", {"CF": np.float32(0.5)}, gray=False)
        writer.add("d.png", {}, gray=False, error="cannot read, truncated\n  file\x00\u2028here ")
        writer.add("a/c.jpg", {"CF": -1.0}, gray=False)
        writer.add("a/b.jpg", {"CF": 0.12345649}, gray=False)
        assert (writer.count, writer.errors) == (5, 1)
    assert (tmp_path / "new" / "cf.csv").read_bytes().decode() == (
        "image,CF,gray,error\n"
        "a/b.jpg,0.123456,0,\n"
        "a/c.jpg,-1.000000,0,\n"
        'd.png,,0,"cannot read, truncated file here"\n'
        "e.png,0.500000,0,\n"
        "f.png,0.000000,1,\n"
    )
    assert sorted(os.listdir(tmp_path / "new")) == ["cf.csv", "cf.csv.json"]


def test_the_sidecar_says_how_the_scores_were_made(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer)
    meta = json.loads((tmp_path / "cf.csv.json").read_text())
    assert meta.pop("version")["format"] == 1
    assert meta == {
        "dimension": "CF",
        "weights": {"CF": "0" * 64},
        "preprocessing": {"size": [8, 8]},
        "sample": "unseen",
        "root": str(root),
        "count": 5,
        "errors": 0,
        "files": {name: f"{len(name)}-{(root / name).stat().st_mtime_ns}" for name in NAMES},
    }


def test_pr_rows_hold_the_sub_scores_they_were_computed_from(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "pr.csv", root, columns=["PR", "CF", "SCC"]) as writer:
        writer.add("d.png", {"CF": 0.2, "SCC": 0.3, "PR": 0.1}, gray=False)
        writer.add("e.png", {"CF": 0.2, "SCC": 0.3, "PR": math.nan}, gray=False)
        with pytest.raises(ValueError, match=r"expected scores for PR, CF, SCC of f.png, got PR"):
            writer.add("f.png", {"PR": 0.1}, gray=False)
    assert (tmp_path / "pr.csv").read_text().splitlines() == [
        "image,PR,CF,SCC,gray,error",
        "d.png,0.100000,0.200000,0.300000,0,",
        "e.png,,,,0,PR score is not finite",
    ]
    frame = read_scores(tmp_path / "pr.csv", "PR")
    assert list(frame.columns) == ["image", "PR", "CF", "SCC", "gray", "error"]
    assert frame.attrs["meta"]["dimension"] == "PR"


@pytest.mark.parametrize(
    ("value", "reason"),
    [(math.nan, "CF score is not finite"), (-math.inf, "CF score is not finite"), (1.25, "CF score 1.25 is outside [-1, 1]")],
)
def test_a_score_that_is_none_becomes_an_error_row(tmp_path: Path, value: float, reason: str) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "cf.csv", root) as writer:
        writer.add("d.png", {"CF": value}, gray=False)
    frame = read_scores(tmp_path / "cf.csv")
    assert frame["error"].tolist() == [reason]
    assert frame["CF"].isna().all()


def test_odd_names_survive(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", ODD_NAMES)
    with contextlib.suppress(KeyboardInterrupt), open_writer(tmp_path / "cf.csv", root, ODD_NAMES) as writer:
        score_all(writer, ODD_NAMES, limit=4)
        raise KeyboardInterrupt
    with open_writer(tmp_path / "cf.csv", root, ODD_NAMES) as writer:
        assert score_all(writer, ODD_NAMES) == ODD_NAMES[4:]
    frame = read_scores(tmp_path / "cf.csv")
    assert frame["image"].tolist() == sorted(ODD_NAMES)
    np.testing.assert_allclose(join_scores(ODD_NAMES, frame, "CF", "cf.csv"), [score(name) for name in ODD_NAMES], atol=5e-7)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image b'gr\\xfcn.jpg' is not UTF-8; rename it"):
        open_writer(tmp_path / "cf.csv", tmp_path, ["gr\udcfcn.jpg"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": "test"}, "expected sample to be one of unseen, in-sample, out-of-fold, unknown, got 'test'"),
        ({"columns": ["PQ"]}, "expected score columns out of CF, SCC, PR"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_writer(tmp_path / "cf.csv", tmp_path, **changes)
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        open_writer(tmp_path / "cf.json", tmp_path)
    with open_writer(tmp_path / "cf.csv", tmp_path) as writer, pytest.raises(ValueError, match=r"got 'other\.png'"):
        writer.add("other.png", {"CF": 0.0}, gray=False)


# Going on after a stop


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    names = [f"{i // 10}/{i:03d}.jpg" for i in range(40)]
    root = make_images(tmp_path / "images", names)
    out, whole = tmp_path / "cf.csv", tmp_path / "whole.csv"

    for rows in (5, 12):
        kill = f"        if writer.count == {rows}: __import__('os').kill(__import__('os').getpid(), 9)\n"
        process = run_script(out, root, names, RUN + kill)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()

    with open_writer(out, root, names) as writer:
        assert writer.kept == 12
        assert len(score_all(writer, names)) == 28
    with open_writer(whole, root, names) as writer:
        score_all(writer, names[::-1])
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "cf.csv.json").read_bytes() == (tmp_path / "whole.csv.json").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["cf.csv", "cf.csv.json", "images", "whole.csv", "whole.csv.json"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_its_rows_in_the_csv(tmp_path: Path, stop: type[BaseException]) -> None:
    root = make_images(tmp_path / "images")

    def interrupted() -> None:
        with open_writer(tmp_path / "cf.csv", root) as writer:
            score_all(writer, limit=2)
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert read_scores(tmp_path / "cf.csv")["image"].tolist() == NAMES[:2]
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert (writer.kept, writer.changed, writer.dropped) == (2, 0, 0)
        assert score_all(writer) == NAMES[2:]
    with open_writer(tmp_path / "whole.csv", root) as writer:
        score_all(writer)
    assert (tmp_path / "cf.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "cf.csv.json").read_bytes() == (tmp_path / "whole.csv.json").read_bytes()


@pytest.mark.parametrize("earlier", [0, 2])
def test_a_row_that_is_in_memory_when_the_run_is_interrupted_is_in_the_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    class Interrupted(dict):
        def __setitem__(self, *row: object) -> None:
            super().__setitem__(*row)
            raise KeyboardInterrupt  # the row is in memory, the line not yet in the journal

    root = make_images(tmp_path / "images")
    with contextlib.suppress(KeyboardInterrupt), open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer, limit=earlier)
        monkeypatch.setattr(writer, "_rows", Interrupted(writer._rows))
        score_all(writer, limit=1)
    assert read_scores(tmp_path / "cf.csv")["image"].tolist() == NAMES[: earlier + 1]
    assert sorted(os.listdir(tmp_path)) == ["cf.csv", "cf.csv.json", "images"]
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert writer.remaining(NAMES) == NAMES[earlier + 1 :]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_disk_that_is_full_names_the_file_and_keeps_the_finished_rows(tmp_path: Path) -> None:
    names = [f"{i:03}.jpg" for i in range(200)]
    root = make_images(tmp_path / "images", names)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        with (
            pytest.raises(OSError, match=r"File too large: '.*/cf\.csv\.partial'$"),
            open_writer(tmp_path / "cf.csv", root, names) as writer,
        ):
            score_all(writer, names)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(os.listdir(tmp_path)) == ["cf.csv.partial", "images"]
    with open_writer(tmp_path / "cf.csv", root, names) as writer:
        assert writer.kept > 10
        score_all(writer, names)
    assert read_scores(tmp_path / "cf.csv")["image"].tolist() == names


def test_a_run_that_scored_nothing_leaves_nothing(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    with contextlib.suppress(KeyboardInterrupt), open_writer(tmp_path / "cf.csv", root):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_line_of_the_journal_is_scored_again(tmp_path: Path, cut: int) -> None:
    root = make_images(tmp_path / "images")
    journal = tmp_path / "cf.csv.partial"
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer, limit=3)
        lines = journal.read_bytes()
    (tmp_path / "cf.csv").unlink()
    (tmp_path / "cf.csv.json").unlink()
    journal.write_bytes(lines[: -cut - 1])  # without the newline and the last bytes of the third row

    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert writer.remaining(NAMES) == NAMES[2:]
        score_all(writer, limit=1)
        again = journal.read_bytes()
    assert again.splitlines()[-1] == lines.splitlines()[-1]  # not glued to the torn line
    assert read_scores(tmp_path / "cf.csv")["image"].tolist() == NAMES[:3]


def test_a_kill_while_the_files_are_written_loses_nothing(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    out, sidecar, journal = (tmp_path / name for name in ("cf.csv", "cf.csv.json", "cf.csv.partial"))
    with open_writer(out, root) as writer:
        score_all(writer)
    old = out.read_bytes()
    (root / "d.png").write_text("changed")
    with open_writer(out, root) as writer:
        writer.add("d.png", {"CF": 0.75}, gray=False)
        lines = journal.read_bytes()
    new, new_sidecar = out.read_bytes(), sidecar.read_bytes()

    for csv_content in (old, new):  # killed before and after the CSV was replaced
        out.write_bytes(csv_content)
        journal.write_bytes(lines)
        with open_writer(out, root) as writer:
            assert writer.remaining(NAMES) == []
        assert (out.read_bytes(), sidecar.read_bytes()) == (new, new_sidecar)
        assert not journal.exists()


def test_changed_images_and_errors_are_scored_again_and_gone_images_dropped(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "cf.csv", root) as writer:
        writer.add("a/b.jpg", {}, gray=False, error="cannot read")
        score_all(writer)
    os.utime(root / "d.png", ns=(0, 1))  # the same size, another time
    names = NAMES[:-1]
    with open_writer(tmp_path / "cf.csv", root, names) as writer:
        assert (writer.kept, writer.changed, writer.dropped) == (2, 1, 1)
        assert writer.remaining(names) == ["a/b.jpg", "d.png"]
        writer.add("d.png", {"CF": 0.75}, gray=False)
        writer.add("a/b.jpg", {"CF": 0.25}, gray=False)
    frame = read_scores(tmp_path / "cf.csv")
    assert frame["image"].tolist() == names
    assert join_scores(["d.png", "a/b.jpg"], frame, "CF", "cf.csv").tolist() == [0.75, 0.25]
    assert frame.attrs["meta"]["files"]["d.png"] == "5-1" == fingerprint(root / "d.png")


def test_an_image_that_cannot_be_found_is_an_error_row_and_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        with open_writer(tmp_path / "cf.csv", tmp_path, ["gone.png"]) as writer:
            assert writer.remaining(["gone.png"]) == ["gone.png"]
            assert writer.changed == 0
            writer.add("gone.png", {}, gray=False, error="no such file")
    assert read_scores(tmp_path / "cf.csv").attrs["meta"]["files"] == {"gone.png": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"CF": "1" * 64}}, "weights.CF was 0{64}, is now 1{64}; pass --overwrite .* or another file"),
        ({"preprocessing": {"size": (16, 8)}}, r"preprocessing.size was \[8, 8\], is now \[16, 8\]"),
        ({"preprocessing": {"size": (8, 8), "crop": 1}}, "preprocessing.crop was None, is now 1"),
        ({"sample": "in-sample"}, "sample was unseen, is now in-sample"),
        ({"columns": ["SCC"]}, "dimension was CF, is now SCC"),
        ({"root": "elsewhere"}, "root was .*images, is now .*elsewhere"),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_rows_of_another_run_are_not_mixed_in(tmp_path: Path, changes: dict, message: str, killed: bool) -> None:
    root = make_images(tmp_path / "images")
    make_images(tmp_path / "elsewhere")
    out, journal = tmp_path / "cf.csv", tmp_path / "cf.csv.partial"
    with open_writer(out, root) as writer:
        score_all(writer, limit=2)
        lines = journal.read_bytes()
    if killed:
        out.unlink()
        (tmp_path / "cf.csv.json").unlink()
        journal.write_bytes(lines)
    other_root = tmp_path / changes.get("root", "images")
    changes = {key: value for key, value in changes.items() if key != "root"}
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=message):
        open_writer(out, other_root, **changes)
    assert sorted(os.listdir(tmp_path)) == before

    with open_writer(out, other_root, overwrite=True, **changes) as writer:
        assert writer.remaining(NAMES) == NAMES
        writer.add("f.png", {writer.columns[0]: 0.5}, gray=False)
    assert read_scores(out)["image"].tolist() == ["f.png"]


def test_a_file_made_by_hand_is_not_continued(tmp_path: Path) -> None:
    handmade(tmp_path / "cf.csv", "image,CF\nd.png,0.5\n")
    with pytest.raises(ValueError, match=r"cf.csv does not say which weights made it.*--overwrite"):
        open_writer(tmp_path / "cf.csv", tmp_path)
    assert (tmp_path / "cf.csv").read_text() == "image,CF\nd.png,0.5\n"


def test_a_score_that_was_deleted_by_hand_is_computed_again(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer)
    before = (tmp_path / "cf.csv").read_text()
    lines = before.splitlines(keepends=True)
    (tmp_path / "cf.csv").write_text("".join([*lines[:-1], "f.png,,0,\n"]))
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert score_all(writer) == ["f.png"]
    assert (tmp_path / "cf.csv").read_text() == before


@pytest.mark.skipif(os.name == "nt", reason="no lock on Windows")
def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(500)]
    root = make_images(tmp_path / "images", names)
    out = tmp_path / "cf.csv"
    process = run_script(out, root, names)
    try:
        wait_for(lambda: journal_lines(out) > 1)
        with pytest.raises(BlockingIOError, match=rf"another run \(process {process.pid}\) is writing .*cf.csv; wait"):
            open_writer(out, root, names, overwrite=True)
        assert journal_lines(out) > 1
    finally:
        process.kill()
        process.wait()
    open_writer(out, root, names).close()
    assert sorted(os.listdir(tmp_path)) == ["cf.csv", "cf.csv.json", "images"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_that_outlive_a_killed_run_do_not_keep_its_lock(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    out, pid_file = tmp_path / "cf.csv", tmp_path / "pid"
    fork = "import os\nif os.fork() == 0: open(out + '.pid', 'w').write(str(os.getpid())); time.sleep(60); os._exit(0)\n"
    code = RUN.replace("with writer:\n", f"{fork}with writer:\n    time.sleep(60)\n")
    pid_file = tmp_path / "cf.csv.pid"
    process = run_script(out, root, NAMES, code)
    wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    try:
        process.kill()
        process.wait()
        open_writer(out, root).close()
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


# Reading


def test_a_file_made_by_hand_needs_only_images_and_scores(tmp_path: Path) -> None:
    path = handmade(tmp_path / "hand.csv", "\ufeff image , CF ,note\r\n1.jpg,0.5,x\r\n\r\nNA,-1e-1,\r\n")
    frame = read_scores(path)
    assert list(frame.columns) == ["image", "CF", "gray", "error"]
    assert frame["image"].tolist() == ["1.jpg", "NA"]
    assert frame["CF"].tolist() == [0.5, -0.1]
    assert frame["gray"].tolist() == [False, False]
    assert frame["error"].tolist() == ["", ""]
    assert frame.attrs == {"meta": {}, "by_stem": False}
    assert in_sample(frame) is None


def test_a_frame_that_pandas_saved_is_read_again(tmp_path: Path) -> None:
    read_scores(handmade(tmp_path / "cf.csv", "image,CF,gray,error\na,0.5,1,\nb,,0,bad\n")).to_csv(
        tmp_path / "again.csv", index=False
    )
    frame = read_scores(tmp_path / "again.csv")
    assert frame["gray"].tolist() == [True, False]
    assert frame["error"].tolist() == ["", "bad"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,CF\na,0\n", "has no column image, only file, CF"),
        ("image,SCC\na,0\n", "has no column CF, only image, SCC"),
        ("image,score,note\na,0,x\n", "has no column CF, only image, score, note; if 'score' holds the scores, rename"),
        ("image,x,y\na,0,0\n", "has no column CF, only image, x, y$"),
        ("", "has no column image, only an empty header"),
        ("image,CF,CF\na,0,0\n", "expected each column of .* once, got image, CF, CF"),
        ("image,CF\na,0\nb,0\na,1\n", "expected each image once in .*, got a 2 times"),
        ("image,CF\n,0\n", "got an empty one"),
        ("image,CF\na,good\n", r"expected a CF score in \[-1, 1\] for a in .*, got 'good'"),
        ("image,CF\na,nan\n", "for a in .*, got 'nan'"),
        ("image,CF\na,73.5\n", "for a in .*, got '73.5'"),
        ("image,CF\na,b.jpg,0\n", "line 2: 3 cells, the header has 2; a comma inside a cell needs quotes"),
        ('image,CF\n"a,0\n', r"is not a comma-separated UTF-8 table \(line 2: "),
        ("image,CF,gray\na,0,maybe\n", "expected 0 or 1 as gray for a in .*, got 'maybe'"),
    ],
)
def test_errors_name_the_file_and_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = handmade(tmp_path / "hand.csv", text)
    with pytest.raises(ValueError, match=message) as error:
        read_scores(path, "CF")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("image;CF\na;0.5\n", "has the columns|has no column image, only image;CF; its cells are separated by semicolons"),
        ("image;CF\na;-0,5\n", "2 cells, the header has 1; its cells are separated by semicolons, .* points"),
        ('"image";"CF"\n"a";"0,5"\n', "separated by semicolons"),
        ("sep=;\nimage;CF\n", "separated by semicolons"),
        ("image\tCF\na\t0.5\n", "its cells are separated by tabs"),
        ("image|CF\na|0.5\n", "its cells are separated by vertical bars"),
        ('image,CF\na,"0,5"\n', "'0,5'.* with a decimal point, not a comma"),
        ("image,CF\na,0,5\n", "line 2: 3 cells, the header has 2"),
        ("image,CF\na,0.5\n".encode("utf-16"), "is not a comma-separated UTF-8 table but UTF-16; export it as CSV, UTF-8"),
        ("image,CF\na,0.5\n".encode("utf-16-be"), "but UTF-16"),
        (b"PK\x03\x04\x14\0\x06\0", "but a spreadsheet or ZIP file"),
    ],
)
def test_a_table_of_another_kind_is_named_alike_by_the_readers_of_scores_and_of_mos(
    tmp_path: Path, data: str | bytes, message: str
) -> None:
    path = tmp_path / "cf.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    for read in (read_scores, functools.partial(load_table, check_files=False)):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_files_that_are_no_score_file_are_refused(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    (tmp_path / "latin.csv").write_bytes("image,CF\ngrün.jpg,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.csv is not a comma-separated UTF-8 table \(.*, byte 11\)"):
        read_scores(tmp_path / "latin.csv")
    with pytest.raises(FileNotFoundError, match=r"no score file .*none.csv; run infer_SCC.py to make it"):
        read_scores(tmp_path / "none.csv", "SCC")
    with pytest.raises(ValueError, match="expected a dimension out of CF, SCC, PR, got 'cf'"):
        read_scores(tmp_path / "latin.csv", "cf")
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer)
        with pytest.raises(FileNotFoundError, match=r"its run was stopped; start infer_CF.py again"):
            read_scores(tmp_path / "cf.csv", "CF")
    with pytest.raises(ValueError, match=r"says how the scores of cf.csv were made; pass that file"):
        read_scores(tmp_path / "cf.csv.json", "CF")
    (tmp_path / "cf.csv.json").write_text("[")
    with pytest.raises(ValueError, match=r"expected .*cf.csv.json to be JSON"):
        read_scores(tmp_path / "cf.csv")


@pytest.mark.parametrize(("sample", "expected"), [("unseen", False), ("in-sample", True), ("out-of-fold", False)])
def test_the_file_says_whether_the_weights_had_seen_the_images(tmp_path: Path, sample: str, expected: bool) -> None:
    with open_writer(tmp_path / "cf.csv", make_images(tmp_path / "images"), sample=sample) as writer:
        score_all(writer)
    assert in_sample(read_scores(tmp_path / "cf.csv")) is expected


# The published JSON form


def test_the_published_form_round_trips(tmp_path: Path) -> None:
    path = handmade(tmp_path / "cf.csv", "image,CF\nz/b.x.jpg,0.123456\na.png,-0.5\n")
    write_json(path, tmp_path / "published.json", "CF")
    assert (tmp_path / "published.json").read_text() == '{\n    "a": -0.5,\n    "b.x": 0.123456\n}\n'
    frame = read_scores(tmp_path / "published.json", "CF")
    assert frame.attrs["by_stem"]
    assert join_scores(["q/b.x.png", "a.jpg"], frame, "CF", "published.json").tolist() == [0.123456, -0.5]
    write_json(frame, tmp_path / "again.json", "CF")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "published.json").read_bytes()


def test_the_published_form_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    twins = handmade(tmp_path / "twins.csv", "image,CF\na/1.jpg,0\nb/1.png,0\n")
    with pytest.raises(ValueError, match=r"a/1.jpg and b/1.png have the same stem, 1"):
        write_json(twins, tmp_path / "out.json", "CF")
    broken = handmade(tmp_path / "broken.csv", "image,CF,error\na/1.jpg,0,\nb/2.png,,cannot read\n")
    with pytest.raises(ValueError, match=r"1 of 2 images have no CF score, e.g. b/2.png: cannot read; the JSON form"):
        write_json(read_scores(broken), tmp_path / "out.json", "CF")
    assert not (tmp_path / "out.json").exists()

    published = handmade(tmp_path / "published.json", '{"1": 0.5}')
    frame = read_scores(published, "CF")
    with pytest.raises(ValueError, match=r"a/1.jpg and b/1.png have the same stem, 1"):
        join_scores(["a/1.jpg", "b/1.png"], frame, "CF", published)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected .* to be JSON, got"),
        ("[1]", "expected .* to map file stems to scores, got list"),
        ('[["a", 1]]', "expected .* to map file stems to scores, got list"),
        ('{"a": "0.5"}', r"expected a CF score in \[-1, 1\] for a in .*, got '0.5'"),
        ('{"a": true}', "for a in .*, got True"),
        ('{"a": NaN}', "for a in .*, got nan"),
        ('{"a": {"b": 1}}', "for a in"),
        ('{"a": 0, "a": 1}', "expected each image once in .*, got a 2 times"),
    ],
)
def test_wrong_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = handmade(tmp_path / "published.json", text)
    with pytest.raises(ValueError, match=message):
        read_scores(path, "CF")
    with pytest.raises(ValueError, match="does not say whether it holds CF, SCC or PR"):
        read_scores(path)


# Joining


def test_the_join_goes_by_full_path_and_not_by_order(tmp_path: Path) -> None:
    path = handmade(tmp_path / "cf.csv", "image,CF\nb/1.jpg,0.2\nextra.jpg,0.9\na/1.jpg,0.1\n")
    frame = read_scores(path, "CF")
    for rows in (frame, frame.iloc[::-1], frame.sort_values("CF")):
        joined = join_scores(["a/1.jpg", "b/1.jpg"], rows, "CF", path)
        assert joined.dtype == np.float64
        assert joined.tolist() == [0.1, 0.2]
    assert join_scores([], frame, "CF", path).shape == (0,)


def test_names_that_are_written_in_another_way_are_joined(tmp_path: Path) -> None:
    frame = read_scores(handmade(tmp_path / "cf.csv", "image,CF,error\nx\\A.JPG,0.2,\nü.png,0.3,\nc.jpg,,bad\n"))
    names = ["x/a.jpg", unicodedata.normalize("NFD", "ü.tif")]
    assert join_scores(names, frame, "CF", "cf.csv").tolist() == [0.2, 0.3]
    assert missing_scores([*names, "images/c.png"], frame, "CF") == {"images/c.png": "bad"}
    published = read_scores(handmade(tmp_path / "cf.json", json.dumps({"ü": 0.3, "A": 0.2})), "CF")
    assert join_scores(names, published, "CF", "cf.json").tolist() == [0.2, 0.3]


def test_an_image_without_a_row_stops_the_join(tmp_path: Path) -> None:
    frame = read_scores(handmade(tmp_path / "cf.csv", "image,CF,error\nimages/1.jpg,0.2,\n2.jpg,,cannot read\n"))
    names = ["images/1.jpg", "1.jpg", "2.jpg", "x.jpg"]
    with pytest.raises(
        ValueError,
        match=r"^2 of 4 images have no CF score in cf.csv, e.g. 1.jpg \(the file has 2 images, e.g. images/1.jpg\); "
        r"run infer_CF.py on the same folder first$",
    ):
        join_scores(names, frame, "CF", "cf.csv")
    assert missing_scores(names, frame, "CF") == {"1.jpg": NO_ROW, "2.jpg": "cannot read", "x.jpg": NO_ROW}


def test_an_image_with_an_error_stops_the_join_with_its_reason(tmp_path: Path) -> None:
    frame = read_scores(handmade(tmp_path / "cf.csv", "image,CF,error\n1.jpg,0.2,\n2.jpg,,cannot read\n3.jpg,,\n"))
    with pytest.raises(ValueError, match=r"2 of 3 images have an error .* CF score in cf.csv, e.g. 2.jpg: cannot read"):
        join_scores(["1.jpg", "2.jpg", "3.jpg"], frame, "CF", "cf.csv")
    assert missing_scores(["3.jpg"], frame, "CF") == {"3.jpg": "its score is empty"}
    assert missing_scores(["1.jpg"], frame, "CF") == {}


def test_the_version_is_said_alike_everywhere():
    root, said = Path(__file__).parents[1], VERSION
    assert f"version: {said}\n" in (root / "CITATION.cff").read_text()
    assert (root / "CHANGELOG.md").read_text().split("\n## ")[1].startswith(f"{said}, ")
