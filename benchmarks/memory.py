"""Measure the memory for scoring large images, and for training the published CF network, on the CPU.

    python benchmarks/memory.py                       # 8 JPEGs of 12 megapixels; exit status 1 if it takes more than allowed
    python benchmarks/memory.py --huge --write        # with one of 100 megapixels, and a row in memory.md
    python benchmarks/memory.py --train 1600 --write  # a data set of 1,600 training images; 24 of them are used
    python benchmarks/memory.py --train 1600 --limit 24 96 1600    # more of them, up to the whole epoch (an hour)

The peak of scoring depends on the number of images in work at a time, by default one per core.

For training, train_CF.py runs as a whole process, one epoch at the published batch size, with and without recomputation of
activations. The run includes everything that takes memory: steps, test images, and checkpoints with the state of the optimizer.
The process reads images itself (``--workers 0``), so that no memory is in other processes. It starts from random weights, which
changes neither memory nor time. A step takes 20 to 30 seconds on two cores, so ``--limit`` keeps a run short. The peak then
lacks the memory of further images, so the table also gives the peak with all images of the data set in memory at once. A real
run should need less, since the cache of resized images is on disk and only those of a step are read.
"""

import argparse
import csv
import json
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import ROOT, Run, command_line, cores, infer_command, machine, make_images, run, write_section
from utils.arguments import ScriptParser

TRAIN = "ICQA_2K_train"  # folder of the training images; their ratings are beside it
FLOAT_BYTES = 6 * 384 * 384 * 4  # an image in the cache of the published training: RGB and CIELAB in float32
_ALLOWED = 6000  # MB, the memory of a small machine
_CROP = 0.9  # share of the sides that is left at least
_METHODS = ("BIG", "CIC", "CT2", "DDC", "GCP")
PAGE = ROOT / "benchmarks" / "memory.md"

_TOP = """# Peak memory on the CPU

Of whole processes. Scoring: infer_PR.py on JPEGs of 12 megapixels (4000x3000), and one of 100 megapixels (12000x8333) where the
command says `--huge`. Training:
`train_CF.py --preset published --random-init --epochs 1 --folds 0 --val 0 --workers 0`."""


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("--count", type=int, default=8, help="images of 12 megapixels (default: %(default)s)")
    parser.add_argument("--huge", action="store_true", help="one of 100 megapixels as well")
    parser.add_argument("--workers", type=int, default=cores(), help="images worked on at a time (default: one per core)")
    parser.add_argument("--limit-mb", type=float, default=1500, help="allowed peak in MiB (default: %(default)s)")
    parser.add_argument("--train", type=int, metavar="N", help="measure training, with N images made from the stand-in")
    parser.add_argument("--batch-size", type=int, default=12, help="images per training step (default: %(default)s)")
    parser.add_argument("--limit", type=int, nargs="+", default=[24], help="images to train on (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write a section of benchmarks/memory.md")
    parser.limits["train"] = (1, 10**6)
    return parser.parse_args()


# --- scoring


