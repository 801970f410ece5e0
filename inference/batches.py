"""Our own networks as an engine for GPUs: full batches that change no score.

A thread that scores an image prepares it on the device and gives it to the worker of that device, which runs the networks on
batches of one fixed shape: those that wait, and zeros in place of those that do not. A row of such a batch is computed by the
same arithmetic at any place and whatever stands beside it, so a score depends on its image and the weights, not on its company.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.networks import Replicas, backbone_key
from inference.scorer import GPU_BATCH, ImageResult, round_score
from models.base import CompactNet, Inputs, Maps, MissingScoreError, ScoreNet, stack
from utils.choices import DIMENSIONS
from utils.labels import LabelError, ObjectLabels

_PATIENCE = 0.02  # seconds that a batch which is not full waits for further images
_LEAST = 4  # images of a batch, or one; matrix products with two or three rows sum up each row otherwise
_SIDE_BY_SIDE = 2  # batches of a device: one is collected and handed over while the other is computed


class BatchedNetworks:
    """Our own networks as an engine that scores many images at a time.

    Args:
        networks: By dimension, in evaluation mode.
        devices: Where to run; every device gets a copy of the networks and every so many-th image.
        labels: The objects of the images, for an SCC network.
        batch: Images per batch, a multiple of 4. A device on which so many do not fit goes on with half of them.
    """

    def __init__(
        self,
        networks: Mapping[str, ScoreNet],
        devices: list[str],
        labels: ObjectLabels | None = None,
        batch: int = GPU_BATCH,
    ) -> None:
        self.replicas = Replicas(networks, devices)
        places = [torch.device(device) for device in devices]
        self.workers = [DeviceWorker(self.replicas.on(place), place, labels, batch) for place in places]
        self._counter = itertools.count()

    def __call__(self, pixels: np.ndarray, name: str, known: Mapping[str, float]) -> "Future[ImageResult]":
        return self.submit(self.prepare(pixels, name, known))

    def prepare(self, pixels: np.ndarray, name: str, known: Mapping[str, float]) -> "PreparedImage":
        """Bring an image, uint8, shape (H, W, 3), to a device, at the sizes that the networks see."""
        return self.workers[next(self._counter) % len(self.workers)].prepare(pixels, name, known)

    def submit(self, image: "PreparedImage") -> "Future[ImageResult]":
        """Have a prepared image scored in one of the next batches of its device."""
        result: Future[ImageResult] = Future()
        image.worker.queue.put((image, result))
        return result


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image on a device.

    Attributes:
        worker: Of that device.
        inputs: What each network reads, by dimension; PR without the scores that it reads.
        known: Scores that are given.
        errors: Why the image has no score of a dimension.
        ready: Event after which the device has all of it; None on the CPU.
    """

    worker: "DeviceWorker"
    inputs: dict[str, Inputs]
    known: Mapping[str, float]
    errors: dict[str, str]
    ready: Any


