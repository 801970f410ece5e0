"""Made-up images with ratings, tiny networks of random weights, and a way to run scripts inside the test process."""

import one_thread  # noqa: F401

# isort: split

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
from models.base import ScoreNet
from models.object_prior import ALL, Evidence, ObjectPrior, measure, observe
from utils.checkpoint import save_checkpoint

REPO = Path(__file__).resolve().parents[1]
SCENES = [f"s{number}" for number in range(8)]
MOS = {"ORG": 0.8, "DULL": 0.2, "SWAP": -0.4, "STAIN": -0.7}  # by recoloring; a scene moves it a little
UNRATED = "DULL_s4.png"  # has no CF rating
CAR, BROCCOLI = 2, 50  # of COCO-80


@dataclass(frozen=True)
class Run:
    """What a script did."""

    code: int
    out: str
    err: str


def make_image(seed: int, height: int, width: int) -> np.ndarray:
    """Soft colored blobs, uint8, shape (H, W, 3)."""
    blobs = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))


def recolor(original: np.ndarray, method: str) -> np.ndarray:
    image = original.copy()
    if method == "DULL":
        image = (0.4 * image + 0.6 * image.mean(2, keepdims=True)).astype(np.uint8)
    elif method == "SWAP":
        image = np.roll(image, 1, axis=2)
    elif method == "STAIN":
        image[::9, ::4] = (255, 0, 90)
    return image


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


def stop_after(patch: pytest.MonkeyPatch, steps: int, network: type[ScoreNet] = ScoreNet) -> None:
    """Ctrl-C in the middle of an epoch, after so many optimizer steps of a kind of network."""
    real, count = network.loss, iter(range(1 << 30))

    def loss(*values: object) -> torch.Tensor:
        if next(count) == steps:
            raise KeyboardInterrupt
        return real(*values)

    patch.setattr(network, "loss", loss)


@pytest.fixture(scope="session")
def run() -> Callable[..., Run]:
    return run_script


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 8 scenes in 4 recolorings, 48 to 96 pixels large, beside the folder with the images."""
    root = tmp_path_factory.mktemp("rated")
    (root / "images").mkdir()
    with open(root / "table.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "scene", "method", "CF", "SCC", "PR"])
        for number, scene in enumerate(SCENES):
            original = make_image(number, 48 + 6 * number, 96 - 5 * number)
            for method, mos in MOS.items():
                name = f"{method}_{scene}.png"
                Image.fromarray(recolor(original, method)).save(root / "images" / name)
                scores = [f"{mos + shift * (number - 4):.3f}" for shift in (0.02, -0.03, 0.01)]
                scores[0] = "" if name == UNRATED else scores[0]
                table.writerow([f"images/{name}", scene, method, *scores])
    return root / "table.csv"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each branch by dimension: tiny, random, not trained on any image."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    for network in (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet):
        save_checkpoint(folder / f"{network.dimension}.pt", network("test_efficientnet", 64), metrics={"SRCC": 0.0})
    return {dimension: folder / f"{dimension}.pt" for dimension in ("CF", "SCC", "PR")}


@pytest.fixture(scope="session")
def object_prior() -> ObjectPrior:
    """What made-up images say of cars, which have any color, and of broccoli, which is green."""
    rng, things = np.random.default_rng(0), []
    for number in range(24):
        hue, chroma = (rng.uniform(0, 6.3), rng.uniform(5, 50)) if number % 2 else (rng.normal(2.1, 0.1), rng.uniform(25, 45))
        lab = rng.normal((rng.uniform(30, 70), chroma * np.cos(hue), chroma * np.sin(hue)), 4, (9, 9, 3))
        things.append((CAR if number % 2 else BROCCOLI, observe(torch.from_numpy(lab).permute(2, 0, 1), np.ones((9, 9), bool))))
    evidence = Evidence()
    for thing in things:
        evidence.add([thing])
    others = [evidence.without([thing]) for thing in things]
    values = [measure(seen, rest.expectation(category)) for (category, seen), rest in zip(things, others, strict=True)]
    of_any = [measure(seen, rest.expectation(ALL)) for (_, seen), rest in zip(things, others, strict=True)]
    categories = np.array([category for category, _ in things])
    return ObjectPrior.fit(evidence, categories, np.array(values), np.array(of_any), {"from": "made up"})


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 14 photographs in color, four of them in a folder of their own."""
    root = tmp_path_factory.mktemp("photos")
    (root / "street").mkdir()
    for number in range(14):
        folder = root / "street" if number % 4 == 3 or number == 0 else root
        Image.fromarray(make_image(200 + number, 50 + 3 * number, 90 - 2 * number)).save(folder / f"p{number:02}.png")
    return root


@pytest.fixture(scope="session")
def color_prior(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A color prior of a tiny backbone, trained on the photographs by the script."""
    output = tmp_path_factory.mktemp("prior")
    network = ["--backbone", "test_efficientnet", "--random-init", "--size", 64, "--width", 16, "--dropout", 0.2]
    quick = ["--epochs", 1, "--views", 2, "--batch-size", 4, "--workers", 0, "--device", "cpu"]
    done = run_script("tools/train_color_prior.py", photos, "--output", output, *network, *quick)
    assert done.code == 0, done.err
    return output / "best.pt"


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of readable images: nested, of odd names and sizes, two of one stem, one gray."""
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
        Image.fromarray(make_image(50 + seed, height, width)).save(root / name)
    gray = make_image(99, 60, 70).mean(2).astype(np.uint8)
    Image.fromarray(gray).save(root / "gray.png")
    return root


def drawn_scenes(scenes: int, resamples: int, seed: int) -> list[list[int]]:
    """The scenes of each row of ``Resamples``, one after another: those drawn, then all but one."""
    draws = np.random.default_rng(seed).integers(0, scenes, (resamples, scenes)).tolist()
    return [*draws, *([k for k in range(scenes) if k != left_out] for left_out in range(scenes))]
