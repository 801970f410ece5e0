"""How fast infer_PR.py scores a folder on the CPU, beside the published way of doing it (benchmarks/reference.py).

    python benchmarks/speed.py --write                # 100 JPEGs of 640x480, three pairs of runs: the table in speed.md
    python benchmarks/speed.py --preset published --precision float32 bfloat16 --write    # published.md, a section for each
    python benchmarks/speed.py --count 8 --runs 1     # a quick check

Whole processes are timed, start-up included, in turns, so that a slow spell of the machine meets all. Let nothing else run
beside it: the CPU time of other processes is shown for that reason. Where infer_PR.py spends its time is measured apart, in
this process, on one thread, with the very functions that it calls; in CPU time, which other processes disturb little.

The published networks get made-up weights, labels and color prior (benchmarks/weights.py); the reference reads the same
weights.
"""

import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import (
    DIMENSIONS,
    ROOT,
    Run,
    bfloat16_support,
    command_line,
    infer_command,
    machine,
    make_pictures,
    published_command,
    run,
    write_section,
)
from utils.arguments import ScriptParser

REFERENCE = "benchmarks/reference.py"
PRIOR_STAGES = ("color prior, distribution", "color prior, comparison with the pixels")

_PUBLISHED_TOP = """# Speed of the published networks on the CPU

`infer_PR.py --preset published` beside `benchmarks/reference.py --weights`, which does what the published scripts do. Weights
are made up and have the layout and size of the published ones; pictures have 0 to 10 objects, which the reference does not
read."""


def import_time() -> float:
    """CPU seconds that infer_PR.py takes to import what it needs; counts once in a process."""
    start = time.process_time()
    importlib.import_module("infer_PR")
    return time.process_time() - start


def compact_scorer(weights_dir: Path | None) -> Any:
    """What does the work of infer_PR.py with the compact networks."""
    from inference.networks import Networks
    from inference.scorer import Scorer
    from models import load_model  # not above: the processes that are measured must be started by a small one

    files = {d: d if weights_dir is None else weights_dir / f"{d}.pt" for d in DIMENSIONS}
    return Scorer(Networks({d: load_model(file, dimension=d) for d, file in files.items()}, ["cpu"]))


def published_scorer(files: Path, precision: str) -> Any:
    """The same with the published networks.

    Args:
        files: Folder with what benchmarks/weights.py writes.
        precision: Arithmetic of the networks.
    """
    from inference.networks import Networks
    from inference.scorer import Scorer
    from models import load_model
    from utils.labels import ObjectLabels, read_color_curves

    branches = {d: load_model(files / f"{d}.pth", dimension=d, preset="published") for d in DIMENSIONS}
    for branch in branches.values():
        branch.set_precision(precision)
    labels = ObjectLabels(files / "labels", read_color_curves(files / "color_.json"))
    return Scorer(Networks(branches, ["cpu"], labels))


