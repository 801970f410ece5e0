"""Rates of the stages of scoring: reading alone, preprocessing alone, the networks alone, and all three one after another.

Each stage runs on as many threads as infer_PR.py uses, over images in memory. To measure another engine than torch, write a
class with the methods of :class:`TorchEngine`.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from inference.batches import BatchedNetworks, PreparedImage
from inference.graph import Graph, GraphEngine
from inference.networks import Networks
from inference.resize import resize
from inference.scorer import GPU_THREADS, Scorer, core_count, worker_count
from models import load_model
from models.base import Inputs, ScoreNet
from utils.choices import DIMENSIONS
from utils.images import ImageList, is_gray, list_images, read_rgb
from utils.labels import ObjectLabels, read_color_curves

STAGES = ("decode only", "preprocess only", "forward only")
PIPELINE = "pipeline"
_LEAST_SECONDS = 1.0  # that a rate is measured for,
_LEAST_ITEMS = 8  # for each thread in a pass, so that its end, when threads have nothing to do, counts little
_IMAGES = 16  # that the stages are measured with, over and over
_ROUNDS = 3  # in turns with the other stages, so that a slow spell of the machine meets all; the median counts
_MATRIX = {"cuda": 8192, "cpu": 2048}  # rows of the matrices whose product is taken as the peak

Prepared = dict[tuple, Inputs] | PreparedImage  # by the input_key of the networks; the other on a GPU


class TorchEngine:
    """Networks of infer_PR.py, and the stages of its work on one image.

    Args:
        branches: Networks by dimension, in evaluation mode.
        device: Device of the networks.
        labels: Objects of the images, for a published SCC network.
        precision: Arithmetic of the networks.
    """

    def __init__(
        self, branches: dict[str, ScoreNet], device: str = "cpu", labels: ObjectLabels | None = None, precision: str = "float32"
    ) -> None:
        self.device, self.precision, self.workers = device, precision, worker_count([device], GPU_THREADS)
        for branch in branches.values():
            branch.to(device).set_precision(precision)
        self._networks = Networks(branches, [device], labels)
        batched = BatchedNetworks(branches, [device], labels) if device != "cpu" else None
        self._batched = batched
        self._scorer = Scorer(batched or self._networks, at_once=core_count() if batched else None)

    @classmethod
    def of_compact(cls, device: str, precision: str = "float32") -> "TorchEngine":
        """Return an engine of the shipped weights."""
        branches: dict[str, Any] = {dimension: load_model(dimension) for dimension in DIMENSIONS}
        return cls(branches, device, precision=precision)

    @classmethod
    def of_published(cls, files: Path, device: str, precision: str) -> "TorchEngine":
        """Return an engine of the published networks, with the files that benchmarks/weights.py wrote."""
        branches: dict[str, Any] = {d: load_model(files / f"{d}.pth", dimension=d, preset="published") for d in DIMENSIONS}
        return cls(branches, device, ObjectLabels(files / "labels", read_color_curves(files / "color_.json")), precision)

    def decode(self, path: Path) -> np.ndarray:
        """Read the pixels of a file, uint8, shape (H, W, 3)."""
        pixels = read_rgb(path)
        is_gray(pixels)
        return pixels

    def prepare(self, pixels: np.ndarray, name: str) -> Prepared:
        """Prepare the inputs of all networks."""
        if self._batched is None:
            return self._networks.prepare(pixels)
        prepared = self._batched.prepare(pixels, name, {})
        if prepared.ready is not None:
            prepared.ready.synchronize()
        return prepared

    def forward(self, prepared: Prepared, name: str) -> dict[str, float]:
        """Score prepared inputs by all networks; on a GPU in a batch with those of other threads."""
        if isinstance(prepared, PreparedImage):
            assert self._batched is not None
            return self._batched.submit(prepared).result().scores
        return dict(self._networks.compute(prepared, name, {}).scores)

    def score(self, path: Path, name: str) -> dict[str, float]:
        """Do all of the work on one image.

        Raises:
            RuntimeError: If the image has no score.
        """
        row = self._scorer(path, {}, name)
        if row.error or row.errors:
            raise RuntimeError(row.error or next(iter(row.errors.values())))
        return row.scores

    def operations(self, pixels: np.ndarray, name: str) -> int:
        """Return the floating point operations of the networks on one image.

        A multiplication and an addition count as two. Only matrix products, convolutions and attention are counted.
        """
        # Not fused, for the counter knows no fused attention of a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self._networks.compute(self._networks.prepare(pixels), name, {})
        return counter.get_total_flops()

    def matrix_peak(self) -> float:
        """Return the operations per second of a large square matrix product, on the same device in the same arithmetic."""
        device = torch.device(self.device)
        rows = _MATRIX[device.type]
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        left, right, out = (torch.ones(rows, rows, device=device, dtype=dtype) for _ in range(3))

        def seconds(calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                torch.mm(left, right, out=out)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

        threads = torch.get_num_threads()
        torch.set_num_threads(self.workers if device.type == "cpu" else threads)
        seconds(1)  # the first is slower
        calls = math.ceil(_LEAST_SECONDS / seconds(1))
        rate = 2 * rows**3 * calls / seconds(calls)
        torch.set_num_threads(threads)
        return rate


class GraphStages(TorchEngine):
    """The graph that infer_PR.py runs on a CPU, for the shipped weights."""

    def __init__(self) -> None:
        super().__init__({dimension: load_model(dimension) for dimension in DIMENSIONS})
        self._graph = Graph()
        self._scorer = Scorer(GraphEngine(self._graph, DIMENSIONS))

    def prepare(self, pixels: np.ndarray, name: str) -> Any:
        return resize(pixels, self._graph.size)

    def forward(self, prepared: Any, name: str) -> dict[str, float]:
        return self._graph.run(prepared)

    def operations(self, pixels: np.ndarray, name: str) -> int:
        return TorchEngine(self._networks.replicas.networks).operations(pixels, name)


@dataclass(frozen=True)
class Rates:
    """Result of :func:`measure`.

    Attributes:
        images_per_second: Rate by stage, and of the pipeline.
        operations: Operations of the networks on one image.
        peak: Operations per second of a large matrix product.
        workers: Number of threads.
    """

    images_per_second: dict[str, float]
    operations: int
    peak: float
    workers: int

    def text(self) -> str:
        """Return the result in Markdown."""
        lines = [f"| stage, {self.workers} threads | images per s |", "| --- | --- |"]
        lines += [f"| {stage} | {rate:.1f} |" for stage, rate in self.images_per_second.items()]
        slowest = min(STAGES, key=self.images_per_second.__getitem__)
        share = self.images_per_second[PIPELINE] / self.images_per_second[slowest]
        achieved = self.operations * self.images_per_second["forward only"]
        return "\n".join(
            [
                *lines,
                "",
                f"The pipeline reaches **{share:.0%}** of the smallest of the three, {slowest}. The networks take "
                f"{self.operations / 1e9:.1f} GFLOPs per image: {achieved / 1e12:.3g} TFLOP/s in forward only, "
                f"**{achieved / self.peak:.1%}** of the {self.peak / 1e12:.3g} TFLOP/s of a large matrix product.",
            ]
        )


def measure(engine: TorchEngine, images: ImageList) -> Rates:
    """Measure each stage alone, and the pipeline."""
    names = images.names[:_IMAGES]
    paths = [images.path(name) for name in names]
    pixels = [engine.decode(path) for path in paths]
    prepared = [engine.prepare(image, name) for image, name in zip(pixels, names, strict=True)]
    stages: dict[str, tuple[Callable[..., Any], Sequence[tuple]]] = {
        "decode only": (engine.decode, list(zip(paths))),
        "preprocess only": (engine.prepare, list(zip(pixels, names, strict=True))),
        "forward only": (engine.forward, list(zip(prepared, names, strict=True))),
        PIPELINE: (engine.score, list(zip(paths, names, strict=True))),
    }
    rounds = [{stage: rate(*of_stage, engine.workers) for stage, of_stage in stages.items()} for _ in range(_ROUNDS)]
    rates = {stage: statistics.median(of_round[stage] for of_round in rounds) for stage in stages}
    return Rates(rates, engine.operations(pixels[0], names[0]), engine.matrix_peak(), engine.workers)


def rate(work: Callable[..., Any], items: Sequence[tuple], workers: int) -> float:
    """Return the calls per second on ``workers`` threads, in passes over all items for at least one second."""
    items = list(items) * math.ceil(_LEAST_ITEMS * workers / len(items))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda item: work(*item), items[: 2 * workers]))  # the first call of a thread is slower
        done, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < _LEAST_SECONDS:
            done += sum(1 for _ in pool.map(lambda item: work(*item), items))
        return done / seconds


def measure_folder(folder: Path, preset: str, device: str, precision: str, files: Path) -> Rates:
    """Measure the engine of infer_PR.py for a preset; ``files`` is the folder of files for the published preset."""
    if preset == "compact":
        engine = GraphStages() if device == "cpu" else TorchEngine.of_compact(device, precision)
        return measure(engine, list_images(folder))
    return measure(TorchEngine.of_published(files, device, precision), list_images(folder))
