"""Measure the contribution of the color priors to SCC: the same training with a part of them removed or spoiled.

    python benchmarks/prior_ablation.py data/HECD runs/recolorings/table.csv --labels benchmarks/hecd_objects \
        runs/recolorings/labels --write

Each row trains SCC heads from scratch on HECD with one scene left out (and on some of the recolorings), and is measured on the
left-out scenes. A part is spoiled in training and in testing alike, so that a row shows what the network can do with the rest.
Each row is measured with and without the difference of backbone features of image and gray version, since this global path can
replace much. The objects of nine of the fifteen scenes are boxes that we drew on the originals (benchmarks/hecd_objects); the
other scenes show no object of COCO's 80 categories. ``--write`` makes benchmarks/prior_ablation.md from all results so far,
which are kept in benchmarks/prior_ablation.json.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import SHIPPED

PATHS = ("with", "without")
ROWS = {
    "both priors, compared with the pixels": "",
    "dense prior only": "no objects",
    "comparisons with categories only": "no dense prior",
    "prior-only vector of the categories, as published": "no dense prior, nothing of the pixels of an object",
    "shuffled priors": "categories permuted, dense prior of another image",
    "unconditional priors": "categories all alike, dense prior of no image",
    "pixels in gray": "the image without its colors",
}


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("hecd", type=Path, help="the HECD folder")
    parser.add_argument("recolorings", type=Path, help="table of tools/make_recolorings.py")
    parser.add_argument("--labels", nargs="+", required=True, metavar="DIR", help="objects of the images")
    parser.add_argument("--prior", default=str(SHIPPED / "SCC.pt"), help="prior of tools/train_color_prior.py")
    parser.add_argument("--object-prior", default=str(SHIPPED / "object_prior.npz"), help="prior of tools/build_color_prior.py")
    parser.add_argument(
        "--paths", nargs="+", choices=PATHS, default=PATHS, help="with or without the global path (default: both)"
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="(default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="write benchmarks/prior_ablation.md")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.hecd import interval, recipe, train_head
from data.table import load_data
from models import SemanticConsistencyNet
from models.base import Inputs, color_effect
from models.object_prior import MEASURES, OBJECT_COMPARISONS, ObjectPrior
from models.semantic import pooled
from train_SCC import make_model
from training.engine import predict
from training.images import FeatureSet, RatedImages, collate, labeled_objects
from training.records import command_line
from utils.color import gray_version, rgb_to_lab
from utils.files import write_atomic

RECOLORINGS = 300  # images beside HECD
EPOCHS = 5
SEED = 0
_READING = """What it says, with 15 scenes and one seed:

- The dense prior carries what the comparisons tell. On outputs of real colorizers, within scene and without the global path,
  it reaches 0.22; with the prior of another image, or of no image, nothing is left (-0.06, -0.01).
- On the hue changes that HECD planted, a shuffled or unconditional prior does about as well as the true one: there, how far a
  color is from usual colors tells as much as what the thing is.
- Categories add nothing here, and cost agreement of images pooled, perhaps because six of the 15 scenes show no object of
  COCO's, so that having one tells the scene.
