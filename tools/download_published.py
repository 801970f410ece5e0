"""Download the data set and the weights of the published ICQA-Net from Google Drive, in the layout that the scripts expect.

    pip install "gdown>=5.2"
    python tools/download_published.py LINK            # of the folder, from https://github.com/ARBEZ-ZEBRA/ICQA
    python tools/download_published.py FOLDER a.zip    # files that a browser downloaded, unpacked or not
    python tools/download_published.py                 # only check the files that are there

Files go to weights/ and ICQA_2K/ below --to (docs/reproduce.md, section 1). Existing files are not downloaded again, so the
same command continues after an interruption or a refusal. At the end it checks names, sizes of the weights, the number of
images, and that every image has a MOS. The link is not given here, because we have never been able to follow it.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

REPO = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"https?://drive\.google\.com/(drive/(u/\d+/)?folders/|open\?id=|folderview\?id=)[-\w]{10,}")


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s [LINK | FILE ...] [--to FOLDER]", ("data",))
    add = parser.groups["data"].add_argument
    add("sources", nargs="*", metavar="SOURCE", help="link of the Drive folder, or local folders and archives")
    add("--to", type=Path, default=REPO, metavar="FOLDER", help="folder for weights/ and ICQA_2K/ (default: this repository)")
    args = parser.parse_args()
    for source in args.sources:
        if "://" in source and not _LINK.match(source):
            parser.error(f"{source} is no link of a Drive folder, https://drive.google.com/drive/folders/...")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import functools
import importlib
import io
import json
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, NamedTuple

from data.icqa2k import load_icqa2k, split_folder
from utils.choices import DIMENSIONS, SPLITS
from utils.files import write_atomic
from utils.images import IMAGE_EXTENSIONS, printable
from utils.names import amount

# Bytes of all tensors in the published files; what holds them adds names and padding, less than the slack.
WEIGHT_BYTES = {"CF": 349_946_764, "SCC": 46_237_736, "PR": 98_746_804}
_SLACK = 2_000_000
IMAGES = 2000  # of ICQA-2K, both splits
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_FOREIGN = (".rar", ".7z")
_MOST_REFUSALS = 3  # in a row, then Drive is left alone
_QUOTA = re.compile(r"too many users|quota|many accesses|too many requests", re.IGNORECASE)

_BY_HAND = (
    "open the link in a browser, signed in, and download what is missing (Drive packs folders into ZIP files); then run: "
    "python tools/download_published.py FOLDER_OR_ZIP ..."
)


class Refused(Exception):
    """Refusal of Drive to give a file; the message is one line."""


class Member(NamedTuple):
    """File of a folder or an archive: its path inside, its size, and a function that opens it."""

    path: str
    size: int
    open: Callable[[], IO[bytes] | None]


def place(path: str) -> PurePosixPath | None:
    """Return the target of a file of the authors, relative to ``--to``, by its path; None for an unknown file."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    name = parts[-1]
    above = [part.lower() for part in parts[:-1]]
    for dimension in DIMENSIONS:
        if name.lower() == f"{dimension}.pth".lower():
            return PurePosixPath("weights", f"{dimension}.pth")
        for split in SPLITS:
            for kind in ("mos", "result"):
                wanted = f"{split_folder(split)}_{dimension}_{kind}.json"
                if name.lower() == wanted.lower():
                    return PurePosixPath("ICQA_2K", wanted)
    if name.lower() == "color_.json":
        return PurePosixPath("ICQA_2K", "color_.json")
    suffix = PurePosixPath(name).suffix.lower()
    if "labels" in above and suffix == ".txt":
        return PurePosixPath("ICQA_2K", "labels", name)
    if "pretrain" in above:
        return PurePosixPath("ICQA_2K", "pretrain", *parts[len(above) - above[::-1].index("pretrain") :])
    for split in SPLITS:
        if split_folder(split).lower() in above and suffix in IMAGE_EXTENSIONS and not name.startswith("."):
            return PurePosixPath("ICQA_2K", split_folder(split), name)
    return None


def weight_problem(path: Path) -> str:
    """Check a weight file by its size; return the problem, or ""."""
    expected = WEIGHT_BYTES[path.stem]
    if expected <= path.stat().st_size <= expected + _SLACK:
        return ""
    return f"{path} has {path.stat().st_size:,} bytes, expected {expected:,} to {expected + _SLACK:,}"


