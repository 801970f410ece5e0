"""Score Perceptual Realism (PR) of colorized images: would a person take it for a photograph?

    python infer_PR.py FOLDER                                        # all three scores, with the shipped weights
    python infer_PR.py FOLDER --cf cf.csv --scc scc.csv -o pr.csv    # CF and SCC from infer_CF.py and infer_SCC.py
    python infer_PR.py FOLDER --report report.html                   # and a page to look at them

PR reads the CF and SCC of every picture. What is not given is computed in the same run, each picture decoded once, and
written beside the PR file. Scores lie in [-1, 1], higher is better. A run that was stopped goes on when it is started again.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
import contextlib
import shlex
import sys
from pathlib import Path

from utils import startup  # noqa: F401, before all that is slow to load
from utils.arguments import inference_parser


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

from inference.scoring import (
    check_json,
    chosen_settings,
    conclude,
    devices_of,
    find_objects,
    make_scorer,
    open_writer,
    output_path,
    run_script,
    score_images,
    worker_count,
)
from models import load_model
from utils.files import sha256
from utils.images import ImageList, list_images
from utils.labels import ObjectLabels, no_curves
from utils.scores import NO_ROW, fingerprint, join_scores, missing_scores, read_scores, row_names


def given_scores(images: ImageList, path: Path, dimension: str) -> tuple[dict[str, float], dict[str, str]]:
    """Sub-scores from a file: the score of each picture, and the reason of each picture whose row is an error.

    Raises:
        ValueError: If a picture has no row, or its row was made from a file of another size.
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
    failed = {name: f"no {dimension} score: {reason}" for name, reason in missing.items() if reason != NO_ROW}
    scored = [name for name in names if name not in failed]
    return dict(zip(scored, join_scores(scored, frame, dimension, path).tolist(), strict=True)), failed


def main() -> int:
    args = parse_args()
    # what is wrong with an option must be known before the scoring
    labels = None if args.report_labels is None else ObjectLabels(args.report_labels, no_curves())
    images = list_images(args.images)
    path = output_path(args.output, args.images, images.root, "PR")

    branches, paths, sources = {}, {}, {}
    known: dict[str, dict[str, float]] = {}
    unscorable: dict[str, str] = {}
    for dimension in ("CF", "SCC"):
        file = getattr(args, dimension.lower())
        if file is None:
            weights = getattr(args, f"{dimension.lower()}_weights")
            attention = args.attention if dimension == "SCC" else None
            branches[dimension] = load_model(weights, dimension=dimension, preset=args.preset, attention=attention)
            sources[dimension] = branches[dimension].weights_hash
            # beside the PR file, whose own name tells them from those of other folders
            paths[dimension] = path.with_name(f"{path.stem.removesuffix('_PR')}_{dimension}.csv")
            shipped = weights == dimension and args.preset != "published"
            origin = "the shipped weights" if shipped else branches[dimension].source
            print(f"no --{dimension.lower()}: {dimension} is computed with {origin}")
        else:
            scores, failed = given_scores(images, file, dimension)
            for name, score in scores.items():
                known.setdefault(name, {})[dimension] = score
            unscorable |= failed
            sources[f"{dimension} file"] = sha256(file)
    if args.attention is not None and "SCC" not in branches:
        raise ValueError("--attention is for computing SCC, but --scc gives it")
    branches["PR"] = load_model(args.weights, dimension="PR", preset=args.preset)
    paths["PR"] = path
    if args.weights == "PR" and args.preset == "published":
        print(f"PR weights: {branches['PR'].source}")
    objects = find_objects(args, branches.get("SCC", branches["PR"]), images)
    if labels is None and objects is not None and objects.labels.folder is not None:
        labels = objects.labels

    check_json(args.json, paths)
    devices = devices_of(args.device)
    scorer = make_scorer(branches, devices, args, objects)
    settings = chosen_settings(args)
    graph = branches["SCC"].preprocessing().get("attention") if "SCC" in branches else None
    with contextlib.ExitStack() as stack:
        writers = {}
        for dimension, target in paths.items():
            model = branches[dimension]
            columns = ["PR", "CF", "SCC"] if dimension == "PR" else [dimension]
            made_from = {dimension: model.weights_hash} | (sources if dimension == "PR" else {})
            seen_objects = objects if dimension != "CF" else None
            own = settings | ({"attention": graph} if dimension == "PR" and graph else {})
            writers[dimension] = stack.enter_context(
                open_writer(target, columns, images, model, made_from, args.overwrite, own, seen_objects)
            )
        score_images(scorer, images, writers, known, unscorable, args.workers or worker_count(devices))
    status = conclude(paths, "PR", ["CF", "SCC", "PR"], args.json, images.left_out)
    if args.report is not None:
        from report.page import report_scores  # only here, for it is slow to load

        command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
        report_scores(
            path, args.report, command, scc=branches.get("SCC"), maps=None if args.maps else 0, labels=labels, index=args.index
        )
        print(f"report: {args.report}")
    return status


if __name__ == "__main__":
    run_script(main)
