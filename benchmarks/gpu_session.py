"""All that needs a GPU, in one go of 12 minutes at most: the tests behind the marker, the speed of both presets, a training.

    python benchmarks/gpu_session.py OUT                # on a machine with a CUDA device
    python benchmarks/gpu_session.py OUT --device cpu   # a few images of it without one, to see that it runs

Needs the packages of requirements.txt, with a torch for CUDA, and of requirements-dev.txt. It downloads nothing: images are
cut from data/samples, and the weights of the published networks are made up. OUT gets what each step prints as STEP.txt, the
time and the exit status of each in seconds.json, and benchmarks/throughput.md with the tables of this GPU. A step that takes
longer than its share is ended, and the others still run.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import ROOT
from utils.arguments import ScriptParser
from utils.choices import PRECISIONS

_ALL_SECONDS = 690.0
_CPU_SECONDS = 600.0  # of a step, in a trial that nobody pays for


@dataclass(frozen=True)
class Step:
    """A program that runs for so many seconds at most."""

    name: str
    command: list[str | Path]
    seconds: float


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for what the steps print, and for the tables")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a trial (default: %(default)s)")
    return parser.parse_args()


def steps(device: str, out: Path) -> list[Step]:
    """Return what is run: on a GPU all of it, on the CPU a few images."""
    gpu = device != "cpu"
    tests = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/test_batches.py", "-m", "gpu" if gpu else "not gpu"]
    speed = [sys.executable, "benchmarks/throughput.py", "--device", device, "--count", "256" if gpu else "2", "--runs", "1"]
    speed += ["--write", "--precision", *PRECISIONS] if gpu else []
    train: list[str | Path] = [sys.executable, "train_CF.py", "--data", out / "data", "--device", device, "--overwrite"]
    compact = ["--backbone-weights", ROOT / "weights" / "CF.pt", "--backbone-lr", "1e-5", "--epochs", "3" if gpu else "1"]
    compact += [] if gpu else ["--limit", "8"]
    published = ["--preset", "published", "--random-init", "--epochs", "2", "--folds", "0", "--limit", "96"]
    all_steps = [
        Step("tests", tests, 150),
        Step("compact", [*speed, "--preset", "compact"], 180),
        Step("published", [*speed, "--preset", "published"], 240),
        Step("data", [sys.executable, "tools/make_icqa2k_standin.py", out / "data"], 60),
        Step("train_compact", [*train, *compact, "--output", out / "compact"], 90),
        Step("train_published", [*train, *published, "--output", out / "trained", "--cache", out / "cache"], 120),
    ]
    return [step for step in all_steps if gpu or "published" not in step.name]  # half a gigabyte of weights, and slow


def run(step: Step, out: Path, seconds: float) -> int | str:
    """Run a step, and end it with all that it started when its time is over; return its exit status, or that it was ended."""
    with open(out / f"{step.name}.txt", "w") as log:
        process = subprocess.Popen(step.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"ended after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main() -> int:
    args = parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    start, results = time.monotonic(), {}
    for step in steps(args.device, out):
        begin = time.monotonic()
        left = max(1.0, _ALL_SECONDS - (begin - start))
        status = run(step, out, min(step.seconds, left) if args.device != "cpu" else _CPU_SECONDS)
        results[step.name] = {"seconds": round(time.monotonic() - begin, 1), "status": status}
        print(f"{step.name}: {results[step.name]['seconds']} s, status {status}", flush=True)
        (out / "seconds.json").write_text(json.dumps(results, indent=1) + "\n")
    if args.device != "cpu":
        shutil.copy(ROOT / "benchmarks" / "throughput.md", out)
        for made in ("data", "cache", "compact", "trained"):  # what was trained and on what is of no use
            shutil.rmtree(out / made, ignore_errors=True)
    return int(any(result["status"] != 0 for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
