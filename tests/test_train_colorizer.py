"""The example that trains a colorizer on a score: the loss, its gradients, and the command on stand-in photographs."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import make_image
from PIL import Image

from examples import train_colorizer
from examples.train_colorizer import Judge, climb, colored, encode, guarded_loss, random_part, score_loss


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three made-up photographs, and a file that is none."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        Image.fromarray(make_image(number, 40, 48 + number)).save(root / f"ORG_{number}.jpg")
    (root / "broken.jpg").write_bytes(b"no image")
    return root


def images(count: int = 1) -> torch.Tensor:
    return torch.stack([torch.from_numpy(make_image(n, 56, 56).copy()).permute(2, 0, 1) / 255 for n in range(count)])


def test_the_judge_gives_the_scores_of_the_networks(judge):
    rgb = images()
    with torch.no_grad():
        cf, scc = judge.cf(rgb), judge.scc(rgb)
        pr = judge.pr(rgb, torch.stack((cf, scc), 1))
        torch.testing.assert_close(judge(rgb), torch.stack((cf, scc, pr), 1))


def test_a_guarded_loss_asks_nothing_of_an_image_that_equals_its_photograph(judge):
    rgb = images().requires_grad_()
    loss = guarded_loss(judge, rgb, rgb.detach(), torch.Generator().manual_seed(0))
    assert loss.item() == 0
    faded = (0.3 * images() + 0.7 * images().mean(1, keepdim=True)).requires_grad_()
    guarded_loss(judge, faded, images(), torch.Generator().manual_seed(0)).backward()
    assert faded.grad is not None
    assert faded.grad.isfinite().all()


def test_a_random_part_is_the_same_of_all_images():
    whole = torch.arange(400.0).reshape(1, 1, 20, 20)
    part = random_part(torch.cat((whole, whole + 1)), torch.Generator().manual_seed(3))
    assert 12 <= part.shape[-1] <= 20
    assert torch.equal(part[1], part[0] + 1)


def test_climbing_raises_the_score_of_a_gray_image(judge, folder):
    photographs = encode(judge, folder, ["ORG_0.jpg", "ORG_1.jpg"], False)
    assert photographs.lightness.shape == (2, 1, 224, 224)
    assert photographs.ab.shape == (2, 2, 56, 56)
    ab = climb(photographs, judge, "PR", 3)
    assert ab.isfinite().all()
    maps, lightness, _ = photographs.batch(torch.arange(2))
    with torch.no_grad():
        before, after = (score_loss(judge, colored(x, lightness), maps, "PR") for x in (torch.zeros_like(ab), ab))
    assert after < before


def test_copies_begin_alike_and_end_in_folders_that_the_table_takes(judge, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_colorizer, "SHOWN", folder)
    monkeypatch.setattr(train_colorizer, "Judge", lambda: judge)  # loads once
    arguments = f"{folder} --held-out {folder} --output {tmp_path} --weight 0 0.5 --start-steps 2 --steps 1 --direct-steps 1"
    monkeypatch.setattr("sys.argv", ["train_colorizer.py", *f"{arguments} --batch-size 2 --workers 1".split()])
    train_colorizer.main()
    assert "broken.jpg: is no image" in capsys.readouterr().out
    log = pd.read_csv(tmp_path / "log.csv")
    assert list(log["version"].unique()) == ["plain_0", "plain_0.5", "guarded_0.5"]
    start = log[log["step"] == 0].drop(columns=["version", "loss"])
    assert len(start.drop_duplicates()) == 1
    assert (log[log["step"] == 1]["error"] < 1.5 * start["error"].iloc[0]).all()
    assert log[log["step"] == 1]["PR"].nunique() == 3  # the losses differ
    table = pd.read_csv(tmp_path / "table.csv", index_col="version")
    assert table.drop(index="photographs").notna().all(axis=None)
    for name in table.index:
        assert [path.name for path in sorted((tmp_path / "held_out" / name).iterdir())] == [f"ORG_{n}.png" for n in range(3)]
    assert (tmp_path / "figure.jpg").is_file()


def test_a_folder_without_photographs_is_named(judge, tmp_path):
    Image.fromarray(make_image(0, 40, 40)).save(tmp_path / "only.png")
    with pytest.raises(SystemExit, match=r"holds 1 usable photographs of 1; expected at least 2"):
        encode(judge, tmp_path, ["only.png"], True)
