"""Scoring on many machines with Ray: blocks of images go to workers, their rows come back as score files.

A block is a few hundred images, of one shard where there are shards. A worker, a process with four cores or one GPU, scores a
block as one machine scores a folder, and writes its rows to score files of the block, in ``OUTPUT.csv.blocks``. The process
that was started takes these into the score files of the run. A worker that dies leaves its finished rows to the one that
takes over. All machines need the images, the output and this repository at the same paths, as on a shared file system.

Ray is imported here alone, when it is asked for.
"""

import argparse
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inference import command
from inference.scorer import GPU_THREADS, score_images
from inference.sub_scores import SubScores
from utils.images import ImageList
from utils.scores import ScoreWriter, read_rows

_IMAGES = 256  # of a block, at most
_CORES = 4  # of a worker, at most
_TRIES = 3  # of a block whose workers die
_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Block:
    """Images that one worker scores.

    Attributes:
        number: Position of its first image among all, which its score files are named after.
        images: Those that lack a row.
        beside: Files beside images, by dimension and name, see ``Branch``.
        given: Sub-scores for PR.
    """

    number: int
    images: ImageList
    beside: Mapping[str, Mapping[str, Path]]
    given: SubScores

    def path(self, folder: Path, dimension: str) -> Path:
        """The score file of a dimension."""
        return folder / f"{self.number:010d}_{dimension}.csv"


def score_blocks(
    args: argparse.Namespace,
    branches: Mapping[str, command.Branch],
    images: ImageList,
    writers: Mapping[str, ScoreWriter],
    devices: list[str],
    objects: command.Objects | None = None,
    given: SubScores | None = None,
) -> None:
    """Score the images that a writer still lacks on a Ray cluster: a new one of this machine, or that at ``args.ray``.

    Args:
        args: The command line.
        branches: What is computed, by dimension.
        images: The images.
        writers: Score files by their dimension.
        devices: On a CPU workers get cores, else a GPU each.
        objects: What an SCC network reads beside the images.
        given: Sub-scores for PR.

    Raises:
        ValueError: If Ray is not installed, there is no cluster at the address, a worker cannot load the networks, or all
            workers of a block died.
    """
    ray = _connect(args.ray)
    try:
        gpu = devices != ["cpu"]
        threads, count = _workers(ray, gpu, args.workers)
        main = branches[list(branches)[-1]]
        folder = main.path.with_name(f"{main.path.name}.blocks").absolute()
        if args.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        lacking = {dimension: set(writer.remaining(images.names)) for dimension, writer in writers.items()}
        blocks = list(_blocks(images, set().union(*lacking.values()), branches, given or SubScores(), count))
        of_workers = argparse.Namespace(**{**vars(args), "device": "cuda" if gpu else "cpu", "workers": threads})
        plain = {d: replace(branch, model=None, beside={}) for d, branch in branches.items()}  # type: ignore[arg-type]
        setting = (of_workers, plain, None if objects is None else replace(objects, files={}), folder, os.getcwd())
        options = {"num_cpus": 0 if gpu else threads, "num_gpus": int(gpu), "scheduling_strategy": "SPREAD"}
        start = ray.remote(_Worker).options(**options).remote
        _run(ray, lambda: start(*setting), min(count, len(blocks)), deque(blocks), folder, writers, lacking)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        ray.shutdown()


class _Worker:
    """What scores blocks, in a process of its own."""

    def __init__(
        self,
        args: argparse.Namespace,
        branches: dict[str, command.Branch],
        objects: command.Objects | None,
        folder: Path,
        cwd: str,
    ) -> None:
        self.args, self.branches, self.objects, self.folder, self.cwd = args, branches, objects, folder, cwd

    def load(self) -> None:
        """Load the networks."""
        os.chdir(self.cwd)  # file names of the command line start from there
        for dimension, branch in self.branches.items():
            weights = getattr(self.args, f"{dimension.lower()}_weights", self.args.weights)
            self.branches[dimension] = replace(branch, model=command.load_branch(self.args, dimension, weights))
        devices = ["cpu"] if self.args.device == "cpu" else ["cuda:0"]  # Ray shows a worker its own GPU alone
        self.scorer = command.make_scorer(self.args, self.branches.values(), devices, self.objects)

    def score(self, block: Block) -> None:
        """Write the score files of a block."""
        writers: dict[str, ScoreWriter] = {}
        try:
            for dimension, branch in self.branches.items():
                path = block.path(self.folder, dimension)
                branch = replace(branch, path=path, beside=block.beside[dimension])
                writers[dimension] = command.open_writer(branch, block.images)
            score_images(self.scorer, block.images, writers, self.args.workers, block.given)
        finally:
            for writer in writers.values():
                writer.close()


