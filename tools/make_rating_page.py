"""Make a page on which people rate images: a folder that opens in a browser, without a server or behind any static server.

    python tools/make_rating_page.py IMAGES -o rating/                             # CF, SCC and PR of each image, 1 to 5
    python tools/make_rating_page.py IMAGES --ask PR naturalness --count 60 -o rating/
    python tools/make_rating_page.py IMAGES --pairs -o rating/                     # which of two is more natural?
    python tools/compute_mos.py FOLDER_OF_THE_RATERS_FILES -o mos.csv

IMAGES is a folder (searched recursively), an image or a .txt list. Open rating/index.html; each rater saves a file
ratings_*.json to send back. The page shows no file names and loads nothing from elsewhere. Images that browsers may show
differently from the scored pixels (TIFF, BMP, 16 bits, transparency) become PNG copies. Questions, and the recommendations
ITU-T P.910 and ITU-R BT.500: docs/rating.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

_ASKED = ("CF", "SCC", "PR", "naturalness")


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s IMAGES --output FOLDER [options]", ("data", "study"))
    add = parser.groups["data"].add_argument
    add("images", type=Path, metavar="IMAGES", help="folder, image, or .txt list of images")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the page: index.html and images/")
    training = "images to practice on, not counted (default: five samples with known faults); none for no practice"
    add("--training", metavar="FOLDER", help=training)

    add = parser.groups["study"].add_argument
    asked = "questions (default: CF SCC PR; with --pairs one, naturalness)"
    add("--ask", nargs="+", choices=_ASKED, metavar="NAME", help=f"{asked}; of {', '.join(_ASKED)}")
    add("--pairs", action="store_true", help='two images at a time: "which one is more natural?"')
    add("--count", type=int, metavar="N", help="images or pairs per rater, drawn anew for each (default: all, at most 100)")
    add("--repeats", type=int, default=5, metavar="N", help="images or pairs shown a second time (default: %(default)s)")
    add("--checks", type=int, default=3, metavar="N", help="attention checks (default: %(default)s)")
    add("--title", default="Rating images", metavar="TEXT", help="heading of the page (default: %(default)s)")
    where = "target of the files: a URL that takes POST, or a text such as an e-mail address, which the last page shows"
    add("--send-to", metavar="WHERE", help=where)
    parser.limits |= {"repeats": (0, 1000), "checks": (0, 100)}
    args = parser.parse_args()
    if args.pairs and len(args.ask or [""]) > 1:
        parser.error("--pairs asks one question at a time, give --ask one name")
    args.ask = list(dict.fromkeys(args.ask or (["naturalness"] if args.pairs else ["CF", "SCC", "PR"])))
    if not args.title.strip():
        parser.error("--title needs a text")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import hashlib
import io
import json
import math
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from tqdm import tqdm

from evaluation.rating_files import FORMAT, LABELS
from utils.files import write_atomic
from utils.images import ImageList, ImageReadError, list_images, printable, read_rgb
from utils.names import amount
from utils.pages import render_page
from utils.scenes import scenes_of

_TEMPLATE = "rating_page.html.jinja"
_GENERATOR = "ICQA tools/make_rating_page.py"
_SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples"
_COPY = re.compile(r"[0-9a-f]{16}\.(jpg|png|webp)")  # a file of ours in images/
_EXIF_ORIENTATION = 274

_MOST_AT_ONCE = 100  # images or pairs of a rater, unless --count says otherwise: less than the half hour of BT.500 and P.910
_RATERS = 15  # of an image, at least, by BT.500
_GAP_MS = 500  # of plain gray between images
_ENLARGE = 3  # times, at most and by a whole number, on large screens
_LINKING = 0.25  # share of pairs that join two scenes, without which their scales cannot be compared

_QUESTIONS = {
    "CF": {
        "ask": "How clean is the color?",
        "pair": "In which one is the color cleaner?",
        "help": "Look for stains, mottling, color that runs over edges or lies beside them, patches left gray, or color that "
        "is pale or glaring. A wrong color can be clean: a blue face without any stain is high here.",
    },
    "SCC": {
        "ask": "How well do the colors suit what is shown?",
        "pair": "In which one do the colors suit better what is shown?",
        "help": "Could each thing have this color? Grass can be green or yellow, hardly violet. Things such as cars and "
        "clothes can have any color. Stains do not matter here.",
    },
    "PR": {
        "ask": "How much does it look like a photo?",
        "pair": "Which one looks more like a photo?",
        "help": "All in all: would you take it for a photograph that a camera took in color?",
    },
    "naturalness": {
        "ask": "How natural does it look?",
        "pair": "Which one is more natural?",
        "help": "All in all, by your own impression of the colors.",
    },
}

# Samples with known faults, and what is to be seen in them: the whole range, before it counts.
_PRACTICE = (
    ("ORG_000000000001.jpg", "This is a photograph as it was taken. It deserves high answers."),
    ("HUE_000000000006.jpg", "The meadow is violet. The color is clean, but it does not suit a meadow."),
    ("STN_000000000007.jpg", "There are stains of color on the mountains and in the sky: the color is not clean."),
    ("FAD_000000000001.jpg", "The color is pale, almost gray. Nothing has a wrong color."),
    (
        "SHF_000000000005.jpg",
        "The color lies beside the edges of the bowl: it is not clean. No thing has a wrong color.",
    ),
)
_PRACTICE_PAIRS = (
    ("STN_000000000007.jpg", "ORG_000000000007.jpg", "B is the photograph as it was taken; A has stains of color."),
    ("ORG_000000000006.jpg", "HUE_000000000006.jpg", "A is the photograph as it was taken; the meadow of B is violet."),
    ("FAD_000000000008.jpg", "SHF_000000000008.jpg", "In A the color is pale, in B it lies beside the edges. Opinions differ."),
)

_UNSURE = ("unsure", "I do not know")
_CONDITIONS = (
    {
        "name": "screen",
        "label": "What do you look at?",
        "options": [
            ("monitor", "A monitor"),
            ("laptop", "A laptop"),
            ("tablet", "A tablet"),
            ("phone", "A phone"),
        ],
    },
    {
        "name": "distance",
        "label": "How far are your eyes from it?",
        "options": [
            ("near", "Less than 40 cm (16 in)"),
            ("arm", "40 to 70 cm, an arm's length"),
            ("far", "More than 70 cm (28 in)"),
        ],
    },
    {
        "name": "light",
        "label": "How bright is the room?",
        "options": [("dark", "Dark"), ("dim", "Lamps, or a dull day"), ("bright", "Bright daylight")],
    },
    {
        "name": "night_mode",
        "label": "Is a night mode or blue light filter on?",
        "options": [("off", "No"), ("on", "Yes"), _UNSURE],
        "hint": "If so, please turn it off now.",
    },
    {
        "name": "acuity",
        "label": "Do you see sharply at this distance, with glasses or lenses if you wear them?",
        "options": [("sharp", "Yes"), ("unsharp", "No")],
    },
    {
        "name": "color_vision",
        "label": "Do you have a color vision deficiency (color blindness)?",
        "options": [("normal", "No"), ("deficient", "Yes"), _UNSURE],
        "hint": "You can take part all the same; your answers are then looked at apart from the others.",
    },
)


@dataclass(frozen=True)
class Shown:
    """Image of the page.

    Attributes:
        file: Path below the page, named by content, so that the name tells the rater nothing.
        width: Width in pixels, after EXIF rotation.
        height: Height in pixels, after EXIF rotation.
        converted: Reason for a PNG copy, or "".
    """

    file: str
    width: int
    height: int
    converted: str


def browser_copy(data: bytes) -> tuple[str, str]:
    """Return the suffix of an image file if every browser shows the pixels of ``read_rgb``, else the reason for a PNG copy.

    Args:
        data: Content of a file that ``read_rgb`` reads.

    Returns:
        Suffix and "", or "" and the reason.
    """
    if data.startswith(b"\xff\xd8\xff"):
        suffix = ".jpg"
    elif data.startswith(b"\x89PNG"):
        suffix = ".png"
    elif data.startswith(b"RIFF"):
        suffix = ".webp"
    else:
        kinds = {b"II*": "TIFF", b"MM\0": "TIFF", b"II+": "TIFF", b"BM": "BMP", b"GIF": "GIF"}
        return "", next((kind for start, kind in kinds.items() if data.startswith(start)), "AVIF or JPEG 2000")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its size was checked
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
            if image.mode in ("CMYK", "YCCK"):
                return "", "CMYK"
            if suffix == ".png" and data[24] == 16:  # bit depth, PNG specification, 11.2.1
                return "", "16-bit PNG"
            if getattr(image, "is_animated", False):
                return "", "animation, first frame"
            if "A" in image.mode or "transparency" in image.info:
                return "", "transparency, on white"
            if turned and suffix != ".jpg":
                return "", "turned by EXIF"
    return suffix, ""


def copy_image(path: Path, folder: Path) -> Shown:
    """Copy an image into the folder of the page, named by its content, unless it is there.

    Raises:
        ImageReadError: If the image cannot be read.
    """
    rgb = read_rgb(path)
    data = path.read_bytes()
    suffix, converted = browser_copy(data)
    name = hashlib.sha256(data).hexdigest()[:16] + (suffix or ".png")
    target = folder / name
    if converted and not target.is_file():
        write_atomic(target, lambda file: Image.fromarray(rgb).save(file, "PNG"))
    elif not target.is_file() or (target.stat().st_size != len(data) and not converted):
        write_atomic(target, data)
    return Shown(f"{folder.name}/{name}", rgb.shape[1], rgb.shape[0], converted)


def copy_all(listed: ImageList, folder: Path) -> tuple[dict[str, Shown], list[str]]:
    """Copy the images of a list; return the copied ones by name, and the reasons why others are left out."""
    shown: dict[str, Shown] = {}
    problems = []
    for name in tqdm(listed.names, desc="images", unit="", leave=False, disable=None):
        try:
            shown[name] = copy_image(listed.path(name), folder)
        except ImageReadError as error:
            problems.append(str(error))
    return shown, problems


def practice(source: str | None, pairs: bool, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the training trials, each with its images and the note after the answer; and the reasons for left-out images.

    Args:
        source: Folder of images; None for the samples of this repository; "none" for no training.
        pairs: Whether a trial has two images.
        folder: Target folder of the images.
    """
    problems: list[str] = []
    if source == "none":
        return [], problems
    trials: Sequence[tuple[str, ...]]
    if source is None:
        root, trials = _SAMPLES, _PRACTICE_PAIRS if pairs else _PRACTICE
        shown = {name: copy_image(_SAMPLES / name, folder) for *names, _ in trials for name in names}
    else:
        listed = list_images(source)
        shown, problems = copy_all(listed, folder)
        root, names = listed.root, list(shown)
        if pairs:
            places, _ = scenes_of(root, names)
            names.sort(key=lambda name: places.get(name, ("", "")))
            trials = [(a, b, "") for a, b in zip(names[::2], names[1::2], strict=False)]
        else:
            trials = [(name, "") for name in names]
    entries = [
        {
            "images": [{"file": shown[name].file, "width": shown[name].width, "height": shown[name].height} for name in names],
            "note": note,
        }
        for *names, note in trials
    ]
    return entries, problems


