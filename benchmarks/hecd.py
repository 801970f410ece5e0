"""Agreement with people on HECD, leaving one scene out: the numbers of the README.

    python benchmarks/hecd.py data/HECD --cf runs/cf_photos/best.pt --scc runs/scc_photos/best.pt --pr runs/pr_photos/best.pt

The three start networks must not have seen HECD (they are trained on recolorings of other photographs). For every scene the
heads of CF, SCC and PR are trained on the other scenes by the recipe of the shipped weights, PR on sub-scores of networks
that have not seen the scene either (folds within the training scenes), and the scene is scored. ``--write`` makes
benchmarks/hecd.md and benchmarks/hecd_predictions.csv.
"""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from data.hecd import load_hecd
from data.pictures import RatedPictures, with_paths
from data.splits import scene_folds
from models.base import ScoreNet
from utils.arguments import training_parser
from utils.checkpoint import build_model, read_checkpoint
from utils.engine import FeatureSet, command_line, encode_set, fit, predict
from utils.files import write_atomic
from utils.metrics import correlations, within_scene_srcc

# How the heads of the shipped weights are trained on HECD; weights/README.md gives the same as commands.
RECIPES = {
    "CF": "--backbone-lr 0 --val 0 --epochs 12 --lr 1e-3 --weight-decay 0.1",
    "SCC": "--backbone-lr 0 --val 0 --epochs 12 --lr 1e-3 --weight-decay 0.1",
    "PR": "--backbone-lr 0 --val 0 --epochs 12 --lr 1e-3 --weight-decay 0.1",
}
INNER_FOLDS = 5
_COLORIZERS = ("O", "L", "I", "Z", "P")


def recipe(dimension: str, extra: str = "") -> argparse.Namespace:
    """The training arguments of a branch."""
    words = ["--data", "HECD", "--output", "unused", *shlex.split(RECIPES[dimension]), *shlex.split(extra)]
    return training_parser(None).parse_args(words)


def fresh(start: ScoreNet) -> ScoreNet:
    """A copy of a network, for one training."""
    model = type(start)(**start.config)
    model.load_state_dict(start.state_dict())
    return model


