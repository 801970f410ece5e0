"""Names and numbers that command lines offer and networks share.

Nothing but the standard library is imported here: a script reads its arguments, or shows its help, before torch loads.
"""

from pathlib import Path

VERSION = "1.2.0"  # of the project (CHANGELOG.md)
DIMENSIONS = ("CF", "SCC", "PR")
SHIPPED = Path(__file__).resolve().parents[1] / "weights"
PERCENTILES = SHIPPED / "percentiles.json"
PRESETS = ("compact", "published")  # of our own scripts; baselines have another one, "baseline"
ENGINES = ("onnxruntime", "torch")  # onnxruntime: the shipped compact networks, on the CPU
PRECISIONS = ("float32", "tf32", "bfloat16")
SPELLINGS = ("classic", "transformers-5.9")  # of the published CF file: before transformers 5.9, and since
DEFAULT_BACKBONE = "tf_efficientnet_lite0"

# Published systems, and the forms of their label files (tools/label_files.py).
SYSTEMS = ("dpam", "delegate_transformer", "afine", "nr_aigciqa", "fr_aigciqa")
FORMS = ("livec", "koniq", "spaq", "csiq", "tid2013", "kadid", "icaa17k", "spaq-csv", "i2iqa", "afine")

SPLITS = ("train", "test")  # of ICQA-2K
CIN25_RANGE = (1.0, 5.0)  # of its scores, same as in the analysis script of its authors
PROTOCOLS = ("official", "scene", "colorizer", "cross")
NOISE = 0.1  # standard error of a MOS in [-1, 1] where none is given, as from 16 ratings with a standard deviation of 0.4
RATING_SCALE = (1.0, 5.0)  # of a rating page, the five grades of ITU-T P.910 and ITU-R BT.500
P910_CORRELATION = 0.75  # ITU-T P.910 and P.913, screening by Pearson correlation with the MOS,
P910_OF_METHODS = 0.8  # and, as a second criterion, between the mean scores of methods
METHOD_BIAS = SHIPPED / "method_bias.json"  # by benchmarks/power.py

# The prior of object categories, chosen by the log-likelihood of objects of COCO under the prior of all other images, which
# changes little nearby.
SMOOTHING = 4.0  # standard deviation of the blur of the histograms over ab, CIELAB units
SHRINKAGE = 2.0  # objects that the prior of all categories counts for, in each band
