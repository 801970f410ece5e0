"""What the inference scripts need around the scoring: options of the command line, score files, the summary, how a run ends."""

import argparse
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.scorer import Engine, Scorer, core_count
from utils import interrupt, startup
from utils.files import image_id, sha256
from utils.images import ImageList, printable
from utils.labels import ObjectLabels, read_color_curves
from utils.scenes import ORIGINALS, scenes_of
from utils.scores import DIMENSIONS, Provenance, ScoreRows, ScoreWriter, read_rows, scored_folder, write_json

if TYPE_CHECKING:  # torch is slow to load, and most runs need none
    from inference.graph import Exported, Graph
    from models.base import ScoreNet


@dataclass(frozen=True)
class Branch:
    """One dimension of a run: what computes it, and the score file that it goes to.

    Attributes:
        model: The network.
        path: The score file.
        columns: Of the file: the dimension, then the sub-scores that it is computed from.
        sources: SHA-256 of each file that the scores depend on, by what it is.
        settings: What else changes the scores, beside the preprocessing of the network.
        beside: What is read beside an image, by its name: the label file, or the original.
    """

    model: "ScoreNet | Exported"
    path: Path
    columns: Sequence[str]
    sources: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Path] = field(default_factory=dict)

    def with_objects(self, objects: "Objects | None") -> "Branch":
        """The branch with the objects that its scores depend on, as its score file records them."""
        if objects is None:
            return self
        sources, settings = {**self.sources, **objects.sources}, {**self.settings, **objects.settings}
        return replace(self, sources=sources, settings=settings, beside=objects.files)


def runs_on_graph(args: argparse.Namespace) -> bool:
    """Whether ONNX Runtime computes the scores: of the shipped compact weights on the CPU, unless the command line says torch.

    Raises:
        ValueError: If the command line says onnxruntime, and something else that needs torch.
    """
    own = [getattr(args, name, None) or None for name in ("labels", "color_prior", "attention")]
    needs = {
        "--weights": args.weights != args.dimension,
        "--cf-weights": getattr(args, "cf_weights", "CF") != "CF",
        "--scc-weights": getattr(args, "scc_weights", "SCC") != "SCC",
        "--preset published": args.preset == "published",
        f"--precision {args.precision}": args.precision != "float32",
        "--labels": own[0] not in (None, "none"),
        "--color-prior": own[1] is not None,
        "--attention": own[2] is not None,
        f"--device {args.device}": args.device not in (None, "cpu"),
    }
    reasons = [option for option, given in needs.items() if given]
    if args.engine == "onnxruntime" and reasons:
        raise ValueError(f"{reasons[0]} needs torch; leave out --engine onnxruntime")
    if args.engine is not None or reasons:
        return args.engine == "onnxruntime"
    return args.device == "cpu" or not _gpus()


@lru_cache(maxsize=1)
def _gpus() -> int:
    """How many CUDA GPUs there are. Asking torch takes longer than scoring an image, so it is asked where a driver is."""
    if os.name == "posix" and not any(Path("/dev").glob("nvidia[0-9]*")):
        return 0
    import torch

    return torch.cuda.device_count()


@lru_cache(maxsize=1)
def _graph() -> "Graph":
    from inference.graph import Graph  # only here, for runs with torch need no ONNX Runtime

    return Graph()


def load_branch(args: argparse.Namespace, dimension: str, weights: str) -> "ScoreNet | Exported":
    """The network of a dimension, as the command line asks for it.

    Raises:
        FileNotFoundError: If there is no such file of weights.
        ValueError: If the file holds something else, or the network has no such attention or arithmetic.
    """
    if runs_on_graph(args):
        from inference.graph import Exported

        return Exported(_graph(), dimension)
    from models.loading import load_model  # only here, for torch is slow to load

    attention = args.attention if dimension == "SCC" else None
    model = load_model(weights, dimension=dimension, preset=args.preset, attention=attention)
    if args.precision != "float32" and model.preset == "compact" and "cpu" in parse_devices(args.device):
        raise ValueError(f"--precision {args.precision} is for published networks; on a CPU compact ones compute in float32")
    model.set_precision(args.precision)
    if args.weights == dimension and model.preset == "published":
        print(f"{dimension} weights: {model.source}")
    return model


@dataclass(frozen=True)
class Objects:
    """The labels that an SCC network reads, and the color prior of a published one.

    Attributes:
        labels: Both, read.
        files: The label file of each image that has one.
        sources: SHA-256 of that color prior, as score files record it.
    """

    labels: ObjectLabels
    files: dict[str, Path]
    sources: dict[str, str]

    @property
    def settings(self) -> dict[str, str]:
        """What score files say of the labels."""
        return {"labels": "none" if self.labels.folder is None else os.path.abspath(self.labels.folder)}


