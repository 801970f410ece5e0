"""The rating page and the files that raters save of it: made, rated in a browser, read, and made into MOS."""

import csv
import functools
import html
import http.server
import importlib
import json
import os
import re
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.icqa2k import load_icqa2k
from data.table import load_dataset
from evaluation.rating_files import FORMAT, read_rating_files
from tools.make_rating_page import browser_copy
from utils.images import read_rgb

TOOL, MOS_TOOL = "tools/make_rating_page.py", "tools/compute_mos.py"

# Scores of three raters for twelve images: they disagree on most, and their sums are 3 to 14, in this order.
PLANTED = [
    *[(1, 1, 1), (1, 2, 1), (2, 1, 2), (1, 3, 2), (3, 2, 2), (2, 2, 4)],
    *[(4, 3, 2), (3, 3, 4), (3, 5, 3), (5, 3, 4), (4, 4, 5), (5, 5, 4)],
]
QUESTIONS = ("CF", "SCC", "PR")


def make_images(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((120, 90)).save(root / name)
    return root


def study_in(page: Path) -> dict:
    (text,) = re.findall(
        r'<script type="application/json" id="study">(.*?)</script>',
        (page / "index.html").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    return json.loads(text)


def rater_file(path: Path, rater: str, scores: dict[str, tuple[int, ...]], /, **changes: object) -> Path:
    """A file as the page saves it, of single images in one scene, a check that was passed and no repeats."""
    content = {
        "format": FORMAT,
        "study": "made up",
        "study_id": "0123456789ab",
        "kind": "single",
        "questions": list(QUESTIONS),
        "rater": rater,
        "seed": 7,
        "finished": "2026-11-29T10:00:00.000Z",
        "conditions": {"color_vision": "normal"},
        "trials": [
            {"kind": "rating", "image": name, "seconds": 3.5, "scores": dict(zip(QUESTIONS, values, strict=True))}
            for name, values in scores.items()
        ],
        "images": {name: {"file": "x.png", "scene": "1", "method": name} for name in scores},
    }
    content["trials"].insert(
        1, {"kind": "check", "image": None, "seconds": 1, "expected": 4, "scores": dict.fromkeys(QUESTIONS, 4)}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **changes}, ensure_ascii=False), encoding="utf-8")
    return path


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- the page


def test_the_page_shows_images_of_odd_names_under_names_that_tell_nothing(run, tmp_path):
    names = ["a/x.png", "b/x.png", "grün/日本 1.png", 'a,b "c" <d>.png', "<script>.jpg", "CIC 5%20&.jpg"]
    make_images(tmp_path / "in", names)
    done = run(TOOL, tmp_path / "in", "-o", tmp_path / "page", "--title", "Which </script> & colors?")
    assert done.code == 0, done.err
    study, page = study_in(tmp_path / "page"), (tmp_path / "page/index.html").read_text(encoding="utf-8")
    assert [image["name"] for image in study["images"]] == sorted(names)
    assert study["study"] == "Which </script> & colors?"
    for image in study["images"]:
        assert re.fullmatch(r"images/[0-9a-f]{16}\.(png|jpg)", image["file"])
        assert (image["width"], image["height"]) == (120, 90)
        np.testing.assert_array_equal(read_rgb(tmp_path / "page" / image["file"]), read_rgb(tmp_path / "in" / image["name"]))
    assert len({image["file"] for image in study["images"]}) == len(names)
    assert (study["kind"], study["count"], study["send_to"]) == ("single", 6, None)
    assert not re.search(r"""(src|href)=["'](?!ATTRIBUTION|data:,)""", page)  # nothing is loaded from elsewhere
    assert "connect-src 'none';" in html.unescape(page)
    assert page.count("<script") == 2
    assert len(study["training"]) == 5
    assert (tmp_path / "page/ATTRIBUTION.md").is_file()


