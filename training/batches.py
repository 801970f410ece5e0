"""Order, views and batches of the images of an epoch.

Every random number of an epoch follows from the seed and the number of the epoch, so that a resumed run gives the same
weights as one that was never stopped (on the CPU, bit for bit).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models.base import Inputs
from utils import distributed

_CROP = 0.12  # at most this share of each side is cropped away


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """Return the generator of random numbers of one epoch; ``stream`` tells independent uses apart."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)


class OwnViews(Dataset):
    """An image set that makes its random views itself, from the seed and the epoch; plain views in epoch 0.

    Attributes:
        epoch: Number of the epoch, shared with the processes that read images.
    """

    def __init__(self) -> None:
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()


class EpochSampler(Sampler[int]):
    """A shuffle that depends on seed and epoch alone.

    Args:
        count: Number of images.
        seed: Seed of the shuffle.
        scenes: Number of the scene of each image, shape (count,), to keep the images of a scene together: scenes are
            shuffled, and the images within each scene.
    """

    def __init__(self, count: int, seed: int, scenes: Tensor | None = None) -> None:
        self.count, self.seed, self.scenes, self.epoch = count, seed, scenes, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(self.count, generator=generator)
        if self.scenes is not None:
            place = torch.randperm(int(self.scenes.max()) + 1, generator=generator)
            order = order[place[self.scenes[order]].argsort(stable=True)]
        return iter(order.tolist())


class Batches(Sampler[list[int]]):
    """The share of this process in batches of a sampler's images.

    Processes divide the batch that one process would have. Where a batch cannot be divided evenly, some images are there
    twice, so that all processes have the same number, at least two if the batch has two, as batch normalization needs.

    Args:
        sampler: The images of an epoch.
        size: Images per batch and process.
        drop_last: Whether to leave a smaller last batch out. Else the batch is kept, but a single image joins the batch before,
            because batch normalization cannot train on one image.
    """

    def __init__(self, sampler: EpochSampler, size: int, drop_last: bool) -> None:
        self.sampler, self.size, self.drop_last = sampler, size, drop_last

    def __len__(self) -> int:
        size = self.size * distributed.world_size()
        full, rest = divmod(len(self.sampler), size)
        return full + (rest > 0 and not self.drop_last and not (rest == 1 and full > 0))

    def __iter__(self) -> Iterator[list[int]]:
        order, world = list(self.sampler), distributed.world_size()
        size = self.size * world
        for i in range(len(self)):
            last = i == len(self) - 1 and not self.drop_last
            batch = order[i * size :] if last else order[i * size : (i + 1) * size]
            share = len(batch) if world == 1 else max(math.ceil(len(batch) / world), min(2, len(batch)))
            yield (batch * 2 * world)[: share * world][distributed.rank() :: world]


def augment(inputs: Inputs, generator: torch.Generator, rank: int = 0, world: int = 1) -> Inputs:
    """Flip each image with probability 1/2 and crop the batch mildly; color is never touched.

    Maps of objects are flipped and cropped with the image, to the nearest cell.

    Args:
        inputs: Prepared images.
        generator: Generator of random numbers, the same on all processes.
        rank: Number of the process, whose images are every ``world``-th of a batch.
        world: Number of processes that share the batch.
    """
    flip = (torch.rand(len(inputs["rgb"]) * world, generator=generator) < 0.5)[rank::world]
    top, left, right, bottom = (torch.rand(4, generator=generator) * _CROP / 2).tolist()
    out = {}
    for key, x in inputs.items():
        if x.ndim < 4:  # values of the whole image stay
            out[key] = x
            continue
        x = torch.where(flip.to(x.device)[:, None, None, None], x.flip(3), x)
        h, w = x.shape[2:]
        x = x[:, :, round(top * h) : h - round(bottom * h), round(left * w) : w - round(right * w)]
        out[key] = F.interpolate(x, (h, w), mode="bilinear", antialias=key == "rgb", align_corners=False)
    return out


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    return {k: v.to(device, non_blocking=True) for k, v in inputs.items()}
