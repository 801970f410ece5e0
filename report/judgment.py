"""Images judged at once: scores, their place among photographs, what is surprising, objects; as HTML and as CSV.

The page of demo.py shows it. Images are read where they lie, and nothing is written: thumbnails and maps are in the HTML.
"""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from inference import command
from inference.maps import find, panels, scale_colors, scale_positions
from inference.scorer import Engine, ImageResult, Scorer, worker_count
from models import load_model
from models.color_prior import ColorPriorNet
from report.page import DIMENSIONS, Origin, read_percentiles, signed
from report.statistics import percentile
from report.thumbnails import finding_of, percentile_of
from utils.arguments import inference_parser
from utils.choices import PERCENTILES
from utils.images import printable
from utils.labels import LabeledObject, LabelError, read_objects, uses_coco91
from utils.pages import render_page

_TEMPLATE = "judgment.html.jinja"
_QUALITY = 85  # of JPEG
_MOST_WORKERS = 4  # images read at a time, for the sake of memory


@dataclass(frozen=True)
class View:
    """What is seen in an image.

    Attributes:
        images: Data URIs of the image, its surprise map and its plausible colors.
        frame: Left, top, width and height of the most surprising region, in percent of the image; empty if there is none.
        region: That region as ``finding_of`` gives it; None if there is none.
        objects: The labeled objects in the same form, the most unusual first.
    """

    images: Sequence[str]
    frame: Sequence[float]
    region: Mapping[str, Any] | None
    objects: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Judgment:
    """What is known of one image, or what is wrong with a label file.

    Attributes:
        name: Of the file.
        scores: PR, CF and SCC by name, as a score file holds them; empty if there is an error.
        gray: Whether the image has no color.
        error: Why there are no scores, with the name of the file.
        view: What is seen in it; None if there is an error.
        labeled: Whether its objects are known.
    """

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)
    gray: bool = False
    error: str = ""
    view: View | None = None
    labeled: bool = False


def shipped_engine() -> tuple[Engine, dict[str, Origin], ColorPriorNet]:
    """Return what ``infer_PR.py FOLDER`` scores with, what the scores come from, and the network for surprise maps."""
    args = inference_parser(None, "PR").parse_args(["."])
    networks = {dimension: command.load_branch(args, dimension, dimension) for dimension in DIMENSIONS}
    branches = [command.Branch(network, Path(), [dimension], {}) for dimension, network in networks.items()]
    scorer = command.make_scorer(args, branches, command.parse_devices(args.device))
    hashes = {dimension: str(network.weights_hash) for dimension, network in networks.items()}
    origins = {
        dimension: Origin(hashes if dimension == "PR" else {dimension: hashes[dimension]}, network.preprocessing())
        for dimension, network in networks.items()
    }
    scc: Any = networks["SCC"]
    if not isinstance(scc, ColorPriorNet):  # it computes scores and no maps
        scc = load_model("SCC")
    return scorer.engine, origins, scc