def render(study: dict[str, Any], context: dict[str, Any]) -> str:
    """Return the page; its content security policy allows its own script only, by hash."""
    content = json.dumps(study, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # no tag ends inside
    return render_page(Path(__file__).with_name(_TEMPLATE), context | {"study": content})


def check_output(images: Path, output: Path) -> None:
    """Refuse a folder where the page would overwrite other files, or would be read as images the next time.

    Raises:
        ValueError: If the folder is refused.
    """
    index = output / "index.html"
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file, expected a folder")
    if index.is_file() and _GENERATOR not in index.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise ValueError(f"{index} is another page; give --output a folder of its own")
    if output.is_dir() and not index.is_file() and any(output.iterdir()) and not (output / "images").is_dir():
        raise ValueError(f"--output {output} has other files in it; give the page a folder of its own")
    if images.is_dir() and images.resolve() in (output.resolve(), *output.resolve().parents):
        raise ValueError(f"--output {output} lies in {images}, whose images it copies; give a folder elsewhere")
    if (output / "images").resolve() in (images.resolve(), *images.resolve().parents):
        raise ValueError(f"{images} are the copies of a page in --output {output}; give the images they were made of")


def study_of(
    args: argparse.Namespace, listed: ImageList, shown: dict[str, Shown], training: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the data that the script of the page reads.

    Raises:
        ValueError: If there are too few images.
    """
    names = list(shown)
    if len(names) < 2:
        raise ValueError(f"{args.images} has {amount(len(names), 'image')} to show, a study needs at least two")
    places, problem = scenes_of(listed.root, names)
    if problem:
        print(f"note: {problem}")
    images: list[dict[str, Any]] = []
    for name, image in shown.items():
        scene, method = places.get(name, (None, None))
        entry = {"name": name, "file": image.file, "width": image.width, "height": image.height}
        images.append(entry | ({"scene": scene, "method": method} if scene is not None else {}))
    kind = "pairs" if args.pairs else "single"
    identity = json.dumps([FORMAT, kind, args.ask, [[image["name"], image["file"]] for image in images]])
    possible = most_pairs(images) if args.pairs else len(names)
    count = min(args.count or _MOST_AT_ONCE, possible)
    return {
        "format": FORMAT,
        "study": args.title.strip(),
        "study_id": hashlib.sha256(identity.encode()).hexdigest()[:12],
        "kind": kind,
        "questions": [{"name": name, "ask": _QUESTIONS[name]["pair" if args.pairs else "ask"]} for name in args.ask],
        "labels": list(LABELS),
        "images": images,
        "largest": [max(image[side] for image in images) for side in ("width", "height")],
        "training": training,
        "count": count,
        "repeats": min(args.repeats, max(0, count - max(4, count // 4) + 1)),  # as far apart as the page asks for
        "checks": args.checks,
        "gap": _GAP_MS,
        "enlarge": _ENLARGE,
        "linking": _LINKING,
        "send_to": args.send_to if _is_url(args.send_to) else None,
    }


def pairs_within(images: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return the number of pairs within scenes, and the number of scenes; images without a scene form one scene."""
    sizes = Counter(image.get("scene") for image in images)
    return sum(math.comb(size, 2) for size in sizes.values()), len(sizes)


def most_pairs(images: Sequence[dict[str, Any]]) -> int:
    """Return the largest number of pairs for a rater: all pairs within scenes, and the share that joins two scenes."""
    within, scenes = pairs_within(images)
    every = math.comb(len(images), 2)
    return every if within == 0 or scenes == 1 else min(every, math.ceil(within / (1 - _LINKING)))


def _is_url(text: str | None) -> bool:
    return text is not None and urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).netloc)


