"""The report is right in its numbers, survives any file name, and works in a browser without anything from outside."""

import base64
import html
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_image
from PIL import Image

from evaluation.agreement import logistic_fit
from inference.maps import Finding, Findings, find, heat_colors
from models import load_model
from report import page as report
from report import statistics, thumbnails
from report.page import About, Origin, report_evaluation, report_scores, write_report
from utils.images import read_rgb
from utils.labels import COCO_NAMES
from utils.scenes import method_and_scene, read_index
from utils.scores import Provenance, ScoreWriter

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = [
    'a"b_1.png',
    "a'b_2.png",
    "<b>x<_3.png",
    "a&amp;_4.png",
    "</script><script>alert(1)_5.png",
    "名 前_6.png",
    "{{ 7 }}_7.png",
]


class Page(HTMLParser):
    """Every start tag with its attributes, and the text of each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def cards(self) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag == "article" and "id" in attrs]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods of eight scenes: GOOD_0.png to POOR_7.png."""
    folder = tmp_path_factory.mktemp("report")
    for number, method in enumerate(("GOOD", "POOR", "SAME")):
        for scene in range(8):
            pixels = make_image(10 * number + scene, 40 + 10 * number, 60)
            Image.fromarray(pixels).save(folder / f"{method}_{scene}.png")
    return folder


def table(folder: Path) -> pd.DataFrame:
    """Scores in which GOOD is above POOR in every scene, and SAME is like GOOD."""
    names = sorted(path.name for path in folder.iterdir())
    rng = np.random.default_rng(0)
    scene = [int(name[-5]) / 10 for name in names]
    pr = [s + {"G": 0.1, "P": -0.5, "S": 0.1}[name[0]] + 0.02 * rng.normal() for s, name in zip(scene, names, strict=True)]
    frame = pd.DataFrame({"image": names, "PR": pr, "gray": False, "error": ""})
    return frame.assign(CF=rng.uniform(-1, 1, len(frame)), SCC=0.25)


@pytest.fixture(scope="module")
def scc(weights: dict[str, Path]) -> torch.nn.Module:
    return load_model(weights["SCC"])


# --- numbers


def test_a_difference_is_real_when_its_interval_excludes_zero(images: Path) -> None:
    frame, _ = report.grouped(table(images), None)
    board = {entry["method"]: entry["PR"] for entry in statistics.leaderboard(frame, ["PR"])}
    against = board["GOOD"]["against"]
    assert against["POOR"]["verdict"] == 1
    assert against["POOR"]["mean"] == pytest.approx(0.6, abs=0.05)
    assert board["POOR"]["against"]["GOOD"]["verdict"] == -1
    assert board["POOR"]["against"]["GOOD"]["high"] == -against["POOR"]["low"] < 0
    assert against["SAME"]["verdict"] == 0
    assert (board["POOR"]["better"], board["POOR"]["worse"], board["POOR"]["compared"]) == (0, 2, 2)


@pytest.mark.parametrize(("difference", "scenes", "verdict"), [(0.027, 200, 0), (0.1, 200, 0), (0.6, 200, 1), (-0.6, 4, -1)])
def test_a_verdict_counts_the_bias_of_the_score_beside_the_sampling_of_scenes(difference, scenes, verdict) -> None:
    noise = np.linspace(-0.02, 0.02, scenes)
    names = [str(k) for k in range(scenes)]
    frame = pd.DataFrame({"image": [*"A" * scenes, *"B" * scenes], "method": [*"A" * scenes, *"B" * scenes]})
    frame = frame.assign(scene=names * 2, PR=np.concatenate([difference + noise, np.zeros(scenes)]))

    def against(sd: float | None) -> dict[str, float]:
        board = statistics.leaderboard(frame, ["PR"], None if sd is None else {"PR": {"sd": sd}})
        return next(entry for entry in board if entry["method"] == "A")["PR"]["against"]["B"]

    shipped, alone = against(None), against(0.0)
    assert (shipped["verdict"], alone["verdict"]) == (verdict, int(np.sign(difference)))
    bias = 1.96 * statistics.read_biases()["PR"]["sd"]
    for end in ("low", "high"):
        half = math.hypot(alone[end] - difference, bias)
        assert abs(shipped[end] - difference) == pytest.approx(half, rel=1e-3)


def test_three_scenes_have_no_interval_and_no_verdict() -> None:
    frame = pd.DataFrame(
        {"image": list("abcdef"), "method": list("XXXYYY"), "scene": list("123123"), "PR": [1, 1, 1, 0, 0, 0.1]}
    )
    board = statistics.leaderboard(frame, ["PR"])
    assert math.isnan(board[0]["PR"]["low"])
    assert board[0]["PR"]["against"]["Y"]["verdict"] is None


def test_the_shipped_bias_is_that_of_a_pair_of_methods_in_each_dimension() -> None:
    biases = statistics.read_biases()
    assert set(biases) == {"PR", "CF", "SCC"}
    for bias in biases.values():
        assert 0 <= bias["low"] <= bias["sd"] <= bias["high"] < 0.5
        assert bias["methods"] > 20


def test_the_page_says_what_its_verdicts_count_and_never_says_really(images: Path, tmp_path: Path) -> None:
    source = write_report(tmp_path / "r.html", table(images), images, About(maps=0)).read_text(encoding="utf-8")
    assert "really" not in source
    assert f"{statistics.read_biases()['PR']['sd']:.3f} in PR" in source
    assert "No methods are known here" not in source


