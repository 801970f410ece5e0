"""Maps of the color priors for one image: where its colors are improbable, and which colors would be plausible.

Surprise is how much more improbable colors are than the prior expects. It is given as a percentile: the percentage of places in
real photographs that are less surprising, by the calibration in the color prior. Scales are linear in rarity, minus the decimal
logarithm of the share that is more surprising: 1 at the 90th percentile, 2 at the 99th. Labeled objects are compared with the
prior of their category.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage
from tqdm import tqdm

from models.base import ScoreNet
from models.color_prior import ColorPriorNet, Surprise
from models.object_prior import MEASURES, ObjectPrior, describe_unusual
from models.semantic import SemanticConsistencyNet
from utils.color import lab_to_rgb, rgb_to_lab
from utils.files import write_atomic
from utils.images import ImageList, ImageReadError, Packed, read_rgb
from utils.labels import COCO_NAMES, LabeledObject, LabelError, ObjectLabels, object_mask
from utils.scores import fingerprint, read_scores

# Percentile above which places make up a surprising region. Of held-out photographs of COCO, 12 % have such a region; with the
# hue of a colorful object turned by 180 degrees, 41 % do, most often the object. At 95 it is 20 % and 58 %, at 99 4 % and 17 %.
LEVEL = 97.0
# Mean percentile of its places from which on an object is surprising, if there is no prior of categories. 5 % of the objects of
# these photographs reach it, and 31 % of the turned ones.
OBJECT_LEVEL = 90.0
REGION_SHARE = 0.015  # of the image that a surprising region fills at least
SCALE = (50, 75, 90, 95, 99)  # percentiles that scales of the heat name
TOO_SMALL = "too small to judge"

_RAREST = 3.0  # rarity; the calibration goes in steps of 0.1 %
_CLEAR, _FULL = 75.0, 99.0  # percentiles at which heat begins and is full
_COLORS = "inferno"  # perceptually uniform, by Nathaniel Smith and Stefan van der Walt, CC0
_FIRST = 0.2  # of that map, whose beginning is black
_OPACITY = 0.9
_DIM = 0.5  # of the gray image under the heat
_GRAY = 5.0  # chroma below which a mean color has no hue to speak of, CIELAB units
_SAME_HUE = 20.0  # degrees
_MORE_CHROMA = 10.0  # CIELAB units of chroma from which on a difference is named

_FORMAT = 1  # of the maps; files of another one are drawn anew
_RECORD = "ICQA map"  # key of the text in a PNG that records the sources of the map
_TABLE = "objects.csv"
_MOST_WORKERS = 4  # images read at a time, to save memory
_SIDE = 400  # long side of a panel, in pixels
_MARGIN = 16
_LINE = 20
_ROWS = 12  # objects that a map lists
_INK, _PALE = (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class Finding:
    """An object of an image, or the most surprising region: the color that it has, and the expected color.

    Attributes:
        number: Number of the object in the label file, from 1; 0 for the region.
        what: The category, or "region".
        box: Left, top, width and height as shares of the image.
        observed: Mean color in CIELAB; None for an object that fills no cell of the image.
        expected: a and b; for an object the mean color of its category at its lightness, else a plausible color of the place.
            None where nothing is expected.
        percentile: For an object, the percentage of real objects of its category that are closer to the expected colors (sliced
            Wasserstein distance). For the region, or without a prior of categories, same as ``place_percentile``. NaN if
            unknown.
        place_percentile: Percentage of the places in real photographs that are less surprising, mean over its places.
        measures: Percentiles of all ``MEASURES`` among real objects of the category, by name.
        unusual: Whether the colors are unusual.
        reason: Why the colors are unusual, in words; or why that is not known.
    """

    number: int
    what: str
    box: tuple[float, float, float, float]
    observed: tuple[float, float, float] | None
    expected: tuple[float, float] | None
    percentile: float
    place_percentile: float
    measures: dict[str, float] = field(default_factory=dict)
    unusual: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Findings:
    """The findings in one image: the map, the most surprising region if there is one, and the labeled objects."""

    surprise: Surprise
    region: Finding | None
    objects: list[Finding]

    @property
    def ranked_objects(self) -> tuple[Finding, ...]:
        """Return the objects, those with unusual colors first, then by percentile, the highest first."""
        return tuple(sorted(self.objects, key=lambda f: (not f.unusual, -np.nan_to_num(f.percentile, nan=-1), f.number)))

    @property
    def all(self) -> tuple[Finding, ...]:
        """Return the ranked objects, then the region."""
        return self.ranked_objects + ((self.region,) if self.region else ())


# --- finding


def rarity(percentile: np.ndarray | float) -> np.ndarray:
    """Return minus the decimal logarithm of the share above a percentile, any shape; at most 3, for 99.9 %."""
    return -np.log10(np.maximum(1 - np.asarray(percentile, np.float64) / 100, 10**-_RAREST))


def in_percent(percentile: float) -> str:
    """Return a percentile as text, rounded down to at most "99 %": 98.7 is "98 %"."""
    return f"{min(99, int(percentile))} %"


def surprising_region(percentile: np.ndarray) -> np.ndarray | None:
    """Return the most surprising connected region: the one with the largest sum of rarity above that of ``LEVEL``.

    Args:
        percentile: Percentile of the surprise of each place, shape (h, w).

    Returns:
        True for the places of the region, bool, shape (h, w); None if no region above the level fills ``REGION_SHARE`` of the
        image.
    """
    excess = rarity(percentile) - rarity(LEVEL)
    labels, count = ndimage.label(excess > 0)
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(np.ones_like(excess), labels, numbers)
    masses = np.where(sizes >= REGION_SHARE * excess.size, ndimage.sum_labels(excess, labels, numbers), 0)
    return labels == masses.argmax() + 1 if count and masses.max() > 0 else None


def difference(observed: Sequence[float], expected: Sequence[float]) -> str:
    """Describe the difference of a color from the expected one, such as "bluer and more colorful"; empty if small.

    Args:
        observed: The color, CIELAB.
        expected: The expected a and b.
    """
    ab, other = complex(*observed[1:]), complex(*expected)
    changes = []
    if abs(ab) >= _GRAY and not (abs(other) >= _GRAY and abs(np.angle(ab * other.conjugate(), deg=True)) < _SAME_HUE):
        change = ab - other
        directions = [
            (abs(change.real), "redder" if change.real > 0 else "greener"),
            (abs(change.imag), "yellower" if change.imag > 0 else "bluer"),
        ]
        directions.sort(reverse=True)
        changes = [word for size, word in directions if size >= max(_GRAY, directions[0][0] / 2)]
    if abs(abs(ab) - abs(other)) >= _MORE_CHROMA:
        changes.append("more colorful" if abs(ab) > abs(other) else "duller")
    return " and ".join(", ".join(changes).rsplit(", ", 1))


@torch.inference_mode()
def find(net: ColorPriorNet, pixels: np.ndarray, objects: Sequence[LabeledObject] = ()) -> Findings:
    """Compare an image with the color priors.

    Args:
        net: A color prior, or an SCC network, which may have a prior of categories too.
        pixels: sRGB, uint8, shape (H, W, 3).
        objects: Labeled objects of the image.
    """
    rgb = net.prepare(pixels)["rgb"]
    surprise = net.surprise(rgb)
    lab = rgb_to_lab(rgb[None].cpu())
    cells = F.interpolate(lab, surprise.nats.shape, mode="area")[0].numpy()
    prior = net.object_prior if isinstance(net, SemanticConsistencyNet) else None
    findings = [_object(number, thing, surprise, cells, lab[0], prior) for number, thing in enumerate(objects, start=1)]
    return Findings(surprise, _region(surprise, cells), findings)


def _region(surprise: Surprise, cells: np.ndarray) -> Finding | None:
    places = surprising_region(surprise.percentile)
    if places is None:
        return None
    observed, expected, percentile = _means(places, surprise, cells)
    rows, columns = (np.flatnonzero(places.any(axis)) for axis in (1, 0))
    h, w = places.shape
    left, top = float(columns[0] / w), float(rows[0] / h)
    box = (left, top, float((columns[-1] + 1) / w) - left, float((rows[-1] + 1) / h) - top)
    text = f"region: {_describe_surprise(observed, expected, percentile)}"
    return Finding(0, "region", box, observed, expected, percentile, percentile, {}, True, text)


def _describe_surprise(observed: Sequence[float], expected: Sequence[float], percentile: float) -> str:
    change = difference(observed, expected)
    how = f"{change} than expected" if change else "mean color much as expected"
    return f"{how}; on average more surprising than {in_percent(percentile)} of places in real photos"


def _means(weights: np.ndarray, surprise: Surprise, cells: np.ndarray) -> tuple[tuple, tuple, float]:
    """Return mean color, mean expected color and mean percentile of the cells by weights, shape (h, w)."""
    weights = weights / weights.sum()
    observed = tuple(round(float(x), 2) for x in (cells * weights).sum((1, 2)))
    expected = tuple(round(float(x), 2) for x in (surprise.expected * weights).sum((1, 2)))
    return observed, expected, round(float((surprise.percentile * weights).sum()), 2)


def _object(
    number: int,
    thing: LabeledObject,
    surprise: Surprise,
    cells: np.ndarray,
    lab: torch.Tensor,
    prior: ObjectPrior | None,
) -> Finding:
    what = COCO_NAMES[thing.category]
    x, y, width, height = thing.box
    left, top, right, bottom = (
        float(np.clip(edge, 0, 1)) for edge in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    )
    box = (left, top, right - left, bottom - top)
    mask = object_mask(thing, *lab.shape[1:])
    if not mask.any():
        return Finding(number, what, box, None, None, np.nan, np.nan, reason=TOO_SMALL)
    shares = F.interpolate(torch.from_numpy(mask).float()[None, None], surprise.nats.shape, mode="area")[0, 0].numpy()
    observed, expected, place = _means(shares, surprise, cells)
    if prior is None:
        unusual = place >= OBJECT_LEVEL
        text = f"{what}: {_describe_surprise(observed, expected, place)}" if unusual else ""
        return Finding(number, what, box, observed, expected, place, place, {}, unusual, text)
    values = prior.compare_object(lab, mask, thing.category)
    if values is None:
        return Finding(number, what, box, observed, None, np.nan, place, reason=TOO_SMALL)
    observed = tuple(round(values[key], 2) for key in ("lightness", "a", "b"))
    expected = tuple(round(values[key], 2) for key in ("expected a", "expected b"))
    measures = {measure: round(values[f"{measure}, percentile"], 2) for measure in MEASURES}
    text = describe_unusual(thing.category, values)
    return Finding(number, what, box, observed, expected, measures["sliced Wasserstein"], place, measures, bool(text), text)


def short_reason(finding: Finding) -> str:
    """Return the reason of an object or a region without its name, or "nothing unusual"."""
    return finding.reason.removeprefix(f"{finding.what}: ") or "nothing unusual"


# --- colors of the heat


def heat(percentile: np.ndarray) -> np.ndarray:
    """Return the heat of percentiles, in [0, 1], any shape: 0 up to the 75th percentile, 1 from the 99th on."""
    low, high = rarity(_CLEAR), rarity(_FULL)
    return ((rarity(percentile) - low) / (high - low)).clip(0, 1)


def heat_colors(level: np.ndarray) -> np.ndarray:
    """Return red, green, blue and opacity of heat in [0, 1], all in [0, 1], shape (..., 4); heat 0 is transparent."""
    colors = np.array(matplotlib.colormaps[_COLORS](_FIRST + (1 - _FIRST) * np.asarray(level)))
    colors[..., 3] = _OPACITY * np.asarray(level) ** 0.5
    return colors


def over_gray(gray: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the colors of heat over a dimmed gray image.

    Args:
        gray: Gray image in [0, 1], any shape.
        level: Heat in [0, 1], same shape.

    Returns:
        sRGB in [0, 1], shape (..., 3).
    """
    colors = heat_colors(level)
    return (1 - colors[..., 3:]) * _DIM * gray[..., None] + colors[..., 3:] * colors[..., :3]


