"""MOS tables from the label files of published systems.

- DPAM: text rows of LIVEC, KonIQ-10k, SPAQ, CSIQ, TID2013 and KADID-10k; also the dmos.csv of KADID-10k.
- Delegate Transformer: CSV files of ICAA17K and SPAQ.
- A-FINE: triplets of two images and their reference, with the better image.
- NR- and FR-AIGCIQA: the table of PKU-I2IQA, exported as CSV.

The score range of each data set is fixed. It is not taken from the labels at hand, because then each split would have another
scale, and training would depend on the range of the test scores. All rated versions of one photograph share its ``scene``, so
that splits keep them on one side.
"""

import functools
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from data.icqa2k import unit_mos
from data.table import relative_image
from evaluation.ratings import pairwise_scale
from utils.choices import FORMS
from utils.images import IMAGE_EXTENSIONS
from utils.tables import csv_lines, finite_number, read_text, separator_hint

_PRIOR = 0.5  # ties of each image with the mean of its scene: keeps the scale finite where one always won
_NARROW = 0.1  # share of its range that the labels of a data set fill at least
_MANY = 10  # labels, from which on that can be told

_CSIQ = re.compile(r"(?P<scene>[^.]+)\.(?P<method>AWGN|BLUR|contrast|fnoise|JPEG|jpeg2000)\.\d\.[a-z]+", re.IGNORECASE)
_TID = re.compile(r"(?P<scene>I\d\d)_(?P<method>\d\d)_\d\.[a-z]+", re.IGNORECASE)
_KADID = re.compile(r"(?P<scene>I\d\d)_(?P<method>\d\d)_\d\d\.[a-z]+", re.IGNORECASE)
_GENERATED = re.compile(r"(?P<method>[A-Za-z]+)_(?P<prompt>\d+)_\d+")  # of PKU-I2IQA: generator, prompt, number

_TRIPLET = ("first", "second", "reference", "first_over_second", "first_over_reference", "second_over_reference")


class _Row(NamedTuple):
    """Rated image of a label file."""

    image: str
    scores: list[float]
    scene: str
    method: str = ""
    reference: str = ""


@dataclass(frozen=True)
class _Form:
    """Description of a form of label file.

    Attributes:
        title: Name of the data set.
        mos_range: Lowest and highest possible score.
        row: Example row, for text files.
        images: Columns that name images, for CSV files.
        scores: Names of the score columns, in a CSV file as in its header.
        also: Further columns of a CSV file, which are not used.
        names: Pattern of image names, with the groups ``scene`` and ``method``; None for any name.
        reference: Extension of the originals, which are named after the scene; empty if there are none.
        score_first: Whether a row of text has the score before the name.
        better: 1 if higher is better, -1 if lower is.
    """

    title: str
    mos_range: tuple[float, float]
    row: str = ""
    images: tuple[str, ...] = ()
    scores: tuple[str, ...] = ("MOS",)
    also: tuple[str, ...] = ()
    names: re.Pattern | None = None
    reference: str = ""
    score_first: bool = False
    better: int = 1