# --- which is best, and the tables beside the page


def with_originals(images: Path, folder: Path) -> pd.DataFrame:
    """Scores as :func:`table` has them, with originals that score highest; two of them are gray and score lowest."""
    shutil.copytree(images, folder)
    names = [f"original_{scene}.png" for scene in range(8)]
    for name in names:
        shutil.copy(folder / name.replace("original", "GOOD"), folder / name)
    gray = [scene < 2 for scene in range(8)]
    pr = np.where(gray, -1, 0.9)
    originals = pd.DataFrame({"image": names, "PR": pr, "CF": 0.9, "SCC": 0.9, "gray": gray, "error": ""})
    return pd.concat([table(images), originals], ignore_index=True)


def test_gray_originals_are_left_out_of_means_and_differences_and_counted(images: Path, tmp_path: Path) -> None:
    frame = with_originals(images, tmp_path / "images")
    page = Page(write_report(tmp_path / "r.html", frame, tmp_path / "images", About(maps=0)))
    assert "2 gray originals are left out of all means and differences" in page.source
    left_out = [card["data-image"] for card in page.cards() if "data-left-out" in card]
    assert left_out == ["original_0.png", "original_1.png"]
    paired = pd.read_csv(tmp_path / "r_differences.csv").set_index(["first", "second", "measure"])
    found = paired.loc[("GOOD", "original", "ICQA PR")]
    good = frame.set_index("image")["PR"].loc[[f"GOOD_{scene}.png" for scene in range(2, 8)]]
    assert (found["difference"], found["n"]) == (pytest.approx(good.mean() - 0.9, abs=1e-6), 6)
    assert paired.loc[("GOOD", "POOR", "ICQA PR"), "n"] == 8  # both have a gray scene in color
    assert "2 gray originals are left out." in (tmp_path / "r_differences.md").read_text(encoding="utf-8")


