"""How the cost of scoring grows with the number of images: CPU time per image, peak memory, and the time of listing names.

    python benchmarks/scale.py --write                       # 1,000, 10,000 and 100,000 images; 1,000,000 names
    python benchmarks/scale.py --counts 100 1000 --names 0   # a check of seconds

The networks, which take the same time for each image, are replaced by one that takes none, so that the table shows all else:
listing, reading, rows of three scores on disk, the merge into the CSV, the table. Each count is a process of its own.
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks import measure
from utils.arguments import ScriptParser

PAGE = measure.ROOT / "docs" / "scale.md"
_SIDE = 64  # pixels
_SAME = 50  # different images; the others are copies

# What each process runs: what infer_PR.py does, with an engine that looks at the pixels and no more.
_SCORE = """
import sys
from pathlib import Path
from inference import scorer
from inference.command import print_summary
from inference.scorer import ImageResult, Scorer, score_images
from utils.scores import Provenance, ScoreWriter
from utils.shards import list_samples

class Branch:
    def __init__(self, path, columns):
        self.path, self.columns = path, columns

def engine(pixels, name, known):
    value = round(float(pixels[::8, ::8].mean()) / 255, 6)
    return ImageResult({"CF": value, "SCC": -value, "PR": value / 2})

def memory(what):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, after the imports
before = memory("VmRSS")
images, out = list_samples(sys.argv[1]), Path(sys.argv[2])
branches = [Branch(out / f"{c[0]}.csv", c) for c in (["CF"], ["SCC"], ["PR", "CF", "SCC"])]
how = Provenance(images.root, {}, {}, "unknown")
writers = {b.columns[0]: ScoreWriter(b.path, b.columns, images.names, how, fingerprints=images.fingerprints) for b in branches}
score_images(Scorer(engine), images, writers, 2)
for writer in writers.values():
    writer.close()
status = print_summary(branches, ["CF", "SCC", "PR"], None, images.left_out, images.problems)
(out / "memory").write_text(str(memory("VmHWM") - before))
sys.exit(status)
"""
_LIST = "import sys\nfrom utils.shards import list_samples\nassert len(list_samples(sys.argv[1]).names) == int(sys.argv[2])"


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    add = parser.add_argument
    add("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N", help="images (default: %(default)s)")
    add("--names", type=int, default=1_000_000, metavar="N", help="names to list, 0 for none (default: %(default)s)")
    add("--write", action="store_true", help="write the section of docs/scale.md")
    parser.limits |= {"counts": (1, 10**7), "names": (0, 10**8)}
    return parser.parse_args()


def make_images(folder: Path, count: int) -> None:
    """Small photographs, in folders of 1,000."""
    with tempfile.TemporaryDirectory() as few:
        measure.make_images(Path(few), _SAME, _SIDE, _SIDE)
        contents = [path.read_bytes() for path in sorted(Path(few).iterdir())]
    for start in range(0, count, 1000):
        (folder / f"{start // 1000:04d}").mkdir(parents=True)
        for number in range(start, min(start + 1000, count)):
            (folder / f"{start // 1000:04d}" / f"{number:07d}.jpg").write_bytes(contents[number % _SAME])


def make_names(folder: Path, count: int) -> None:
    """Empty files, in folders of 10,000."""
    for start in range(0, count, 10_000):
        (folder / f"{start // 10_000:04d}").mkdir(parents=True)
        for number in range(start, min(start + 10_000, count)):
            os.close(os.open(folder / f"{start // 10_000:04d}" / f"{number:07d}.jpg", os.O_CREAT | os.O_WRONLY))


def make_tar(path: Path, count: int) -> None:
    """A tar of empty members."""
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            tar.addfile(tarfile.TarInfo(f"{number:07d}.jpg"), io.BytesIO())
            tar.members.clear()


def main() -> int:
    args = parse_args()
    python = [sys.executable, "-c"]
    text = f"Made by `{measure.command_line('scale.py')}`: whole processes, one after another, JPEGs of {_SIDE}x{_SIDE}.\n\n"
    text += "| images | CPU s | CPU ms per image, without the start | wall s | MiB above those of the start |\n"
    text += "| --- | --- | --- | --- | --- |\n"
    with tempfile.TemporaryDirectory() as scratch:
        counts = [1, *args.counts]  # the first run is the start: imports
        for count in counts:
            folder, out = Path(scratch) / f"images{count}", Path(scratch) / f"out{count}"
            make_images(folder, count)
            done = measure.run([*python, _SCORE, folder, out])
            if count == 1:
                start = done.cpu_seconds
                continue
            each = 1000 * (done.cpu_seconds - start) / count
            grown = float((out / "memory").read_text())
            row = f"| {count:,} | {done.cpu_seconds:.2f} | {each:.3f} | {done.seconds:.1f} | {grown:.0f} |"
            print(row, flush=True)
            text += f"{row}\n"
        if args.names:
            empty = measure.run([*python, "from utils import shards"]).cpu_seconds
            for what, make, path in (("files", make_names, "names"), ("members of one tar", make_tar, "names.tar")):
                place = Path(scratch) / path
                make(place, args.names)
                done = measure.run([*python, _LIST, place, str(args.names)])
                line = f"Listing {args.names:,} {what}: {done.cpu_seconds - empty:.1f} s of CPU time, {done.peak_mib:.0f} MiB."
                print(line, flush=True)
                text += f"\n{line}\n"
    if args.write:
        top = PAGE.read_text(encoding="utf-8").partition("\n\n## ")[0]
        measure.write_section(PAGE, top, "How cost grows with the number of images", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
