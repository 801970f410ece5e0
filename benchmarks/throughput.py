"""Measure the speed of infer_PR.py on a folder, and the stage that limits it.

    python benchmarks/throughput.py --write                # 100 JPEGs of 640x480, three pairs of runs, compact networks
    python benchmarks/throughput.py --preset published --precision float32 bfloat16 --write
    python benchmarks/throughput.py --device cuda --write  # on a GPU, without the reference
    python benchmarks/throughput.py --count 8 --runs 1     # a quick check

Two things are measured, and ``--write`` puts them into a section of throughput.md per precision:

- On the CPU, whole processes, including start-up, beside the published way of scoring (benchmarks/reference.py). The programs
  run alternately, so that a slow phase of the machine affects both. Run nothing else at the same time; the table shows the CPU
  time of other processes.
- In this process, images per second of reading, of preprocessing and of the networks alone, and of the pipeline of the three
  (benchmarks/stages.py); also the share of the peak, which is a large matrix product on the same device.

The published networks get made-up weights, labels and color prior (benchmarks/weights.py); the reference reads the same
weights.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import (
    ROOT,
    Run,
    bfloat16_support,
    command_line,
    infer_command,
    machine,
    make_images,
    run,
    write_section,
)
from utils.arguments import ScriptParser
from utils.choices import PRECISIONS

REFERENCE = "benchmarks/reference.py"
PAGE = ROOT / "benchmarks" / "throughput.md"

_TOP = """# Speed of scoring

`infer_PR.py` for all three scores, by preset, precision and device. The weights of the published networks are made up and have
the layout and size of the published ones; their images have 0 to 10 objects, which the reference does not read."""


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("--count", type=int, default=100, help="images (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each program, alternately (default: %(default)s)")
    parser.add_argument("--preset", choices=("compact", "published"), default="compact", help="(default: %(default)s)")
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["float32"], help="of the published preset; on a GPU, of both"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write sections of benchmarks/throughput.md")
    args = parser.parse_args()
    if args.preset == "compact" and args.device == "cpu" and args.precision != ["float32"]:
        parser.error("--precision is for --preset published, or a GPU")
    if args.device == "cpu" and "tf32" in args.precision:
        parser.error("tf32 is for --device cuda")
    return args


def speed_table(runs: Mapping[str, Sequence[Run]], count: int) -> str:
    """Format time and memory of the processes in Markdown; ``runs`` holds the runs of each program by name."""
    lines = [
        "| | median s | s per run | images per s | CPU s | peak MiB | CPU s of other processes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, of_program in runs.items():
        seconds = statistics.median(r.seconds for r in of_program)
        lines.append(
            f"| {name} | **{seconds:.2f}** | {', '.join(f'{r.seconds:.2f}' for r in of_program)} | {count / seconds:.2f} "
            f"| {statistics.median(r.cpu_seconds for r in of_program):.2f} | {max(r.peak_mib for r in of_program):.0f} "
            f"| {', '.join(f'{r.other_seconds:.1f}' for r in of_program)} |"
        )
    return "\n".join(lines)


def ratio(ours: Sequence[Run], reference: Sequence[Run]) -> str:
    """Say how many times as fast ours is as the reference; the runs of one turn form a pair."""
    ratios = [theirs.seconds / own.seconds for own, theirs in zip(ours, reference, strict=True)]
    return (
        f"infer_PR.py is **{statistics.median(ratios):.1f} times** as fast "
        f"(pair by pair {min(ratios):.1f} to {max(ratios):.1f})."
    )


def time_processes(commands: dict[str, list[str | Path]], folder: Path, one: Path, turns: int) -> dict[str, list[Run]]:
    """Run each program on a folder, alternately, after one untimed run on a single image that brings files into memory.

    Args:
        commands: Command by name of the program; the folder replaces the word ``IMAGES``.
        folder: Folder of the images.
        one: Folder with one image.
        turns: Number of runs of each program.
    """

    def of(name: str, images: Path) -> Run:
        return run([images if word == "IMAGES" else word for word in commands[name]])

    for name in commands:
        of(name, one)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(turns):
        for name in commands:
            runs[name].append(of(name, folder))
        print(f"turn {turn + 1}: " + ", ".join(f"{name} {r[-1].seconds:.2f} s" for name, r in runs.items()), flush=True)
    return runs


def main() -> int:
    args = parse_args()
    published, on_cpu = args.preset == "published", args.device == "cpu"
    if not on_cpu:
        import torch

        if not torch.cuda.is_available():
            print("error: no CUDA device; --device cpu measures without one", file=sys.stderr)
            return 1
    precisions = list(dict.fromkeys(args.precision))
    ours = {precision: f"infer_PR.py, {precision}" if published else "infer_PR.py" for precision in precisions}
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        images, one, files, output = (Path(temporary) / name for name in ("images", "one", "published", "scores_PR.csv"))
        size = make_images(images, args.count, 640, 480)
        make_images(one, 1, 640, 480)
        setting = f"{args.count} JPEGs of 640x480, quality 90, {size / 1000:.0f} kB each; {machine()}"
        if not on_cpu:
            setting += f"; {torch.cuda.get_device_name(args.device)}"
        elif published:
            setting += f"; {bfloat16_support()}"
        print(setting, flush=True)
        if published:
            run([sys.executable, ROOT / "benchmarks" / "weights.py", files, images])
        made_up = files if published else None
        if on_cpu:
            commands = {name: infer_command("IMAGES", output, made_up, precision) for precision, name in ours.items()}
            commands[REFERENCE] = [sys.executable, ROOT / REFERENCE, "IMAGES"]
            commands[REFERENCE] += ["--weights", files] if published else []
            runs = time_processes(commands, images, one, args.runs)
            for precision, name in ours.items():
                pair = {program: runs[program] for program in (name, REFERENCE)}
                results[precision] = f"{speed_table(pair, args.count)}\n\n{ratio(runs[name], runs[REFERENCE])}\n\n"

        from benchmarks import stages  # not above: the processes that are measured must be started by a small one

        for precision in precisions:
            rates = stages.measure_folder(images, args.preset, args.device, precision, files)
            results[precision] = results.get(precision, "") + rates.text()
            title = ", ".join([args.preset, *([precision] if published or not on_cpu else []), "CPU" if on_cpu else "GPU"])
            print(f"\n{title}\n\n{results[precision]}", flush=True)
            if args.write:
                head = f"Made by `{command_line('throughput.py')}`.\n\n{setting}.\n\n"
                write_section(PAGE, _TOP, title, head + results[precision])
    return 0


if __name__ == "__main__":
    sys.exit(main())
