"""The dataset readers on small made-up folders and, where there is a copy, on HECD itself."""

import json
import math
import os
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pandas as pd
import pytest

from data import hecd
from data.hecd import download_hecd, load_hecd
from data.icqa2k import load_icqa2k
from data.table import load_dataset, load_table

REPOSITORY = Path(__file__).resolve().parents[1]
HECD_COPIES = [os.environ.get("ICQA_HECD", ""), str(REPOSITORY.parent / "shared" / "data" / "hecd")]
HECD_ROOT = next((Path(copy) for copy in HECD_COPIES if copy and Path(copy).is_dir()), None)

VERSIONS = {
    "_gt.jpg": 0.4,
    "A.jpg": 1.2,
    "B_1.jpg": -0.9,
    "AC_2.jpg": 0.1,
    "D_4.jpg": 0.0,
    "F_13.jpg": -2.5,
    "AG_3.jpg": 0.3,
    "O_1.jpg": 0.6,
    "Z_2.jpg": -0.2,
}


def write_hecd(root: Path, scenes: tuple[str, ...] = ("015004", "022090"), images: str = "images") -> Path:
    """A folder like HECD with nine versions of each scene; the image files hold only their name."""
    (root / images).mkdir(parents=True, exist_ok=True)
    lines = ["Ground Truth File,Recolour File,Mean zScore"]
    for scene in scenes:
        for version, z in VERSIONS.items():
            lines.append(f"{scene}_gt.jpg,{scene}{version},{z}")
            (root / images / f"{scene}{version}").write_text(scene + version)
    (root / "mean_zscores.csv").write_text("\n".join(lines) + "\n")
    return root


def write_icqa2k(root: Path, split: str = "train", names: tuple[str, ...] = ("BIG_000000000009.jpg",)) -> Path:
    """A folder like ICQA-2K with one split; every image has CF 0.5, SCC -0.25 and PR 1."""
    folder = root / f"ICQA_2K_{split}"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    for dimension, mos in {"CF": 0.5, "SCC": -0.25, "PR": 1}.items():
        labels = {Path(name).stem: mos for name in names}
        (root / f"ICQA_2K_{split}_{dimension}_mos.json").write_text(json.dumps(labels))
    return root


