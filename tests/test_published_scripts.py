"""The published preset as a user runs it: published scores through the scripts, odd files, going on, export, all of the way."""

import csv
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FIGURES, NAMES, digest, golden_state, labels, write_inputs
from PIL import Image
from published_layout import cf_layout, pr_layout, scc_layout
from readers import assert_one_line, meta_of, rows_of
from scipy import stats

from inference import scorer
from models import load_model, loading
from models.published import PublishedCF, PublishedPR
from tools.make_icqa2k_standin import make
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.files import sha256
from utils.labels import ObjectLabels, read_color_curves
from utils.scores import ScoreWriter, read_scores

SCORE = 2e-6  # tolerance, as in test_published; score files round to 5e-7
DIMENSIONS = ("CF", "SCC", "PR")
LAYOUTS = {"CF": cf_layout, "SCC": scc_layout, "PR": pr_layout}
NEWER = "transformers-5.9"
KNOWN = {"CF": FIGURES["scores"]["CF"]["bicubic"], "SCC": FIGURES["scores"]["SCC"]["infer"], "PR": FIGURES["scores"]["PR"]}
WITHOUT_LABELS = FIGURES["extra"]["SCC"][0]["infer"]  # the SCC of synth1

Runner = Callable[..., object]


# --- helpers


def column(path: Path, dimension: str) -> list[float]:
    return [float(row[dimension]) for row in rows_of(path).values()]


def infer(run: Runner, dimension: str, images: Path, output: Path, *options: object) -> Path:
    """Score with an inference script that must succeed."""
    result = run(f"infer_{dimension}.py", images, "-o", output, *options)
    assert result.code == 0, result.err
    return output


def listed(folder: Path, images: list[Path], name: str = "list.txt") -> Path:
    """A list file of these images."""
    (folder / name).write_text("".join(f"{path}\n" for path in images), encoding="utf-8")
    return folder / name


def images_of(home: Path, *numbers: int) -> list[Path]:
    return [home / "images" / f"{NAMES[number]}.png" for number in numbers]


