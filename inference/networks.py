"""Our own networks as an engine that turns the pixels of an image into scores."""

import copy
import hashlib
import itertools
import threading
from collections.abc import Mapping

import numpy as np
import torch

from inference.scorer import ImageResult, round_score
from models.base import CompactNet, Inputs, Maps, MissingScoreError, ScoreNet
from utils.labels import LabelError, ObjectLabels
from utils.scores import DIMENSIONS


class Replicas:
    """Copies of the networks on every device; each thread has the networks of one device.

    Args:
        networks: Networks by dimension, in evaluation mode.
        devices: Devices to run on; every device gets a copy.
    """

    def __init__(self, networks: Mapping[str, ScoreNet], devices: list[str]) -> None:
        self.networks, self.devices = dict(networks), devices
        self._thread = threading.local()
        self._counter = itertools.count()
        self._lock = threading.Lock()
        torch.set_num_threads(1)  # each core works on an image of its own
        tf32 = any(network.precision == "tf32" for network in networks.values())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

    def of_thread(self) -> dict[str, ScoreNet]:
        """Return the networks on the device of this thread."""
        if not hasattr(self._thread, "networks"):
            torch.set_num_threads(1)  # OpenMP keeps this for each thread
            self._thread.networks = self.on(torch.device(self.devices[next(self._counter) % len(self.devices)]))
        return self._thread.networks

    def on(self, device: torch.device) -> dict[str, ScoreNet]:
        """The networks on a device; those that were given, if they are there."""
        with self._lock:
            if next(iter(self.networks.values())).device == device:
                return self.networks
            return {k: copy.deepcopy(b).to(device) for k, b in self.networks.items()}


class Networks:
    """Our own networks as an engine. Work that they share is done once per image.

    Args:
        networks: Networks by dimension, in evaluation mode.
        devices: Devices to run on; every device gets a copy.
        labels: The objects of the images, for an SCC network.
    """

    def __init__(self, networks: Mapping[str, ScoreNet], devices: list[str], labels: ObjectLabels | None = None) -> None:
        self.replicas = Replicas(networks, devices)
        self.labels = labels
        self._backbones = {d: backbone_key(network) for d, network in networks.items() if isinstance(network, CompactNet)}

    def __call__(self, pixels: np.ndarray, name: str, known: Mapping[str, float]) -> ImageResult:
        return self.compute(self.prepare(pixels), name, known)

    @torch.inference_mode()
    def prepare(self, pixels: np.ndarray) -> dict[tuple, Inputs]:
        """Prepare an image, shape (H, W, 3), for every network; the results are by ``input_key``."""
        rgb, prepared = torch.from_numpy(pixels).permute(2, 0, 1), {}
        for network in self.replicas.of_thread().values():
            if network.input_key not in prepared:
                prepared[network.input_key] = network.prepare(rgb)
        return prepared

    @torch.inference_mode()
    def compute(self, prepared: dict[tuple, Inputs], name: str, known: Mapping[str, float]) -> ImageResult:
        """Compute the scores of a prepared image; ``known`` are scores by dimension that are given."""
        networks = self.replicas.of_thread()
        maps: dict[str | None, Maps | None] = {None: None}  # by backbone; None for a network that shares none
        scores, errors = dict(known), {}
        for dimension in (d for d in DIMENSIONS if d in networks):  # PR last, because it reads CF and SCC
            network, backbone = networks[dimension], self._backbones.get(dimension)
            try:
                inputs = network.inputs_of(prepared[network.input_key], name, self.labels, scores)
            except LabelError as error:
                errors[dimension] = str(error)
                continue
            except MissingScoreError as error:
                errors[dimension] = f"{error}: {errors.get(error.dimension, 'it is not given')}"
                continue
            if isinstance(network, CompactNet) and backbone not in maps:
                maps[backbone] = network.backbone_maps({"rgb": inputs["rgb"][None]})
            scores[dimension] = round_score(network.score_prepared(inputs, maps[backbone]))
        return ImageResult(scores, errors=errors)


def backbone_key(model: CompactNet) -> str:
    """Return a hash that is equal for networks with equal backbones and rankers, whose maps are computed once."""
    digest = hashlib.sha256(f"{model.backbone.name} {model.size}".encode())
    for part in filter(None, (model.backbone, model.ranker)):
        for tensor in part.state_dict().values():
            digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()
