"""The page to try the scores: what is said of dropped files, and the page itself, where gradio is installed."""

import csv
import importlib.util
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
from report.judgment import Judge, to_csv
from utils.scores import read_scores

REPO = Path(__file__).resolve().parents[1]
SAMPLES = sorted((REPO / "data" / "samples").glob("*_000000000002.jpg"))
CAT = "15 0.5 0.5 0.8 0.8\n"


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory) -> dict[str, dict[str, str]]:
    """The rows of a score file of infer_PR.py, as text by image."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "images").mkdir()
    for path in SAMPLES:
        (folder / "images" / path.name).write_bytes(path.read_bytes())
    assert run("infer_PR.py", folder / "images", "-o", folder / "pr.csv").code == 0
    return rows_of((folder / "pr.csv").read_text())


def rows_of(text: str) -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in csv.DictReader(text.splitlines())}


def test_scores_are_those_of_the_script_to_the_digit(judge, scored, tmp_path):
    text = to_csv(judge(SAMPLES[::-1]))
    assert rows_of(text) == scored
    names = [line.partition(",")[0] for line in text.splitlines()[1:]]
    assert names == sorted(scored, key=lambda name: -float(scored[name]["PR"]))  # the highest PR first
    (tmp_path / "copied.csv").write_text(text)
    assert read_scores(tmp_path / "copied.csv", "PR")["image"].tolist() == names  # a score file, as far as it goes


def test_versions_are_ranked_with_their_place_among_photographs(judge):
    html = judge.html(judge(SAMPLES))
    assert re.findall(r"<h3>(\d)\. ", html) == ["1", "2", "3", "4", "5"]
    assert len(re.findall(r"(above \d+|lowest 5|highest 5) % of photos<span", html)) == 15
    assert "1,053 real photographs" in html
    assert html.count("data:image/jpeg;base64,") == 15  # image, surprise map and expected colors of each
    assert "No objects are named" in html
    assert "http" not in html


def test_one_image_has_no_rank(judge):
    html = judge.html(judge(SAMPLES[:1]))
    assert f"<h3>{SAMPLES[0].name}</h3>" in html
    assert 'class="rank"' not in html


def test_what_cannot_be_read_is_named_without_its_folder_and_stops_no_other(judge, tmp_path):
    whole = SAMPLES[0].read_bytes()
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "<b>.jpg").write_bytes(whole)
    (tmp_path / "words.txt").write_text("no label file\n")
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "gone.png"]
    judgments = {judgment.name: judgment for judgment in judge(paths)}
    assert next(iter(judgments)) == "<b>.jpg"
    assert judgments["torn.jpg"].error.startswith("torn.jpg: is truncated")
    assert judgments["text.png"].error.startswith("text.png: is no image by its content")
    assert judgments["gone.png"].error == "gone.png: no such file"
    assert judgments["words.txt"].error.startswith("words.txt, line 1: ")
    html = judge.html([*judgments.values()])
    assert "<b>." not in html
    assert "&lt;b&gt;.jpg" in html
    assert str(tmp_path) not in html
    assert sorted(tmp_path.iterdir()) == sorted(paths[:-1])  # nothing is written


def test_a_file_that_cannot_be_read_alone_gets_a_page_too(judge, tmp_path):
    html = judge.html(judge([tmp_path / "gone.png"]))
    assert "gone.png: no such file" in html
    assert "of photos" not in html


def test_unusual_files_are_read_as_the_scripts_read_them(judge, tmp_path):
    image = Image.open(SAMPLES[0])
    gray = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(gray).save(tmp_path / "deep.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    turned = Image.Exif()
    turned[274] = 6
    image.save(tmp_path / "turned.jpg", exif=turned)
    judgments = {judgment.name: judgment for judgment in judge(sorted(tmp_path.iterdir()))}
    assert [judgments[name].error for name in ("deep.png", "cmyk.jpg", "turned.jpg")] == [""] * 3
    assert judgments["deep.png"].gray
    assert "This image has no color" in judge.html([judgments["deep.png"]])


def test_a_single_label_file_is_of_all_versions_and_changes_no_score(judge, scored, tmp_path):
    (tmp_path / "cat.txt").write_text(CAT)
    judgments = judge([*SAMPLES, tmp_path / "cat.txt"])
    assert [[found["what"] for found in judgment.view.objects] for judgment in judgments] == [["cat"]] * 5
    assert rows_of(to_csv(judgments)) == scored
    assert "1 labeled object<" in judge.html(judgments)


def test_of_several_label_files_each_is_of_the_image_of_its_name(judge, tmp_path):
    first, second = SAMPLES[:2]
    (tmp_path / f"{first.stem}.txt").write_text("")
    (tmp_path / "other.txt").write_text(CAT)
    judgments = {judgment.name: judgment for judgment in judge([first, second, *sorted(tmp_path.iterdir())])}
    assert judgments[first.name].labeled
    assert not judgments[second.name].labeled
    assert judgments["other.txt"].error == "other.txt: no image named other came with this label file"
    assert "No labeled objects" in judge.html([judgments[first.name]])


def test_too_many_files_are_refused_in_a_sentence(judge):
    html, table = demo.judge_files(judge, ["image.jpg"] * 13)
    assert "13 files came at once; drop up to 12" in html
    assert table == ""
    assert demo.judge_files(judge, None) == ("", "")


def test_the_examples_are_the_samples_by_scene():
    scenes = demo.sample_scenes()
    assert [len(paths) for paths in scenes] == [5] * 8
    assert all(Path(paths[0]).name.startswith("ORG") for paths in scenes)
    assert demo.examples_html(scenes).count("<button") == 8


def test_old_uploads_are_deleted_and_new_ones_kept(tmp_path):
    (tmp_path / "hash").mkdir()
    (tmp_path / "hash" / "image.jpg").touch()
    (tmp_path / "part").touch()
    demo.delete_old(tmp_path, 60)
    assert len([*tmp_path.rglob("*")]) == 3
    demo.delete_old(tmp_path, -60)
    assert [*tmp_path.iterdir()] == []


def test_without_gradio_a_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("demo.py")
    assert (done.code, done.err) == (1, "error: demo.py needs gradio: pip install -r requirements-demo.txt\n")


# --- the page itself


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[str]:
    """The address of a page of its own, whose machine has an empty home and an empty folder of temporary files."""
    if importlib.util.find_spec("gradio") is None:  # importing it would make its folder of temporary files
        pytest.skip("no gradio; pip install -r requirements-demo.txt")
    home, temporary = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "MPLCONFIGDIR": str(home)}
    command = [sys.executable, "-u", REPO / "demo.py"]
    process = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("page: http://127.0.0.1:"), line + process.stderr.read()
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert [*temporary.iterdir()] == []  # uploads are gone with the page
    assert [path for path in home.rglob("*") if path.is_file() and "font" not in path.name] == []


def test_an_upload_gets_the_scores_of_the_script(page, scored):
    client = importlib.import_module("gradio_client")
    uploads = [client.handle_file(str(path)) for path in SAMPLES]
    html, table = client.Client(page, verbose=False).predict(uploads, api_name="/judge")
    assert rows_of(table) == scored
    assert 'class="rank"' in html


def test_the_page_loads_nothing_from_elsewhere_and_gives_no_other_file(page):
    with urllib.request.urlopen(page) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        config = answer.read().decode()
    assert '"analytics_enabled":false' in config.replace(" ", "")
    assert "fonts.googleapis.com/css" not in config
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{page}gradio_api/file={REPO / 'README.md'}")


def test_a_file_that_is_too_large_is_refused(page):
    boundary = "a-boundary-of-the-form"
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'.encode()
    body = start + bytes(demo.MOST_MEGABYTES * 2**20 + 1) + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(urllib.request.Request(f"{page}gradio_api/upload", body, headers))
