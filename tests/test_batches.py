"""Batches of many images: every image gets the score that it has alone, whatever else goes wrong."""

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_image

from inference import batches
from inference.batches import BatchedNetworks, PreparedImage
from inference.command import Branch, make_scorer, open_writer
from inference.networks import Networks
from inference.scorer import ImageResult, Scorer, score_images
from models import load_model
from models.base import ScoreNet
from models.published import NETWORKS, PublishedCF, PublishedPR, PublishedSCC
from utils.arguments import inference_parser
from utils.images import list_images, read_rgb
from utils.labels import LabelError
from utils.scores import read_scores

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
IMAGES = [make_image(seed, 40 + 20 * seed, 200 - 20 * seed).copy() for seed in range(8)]


@pytest.fixture(autouse=True)
def _settings_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def compact(weights: dict[str, Path]) -> dict[str, ScoreNet]:
    return {dimension: load_model(path) for dimension, path in weights.items()}


@pytest.fixture(scope="module")
def published() -> dict[str, ScoreNet]:
    torch.manual_seed(2)
    networks = (PublishedCF("vit_tiny_patch16_224"), PublishedSCC("resnet18"), PublishedPR("resnet18"))
    for net in networks[1:]:
        net.size = 64  # of a size that a test has time for
    return {net.dimension: net.requires_grad_(False).eval() for net in networks}


