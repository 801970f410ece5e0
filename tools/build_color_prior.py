"""Count the colors of objects: the object prior P(ab | category, lightness), and the published ``color_.json``.

    python tools/build_color_prior.py IMAGES LABELS -o prior.npz                              # boxes or polygons, YOLO rows
    python tools/build_color_prior.py IMAGES LABELS --polygons POLYGONS -o prior.npz --check  # with masks of some objects
    python tools/build_color_prior.py IMAGES LABELS -o prior.npz --json color_.json           # for the published network
    python tools/build_color_prior.py IMAGES LABELS -o prior.npz --check-page page.md         # the check as Markdown

LABELS and POLYGONS hold one file per image, ``a/b.txt`` or ``b.txt`` for ``a/b.jpg``; an image with an empty or missing file
has no objects. Classes are those of COCO-80, from 0. A folder with the class numbers of COCO's annotation files, 1 to 90, is
recognized and converted. Each image is read twice: once to count, and once to compare its objects with those of the other
images. Images are not kept, so their number is not limited by memory.

``prior.npz`` is read by ``models/object_prior.py``. ``color_.json`` has, for each class and channel, the share of each level in
[0, 255] within the objects of that class; the scale of the published file is not known. In both, an object of 100 pixels or
more, in the image reduced to 224x224, counts as one and a smaller one in proportion.

``--check`` holds out each fifth of the images. It prints how often their objects are called unusual, how well the measures
tell them from the same objects in other colors, and the loss if only the boxes of objects are known. The result for the shipped
prior is benchmarks/object_prior.md.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import SHRINKAGE, SMOOTHING


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s IMAGES LABELS --output FILE [options]", ("data", "prior", "run"))
    add = parser.groups["data"].add_argument
    add("images", type=Path, help="folder of natural photographs, searched recursively, or a .txt list")
    add("labels", type=Path, help="folder of YOLO label files: boxes, boxes with confidence, or polygons")
    add("--polygons", type=Path, help="folder of YOLO polygon files, preferred where an image has one")
    add(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATA",
        help="data sets whose scenes are left out, and .txt lists of images, one per line",
    )

    add = parser.groups["prior"].add_argument
    add("--smoothing", type=float, default=SMOOTHING, help="blur over ab in CIELAB units (default: %(default)s)")
    add(
        "--shrinkage",
        type=float,
        default=SHRINKAGE,
        help="weight of all categories together in each lightness band of a category, in objects (default: %(default)s)",
    )

    add = parser.groups["run"].add_argument
    add("-o", "--output", type=Path, required=True, help=".npz file to write")
    add("--json", type=Path, help="also write the prior of the published network, color_.json")
    add("--check", action="store_true", help="measure on held-out fifths of the images; takes 10 times as long")
    add("--check-page", type=Path, metavar="FILE", help="--check, and write the result as Markdown")
    args = parser.parse_args()
    args.check = args.check or args.check_page is not None
    for name in ("smoothing", "shrinkage"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name} must be above 0, got {getattr(args, name):g}")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor
from tqdm import tqdm

from data.recolor import from_lab, to_lab
from data.splits import excluded_names
from models.color_prior import ab_bins
from models.object_prior import (
    ALL,
    LIGHTNESS_EDGES,
    MEASURES,
    MIN_PIXELS,
    SIGNED,
    SIZE,
    UNUSUAL,
    Evidence,
    Labeled,
    ObjectPrior,
    describe_unusual,
    measure,
    observe,
    sliced_wasserstein,
)
from models.preprocessing import Preprocess
from training.records import command_line
from utils.color import lab_to_rgb, rgb_to_lab
from utils.files import write_atomic
from utils.images import ImageReadError, is_gray, list_images, read_rgb
from utils.labels import (
    CLASSES,
    COCO_NAMES,
    CURVE,
    ELLIPSE,
    LabeledObject,
    LabelError,
    ObjectLabels,
    object_mask,
    read_objects,
    uses_coco91,
    write_color_curves,
)

_FOLDS = 5
_FEWEST_SHOWN = 8  # objects of a category that --check gives a line of its own
_DULL = 10  # chroma, CIELAB units, below which --check counts objects apart
_ELLIPSES = (1.0, ELLIPSE, 0.8)  # shares of a box that --check sets beside each other


@dataclass(frozen=True)
class LabeledImage:
    """An image as the networks see it.

    Attributes:
        rgb: sRGB on 8-bit levels, uint8, shape (3, 224, 224).
        lab: CIELAB, shape (3, 224, 224).
        objects: Category and mask (224, 224) of each object that is large enough.
        dropped: Number of objects left out: outside of the image, without area, or too small.
    """

    rgb: Tensor
    lab: Tensor
    objects: list[tuple[int, np.ndarray]]
    dropped: int

    def observed(self) -> list[Labeled]:
        """Return the colors of the objects."""
        return [(category, observe(self.lab, mask)) for category, mask in self.objects]


class LabeledImages:
    """Images of a folder with their objects, read on demand.

    Args:
        images: Folder of images, or a list of them.
        labels: Folder of label files.
        polygons: Folder of label files that are preferred, or None.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If there is no image.
    """

    def __init__(self, images: Path, labels: Path, polygons: Path | None = None) -> None:
        self.listed = list_images(images)
        self.preprocess = Preprocess(SIZE)
        self.folders = [ObjectLabels(folder) for folder in (polygons, labels) if folder is not None]
        self.coco91 = [
            uses_coco91(file for file in map(folder.file, self.listed.names) if file is not None) for folder in self.folders
        ]

    def objects(self, name: str) -> list[LabeledObject] | None:
        """Return the objects of an image; None if no folder has a file for the image."""
        for folder, coco91 in zip(self.folders, self.coco91, strict=True):
            file = folder.file(name)
            if file is not None:
                return read_objects(file, coco91)
        return None

    def read(self, name: str) -> LabeledImage | str:
        """Read an image; return the reason if it is valid but cannot be used.

        Raises:
            ImageReadError: If the image cannot be read.
            LabelError: If the label file cannot be read.
        """
        objects = self.objects(name)
        if objects is None:
            return "without a label file"
        pixels = read_rgb(self.listed.path(name))
        if is_gray(pixels):
            return "without color"
        rgb = self.preprocess(torch.from_numpy(pixels).permute(2, 0, 1))["rgb"]
        masks = [(thing.category, object_mask(thing, SIZE, SIZE)) for thing in objects]
        kept = [(category, mask) for category, mask in masks if mask.sum() >= MIN_PIXELS]
        levels = (rgb * 255).round().to(torch.uint8)
        return LabeledImage(levels, rgb_to_lab(rgb[None])[0], kept, len(masks) - len(kept))


def count(images: LabeledImages, names: list[str], evidence: Evidence) -> tuple[list[str], np.ndarray, Counter[str], list[str]]:
    """Add the objects of all images to the evidence.

    Returns:
        The images with objects; weighted counts of each 8-bit level in the objects of a class, shape (81, 768); numbers of
        unused images and objects, by reason; and a line for each file that could not be read.
    """
    used, unused, unreadable = [], Counter(), []
    curves = np.zeros((CLASSES, CURVE))
    for name in tqdm(names, desc="counting", unit="image", leave=False):
        try:
            image = images.read(name)
        except (ImageReadError, LabelError) as error:
            unreadable.append(str(error))
            continue
        if isinstance(image, str):
            unused[f"images {image}"] += 1
            continue
        unused["objects outside of the image or too small"] += image.dropped
        if not image.objects:
            unused["images without objects"] += 1
            continue
        used.append(name)
        observed = image.observed()
        evidence.add(observed)
        for (category, mask), (_, observation) in zip(image.objects, observed, strict=True):
            levels = image.rgb[:, torch.from_numpy(mask)].numpy()
            histograms = np.concatenate([np.bincount(channel, minlength=CURVE // 3) for channel in levels])
            curves[category] += observation.weight / observation.pixels * histograms
    return used, curves, unused, unreadable


def fit(images: LabeledImages, used: list[str], evidence: Evidence, about: dict | None = None) -> ObjectPrior:
    """Fit the prior; its percentiles come from comparing each object with the evidence of all other images.

    Args:
        images: Source of the images.
        used: Images with objects, all that the evidence was counted from.
        evidence: Counts of these images.
        about: Description to store in the prior.
    """
    categories, values, values_of_any = [], [], []
    for name in tqdm(used, desc="comparing", unit="image", leave=False):
        observed = images.read(name).observed()
        rest = evidence.without(observed)
        of_any = rest.expectation(ALL)
        expected = {category: rest.expectation(category) for category in {category for category, _ in observed}}
        for category, observation in observed:
            categories.append(category)
            values.append(measure(observation, expected[category]))
            values_of_any.append(measure(observation, of_any))
    return ObjectPrior.fit(evidence, np.array(categories), np.array(values), np.array(values_of_any), about)


def _turned(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return lambda ab: np.stack((cosine * ab[0] - sine * ab[1], sine * ab[0] + cosine * ab[1]))


# What an object looks like for --check, from its a and b.
_VERSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hue turned by 90 degrees": _turned(90),
    "hue turned by 180 degrees": _turned(180),
    "chroma times 0.4": lambda ab: 0.4 * ab,
    "chroma times 2.5": lambda ab: 2.5 * ab,
}


def recolored(lab: Tensor, mask: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Change the color of an object within the sRGB gamut; return the image as CIELAB, shape (3, H, W)."""
    changed = lab.numpy().copy()
    changed[1:, mask] = change(changed[1:, mask])
    return torch.from_numpy(to_lab(from_lab(changed)))


