"""Images inside of tar files and tables: which there are, what they are called, and what is said of damage."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image
from PIL import Image
from readers import rows_of

from utils.images import ImageReadError, read_rgb
from utils.shards import expand_braces, list_samples


def encoded(seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(make_image(seed, 40, 50)).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a/{08..11}.tar", ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]),
        ("{9..11}.tar", ["9.tar", "10.tar", "11.tar"]),
        ("{2..1}.tar", ["2.tar", "1.tar"]),
        ("{train,test}-{0..1}.tar", ["train-0.tar", "train-1.tar", "test-0.tar", "test-1.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(pattern, names):
    assert expand_braces(pattern) == names


def test_other_braces_are_refused():
    with pytest.raises(ValueError, match=r"expected numbers, \{0000\.\.0012\}, or words"):
        expand_braces("{x}.tar")


def test_a_shard_of_a_pattern_that_is_not_there_is_named(tmp_path):
    write_tar(tmp_path / "0.tar", {"a.png": encoded(1)})
    with pytest.raises(FileNotFoundError, match=r"2 of the 3 files .* do not exist, e\.g\. .*1\.tar"):
        list_samples(tmp_path / "{0..2}.tar")


# --- tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_read_in_their_order_whatever_its_format(tmp_path, form):
    long = "/".join(["folder" * 5] * (4 if form == tarfile.USTAR_FORMAT else 12))
    data = {f"./b/{number}.png": encoded(number) for number in (2, 1)} | {f"{long}/ü 3.PNG": encoded(3)}
    others = {"b/1.json": b"{}", "b/._1.png": b"of macOS", "b/1.cls": b"7"}
    images = list_samples(write_tar(tmp_path / "s.tar", data | others, form))
    assert images.names == ["b/2.png", "b/1.png", f"{long}/ü 3.PNG"]
    assert (images.left_out, images.problems, images.root) == ("1 .cls, 1 .json", [], tmp_path)
    for name, content in zip(images.names, data.values(), strict=True):
        (tmp_path / "file.png").write_bytes(content)
        np.testing.assert_array_equal(read_rgb(images.place(name)), read_rgb(tmp_path / "file.png"))
        assert images.fingerprints[name].startswith(f"{len(content)}-")


def test_keys_that_two_shards_hold_get_the_name_of_their_shard(tmp_path):
    for shard, own in (("a-0", "x.png"), ("a-1", "y.png")):
        write_tar(tmp_path / f"{shard}.tar", {"0.png": encoded(1), own: encoded(2)})
    images = list_samples(tmp_path / "a-{0..1}.tar")
    assert images.names == ["a-0/0.png", "x.png", "a-1/0.png", "y.png"]
    copy = pickle.loads(pickle.dumps(images))  # as it goes to another machine
    assert copy.place("a-1/0.png") == images.place("a-1/0.png")


def test_a_torn_tar_gives_what_can_be_read_and_says_so(tmp_path):
    path = write_tar(tmp_path / "s.tar", {f"{number}.png": encoded(number) for number in range(3)})
    start = list_samples(path).place("2.png").start
    path.write_bytes(path.read_bytes()[: start + 100])
    images = list_samples(path)
    assert images.names == ["0.png", "1.png", "2.png"]
    assert [problem.split(": ")[1][:8] for problem in images.problems] == ["is torn,"]
    assert read_rgb(images.place("1.png")).shape == (40, 50, 3)
    with pytest.raises(ImageReadError, match=r"s\.tar: 2\.png: is torn"):
        read_rgb(images.place("2.png"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data, at: data[: at - 512], "ends at byte .* without an end mark"),
        (lambda data, at: data[: at - 200], "ends at byte .* without an end mark"),
        (lambda data, at: data[: at - 512] + b"x" * 512 + data[at:], "is damaged at byte"),
        (lambda data, at: data + data, "holds data behind its end mark"),
    ],
)
def test_damage_of_a_tar_is_said(tmp_path, damage, said):
    path = write_tar(tmp_path / "s.tar", {f"{number}.png": encoded(number) for number in range(2)})
    data, at = path.read_bytes(), list_samples(path).place("1.png").start
    path.write_bytes(damage(data, at))
    images = list_samples(path)
    assert images.names[0] == "0.png"
    assert len(images.problems) == 1
    with pytest.raises(AssertionError, match=f"s.tar: .*{said}"):
        raise AssertionError(images.problems[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "without an end mark"), (b"\x1f\x8b" + b"x" * 600, "is compressed"), (b"x" * 2000, "damaged at byte 0")],
)
def test_what_is_no_tar_is_refused(tmp_path, content, said):
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(ValueError, match=f"no image found in .*s.tar; .*{said}"):
        list_samples(tmp_path / "s.tar")


def test_a_link_and_a_folder_in_a_tar_stop_nothing(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.DIRTYPE), ("c.png", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    images = list_samples(tmp_path / "s.tar")
    assert images.names == ["a.png", "c.png"]
    for name, said in (("a.png", "is a link or a device"), ("c.png", "is empty")):
        with pytest.raises(ImageReadError, match=f"s.tar: {name}: {said}"):
            read_rgb(images.place(name))


# --- tables


def write_table(path: Path, columns: dict) -> Path:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(columns)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path, row_group_size=5)
    elif path.suffix == ".feather":
        from pyarrow import feather

        feather.write_feather(table, path, chunksize=4)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=4)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
def test_a_table_as_hugging_face_stores_it_gives_each_row_its_image(tmp_path, suffix):
    data = [encoded(number) for number in range(12)]
    cells = [{"bytes": content, "path": f"p{number}.png"} for number, content in enumerate(data)]
    images = list_samples(write_table(tmp_path / f"t.{suffix}", {"label": list(range(12)), "image": cells}))
    assert images.names == [f"p{number}.png" for number in range(12)]
    for number in (0, 1, 6, 11, 3, 3):  # forward, and back
        (tmp_path / "file.png").write_bytes(data[number])
        np.testing.assert_array_equal(read_rgb(images.place(f"p{number}.png")), read_rgb(tmp_path / "file.png"))


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"id": [7, 5]}, ["7", "5"]),
        ({"id": [7, 7], "file_name": ["a/x.jpg", "a/y.jpg"]}, ["a/x.jpg", "a/y.jpg"]),
        ({"key": [None, "x"]}, ["00000000", "00000001"]),
        ({}, ["00000000", "00000001"]),
    ],
)
def test_rows_are_named_by_the_first_column_that_names_all_of_them(tmp_path, columns, names):
    images = list_samples(write_table(tmp_path / "t.parquet", columns | {"photo": [encoded(1), encoded(2)]}))
    assert images.names == names
    assert read_rgb(images.place(names[1])).shape == (40, 50, 3)


def test_a_table_without_a_column_of_images_says_what_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"no column holds encoded images, .* it has image \(string\), n \(int64\)"):
        list_samples(write_table(tmp_path / "t.parquet", {"image": ["a.png"], "n": [1]}))
    with pytest.raises(ValueError, match=r"several columns can hold .*: left, right; name the right one image"):
        list_samples(write_table(tmp_path / "t.parquet", {"left": [b"1"], "right": [b"2"]}))


def test_a_cell_without_bytes_is_an_error_of_its_row(tmp_path):
    cells = [{"bytes": None, "path": "a.png"}, {"bytes": encoded(1), "path": "b.png"}]
    images = list_samples(write_table(tmp_path / "t.parquet", {"image": cells}))
    with pytest.raises(ImageReadError, match=r"t.parquet: a.png: has no bytes, only the path a.png"):
        read_rgb(images.place("a.png"))
    assert read_rgb(images.place("b.png")).shape == (40, 50, 3)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    for name in ("t.parquet", "t.feather"):
        (tmp_path / name).write_bytes(b"no table at all")
        with pytest.raises(ValueError, match=f"no image found in .*{name}; .*cannot be read"):
            list_samples(tmp_path / name)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"t.parquet: .* pip install pyarrow"):
        list_samples(tmp_path / "t.parquet")


# --- scoring


def test_shards_get_the_scores_of_their_files_and_changed_ones_are_scored_again(run, weights, tmp_path):
    data = {f"{number}.png": encoded(number) for number in range(4)} | {"bad.png": b"no image"}
    (tmp_path / "folder").mkdir()
    for name, content in data.items():
        (tmp_path / "folder" / name).write_bytes(content)
    for shard, names in (("s0", [*data][:2]), ("s1", [*data][2:])):
        write_tar(tmp_path / f"{shard}.tar", {name: data[name] for name in names})
    of_folder = run("infer_CF.py", tmp_path / "folder", "--weights", weights["CF"], "-o", tmp_path / "folder.csv")
    command = ("infer_CF.py", tmp_path / "s{0..1}.tar", "--weights", weights["CF"], "-o", tmp_path / "shards.csv")
    of_shards = run(*command)
    assert (of_folder.code, of_shards.code) == (1, 1)
    a, b = rows_of(tmp_path / "folder.csv"), rows_of(tmp_path / "shards.csv")
    assert "s1.tar: bad.png: is no image by its content" in b.pop("bad.png")["error"]
    assert {name: a[name] for name in b} == b
    assert len(b) == 4

    write_tar(tmp_path / "s1.tar", {name: data[name] for name in ("2.png", "3.png")})
    again = run(*command)
    assert again.code == 0, again.err
    assert "2 rows kept, 2 changed images to score again, 1 rows of absent" in again.out


def test_a_torn_shard_ends_the_run_with_an_error(run, weights, tmp_path):
    path = write_tar(tmp_path / "s.tar", {f"{number}.png": encoded(number) for number in range(2)})
    path.write_bytes(path.read_bytes()[: list_samples(path).place("1.png").start + 3000])
    done = run("infer_CF.py", path, "--weights", weights["CF"], "-o", tmp_path / "s.csv", "--json", tmp_path / "s.json")
    assert done.code == 1
    assert f"error: {path}: is torn" in done.err
    assert [*rows_of(tmp_path / "s.csv")] == ["0.png", "1.png"]
    assert not (tmp_path / "s.json").exists()


def test_a_report_of_shards_is_refused_at_the_door(run, tmp_path):
    path = write_tar(tmp_path / "s.tar", {"0.png": encoded(0)})
    done = run("infer_PR.py", path, "--report", tmp_path / "r.html")
    assert done.code == 1
    assert "--report shows image files" in done.err