def test_a_gray_image_of_a_method_counts(images: Path, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", table(images).assign(gray=True), images, About(maps=0)))
    assert not [card for card in page.cards() if "data-left-out" in card]
    assert "gray original" not in page.source


def test_originals_are_a_reference_below_the_methods_and_never_the_best(images: Path, tmp_path: Path) -> None:
    frame, _ = report.grouped(with_originals(images, tmp_path / "images"), None)
    measured = statistics.statistics(frame.assign(left_out=False), ["PR", "CF"])
    assert [entry["method"] for entry in measured["board"]][-1] == "original"
    assert {answer["first"]["original"] for answer in measured["answers"]} == {False}
    assert measured["answers"][0]["beaten"] == ["POOR"]


def test_the_first_screen_says_which_is_best_by_how_much_and_how_sure(images: Path, tmp_path: Path) -> None:
    frame = table(images)
    frame = frame[~frame["image"].str.startswith("SAME")]
    source = write_report(tmp_path / "r.html", frame, images, About(maps=0)).read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", " ", source[source.index('<section id="methods"') :]).split())
    assert text.startswith("GOOD is best by PR, told apart from the other GOOD")
    (row,) = [r for r in pd.read_csv(tmp_path / "r_differences.csv").to_dict("records") if r["measure"] == "ICQA PR"]
    shown = f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    assert text.count(shown) == 3  # in the sentence, the table of methods and that of pairs
    assert (row["first"], row["second"], row["better"], row["share"]) == ("GOOD", "POOR", "GOOD", 1.0)


def test_a_score_that_orders_the_methods_otherwise_is_said(images: Path, tmp_path: Path) -> None:
    frame = table(images).assign(CF=lambda f: -2 * f["PR"], SCC=lambda f: f["PR"] / 2)
    source = write_report(tmp_path / "r.html", frame, images, About(maps=0)).read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", source))
    order = [e["method"] for e in statistics.leaderboard(report.grouped(frame, None)[0], ["CF"])]
    said = f"CF orders them otherwise: {' > '.join(order)}; 2 pairs are told apart the other way round than by PR. This page"
    assert said in text  # SCC, which orders them as PR does, is not named


def test_the_differences_are_beside_the_page_and_on_it_to_copy(images: Path, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", table(images), images, About(maps=0, command="infer_PR.py x")))
    copied = dict(re.findall(r'<textarea[^>]*data-form="(\w+)">\n(.*?)</textarea>', page.source, re.DOTALL))
    for form, suffix in (("CSV", "csv"), ("Markdown", "md"), ("LaTeX", "tex")):
        assert html.unescape(copied[form]) == (tmp_path / f"r_differences.{suffix}").read_text(encoding="utf-8")
    paired = pd.read_csv(tmp_path / "r_differences.csv")
    assert list(paired) == ["first", "second", "measure", "difference", "low", "high", "n", "better", "share"]
    assert len(paired) == 9  # three pairs in three scores
    assert "\\toprule" in copied["LaTeX"]
    write_report(tmp_path / "r.html", table(images)[:8], images, About(maps=0))  # one method
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_pairs_that_are_too_many_for_the_page_are_in_the_files(tmp_path: Path) -> None:
    names = [f"M{method}_{scene}.png" for method in range(11) for scene in range(4)]
    frame = pd.DataFrame({"image": names, "PR": np.linspace(-1, 1, 44), "error": ""})
    Image.fromarray(make_image(0, 20, 30)).save(tmp_path / names[0])
    source = write_report(tmp_path / "r.html", frame, tmp_path, About(maps=0)).read_text(encoding="utf-8")
    assert "55 pairs with their differences and intervals are in the files beside this page" in source
    assert "<textarea" not in source
    assert len(pd.read_csv(tmp_path / "r_differences.csv")) == 55


def test_an_image_has_an_address_that_does_not_change_with_its_company(images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "GOOD_0.png", tmp_path / "a & b+c_0.png")
    frame = pd.DataFrame({"image": ["a & b+c_0.png"], "PR": [0.1], "gray": False, "error": ""})
    page = Page(write_report(tmp_path / "r.html", frame, tmp_path, About(maps=0)))
    assert [card["id"] for card in page.cards()] == ["image=a%20%26%20b%2Bc_0.png"]
    assert "#image=a%20%26%20b%2Bc_0.png" in [attrs.get("href") for _, attrs in page.tags]


# --- methods and scenes


def index_of(images: Path) -> str:
    names = sorted(path.name for path in images.glob("*.png"))
    return "image,scene,method\n" + "".join(f"{name},{name[-5]},{name[:4].lower()}\n" for name in names)


@pytest.mark.parametrize("beside", [True, False])
def test_methods_come_from_an_index_given_or_beside_the_images(images: Path, tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    index = (folder if beside else tmp_path) / "index.csv"
    index.write_text("\ufeff" + index_of(folder).replace(",", ";"), encoding="utf-8")
    page = Page(write_report(tmp_path / "r.html", table(images), folder, About(maps=0, index=None if beside else index)))
    assert {card["data-method"] for card in page.cards()} == {"good", "poor", "same"}
    assert "Methods and scenes are those of index.csv" in page.source


def test_a_report_without_methods_says_at_its_top_how_to_name_them(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    frame = table(images)[:5].assign(image=[f"image{letter}.png" for letter in "abcde"])
    for name in frame["image"]:
        shutil.copy(images / "GOOD_0.png", folder / name)
    (folder / "index.csv").write_text("photo,method\n", encoding="utf-8")
    source = write_report(tmp_path / "r.html", frame, folder, About(maps=0)).read_text(encoding="utf-8")
    assert source.index("No methods are known here") < source.index('id="methods"')
    assert "index.csv is not used: index.csv: it has no column image" in source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no index .*index.csv"),
        ("image,scene\n", "index.csv: it has no column method; expected image, scene and method"),
        (
            "image,scene,method\na.png,1,X\n",
            "1 of 2 images have no row in .*index.csv, which has e.g. a.png; e.g. b/c.png is absent",
        ),
        ("image,scene,method\na.png,1,X\na.png,2,X\n", "line 3: a.png has two rows that differ"),
        ("image,scene,method\na.png,,X\n", "line 2: a.png has no scene"),
        ("image,scene,method\n", "2 of 2 images have no row in .*index.csv, which has no row"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "index.csv").write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_index(tmp_path / "index.csv", ["a.png", "b/c.png"])


def test_an_index_may_write_names_in_another_way(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("method\timage\tscene\nX\t.\\b\\u\u0308.png\t7\nX\ta.png\t8\n", encoding="utf-8")
    assert read_index(tmp_path / "i.csv", ["b/\u00fc.png"]) == (["7"], ["X"])


def test_the_leaderboard_goes_from_best_to_worst_with_means_counted_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "image": list("abcd"),
            "method": ["X", "X", "Y", "Y"],
            "scene": ["1", "1", "1", "2"],
            "PR": [0.1, 0.3, 0.5, 0.9],
        }
    )
    board = statistics.leaderboard(frame, ["PR"])
    assert [(e["method"], e["images"], e["scenes"]) for e in board] == [("Y", 2, 2), ("X", 2, 1)]
    assert [e["PR"]["mean"] for e in board] == pytest.approx([0.7, 0.2])
    assert math.isnan(board[0]["PR"]["low"])
    assert board[0]["PR"]["against"]["X"]["verdict"] is None  # one shared scene tells nothing


def test_the_interval_of_a_mean_is_that_of_a_bootstrap_over_scenes() -> None:
    values = np.random.default_rng(1).normal(0, 0.3, 200)
    names = [f"{scene}" for scene in range(200)]
    (entry,) = statistics.leaderboard(pd.DataFrame({"image": names, "scene": names, "method": "A", "PR": values}), ["PR"])
    error = values.std() / np.sqrt(200)
    expected = (values.mean() - 1.96 * error, values.mean() + 1.96 * error)
    assert (entry["PR"]["low"], entry["PR"]["high"]) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("names", "methods", "scenes"),
    [
        (["A_1.png", "B_C_1.jpg", "A_02.png"], ["A", "B_C", "A"], ["1", "1", "02"]),
        (["A/x.png", "B/x.png", "A/y.png", "B/y.png"], ["A", "B", "A", "B"], ["x", "x", "y", "y"]),
        (["A/img_1.png", "B/img_1.png"], ["A", "B"], ["img_1", "img_1"]),
        (["CIC_imagenet9801.jpg", "DAHL_imagenet9801.jpg"], ["CIC", "DAHL"], ["imagenet9801"] * 2),
        (["x.png", "A_1.png"], ["all", "all"], ["x.png", "A_1.png"]),
        (["cats/1.png", "dogs/2.png"], ["all", "all"], ["cats/1.png", "dogs/2.png"]),
    ],
)
def test_methods_and_scenes_come_from_names_or_folders_that_all_fit(
    names: list[str], methods: list[str], scenes: list[str]
) -> None:
    assert method_and_scene(names)[:2] == (methods, scenes)


def test_a_percentile_is_the_share_of_photographs_below() -> None:
    values, levels = [-0.5, 0.0, 0.5], [5, 50, 95]
    assert [statistics.percentile(x, values, levels) for x in (-0.6, -0.25, 0.0, 0.5, 0.6)] == ["<5", "28", "50", "95", ">95"]
    assert statistics.percentile(math.nan, values, levels) == ""


def test_percentiles_are_shown_only_for_the_weights_they_were_measured_with(tmp_path: Path) -> None:
    file = tmp_path / "percentiles.json"
    file.write_text(json.dumps({"weights": {"CF": {"CF": "1"}}, "preprocessing": {"size": 2}}), encoding="utf-8")

    def why_not(origin: Origin, path: Path = file) -> str:
        return report.read_percentiles(path, {"CF": origin}, ["CF"])[1]

    assert why_not(Origin({"CF": "1"}, {"size": 2})) == ""
    assert "the CF is of other ones" in why_not(Origin({"CF": "2"}, {"size": 2}))
    assert "usual reading" in why_not(Origin({"CF": "1"}, {"size": 3}))
    assert "not known which weights" in why_not(Origin())
    assert "make_percentiles.py" in why_not(Origin(), tmp_path / "none.json")


def test_the_shipped_percentiles_are_those_of_the_shipped_weights(repo: Path) -> None:
    reference = json.loads((repo / "weights" / "percentiles.json").read_text(encoding="utf-8"))
    hashes = {dimension: load_model(dimension).weights_hash for dimension in ("PR", "CF", "SCC")}
    assert reference["weights"] == {"PR": hashes, "CF": {"CF": hashes["CF"]}, "SCC": {"SCC": hashes["SCC"]}}
    for dimension in hashes:
        assert len(reference[dimension]) == len(reference["levels"])
        assert (np.diff(reference[dimension]) > 0).all()


# --- surprise maps


def test_the_overlay_is_clear_below_the_75th_percentile_and_has_the_colors_of_the_maps_above() -> None:
    percentile = np.array([[10.0, 74.0], [99.0, 100.0]])
    data = thumbnails.heat_overlay(percentile).partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        rgba = np.asarray(image.convert("RGBA")) / 255
    assert (rgba[0, :, 3] == 0).all()
    assert rgba[1] == pytest.approx(np.tile(heat_colors(np.array(1.0)), (2, 1)), abs=0.005)


def test_the_shipped_prior_finds_the_stain_of_a_sample(repo: Path) -> None:
    pixels = read_rgb(repo / "data" / "samples" / "HUE_000000000006.jpg")  # a meadow turned violet
    found = find(load_model("SCC"), pixels).region
    left, top, width, height = found.box
    assert (left, left + width) == pytest.approx((0, 1), abs=0.1)
    assert top > 0.5
    assert top + height == pytest.approx(1, abs=0.05)
    assert found.reason.startswith("region: bluer")


# --- the page


def test_the_page_holds_every_image_and_is_the_same_each_time(images: Path, tmp_path: Path, scc: torch.nn.Module) -> None:
    frame = table(images)
    one, two = (
        write_report(tmp_path / name, rows, images, About(scc=scc, command="python infer_PR.py x")).read_bytes()
        for name, rows in (("1.html", frame), ("2.html", frame[::-1]))
    )
    assert one == two
    cards = Page(tmp_path / "1.html").cards()
    assert sorted(card["data-image"] for card in cards) == frame["image"].tolist()
    assert {card["data-image"]: float(card["data-pr"]) for card in cards} == pytest.approx(
        dict(zip(frame["image"], frame["PR"], strict=True)), abs=1e-6
    )
    assert all("data-surprise" in card for card in cards)


def test_nothing_is_loaded_from_outside(images: Path, tmp_path: Path, scc: torch.nn.Module) -> None:
    page = Page(write_report(tmp_path / "r.html", table(images), images, About(scc=scc)))
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert len(sources) > 48
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for source in sources)
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"} == set()
    assert all(attrs["href"].startswith("#") for _, attrs in page.tags if "href" in attrs)
    assert "url(" not in page.source
    policy = next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert "default-src 'none'; img-src data:;" in policy
    assert "script-src 'sha256-" in policy


def test_no_file_name_breaks_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number, name in enumerate(NASTY):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number, 20, 30)).save(folder / name)
    frame = pd.DataFrame({"image": NASTY, "PR": 0.1, "gray": False, "error": ["", "", '<img src="x">', "", "", "", ""]})
    frame["scene"], frame["method"] = "<i>", '"><script>'
    page = Page(write_report(tmp_path / "r.html", frame, folder, About(maps=0, title="<u>", command="a && b <c>")))
    assert sorted(card["data-image"] for card in page.cards()) == sorted(NASTY)
    assert [tag for tag, _ in page.tags if tag in ("b", "i", "u", "script", "c")].count("script") == 1
    assert not {tag for tag, _ in page.tags} & {"u", "c"}
    assert {card["data-method"] for card in page.cards()} == {'"><script>'}
    assert "{{ 7 }}" in page.source