def _print_summary(output: Path, study: dict[str, Any], shown: dict[str, Shown], listed: ImageList) -> None:
    what = "pair" if study["kind"] == "pairs" else "image"
    for reason in sorted({image.converted for image in shown.values() if image.converted}):
        names = [name for name, image in shown.items() if image.converted == reason]
        print(f"PNG copies ({reason}): {len(names)}, e.g. {printable(names[0])}")
    if listed.left_out:
        print(f"left out: {listed.left_out}")
    scenes = {image["scene"] for image in study["images"] if "scene" in image}
    told = f" of {amount(len(scenes), 'scene')}" if scenes else ""
    if what == "image":
        each, share = "image", study["count"] / len(shown)
    else:
        within, n_scenes = pairs_within(study["images"])
        each, share = "pair" if n_scenes == 1 or not within else "pair of a scene", study["count"] / most_pairs(study["images"])
    print(
        f"{amount(len(shown), 'image')}{told}; each rater sees {amount(study['count'], what)}, {study['repeats']} of them "
        f"twice, and {amount(study['checks'], 'attention check')}"
    )
    print(f"{_RATERS} raters for each {each}, the least by BT.500, take about {math.ceil(_RATERS / share)} raters in all")
    command = f"python tools/compute_mos.py FOLDER {'--pairs ' * (what == 'pair')}-o mos.csv"
    print(f"page: {output / 'index.html'}; from the raters' files to MOS: {command}")


