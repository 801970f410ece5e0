"""Measure the effect of bfloat16 on the scores of the published networks, on photographs.

    python benchmarks/precision.py PHOTOS --write                  # 200 photographs: a section of precision.md
    python benchmarks/precision.py PHOTOS --device cuda --write    # the same on a GPU

Every photograph is scored twice as in infer_PR.py, in float32 and in bfloat16; PR reads the CF and SCC of the same precision.
Weights, objects and color prior are made up (benchmarks/weights.py). For a trained network the result only shows the size of
the rounding, not the spread of its scores.
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("photos", type=Path, help="a folder of natural photographs, searched recursively")
    parser.add_argument("--count", type=int, default=200, help="photographs at most, evenly spaced (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write a section of benchmarks/precision.md")
    args = parser.parse_args()
    if args.count < 2:
        parser.error("--count must be at least 2")
    if "," in args.device:
        parser.error("--device must be a single one")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import ROOT, bfloat16_support, command_line, machine, write_section
from benchmarks.weights import color_prior, made_up_weights, write_labels
from inference.command import parse_devices
from inference.networks import Networks
from inference.scorer import Scorer, worker_count
from models.published import NETWORKS, from_published
from utils.images import list_images
from utils.labels import ObjectLabels, read_color_curves
from utils.metrics import srcc

_TOP = """# bfloat16 beside float32

Scores of the published networks in both, for the same photographs. SRCC is between the two; spread is the standard deviation
of the scores in float32. The weights are made up: with trained ones the rounding is alike, but the scores may lie closer
together or further apart."""

Scores = dict[str, dict[str, float]]  # by photograph, by dimension


def evenly(names: list[str], count: int) -> list[str]:
    """Return at most ``count`` of the names, evenly spaced."""
    if len(names) <= count:
        return names
    return [names[row] for row in np.linspace(0, len(names) - 1, count).round().astype(int)]


def score(photos: dict[str, Path], precision: str, labels: ObjectLabels, device: str) -> tuple[Scores, str]:
    """Score the photographs; return the scores, and the reasons why photographs have no score, one per line."""
    branches = {dimension: from_published(made_up_weights(dimension)).to(device) for dimension in NETWORKS}
    for branch in branches.values():
        branch.set_precision(precision)
    scorer = Scorer(Networks(branches, [device], labels))
    with ThreadPoolExecutor(worker_count([device])) as pool:
        rows = pool.map(lambda name: scorer(photos[name], {}, name), photos)
        rows = dict(zip(photos, tqdm(rows, total=len(photos), desc=precision, leave=False, disable=None), strict=True))
    failed = [row.error or next(iter(row.errors.values())) for row in rows.values() if row.error or row.errors]
    return {name: row.scores for name, row in rows.items() if not (row.error or row.errors)}, "\n".join(failed)


def compare(exact: np.ndarray, rounded: np.ndarray) -> dict[str, float]:
    """Compare scores in bfloat16 with scores in float32.

    Args:
        exact: Scores in float32, shape (N,).
        rounded: Scores of the same images in bfloat16, shape (N,).

    Returns:
        ``SRCC`` between the two, ``largest`` and ``mean`` absolute difference, and ``spread``, the standard deviation of
        ``exact``.
    """
    difference = np.abs(rounded - exact)
    return {
        "SRCC": srcc(exact, rounded),
        "largest": float(difference.max()),
        "mean": float(difference.mean()),
        "spread": float(exact.std()),
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """Format the result of ``compare`` for each dimension in Markdown."""
    lines = [
        "| dimension | SRCC | largest difference | mean difference | spread of the scores |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, r in results.items():
        lines.append(f"| {name} | **{r['SRCC']:.5f}** | {r['largest']:.1e} | {r['mean']:.1e} | {r['spread']:.3f} |")
    return "\n".join(lines)


def hardware(device: str) -> str:
    """Name the device, and say whether it has instructions for bfloat16."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{machine()}; {bfloat16_support()}"


def main() -> int:
    args = parse_args()
    try:
        device = parse_devices(args.device)[0]
        images = list_images(args.photos)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    photos = {name: images.path(name) for name in evenly(images.names, args.count)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "color_.json").write_text(json.dumps(color_prior()))
        write_labels(Path(folder) / "labels", list(photos))
        labels = ObjectLabels(Path(folder) / "labels", read_color_curves(Path(folder) / "color_.json"))
        scores = {}
        for precision in ("float32", "bfloat16"):
            scores[precision], failed = score(photos, precision, labels, device)
            if failed:
                print(f"left out, without a score in {precision}:\n{failed}", file=sys.stderr)
    names = [name for name in photos if all(name in of_precision for of_precision in scores.values())]
    if len(names) < 2:
        print(f"error: {len(names)} of {len(photos)} photographs have scores; at least 2 are needed", file=sys.stderr)
        return 1

    results = {
        dimension: compare(*(np.array([scores[p][name][dimension] for name in names]) for p in ("float32", "bfloat16")))
        for dimension in NETWORKS
    }
    setting = f"{len(names)} photographs, evenly spaced over the {len(images.names)} of the folder; {hardware(device)}"
    print(f"{setting}\n\n{table(results)}")
    if args.write:
        command = command_line("precision.py", {str(args.photos): "PHOTOS"})
        title = "GPU" if device.startswith("cuda") else "CPU"
        text = f"Made by `{command}`.\n\n{setting}.\n\n{table(results)}"
        write_section(ROOT / "benchmarks" / "precision.md", _TOP, title, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