def _connect(address: str) -> Any:
    """Ray, connected to the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray, which is not installed; pip install -r requirements-ray.txt") from error
    paths = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
    options = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--ray {address}: no cluster can be reached there ({error}); start one with: ray start --head, or leave out the "
            "address to use this machine"
        ) from error
    return ray


def _workers(ray: Any, gpu: bool, requested: int | None) -> tuple[int, int]:
    """Threads of a worker, and how many workers there is room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpu:
        return requested or GPU_THREADS, max(1, int(sum(node.get("GPU", 0) for node in nodes)))
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    threads = min(requested or _CORES, *cores, 1 << 20) if cores else 1
    return threads, max(1, sum(own // threads for own in cores))


def _blocks(
    images: ImageList, lacking: set[str], branches: Mapping[str, command.Branch], given: SubScores, workers: int
) -> Iterator[Block]:
    """The images that lack a row, in blocks of one shard each."""
    size = max(1, min(_IMAGES, len(images.names) // (4 * workers)))
    start, shard = 0, None
    starts = []
    for position, name in enumerate(images.names):
        own = images.samples[name].shard.path if images.samples else ""  # type: ignore[attr-defined]
        if own != shard or position == start + size:
            start, shard = position, own
            starts.append(start)
    for start, end in zip(starts, [*starts[1:], len(images.names)], strict=True):
        names = [name for name in images.names[start:end] if name in lacking]
        if names:
            part = ImageList(
                images.root,
                names,
                {name: images.escaped[name] for name in names if name in images.escaped},
                samples={name: images.samples[name] for name in names} if images.samples else {},
            )
            scores = {name: given.scores[name] for name in names if name in given.scores}
            of_names = SubScores(scores, {name: given.errors[name] for name in names if name in given.errors})
            beside = {d: {n: b.beside[n] for n in names if n in b.beside} for d, b in branches.items()}
            yield Block(start, part, beside, of_names)


def _run(
    ray: Any,
    start: Callable[[], Any],
    count: int,
    blocks: deque[Block],
    folder: Path,
    writers: Mapping[str, ScoreWriter],
    lacking: Mapping[str, set[str]],
) -> None:
    """Hand blocks to workers until all are done; replace workers that die."""
    pending: dict[Any, tuple[Any, Block | None]] = {}  # by what Ray answers: a worker, and what it works on
    tries: dict[int, int] = {}
    lost: list[str] = []
    undone, dead_at_start = len(blocks), 0

    def begin() -> None:
        worker = start()
        pending[worker.load.remote()] = worker, None

    for _ in range(count):
        begin()
    with tqdm(total=sum(len(block.images.names) for block in blocks), unit="image", disable=None, leave=False) as bar:
        while undone:
            for answer in ray.wait(list(pending))[0]:
                worker, block = pending.pop(answer)
                try:
                    ray.get(answer)
                    dead_at_start = 0
                    if block is not None:
                        _take(block, folder, writers, lacking)
                        bar.update(len(block.images.names))
                        undone -= 1
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, BlockingIOError):  # a worker that is cut off still writes the block
                        raise ValueError(f"a worker of the cluster says: {error.cause}") from error
                    undone -= _again(block, blocks, tries, lost)
                except ray.exceptions.RayError as error:  # the worker, or its machine, is gone
                    dead_at_start += block is None
                    if dead_at_start > _TRIES:
                        raise ValueError(f"workers of the cluster die while they load the networks: {error}") from error
                    undone -= _again(block, blocks, tries, lost)
                    begin()
                    continue
                if blocks:
                    block = blocks.popleft()
                    pending[worker.score.remote(block)] = worker, block
    if lost:
        raise ValueError(
            f"{len(lost)} images have no row, e.g. {lost[0]}: {_TRIES} workers died with their block, of memory perhaps; "
            "run the same command again to try once more, or without --ray"
        )


def _again(block: Block | None, blocks: deque[Block], tries: dict[int, int], lost: list[str]) -> int:
    """Put a block back whose worker is gone; returns how many blocks are given up."""
    if block is None:
        return 0
    tries[block.number] = tries.get(block.number, 0) + 1
    if tries[block.number] < _TRIES:
        blocks.append(block)
        return 0
    lost += block.images.names
    return 1


def _take(block: Block, folder: Path, writers: Mapping[str, ScoreWriter], lacking: Mapping[str, set[str]]) -> None:
    """Take the rows of a block into the score files of the run, and remove those of the block."""
    for dimension, writer in writers.items():
        path = block.path(folder, dimension)
        for row in read_rows(path).rows:
            if row["image"] in lacking[dimension]:
                writer.add(row["image"], {column: row[column] for column in writer.columns}, bool(row["gray"]), row["error"])
    for dimension in writers:
        path = block.path(folder, dimension)
        for file in (path, path.with_name(path.name + ".json")):
            file.unlink(missing_ok=True)