@dataclass(frozen=True)
class Judged:
    """Held-out objects, each unchanged and in the V colors of ``_VERSIONS``.

    Attributes:
        categories: Category of each object, shape (N,).
        chroma: Chroma of the mean color of the unchanged object, CIELAB units, shape (N,).
        percentiles: Percentiles of ``MEASURES``, shape (N, 1 + V, 7).
        named: Whether ``models.object_prior.reason`` has a word for the color, bool, shape (N, 1 + V).
    """

    categories: np.ndarray
    chroma: np.ndarray
    percentiles: np.ndarray
    named: np.ndarray


def held_out(images: LabeledImages, used: list[str], smoothing: float, shrinkage: float) -> Judged:
    """Compare the objects of each fifth of the images with the prior of the other four.

    Args:
        images: Source of the images.
        used: Images with objects.
        smoothing: Smoothing of the prior, CIELAB units.
        shrinkage: Shrinkage of the prior, in objects.

    Raises:
        ValueError: If there are fewer images than fifths.
    """
    if len(used) < _FOLDS:
        raise ValueError(f"--check needs at least {_FOLDS} images with objects, got {len(used)}")
    categories, chroma, percentiles, named = [], [], [], []
    for fold in range(_FOLDS):
        kept = [name for number, name in enumerate(used) if number % _FOLDS != fold]
        evidence = Evidence(smoothing, shrinkage)
        prior = fit(images, count(images, kept, evidence)[0], evidence)
        for name in used[fold::_FOLDS]:
            image = images.read(name)
            for category, mask in image.objects:
                window = np.ix_(mask.any(1), mask.any(0))  # to recolor no more than that
                mask, lab = mask[window], image.lab[:, window[0], window[1]]
                versions = [lab, *(recolored(lab, mask, change) for change in _VERSIONS.values())]
                compared = [prior.compare_object(version, mask, category) for version in versions]
                categories.append(category)
                chroma.append(np.hypot(compared[0]["a"], compared[0]["b"]))
                percentiles.append([[c[f"{name}, percentile"] for name in MEASURES] for c in compared])
                named.append([describe_unusual(category, c) != "" for c in compared])
    return Judged(*map(np.array, (categories, chroma, percentiles, named)))


