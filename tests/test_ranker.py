"""The ranker, the colorings that it is trained on, and branches that take it over."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_ranker
from data.recolor import to_lab
from models import ChromaticFidelityNet, load_model
from models.color_prior import ab_bins
from models.ranker import Ranker, read_ranker
from tools.make_colorizations import enlarged, noise_over_modes
from training import colorings
from training.colorings import Batch, batch_of, read_colorings, view_of
from utils.checkpoint import read_weights, save_checkpoint

BACKBONE = "test_efficientnet"


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> list[Path]:
    """Photographs with planted faults, and the same photographs with outputs of a colorizer that makes all brown."""
    root = tmp_path_factory.mktemp("colorings")
    planted, outputs = root / "planted", root / "outputs"
    rows, index = ["image,scene,method,CF,SCC,PR"], ["image,scene,method"]
    for folder in (planted, outputs):
        folder.mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(20, 236, (4, 5, 3), np.uint8))
        photograph = np.asarray(small.resize((80, 64), Image.Resampling.BICUBIC))
        gray = photograph.mean(2, keepdims=True)
        brown = (gray * np.array((1.1, 1.0, 0.8))).clip(0, 255).astype(np.uint8)
        for folder, name, image in (
            (planted, "original", photograph),
            (planted, "hue", photograph[..., ::-1]),
            (outputs, "original", photograph),
            (outputs, "brown", brown),
        ):
            Image.fromarray(image).save(folder / f"{name}_{number}.png")
        rows += [f"original_{number}.png,{number},original,0.8,0.8,0.8", f"hue_{number}.png,{number},hue,0.6,-0.4,-0.2"]
        index += [f"original_{number}.png,{number},original", f"brown_{number}.png,{number},brown"]
    (planted / "table.csv").write_text("\n".join(rows) + "\n")
    (outputs / "index.csv").write_text("\n".join(index) + "\n")
    return [planted / "table.csv", outputs / "index.csv"]


def batch(levels: list[list[float]], worse: list[bool], photograph: list[bool], scene: list[int]) -> Batch:
    count = len(levels)
    family = torch.zeros(count, dtype=torch.int64)
    known = (torch.tensor(levels), torch.tensor(worse), torch.tensor(photograph))
    return Batch(torch.zeros(count, 3, 8, 8), *known, family, torch.tensor(scene), torch.tensor([[0, 0]]))


def test_tables_of_the_same_photographs_are_one_source(tables):
    sources = read_colorings(tables)
    assert len(sources) == 1
    (scenes,) = sources.values()
    assert sorted(scenes) == list("012345")
    assert [len(scene.photographs) for scene in scenes.values()] == [2] * 6
    assert sorted(c.worse for c in scenes["0"].colorings) == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,scene\na.png,1\n", "has no column method"),
        ("image,scene,method\nmissing.png,1,original\n", "line 2: no image"),
        ("image,scene,method\noriginal_0.png,1,original\n", "has no scene with a photograph"),
        ("image,scene,method,CF,SCC,PR\noriginal_0.png,1,hue,x,0,0\n", "line 2: CF"),
    ],
)
def test_a_table_that_cannot_be_ranked_is_refused(tables, text, message):
    path = tables[1].parent / "wrong.csv"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_colorings([path])


def test_a_view_holds_the_photograph_first_and_a_twin_last(tables):
    (scenes,) = read_colorings(tables).values()
    views = [view_of(scenes[str(k % 6)], 5, 32, np.random.default_rng(k)) for k in range(12)]
    made = batch_of(views)
    assert made.rgb.shape[1:] == (3, 32, 32)
    assert made.rgb.min() >= 0
    assert made.rgb.max() <= 1
    starts = torch.tensor([int((made.scene == s).nonzero()[0]) for s in range(12)])
    assert made.photograph[starts].all()
    assert torch.equal(made.levels[starts], torch.full((12, 3), colorings.TOP))
    for first, second in made.twins.tolist():
        assert made.scene[first] == made.scene[second]
        torch.testing.assert_close(made.levels[first], made.levels[second], equal_nan=True)
        assert (made.rgb[first] - made.rgb[second]).abs().mean() < 0.12  # the same image, differently encoded
    again = batch_of([view_of(scenes["0"], 5, 32, np.random.default_rng(0))])
    assert torch.equal(again.rgb, made.rgb[: len(again.rgb)])


def test_the_loss_falls_as_the_better_image_ranks_higher_and_ignores_what_is_not_known():
    nan = [math.nan] * 3
    shown = batch([[0.8] * 3, [0.2, 0.7, 0.1], nan], [False, False, True], [True, False, False], [0, 0, 0])
    right = torch.tensor([[2.0] * 3, [0.0] * 3, [-1.0] * 3])
    assert train_ranker.ranking_loss(right, shown) < train_ranker.ranking_loss(-right, shown)
    # the planted fault and the output are not comparable
    swapped = right[[0, 2, 1]]
    torch.testing.assert_close(train_ranker.ranking_loss(right, shown), train_ranker.ranking_loss(swapped, shown))
    # by hand: CF, two pairs with the photograph, differences 2 and 3; weights 1, 0.5 and 1.5
    expected = 3 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 2
    assert train_ranker.ranking_loss(right, shown).item() == pytest.approx(expected, abs=1e-5)


def test_a_close_pair_of_two_scenes_says_nothing_and_twins_should_agree():
    shown = batch([[0.3] * 3, [0.0] * 3], [False, False], [False, False], [0, 1])
    assert train_ranker.ranking_loss(torch.tensor([[0.0] * 3, [5.0] * 3]), shown).item() == 0
    twins = Batch(**{**vars(shown), "twins": torch.tensor([[0, 1]])})
    loss = train_ranker.ranking_loss(torch.tensor([[0.0] * 3, [2.0] * 3]), twins).item()
    assert loss == pytest.approx(4 * train_ranker.TWINS)


def test_an_outputs_chroma_can_be_brought_to_any_amount(tables):
    (scenes,) = read_colorings(tables).values()
    output = next(c for c in scenes["1"].colorings if c.worse)
    view = colorings._View(48, np.random.default_rng(1))
    colorings.put_two_chromas(view, output, reference=12.0)
    assert len(view.pixels) == 2
    assert [labels[1] for labels in view.labels] == [True, True]
    chroma = [np.hypot(*to_lab(pixels)[1:]).mean() for pixels in view.pixels]
    level = [labels[0][2] for labels in view.labels]
    distance = [abs(math.log2(c / 12)) for c in chroma]
    assert np.argmax(level) == np.argmin(distance)


def test_the_script_gives_a_ranker_that_branches_take_over(run, tables, tmp_path):
    tiny = ["--backbone", BACKBONE, "--random-init", "--size", 64, "--train-size", 32, "--device", "cpu"]
    command = ["train_ranker.py", "--data", *tables, "--output", tmp_path / "r", "--steps", 2, "--scenes", 2, *tiny]
    done = run(*command)
    assert done.code == 0, done.err
    with pytest.raises(ValueError, match="holds an earlier run"):
        run(*command)
    config, tensors = read_ranker(tmp_path / "r" / "best.pt")
    ranker = Ranker(BACKBONE, 64)
    ranker.load_state_dict(tensors)
    ranks = ranker.eval()(torch.rand(2, 3, 64, 64))
    assert ranks.shape == (2, 3)
    assert ranks.abs().max() < 2
    assert (config["backbone"], config["size"]) == (BACKBONE, 64)

    branch = ["train_CF.py", "--data", tables[0], "--output", tmp_path / "cf", "--epochs", 1, "--workers", 0]
    branch += ["--device", "cpu", "--backbone", BACKBONE, "--random-init", "--ranker", tmp_path / "r" / "best.pt"]
    done = run(*branch, "--size", 64)
    assert done.code == 0, done.err
    assert "ranker: " in done.out
    loaded = load_model(tmp_path / "cf" / "best.pt")
    assert loaded.config["ranking"] > 0
    assert all(torch.equal(v, tensors[k]) for k, v in loaded.ranker.state_dict().items())
    assert read_ranker(tmp_path / "cf" / "best.pt")[1].keys() == tensors.keys()
    sizes, _ = loaded.seen
    ours = tables[0].parent.glob("*.png")
    assert {path.stat().st_size for path in ours} >= sizes  # of the ranker: only sources that scripts of ours did not make
    assert read_weights(tmp_path / "r" / "best.pt")["seen"].shape == (0, 2)
    with pytest.raises(ValueError, match=r"--ranker .* has a ranker of --size 64, not 32"):
        run(*branch, "--overwrite", "--size", 32)


def test_a_branch_keeps_its_ranker_or_takes_another_one(tmp_path):
    torch.manual_seed(0)
    bare, ranked = (ChromaticFidelityNet(BACKBONE, 64, ranking=ranking).eval() for ranking in (0.0, 0.4))
    rgb = torch.rand(3, 64, 64)
    before = bare.score(rgb)
    save_checkpoint(tmp_path / "ranked.pt", ranked)
    save_checkpoint(tmp_path / "bare.pt", bare)
    bare.take_ranker(tmp_path / "ranked.pt", 0.2)
    assert bare.config["ranking"] == 0.2
    assert bare.score(rgb) != before
    bare.take_ranker(None)
    assert bare.config["ranking"] == 0
    assert bare.score(rgb) == before
    with pytest.raises(ValueError, match=r"bare\.pt has no ranker"):
        ranked.take_ranker(tmp_path / "bare.pt", 0.2)


@pytest.mark.parametrize(("backbone", "size"), [("vit_small_patch14_dinov2", 56), ("vit_base_patch16_clip_224", 32)])
def test_larger_backbones_rank_too(backbone, size):
    """Random weights; those of the hub are for whoever can reach it."""
    torch.manual_seed(0)
    ranks = Ranker(backbone, size, width=8).eval()(torch.rand(2, 3, size, size))
    assert ranks.shape == (2, 3)
    assert torch.isfinite(ranks).all()
    assert not torch.equal(ranks[0], ranks[1])


def test_training_compares_what_the_head_alone_says():
    torch.manual_seed(0)
    net = ChromaticFidelityNet(BACKBONE, 64, dropout=0.0, ranking=0.5)
    features = {"rank": torch.tensor([1.0, -1.0])}
    value = torch.tensor([0.1, 0.1])
    torch.testing.assert_close(net.train().bounded(value, features), value.tanh())
    torch.testing.assert_close(net.eval().bounded(value, features), torch.tensor([0.6, -0.4]).tanh())


def test_the_rank_is_added_to_what_the_head_says(tmp_path):
    torch.manual_seed(0)
    net = ChromaticFidelityNet(BACKBONE, 64, ranking=0.5).eval()
    rgb = torch.rand(3, 64, 64)
    with torch.no_grad():
        rank = net.ranker(net.prepare(rgb)["rgb"][None])[0, 0].item()
        with_rank = math.atanh(net.score(rgb))
        net.config["ranking"] = 0.0
        without = math.atanh(net.score(rgb))
    assert with_rank - without == pytest.approx(0.5 * rank, abs=1e-4)
    net.config["ranking"] = 0.5
    save_checkpoint(tmp_path / "cf.pt", net)
    assert load_model(tmp_path / "cf.pt").score(rgb) == net.score(rgb)


def test_noise_over_modes_is_smooth_in_place_and_color():
    centers = ab_bins()[0]
    noise = noise_over_modes(centers, 28, 8.0, np.random.default_rng(0))
    assert noise.shape == (len(centers), 28, 28)
    assert 0.3 < noise.std() < 2
    near, far = ((noise - torch.roll(noise, shift, 2)).abs()[..., 14:].mean() for shift in (1, 12))
    assert near < 0.5 * far


def test_color_enlarged_along_edges_steps_where_lightness_does():
    lightness = np.full((224, 224), 20, np.float32)
    lightness[:, 112:] = 80
    ab = torch.zeros(2, 28, 28)
    ab[0, :, 14:] = 40
    plain, guided = (enlarged(ab, lightness, along)[0] for along in (False, True))
    assert abs(guided - plain).mean() < 1
    steps = [color[:, 112] - color[:, 111] for color in (plain, guided)]
    assert steps[1].mean() > 3 * steps[0].mean() > 0
