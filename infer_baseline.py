"""Score images with a published system: DPAM, Delegate Transformer, A-FINE, NR- or FR-AIGCIQA.

    python infer_baseline.py nr_aigciqa FOLDER --weights runs/nr/best.pt -o nr.csv       # weights of train_baseline.py
    python infer_baseline.py afine FOLDER --weights afine.pth --reference ORIGINALS      # the authors' file
    python infer_baseline.py dpam data/samples --random-init                             # only to see that it runs

Scores are on the scale of the MOS, -1 to 1, higher is better, whatever scale the system has of its own (docs/baselines.md).
DPAM and AIGCIQA have no bounds and may go beyond. A run that was stopped goes on when it is started again.
"""

import argparse
from pathlib import Path

from utils import startup
from utils.arguments import ScriptParser, add_folder_arguments, add_system_arguments

startup.begin()


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s MODEL FOLDER --weights FILE [options]", ("data", "model", "run"))
    add_system_arguments(parser)
    add_folder_arguments(parser, "MODEL")
    add = parser.groups["data"].add_argument
    add("--reference", type=Path, metavar="DIR", help="originals in color, or a CSV with the columns image and reference")
    add = parser.groups["model"].add_argument
    add("--weights", type=Path, metavar="FILE", help="checkpoint of train_baseline.py, or the authors' file")
    add("--random-init", action="store_true", help="random weights, only to see that it runs")
    add(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="names of the scores of the authors' file or of random weights, such as PR for evaluate.py (default: quality)",
    )
    args = parser.parse_args()
    if args.weights is not None and args.random_init:
        parser.error("--weights and --random-init contradict each other; leave one out")
    if args.weights is None and not args.random_init:
        parser.error(
            f"no weights of {args.system} come with this project: pass --weights FILE, of train_baseline.py or of its authors "
            "(docs/baselines.md), or --random-init to see that it runs"
        )
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

from collections.abc import Mapping

import numpy as np
import torch

from baselines.command import load_baseline, random_baseline
from baselines.images import check_originals, find_originals, pixels_of
from baselines.scorer import Baseline
from inference import command
from inference.networks import Replicas
from inference.scorer import ImageResult, Scorer, round_score, score_images, worker_count
from utils.shards import list_samples


class BaselineEngine:
    """A published system on each device that is used, with the originals that it may read beside the images.

    Args:
        model: In evaluation mode.
        originals: Original of each image that has one, by name.
        devices: Where to run.
    """

    def __init__(self, model: Baseline, originals: Mapping[str, Path], devices: list[str]) -> None:
        self.replicas, self.originals = Replicas({model.dimension: model}, devices), originals

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray, name: str, known: Mapping[str, float]) -> ImageResult:
        """Scores of one image, sRGB, uint8, shape (H, W, 3)."""
        (model,) = self.replicas.of_thread().values()
        assert isinstance(model, Baseline)
        path = self.originals.get(name)
        if path is None and model.needs_reference:
            return ImageResult({}, f"{name}: its original is not in --reference")
        inputs = model.prepare(torch.from_numpy(pixels).permute(2, 0, 1), None if path is None else pixels_of(path))
        return ImageResult({column: round_score(score) for column, score in model.score_columns(inputs).items()})


def main() -> int:
    args = parse_args()
    images = list_samples(args.images)
    if args.random_init:
        model = random_baseline(args, args.columns or ["quality"])
        print(f"{args.system} with random weights: the scores mean nothing")
    else:
        model = load_baseline(args, args.columns)
    if args.reference is not None and not model.uses_reference:
        raise ValueError(f"--reference {args.reference}: {args.system} looks at images alone as it is set; leave it out")
    if args.reference is None and model.needs_reference:
        advice = ", or --naturalness for the part that needs none" if args.system == "afine" else ""
        raise ValueError(f"{args.system} compares images with their originals; pass --reference DIR{advice}")
    originals = {}
    if args.reference is not None and images.samples:
        raise ValueError(f"--reference is for image files, but those of {args.images} are inside of shards; unpack them first")
    if args.reference is not None:
        paths = [images.path(name) for name in images.names]
        originals = find_originals(args.reference, images.names, paths)
        check_originals(args.reference, paths, [originals.get(name, "") for name in images.names])
    path = command.output_path(args.output, args.images, images.root, args.system)
    command.check_json(args.json, [path])
    branch = command.Branch(model, path, model.columns, {args.system: model.weights_hash}, beside=originals)

    devices = command.parse_devices(args.device)
    scorer = Scorer(BaselineEngine(model, originals, devices))
    with command.open_writer(branch, images, args.overwrite) as writer:
        score_images(scorer, images, {args.system: writer}, args.workers or worker_count(devices))
    return command.print_summary([branch], model.columns, args.json, images.left_out, images.problems)


if __name__ == "__main__":
    command.run_script(main)
