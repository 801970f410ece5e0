"""Which objects an image shows, and which colors such objects have: YOLO label files and the color prior ``color_.json``.

The published SCC network reads these two in place of the pixels of the objects, https://github.com/ARBEZ-ZEBRA/ICQA. A
label file has a row per object, ``class x-center y-center width height``, the last four as shares of the image's width and
height. Differences from the published reader: rows that it could not read but that have one meaning are read, rows that it
misread are refused, and a class keeps its prior however its number is written.
"""

import json
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import write_atomic

SLOTS = 20  # objects of an image that the published network sees, the first in file order
CURVE = 768  # values of the prior of a class: 256 levels each of red, green and blue
CLASSES = 81  # rows of the published class embedding: the 80 classes of COCO, and one more

# A box that a detector draws over the edge of the image overshoots [0, 1] by less than half the image. In pixels, a box
# that stays within these bounds would be one pixel in the corner.
_NORMALIZED = (-0.5, 1.5)

_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup,
fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
COCO_NAMES = tuple(name.strip() for name in _COCO.split(","))  # COCO-80, in the order of their ids

# The annotation files of COCO number the same 80 categories from 1 to 90, without these.
_COCO91_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO91 = [number for number in range(1, 91) if number not in _COCO91_GAPS]

# The pixels of an object without a polygon: the ellipse in its box with this share of the width and height of the box.
# benchmarks/object_prior.md tells how near its colors are to the colors of the polygon, for other shares and the box too.
ELLIPSE = 0.9

_BOX = ("x center", "y center", "width", "height")
_ROW = f"expected the class, {', '.join(_BOX[:3])} and {_BOX[3]} as plain numbers with spaces between"
_PRIOR = 'expected {"class": {"r": {"0": number, ..., "255": number}, "g": ..., "b": ...}} as in the published color_.json'
_CHANNELS = "rgb"
_LEVELS = CURVE // len(_CHANNELS)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
EMPTY_CURVES = np.zeros((CLASSES, CURVE), np.float32)  # a color prior where nothing reads one
EMPTY_CURVES.flags.writeable = False


class LabelError(ValueError):
    """A label file that cannot be read. The message is one printable line that names file and line and says what to do."""

    def __init__(self, message: str) -> None:
        # A file name may hold line breaks, control characters, or bytes that are no UTF-8.
        message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(" ".join("".join(c if c.isprintable() else " " for c in message).split()))


@dataclass(frozen=True, eq=False)
class LabeledObject:
    """One object of an image.

    Attributes:
        category: Class of COCO-80, from 0 to 79.
        box: x center, y center, width and height as shares of the image's width and height; the bounding box of a polygon.
        polygon: Corners as shares of the image's width and height, shape (N, 2); None where only the box is known.
        confidence: Confidence of the detector, in [0, 1]; None where the file has none.
    """

    category: int
    box: tuple[float, float, float, float]
    polygon: np.ndarray | None = None
    confidence: float | None = None


def read_yolo(path: str | Path) -> np.ndarray:
    """Read the objects of one image from a YOLO text file.

    Blank lines, any line ends, tabs and a byte order mark are fine; an empty file has no objects. A row has

    - 5 numbers: the class, and a box that is taken over unaltered, with a slight overshoot of [0, 1] as detectors make it;
    - 6 numbers: also the detector's confidence, in [0, 1], which is dropped;
    - 7, 9, 11 ... numbers: the class and the corners x1 y1 x2 y2 ... of a polygon, which becomes its bounding box.

    Args:
        path: The label file, UTF-8.

    Returns:
        All objects of the file, in its order, also those beyond the ``SLOTS`` that the network sees: class, x center, y center,
        width and height, float64, shape (N, 5). The last four are shares of the image's width and height, same as in the file,
        even where a box overshoots the image.

    Raises:
        LabelError: If the file is missing, unreadable, no regular file or not UTF-8; or if a row holds anything but finite
            numbers, too few or too many numbers, a class that is no whole number from 0 to 80, a negative size, or coordinates
            in pixels.
    """
    rows = []
    for number, tokens in _rows(path):
        try:
            rows.append([_category(tokens[0]), *_box(tokens[1:])])
        except ValueError as error:
            raise LabelError(f"{path}, line {number}: {error}") from error
    return np.array(rows, np.float64).reshape(-1, 5)