def main() -> None:
    args = parse_args()
    try:
        check_output(args.images, args.output)
        listed = list_images(args.images)
        folder = args.output / "images"
        folder.mkdir(parents=True, exist_ok=True)
        shown, problems = copy_all(listed, folder)
        training, unread = practice(args.training, args.pairs, folder)
        study = study_of(args, listed, shown, training)
        samples = args.training is None
        if samples:
            shutil.copyfile(_SAMPLES / "ATTRIBUTION.md", args.output / "ATTRIBUTION.md")
        page = render(
            study,
            {
                "generator": _GENERATOR,
                "title": study["study"],
                "pairs": args.pairs,
                "questions": [{**_QUESTIONS[entry["name"]], **entry} for entry in study["questions"]],
                "labels": LABELS,
                "conditions": [{"hint": "", **field} for field in _CONDITIONS],
                "training": len(training),
                "checks": args.checks,
                "sends": study["send_to"],
                "send_words": None if study["send_to"] else args.send_to,
                "connect": "{0.scheme}://{0.netloc}".format(urlsplit(study["send_to"])) if study["send_to"] else "'none'",
                "credits": "ATTRIBUTION.md" if samples else "",
            },
        )
        write_atomic(args.output / "index.html", page)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    used = {image["file"] for image in study["images"]} | {image["file"] for trial in training for image in trial["images"]}
    for path in folder.iterdir():  # of a page that was here before
        if _COPY.fullmatch(path.name) and f"images/{path.name}" not in used:
            path.unlink()
    _print_summary(args.output, study, shown, listed)
    for problem in (*problems, *unread):
        print(f"not on the page: {problem}", file=sys.stderr)
    raise SystemExit(1 if problems or unread else 0)


if __name__ == "__main__":
    main()
