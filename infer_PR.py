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
    add("--report", type=Path, metavar="HTML", help="also write one page to look at all pictures and scores")
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

from inference.command import (
    Branch,
    check_json,
    chosen_settings,
    find_objects,
    load_branch,
    make_scorer,
    open_writer,
    output_path,
    parse_devices,
    print_summary,
    run_script,
)
from inference.scorer import SubScores, score_images, worker_count
from utils.files import sha256
from utils.images import ImageList, list_images
from utils.labels import ObjectLabels
from utils.scores import NO_ROW, fingerprint, join_scores, missing_scores, read_scores, row_names


def read_sub_scores(images: ImageList, path: Path, dimension: str, given: SubScores) -> None:
    """Add the CF or SCC in a file to the scores that are given; of an image whose row is an error, the reason.

    Raises:
        ValueError: If an image has no row, or its row was made from a file of another size.
    """
    names = images.names
    frame = read_scores(path, dimension)
    recorded = frame.attrs.get("meta", {}).get("files", {})
    for name, row in row_names(names, frame).items():
        size = recorded.get(row, "").partition("-")[0]
        if size and size != fingerprint(images.path(name)).partition("-")[0]:
            raise ValueError(
                f"{path} holds the {dimension} of another file named {name}; run infer_{dimension}.py on {images.root}"
            )
    missing = missing_scores(names, frame, dimension)
    given.errors |= {name: f"no {dimension} score: {reason}" for name, reason in missing.items() if reason != NO_ROW}
    scored = [name for name in names if missing.get(name, NO_ROW) == NO_ROW]
    for name, score in zip(scored, join_scores(scored, frame, dimension, path).tolist(), strict=True):
        given.scores.setdefault(name, {})[dimension] = score


def main() -> int:
    args = parse_args()
    # what is wrong with an option must be known before the scoring
    labels = None if args.report_labels is None else ObjectLabels(args.report_labels)
    images = list_images(args.images)
    path = output_path(args.output, args.images, images.root, "PR")

    branches: dict[str, Branch] = {}
    given, sources, settings = SubScores(), {}, chosen_settings(args)
    for dimension, file, weights in (("CF", args.cf, args.cf_weights), ("SCC", args.scc, args.scc_weights)):
        if file is not None:
            read_sub_scores(images, file, dimension, given)
            sources[f"{dimension} file"] = sha256(file)
            continue
        model = load_branch(args, dimension, weights)
        sources[dimension] = model.weights_hash
        # beside the PR file, whose own name tells them from those of other folders
        sub_path = path.with_name(f"{path.stem.removesuffix('_PR')}_{dimension}.csv")
        branches[dimension] = Branch(model, sub_path, [dimension], {dimension: model.weights_hash}, settings)
        shipped = weights == dimension and args.preset != "published"
        print(f"no --{dimension.lower()}: {dimension} is computed with {'the shipped weights' if shipped else model.source}")
    if args.attention is not None and "SCC" not in branches:
        raise ValueError("--attention is for computing SCC, but --scc gives it")
    model = load_branch(args, "PR", args.weights)
    if args.weights == "PR" and args.preset == "published":
        print(f"PR weights: {model.source}")
    graph = branches["SCC"].model.preprocessing().get("attention") if "SCC" in branches else None
    of_scc = {"attention": graph} if graph else {}
    branches["PR"] = Branch(model, path, ["PR", "CF", "SCC"], {"PR": model.weights_hash} | sources, settings | of_scc)
    objects = find_objects(args, branches.get("SCC", branches["PR"]).model, images)
    branches |= {d: branch.with_objects(objects) for d, branch in branches.items() if d != "CF"}
    check_json(args.json, [branch.path for branch in branches.values()])

    devices = parse_devices(args.device)
    scorer = make_scorer(args, [branch.model for branch in branches.values()], devices, objects.labels if objects else None)
    with contextlib.ExitStack() as stack:
        writers = {d: stack.enter_context(open_writer(branch, images, args.overwrite)) for d, branch in branches.items()}
        score_images(scorer, images, writers, args.workers or worker_count(devices), given)
    status = print_summary([*branches.values()], ["CF", "SCC", "PR"], args.json, args.published_quirks, images.left_out)
    if args.report is not None:
        if labels is None and objects is not None and objects.labels.folder is not None:
            labels = objects.labels
        write_page(args, path, branches.get("SCC"), labels)
    return status


def write_page(args: argparse.Namespace, scores: Path, scc: Branch | None, labels: ObjectLabels | None) -> None:
    """The page that ``--report`` asks for."""
    from report.page import report_scores  # only here, for it is slow to load

    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    network, maps = scc.model if scc else None, None if args.maps else 0
    report_scores(scores, args.report, command, scc=network, maps=maps, labels=labels, index=args.index)
    print(f"report: {args.report}")


if __name__ == "__main__":
    run_script(main)
