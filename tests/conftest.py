"""Made-up pictures with ratings, tiny networks of random weights, and a way to run scripts inside the test process."""

import contextlib
import csv
import io
import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import ChromaticFidelityNet, PerceptualRealismNet, SemanticConsistencyNet
from utils.checkpoint import save_checkpoint

torch.set_num_threads(1)  # tiny networks gain nothing from more, and lose much on a busy machine

REPO = Path(__file__).resolve().parents[1]
SCENES = [f"s{number}" for number in range(8)]
MOS = {"ORG": 0.8, "DULL": 0.2, "SWAP": -0.4, "STAIN": -0.7}  # by recoloring; a scene moves it a little
UNRATED = "DULL_s4.png"  # has no CF rating


@dataclass(frozen=True)
class Run:
    """What a script did."""

    code: int
    out: str
    err: str


def make_picture(seed: int, height: int, width: int) -> np.ndarray:
    """Soft colored blobs, uint8, shape (H, W, 3)."""
    blobs = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))


def recolor(original: np.ndarray, method: str) -> np.ndarray:
    picture = original.copy()
    if method == "DULL":
        picture = (0.4 * picture + 0.6 * picture.mean(2, keepdims=True)).astype(np.uint8)
    elif method == "SWAP":
        picture = np.roll(picture, 1, axis=2)
    elif method == "STAIN":
        picture[::9, ::4] = (255, 0, 90)
    return picture


def run_script(name: str, *arguments: object) -> Run:
    """Run a script of the repository in this process, as the shell would with these arguments.

    Its errors that end in a traceback come out as exceptions.
    """
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    sys.argv = [name, *map(str, arguments)]
    torch.set_num_threads(1)  # tiny networks gain nothing from more
    code: int | str | None = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(REPO / name), run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before[0]
        signal.signal(signal.SIGTERM, before[1])
        torch.set_num_threads(before[2])
    if isinstance(code, str):  # Python prints it and exits with 1
        return Run(1, out.getvalue(), f"{err.getvalue()}{code}\n")
    return Run(code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run() -> Callable[..., Run]:
    return run_script


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 8 scenes in 4 recolorings, 48 to 96 pixels large, beside the folder with the pictures."""
    root = tmp_path_factory.mktemp("rated")
    (root / "pictures").mkdir()
    with open(root / "table.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "scene", "method", "CF", "SCC", "PR"])
        for number, scene in enumerate(SCENES):
            original = make_picture(number, 48 + 6 * number, 96 - 5 * number)
            for method, mos in MOS.items():
                name = f"{method}_{scene}.png"
                Image.fromarray(recolor(original, method)).save(root / "pictures" / name)
                scores = [f"{mos + shift * (number - 4):.3f}" for shift in (0.02, -0.03, 0.01)]
                scores[0] = "" if name == UNRATED else scores[0]
                table.writerow([f"pictures/{name}", scene, method, *scores])
    return root / "table.csv"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each branch by dimension: tiny, random, not trained on any picture."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    for network in (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet):
        save_checkpoint(folder / f"{network.dimension}.pt", network("test_efficientnet", 64), metrics={"SRCC": 0.0})
    return {dimension: folder / f"{dimension}.pt" for dimension in ("CF", "SCC", "PR")}


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of readable pictures: nested, of odd names and sizes, two of one stem, one gray."""
    root = tmp_path_factory.mktemp("gallery")
    sizes = {
        "x.png": (64, 64),
        "x.jpg": (64, 64),
        "deep/er/1.png": (40, 90),
        "deep/er/10.png": (90, 40),
        "grün/日本 1.png": (200, 150),
        'a,b "c".png': (33, 77),
        "tiny.png": (3, 5),
        "NA.bmp": (50, 50),
    }
    for seed, (name, (height, width)) in enumerate(sizes.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(50 + seed, height, width)).save(root / name)
    gray = make_picture(99, 60, 70).mean(2).astype(np.uint8)
    Image.fromarray(gray).save(root / "gray.png")
    return root
