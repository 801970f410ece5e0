"""Measure agreement with people on HECD, leaving one scene out: the numbers of the README.

    python benchmarks/hecd.py data/HECD runs/recolorings/table.csv \
        --cf runs/cf_stage1/best.pt --scc runs/scc_stage1/best.pt --pr runs/pr_stage1/best.pt \
        --ranker runs/ranker/best.pt --labels runs/recolorings/labels

The three start networks (stage 1 of weights/README.md) have not seen HECD. For every scene the heads of CF, SCC and PR are
trained on the other scenes by the recipe of the shipped weights (stage 2), then the scene is scored. PR is trained on
sub-scores of networks that have not seen the image's scene (folds within the training scenes). ``--labels`` are the objects for
SCC. ``--write`` makes benchmarks/hecd.md and benchmarks/hecd_predictions.csv.
"""

import argparse
import json
import multiprocessing
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("hecd", type=Path, help="the HECD folder")
    parser.add_argument("recolorings", type=Path, nargs="?", help="table of tools/make_recolorings.py")
    for dimension in ("CF", "SCC", "PR"):
        parser.add_argument(f"--{dimension.lower()}", type=Path, help=f"start network of {dimension}")
    parser.add_argument("--ranker", type=Path, help="ranker that scores beside the heads (default: none)")
    parser.add_argument("--ranking", type=float, default=0.3, metavar="W", help="its weight (default: %(default)s)")
    parser.add_argument("--labels", nargs="+", metavar="DIR", help="objects of the images, same as train_SCC.py --labels")
    parser.add_argument("--reuse", action="store_true", help="make the table from benchmarks/hecd_predictions.csv")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="write the Markdown table and the predictions")
    args = parser.parse_args()
    if not args.reuse and None in (args.recolorings, args.cf, args.scc, args.pr):
        parser.error("needs the recolorings and the start networks --cf, --scc and --pr, or --reuse")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from data.hecd import load_hecd
from data.splits import scene_folds
from data.table import load_data
from models.base import ScoreNet
from models.loading import build_model
from train_CF import RECIPE as CF
from train_PR import RECIPE as PR
from train_SCC import RECIPE as SCC
from training.engine import fit, make_optimizer, make_schedule, predict
from training.images import FeatureSet, encode_set, rated_images
from training.options import TrainOptions, parse_training, training_parser
from training.records import command_line
from utils.checkpoint import read_checkpoint
from utils.files import write_atomic
from utils.metrics import correlations, within_scene_srcc

# Stage 2 of the shipped weights; weights/README.md gives the same as commands.
RECIPES = {
    "CF": "--val 0 --epochs 5 --weight-decay 0.1 --no-augment",
    "SCC": "--val 0 --epochs 5 --weight-decay 0.1 --no-augment",
    "PR": "--val 0 --epochs 10 --weight-decay 0.1 --no-augment",
}
RECOLORINGS = {"CF": 1500, "SCC": 300}  # images beside HECD
INNER_FOLDS = 5
BOOTSTRAP = 1000  # draws of scenes, with replacement
_COLORIZERS = ("O", "L", "I", "Z", "P")
_FEW_SCENES = 10  # with fewer, there is no row for the outputs of colorizers, six per scene


def recipe(dimension: str) -> TrainOptions:
    """Return the training options of a branch."""
    words = ["--data", "HECD", "--output", "unused", "--device", "cpu", *shlex.split(RECIPES[dimension])]
    return parse_training(training_parser(None), dimension, {"CF": CF, "SCC": SCC, "PR": PR}[dimension], words)


def train_head(model: ScoreNet, train_set: FeatureSet, options: TrainOptions) -> ScoreNet:
    """Train the head of a network without validation and without writing files."""
    sets = {"train": train_set, "val": None}
    return fit(model, make_optimizer(model, options), make_schedule(options), sets, options, None, {})


