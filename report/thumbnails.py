"""Thumbnails of the images of a report, with their surprise maps and the objects that look wrong."""

import base64
import io
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from inference.maps import (
    LEVEL,
    OBJECT_LEVEL,
    REGION_SHARE,
    Finding,
    find,
    heat,
    heat_colors,
    in_percent,
    short_reason,
    swatch,
)
from inference.scorer import worker_count
from models import load_model
from models.base import ScoreNet
from models.color_prior import ColorPriorNet
from utils.choices import PERCENTILES
from utils.images import ImageReadError, is_gray, read_rgb
from utils.labels import LabeledObject, LabelError, ObjectLabels

_SIDES = ((300, 320), (1000, 224), (math.inf, 160))  # most images, and the long side of their thumbnails in pixels
_QUALITY = 70  # of JPEG
_MAPS_ALL = 300  # up to so many images all get a surprise map,
_MAPS_WORST = 100  # of more only so many, those with the lowest PR
_HEAT_LEVELS = 16  # of the overlay, for a small file
_NAMED = 3  # objects of an image that are said to look wrong; the table below has all
_MOST_WORKERS = 4  # images read at a time, for the sake of memory


@dataclass(frozen=True)
class Thumbnail:
    """What is shown of an image.

    Attributes:
        thumbnail: Data URI; empty if the image cannot be read.
        width: Of the thumbnail, in pixels.
        height: Of the thumbnail, in pixels.
        heat: Data URI of the overlay; empty without a map.
        surprise: Mean percentile of surprise; NaN without a map.
        region: The most surprising region; None if there is none.
        objects: What was found of each labeled object, the most unusual first.
        label_error: Why its label file cannot be read.
        gray: Whether the image has no color.
        unreadable: Why there is no thumbnail.
    """

    thumbnail: str = ""
    width: int = 4
    height: int = 3
    heat: str = ""
    surprise: float = math.nan
    region: Finding | None = None
    objects: tuple[Finding, ...] = ()
    label_error: str = ""
    gray: bool = False
    unreadable: str = ""


def choose_maps(
    frame: pd.DataFrame, dimensions: Sequence[str], scc: ScoreNet | None, maps: int | None, named: bool = False
) -> tuple[set[str], ColorPriorNet | None, str]:
    """Which images get a surprise map, by which network, and what is to be said of it."""
    if maps == 0:
        return set(), None, ""
    network = load_model("SCC") if scc is None else scc
    if not isinstance(network, ColorPriorNet):
        return set(), None, "No surprise maps: the published SCC network has no color prior for each place."
    main = dimensions[0]
    worst = frame[frame["error"] == ""].sort_values([main, "image"])["image"]
    most = maps if maps is not None else len(frame) if len(frame) <= _MAPS_ALL else _MAPS_WORST
    chosen = set(worst[:most])
    digest = str(network.weights_hash)[:12]
    count = "All scored images" if len(chosen) == len(worst) else f"The {len(chosen)} images with the lowest {main}"
    note = (
        f"{count} have a surprise map (point at an image or tap it): how much more improbable its colors are than is to be "
        f"expected for what the gray version shows there, by the color prior of the SCC weights {digest}, as a "
        "percentile among the places in real photos. A frame is around the most surprising region: connected places above the "
        f"{LEVEL:g}th percentile that fill {100 * REGION_SHARE:g} % of the image or more. It is not an object and has no "
        f"name, and it need not be wrong: {_share_of_photos(network)} have one too. A gray patch is seldom surprising."
    )
    if named:
        note += _objects_note(network)
    return chosen, network, note


def _knows_categories(scc: ColorPriorNet) -> bool:
    return getattr(scc, "object_prior", None) is not None


def _objects_note(scc: ColorPriorNet) -> str:
    """What is to be said of the objects of label files."""
    if _knows_categories(scc):
        where = "with the colors that real objects of the category have at that lightness"
        which = "Those with a measure of color that is rare among these are named as looking wrong, with the measure"
    else:
        where = "with the most plausible colors of the place"
        which = f"Those whose places have a mean percentile of {OBJECT_LEVEL:g} or more are named as looking wrong"
    return (
        f" Objects of the label files of these images are compared {where}. {which}; some real ones are named too. Of an "
        "object that has a box and no outline, the ellipse in the box is taken, with what shows of the background."
    )