def find_objects(args: argparse.Namespace, model: "ScoreNet | Exported", images: ImageList) -> Objects | None:
    """What ``--labels`` and ``--color-prior`` name; for a published network by default what ``find_published`` finds.

    Args:
        args: The command line.
        model: The SCC network, or another one where SCC is not computed.
        images: The images.

    Returns:
        None if the network reads no objects, or can do without and no labels are given.

    Raises:
        FileNotFoundError: If the network reads objects and there is no such folder or file.
        ValueError: If the color prior cannot be read, or the network does not read what is given.
    """
    if (model.dimension, model.preset) == ("SCC", "published"):
        return _published_objects(args, images)
    if args.color_prior is not None:
        raise ValueError("--color-prior is for a published SCC network; the weights hold another one")
    if args.labels in (None, "none"):
        return None
    from models.semantic import SemanticConsistencyNet

    if not isinstance(model, SemanticConsistencyNet):
        raise ValueError("--labels are for SCC, which is not computed here")
    labels = ObjectLabels(Path(args.labels))
    files = labels.files(images.names)
    unused = "" if model.object_prior is not None else "; they change no score, for the weights hold no object prior"
    print(f"objects: {args.labels}, for {len(files)} of {len(images.names)} images{unused}")
    return Objects(labels, files, {})


def _published_objects(args: argparse.Namespace, images: ImageList) -> Objects:
    """``find_objects`` for a published SCC network, which cannot do without."""
    if args.labels == "none" and args.color_prior is None:
        return Objects(ObjectLabels(None), {}, {})
    from models.loading import find_published

    beside = images.root.parent  # in the layout of ICQA-2K they lie beside the folder of images
    prior = args.color_prior or find_published("color_.json", beside)
    folder = None if args.labels == "none" else Path(args.labels) if args.labels else find_published("labels", beside)
    print(f"objects: {'none' if folder is None else folder}, color prior {prior}")
    labels = ObjectLabels(folder, read_color_curves(prior))
    files = labels.files(images.names)
    without = len(images.names) - len(files)
    if folder is not None and without:
        print(f"{without} of {len(images.names)} images have no label file in {folder}: scored without objects, as published")
    return Objects(labels, files, {"color prior": sha256(prior)})


def parse_devices(requested: str | None) -> list[str]:
    """The devices to use, by name.

    Raises:
        ValueError: If one of them is not there; else every image would get an error row that says so.
    """
    if requested == "cpu":
        return ["cpu"]
    if requested is not None:
        from utils import distributed  # only here, for it loads torch

        names = [device.strip() for device in requested.split(",")]
        for name in names:
            distributed.check_device(name)
        return names
    return [f"cuda:{i}" for i in range(_gpus())] or ["cpu"]


def choose_devices(args: argparse.Namespace) -> list[str]:
    """The devices of a run of our own networks."""
    return ["cpu"] if runs_on_graph(args) else parse_devices(args.device)


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
    stem = resolved.name if resolved.is_dir() else resolved.stem  # folders v1.0 and v1.5 are two
    parts = [*resolved.parent.parts[1:], re.sub(r"[{}]", "", stem)]  # a pattern for several shards has braces
    stems = ["_".join(parts[first:]) for first in reversed(range(len(parts)))]
    for stem in stems:
        files = [Path("results") / f"{stem}_{ending}.csv" for ending in (name, *DIMENSIONS)]
        if {scored_folder(file) for file in files} <= {None, own}:
            break
    return files[0]


def open_writer(branch: Branch, images: ImageList, overwrite: bool = False) -> ScoreWriter:
    """The score file of a branch, which goes on with an earlier run and says so."""
    model, path = branch.model, branch.path
    seen = seen_images(model, images)
    if seen:
        print(f"{seen} of {len(images.names)} images were used to train the {branch.columns[0]} weights: in-sample scores")
    provenance = Provenance(
        root=images.root,
        weights=branch.sources,
        preprocessing={**model.preprocessing(), **branch.settings},
        sample="unknown" if seen is None else "in-sample" if seen else "unseen",
        unbounded=model.preset == "baseline",
        engine=getattr(model, "engine", "torch"),
    )
    writer = ScoreWriter(path, branch.columns, images.names, provenance, overwrite, branch.beside, images.fingerprints)
    if writer.kept or writer.changed or writer.dropped:
        print(
            f"{path}: going on; {writer.kept} rows kept, {writer.changed} changed images to score again, "
            f"{writer.dropped} rows of absent images dropped"
        )
    return writer


def seen_images(model: "ScoreNet | Exported", images: ImageList) -> int | None:
    """How many of the images the weights were trained on, by content; None if nobody knows."""
    seen = model.seen
    if seen is None or any(sample.size < 0 for sample in images.samples.values()):  # of tables nobody looks at all bytes
        return None
    sizes, ids = seen
    count = 0
    for name, stored in images.fingerprints.items():
        size = stored.partition("-")[0]
        # only files of a size that occurs among the training images are read
        if size and int(size) in sizes:
            with contextlib.suppress(OSError, ValueError):
                place = images.place(name)
                count += not (isinstance(place, Path) and not place.is_file()) and image_id(place) in ids
    return count


