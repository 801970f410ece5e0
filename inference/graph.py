"""The three compact networks as one graph, run by ONNX Runtime: scores without torch.

The graph, ``weights/icqa.onnx.gz``, is made from the shipped checkpoints by tools/export.py. It stores no weights that they
store but says where in their files these lie. benchmarks/engine_choice.md has what was measured and why it is this engine.
"""

import gzip
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from inference.resize import resize
from inference.scorer import ImageResult, round_score
from utils.choices import DIMENSIONS, SHIPPED
from utils.files import sha256
from utils.images import read_rgb, to_rgb_array

GRAPH = SHIPPED / "icqa.onnx.gz"
ABOUT = "icqa"  # key of the metadata that tools/export.py writes into a graph

_NO_MEMORY = "Failed to allocate memory"  # in the message of ONNX Runtime, amid the names of its files
_ADVICE = "run python tools/export.py to make it again, or score with --engine torch"


class Graph:
    """CF, SCC and PR of an image by the shipped compact networks. Any number of threads may share one.

    Every image is a run of its own, on the thread of its caller: a score depends on the image and the weights alone.

    Args:
        path: A graph of tools/export.py; the checkpoints that it was made from lie in the same folder.

    Attributes:
        size: Side of the square image that the networks see, in pixels.
        about: Of each dimension: its checkpoint (``file``), the ``sha256`` of that file, how images are prepared
            (``preprocessing``), and where the file lists the training images (``seen``: first byte and number of rows).

    Raises:
        FileNotFoundError: If there is no such graph.
        ValueError: If the file is no graph of tools/export.py, or a checkpoint has changed since it was made.
    """

    def __init__(self, path: Path = GRAPH) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no graph of the compact networks at {path}; {_ADVICE}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # cores are filled with images, not with parts of one
        options.log_severity_level = 4  # errors are raised, and need not be printed as well
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        try:
            graph = gzip.decompress(path.read_bytes())
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            about = json.loads(self._session.get_modelmeta().custom_metadata_map[ABOUT])
            self.size: int = about["size"]
            self.about: dict[str, dict[str, Any]] = {dimension: about[dimension] for dimension in DIMENSIONS}
        except Exception as error:  # the runtime has kinds of its own; an absent or shortened checkpoint raises one of them
            raise ValueError(f"{path} cannot be loaded with the checkpoints beside it ({error}); {_ADVICE}") from error
        for branch in self.about.values():
            if sha256(path.parent / branch["file"]) != branch["sha256"]:
                raise ValueError(f"{path} was made from another {branch['file']} than the one beside it; {_ADVICE}")
        self.path = path
        self._only_what_is_asked = onnxruntime.RunOptions()
        self._only_what_is_asked.only_execute_path_to_fetches = True

    def score(
        self,
        image: np.ndarray | Image.Image | str | Path,
        dimensions: Collection[str] = DIMENSIONS,
        known: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Score one image.

        Args:
            image: A path, a Pillow image, or sRGB, uint8, shape (H, W, 3).
            dimensions: What to compute.
            known: CF and SCC that PR reads in place of computed ones, in [-1, 1].

        Returns:
            Scores in [-1, 1] by dimension, higher is better, rounded as score files hold them.

        Raises:
            ImageReadError: If a path does not lead to a readable image.
            ValueError: If an array is of another shape or type.
        """
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise ValueError(f"an array must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}")
            pixels = image
        else:
            pixels = to_rgb_array(image) if isinstance(image, Image.Image) else read_rgb(image)
        return self.run(resize(pixels, self.size), dimensions, known)

    def run(
        self, levels: np.ndarray, dimensions: Collection[str] = DIMENSIONS, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Score an image that :func:`inference.resize.resize` has resized to ``size``."""
        names = [dimension for dimension in DIMENSIONS if dimension in dimensions]
        given = np.array([(known or {}).get(dimension, np.nan) for dimension in ("CF", "SCC")], np.float32)
        try:
            values = self._session.run(names, {"levels": levels, "given": given}, self._only_what_is_asked)
        except Exception as error:  # the runtime has kinds of its own, and an image that is too much must not stop a folder
            message = str(error).strip()
            if _NO_MEMORY in message:
                raise MemoryError(message[message.index(_NO_MEMORY) :]) from error
            raise RuntimeError(message) from error
        return {name: round_score(float(value[0])) for name, value in zip(names, values, strict=True)}


@dataclass(frozen=True)
class Exported:
    """One dimension of a graph: what score files and the scripts ask of a network, without one.

    Attributes:
        graph: The graph.
        dimension: CF, SCC or PR.
    """

    graph: Graph
    dimension: str
    preset = "compact"
    engine = "onnxruntime"

    @property
    def source(self) -> Path:
        """The checkpoint."""
        return self.graph.path.parent / self.graph.about[self.dimension]["file"]

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the checkpoint."""
        return self.graph.about[self.dimension]["sha256"]

    def preprocessing(self) -> dict[str, Any]:
        """What happens to an image before the network, in words and numbers."""
        return self.graph.about[self.dimension]["preprocessing"]

    @property
    def seen(self) -> tuple[frozenset[int], frozenset[int]] | None:
        """File sizes and fingerprints of the training images; None if the checkpoint does not say."""
        place = self.graph.about[self.dimension]["seen"]
        if place is None:
            return None
        offset, rows = place
        with open(self.source, "rb") as file:
            file.seek(offset)
            sizes, ids = np.frombuffer(file.read(16 * rows), np.int64).reshape(-1, 2).T
        return frozenset(sizes.tolist()), frozenset(ids.tolist())


class GraphEngine:
    """A graph as what turns pixels into scores.

    Args:
        graph: The graph.
        dimensions: What is computed.
    """

    def __init__(self, graph: Graph, dimensions: Collection[str]) -> None:
        self.graph, self.dimensions = graph, [d for d in DIMENSIONS if d in dimensions]

    def __call__(self, pixels: np.ndarray, name: str, known: Mapping[str, float]) -> ImageResult:
        wanted, errors = list(self.dimensions), {}
        lacking = next((d for d in ("CF", "SCC") if d not in known and d not in wanted), None)
        if "PR" in wanted and lacking is not None:
            wanted.remove("PR")
            errors["PR"] = f"no {lacking} score: it is not given"
        scores = self.graph.score(pixels, wanted, known) if wanted else {}
        return ImageResult({**known, **scores}, errors=errors)
