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

from inference import command
from inference.cluster import score_blocks
from inference.scorer import GPU_THREADS, score_images, worker_count
from utils.shards import list_samples


def main() -> int:
    args = parser.parse_args()
    images = list_samples(args.images)
    model = command.load_branch(args, "CF", args.weights)
    path = command.output_path(args.output, args.images, images.root, "CF")
    command.check_json(args.json, [path])
    branch = command.Branch(model, path, ["CF"], {"CF": model.weights_hash}, command.chosen_settings(args))

    devices = command.choose_devices(args)
    scorer = command.make_scorer(args, [branch], devices)
    with command.open_writer(branch, images, args.overwrite) as writer:
        if args.ray is not None:
            score_blocks(args, {"CF": branch}, images, {"CF": writer}, devices)
        else:
            score_images(scorer, images, {"CF": writer}, args.workers or worker_count(devices, GPU_THREADS))
    return command.print_summary([branch], ["CF"], args.json, images.left_out, images.problems)


if __name__ == "__main__":
    command.run_script(main)