def test_what_browsers_show_otherwise_becomes_a_png_copy_and_the_rest_stays_as_it_is(run, tmp_path):
    root = tmp_path / "in"
    make_images(root, ["plain.png", "photo.jpg"])
    rgb = Image.open(root / "plain.png")
    for name in ("t.tif", "b.bmp", "g.gif", "p.jp2"):
        rgb.save(root / name)
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13).save(root / "deep.png")
    clear = rgb.convert("RGBA")
    clear.putalpha(100)
    clear.save(root / "clear.png")
    rgb.convert("CMYK").save(root / "cmyk.jpg")
    rgb.save(root / "still.webp", lossless=True)
    rgb.save(root / "moving.webp", save_all=True, append_images=[rgb.rotate(90)])
    turned = Image.Exif()
    turned[274] = 6
    rgb.save(root / "turned.jpg", exif=turned)
    rgb.save(root / "turned.png", exif=turned)
    done = run(TOOL, root, "-o", tmp_path / "page")
    assert done.code == 0, done.err
    shown = {image["name"]: image for image in study_in(tmp_path / "page")["images"]}
    kept = {name for name in shown if (root / name).read_bytes() == (tmp_path / "page" / shown[name]["file"]).read_bytes()}
    assert kept == {"plain.png", "photo.jpg", "still.webp", "turned.jpg"}
    for name, image in shown.items():
        copy = tmp_path / "page" / image["file"]
        np.testing.assert_array_equal(read_rgb(copy), read_rgb(root / name))
        if name not in kept:
            assert Image.open(copy).format == "PNG"
            assert Image.open(copy).mode == "RGB"
    assert (shown["turned.jpg"]["width"], shown["turned.jpg"]["height"]) == (90, 120)
    for reason in ("TIFF", "BMP", "GIF", "AVIF or JPEG 2000", "16-bit PNG", "transparency, on white", "CMYK", "turned by EXIF"):
        assert f"PNG copies ({reason}): 1, e.g. " in done.out
    assert browser_copy((root / "still.webp").read_bytes()) == (".webp", "")


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_shown(run, tmp_path):
    make_images(tmp_path / "in", ["a.png", "b.png"])
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (tmp_path / "in/notes.txt").write_text("")
    done = run(TOOL, tmp_path / "in", "-o", tmp_path / "page")
    assert done.code == 1
    assert re.search(r"not on the page: \S+broken.jpg: is truncated, damaged", done.err)
    assert "left out: 1 .txt" in done.out
    assert [image["name"] for image in study_in(tmp_path / "page")["images"]] == ["a.png", "b.png"]


def test_a_page_made_again_drops_the_images_that_went_and_only_those(run, tmp_path):
    make_images(tmp_path / "in", ["a.png", "b.png", "c.png"])
    assert run(TOOL, tmp_path / "in", "-o", tmp_path / "page").code == 0
    first = study_in(tmp_path / "page")
    (tmp_path / "page/images/mine.png").write_bytes(b"kept")
    (tmp_path / "in/c.png").unlink()
    assert run(TOOL, tmp_path / "in", "-o", tmp_path / "page", "--training", "none", "--title", "Again").code == 0
    second = study_in(tmp_path / "page")
    assert {path.name for path in (tmp_path / "page/images").iterdir()} == {
        "mine.png",
        *(Path(image["file"]).name for image in second["images"]),
    }
    assert second["study_id"] != first["study_id"]  # answers to other images are not mixed
    make_images(tmp_path / "in", ["a.png", "b.png", "c.png"])
    assert run(TOOL, tmp_path / "in", "-o", tmp_path / "page", "--title", "Third", "--repeats", 0).code == 0
    assert study_in(tmp_path / "page")["study_id"] == first["study_id"]


def test_of_a_thousand_images_each_rater_sees_a_part(run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a thousand of them take seconds
    for number in range(1000):
        (tmp_path / "in" / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 9)).save(tmp_path / "in" / f"{number % 7}/{number}.png")
    done = run(TOOL, tmp_path / "in", "-o", tmp_path / "page", "--training", "none")
    assert done.code == 0, done.err
    study = study_in(tmp_path / "page")
    assert (len(study["images"]), study["count"]) == (1000, 100)
    assert "15 raters for each image, the least by BT.500, take about 150 raters in all" in done.out
    assert (tmp_path / "page/index.html").stat().st_size < 300_000


