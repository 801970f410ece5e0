"""Score Chromatic Fidelity (CF) of colorized images: is the color clean?

    python infer_CF.py FOLDER -o cf.csv
    python infer_CF.py data/samples                  # the shipped samples, to results/samples_CF.csv

Scores lie in [-1, 1], higher is better. A run that was stopped goes on when it is started again.
"""

from utils import startup  # noqa: F401, before all that is slow to load
from utils.arguments import inference_parser

if __name__ == "__main__":
    args = inference_parser(__doc__, "CF").parse_args()

    from inference.scoring import run_script, score_one_dimension  # only here, for it is slow to load

    run_script(lambda: score_one_dimension(args, "CF"))
