"""How much memory and time the training of the published CF network takes on the CPU, with and without recomputation.

    python benchmarks/train_memory.py --write                    # pictures of the stand-in for ICQA-2K
    python benchmarks/train_memory.py --images 1600 --write      # a data set of 1,600 training pictures, of which 24 are used
    python benchmarks/train_memory.py --images 1600 --limit 24 96 1600    # more of them, up to the whole epoch (an hour)

train_CF.py runs as a whole process, one epoch at the published batch size: steps, the test pictures, and the checkpoints with
the state of the optimizer, which is all that takes memory. It reads pictures itself (``--workers 0``), so that no memory is in
other processes, and starts from random weights, which changes neither memory nor time.

``--limit`` keeps a run short: a step takes 20 to 30 seconds on two cores. What more pictures could add is then not in the peak,
so the table also gives the peak with all pictures of the data set in memory at once. That is more than a run should reach, for
the cache of resized pictures is on disk and only those of a step are read.
"""

import csv
import json
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import ROOT, Run, command_line, machine, run, write_section
from utils.arguments import ScriptParser

TRAIN = "ICQA_2K_train"  # folder of the training pictures; their ratings are beside it
FLOAT_BYTES = 6 * 384 * 384 * 4  # a picture in the cache of the published training: RGB and CIELAB in float32
_ALLOWED = 6000  # MB, the memory of a small machine
_CROP = 0.9  # share of the sides that is left at least
_METHODS = ("BIG", "CIC", "CT2", "DDC", "GCP")

_TOP = """# Memory of CF training on the CPU

`train_CF.py --preset published --random-init --epochs 1 --folds 0 --val 0 --workers 0`, whole process."""


@dataclass(frozen=True)
class Training:
    """What one run of train_CF.py took.

    Attributes:
        checkpointed: Whether activations were recomputed.
        pictures: Training pictures of the data set.
        used: Those that were trained on.
        steps: Optimizer steps.
        process: The whole process.
        epoch_seconds: Of the epoch alone.
        cached_bytes: Of a resized picture on disk, on average.
    """

    checkpointed: bool
    pictures: int
    used: int
    steps: int
    process: Run
    epoch_seconds: float
    cached_bytes: float

    @property
    def most_mib(self) -> float:
        """The peak, had the pictures that were not used been in memory as well."""
        return self.process.peak_mib + (self.pictures - self.used) * self.cached_bytes / (1 << 20)


def enlarge(data: Path, count: int) -> None:
    """Replace the training pictures of a data set in the layout of ICQA-2K by ``count`` others, always the same.

    They are mirrored cuts of those that were there, five a scene, with the ratings of the pictures they were cut from. Labels
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
    """train_CF.py for one epoch; its output and its cache go to ``folder``."""
    command = [sys.executable, ROOT / "train_CF.py", "--preset", "published", "--data", data, "--output", folder / "output"]
    command += ["--cache", folder / "cache", "--random-init", "--batch-size", str(batch_size), "--epochs", "1", "--folds", "0"]
    command += ["--val", "0", "--limit", str(limit), "--workers", "0", "--device", "cpu", "--seed", "0", "--overwrite"]
    return [*command, "--checkpoint-activations"] if checkpointed else command


def train(data: Path, pictures: int, batch_size: int, limit: int, checkpointed: bool) -> Training:
    """Run train_CF.py once and measure it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        process = run(training_command(data, folder, batch_size, limit, checkpointed))
        how = "with" if checkpointed else "without"
        print(f"{how} recomputation, {limit} pictures: {process.peak_mib:.0f} MiB, {process.seconds:.0f} s", flush=True)
        with open(folder / "output" / "metrics.csv", newline="") as file:
            seconds = float(list(csv.DictReader(file))[-1]["seconds"])
        sizes = [path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file()]
    used = min(limit, pictures)
    steps = max(1, -(-used // batch_size))
    return Training(checkpointed, pictures, used, steps, process, seconds, sum(sizes) / len(sizes))


def table(trainings: list[Training], batch_size: int) -> str:
    """The results in Markdown."""
    lines = [
        "| `--checkpoint-activations` | pictures used | peak MiB | MiB with all in memory | s per epoch | s per step "
        "| CPU s of others |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for t in trainings:
        lines.append(
            f"| {'yes' if t.checkpointed else 'no'} | {t.used} of {t.pictures} | **{t.process.peak_mib:.0f}** "
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
        f"- cache of resized pictures, on disk: {cached / 1e6:.2f} MB a picture, {FLOAT_BYTES / cached:.1f} times less than "
        f"the {FLOAT_BYTES / 1e6:.2f} MB that RGB and CIELAB take in float32 in memory"
    )
    return "\n".join(lines)


def main() -> None:
    parser = ScriptParser(__doc__)
    data_source = parser.add_mutually_exclusive_group()
    data_source.add_argument("--data", type=Path, metavar="DIR", help="in the layout of ICQA-2K (default: the stand-in)")
    data_source.add_argument("--images", type=int, metavar="N", help="make N training pictures of those of the stand-in")
    parser.add_argument("--batch-size", type=int, default=12, help="as published (default: %(default)s)")
    parser.add_argument("--limit", type=int, nargs="+", default=[24], help="pictures to train on (default: %(default)s)")
    parser.add_argument("--checkpointed", choices=("both", "yes", "no"), default="both", help="(default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write a section of benchmarks/train_memory.md")
    args = parser.parse_args()
    if min(args.batch_size, *args.limit) < 1 or (args.images is not None and args.images < 1):
        parser.error("--batch-size, --limit and --images must be at least 1")

    variants = {"both": (False, True), "yes": (True,), "no": (False,)}[args.checkpointed]
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data
        if data is None:
            data = Path(temporary) / "data"
            run([sys.executable, ROOT / "tools" / "make_icqa2k_standin.py", data])
            if args.images is not None:
                enlarge(data, args.images)
        pictures = len(json.loads((data / f"{TRAIN}_CF_mos.json").read_text()))
        setting = f"{pictures} training pictures, batch {args.batch_size}; {machine()}"
        print(setting, flush=True)
        trainings = [train(data, pictures, args.batch_size, limit, how) for how in variants for limit in args.limit]

    result = table(trainings, args.batch_size)
    print(result)
    if args.write:
        command = command_line("train_memory.py", {str(args.data): "DATA"})
        text = f"Made by `{command}`.\n\n{setting}.\n\n{result}"
        write_section(ROOT / "benchmarks" / "train_memory.md", _TOP, f"{pictures} training pictures", text)


if __name__ == "__main__":
    main()
