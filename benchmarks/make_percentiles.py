"""Measure the scores of real photographs with the shipped weights, for the percentiles of reports.

python benchmarks/make_percentiles.py PHOTOS... --note "what the photographs are"     # writes weights/percentiles.json
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import DIMENSIONS, PERCENTILES


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    add = parser.add_argument
    add("photos", type=Path, nargs="+", help="folders of photographs, searched recursively")
    add("--note", required=True, help="what the photographs are: source, license, whether they took part in training")
    add("--output", type=Path, default=PERCENTILES, metavar="JSON", help="default: weights/percentiles.json")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np

from inference.maps import surprising_region
from inference.networks import Networks
from inference.scorer import Scorer, worker_count
from models import load_model
from utils.files import write_atomic
from utils.images import list_images, read_rgb

LEVELS = list(range(5, 100, 5))


def main() -> None:
    args = parse_args()
    paths = [images.path(name) for images in map(list_images, args.photos) for name in images.names]
    branches = {dimension: load_model(dimension) for dimension in DIMENSIONS}
    scorer = Scorer(Networks(branches, ["cpu"]))

    def measure(path: Path) -> tuple[list[float], bool]:
        row = scorer(path, {})
        if row.error or row.errors:
            raise ValueError(f"{path}: {row.error or row.errors}; remove it from the photographs")
        region = surprising_region(branches["SCC"].surprise(read_rgb(path)).percentile)
        return [row.scores[dimension] for dimension in DIMENSIONS], region is not None

    with ThreadPoolExecutor(worker_count(["cpu"])) as pool:
        measured = list(pool.map(measure, paths))
    scores = np.array([values for values, _ in measured])
    hashes = {dimension: branch.weights_hash for dimension, branch in branches.items()}
    content = {
        "photos": args.note,
        "count": len(paths),
        "weights": {dimension: hashes if dimension == "PR" else {dimension: hashes[dimension]} for dimension in DIMENSIONS},
        "preprocessing": branches["PR"].preprocessing(),
        "surprising": round(float(np.mean([found for _, found in measured])), 3),  # share with a surprising region
        "levels": LEVELS,
    } | {d: np.percentile(scores[:, i], LEVELS).round(4).tolist() for i, d in enumerate(DIMENSIONS)}
    write_atomic(args.output, json.dumps(content, indent=4) + "\n")
    print(f"{args.output}: {len(paths)} photographs, of which {content['surprising']:.0%} have a surprising region")


if __name__ == "__main__":
    main()