def read_objects(path: str | Path, coco91: bool = False) -> list[LabeledObject]:
    """Read the objects of one image from a YOLO text file, with the shapes and confidences that ``read_yolo`` drops.

    Args:
        path: The label file, with the rows that :func:`read_yolo` takes.
        coco91: Whether its classes are the numbers of COCO's annotation files, 1 to 90, in place of 0 to 79.

    Returns:
        All objects, in the order of the file.

    Raises:
        LabelError: Same as :func:`read_yolo`; also for the class 80, which is none of COCO's.
    """
    objects = []
    for number, tokens in _rows(path):
        try:
            category = _coco_category(tokens[0], coco91)
            box = _box(tokens[1:])
        except ValueError as error:
            raise LabelError(f"{path}, line {number}: {error}") from error
        values = [float(token) for token in tokens[1:]]
        polygon = np.array(values).reshape(-1, 2) if len(values) > 5 else None
        objects.append(
            LabeledObject(category, (box[0], box[1], box[2], box[3]), polygon, values[4] if len(values) == 5 else None)
        )
    return objects


def object_rows(objects: Iterable[LabeledObject]) -> str:
    """Return objects as the text of a label file: polygons where known, else boxes, with the confidence if there is one."""
    rows = []
    for thing in objects:
        if thing.polygon is not None:
            values = thing.polygon.ravel().tolist()
        else:
            values = [*thing.box, *([] if thing.confidence is None else [thing.confidence])]
        rows.append(" ".join([str(thing.category), *(f"{value:.6g}" for value in values)]) + "\n")
    return "".join(rows)


def uses_coco91(paths: Iterable[str | Path]) -> bool:
    """Tell whether the classes of label files are the numbers of COCO's annotation files, as some converters leave them.

    Taken from 0 to 79, these numbers would make every person a bicycle and every banana an apple. Two signs tell them: some
    classes are above 80, and none is a number that COCO leaves out, such as 0. Files that cannot be read are passed over.
    """
    above = False
    for path in paths:
        try:
            classes = {_number(tokens[0]) for _, tokens in _rows(path)}
        except ValueError:
            continue
        if classes & {0, *_COCO91_GAPS}:
            return False
        above = above or any(number in _COCO91 and number >= CLASSES for number in classes)
    return above


def object_mask(thing: LabeledObject, height: int, width: int) -> np.ndarray:
    """Return the mask of the pixels that show an object.

    Args:
        thing: The object.
        height: Height of the image in pixels, at any size and any aspect ratio.
        width: Width of the image in pixels.

    Returns:
        True where the center of a pixel is inside the polygon by the even-odd rule, bool, shape (H, W). Without a polygon, the
        ellipse of 0.9 of the box counts: its colors are nearer to the colors of the object than those of the box are. All false
        for an object outside of the image, without area, or too small to hold the center of a pixel.
    """
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    if thing.polygon is None:
        x_center, y_center, box_width, box_height = thing.box
        if box_width == 0 or box_height == 0:
            return np.zeros((height, width), bool)
        across, down = (x - x_center) / box_width, (y - y_center) / box_height
        return across**2 + down[:, None] ** 2 <= (ELLIPSE / 2) ** 2
    # Not by Pillow, whose polygons hold all pixels that the outline touches, also those that mostly show the background.
    x1, y1 = thing.polygon.T
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    edge, row = np.nonzero((y1[:, None] <= y) != (y2[:, None] <= y))
    crossing = x1[edge] + (y[row] - y1[edge]) / (y2[edge] - y1[edge]) * (x2[edge] - x1[edge])
    flips = np.zeros((height, width + 1), int)
    np.add.at(flips, (row, np.searchsorted(x, crossing)), 1)
    return flips.cumsum(1)[:, :width] % 2 == 1


