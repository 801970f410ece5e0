"""Make a training set from natural photographs: each photo unchanged, and with planted color faults of known severity.

No person rated these images: the scores in the table follow from the planted fault (see ``data/recolor.py``).

    python tools/make_recolorings.py PHOTOS OUT                       # every photo below PHOTOS, 4 recolorings each
    python tools/make_recolorings.py data/samples /tmp/recolorings --per-photo 2   # a check that takes a few seconds

OUT then holds ``images/`` and ``table.csv`` (image,scene,method,CF,SCC,PR), which the training scripts take as ``--data``.
If photos have label files (``--labels``), OUT/labels holds copies named after the scenes, for train_SCC.py.
"""

import argparse
import itertools
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of natural photographs, searched recursively")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--per-photo", type=int, default=4, help="recolorings of each photo (default: %(default)s)")
    parser.add_argument("--longest-side", type=int, default=400, help="reduce photos to this side, in pixels")
    parser.add_argument("--labels", type=Path, nargs="+", default=[], metavar="DIR", help="YOLO files; the first one counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from data.recolor import CHROMATIC_KINDS, SEMANTIC_KINDS, lab_severity, recolor, to_lab
from utils.files import write_atomic
from utils.images import ImageReadError, is_gray, list_images, read_rgb
from utils.labels import ObjectLabels, object_rows

BEST, WORST = 0.8, -0.8  # scores of an untouched photo and of a gross fault; the ends of the scale stay free
# A clean but wrong color is hardly a chromatic fault; a gross stain is also a color that the thing cannot have.
_CF_PER_SEMANTIC_SEVERITY = 0.15
_SCC_PER_CHROMATIC_SEVERITY = 0.5
_SHARE_OF_BOTH = 0.25  # recolorings that carry a chromatic and a semantic fault


def scene_names(names: list[str]) -> list[str]:
    """Return a name without slashes for each photo; of equal names, as for x.jpg and x.png, later ones are numbered."""
    scenes: dict[str, None] = {}
    for name in names:
        plain = name.rsplit(".", 1)[0].replace("/", "_")
        numbered = (plain if n == 1 else f"{plain}_{n}" for n in itertools.count(1))
        scenes[next(scene for scene in numbered if scene not in scenes)] = None
    return list(scenes)


def score(severity: float) -> float:
    """Return the score that stands for a severity in [0, 1]."""
    return BEST + (WORST - BEST) * severity


def recolorings(
    name: str, scene: str, photos: Path, output: Path, per_photo: int, longest_side: int, seed: int
) -> list[dict] | str:
    """Write one photo and its recolorings; return the rows of the table, or the reason why there are none."""
    torch.set_num_threads(1)
    try:
        rgb = read_rgb(photos / name)
    except ImageReadError as error:
        return str(error)
    if is_gray(rgb):
        return f"{name} has no color"
    smaller = Image.fromarray(rgb)
    smaller.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    original = np.asarray(smaller)
    rng = np.random.default_rng([seed, *name.encode()])
    rows = []
    for variant in range(per_photo + 1):
        image, method, chromatic, semantic = original, "original", 0.0, 0.0
        if variant > 0:
            both = rng.random() < _SHARE_OF_BOTH
            kinds = []
            if both or rng.random() < 0.5:
                kinds.append(str(rng.choice(CHROMATIC_KINDS)))
            if both or not kinds:
                kinds.append(str(rng.choice(SEMANTIC_KINDS)))
            for kind in kinds:
                changed = recolor(image, kind, float(rng.uniform(0.1, 1) ** 1.5), rng)
                severity = lab_severity(to_lab(image), to_lab(changed))
                if kind in CHROMATIC_KINDS:
                    chromatic = severity
                else:
                    semantic = severity
                image = changed
            method = "+".join(kinds)
        total = lab_severity(to_lab(original), to_lab(image))
        file = f"images/{scene}__{variant}.jpg"
        Image.fromarray(image).save(output / file, quality=92, subsampling=0)
        rows.append(
            {
                "image": file,
                "scene": scene,
                "method": method,
                "CF": score(max(chromatic, _CF_PER_SEMANTIC_SEVERITY * semantic)),
                "SCC": score(max(semantic, _SCC_PER_CHROMATIC_SEVERITY * chromatic)),
                "PR": score(total),
            }
        )
    return rows


def main() -> None:
    args = parse_args()
    names = list_images(args.photos).names
    labels = [ObjectLabels(folder) for folder in args.labels]
    (args.output / "images").mkdir(parents=True, exist_ok=True)
    work = partial(
        recolorings,
        photos=args.photos,
        output=args.output,
        per_photo=args.per_photo,
        longest_side=args.longest_side,
        seed=args.seed,
    )
    rows, skipped = [], []
    with ProcessPoolExecutor(args.workers) as pool:
        for result in tqdm(pool.map(work, names, scene_names(names), chunksize=8), total=len(names), unit="photo"):
            if isinstance(result, str):
                skipped.append(result)
            else:
                rows += result
    if not rows:
        raise SystemExit(f"none of {len(names)} photos below {args.photos} could be used, e.g. {skipped[0]}")
    table = pd.DataFrame(rows).sort_values("image").round(6)
    write_atomic(args.output / "table.csv", table.to_csv(index=False))
    used = {row["scene"] for row in rows}
    labeled = 0
    for name, scene in zip(names, scene_names(names), strict=True):
        folder = next((folder for folder in labels if folder.file(name) is not None), None)
        if scene in used and folder is not None:
            write_atomic(args.output / "labels" / f"{scene}.txt", object_rows(folder.objects(name)))
            labeled += 1
    for reason in skipped:
        print(f"left out: {reason}")
    print(f"{len(table)} images of {table['scene'].nunique()} photos in {args.output / 'table.csv'}")
    if labels:
        print(f"{labeled} photos have a label file, in {args.output / 'labels'}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
