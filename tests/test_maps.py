"""Maps of surprise: their scale, what they say of colors in words, and their files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_image
from PIL import Image
from skimage.color import rgb2lab

from inference import maps
from inference.maps import check_maps, difference, draw_map, find, heat, heat_colors, panels, scale_colors, surprising_region
from models import load_model
from models.color_prior import ColorPriorNet, Surprise
from models.object_prior import ALL, MEASURES, Evidence, ObjectPrior, measure, observe
from utils.images import list_images
from utils.labels import COCO_NAMES, LabeledObject

with np.printoptions():  # it changes how NumPy writes numbers, and so tables of pandas
    import colour

STOP_SIGN, CAR = COCO_NAMES.index("stop sign"), COCO_NAMES.index("car")
LEFT = LabeledObject(STOP_SIGN, (0.25, 0.5, 0.5, 1), np.array([(0, 0), (0.5, 0), (0.5, 1), (0, 1)], float))
SPECK = LabeledObject(CAR, (0.5, 0.5, 0.001, 0.001))


def flat(percentile: float = 20, ab: tuple[float, float] = (5, 10), side: int = 8) -> Surprise:
    """The same surprise and the same expected color everywhere."""
    expected = np.broadcast_to(np.array(ab, np.float32)[:, None, None], (2, side, side)).copy()
    return Surprise(np.full((side, side), 3.0, np.float32), np.full((side, side), percentile, np.float32), expected)


@pytest.fixture
def net() -> ColorPriorNet:
    """A color prior that expects a little yellow and finds the left half of any image surprising."""
    net = ColorPriorNet("test_efficientnet", 64).eval()
    surprise = flat()
    surprise.percentile[:, :4] = 98
    net.surprise = lambda image: surprise
    return net


def two_halves(height: int = 40, width: int = 60) -> np.ndarray:
    """Green on the left and gray on the right."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[:, : width // 2] = (30, 160, 60)
    return pixels


def red_signs() -> ObjectPrior:
    """What 40 red stop signs teach."""
    rng = np.random.default_rng(0)
    evidence, signs = Evidence(), []
    for _ in range(40):
        color = np.array((45, 50, 35)) + rng.normal(0, 6, 3)
        lab = torch.from_numpy(color[:, None, None] + rng.normal(0, 4, (3, 12, 12))).float()
        signs.append(observe(lab, np.ones((12, 12), bool)))
        evidence.add([(STOP_SIGN, signs[-1])])
    values = np.array([measure(sign, evidence.expectation(STOP_SIGN)) for sign in signs])
    of_any = np.array([measure(sign, evidence.expectation(ALL)) for sign in signs])
    return ObjectPrior.fit(evidence, np.full(40, STOP_SIGN), values, of_any)


# --- scale


def test_the_scale_goes_by_how_rare_a_percentile_is():
    assert maps.rarity(np.array([0, 90, 99, 100])) == pytest.approx([0, 1, 2, 3])
    assert heat(np.array([0, 50, 75, 99, 100])) == pytest.approx([0, 0, 0, 1, 1])
    assert heat(np.array([95.0])) == pytest.approx(0.5, abs=1e-3)  # 5 % is half way from 25 % to 1 %: 5 / 25 = 1 / 5
    places = dict(maps.scale_positions())
    assert (places[50], places[99]) == (0, 1)
    assert list(places.values()) == sorted(places.values())


def test_equal_steps_of_heat_are_about_equal_steps_to_the_eye():
    rgb = heat_colors(np.linspace(0, 1, 15))[:, :3]
    steps = np.linalg.norm(np.diff(colour.XYZ_to_CAM02UCS(colour.sRGB_to_XYZ(rgb)), axis=0), axis=1)
    assert steps.max() < 1.15 * steps.min()
    assert (np.diff(rgb2lab(rgb)[:, 0]) > 0).all()  # and brighter is more for those who see no color


def test_a_place_below_the_75th_percentile_shows_the_dimmed_gray_image():
    assert heat_colors(np.array([0.0]))[0, 3] == 0
    colors = scale_colors(100)
    below = dict(maps.scale_positions())[75]
    assert np.ptp(colors[: int(99 * below)], axis=1).max() == 0
    assert np.ptp(colors[-1]) > 0.3


# --- words


@pytest.mark.parametrize(
    ("observed", "expected", "words"),
    [
        ((50, 0, -40), (0, 2), "bluer and more colorful"),
        ((50, 30, -40), (-20, 25), "bluer, redder and more colorful"),
        ((50, -20, 20), (20, 20), "greener"),
        ((50, 2, 2), (-20, 25), "duller"),  # gray is not called red
        ((50, 40, 40), (20, 20), "more colorful"),  # of the same hue
        ((50, 11, 10), (10, 10), ""),
        ((50, 2, -1), (0, 2), ""),
    ],
)
def test_colors_differ_in_words_as_their_numbers_do(observed, expected, words):
    assert difference(observed, expected) == words


def test_a_percentage_is_never_more_than_is_known():
    assert [maps.in_percent(p) for p in (0.4, 98.99, 99.97, 100)] == ["0 %", "98 %", "99 %", "99 %"]