def test_pairs_know_scenes_and_practice_on_pairs(run, tmp_path):
    make_images(tmp_path / "in", [f"{method}_{scene:012}.png" for method in ("CIC", "BIG", "ORG") for scene in (1, 2)])
    done = run(TOOL, tmp_path / "in", "--pairs", "-o", tmp_path / "page", "--send-to", "https://example.org/in?x=1")
    assert done.code == 0, done.err
    study = study_in(tmp_path / "page")
    assert (study["kind"], study["count"], study["questions"][0]["name"]) == (
        "pairs",
        8,
        "naturalness",
    )  # 6 within scenes, 2 that join them
    assert {image["scene"] for image in study["images"]} == {"000000000001", "000000000002"}
    assert [len(trial["images"]) for trial in study["training"]] == [2, 2, 2]
    assert study["send_to"] == "https://example.org/in?x=1"
    assert "connect-src https://example.org;" in (tmp_path / "page/index.html").read_text(encoding="utf-8")
    own = run(TOOL, tmp_path / "in", "--pairs", "--training", tmp_path / "in", "-o", tmp_path / "page")
    assert own.code == 0
    assert len(study_in(tmp_path / "page")["training"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}", "-o", "{in}/page"], "whose images it copies; give a folder elsewhere"),
        (["{in}", "-o", "{tmp}/other"], "index.html is another page; give --output a folder of its own"),
        (["{in}", "-o", "{tmp}/full"], "has other files in it; give the page a folder of its own"),
        (["{in}", "-o", "{in}/a.png"], "is a file, expected a folder"),
        (["{tmp}/none", "-o", "{tmp}/page"], "none does not exist; expected a folder, an image or a .txt list of images"),
        (["{tmp}/copies/images", "-o", "{tmp}/copies"], "are the copies of a page in --output"),
        (["{in}/a.png", "-o", "{tmp}/page"], "has 1 image to show, a study needs at least two"),
        (["{in}", "-o", "{tmp}/page", "--training", "{tmp}/none"], "none does not exist"),
        (["{in}", "-o", "{tmp}/page", "--pairs", "--ask", "CF", "PR"], "--pairs asks one question at a time"),
        (["{in}", "-o", "{tmp}/page", "--checks", "-1"], "expected a whole number from 0 to 100, got -1"),
    ],
)
def test_a_page_that_cannot_be_made_is_one_line(run, tmp_path, arguments, message):
    make_images(tmp_path / "in", ["a.png", "b.png"])
    make_images(tmp_path / "copies/images", ["a.png", "b.png"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/index.html").write_text("<p>mine</p>")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("mine")
    done = run(TOOL, *(argument.format(**{"in": tmp_path / "in", "tmp": tmp_path}) for argument in arguments))
    assert done.code != 0
    assert message in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert (tmp_path / "other/index.html").read_text() == "<p>mine</p>"


# --- the files of the raters


def planted(rater: int) -> dict[str, tuple[int, ...]]:
    """Scores of one rater for CF, SCC (the other way round) and PR (rotated)."""
    return {
        f"M{i:02}.png": (PLANTED[i][rater], PLANTED[-1 - i][rater], PLANTED[(i + 5) % len(PLANTED)][rater])
        for i in range(len(PLANTED))
    }


def test_files_of_three_raters_become_mos_in_the_planted_order(run, tmp_path):
    for rater in range(3):
        rater_file(tmp_path / f"in/deep/ratings_{rater}.json", f"r{rater}", planted(rater))
    (tmp_path / "in/mos_CF_mos.json").write_text('{"a": 0.5}')
    done = run(MOS_TOOL, tmp_path / "in", "--method", "raw", "-o", tmp_path / "mos/icqa.csv")
    assert done.code == 0, done.err
    assert "left out: 1 JSON file that is of no rater" in done.out
    rows = table_of(tmp_path / "mos/icqa.csv")
    assert [row["method"] for row in rows] == [row["image"] for row in rows]
    means = [(sum(scores) / 3 - 3) / 2 for scores in PLANTED]
    assert [float(row["CF"]) for row in rows] == pytest.approx(means, abs=1e-6)
    assert [float(row["SCC"]) for row in rows] == pytest.approx(means[::-1], abs=1e-6)
    assert [float(row["PR"]) for row in rows] == pytest.approx(means[5:] + means[:5], abs=1e-6)
    assert {row["CF_n"] for row in rows} == {"3"}
    assert all(float(row["CF_low"]) <= float(row["CF"]) <= float(row["CF_high"]) for row in rows)
    make_images(tmp_path / "mos", [f"M{i:02}.png" for i in range(12)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load_dataset(tmp_path / "mos/icqa.csv")
    assert len(frame) == 12
    assert frame["SCC"].notna().all()
    side = json.loads((tmp_path / "mos/icqa.csv.json").read_text(encoding="utf-8"))
    assert set(side["reliability"]) == set(QUESTIONS)
    assert len(side["files"]) == 3
    assert [row["checks_failed"] for row in table_of(tmp_path / "mos/raters.csv")] == ["0", "0", "0"]


def test_mos_files_are_in_the_layout_of_icqa2k(run, tmp_path):
    names = [f"{method}_{scene:012}.png" for method in ("CIC", "BIG") for scene in (1, 2, 3)]
    make_images(tmp_path / "ICQA_2K_test", names)
    for rater in range(3):
        rater_file(
            tmp_path / f"in/{rater}.json", f"r{rater}", {name: (PLANTED[2 * i][rater],) * 3 for i, name in enumerate(names)}
        )
    done = run(MOS_TOOL, *sorted((tmp_path / "in").iterdir()), "--method", "raw", "-o", tmp_path / "ICQA_2K_test.csv")
    assert done.code == 0, done.err
    frame = load_icqa2k(tmp_path, "test").set_index("image")
    assert list(frame.loc[names, "PR"]) == pytest.approx([(sum(PLANTED[2 * i]) / 3 - 3) / 2 for i in range(6)], abs=1e-6)


def test_images_of_one_name_in_two_folders_keep_their_own_mos(run, tmp_path):
    scores = {"a/x 1.png": (1, 5, 3), "b/x 1.png": (5, 1, 3), "ü.png": (3, 3, 5)}
    for rater in range(2):
        rater_file(tmp_path / f"{rater}.json", f"r{rater}", scores)
    done = run(MOS_TOOL, tmp_path / "0.json", tmp_path / "1.json", "--method", "raw", "-o", tmp_path / "o/mos.csv")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "o/mos_CF_mos.json").read_text(encoding="utf-8")) == {"a/x 1": -1.0, "b/x 1": 1.0, "ü": 0.0}
    assert [row["image"] for row in table_of(tmp_path / "o/mos.csv")] == sorted(scores)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conditions": {"color_vision": "deficient"}}, "color vision: deficient, as the rater says"),
        ({"failed": 1}, "attention: 1 of 1 check failed"),
        ({"repeats": 2}, "repeats: 2.00 points apart on average, at most 1.25"),
    ],
)
def test_who_is_not_to_be_believed_is_left_out_by_name(run, tmp_path, changes, reason):
    for rater in range(2):
        rater_file(tmp_path / f"in/{rater}.json", f"r{rater}", planted(rater))
    path = rater_file(tmp_path / "in/bad.json", "bad", planted(2), **{k: v for k, v in changes.items() if k == "conditions"})
    content = json.loads(path.read_text())
    if "failed" in changes:
        content["trials"][1]["scores"]["SCC"] = 1
    if "repeats" in changes:
        again = [trial for trial in content["trials"] if trial["kind"] == "rating"][:3]
        for trial in again:
            scores = {name: score + 2 if score < 4 else score - 2 for name, score in trial["scores"].items()}
            content["trials"].append({**trial, "kind": "repeat", "scores": scores})
    path.write_text(json.dumps(content))
    done = run(MOS_TOOL, tmp_path / "in", "-o", tmp_path / "mos.csv")
    assert done.code == 0, done.err
    assert f"left out: 1 rater ({reason}): bad" in done.out
    assert {row["rater"]: row["screened"] for row in table_of(tmp_path / "raters.csv")} == {"r0": "", "r1": "", "bad": reason}
    assert {row["CF_n"] for row in table_of(tmp_path / "mos.csv")} == {"2"}