def read_color_curves(path: str | Path) -> np.ndarray:
    """Read the published color prior: how common each level of red, green and blue is in objects of a class.

    Args:
        path: JSON, ``{class: {"r" or "g" or "b": {level: number}}}``, with classes "0" to "80" and levels "0" to "255".
            Upper-case channels count as lower-case; the published code took no notice of them.

    Returns:
        r0 to r255, g0 to g255 and b0 to b255 of each class, float32, shape (81, 768), in the scale of the file. A class,
        channel or level that the file leaves out is 0.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not JSON, has another structure or a key twice, holds no value at all, or holds a value that
            is not a finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no color prior {path}; expected a JSON file such as the published color_.json; pass it with --color-prior"
        )
    try:
        # Integers as floats too: any number of digits is then a float, if an infinite one.
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=float, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # the first covers bad JSON, bad UTF-8 and keys that are there twice
        raise ValueError(f"{path} cannot be read as JSON ({error}); {_PRIOR}") from error

    curves = np.zeros((CLASSES, len(_CHANNELS), _LEVELS), np.float32)
    empty = True
    for key, channels in _members(content, f"{path}"):
        where = f"{path}: class {_quoted(key)}"
        category = _whole_number(key, CLASSES, where)
        channels_read = set()
        for name, levels in _members(channels, where):
            channel = name.lower()
            if len(channel) != 1 or channel not in _CHANNELS:
                raise ValueError(f'{where} has the channel {_quoted(name)}; expected "r", "g" or "b"')
            if channel in channels_read:
                raise ValueError(f'{where} has both "{channel}" and "{channel.upper()}"; keep one of them')
            channels_read.add(channel)
            for level, value in _members(levels, f'{where}, channel "{name}"'):
                entry = f'{where}, channel "{name}", level {_quoted(level)}'
                index = _whole_number(level, _LEVELS, entry)
                if not isinstance(value, float) or not abs(value) <= _FLOAT32_MAX:  # which NaN is not
                    raise ValueError(f"{entry} is {_quoted(value)}; expected a finite number")
                curves[category, _CHANNELS.index(channel), index] = value
                empty = False
    if empty:
        raise ValueError(f"{path} holds no value for any class; {_PRIOR}")
    return curves.reshape(CLASSES, CURVE)


def write_color_curves(path: str | Path, curves: np.ndarray) -> None:
    """Write a color prior in the published form, which :func:`read_color_curves` reads.

    Args:
        path: The JSON file to create or replace.
        curves: r0 to r255, g0 to g255 and b0 to b255 of each class, shape (81, 768). Values are written with eight decimals,
            and zeros are left out.

    Raises:
        ValueError: If ``curves`` has another shape.
    """
    if curves.shape != (CLASSES, CURVE):
        raise ValueError(f"curves must have the shape ({CLASSES}, {CURVE}), got {curves.shape}")
    content = {
        str(category): {
            name: {str(level): round(float(value), 8) for level, value in enumerate(channel) if value}
            for name, channel in zip(_CHANNELS, curve.reshape(len(_CHANNELS), _LEVELS), strict=True)
        }
        for category, curve in enumerate(curves)
        if curve.any()
    }
    write_atomic(path, json.dumps(content) + "\n")


def object_slots(boxes: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Return the objects of an image in the form that the published SCC network reads.

    Args:
        boxes: The objects, as from :func:`read_yolo`; the first ``SLOTS`` are taken.
        curves: The color prior, shape (81, 768), as from :func:`read_color_curves`.

    Returns:
        Class, x center, y center, width, height and the 768 values of the prior, float32, shape (20, 773). Slots without an
        object are all zero.

    Raises:
        ValueError: If ``curves`` has another shape.
    """
    if curves.shape != (CLASSES, CURVE):
        raise ValueError(f"curves must have the shape ({CLASSES}, {CURVE}), got {curves.shape}; use read_color_curves")
    rows = boxes[:SLOTS]
    slots = np.zeros((SLOTS, 5 + CURVE), np.float32)
    slots[: len(rows), :5] = rows
    slots[: len(rows), 5:] = curves[rows[:, 0].astype(int)]
    return slots


