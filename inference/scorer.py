"""How images are scored: read each once, compute the scores that are asked for, write a row for every image.

Images are worked on side by side, one thread per image, each in a batch of its own with the arithmetic on one thread: a score
then depends on the image and the weights only, not on its company, the number of cores or the number of threads.

``Scorer`` reads an image and hands its pixels to an engine, which turns them into scores: that of our own networks is in
inference/networks.py, that of the published systems in infer_baseline.py. Nothing here needs torch.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from inference.sub_scores import SubScores
from utils.images import ImageList, ImageReadError, Packed, is_gray, read_rgb
from utils.scores import ScoreWriter

# Larger images are worked on, and larger files read, one at a time, for the sake of memory.
_ALONE_PIXELS = 16_000_000
_ALONE_BYTES = 8_000_000
DIGITS = 6  # of a score in a score file
GPU_BATCH = 64  # images that a GPU scores at a time
GPU_THREADS = 3 * GPU_BATCH  # of each GPU: a batch is computed, one is handed over, one is read


@dataclass(frozen=True)
class ImageResult:
    """The scores of one image.

    Attributes:
        scores: By dimension.
        error: Why the image has none; empty if it has some.
        errors: Why it has none of a single dimension, where the others have one.
        gray: Whether it has no color.
    """

    scores: dict[str, float]
    error: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)
    gray: bool = False


# From sRGB, uint8, shape (H, W, 3), the name of the image and the scores that are given, to the result but for ``gray``. It is
# called from many threads, and raises what one image can cause: RuntimeError, ValueError, OSError or MemoryError. An engine
# that scores many images at a time returns a future, and needs the pixels no more.
Engine: TypeAlias = Callable[[np.ndarray, str, Mapping[str, float]], "ImageResult | Future[ImageResult]"]


class Scorer:
    """The work on one image, from its file to its result.

    Args:
        engine: Turns pixels into scores.
        read: What gives the pixels of a file; None for ``read_rgb``.
        at_once: Images whose pixels are in memory at a time; None for one per thread.
    """

    def __init__(
        self, engine: Engine, read: Callable[[Path | Packed], np.ndarray] | None = None, at_once: int | None = None
    ) -> None:
        self.engine, self.read = engine, read
        self._at_once = contextlib.nullcontext() if at_once is None else threading.Semaphore(at_once)
        self._large = threading.Lock()

    def __call__(self, path: Path | Packed, known: Mapping[str, float], name: str = "") -> ImageResult:
        """Score one image.

        Args:
            path: Where it lies, a file or a sample of a shard.
            known: Scores that are taken from elsewhere, for PR.
            name: What its labels are found by.

        Returns:
            Its scores, or the reason why there are none. Raises nothing that one image can cause.
        """
        try:
            with self._at_once:
                with self._large if _file_size(path) > _ALONE_BYTES else contextlib.nullcontext():
                    pixels = (self.read or read_rgb)(path)
                    gray = is_gray(pixels)
                large = pixels.shape[0] * pixels.shape[1] > _ALONE_PIXELS
                with self._large if large else contextlib.nullcontext():
                    result = self.engine(pixels, name, known)
                del pixels
            return replace(result.result() if isinstance(result, Future) else result, gray=gray)
        except ImageReadError as error:
            return ImageResult({}, str(error))
        except (MemoryError, RuntimeError, ValueError, OSError) as error:
            return ImageResult({}, f"{path.name}: {type(error).__name__}: {error}")


def _file_size(path: Path | Packed) -> int:
    """Bytes of an image, 0 if it is no file."""
    if isinstance(path, Path):
        return path.stat().st_size if path.is_file() else 0
    return path.size


def round_score(score: float) -> float:
    """A score as score files hold it, so that PR reads the same number from a file and from memory."""
    return round(score, DIGITS)


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(devices: list[str], per_gpu: int = 3) -> int:
    """One thread per core, or several per GPU, so that images are read while others are scored."""
    return core_count() if devices == ["cpu"] else per_gpu * len(devices)


def score_images(
    scorer: Scorer, images: ImageList, writers: Mapping[str, ScoreWriter], workers: int, given: SubScores | None = None
) -> None:
    """Score the images that a writer still lacks.

    Args:
        scorer: Does the work on one image.
        images: The images.
        writers: Score files by their dimension; each gets the columns it was opened with.
        workers: Threads.
        given: Sub-scores for PR. An image without one gets an error row in the PR file.
    """
    given = given or SubScores()

    def result_of(name: str) -> ImageResult:
        if name in images.escaped:
            return ImageResult({}, f"{name}: the file name is not UTF-8, so no table can hold it; rename the file")
        return scorer(images.place(name), given.scores.get(name, {}), name)

    lacking = {dimension: set(writer.remaining(images.names)) for dimension, writer in writers.items()}
    waiting = iter([name for name in images.names if any(name in names for names in lacking.values())])
    pending: dict[Future[ImageResult], str] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=len(set().union(*lacking.values())), unit="image", disable=None, leave=False) as bar:
            while True:
                # few in flight, so that memory stays bounded
                for name in itertools.islice(waiting, 2 * workers - len(pending)):
                    pending[pool.submit(result_of, name)] = name
                if not pending:
                    break
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    name, result = pending.pop(future), future.result()
                    for dimension, writer in writers.items():
                        if name in lacking[dimension]:
                            no_sub_score = given.errors.get(name, "") if dimension == "PR" else ""
                            error = result.error or no_sub_score or result.errors.get(dimension, "")
                            scores = {} if error else {column: result.scores[column] for column in writer.columns}
                            writer.add(name, scores, result.gray, error)
                    bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
