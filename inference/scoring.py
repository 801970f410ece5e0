"""Score a folder: read each picture once, run the branches that are asked for, write a row for every picture.

Pictures are worked on side by side, one thread a picture, each in a batch of its own with the arithmetic on one thread: a
score then depends on the picture and the weights only, not on its company, the number of cores or the number of threads.
"""

import argparse
import contextlib
import copy
import hashlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from models.base import CompactNet, Inputs, Maps, ScoreNet
from models.loading import find_published, load_model
from utils import distributed, interrupt, startup
from utils.files import picture_id, sha256
from utils.images import ImageList, ImageReadError, is_gray, list_images, printable, read_rgb
from utils.labels import LabelError, ObjectLabels, no_curves, read_color_curves
from utils.scenes import ORIGINALS, scenes_of
from utils.scores import DIMENSIONS, ScoreWriter, read_scores, scored_folder, write_json

# Larger pictures are worked on, and larger files read, one at a time, for the sake of memory.
_ALONE_PIXELS = 16_000_000
_ALONE_BYTES = 8_000_000


@dataclass(frozen=True)
class Row:
    """What became of one picture."""

    scores: dict[str, float]
    gray: bool
    error: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)  # of a single dimension, where the others have scores


class Scorer:
    """The branches on each device that is used, and the work on one picture.

    Args:
        branches: Networks by dimension, in evaluation mode.
        devices: Where to run; every device gets a copy.
        labels: The objects of the pictures, for an SCC network.
    """

    def __init__(
        self,
        branches: Mapping[str, ScoreNet],
        devices: list[str],
        labels: ObjectLabels | None = None,
    ) -> None:
        self.branches = dict(branches)
        self.backbones = {d: backbone_key(branch) for d, branch in branches.items() if isinstance(branch, CompactNet)}
        self.labels = labels
        self.devices = devices
        self._replicas = threading.local()
        self._counter = iter(range(1 << 30))
        self._lock = threading.Lock()
        self._large = threading.Lock()
        # Cores are filled with pictures, not with parts of one.
        torch.set_num_threads(1)
        tf32 = any(getattr(branch, "precision", "") == "tf32" for branch in branches.values())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

    def _own_branches(self) -> dict[str, ScoreNet]:
        """The branches on the device of this thread."""
        if not hasattr(self._replicas, "branches"):
            torch.set_num_threads(1)  # OpenMP keeps this for each thread
            with self._lock:
                device = torch.device(self.devices[next(self._counter) % len(self.devices)])
                if next(iter(self.branches.values())).device == device:
                    self._replicas.branches = self.branches
                else:
                    self._replicas.branches = {k: copy.deepcopy(b).to(device) for k, b in self.branches.items()}
        return self._replicas.branches

    def __call__(self, path: Path, known: Mapping[str, float], name: str = "") -> Row:
        """Score one picture.

        Args:
            path: Where it lies.
            known: Scores that are taken from elsewhere, for PR.
            name: What its labels are found by.

        Returns:
            Its scores, or the reason why there are none. Raises nothing that one picture can cause.
        """
        try:
            big_file = path.stat().st_size > _ALONE_BYTES if path.is_file() else False
            with self._large if big_file else contextlib.nullcontext():
                pixels = read_rgb(path)
                gray = is_gray(pixels)
            large = pixels.shape[0] * pixels.shape[1] > _ALONE_PIXELS
            with self._large if large else contextlib.nullcontext():
                return self.row(torch.from_numpy(pixels).permute(2, 0, 1), known, name, gray)
        except ImageReadError as error:
            return Row({}, False, str(error))
        except (MemoryError, RuntimeError, ValueError, OSError) as error:
            return Row({}, False, f"{path.name}: {type(error).__name__}: {error}")

    @torch.inference_mode()
    def row(self, pixels: torch.Tensor, known: Mapping[str, float], name: str, gray: bool) -> Row:
        """Scores of one picture (3, H, W) by all branches; work that branches share is done once."""
        branches = self._own_branches()
        prepared: dict[tuple, Inputs] = {}
        seen: dict[str, Maps] = {}
        scores, errors = dict(known), {}
        for dimension in DIMENSIONS:
            branch = branches.get(dimension)
            if branch is None:
                continue
            lacking = [d for d in ("CF", "SCC") if branch.reads_scores and d not in scores]
            if lacking:
                errors[dimension] = f"no {lacking[0]} score: {errors.get(lacking[0], 'it is not given')}"
                continue
            key = branch.input_key
            if key not in prepared:
                prepared[key] = branch.prepare(pixels)
            inputs, maps = prepared[key], None
            try:
                if branch.reads_objects:
                    inputs = inputs | branch.object_inputs(*self.labels.slots(name))
                elif branch.compares_objects and self.labels is not None:
                    inputs = inputs | branch.object_inputs(inputs["rgb"], self.labels.objects(name))
            except LabelError as error:
                errors[dimension] = str(error)
                continue
            if isinstance(branch, CompactNet):
                backbone = self.backbones[dimension]
                if backbone not in seen:
                    seen[backbone] = branch.see({"rgb": inputs["rgb"][None]})
                maps = seen[backbone]
            pair = (scores["CF"], scores["SCC"]) if branch.reads_scores else None
            scores[dimension] = rounded(branch.score_prepared(inputs, pair, maps))
        return Row(scores, gray, errors=errors)


