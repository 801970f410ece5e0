"""Run a scoring with a fault at a chosen step, for each line of JSON that is read; say how it ended.

What a run needs is imported once, and every run is a fork of this process, so that hundreds of runs take seconds.
Engine and images are tiny; all else is what infer_PR.py runs.

A step is a line of Python of the writing of score files, or a call of the system that changes a file, in the middle of its
work: of what is written, one half has arrived.
"""

import contextlib
import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inference import command, scorer
from inference.scorer import ImageResult, Scorer, score_images
from utils import files, images, scores
from utils.images import list_images
from utils.scores import Provenance, ScoreWriter

TRACED = {module.__file__ for module in (files, images, scores, scorer)}
STAGES = {  # by function, what a run is doing there; the innermost one counts
    "list_images": "listing",
    "__init__": "opening",
    "score_images": "scoring",
    "add": "journal",
    "close": "merge",
}


class Fault:
    """What happens at a step.

    Args:
        kind: kill; int or term, a signal; memory, an error; full, no room on the disk from this step on; none, to count.
        step: Its number, from 1.
        lines: Whether lines count as steps, or calls of the system alone.
        folder: The folder of the score files; calls elsewhere are not counted.
    """

    def __init__(self, kind: str, step: int, lines: bool, folder: Path) -> None:
        self.kind, self.step, self.lines, self.folder = kind, step, lines, str(folder)
        self.steps: list[str] = []
        self.stage = ["start"]
        self.main = threading.get_ident()

    def reach(self, what: str, grows: bool, half: Callable[[], object] = lambda: None) -> None:
        """Pass a step: ``grows`` says whether it needs room on the disk, ``half`` does a half of it."""
        if threading.get_ident() != self.main:
            return
        self.steps.append(f"{self.stage[-1]} {what}")
        if self.kind == "full" and grows and len(self.steps) >= self.step:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(self.steps) != self.step:
            return
        half()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "memory":
            raise MemoryError
        elif self.kind in ("int", "term"):
            signal.raise_signal(getattr(signal, f"SIG{self.kind.upper()}"))

    def trace(self, frame: FrameType, event: str, argument: object) -> object:
        """Count lines, and know the stage."""
        name = frame.f_code.co_name
        if frame.f_code.co_filename not in TRACED or name.startswith("<"):
            return None
        stage = STAGES.get(name)
        if stage is not None:
            self.stage.append(stage)

        def local(frame: FrameType, event: str, argument: object) -> object:
            if event == "line" and self.lines:
                self.reach(f"line {Path(frame.f_code.co_filename).name} {name}", grows=False)
            if event == "return" and stage is not None:
                self.stage.pop()
            return local

        return local

    def audit(self, event: str, arguments: tuple) -> None:
        """Count the calls of the system that change a file."""
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event not in ("open", "os.remove", "os.rename", "os.truncate", "fcntl.lockf"):
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
        if path and not path.startswith(self.folder):
            return
        suffixes = "".join(part for part in Path(path).suffixes if part != ".tmp")
        to = Path(os.fsdecode(arguments[1])).name if event == "os.rename" else suffixes
        self.reach(f"{event} {to}", grows=event in ("open", "os.rename"))

    def set(self) -> None:
        """Begin to count."""
        fault, real_open = self, open

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                fault.reach("write", True, lambda: super(File, self).write(bytes(data)[: len(data) // 2]))
                return super().write(data)

        def opened(path: str | Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wax+"):
                return real_open(path, mode, *rest, **options)
            file = File(path, mode.replace("b", ""))
            return io.BufferedRandom(file) if "+" in mode else io.BufferedWriter(file)

        os.fsync = lambda _: fault.reach("fsync", True)
        for module in (files, scores):
            module.open = opened  # type: ignore[attr-defined]
        sys.addaudithook(self.audit)
        sys.settrace(self.trace)


def engine(pixels: np.ndarray, name: str, known: Mapping[str, float]) -> ImageResult:
    """Scores that depend on the image."""
    mean = float(pixels.mean()) / 255
    return ImageResult({"CF": mean, "SCC": -mean, "PR": mean * mean})


def score(plan: dict, fault: Fault, log: Callable[[str], object]) -> None:
    """Score a folder as infer_PR.py does: three score files, in one run."""

    def logged(pixels: np.ndarray, name: str, known: Mapping[str, float]) -> ImageResult:
        log(f"scored {name}")
        time.sleep(plan.get("pace", 0))
        if name == plan.get("too large"):
            np.empty(1 << 40, np.uint8).fill(1)
        return engine(pixels, name, known)

    found = list_images(plan["images"])
    with contextlib.ExitStack() as stack:
        writers = {}
        for columns in (["CF"], ["SCC"], ["PR", "CF", "SCC"]):
            how = Provenance(found.root, weights=dict.fromkeys(columns, "0" * 64), preprocessing={"size": 8}, sample="unseen")
            path = Path(plan["out"], f"{columns[0].lower()}.csv")
            writers[columns[0]] = stack.enter_context(
                ScoreWriter(path, columns, found.names, how, plan.get("overwrite", False))
            )
        for dimension, writer in writers.items():
            writer.add = _noting(writer.add, dimension, log)  # type: ignore[method-assign]
        score_images(Scorer(logged), found, writers, plan.get("workers", 1))


def _noting(add: Callable, dimension: str, log: Callable[[str], object]) -> Callable:
    def noting(image: str, *row: Any) -> None:
        add(image, *row)
        log(f"kept {dimension} {image}")

    return noting


def run(plan: dict) -> int:
    """One run, which ends as those of the inference scripts do; returns its exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "address space" in plan:
        resource.setrlimit(resource.RLIMIT_AS, (plan["address space"],) * 2)
    log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())
    fault = Fault(plan.get("fault", ""), plan.get("step", 0), plan.get("lines", False), Path(plan["out"]))

    def main() -> int:
        if fault.kind:
            fault.set()
        score(plan, fault, lambda line: os.write(log, line.encode() + b"\n"))
        return 0

    try:
        command.run_script(main)
    except SystemExit as end:
        status = int(str(end.code))
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.settrace(None)
    for step in fault.steps if fault.kind == "none" else ():
        os.write(log, f"step {step}\n".encode())
    return status


def serve() -> None:
    """Run a plan for each line of the input; print the exit statuses of its runs, negative for a signal."""
    os.fsync = lambda _: None  # slow, and what the system has not written to the disk yet survives the end of a process
    for line in sys.stdin:
        plan = json.loads(line)
        if "shell" in plan:
            print(json.dumps([subprocess.run(["sh", "-c", plan["shell"]], check=False).returncode]), flush=True)
            continue
        children = []
        for number in range(plan.get("at once", 1)):
            children.append(os.fork())
            if children[-1] == 0:
                os._exit(run({**plan, "log": f"{plan['log']}{number or ''}"}))
        if "after" in plan:
            time.sleep(plan["after"])
            os.kill(children[0], signal.SIGKILL)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    serve()
