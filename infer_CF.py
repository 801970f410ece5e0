"""Score Chromatic Fidelity (CF) of colorized images: is the color clean?

    python infer_CF.py FOLDER -o cf.csv
    python infer_CF.py data/samples                  # the shipped samples, to results/samples_CF.csv

Scores lie in [-1, 1], higher is better. A run that was stopped goes on when it is started again.
"""

from utils import startup
from utils.arguments import inference_parser

startup.begin()

parser = inference_parser(__doc__, "CF")
if __name__ == "__main__":
    parser.parse_args()  # help and mistakes end here, before what is slow to load

from inference.command import (
    Branch,
    check_json,
    chosen_settings,
    load_branch,
    make_scorer,
    open_writer,
    output_path,
    parse_devices,
    print_summary,
    run_script,
)
from inference.scorer import score_images, worker_count
from utils.images import list_images


def main() -> int:
    args = parser.parse_args()
    images = list_images(args.images)
    model = load_branch(args, "CF", args.weights)
    if args.weights == "CF" and model.preset == "published":
        print(f"CF weights: {model.source}")
    path = output_path(args.output, args.images, images.root, "CF")
    check_json(args.json, [path])
    branch = Branch(model, path, ["CF"], {"CF": model.weights_hash}, chosen_settings(args))

    devices = parse_devices(args.device)
    scorer = make_scorer(args, [model], devices)
    with open_writer(branch, images, args.overwrite) as writer:
        score_images(scorer, images, {"CF": writer}, args.workers or worker_count(devices))
    return print_summary([branch], ["CF"], args.json, args.published_quirks, images.left_out)


if __name__ == "__main__":
    run_script(main)
