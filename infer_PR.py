"""Score Perceptual Realism (PR) of colorized images: would a person take it for a photograph?

    python infer_PR.py FOLDER                                        # all three scores, with the shipped weights
    python infer_PR.py FOLDER --cf cf.csv --scc scc.csv -o pr.csv    # CF and SCC from infer_CF.py and infer_SCC.py
    python infer_PR.py FOLDER --report report.html                   # and a page to look at them

PR reads the CF and SCC of every image. What is not given is computed in the same run, each image decoded once, and
written beside the PR file. Scores lie in [-1, 1], higher is better. A run that was stopped goes on when it is started again.
"""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path

from utils import startup
from utils.arguments import inference_parser

startup.begin()


def parse_args() -> argparse.Namespace:
    parser = inference_parser(__doc__, "PR")
    for dimension in ("CF", "SCC"):
        low = dimension.lower()
        parser.groups["data"].add_argument(
            f"--{low}", type=Path, metavar="FILE", help=f"{dimension} scores, CSV or published JSON"
        )
        weights = f"to compute {dimension} where not given"
        parser.groups["model"].add_argument(f"--{low}-weights", default=dimension, metavar="FILE", help=weights)
    add = parser.groups["run"].add_argument
    add("--report", type=Path, metavar="HTML", help="also write one page to look at all images and scores")
    add("--report-labels", type=Path, metavar="DIR", help="YOLO files of objects in the report (default: --labels)")
    add("--index", type=Path, metavar="CSV", help="image, scene, method, for the report (default: names, or FOLDER/index.csv)")
    add("--maps", action=argparse.BooleanOptionalAction, default=True, help="surprise maps in the report")
    args = parser.parse_args()
    if args.report is not None and args.report.suffix.lower() not in (".html", ".htm"):
        parser.error(f"expected a --report that ends in .html, got {args.report}")
    if args.index is not None and args.report is None:
        parser.error("--index needs --report")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

from inference import command
from inference.cluster import score_blocks
from inference.scorer import GPU_THREADS, score_images, worker_count
from inference.sub_scores import SubScores
from utils.files import sha256
from utils.labels import ObjectLabels
from utils.shards import list_samples


def main() -> int:
    args = parse_args()
    # what is wrong with an option must be known before the scoring
    labels = None if args.report_labels is None else ObjectLabels(args.report_labels)
    images = list_samples(args.images)
    if args.report is not None and images.samples:
        raise ValueError(f"--report shows image files, but those of {args.images} are inside of shards; unpack them first")
    path = command.output_path(args.output, args.images, images.root, "PR")

    branches: dict[str, command.Branch] = {}
    given, sources, settings = SubScores(), {}, command.chosen_settings(args)
    for dimension, file, weights in (("CF", args.cf, args.cf_weights), ("SCC", args.scc, args.scc_weights)):
        if file is not None:
            given.read(file, dimension, images)
            sources[f"{dimension} file"] = sha256(file)
            continue
        model = command.load_branch(args, dimension, weights)
        sources[dimension] = model.weights_hash
        # beside the PR file, whose own name tells them from those of other folders
        sub_path = path.with_name(f"{path.stem.removesuffix('_PR')}_{dimension}.csv")
        branches[dimension] = command.Branch(model, sub_path, [dimension], {dimension: model.weights_hash}, settings)
        shipped = weights == dimension and args.preset != "published"
        print(f"no --{dimension.lower()}: {dimension} is computed with {'the shipped weights' if shipped else model.source}")
    if args.attention is not None and "SCC" not in branches:
        raise ValueError("--attention is for computing SCC, but --scc gives it")
    model = command.load_branch(args, "PR", args.weights)
    if "SCC" in branches and "attention" in (of_scc := branches["SCC"].model.preprocessing()):
        settings = settings | {"attention": of_scc["attention"]}
    branches["PR"] = command.Branch(model, path, ["PR", "CF", "SCC"], {"PR": model.weights_hash} | sources, settings)
    objects = command.find_objects(args, branches.get("SCC", branches["PR"]).model, images)
    branches |= {d: branch.with_objects(objects) for d, branch in branches.items() if d != "CF"}
    command.check_json(args.json, [branch.path for branch in branches.values()])

    devices = command.choose_devices(args)
    scorer = command.make_scorer(args, branches.values(), devices, objects)
    with contextlib.ExitStack() as stack:
        writers = {}
        for dimension, branch in branches.items():
            writers[dimension] = stack.enter_context(command.open_writer(branch, images, args.overwrite))
        if args.ray is not None:
            score_blocks(args, branches, images, writers, devices, objects, given)
        else:
            score_images(scorer, images, writers, args.workers or worker_count(devices, GPU_THREADS), given)
    status = command.print_summary([*branches.values()], ["CF", "SCC", "PR"], args.json, images.left_out, images.problems)
    if args.report is not None:
        if labels is None and objects is not None and objects.labels.folder is not None:
            labels = objects.labels
        write_page(args, path, branches.get("SCC"), labels)
    return status


def write_page(args: argparse.Namespace, scores: Path, scc: command.Branch | None, labels: ObjectLabels | None) -> None:
    """The page that ``--report`` asks for."""
    from report.page import report_scores, written  # only here, for it is slow to load

    line = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    from models.base import ScoreNet

    network = scc.model if scc and isinstance(scc.model, ScoreNet) else None  # the page then loads the shipped one
    maps = None if args.maps else 0
    report_scores(scores, args.report, line, scc=network, maps=maps, labels=labels, index=args.index)
    print(written(args.report))


if __name__ == "__main__":
    command.run_script(main)