def score(args: argparse.Namespace) -> int:
    """Measure infer_PR.py; return 1 if it takes more memory than allowed, else 0."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        make_images(images, args.count, 4000, 3000)
        if args.huge:
            make_images(images / "huge", 1, 12000, 8333)
        result = run([*infer_command(images, Path(folder) / "scores_PR.csv"), "--workers", str(args.workers)])

    over = result.peak_mib > args.limit_mb
    print(f"{result.seconds:.1f} s, {args.workers} images at a time")
    print(f"peak {result.peak_mib:.0f} MiB, {'over' if over else 'within'} the limit of {args.limit_mb:.0f} MiB")
    if args.write:
        text = (
            f"Made by `{command_line('memory.py')}`.\n\n{args.workers} images at a time; {machine()}.\n\n"
            f"Peak **{result.peak_mib:.0f} MiB**, {result.seconds:.1f} s."
        )
        write_section(PAGE, _TOP, "Scoring" + (", with 100 megapixels" if args.huge else ""), text)
    return int(over)


# --- training


@dataclass(frozen=True)
class Training:
    """Time and memory of one run of train_CF.py.

    Attributes:
        checkpointed: Whether activations were recomputed.
        images: Number of training images of the data set.
        used: Number of images that were trained on.
        steps: Number of optimizer steps.
        process: Time and memory of the whole process.
        epoch_seconds: Time of the epoch alone.
        cached_bytes: Mean size of a resized image on disk.
    """

    checkpointed: bool
    images: int
    used: int
    steps: int
    process: Run
    epoch_seconds: float
    cached_bytes: float

    @property
    def most_mib(self) -> float:
        """Return the peak if unused images were in memory as well."""
        return self.process.peak_mib + (self.images - self.used) * self.cached_bytes / (1 << 20)


def enlarge(data: Path, count: int) -> None:
    """Replace the training images of a data set in the layout of ICQA-2K by ``count`` others, always the same.

    The new images are mirrored cuts of the old ones, five per scene, with the ratings of the images they were cut from. Labels
    of objects are not made.
    """
    folder = data / TRAIN
    originals = sorted(folder.glob("*.jpg"))
    if not originals:
        raise FileNotFoundError(f"no *.jpg in {folder}; expected the layout of ICQA-2K (data/README.md)")
    photos = [Image.open(path).convert("RGB") for path in originals]
    chance = random.Random(0)
    origins: dict[str, str] = {}
    for path in originals:
        path.unlink()
    for i in range(count):
        stem = f"{_METHODS[i % len(_METHODS)]}_{900_000 + i // len(_METHODS):012d}"
        photo = photos[i % len(photos)]
        width, height = (round(side * chance.uniform(_CROP, 1)) for side in photo.size)
        left, top = chance.randint(0, photo.width - width), chance.randint(0, photo.height - height)
        cut = photo.crop((left, top, left + width, top + height))
        cut = ImageOps.mirror(cut) if chance.random() < 0.5 else cut
        cut.save(folder / f"{stem}.jpg", quality=90)
        origins[stem] = originals[i % len(originals)].stem
    for file in data.glob(f"{TRAIN}_*_mos.json"):
        mos = json.loads(file.read_text())
        file.write_text(json.dumps({stem: mos[origin] for stem, origin in origins.items()}))


def training_command(data: Path, folder: Path, batch_size: int, limit: int, checkpointed: bool) -> list[str | Path]:
    """Return the command of train_CF.py for one epoch; its output and its cache go to ``folder``."""
    command: list[str | Path] = [sys.executable, ROOT / "train_CF.py", "--preset", "published", "--data", data]
    command += ["--output", folder / "output", "--cache", folder / "cache", "--random-init", "--batch-size", str(batch_size)]
    command += ["--epochs", "1", "--folds", "0"]
    command += ["--val", "0", "--limit", str(limit), "--workers", "0", "--device", "cpu", "--seed", "0", "--overwrite"]
    return [*command, "--checkpoint-activations"] if checkpointed else command


def train(data: Path, images: int, batch_size: int, limit: int, checkpointed: bool) -> Training:
    """Run train_CF.py once and measure it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        process = run(training_command(data, folder, batch_size, limit, checkpointed))
        how = "with" if checkpointed else "without"
        print(f"{how} recomputation, {limit} images: {process.peak_mib:.0f} MiB, {process.seconds:.0f} s", flush=True)
        with open(folder / "output" / "metrics.csv", newline="") as file:
            seconds = float(list(csv.DictReader(file))[-1]["seconds"])
        sizes = [path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file()]
    used = min(limit, images)
    steps = max(1, -(-used // batch_size))
    return Training(checkpointed, images, used, steps, process, seconds, sum(sizes) / len(sizes))


def table(trainings: list[Training], batch_size: int) -> str:
    """Format the results in Markdown."""
    lines = [
        "| `--checkpoint-activations` | images used | peak MiB | MiB with all in memory | s per epoch | s per step "
        "| CPU s of others |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for t in trainings:
        lines.append(
            f"| {'yes' if t.checkpointed else 'no'} | {t.used} of {t.images} | **{t.process.peak_mib:.0f}** "
            f"| {t.most_mib:.0f} | {t.epoch_seconds:.1f} | {t.epoch_seconds / t.steps:.1f} "
            f"| {t.process.other_seconds:.0f} |"
        )
    lines.append("")
    for checkpointed in dict.fromkeys(t.checkpointed for t in trainings):
        most = max(t.most_mib for t in trainings if t.checkpointed == checkpointed) * (1 << 20) / 1e6
        fits = "fits" if most <= _ALLOWED else "does not fit"
        how = "with" if checkpointed else "without"
        lines.append(
            f"- {how} `--checkpoint-activations`, batch {batch_size}: {most:.0f} MB, {fits} in {_ALLOWED / 1000:.0f} GB"
        )
    cached = trainings[0].cached_bytes
    lines.append(
        f"- cache of resized images, on disk: {cached / 1e6:.2f} MB an image, {FLOAT_BYTES / cached:.1f} times less than "
        f"the {FLOAT_BYTES / 1e6:.2f} MB that RGB and CIELAB take in float32 in memory"
    )
    return "\n".join(lines)


def measure_training(args: argparse.Namespace) -> None:
    """Measure training on images made from those of the stand-in, with and without recomputation."""
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        run([sys.executable, ROOT / "tools" / "make_icqa2k_standin.py", data])
        enlarge(data, args.train)
        setting = f"{args.train} training images, batch {args.batch_size}; {machine()}"
        print(setting, flush=True)
        trainings = [train(data, args.train, args.batch_size, limit, how) for how in (False, True) for limit in args.limit]
    result = table(trainings, args.batch_size)
    print(result)
    if args.write:
        text = f"Made by `{command_line('memory.py')}`.\n\n{setting}.\n\n{result}"
        write_section(PAGE, _TOP, f"Training, {args.train} images", text)


def main() -> int:
    args = parse_args()
    if args.train is None:
        return score(args)
    measure_training(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
