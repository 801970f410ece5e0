"""One process or many (torchrun): the number of this process, and how results come together; no-ops without torchrun."""

import os
import re
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Check that a device can be used.

    Raises:
        ValueError: If the device cannot be used; says why.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "mps":
        reason = "GPUs of Apple lack float64, which is computed with here"
    elif not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
        reason = "there is no such device"
    elif device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        reason = f"there are {count} CUDA GPUs here"
    else:
        return
    raise ValueError(f"--device {device} cannot be used ({reason}); expected cpu, cuda or cuda:N")


def setup(device: str | None) -> str:
    """Join the processes that torchrun started, if any, and return the device of this process (default: a GPU if any)."""
    device = default_device() if device is None else device
    check_device(device)
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        if dist.get_rank() > 0:  # one process speaks for all; errors still come from each
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open to the end
    if device.startswith("cuda"):
        local = int(os.environ.get("LOCAL_RANK", 0))
        check_device(f"cuda:{local}")
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
    """Return the model, with gradients averaged over the processes if there are several."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Return the main process's value, on every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(values: list[str]) -> list[str]:
    """Return the values of all processes, in the order of the processes."""
    if not dist.is_initialized():
        return values
    by_process: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(by_process, values)
    return [value for of_process in by_process for value in of_process]


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all processes in the order of the batch that they share; see ``training.batches.Batches``.

    Every process has the same number of rows. Gradients flow to the rows of this process.
    """
    if not dist.is_initialized():
        return x
    by_process = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(by_process, x.detach().contiguous())
    by_process[dist.get_rank()] = x
    return torch.stack(by_process, 1).flatten(0, 1)


def gather_batch(index: Tensor, *values: Tensor) -> list[Tensor]:
    """Return a batch that all processes share, each image once; gradients flow to the values of this process.

    Args:
        index: Numbers of the images of this process, shape (B,). Some may be there twice, so that B is the same everywhere.
        values: Values of the images, first dimension B.
    """
    if not dist.is_initialized():
        return list(values)
    first = {number: row for row, number in reversed(list(enumerate(gather_rows(index).tolist())))}
    rows = torch.tensor(sorted(first.values()), device=index.device)
    return [gather_rows(value)[rows] for value in values]


def mean(value: float) -> float:
    """Return the mean over the processes."""
    if not dist.is_initialized():
        return value
    values: list[float] = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return sum(values) / len(values)


def cleanup() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