_KADID_CSV = ("dist_img", "dmos")  # of dmos.csv; its DMOS rises with the quality
_SPAQ_SCORES = ("MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
_FORMS = {
    "livec": _Form("LIVEC", (0, 100), "158.bmp 79.416667"),
    "koniq": _Form("KonIQ-10k", (1, 5), "10004473376.jpg 3.41"),
    "spaq": _Form("SPAQ", (0, 100), "00001.jpg 48.9"),
    "csiq": _Form("CSIQ", (0, 1), "1600.AWGN.1.png 0.062", names=_CSIQ, reference=".png", better=-1),
    "tid2013": _Form("TID2013", (0, 9), "5.51429 I01_01_1.bmp", names=_TID, reference=".bmp", score_first=True),
    "kadid": _Form("KADID-10k", (1, 5), "I01_01_01.png, 4.57", names=_KADID, reference=".png"),
    "icaa17k": _Form("ICAA17K", (0, 10), images=("ID",), scores=("MOS", "color"), also=("probability",)),
    "spaq-csv": _Form("SPAQ", (0, 10), images=("image_id",), scores=_SPAQ_SCORES),
    "i2iqa": _Form("PKU-I2IQA", (0, 5), images=("Generated_image", "Image_prompt"), scores=("MOS_q", "MOS_a", "MOS_c")),
    "afine": _Form("", (-1, 1), "x1.png,x2.png,reference.png,1,0,0"),
}


def load_foreign(
    path: Path | str,
    form: str | None = None,
    mos_range: tuple[float, float] | None = None,
    root: Path | str | None = None,
    check_files: bool = True,
) -> pd.DataFrame:
    """Read a label file of a published system as a MOS table.

    An image is the file of that name in ``root``, or else the file below ``root`` whose path ends in that name, in any case.

    Args:
        path: Label file, UTF-8.
        form: One of ``FORMS``; None to recognize the form, see ``recognize``.
        mos_range: Lowest and highest possible score, for every score column; None for the range of the data set. Triplets have
            no range.
        root: Folder with the images; None for the folder of the label file.
        check_files: Whether every image must exist; if not, names are taken unchanged from the file.

    Returns:
        One row per image, sorted by ``image``, with ``scene``, ``method`` (kind of distortion, or generator; else empty), the
        score columns in [-1, 1], higher is better, and for sets with originals ``reference``, empty where there is no original.
        Missing originals give one warning.

        - LIVEC, KonIQ-10k, SPAQ: ``MOS``. Each image is its own scene.
        - CSIQ, TID2013, KADID-10k: ``MOS`` (for CSIQ, DMOS with the direction reversed); the scene is the original.
        - ICAA17K: ``MOS`` and ``color``; SPAQ's CSV: ``MOS``, ``Brightness`` and so on. Each image is its own scene.
        - PKU-I2IQA: ``MOS_q``, ``MOS_a`` and ``MOS_c`` (quality, authenticity, correspondence). The prompt image is scene and
          reference; rows without a prompt image are grouped by the number of the prompt in their names.
        - A-FINE: ``MOS``, Thurstone's scale within a scene, fitted to the choices (see ``read_triplets``) and given as the
          chance, mapped to -1 to 1, of being preferred to an average image of the scene: not comparable between scenes.
          References that were compared are rows too, with the method "reference".

        ``attrs`` holds "root", "name", "scores" (names of the score columns), and "mos_range", the scores that -1 and 1 stand
        for.

    Raises:
        FileNotFoundError: If there is no such file, or an image is missing.
        ValueError: If the file is not as described (names the line), or its form is not known.
    """
    path = Path(path)
    form = recognize(path) if form is None else form
    if form not in _FORMS:
        raise ValueError(f"the form must be one of {', '.join(FORMS)}, got {form!r}")
    layout = _FORMS[form]
    folder = _Folder(path.parent if root is None else Path(root), check_files)
    if form == "afine":
        if mos_range is not None:
            raise ValueError(f"{path} holds choices, which have no range of scores; leave out --mos-range")
        frame = _scaled(read_triplets(path, folder.root, check_files))
    else:
        frame = _rated(path, form, mos_range or layout.mos_range, folder)
    frame = frame.sort_values("image", ignore_index=True)
    frame.attrs = {
        "root": str(folder.root),
        "name": layout.title or path.stem,
        "scores": list(layout.scores),
        "mos_range": list(mos_range or layout.mos_range)[:: layout.better],
    }
    return frame


def recognize(path: Path | str) -> str:
    """Recognize the form of a label file by its first row.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no form has such a row, or several have it: LIVEC, KonIQ-10k and SPAQ cannot be told apart.
    """
    path = Path(path)
    number, first = next(_text_rows(path))
    cells = [cell.strip().strip('"') for cell in first.split(",")]
    for form, layout in _FORMS.items():
        if layout.images and {*layout.images, *layout.scores} <= set(cells):
            return form
    if set(_KADID_CSV) <= set(cells):
        return "kadid"
    if len(cells) in (4, 6) and all(_is_image(cell) for cell in cells[:3]):
        return "afine"
    tokens = first.split()
    if len(tokens) == 2:
        name, score = tokens
        if _TID.fullmatch(score) and _is_number(name):
            return "tid2013"
        if name.endswith(",") and _KADID.fullmatch(name[:-1]) and _is_number(score):
            return "kadid"
        if _CSIQ.fullmatch(name) and _is_number(score):
            return "csiq"
        if _is_image(name) and _is_number(score):
            raise ValueError(
                f"{path} has rows 'name score', as LIVEC, KonIQ-10k and SPAQ have with different ranges; name its form: livec, "
                "koniq or spaq"
            )
    rows = [f"{form} ({layout.row or ','.join((*layout.images, *layout.scores))})" for form, layout in _FORMS.items()]
    raise ValueError(
        f"{path}, line {number}: {first[:80]!r} is of no known form{separator_hint([first])}; expected one of {'; '.join(rows)}"
    )


def read_triplets(path: Path | str, root: Path | str | None = None, check_files: bool = True) -> pd.DataFrame:
    """Read triplets of A-FINE: choices between two images of one scene, and between each image and their reference.

    Args:
        path: File of triplets, UTF-8, comma separated, no header. A row holds ``first, second, reference``, then the comparison
            of first and second, and optionally those of first and reference and of second and reference: 1 where the image
            named first is better, 0.5 for no difference, 0 where it is worse.
        root: Same as in ``load_foreign``. A reference may have another extension than in the file.
        check_files: Same as in ``load_foreign``.

    Returns:
        One row per line with ``first``, ``second``, ``reference``, ``first_over_second``, ``first_over_reference`` and
        ``second_over_reference``; NaN where the file has no such column. ``attrs`` holds "root" and "name".

    Raises:
        FileNotFoundError: If there is no such file, or an image is missing.
        ValueError: If a row is not as described; names the line.
    """
    path = Path(path)
    folder = _Folder(path.parent if root is None else Path(root), check_files)
    rows: list[tuple] = []
    reference_of: dict[str, str] = {}
    width = 0
    for line, cells in _csv_rows(path):
        where = f"{path}, line {line}"
        width = width or len(cells)
        if len(cells) not in (4, 6) or len(cells) != width:
            raise ValueError(
                f"{where}: expected {width if width in (4, 6) else '4 or 6'} cells, two images, their reference and how they "
                f"compare; got {len(cells)}{separator_hint(cells)}"
            )
        first, second = (folder.find(cell, where) for cell in cells[:2])
        # the authors' script writes .png after every reference, of whatever kind its file is
        reference = folder.find(cells[2], where, any_extension=True)
        if first == second:
            raise ValueError(f"{where}: {first} is compared with itself")
        for image in (reference, first, second):
            if reference_of.setdefault(image, reference) != reference:
                raise ValueError(f"{where}: {image} has the references {reference_of[image]} and {reference}; it can have one")
        labels = [finite_number(cell, f"{where} has the label", "expected 1, 0.5 or 0") for cell in cells[3:]]
        if not set(labels) <= {0.0, 0.5, 1.0}:
            raise ValueError(f"{where} has the labels {', '.join(cells[3:])}, expected each to be 1, 0.5 or 0")
        rows.append((first, second, reference, *labels, *[math.nan] * (6 - width)))
    frame = pd.DataFrame(rows, columns=list(_TRIPLET))
    frame.attrs = {"root": str(folder.root), "name": path.stem}
    return frame


def _rated(path: Path, form: str, mos_range: tuple[float, float], folder: "_Folder") -> pd.DataFrame:
    """Read the images of a file that holds scores, in the order of the file."""
    layout = _FORMS[form]
    read = {"i2iqa": _i2iqa_rows, "kadid": _kadid_rows}.get(form, _table_rows if layout.images else _score_rows)
    records, values, absent = [], [], []
    listed: set[str] = set()
    for line, row in read(path, layout):
        where = f"{path}, line {line}"
        image = folder.find(row.image, where)
        if image in listed:
            raise ValueError(f"{where}: {image} is listed twice")
        listed.add(image)
        record = {"image": image, "scene": row.scene, "method": row.method}
        for column, score in zip(layout.scores, row.scores, strict=True):
            mos = unit_mos(score, mos_range, f"{where}: {column} of {row.image}")
            record[column] = mos if layout.better > 0 else 0 - mos  # which is 0 for 0, not -0
        if layout.reference or form == "i2iqa":
            record["reference"] = folder.find(row.reference, where, needed=False) if row.reference else ""
            if row.reference and not record["reference"]:
                absent.append(row.reference)
        records.append(record)
        values += row.scores
    if not records:
        raise ValueError(f"{path} has no rows below its header")
    if absent:
        warnings.warn(
            f"{path}: {len(absent)} of {len(records)} images have no reference in {folder.root} or below, e.g. {absent[0]}; "
            "what compares with a reference cannot use them",
            stacklevel=3,
        )
    low, high = mos_range
    if len(records) >= _MANY and max(values) - min(values) < _NARROW * (high - low):
        warnings.warn(
            f"{path}: the scores lie in {min(values):g} to {max(values):g} of {low:g} to {high:g}; if that is not their range, "
            f"the form is not {form} or --mos-range is missing",
            stacklevel=3,
        )
    return pd.DataFrame(records)


def _score_rows(path: Path, layout: _Form) -> Iterator[tuple[int, _Row]]:
    """Yield rows of a text file with a name and a score, in the order of the form's example."""
    for line, text in _text_rows(path):
        where, tokens = f"{path}, line {line}", text.split()
        if len(tokens) != 2:
            raise ValueError(f"{where}: expected a row such as {layout.row!r}, got {text[:80]!r}")
        name, score = (tokens[1], tokens[0]) if layout.score_first else (tokens[0].removesuffix(","), tokens[1])
        value = finite_number(score, f"{where} has the score", f"expected a row such as {layout.row!r}")
        yield line, _named_row(name, value, layout, where)


def _named_row(name: str, value: float, layout: _Form, where: str) -> _Row:
    """Return a row whose scene, method and reference follow from the image name."""
    if layout.names is None:
        return _Row(name, [value], _stem(name))
    parts = layout.names.fullmatch(_base(name))
    if parts is None:
        raise ValueError(f"{where}: {name} is no name of {layout.title}; expected a row such as {layout.row!r}")
    scene = parts["scene"] if layout.names is _CSIQ else parts["scene"].upper()  # i01 and I01 are one
    return _Row(name, [value], scene, parts["method"], scene + layout.reference)


def _kadid_rows(path: Path, layout: _Form) -> Iterator[tuple[int, _Row]]:
    """Yield rows of a text file, or of the CSV file that comes with KADID-10k."""
    _, first = next(_text_rows(path))
    if not set(_KADID_CSV) <= {cell.strip().strip('"') for cell in first.split(",")}:
        yield from _score_rows(path, layout)
        return
    image, score = _KADID_CSV
    columns = replace(layout, images=(image,), scores=(score,), also=("ref_img", "var"))
    for line, (name,), (value,) in _csv_scores(path, columns):
        yield line, _named_row(name, value, layout, f"{path}, line {line}")


def _table_rows(path: Path, layout: _Form) -> Iterator[tuple[int, _Row]]:
    """Yield rows of a CSV file in which each image is its own scene."""
    for line, (image,), scores in _csv_scores(path, layout):
        yield line, _Row(image, scores, _stem(image))


def _i2iqa_rows(path: Path, layout: _Form) -> Iterator[tuple[int, _Row]]:
    """Yield rows of PKU-I2IQA's table, whose scene is the prompt."""
    for line, (image, prompt), scores in _csv_scores(path, layout):
        parts = _GENERATED.fullmatch(_stem(image))
        if prompt:
            scene = _stem(prompt)
        else:
            scene = f"text_{parts['prompt']}" if parts else _stem(image)  # a text: its number may also be that of an image
        yield line, _Row(image, scores, scene, parts["method"] if parts else "", prompt)


def _csv_scores(path: Path, layout: _Form) -> Iterator[tuple[int, list[str], list[float]]]:
    """Yield line number, images and scores of each row of a CSV file."""
    (_, header), *rows = _csv_rows(path)
    expected = (*layout.images, *layout.scores)
    if not set(expected) <= set(header) or len(set(header)) < len(header):
        raise ValueError(
            f"{path} has the columns {header}, expected {', '.join(expected)} for {layout.title}, spelled so and once each"
            f"{separator_hint(header)}"
        )
    ignored = [name for name in header if name not in (*expected, *layout.also)]
    if ignored:
        warnings.warn(f"{path}: ignoring the columns {ignored}", stacklevel=5)
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: expected {len(header)} cells as in the header, got {len(cells)}")
        cell = dict(zip(header, cells, strict=True))
        scores = [finite_number(cell[name], f"{where}: {name} is") for name in layout.scores]
        yield line, [cell[name] for name in layout.images], scores


def _scaled(triplets: pd.DataFrame) -> pd.DataFrame:
    """Compute Thurstone's scale of each scene; groups of images without a choice between them get separate scales."""
    records = []
    for reference, rows in triplets.groupby("reference", sort=True):
        choices = []
        for row in rows.itertuples(index=False):
            pairs = ((row.first, row.second), (row.first, reference), (row.second, reference))
            for (one, other), label in zip(pairs, row[3:], strict=True):
                if one != other and not math.isnan(label):
                    choices.append((one, other, label))
        names = sorted({name for choice in choices for name in choice[:2]})
        place = {name: number for number, name in enumerate(names)}
        wins = np.zeros((len(names), len(names)))
        for one, other, label in choices:
            wins[place[one], place[other]] += label
            wins[place[other], place[one]] += 1 - label
        _, group = connected_components(sparse.csr_matrix(wins + wins.T), directed=False)
        mos = np.zeros(len(names))
        for number in range(max(group) + 1):
            members = np.flatnonzero(group == number)
            mos[members] = 2 * pairwise_scale(wins[np.ix_(members, members)], "thurstone", _PRIOR).chance - 1
        scene = os.path.splitext(reference)[0]
        for name, score in zip(names, mos, strict=True):
            method = "reference" if name == reference else ""
            records.append({"image": name, "scene": scene, "method": method, "MOS": score, "reference": reference})
    return pd.DataFrame(records)


class _Folder:
    """Images below a folder, by their names in label files.

    Args:
        root: Folder with the images.
        check: Whether the images must exist; if not, names are taken unchanged.
    """

    def __init__(self, root: Path, check: bool) -> None:
        self.root, self.check = root, check

    def find(self, name: str, where: str, needed: bool = True, any_extension: bool = False) -> str:
        """Return the path of an image relative to the folder; empty if the image is neither there nor needed.

        Args:
            name: Name in the label file.
            where: File and line, for errors.
            needed: Whether the image must exist.
            any_extension: Accept another extension if there is no image with this one.

        Raises:
            FileNotFoundError: If the image is needed and not there.
            ValueError: If the name is empty or absolute, or several files have it.
        """
        image = relative_image(name, where)
        if not self.check or (self.root / image).is_file():
            return image
        alike = self._below.get(_stem(image).lower(), [])
        matches = [path for path in alike if _ends_with(path, image)]
        if not matches and any_extension:
            matches = [path for path in alike if _ends_with(os.path.splitext(path)[0], os.path.splitext(image)[0])]
        if len(matches) > 1:
            raise ValueError(
                f"{where}: {name} can be {matches[0]} or {matches[1]} in {self.root}; give the folder of one as root"
            )
        if not matches and needed:
            raise FileNotFoundError(f"{where}: no file {name} in {self.root} or below; give the folder of the images as root")
        return matches[0] if matches else ""

    @functools.cached_property
    def _below(self) -> dict[str, list[str]]:
        """Return the paths of all images, by lower-case name without extension."""
        paths = defaultdict(list)
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in sorted(files):
                if _is_image(file) and not file.startswith("."):
                    paths[_stem(file).lower()].append((Path(folder) / file).relative_to(self.root).as_posix())
        return paths


def _ends_with(path: str, name: str) -> bool:
    return f"/{path}".lower().endswith(f"/{name}".lower())


def _text_rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each row that is not blank, at least one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, or not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no label file {path}")
    text = read_text(path, "UTF-8 text", "save it as text or CSV")
    rows = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not rows:
        raise ValueError(f"{path} is empty, expected a label file of the form {', '.join(FORMS)}")
    yield from rows


def _csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    next(_text_rows(path))  # says what is wrong with a file that is not there, empty or no text
    return csv_lines(path)


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _stem(name: str) -> str:
    return os.path.splitext(_base(name))[0]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