def scores(engine: BatchedNetworks, images: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Scores of images that are all there before the first batch."""
    prepared = [engine.prepare(image, "x", {}) for image in images]
    return [future.result().scores for future in [engine.submit(image) for image in prepared]]


def values(engine: BatchedNetworks, images: Sequence[np.ndarray], size: int) -> list[dict[str, float]]:
    """Scores of one batch, not rounded."""
    worker = engine.workers[0]
    return [result.scores for result in worker.score([engine.prepare(image, "x", {}) for image in images], size)]


class Labels:
    """Objects that cannot be read for an image called broken."""

    def objects(self, name: str) -> list:
        if name == "broken":
            raise LabelError("broken.txt: line 1 has no box")
        return []


# --- the same bits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", ["compact", "published"])
def test_a_score_is_the_same_alone_in_company_in_any_order_and_beside_any_padding(device, preset, request, monkeypatch):
    monkeypatch.setattr(batches, "round_score", float)
    size = 8 if preset == "compact" or device == "cuda" else 4
    images, engine = IMAGES[:size], BatchedNetworks(request.getfixturevalue(preset), [device], batch=size)
    together = values(engine, images, size)
    assert len({of_image["PR"] for of_image in together}) == size
    assert values(engine, images[::-1], size) == together[::-1]
    assert values(engine, [images[0]] * size, size) == [together[0]] * size
    assert values(engine, images[1:2], size) == together[1:2]

    def pad_with_ones(rows: torch.Tensor, size: int) -> torch.Tensor:
        return torch.cat((rows, rows.new_ones(size - len(rows), *rows.shape[1:])))

    monkeypatch.setattr(batches, "pad", pad_with_ones)
    assert values(engine, images[1:3], size) == together[1:3]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", ["compact", "published"])
def test_scores_are_those_of_one_image_at_a_time(device, preset, request):
    networks = request.getfixturevalue(preset)
    one_by_one = Networks(networks, [device])
    batched = scores(BatchedNetworks(networks, [device], batch=4), IMAGES[:4])
    for image, of_image in zip(IMAGES[:4], batched, strict=True):
        assert of_image == pytest.approx(one_by_one(image, "x", {}).scores, abs=1e-5)


@pytest.mark.gpu
@NO_GPU
def test_a_gpu_prepares_images_as_the_cpu_does(compact):
    on_gpu = copy.deepcopy(compact["CF"]).to("cuda")
    for image in [*IMAGES, make_image(7, 1500, 2000)]:
        rgb = torch.from_numpy(image).permute(2, 0, 1)
        change = (on_gpu.prepare(rgb)["rgb"].cpu() - compact["CF"].prepare(rgb)["rgb"]).abs() * 255
        assert change.max() < 1.01  # a value between two levels may go to either
        assert (change > 0).float().mean() < 0.01


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("tf32", 0.02), ("bfloat16", 0.05)])
def test_scores_of_a_gpu_are_near_those_of_the_cpu(precision, most):
    images = [read_rgb(path) for path in sorted(Path("data/samples").glob("*.jpg"))[:8]]
    cpu = Networks({dimension: load_model(dimension) for dimension in ("CF", "SCC", "PR")}, ["cpu"])
    expected = [cpu(image, "x", {}).scores for image in images]
    networks = {dimension: load_model(dimension) for dimension in ("CF", "SCC", "PR")}
    for network in networks.values():
        network.set_precision(precision)
    for of_image, wanted in zip(scores(BatchedNetworks(networks, ["cuda"]), images), expected, strict=True):
        assert of_image == pytest.approx(wanted, abs=most)


# --- errors, memory, several devices


def test_a_batch_that_does_not_fit_is_halved_and_every_image_has_its_score(compact, monkeypatch):
    engine = BatchedNetworks(compact, ["cpu"], batch=8)
    whole, sizes = [values(engine, [image], 1)[0] for image in IMAGES], []
    (worker,) = engine.workers
    score = worker.score

    def small_memory(images: list[PreparedImage], size: int) -> list[ImageResult]:
        sizes.append(size)
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(images, size)

    monkeypatch.setattr(worker, "score", small_memory)
    assert scores(engine, IMAGES) == whole
    assert (sizes[0], worker.batch) == (8, 1)
    assert set(sizes) == {8, 4, 1}


def test_an_image_for_which_there_is_no_memory_at_all_has_an_error_row(compact, tmp_path, gallery, monkeypatch):
    engine = BatchedNetworks({"CF": compact["CF"]}, ["cpu"], batch=4)

    def no_memory(*_: object) -> list[ImageResult]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.workers[0], "score", no_memory)
    assert Scorer(engine)(gallery / "x.png", {}).error == "x.png: OutOfMemoryError: CUDA out of memory"
    with monkeypatch.context() as patch:
        patch.setattr(compact["CF"], "prepare", no_memory)
        assert Scorer(engine)(gallery / "x.png", {}).error == "x.png: OutOfMemoryError: CUDA out of memory"


@pytest.mark.parametrize("error", [RuntimeError("broken"), AttributeError("our bug")])
def test_an_error_stays_with_the_image_that_causes_it(compact, monkeypatch, error):
    engine = BatchedNetworks(compact, ["cpu"], batch=8)
    whole = scores(engine, IMAGES)
    prepared = [engine.prepare(image, "x", {}) for image in IMAGES]
    (worker,) = engine.workers
    score = worker.score

    def broken(images: list[PreparedImage], size: int) -> list[ImageResult]:
        if prepared[2] in images:
            raise error
        return score(images, size)

    monkeypatch.setattr(worker, "score", broken)
    futures = [engine.submit(image) for image in prepared]
    assert futures[2].exception() is error
    assert [future.result().scores for future in futures if future is not futures[2]] == whole[:2] + whole[3:]


@pytest.mark.parametrize("order", [("broken", "fine"), ("fine", "broken")])
def test_an_image_whose_objects_cannot_be_read_has_the_errors_and_scores_that_it_has_alone(compact, order):
    engine = BatchedNetworks(compact, ["cpu"], Labels(), batch=4)
    futures = [engine(image, name, {}) for image, name in zip(IMAGES[:2], order, strict=True)]
    one_by_one = Networks(compact, ["cpu"], Labels())
    for image, name, future in zip(IMAGES[:2], order, futures, strict=True):
        result, alone = future.result(), one_by_one(image, name, {})
        assert result.errors == alone.errors
        assert result.scores == pytest.approx(alone.scores, abs=1e-5)


def test_pr_reads_the_scores_that_are_given_and_says_which_it_lacks(compact):
    engine = BatchedNetworks({"PR": compact["PR"]}, ["cpu"], batch=4)
    given = [{"CF": 0.5}, {"CF": 0.5, "SCC": -0.9}, {"CF": 0.5, "SCC": 0.9}]
    results = [future.result() for future in [engine(IMAGES[0], "x", known) for known in given]]
    assert results[0].errors == {"PR": "no SCC score: it is not given"}
    assert "PR" not in results[0].scores
    assert results[1].scores["PR"] != results[2].scores["PR"]


def test_a_folder_on_several_devices_has_the_rows_of_one_and_devices_share_the_images(compact, gallery, tmp_path):
    files, images = [], list_images(gallery)
    for number, devices in enumerate((["cpu"], ["cpu", "cpu"])):
        engine = BatchedNetworks(compact, devices, batch=4)
        branch = Branch(compact["CF"], tmp_path / f"{number}.csv", ["CF"], {"CF": "x"})
        with open_writer(branch, images) as writer:
            score_images(Scorer(engine, at_once=2), images, {"CF": writer}, workers=12)
        files.append(branch.path)
        used = {id(engine.prepare(IMAGES[0], "x", {}).worker) for _ in range(4)}
        assert len(used) == len(devices)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(read_scores(files[0])) == len(images.names)


def test_an_interruption_ends_at_once_and_keeps_the_rows(compact, gallery, tmp_path, monkeypatch):
    engine = BatchedNetworks({"CF": compact["CF"]}, ["cpu"], batch=1)
    branch = Branch(compact["CF"], tmp_path / "cf.csv", ["CF"], {"CF": "x"})
    images, start = list_images(gallery), time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_writer(branch, images) as writer:  # noqa: PT012
        add = writer.add

        def stop(*row: object) -> None:
            add(*row)
            raise KeyboardInterrupt

        monkeypatch.setattr(writer, "add", stop)
        score_images(Scorer(engine), images, {"CF": writer}, workers=4)
    assert time.monotonic() - start < 10
    assert len(read_scores(branch.path)) == 1


def test_only_so_many_images_are_read_at_a_time(compact, gallery, tmp_path):
    now, most, lock = 0, 0, threading.Lock()

    def read(path: Path) -> np.ndarray:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return read_rgb(path)

    images = list_images(gallery)
    branch = Branch(compact["CF"], tmp_path / "cf.csv", ["CF"], {"CF": "x"})
    with open_writer(branch, images) as writer:
        engine = BatchedNetworks({"CF": compact["CF"]}, ["cpu"], batch=4)
        score_images(Scorer(engine, read, at_once=2), images, {"CF": writer}, workers=8)
    assert most == 2


# --- precision


def test_compact_networks_in_bfloat16_share_their_backbone_and_score_nearly_the_same(compact):
    exact = scores(BatchedNetworks(compact, ["cpu"], batch=4), IMAGES[:3])
    rounded = copy.deepcopy(compact)
    for network in rounded.values():
        network.set_precision("bfloat16")
    for of_image, wanted in zip(scores(BatchedNetworks(rounded, ["cpu"], batch=4), IMAGES[:3]), exact, strict=True):
        assert of_image == pytest.approx(wanted, abs=0.05)
        assert of_image != wanted
    with pytest.raises(ValueError, match="load them again"):
        rounded["CF"].set_precision("float32")
    assert set(NETWORKS) == set(rounded)


def test_scripts_score_in_batches_on_gpus_and_one_by_one_on_the_cpu(compact, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(batches, "BatchedNetworks", lambda *arguments: made.append(arguments))
    branch = Branch(compact["CF"], tmp_path / "cf.csv", ["CF"], {"CF": "x"})
    args = inference_parser("", "CF").parse_args(["x", "--engine", "torch"])
    make_scorer(args, [branch], ["cuda:0", "cuda:1"])
    assert made == [({"CF": compact["CF"]}, ["cuda:0", "cuda:1"], None)]
    assert isinstance(make_scorer(args, [branch], ["cpu"]).engine, Networks)