def test_a_method_without_scores_has_no_word_about_its_interval(images: Path, tmp_path: Path) -> None:
    frame = table(images)[:9].assign(SCC=math.nan)
    source = Page(write_report(tmp_path / "r.html", frame, images, About(maps=0))).source
    by_pr = source[source.index('data-by="pr"') : source.index('data-by="cf"')]
    assert by_pr.count("no interval") == 2  # PR and CF of POOR, which has one image; GOOD has eight
    assert "<td>\N{EN DASH}</td>" in source


def test_regions_and_objects_are_shown_with_their_colors_and_reasons(
    images: Path, tmp_path: Path, scc: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = finding("stop sign", 99.4, "stop sign: hue greener than 99 % of photos")
    region = replace(finding("region", 97, "region: greener than expected; on average more surprising"), box=(0.5, 0, 0.5, 1))
    surprise = scc.surprise(make_image(0, 30, 30).copy())
    monkeypatch.setattr(thumbnails, "find", lambda *_: Findings(surprise, region, [sign, finding("car", 12)]))
    page = Page(write_report(tmp_path / "r.html", table(images)[:1], images, About(scc=scc)))
    assert "looks wrong: stop sign (hue greener than 99 % of photos)" in page.source
    assert "region: greener than expected; on average more surprising" in page.source
    frames = [attrs["style"] for tag, attrs in page.tags if attrs.get("class") == "region"]
    assert frames[0] == "left:50.0%;top:0%;width:50.0%;height:100%"
    swatches = {attrs["style"] for tag, attrs in page.tags if attrs.get("class") == "sw"}
    assert swatches == {"background:#777777", "background:#8e7166"}  # CIELAB (50, 0, 0) and (50, 10, 10), by scikit-image
    assert "99 %</td>" in page.source
    assert "12 %</td>" in page.source
    assert page.source.count('class="scale"') == 1


def test_images_without_a_score_are_listed_with_the_reason(images: Path, tmp_path: Path) -> None:
    frame = table(images)
    frame.loc[0, ["PR", "CF", "SCC"]] = math.nan
    frame.loc[0, "error"] = "cannot read: truncated file"
    page = Page(write_report(tmp_path / "r.html", frame, images, About(maps=0)))
    assert [card["data-image"] for card in page.cards() if "data-error" in card] == ["GOOD_0.png"]
    assert page.source.count("cannot read: truncated file") == 2  # in the list and on the card
    assert "Images without a score" in page.source


def test_a_report_of_nothing_but_errors_is_written(images: Path, tmp_path: Path) -> None:
    frame = table(images).assign(PR=math.nan, CF=math.nan, SCC=math.nan, error="broken")
    assert len(Page(write_report(tmp_path / "r.html", frame, images, About(maps=0))).cards()) == 24


def test_a_single_image_makes_a_report(images: Path, tmp_path: Path) -> None:
    assert len(Page(write_report(tmp_path / "r.html", table(images)[:1], images, About(maps=0))).cards()) == 1


def test_images_that_were_moved_are_an_error_that_names_the_folder(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of the 24 images is in .*gone.*moved.*--root"):
        write_report(tmp_path / "r.html", table(images), tmp_path / "gone", About(maps=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["PR", "CF", "SCC"]), "expected columns image, error and scores"),
        (lambda f: f[:0], "at least one image"),
        (lambda f: pd.concat([f, f[:1]]), "GOOD_0.png has two rows"),
    ],
)
def test_tables_that_cannot_be_reported_are_refused(
    images: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "r.html", change(table(images)), images, About(maps=0))


