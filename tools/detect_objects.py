"""Detect objects in images with one of torchvision's COCO detectors; write one YOLO label file per image.

    python tools/detect_objects.py IMAGES -o LABELS                 # boxes
    python tools/detect_objects.py IMAGES -o LABELS --masks         # polygons
    python tools/detect_objects.py IMAGES -o LABELS --gray          # detect in the gray version, since wrong colors mislead
    python tools/detect_objects.py data/samples -o runs/labels --detector ssdlite320_mobilenet_v3_large    # a quick check

The objects of ``a/b.jpg`` go to ``LABELS/a/b.txt``, which is empty for an image without objects. A row is ``class x-center
y-center width height confidence``, or with --masks the polygon ``class x1 y1 x2 y2 ...``, which has no place for a confidence.
Rows are sorted from the most confident object down. Classes are those of COCO-80, and all lengths are shares of the image's
width and height. Any other detector that writes such files can be used (format: ``utils/labels.py``).

A stopped run continues when started again. ``LABELS/detections.json`` records the settings and the images of the files. Files
with other settings or of other images are refused.
"""

import argparse
import json
import posixpath
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

# The detectors, each with its own name for the least confidence.
DETECTORS = {
    "fasterrcnn_resnet50_fpn_v2": "box_score_thresh",
    "fasterrcnn_mobilenet_v3_large_fpn": "box_score_thresh",
    "retinanet_resnet50_fpn_v2": "score_thresh",
    "ssdlite320_mobilenet_v3_large": "score_thresh",
    "maskrcnn_resnet50_fpn_v2": "box_score_thresh",
}
BOX_DETECTOR, MASK_DETECTOR = "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2"


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s IMAGES --output LABELS [options]", ("data", "model", "run"))
    add = parser.groups["data"].add_argument
    add("images", type=Path, metavar="IMAGES", help="folder, searched recursively; an image; or a .txt list of images")
    add("-o", "--output", type=Path, required=True, metavar="LABELS", help="folder for the label files")

    add = parser.groups["model"].add_argument
    add("--detector", choices=DETECTORS, help=f"torchvision model (default: {BOX_DETECTOR}; with --masks {MASK_DETECTOR})")
    add("--masks", action="store_true", help="write the outline of each object, not its box")
    add("--gray", action="store_true", help="show the detector the gray version of each image")
    add("--weights", type=Path, metavar="FILE", help="weights of the detector (default: fetched by torchvision)")
    add("--threshold", type=float, default=0.5, help="keep objects with more confidence, in [0, 1) (default: %(default)s)")

    add = parser.groups["run"].add_argument
    add("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    add("--overwrite", action="store_true", help="write all label files of these images anew")
    args = parser.parse_args()
    args.detector = args.detector or (MASK_DETECTOR if args.masks else BOX_DETECTOR)
    if args.masks and args.detector != MASK_DETECTOR:
        parser.error(f"--masks needs {MASK_DETECTOR}; {args.detector} finds boxes only")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import contourpy
import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.ops import clip_boxes_to_image
from tqdm import tqdm

from utils import interrupt
from utils.color import gray_version, rgb_to_lab
from utils.distributed import check_device, default_device
from utils.files import sha256, write_atomic
from utils.images import ImageReadError, list_images, read_rgb
from utils.labels import COCO_NAMES
from utils.scores import fingerprint

SIDECAR = "detections.json"
_MASK_LEVEL = 0.5  # a mask holds probabilities; the level that torchvision's documentation cuts it at
# Distance that the outline may move, as a share of the square root of its area: a smooth disk keeps 32 corners and loses 0.7 %
# of its area.
_SIMPLIFY = 0.005


def coco80_ids(categories: Sequence[str]) -> dict[int, int]:
    """Return the COCO-80 class by the detector's class, matched by name.

    Args:
        categories: Names of the detector's classes, from ``meta["categories"]`` of its weights. Names that are not in
            ``COCO_NAMES``, such as ``N/A`` and ``__background__``, are left out.

    Raises:
        ValueError: If the names do not hold each name of COCO-80 once.
    """
    ids = {number: COCO_NAMES.index(name) for number, name in enumerate(categories) if name in COCO_NAMES}
    if sorted(ids.values()) != list(range(len(COCO_NAMES))):
        raise ValueError(f"expected each of COCO's {len(COCO_NAMES)} names once among the classes of the detector, got {ids}")
    return ids


def fetched_weights(detector: str) -> Path:
    """Return the path of torchvision's COCO weights of a detector; download them if they are not there yet.

    Raises:
        FileNotFoundError: If they cannot be downloaded; names the file and where to put it.
    """
    url = get_model_weights(detector).DEFAULT.url
    file = Path(torch.hub.get_dir(), "checkpoints", posixpath.basename(url))
    if file.is_file():
        return file
    print(f"fetching {url} to {file}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
    except Exception as error:  # from a full disk to a proxy that answers in HTML; every one means the same to the user
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FileNotFoundError(
            f"no weights of {detector}: {file} is not there and could not be fetched ({reason}); fetch {url} elsewhere and put "
            "it there, or pass it with --weights FILE"
        ) from error
    return file


def load_detector(detector: str, weights: Path, threshold: float) -> nn.Module:
    """Load a detector with weights from a file, in evaluation mode, on the CPU, without a download.

    Args:
        detector: One of ``DETECTORS``.
        weights: File with a state dict in torchvision's form.
        threshold: The detector leaves out objects with a confidence up to this.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or holds other tensors than the detector has.
    """
    expected = f"expected the state dict of torchvision's {detector}, {get_model_weights(detector).DEFAULT.url}"
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}; {expected}")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly any kind, from IndexError to struct.error
        raise ValueError(f"{weights} cannot be read as weights ({type(error).__name__}); {expected}") from error
    # Objects below the threshold change nothing about those above it, but would take time, and memory for their masks.
    model = get_model(detector, weights=None, weights_backbone=None, **{DETECTORS[detector]: threshold})
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # the last two where it is no dictionary of tensors
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{weights} holds other weights ({reason}); {expected}") from error
    return model.eval()


def outline(mask: np.ndarray) -> np.ndarray | None:
    """Return a polygon around an object: the largest outer ring of its mask, simplified, without holes and smaller parts.

    Args:
        mask: Probability of each pixel, float, shape (H, W).

    Returns:
        Corners as x and y in pixels from the upper left corner of the image, shape (N, 2) with N at least 3; None if no
        pixel is above one half.
    """
    inside = mask > _MASK_LEVEL
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    part = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    # The first margin takes an object that the image cuts off beyond its edge, the second one closes its ring.
    part = np.pad(np.pad(part, 1, mode="edge"), 1)
    rings = contourpy.contour_generator(z=part, line_type="Separate").lines(_MASK_LEVEL)
    corner = np.array([left, top]) - 1.5  # two margins less half a pixel, for the ring goes by the centers of pixels
    rings = [np.clip(ring + corner, 0, mask.shape[::-1]) for ring in rings]
    ring = max(rings, key=_area)
    return _simplified(ring, _SIMPLIFY * _area(ring) ** 0.5)


def _area(ring: np.ndarray) -> float:
    """Return the area inside a ring of points, shape (N, 2), whose last point is its first."""
    x, y = (ring - ring[0]).T
    return abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify a ring so that it stays within ``tolerance`` of the whole one; the repeated last point is left out.

    Reference:
        Douglas and Peucker, Algorithms for the reduction of the number of points required to represent a digitized line or
        its caricature, 1973.
    """
    farthest = int(np.linalg.norm(ring - ring[0], axis=1).argmax())
    kept = {0, farthest}
    parts = [(0, farthest), (farthest, len(ring) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        chord, points = ring[last] - ring[first], ring[first + 1 : last] - ring[first]
        along = np.clip(points @ chord / max(chord @ chord, 1e-12), 0, 1)
        distance = np.linalg.norm(points - along[:, None] * chord, axis=1)
        if distance.max() > tolerance:
            middle = first + 1 + int(distance.argmax())
            kept.add(middle)
            parts += [(first, middle), (middle, last)]
    return ring[sorted(kept)] if len(kept) >= 3 else ring[:-1]  # two corners would be read as a box


@torch.inference_mode()
def find_objects(
    model: nn.Module, rgb: np.ndarray, ids: Mapping[int, int], threshold: float, masks: bool = False, gray: bool = False
) -> list[str]:
    """Detect the objects of an image and return the rows of its label file.

    Args:
        model: Detector in evaluation mode.
        rgb: sRGB in [0, 255], uint8, shape (H, W, 3).
        ids: COCO-80 class by the detector's class; objects of other classes are left out.
        threshold: Objects with a confidence above this are kept, in [0, 1).
        masks: Write polygons. An object whose mask is nowhere above one half gets the corners of its box.
        gray: Show the detector the gray version.

    Returns:
        One row per object, by falling confidence. Boxes are clipped to the image; a box outside of the image is left out.
    """
    height, width = rgb.shape[:2]
    pixels = torch.from_numpy(rgb).permute(2, 0, 1).to(next(model.parameters()).device) / 255
    if gray:
        pixels = gray_version(rgb_to_lab(pixels[None]))[0]
    detections = model([pixels])[0]
    boxes = clip_boxes_to_image(detections["boxes"], (height, width)).tolist()
    scores, classes = detections["scores"].tolist(), detections["labels"].tolist()
    rows = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        confidence, category = scores[i], ids.get(classes[i])
        x1, y1, x2, y2 = boxes[i]
        if category is None or not (confidence > threshold and x1 < x2 and y1 < y2):
            continue
        if masks:
            corners = outline(detections["masks"][i, 0].cpu().numpy())
            if corners is None:
                corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
            values = (corners / (width, height)).ravel().tolist()
        else:
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, confidence]
        rows.append(" ".join([str(category), *(f"{value:.6f}" for value in values)]))
    return rows


def label_names(names: Sequence[str]) -> dict[str, str]:
    """Return the image of each label file, both as relative paths with forward slashes.

    Raises:
        ValueError: If two images would share a label file; names both.
    """
    images: dict[str, str] = {}
    for name in names:
        label = f"{posixpath.splitext(name)[0]}.txt"
        if label in images:
            raise ValueError(f"{images[label]} and {name} would share the label file {label}; rename one of them")
        images[label] = name
    return images


def labels_to_write(folder: Path, images: Mapping[str, Path], settings: Mapping[str, Any], overwrite: bool) -> list[str]:
    """Return the label files that are still to be written; record images and settings in the sidecar.

    Args:
        folder: Folder for the label files; it may hold files of other images.
        images: Path of the image by label file, which is relative to the folder.
        settings: Everything that label files depend on besides the image, in a form for JSON.
        overwrite: Remove existing label files of these images.

    Returns:
        Label files, in the order of ``images``.

    Raises:
        ValueError: If the folder holds label files made with other settings, of other images, or not by this script, so
            that new files would be mixed with them.
    """
    sidecar = folder / SIDECAR
    earlier = _read_sidecar(sidecar)
    made_of = earlier.pop("pictures", {})
    differences = [
        f"{key} was {earlier.get(key)}, is now {settings.get(key)}"
        for key in sorted(earlier.keys() | settings.keys())
        if earlier and earlier.get(key) != settings.get(key)
    ]
    files = {label: fingerprint(path) for label, path in images.items()}
    there = {label for label in files if (folder / label).exists()}
    others = {label: file for label, file in made_of.items() if label not in files and (folder / label).exists()}
    if differences and (others or not overwrite):
        of_others = f"{len(others)} of other images, e.g. {min(others)}, " if others else ""
        advice = "" if others else ", or pass --overwrite to write them anew"
        raise ValueError(
            f"{folder} holds label files, {of_others}that were made in another way: {'; '.join(differences)}; give another "
            f"folder with -o{advice}"
        )
    strange = sorted(label for label in there if made_of.get(label) != files[label])
    if strange and not overwrite:
        raise ValueError(
            f"{folder} holds {len(strange)} of the {len(files)} label files already, e.g. {strange[0]}, but of another image "
            "or from another program, or the image has changed since; give another folder with -o, or pass --overwrite to "
            "replace them"
        )
    if overwrite:
        for label in there:  # before the sidecar says that they are of these settings
            (folder / label).unlink()
        there = set()
    write_atomic(sidecar, json.dumps({**settings, "pictures": {**others, **files}}, indent=1) + "\n")
    return [label for label in files if label not in there]


def _read_sidecar(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("pictures"), dict):
        raise ValueError(f"{path} was not written by this script, or is damaged; give another folder with -o, or remove it")
    return content


def detect(args: argparse.Namespace) -> int:
    """Write the label files; return the exit status, 1 if an image has no label file."""
    listed = list_images(args.images)
    images = {label: listed.path(name) for label, name in label_names(listed.names).items()}
    ids = coco80_ids(get_model_weights(args.detector).DEFAULT.meta["categories"])
    weights = args.weights or fetched_weights(args.detector)
    model = load_detector(args.detector, weights, args.threshold)
    model.to(args.device)
    torch.backends.cudnn.deterministic = True
    settings = {
        "detector": args.detector,
        "weights": sha256(weights),
        "threshold": args.threshold,
        "masks": args.masks,
        "gray": args.gray,
        "torchvision": torchvision.__version__.partition("+")[0],  # behind the plus stands the build, for CPU or GPU
    }
    missing = labels_to_write(args.output, images, settings, args.overwrite)
    print(f"{len(images)} images; {len(images) - len(missing)} have label files of an earlier run, which are kept")
    if listed.left_out:
        print(f"left out: {listed.left_out}")

    objects, failures = 0, []
    for label in tqdm(missing, unit="picture"):
        path = images[label]
        try:
            rows = find_objects(model, read_rgb(path), ids, args.threshold, args.masks, args.gray)
        except ImageReadError as error:
            failures.append(str(error))
            continue
        except (MemoryError, RuntimeError, ValueError) as error:  # an image too large, or too long for the detector to resize
            failures.append(" ".join(f"{path}: {type(error).__name__}: {error}".split())[:300])
            continue
        write_atomic(args.output / label, "".join(f"{row}\n" for row in rows))
        objects += len(rows)

    print(f"{objects} objects in {len(missing) - len(failures)} new label files in {args.output}")
    for reason in failures:
        print(f"ERROR  {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(images)} images have no label file", file=sys.stderr)
    return 1 if failures else 0


def main() -> None:
    args = parse_args()
    args.device = default_device() if args.device is None else args.device
    interrupt.hear()
    try:
        check_device(args.device)
        status = detect(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("interrupted: finished label files are kept; run the same command again to go on", file=sys.stderr)
        status = 130
    raise SystemExit(status)


if __name__ == "__main__":
    main()