def scale_positions() -> list[tuple[int, float]]:
    """Return the percentiles of ``SCALE`` with their positions on a scale, from 0 to 1."""
    low, high = rarity(SCALE[0]), rarity(SCALE[-1])
    return [(level, float((rarity(level) - low) / (high - low))) for level in SCALE]


def scale_colors(count: int) -> np.ndarray:
    """Return the colors of a scale from the lowest to the highest of ``SCALE``, over middle gray, shape (count, 3)."""
    along = np.linspace(rarity(SCALE[0]), rarity(SCALE[-1]), count)
    level = heat(100 * (1 - 10**-along))
    return over_gray(np.full(count, 0.5), level)


def swatch(lightness: float, ab: Sequence[float]) -> tuple[int, int, int]:
    """Return red, green and blue of a CIELAB color, 0 to 255."""
    rgb = lab_to_rgb(torch.tensor([lightness, *ab], dtype=torch.float64).view(1, 3, 1, 1)).flatten()
    red, green, blue = (int(x) for x in (rgb * 255).round())
    return red, green, blue


# --- one image


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # the font of Pillow has no umlauts; DejaVu comes with matplotlib
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a line of text, cut to ``width`` pixels."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "\N{HORIZONTAL ELLIPSIS}") > width:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Return a text in at most ``most`` lines no wider than ``width`` pixels; the last line is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(lines) == most or not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_fitted(line, font, width) for line in lines]