def test_ratings_bring_the_scatter_and_the_images_furthest_from_people(images: Path, tmp_path: Path) -> None:
    frame = table(images)
    rows = pd.DataFrame(
        {
            "image": frame["image"],
            "scene": frame["image"].str[-5],
            "method": frame["image"].str[:4],
            "dimension": "PR",
            "mos": frame["PR"] * 0.5 + np.random.default_rng(0).normal(0, 0.05, len(frame)),
            "prediction": frame["PR"].where(frame["image"] != "GOOD_3.png"),
        }
    )
    page = Page(report_evaluation(rows, tmp_path / "r.html", root=images, maps=0, notes=["said first"]))
    assert len([tag for tag, _ in page.tags if tag == "circle"]) == 23
    assert "polyline" in {tag for tag, _ in page.tags}
    assert "PR furthest from people" in page.source
    assert page.source.index("said first") < page.source.index("Percentiles among real photos are left out")
    assert [card["data-image"] for card in page.cards() if "data-error" in card] == ["GOOD_3.png"]
    with pytest.raises(ValueError, match=r"GOOD_0.png has two rows for PR"):
        report_evaluation(pd.concat([rows, rows]), tmp_path / "r.html", root=images, maps=0)


def test_a_score_file_gives_the_report_its_folder_weights_and_command(
    images: Path, tmp_path: Path, scc: torch.nn.Module
) -> None:
    names = sorted(path.name for path in images.iterdir())
    hashes = {"PR": "a" * 64, "CF": "b" * 64, "SCC": "c" * 64}
    path = tmp_path / "pr.csv"
    how = Provenance(images, weights=hashes, preprocessing={"size": 64}, sample="in-sample")
    with ScoreWriter(path, ["PR", "CF", "SCC"], names, how) as out:
        for number, name in enumerate(names):
            out.add(name, {"PR": number / 50, "CF": 0, "SCC": -0.5}, gray=number == 2)
    command = "python infer_PR.py 'my images' --report r.html"
    page = Page(report_scores(path, tmp_path / "r.html", command, scc=scc, maps=3, date="2026-01-01"))
    assert sum("data-surprise" in card for card in page.cards()) == 3
    assert all(digest in page.source for digest in hashes.values())
    assert "python infer_PR.py &#39;my images&#39;" in page.source
    assert "PR IS IN-SAMPLE" in page.source
    assert "2026-01-01" in page.source
    assert [card["data-image"] for card in page.cards() if "data-gray" in card] == ["GOOD_2.png"]
    (tmp_path / "pr.csv.json").unlink()
    with pytest.raises(ValueError, match=r"no file pr.csv.json beside it"):
        report_scores(path, tmp_path / "r.html")