def check_text(judged: Judged) -> str:
    """Format the result of ``held_out`` as tables."""
    low, high = judged.percentiles[:, 0] < 5, judged.percentiles[:, 0] > 95
    distance = np.abs(judged.percentiles - 50)  # unusual at both ends where a measure has a sign
    signed = [name in SIGNED for name in MEASURES]
    unusual = np.where(signed, distance, judged.percentiles)

    def aucs(of: np.ndarray, version: int) -> dict[str, float]:
        return {name: _auc(unusual[of, 0, m], unusual[of, version, m]) for m, name in enumerate(MEASURES)}

    everything = np.ones(len(judged.categories), bool)
    calibration = pd.DataFrame({"above 95": high.mean(0), "below 5": low.mean(0)}, index=MEASURES).T
    dull = judged.chroma < _DULL
    parts = {"all": everything, f"chroma below {_DULL}": dull, f"chroma {_DULL} and up": ~dull}
    named = pd.DataFrame(
        {f"{label} ({of.sum()})": judged.named[of].mean(0) for label, of in parts.items() if of.any()},
        index=["as it is", *_VERSIONS],
    )
    overall = pd.DataFrame({version: aucs(everything, v) for v, version in enumerate(_VERSIONS, start=1)}).T
    counts = np.bincount(judged.categories, minlength=len(COCO_NAMES))
    large = [c for c in counts.argsort(kind="stable")[::-1] if counts[c] >= _FEWEST_SHOWN]
    each = pd.DataFrame({f"{COCO_NAMES[c]} ({counts[c]})": aucs(judged.categories == c, 2) for c in large}).T
    return (
        f"{len(judged.categories)} held-out objects: share with a percentile\n{calibration.to_string(float_format='%.3f')}\n\n"
        f"share whose color is worth a word, from a percentile of {UNUSUAL:g} on, by the chroma of the mean color as it is\n"
        f"{named.to_string(float_format='%.2f')}\n\n"
        f"AUC of the percentiles, real objects against the same in another color (0.5: not told apart)\n"
        f"{overall.to_string(float_format='%.2f')}\n\n"
        f"the same by category, {list(_VERSIONS)[1]}\n{each.to_string(float_format='%.2f')}"
    )