def panels(pixels: np.ndarray, surprise: Surprise) -> list[Image.Image]:
    """Return the image, the heat over its gray version, and its gray version in expected colors; long side ``_SIDE``."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3)

    def enlarged(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))

    gray = np.asarray(image.convert("L"), np.float64) / 255
    hot = over_gray(gray, enlarged(heat(surprise.percentile)).astype(np.float64).clip(0, 1))
    rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    lab = torch.cat((rgb_to_lab(rgb)[0, :1], torch.from_numpy(np.stack([enlarged(plane) for plane in surprise.expected]))))
    expected = lab_to_rgb(lab[None])[0].permute(1, 2, 0).numpy()
    return [image, *(Image.fromarray((rgb * 255).round().astype(np.uint8)) for rgb in (hot, expected))]


def draw_map(pixels: np.ndarray, findings: Findings, name: str) -> Image.Image:
    """Draw an image, its surprise and its expected colors side by side, and below them its findings in words and swatches.

    Args:
        pixels: sRGB, uint8, shape (H, W, 3).
        findings: Result of ``find`` for the image.
        name: Title of the map.
    """
    font, small = _font(14), _font(12)
    shown = panels(pixels, findings.surprise)
    rows = findings.all
    objects = rows[:_ROWS] if len(rows) <= _ROWS or not findings.region else [*rows[: _ROWS - 1], findings.region]
    texts = [_wrapped(short_reason(finding), small, 3 * _SIDE + 2 * _MARGIN - _REASON, 2) for finding in objects]
    tall = shown[0].height
    scale_top = _MARGIN + 2 * _LINE + tall + 8
    table_top = scale_top + 54
    notes = _notes(findings, len(rows) - len(objects))
    height = table_top + _LINE * (bool(objects) + sum(map(len, texts))) + 6 * len(texts) + _LINE * len(notes) + _MARGIN
    image = Image.new("RGB", (3 * _SIDE + 4 * _MARGIN, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN - 4), _fitted(name, font, 3 * _SIDE), _INK, font)

    titles = ("image", "surprise", "expected colors, at the image's own lightness")
    for number, (panel, title) in enumerate(zip(shown, titles, strict=True)):
        left = _MARGIN + number * (_SIDE + _MARGIN)
        draw.text((left, _MARGIN + _LINE), title, _PALE, small)
        corner = (left + (_SIDE - panel.width) // 2, _MARGIN + 2 * _LINE)
        image.paste(panel, corner)
        if number == 1:
            _draw_boxes(draw, objects, corner, panel.size)
            _draw_scale(image, draw, (left, scale_top))

    top = table_top
    if objects:
        for left, title in zip((0, _HAS, _EXPECTED, _PERCENT, _REASON), _HEADER, strict=True):
            draw.text((_MARGIN + left, top), title, _PALE, small)
        top += _LINE
    for finding, lines in zip(objects, texts, strict=True):
        label = f"{finding.number}  {finding.what}" if finding.number else finding.what
        draw.text((_MARGIN, top), _fitted(label, font, _HAS - 8), _INK, font)
        for left, ab in ((_HAS, finding.observed and finding.observed[1:]), (_EXPECTED, finding.expected)):
            at = (_MARGIN + left, top + 1, _MARGIN + left + 48, top + 17)
            if ab and finding.observed:
                draw.rectangle(at, swatch(finding.observed[0], ab), _PALE)
        percent = in_percent(finding.percentile) if np.isfinite(finding.percentile) else "\N{EN DASH}"
        draw.text((_MARGIN + _PERCENT, top), percent, _INK, font)
        for number, line in enumerate(lines):
            draw.text((_MARGIN + _REASON, top + 1 + number * _LINE), line, _INK, small)
        top += _LINE * len(lines) + 6
    for note in notes:
        draw.text((_MARGIN, top), note, _PALE, small)
        top += _LINE
    return image


_HEADER = ("what", "has", "expected", "percentile", "why")
_HAS, _EXPECTED, _PERCENT, _REASON = 180, 250, 330, 420  # where the columns of the table begin


def _notes(findings: Findings, more: int) -> list[str]:
    notes = []
    if more:
        notes.append(f"{more} more in {_TABLE}")
    if findings.region is None:
        notes.append(f"no region of {100 * REGION_SHARE:g} % of the image is above the {LEVEL:g}th percentile")
    if any(finding.measures for finding in findings.objects):
        notes.append("percentile: of objects among real ones of their category, of regions among places in real photos")
    elif findings.all:
        notes.append("percentile: mean over its places, among the places in real photos")
    return notes


def _draw_boxes(draw: ImageDraw.ImageDraw, findings: Sequence[Finding], corner: tuple[int, int], size: tuple[int, int]) -> None:
    """Draw a frame around each finding, then the number of each object at a corner that is free, if any is."""
    font, boxes = _font(12), []
    for finding in findings:
        left, top = (corner[i] + finding.box[i] * size[i] for i in (0, 1))
        right, bottom = left + finding.box[2] * size[0] - 1, top + finding.box[3] * size[1] - 1
        if right >= left and bottom >= top:
            boxes.append((left, top, right, bottom, str(finding.number or "")))
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black")
            draw.rectangle((left, top, right, bottom), outline="white")
    taken: list[tuple[float, float, float, float]] = []
    for left, top, right, bottom, text in boxes:
        width, height = font.getlength(text) + 4, 14
        for x, y in ((left, top), (right - width, top), (left, bottom - height), (right - width, bottom - height)):
            x = min(max(x, corner[0]), corner[0] + size[0] - width)
            y = min(max(y, corner[1]), corner[1] + size[1] - height)
            if text and all(x + width < a or x > c or y + height < b or y > d for a, b, c, d in taken):
                taken.append((x, y, x + width, y + height))
                draw.rectangle(taken[-1], "black")
                draw.text((x + 2, y), text, "white", font)
                break


def _draw_scale(image: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    font = _font(12)
    bar = (scale_colors(_SIDE) * 255).round().astype(np.uint8)
    image.paste(Image.fromarray(np.repeat(bar[None], 12, 0)), corner)
    for level, place in scale_positions():
        x = corner[0] + place * (_SIDE - 1)
        draw.line((x, corner[1] + 12, x, corner[1] + 15), _INK)
        text = f"{level}+" if level == SCALE[-1] else str(level)
        width = font.getlength(text)
        draw.text((min(max(x - width / 2, corner[0]), corner[0] + _SIDE - width), corner[1] + 15), text, _INK, font)
    draw.text((corner[0], corner[1] + 30), "percentile among places in real photos", _PALE, font)


# --- a folder of images


def check_maps(folder: Path, images: Path, net: ScoreNet) -> ColorPriorNet:
    """Check, before the scoring, that maps can be made and written.

    Returns:
        The network, which has a color prior.

    Raises:
        ValueError: If the network has no color prior, ``folder`` is a file, or the maps would lie among the images.
    """
    if not isinstance(net, ColorPriorNet):
        raise ValueError("--maps needs an SCC network with a color prior; the published one has none for each place")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--maps {folder} is a file; expected a folder, which is made if it is not there")
    if images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"--maps {folder} lies in {images}, so that the maps would be scored as images; name another folder")
    return net


def write_maps(
    folder: Path, net: ColorPriorNet, images: ImageList, scores: Path, labels: ObjectLabels | None, workers: int
) -> int:
    """Draw the map of each scored image that has none yet, and write ``objects.csv`` for all images.

    The map of ``a/b.jpg`` is ``a/b.jpg.png``. The file also records its sources and the findings: a map of the same weights,
    image and labels is kept.

    Args:
        folder: Folder of the maps.
        net: The network, with ``weights_hash``.
        images: The images.
        scores: The score file; images with an error in the file get no map.
        labels: Label files of the objects, if there are any.
        workers: Number of threads.

    Returns:
        The number of images that could not be drawn; their errors are printed and in ``objects.csv``.
    """
    frame = read_scores(scores)
    names = frame["image"][frame["error"] == ""].tolist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def work(name: str) -> tuple[Sequence[Finding], bool, str]:
        torch.set_num_threads(1)  # OpenMP keeps this for each thread
        try:
            return *_map(folder / f"{name}.png", net, images.place(name), name, labels), ""
        except (ImageReadError, LabelError) as error:
            return (), False, str(error)
        except (MemoryError, RuntimeError, ValueError, OSError) as error:
            return (), False, f"{name}: {type(error).__name__}: {error}"

    rows: list[dict[str, Any]] = []
    kept, errors = 0, []
    pool = ThreadPoolExecutor(min(workers, _MOST_WORKERS))
    try:
        done = zip(names, pool.map(work, names), strict=True)
        for name, (findings, was_there, error) in tqdm(done, total=len(names), unit="map", disable=None, leave=False):
            kept += was_there
            errors += [error] if error else []
            rows += [_row(name, finding) for finding in findings] or [{"image": name, "error": error}]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    table = pd.DataFrame(rows, columns=list(_row("", _NOTHING)), dtype=object)
    write_atomic(folder / _TABLE, table.to_csv(index=False, lineterminator="\n"))
    for error in errors:
        print(f"no map: {error}")
    print(f"maps: {len(names) - len(errors)} in {folder}, {kept} of them kept; {folder / _TABLE}")
    return len(errors)


_NOTHING = Finding(0, "", (0, 0, 0, 0), None, None, np.nan, np.nan)


def _row(name: str, finding: Finding) -> dict[str, Any]:
    """Return a row of ``objects.csv``."""
    observed = finding.observed or (np.nan,) * 3
    expected = finding.expected or (np.nan,) * 2
    return {
        "image": name,
        "object": finding.number or "",
        "category": finding.what,
        **dict(zip(("L", "a", "b"), observed, strict=True)),
        **dict(zip(("expected a", "expected b"), expected, strict=True)),
        "percentile": finding.percentile,
        "place percentile": finding.place_percentile,
        **{f"{measure} percentile": finding.measures.get(measure, np.nan) for measure in MEASURES},
        "unusual": int(finding.unusual),
        "reason": finding.reason,
        "error": "",
    }


def _map(
    path: Path, net: ColorPriorNet, image: Path | Packed, name: str, labels: ObjectLabels | None
) -> tuple[Sequence[Finding], bool]:
    """Draw the map of an image if it is not there yet; return the findings, and whether the map was there."""
    label_file = labels.file(name) if labels is not None else None
    made_from = {
        "format": _FORMAT,
        "weights": net.weights_hash,
        "picture": fingerprint(image),
        "labels": fingerprint(label_file) if label_file else "",
    }
    earlier = _recorded(path, made_from)
    if earlier is not None:
        return earlier, True
    pixels = read_rgb(image)
    findings = find(net, pixels, labels.objects(name) if labels is not None else ())
    record = PngInfo()
    record.add_text(_RECORD, json.dumps({"made from": made_from, "found": [asdict(f) for f in findings.all]}), zip=True)
    drawn = draw_map(pixels, findings, name)
    write_atomic(path, lambda file: drawn.save(file, "PNG", pnginfo=record))
    return findings.all, False


def _recorded(path: Path, made_from: dict[str, Any]) -> list[Finding] | None:
    """Read the findings from an earlier map; None if there is none with the same sources."""
    try:
        with Image.open(path) as image:
            record = json.loads(image.info[_RECORD])
    except (OSError, KeyError, ValueError, SyntaxError):  # none there, none of ours, or damaged
        return None
    if record["made from"] != made_from:
        return None
    findings = []
    for finding in record["found"]:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in finding.items()}
        findings.append(Finding(**values))
    return findings
