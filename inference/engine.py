"""The three compact networks as one graph, run by ONNX Runtime: scores without torch.

The graph, ``weights/icqa.onnx.gz``, is made from the shipped checkpoints by tools/export.py. It stores no weights that they
store but says where in their files these lie. benchmarks/engine_choice.md has what was measured and why it is this engine.
"""

import gzip
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from inference.resize import resize
from utils.choices import DIMENSIONS, SHIPPED
from utils.files import sha256

GRAPH = SHIPPED / "icqa.onnx.gz"
ABOUT = "icqa"  # key of the metadata that tools/export.py writes into a graph
DIGITS = 6  # of a score, as score files hold it

_ADVICE = "run python tools/export.py to make it again, or score with --engine torch"


class Engine:
    """CF, SCC and PR of an image by the shipped compact networks. Any number of threads may share one engine.

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
        self, pixels: np.ndarray, dimensions: Collection[str] = DIMENSIONS, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Score one image.

        Args:
            pixels: sRGB, uint8, shape (H, W, 3).
            dimensions: What to compute.
            known: CF and SCC that PR reads in place of computed ones, in [-1, 1].

        Returns:
            Scores in [-1, 1] by dimension, higher is better, rounded as score files hold them.
        """
        names = [dimension for dimension in DIMENSIONS if dimension in dimensions]
        given = np.array([(known or {}).get(dimension, np.nan) for dimension in ("CF", "SCC")], np.float32)
        inputs = {"levels": resize(pixels, self.size), "given": given}
        values = self._session.run(names, inputs, self._only_what_is_asked)
        return {name: round(float(value[0]), DIGITS) for name, value in zip(names, values, strict=True)}

