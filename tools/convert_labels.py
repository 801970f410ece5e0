"""Turn a label file of a published system into a MOS table, which train_baseline.py takes as --data or --test-data.

    python tools/convert_labels.py koniq.txt --form koniq --images KONIQ --output koniq.csv
    python train_baseline.py dpam --data koniq.csv --target MOS --output runs/dpam

The table has image, scene, method, reference and the scores of the file (data/README.md), in [-1, 1], higher is better.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import FORMS


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("labels", type=Path, metavar="FILE", help="label file")
    parser.add_argument("--form", choices=FORMS, metavar="FORM", help=f"{', '.join(FORMS)} (default: recognized by its rows)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images (default: folder of the label file)")
    parser.add_argument("--mos-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="(default: that of the data set)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CSV", help="table to write")
    args = parser.parse_args()
    if args.output.suffix.lower() != ".csv" or args.output.resolve() == args.labels.resolve():
        parser.error(f"--output {args.output}: expected another file than the label file, with a name that ends in .csv")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import os

import pandas as pd

from data.table import WITHIN_SCENES
from tools.label_files import load_foreign, recognize
from training.runs import one_line_errors
from utils.files import write_atomic


def mos_table(labels: pd.DataFrame, folder: Path, within_scenes: bool) -> pd.DataFrame:
    """Return the MOS table to write.

    Args:
        labels: Result of ``load_foreign``.
        folder: Folder of the table, which its paths are relative to.
        within_scenes: Whether its scores can be compared within a scene only.
    """
    table = labels.copy()
    for column in {"image", "reference"} & set(table):
        paths = [os.path.relpath(Path(labels.attrs["root"]) / name, folder) if name else "" for name in table[column]]
        table[column] = [Path(path).as_posix() if path else "" for path in paths]
    return table.assign(**{WITHIN_SCENES: 1}) if within_scenes else table


def main() -> None:
    one_line_errors("run the same command again")
    args = parse_args()
    form = args.form or recognize(args.labels)
    labels = load_foreign(args.labels, form, args.mos_range, args.images)
    table = mos_table(labels, args.output.parent, within_scenes=form == "afine")
    write_atomic(args.output, table.to_csv(index=False))
    scores = " ".join(labels.attrs["scores"])
    print(f"{args.output}: {len(table)} images of {table['scene'].nunique()} scenes, {labels.attrs['name']}")
    print(f"to train on it: python train_baseline.py MODEL --data {args.output} --target {scores} --output DIR")


if __name__ == "__main__":
    main()
