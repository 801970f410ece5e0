"""How fast the published networks are on a CUDA GPU, and how much of the GPU they use.

    python benchmarks/gpu.py --write                                # a section of gpu.md for each arithmetic
    python benchmarks/gpu.py --precision bfloat16 --batch 1 --write # some of it; other sections stay
    python benchmarks/gpu.py --device cpu --batch 1 --quick         # a check that it runs, without a GPU

Batches of prepared pictures lie on the GPU before the clock starts: reading and resizing pictures is not part of it. Times are
those of CUDA events, after a warm-up that also compiles. The share of the peak sets the operations of the networks (counted by
torch, for matrix products, convolutions and attention) against those of one large square matrix product in the same arithmetic
in the same run.
"""

import argparse
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import DIMENSIONS, PRECISIONS


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("--network", nargs="+", choices=(*DIMENSIONS, "all"), default=[*DIMENSIONS, "all"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 256], help="(default: %(default)s)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="(default: all)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="with torch.compile as well")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N; cpu with --quick only (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two calls of each, nothing compiled: only a check that it runs")
    parser.add_argument("--write", action="store_true", help="write sections of benchmarks/gpu.md")
    args = parser.parse_args()
    if min(args.batch) < 1:
        parser.error("--batch must be at least 1")
    if not args.device.startswith("cuda") and (not args.quick or args.write):
        parser.error("without a GPU there is only --quick, and nothing to write")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import ROOT, command_line, write_section
from benchmarks.weights import fan_in_weights
from models.base import Inputs, LoadedBatches
from models.published import NETWORKS, PublishedNet, from_published, slot_inputs

ALL = "all three"
_MATRIX = 8192  # rows of the matrices whose product is taken as the peak; _SMALL where only tried
_SMALL = 1024
_WARM_UP, _BLOCKS = 3, 3
_LEAST_SECONDS = 0.3  # a block of calls

_TOP = """# The published networks on a GPU

Pictures per second, prepared pictures already on the GPU, with and without `torch.compile`; beside it the share of the peak of
the GPU, that of a large square matrix product in the same arithmetic. Weights are made up, which changes no time."""


def inputs_of(model: PublishedNet, batch: int, device: torch.device) -> Inputs:
    """A batch of noise in place of prepared pictures, with all slots for objects used where the network has such."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"rgb": torch.rand(batch, 3, model.size, model.size, generator=generator)}
    if model.dimension == "SCC":
        slots = slot_inputs(None)["objects"]
        inputs |= {k: v.expand(batch, *v.shape).contiguous() for k, v in slot_inputs(slots, len(slots)).items()}
    return {k: v.to(device) for k, v in inputs.items()}


def count_operations(model: PublishedNet, inputs: Inputs, scores: Tensor | None = None) -> int:
    """Floating point operations of a call, a multiplication and an addition being two; elementwise ones do not count."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        LoadedBatches(model, encoded=False)(inputs, scores)
    return counter.get_total_flops()


def operations(dimension: str) -> int:
    """The same of one published network for one picture. Nothing is computed, only shapes are followed."""
    meta = torch.device("meta")
    with meta:
        model = NETWORKS[dimension]().eval()
    scores = torch.zeros(1, 2, device=meta) if dimension == "PR" else None
    return count_operations(model, inputs_of(model, 1, meta), scores)


def set_arithmetic(precision: str) -> None:
    """Whether products of float32 matrices may be rounded to TF32, in all of the process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def seconds_a_call(call: Callable[[], object], device: torch.device, quick: bool) -> float:
    """Seconds of one call: median of a few blocks of calls, after a warm-up; ``quick`` takes the second call."""
    for _ in range(1 if quick else _WARM_UP):
        call()
    if quick:
        return _block(call, 1, device)
    calls = math.ceil(_LEAST_SECONDS / _block(call, 1, device))
    return statistics.median(_block(call, calls, device) for _ in range(_BLOCKS)) / calls


def _block(call: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3


def matrix_peak(precision: str, device: torch.device, quick: bool) -> float:
    """Operations per second of a large square matrix product."""
    rows = _SMALL if quick else _MATRIX
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right, out = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(3))
    return 2 * rows**3 / seconds_a_call(lambda: torch.mm(left, right, out=out), device, quick)


@torch.inference_mode()
def rates(
    models: dict[str, PublishedNet], names: list[str], batch: int, device: torch.device, compiled: bool, quick: bool
) -> dict[str, float | None]:
    """Pictures per second by name: a dimension, or ``ALL``; None where the memory of the GPU is too small."""
    torch._dynamo.reset()  # else a second batch size is compiled for any size
    run: dict[str, Any] = {d: LoadedBatches(model, encoded=False) for d, model in models.items()}
    if compiled:
        run = {d: torch.compile(model, dynamic=False) for d, model in run.items()}
    inputs = {d: inputs_of(model, batch, device) for d, model in models.items()}
    given = torch.zeros(batch, 2, device=device)

    def all_three() -> Tensor:
        scores = torch.stack((run["CF"](inputs["CF"]), run["SCC"](inputs["SCC"])), 1)
        return run["PR"](inputs["PR"], scores)

    calls: dict[str, Callable[[], Tensor]] = {
        "CF": lambda: run["CF"](inputs["CF"]),
        "SCC": lambda: run["SCC"](inputs["SCC"]),
        "PR": lambda: run["PR"](inputs["PR"], given),
        ALL: all_three,
    }
    found: dict[str, float | None] = {}
    for name in names:
        try:
            found[name] = batch / seconds_a_call(calls[name], device, quick)
        except torch.cuda.OutOfMemoryError:
            found[name] = None
        shown = "out of memory" if found[name] is None else f"{found[name]:.1f} pictures per s"
        print(f"  {name}, batch {batch}{', compiled' if compiled else ''}: {shown}", flush=True)
    return found


def table(
    measured: dict[tuple[int, bool], dict[str, float | None]], work: dict[str, int], peak: float, names: list[str]
) -> str:
    """The results of one arithmetic in Markdown.

    Args:
        measured: Pictures per second by name, by batch size and whether compiled.
        work: Operations a picture by dimension.
        peak: Operations per second of a large matrix product.
        names: The rows of each batch size.
    """
    variants = sorted({compiled for _, compiled in measured})
    heads = [f"{'compiled' if compiled else 'eager'}, pictures per s | of the peak" for compiled in variants]
    lines = [f"| network | batch | {' | '.join(heads)} |", "| --- | --- |" + " --- | --- |" * len(variants)]
    for batch in sorted({batch for batch, _ in measured}):
        for name in names:
            each = sum(work.values()) if name == ALL else work[name]
            cells = []
            for compiled in variants:
                rate = measured[batch, compiled][name]
                cells += ["out of memory", "-"] if rate is None else [f"{rate:.1f}", f"{rate * each / peak:.1%}"]
            lines.append(f"| {name} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    args = parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: this benchmark is of a GPU; --device cpu --quick tries it without one", file=sys.stderr)
        return 1
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # the quickest convolutions, as long as a batch size stays the same

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    names = [ALL if name == "all" else name for name in dict.fromkeys(args.network)]
    needed = [dimension for dimension in NETWORKS if dimension in names or ALL in names]
    work = {dimension: operations(dimension) for dimension in needed}
    per_picture = ", ".join(f"{d} {n / 1e9:.1f}" for d, n in work.items())
    for precision in dict.fromkeys(args.precision):
        if precision == "tf32" and device.type != "cuda":
            print("tf32: only on a GPU")
            continue
        set_arithmetic(precision)
        peak = matrix_peak(precision, device, args.quick)
        setting = f"{card}, torch {torch.__version__}; {per_picture} GFLOPs a picture; peak {peak / 1e12:.1f} TFLOP/s"
        print(f"{precision}: {setting}", flush=True)
        models = {dimension: from_published(fan_in_weights(dimension)).to(device) for dimension in needed}
        for model in models.values():
            model.set_precision(precision)
        measured = {}
        for batch in sorted(set(args.batch)):
            for compiled in (False, True) if args.compile and not args.quick else (False,):
                measured[batch, compiled] = rates(models, names, batch, device, compiled, args.quick)
                gc.collect()
                torch.cuda.empty_cache()
        result = table(measured, work, peak, names)
        print(f"\n{result}\n", flush=True)
        if args.write:
            text = f"Made by `{command_line('gpu.py')}`.\n\n{setting}.\n\n{result}"
            write_section(ROOT / "benchmarks" / "gpu.md", _TOP, precision, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