class DeviceWorker:
    """Scores the images of one device in batches of one shape. Its threads end with the process.

    Args:
        networks: By dimension, on the device.
        device: Where to run.
        labels: The objects of the images, for an SCC network.
        batch: Images per batch.
    """

    def __init__(self, networks: Mapping[str, ScoreNet], device: torch.device, labels: ObjectLabels | None, batch: int) -> None:
        self.networks = {d: networks[d] for d in DIMENSIONS if d in networks}  # PR last, for it reads the others
        self.device, self.labels, self.batch = device, labels, batch
        self.queue: queue.SimpleQueue[tuple[PreparedImage, Future[ImageResult]]] = queue.SimpleQueue()
        self._backbones = {d: backbone_key(net) for d, net in self.networks.items() if isinstance(net, CompactNet)}
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # beside that of the batches
        self._uploading, self._collecting = threading.Lock(), threading.Lock()
        for _ in range(_SIDE_BY_SIDE):
            threading.Thread(target=self._serve, daemon=True).start()

    @torch.inference_mode()
    def prepare(self, pixels: np.ndarray, name: str, known: Mapping[str, float]) -> PreparedImage:
        """Bring an image, uint8, shape (H, W, 3), to the device, at the sizes that the networks see."""
        _use_one_thread()
        prepared: dict[tuple, Inputs] = {}
        inputs, errors = {}, {}
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            for dimension, network in self.networks.items():
                key = network.input_key
                if key not in prepared:
                    prepared[key] = self._resize(network, pixels)
                inputs[dimension] = prepared[key]
                if dimension == "PR":
                    continue
                try:
                    inputs[dimension] = network.inputs_of(prepared[key], name, self.labels, known)
                except LabelError as error:
                    errors[dimension] = str(error)
            ready = self._stream.record_event() if self._stream else None
        return PreparedImage(self, inputs, known, errors, ready)

    def _resize(self, network: ScoreNet, pixels: np.ndarray) -> Inputs:
        if not isinstance(network, CompactNet):  # by Pillow
            return network.prepare(torch.from_numpy(pixels).permute(2, 0, 1))
        with self._uploading:  # one at a time, for large images take memory
            while True:
                try:
                    rgb = torch.from_numpy(pixels)
                    rgb = rgb.pin_memory().to(self.device, non_blocking=True) if self._stream else rgb
                    return network.prepare(rgb.permute(2, 0, 1))
                except torch.OutOfMemoryError:
                    if self.batch == 1:
                        raise
                self._halve(self.batch)

    def _serve(self) -> None:
        _use_one_thread()
        while True:
            with self._collecting:
                waiting = self._collect()
            self._answer(waiting)
            del waiting  # no image stays on the device while this thread waits

    def _collect(self) -> list[tuple[PreparedImage, "Future[ImageResult]"]]:
        """Return the images that wait, at least one and at most a batch."""
        waiting = [self.queue.get()]
        end = time.monotonic() + _PATIENCE
        with contextlib.suppress(queue.Empty):
            while len(waiting) < self.batch:
                waiting.append(self.queue.get(timeout=max(0.0, end - time.monotonic())))
        return waiting

    def _answer(self, waiting: list[tuple[PreparedImage, "Future[ImageResult]"]]) -> None:
        """Score images and give each its result, or the error that it causes."""
        size = self.batch
        step = size
        if len(waiting) <= size:
            try:
                results = self.score([image for image, _ in waiting], size)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    waiting[0][1].set_exception(error)
                    return
                self._halve(size)
                step = self.batch
            except BaseException as error:  # whatever it is, a thread waits for an answer
                if len(waiting) == 1:
                    waiting[0][1].set_exception(error)
                    return
                step = 1  # the others have no part in it
            else:
                for (_, future), result in zip(waiting, results, strict=True):
                    future.set_result(result)
                return
        for start in range(0, len(waiting), step):
            self._answer(waiting[start : start + step])

    def _halve(self, size: int) -> None:
        """Go on with half of a batch size that does not fit into the memory of the device."""
        self.batch = min(self.batch, size // 2 if size >= 2 * _LEAST else 1)
        if self._stream:
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def score(self, images: list[PreparedImage], size: int) -> list[ImageResult]:
        """Score images by one batch of ``size`` rows."""
        for image in images:
            if image.ready is not None:
                torch.cuda.current_stream(self.device).wait_event(image.ready)
        scores, errors = [dict(image.known) for image in images], [dict(image.errors) for image in images]
        maps: dict[str | None, Maps | None] = {None: None}  # by backbone; None for a network that shares none
        for dimension, network in self.networks.items():
            whole = next((image.inputs[dimension] for image in images if dimension not in image.errors), None)
            if whole is None:
                continue
            # an image with an error lacks what could not be read, and takes that of another: its row is not used
            inputs = stack([whole | image.inputs[dimension] for image in images])
            if dimension == "PR":
                for known, of_image in zip(scores, errors, strict=True):
                    lacking = next((d for d in ("CF", "SCC") if d not in known), None)
                    if lacking is not None:
                        of_image["PR"] = f"{MissingScoreError(lacking)}: {of_image.get(lacking, 'it is not given')}"
                pairs = [[known.get(d, 0.0) for d in ("CF", "SCC")] for known in scores]
                inputs["scores"] = torch.tensor(pairs, dtype=torch.float32, device=self.device)
            inputs = {key: pad(rows, size) for key, rows in inputs.items()}
            backbone = self._backbones.get(dimension)
            if isinstance(network, CompactNet) and backbone not in maps:
                maps[backbone] = network.backbone_maps(inputs)
            values = network.head(network.encode(inputs, maps[backbone]), inputs.get("scores")).tolist()
            for known, of_image, value in zip(scores, errors, values, strict=False):  # without what was padded
                if dimension not in of_image:
                    known[dimension] = round_score(value)
        return [ImageResult(known, errors=of_image) for known, of_image in zip(scores, errors, strict=True)]


def pad(rows: Tensor, size: int) -> Tensor:
    """Fill a batch up to ``size`` rows with zeros."""
    return torch.cat((rows, rows.new_zeros(size - len(rows), *rows.shape[1:]))) if len(rows) < size else rows


def _use_one_thread() -> None:
    if torch.get_num_threads() > 1:  # OpenMP keeps this for each thread
        torch.set_num_threads(1)