def time_stages(pictures: Path, make_scorer: Callable[[], Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Load the weights and do the work of infer_PR.py on one thread, with a clock of CPU time around every piece.

    Returns:
        CPU seconds of what is done once, and a picture (medians) of each part of the work.
    """
    import torch  # not above: the processes that are measured must be started by a small one

    from inference import scorer as scoring
    from utils.images import list_images

    torch.set_num_threads(1)
    start = time.process_time()
    scorer = make_scorer()
    once = {"load weights": time.process_time() - start}

    spent: dict[str, float] = {}  # of the current picture
    watched: list[tuple[Any, str, Any]] = []

    def watch(owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = function(*args, **kwargs)
            spent[stage] = spent.get(stage, 0) + time.process_time() - start
            return result

        watched.append((owner, name, function))
        setattr(owner, name, timed)

    watch(scoring, "read_rgb", "decode")
    watch(scoring, "is_gray", "is it gray?")
    for branch in scorer.engine.replicas.networks.values():
        if branch.preset == "published":
            watch(branch, "prepare", f"prepare, {branch.size}x{branch.size}")
            watch(branch, "score_prepared", f"{branch.dimension} network")
        else:
            watch(branch.preprocess, "forward", "preprocess")
            watch(branch, "backbone_maps", "backbone")
            watch(branch, "score_prepared", f"{branch.dimension} after the backbone")
            if branch.dimension == "SCC":
                watch(branch.prior, "forward", PRIOR_STAGES[0])
                watch(branch.prior, "compare", PRIOR_STAGES[1])
    if scorer.engine.labels is not None:
        watch(scorer.engine.labels, "slots", "labels")

    images = list_images(pictures)
    scorer(images.path(images.names[0]), {}, images.names[0])  # the first call of a network is slower
    measured = []
    for name in images.names:
        spent.clear()
        start = time.process_time()
        row = scorer(images.path(name), {}, name)
        seconds = time.process_time() - start
        if row.error or row.errors:
            raise RuntimeError(row.error or next(iter(row.errors.values())))
        if PRIOR_STAGES[0] in spent:  # within what comes after the backbone
            spent["SCC after the backbone"] -= sum(spent[stage] for stage in PRIOR_STAGES)
        measured.append({**spent, "all else": seconds - sum(spent.values())})
    for owner, name, function in watched:
        setattr(owner, name, function)
    return once, {stage: statistics.median(m[stage] for m in measured) for stage in measured[0]}


def speed_table(runs: dict[str, Sequence[Run]], count: int) -> str:
    """What the processes took, in Markdown: the runs of each program by its name."""
    lines = [
        "| | median s | s per run | pictures per s | CPU s | peak MiB | CPU s of other processes |",
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
    """How many times as fast, in words; runs of one turn are a pair."""
    ratios = [theirs.seconds / own.seconds for own, theirs in zip(ours, reference, strict=True)]
    return (
        f"infer_PR.py is **{statistics.median(ratios):.1f} times** as fast "
        f"(pair by pair {min(ratios):.1f} to {max(ratios):.1f})."
    )


def stage_table(once: dict[str, float], each: dict[str, float], count: int) -> str:
    """Where the time goes, in Markdown: seconds of what is done once, and of what is done for each picture."""
    lines = [
        f"| stage of infer_PR.py, on one thread | CPU ms | share of the work for {count} pictures |",
        "| --- | --- | --- |",
    ]
    total = sum(once.values()) + count * sum(each.values())
    lines += [f"| {stage}, once | {1e3 * s:.0f} | {s / total:.1%} |" for stage, s in once.items()]
    lines += [f"| {stage}, a picture | {1e3 * s:.2f} | {count * s / total:.1%} |" for stage, s in each.items()]
    return "\n".join(lines)


def result(ours: str, runs: dict[str, Sequence[Run]], count: int, once: dict[str, float], each: dict[str, float]) -> str:
    """All of the result for one of our programs, in Markdown."""
    pair = {name: runs[name] for name in (ours, REFERENCE)}
    text = f"{speed_table(pair, count)}\n\n{ratio(runs[ours], runs[REFERENCE])}\n\n{stage_table(once, each, count)}"
    if PRIOR_STAGES[0] not in each:
        return text
    prior = count * sum(each[stage] for stage in PRIOR_STAGES)
    rest = sum(once.values()) + count * sum(each.values()) - prior
    share = f"The dense color prior adds **{prior / rest:.0%}** to the CPU time of all else, with no backbone pass of its own."
    return f"{text}\n\n{share}"


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_argument("--count", type=int, default=100, help="pictures (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each program, in turns (default: %(default)s)")
    parser.add_argument("--preset", choices=("compact", "published"), default="compact", help="(default: %(default)s)")
    parser.add_argument(
        "--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="of the published preset"
    )
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="compact CF.pt, SCC.pt, PR.pt (default: shipped)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/speed.md or benchmarks/published.md")
    args = parser.parse_args()
    published = args.preset == "published"
    if args.count < 1 or args.runs < 1:
        parser.error("--count and --runs must be at least 1")
    if published and args.weights_dir is not None:
        parser.error("--weights-dir is for the compact preset; the published one is measured with made-up weights")
    if not published and args.precision != ["float32"]:
        parser.error("--precision is for --preset published")

    with tempfile.TemporaryDirectory() as folder:
        pictures, one, files = (Path(folder) / name for name in ("pictures", "one", "published"))
        output = Path(folder) / "scores_PR.csv"
        size = make_pictures(pictures, args.count, 640, 480)
        make_pictures(one, 1, 640, 480)
        setting = f"{args.count} JPEGs of 640x480, quality 90, {size / 1000:.0f} kB each; {machine()}"
        programs: dict[str, Callable[[Path], list[str | Path]]]
        scorers: dict[str, Callable[[], Any]]
        reference = [sys.executable, ROOT / REFERENCE]
        if published:
            setting += f"; {bfloat16_support()}"
            run([sys.executable, ROOT / "benchmarks" / "weights.py", files, pictures])
            reference += ["--weights", files]
            precisions = dict.fromkeys(args.precision)
            names = {p: f"infer_PR.py, {p}" for p in precisions}
            programs = {names[p]: lambda images, p=p: published_command(images, output, files, p) for p in precisions}
            scorers = {names[p]: lambda p=p: published_scorer(files, p) for p in precisions}
        else:
            programs = {"infer_PR.py": lambda images: infer_command(images, output, args.weights_dir)}
            scorers = {"infer_PR.py": lambda: compact_scorer(args.weights_dir)}
        programs[REFERENCE] = lambda images: [*reference, images]

        print(setting, flush=True)
        for command in programs.values():
            run(command(one))  # untimed, to bring files into memory
        runs: dict[str, list[Run]] = {name: [] for name in programs}
        for i in range(args.runs):
            for name, command in programs.items():
                runs[name].append(run(command(pictures)))
            print(f"turn {i + 1}: " + ", ".join(f"{name} {r[-1].seconds:.2f} s" for name, r in runs.items()), flush=True)
        imported = {"import": import_time()}
        results = {}
        for name, make_scorer in scorers.items():
            once, each = time_stages(pictures, make_scorer)
            results[name] = result(name, runs, args.count, imported | once, each)

    for name, text in results.items():
        print(f"\n{name}\n\n{text}")
    if args.write:
        head = f"Made by `{command_line('speed.py')}`: whole processes, in turns.\n\n{setting}.\n\n"
        if published:
            for precision, text in zip(precisions, results.values(), strict=True):
                write_section(ROOT / "benchmarks" / "published.md", _PUBLISHED_TOP, precision, head + text)
        else:
            (ROOT / "benchmarks" / "speed.md").write_text(f"# Speed on the CPU\n\n{head}{results['infer_PR.py']}\n")


if __name__ == "__main__":
    main()
