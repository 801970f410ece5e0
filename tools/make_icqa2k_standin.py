"""Make a small stand-in for ICQA-2K, in its layout, so that all programs that read ICQA-2K can be run without it.

    python tools/make_icqa2k_standin.py OUT

The stand-in says nothing about colorizers or people. Its images are recolorings, by ``data/recolor.py``, of the photographs in
data/samples; a scene is a part of a photograph, or the whole. BIG, CIC, CT2, DDC and GCP are only prefixes of file names: each
stands for a fixed kind of fault. The MOS follow from the planted strengths by ``planted_mos``; nobody rated the images.

    OUT/README.txt, ATTRIBUTION.md                  description, and the licenses of the photographs
    OUT/ICQA_2K_train/, ICQA_2K_test/               BIG_000000000101.jpg: prefix and scene, five images per scene
    OUT/ICQA_2K_{train,test}_{CF,SCC,PR}_mos.json   {stem: MOS in [-1, 1]}
    OUT/labels/                                     BIG_000000000101.txt: rows "class xc yc w h", COCO-80 classes from 0
    OUT/originals/                                  000000000101.jpg: the unchanged photograph of a scene
    OUT/color_.json                                 {class: {"r", "g", "b": {"0" to "255": share of the pixels}}}

``labels`` serves both splits. Scenes without a COCO object have empty files, and one scene has no file; the published scripts
read both as "no objects". In ``color_.json`` each channel of a class sums to 1, and empty bins are left out. We do not know the
scale of the values in the published file; shares are our choice.

Two runs write the same bytes, given the same versions of Pillow, NumPy, SciPy and torch.
"""

import argparse
import json
import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the command above finds data/ and utils/

from utils.arguments import ScriptParser


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("out", type=Path, help="folder to write: a new or empty one, or an earlier stand-in")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
from PIL import Image

from data.icqa2k import DIMENSIONS, SPLITS, split_folder
from data.recolor import CHROMATIC_KINDS, SEMANTIC_KINDS, recolor
from tools.make_samples import read_photos
from utils.files import write_atomic
from utils.labels import CLASSES, CURVE, write_color_curves

_SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples"
_LONG_SIDE = 224  # pixels, at most
_JPEG = {"quality": 88, "subsampling": 0, "optimize": True}  # 4:4:4, since color is what is judged
_SEED = 2

# By prefix: kinds of fault, in the order they are planted, and the range over which the scenes spread their strength.
# Chosen so that the prefixes differ in mean MOS, and in which dimension suffers; not after the colorizers of these names.
RECIPES: dict[str, tuple[tuple[str, float, float], ...]] = {
    "BIG": (("hue", 0.25, 0.85), ("oversaturate", 0.05, 0.45)),
    "CIC": (("transfer", 0.5, 1.0), ("stain", 0.5, 1.0)),
    "CT2": (("bleed", 0.3, 1.0),),
    "DDC": (("region_chroma", 0.02, 0.25), ("shift", 0.02, 0.25)),
    "GCP": (("global_hue", 0.1, 0.6), ("fade", 0.1, 0.7)),
}
_BEST, _WORST = 0.9, -0.9  # MOS of strength 0 and 1, before the scene moves it
_SCENE_OFFSET = 0.05  # at most

_TITLE = "A stand-in in the layout of ICQA-2K. This is NOT ICQA-2K."  # by this first line make() knows its own folders

_README = f"""\
{_TITLE}

Made by tools/make_icqa2k_standin.py of ICQA-Net to try its commands without the data set. Numbers computed from it mean
nothing.

- The images are photographs, or parts of photographs, recolored by data/recolor.py with planted faults. No colorizer
  made them. BIG, CIC, CT2, DDC and GCP are prefixes of file names only and say nothing of BigColor, CIC, CT2, DDColor
  and GCP.
- originals/ has the photographs as they were. ICQA-2K has none; those of COCO would serve the same end.
- The MOS come from a formula of the planted strengths. Nobody rated anything.
- The scene numbers are ours, not COCO ids. The boxes in labels/ were drawn by hand.
- color_.json holds shares of pixels. The scale of the values in the published file is unknown to us.

The photographs keep their licenses: see ATTRIBUTION.md.
"""

