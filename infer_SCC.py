"""Score Semantic Color Consistency (SCC) of colorized images: does each thing have a color that such a thing can have?

    python infer_SCC.py FOLDER -o scc.csv
    python infer_SCC.py data/samples                 # the shipped samples, to results/samples_SCC.csv
    python infer_SCC.py FOLDER --maps maps           # and where colors are improbable, which would be plausible

Scores lie in [-1, 1], higher is better. A run that was stopped goes on when it is started again.
"""

from utils import startup  # noqa: F401, before all that is slow to load
from utils.arguments import inference_parser

if __name__ == "__main__":
    args = inference_parser(__doc__, "SCC").parse_args()

    from inference.scoring import run_script, score_one_dimension  # only here, for it is slow to load

    run_script(lambda: score_one_dimension(args, "SCC"))
