"""Splits follow scenes, do not depend on the order of rows, and survive a text file."""

import pandas as pd
import pytest

from data.splits import apply_split, check_disjoint, excluded_names, read_split, scene_folds, split_by_scene, write_split


def table(scenes: str = "abcdefghij", images: int = 3) -> pd.DataFrame:
    """A MOS table with a scene per letter."""
    rows = [
        {"image": f"{scene}_{number}.jpg", "scene": scene, "method": "", "CF": 0.1, "SCC": 0.2, "PR": 0.3}
        for scene in scenes
        for number in range(images)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs = {"root": "photos", "name": "made up"}
    return frame


def scenes_of(parts: dict[str, pd.DataFrame]) -> dict[str, str]:
    return {name: "".join(sorted(set(part["scene"]))) for name, part in parts.items()}


def test_split_is_that_of_the_hash_of_seed_and_scene():
    # Order of `printf 0:a | sha256sum` to `0:j`: h f g d j a i c b e. Two for test, one for validation.
    assert scenes_of(split_by_scene(table())) == {"train": "abcdeij", "val": "g", "test": "fh"}


def test_split_covers_every_image_once_and_the_parts_are_mos_tables():
    frame = table()
    parts = split_by_scene(frame, 0.3, 0.3, seed=5)
    assert sorted(image for part in parts.values() for image in part["image"]) == sorted(frame["image"])
    for part in parts.values():
        assert list(part.columns) == list(frame.columns)
        assert list(part.index) == list(range(len(part)))
        assert part["image"].is_monotonic_increasing
        assert part.attrs == frame.attrs


def test_split_does_not_depend_on_the_order_of_rows_or_the_images_of_a_scene():
    shuffled = table().sample(frac=1, random_state=1)
    assert scenes_of(split_by_scene(shuffled)) == scenes_of(split_by_scene(table()))
    assert scenes_of(split_by_scene(table(images=1))) == scenes_of(split_by_scene(table()))
    pd.testing.assert_frame_equal(split_by_scene(shuffled)["train"], split_by_scene(table())["train"])


def test_another_seed_gives_another_split():
    assert len({scenes_of(split_by_scene(table(), seed=seed))["test"] for seed in range(20)}) > 5


def test_asked_parts_have_a_scene_and_parts_not_asked_for_are_empty():
    assert {name: len(part) for name, part in split_by_scene(table("abc", 1), 0.01, 0.01).items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert scenes_of(split_by_scene(table(), val=0, test=0)) == {"train": "abcdefghij", "val": "", "test": ""}


def test_too_few_scenes_are_an_error_that_counts_them():
    with pytest.raises(ValueError, match="too few scenes: 2 to divide; 1 for validation and 1 for testing"):
        split_by_scene(table("ab"))


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (2, 0), (float("nan"), 0.2)])
def test_shares_must_leave_something(val, test):
    with pytest.raises(ValueError, match="together below 1"):
        split_by_scene(table(), val, test)


def test_given_test_rows_stay_the_test_part_and_validation_comes_from_train():
    frame = table()
    frame["split"] = ["test" if scene in "ab" else "train" for scene in frame["scene"]]
    parts = split_by_scene(frame, val=0.25, test=0.5)
    assert scenes_of(parts) == {"train": "cdegij", "val": "fh", "test": "ab"}
    assert set(parts["val"]["split"]) == {"train"}


def test_given_train_and_test_rows_that_share_a_scene_are_an_error_that_names_it():
    frame = table("abc", 2)
    frame["split"] = ["train", "train", "train", "test", "test", "test"]
    with pytest.raises(ValueError, match="train and test share scene b"):
        split_by_scene(frame)


def test_column_split_with_train_rows_only_is_divided_like_any_table():
    assert scenes_of(split_by_scene(table().assign(split="train"))) == scenes_of(split_by_scene(table()))
    with pytest.raises(ValueError, match="too few scenes: 0"):
        split_by_scene(table().assign(split="test"))
    with pytest.raises(ValueError, match=r'must hold "train" or "test", got \[\'val\'\]'):
        split_by_scene(table().assign(split="val"))


def test_shared_scenes_are_named_with_both_parts():
    with pytest.raises(ValueError, match=r"left and right share 2 scenes \(b, c\)"):
        check_disjoint(left=table("abc"), middle=table("x"), right=table("bcd"))
    check_disjoint(left=table("ab"), right=table("cd"))


def test_folds_leave_each_scene_out_once():
    folds = scene_folds(table(), 3)
    assert [sorted(fold) for fold in folds] == [list("dehi"), list("cfj"), list("abg")]  # the order above, dealt out
    assert scene_folds(table().sample(frac=1, random_state=1), 3) == folds
    assert [len(fold) for fold in scene_folds(table(), 10)] == [1] * 10


@pytest.mark.parametrize("folds", [1, 11])
def test_number_of_folds_must_fit_the_scenes(folds):
    with pytest.raises(ValueError, match=f"from 2 to the number of scenes, 10; got {folds}"):
        scene_folds(table(), folds)