def is_there(target: Path) -> bool:
    """Return whether a file need not be downloaded: it is not empty, and weights have the right size."""
    if not target.is_file() or target.stat().st_size == 0:
        return False
    return target.parent.name != "weights" or not weight_problem(target)


def is_page(path: Path) -> bool:
    """Return whether a file is a web page, which Drive sends in place of a refused file."""
    with open(path, "rb") as file:
        return file.read(200).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def fetch(link: str, to: Path) -> list[str]:
    """Download the files of a Drive folder that are not here yet; return one line per refused file.

    Raises:
        ModuleNotFoundError: If gdown is not installed.
        OSError: If there is no connection or the disk is full.
        Refused: If the folder cannot be listed.
    """
    try:
        gdown = importlib.import_module("gdown")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('gdown is not installed; run: pip install "gdown>=5.2"') from error
    known = getattr(gdown, "exceptions", None)
    names = ("DownloadError", "FileURLRetrievalError", "FolderContentsMaximumLimitError")
    refusals = tuple(getattr(known, name) for name in names if hasattr(known, name))
    try:
        files = gdown.download_folder(url=link, output=str(to), quiet=True, skip_download=True)
    except refusals as error:
        raise Refused(f"Drive does not list {link} ({_one_line(error)}); {_BY_HAND}") from error
    if not files:
        raise Refused(f"Drive lists no file in {link}; {_BY_HAND}")

    wanted = {file.id: (file.path, _download_target(file.path, to)) for file in files}
    unknown = sorted(path for path, target in wanted.values() if target is None)
    if unknown:
        print(f"left out: {amount(len(unknown), 'file')} of other names, e.g. {printable(unknown[0])}")
    open_files = [(key, path, target) for key, (path, target) in wanted.items() if target is not None and not is_there(target)]
    print(f"{len(files)} files in the folder, {len(open_files)} to fetch")
    problems: list[str] = []
    in_a_row = 0
    for number, (key, path, target) in enumerate(open_files, start=1):
        if in_a_row == _MOST_REFUSALS:
            problems.append(f"{amount(len(open_files) - number + 1, 'file')} not asked for after that")
            break
        target.parent.mkdir(parents=True, exist_ok=True)
        print(f"{number} of {len(open_files)}: {printable(path)}")
        try:
            target.unlink(missing_ok=True)  # empty, or weights of a wrong size
            small = target.suffix in (*IMAGE_EXTENSIONS, ".txt", ".json")  # without a bar
            done = gdown.download(id=key, output=str(target), quiet=small, resume=True)
            if done is None or not target.is_file():
                raise Refused("no reason given")
            if is_page(target):
                target.unlink()
                raise Refused("a web page came in place of the file")
            in_a_row = 0
        except (Refused, *refusals) as error:
            in_a_row += 1
            problems.append(f"not fetched: {path} ({_one_line(error)})")
    for archive in sorted(target for _, target in wanted.values() if target is not None and _is_archive(target.name)):
        if archive.is_file():
            unpack(archive, to)
    return problems


def _one_line(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))
    if _QUOTA.search(text):
        return "Drive refuses it after too many downloads lately (quota); this ends within 24 hours"
    return text[:200] or type(error).__name__


def _is_archive(name: str) -> bool:
    return name.lower().endswith((*_ARCHIVES, *_FOREIGN))


def _download_target(path: str, to: Path) -> Path | None:
    if _is_archive(path):
        return to / "ICQA_2K" / "archives" / PurePosixPath(path).name
    target = place(path)
    return to / target if target is not None else None


def members(source: Path) -> Iterator[Member]:
    """Yield the files of a folder or an archive; paths in an archive start with a folder of its name.

    Raises:
        ValueError: If the archive is damaged or of an unknown kind.
        FileNotFoundError: If the source does not exist.
    """
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = f"{source.name}/{path.relative_to(source).as_posix()}"
            yield Member(name, path.stat().st_size, functools.partial(io.FileIO, path))
        return
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist; expected a folder, an archive ({', '.join(_ARCHIVES)}) or a link")
    if place(source.name) is not None:  # before archives, for weights are ZIP files too
        yield Member(source.name, source.stat().st_size, functools.partial(io.FileIO, source))
        return
    if source.name.lower().endswith(_FOREIGN):
        raise ValueError(f"{source} cannot be unpacked here; unpack it, and give the folder")
    stem = source.name.partition(".")[0]
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as packed:
                for entry in packed.infolist():
                    if not entry.is_dir():
                        yield Member(f"{stem}/{entry.filename}", entry.file_size, functools.partial(packed.open, entry))
        elif tarfile.is_tarfile(source):
            with tarfile.open(source) as tape:
                for item in tape:
                    if item.isfile():
                        yield Member(f"{stem}/{item.name}", item.size, functools.partial(tape.extractfile, item))
        else:
            raise ValueError(f"{source} is neither an archive ({', '.join(_ARCHIVES)}) nor a file of the authors by its name")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{source} is damaged ({error}); download it again") from error