def train_and_predict(
    start: ScoreNet,
    features: FeatureSet,
    train: np.ndarray,
    held: np.ndarray,
    mos: np.ndarray,
    args: argparse.Namespace,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Train a head on the rated pictures among ``train`` and predict the pictures ``held``; both are row numbers."""
    rows = train[np.isfinite(mos[train])]
    model = fit(fresh(start), features.subset(rows, mos[rows], None if scores is None else scores[rows]), None, args, None, {})
    held_set = features.subset(held, mos[held], None if scores is None else scores[held])
    held_set.views = 1  # the plain picture
    return predict(model, held_set, torch.device("cpu")).numpy()


def sub_scores(
    starts: dict[str, ScoreNet],
    features: dict[str, FeatureSet],
    frame: pd.DataFrame,
    train: np.ndarray,
    held: np.ndarray,
    arguments: dict[str, argparse.Namespace],
) -> np.ndarray:
    """CF and SCC of training pictures (out of fold) and held-out pictures, shape (N, 2); NaN elsewhere."""
    scores = np.full((len(frame), 2), np.nan)
    for column, dimension in enumerate(("CF", "SCC")):
        mos = frame[dimension].to_numpy(float)
        for scenes in scene_folds(frame.iloc[train], INNER_FOLDS):
            inside = frame["scene"].isin(scenes).to_numpy()[train]
            scores[train[inside], column] = train_and_predict(
                starts[dimension], features[dimension], train[~inside], train[inside], mos, arguments[dimension]
            )
        scores[held, column] = train_and_predict(starts[dimension], features[dimension], train, held, mos, arguments[dimension])
    return scores


def leave_one_scene_out(
    starts: dict[str, ScoreNet], features: dict[str, FeatureSet], frame: pd.DataFrame, arguments: dict[str, argparse.Namespace]
) -> pd.DataFrame:
    """Predictions of each scene by networks trained on the others: columns CF, SCC, PR, rows of ``frame``."""
    predictions = np.full((len(frame), 3), np.nan)
    for scene in tqdm(sorted(frame["scene"].unique()), unit="scene"):
        outside = (frame["scene"] == scene).to_numpy()
        train, held = np.flatnonzero(~outside), np.flatnonzero(outside)
        scores = sub_scores(starts, features, frame, train, held, arguments)
        mos = frame["PR"].to_numpy(float)
        realism = train_and_predict(starts["PR"], features["PR"], train, held, mos, arguments["PR"], scores)
        predictions[held] = np.column_stack((scores[held], realism))
    return pd.DataFrame(predictions, columns=["CF", "SCC", "PR"])


def table(frame: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Agreement by dimension and kind of picture; the untouched originals are left out throughout."""
    recolored = (frame["method"] != "original").to_numpy()
    colorizers = frame["kind"].isin(_COLORIZERS).to_numpy()
    rows = []
    for dimension in ("CF", "SCC", "PR"):
        mos, pred = frame[dimension].to_numpy(float), predictions[dimension].to_numpy(float)
        for label, chosen in (("all recolorings", recolored), ("real colorizers", colorizers)):
            use = chosen & np.isfinite(mos)
            scenes = frame["scene"].to_numpy()[use]
            pooled = correlations(pred[use], mos[use])
            rows.append(
                {
                    "dimension": dimension,
                    "images": label,
                    "n": int(use.sum()),
                    "SRCC pooled": pooled["SRCC"],
                    "SRCC within scene": within_scene_srcc(pred[use], mos[use], scenes),
                    "PLCC pooled": pooled["PLCC"],
                    "RMSE": pooled["RMSE"],
                }
            )
    return pd.DataFrame(rows)


def load_features(starts: dict[str, ScoreNet], frame: pd.DataFrame, views: int) -> dict[str, FeatureSet]:
    """Encoded views of every picture for each branch; the frozen part of the work, done once."""
    features = {}
    for dimension, model in starts.items():
        pictures = RatedPictures(frame, model.preprocess, dimension, chroma=model.reads_chroma_maps)
        features[dimension] = encode_set(model, pictures, torch.device("cpu"), views, 0, 2)
    return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hecd", type=Path, help="the HECD folder")
    for dimension in ("CF", "SCC", "PR"):
        parser.add_argument(f"--{dimension.lower()}", type=Path, required=True, help=f"start network of {dimension}")
    parser.add_argument("--write", action="store_true", help="write the Markdown table and the predictions")
    args = parser.parse_args()

    frame = with_paths(load_hecd(args.hecd))
    starts = {
        d: build_model(read_checkpoint(path), str(path))
        for d, path in zip(("CF", "SCC", "PR"), (args.cf, args.scc, args.pr), strict=True)
    }
    features = load_features(starts, frame, views=4)
    predictions = leave_one_scene_out(starts, features, frame, {d: recipe(d) for d in starts})
    result = table(frame, predictions)
    text = result.to_markdown(index=False, floatfmt=".2f")
    print(text)
    if args.write:
        folder = Path(__file__).parent
        page = (
            "# Agreement with people on HECD, one scene left out\n\n"
            f"Made by `{command_line()}`, torch {torch.__version__}. {frame['scene'].nunique()} scenes. Higher is better, but\n"
            "for RMSE. CF and SCC are measured on the kinds of picture that stand in for them (data/README.md).\n\n"
            f"{text}\n\nRecipe of the heads:\n\n"
            + "".join(f"- {dimension}: `{words}`\n" for dimension, words in RECIPES.items())
        )
        write_atomic(folder / "hecd.md", page)
        saved = pd.concat([frame[["image", "scene", "method"]], predictions.round(6)], axis=1)
        write_atomic(folder / "hecd_predictions.csv", saved.to_csv(index=False))


if __name__ == "__main__":
    main()