def backbone_key(model: CompactNet) -> str:
    """Equal for networks whose backbones and rankers see the same picture alike, so that one of them need look."""
    digest = hashlib.sha256(f"{model.backbone.name} {model.size}".encode())
    for part in filter(None, (model.backbone, model.ranker)):
        for tensor in part.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def rounded(score: float) -> float:
    """A score as score files hold it, so that PR reads the same number from a file and from memory."""
    return round(score, 6)


def score_images(
    scorer: Scorer,
    images: ImageList,
    writers: Mapping[str, ScoreWriter],
    known: Mapping[str, Mapping[str, float]],
    unscorable: Mapping[str, str],
    workers: int,
) -> None:
    """Score the pictures that a writer still lacks.

    Args:
        scorer: Does the work on one picture.
        images: The pictures.
        writers: Score files by their dimension; each gets the columns it was opened with.
        known: Sub-scores that are given, by picture.
        unscorable: Pictures whose given sub-scores are errors, with the reason; they get an error row in the PR file.
        workers: Threads.
    """

    def row_of(name: str) -> Row:
        if name in images.escaped:
            return Row({}, False, f"{name}: the file name is not UTF-8, so no table can hold it; rename the file")
        return scorer(images.path(name), known.get(name, {}), name)

    lacking = {dimension: set(writer.remaining(images.names)) for dimension, writer in writers.items()}
    waiting = iter([name for name in images.names if any(name in names for names in lacking.values())])
    pending: dict[Future[Row], str] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=len(set().union(*lacking.values())), unit="picture", disable=None, leave=False) as bar:
            while True:
                # few in flight, so that memory stays bounded
                for name in itertools.islice(waiting, 2 * workers - len(pending)):
                    pending[pool.submit(row_of, name)] = name
                if not pending:
                    break
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    name, row = pending.pop(future), future.result()
                    for dimension, writer in writers.items():
                        if name in lacking[dimension]:
                            given = unscorable.get(name, "") if dimension == "PR" else ""
                            error = row.error or given or row.errors.get(dimension, "")
                            scores = {} if error else {column: row.scores[column] for column in writer.columns}
                            writer.add(name, scores, row.gray, error)
                    bar.update()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Objects:
    """The labels that an SCC network reads, and the color prior of a published one.

    Attributes:
        labels: Both, read.
        files: The label file of each picture that has one.
        sources: SHA-256 of that color prior, as score files record it.
    """

    labels: ObjectLabels
    files: dict[str, Path]
    sources: dict[str, str]


