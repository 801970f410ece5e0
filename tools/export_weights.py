"""Write trained weights of the published preset for the published scripts: a plain state dict that they load strictly.

    python tools/export_weights.py runs/cf/best.pt CF.pth
    python tools/export_weights.py runs/cf/best.pt CF.pth --spelling transformers-5.9    # for transformers 5.9 or newer

The program also takes a published file, to change the spelling of the CF keys.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils import interrupt  # noqa: F401, so that Ctrl-C is heard
from utils.arguments import ScriptParser
from utils.choices import SPELLINGS


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("weights", type=Path, help="a checkpoint of the published preset, or a published file")
    parser.add_argument("output", type=Path, help="file to write, such as CF.pth")
    parser.add_argument("--spelling", choices=SPELLINGS, default=SPELLINGS[0], help="CF keys (default: %(default)s)")
    args = parser.parse_args()
    if args.output.is_dir():
        parser.error(f"output must be a file such as CF.pth, {args.output} is a folder")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import torch

from models.loading import load_model
from models.published import to_published
from utils.files import write_atomic


def main() -> None:
    args = parse_args()
    try:
        model = load_model(args.weights, preset="published")
        state = to_published(model, args.spelling)
        write_atomic(args.output, lambda file: torch.save(state, file))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{model.dimension}: {len(state)} tensors, {args.output.stat().st_size / 1e6:.0f} MB, in {args.output}")


if __name__ == "__main__":
    main()