def test_bt500_screens_ratings_of_a_page(run, tmp_path):
    rng = np.random.default_rng(0)
    quality = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 8)
    for rater in range(24):
        value = np.clip(np.rint((6 - quality if rater == 23 else quality) + rng.normal(0, 0.8, 40)), 1, 5).astype(int)
        rater_file(tmp_path / f"in/{rater}.json", f"r{rater}", {f"{i}.png": (int(v),) * 3 for i, v in enumerate(value)})
    done = run(MOS_TOOL, tmp_path / "in", "--screening", "bt500", "-o", tmp_path / "mos.csv")
    assert done.code == 0, done.err
    screened = {row["rater"]: row["screened"] for row in table_of(tmp_path / "raters.csv") if row["screened"]}
    assert list(screened) == ["r23"]
    assert screened["r23"].startswith("CF: BT.500: ")


def test_a_rater_who_saved_twice_counts_once(tmp_path):
    rater_file(tmp_path / "full.json", "r0", planted(0))
    rater_file(tmp_path / "part.json", "r0", dict(list(planted(0).items())[:4]), finished=None)
    rater_file(tmp_path / "other.json", "r1", planted(1))
    files = read_rating_files([tmp_path])
    assert list(files.raters["n"]) == [12, 12]
    assert files.notes == (f"left out: {tmp_path / 'part.json'}, an earlier or equal copy of {tmp_path / 'full.json'}",)