def find_objects(args: argparse.Namespace, model: ScoreNet, images: ImageList) -> Objects | None:
    """What ``--labels`` and ``--color-prior`` name; for a published network by default what ``find_published`` finds.

    Returns:
        None if the network reads no objects, or can do without and no labels are given.

    Raises:
        FileNotFoundError: If the network reads objects and there is no such folder or file.
        ValueError: If the color prior cannot be read, or the network does not read what is given.
    """
    if not model.reads_objects:
        if args.color_prior is not None:
            raise ValueError("--color-prior is for a published SCC network; the weights hold another one")
        if args.labels in (None, "none"):
            return None
        if not model.compares_objects:
            raise ValueError("--labels are for SCC, which is not computed here")
        labels = ObjectLabels(Path(args.labels), no_curves())
        files = labels.files(images.names)
        unused = "" if model.object_prior is not None else "; they change no score, for the weights hold no object prior"
        print(f"objects: {args.labels}, for {len(files)} of {len(images.names)} pictures{unused}")
        return Objects(labels, files, {})
    if args.labels == "none" and args.color_prior is None:
        return Objects(ObjectLabels(None, no_curves()), {}, {})
    beside = images.root.parent  # in the layout of ICQA-2K they lie beside the folder of pictures
    prior = args.color_prior or find_published("color_.json", beside)
    folder = None if args.labels == "none" else Path(args.labels) if args.labels else find_published("labels", beside)
    print(f"objects: {'none' if folder is None else folder}, color prior {prior}")
    labels = ObjectLabels(folder, read_color_curves(prior))
    files = labels.files(images.names)
    without = len(images.names) - len(files)
    if folder is not None and without:
        print(f"{without} of {len(images.names)} pictures have no label file in {folder}: scored without objects, as published")
    return Objects(labels, files, {"color prior": sha256(prior)})


def devices_of(requested: str | None) -> list[str]:
    """The devices to use, by name.

    Raises:
        ValueError: If one of them is not there; else every picture would get an error row that says so.
    """
    if requested is not None:
        names = [device.strip() for device in requested.split(",")]
        for name in names:
            distributed.check_device(name)
        return names
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def output_path(requested: Path | None, source: Path, root: Path, name: str) -> Path:
    """Return where the score file goes: what is requested, or a file named after the folder, list or image in ``results``.

    Where files of that name hold the scores of another folder, the folders above are named as well: ``results/b_imgs_CF.csv``
    for b/imgs after a/imgs.

    Args:
        requested: ``--output``.
        source: The folder, the list or the image.
        root: The folder that the names of the images start from.
        name: Ends the name of the file, such as CF.
    """
    if requested is not None:
        return requested
    resolved, own = source.resolve(), os.path.abspath(root)
    parts = [*resolved.parent.parts[1:], resolved.name if resolved.is_dir() else resolved.stem]  # folders v1.0 and v1.5 are two
    stems = ["_".join(parts[first:]) for first in reversed(range(len(parts)))]
    for stem in stems:
        files = [Path("results") / f"{stem}_{ending}.csv" for ending in (name, *DIMENSIONS)]
        if {scored_folder(file) for file in files} <= {None, own}:
            break
    return files[0]


def open_writer(
    path: Path,
    columns: list[str],
    images: ImageList,
    model: ScoreNet,
    sources: Mapping[str, str],
    overwrite: bool,
    settings: Mapping[str, str] | None = None,
    objects: Objects | None = None,
    beside: Mapping[str, Path] | None = None,
) -> ScoreWriter:
    """A score file for the pictures, which goes on with an earlier run and says so.

    Args:
        path: The file.
        columns: As of ``ScoreWriter``.
        images: The pictures.
        model: The network of the first column.
        sources: SHA-256 of all files that a score depends on, by what they are.
        overwrite: Start anew.
        settings: What was chosen on the command line and changes scores.
        objects: What the network, or one that it reads the scores of, reads of objects.
        beside: What a baseline reads beside a picture, its original.
    """
    seen = seen_pictures(model, images)
    if seen:
        print(f"{seen} of {len(images.names)} pictures were used to train the {columns[0]} weights: in-sample scores")
    labels = {}
    if objects is not None:
        labels["labels"] = "none" if objects.labels.folder is None else os.path.abspath(objects.labels.folder)
    writer = ScoreWriter(
        path,
        columns,
        images.names,
        root=images.root,
        weights={**sources, **(objects.sources if objects else {})},
        preprocessing={**model.preprocessing(), **(settings or {}), **labels},
        sample="unknown" if seen is None else "in-sample" if seen else "unseen",
        overwrite=overwrite,
        beside=objects.files if objects else beside,
        unbounded=model.preset == "baseline",
    )
    if writer.kept or writer.changed or writer.dropped:
        print(
            f"{path}: going on; {writer.kept} rows kept, {writer.changed} changed pictures to score again, "
            f"{writer.dropped} rows of absent pictures dropped"
        )
    return writer


