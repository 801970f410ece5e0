"""Label files and the color prior, read as the published network reads them, and as it should have."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.draw import polygon2mask
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

from utils import labels
from utils.labels import (
    CLASSES,
    COCO_NAMES,
    CURVE,
    SLOTS,
    LabeledObject,
    LabelError,
    ObjectLabels,
    object_mask,
    object_slots,
    read_color_curves,
    read_objects,
    read_yolo,
    uses_coco91,
    write_color_curves,
)

REPO = Path(__file__).resolve().parents[1]
SPECS = REPO.parent / "shared" / "specs"

# Class 80 is past the classes of COCO, 5 lacks channels and levels, and all others are absent.
PRIOR = {
    "0": {"r": {"0": 0.1, "255": 2}, "g": {"7": -0.3}, "b": {"1": 1e-3}},
    "1": {"r": {str(level): level / 3 for level in range(256)}},
    "3": {"g": {"0": 0.7}, "b": {"255": 123456.789}},
    "5": {"b": {}},
    "80": {"b": {"254": 0.25}},
}
BOX = [0.5, 0.25, 0.125, 0.75]
ROW = "0.5 0.25 0.125 0.75"


@pytest.fixture
def curves(tmp_path) -> np.ndarray:
    return read_color_curves(write_prior(tmp_path, PRIOR))


def write_prior(folder: Path, content: object) -> Path:
    path = folder / "color_.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write(folder: Path, content: str | bytes, name: str = "x.txt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes) -> list:
    """Rows of a file with that content."""
    return read_yolo(write(folder, content)).tolist()


def published_slots(text: str, prior: dict) -> torch.Tensor:
    """What the published code makes of a well-formed file: the prior under the text of the class, 20 rows, then float32."""
    rows = []
    for line in text.splitlines():
        category, *box = line.split()
        channels = prior.get(category, {})
        curve = [channels.get(channel, {}).get(str(level), 0.0) for channel in "rgb" for level in range(256)]
        rows.append([float(int(float(category))), *map(float, box), *curve])
    rows = (rows + [[0.0] * 773] * 20)[:20]
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n \t\r\n\n", []),
        (f"3 {ROW}", [[3, *BOX]]),
        (f"3 {ROW}\n\n", [[3, *BOX]]),
        (f"\n3 {ROW}\n\n0 {ROW}\n", [[3, *BOX], [0, *BOX]]),
        (f"3 {ROW}\r\n0 {ROW}\r\n", [[3, *BOX], [0, *BOX]]),
        (f"3 {ROW}\r0 {ROW}", [[3, *BOX], [0, *BOX]]),
        ("\t3\t0.5\t0.25  0.125\t0.75 \n", [[3, *BOX]]),
        (f"\ufeff3 {ROW}\n", [[3, *BOX]]),
        (f"80 {ROW}", [[80, *BOX]]),
        ("3 5e-1 .25 +0.125 7.5E-1", [[3, *BOX]]),
        (f"3 {ROW} 0.9\n0 {ROW}\n3 {ROW} 0\n3 {ROW} 1.0\n", [[3, *BOX], [0, *BOX], [3, *BOX], [3, *BOX]]),
        ("3 0.25 0.5 0.75 0.125 0.375 1", [[3, 0.5, 0.5625, 0.5, 0.875]]),
        ("3 0.25 0.5 0.25 0.75 0.5 0.75 0.5 0.5", [[3, 0.375, 0.625, 0.25, 0.25]]),
        ("3 0.5 0.25 0 0", [[3, 0.5, 0.25, 0, 0]]),
        ("3 -0.01 1.02 1.05 1.0000001", [[3, -0.01, 1.02, 1.05, 1.0000001]]),
        ("3 -0.5 1.5 1.5 0", [[3, -0.5, 1.5, 1.5, 0]]),
    ],
)
def test_rows_that_are_clear_are_read(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize("token", ["3.0", "03", "3.", "+3", "3e0", "003.00", "0.0", "00", "-0.0"])
def test_a_class_keeps_its_prior_however_it_is_written(tmp_path, curves, token):
    category = int(float(token))
    assert read(tmp_path, f"{token} {ROW}") == [[category, *BOX]]
    slots = object_slots(read_yolo(tmp_path / "x.txt"), curves)
    assert slots[0, 5:].tolist() == curves[category].tolist() != [0] * CURVE


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (f"1.7 {ROW}", "class '1.7' is not a whole number; expected the class, x center"),
        (f"-0.3 {ROW}", "class '-0.3' is not a whole number"),
        (f"80.9 {ROW}", "class '80.9' is not a whole number"),
        ("3 0.5 0.25 -0.125 0.75", "width -0.125 is negative; expected the class"),
        ("3 0.5 0.25 0.125 -1e-9", "height -1e-09 is negative"),
        ("3 320 120 40 180", "x center 320 is not normalized; expected 0 to 1, so divide pixels in x by the width and in y"),
        ("3 0.5 120 0.1 0.1", "y center 120 is not normalized"),
        ("3 0.5 0.5 40 0.1", "width 40 is not normalized"),
        ("3 0.5 0.5 0.1 1.6", "height 1.6 is not normalized"),
        ("3 -0.6 0.5 0.1 0.1", "x center -0.6 is not normalized"),
    ],
)
def test_what_the_published_code_misread_is_refused(tmp_path, row, says):
    path = write(tmp_path, f"0 {ROW}\n\n{row}\n")
    with pytest.raises(LabelError) as error:
        read_yolo(path)
    assert str(error.value).startswith(f"{path}, line 3: {says}")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (f"81 {ROW}", "class '81' is unknown; expected 0 to 80, in the order of COCO's 80 classes"),
        (f"-1 {ROW}", "class '-1' is unknown; expected 0 to 80"),
        (f"1e300 {ROW}", "'1e300' is not a finite number"),
        (f"person {ROW}", "'person' is not a finite number; expected the class, x center, y center, width and height as plain"),
        (f"1_0 {ROW}", "'1_0' is not a finite number"),
        (f"nan {ROW}", "'nan' is not a finite number"),
        ("3,0.5,0.25,0.125,0.75", "'3,0.5,0.25,0.125,0.75' is not a finite number; expected"),
        ("3, 0.5, 0.25, 0.125, 0.75", "'3,' is not a finite number"),
        ("3 nan 0.25 0.125 0.75", "'nan' is not a finite number"),
        ("3 0.5 0.25 inf 0.75", "'inf' is not a finite number"),
        ("3 0.5 0.25 0.125 1e39", "'1e39' is not a finite number"),  # infinite in float32
        ("3 0.5 0.25 0.125 0.75 nan", "'nan' is not a finite number"),
        ("3 0.5 0.25 0.125 0.75 high", "'high' is not a finite number"),
        (f"3 {'9' * 50}x 0.25 0.125 0.75", f"'{'9' * 27}...' is not a finite number"),
        ("3", "has 1 number(s); expected the class"),
        ("3 0.5 0.25 0.125", "has 4 number(s); expected the class"),
        ("3 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "has 8 number(s); expected the class"),
        (f"3 {ROW} 87", "confidence '87' is outside 0 to 1"),
        (f"3 {ROW} -0.1", "confidence '-0.1' is outside 0 to 1"),
        ("3 320 120 40 180 0.9", "x center 320 is not normalized"),
        ("3 320 120 40 180", "x center 320 is not normalized"),
        ("3 0.5 0.25 -0.125 0.75 0.9", "width -0.125 is negative"),
        ("3 0.1 0.2 0.3 0.4 50 0.6", "polygon corner 50 is not normalized"),
        ("3 0.1 0.2 nan 0.4 0.5 0.6", "'nan' is not a finite number"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path, row, says):
    path = write(tmp_path, f"0 {ROW}\r\n{row}\r\n3 {ROW}\r\n")
    with pytest.raises(LabelError) as error:
        read_yolo(path)
    assert str(error.value).startswith(f"{path}, line 2: {says}")
    assert str(error.value).isprintable()


def test_a_bad_row_beyond_the_slots_is_refused_too(tmp_path):
    with pytest.raises(LabelError, match="line 25: "):
        read_yolo(write(tmp_path, f"0 {ROW}\n" * 24 + "0 0.5\n"))


def test_files_that_are_not_text_are_refused(tmp_path, monkeypatch):
    for content, says in {
        f"3 {ROW}\n".encode() + b"\xff": "is not UTF-8 text (invalid start byte, byte 22); save it as UTF-8",
        f"3 {ROW}\n".encode("utf-16"): "is not UTF-8 text (",
    }.items():
        path = write(tmp_path, content)
        with pytest.raises(LabelError) as error:
            read_yolo(path)
        assert str(error.value).startswith(f"{path}: {says}")

    with pytest.raises(LabelError, match="is a folder; expected a label file, or nothing for an image without objects"):
        read_yolo(tmp_path)
    with pytest.raises(LabelError, match="no such file; check the path"):
        read_yolo(tmp_path / "absent.txt")

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(labels, "open", refuse, raising=False)  # chmod would not stop an administrator
    with pytest.raises(LabelError, match=r"x\.txt: cannot be opened \(Permission denied\); check its permissions"):
        read_yolo(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    with pytest.raises(LabelError, match="is a pipe or a device"):
        read_yolo(tmp_path / "x.txt")


def test_an_error_is_one_printable_line(tmp_path):
    path = write(tmp_path, "\x1b[31m\u2028 1 2 3 4", os.fsdecode(b"line\nbreak\x1b\xff.txt"))
    with pytest.raises(LabelError) as error:
        read_yolo(path)
    message = str(error.value)
    assert message.isprintable()
    assert "line break \\udcff.txt, line 1: '\\x1b[31m' is not a finite number" in message


def test_the_prior_is_read_in_the_order_of_the_network(curves):
    assert curves.shape == (CLASSES, CURVE) == (81, 768)
    assert curves.dtype == np.float32
    found = {(int(c), int(k)): float(curves[c, k]) for c, k in zip(*np.nonzero(curves), strict=True) if c != 1}
    assert found == {
        (0, 0): np.float32(0.1),
        (0, 255): 2,
        (0, 256 + 7): np.float32(-0.3),
        (0, 512 + 1): np.float32(1e-3),
        (3, 256): np.float32(0.7),
        (3, 512 + 255): np.float32(123456.789),
        (80, 512 + 254): 0.25,
    }
    assert curves[1].tolist() == torch.tensor([level / 3 for level in range(256)] + [0.0] * 512).tolist()


def test_upper_case_channels_count_as_lower_case(tmp_path, curves):
    upper = {category: {name.upper(): levels for name, levels in channels.items()} for category, channels in PRIOR.items()}
    assert (read_color_curves(write_prior(tmp_path, upper)) == curves).all()
    assert (read_color_curves(write_prior(tmp_path, "\ufeff" + json.dumps(PRIOR))) == curves).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", " cannot be read as JSON (Expecting value"),
        ('{"0": {"r": {"0": 1,}}}', " cannot be read as JSON ("),
        ("[" * 100_000, " cannot be read as JSON ("),
        ('{"0": {"r": {"0": 1}}, "0": {"r": {"0": 1}}}', ' cannot be read as JSON (an object has the key "0" twice); expected'),
        ('{"0": {"r": {"7": 1, "7": 1}}}', ' cannot be read as JSON (an object has the key "7" twice)'),
        ([[0.5]], ' is [[0.5]], not an object; expected {"class": {"r": {"0": number'),
        ({"0": [0.5] * 768}, ': class "0" is [0.5, 0.5, '),
        ({"0": {"r": [0.5]}}, ': class "0", channel "r" is [0.5], not an object'),
        ({"0": None}, ': class "0" is null, not an object'),
        ({"0": {"r": {"12": None}}}, ': class "0", channel "r", level "12" is null; expected a finite number'),
        ({"0": {"r": {"12": float("nan")}}}, ': class "0", channel "r", level "12" is NaN'),
        ({"0": {"r": {"12": 1e39}}}, ': class "0", channel "r", level "12" is 1e+39'),  # infinite in float32
        ({"0": {"r": {"12": 10**400}}}, ': class "0", channel "r", level "12" is Infinity'),
        ({"0": {"r": {"12": "0.5"}}}, ': class "0", channel "r", level "12" is "0.5"'),
        ({"0": {"r": {"12": True}}}, ': class "0", channel "r", level "12" is true'),
        ({"0": {"r": {"12": [1]}}}, ': class "0", channel "r", level "12" is [1.0]'),
        ({"person": {}}, ': class "person": expected a key from "0" to "80", written so'),
        ({"81": {}}, ': class "81": expected a key'),
        ({"-1": {}}, ': class "-1": expected a key'),
        ({"1.0": {}}, ': class "1.0": expected a key'),
        ({"03": {}}, ': class "03": expected a key'),
        ({"²": {}}, ': class "\\u00b2": expected a key'),
        ({"9" * 5000: {}}, ': class "9999'),
        ({"0": {"r": {"256": 1}}}, ': class "0", channel "r", level "256": expected a key from "0" to "255"'),
        ({"0": {"r": {"-1": 1}}}, ': class "0", channel "r", level "-1": expected a key'),
        ({"0": {"r": {"1.5": 1}}}, ': class "0", channel "r", level "1.5": expected a key'),
        ({"0": {"r": {"0": 1}, "R": {"0": 1}}}, ': class "0" has both "r" and "R"; keep one of them'),
        ({"0": {"red": {"0": 1}}}, ': class "0" has the channel "red"; expected "r", "g" or "b"'),
        ({"0": {"rg": {"0": 1}}}, ': class "0" has the channel "rg"'),
        ({"0": {"": {"0": 1}}}, ': class "0" has the channel ""'),
        ({}, " holds no value for any class; expected"),
        ({"0": {}, "1": {"r": {}}}, " holds no value for any class; expected"),
    ],
)
def test_a_broken_prior_is_refused(tmp_path, content, says):
    path = write_prior(tmp_path, content)
    with pytest.raises(ValueError, match=r"expected|keep one") as error:
        read_color_curves(path)
    assert str(error.value).startswith(f"{path}{says}")
    assert len(str(error.value)) - len(str(path)) < 300


def test_a_prior_that_is_no_utf8_is_refused(tmp_path):
    (tmp_path / "color_.json").write_bytes(json.dumps(PRIOR).encode("utf-16"))
    with pytest.raises(ValueError, match=r"color_\.json cannot be read as JSON \('utf-8' codec"):
        read_color_curves(tmp_path / "color_.json")


def test_what_is_missing_is_named_with_the_option_to_pass(tmp_path, curves):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(FileNotFoundError) as error:
            read_color_curves(path)
        assert str(error.value).startswith(f"no color prior {path}; expected a JSON file")
        assert str(error.value).endswith("--color-prior")
    for path in (tmp_path / "absent", tmp_path / "color_.json"):
        with pytest.raises(FileNotFoundError) as error:
            ObjectLabels(path, curves)
        assert str(error.value).startswith(f"no folder of object labels {path}; expected a folder of YOLO files")
        assert str(error.value).endswith("--labels")


def test_a_prior_of_another_shape_is_refused():
    boxes = np.array([[80.0, *BOX]])
    with pytest.raises(ValueError, match=r"shape \(81, 768\), got \(80, 768\); use read_color_curves"):
        object_slots(boxes, np.zeros((80, 768), np.float32))


def test_slots_are_the_float32_numbers_of_the_published_code(tmp_path, curves):
    random = np.random.default_rng(0)
    lines = [f"{c} " + " ".join(f"{v:.17g}" for v in random.random(4)) for c in (0, 1, 2, 3, 5, 79, 80)]
    expected = published_slots("\n".join(lines), PRIOR)
    slots = object_slots(read_yolo(write(tmp_path, "\n".join(lines))), curves)
    assert slots.dtype == np.float32
    assert slots.shape == (SLOTS, 773) == (20, 773)
    assert torch.equal(torch.from_numpy(slots), expected)


@pytest.mark.parametrize(("count", "used"), [(0, 0), (1, 1), (19, 19), (20, 20), (21, 20), (40, 20)])
def test_the_first_20_objects_fill_the_slots(tmp_path, curves, count, used):
    text = "".join(f"{(0, 3)[i % 2]} {i / 40} 0.5 0.125 0.25\n" for i in range(count))
    write(tmp_path, text)
    boxes = read_yolo(tmp_path / "x.txt")
    assert len(boxes) == count
    assert boxes.shape == (count, 5)
    slots, found = ObjectLabels(tmp_path, curves).slots("x.jpg")
    assert found == used
    assert torch.equal(torch.from_numpy(slots), published_slots(text, PRIOR))
    assert not slots[used:].any()


def test_labels_are_found_beside_the_name_or_under_the_stem(tmp_path, curves):
    found = ObjectLabels(tmp_path, curves)
    assert found.file("a/b/x.jpg") is None
    stem = write(tmp_path, f"3 {ROW}", "x.txt")
    assert found.file("x.jpg") == found.file("a/b/x.jpg") == found.file("c/x.JPEG") == stem
    nested = write(tmp_path, f"0 {ROW}", "a/b/x.txt")
    assert found.file("a/b/x.png") == nested
    assert found.file("x.png") == found.file("b/x.png") == stem
    assert found.slots("a/b/x.png")[0][0, 0] == 0
    assert found.slots("x.png")[0][0, 0] == 3

    assert found.file("x.y.jpg") is None  # whose stem is x.y
    dotted = write(tmp_path, "", "x.y.txt")
    assert found.file("x.y.jpg") == dotted
    assert found.file("x.txt/z.jpg") is None  # where a file has the name of a folder


def test_no_label_file_means_no_objects(tmp_path, curves):
    write(tmp_path, "", "empty.txt")
    for found in (ObjectLabels(tmp_path, curves), ObjectLabels(None, curves)):
        for name in ("absent.jpg", "empty.jpg", "a/empty.jpg"):
            slots, used = found.slots(name)
            assert used == 0
            assert slots.dtype == np.float32
            assert slots.shape == (20, 773)
            assert not slots.any()
    assert ObjectLabels(None, curves).file("empty.jpg") is None


def test_labels_that_are_there_but_unreadable_are_no_missing_labels(tmp_path, curves, monkeypatch):
    found = ObjectLabels(tmp_path, curves)
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    write(tmp_path, f"1.7 {ROW}", "bad.txt")
    for name, says in {"folder": "is a folder", "dangling": "where a link leads", "bad": "line 1: class '1.7'"}.items():
        with pytest.raises(LabelError, match=says) as error:
            found.slots(f"{name}.jpg")
        assert str(tmp_path / f"{name}.txt") in str(error.value)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(labels.os, "lstat", refuse)
    monkeypatch.setattr(labels.os, "stat", refuse)
    with pytest.raises(LabelError, match=r"closed\.txt: cannot be opened \(Permission denied\)"):
        found.slots("closed.jpg")


def test_a_full_prior_is_read_in_a_fraction_of_a_second(tmp_path):
    path = write_prior(tmp_path, {str(c): {k: {str(v): v / 7 for v in range(256)} for k in "rgb"} for c in range(CLASSES)})
    start = time.process_time()
    curves = read_color_curves(path)
    assert time.process_time() - start < 1
    assert (curves == np.tile((np.arange(256) / 7).astype(np.float32), 3)).all()


@pytest.mark.skipif(not (SPECS / "golden_inputs").is_dir(), reason="no recorded values of the published code here")
def test_recorded_slots_of_the_published_code_are_matched():
    recorded = json.loads((SPECS / "golden.json").read_text())["SCC"]
    inputs = SPECS / "golden_inputs"
    found = ObjectLabels(inputs / "labels", read_color_curves(inputs / "color_.json"))
    without = ObjectLabels(None, found.curves)
    cases = {f"synth{number}": found.slots(f"synth{number}.png") for number in range(4)}
    cases["synth1_without_label_file"] = without.slots("synth1.png")
    assert [used for _, used in cases.values()] == [0, 1, 3, 20, 0]
    for name, (slots, used) in cases.items():
        expected = recorded[name]["objs"]
        assert used == recorded[name]["n_slots_used"]
        assert [1, *slots.shape] == expected["shape"]
        # Recorded with 8 decimals.
        assert slots.mean(dtype=np.float64) == pytest.approx(expected["mean"], rel=1e-6, abs=5e-9)
        assert slots.std(dtype=np.float64) == pytest.approx(expected["std"], rel=1e-6, abs=5e-9)
        assert slots.ravel()[:4] == pytest.approx(expected["first4"], rel=1e-6, abs=5e-9)


def test_objects_keep_the_shapes_and_confidences_that_the_published_network_does_without(tmp_path):
    text = f"\ufeff3 {ROW}\r\n\n79.0 {ROW} 0.75\n0 0.25 0.5 0.75 0.125 0.375 1\n7 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n"
    path = write(tmp_path, text)
    box, sure, triangle, square = read_objects(path)
    assert (box.category, box.box, box.polygon, box.confidence) == (3, tuple(BOX), None, None)
    assert (sure.category, sure.box, sure.polygon, sure.confidence) == (79, tuple(BOX), None, 0.75)
    assert (triangle.category, triangle.confidence) == (0, None)
    assert triangle.polygon.tolist() == [[0.25, 0.5], [0.75, 0.125], [0.375, 1]]
    assert square.polygon.shape == (4, 2)
    # the same classes and boxes as the other reader
    rows = [[thing.category, *thing.box] for thing in (box, sure, triangle, square)]
    assert rows == read_yolo(path).tolist()


def test_an_empty_file_and_an_absent_one_hold_no_objects(tmp_path):
    assert read_objects(write(tmp_path, "\n \n", "empty.txt")) == []
    found = ObjectLabels(tmp_path, np.zeros((CLASSES, CURVE), np.float32))
    assert found.objects("empty.jpg") == found.objects("absent.jpg") == []
    write(tmp_path, f"3 {ROW}\n", "deep/x.txt")
    assert [thing.category for thing in found.objects("deep/x.jpg")] == [3]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (f"80 {ROW}", "class '80' is unknown; expected 0 to 79, in the order of COCO's 80 classes"),
        (f"-1 {ROW}", "class '-1' is unknown; expected 0 to 79"),
        (f"1.7 {ROW}", "class '1.7' is unknown; expected 0 to 79"),
        (f"person {ROW}", "'person' is not a finite number"),
        (f"3 {ROW} 1.5", "confidence '1.5' is outside 0 to 1"),
        ("3 0.5 0.5 0.5", "has 4 number(s)"),
        ("3 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "has 8 number(s)"),
        ("3 0.1 0.2 0.3 0.4 0.5 60", "polygon corner 60 is not normalized"),
        ("3 320 120 40 180", "x center 320 is not normalized"),
    ],
)
def test_rows_that_are_no_object_of_coco_are_refused_by_file_and_line(tmp_path, row, says):
    path = write(tmp_path, f"0 {ROW}\n\n{row}\n")
    with pytest.raises(LabelError) as error:
        read_objects(path)
    assert str(error.value).startswith(f"{path}, line 3: {says}")


def test_the_numbers_of_coco_s_annotation_files_are_converted_as_torchvision_names_them(tmp_path):
    names = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]  # 91, with N/A for the numbers left out
    known = [number for number, name in enumerate(names) if name not in ("N/A", "__background__")]
    path = write(tmp_path, "".join(f"{number} {ROW}\n" for number in known))
    assert [COCO_NAMES[thing.category] for thing in read_objects(path, coco91=True)] == [names[number] for number in known]
    for number in set(range(92)) - set(known):
        with pytest.raises(LabelError, match=f"class '{number}' is unknown; expected 1 to 90"):
            read_objects(write(tmp_path, f"{number} {ROW}", "y.txt"), coco91=True)


@pytest.mark.parametrize(
    ("classes", "found"),
    [((1, 44, 90), True), ((1, 2, 3), False), ((0, 84), False), ((12, 84), False), ((80,), False), ((81,), True), ((), False)],
)
def test_the_numbers_of_coco_s_annotation_files_are_known_by_what_only_they_have(tmp_path, classes, found):
    paths = [write(tmp_path, f"{number} {ROW}\n", f"{number}.txt") for number in classes]
    broken = write(tmp_path, "person\n", "broken.txt")
    assert uses_coco91([broken, *paths, tmp_path / "absent.txt"]) is found


def test_a_polygon_covers_the_pixels_whose_centers_it_holds():
    rng = np.random.default_rng(0)
    for corners in (3, 4, 7, 30):
        height, width = 60, 90
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        polygon = 0.5 + rng.uniform(0.1, 0.6, (corners, 1)) * np.stack((np.cos(angles), np.sin(angles)), 1)  # partly outside
        mask = object_mask(LabeledObject(0, (0.5, 0.5, 1.0, 1.0), polygon), height, width)
        # scikit-image counts from the center of the first pixel, row before column
        expected = polygon2mask((height, width), polygon[:, ::-1] * (height, width) - 0.5)
        assert mask.dtype == bool
        assert mask.any()
        assert (mask == expected).all()


def test_a_box_without_a_polygon_shows_an_ellipse_inside_it():
    mask = object_mask(LabeledObject(0, (0.5, 0.25, 0.5, 0.4)), 200, 400)
    rows, columns = np.nonzero(mask)
    assert mask.sum() == pytest.approx(np.pi * 0.9 * 100 * 0.9 * 40, rel=0.01)  # half axes of 0.9 of 100 and 40 pixels
    assert (rows.mean(), columns.mean()) == pytest.approx((49.5, 199.5))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (110, 289, 14, 85)


@pytest.mark.parametrize(
    "thing",
    [
        LabeledObject(0, (1.4, 0.5, 0.5, 0.5)),
        LabeledObject(0, (0.5, 0.5, 0.0, 0.5)),
        LabeledObject(0, (0.5, 0.5, 0.001, 0.001)),
        LabeledObject(0, (-0.3, 0.5, 0.2, 0.5), np.array([[-0.4, 0.3], [-0.2, 0.3], [-0.3, 0.7]])),
        LabeledObject(0, (0.5, 0.5, 0.0, 0.0), np.full((3, 2), 0.5)),
        LabeledObject(0, (0.5, 0.5, 1.0, 0.0), np.array([[0, 0.5], [1, 0.5], [0.5, 0.5]])),
    ],
    ids=["box outside", "flat box", "tiny box", "polygon outside", "one point", "a line"],
)
def test_an_object_outside_or_without_area_has_no_pixels(thing):
    mask = object_mask(thing, 24, 32)
    assert mask.shape == (24, 32)
    assert not mask.any()


def test_an_object_partly_outside_has_the_pixels_inside():
    whole = object_mask(LabeledObject(0, (0.5, 0.5, 0.5, 0.5)), 100, 100)
    cut = object_mask(LabeledObject(0, (0.0, 0.5, 0.5, 0.5)), 100, 100)
    assert (cut[:, :50] == whole[:, 50:]).all()
    assert not cut[:, 50:].any()


def test_a_color_prior_that_was_written_is_read_as_it_was(tmp_path):
    curves = np.random.default_rng(0).random((CLASSES, CURVE)).round(8).astype(np.float32)
    curves[[3, 80]] = 0
    curves[5, 100:] = 0
    write_color_curves(tmp_path / "color_.json", curves)
    assert read_color_curves(tmp_path / "color_.json") == pytest.approx(curves, abs=1e-8)
    assert not {"3", "80"} & json.loads((tmp_path / "color_.json").read_text()).keys()
    with pytest.raises(ValueError, match=r"shape \(81, 768\), got \(80, 768\)"):
        write_color_curves(tmp_path / "color_.json", curves[:80])
