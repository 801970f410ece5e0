"""Measure time and memory of the published systems, and their agreement with people when trained here.

    python benchmarks/baselines.py cost --write                        # time and memory of each at its published input size
    python benchmarks/baselines.py cost --device cuda --write
    python benchmarks/baselines.py hecd data/HECD --run "NR-AIGCIQA" "ImageNet, EfficientNet-Lite0" runs/bl/nr --write

``cost`` runs infer_baseline.py as a whole process with random weights on made-up photographs of 640 x 480 pixels. Seconds per
image are the difference of two runs, so that the start does not count.

``hecd`` takes runs of train_baseline.py on HECD with three scores: out-of-fold predictions if there are any, else predictions
for the test split. It stores them in benchmarks/hecd_baselines.csv, from which benchmarks/hecd.py makes a table.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import ROOT, command_line, machine, make_images, run, write_section
from utils.arguments import ScriptParser

_FEW, _MORE = 2, 12  # images of the two runs
_TOP = "# Published systems as baselines\n\nWhat they are: [docs/baselines.md](../docs/baselines.md)."
_COST = """Whole process of `infer_baseline.py --random-init`, JPEGs of 640 x 480 pixels, {at_a_time} at a time; the
original beside it where one is read. Seconds an image without the start. Weights change neither.

```
{command}
```

{machine}

| system | setting | input | seconds an image | peak MiB |
| --- | --- | --- | --- | --- |
"""
SETTINGS = (
    ("dpam", (), "224, superpixels at 500 x 500"),
    ("delegate_transformer", (), "224"),
    ("afine", (), "512"),
    ("afine", ("--naturalness",), "512"),
    ("nr_aigciqa", ("--set", "backbone=resnet50"), "224"),
    ("fr_aigciqa", ("--set", "backbone=resnet50"), "224"),
    ("nr_aigciqa", ("--set", "backbone=inceptionv4"), "299"),
    ("nr_aigciqa", ("--set", "backbone=vit_l_16"), "224"),
    ("nr_aigciqa", ("--set", "backbone=efficientnet_lite0"), "224"),
)


def cost(args: argparse.Namespace) -> None:
    """Measure time and memory of each system."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder) / "originals"
        make_images(originals, _MORE, 640, 480)
        for count in (_FEW, _MORE):
            make_images(Path(folder) / str(count), count, 640, 480)
        for system, options, size in SETTINGS:
            runs = []
            compares = system in ("afine", "fr_aigciqa") and "--naturalness" not in options
            reference = ["--reference", originals] if compares else []
            for count in (_FEW, _MORE):
                images, output = Path(folder) / str(count), Path(folder) / "scores.csv"
                command = [sys.executable, ROOT / "infer_baseline.py", system, images, "-o", output, "--overwrite"]
                command += ["--random-init", "--device", args.device, "--workers", str(args.workers), *options, *reference]
                runs.append(run(command))
            seconds = (runs[1].seconds - runs[0].seconds) / (_MORE - _FEW)
            shown = " ".join(options).removeprefix("--set ")
            rows.append(f"| {system} | {shown} | {size} | {seconds:.2f} | {runs[1].peak_mib:.0f} |\n")
            print(rows[-1], end="", flush=True)
    if args.write:
        text = _COST.format(at_a_time=args.workers, command=command_line("baselines.py"), machine=machine()) + "".join(rows)
        write_section(ROOT / "benchmarks" / "baselines.md", _TOP, f"Time and memory, {args.device}", text)


def hecd(args: argparse.Namespace) -> None:
    """Store the predictions of runs on HECD for benchmarks/hecd.py."""
    import pandas as pd

    from data.hecd import load_hecd
    from utils.checkpoint import read_checkpoint
    from utils.scores import DIMENSIONS

    frame = load_hecd(args.hecd)
    rated = {Path(image).name: image for image in frame["image"]}
    table, notes = ROOT / "benchmarks" / "hecd_baselines.csv", ROOT / "benchmarks" / "hecd_baselines.json"
    kept = pd.read_csv(table, dtype={"scene": str}) if table.exists() else pd.DataFrame(columns=["system", "image"])
    origins = json.loads(notes.read_text()) if notes.exists() else {}
    for name, backbone, folder in args.run:
        folder = Path(folder)
        left_out = (folder / "oof.csv").is_file()
        predictions = pd.read_csv(folder / ("oof.csv" if left_out else "test.csv"))
        predictions["image"] = [Path(image).name for image in predictions["image"]]
        unknown = [image for image in predictions["image"] if image not in rated]
        if unknown:
            raise ValueError(f"{folder} holds predictions for {unknown[0]}, which is not in HECD")
        rows = predictions[["image", *DIMENSIONS]].assign(system=name)[["system", "image", *DIMENSIONS]]
        kept = pd.concat([kept[kept["system"] != name], rows])
        checkpoint = read_checkpoint(folder / "best.pt")
        origins[name] = {
            "backbone": backbone,
            "tested": "each scene left out in turn" if left_out else "test scenes only",
            "command": checkpoint["command"],
            "torch": checkpoint["torch"],
        }
        print(f"{name}: {len(rows)} images")
    if args.write:
        table.write_text(kept.sort_values(["system", "image"]).to_csv(index=False, float_format="%.6f"))
        notes.write_text(json.dumps(origins, indent=4, sort_keys=True) + "\n")


def main() -> None:
    parser = ScriptParser(__doc__)
    commands = parser.add_subparsers(required=True)
    of_cost = commands.add_parser("cost")
    of_cost.add_argument("--device", default="cpu")
    of_cost.add_argument("--workers", type=int, default=2, help="images at a time (default: %(default)s)")
    of_cost.set_defaults(function=cost)
    of_hecd = commands.add_parser("hecd")
    of_hecd.add_argument("hecd", type=Path, help="the HECD folder")
    of_hecd.add_argument("--run", nargs=3, action="append", required=True, metavar=("NAME", "BACKBONE", "FOLDER"))
    of_hecd.set_defaults(function=hecd)
    for command in (of_cost, of_hecd):
        command.add_argument("--write", action="store_true")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
