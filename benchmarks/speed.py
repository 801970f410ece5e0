"""How fast infer_PR.py scores a folder on the CPU, beside the published way of doing it (benchmarks/reference.py).

    python benchmarks/speed.py --write                # 100 JPEGs of 640x480, three pairs of runs: the table in speed.md
    python benchmarks/speed.py --count 8 --runs 1     # a quick check

Whole processes are timed, start-up included, in turns, so that a slow spell of the machine meets both. Let nothing else run
beside it: the CPU time of other processes is shown for that reason. Where infer_PR.py spends its time is measured apart, in
this process, on one thread, with the very functions that it calls; in CPU time, which other processes disturb little.
"""

import argparse
import importlib
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import DIMENSIONS, ROOT, Run, infer_command, machine, make_pictures, run


def time_stages(pictures: Path, weights_dir: Path | None) -> tuple[dict[str, float], dict[str, float]]:
    """Run the start-up and the work of infer_PR.py on one thread, with a clock of CPU time around every piece.

    Returns:
        CPU seconds of each part of the start-up, and a picture (medians) of each part of the work.
    """
    start = time.process_time()
    importlib.import_module("infer_PR")
    once = {"import": time.process_time() - start}

    import torch  # not above: the processes that are measured must be started by a small one

    from models import load_model
    from utils import scoring
    from utils.images import list_images

    torch.set_num_threads(1)
    start = time.process_time()
    files = {d: d if weights_dir is None else weights_dir / f"{d}.pt" for d in DIMENSIONS}
    scorer = scoring.Scorer({d: load_model(file, dimension=d) for d, file in files.items()}, ["cpu"])
    once["load weights"] = time.process_time() - start

    spent: dict[str, float] = {}  # of the current picture

    def watch(owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = function(*args, **kwargs)
            spent[stage] = spent.get(stage, 0) + time.process_time() - start
            return result

        setattr(owner, name, timed)

    watch(scoring, "read_rgb", "decode")
    watch(scoring, "is_gray", "is it gray?")
    for branch in scorer.branches.values():
        watch(branch.preprocess, "forward", "preprocess")
        watch(branch, "see", "backbone")
        watch(branch, "score_prepared", f"{branch.dimension} after the backbone")

    images = list_images(pictures)
    scorer(images.path(images.names[0]), {})  # the first call of a network is slower
    measured = []
    for name in images.names:
        spent.clear()
        start = time.process_time()
        row = scorer(images.path(name), {})
        seconds = time.process_time() - start
        if row.error:
            raise RuntimeError(row.error)
        measured.append({**spent, "all else": seconds - sum(spent.values())})
    return once, {stage: statistics.median(m[stage] for m in measured) for stage in measured[0]}


def tables(pairs: list[tuple[Run, Run]], count: int, once: dict[str, float], each: dict[str, float]) -> str:
    """The results in Markdown."""
    lines = [
        "| | median s | s per run | pictures per s | CPU s | peak MiB | CPU s of other processes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in zip(("infer_PR.py", "benchmarks/reference.py"), zip(*pairs, strict=True), strict=True):
        seconds = statistics.median(r.seconds for r in runs)
        lines.append(
            f"| {name} | **{seconds:.2f}** | {', '.join(f'{r.seconds:.2f}' for r in runs)} | {count / seconds:.2f} "
            f"| {statistics.median(r.cpu_seconds for r in runs):.2f} | {max(r.peak_mib for r in runs):.0f} "
            f"| {', '.join(f'{r.other_seconds:.1f}' for r in runs)} |"
        )
    ratios = [reference.seconds / ours.seconds for ours, reference in pairs]
    lines += [
        "",
        f"infer_PR.py is **{statistics.median(ratios):.1f} times** as fast "
        f"(pair by pair {min(ratios):.1f} to {max(ratios):.1f}).",
        "",
        f"| stage of infer_PR.py, on one thread | CPU ms | share of the work for {count} pictures |",
        "| --- | --- | --- |",
    ]
    total = sum(once.values()) + count * sum(each.values())
    lines += [f"| {stage}, once | {1e3 * s:.0f} | {s / total:.1%} |" for stage, s in once.items()]
    lines += [f"| {stage}, a picture | {1e3 * s:.2f} | {count * s / total:.1%} |" for stage, s in each.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="pictures (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="CF.pt, SCC.pt, PR.pt (default: the shipped ones)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/speed.md")
    args = parser.parse_args()
    if args.count < 1 or args.runs < 1:
        parser.error("--count and --runs must be at least 1")

    with tempfile.TemporaryDirectory() as folder:
        pictures, output = Path(folder) / "pictures", Path(folder) / "scores_PR.csv"
        size = make_pictures(pictures, args.count, 640, 480)
        make_pictures(Path(folder) / "one", 1, 640, 480)
        setting = f"{args.count} JPEGs of 640x480, quality 90, {size / 1000:.0f} kB each; {machine()}"
        print(setting, flush=True)
        reference = [sys.executable, ROOT / "benchmarks" / "reference.py"]
        run(infer_command(Path(folder) / "one", output, args.weights_dir))  # both once untimed, to bring files into memory
        run([*reference, Path(folder) / "one"])
        pairs = []
        for i in range(args.runs):
            pair = run(infer_command(pictures, output, args.weights_dir)), run([*reference, pictures])
            print(f"pair {i + 1}: infer_PR.py {pair[0].seconds:.2f} s, reference.py {pair[1].seconds:.2f} s", flush=True)
            pairs.append(pair)
        once, each = time_stages(pictures, args.weights_dir)

    result = tables(pairs, args.count, once, each)
    print(result)
    if args.write:
        command = shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]])
        text = f"# Speed on the CPU\n\nMade by `{command}`: whole processes, in turns.\n\n{setting}.\n\n{result}\n"
        (ROOT / "benchmarks" / "speed.md").write_text(text)


if __name__ == "__main__":
    main()