def test_infer_pr_writes_a_report(gallery: Path, weights: dict[str, Path], run: Callable, tmp_path: Path) -> None:
    own = [word for d in ("cf", "scc") for word in (f"--{d}-weights", weights[d.upper()])]
    done = run(
        "infer_PR.py", gallery, "--weights", weights["PR"], *own, "-o", tmp_path / "pr.csv", "--report", tmp_path / "r.html"
    )
    assert f"report: {tmp_path / 'r.html'}" in done.out
    page = Page(tmp_path / "r.html")
    assert len(page.cards()) == len(pd.read_csv(tmp_path / "pr.csv"))
    assert "infer_PR.py" in page.source
    refused = run("infer_PR.py", gallery, "-o", tmp_path / "x.csv", "--report", tmp_path / "r.csv")
    assert refused.code == 2
    assert "expected a --report that ends in .html" in refused.err


# --- in a browser

# appended to a copy of the page, whose policy then allows it; what it finds goes into the title
PROBE = """
const found = {violations: 0};
document.addEventListener("securitypolicyviolation", () => { found.violations += 1; });
addEventListener("unhandledrejection", event => { document.title = String(event.reason); });
addEventListener("load", async () => {
  const pause = () => new Promise(done => setTimeout(done, 100));
  const order = () => [...document.querySelectorAll("#grid article:not([hidden])")].map(card => card.dataset.image);
  const set = (name, value) => {
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
  };
  for (let i = 0; i < 50 && [...document.images].some(image => !image.complete); i++) await pause();
  found.broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  found.images = document.images.length;
  found.first = order();
  set("sort", "cf"); found.cf = order();
  set("order", "1"); found.rising = order();
  set("sort", "image"); found.name = order();
  set("method", "POOR"); found.method = order();
  set("low", "0"); found.low = order();
  found.said = form.querySelector("output").value;
  form.reset();
  await pause();
  found.reset = order();
  set("scene", "3"); found.scene = order();
  document.querySelector("#grid article:not([hidden]) button.scene").click();
  found.dialog = [...document.querySelectorAll("dialog[open] article")].map(card => card.dataset.image);
  document.querySelector("dialog .close").click();
  found.open = document.querySelectorAll("dialog[open]").length;
  const judge = value => {
    const radio = document.querySelector(`[name=by][value=${value}]`);
    radio.checked = true;
    radio.dispatchEvent(new Event("input", {bubbles: true}));
  };
  const side = () => [...document.querySelectorAll("#rows .side")].map(row => row.querySelector("a").textContent.slice(6));
  const choose = (name, value) => {
    duel.elements[name].value = value;
    duel.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
  };
  choose("a", "GOOD"); choose("b", "POOR"); choose("first", "a");
  found.furthest = side(); found.between = duel.querySelector("output").value;
  found.beside = [...document.querySelector("#rows .side").querySelectorAll("article")].map(card => card.dataset.method);
  document.querySelector("button.more").click(); found.more = side().length;
  judge("cf"); found.answers = [...document.querySelectorAll("#methods [data-by]")].map(part => part.hidden);
  found.address = location.hash;
  location.hash = "#image=SAME_5.png"; await pause();
  found.target = document.querySelector(".card:target")?.dataset.image;
  location.hash = "#by=scc&a=POOR&b=SAME&first=scene"; await pause();
  found.followed = [by(), duel.elements.a.value, duel.elements.b.value, side()[0]];
  location.hash = "#scene=3"; await pause();
  found.linked = dialog.open && dialog.querySelector("select").value;
  dialog.close();
  const image = document.querySelector("#grid button.pic");
  image.click(); found.pressed = image.getAttribute("aria-pressed");
  found.wide = document.documentElement.scrollWidth - innerWidth;
  found.fetched = performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"));
  fetch("https://example.com/").catch(() => {});
  const outside = new Image(); outside.src = "https://example.com/x.png";
  await pause();
  document.title = JSON.stringify(found);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_chromium_images_load_sorting_works_and_nothing_is_fetched(
    images: Path, tmp_path: Path, scc: torch.nn.Module
) -> None:
    frame = table(images)
    page = write_report(tmp_path / "r.html", frame, images, About(scc=scc)).read_text(encoding="utf-8")
    allowed = re.sub(r"script-src '[^']+'", "script-src 'unsafe-inline'", page, count=1)
    (tmp_path / "probe.html").write_text(allowed.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dumped(tmp_path / "probe.html", tmp_path))[1]))

    def ranked(column: str) -> list[str]:
        return frame.sort_values([column, "image"], ascending=[False, True])["image"].tolist()

    assert found["broken"] == 0
    assert found["images"] >= 48  # each image and its map
    assert found["first"] == found["reset"] == ranked("PR")
    assert found["cf"] == ranked("CF")
    assert found["rising"] == ranked("CF")[::-1]
    assert found["name"] == frame["image"].tolist()
    assert found["method"] == [f"POOR_{scene}.png" for scene in range(8)]
    assert found["low"] == [image for image, pr in zip(frame["image"], frame["PR"], strict=True) if image[0] == "P" and pr >= 0]
    assert found["said"] == f"{len(found['low'])} of 24 images"
    assert sorted(found["scene"]) == sorted(found["dialog"]) == ["GOOD_3.png", "POOR_3.png", "SAME_3.png"]
    assert found["open"] == 0
    wide = frame.assign(scene=frame["image"].str[-5], method=frame["image"].str[:4]).pivot(index="scene", columns="method")
    gap = (wide["PR"]["GOOD"] - wide["PR"]["POOR"]).sort_values(ascending=False)
    assert found["furthest"] == gap.index[:4].tolist()
    assert f"GOOD \N{MINUS SIGN} POOR in PR: +{gap.mean():.2f} [" in found["between"]
    assert found["between"].endswith("told apart; higher in 8 of 8 scenes")
    assert found["beside"] == ["GOOD", "POOR", "SAME"]
    assert found["more"] == 8
    assert found["answers"] == [True, False, True]
    assert found["address"] == "#by=cf&a=GOOD&b=POOR&first=a"
    assert found["target"] == "SAME_5.png"
    assert found["followed"] == ["scc", "POOR", "SAME", "0"]
    assert found["linked"] == "3"
    assert found["pressed"] == "true"
    assert found["wide"] <= 0
    assert found["fetched"] == []
    assert found["violations"] == 2  # the policy stops the two attempts of the probe


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_chromium_the_policy_lets_the_own_script_run_and_no_other(images: Path, tmp_path: Path) -> None:
    page = write_report(tmp_path / "r.html", table(images), images, About(maps=0)).read_text(encoding="utf-8")
    other = page.replace("</body>", "<script>document.title = 'another script ran';</script></body>")
    (tmp_path / "other.html").write_text(other, encoding="utf-8")
    shown = dumped(tmp_path / "other.html", tmp_path)
    assert re.search(r"<output[^>]*>24 images</output>", shown)
    assert "<title>another script ran" not in shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_chromium_no_text_runs_out_of_its_box_at_any_width(
    tmp_path: Path, scc: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "DISCOColorizationWithoutAnySpaceInItsLongName"
    names = [f"{method}/{long.lower()}_{scene}.png" for method in (long, f"{long}2") for scene in range(5)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(make_image(number, 40, 60)).save(tmp_path / name)
    frame = pd.DataFrame({"image": names, "PR": -0.99, "CF": -0.88, "SCC": -0.99, "error": "", "gray": True})
    frame.loc[0, ["PR", "CF", "SCC", "error"]] = [math.nan, math.nan, math.nan, f"{long}: cannot be read"]
    frame.loc[1:, ["PR", "CF"]] -= np.linspace(0, 0.009, 9)[:, None]
    frame["scene"], frame["method"] = (
        [name.rpartition("/")[2][:-4] for name in names],
        [name.partition("/")[0] for name in names],
    )
    for dimension in ("PR", "CF", "SCC"):
        frame[f"mos_{dimension}"] = -0.77 - np.linspace(0, 0.2, 10)
    reference = {d: [-2.0, 2.0] for d in ("PR", "CF", "SCC")} | {"levels": [88, 88], "count": 1, "photos": "none"}
    monkeypatch.setattr(report, "read_percentiles", lambda *_: (reference, ""))
    monkeypatch.setattr(report, "percentile", lambda *_: ">99")
    signs = [finding(f"{long} sign", 99.4, f"{long}: hue greener than 99 % of photos; chroma much higher than expected")] * 4
    surprise = scc.surprise(make_image(0, 30, 30).copy())
    monkeypatch.setattr(thumbnails, "find", lambda *_: Findings(surprise, signs[0], signs))
    origins = {d: Origin({d: "f" * 64}, {"size": 224}) for d in ("PR", "CF", "SCC")}
    page = write_report(tmp_path / "r.html", frame, tmp_path, About(scc=scc, origins=origins, title=long * 3, command=long * 9))
    frames = "".join(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page.read_text(encoding="utf-8"))}"></iframe>'
        for width in (390, 768, 1280, 1920)
    )
    (tmp_path / "outer.html").write_text(
        f"<meta charset=utf-8><pre></pre>{frames}<script>{OVERFLOW}</script>", encoding="utf-8"
    )
    shown = dumped(tmp_path / "outer.html", tmp_path)
    found = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", shown, re.DOTALL)[1]))
    assert found == {width: [] for width in ("390", "768", "1280", "1920")}


# Every text is inside the nearest box that shows an edge, and the page is no wider than the window.
OVERFLOW = """
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, out = new Set();
    if (page.documentElement.scrollWidth > frame.contentWindow.innerWidth) out.add("page");
    page.querySelectorAll("details").forEach(d => { d.open = true; });
    page.querySelector("button.scene").click();
    const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode, range = page.createRange();
      if (!text.data.trim() || text.parentElement.closest("script, option, .wide, .strip > span")) continue;
      range.selectNodeContents(text);
      const inner = range.getBoundingClientRect();
      for (const box of ["li, td, th, p, summary, label", ".card, .chart, form, dialog, footer, body"]) {
        const outer = text.parentElement.closest(box)?.getBoundingClientRect();
        if (outer && inner.width && (inner.right > outer.right + 1 || inner.left < outer.left - 1))
          out.add(text.parentElement.tagName + " " + text.parentElement.className + ": " + text.data.trim().slice(0, 40));
      }
    }
    for (const line of page.querySelectorAll(".scores li")) {  // nor one text over another
      const parts = [...line.children].map(part => part.getBoundingClientRect());
      if (parts.some((part, i) => i && part.top < parts[i - 1].bottom - 2 && part.left < parts[i - 1].right - 1))
        out.add("over another: " + line.textContent.trim());
    }
    found[frame.width] = [...out];
  }
  document.querySelector("pre").textContent = JSON.stringify(found);
});
"""


def dumped(page: Path, profile: Path) -> str:
    """The page as Chromium has it in the end."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile / 'profile'}", "--window-size=600,900"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    return done.stdout