# --- finding


def test_the_region_is_the_one_with_the_largest_surprise():
    percentile = np.full((28, 28), 50.0)
    assert surprising_region(percentile) is None
    percentile[:2, :2] = 100  # 4 of 784 places are too few
    assert surprising_region(percentile) is None
    percentile[7:14, 14:28] = 99
    percentile[20:24, 2:6] = 99  # smaller
    region = surprising_region(percentile)
    rows, columns = np.nonzero(region)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((7, 13, 14, 27), abs=1)


def test_a_region_has_the_mean_color_of_its_pixels_and_a_sentence_of_its_numbers(net: ColorPriorNet):
    found = find(net, two_halves())
    assert found.objects == []
    region = found.region
    assert region.box == pytest.approx((0, 0, 0.5, 1))
    assert region.observed == pytest.approx(rgb2lab(np.array((30, 160, 60)) / 255), abs=0.5)
    assert region.expected == (5, 10)
    assert region.percentile == 98
    words, _, how = region.reason.partition("; ")
    assert words == "region: greener, yellower and more colorful than expected"
    assert how == "on average more surprising than 98 % of places in real photos"


def test_objects_without_a_prior_of_their_category_have_the_percentile_of_their_places(net: ColorPriorNet):
    right = LabeledObject(CAR, (0.75, 0.5, 0.4, 0.9))
    sign, car, speck = find(net, two_halves(), [LEFT, right, SPECK]).objects
    assert (sign.number, sign.what, sign.percentile, sign.unusual) == (1, "stop sign", 98, True)
    assert sign.reason.startswith("stop sign: greener, yellower and more colorful than expected; on average")
    assert (car.percentile, car.unusual, car.reason) == (20, False, "")
    assert (speck.observed, speck.unusual, speck.reason) == (None, False, maps.TOO_SMALL)
    assert np.isnan(speck.percentile)


def test_objects_are_compared_with_the_prior_of_their_category_where_there_is_one(weights: dict[str, Path]):
    scc = load_model(weights["SCC"])
    scc.object_prior = red_signs()
    pixels = two_halves()
    sign, speck = find(scc, pixels, [LEFT, SPECK]).objects
    assert sign.reason == "stop sign: hue greener than 99 % of photos"
    assert list(sign.measures) == list(MEASURES)
    assert sign.percentile == sign.measures["sliced Wasserstein"] > 97
    assert sign.expected[0] > 30  # red
    assert speck.reason == maps.TOO_SMALL
    pixels[:, :30] = (175, 62, 50)
    assert find(scc, pixels, [LEFT]).objects[0].reason == ""


def test_the_map_is_that_of_the_network(weights: dict[str, Path]):
    scc = load_model(weights["SCC"])
    pixels = make_image(3, 50, 70).copy()
    found, expected = find(scc, pixels).surprise, scc.surprise(pixels)
    np.testing.assert_array_equal(found.percentile, expected.percentile)
    np.testing.assert_array_equal(found.expected, expected.expected)


# --- drawing


def test_the_recolored_version_has_the_expected_colors_at_its_own_lightness():
    pixels = np.full((30, 45, 3), 128, np.uint8)
    image, hot, expected = panels(pixels, flat(ab=(20, -15)))
    assert image.size == hot.size == expected.size == (400, 267)
    lab = rgb2lab(np.asarray(expected)).reshape(-1, 3)
    assert lab == pytest.approx(np.tile((rgb2lab(pixels / 255)[0, 0, 0], 20, -15), (len(lab), 1)), abs=0.7)
    assert np.asarray(hot) == pytest.approx(64, abs=1)  # dimmed, without heat


def test_heat_lies_where_the_surprise_is(net: ColorPriorNet):
    hot = np.asarray(panels(two_halves(), net.surprise(None))[1]).astype(int)
    spread = hot.max(2) - hot.min(2)
    assert spread[:, :150].min() > 50
    assert spread[:, 250:].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 900), (900, 2), (40, 60)])
def test_any_image_name_and_number_of_objects_can_be_drawn(net: ColorPriorNet, shape: tuple[int, int]):
    pixels = make_image(1, *shape).copy()
    objects = [LEFT, SPECK, LabeledObject(0, (1.2, 0.5, 0.2, 0.2)), *[LabeledObject(3, (0.5, 0.5, 0.9, 0.9))] * 30]
    image = draw_map(pixels, find(net, pixels, objects), f"日本/{'very' * 90}\nlong\x00.png")
    assert image.width == 1264
    assert 300 < image.height < 1000
    assert draw_map(pixels, maps.Findings(flat(), None, []), "").height < image.height


def test_long_text_is_cut_and_reasons_are_wrapped():
    font = maps._font(12)
    cut = maps._fitted("a" * 500, font, 100)
    assert cut.endswith("…")
    assert 80 < font.getlength(cut) <= 100
    lines = maps._wrapped("one two three four five six seven eight nine ten", font, 90, 2)
    assert len(lines) == 2
    assert all(font.getlength(line) <= 90 for line in lines)
    assert lines[0].startswith("one two")


# --- files


