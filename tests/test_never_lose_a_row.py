"""However a scoring is stopped, the run after it keeps every row that was finished and ends in the bytes of a run that was not.

tests/faults.py runs the scoring, in processes of its own. What a writer does within one process is in test_scores.py.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference import command
from tests.test_scores import NAMES, make_images, open_writer, read_scores, score_all
from utils import scores
from utils.files import take_lock, write_atomic

REPO = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, limits and locks")
SCORED = ["a/ü.png", "a/x, y.png", "b.png", "gray.png"]
BROKEN = "broken.png"  # an error is no finished row: the image is scored again
FILES = sorted(f"{name}.csv{suffix}" for name in ("cf", "scc", "pr") for suffix in ("", ".json"))


def add_image(path: Path, seed: int, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Runs:
    """Runs of tests/faults.py, each on the same images.

    Attributes:
        images: Their folder.
        log: What the last run said, by line: the images that its engine got, and the rows that its writers had finished.
    """

    def __init__(self, folder: Path, before: tuple[str, ...] = ()) -> None:
        self.folder, self.images, self.log = folder, folder / "images", [""]
        self._steps: dict[bool, list[str]] = {}
        for number, name in enumerate(SCORED):
            add_image(self.images / name, number, 1 if name == "gray.png" else 3)
        (self.images / BROKEN).write_bytes(b"no image")
        command = [*before, sys.executable, "tests/faults.py"]
        self.server = subprocess.Popen(command, cwd=REPO, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.ask(out=str(folder / "whole")) == [0]
        self.whole = contents(folder / "whole")
        assert sorted(self.whole) == FILES

    def ask(self, **plan: object) -> list[int]:
        for log in self.folder.glob("log*"):
            log.unlink()
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        plan = {"images": str(self.images), "log": str(self.folder / "log"), **plan}
        self.server.stdin.write(json.dumps(plan) + "\n")
        self.server.stdin.flush()
        statuses = json.loads(self.server.stdout.readline())
        self.log = [line for log in sorted(self.folder.glob("log*")) for line in log.read_text(encoding="utf-8").splitlines()]
        return statuses

    def said(self, word: str) -> list[str]:
        return [line.removeprefix(word).strip() for line in self.log if line.startswith(word)]

    def finished(self) -> set[str]:
        """The images whose rows were in all three files when the last run ended, in whatever way."""
        count = Counter(row.split(" ", 1)[1] for row in self.said("kept"))
        return {image for image, files in count.items() if files == 3} - {BROKEN}

    def steps(self, lines: bool) -> list[str]:
        """What a run does, step by step."""
        if lines not in self._steps:
            assert self.ask(out=str(self.folder / f"counted_{lines}"), fault="none", lines=lines) == [0]
            self._steps[lines] = self.said("step")
        return self._steps[lines]

    def finish(self, out: Path, finished: set[str], **plan: object) -> None:
        """Start the run again, and compare with one that was not stopped."""
        assert self.ask(out=str(out), **plan) == [0], self.log
        assert not finished & set(self.said("scored"))
        assert contents(out) == self.whole

    def stop(self, step: int, kind: str, lines: bool = False, again: int = 0) -> int:
        """A run with a fault, ``again`` more of them, and one without; returns the status of the first."""
        out = self.folder / "stopped"
        shutil.rmtree(out, ignore_errors=True)
        (status,) = self.ask(out=str(out), fault=kind, step=step, lines=lines)
        assert "Traceback" not in "".join(self.log)
        if kind == "full" and status:
            assert all("No space left on device: '" in line and ".csv" in line for line in self.said("error:"))
        finished = self.finished()
        for _ in range(again):
            self.ask(out=str(out), fault=kind, step=step, lines=lines)
            assert not finished & set(self.said("scored"))
            finished |= self.finished()
        self.finish(out, finished)
        return status

    def close(self) -> None:
        self.server.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with contextlib.closing(Runs(tmp_path_factory.mktemp("runs"))) as runs:
        yield runs


STATUS = {"kill": -signal.SIGKILL, "int": 130, "term": 143, "full": 1, "memory": 1}
STAGES = {  # a step of each stage; a write is stopped after half of it
    "listing": (True, "listing line"),
    "opening": (False, "opening write"),
    "scoring": (True, "scoring line"),
    "journal": (False, "journal write"),
    "sidecar": (False, "merge os.rename cf.csv.json"),
    "csv": (False, "merge os.rename cf.csv"),
    "end": (False, "merge os.remove .csv.partial"),
}


@posix
@pytest.mark.parametrize(
    ("kind", "stage"),
    [("kill", stage) for stage in STAGES if stage not in ("scoring", "end")]
    + [("full", "opening"), ("full", "journal"), ("full", "csv"), ("int", "scoring"), ("int", "sidecar")]
    + [("term", "journal"), ("memory", "journal"), ("memory", "csv")],
)
def test_a_run_stopped_at_a_stage_goes_on_and_loses_nothing(runs: Runs, kind: str, stage: str) -> None:
    lines, what = STAGES[stage]
    at = [number for number, step in enumerate(runs.steps(lines), 1) if step.startswith(what)]
    assert runs.stop(at[len(at) // 2], kind, lines, again=1) == STATUS[kind]


@posix
@pytest.mark.slow
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("kind", STATUS)
def test_a_run_stopped_at_any_step_goes_on_and_loses_nothing(runs: Runs, kind: str, lines: bool) -> None:
    steps = runs.steps(lines)
    assert {step.split()[0] for step in steps} >= {"opening", "journal", "merge"} | ({"listing", "scoring"} if lines else set())
    assert len(steps) > (1000 if lines else 70)
    ended = {runs.stop(step, kind, lines) for step in range(1, len(steps) + 1, 11 if lines else 1)}
    assert STATUS[kind] in ended
    assert ended <= {STATUS[kind], 0}  # what is left to do at the very end needs no room


@posix
@pytest.mark.slow
def test_a_run_killed_at_fifty_random_moments_goes_on_and_loses_nothing(runs: Runs, tmp_path: Path) -> None:
    chance = random.Random(0)
    kills = whole_runs = 0
    while kills < 50:
        out, finished, status = tmp_path / str(whole_runs), set(), -signal.SIGKILL
        while status:
            plan = {"workers": chance.choice([1, 2, 3]), "pace": 0.005, "after": chance.uniform(0, 0.15)}
            (status,) = runs.ask(out=str(out), **plan)
            kills += status != 0
            assert not finished & set(runs.said("scored"))
            finished |= runs.finished()
        assert contents(out) == runs.whole
        whole_runs += 1


@posix
def test_of_runs_that_start_at_once_one_writes_the_files(runs: Runs, tmp_path: Path) -> None:
    statuses = runs.ask(out=str(tmp_path / "out"), pace=0.02, **{"at once": 6})
    assert 0 in statuses
    assert set(statuses) <= {0, 1}
    assert runs.said("error:") == [line for line in runs.said("error:") if "is writing" in line and "wait for it" in line]
    assert len(runs.said("error:")) == statuses.count(1)
    assert contents(tmp_path / "out") == runs.whole


@posix
def test_an_image_too_large_for_the_memory_gets_a_row_and_is_scored_when_there_is_more(runs: Runs, tmp_path: Path) -> None:
    assert runs.ask(out=str(tmp_path), **{"too large": "b.png", "address space": 1 << 32}) == [0]
    frame = read_scores(tmp_path / "pr.csv").set_index("image")["error"]
    assert frame["b.png"].startswith("b.png: ")
    assert "Unable to allocate 1.00 TiB" in frame["b.png"]
    runs.finish(tmp_path, set(SCORED) - {"b.png"}, workers=2)


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from inference.graph import Graph, GraphEngine
from inference.scorer import Scorer
scorer = Scorer(GraphEngine(Graph(), ["PR", "CF", "SCC"]))
usual = resource.getrlimit(resource.RLIMIT_AS)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for limit in (used + 5_000_000, usual[0]):
    resource.setrlimit(resource.RLIMIT_AS, (limit, usual[1]))
    result = scorer(Path(sys.argv[1]), {})
    print(result.error or sorted(result.scores))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the memory limits and /proc of Linux")
def test_onnx_runtime_without_memory_costs_one_image_and_not_the_run(tmp_path: Path) -> None:
    add_image(tmp_path / "a.png", 0)
    command = [sys.executable, "-c", LITTLE_MEMORY, str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    error, scored = done.stdout.splitlines()
    assert error.startswith("a.png: MemoryError: Failed to allocate memory for requested buffer of size ")
    assert scored == "['CF', 'PR', 'SCC']"


@posix
def test_a_run_goes_on_with_images_that_changed_came_and_went_since_it_was_stopped(runs: Runs, tmp_path: Path) -> None:
    journal = runs.steps(lines=False)
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(runs.images, images)
    last = max(number for number, step in enumerate(journal, 1) if step.startswith("journal write"))
    assert runs.ask(images=str(images), out=str(out), fault="kill", step=last) == [-signal.SIGKILL]
    assert runs.finished() >= {"a/x, y.png", "a/ü.png", "b.png"}

    add_image(images / "b.png", 77)
    os.utime(images / "b.png", ns=(0, 1))  # changed by a clock that had been set back
    os.utime(images / "a/ü.png", (0, 2**31))  # a clock that runs ahead: it may have changed
    (images / "a/x, y.png").unlink()
    add_image(images / "new.png", 78)
    shutil.copytree(images, tmp_path / "same")
    assert runs.ask(images=str(images), out=str(tmp_path / "whole")) == [0]
    assert runs.ask(images=str(images), out=str(out), workers=3) == [0]
    assert {"b.png", "new.png", "a/ü.png"} <= set(runs.said("scored")) <= {"b.png", "new.png", "a/ü.png", "gray.png"}
    assert contents(out) == contents(tmp_path / "whole")


def can_mount() -> bool:
    with contextlib.suppress(OSError):
        command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.mark.skipif(not can_mount(), reason="may not mount a file system")
def test_a_disk_that_is_full_and_one_that_is_read_only_lose_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=64k none {disk} && exec "$@"', "sh")  # 16 blocks
    with contextlib.closing(Runs(tmp_path, mount)) as runs:
        ended = Counter()
        for free in range(0, 14, 2):
            out = disk / "out"
            fill = f"rm -rf {out}; mkdir {out}; head -c {64 - 4 * free}K /dev/zero > {disk}/other; true"
            runs.ask(shell=fill)
            (status,) = runs.ask(out=str(out))
            ended[status] += 1
            finished = runs.finished()
            assert len(runs.said("error:")) == (status == 1)
            assert all(f"No space left on device: '{out}/" in line for line in runs.said("error:"))
            runs.ask(shell=f"rm {disk}/other; mount -o remount,ro {disk}")
            assert runs.ask(out=str(out)) == [1]
            assert len(runs.log) == 1
            assert f"Read-only file system: '{out}/cf.csv.lock'" in runs.log[0]
            runs.ask(shell=f"mount -o remount,rw {disk}")
            assert runs.ask(out=str(out)) == [0]
            assert not finished & set(runs.said("scored"))
            runs.ask(shell=f"rm -rf {tmp_path}/copy; cp -r {out} {tmp_path}/copy")
            assert contents(tmp_path / "copy") == runs.whole
        assert ended[1] >= 3
        assert ended[0] >= 1


# Within one process


@pytest.mark.skipif(os.name == "nt", reason="Windows removes and moves no open file")
@pytest.mark.parametrize("away", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("moved"))])
def test_a_folder_that_is_removed_or_moved_during_a_run_costs_no_row(tmp_path: Path, away: Callable[[Path], object]) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "out" / "cf.csv", root) as writer:
        score_all(writer, limit=3)
        away(tmp_path / "out")
        score_all(writer)
    with open_writer(tmp_path / "whole" / "cf.csv", root) as writer:
        score_all(writer)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_journal_with_lines_of_anything_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    journal = tmp_path / "cf.csv.partial"
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer, limit=3)
        header, *lines = journal.read_bytes().splitlines(keepends=True)
    for name in ("cf.csv", "cf.csv.json"):
        (tmp_path / name).unlink()
    anything = [b"\0" * 4096, b"5\n", b"[]\n", '{"image": "ü'.encode()[:-1] + b"\n", b"\xff\n", b"\n", lines[1][:-2] + b"\n"]
    journal.write_bytes(header + lines[0] + b"".join(anything) + lines[2][:-1])
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert writer.remaining(NAMES) == [NAMES[1], *NAMES[3:]]
        score_all(writer)
    with open_writer(tmp_path / "whole.csv", root) as writer:
        score_all(writer)
    assert (tmp_path / "cf.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_journal_of_another_version_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer, limit=3)
        lines = (tmp_path / "cf.csv.partial").read_bytes()
    for name in ("cf.csv", "cf.csv.json"):
        (tmp_path / name).unlink()
    (tmp_path / "cf.csv.partial").write_bytes(lines)
    monkeypatch.setattr(scores, "VERSIONS", {"format": 2, "project": "1.2.0"})
    with pytest.raises(
        ValueError, match=r"cf\.csv\.partial was made in another way: version\.format was 1, is now 2; pass --over"
    ):
        open_writer(tmp_path / "cf.csv", root)
    assert sorted(os.listdir(tmp_path)) == ["cf.csv.partial", "images"]
    assert (tmp_path / "cf.csv.partial").read_bytes() == lines


@pytest.mark.parametrize("suffix", [".json", ""])
def test_a_rename_that_was_done_and_reported_as_failed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:  # as over NFS, when the answer is lost and the call is repeated
        real(source, target)
        if Path(target).name == f"cf.csv{suffix}":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    root = make_images(tmp_path / "images")
    with open_writer(tmp_path / "whole.csv", root) as writer:
        score_all(writer)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(FileNotFoundError, match=rf"cf\.csv{suffix}'$"), open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer)
    monkeypatch.undo()
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert score_all(writer) == []
    assert (tmp_path / "cf.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["cf.csv", "cf.csv.json", "images", "whole.csv", "whole.csv.json"]


@posix
def test_a_lock_file_with_the_number_of_another_process_that_lives_blocks_nobody(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    (tmp_path / "cf.csv.lock").write_text(str(os.getppid()))  # of a run that was killed; its number is in use again
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert (tmp_path / "cf.csv.lock").read_text() == str(os.getpid())
        score_all(writer)
    assert sorted(os.listdir(tmp_path)) == ["cf.csv", "cf.csv.json", "images"]


@posix
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    root = make_images(tmp_path / "images")
    monkeypatch.setattr("fcntl.lockf", refuse)
    with open_writer(tmp_path / "cf.csv", root) as writer:
        assert score_all(writer) == NAMES
    assert sorted(os.listdir(tmp_path)) == ["cf.csv", "cf.csv.json", "images"]


@posix
@pytest.mark.parametrize("call", ["fcntl.lockf", "os.ftruncate"])
def test_a_lock_that_fails_names_its_file_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*/cf\.lock'$"):
        take_lock(tmp_path / "cf.lock", "")
    assert os.listdir(tmp_path) == []


@posix
def test_what_a_killed_writer_left_beside_its_file_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_images(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: 1 / 0)
        patch.setattr(Path, "unlink", lambda *_: None)
        for name in ("cf.csv", "cf.csv.json", "other.csv"):
            with pytest.raises(ZeroDivisionError):
                write_atomic(tmp_path / name, "half")
    assert len(list(tmp_path.glob(".*.tmp"))) == 3
    with open_writer(tmp_path / "cf.csv", root) as writer:
        score_all(writer)
    assert len(list(tmp_path.glob(".*.tmp"))) == 1  # another run may be writing other.csv


@pytest.mark.parametrize(
    ("error", "overwrite", "status", "message"),
    [
        (KeyboardInterrupt, False, 130, "run the same command again to go on"),
        (KeyboardInterrupt, True, 130, "run the same command without --overwrite to go on"),
        (MemoryError, False, 1, "error: out of memory; finished rows are kept; run again with fewer --workers to go on"),
    ],
)
def test_a_stopped_script_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: type[BaseException],
    overwrite: bool,
    status: int,
    message: str,
) -> None:
    def main() -> int:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["infer_CF.py", "folder", *(["--overwrite"] if overwrite else [])])
    try:
        with pytest.raises(SystemExit) as end:
            command.run_script(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == status
    assert message in capsys.readouterr().err