def format_table(scores: ScoreRows, main: str, columns: list[str], most: int = 40) -> str:
    """Return scores as a table with what to compare below it: by scene where that is known, images with an error last.

    Args:
        scores: What ``read_rows`` returned.
        main: Column that the images are sorted by, best first.
        columns: What is shown.
        most: Images shown; of others it is said how many there are.
    """
    scored = sorted((row for row in scores.rows if not row["error"]), key=lambda row: (-row[main], row["image"]))
    root = scores.meta.get("root")
    labels, problem = scenes_of(None if root is None else Path(root), [row["image"] for row in scores.rows])
    by_scene: dict[str, list[dict]] = {}
    for result in scored:
        by_scene.setdefault(labels.get(result["image"], ("", ""))[0], []).append(result)
    table: list[str | dict[str, Any]] = []
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
    for row in [row for row in scores.rows if row["error"]]:
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


def print_summary(
    branches: Sequence[Branch], columns: list[str], json_path: Path | None, left_out: str = "", problems: Sequence[str] = ()
) -> int:
    """Print the scores as a table, what the folder holds beside images, and where the files are.

    Args:
        branches: What was scored; the images are sorted by the last one.
        columns: What the table shows.
        json_path: Where to write the scores of the last branch in the published form, if at all.
        left_out: Files of the folder that are no images.
        problems: What is wrong with shards that could not be read to their end.

    Returns:
        The exit status, 1 if an image has no score or a shard was not read to its end.
    """
    main = branches[-1].columns[0]
    scores = read_rows(branches[-1].path, main)
    print(format_table(scores, main, columns))
    if left_out:
        print(f"left out: {left_out}")
    for branch in branches:
        print(f"{branch.columns[0]}: {branch.path}")
    failed = sum(row["error"] != "" for row in scores.rows)
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    if json_path is not None and not failed and not problems:
        write_json(branches[-1].path, json_path, main)
        print(f"{main}, as {{stem: score}}: {json_path}")
    if failed:
        note = "; no JSON was written, for it cannot hold them" if json_path is not None else ""
        print(f"{failed} of {len(scores.rows)} images have no score, see the column error{note}", file=sys.stderr)
    return 1 if failed or problems else 0


def run_script(main: Callable[[], int]) -> None:
    """Run an inference script: usage errors are one line, an interruption leaves the finished rows."""
    # a terminated run closes its files as an interrupted one does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    startup.end_loading()
    if isinstance(sys.stdout, io.TextIOWrapper):  # and nothing that takes its place
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
    except MemoryError:  # not of one image, which gets a row that says so
        status = 1
        print("error: out of memory; finished rows are kept; run again with fewer --workers to go on", file=sys.stderr)
    except KeyboardInterrupt:
        interrupt.deafen()
        status = 130
        again = "the same command without --overwrite" if "--overwrite" in sys.argv else "the same command again"
        print(f"interrupted: finished rows are kept; run {again} to go on", file=sys.stderr)
    except BaseException:  # --help, a wrong argument, a termination, or a bug with its traceback
        startup.undo()
        raise
    if not interrupt.is_script():
        startup.undo()
    interrupt.leave(status)


def check_json(json_path: Path | None, score_files: Iterable[Path]) -> None:
    """Refuse a --json that would replace a score file or what stands beside it."""
    taken = {p.resolve() for path in score_files for p in (path, path.with_name(path.name + ".json"))}
    if json_path is not None and (json_path.suffix.lower() != ".json" or json_path.resolve() in taken):
        raise ValueError(f"--json {json_path} must end in .json and be another file than the score files and their sidecars")


def chosen_settings(args: argparse.Namespace) -> dict[str, str]:
    """The settings of the command line that change scores, where they are not the usual ones."""
    return {} if args.precision == "float32" else {"precision": args.precision}


def make_scorer(
    args: argparse.Namespace, branches: Iterable[Branch], devices: list[str], objects: Objects | None = None
) -> Scorer:
    """A scorer of the networks of these branches, with the settings of the command line."""
    networks = {branch.model.dimension: branch.model for branch in branches}
    engine: Engine
    if runs_on_graph(args):
        from inference.graph import GraphEngine

        engine = GraphEngine(_graph(), networks)
    else:
        from inference.batches import BatchedNetworks
        from inference.networks import Networks
        from models.base import ScoreNet

        own = {d: network for d, network in networks.items() if isinstance(network, ScoreNet)}
        labels = objects.labels if objects else None
        if "cpu" not in devices:
            return Scorer(BatchedNetworks(own, devices, labels), at_once=core_count())
        engine = Networks(own, devices, labels)
    return Scorer(engine)