@pytest.fixture
def command(gallery: Path, weights: dict[str, Path], tmp_path: Path) -> list[object]:
    return ["infer_SCC.py", gallery, "--weights", weights["SCC"], "-o", tmp_path / "scc.csv", "--maps", tmp_path / "maps"]


def test_every_scored_image_gets_a_map_of_its_own_name(
    gallery: Path, weights: dict[str, Path], run: Callable, command: list, tmp_path: Path
):
    done = run(*command)
    assert done.code == 0, done.err
    names = list_images(gallery).names
    found = sorted(p.relative_to(tmp_path / "maps").as_posix() for p in (tmp_path / "maps").rglob("*.png"))
    assert found == sorted(f"{name}.png" for name in names)  # x.jpg and x.png are two
    table = pd.read_csv(tmp_path / "maps" / "objects.csv", keep_default_na=False)
    assert sorted(set(table["image"])) == names
    assert set(table["error"]) == {""}
    with Image.open(tmp_path / "maps" / "x.png.png") as image:
        made_from = json.loads(image.info["ICQA map"])["made from"]
    assert made_from["weights"] == load_model(weights["SCC"]).weights_hash


def test_maps_that_are_there_are_kept_while_nothing_has_changed(
    gallery: Path, weights: dict[str, Path], run: Callable, tmp_path: Path
):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(make_image(seed, 30, 40)).save(folder / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("11 0.5 0.5 0.6 0.6\n")
    command = ["infer_SCC.py", folder, "--weights", weights["SCC"], "-o", tmp_path / "scc.csv", "--maps", tmp_path / "maps"]
    command += ["--labels", tmp_path / "labels"]
    assert "2 in" in run(*command).out
    table = (tmp_path / "maps" / "objects.csv").read_bytes()
    assert b"stop sign" in table
    drawn = (tmp_path / "maps" / "a.png.png").read_bytes()
    assert "2 of them kept" in run(*command).out
    assert (tmp_path / "maps" / "objects.csv").read_bytes() == table
    (tmp_path / "labels" / "a.txt").write_text("2 0.5 0.5 0.6 0.6\n\n")
    assert "1 of them kept" in run(*command).out
    assert b"car" in (tmp_path / "maps" / "objects.csv").read_bytes()
    Image.fromarray(make_image(9, 30, 41)).save(folder / "b.png")
    (tmp_path / "maps" / "a.png.png").write_bytes(drawn[:100])  # as no kill leaves it
    assert "0 of them kept" in run(*command).out
    torch.save(torch.load(weights["SCC"], weights_only=True) | {"note": 1}, tmp_path / "other.pt")
    command[3] = tmp_path / "other.pt"
    assert "0 of them kept" in run(*command, "--overwrite").out


def test_a_image_that_cannot_be_read_stops_no_other_and_is_named(
    weights: dict[str, Path], run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder, out = tmp_path / "images", tmp_path / "maps"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(make_image(seed, 30, 40)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    done = run("infer_SCC.py", folder, "--weights", weights["SCC"], "-o", tmp_path / "scc.csv", "--maps", out)
    assert done.code == 1  # as without maps
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png.png", "b.png.png", "c.png.png"]
    (folder / "b.png").write_bytes(b"gone bad since it was scored")
    (folder / "c.png").unlink()
    scc = load_model(weights["SCC"])
    assert maps.write_maps(out, scc, list_images(folder), tmp_path / "scc.csv", None, 2) == 2
    said = capsys.readouterr().out
    assert said.count("no map: ") == 2
    assert "b.png: is no image" in said
    assert "c.png: " in said
    table = pd.read_csv(out / "objects.csv", keep_default_na=False)
    assert table["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert [bool(error) for error in table["error"]] == [False, True, True]


def test_a_label_file_is_no_reason_to_stop_either(weights: dict[str, Path], run: Callable, tmp_path: Path):
    folder, labels = tmp_path / "images", tmp_path / "labels"
    folder.mkdir()
    labels.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(make_image(1, 30, 40)).save(folder / f"{name}.png")
    (labels / "a.txt").write_text("no label\n")
    (labels / "b.txt").write_text("")
    own = ["--weights", weights["SCC"], "-o", tmp_path / "scc.csv", "--maps", tmp_path / "maps", "--labels", labels]
    done = run("infer_SCC.py", folder, *own)
    assert done.code == 1
    assert sorted(p.name for p in (tmp_path / "maps").glob("*.png")) == ["b.png.png", "c.png.png"]


def test_maps_that_cannot_be_are_refused_before_the_scoring(
    gallery: Path, weights: dict[str, Path], run: Callable, tmp_path: Path
):
    command = ["infer_SCC.py", gallery, "--weights", weights["SCC"], "-o", tmp_path / "scc.csv", "--maps"]
    refused = run(*command, gallery / "maps")
    assert refused.code == 1
    assert "name another folder" in refused.err
    (tmp_path / "file").write_text("")
    assert "is a file" in run(*command, tmp_path / "file").err
    assert not (tmp_path / "scc.csv").exists()
    with pytest.raises(ValueError, match=r"--maps needs an SCC network with a color prior"):
        check_maps(tmp_path / "maps", gallery, load_model(weights["CF"]))
