"""The images of a data set as a baseline is trained on them."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from baselines.pictures import BaselinePictures
from baselines.scorer import Baseline
from training.engine import FeatureSet, encode_set
from training.runs import VIEWS, Sets, features_folder, folder_size
from utils import distributed


def baseline_maker(args: argparse.Namespace, model: Baseline, frame: pd.DataFrame) -> Sets:
    """``dataset_maker`` for a published system used as a baseline."""
    names = sorted(set(frame["scene"]))
    number = {scene: i for i, scene in enumerate(names)}
    cache = args.cache or Path(__file__).resolve().parents[1] / "runs" / "cache"

    def plain(part: pd.DataFrame) -> BaselinePictures:
        scenes = torch.tensor([number[scene] for scene in part["scene"]])
        return BaselinePictures(part, model.reader(), model.columns, scenes, args.seed, cache)

    pictures = plain(frame)
    made = pictures.fill() if distributed.is_main() else 0
    distributed.barrier()
    if made:
        print(f"superpixels of {made} pictures found; cache: {folder_size(cache)}")
    if args.backbone_lr != 0 or not model.keeps_features:
        return lambda part, train, scores=None: None if part.empty else plain(part)
    device = torch.device(args.device)
    views = VIEWS if args.augment else 1
    keep = features_folder(args, model, frame)
    encoded = encode_set(model.to(device), pictures, device, views, args.seed, args.workers, keep)
    if distributed.is_main():
        print(f"features of {len(frame)} pictures: {folder_size(keep)}, until the run has ended")
    row_of = {image: row for row, image in enumerate(frame["image"])}

    def make(part: pd.DataFrame, train: bool, scores: np.ndarray | None = None) -> FeatureSet | None:
        rows = np.array([row_of[image] for image in part["image"]], dtype=int)
        return encoded.subset(rows, pictures.mos.numpy()[rows], None, encoded.views if train else 1) if len(rows) else None

    return make