def write_table(root: Path, text: str, images: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Path:
    root.mkdir(exist_ok=True)
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_text(image)
    path = root / "own.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(frame: pd.DataFrame, *columns: str) -> list[tuple]:
    """Cells as Python values, None for NaN."""
    return [tuple(None if value != value else value for value in row) for row in frame[list(columns)].to_numpy()]


def test_hecd_rates_each_dimension_on_its_kinds(tmp_path):
    frame = load_hecd(write_hecd(tmp_path))
    assert list(frame.columns) == ["image", "scene", "method", "kind", "CF", "SCC", "PR"]
    assert frame.attrs == {"root": str(tmp_path), "name": "HECD"}
    assert list(frame.index) == list(range(18))
    assert rows(frame[frame["scene"] == "015004"], "image", "method", "kind", "CF", "SCC", "PR") == [
        ("images/015004A.jpg", "A", "original", 0.6, 0.6, 0.6),
        ("images/015004AC_2.jpg", "AC_2", "C", 0.05, None, 0.05),
        ("images/015004AG_3.jpg", "AG_3", "G", 0.15, None, 0.15),
        ("images/015004B_1.jpg", "B_1", "B", -0.45, None, -0.45),
        ("images/015004D_4.jpg", "D_4", "D", 0.0, None, 0.0),
        ("images/015004F_13.jpg", "F_13", "F", None, -1.0, -1.0),  # -1.25 clipped
        ("images/015004O_1.jpg", "O_1", "O", 0.3, 0.3, 0.3),
        ("images/015004Z_2.jpg", "Z_2", "Z", -0.1, -0.1, -0.1),
        ("images/015004_gt.jpg", "original", "original", 0.2, 0.2, 0.2),
    ]


def test_hecd_is_found_at_any_depth_and_the_paths_say_where(tmp_path):
    write_hecd(tmp_path / "HECD-main", images="set/all")
    (tmp_path / "HECD-main" / ".git").mkdir()
    (tmp_path / "HECD-main" / ".git" / "015004A.jpg").write_text("not the image")
    frame = load_hecd(tmp_path)
    assert frame["image"][0] == "HECD-main/set/all/015004A.jpg"
    assert (Path(frame.attrs["root"]) / frame["image"][0]).is_file()


def test_hecd_scene_without_images_is_left_out_with_one_warning(tmp_path):
    write_hecd(tmp_path)
    for path in (tmp_path / "images").glob("022090*"):
        path.unlink()
    with pytest.warns(UserWarning, match=r"1 of 2 scenes have no image .*022090.* 9 rows are left out") as caught:
        frame = load_hecd(tmp_path)
    assert len(caught) == 1
    assert set(frame["scene"]) == {"015004"}
    assert len(frame) == 9


def test_hecd_single_missing_image_is_an_error_that_names_it(tmp_path):
    write_hecd(tmp_path)
    (tmp_path / "images" / "022090D_4.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 image is missing that .* lists, e\.g\. 022090D_4\.jpg"):
        load_hecd(tmp_path)


def test_hecd_without_any_image_is_an_error(tmp_path):
    write_hecd(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="none of the 18 images"):
        load_hecd(tmp_path)


def test_hecd_missing_ratings_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python data/hecd\.py"):
        load_hecd(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("015004_gt.jpg,015004_gt.jpg,0.4", r"1 images more than once, e\.g\. '015004_gt\.jpg'"),
        ("015004_gt.jpg,015004Q_1.jpg,0.4", "'015004Q_1.jpg'; expected names such as"),
        ("015004_gt.jpg,015004A_gt.jpg,0.4", "'015004A_gt.jpg'; expected names such as"),
        ("015004_gt.jpg,015004C_1.jpg,high", "015004C_1.jpg the z-score 'high'"),
        ("015004_gt.jpg,015004C_1.jpg,", "015004C_1.jpg the z-score nan"),
    ],
)
def test_hecd_bad_rating_is_an_error_that_names_the_image(tmp_path, line, message):
    write_hecd(tmp_path)
    with (tmp_path / "mean_zscores.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        load_hecd(tmp_path)


def test_hecd_ratings_with_other_columns_are_an_error(tmp_path):
    (tmp_path / "mean_zscores.csv").write_text("file,z\na.jpg,1\n")
    with pytest.raises(ValueError, match=r"the columns \['Mean zScore', 'Recolour File'\], got \['file', 'z'\]"):
        load_hecd(tmp_path)


def test_hecd_accepts_equal_copies_of_an_image_but_not_different_ones(tmp_path):
    write_hecd(tmp_path)
    copy = tmp_path / "more" / "015004A.jpg"
    copy.parent.mkdir()
    copy.write_text("015004A.jpg")
    assert load_hecd(tmp_path)["image"][0] == "images/015004A.jpg"
    copy.write_text("another image")
    with pytest.raises(ValueError, match=r"two different images named 015004A\.jpg"):
        load_hecd(tmp_path)


def test_two_copies_of_hecd_below_one_folder_are_an_error(tmp_path):
    write_hecd(tmp_path / "one")
    write_hecd(tmp_path / "two")
    with pytest.raises(ValueError, match="2 copies of HECD"):
        load_hecd(tmp_path)


@pytest.fixture
def upstream(tmp_path, monkeypatch) -> Path:
    """A local git repository in the place of GitHub."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # a signing key of the developer would be asked for
    source = write_hecd(tmp_path / "upstream")
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "tester")
        monkeypatch.setenv(f"{name}_EMAIL", "tester@example.com")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(source), *arguments], check=True)
    monkeypatch.setattr(hecd, "HECD_URL", str(source))
    monkeypatch.setattr(hecd, "HECD_COMMIT", head(source))
    return source


def head(repository: Path) -> str:
    done = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_download_records_the_commit_and_the_result_loads(upstream, tmp_path):
    target = download_hecd(tmp_path / "new" / "HECD")
    assert (target / "COMMIT").read_text() == head(upstream) + "\n"
    assert len(load_hecd(target)) == 18
    assert [path.name for path in target.parent.iterdir()] == ["HECD"]  # nothing left beside it


def test_download_fetches_an_older_commit_and_refuses_another_one_later(upstream, tmp_path):
    first = head(upstream)
    (upstream / "README").write_text("more")
    for arguments in (["add", "."], ["commit", "-q", "-m", "second"]):
        subprocess.run(["git", "-C", str(upstream), *arguments], check=True)
    target = download_hecd(tmp_path / "HECD", first)
    assert (target / "COMMIT").read_text().strip() == first
    assert not (target / "README").exists()
    assert download_hecd(target) == target
    assert download_hecd(target, first) == target
    with pytest.raises(ValueError, match=f"holds HECD at {first}, asked for {head(upstream)}"):
        download_hecd(target, head(upstream))


def test_the_pinned_commit_is_fetched_though_the_branch_went_on(upstream, tmp_path):
    first = head(upstream)
    subprocess.run(["git", "-C", str(upstream), "commit", "-q", "--allow-empty", "-m", "second"], check=True)
    assert (download_hecd(tmp_path / "HECD") / "COMMIT").read_text() == first + "\n"


def test_the_pinned_commit_of_hecd():
    assert hecd.HECD_COMMIT == "ae9d8810093ee63977aa1c40c17781c778f5beab"


def test_download_leaves_a_hand_made_copy_alone_but_cannot_vouch_for_its_commit(tmp_path):
    root = write_hecd(tmp_path / "HECD")
    assert download_hecd(root) == root
    assert not (root / "COMMIT").exists()
    with pytest.raises(ValueError, match="unknown commit"):
        download_hecd(root, "0" * 40)


def test_download_does_not_touch_a_folder_with_other_files(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds no mean_zscores\.csv"):
        download_hecd(tmp_path)


def test_download_that_fails_names_the_source_and_the_folder_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(hecd, "HECD_URL", str(tmp_path / "nowhere"))
    target = tmp_path / "new" / "HECD"
    with pytest.raises(RuntimeError, match=r"fetching .*nowhere failed .*put them in .*HECD"):
        download_hecd(target)
    assert list(target.parent.iterdir()) == []


def test_download_without_git_names_the_source_and_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(hecd.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"git was not found.*github\.com/seanmullery/HECD.*put them in .*HECD"):
        download_hecd(tmp_path / "HECD")


def test_download_refuses_an_abbreviated_commit(tmp_path):
    with pytest.raises(ValueError, match="full hash of 40 hexadecimal digits, got 'abc123'"):
        download_hecd(tmp_path / "HECD", "abc123")


def test_hecd_script_prints_what_is_there(tmp_path):
    write_hecd(tmp_path / "HECD")
    command = [sys.executable, "data/hecd.py", str(tmp_path / "HECD")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "commit unknown: 18 images of 2 scenes; CF 16, SCC 10, PR 18" in done.stdout


@pytest.mark.skipif(HECD_ROOT is None, reason="no copy of HECD; set ICQA_HECD to its folder")
def test_real_hecd_has_66_images_of_each_scene_and_its_own_z_scores():
    frame = load_hecd(HECD_ROOT)
    scenes = frame["scene"].nunique()
    assert scenes >= 15
    assert (frame.groupby("scene").size() == 66).all()
    # Per scene: 2 originals and 6 colorizers; 16 modifications of chroma and 13 of hue, each on two bases.
    assert frame[["CF", "SCC", "PR"]].notna().sum().to_dict() == {"CF": 40 * scenes, "SCC": 34 * scenes, "PR": 66 * scenes}
    assert frame["PR"].between(-1, 1).all()
    pr = frame.set_index(frame["scene"] + " " + frame["method"])["PR"]
    assert pr["015004 original"] == 0.3969867273949054 / 2
    assert pr["015004 A"] == 1.1772208267746949 / 2
    assert pr["015004 AB_1"] == -0.901569838672819 / 2
    assert pr["015004 AB_2"] == 0.0673515206000679 / 2
    assert all((Path(frame.attrs["root"]) / image).is_file() for image in frame["image"])


def test_icqa2k_reads_scene_and_method_from_the_name_and_any_image_format(tmp_path):
    names = ("BIG_000000017648.jpg", "my_net_000000000009.PNG", "CT2_000000017648.jpeg")
    write_icqa2k(tmp_path, "test", names)
    (tmp_path / "ICQA_2K_test" / "notes.txt").write_text("no image")
    frame = load_icqa2k(tmp_path, "test")
    assert rows(frame, "image", "scene", "method", "CF", "SCC", "PR") == [
        ("BIG_000000017648.jpg", "000000017648", "BIG", 0.5, -0.25, 1.0),
        ("CT2_000000017648.jpeg", "000000017648", "CT2", 0.5, -0.25, 1.0),
        ("my_net_000000000009.PNG", "000000000009", "my_net", 0.5, -0.25, 1.0),
    ]
    assert list(frame.columns) == ["image", "scene", "method", "CF", "SCC", "PR"]
    assert frame.attrs == {"root": str(tmp_path / "ICQA_2K_test"), "name": "ICQA-2K test"}
    assert frame["PR"].dtype == float


def test_icqa2k_missing_file_leaves_the_dimension_unrated_and_all_missing_is_an_error(tmp_path):
    write_icqa2k(tmp_path)
    (tmp_path / "ICQA_2K_train_SCC_mos.json").unlink()
    frame = load_icqa2k(tmp_path, "train")
    assert frame["SCC"].isna().all()
    assert frame["CF"].notna().all()
    for dimension in ("CF", "PR"):
        (tmp_path / f"ICQA_2K_train_{dimension}_mos.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"ICQA_2K_train_CF_mos\.json"):
        load_icqa2k(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"BIG_000000000009": 0, "CIC_1": 0, "CIC_2": 0}', r"2 of 3 labels .* have no image .*e\.g\. CIC_1"),
        ("{}", r"1 of 1 images .* have no label .*e\.g\. BIG_000000000009"),
        ('{"BIG_000000000009": 3.5}', "BIG_000000000009 has the score 3.5, outside -1 to 1; .* --mos-range 1 5"),
        ('{"BIG_000000000009": "0.5"}', "BIG_000000000009 the score '0.5', expected a number"),
        ('{"BIG_000000000009": true}', "BIG_000000000009 the score True, expected a number"),
        ('{"BIG_000000000009": null}', "BIG_000000000009 the score None, expected a number"),
        ('{"BIG_000000000009": NaN}', "BIG_000000000009 the score nan, expected a number"),
        ("[0.5]", "must hold one object, image stem to score, got a list"),
        ("BIG_000000000009 0.5", "CF_mos.json is not JSON"),
    ],
)
def test_icqa2k_bad_labels_are_errors_that_name_the_first(tmp_path, content, message):
    write_icqa2k(tmp_path)
    (tmp_path / "ICQA_2K_train_CF_mos.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_icqa2k(tmp_path, "train")


def test_icqa2k_raw_opinions_are_mapped_from_their_range(tmp_path):
    write_icqa2k(tmp_path)
    for dimension, mos in {"CF": 1, "SCC": 3, "PR": 4.5}.items():
        (tmp_path / f"ICQA_2K_train_{dimension}_mos.json").write_text(json.dumps({"BIG_000000000009": mos}))
    assert rows(load_icqa2k(tmp_path, "train", (1, 5)), "CF", "SCC", "PR") == [(-1.0, 0.0, 0.75)]


def test_icqa2k_bad_folders_and_names_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="ICQA_2K_train and ICQA_2K_test"):
        load_icqa2k(tmp_path, "train")
    with pytest.raises(ValueError, match="got 'val'"):
        load_icqa2k(tmp_path, "val")
    write_icqa2k(tmp_path)
    (tmp_path / "ICQA_2K_train" / "BIG_000000000009.png").write_text("twice")
    with pytest.raises(ValueError, match=r"both BIG_000000000009\.jpg and BIG_000000000009\.png"):
        load_icqa2k(tmp_path, "train")
    (tmp_path / "ICQA_2K_train" / "BIG_000000000009.png").rename(tmp_path / "ICQA_2K_train" / "cat.png")
    with pytest.raises(ValueError, match=r"cat\.png, expected names METHOD_COCOID"):
        load_icqa2k(tmp_path, "train")


def test_table_maps_its_range_and_leaves_empty_cells_unrated(tmp_path):
    text = "\ufeffimage,scene,method,PR,CF\r\nb.jpg,007,Net,5,\r\nsub\\a.jpg,007,,1,2\r\n\r\n"
    frame = load_table(write_table(tmp_path, text, ("sub/a.jpg", "b.jpg")), (1, 5))
    assert list(frame.columns) == ["image", "scene", "method", "CF", "SCC", "PR"]
    assert rows(frame, *frame.columns) == [("b.jpg", "007", "Net", None, None, 1.0), ("sub/a.jpg", "007", "", -0.5, None, -1.0)]
    assert frame.attrs == {"root": str(tmp_path), "name": "own"}


def test_table_scores_in_the_unit_range_are_not_rounded(tmp_path):
    frame = load_table(write_table(tmp_path, "image,scene,PR\na.jpg,1,0.1\nb.jpg,2,-0.7\n"))
    assert list(frame["PR"]) == [0.1, -0.7]


def test_table_paths_may_be_relative_to_another_root(tmp_path):
    path = write_table(tmp_path / "tables", "image,scene,PR\na.jpg,1,0\n", ())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("a")
    assert load_table(path, root=tmp_path / "photos").attrs["root"] == str(tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match=r"line 2: no file .*tables.a\.jpg"):
        load_table(path)


def test_table_can_be_read_where_the_images_are_not(tmp_path):
    path = write_table(tmp_path, "image,scene,PR\nx/a.jpg,1,0.25\n", ())
    frame = load_table(path, check_files=False)
    assert rows(frame, "image", "scene", "PR") == [("x/a.jpg", "1", 0.25)]
    with pytest.raises(ValueError, match=r"PR of x/a\.jpg has the score 0\.25, outside 1 to 5"):  # all else is checked
        load_table(path, (1, 5), check_files=False)


def test_table_without_scenes_takes_the_file_names_and_warns(tmp_path):
    path = write_table(tmp_path, "image,CF\nx/1.jpg,0\ny/1.jpg,0.5\n", ("x/1.jpg", "y/1.jpg"))
    with pytest.warns(UserWarning, match="has no column scene"):
        frame = load_table(path)
    assert rows(frame, "scene", "method") == [("1", ""), ("1", "")]


def test_table_warns_of_columns_that_it_ignores(tmp_path):
    path = write_table(tmp_path, "image,scene,PR,raters\na.jpg,1,0,12\n")
    with pytest.warns(UserWarning, match=r"ignoring the columns \['raters'\]"):
        load_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,scene,PR\na.jpg,1,4\n", "PR of a.jpg has the score 4, outside -1 to 1; .*--mos-range 1 5"),
        ("image,scene,PR\na.jpg,1,good\n", "PR of a.jpg is 'good', expected a number"),
        ("image,scene,PR\na.jpg,1,nan\n", "PR of a.jpg is 'nan', expected a number"),
        ("image,scene,PR\na.jpg,1,0\n./a.jpg,1,0\n", "line 3: a.jpg is listed twice"),
        ("image,scene,PR\na.jpg,,0\n", "line 2: a.jpg has no scene"),
        ("image,scene,PR\n,1,0\n", "line 2: the cell image is empty"),
        ("image,scene,PR\n/a.jpg,1,0\n", "/a.jpg is an absolute path"),
        ("image,scene,PR\nC:\\a.jpg,1,0\n", "is an absolute path"),
        ("image,scene,PR\na.jpg,1\n", "line 2: 2 cells, the header has 3"),
        ("image,scene,PR\na.jpg,1,0,0\n", "line 2: 4 cells, the header has 3"),
        ("image,scene,cf,PR\na.jpg,1,0,0\n", r"'cf', 'PR'\]; expected image and any of .*spelled so"),
        ("image,scene\na.jpg,1\n", "at least one of CF, SCC, PR"),
        ("image;scene;PR\na.jpg;1;0\n", r"has the columns \['image;scene;PR'\].* separated by semicolons, expected commas"),
        ("image;scene;PR\na.jpg;1;0,5\n", "2 cells, the header has 1; its cells are separated by semicolons, expected commas"),
        ("image\tscene\tPR\na.jpg\t1\t0\n", "separated by tabs, expected commas"),
        ("image,PR,PR\na.jpg,1,0\n", "has a column twice"),
        ("image,scene,PR\n", "has no rows"),
        ("", "has no rows"),
    ],
)
def test_table_errors_say_what_is_wrong_and_where(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_table(write_table(tmp_path, text))


def test_table_in_another_encoding_is_an_error(tmp_path):
    path = write_table(tmp_path, "")
    path.write_bytes("image,scene,PR\ncafé.jpg,1,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not a comma-separated UTF-8 table"):
        load_table(path)


@pytest.mark.parametrize("mos_range", [(5, 1), (1, 1), (0, math.inf)])
def test_range_of_scores_must_not_be_empty(tmp_path, mos_range):
    path = write_table(tmp_path, "image,scene,PR\na.jpg,1,1\n")
    with pytest.raises(ValueError, match="--mos-range needs two numbers, the lower one first"):
        load_table(path, mos_range)


def test_dataset_is_recognized_by_what_the_path_holds(tmp_path):
    write_hecd(tmp_path / "a" / "HECD")
    write_icqa2k(tmp_path / "b")
    path = write_table(tmp_path / "c", "image,scene,PR\na.jpg,1,0\n")
    assert load_dataset(tmp_path / "a").attrs["name"] == "HECD"
    assert load_dataset(tmp_path / "b", "train").attrs["name"] == "ICQA-2K train"
    assert load_dataset(path).attrs["name"] == "own"
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match=r"looked for ICQA_2K_train .* mean_zscores\.csv .* \.csv"):
        load_dataset(tmp_path / "d")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_dataset(tmp_path / "e")


def test_both_splits_of_icqa2k_keep_unique_paths_and_say_their_split(tmp_path):
    write_icqa2k(tmp_path, "train")
    write_icqa2k(tmp_path, "test")  # the same file name as in train
    frame = load_dataset(tmp_path)
    assert rows(frame, "image", "split", "CF") == [
        ("ICQA_2K_test/BIG_000000000009.jpg", "test", 0.5),
        ("ICQA_2K_train/BIG_000000000009.jpg", "train", 0.5),
    ]
    assert frame.attrs == {"root": str(tmp_path), "name": "ICQA-2K"}
    assert all((tmp_path / image).is_file() for image in frame["image"])


def test_arguments_that_do_not_apply_to_a_dataset_are_errors(tmp_path):
    write_hecd(tmp_path)
    with pytest.raises(ValueError, match="only ICQA-2K has given splits"):
        load_dataset(tmp_path, "train")
    with pytest.raises(ValueError, match="z-scores have a fixed mapping"):
        load_dataset(tmp_path, mos_range=(1, 5))
    with pytest.raises(ValueError, match="give the folder, not the file"):
        load_dataset(tmp_path / "mean_zscores.csv")


def test_readers_do_not_warn_without_a_reason(tmp_path):
    write_hecd(tmp_path / "hecd")
    write_icqa2k(tmp_path / "icqa")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(tmp_path / "hecd")
        load_dataset(tmp_path / "icqa")
        load_dataset(write_table(tmp_path / "csv", "image,scene,PR\na.jpg,1,0\n"))


def test_files_are_found_though_the_table_writes_their_names_in_another_way(tmp_path):
    for name in ("A/one.JPG", "grün.png", "B/two.jpg", "C/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    path = tmp_path / "mos.csv"
    path.write_text("image,scene,PR\na\\One.jpg,1,0.5\n" + unicodedata.normalize("NFD", "grün.png,2,0\n"), encoding="utf-8")
    assert load_table(path)["image"].tolist() == ["A/one.JPG", "grün.png"]
    path.write_text("image,scene,PR\ntwo.jpg,1,0.5\n")
    with pytest.raises(FileNotFoundError, match=r"no file .*two\.jpg \(there is B/two\.jpg, C/two\.jpg\); image paths"):
        load_table(path)
