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
from inference.scorer import score_images, worker_count
from utils.images import list_images


def main() -> int:
    args = parser.parse_args()
    images = list_images(args.images)
    model = load_branch(args, "SCC", args.weights)
    if args.weights == "SCC" and model.preset == "published":
        print(f"SCC weights: {model.source}")
    objects = find_objects(args, model, images)
    path = output_path(args.output, args.images, images.root, "SCC")
    check_json(args.json, [path])
    branch = Branch(model, path, ["SCC"], {"SCC": model.weights_hash}, chosen_settings(args)).with_objects(objects)

    devices = parse_devices(args.device)
    workers = args.workers or worker_count(devices)
    labels = objects.labels if objects else None
    if args.maps is not None:
        from inference.maps import check_maps, write_maps  # only here, for they are slow to load

        mapper = check_maps(args.maps, args.images, model)
    scorer = make_scorer(args, [model], devices, labels)
    with open_writer(branch, images, args.overwrite) as writer:
        score_images(scorer, images, {"SCC": writer}, workers)
    status = print_summary([branch], ["SCC"], args.json, args.published_quirks, images.left_out)
    if args.maps is None:
        return status
    failed = write_maps(args.maps, mapper.to(devices[0]), images, path, labels, workers)
    return 1 if failed else status


if __name__ == "__main__":
    run_script(main)
