"""The graph of the compact networks: the same scores as torch, without torch, and no graph of other weights."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.graph import GRAPH, Exported, Graph, GraphEngine
from inference.networks import Networks
from inference.resize import box_average, resize
from models import load_model
from models.preprocessing import Preprocess
from tools import export
from utils.checkpoint import read_checkpoint, seen_by
from utils.choices import DIMENSIONS, SHIPPED
from utils.files import sha256
from utils.images import list_images, read_rgb
from utils.scores import read_scores

REPO = Path(__file__).resolve().parents[1]
SAMPLES = REPO / "data" / "samples"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph()


def test_scores_are_those_of_torch(graph):
    networks = {d: load_model(d) for d in DIMENSIONS}
    engine, pr = Networks(networks, ["cpu"]), Networks({"PR": networks["PR"]}, ["cpu"])
    images = list_images(SAMPLES)
    for name in images.names[::13]:
        pixels = read_rgb(images.path(name))
        found, expected = graph.score(pixels), engine(pixels, name, {}).scores
        assert found == pytest.approx(expected, abs=1e-4)
        given = {"CF": 0.25, "SCC": -0.5}
        assert graph.score(pixels, ["PR"], given)["PR"] == pytest.approx(pr(pixels, name, given).scores["PR"], abs=1e-4)


def test_a_score_is_the_same_alone_with_others_from_a_file_and_from_an_image(graph, tmp_path):
    path = SAMPLES / list_images(SAMPLES).names[0]
    pixels = read_rgb(path)
    scores = graph.score(pixels)
    assert graph.score(path) == graph.score(Image.open(path)) == graph.score(str(path)) == scores
    assert {d: graph.score(pixels, [d])[d] for d in DIMENSIONS} == scores
    assert graph.score(pixels, ["PR"], {d: scores[d] for d in ("CF", "SCC")})["PR"] == scores["PR"]


@pytest.mark.parametrize(
    "shape", [(1, 1), (224, 224), (267, 400), (448, 600), (480, 640), (100, 1000), (897, 1001), (1350, 900), (33, 57)]
)
def test_resizing_gives_the_levels_of_torch(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    rgb = Preprocess(224)(torch.from_numpy(pixels).permute(2, 0, 1))["rgb"]
    expected = (rgb * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (resize(pixels, 224).astype(int) - expected == 0).mean() > 0.9999
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):  # whose arithmetic is followed to the bit
        assert (resize(pixels, 224) == expected).all()


def test_boxes_at_the_edge_are_averaged_over_the_pixels_they_have():
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    averages = box_average(pixels, 3)
    assert averages.shape == (2, 3, 3)
    assert averages[1, 2] == pytest.approx(pixels[3:, 6:].mean((0, 1)))
    assert averages[0, 1] == pytest.approx(pixels[:3, 3:6].mean((0, 1)))


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_graph_tells_of_a_checkpoint_what_the_checkpoint_tells(graph, dimension):
    branch, model = Exported(graph, dimension), load_model(dimension)
    assert branch.weights_hash == model.weights_hash == sha256(branch.source)
    assert branch.preprocessing() == model.preprocessing()
    assert branch.seen == seen_by(read_checkpoint(branch.source))


def test_a_missing_sub_score_is_an_error_of_pr_alone(graph):
    pixels = np.zeros((8, 8, 3), np.uint8)
    result = GraphEngine(graph, ["SCC", "PR"])(pixels, "x", {})
    assert result.errors == {"PR": "no CF score: it is not given"}
    assert result.scores.keys() == {"SCC"}


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_other_arrays_are_refused(graph, pixels):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(H, W, 3\)"):
        graph.score(pixels)


def test_a_stale_or_damaged_graph_is_refused_with_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no graph .*run python tools/export\.py .*--engine torch"):
        Graph(tmp_path / GRAPH.name)
    for path in (GRAPH, *SHIPPED.glob("*.pt")):
        shutil.copy(path, tmp_path)
    content = bytearray((tmp_path / "PR.pt").read_bytes())
    content[-1] ^= 1  # in the comment of the archive, or in its size
    (tmp_path / "PR.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"another PR\.pt than the one beside it; run python tools/export\.py"):
        Graph(tmp_path / GRAPH.name)
    (tmp_path / "PR.pt").unlink()
    (tmp_path / "SCC.pt").unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded .*run python tools/export\.py"):
        Graph(tmp_path / GRAPH.name)
    (tmp_path / GRAPH.name).write_bytes(gzip.compress(b"no graph"))
    with pytest.raises(ValueError, match=r"cannot be loaded .*run python tools/export\.py"):
        Graph(tmp_path / GRAPH.name)


def test_weights_and_graph_stay_within_40_mb():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 40_000_000


def test_a_folder_is_scored_without_torch_and_the_file_says_by_what(tmp_path, graph):
    names = list_images(SAMPLES).names[:3]
    for name in names:
        shutil.copy(SAMPLES / name, tmp_path)
    output = tmp_path / "pr.csv"
    code = (
        f"import sys, runpy, utils.interrupt\nsys.argv = ['infer_PR.py', {str(tmp_path)!r}, '-o', {str(output)!r}]\n"
        "utils.interrupt.leave = lambda status: print('status', status, [m for m in ('torch', 'timm', 'pandas', 'scipy') "
        "if m in sys.modules])\nrunpy.run_path('infer_PR.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("status 0 []\n"), done.stdout + done.stderr
    frame = read_scores(output)
    assert frame.attrs["meta"]["engine"] == "onnxruntime"
    for row in frame.to_dict("records"):
        assert {d: row[d] for d in DIMENSIONS} == graph.score(tmp_path / row["image"])


def test_a_score_file_is_not_continued_with_another_engine(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (40, 30), (200, 30, 60)).save(folder / "a.png")
    command = ["infer_CF.py", folder, "-o", tmp_path / "cf.csv"]
    assert run(*command).code == 0
    refused = run(*command, "--engine", "torch")
    assert refused.code == 1
    assert "engine was onnxruntime, is now torch; pass --engine onnxruntime to go on with it" in refused.err
    assert run(*command, "--engine", "torch", "--overwrite").code == 0
    assert "engine" not in json.loads((tmp_path / "cf.csv.json").read_text())  # as in files of before there were two
    assert "engine was torch, is now onnxruntime" in run(*command).err


@pytest.mark.parametrize(
    "options", [["--weights", "x.pt"], ["--preset", "published"], ["--device", "cuda"], ["--precision", "bfloat16"]]
)
def test_what_needs_torch_refuses_the_other_engine(run, tmp_path, options):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = run("infer_CF.py", tmp_path, "-o", tmp_path / "cf.csv", "--engine", "onnxruntime", *options)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "needs torch; leave out --engine onnxruntime" in done.err


def test_the_exported_form_of_the_networks_gives_their_scores(graph):
    """The graph is exported from networks whose prior works on rows; this is that form, run by torch."""
    networks = export.Together(export.load_branches(SHIPPED)).eval()
    pixels = read_rgb(SAMPLES / list_images(SAMPLES).names[0])
    with torch.inference_mode():
        values = networks(torch.from_numpy(resize(pixels, graph.size)), torch.full((2,), torch.nan))
    assert [float(value[0]) for value in values] == pytest.approx([graph.score(pixels)[d] for d in DIMENSIONS], abs=1e-5)


@pytest.mark.slow
def test_the_graph_can_be_made_again_from_the_checkpoints(tmp_path):
    for dimension in DIMENSIONS:
        shutil.copy(SHIPPED / f"{dimension}.pt", tmp_path)
    command = [sys.executable, REPO / "tools/export.py", "--weights-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pixels = read_rgb(SAMPLES / list_images(SAMPLES).names[0])
    assert Graph(tmp_path / GRAPH.name).score(pixels) == pytest.approx(Graph().score(pixels), abs=1e-5)
