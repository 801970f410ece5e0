"""The stand-in for ICQA-2K: in the published layout, the same each time, honest about what it is, and careful with folders."""

import hashlib
import itertools
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baselines.images import Originals
from data.icqa2k import load_icqa2k
from tools import make_icqa2k_standin
from tools.make_icqa2k_standin import SCENES, make
from tools.make_samples import read_photos

PREFIXES = {"BIG", "CIC", "CT2", "DDC", "GCP"}
DIMENSIONS = ["CF", "SCC", "PR"]
SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def made(run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The stand-in, made once by the script, and what that printed."""
    out = tmp_path_factory.mktemp("standin") / "out"
    result = run("tools/make_icqa2k_standin.py", out)
    assert result.code == 0
    return out, result.out


@pytest.fixture(scope="module")
def root(made: tuple[Path, str]) -> Path:
    """The folder of the stand-in; tests leave it as it is."""
    return made[0]


@pytest.fixture(scope="module")
def images(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The images of each scene of each split."""
    found: dict[str, dict[str, list[Path]]] = {split: defaultdict(list) for split in SPLITS}
    for split in SPLITS:
        for path in sorted((root / f"ICQA_2K_{split}").iterdir()):
            found[split][path.stem.split("_")[1]].append(path)
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_published_layout_and_is_small(root):
    mos = {f"ICQA_2K_{split}_{dimension}_mos.json" for split in SPLITS for dimension in DIMENSIONS}
    folders = {"ICQA_2K_train", "ICQA_2K_test", "labels", "originals"}
    assert {path.name for path in root.iterdir()} == mos | folders | {"color_.json", "README.txt", "ATTRIBUTION.md"}
    assert {path.name for path in root.iterdir() if path.is_dir()} == folders
    assert sum(len(data) for data in content(root).values()) < 2e6


def test_every_image_finds_its_original_which_has_its_size(root):
    originals = Originals(root / "originals")
    images = [path for split in SPLITS for path in (root / f"ICQA_2K_{split}").iterdir()]
    for path in images:
        original = originals.find(path.name)
        assert original.stem == path.stem.split("_")[1]
        with Image.open(path) as image, Image.open(original) as photograph:
            assert image.size == photograph.size
    assert len(originals.listed) == len(images) / 5


def test_every_scene_is_rendered_by_every_prefix(images):
    for split in SPLITS:
        for scene, paths in images[split].items():
            assert re.fullmatch(r"\d{12}", scene)
            assert {path.name for path in paths} == {f"{prefix}_{scene}.jpg" for prefix in PREFIXES}


def test_the_renderings_of_a_scene_share_the_size_and_differ_in_color(images):
    shapes = []
    for paths in itertools.chain(*(images[split].values() for split in SPLITS)):
        arrays = [np.asarray(Image.open(path), dtype=float) for path in paths]
        shapes.append(arrays[0].shape)
        assert {image.shape for image in arrays} == {arrays[0].shape}
        assert min(np.abs(a - b).mean() for a, b in itertools.combinations(arrays, 2)) > 1  # of 255
    assert all(160 <= max(shape) <= 240 for shape in shapes)
    assert any(height > width for height, width, _ in shapes)
    assert any(width > height for height, width, _ in shapes)


def test_no_scene_and_no_photograph_is_on_both_sides(images):
    train, test = ({int(scene) for scene in images[split]} for split in SPLITS)
    assert len(train | test) >= 12
    assert 0.15 <= len(test) / len(train | test) <= 0.25
    assert not train & test
    assert not {number // 100 for number in train} & {number // 100 for number in test}


def test_parts_lie_in_their_photograph_and_do_not_overlap(repo):
    for a, b in itertools.combinations(SCENES, 2):
        if a.photo == b.photo:
            width = min(a.part[2], b.part[2]) - max(a.part[0], b.part[0])
            height = min(a.part[3], b.part[3]) - max(a.part[1], b.part[1])
            assert width <= 0 or height <= 0
    for scene in SCENES:
        with Image.open(repo / "data" / "samples" / f"ORG_{scene.photo:012d}.jpg") as photo:
            assert scene.part[2] <= photo.width
            assert scene.part[3] <= photo.height


@pytest.mark.parametrize("split", SPLITS)
def test_it_loads_with_mos_spread_over_the_range(root, images, split):
    frame = load_icqa2k(root, split)
    assert list(frame["image"]) == sorted(path.name for paths in images[split].values() for path in paths)
    mos = frame[DIMENSIONS]
    assert mos.abs().max().max() <= 0.95
    assert mos.max().min() > 0.6
    assert mos.min().max() < -0.5
    means = frame.groupby("method")[DIMENSIONS].mean()
    assert (means.max() - means.min()).min() > 0.5
    assert mos.corr().to_numpy()[np.triu_indices(3, 1)].max() < 0.95  # three questions, not one


def test_mos_files_are_flat_and_indented_by_four(root):
    text = (root / "ICQA_2K_test_CF_mos.json").read_text(encoding="utf-8")
    assert re.fullmatch(r'\{\n(    "[A-Z0-9]{3}_\d{12}": -?\d\.\d+,?\n){15}\}\n', text)


def test_the_labels_are_those_that_were_looked_at(root):
    files = sorted((root / "labels").iterdir())
    texts = {path.stem: path.read_text(encoding="utf-8") for path in files}
    # a cup, 115 to 272 of 400 pixels across and 12 to 204 of 267 down
    assert "41 0.483750 0.404494 0.392500 0.719101\n" in texts["BIG_000000000401"]
    assert len(texts) == 65  # one scene of 14 has no files, some have empty ones; renderings share theirs
    joined = "".join(f"{stem}\n{text}" for stem, text in texts.items())
    assert hashlib.sha256(joined.encode()).hexdigest()[:16] == "085d61823fd661c3"


def test_the_color_table_has_the_labeled_classes_and_sums_to_one(root):
    table = json.loads((root / "color_.json").read_text(encoding="utf-8"))
    rows = [row for path in (root / "labels").iterdir() for row in path.read_text(encoding="utf-8").splitlines()]
    assert set(table) == {row.split()[0] for row in rows}
    for channels in table.values():
        assert list(channels) == ["r", "g", "b"]
        for shares in channels.values():
            assert set(shares) <= {str(value) for value in range(256)}
            assert min(shares.values()) > 0
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_color_table_counts_the_pixels_in_the_boxes(root, repo):
    table = json.loads((root / "color_.json").read_text(encoding="utf-8"))
    photo = np.asarray(Image.open(repo / "data" / "samples" / "ORG_000000000005.jpg"))  # an orange bowl
    bowl = photo[34:269, 89:397]
    for channel, name in enumerate("rgb"):
        expected = np.histogram(bowl[..., channel], np.arange(257))[0] / (235 * 308)
        found = [table["45"][name].get(str(value), 0.0) for value in range(256)]
        np.testing.assert_allclose(found, expected, atol=1e-7)
    mean = {name: sum(int(value) * share for value, share in table["45"][name].items()) for name in "rgb"}
    assert mean["r"] > mean["g"] + 50 > mean["b"]


def test_a_stopped_run_does_not_load_and_a_repeated_one_restores_every_byte(root, tmp_path, monkeypatch):
    again = tmp_path / "again"
    shutil.copytree(root, again)
    (again / "ICQA_2K_train" / "BIG_000000009999.jpg").write_bytes(b"of an earlier version")
    (again / "labels" / "BIG_000000009999.txt").write_bytes(b"of an earlier version")
    (again / "ICQA_2K_test_CF_result.json").write_text("{}", encoding="utf-8")

    def stop(scene):
        raise OSError("disk full")

    monkeypatch.setattr(make_icqa2k_standin, "read_scene", stop)
    with pytest.raises(OSError, match="disk full"):
        make(again)
    monkeypatch.undo()
    for split in SPLITS:
        with pytest.raises(FileNotFoundError, match="no image"):
            load_icqa2k(again, split)

    make(again)
    assert content(again) == content(root) | {"ICQA_2K_test_CF_result.json": b"{}"}  # files of others stay


def test_the_mos_are_written_after_all_images(tmp_path, monkeypatch):
    def stop_at_the_last(scene):
        if scene is SCENES[-1]:
            raise OSError("disk full")
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(make_icqa2k_standin, "read_scene", stop_at_the_last)
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path)
    assert (tmp_path / "ICQA_2K_train" / "GCP_000000000801.jpg").is_file()
    with pytest.raises(FileNotFoundError, match="no MOS file"):
        load_icqa2k(tmp_path, "train")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "README.txt").write_text("my images\n", encoding="utf-8")
    (tmp_path / "ICQA_2K_train_CF_mos.json").write_text("{}", encoding="utf-8")
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="is not empty and is no earlier stand-in"):
        make(tmp_path)
    assert content(tmp_path) == before
    with pytest.raises(FileExistsError, match="is a file; give a folder"):
        make(tmp_path / "README.txt")