_ATTRIBUTION = f"""\
# Stand-in for ICQA-2K: authors and licenses of the photographs

Written by `tools/make_icqa2k_standin.py`. Every image is an adaptation of a photograph and stays under the license of the
photograph. Nobody named or shown here endorses the recolorings, and nobody has rated these images.

Changes to all: cut to a part of the photograph where one has several scenes, reduced to at most {_LONG_SIDE} pixels on the
long side, recolored with planted faults, saved as JPEG.

| Scenes | Photograph shows | Author | License | Package and file |
| --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Scene:
    """Part of a sample photograph, with its COCO objects.

    ``part`` and the four numbers of each box are left, top, right and bottom in pixels of the sample photograph, right and
    bottom exclusive.
    """

    photo: int  # of data/samples/ORG_<photo>.jpg
    number: int
    split: str
    part: tuple[int, int, int, int]
    boxes: tuple[tuple[int, int, int, int, int], ...] = ()  # COCO-80 class, box
    label_files: bool = True

    @property
    def name(self) -> str:
        return f"{100 * self.photo + self.number:012d}"


_PERSON, _BOAT, _CAT, _CUP, _SPOON, _BOWL, _DINING_TABLE = 0, 8, 15, 41, 44, 45, 60  # COCO-80 ids

# Parts of one photograph do not overlap, and all of them are on one side of the split.
SCENES = (
    Scene(
        photo=1,  # pagoda
        number=1,
        split="train",
        part=(0, 0, 235, 267),
        boxes=((_BOAT, 43, 185, 47, 189), (_BOAT, 7, 176, 11, 180), (_BOAT, 29, 173, 33, 176), (_BOAT, 229, 149, 233, 153)),
    ),
    Scene(
        photo=1,  # lake
        number=2,
        split="train",
        part=(235, 0, 400, 267),
        boxes=(
            (_BOAT, 252, 176, 257, 180),
            (_BOAT, 290, 170, 294, 174),
            (_BOAT, 301, 168, 305, 171),
            (_BOAT, 277, 163, 280, 166),
            (_BOAT, 264, 173, 267, 176),
        ),
    ),
    Scene(photo=2, number=1, split="train", part=(0, 0, 270, 205), boxes=((_PERSON, 36, 12, 266, 205),)),  # face
    Scene(photo=2, number=2, split="train", part=(275, 0, 400, 205)),  # model of a space shuttle
    Scene(photo=2, number=3, split="train", part=(0, 205, 400, 400), boxes=((_PERSON, 15, 205, 284, 400),)),  # suit, helmet
    Scene(photo=3, number=1, split="train", part=(0, 0, 205, 266), boxes=((_CAT, 0, 0, 205, 266),)),
    Scene(photo=3, number=2, split="train", part=(205, 0, 400, 266), boxes=((_CAT, 205, 0, 353, 262),)),
    Scene(
        photo=4,  # espresso
        number=1,
        split="test",
        part=(0, 0, 400, 267),
        boxes=((_CUP, 115, 12, 272, 204), (_DINING_TABLE, 0, 0, 400, 267), (_SPOON, 217, 44, 284, 218)),
    ),
    Scene(photo=5, number=1, split="test", part=(0, 0, 400, 271), boxes=((_BOWL, 89, 34, 397, 269),)),
    Scene(photo=6, number=1, split="train", part=(0, 0, 265, 266)),  # autumn wood
    Scene(photo=6, number=2, split="train", part=(265, 0, 400, 266)),  # fir
    Scene(photo=7, number=1, split="test", part=(0, 0, 400, 300)),  # alpine pasture
    Scene(photo=8, number=1, split="train", part=(0, 0, 160, 315)),  # blue brushes
    Scene(photo=8, number=2, split="train", part=(160, 0, 400, 315), label_files=False),  # brushes of many colors
)


def make(out: Path | str) -> None:
    """Write the stand-in.

    An earlier stand-in is recognized by the first line of its README.txt; its files are written anew, and other files stay.
    A stopped run can be repeated, since README.txt is written first. The MOS are written last, so that an incomplete stand-in
    does not load.

    Args:
        out: Folder to write; created if it does not exist.

    Raises:
        FileExistsError: If ``out`` is a file, or a folder that is neither empty nor an earlier stand-in.
    """
    out = Path(out)
    _clear(out)
    write_atomic(out / "README.txt", _README)
    write_atomic(out / "ATTRIBUTION.md", attribution())
    write_color_curves(out / "color_.json", color_curves())
    for folder in (*map(split_folder, SPLITS), "labels", "originals"):
        (out / folder).mkdir(exist_ok=True)

    strengths = planted_strengths()
    offsets = np.random.default_rng(_SEED).uniform(-_SCENE_OFFSET, _SCENE_OFFSET, len(SCENES))
    mos: dict[str, dict[str, dict[str, float]]] = {split: {d: {} for d in DIMENSIONS} for split in SPLITS}
    for scene, offset in zip(SCENES, offsets, strict=True):
        original = read_scene(scene)
        Image.fromarray(original).save(out / "originals" / f"{scene.name}.jpg", **_JPEG)
        for position, prefix in enumerate(RECIPES):
            stem = f"{prefix}_{scene.name}"
            faults = strengths[stem]
            rng = np.random.default_rng((_SEED, scene.photo, scene.number, position))
            rgb = original
            for kind, strength in faults.items():
                rgb = recolor(rgb, kind, strength, rng)
            Image.fromarray(rgb).save(out / split_folder(scene.split) / f"{stem}.jpg", **_JPEG)
            if scene.label_files:
                (out / "labels" / f"{stem}.txt").write_bytes(label_rows(scene).encode())
            for dimension, value in planted_mos(faults).items():
                mos[scene.split][dimension][stem] = round(value + float(offset), 4)

    for split in SPLITS:
        for dimension in DIMENSIONS:
            content = json.dumps(mos[split][dimension], indent=4, sort_keys=True)
            write_atomic(out / f"{split_folder(split)}_{dimension}_mos.json", content + "\n")


def read_scene(scene: Scene) -> np.ndarray:
    """Read the original of a scene at the size of its recolorings, 8-bit sRGB, shape (H, W, 3)."""
    part = Image.fromarray(_read_photo(scene.photo)).crop(scene.part)
    scale = min(1, _LONG_SIDE / max(part.size))
    return np.asarray(part.resize([round(scale * side) for side in part.size], Image.Resampling.LANCZOS))


def planted_strengths() -> dict[str, dict[str, float]]:
    """Return the strength of each planted fault by its kind, by stem.

    The strengths of each fault of a recipe are evenly spaced over the scenes, in a separate order for each fault.
    """
    strengths: dict[str, dict[str, float]] = {f"{prefix}_{scene.name}": {} for scene in SCENES for prefix in RECIPES}
    rng = np.random.default_rng(_SEED)
    for prefix, faults in RECIPES.items():
        for kind, lowest, highest in faults:
            for scene, strength in zip(SCENES, rng.permutation(np.linspace(lowest, highest, len(SCENES))), strict=True):
                strengths[f"{prefix}_{scene.name}"][kind] = round(float(strength), 3)
    return strengths


def planted_mos(faults: dict[str, float]) -> dict[str, float]:
    """Return CF, SCC and PR that stand for planted faults; the weights are arbitrary.

    Args:
        faults: Strength in [0, 1] by kind of fault.

    Returns:
        MOS in [-0.9, 0.9] by dimension, higher is better.
    """
    chromatic = max((faults[kind] for kind in CHROMATIC_KINDS if kind in faults), default=0.0)
    semantic = max((faults[kind] for kind in SEMANTIC_KINDS if kind in faults), default=0.0)
    severity = {
        "CF": 0.9 * chromatic + 0.1 * semantic,
        "SCC": 0.2 * chromatic + 0.8 * semantic,
        "PR": math.hypot(chromatic, semantic) / math.sqrt(2),  # nearer to the worse of the two than their mean
    }
    return {dimension: _BEST + (_WORST - _BEST) * severity[dimension] for dimension in DIMENSIONS}


def label_rows(scene: Scene) -> str:
    """Return the objects of a scene in YOLO format: rows ``class xc yc w h``, relative to the size of the part."""
    left, top, right, bottom = scene.part
    width, height = right - left, bottom - top
    rows = []
    for coco_class, x0, y0, x1, y1 in scene.boxes:
        center = ((x0 + x1) / 2 - left) / width, ((y0 + y1) / 2 - top) / height
        values = *center, (x1 - x0) / width, (y1 - y0) / height
        rows.append(f"{coco_class} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    return "".join(rows)


def color_curves() -> np.ndarray:
    """Return the share of each 8-bit level, by channel, among the pixels in the boxes of each class, shape (81, 768).

    A pixel in two boxes counts twice.
    """
    counts = np.zeros((CLASSES, 3, CURVE // 3))
    for scene in SCENES:
        for coco_class, x0, y0, x1, y1 in scene.boxes:
            pixels = _read_photo(scene.photo)[y0:y1, x0:x1].reshape(-1, 3)
            counts[coco_class] += [np.bincount(channel, minlength=CURVE // 3) for channel in pixels.T]
    return (counts / np.maximum(counts.sum(2, keepdims=True), 1)).reshape(CLASSES, CURVE)


def attribution() -> str:
    """Return the text of ATTRIBUTION.md: the photographs, from data/samples/ATTRIBUTION.md."""
    lines = [_ATTRIBUTION]
    statements = []
    for number, photo in enumerate(read_photos(), start=1):
        scenes = ", ".join(scene.name for scene in SCENES if scene.photo == number)
        origin = f"{photo.package}, [{Path(photo.member).name}]({photo.source})"
        lines.append(f"| {scenes} | {photo.shows} | {photo.author} | {photo.license} | {origin} |")
        statements += [f"- {scenes}: `{photo.member}`.", f"  In `{photo.stated_in}`: {photo.statement}"]
    return "\n".join([*lines, "", "## What the packages say", "", "A slash stands for a line break.", "", *statements]) + "\n"


def _read_photo(number: int) -> np.ndarray:
    with Image.open(_SAMPLES / f"ORG_{number:012d}.jpg") as image:
        return np.asarray(image.convert("RGB"))


def _clear(out: Path) -> None:
    """Remove the files of an earlier run, or refuse the folder."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a folder to write to")
    readme = out / "README.txt"
    ours = readme.is_file() and readme.read_bytes().startswith(_TITLE.encode())
    if not ours and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty and is no earlier stand-in, whose README.txt begins with {_TITLE!r}; "
            "give a new or empty folder"
        )
    # The MOS first: without them nothing loads, should this be stopped half-way.
    for split in SPLITS:
        for dimension in DIMENSIONS:
            (out / f"{split_folder(split)}_{dimension}_mos.json").unlink(missing_ok=True)
    written = re.compile(rf"({'|'.join(RECIPES)})_\d{{12}}\.(jpg|txt)")
    for folder in (*map(split_folder, SPLITS), "labels"):
        for path in (out / folder).glob("*"):
            if written.fullmatch(path.name):
                path.unlink()


def main() -> None:
    args = parse_args()
    try:
        make(args.out)
    except OSError as error:
        raise SystemExit(f"error: {error}") from error

    counts = {split: sum(scene.split == split for scene in SCENES) for split in SPLITS}
    parts = ", ".join(f"{split} {len(RECIPES) * n} images of {n} scenes" for split, n in counts.items())
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"stand-in for ICQA-2K: {parts}, {size / 1e6:.1f} MB, in {args.out}\n\nNext, for example:")
    out, test, labels, prior = (
        shlex.quote(str(args.out / name)) for name in ("", split_folder("test"), "labels", "color_.json")
    )
    run = "runs/standin_scc"
    print(f"  python train_SCC.py --preset published --data {out} --random-init --epochs 1 --folds 0 --output {run}")
    print(f"  python infer_SCC.py {test} --weights {run}/best.pt --labels {labels} --color-prior {prior} -o {run}.csv")
    print(f"  python evaluate.py --predictions {run}.csv --dataset icqa2k --root {out} --compare-published")
    print("\nThe other networks, and the order of it all: docs/reproduce.md")


if __name__ == "__main__":
    main()
