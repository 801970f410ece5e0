"""How much memory infer_PR.py needs for large pictures; exit status 1 if it is more than allowed.

    python benchmarks/memory.py                   # 8 JPEGs of 12 megapixels
    python benchmarks/memory.py --huge --write    # with one of 100 megapixels, and a row in memory.md

The peak depends on how many pictures are worked on at a time, by default one a core.
"""

import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from benchmarks.measure import ROOT, cores, infer_command, machine, make_pictures, run
from utils.arguments import ScriptParser

_HEADER = """# Peak memory of infer_PR.py on the CPU

JPEGs of 12 megapixels (4000x3000), and one of 100 megapixels (12000x8333) where the command says `--huge`.

| pictures at a time | peak MiB | seconds | command | machine |
| --- | --- | --- | --- | --- |
"""


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--count", type=int, default=8, help="pictures of 12 megapixels (default: %(default)s)")
    parser.add_argument("--huge", action="store_true", help="one of 100 megapixels as well")
    parser.add_argument("--workers", type=int, help="pictures worked on at a time (default: one a core)")
    parser.add_argument("--limit-mb", type=float, default=1500, help="allowed peak in MiB (default: %(default)s)")
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="CF.pt, SCC.pt, PR.pt (default: the shipped ones)")
    parser.add_argument("--write", action="store_true", help="add a row to benchmarks/memory.md")
    args = parser.parse_args()
    if args.count < 1:
        parser.error("--count must be at least 1")

    workers = args.workers or cores()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        make_pictures(pictures, args.count, 4000, 3000)
        if args.huge:
            make_pictures(pictures / "huge", 1, 12000, 8333)
        command = infer_command(pictures, Path(folder) / "scores_PR.csv", args.weights_dir)
        result = run([*command, "--workers", str(workers)])

    over = result.peak_mib > args.limit_mb
    print(f"{result.seconds:.1f} s, {workers} pictures at a time")
    print(f"peak {result.peak_mib:.0f} MiB, {'over' if over else 'within'} the limit of {args.limit_mb:.0f} MiB")
    if args.write:
        path = ROOT / "benchmarks" / "memory.md"
        text = path.read_text() if path.exists() else _HEADER
        line = shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]])
        path.write_text(f"{text}| {workers} | {result.peak_mib:.0f} | {result.seconds:.1f} | `{line}` | {machine()} |\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
