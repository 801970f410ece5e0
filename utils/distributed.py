"""One process or many (torchrun): who am I, and how results come together. Without torchrun everything is a no-op."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def setup(device: str | None) -> str:
    """Join the processes that torchrun started, if any; the device of this one, a GPU by default if there is one."""
    device = device or default_device()
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        if dist.get_rank() > 0:  # one process speaks for all; errors still come from each
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open to the end
    if device.startswith("cuda"):
        local = int(os.environ.get("LOCAL_RANK", 0))
        torch.cuda.set_device(local)
        return f"cuda:{local}"
    return device


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, with gradients averaged over the processes if there are several."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: int) -> int:
    """The main process's value, on every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(values: list[str]) -> list[str]:
    """The values of all processes, one after the other."""
    if not dist.is_initialized():
        return values
    parts: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def mean(value: float) -> float:
    """The mean over the processes."""
    if not dist.is_initialized():
        return value
    values: list[float] = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return sum(values) / len(values)


def cleanup() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