def pair_file(path: Path, rater: str, choices: list[tuple[str, str, str, str]]) -> Path:
    names = {name for _, a, b, _ in choices for name in (a, b)}
    trials = [{"kind": kind, "a": a, "b": b, "seconds": 2, "scores": {"naturalness": choice}} for kind, a, b, choice in choices]
    images = {name: {"file": "x.png"} for name in names}
    return rater_file(path, rater, {}, kind="pairs", questions=["naturalness"], trials=trials, images=images)


def test_choices_of_a_page_become_a_scale(run, tmp_path):
    names = [f"{i}.png" for i in range(4)]
    for rater in range(3):
        rows = [("rating", a, b, "b") for i, a in enumerate(names) for b in names[i + 1 :]]
        flip = (0, 3, 5)[rater]  # each says of other neighbors that the worse one is better
        rows[flip] = (*rows[flip][:3], "a")
        rows += [("repeat", b, a, {"a": "b", "b": "a"}[choice]) for _, a, b, choice in rows[:3]]
        pair_file(tmp_path / f"in/{rater}.json", f"r{rater}", rows)
    refused = run(MOS_TOOL, tmp_path / "in", "-o", tmp_path / "mos.csv")
    assert refused.err.endswith("these are choices between two images; add --pairs\n")
    done = run(MOS_TOOL, tmp_path / "in", "--pairs", "-o", tmp_path / "mos.csv", "--prior", 0.1)
    assert done.code == 0, done.err
    rows = table_of(tmp_path / "mos.csv")
    assert [row["image"] for row in sorted(rows, key=lambda row: float(row["PR"]))] == names
    assert "18 choices, 0 ties among them, between 4 images" in done.out
    assert [float(row["repeat_difference"]) for row in table_of(tmp_path / "raters.csv")] == [0, 0, 0]
    always_a = [("rating", names[0], names[1], "a")]
    always_a += [("rating", a, names[3], "a") for a in names[:3]] + [("repeat", names[3], a, "a") for a in names[:3]]
    pair_file(tmp_path / "in/3.json", "r3", always_a)
    done = run(MOS_TOOL, tmp_path / "in", "--pairs", "-o", tmp_path / "mos.csv", "--prior", 0.1)
    assert "left out: 1 rater (repeats: 0% of the choices made again, at least 50%): r3" in done.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"format": "icqa-rating 1", "trials": [',
            "bad.json is damaged (Expecting value, line 1); ask the rater to send it again",
        ),
        ("{}", "bad.json is no file of a rating page: it has no format 'icqa-rating 1'"),
        ("[1]", "bad.json is no file of a rating page"),
        ('{"format": "icqa-rating 2"}', "bad.json has the format 'icqa-rating 2', expected 'icqa-rating 1'"),
        (b"\xff\xfe{\0}\0", "bad.json is not a file of a rating page but UTF-16; ask the rater to send it again"),
        ({"study_id": "other"}, "is of another study than"),
        ({"kind": "triples"}, "bad.json: kind is 'triples', expected single or pairs"),
        ({"questions": ["beauty"]}, "bad.json: questions are ['beauty'], expected some of CF, SCC, PR, naturalness"),
        ({"rater": "a\nb"}, "bad.json: rater is 'a\\nb', expected a short name"),
        ({"trials": 3}, "bad.json: trials is 3, expected list"),
        ({"images": {}}, "bad.json, trial 1: image must be images of the list at the end, got ('M00.png',)"),
        ({"score": 6}, "bad.json, trial 1: CF is 6, must be one of 1, 2, 3, 4, 5"),
        ({"score": True}, "bad.json, trial 1: CF is True, must be one of 1, 2, 3, 4, 5"),
        ({"score": [1]}, "bad.json, trial 1: CF is [1], must be one of 1, 2, 3, 4, 5"),
        ({"twice": True}, "M00.png is rated a second time and not marked as a repeat"),
        ({"seconds": -1}, "bad.json, trial 1: seconds is -1, expected a number of at least 0"),
        ({"scene": "2"}, "scene and method of M00.png are ('2', 'M00.png'), in other files ('1', 'M00.png')"),
        ({"rater": "r0", "seed": 8}, "are of one rater, r0, but of two sittings; keep one"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(run, tmp_path, text, message):
    first = rater_file(tmp_path / "in/0.json", "r0", planted(0))
    bad = tmp_path / "in/bad.json"
    if isinstance(text, dict):
        rater_file(
            bad, "bad", planted(1), **{key: value for key, value in text.items() if key not in ("score", "twice", "scene")}
        )
        content = json.loads(bad.read_text())
        if "score" in text:
            content["trials"][0]["scores"]["CF"] = text["score"]
        if "seconds" in text:
            content["trials"][0]["seconds"] = text["seconds"]
        if "twice" in text:
            content["trials"].append(content["trials"][0])
        if "scene" in text:
            content["images"]["M00.png"]["scene"] = text["scene"]
        bad.write_text(json.dumps(content))
    else:
        bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run(MOS_TOOL, first, bad, "-o", tmp_path / "mos.csv")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert message in done.err


def test_flags_of_csv_files_do_not_apply_to_a_page(run, tmp_path):
    rater_file(tmp_path / "in/0.json", "r0", planted(0))
    done = run(MOS_TOOL, tmp_path / "in", "--range", 1, 5, "-o", tmp_path / "mos.csv")
    assert "--range does not apply to files of a rating page" in done.err
    done = run(MOS_TOOL, tmp_path / "in", "x.csv", "-o", tmp_path / "mos.csv")
    assert "give a CSV file of ratings or choices, or files of a rating page or their folder" in done.err
    done = run(MOS_TOOL, tmp_path / "in", "-o", tmp_path / "mos.csv")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "1 rater of 1 rated CF and is kept; a mean opinion needs at least two" in done.err
    (tmp_path / "empty").mkdir()
    done = run(MOS_TOOL, tmp_path / "empty", "-o", tmp_path / "mos.csv")
    assert done.err == "error: no file of a rating page there; expected the files that raters save, ratings_*.json\n"


# --- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium; apt-get install chromium")
    try:
        sync_api = importlib.import_module("playwright.sync_api")
    except ImportError:
        pytest.skip("no playwright; pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Rater:
    """A person at the page: answers by the file of the image that is shown, by keys or by mouse."""

    def __init__(self, browser, url: str, size: tuple[int, int] = (1280, 800), code: str = ""):
        self.page = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True))).new_page()
        self.page.set_default_timeout(20_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.quick()
        if code:
            self.page.fill("#code", code)
        self.page.click("#begin")
        for field in self.page.query_selector_all("#conditions select"):
            field.select_option(index=1)
        self.page.click("#conditions-form button")

    def quick(self) -> None:
        self.page.evaluate("study.gap = 0")

    def ready(self) -> dict:
        self.page.wait_for_selector("#trial[aria-busy=false]")
        return self.page.evaluate("({kind: current.item.kind, expected: current.item.expected, images: current.item.images})")

    def practice(self) -> None:
        self.page.click("#practice")
        for _ in range(self.page.evaluate("study.training.length")):
            self.ready()
            for _ in range(self.page.evaluate("study.questions.length")):
                self.page.keyboard.press("2")
            self.page.keyboard.press("Enter")
            self.page.wait_for_selector("#note:not([hidden])")
            self.page.keyboard.press("Enter")
        self.page.click("#main-part")

    def answer(self, values: list, mouse: bool = False) -> None:
        for question, value in enumerate(values):
            if mouse:
                self.page.locator(f"fieldset[data-question='{question}'] label").nth(value - 1).click()
            else:
                self.page.keyboard.press(str(value))
        if mouse:
            self.page.click("#next")
        else:
            self.page.keyboard.press("Enter")

    def save(self, folder: Path) -> dict:
        self.page.wait_for_selector("#end:not([hidden])")
        with self.page.expect_download() as download:
            self.page.click("#save")
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def twelve(tmp_path, run) -> Path:
    """A page of twelve images in two folders, of one name in both."""
    make_images(tmp_path / "in", [f"{folder}/bild ü{i}.png" for folder in "AB" for i in range(6)])
    done = run(TOOL, tmp_path / "in", "-o", tmp_path / "page")
    assert done.code == 0, done.err
    return tmp_path / "page"


def test_three_raters_in_a_browser_give_the_planted_order(browser, twelve, tmp_path, run):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(twelve))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [
        twelve.as_uri() + "/index.html",
        twelve.as_uri() + "/index.html",
        f"http://127.0.0.1:{server.server_port}/?rater=Zoë+B",
    ]
    files, orders = tmp_path / "files", []
    try:
        for number, url in enumerate(urls):
            rater = Rater(browser, url, ((1280, 800), (390, 844), (3840, 2160))[number])
            rater.practice()
            total, seen = rater.page.evaluate("plan.length"), set()
            assert total == 12 + 5 + 3
            for trial in range(total):
                item = rater.ready()
                if number == 0 and trial == 9:  # a reload in the middle of an answer, and on from there
                    rater.page.keyboard.press("1")
                    rater.page.reload()
                    rater.quick()
                    assert "9 of 20 are done" in rater.page.inner_text("#resume-text")
                    rater.page.click("#go-on")
                    assert rater.ready() == item
                    assert rater.page.evaluate("answerOf(study.questions[0])") == 1
                    rater.page.locator("fieldset[data-question='0'] label").nth(4).click()
                    rater.page.evaluate("state.draft = {}; fill({})")
                if item["kind"] == "check":
                    scores = [item["expected"]] * 3
                else:
                    (image,) = item["images"]
                    scores = [PLANTED[image][number], PLANTED[-1 - image][number], PLANTED[(image + 5) % 12][number]]
                if number == 1 and trial == 3:  # a slip, gone back to and mended
                    rater.answer([5, 5, 5], mouse=True)
                    rater.ready()
                    rater.page.click("#back")
                    assert rater.ready() == item
                rater.answer(scores, mouse=number == 1)
                seen.add(rater.page.inner_text("#trial h1") if trial + 1 < total else "end")
            content = rater.save(files)
            orders.append([trial["image"] for trial in content["trials"] if trial["kind"] == "rating"])
            assert rater.problems == []
            root = url.partition("index.html")[0].partition("?")[0]
            assert [request for request in rater.requests if not request.startswith((root, "blob:"))] == []
            assert content["finished"]
            assert content["conditions"]["color_vision"] == "normal"
            assert [trial["kind"] for trial in content["trials"]].count("repeat") == 5
            assert content["went_back"] == (number == 1)
            if number == 2:
                assert content["rater"].startswith("Zoë_B-")
            rater.page.context.close()
    finally:
        server.shutdown()
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(orders[0]) for order in orders)

    done = run(MOS_TOOL, files, "--method", "raw", "-o", tmp_path / "mos.csv")
    assert done.code == 0, done.err
    rows = table_of(tmp_path / "mos.csv")
    means = [(sum(scores) / 3 - 3) / 2 for scores in PLANTED]
    assert [row["image"] for row in rows] == sorted(orders[0])
    assert [float(row["CF"]) for row in rows] == pytest.approx(means, abs=1e-6)
    assert [float(row["SCC"]) for row in rows] == pytest.approx(means[::-1], abs=1e-6)
    assert [float(row["PR"]) for row in rows] == pytest.approx(means[5:] + means[:5], abs=1e-6)
    assert "hidden repeats differ by 0.00 points on average" in done.out


