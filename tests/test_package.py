"""The project where users already are: torch.hub, torchmetrics, an installed package."""

import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import icqa
from icqa import command
from icqa.judge import Judge
from inference.graph import Graph
from models import load_model
from utils.images import read_rgb

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted((ROOT / "data/samples").glob("*.jpg"))[:3]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return icqa.load()


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    pixels = [read_rgb(path)[:240, :240] for path in SAMPLES]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def test_scores_are_those_of_the_networks_to_the_digit(judge: Judge) -> None:
    scores = judge(SAMPLES)
    assert scores.shape == (3, 3)
    for column, dimension in enumerate(("CF", "SCC", "PR")):
        expected = [round(score, 6) for score in load_model(dimension).score(SAMPLES)]
        assert scores[:, column].tolist() == torch.tensor(expected).tolist()


def test_an_image_scores_the_same_in_every_form(judge: Judge, batch: torch.Tensor) -> None:
    alone = torch.cat([judge(image) for image in batch])
    assert torch.equal(judge(batch), alone)
    assert torch.equal(judge(batch / 255), alone)
    assert torch.equal(judge(list(batch.permute(0, 2, 3, 1).numpy())), alone)


def test_gradients_reach_the_image_and_change_no_score(judge: Judge, batch: torch.Tensor) -> None:
    rgb = (batch / 255).requires_grad_()
    scores = judge(rgb)
    scores[:, 2].sum().backward()
    assert (scores.detach() - judge(batch)).abs().max() < 1e-5
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()
    assert rgb.grad.abs().sum() > 0


def test_a_folder_has_a_row_per_image_and_names_what_it_cannot_read(judge: Judge, tmp_path: Path) -> None:
    for path in SAMPLES[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "A_torn.jpg").write_bytes(SAMPLES[0].read_bytes()[:200])
    with pytest.warns(UserWarning, match=r"A_torn\.jpg"):
        scores = judge(tmp_path)
    assert judge.names(tmp_path) == ["A_torn.jpg", *(path.name for path in SAMPLES[:2])]
    assert scores[0].isnan().all()
    assert torch.equal(scores[1:], judge(SAMPLES[:2]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dimensions": "XX"}, "expected dimensions from CF, SCC, PR, got XX"),
        ({"dimensions": ()}, "expected dimensions from CF, SCC, PR, got none"),
        ({"weights": {"colour": "x.pt"}}, "got colour"),
        ({"preset": "large"}, "preset must be compact or published"),
        ({"dimensions": "CF", "weights": {"CF": ROOT / "weights/SCC.pt"}}, "holds a SCC network, expected CF"),
    ],
)
def test_what_cannot_be_loaded_is_refused(arguments: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        icqa.load(**arguments)


def test_hub_loads_into_a_program_that_has_its_own_utils_and_models(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("mine = True\n")
    (tmp_path / "models.py").write_text("mine = True\n")
    program = f"""
import models, torch, utils
net = torch.hub.load({str(ROOT)!r}, "cf", source="local")
assert utils.mine and models.mine and net.lower_better is False and net.score_range == (-1.0, 1.0)
print(repr(net({str(SAMPLES[0])!r}).item()))
"""
    (tmp_path / "program.py").write_text(program)
    shown = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert float(shown.stdout) == pytest.approx(load_model("CF").score(SAMPLES[0]), abs=1e-6)


def measure_share(rank: int, folder: Path, batch: torch.Tensor, judge: Judge) -> None:
    """The metric of two processes, of which the first has two images and the second one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    metric = icqa.ColorizationQuality(judge=judge)
    metric.update(batch[:2] if rank == 0 else batch[2:])
    (folder / str(rank)).write_text(str({name: value.item() for name, value in metric.compute().items()}))
    dist.destroy_process_group()


def test_metric_of_two_processes_is_that_of_one(batch: torch.Tensor, judge: Judge, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    fork = multiprocessing.get_context("fork")
    shares = [fork.Process(target=measure_share, args=(rank, tmp_path, batch, judge)) for rank in (0, 1)]
    for process in shares:
        process.start()
    for process in shares:
        process.join(120)
    assert [process.exitcode for process in shares] == [0, 0]
    mean = judge(batch).double().mean(0).float().tolist()
    expected = str(dict(zip(("CF", "SCC", "PR"), mean, strict=True)))
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [expected, expected]


def test_metric_keeps_the_conventions_of_torchmetrics(batch: torch.Tensor, judge: Judge) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = icqa.ColorizationQuality(judge=judge)
    assert isinstance(metric, torchmetrics.Metric)
    assert metric.higher_is_better
    first = metric(batch[:1])  # forward gives the value of the batch
    metric.update(batch[1:])
    assert first["PR"] == judge(batch[:1])[0, 2]
    assert torch.allclose(torch.stack([*metric.compute().values()]), judge(batch).mean(0))
    metric.reset()
    assert metric.count == 0
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 3, H, W\), got \(3, 240, 240\)"):
        metric.update(batch[0])
    metric.update(batch)
    figure, _ = metric.plot()
    assert figure is not None


def test_the_graph_scores_with_the_lines_of_the_page_that_need_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/elsewhere.md").read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "onnxruntime" in block]
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(block, names)
    (path,) = re.findall(r'"(data/samples/[^"]+)"', block)
    assert names["scores"] == pytest.approx(Graph().score(path), abs=2e-3)
    assert len(block.splitlines()) <= 20


# --- An installed package


def requirements(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_requirements_of_the_package_are_those_of_the_files() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {*project["dependencies"], *extras["train"]} == requirements("requirements.txt")
    for name in set(extras) - {"train"}:
        assert set(extras[name]) == requirements(f"requirements-{name}.txt")


def test_the_command_names_scripts_and_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for arguments, text in ((["icqa"], "got nothing"), (["icqa", "rate"], "expected one of score, .*, got rate")):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit, match=text):
            command.main()
    monkeypatch.setattr(sys, "argv", ["icqa", "score", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    assert "Score Perceptual Realism" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setattr(sys, "argv", ["icqa", "evaluate", "--predictions", "a.csv", "--mos", "b.csv"])
    for name in [name for name in sys.modules if name.startswith("icqa.evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit, match=r"needs the package scipy\.optimize; pip install 'icqa\[train\]'"):
        command.main()


@pytest.mark.slow
def test_an_installed_wheel_scores_to_the_same_digits_without_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    tools = tmp_path / "fresh/bin"
    subprocess.run([tools / "pip", "install", "-q", *tmp_path.glob("*.whl")], check=True)
    images = tmp_path / "images"
    images.mkdir()
    for path in SAMPLES:
        (images / path.name).write_bytes(path.read_bytes())
    subprocess.run([tools / "icqa", "score", images, "-o", tmp_path / "a.csv"], check=True, cwd=tmp_path)
    subprocess.run([sys.executable, ROOT / "infer_PR.py", images, "-o", tmp_path / "b.csv"], check=True)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert subprocess.run([tools / "python", "-c", "import torch"], capture_output=True).returncode