def test_it_says_that_it_is_not_icqa2k(root):
    text = (root / "README.txt").read_text(encoding="utf-8")
    assert text.startswith("A stand-in in the layout of ICQA-2K. This is NOT ICQA-2K.\n")
    for words in ("prefixes of file names only", "formula", "Nobody rated", "ATTRIBUTION.md"):
        assert words in text


def test_every_photograph_is_attributed_as_in_the_samples(root, images, repo):
    text = (root / "ATTRIBUTION.md").read_text(encoding="utf-8")
    samples = (repo / "data" / "samples" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for photo in read_photos():
        for fact in (f"| {photo.shows} | {photo.author} | {photo.license} |", f"({photo.source})", photo.statement):
            assert fact in text
            assert fact in samples
    for scene in itertools.chain(*(images[split] for split in SPLITS)):
        (row,) = [line for line in text.splitlines() if line.startswith("|") and scene in line]
        assert read_photos()[int(scene) // 100 - 1].shows in row


def test_the_script_prints_counts_and_commands_of_scripts_that_exist(made, repo):
    counts = "train 55 images of 11 scenes, test 15 images of 3 scenes"
    assert re.match(rf"stand-in for ICQA-2K: {counts}, [01]\.\d MB, in ", made[1])
    commands = re.findall(r"^  python (\S+)", made[1], re.MULTILINE)
    assert len(commands) == 3
    assert all((repo / command).is_file() for command in commands)


def test_the_script_refuses_in_one_line(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    refused = run("tools/make_icqa2k_standin.py", tmp_path)
    assert refused.code == 1
    assert re.fullmatch(r"error: .* give a new or empty folder\n", refused.err)