def finding(what: str, percentile: float, reason: str = "") -> Finding:
    return Finding(1, what, (0, 0, 1, 1), (50, 0, 0), (10, 10), percentile, percentile, {}, bool(reason), reason)


def test_objects_that_look_wrong_are_named_with_the_reason():
    sign = finding("stop sign", 99, "stop sign: hue bluer than 99 % of photos")
    car = finding("car", 96, "car: redder than expected; on average more surprising than 96 % of places in real photos")
    person = finding("person", 50)
    assert (
        thumbnails.wrong_objects([sign, car, person]) == "stop sign (hue bluer than 99 % of photos); car (redder than expected)"
    )
    assert thumbnails.wrong_objects([sign] * 5).endswith("; 2 more")
    assert thumbnails.wrong_objects([person]) == thumbnails.wrong_objects([]) == ""


def test_the_fitted_curve_can_be_asked_between_the_images():
    pred, mos = np.array([-0.6, -0.5, -0.1, 0, 0.15, 0.15, 0.6]), np.array([-0.5, -0.52, -0.4, 0.1, 0.4, 0.5, 0.45])
    mapped, why_not = logistic_fit(pred, mos)
    assert why_not == ""
    assert logistic_fit(pred, mos, pred)[0] == pytest.approx(mapped)
    between, _ = logistic_fit(pred, mos, np.linspace(-0.6, 0.6, 500))
    assert (np.diff(between) >= 0).all()
    assert between[[0, -1]] == pytest.approx(mapped[[0, -1]])