def test_split_file_round_trips(tmp_path):
    frame = table().replace({"scene": {"a": "old town, no. 1", "b": "#7", "c": "train"}})
    parts = split_by_scene(frame)
    path = tmp_path / "split.txt"
    write_split(parts, path)
    scenes = read_split(path)
    assert scenes == {name: set(part["scene"]) for name, part in parts.items()}
    for name, part in apply_split(frame.sample(frac=1, random_state=1), scenes).items():
        pd.testing.assert_frame_equal(part, parts[name])
    assert [file.name for file in tmp_path.iterdir()] == ["split.txt"]


def test_split_file_is_one_line_per_scene(tmp_path):
    write_split({"train": table("ab"), "test": table("c")}, tmp_path / "split.txt")
    assert (tmp_path / "split.txt").read_text().splitlines()[1:] == [
        "# train: 2 scenes, 6 images",
        "train a",
        "train b",
        "# test: 1 scenes, 3 images",
        "test c",
    ]
    assert read_split(tmp_path / "split.txt") == {"train": {"a", "b"}, "val": set(), "test": {"c"}}


def test_failed_write_keeps_the_old_split_file(tmp_path):
    path = tmp_path / "split.txt"
    write_split({"train": table("ab"), "test": table("c")}, path)
    before = path.read_text()
    with pytest.raises(ValueError, match="share scene a"):
        write_split({"train": table("ab"), "test": table("a")}, path)
    with pytest.raises(ValueError, match=r"got \['dev'\]"):
        write_split({"dev": table("ab")}, path)
    with pytest.raises(ValueError, match="cannot be written"):
        write_split({"train": table("a").replace({"scene": {"a": "two\nlines"}})}, path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train a\ndev b\n", "line 2: expected 'train', 'val' or 'test' and a scene, got 'dev b'"),
        ("train\n", "line 1: expected"),
        ("train a\n\nval a\n", "line 3: scene a is in both train and val"),
    ],
)
def test_bad_split_file_is_an_error_that_names_the_line(tmp_path, text, message):
    (tmp_path / "split.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / "split.txt")
    with pytest.raises(FileNotFoundError, match="no split file"):
        read_split(tmp_path / "none.txt")


def test_split_must_list_every_scene_of_the_table():
    with pytest.raises(ValueError, match=r"does not list 6 scenes \(e, f, g, h, i, \.\.\.\)"):
        apply_split(table(), {"train": {"a", "b"}, "val": {"c"}, "test": {"d"}})
    assert scenes_of(apply_split(table("ab"), {"train": {"a", "z"}, "test": {"b"}})) == {"train": "a", "val": "", "test": "b"}


def test_split_must_not_put_given_test_scenes_elsewhere():
    frame = table("abc", 1).assign(split=["train", "train", "test"])
    with pytest.raises(ValueError, match="puts scene c of the given test split outside test"):
        apply_split(frame, {"train": {"a", "c"}, "test": {"b"}})


def test_photographs_to_leave_out_are_known_without_folder_extension_and_leading_zeros(tmp_path):
    names = ["a/1.jpg", "a/2.jpg", "b/002.png", "b/3.png", "c/4.jpg", "s1.2.png", "s1.png", "0.5.PNG"]
    (tmp_path / "x.txt").write_bytes("\ufeffother/0001.webp\r\n2\n 3.png \n\n#c/4.jpg\n5\n6.jpg\ns1.2\n".encode())
    assert excluded_names(names, [tmp_path / "x.txt"]) == ({"a/1.jpg", "a/2.jpg", "b/002.png", "b/3.png", "s1.2.png"}, 2)
    assert excluded_names(names, []) == (set(), 0)


def test_the_scenes_of_data_sets_and_lists_are_left_out_together(tmp_path):
    (tmp_path / "x.png").touch()
    (tmp_path / "own.csv").write_text("image,scene,method,PR\nx.png,015004,A,0.5\n")
    (tmp_path / "list.txt").write_text("p.jpg\nq\n")
    names = ["bsds/15004.jpg", "bsds/150040.jpg", "p.png", "r.png"]
    assert excluded_names(names, [tmp_path / "own.csv", tmp_path / "list.txt"]) == ({"bsds/15004.jpg", "p.png"}, 1)


def test_a_source_to_leave_out_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "x.txt").write_bytes("grün".encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.txt is not UTF-8 text .*; save it as UTF-8"):
        excluded_names(["a.jpg"], [tmp_path / "x.txt"])
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.txt; expected a text file of images to leave out"):
        excluded_names(["a.jpg"], [tmp_path / "none.txt"])
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*none"):
        excluded_names(["a.jpg"], [tmp_path / "none"])
    with pytest.raises(ValueError, match="is not a known dataset"):
        excluded_names(["a.jpg"], [tmp_path])