def _copy(member: Member, file: IO[bytes]) -> None:
    content = member.open()
    assert content is not None  # of a tar file, None is what is no file
    with content:
        shutil.copyfileobj(content, file, 1 << 20)


def unpack(source: Path, to: Path) -> None:
    """Copy the files of a folder or an archive to their places; existing files of the same size stay."""
    copied = kept = 0
    unknown: list[str] = []
    for member in members(source):
        if source.is_dir() and _is_archive(member.path):
            unpack(source / PurePosixPath(member.path).relative_to(source.name), to)
            continue
        target = place(member.path)
        if target is None:
            unknown.append(member.path)
        elif (to / target).is_file() and (to / target).stat().st_size == member.size:
            kept += 1
        else:
            write_atomic(to / target, functools.partial(_copy, member))
            copied += 1
    print(f"{source}: {amount(copied, 'file')} put in place, {kept} there already")
    if unknown:
        print(f"left out: {amount(len(unknown), 'file')} of other names, e.g. {printable(unknown[0])}")


def check(to: Path) -> tuple[list[str], list[str]]:
    """Compare the files with those expected; return lines on what is right, and lines on what is not."""
    right: list[str] = []
    wrong: list[str] = []
    for dimension in DIMENSIONS:
        path = to / "weights" / f"{dimension}.pth"
        problem = weight_problem(path) if path.is_file() else f"{path} is missing"
        (wrong if problem else right).append(problem or f"{path}: {path.stat().st_size:,} bytes")
    root, images = to / "ICQA_2K", 0
    stems: set[str] = set()
    for split in SPLITS:
        absent = [path.name for d in DIMENSIONS if not (path := root / f"{split_folder(split)}_{d}_mos.json").is_file()]
        if absent:
            wrong.append(f"{root} lacks {', '.join(absent)}")
        try:
            frame = load_icqa2k(root, split)
        except (ValueError, OSError) as error:
            wrong.append(str(error))
            continue
        images += len(frame)
        stems |= {PurePosixPath(name).stem for name in frame["image"]}
        right.append(f"{root / split_folder(split)}: {amount(len(frame), 'image')} with MOS")
    if images != IMAGES:
        wrong.append(f"{root} holds {images:,} images with MOS in both splits, expected {IMAGES:,}")
    labels = {path.stem for path in (root / "labels").glob("*.txt")}
    if not labels:
        wrong.append(f"{root / 'labels'} has no label file; SCC of --preset published needs them")
    else:
        right.append(f"{root / 'labels'}: {amount(len(labels), 'label file')}; {len(stems - labels)} images have none")
    prior = root / "color_.json"
    try:
        json.loads(prior.read_text(encoding="utf-8-sig"))
        right.append(f"{prior}: read")
    except FileNotFoundError:
        wrong.append(f"{prior} is missing")
    except ValueError as error:
        wrong.append(f"{prior} is not JSON ({error})")
    if not (root / "pretrain").is_dir():
        right.append(
            f"{root / 'pretrain'} is not there: only for training of CF, which can start from others (docs/reproduce.md)"
        )
    return right, wrong


def main() -> None:
    args = parse_args()
    problems: list[str] = []
    try:
        for source in args.sources:
            if "://" in source:
                problems += fetch(source, args.to)
            else:
                unpack(Path(source), args.to)
    except Refused as error:
        raise SystemExit(f"error: {error}") from error
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: {error}") from error
    except (ValueError, OSError) as error:  # of requests too: its errors are of the system
        text = printable(" ".join(str(error).split()))[:300]
        raise SystemExit(f"error: {text}; what has arrived is kept, the same command goes on") from error
    right, wrong = check(args.to)
    for line in right:
        print(line)
    for line in (*problems, *wrong):
        print(line, file=sys.stderr)
    if problems:
        print(f"the same command fetches what is missing, now or tomorrow; or {_BY_HAND}", file=sys.stderr)
    if not wrong:
        print("complete; next: docs/reproduce.md, section 2")
    raise SystemExit(1 if problems or wrong else 0)


if __name__ == "__main__":
    main()