def percentile_of(scc: ColorPriorNet) -> str:
    """What the percentile of an object is the share of."""
    if _knows_categories(scc):
        return "the share of real objects of the category that are closer to its expected colors"
    return "the share of the places in real photos that are less surprising, mean over its places"


def _share_of_photos(scc: ColorPriorNet) -> str:
    """How many photographs have a surprising region, in words."""
    reference = json.loads(PERCENTILES.read_text(encoding="utf-8")) if PERCENTILES.is_file() else {}
    if reference.get("weights", {}).get("SCC") != {"SCC": scc.weights_hash}:
        return "some real photos"
    return f"{reference['surprising']:.0%} of real photos".replace("%", " %")


def make_thumbnails(
    names: Sequence[str], root: Path, chosen: set[str], scc: ColorPriorNet | None, labels: ObjectLabels | None = None
) -> dict[str, Thumbnail]:
    """Read each image once, for its thumbnail and its surprise map.

    Raises:
        FileNotFoundError: If none of them can be read, and some because they are not there.
    """
    side = next(side for most, side in _SIDES if len(names) <= most)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(name: str) -> Thumbnail:
        torch.set_num_threads(1)  # OpenMP keeps this for each thread
        try:
            pixels = read_rgb(root / name)
        except (ImageReadError, ValueError, OSError) as error:
            return Thumbnail(unreadable=str(error).replace(f"{root}/", ""))
        small = Image.fromarray(pixels)
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=_QUALITY, optimize=True)
        shown = Thumbnail(_data_uri("jpeg", file.getvalue()), *small.size, gray=is_gray(pixels))
        if scc is None or name not in chosen:
            return shown
        objects: Sequence[LabeledObject] = ()
        label_error = ""
        if labels is not None:
            try:
                objects = labels.objects(name)
            except LabelError as error:
                label_error = str(error)
        found = find(scc, pixels, objects)
        mean = float(found.surprise.percentile.mean())
        overlay = heat_overlay(found.surprise.percentile)
        return replace(
            shown, heat=overlay, surprise=mean, region=found.region, objects=found.ranked_objects, label_error=label_error
        )

    try:
        with ThreadPoolExecutor(min(worker_count(["cpu"]), _MOST_WORKERS)) as pool:
            thumbnails = dict(zip(names, pool.map(make, names), strict=True))
    finally:
        torch.set_num_threads(threads)
    if not any(shown.thumbnail for shown in thumbnails.values()) and not any((root / name).exists() for name in names):
        raise FileNotFoundError(
            f"none of the {len(names)} images is in {root}, e.g. {names[0]}; if they have been moved, say where to: "
            "--root of evaluate.py, or the folder for infer_PR.py to score again"
        )
    return thumbnails


def wrong_objects(objects: Sequence[Finding]) -> str:
    """The objects with unusual colors in words, the most unusual first; empty if there are none."""
    unusual = [f"{finding.what} ({short_reason(finding).partition(';')[0]})" for finding in objects if finding.unusual]
    more = f"; {len(unusual) - _NAMED} more" if len(unusual) > _NAMED else ""
    return "; ".join(unusual[:_NAMED]) + more


def heat_overlay(percentile: np.ndarray) -> str:
    """The map as an image to lay over the thumbnail, clear where there is no heat; a data URI.

    Args:
        percentile: Of the surprise of each place, shape (h, w).
    """
    levels = np.rint(heat(percentile) * (_HEAT_LEVELS - 1)).astype(np.uint8)
    colors = np.rint(heat_colors(np.linspace(0, 1, _HEAT_LEVELS)) * 255).astype(np.uint8)
    image = Image.fromarray(levels, "P")
    image.putpalette(colors[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", transparency=colors[:, 3].tobytes(), optimize=True, bits=4)
    return _data_uri("png", file.getvalue())


def finding_of(finding: Finding) -> dict[str, Any]:
    """An object or region as the page shows it."""
    observed, expected = finding.observed, finding.expected
    has, lacks = (
        "" if observed is None or ab is None else "#" + bytes(swatch(observed[0], ab)).hex()
        for ab in (observed and observed[1:], expected)
    )
    known = math.isfinite(finding.percentile)
    return {
        "what": finding.what,
        "has": has,
        "expected": lacks,
        "percent": in_percent(finding.percentile) if known else "",
        "why": short_reason(finding) if finding.reason else "",
    }


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
