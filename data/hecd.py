"""HECD: ratings of how natural recolored photographs look, image by image.

Paper: Mullery and Whelan, "Human vs Objective Evaluation of Colourisation Performance", arXiv 2204.05200, 2022.
Files: https://github.com/seanmullery/HECD. Download them and print the counts (about 1,300 images):

    python data/hecd.py data/HECD
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

HECD_URL = "https://github.com/seanmullery/HECD"
HECD_COMMIT = "ae9d8810093ee63977aa1c40c17781c778f5beab"  # of 2023-11-11


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Download HECD and print the counts.")
    parser.add_argument("target", type=Path, help="folder for the dataset, for example data/HECD")
    parser.add_argument("--commit", help=f"full hash to fetch (default: {HECD_COMMIT}, of 2023-11-11)")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before the slow imports

import numpy as np
import pandas as pd

# The 990 z-scores we have (15 of the 20 scenes) lie in [-1.77, 1.34]. A fixed factor, unlike a fitted one, gives the
# same MOS for any set of scenes; values beyond +-1 are clipped.
MOS_PER_Z = 0.5

_RATINGS = "mean_zscores.csv"
_COLUMNS = ["image", "scene", "method", "kind", "CF", "SCC", "PR"]
_COLORIZERS = [
    "O",
    "L",
    "I",
    "Z",
    "P",
]  # DeOldify, Larsson et al., Iizuka et al., Zhang et al., Photoshop
_CF_KINDS = ["original", "B", "C", "D", "G", *_COLORIZERS]  # mean chroma, chroma spread, plane shift, segment chroma
_SCC_KINDS = ["original", "F", *_COLORIZERS]  # hue of one segment

# Scene, A if the base is the white-balanced photograph, then a modification, "_gt" or nothing.
_STEM = re.compile(r"(?P<scene>\d+)(?P<base>A?)(?:(?P<letter>[BCDFGOLIZP])_(?P<number>\d+)|(?P<original>_gt))?")


def load_hecd(root: Path | str) -> pd.DataFrame:
    """Read the HECD images with their ratings as a MOS table.

    People rated HECD for naturalness only, which is PR. The same rating stands in for CF where chroma or the color plane was
    changed, for SCC where the hue of a segment was changed, and for both in originals and outputs of colorizers.

    Args:
        root: Folder with ``mean_zscores.csv`` and the images, each directly in it or anywhere below.

    Returns:
        One row per rated image, sorted by ``image`` (relative to ``root``), with ``scene``, ``method`` ("original",
        "A" for the white-balanced original, else base, letter and number, such as "B_1", "AB_1", "Z_2"), ``kind``
        ("original" for both originals, else the letter B, C, D, F, G, O, L, I, Z or P), and ``CF``, ``SCC``, ``PR``:
        ``MOS_PER_Z`` times the mean z-score, in [-1, 1], higher is better, NaN where the dimension does not apply.
        Scenes without any image are left out, with one warning. ``attrs`` holds "root" and "name".

    Raises:
        FileNotFoundError: If the ratings, all images, or single images of a scene are missing.
        ValueError: If the ratings cannot be read as described.
    """
    root = Path(root)
    ratings = find_ratings(root)
    if ratings is None:
        raise FileNotFoundError(
            f"no {_RATINGS} in {root} or below; fetch HECD with: python data/hecd.py {root} (source: {HECD_URL})"
        )
    table = _read_ratings(ratings)
    files = _find_images(root, set(table["file"]))

    is_there = table["file"].isin(list(files))
    has_images = is_there.groupby(table["scene"]).transform("any")
    if not has_images.any():
        raise FileNotFoundError(
            f"none of the {len(table)} images listed in {ratings} lies in {root} or below, e.g. {table['file'].iloc[0]}"
        )
    missing = table.loc[has_images & ~is_there, "file"]
    if len(missing):
        count = "1 image is" if len(missing) == 1 else f"{len(missing)} images are"
        raise FileNotFoundError(
            f"{count} missing that {ratings} lists, e.g. {missing.iloc[0]}, though other images of "
            f"their scene lie in {root}; the copy is incomplete, fetch it again from {HECD_URL}"
        )
    if not has_images.all():
        absent = sorted(set(table.loc[~has_images, "scene"]))
        warnings.warn(
            f"HECD: {len(absent)} of {table['scene'].nunique()} scenes have no image in {root} "
            f"({', '.join(absent)}); their {(~has_images).sum()} rows are left out",
            stacklevel=2,
        )

    frame = table[has_images].copy()
    frame["image"] = frame["file"].map(files)
    mos = (MOS_PER_Z * frame["z"]).clip(-1.0, 1.0)
    frame["CF"] = mos.where(frame["kind"].isin(_CF_KINDS))
    frame["SCC"] = mos.where(frame["kind"].isin(_SCC_KINDS))
    frame["PR"] = mos
    frame = frame[_COLUMNS].sort_values("image", ignore_index=True)
    frame.attrs = {"root": str(root), "name": "HECD"}
    return frame


def find_ratings(root: Path) -> Path | None:
    """Return the path of the HECD ratings file in a folder, else below the folder; None if there is none.

    Raises:
        ValueError: If several folders below ``root`` have one.
    """
    if (root / _RATINGS).is_file():
        return root / _RATINGS
    copies = [path for path in _visible_files(root) if path.name == _RATINGS]
    if len(copies) > 1:
        raise ValueError(f"{root} holds {len(copies)} copies of HECD: {copies[0]}, {copies[1]}; give the folder of one")
    return copies[0] if copies else None


def download_hecd(target: Path | str, commit: str | None = None) -> Path:
    """Fetch HECD from GitHub with git, unless the folder already holds it.

    The commit that was fetched is recorded in ``target/COMMIT``.

    Args:
        target: Folder to create. A folder that already holds HECD is left as it is.
        commit: Full hash of the commit to fetch, 40 hexadecimal digits. None fetches ``HECD_COMMIT``, and accepts a folder that
            holds HECD at any commit.

    Returns:
        ``target``.

    Raises:
        ValueError: If ``commit`` is not a full hash, or the folder holds another or an unknown commit.
        FileExistsError: If the folder holds other files.
        RuntimeError: If git is missing or the fetch fails, as without a network.
    """
    target = Path(target)
    if commit is not None and not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ValueError(f"commit must be a full hash of 40 hexadecimal digits, got {commit!r}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        _check_present(target, commit)
        return target

    by_hand = f"get the files from {HECD_URL} in another way and put them in {target}"
    if shutil.which("git") is None:
        raise RuntimeError(f"git was not found, so {HECD_URL} cannot be fetched; install git, or {by_hand}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # The download is fetched beside the target and renamed when complete: an interrupted one is not taken for HECD.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".hecd-") as work:
        clone = Path(work) / "HECD"
        try:
            _git("init", "--quiet", str(clone))
            # A plain clone cannot ask for a commit.
            _git("-C", str(clone), "fetch", "--quiet", "--depth", "1", HECD_URL, commit or HECD_COMMIT)
            _git("-C", str(clone), "checkout", "--quiet", "--detach", "FETCH_HEAD")
            fetched = _git("-C", str(clone), "rev-parse", "HEAD")
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.split()) or f"git exited with status {error.returncode}"
            raise RuntimeError(
                f"fetching {HECD_URL} failed ({reason}); check the network and the commit, or {by_hand}"
            ) from error
        (clone / "COMMIT").write_text(fetched + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()  # empty, as checked above; Windows does not rename onto it
        clone.rename(target)
    return target


def _check_present(target: Path, commit: str | None) -> None:
    """Check that a folder with something in it holds HECD, at the commit that was asked for, if any."""
    if not target.is_dir() or find_ratings(target) is None:
        raise FileExistsError(f"{target} exists but holds no {_RATINGS}; give another folder, or empty this one")
    recorded = _recorded_commit(target)
    if commit is not None and commit != recorded:
        raise ValueError(
            f"{target} holds HECD at {recorded or 'an unknown commit (no file COMMIT)'}, asked for {commit}; "
            "give another folder, or remove this one to fetch again"
        )


def _recorded_commit(target: Path) -> str | None:
    record = target / "COMMIT"
    return record.read_text(encoding="utf-8").strip() if record.is_file() else None


def _git(*arguments: str) -> str:
    # Without this variable git would wait for a user name if the repository were gone.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(["git", *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _visible_files(root: Path) -> list[Path]:
    """Return all files below a folder, sorted, without those in hidden folders such as ``.git``."""
    hidden = [path for path in root.rglob(".*") if path.is_dir()]
    return sorted(path for path in root.rglob("*") if path.is_file() and not any(folder in path.parents for folder in hidden))


def _read_ratings(path: Path) -> pd.DataFrame:
    """Read ``mean_zscores.csv`` into the columns file, scene, method, kind and z."""
    try:
        raw = pd.read_csv(path, dtype=str, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file ({error}); fetch it again from {HECD_URL}") from error
    expected = {"Recolour File", "Mean zScore"}
    if not expected <= set(raw.columns) or raw.empty:
        raise ValueError(f"{path} must have rows and the columns {sorted(expected)}, got {list(raw.columns)}")

    names = raw["Recolour File"].fillna("").str.strip()
    if names.duplicated().any():
        repeated = names[names.duplicated()]
        raise ValueError(f"{path} rates {repeated.nunique()} images more than once, e.g. {repeated.iloc[0]!r}")
    z = pd.to_numeric(raw["Mean zScore"], errors="coerce").astype(float)
    if not np.isfinite(z).all():
        first = int(np.flatnonzero(~np.isfinite(z))[0])
        raise ValueError(f"{path} gives {names[first]} the z-score {raw['Mean zScore'][first]!r}, expected a number")
    rows = [(name, *_parse_name(name, path), score) for name, score in zip(names, z, strict=True)]
    return pd.DataFrame(rows, columns=["file", "scene", "method", "kind", "z"])


def _parse_name(name: str, listed_in: Path) -> tuple[str, str, str]:
    """Return scene, method and kind of a file name such as ``015004AB_1.jpg``."""
    match = _STEM.fullmatch(Path(name).stem)
    if match is None or (match["original"] and match["base"]):
        raise ValueError(
            f"{listed_in} lists {name!r}; expected names such as 015004_gt.jpg, 015004A.jpg, 015004B_1.jpg or 015004AB_1.jpg"
        )
    if match["letter"]:
        return match["scene"], f"{match['base']}{match['letter']}_{match['number']}", match["letter"]
    return match["scene"], match["base"] or "original", "original"


def _find_images(root: Path, names: set[str]) -> dict[str, str]:
    """Return the paths, relative to ``root`` and with forward slashes, of the named files in ``root`` and below, by name."""
    paths: dict[str, Path] = {}
    for path in _visible_files(root):
        if path.name not in names:
            continue
        first = paths.setdefault(path.name, path)
        if first != path and first.read_bytes() != path.read_bytes():
            raise ValueError(f"{root} holds two different images named {path.name}: {first}, {path}; remove one")
    return {name: path.relative_to(root).as_posix() for name, path in paths.items()}


def main() -> None:
    args = parse_args()
    try:
        frame = load_hecd(download_hecd(args.target, args.commit))
    except (RuntimeError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    rated = ", ".join(f"{dimension} {frame[dimension].notna().sum()}" for dimension in ("CF", "SCC", "PR"))
    commit, scenes = _recorded_commit(args.target) or "unknown", frame["scene"].nunique()
    print(f"HECD in {args.target}, commit {commit}: {len(frame)} images of {scenes} scene{'s' * (scenes != 1)}; {rated}")


if __name__ == "__main__":
    main()