def seen_pictures(model: ScoreNet, images: ImageList) -> int | None:
    """How many of the pictures the weights were trained on, by content; None if nobody knows."""
    if model.seen is None:
        return None
    sizes, ids = model.seen
    count = 0
    for name in images.names:
        path = images.path(name)
        # only files of a size that occurs among the training pictures are read
        with contextlib.suppress(OSError):
            count += path.stat().st_size in sizes and path.is_file() and picture_id(path) in ids
    return count


def report(frame: pd.DataFrame, main: str, columns: list[str], most: int = 40) -> str:
    """Return scores as a table with what to compare below it: by scene where that is known, images with an error last.

    Args:
        frame: What ``read_scores`` returned.
        main: Column that the images are sorted by, best first.
        columns: What is shown.
        most: Images shown; of others it is said how many there are.
    """
    scored = frame[frame["error"] == ""].sort_values([main, "image"], ascending=[False, True])
    root = frame.attrs.get("meta", {}).get("root")
    labels, problem = scenes_of(None if root is None else Path(root), frame["image"].tolist())
    by_scene: dict[str, list[dict]] = {}
    for row in scored.to_dict("records"):
        by_scene.setdefault(labels.get(row["image"], ("", ""))[0], []).append(row)
    table: list[str | dict] = []
    shown = 0
    for scene, rows in sorted(by_scene.items(), key=lambda item: (item[0] == "", item[0])):
        if shown and shown + len(rows) > most:
            table += ["", f"... {len(scored) - shown} more of other scenes ..."]
            break
        if labels:
            table += ["", f"scene {printable(scene)}" if scene else "of no known scene"]
        cut = len(rows) - most
        table += rows if cut <= 0 else [*rows[: most // 2], f"... {cut} more ...", *rows[-(most // 2) :]]
        shown += len(rows)

    width = max([len("image"), *(len(printable(row["image"])) for row in table if isinstance(row, dict))])
    wide = max(8, *(len(column) + 2 for column in columns))
    lines = [f"{'image':<{width}}  " + "".join(f"{column:>{wide}}" for column in columns)]
    originals = False
    for row in table:
        if isinstance(row, str):
            lines.append(row)
            continue
        original = labels.get(row["image"], ("", ""))[1].casefold() in ORIGINALS
        originals = originals or original
        marks = ("  gray" if row["gray"] else "") + ("  original" if original else "")
        name = printable(row["image"])
        lines.append(f"{name:<{width}}  " + "".join(f"{row[c]:>{wide}.3f}" for c in columns) + marks)
    for row in frame[frame["error"] != ""].to_dict("records"):
        name = printable(row["image"])
        lines.append(f"ERROR  {row['error']}" if name in row["error"] else f"ERROR  {name}: {row['error']}")
    if problem:
        lines.append(problem)
    whom = "a colorization with its original and with others" if originals else "images"
    if len(scored) > 1:
        lines.append(f"Compare {whom} of the same scene, not one scene with another (docs/reading_scores.md).")
    if len(scored) > 1 and not labels:
        lines.append("To see them by scene: file names METHOD_SCENE, or index.csv (image, scene, method) in the folder.")
    return "\n".join(lines)


def conclude(
    paths: Mapping[str, Path],
    main: str,
    columns: list[str],
    json_path: Path | None,
    left_out: str = "",
) -> int:
    """Print the table, what the folder holds beside pictures, and where the files are; the exit status."""
    frame = read_scores(paths[main], main)
    print(report(frame, main, columns))
    if left_out:
        print(f"left out: {left_out}")
    for dimension, path in paths.items():
        print(f"{dimension}: {path}")
    failed = int((frame["error"] != "").sum())
    if json_path is not None and not failed:
        write_json(frame, json_path, main)
        print(f"{main}, as {{stem: score}}: {json_path}")
    if failed:
        note = "; no JSON was written, for it cannot hold them" if json_path is not None else ""
        print(f"{failed} of {len(frame)} pictures have no score, see the column error{note}", file=sys.stderr)
    return 1 if failed else 0


def run_script(main: Callable[[], int]) -> None:
    """Run an inference script: usage errors are one line, an interruption leaves the finished rows."""
    # a terminated run closes its files as an interrupted one does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(1)  # cores are filled with pictures, not with parts of one
    startup.settle()
    with contextlib.suppress(AttributeError):  # of what takes the place of a console
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that it cannot show is no reason to stop
    try:
        interrupt.hear()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            if os.environ.get("RANK", "0") == "0":  # one process speaks for all
                raise ValueError(
                    f"{Path(sys.argv[0]).name} uses several GPUs by itself: run it without torchrun, --device cuda:0,cuda:1 "
                    "says which (default: all)"
                )
            interrupt.leave(1)
        status = main()
    except BrokenPipeError:  # what reads the table has seen enough; the files are written
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open to the end
        status = 141
    except (OSError, ValueError) as error:
        status = 1
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupt.deafen()
        status = 130
        print("interrupted: finished rows are kept; run the same command again to go on", file=sys.stderr)
    except BaseException:  # --help, a wrong argument, a termination, or a bug with its traceback
        startup.unsettle()
        raise
    if not interrupt.is_script():
        startup.unsettle()
    interrupt.leave(status)


def check_json(json_path: Path | None, outputs: Mapping[str, Path]) -> None:
    """Refuse a --json that would replace a score file or what stands beside it."""
    taken = {p.resolve() for path in outputs.values() for p in (path, path.with_name(path.name + ".json"))}
    if json_path is not None and (json_path.suffix.lower() != ".json" or json_path.resolve() in taken):
        raise ValueError(f"--json {json_path} must end in .json and be another file than the score files and their sidecars")


def score_one_dimension(args: argparse.Namespace, dimension: str) -> int:
    """The whole of infer_CF.py and infer_SCC.py, once their arguments are read."""
    images = list_images(args.images)
    model = load_model(args.weights, dimension=dimension, preset=args.preset, attention=getattr(args, "attention", None))
    if args.weights == dimension and model.preset == "published":
        print(f"{dimension} weights: {model.source}")
    objects = find_objects(args, model, images) if dimension == "SCC" else None
    path = output_path(args.output, args.images, images.root, dimension)
    check_json(args.json, {dimension: path})
    devices = devices_of(args.device)
    maps = getattr(args, "maps", None)
    if maps is not None:
        from inference.maps import check_maps, write_maps  # only here, for they are slow to load

        check_maps(maps, args.images, model)
    scorer = make_scorer({dimension: model}, devices, args, objects)
    made_from, settings = {dimension: model.weights_hash}, chosen_settings(args)
    workers = args.workers or worker_count(devices)
    with open_writer(path, [dimension], images, model, made_from, args.overwrite, settings, objects) as writer:
        score_images(scorer, images, {dimension: writer}, {}, {}, workers)
    status = conclude({dimension: path}, dimension, [dimension], args.json, images.left_out)
    if maps is None:
        return status
    failed = write_maps(maps, model.to(devices[0]), images, path, objects.labels if objects else None, workers)
    return 1 if failed else status


def chosen_settings(args: argparse.Namespace) -> dict[str, str]:
    """The settings of the command line that change scores, where they are not the usual ones."""
    return {} if args.precision == "float32" else {"precision": args.precision}


def make_scorer(
    branches: Mapping[str, ScoreNet], devices: list[str], args: argparse.Namespace, objects: Objects | None
) -> Scorer:
    """A scorer with the settings of the command line.

    Raises:
        ValueError: If a network has no arithmetic of that precision.
    """
    for branch in branches.values():
        branch.set_precision(args.precision)
    return Scorer(branches, devices, objects.labels if objects else None)


def worker_count(devices: list[str]) -> int:
    """One thread a core, or three a GPU, so that pictures are read while others are scored."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if devices == ["cpu"] else 3 * len(devices)