class Experiment:
    """Start networks, encoded images and ratings for the training without one scene.

    Args:
        starts: Start network of each branch.
        features: Encoded images of each branch, same rows as ``frame``.
        frame: HECD (which has a ``kind``) and recolorings (which have no ``kind``).
    """

    def __init__(self, starts: dict[str, ScoreNet], features: dict[str, FeatureSet], frame: pd.DataFrame) -> None:
        self.starts, self.features, self.frame = starts, features, frame
        self.human = frame["kind"].notna().to_numpy()

    def train_and_predict(
        self, dimension: str, train: np.ndarray, held: np.ndarray, scores: np.ndarray | None = None
    ) -> np.ndarray:
        """Train a head on the rated images among rows ``train``, then predict rows ``held``."""
        mos = self.frame[dimension].to_numpy(np.float32)
        rows = train[np.isfinite(mos[train])]
        if dimension in RECOLORINGS:
            recolored = rows[~self.human[rows]]
            few = recolored[np.linspace(0, len(recolored) - 1, RECOLORINGS[dimension]).astype(int)]
            rows = np.sort(np.concatenate((rows[self.human[rows]], few)))
        model = type(self.starts[dimension])(**self.starts[dimension].config)
        model.load_state_dict(self.starts[dimension].state_dict())
        train_set, held_set = (
            self.features[dimension].subset(r, 1, None if scores is None else scores[r]) for r in (rows, held)
        )
        return predict(train_head(model, train_set, recipe(dimension)), held_set, torch.device("cpu")).numpy()

    def leave_out(self, scene: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a scene, and CF, SCC and PR by networks trained on all other scenes, shape (N, 3)."""
        outside = (self.frame["scene"] == scene).to_numpy()
        train, held = np.flatnonzero(~outside), np.flatnonzero(outside)
        scores = np.full((len(self.frame), 2), np.nan)
        for column, dimension in enumerate(("CF", "SCC")):
            for scenes in scene_folds(self.frame.iloc[train], INNER_FOLDS):
                inside = self.frame["scene"].isin(scenes).to_numpy()[train]
                wanted = train[inside & self.human[train]]
                scores[wanted, column] = self.train_and_predict(dimension, train[~inside], wanted)
            scores[held, column] = self.train_and_predict(dimension, train, held)
        realism = self.train_and_predict("PR", train[self.human[train]], held, scores)
        return held, np.column_stack((scores[held], realism))


_experiment: Experiment


def load_experiment(path: str) -> None:
    """Load the experiment that ``main`` has prepared; each process computes on one thread."""
    global _experiment
    torch.set_num_threads(1)
    _experiment = torch.load(path, weights_only=False)  # written a moment ago by this program


def leave_out(scene: str) -> tuple[np.ndarray, np.ndarray]:
    return _experiment.leave_out(scene)


def interval(pred: np.ndarray, mos: np.ndarray, scenes: np.ndarray) -> list[str]:
    """Format SRCC pooled and within scene, each with the 95 % interval of a bootstrap over scenes."""
    rows = [np.flatnonzero(scenes == scene) for scene in sorted(set(scenes))]
    within = np.array([correlations(pred[r], mos[r])["SRCC"] for r in rows])
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(rows), (BOOTSTRAP, len(rows)))
    pooled = []
    for draw in draws:
        chosen = np.concatenate([rows[k] for k in draw])
        pooled.append(correlations(pred[chosen], mos[chosen])["SRCC"])
    cells = []
    for value, sample in (
        (correlations(pred, mos)["SRCC"], pooled),
        (within_scene_srcc(pred, mos, scenes), np.nanmean(within[draws], axis=1)),
    ):
        low, high = np.nanpercentile(sample, (2.5, 97.5))
        cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
    return cells


def table(frame: pd.DataFrame, predictions: np.ndarray) -> pd.DataFrame:
    """Return a table of agreement by dimension and kind of image, without the untouched originals.

    Args:
        frame: HECD.
        predictions: CF, SCC and PR, shape (N, 3).
    """
    recolored = (frame["method"] != "original").to_numpy()
    colorizers = frame["kind"].isin(_COLORIZERS).to_numpy()
    rows = []
    for column, dimension in enumerate(("CF", "SCC", "PR")):
        mos = frame[dimension].to_numpy(float)
        for label, chosen in (("all recolorings", recolored), ("real colorizers", colorizers)):
            use = chosen & np.isfinite(mos)
            pred = predictions[use, column]
            pooled, within = interval(pred, mos[use], frame["scene"].to_numpy()[use])
            other = correlations(pred, mos[use])
            rows.append(
                {
                    "dimension": dimension,
                    "images": label,
                    "n": int(use.sum()),
                    "SRCC pooled": pooled,
                    "SRCC within scene": within,
                    "PLCC pooled": other["PLCC"],
                    "RMSE": other["RMSE"],
                }
            )
    return pd.DataFrame(rows)


def baselines(frame: pd.DataFrame, folder: Path) -> str:
    """Return the section on the published systems, from the file of benchmarks/baselines.py; empty without the file.

    Args:
        frame: HECD.
        folder: Folder of the file.
    """
    if not (folder / "hecd_baselines.csv").is_file():
        return ""
    kept = pd.read_csv(folder / "hecd_baselines.csv")
    origins = json.loads((folder / "hecd_baselines.json").read_text())
    names = [Path(name).name for name in frame["image"]]
    rows, commands = [], []
    for system, part in kept.groupby("system"):
        scores = part.set_index("image").reindex(names)[["CF", "SCC", "PR"]].to_numpy()
        there = np.isfinite(scores).all(1)
        agreement = table(frame[there].reset_index(drop=True), scores[there])
        origin = origins[system]
        agreement = (
            agreement[agreement["images"] == "all recolorings"] if frame["scene"][there].nunique() < _FEW_SCENES else agreement
        )
        about = {"system": system, "backbone": origin["backbone"], "scenes": frame["scene"][there].nunique()}
        rows.append(agreement.drop(columns=["PLCC pooled", "RMSE"]).assign(**about))
        commands.append(f"- {system}: `{origin['command']}`; {origin['tested']}, torch {origin['torch']}\n")
    columns = ["system", "backbone", "scenes", "dimension", "images", "n", "SRCC pooled", "SRCC within scene"]
    return (
        "\n## Published systems, trained here\n\n"
        "What they are: [docs/baselines.md](../docs/baselines.md). None has the start weights of its authors, which could not "
        "be had:\nthe column *backbone* says what it started from, and the rows say nothing of what the published systems can "
        "do.\nNo network is tested on a scene that it was trained on; *scenes* is how many it is tested on.\n\n"
        f"{pd.concat(rows)[columns].to_markdown(index=False, floatfmt='.2f')}\n\n{''.join(commands)}"
    )


def predict_all(args: argparse.Namespace) -> tuple[pd.DataFrame, np.ndarray]:
    """Return HECD, and the three scores of each image by networks that have not seen its scene."""
    frame = load_data([args.hecd, Path(f"{args.recolorings}:{max(RECOLORINGS.values())}")], "PR", (-1, 1))
    starts, features = {}, {}
    for dimension in ("CF", "SCC", "PR"):
        path = getattr(args, dimension.lower())
        model = starts[dimension] = build_model(read_checkpoint(path), str(path))
        model.take_ranker(args.ranker, args.ranking)
        dataset = rated_images(replace(recipe(dimension), labels=args.labels), model, frame)
        features[dimension] = encode_set(model, dataset, torch.device("cpu"), 1, 0, args.workers)
    human = frame["kind"].notna().to_numpy()
    predictions = np.full((len(frame), 3), np.nan)
    with tempfile.TemporaryDirectory() as folder:
        prepared = f"{folder}/experiment.pt"
        torch.save(Experiment(starts, features, frame), prepared)
        context = multiprocessing.get_context("spawn")
        with context.Pool(args.workers, load_experiment, (prepared,)) as pool:
            scenes = sorted(frame["scene"][human].unique())
            for held, values in tqdm(pool.imap(leave_out, scenes), total=len(scenes), unit="scene"):
                predictions[held] = values
    return frame[human].reset_index(drop=True), predictions[human]


def main() -> None:
    args = parse_args()
    folder = Path(__file__).parent
    if args.reuse:
        frame = load_hecd(args.hecd)
        saved = pd.read_csv(folder / "hecd_predictions.csv", dtype={"scene": str}).set_index("image")
        predictions = saved.loc[[Path(name).name for name in frame["image"]], ["CF", "SCC", "PR"]].to_numpy()
        origin = json.loads((folder / "hecd_predictions.json").read_text())
    else:
        frame, predictions = predict_all(args)
        origin = {"command": command_line(), "torch": str(torch.__version__)}
    text = table(frame, predictions).to_markdown(index=False, floatfmt=".2f")
    print(text)
    if not args.write:
        return
    beside = {dimension: f"and {count:,} recolorings" for dimension, count in RECOLORINGS.items()}
    page = (
        "# Agreement with people on HECD, one scene left out\n\n"
        f"Predictions, in hecd_predictions.csv, by\n\n```\n{origin['command']}\n```\n\nand the table from them by "
        f"`python benchmarks/hecd.py data/HECD --reuse --write`; torch {origin['torch']}, "
        f"{frame['scene'].nunique()} scenes.\nHigher is better, but for RMSE. In brackets: 95 % interval of a bootstrap over "
        "scenes.\nCF and SCC are measured on the kinds of image that stand in for them (data/README.md).\n"
        "Other metrics beside them, with and without the original, and the predictor that knows the method only: "
        "[hecd_metrics.md](hecd_metrics.md).\n\n"
        f"{text}\n\nTraining of the heads, from the networks of stage 1 (weights/README.md):\n\n"
        + "".join(
            f"- {dimension}: `{words}`, on HECD {beside.get(dimension, 'alone')}\n" for dimension, words in RECIPES.items()
        )
        + baselines(frame, folder)
    )
    write_atomic(folder / "hecd.md", page)
    if not args.reuse:
        saved = frame[["image", "scene", "method"]].assign(
            image=[Path(name).name for name in frame["image"]],
            **{d: predictions[:, i].round(6) for i, d in enumerate(("CF", "SCC", "PR"))},
        )
        write_atomic(folder / "hecd_predictions.csv", saved.to_csv(index=False))
        write_atomic(folder / "hecd_predictions.json", json.dumps(origin, indent=4) + "\n")


if __name__ == "__main__":
    main()