class ObjectLabels:
    """The label files of a folder of images, together with the color prior.

    Args:
        folder: The folder with the label files; None if there are none, so that all images are without objects.
        curves: The color prior, shape (81, 768), as from :func:`read_color_curves`, for ``slots``.

    Raises:
        FileNotFoundError: If there is no such folder.
    """

    def __init__(self, folder: str | Path | None, curves: np.ndarray = EMPTY_CURVES) -> None:
        self.folder = None if folder is None else Path(folder)
        self.curves = curves
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(
                f"no folder of object labels {folder}; expected a folder of YOLO files named after the images, such as "
                "BIG_000000017648.txt; pass it with --labels"
            )

    def file(self, name: str) -> Path | None:
        """Return the path of the label file of an image.

        Args:
            name: The image, relative to the scored folder, with forward slashes.

        Returns:
            For ``a/b.jpg`` the file ``a/b.txt`` below the folder of labels if it is there, else ``b.txt`` (the published
            layout, all files in one folder); None if neither is there.
        """
        if self.folder is None:
            return None
        stem = posixpath.splitext(name)[0]
        for candidate in (self.folder / f"{stem}.txt", self.folder / f"{posixpath.basename(stem)}.txt"):
            try:
                os.lstat(candidate)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                pass  # such as a folder without permission: the file may be there, and reading it says what is wrong
            return candidate
        return None

    def files(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the label files by image, of the images that have one."""
        return {name: file for name in names if (file := self.file(name)) is not None}

    def slots(self, name: str) -> tuple[np.ndarray, int]:
        """Return the objects of an image for the published SCC network.

        Args:
            name: The image, relative to the scored folder, with forward slashes.

        Returns:
            The slots, float32, shape (20, 773), as from :func:`object_slots`, and the number of slots that hold an object. An
            image without a label file has no objects.

        Raises:
            LabelError: If there is a label file that cannot be read.
        """
        boxes = self.boxes(name)
        return object_slots(boxes, self.curves), min(len(boxes), SLOTS)

    def boxes(self, name: str) -> np.ndarray:
        """Read the objects of an image from its label file; arguments and errors are the same as in ``slots``."""
        file = self.file(name)
        return np.zeros((0, 5)) if file is None else read_yolo(file)

    def objects(self, name: str) -> list[LabeledObject]:
        """Read the objects of an image with their shapes, with arguments and errors same as ``slots``; class 80 is an error."""
        file = self.file(name)
        return [] if file is None else read_objects(file, self.coco91)

    @cached_property
    def coco91(self) -> bool:
        """Tell whether the classes of the folder are the numbers of COCO's annotation files, see ``uses_coco91``."""
        return self.folder is not None and uses_coco91(sorted(self.folder.rglob("*.txt")))


def _read_text(path: str | Path) -> str:
    """Read a label file, with every line end as a line feed."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            kind = "folder" if stat.S_ISDIR(mode) else "pipe or a device"
            raise LabelError(f"{path}: is a {kind}; expected a label file, or nothing for an image without objects")
        with open(path, encoding="utf-8-sig") as file:  # Windows editors put a byte order mark first
            return file.read()
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file; check the path, and where a link leads") from error
    except OSError as error:
        raise LabelError(f"{path}: cannot be opened ({error.strerror or error}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: is not UTF-8 text ({error.reason}, byte {error.start}); save it as UTF-8") from error


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and tokens of each row that is not blank."""
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if tokens := line.split():
            yield number, tokens


def _coco_category(token: str, coco91: bool) -> int:
    numbers = _COCO91 if coco91 else range(len(COCO_NAMES))
    value = _number(token)
    if value not in numbers:
        expected = "1 to 90, as in the annotation files of COCO" if coco91 else "0 to 79, in the order of COCO's 80 classes"
        raise ValueError(f"class {_shown(token)} is unknown; expected {expected}")
    return numbers.index(int(value))


def _category(token: str) -> int:
    value = _number(token)
    if not value.is_integer():
        raise ValueError(f"class {_shown(token)} is not a whole number; {_ROW}")
    category = int(value)
    if not 0 <= category < CLASSES:
        raise ValueError(f"class {_shown(token)} is unknown; expected 0 to {CLASSES - 1}, in the order of COCO's 80 classes")
    return category


def _box(tokens: list[str]) -> list[float]:
    """Return the box (x center, y center, width, height) of a row without its class."""
    values = [_number(token) for token in tokens]
    count = len(values)
    if count >= 6 and count % 2 == 0:
        _check_normalized(values, ("polygon corner",) * count)
        xs, ys = values[::2], values[1::2]
        return [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    if count not in (4, 5):
        raise ValueError(
            f"has {1 + count} number(s); {_ROW}, with or without a confidence, or the class and 3 or more corners of a "
            "polygon, each as x y"
        )
    box = values[:4]
    if count == 5 and not 0 <= values[4] <= 1:
        raise ValueError(f"confidence {_shown(tokens[4])} is outside 0 to 1; leave out a sixth number that is something else")
    for name, value in zip(_BOX[2:], box[2:], strict=True):
        if value < 0:
            raise ValueError(f"{name} {value:g} is negative; {_ROW}")
    _check_normalized(box, _BOX)
    return box


def _check_normalized(values: list[float], names: tuple[str, ...]) -> None:
    low, high = _NORMALIZED
    for name, value in zip(names, values, strict=True):
        if not low <= value <= high:
            raise ValueError(
                f"{name} {value:g} is not normalized; expected 0 to 1, so divide pixels in x by the width and in y by the "
                "height of the image"
            )


def _number(token: str) -> float:
    try:
        value = float(token)
    except ValueError:
        value = float("nan")
    if not abs(value) <= _FLOAT32_MAX or "_" in token:  # NaN is not; and Python takes 0_1 for 1
        raise ValueError(f"{_shown(token)} is not a finite number; {_ROW}")
    return value


def _shown(token: str) -> str:
    return repr(token if len(token) <= 30 else f"{token[:27]}...")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {_quoted(next(key for key in keys if keys.count(key) > 1))} twice")
    return members


def _members(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_quoted(value)}, not an object; {_PRIOR}")
    return list(value.items())


def _whole_number(key: str, count: int, where: str) -> int:
    """Return a JSON key as a number below ``count``; it has no leading zeros, as the published code looks it up."""
    if not (key.isascii() and key.isdigit() and len(key) <= len(str(count)) and str(int(key)) == key and int(key) < count):
        raise ValueError(f'{where}: expected a key from "0" to "{count - 1}", written so')
    return int(key)


def _quoted(value: Any) -> str:
    """Return a JSON value in printable characters, cut to 40."""
    return f"{json.dumps(value):.40}"