def test_coco_names_are_eighty_in_their_order():
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == 80
    known = {
        0: "person",
        2: "car",
        11: "stop sign",
        15: "cat",
        22: "zebra",
        41: "cup",
        49: "orange",
        50: "broccoli",
        79: "toothbrush",
    }
    assert {n: COCO_NAMES[n] for n in known} == known


def test_the_page_names_objects_where_label_files_are_given(run, gallery, weights, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "tiny.txt").write_text("11 0.5 0.5 1 1\n")
    (tmp_path / "labels" / "gray.txt").write_text("no label\n")
    own = [x for flag, d in (("--cf-weights", "CF"), ("--scc-weights", "SCC"), ("--weights", "PR")) for x in (flag, weights[d])]
    report = ["--report", tmp_path / "r.html", "--report-labels", tmp_path / "labels"]
    done = run("infer_PR.py", gallery, *own, "-o", tmp_path / "pr.csv", "--device", "cpu", *report)
    assert done.code == 0, done.err
    page = Page(tmp_path / "r.html")
    assert "are named as looking wrong" in page.source
    assert "gray.txt, line 1" in page.source  # a file that cannot be read is said, and stops nothing
    tables = [attrs for tag, attrs in page.tags if attrs.get("class") == "objects"]
    assert tables
    assert page.source.count('<th scope="row">stop sign</th>') == len(tables)
    by_labels = run("infer_PR.py", gallery, *own, "-o", tmp_path / "pr2.csv", "--device", "cpu", "--report",
                    tmp_path / "r2.html", "--labels", tmp_path / "labels")  # fmt: skip
    assert by_labels.code == 1  # the broken label file
    assert '<th scope="row">stop sign</th>' in (tmp_path / "r2.html").read_text(encoding="utf-8")


def test_an_index_names_the_methods_of_images_and_nothing_is_scored_again(run, gallery, weights, tmp_path):
    own = [x for flag, d in (("--cf-weights", "CF"), ("--scc-weights", "SCC"), ("--weights", "PR")) for x in (flag, weights[d])]
    command = ["infer_PR.py", gallery, *own, "-o", tmp_path / "pr.csv", "--device", "cpu", "--no-maps"]
    assert run(*command).code == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    names = pd.read_csv(tmp_path / "pr.csv")["image"]
    index = pd.DataFrame({"image": names, "scene": "one", "method": range(len(names))})
    index.to_csv(tmp_path / "i.csv", index=False)
    done = run(*command, "--report", tmp_path / "r.html", "--index", tmp_path / "i.csv")
    assert done.code == 0, done.err
    assert {card["data-scene"] for card in Page(tmp_path / "r.html").cards()} == {"one"}
    assert {path: path.read_bytes() for path in before} == before
    assert done.out.count("9 rows kept") == 3
    (tmp_path / "i.csv").write_text("image,scene\n")
    assert "i.csv: it has no column method" in run(*command, "--report", tmp_path / "r.html", "--index", tmp_path / "i.csv").err
    assert "--index needs --report" in run(*command, "--index", tmp_path / "i.csv").err


def test_a_folder_of_labels_that_is_not_there_is_known_before_the_scoring(run, gallery, tmp_path):
    report = ["--report", tmp_path / "r.html", "--report-labels", tmp_path / "none"]
    done = run("infer_PR.py", gallery, "-o", tmp_path / "pr.csv", *report)
    assert done.code == 1
    assert str(tmp_path / "none") in done.err
    assert list(tmp_path.iterdir()) == []
