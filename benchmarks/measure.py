"""Helpers of the speed and memory benchmarks: made-up photographs, timed processes, facts about the machine."""

import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from PIL import Image, ImageOps

from utils.choices import DIMENSIONS

ROOT = Path(__file__).resolve().parents[1]
_CELL = 800  # pixels a sample photograph is wide in a large image; at most twice its own width, so that detail remains


@dataclass(frozen=True)
class Run:
    """Time and memory of a finished process.

    Attributes:
        seconds: Wall time from start to exit.
        cpu_seconds: User and system time, with the processes it started.
        other_seconds: CPU time of other processes in the same time; NaN where /proc/stat is missing.
        peak_mib: Largest resident memory, of the largest process if there were several.
    """

    seconds: float
    cpu_seconds: float
    other_seconds: float
    peak_mib: float


def make_images(folder: Path, count: int, width: int, height: int, quality: int = 90) -> int:
    """Write JPEGs of natural content, always the same: enlarged and mirrored cuts of data/samples, in a mosaic if large.

    Returns:
        Mean file size in bytes.
    """
    photos = [Image.open(path).convert("RGB") for path in sorted((ROOT / "data" / "samples").glob("ORG_*.jpg"))]
    if not photos:
        raise FileNotFoundError(f"no ORG_*.jpg in {ROOT / 'data' / 'samples'}; they are part of the repository")
    folder.mkdir(parents=True, exist_ok=True)
    across, down = -(-width // _CELL), -(-height // _CELL)
    cell = -(-width // across), -(-height // down)
    chance = random.Random(0)
    sizes = []
    for i in range(count):
        image = Image.new("RGB", (width, height))
        for j in range(across * down):
            photo = photos[(i + j) % len(photos)]
            photo = ImageOps.mirror(photo) if chance.random() < 0.5 else photo
            center = chance.random(), chance.random()
            part = ImageOps.fit(photo, cell, Image.Resampling.BICUBIC, bleed=0.02, centering=center)
            image.paste(part, (j % across * cell[0], j // across * cell[1]))
        path = folder / f"{i:04d}.jpg"
        image.save(path, quality=quality)
        sizes.append(path.stat().st_size)
    return sum(sizes) // count


def run(command: Sequence[str | Path]) -> Run:
    """Run a command in the repository and measure it.

    Linux counts the memory of the caller at the start into the peak of the process. So call this before importing torch.

    Raises:
        RuntimeError: If the command fails, with the end of its output.
    """
    other = _busy_seconds()
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with status {process.returncode}:\n{output[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    # kilobytes on Linux, bytes on macOS
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Run(seconds, cpu, max(0.0, _busy_seconds() - other - cpu), peak)


def infer_command(
    images: Path | str, output: Path, published: Path | None = None, precision: str = "float32"
) -> list[str | Path]:
    """Return the command of infer_PR.py for all three scores on the CPU, with a fresh output.

    Args:
        images: Images to score.
        output: Score file of PR.
        published: Folder with the files of benchmarks/weights.py, for the published preset; None for the shipped weights.
        precision: Arithmetic of the published networks.
    """
    command: list[str | Path] = [sys.executable, ROOT / "infer_PR.py", images, "-o", output, "--overwrite", "--device", "cpu"]
    if published is None:
        return command
    command += ["--preset", "published", "--precision", precision]
    for flag, dimension in zip(("--cf-weights", "--scc-weights", "--weights"), DIMENSIONS, strict=True):
        command += [flag, published / f"{dimension}.pth"]
    return [*command, "--labels", published / "labels", "--color-prior", published / "color_.json"]


def write_section(path: Path, top: str, title: str, text: str) -> None:
    """Write a section of a Markdown page; the others stay as they are.

    Args:
        path: The page; created if it does not exist.
        top: Beginning of the page, up to its first section.
        title: Title of the section. A section of this title is replaced, a new one comes last.
        text: Text of the section.
    """
    sections: dict[str, str] = {}
    if path.exists():
        for part in f"\n{path.read_text()}".split("\n## ")[1:]:
            name, _, body = part.partition("\n")
            sections[name] = body.strip("\n")
    sections[title] = text.strip("\n")
    path.write_text("\n\n".join([top.strip("\n"), *(f"## {name}\n\n{body}" for name, body in sections.items())]) + "\n")


def command_line(script: str, named: Mapping[str, str] | None = None) -> str:
    """Return the command of this run, as typed in the folder of the repository.

    Args:
        script: File in benchmarks/.
        named: Placeholders by argument, for arguments that only this machine has, such as folders of images.
    """
    arguments = [(named or {}).get(argument, argument) for argument in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{script}", *arguments])


def bfloat16_support() -> str:
    """Say whether the CPU has instructions for bfloat16."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "bfloat16 instructions of the CPU unknown"
    names = {"AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}
    return ", ".join(f"{name} {'yes' if flag in flags else 'no'}" for name, flag in names.items())


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Return CPU, cores and versions in one line."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "pillow"))
    return f"{model}, {cores()} cores used; Python {platform.python_version()}, {packages}"


def _busy_seconds() -> float:
    """Return the CPU time of all processes since the machine started."""
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return float("nan")
    user, nice, system = map(int, ticks[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
