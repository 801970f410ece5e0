"""Image sets for the training of baselines."""

from pathlib import Path

import pandas as pd
import torch

from baselines.images import BaselineImages
from baselines.scorer import Baseline
from training.images import ImageSets, encoded_sets, folder_size
from training.options import TrainOptions
from utils import distributed


def baseline_sets(options: TrainOptions, model: Baseline, tables: list[pd.DataFrame]) -> ImageSets:
    """Return the function that makes image sets for a published system, see ``image_sets``."""
    frame = pd.concat(tables).drop_duplicates("image").sort_values("image", ignore_index=True)
    number = {scene: i for i, scene in enumerate(sorted(set(frame["scene"])))}
    cache = options.cache or Path(__file__).resolve().parents[1] / "runs" / "cache"

    def plain(part: pd.DataFrame) -> BaselineImages:
        scenes = torch.tensor([number[scene] for scene in part["scene"]])
        return BaselineImages(part, model.reader(), model.columns, scenes, options.seed, cache)

    images = plain(frame)
    made = images.fill() if distributed.is_main() else 0
    distributed.barrier()
    if made:
        print(f"superpixels of {made} images found; cache: {folder_size(cache)}")
    if options.backbone_lr != 0 or not model.keeps_features:
        return lambda part, train=False, scores=None: None if part.empty else plain(part)
    return encoded_sets(options, model, frame, images)