def test_a_rater_of_pairs_in_a_browser_gives_the_planted_order(browser, tmp_path, run):
    make_images(tmp_path / "in", [f"{i}.png" for i in range(6)])
    received: list[bytes] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}/in"
    assert run(TOOL, tmp_path / "in", "--pairs", "-o", tmp_path / "page", "--send-to", where).code == 0
    rater = Rater(browser, (tmp_path / "page").as_uri() + "/index.html", (390, 844), code="  = Ann / 1 ")
    rater.practice()
    for _ in range(rater.page.evaluate("plan.length")):
        item = rater.ready()
        better = item["expected"] if item["kind"] == "check" else "ab"[item["images"][1] > item["images"][0]]
        if item["kind"] != "check":
            assert rater.page.locator("#stage img").count() == 2
        rater.page.keyboard.press(better)
        rater.page.keyboard.press("Enter")
    content = rater.save(tmp_path / "files")
    assert content["rater"].startswith("Ann_1-")
    rater.page.click("#send")
    rater.page.wait_for_selector("text=Sent. Thank you!")
    server.shutdown()
    assert {**json.loads(received[0]), "saved": None} == {**content, "saved": None}
    assert rater.problems == []
    assert len({frozenset((t["a"], t["b"])) for t in content["trials"] if t["kind"] == "rating"}) == 15
    done = run(MOS_TOOL, tmp_path / "files", "--pairs", "--prior", 0.1, "-o", tmp_path / "mos.csv")
    assert done.code == 0, done.err
    rows = table_of(tmp_path / "mos.csv")
    assert [row["image"] for row in sorted(rows, key=lambda row: float(row["PR"]))] == [f"{i}.png" for i in range(6)]