def note_scored(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are worked on from now."""
    real, names = scorer.Scorer.__call__, []

    def noting(self: scorer.Scorer, path: Path, known: object, name: str = "") -> scorer.ImageResult:
        names.append(name)
        return real(self, path, known, name)

    patch.setattr(scorer.Scorer, "__call__", noting)
    return names


# --- what a user has


@pytest.fixture(scope="module", autouse=True)
def _no_gpu() -> Iterator[None]:
    """The published scores are those of a CPU; on a GPU their last digits are others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A folder as users of the published repository have it: CF.pth, SCC.pth, PR.pth, labels, color_.json, and images."""
    root = tmp_path_factory.mktemp("home")
    write_inputs(root)
    for dimension, layout in LAYOUTS.items():
        torch.save(golden_state(layout()), root / f"{dimension}.pth")
    yield root
    for dimension in DIMENSIONS:
        (root / f"{dimension}.pth").unlink()  # half a gigabyte that pytest would keep


@pytest.fixture(scope="module")
def objects(home) -> list[object]:
    return ["--labels", home / "labels", "--color-prior", home / "color_.json"]


def test_labels_and_color_prior_are_found_beside_the_folder_of_images(run, home, objects, tmp_path):
    told, found = tmp_path / "told.csv", tmp_path / "found.csv"
    weights = ["--weights", home / "SCC.pth"]
    assert run("infer_SCC.py", home / "images", *weights, *objects, "-o", told).code == 0
    result = run("infer_SCC.py", home / "images", *weights, "-o", found)
    assert result.code == 0, result.err
    assert f"objects: {home / 'labels'}, color prior {home / 'color_.json'}" in result.out
    assert found.read_bytes() == told.read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A checkpoint of a published CF network on a transformer that is quick."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("small") / "cf.pt"
    save_checkpoint(path, PublishedCF("test_vit"))
    return path


@pytest.fixture(scope="module")
def trio(home, small) -> list[object]:
    """Weights of infer_PR.py for all three scores, with the quick CF."""
    return ["--weights", home / "PR.pth", "--cf-weights", small, "--scc-weights", home / "SCC.pth"]


@pytest.fixture(scope="module")
def scored(run, home, objects, tmp_path_factory) -> Path:
    """A folder with cf.csv, scc.csv and pr.csv of the four images, one script and one thread each."""
    root = tmp_path_factory.mktemp("scored")
    options = {
        "CF": [],
        "SCC": objects,
        "PR": [x for low in ("cf", "scc") for x in (f"--{low}", root / f"{low}.csv")],
    }
    for dimension, more in options.items():
        low = dimension.lower()
        own = ["--weights", home / f"{dimension}.pth", "--workers", 1, "--json", root / f"{low}.json"]
        infer(run, dimension, home / "images", root / f"{low}.csv", *own, *more)
    return root


# --- published scores


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_scripts_give_the_published_scores_and_say_how(scored, home, dimension):
    path = scored / f"{dimension.lower()}.csv"
    assert list(rows_of(path)) == [f"{name}.png" for name in NAMES]
    assert column(path, dimension) == pytest.approx(KNOWN[dimension], abs=SCORE)
    assert all(row["error"] == "" for row in rows_of(path).values())
    published = json.loads(path.with_suffix(".json").read_text())
    assert published == dict(zip(NAMES, column(path, dimension), strict=True))

    meta = meta_of(path)
    assert (meta["dimension"], meta["count"], meta["errors"]) == (dimension, 4, 0)
    assert meta["sample"] == "unknown"  # a published file does not say what it was trained on
    assert meta["weights"][dimension] == sha256(home / f"{dimension}.pth")
    assert meta["preprocessing"]["size"] == {"CF": 384, "SCC": 224, "PR": 224}[dimension]
    assert {"CF": "bicubic", "SCC": "bilinear", "PR": "bilinear"}[dimension] in meta["preprocessing"]["resize"]
    assert "precision" not in meta["preprocessing"]
    if dimension == "SCC":
        assert meta["preprocessing"]["attention"] == "infer"
        assert meta["preprocessing"]["labels"] == str(home / "labels")
        assert meta["weights"]["color prior"] == sha256(home / "color_.json")
    if dimension == "PR":
        assert meta["weights"]["CF file"] == sha256(scored / "cf.csv")
        for sub in ("CF", "SCC"):
            assert column(path, sub) == column(scored / f"{sub.lower()}.csv", sub)


def test_attention_as_in_the_published_training_gives_its_scores(run, home, objects, tmp_path):
    own = ["--weights", home / "SCC.pth", *objects, "--attention", "train"]
    path = infer(run, "SCC", home / "images", tmp_path / "scc.csv", *own)
    assert column(path, "SCC") == pytest.approx(FIGURES["scores"]["SCC"]["train"], abs=SCORE)
    assert meta_of(path)["preprocessing"]["attention"] == "train"


def test_objects_are_found_by_the_name_of_the_image_and_a_image_without_a_label_file_has_none(run, home, objects, tmp_path):
    (tmp_path / "labels").mkdir()
    for number, text in ((0, labels(3)), (2, labels(2)), (3, labels(3)[:20])):
        (tmp_path / "labels" / f"{NAMES[number]}.txt").write_text("\n".join(text))
    own = ["--weights", home / "SCC.pth", "--color-prior", home / "color_.json"]
    result = run("infer_SCC.py", home / "images", "-o", tmp_path / "scc.csv", *own, "--labels", tmp_path / "labels")
    assert result.code == 0
    assert f"1 of 4 images have no label file in {tmp_path / 'labels'}: scored without objects, as published" in result.out
    with_labels_of_synth3 = FIGURES["extra"]["SCC"][1]["infer"]
    known = [with_labels_of_synth3, WITHOUT_LABELS, *KNOWN["SCC"][2:]]  # the published network sees 20 objects at most
    assert column(tmp_path / "scc.csv", "SCC") == pytest.approx(known, abs=SCORE)

    none = run("infer_SCC.py", home / "images", "-o", tmp_path / "none.csv", *own, "--labels", "none")
    assert "label file" not in none.out
    assert column(tmp_path / "none.csv", "SCC")[:2] == pytest.approx([KNOWN["SCC"][0], WITHOUT_LABELS], abs=SCORE)
    assert meta_of(tmp_path / "none.csv")["preprocessing"]["labels"] == "none"


def test_pr_reads_the_result_files_of_the_published_scripts(run, home, scored, tmp_path):
    for low, kind in itertools.product(("cf", "scc"), ("authors", "own")):
        own = json.loads((scored / f"{low}.json").read_text())
        full = dict(zip(NAMES, KNOWN[low.upper()], strict=True))  # more digits than ours
        (tmp_path / f"{kind}_{low}.json").write_text(json.dumps(own if kind == "own" else full, indent=4))
    for kind in ("authors", "own"):
        given = [x for low in ("cf", "scc") for x in (f"--{low}", tmp_path / f"{kind}_{low}.json")]
        infer(run, "PR", home / "images", tmp_path / f"{kind}.csv", "--weights", home / "PR.pth", *given)
    assert (tmp_path / "own.csv").read_bytes() == (scored / "pr.csv").read_bytes()
    assert column(tmp_path / "authors.csv", "PR") == pytest.approx(KNOWN["PR"], abs=SCORE)


def test_all_three_scores_come_from_the_files_in_the_current_folder_and_from_four_threads_as_from_one(
    run, home, scored, tmp_path, monkeypatch
):
    for name in ("CF.pth", "SCC.pth", "PR.pth", "labels", "color_.json"):
        (tmp_path / name).symlink_to(home / name)
    (tmp_path / "some").mkdir()
    for path in images_of(home, 1, 3):
        (tmp_path / "some" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    result = run("infer_PR.py", "some", "--preset", "published", "--workers", 4)
    assert result.code == 0, result.err
    assert f"no --cf: CF is computed with {tmp_path / 'CF.pth'}" in result.out
    assert f"no --scc: SCC is computed with {tmp_path / 'SCC.pth'}" in result.out
    assert f"PR weights: {tmp_path / 'PR.pth'}" in result.out
    for dimension in DIMENSIONS:
        made = Path("results") / f"some_{dimension}.csv"
        assert f"{dimension}: {made}" in result.out
        lines = (scored / f"{dimension.lower()}.csv").read_bytes().splitlines(keepends=True)
        assert made.read_bytes() == lines[0] + lines[2] + lines[4]
    weights = meta_of(Path("results/some_PR.csv"))["weights"]
    assert weights == {d: sha256(home / f"{d}.pth") for d in DIMENSIONS} | {"color prior": sha256(home / "color_.json")}

    for dimension, more in (("SCC", []), ("PR", ["--cf", scored / "cf.csv", "--scc", scored / "scc.csv"])):
        own = ["--preset", "published", "--workers", 4, *more]
        path = infer(run, dimension, home / "images", Path(f"{dimension}.csv"), *own)
        assert path.read_bytes() == (scored / f"{dimension.lower()}.csv").read_bytes()


def test_a_image_scores_the_same_alone_and_in_company(run, home, objects, scored, tmp_path):
    """For CF, which takes its time, see the checkpoint of ours below."""
    for dimension, more in (("SCC", objects), ("PR", ["--cf", scored / "cf.csv", "--scc", scored / "scc.csv"])):
        together = rows_of(scored / f"{dimension.lower()}.csv")
        for image in images_of(home, 0, 1, 2, 3):
            own = ["--weights", home / f"{dimension}.pth", *more]
            alone = rows_of(infer(run, dimension, image, tmp_path / f"{image.stem}_{dimension}.csv", *own))
            assert alone == {image.name: together[image.name]}


# --- wrong or missing files


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """The current folder, in a world where no published file lies beside the scripts."""
    monkeypatch.setattr(loading, "SHIPPED", tmp_path / "repository" / "weights")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_absent_published_weights_are_named_with_where_to_put_them(run, home, elsewhere, dimension):
    result = run(f"infer_{dimension}.py", home / "images", "--preset", "published")
    places = [str(elsewhere), str(elsewhere.parent / "repository"), str(elsewhere.parent / "repository" / "weights")]
    first = "CF" if dimension == "PR" else dimension
    assert_one_line(result, f"no {first}.pth in ", *places, "github.com/ARBEZ-ZEBRA/ICQA", "put it there")
    assert list(elsewhere.iterdir()) == []


def test_absent_labels_and_an_absent_color_prior_are_named_with_where_to_put_them(run, home, elsewhere, tmp_path):
    shutil.copytree(home / "images", tmp_path / "alone" / "images")
    command = ["infer_SCC.py", tmp_path / "alone" / "images", "--weights", home / "SCC.pth"]
    assert_one_line(run(*command), "no color_.json in ", str(elsewhere), "put it there or name it on the command line")
    prior = ["--color-prior", home / "color_.json"]
    assert_one_line(run(*command, *prior), "no labels in ", str(elsewhere), "put it there or name it on the command line")
    words = ["no folder of object labels", str(elsewhere / "no"), "--labels"]
    assert_one_line(run(*command, *prior, "--labels", elsewhere / "no"), *words)
    words = [f"no color prior {elsewhere / 'no.json'}", "--color-prior"]
    assert_one_line(run(*command, "--color-prior", elsewhere / "no.json", "--labels", "none"), *words)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("CF", ["--weights", "SCC.pth"], ["SCC.pth holds a SCC network, expected CF"]),
        ("SCC", ["--weights", "PR.pth"], ["PR.pth holds a PR network, expected SCC"]),
        ("PR", ["--cf-weights", "PR.pth"], ["PR.pth holds a PR network, expected CF"]),
        (
            "SCC",
            ["--weights", "SCC.pth", "--preset", "compact"],
            ["preset published; expected one of the preset compact"],
        ),
        (
            "SCC",
            ["--weights", "SCC.pt", "--preset", "published"],
            ["preset compact; expected one of the preset published"],
        ),
        ("SCC", ["--weights", "SCC.pt", "--color-prior", "color_.json"], ["--color-prior is for a published SCC network"]),
        ("SCC", ["--weights", "SCC.pt", "--attention", "infer"], ["--attention is for a published SCC network", "SCC.pt"]),
        ("SCC", ["--weights", "SCC.pt", "--precision", "bfloat16"], ["--precision bfloat16 is for published networks"]),
        ("CF", ["--weights", "CF.pt", "--precision", "tf32"], ["--precision tf32 is for published networks"]),
        (
            "PR",
            ["--cf-weights", "CF.pt", "--scc-weights", "SCC.pt", "--attention", "train"],
            ["--attention is for a published"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_does_not_go_together_is_refused_with_one_line(run, home, weights, tmp_path, script, options, words):
    places = {f"{d}.pt": path for d, path in weights.items()}
    places |= {name: home / name for name in ("SCC.pth", "PR.pth", "labels", "color_.json")}
    result = run(f"infer_{script}.py", home / "images", "-o", tmp_path / "x.csv", *(places.get(x, x) for x in options))
    assert_one_line(result, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_color_prior_is_refused_before_any_image(run, home, tmp_path):
    (tmp_path / "color_.json").write_text('{"0": [1, 2]}')
    own = ["--weights", home / "SCC.pth", "--color-prior", tmp_path / "color_.json", "--labels", "none"]
    result = run("infer_SCC.py", home / "images", "-o", tmp_path / "scc.csv", *own)
    assert_one_line(result, f'{tmp_path / "color_.json"}: class "0"', "as in the published color_.json")
    assert not (tmp_path / "scc.csv").exists()


# --- odd images and labels


@pytest.fixture(scope="module")
def odd(home, tmp_path_factory) -> Path:
    """Images that the published code takes for something else: one on its side, one of 16-bit gray, one with alpha."""
    folder = tmp_path_factory.mktemp("odd")
    with Image.open(home / "images" / "synth3.png") as image:
        pixels = np.asarray(image)
        exif = Image.Exif()
        exif[274] = 6  # the camera was on its side
        image.save(folder / "side.jpg", exif=exif, quality=95)
    deep = (np.arange(64 * 48, dtype=np.uint32).reshape(64, 48) * 21).astype(np.uint16)
    Image.fromarray(deep).save(folder / "gray16.png")
    alpha = np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 128, np.uint8)], axis=2)
    Image.fromarray(alpha).save(folder / "see_through.png")
    return folder


def expected_scores(trio: list[object], arrays: dict[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """Scores of pixels by the networks themselves, without objects, as score files write them."""
    pr, cf, scc = (load_model(path) for path in trio[1::2])
    expected = {}
    for name, pixels in arrays.items():
        a, b = round(cf.score(pixels), 6), round(scc.score(pixels), 6)
        expected[name] = {"PR": f"{pr.score(pixels, a, b):.6f}", "CF": f"{a:.6f}", "SCC": f"{b:.6f}"}
    return expected


def test_images_are_read_upright_and_in_full_depth(run, home, odd, trio, tmp_path):
    with Image.open(odd / "side.jpg") as image:
        upright = np.rot90(np.array(image), -1).copy()
    with Image.open(odd / "gray16.png") as image:
        deep = np.array(image)
    gray = np.repeat((deep / 257).round().astype(np.uint8)[..., None], 3, axis=2)
    with Image.open(odd / "see_through.png") as image:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image)
    right = {"side.jpg": upright, "gray16.png": gray, "see_through.png": np.array(over.convert("RGB"))}

    options = [*trio, "--labels", "none", "--color-prior", home / "color_.json"]
    rows = rows_of(infer(run, "PR", odd, tmp_path / "right_PR.csv", *options))
    assert {name: {d: row[d] for d in DIMENSIONS} for name, row in rows.items()} == expected_scores(trio, right)


def test_label_rows_that_the_published_code_misread_are_refused_or_read_rightly(run, home, odd, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "side.txt").write_text("0.0 0.5 0.5 0.25 0.25\n")  # class 0, whose prior the published code loses
    (tmp_path / "labels" / "gray16.txt").write_text("0 24 32 12 16\n")  # in pixels
    own = ["--weights", home / "SCC.pth", "--labels", tmp_path / "labels", "--color-prior", home / "color_.json"]
    result = run("infer_SCC.py", odd, "-o", tmp_path / "right.csv", *own)
    assert result.code == 1
    rows = rows_of(tmp_path / "right.csv")
    assert "gray16.txt, line 1: x center 24 is not normalized" in rows["gray16.png"]["error"]
    (tmp_path / "labels" / "side.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    assert run("infer_SCC.py", odd, "-o", tmp_path / "plain.csv", *own).code == 1
    assert rows_of(tmp_path / "plain.csv")["side.jpg"] == rows["side.jpg"]


def test_a_score_file_of_the_published_reading_is_still_read_and_not_continued(run, home, objects, scored, tmp_path):
    for name in ("scc.csv", "scc.csv.json"):
        shutil.copy(scored / name, tmp_path)
    meta = meta_of(tmp_path / "scc.csv")
    meta["preprocessing"]["reading"] = "as published"
    (tmp_path / "scc.csv.json").write_text(json.dumps(meta))
    assert read_scores(tmp_path / "scc.csv", "SCC")["SCC"].tolist() == column(scored / "scc.csv", "SCC")
    command = ["infer_SCC.py", home / "images", "-o", tmp_path / "scc.csv", "--weights", home / "SCC.pth", *objects]
    assert_one_line(run(*command), "preprocessing.reading was as published, is now None", "pass --overwrite")
    result = run(*command, "--published-quirks")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "--published-quirks is gone; files are read as docs/reproduce.md says" in result.err


REASONS = {
    "cut.jpg": ("cut.jpg", "truncated"),
    "folder.jpg": ("folder.jpg", "is a folder"),
    "gone.png": ("gone.png", "no such file"),
    "text.jpg": ("text.jpg", "no image"),
}


@pytest.fixture(scope="module")
def bad(home, tmp_path_factory) -> Path:
    """A list of files: two images, one of which has a broken label file, and four that are no images."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(home / "labels", root / "labels")
    (root / "labels" / "synth2.txt").write_text("7 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2\n")
    (root / "images" / "folder.jpg").mkdir(parents=True)
    for image in images_of(home, 1, 2):
        shutil.copy(image, root / "images")
    with Image.open(home / "images" / "synth0.png") as image:
        image.save(root / "images" / "cut.jpg")
    content = (root / "images" / "cut.jpg").read_bytes()
    (root / "images" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (root / "images" / "text.jpg").write_text("this is no image")
    return listed(root / "images", [root / "images" / name for name in (*REASONS, "synth1.png", "synth2.png")])


def test_what_cannot_be_scored_gets_an_error_row_and_all_else_its_scores(run, home, objects, small, trio, bad, tmp_path):
    prior = ["--labels", bad.parents[1] / "labels", "--color-prior", home / "color_.json"]
    infer(run, "PR", listed(tmp_path, images_of(home, 1, 2)), tmp_path / "good_PR.csv", *trio, *objects)
    result = run("infer_PR.py", bad, "-o", tmp_path / "bad_PR.csv", *trio, *prior)
    assert result.code == 1
    assert "5 of 6 images have no score, see the column error" in result.err
    assert result.out.count("ERROR") == 5
    for dimension in DIMENSIONS:
        rows = rows_of(tmp_path / f"bad_{dimension}.csv")
        assert list(rows) == sorted((*REASONS, "synth1.png", "synth2.png"))
        known = rows_of(tmp_path / f"good_{dimension}.csv")
        assert rows["synth1.png"] == known["synth1.png"]
        for name, words in REASONS.items():
            assert all(word in rows[name]["error"] for word in words)
        if dimension == "CF":  # which reads no labels
            assert rows["synth2.png"] == known["synth2.png"]
        else:
            assert "synth2.txt, line 2: has 4 number(s)" in rows["synth2.png"]["error"]
            assert rows["synth2.png"]["error"].startswith("no SCC score: ") == (dimension == "PR")
        # no score is a number where there is an error
        columns = DIMENSIONS if dimension == "PR" else (dimension,)
        failed = [row for row in rows.values() if row["error"]]
        assert len(failed) == (4 if dimension == "CF" else 5)
        assert {row[c] for row in failed for c in columns} == {""}
        assert meta_of(tmp_path / f"bad_{dimension}.csv")["errors"] == len(failed)

    # each script on its own says the same
    for dimension, weights, more in (("CF", small, []), ("SCC", home / "SCC.pth", prior)):
        own = ["-o", tmp_path / f"own_{dimension}.csv", "--weights", weights, *more]
        assert run(f"infer_{dimension}.py", bad, *own).code == 1
        assert (tmp_path / f"own_{dimension}.csv").read_bytes() == (tmp_path / f"bad_{dimension}.csv").read_bytes()
    given = ["--cf", tmp_path / "own_CF.csv", "--scc", tmp_path / "own_SCC.csv"]
    assert run("infer_PR.py", bad, "-o", tmp_path / "own_PR.csv", "--weights", home / "PR.pth", *given).code == 1
    assert (tmp_path / "own_PR.csv").read_bytes() == (tmp_path / "bad_PR.csv").read_bytes()


def test_a_folder_with_the_name_of_a_image_does_not_stop_the_others(run, home, small, bad, tmp_path):
    result = run("infer_CF.py", bad.parent, "-o", tmp_path / "cf.csv", "--weights", small)
    assert result.code == 1
    assert list(rows_of(tmp_path / "cf.csv")) == ["cut.jpg", "synth1.png", "synth2.png", "text.jpg"]
    assert "2 of 4 images have no score" in result.err


def test_repaired_labels_are_the_only_thing_that_is_scored_again(run, home, objects, trio, bad, tmp_path, monkeypatch):
    shutil.copytree(bad.parents[1] / "labels", tmp_path / "labels")
    images = listed(tmp_path, images_of(home, 1, 2))
    command = ["infer_PR.py", images, "-o", tmp_path / "PR.csv", *trio, "--color-prior", home / "color_.json"]
    assert run(*command, "--labels", tmp_path / "labels").code == 1
    shutil.copy(home / "labels" / "synth2.txt", tmp_path / "labels")
    with monkeypatch.context() as patch:
        names = note_scored(patch)
        result = run(*command, "--labels", tmp_path / "labels")
    assert result.code == 0
    assert names == ["synth2.png"]
    infer(run, "PR", images, tmp_path / "whole_PR.csv", *trio, *objects)
    for dimension in DIMENSIONS:
        made = tmp_path / ("PR.csv" if dimension == "PR" else f"PR_{dimension}.csv")
        assert made.read_bytes() == (tmp_path / f"whole_{dimension}.csv").read_bytes()


def test_a_sub_score_that_is_missing_ends_the_run_and_is_not_taken_for_zero(run, home, scored, tmp_path):
    content = json.loads((scored / "cf.json").read_text())
    del content["synth2"]
    (tmp_path / "cf.json").write_text(json.dumps(content))
    own = ["--weights", home / "PR.pth", "--scc", scored / "scc.json"]
    result = run("infer_PR.py", home / "images", "-o", tmp_path / "pr.csv", *own, "--cf", tmp_path / "cf.json")
    assert_one_line(result, "1 of 4 images have no CF score", "synth2.png", "run infer_CF.py")
    (tmp_path / "null.json").write_text(json.dumps(content | {"synth2": None}))
    result = run("infer_PR.py", home / "images", "-o", tmp_path / "pr.csv", *own, "--cf", tmp_path / "null.json")
    assert_one_line(result, "synth2", "null.json")
    assert not (tmp_path / "pr.csv").exists()


def test_two_images_of_one_stem_are_two_rows_and_no_published_result_file(run, home, objects, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(home / "images" / "synth1.png", tmp_path / "images" / "b.png")
    with Image.open(home / "images" / "synth3.png") as image:
        image.save(tmp_path / "images" / "b.jpeg")
    own = ["-o", tmp_path / "scc.csv", "--weights", home / "SCC.pth", *objects]
    assert_one_line(run("infer_SCC.py", tmp_path / "images", *own, "--json", tmp_path / "x.json"), "b.jpeg and b.png")
    rows = rows_of(tmp_path / "scc.csv")
    assert list(rows) == ["b.jpeg", "b.png"]
    assert float(rows["b.png"]["SCC"]) == pytest.approx(WITHOUT_LABELS, abs=SCORE)
    assert abs(float(rows["b.jpeg"]["SCC"]) - float(rows["b.png"]["SCC"])) > 1e-3
    assert not (tmp_path / "x.json").exists()


def test_names_that_the_published_cf_script_cut_short_are_found(run, home, tmp_path):
    """It takes four characters off a name, whatever they are."""
    (tmp_path / "images").mkdir()
    names = {"b.jpeg": "b.", "f.webp": "f.", "g.JPG": "g", "h.png": "h"}
    for number, name in enumerate(names):
        with Image.open(images_of(home, number)[0]) as image:
            image.save(tmp_path / "images" / name)
    cf = dict(zip(names, (0.25, -0.5, 0.125, 0.75), strict=True))
    scc = dict(zip(names, (-0.25, 0.5, -0.125, 0.0), strict=True))
    (tmp_path / "cf.json").write_text(json.dumps({names[name]: value for name, value in cf.items()}))
    (tmp_path / "scc.json").write_text(json.dumps({Path(name).stem: value for name, value in scc.items()}))
    given = ["--cf", tmp_path / "cf.json", "--scc", tmp_path / "scc.json"]
    path = infer(run, "PR", tmp_path / "images", tmp_path / "pr.csv", "--weights", home / "PR.pth", *given)
    model = load_model(home / "PR.pth")
    for name, row in rows_of(path).items():
        assert (float(row["CF"]), float(row["SCC"])) == (cf[name], scc[name])
        score = model.score(tmp_path / "images" / name, cf[name], scc[name])
        assert float(row["PR"]) == pytest.approx(score, abs=1e-6)


# --- going on


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(run, home, objects, trio, tmp_path, monkeypatch):
    infer(run, "PR", home / "images", tmp_path / "whole_PR.csv", *trio, *objects)
    command = ["infer_PR.py", home / "images", "-o", tmp_path / "parts_PR.csv", *trio, *objects, "--workers", 1]
    real, count = ScoreWriter.add, itertools.count()

    def stopping(*values: object, **named: object) -> None:
        if next(count) == 4:  # an image has a row in each of three files, so within the second image
            raise KeyboardInterrupt
        real(*values, **named)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreWriter, "add", stopping)
        result = run(*command)
    assert result.code == 130
    assert "run the same command again" in result.err
    done = {dimension: list(rows_of(tmp_path / f"parts_{dimension}.csv")) for dimension in DIMENSIONS}
    assert [len(done[dimension]) for dimension in DIMENSIONS] == [2, 1, 1]

    with monkeypatch.context() as patch:
        names = note_scored(patch)
        result = run(*command)
    assert result.code == 0
    for dimension, finished in done.items():
        assert f"parts_{dimension}.csv: going on; {len(finished)} rows kept, 0 changed" in result.out
    assert sorted(names) == sorted({f"{name}.png" for name in NAMES} - set(done["PR"]))
    for dimension in DIMENSIONS:
        paths = [tmp_path / f"{kind}_{dimension}.csv" for kind in ("whole", "parts")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert meta_of(paths[0]) == meta_of(paths[1])


def test_a_changed_label_file_has_its_image_scored_again_and_no_other(run, home, trio, tmp_path, monkeypatch):
    shutil.copytree(home / "labels", tmp_path / "labels")
    options = [*trio, "--labels", tmp_path / "labels", "--color-prior", home / "color_.json"]
    output = infer(run, "PR", home / "images", tmp_path / "all_PR.csv", *options)
    before = {d: rows_of(tmp_path / f"all_{d}.csv") for d in DIMENSIONS}
    (tmp_path / "labels" / "synth1.txt").write_text("".join(f"{line}\n" for line in labels(2)))
    with monkeypatch.context() as patch:
        names = note_scored(patch)
        infer(run, "PR", home / "images", output, *options)
    assert names == ["synth1.png"]
    after = {d: rows_of(tmp_path / f"all_{d}.csv") for d in DIMENSIONS}
    assert after["CF"] == before["CF"]
    for dimension in ("SCC", "PR"):
        assert [name for name in before[dimension] if after[dimension][name] != before[dimension][name]] == ["synth1.png"]
    assert float(after["SCC"]["synth1.png"]["SCC"]) == pytest.approx(FIGURES["extra"]["SCC"][2]["infer"], abs=SCORE)
    assert after["PR"]["synth1.png"]["SCC"] == after["SCC"]["synth1.png"]["SCC"]

    (tmp_path / "labels" / "synth1.txt").unlink()
    with monkeypatch.context() as patch:
        names = note_scored(patch)
        infer(run, "PR", home / "images", output, *options)
    assert names == ["synth1.png"]
    assert float(rows_of(tmp_path / "all_SCC.csv")["synth1.png"]["SCC"]) == pytest.approx(WITHOUT_LABELS, abs=SCORE)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--color-prior", "other.json"], "weights.color prior was"),
        (["--attention", "train"], "preprocessing.attention was infer, is now train"),
        (["--precision", "bfloat16"], "preprocessing.precision was None, is now bfloat16"),
        (["--labels", "none"], "preprocessing.labels was"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_score_file_is_not_continued_with_other_settings(run, home, objects, scored, tmp_path, options, word):
    for name in ("scc.csv", "scc.csv.json"):
        shutil.copy(scored / name, tmp_path)
    prior = json.loads((home / "color_.json").read_text())
    prior["0"]["r"]["1"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(prior))
    changed = [tmp_path / x if x == "other.json" else x for x in options]
    command = ["infer_SCC.py", home / "images", "-o", tmp_path / "scc.csv", "--weights", home / "SCC.pth", *objects, *changed]
    assert_one_line(run(*command), "was made in another way", word, "pass --overwrite")
    assert (tmp_path / "scc.csv").read_bytes() == (scored / "scc.csv").read_bytes()
    result = run(*command, "--overwrite")
    assert result.code == 0
    assert "going on" not in result.out
    assert meta_of(tmp_path / "scc.csv") != meta_of(scored / "scc.csv")


def test_pr_is_not_continued_with_another_attention_of_scc(run, home, objects, trio, tmp_path):
    images = listed(tmp_path, images_of(home, 2, 3))
    infer(run, "PR", images, tmp_path / "all_PR.csv", *trio, *objects)
    for name in ("all_SCC.csv", "all_SCC.csv.json"):
        (tmp_path / name).unlink()
    result = run("infer_PR.py", images, "-o", tmp_path / "all_PR.csv", *trio, *objects, "--attention", "train")
    assert_one_line(result, "was made in another way", "--overwrite")


# --- precision


def test_bfloat16_scores_are_near_and_the_score_files_tell(run, home, objects, scored, tmp_path):
    images = listed(tmp_path, images_of(home, 2, 3))
    own = ["--weights", home / "PR.pth", "--cf-weights", home / "CF.pth", "--scc-weights", home / "SCC.pth", *objects]
    infer(run, "PR", images, tmp_path / "half_PR.csv", *own, "--precision", "bfloat16")
    for dimension in DIMENSIONS:
        path = tmp_path / f"half_{dimension}.csv"
        assert meta_of(path)["preprocessing"]["precision"] == "bfloat16"
        known = column(scored / f"{dimension.lower()}.csv", dimension)[2:]
        assert all(1e-5 < abs(a - b) < 0.03 for a, b in zip(column(path, dimension), known, strict=True))


# --- export


@pytest.fixture(scope="module")
def newer(run, home, tmp_path_factory) -> Iterator[Path]:
    """CF.pth in the other spelling, by the export script."""
    path = tmp_path_factory.mktemp("newer") / "CF.pth"
    result = run("tools/export_weights.py", home / "CF.pth", path, "--spelling", NEWER)
    assert result.code == 0, result.err
    assert result.out.startswith(f"CF: 213 tensors, 350 MB, in {path}")
    yield path
    path.unlink()


def assert_exported(path: Path, source: Path, dimension: str, spelling: str = "classic") -> None:
    """The file holds the weights of a published one as the published scripts want them, with a pooler of zeros."""
    state = torch.load(path, weights_only=True)
    layout = LAYOUTS[dimension](spelling) if dimension == "CF" else LAYOUTS[dimension]()
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()} == layout
    known = torch.load(source, weights_only=True)
    names = dict(zip(layout, LAYOUTS[dimension](), strict=True))
    for name, tensor in state.items():
        right = torch.zeros_like(tensor) if ".pooler." in name else known[names[name]]
        assert torch.equal(tensor, right), name


def test_cf_in_the_spelling_of_newer_libraries_gives_the_same_file(run, home, newer, scored, tmp_path):
    assert_exported(newer, home / "CF.pth", "CF", NEWER)
    images = listed(tmp_path, images_of(home, 0, 1))
    path = infer(run, "CF", images, tmp_path / "cf.csv", "--weights", newer)
    lines = (scored / "cf.csv").read_bytes().splitlines(keepends=True)
    assert path.read_bytes() == b"".join(lines[:3])
    assert meta_of(path)["weights"]["CF"] == sha256(newer) != sha256(home / "CF.pth")


def test_one_spelling_of_cf_turns_into_the_other_and_back(run, home, newer, tmp_path):
    result = run("tools/export_weights.py", newer, tmp_path / "CF.pth")
    assert result.code == 0, result.err
    assert_exported(tmp_path / "CF.pth", home / "CF.pth", "CF")
    (tmp_path / "CF.pth").unlink()


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_checkpoint_of_ours_scores_as_the_published_file_and_is_exported_as_one(
    run, home, objects, scored, tmp_path, dimension
):
    ours = tmp_path / "best.pt"
    save_checkpoint(ours, load_model(home / f"{dimension}.pth"), metrics={"SRCC": 0.5})
    numbers = [3] if dimension == "CF" else range(4)
    images = listed(tmp_path, images_of(home, *numbers))
    more = {"CF": [], "SCC": objects, "PR": [x for low in ("cf", "scc") for x in (f"--{low}", scored / f"{low}.csv")]}
    path = infer(run, dimension, images, tmp_path / "x.csv", "--weights", ours, *more[dimension])
    known = rows_of(scored / f"{dimension.lower()}.csv")
    assert rows_of(path) == {name: row for name, row in known.items() if name in rows_of(path)}
    assert len(rows_of(path)) == len(numbers)

    result = run("tools/export_weights.py", ours, tmp_path / "out" / "X.pth")
    assert result.code == 0, result.err
    assert_exported(tmp_path / "out" / "X.pth", home / f"{dimension}.pth", dimension)
    if dimension != "CF":  # whose pooler is not in our checkpoint
        assert digest(torch.load(tmp_path / "out" / "X.pth", weights_only=True)) == FIGURES["weights"][dimension]["sha256"]
    for file in (ours, tmp_path / "out" / "X.pth"):
        file.unlink()


def test_networks_that_the_published_scripts_do_not_have_are_not_exported(run, weights, small, tmp_path):
    save_checkpoint(tmp_path / "pr.pt", PublishedPR("resnet18"))
    for path, words in (
        (weights["CF"], ["CF.pt holds a network of CF, preset compact; expected one of the preset published"]),
        (small, ["vit_base_patch16_384", "not test_vit"]),
        (tmp_path / "pr.pt", ["resnet50", "not resnet18"]),
        (tmp_path / "no.pt", ["no weights at", "no.pt"]),
    ):
        assert_one_line(run("tools/export_weights.py", path, tmp_path / "out.pth"), *words)
    refused = run("tools/export_weights.py", tmp_path / "pr.pt", tmp_path)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"output must be a file such as CF.pth, {tmp_path} is a folder" in refused.err
    assert not (tmp_path / "out.pth").exists()


# --- all of the way, on a cut-down stand-in for ICQA-2K


SPLITS = ("train", "test")
STRICT = ["--preset", "published", "--strict-recipe", "--random-init", "--workers", 0, "--device", "cpu", "--seed", 3]


@pytest.fixture(scope="module")
def standin(tmp_path_factory) -> Path:
    """Two scenes to train on and one to test on, five images each."""
    root = tmp_path_factory.mktemp("standin") / "ICQA_2K"
    make(root)
    keep = {"train": ("000000000201", "000000000302"), "test": ("000000000401",)}
    for split, scenes in keep.items():
        for path in (root / f"ICQA_2K_{split}").iterdir():
            if not path.stem.endswith(scenes):
                path.unlink()
        for path in root.glob(f"ICQA_2K_{split}_*_mos.json"):
            mos = json.loads(path.read_text())
            path.write_text(json.dumps({stem: value for stem, value in mos.items() if stem.endswith(scenes)}))
    return root


@pytest.fixture(scope="module")
def workflow(run, standin, tmp_path_factory) -> Iterator[Path]:
    """Everything from training CF to the tables, with the commands of a user; what each printed is in NAME.txt."""
    root = tmp_path_factory.mktemp("workflow")
    cache = ["--data", standin, "--cache", root / "cache"]

    def step(name: str, script: str, *arguments: object) -> None:
        result = run(script, *arguments)
        assert result.code == 0, result.err
        (root / f"{name}.txt").write_text(result.out)

    small = {"CF": ["--backbone", "test_vit"], "SCC": []}
    reads = {"CF": [], "SCC": ["--labels", standin / "labels", "--color-prior", standin / "color_.json"]}
    for dimension, more in small.items():
        output = ["--output", root / dimension, "--epochs", 1]
        step(f"train_{dimension}", f"train_{dimension}.py", *cache, *STRICT, *output, *more)
        for split in SPLITS:
            json_file = root / f"ICQA_2K_{split}_{dimension}_result.json"
            own = ["--weights", root / dimension / "best.pt", "-o", root / f"{split}_{dimension}.csv", "--json", json_file]
            images = standin / f"ICQA_2K_{split}"
            step(f"infer_{split}_{dimension}", f"infer_{dimension}.py", images, *own, *reads[dimension])
    for kind, form in (("csv", "{split}_{d}.csv"), ("json", "ICQA_2K_{split}_{d}_result.json")):
        given = [
            x for d in ("CF", "SCC") for x in (f"--{d.lower()}", *(root / form.format(split=split, d=d) for split in SPLITS))
        ]
        output = ["--output", root / f"PR_{kind}", "--epochs", 2, "--backbone", "resnet18"]
        step(f"train_PR_{kind}", "train_PR.py", *cache, *STRICT, *output, *given)
        given = [x for d in ("CF", "SCC") for x in (f"--{d.lower()}", root / form.format(split="test", d=d))]
        json_file = root / f"ICQA_2K_test_PR_{'result' if kind == 'json' else 'csv'}.json"
        own = ["--weights", root / f"PR_{kind}" / "best.pt", "-o", root / f"test_PR_{kind}.csv", "--json", json_file]
        step(f"infer_PR_{kind}", "infer_PR.py", standin / "ICQA_2K_test", *own, *given)
    dataset = ["--dataset", "icqa2k", "--root", standin, "--compare-published", "--resamples", 20]
    files = [root / name for name in ("test_CF.csv", "test_SCC.csv", "test_PR_csv.csv")]
    step("evaluate_csv", "evaluate.py", "--predictions", *files, *dataset, "--output", root / "tables_csv")
    files = [root / f"ICQA_2K_test_{dimension}_result.json" for dimension in DIMENSIONS]
    step("evaluate_json", "evaluate.py", "--predictions", *files, *dataset, "--output", root / "tables_json")
    yield root
    for path in root.rglob("*.pt"):
        path.unlink()


def test_training_by_the_strict_recipe_writes_weights_of_the_last_epoch(workflow, standin):
    for name, dimension, epochs in (("CF", "CF", 1), ("SCC", "SCC", 1), ("PR_csv", "PR", 2), ("PR_json", "PR", 2)):
        content = read_checkpoint(workflow / name / "best.pt")
        assert (content["preset"], content["dimension"], content["epoch"]) == ("published", dimension, epochs)
        split = (workflow / name / "split.txt").read_text()
        assert {line for line in split.splitlines() if line[0] != "#"} == {
            "train 000000000201",
            "train 000000000302",
            "test 000000000401",
        }
        said = (workflow / f"train_{name}.txt").read_text()
        assert "train: 10 images of 2 scenes, val: 0 images of 0 scenes, test: 5 images of 1 scenes" in said
        assert json.loads((workflow / name / "test.json").read_text())["pictures"] == 5
        assert not (workflow / name / "fold1").exists()
        assert os.path.basename(content["data"][0]) == standin.name


def test_scores_of_the_train_folder_are_in_sample_and_those_of_the_test_folder_unseen(workflow):
    for dimension in ("CF", "SCC"):
        assert meta_of(workflow / f"train_{dimension}.csv")["sample"] == "in-sample"
        assert meta_of(workflow / f"test_{dimension}.csv")["sample"] == "unseen"
        assert "10 of 10 images were used to train" in (workflow / f"infer_train_{dimension}.txt").read_text()
        said = (workflow / "train_PR_csv.txt").read_text()
        assert f"WARNING: 10 of 10 training images have in-sample {dimension} predictions" in said
        said = (workflow / "train_PR_json.txt").read_text()
        assert f"WARNING: the {dimension} file does not say whether the predictions of 10 of 10" in said


def test_pr_is_the_same_from_our_files_and_from_the_published_form(workflow):
    one, other = (read_checkpoint(workflow / f"PR_{kind}" / "best.pt")["model"] for kind in ("csv", "json"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (workflow / "test_PR_csv.csv").read_bytes() == (workflow / "test_PR_json.csv").read_bytes()
    rows = rows_of(workflow / "test_PR_csv.csv")
    assert len({row["PR"] for row in rows.values()}) == 5
    for name, row in rows.items():
        for dimension in ("CF", "SCC"):
            assert row[dimension] == rows_of(workflow / f"test_{dimension}.csv")[name][dimension]


def test_objects_of_the_stand_in_reach_the_score(workflow, standin):
    model = load_model(workflow / "SCC" / "best.pt")
    known = ObjectLabels(standin / "labels", read_color_curves(standin / "color_.json"))
    for name, row in rows_of(workflow / "test_SCC.csv").items():
        slots, used = known.slots(name)
        assert used == 3
        path = standin / "ICQA_2K_test" / name
        assert float(row["SCC"]) == pytest.approx(model.score(path, slots), abs=1e-6)
        assert float(row["SCC"]) != pytest.approx(model.score(path), abs=1e-6)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_tables_hold_the_correlations_of_the_score_files_with_the_ratings(workflow, standin, kind):
    with open(workflow / f"tables_{kind}" / "metrics.csv", newline="", encoding="utf-8") as file:
        metrics = {(r["dimension"], r["metric"]): r for r in csv.DictReader(file) if r["predictor"] == "network"}
    for dimension in DIMENSIONS:
        name = "test_PR_csv.csv" if dimension == "PR" else f"test_{dimension}.csv"
        rows = rows_of(workflow / name)
        mos = json.loads((standin / f"ICQA_2K_test_{dimension}_mos.json").read_text())
        pred = [float(row[dimension]) for row in rows.values()]
        known = [mos[Path(image).stem] for image in rows]
        for metric, function in (("SRCC", stats.spearmanr), ("KRCC", stats.kendalltau), ("PLCC", stats.pearsonr)):
            assert float(metrics[dimension, metric]["value"]) == pytest.approx(function(pred, known).statistic, abs=2e-6)
        assert metrics[dimension, "SRCC"]["n"] == "5"
    said = (workflow / f"evaluate_{kind}.txt").read_text()
    assert "0.9210" in said
    assert "Scenes in both ICQA_2K_train and ICQA_2K_test: 0 of 1 in test." in said
    assert {path.name for path in (workflow / f"tables_{kind}").iterdir()} == {
        "methods.csv",
        "metrics.csv",
        "predictions.csv",
        "table.md",
        "table.tex",
    }
