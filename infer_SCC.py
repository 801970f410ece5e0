"""Score Semantic Color Consistency (SCC) of colorized images: does each thing have a color that such a thing can have?

    python infer_SCC.py FOLDER -o scc.csv
    python infer_SCC.py data/samples                 # the shipped samples, to results/samples_SCC.csv
    python infer_SCC.py FOLDER --maps maps           # and where colors are improbable, which would be plausible

Scores lie in [-1, 1], higher is better. A run that was stopped goes on when it is started again.
"""

from utils import startup
from utils.arguments import inference_parser

startup.begin()

parser = inference_parser(__doc__, "SCC")
if __name__ == "__main__":
    parser.parse_args()  # help and mistakes end here, before what is slow to load

from inference import command
from inference.cluster import score_blocks
from inference.scorer import GPU_THREADS, score_images, worker_count
from utils.shards import list_samples


def main() -> int:
    args = parser.parse_args()
    images = list_samples(args.images)
    model = command.load_branch(args, "SCC", args.weights)
    objects = command.find_objects(args, model, images)
    path = command.output_path(args.output, args.images, images.root, "SCC")
    command.check_json(args.json, [path])
    branch = command.Branch(model, path, ["SCC"], {"SCC": model.weights_hash}, command.chosen_settings(args))

    devices = command.choose_devices(args)
    if args.maps is not None:
        from inference.maps import check_maps, write_maps  # only here, for they are slow to load
        from models import load_model
        from models.base import ScoreNet

        network = model if isinstance(model, ScoreNet) else load_model("SCC")
        mapper = check_maps(args.maps, args.images, network)
    scorer = command.make_scorer(args, [branch], devices, objects)
    branch = branch.with_objects(objects)
    with command.open_writer(branch, images, args.overwrite) as writer:
        if args.ray is not None:
            score_blocks(args, {"SCC": branch}, images, {"SCC": writer}, devices, objects)
        else:
            score_images(scorer, images, {"SCC": writer}, args.workers or worker_count(devices, GPU_THREADS))
    status = command.print_summary([branch], ["SCC"], args.json, images.left_out, images.problems)
    if args.maps is None:
        return status
    workers = args.workers or worker_count(devices)
    failed = write_maps(args.maps, mapper.to(devices[0]), images, path, objects.labels if objects else None, workers)
    return 1 if failed else status


if __name__ == "__main__":
    command.run_script(main)