def test_an_image_that_does_not_load_can_be_left_out(browser, twelve):
    study = study_in(twelve)
    (twelve / study["images"][4]["file"]).unlink()
    rater = Rater(browser, twelve.as_uri() + "/index.html")
    rater.practice()
    for _ in range(rater.page.evaluate("plan.length")):
        item = rater.ready()
        if item["images"] == [4]:
            rater.page.get_by_text("Go on without it").click()
        else:
            rater.answer([item["expected"] or 3] * 3)
    content = rater.save(twelve.parent / "files")
    broken = [trial for trial in content["trials"] if trial.get("skipped")]
    assert {trial["image"] for trial in broken} == {study["images"][4]["name"]}
    files = read_rating_files([twelve.parent / "files"])
    assert files.raters["n"].iloc[0] == 11


def test_the_page_fits_its_window_from_a_phone_to_4k(browser, twelve):
    for width, height in ((360, 640), (390, 844), (844, 390), (1280, 720), (3840, 2160)):
        rater = Rater(browser, twelve.as_uri() + "/index.html", (width, height))
        rater.page.click("#practice")
        rater.ready()
        fits = (
            "e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.left >= -1 && r.right <= innerWidth + 1 "
            "&& r.bottom <= innerHeight + 1; }"
        )
        for selector in ("#stage img", "#next", "fieldset:last-of-type", "#pause"):
            assert rater.page.eval_on_selector(selector, fits), (selector, width, height)
        assert rater.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        sizes = rater.page.eval_on_selector_all(".options label", "es => es.map(e => e.getBoundingClientRect().height)")
        assert min(sizes) >= (32 if height == 390 else 40)
        assert rater.page.eval_on_selector("#stage img", "e => e.getBoundingClientRect().height") >= 0.25 * height
        rater.page.context.close()