- The global path finds the planted hue changes without any prior. Without the colors of the image nothing is found.
"""
_RESULTS = Path(__file__).parent / "prior_ablation.json"
_COLORIZERS = ("O", "L", "I", "Z", "P")
_BATCH = 8

# What each row lets the network see of: the categories of objects (and their pixels), the dense prior, the image as a whole.
_OF_PIXELS = [i for i, n in enumerate(OBJECT_COMPARISONS) if n.split(",")[0] in (*MEASURES, "lightness", "a", "b")]


class Encoded:
    """Inputs of the network for all images, by row of the table.

    Args:
        model: Network with its priors.
        frame: Images.
        args: Arguments with the labels.
    """

    def __init__(self, model: SemanticConsistencyNet, frame: pd.DataFrame, args: argparse.Namespace) -> None:
        self.model, self.frame, self.args = model.eval(), frame, args
        images = RatedImages(frame, model.preprocess, "SCC")
        self.mos = images.mos
        loader = DataLoader(images, _BATCH, collate_fn=collate)
        rgb, maps, effects = [], [], []
        with torch.inference_mode():
            for inputs, _, _, _ in tqdm(loader, desc="reading"):
                backbone_maps = model.backbone_maps(inputs)
                rgb.append((inputs["rgb"] * 255).round().to(torch.uint8))
                maps.append([m.half() for m in model.prior.semantics(backbone_maps[1])])
                effects.append(color_effect(backbone_maps))
        self.rgb, self.effects = torch.cat(rgb), torch.cat(effects)
        self.maps = [torch.cat(level) for level in zip(*maps, strict=True)]

    @torch.inference_mode()
    def features(self, row: str, path: str) -> Inputs:
        """Compute the features of all images for one row of a table, with or without the global path."""
        model = self.model
        spoiled = {"shuffled priors": lambda p: p.shuffled(SEED), "unconditional priors": ObjectPrior.unconditional}
        whole = model.object_prior
        model.object_prior = spoiled[row](whole) if row in spoiled else whole
        objects = labeled_objects(self.args.labels, model, self.frame)
        scenes = self.frame["scene"].to_numpy()
        other = np.roll(np.arange(len(scenes)), len(scenes) // 2)
        assert (scenes[other] != scenes).all()
        parts = []
        for start in tqdm(range(0, len(scenes), _BATCH), desc=row):
            rows = np.arange(start, min(start + _BATCH, len(scenes)))
            rgb = self.rgb[rows].float() / 255
            if row == "pixels in gray":
                rgb = gray_version(rgb_to_lab(rgb))
            maps = [m[rows].float() for m in self.maps]
            lab = model.pixels(rgb, maps[0].shape[-1])
            shown = [m[other[rows]].float() for m in self.maps] if row == "shuffled priors" else maps
            log_prior = model.prior(shown, lab)
            if row == "unconditional priors":
                log_prior = model.prior.log_marginal[None, :, None, None].expand_as(log_prior)
            cells = model.prior.compare_pixels(log_prior, lab)
            if "only" in row and row != "dense prior only":
                cells = torch.zeros_like(cells)
            objects_batch = collate_objects([objects(int(i), x) for i, x in zip(rows, rgb, strict=True)])
            if row == "dense prior only":
                objects_batch = {k: torch.zeros_like(v) for k, v in objects_batch.items()}
            if row.startswith("prior-only"):
                objects_batch["objects"][..., _OF_PIXELS] = 0
            scene, effect = maps[-1], self.effects[rows]
            parts.append(
                {
                    "cells": cells,
                    "scene": scene,
                    "global": torch.zeros_like(effect) if row == "pixels in gray" or path == "without" else effect,
                    "objects": torch.cat((objects_batch["objects"], pooled(cells, objects_batch["object_cells"])), 2),
                    "object_scene": pooled(
                        scene, torch.nn.functional.adaptive_avg_pool2d(objects_batch["object_cells"], scene.shape[-2:])
                    ),
                    "present": objects_batch["present"],
                }
            )
        model.object_prior = whole
        return {k: torch.cat([p[k] for p in parts])[None] for k in parts[0]}


def collate_objects(items: list[Inputs]) -> dict[str, Tensor]:
    return {k: torch.stack([item[k] for item in items]) for k in items[0]}


_work: dict


def load_work(path: str) -> None:
    """Load the work that ``main`` has prepared; each process computes on one thread."""
    global _work
    torch.set_num_threads(1)
    _work = torch.load(path, weights_only=False, mmap=True)  # written a moment ago by this program


def leave_out(scene: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a scene, and their SCC by a network trained on all other scenes."""
    frame, mos = _work["frame"], _work["mos"].numpy()
    outside = (frame["scene"] == scene).to_numpy()
    known = np.isfinite(mos)
    train, held = np.flatnonzero(~outside & known), np.flatnonzero(outside & known)
    torch.manual_seed(SEED)
    model = SemanticConsistencyNet(**_work["config"])
    model.load_state_dict(_work["model"])
    whole = FeatureSet(_work["features"], _work["mos"], None, 1)
    train_set, held_set = (whole.subset(rows, 1) for rows in (train, held))
    options = replace(recipe("SCC"), epochs=EPOCHS)
    return held, predict(train_head(model, train_set, options), held_set, torch.device("cpu")).numpy()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    frame = load_data([args.hecd, Path(f"{args.recolorings}:{RECOLORINGS}")], "SCC", (-1, 1))
    model = make_model(replace(recipe("SCC"), prior=args.prior, object_prior=args.object_prior))
    encoded = Encoded(model, frame, args)
    rated = frame["kind"].notna() & (frame["method"] != "original") & frame["SCC"].notna()
    colorizers = rated & frame["kind"].isin(_COLORIZERS)
    results = json.loads(_RESULTS.read_text()) if _RESULTS.is_file() else {}
    for path, row in itertools.product(args.paths, args.rows):
        predictions = leave_one_out(encoded.features(row, path), encoded, args.workers)
        cells = {}
        for label, chosen in (("hue changes and colorizers", rated), ("real colorizers", colorizers)):
            use = chosen.to_numpy()
            srcc, within = interval(predictions[use], encoded.mos.numpy()[use], frame["scene"].to_numpy()[use])
            cells |= {f"{label} ({use.sum()}), pooled": srcc, f"{label}, within scene": within}
        results.setdefault(path, {})[row] = cells
        print({"global path": path, "SCC network reads": row} | cells, flush=True)
        if args.write:
            write_atomic(_RESULTS, json.dumps(results, indent=1) + "\n")
            write_atomic(_RESULTS.with_suffix(".md"), page(results))


def leave_one_out(features: Inputs, encoded: Encoded, workers: int) -> np.ndarray:
    """Compute SCC of every rated image by a network that has not seen its scene, shape (N,); NaN for the recolorings."""
    frame, model = encoded.frame, encoded.model
    predictions = np.full(len(frame), np.nan)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/work.pt"
        content = {"frame": frame, "mos": encoded.mos, "features": features}
        torch.save(content | {"config": model.config, "model": model.state_dict()}, path)
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers, load_work, (path,)) as pool:
            scenes = sorted(frame["scene"][frame["kind"].notna()].unique())
            for held, values in tqdm(pool.imap(leave_out, scenes), total=len(scenes)):
                predictions[held] = values
    return predictions


def page(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """Format all results as Markdown."""
    parts = [
        "# What the color priors are worth to SCC\n",
        "SRCC with the ratings of the SCC part of HECD, one scene left out, made by\n\n"
        f"```\n{command_line().partition(' --paths')[0]}\n```\n",
        f"torch {torch.__version__}. Every row: heads trained from scratch, {EPOCHS} epochs, on the other scenes and "
        f"{RECOLORINGS} recolorings, one seed. In brackets: 95 % interval of a bootstrap over scenes. Stage 1 of the shipped "
        "weights (weights/README.md) is left out here.\n",
        _READING,
    ]
    for path in PATHS:
        if path in results:
            rows = [
                {"SCC network reads": row, "that is": ROWS[row]} | results[path][row] for row in ROWS if row in results[path]
            ]
            parts.append(f"## {path.capitalize()} the global path\n\n{pd.DataFrame(rows).to_markdown(index=False)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