def shape_text(images: LabeledImages, used: list[str]) -> str:
    """Return a table of how far the colors in a box differ from those in the polygon; empty without polygons."""
    rows = []
    for name in used:
        lab = images.read(name).lab
        for thing in images.objects(name):
            if thing.polygon is None:
                continue
            shapes = _in_box(thing)
            of_polygon, *others = (observe(lab, object_mask(shape, SIZE, SIZE)) for shape in (thing, *shapes.values()))
            if of_polygon is not None and None not in others:
                colors = of_polygon.histogram.sum(0)
                distances = [sliced_wasserstein(colors, observation.histogram.sum(0)) for observation in others]
                rows.append(dict(zip(shapes, distances, strict=True)))
    if not rows:
        return ""
    return (
        f"distance of the colors of a box from those of the polygon: sliced Wasserstein, CIELAB units, {len(rows)} objects\n"
        f"{pd.DataFrame(rows).agg(['mean', 'median']).T.to_string(float_format='%.2f')}"
    )


def _in_box(thing: LabeledObject) -> dict[str, LabeledObject]:
    """Return shapes that could replace an object if only its box were known, by name."""
    x, y, width, height = thing.box
    corners = np.array([(x + i * width, y + j * height) for i, j in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
    shapes = {"whole box": replace(thing, polygon=corners)}
    for share in _ELLIPSES:
        box = (x, y, width * share / ELLIPSE, height * share / ELLIPSE)
        shapes[f"ellipse in {share:g} of it"] = replace(thing, box=box, polygon=None)
    return shapes


def check_page(judged: Judged, text: str) -> str:
    """Return a page with the text of the check and its interpretation."""
    tails = np.concatenate(((judged.percentiles[:, 0] > 95).mean(0), (judged.percentiles[:, 0] < 5).mean(0)))
    real, turned = (100 * judged.named[:, version].mean() for version in (0, 2))
    return (
        f"# The object prior\n\nMade by\n\n```\n{command_line()}\n```\n\ntorch {torch.__version__}. Each fifth of the images "
        "is held out, and its objects are compared with the prior of the other four.\n\n"
        "- Percentiles are what they say if 5 % of the objects lie above 95 and 5 % below 5. By measure, "
        f"{100 * tails.min():.1f} to {100 * tails.max():.1f} % do.\n"
        f"- The color of {real:.0f} % of the objects is worth a word as they are, and of {turned:.0f} % with their hue turned "
        "by 180 degrees. Near gray no hue is wrong, and of kinds that may have any color none is unusual.\n"
        "- An AUC below 0.5 says that the change made objects more usual. Objects of one image are alike, so that the rows "
        "of single categories are less sure than their numbers suggest. The changes are planted: colorizers make others.\n\n"
        f"```\n{text}\n```\n"
    )


def _auc(real: np.ndarray, changed: np.ndarray) -> float:
    """Return the probability that a changed object is the more unusual one; ties count half."""
    ranks = rankdata(np.concatenate((real, changed)))[len(real) :]
    return (ranks.mean() - (len(changed) + 1) / 2) / len(real)


def category_table(evidence: Evidence) -> str:
    """Return a table of objects, images and colors of each category that occurs, from its own counts only."""
    edges = (0.0, *LIGHTNESS_EDGES, 100.0)
    lightness = np.array([(low + high) / 2 for low, high in itertools.pairwise(edges)])
    centers = ab_bins()[0].numpy()
    of_all = evidence.histogram.sum(0) + 1e-6
    of_all /= of_all.sum()
    rows = []
    for category in np.flatnonzero(evidence.objects[:ALL]):
        shares = evidence.histogram[category] / evidence.histogram[category].sum()
        mean = (shares.sum(1) @ lightness, *(shares.sum(0) @ centers))
        apart = shares * np.log(np.maximum(shares, 1e-12) / of_all)
        band, cell = np.unravel_index(apart.argmax(), apart.shape)
        rows.append(
            {
                "category": COCO_NAMES[category],
                "objects": evidence.objects[category],
                "pictures": evidence.pictures[category],
                "mean L a b": _color(*mean),
                "most its own L a b": _color(lightness[band], *centers[cell]),
            }
        )
    table = pd.DataFrame(rows).sort_values(["objects", "category"], ascending=[False, True])
    return table.to_string(index=False)


def _color(*lab: float) -> str:
    rgb = lab_to_rgb(torch.tensor(lab, dtype=torch.float64).view(1, 3, 1, 1)).flatten()
    return "{:3.0f} {:3.0f} {:3.0f}".format(*lab) + " #{:02x}{:02x}{:02x}".format(*(rgb * 255).round().int().tolist())


def main() -> None:
    args = parse_args()
    try:
        images = LabeledImages(args.images, args.labels, args.polygons)
        names = images.listed.names
        excluded, unknown = excluded_names(names, args.exclude)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if unknown:
        print(f"{unknown} names of --exclude are of no image in {args.images}")
    for folder, coco91 in zip(images.folders, images.coco91, strict=True):
        if coco91:
            print(f"{folder.folder}: classes are the numbers of COCO's annotation files, 1 to 90; converted to 0 to 79")

    evidence = Evidence(args.smoothing, args.shrinkage)
    used, curves, unused, unreadable = count(images, [name for name in names if name not in excluded], evidence)
    unused["images excluded"] = len(excluded)
    for error in unreadable:
        print(f"left out: {error}")
    unused = {why: number for why, number in unused.items() if number}
    for why, number in unused.items():
        print(f"left out: {number} {why}")
    if not used:
        raise SystemExit(f"error: none of {len(names)} images in {args.images} shows an object; check {args.labels}")
    about = {
        "images": args.images.resolve().name,
        "labels": [folder.folder.resolve().name for folder in images.folders],
        "pictures": len(used),
        "objects": int(evidence.objects[ALL]),
        "left out": {**unused, "images or labels unreadable": len(unreadable)},
        "smoothing": args.smoothing,
        "shrinkage": args.shrinkage,
        "lightness edges": list(LIGHTNESS_EDGES),
        "size": SIZE,
        "least pixels": MIN_PIXELS,
    }
    prior = fit(images, used, evidence, about)
    prior.save(args.output)
    if args.json is not None:
        sums = curves.reshape(CLASSES, 3, -1)
        write_color_curves(args.json, (sums / np.maximum(sums.sum(2, keepdims=True), 1e-12)).reshape(CLASSES, CURVE))

    print(category_table(evidence))
    if args.check:
        try:
            judged = held_out(images, used, args.smoothing, args.shrinkage)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
        text = "\n\n".join(filter(None, (check_text(judged), shape_text(images, used))))
        print(f"\n{text}")
        if args.check_page is not None:
            write_atomic(args.check_page, check_page(judged, text))
    size = args.output.stat().st_size / 1e6
    print(f"\n{about['objects']} objects in {len(used)} images, {size:.2f} MB in {args.output}")
    if unreadable:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