class Judge:
    """Judges images with the shipped weights; scores are those of the inference scripts."""

    def __init__(self) -> None:
        self.engine, origins, self.scc = shipped_engine()
        self.reference, self.no_reference = read_percentiles(PERCENTILES, origins, DIMENSIONS)

    def __call__(self, paths: Sequence[Path]) -> list[Judgment]:
        """Judge images; a file that cannot be read is said in its judgment.

        Args:
            paths: Images, and YOLO files (``.txt``) of their objects. A single label file belongs to all images, as versions
                of one scene; of several, each belongs to the image of its name. Objects change no score.

        Returns:
            A judgment per image, the highest PR first, then what has an error, label files among it.
        """
        label_files = [path for path in paths if path.suffix.lower() == ".txt"]
        images = [path for path in paths if path not in label_files]
        labels, judgments = _read_labels(label_files, [path.stem for path in images])
        views: dict[str, View] = {}

        def look_and_score(pixels: np.ndarray, number: str, known: Mapping[str, float]) -> ImageResult:
            views[number] = self._look(pixels, labels.get(images[int(number)].stem, []))
            return self.engine(pixels, number, known)

        scorer = Scorer(look_and_score)

        def judge(number: int) -> Judgment:
            torch.set_num_threads(1)  # OpenMP keeps this for each thread
            path = images[number]
            result = scorer(path, {}, str(number))
            error = result.error or next(iter(result.errors.values()), "")
            if error:
                return Judgment(path.name, error=_without_folder(error, path))
            return Judgment(path.name, result.scores, result.gray, "", views[str(number)], path.stem in labels)

        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(min(worker_count(["cpu"]), _MOST_WORKERS)) as pool:
                judgments += pool.map(judge, range(len(images)))
        finally:
            torch.set_num_threads(threads)
        return sorted(judgments, key=lambda judgment: (bool(judgment.error), -judgment.scores.get("PR", 0), judgment.name))

    def _look(self, pixels: np.ndarray, objects: Sequence[LabeledObject]) -> View:
        findings = find(self.scc, pixels, objects)
        region = findings.region
        return View(
            [_data_uri(panel) for panel in panels(pixels, findings.surprise)],
            [round(100 * share, 1) for share in region.box] if region else [],
            finding_of(region) if region else None,
            [finding_of(finding) for finding in findings.ranked_objects],
        )

    def html(self, judgments: Sequence[Judgment]) -> str:
        """Return judgments as a piece of HTML with its own style: a ranking, then the images side by side."""
        reference = self.reference
        places = [
            {d: percentile(judgment.scores[d], reference[d], reference["levels"]) for d in DIMENSIONS}
            if reference and judgment.scores
            else {}
            for judgment in judgments
        ]
        scored = [judgment for judgment in judgments if not judgment.error]
        context = {
            "cards": list(zip(judgments, places, strict=True)),
            "dimensions": DIMENSIONS,
            "scored": len(scored),
            "best": {d: max((judgment.scores[d] for judgment in scored), default=0) for d in DIMENSIONS},
            "reference": reference,
            "no_reference": self.no_reference,
            "percentile_of": percentile_of(self.scc),
            "colors": ["#" + bytes(round(255 * float(x)) for x in color).hex() for color in scale_colors(33)],
            "ticks": scale_positions(),
        }
        return render_page(Path(__file__).with_name(_TEMPLATE), context, {"signed": signed})


def to_csv(judgments: Sequence[Judgment]) -> str:
    """Return the scores in the form of a score file of infer_PR.py, in the order of the judgments."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", *DIMENSIONS, "gray", "error"])
    for judgment in judgments:
        scores = [judgment.scores.get(dimension, "") for dimension in DIMENSIONS]
        table.writerow([judgment.name, *scores, int(judgment.gray), judgment.error])
    return text.getvalue()


def _read_labels(paths: Sequence[Path], stems: Sequence[str]) -> tuple[dict[str, list[LabeledObject]], list[Judgment]]:
    """The objects of images by their stem, and what is wrong with label files."""
    labels: dict[str, list[LabeledObject]] = {}
    wrong = []
    coco91 = uses_coco91(paths)
    for path in paths:
        try:
            objects = read_objects(path, coco91)
        except LabelError as error:
            wrong.append(Judgment(path.name, error=_without_folder(str(error), path)))
            continue
        if len(paths) == 1 and stems:
            labels = dict.fromkeys(stems, objects)
        elif path.stem in stems:
            labels[path.stem] = objects
        else:
            name = printable(path.stem)
            wrong.append(Judgment(path.name, error=f"{printable(path.name)}: no image named {name} came with this label file"))
    return labels, wrong


def _without_folder(error: str, path: Path) -> str:
    """An error that names the file as its user knows it."""
    return error.replace(f"{path.parent}/", "")


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
