"""Label files made by a detector: classes, boxes, polygons, weights, and what a stopped or repeated run does."""

import json
import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from conftest import make_image
from PIL import Image
from skimage.color import rgb2lab
from skimage.draw import disk, polygon2mask
from torch import Tensor, nn

from tools.detect_objects import DETECTORS, SIDECAR, coco80_ids, fetched_weights, find_objects, outline
from utils.images import read_rgb
from utils.labels import COCO_NAMES, read_yolo

# The ids of COCO's 80 classes among its first 91, as every reader of COCO lists them.
IDS_91 = [*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83), *range(84, 91)]
IDS = {number: place for place, number in enumerate(IDS_91)}
PERSON, DOG, TOOTHBRUSH, HOLE = 1, 18, 90, 12  # 91-ids; 12 was to be a street sign, and is not used
MOBILE = "fasterrcnn_mobilenet_v3_large_fpn"


class StandIn(nn.Module):
    """A detector that finds what it is told to in every image, and remembers what it was shown."""

    def __init__(self, *found: tuple[int, float, list[float]], masks: np.ndarray | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.found = found
        self.masks = masks
        self.seen: list[Tensor] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        (image,) = images
        assert not self.training
        self.seen.append(image.clone())
        if image.shape[2] == 13:
            raise RuntimeError("cannot resize\nan image 13 pixels wide")
        classes, scores, boxes = zip(*self.found, strict=True) if self.found else ((), (), ())
        result = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(classes, dtype=torch.int64),
            "scores": torch.tensor(scores, dtype=torch.float32),
        }
        return [result if self.masks is None else {**result, "masks": torch.from_numpy(self.masks)}]


FOUND = (
    (TOOTHBRUSH, 0.625, [10, 20, 30, 40]),
    (PERSON, 0.875, [0, 0, 80, 60]),
    (HOLE, 0.99, [0, 0, 80, 60]),
    (DOG, 0.75, [-20, 45, 40, 75]),  # beyond the left and the lower edge of an image of 80 x 60
    (DOG, 0.9, [80, 10, 95, 20]),  # to the right of it
    (DOG, 0.25, [1, 2, 3, 4]),
)


@pytest.fixture
def stand_in(monkeypatch, tmp_path) -> StandIn:
    """A detector that the script gets in place of torchvision's; its weights are in weights.pth."""
    model = StandIn(*FOUND)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, **arguments: model)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return model


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    for seed, name in enumerate(["b.png", "a.jpg", "deep/er/grün 1.png"]):
        save(folder / name, make_image(seed, 60, 80))
    return folder


@pytest.fixture
def detect(run, tmp_path):
    """The script on arguments, with the weights of the stand-in, writing to labels."""

    def start(images: Path, *arguments: object):
        return run(
            "tools/detect_objects.py", images, "-o", tmp_path / "labels", "--weights", tmp_path / "weights.pth", *arguments
        )

    return start


def save(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)


def contents(folder: Path) -> dict[str, str]:
    """Text of the label files by path."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.txt"))}


def area_of(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def corners_of(row: str) -> np.ndarray:
    return np.array(row.split()[1:], float).reshape(-1, 2)


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_80_classes_of_coco_and_no_others_are_taken_from_the_91_of_every_detector(detector):
    categories = torchvision.models.get_model_weights(detector).DEFAULT.meta["categories"]
    assert len(categories) == 91
    ids = coco80_ids(categories)
    assert ids == IDS
    assert [categories[number] for number in ids] == list(COCO_NAMES)


def test_detectors_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="each of COCO's 80 names once"):
        coco80_ids([name for name in COCO_NAMES if name != "dog"])
    with pytest.raises(ValueError, match="each of COCO's 80 names once"):
        coco80_ids([*COCO_NAMES, "dog"])


def test_boxes_are_shares_of_the_image_the_surest_first_and_end_at_its_edge(stand_in, images, detect, tmp_path):
    assert detect(images).code == 0
    rows = [
        "0 0.500000 0.500000 1.000000 1.000000 0.875000",
        "16 0.250000 0.875000 0.500000 0.250000 0.750000",
        "79 0.250000 0.500000 0.250000 0.333333 0.625000",
    ]
    expected = "".join(f"{row}\n" for row in rows)
    assert contents(tmp_path / "labels") == dict.fromkeys(["a.txt", "b.txt", "deep/er/grün 1.txt"], expected)
    boxes = read_yolo(tmp_path / "labels/a.txt")
    np.testing.assert_allclose(boxes[1], [16, 20 / 80, 52.5 / 60, 40 / 80, 15 / 60], atol=1e-6)
    assert [COCO_NAMES[int(number)] for number in boxes[:, 0]] == ["person", "dog", "toothbrush"]


@pytest.mark.parametrize(("threshold", "count"), [(0, 4), (0.2, 4), (0.25, 3), (0.7, 2), (0.875, 0)])
def test_only_objects_surer_than_the_threshold_are_written(stand_in, images, detect, tmp_path, threshold, count):
    assert detect(images, "--threshold", threshold).code == 0
    assert len(read_yolo(tmp_path / "labels/a.txt")) == count
    assert (tmp_path / "labels/a.txt").exists()


def test_what_was_done_is_printed_and_recorded(stand_in, images, detect, tmp_path):
    done = detect(images, "--gray", "--detector", MOBILE)
    assert "9 objects in 3 new label files" in done.out
    record = json.loads((tmp_path / "labels" / SIDECAR).read_text())
    digest = record.pop("weights")
    assert len(digest) == 64
    assert list(record.pop("pictures")) == ["a.txt", "b.txt", "deep/er/grün 1.txt"]
    assert record == {
        "detector": MOBILE,
        "threshold": 0.5,
        "masks": False,
        "gray": True,
        "torchvision": torchvision.__version__.split("+")[0],
    }


def test_a_single_image_and_a_list_are_taken_too(stand_in, images, detect, tmp_path):
    assert detect(images / "a.jpg").code == 0
    assert list(contents(tmp_path / "labels")) == ["a.txt"]
    (tmp_path / "list.txt").write_text("images/b.png\nimages/deep/er/grün 1.png\n", encoding="utf-8")
    assert detect(tmp_path / "list.txt").code == 0
    assert list(contents(tmp_path / "labels")) == ["a.txt", "images/b.txt", "images/deep/er/grün 1.txt"]


def test_the_detector_sees_the_upright_image_in_0_to_1_and_with_gray_its_lightness_only(stand_in):
    rgb = make_image(3, 60, 80).copy()  # to be writable, as read_rgb's are
    find_objects(stand_in.eval(), rgb, IDS, 0.5)
    find_objects(stand_in, rgb, IDS, 0.5, gray=True)
    colored, gray = (image.permute(1, 2, 0).numpy() for image in stand_in.seen)
    np.testing.assert_allclose(colored, rgb / 255, atol=1e-6)
    lab = rgb2lab(gray)
    np.testing.assert_allclose(lab[..., 0], rgb2lab(rgb)[..., 0], atol=0.05)
    np.testing.assert_allclose(lab[..., 1:], 0, atol=0.05)


def test_the_script_shows_gray_images_if_told_to(stand_in, images, detect):
    assert detect(images, "--gray").code == 0
    assert len(stand_in.seen) == 3
    assert all((image == image[:1]).all() and image.std() > 0.05 for image in stand_in.seen)


def test_a_stopped_run_goes_on_with_what_is_missing(stand_in, images, detect, tmp_path, monkeypatch):
    plain = StandIn.forward

    def stop_at_the_second(model: StandIn, images: list[Tensor]):
        if len(model.seen) == 1:
            raise KeyboardInterrupt
        return plain(model, images)

    monkeypatch.setattr(StandIn, "forward", stop_at_the_second)
    stopped = detect(images)
    assert (stopped.code, list(contents(tmp_path / "labels"))) == (130, ["a.txt"])
    assert "run the same command again to go on" in stopped.err
    monkeypatch.setattr(StandIn, "forward", plain)
    (tmp_path / "labels/a.txt").write_text("kept as it is")
    done = detect(images)
    assert "3 images; 1 have label files of an earlier run" in done.out
    assert len(stand_in.seen) == 3
    labels = contents(tmp_path / "labels")
    assert labels["a.txt"] == "kept as it is"
    assert len(labels) == 3
    assert detect(images, "--overwrite").code == 0
    assert len(stand_in.seen) == 6
    assert len(set(contents(tmp_path / "labels").values())) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--threshold", 0.3], "threshold was 0.5, is now 0.3"),
        (["--gray"], "gray was False, is now True"),
        (["--detector", MOBILE], f"detector was fasterrcnn_resnet50_fpn_v2, is now {MOBILE}"),
        (["--detector", "maskrcnn_resnet50_fpn_v2", "--masks"], "masks was False, is now True"),
    ],
)
def test_other_settings_are_refused_unless_all_is_written_anew(stand_in, images, detect, tmp_path, arguments, says):
    stand_in.masks = np.ones((len(FOUND), 1, 60, 80), np.float32)
    assert detect(images).code == 0
    before = contents(tmp_path / "labels")
    refused = detect(images, *arguments)
    assert refused.code == 1
    assert refused.err.startswith("error: ")
    assert says in refused.err
    assert "pass --overwrite" in refused.err
    assert contents(tmp_path / "labels") == before
    assert detect(images, *arguments, "--overwrite").code == 0
    assert detect(images, *arguments).code == 0
    assert len(stand_in.seen) == 6
    assert says.split()[0] in detect(images).err


def test_other_weights_are_refused(stand_in, images, detect, tmp_path):
    assert detect(images).code == 0
    torch.save({"scale": torch.zeros(3)}, tmp_path / "weights.pth")
    assert "weights was " in detect(images).err


def test_two_folders_share_label_files_only_under_the_same_settings(stand_in, images, detect, tmp_path):
    save(tmp_path / "test/c.png", make_image(9, 60, 80))
    assert detect(images).code == 0
    assert detect(tmp_path / "test").code == 0
    assert detect(tmp_path / "test", "--overwrite").code == 0
    assert detect(images).code == 0
    assert len(stand_in.seen) == 5
    mixed = detect(tmp_path / "test", "--gray", "--overwrite")
    assert mixed.code == 1
    assert "3 of other images, e.g. a.txt, that were made in another way: gray was False" in mixed.err
    assert "--overwrite" not in mixed.err
    assert len(contents(tmp_path / "labels")) == 4


def test_label_files_of_another_image_or_program_are_neither_kept_nor_replaced_silently(stand_in, images, detect, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/b.txt").write_text("0 0.5 0.5 1 1\n")
    foreign = detect(images)
    assert foreign.code == 1
    assert "1 of the 3 label files already, e.g. b.txt, but of another image" in foreign.err
    assert contents(tmp_path / "labels") == {"b.txt": "0 0.5 0.5 1 1\n"}
    assert detect(images, "--overwrite").code == 0

    save(tmp_path / "test/a.png", make_image(9, 60, 80))
    assert "e.g. a.txt, but of another image" in detect(tmp_path / "test").err
    os.utime(images / "a.jpg", (1, 1))
    assert "e.g. a.txt, but of another image" in detect(images).err
    assert len(stand_in.seen) == 3


def test_label_files_of_an_earlier_way_are_gone_before_the_record_changes(stand_in, images, detect, tmp_path, monkeypatch):
    assert detect(images).code == 0

    def stop(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(StandIn, "forward", stop)
    assert detect(images, "--gray", "--overwrite").code == 130
    assert contents(tmp_path / "labels") == {}


@pytest.mark.parametrize("content", ["no json", "[]", '{"info": 1}'])
def test_a_record_of_another_program_is_refused(stand_in, images, detect, tmp_path, content):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / SIDECAR).write_text(content)
    refused = detect(images)
    assert refused.code == 1
    assert f"{SIDECAR} was not written by this script" in refused.err


def test_two_images_that_would_share_a_label_file_are_refused(stand_in, images, detect, tmp_path):
    save(images / "a.png", make_image(9, 60, 80))
    refused = detect(images)
    assert refused.code == 1
    assert refused.err == "error: a.jpg and a.png would share the label file a.txt; rename one of them\n"
    assert not (tmp_path / "labels").exists()


def test_images_that_cannot_be_read_are_named_at_the_end_and_have_no_label_file(stand_in, images, detect, tmp_path):
    (images / "aa.jpg").write_bytes(b"no image")
    save(images / "narrow.png", make_image(9, 60, 13))
    done = detect(images)
    assert done.code == 1
    assert list(contents(tmp_path / "labels")) == ["a.txt", "b.txt", "deep/er/grün 1.txt"]
    reasons = [line for line in done.err.splitlines() if line.startswith("ERROR")]
    assert "aa.jpg: is no image by its content" in reasons[0]
    assert reasons[1].endswith("narrow.png: RuntimeError: cannot resize an image 13 pixels wide")
    assert "2 of 5 images have no label file" in done.err
    save(images / "aa.jpg", make_image(8, 60, 80))
    (images / "narrow.png").unlink()
    assert detect(images).code == 0
    assert len(contents(tmp_path / "labels")) == 4


def test_a_image_without_objects_has_an_empty_file(stand_in, images, detect, tmp_path):
    stand_in.found = ()
    assert detect(images).code == 0
    assert set(contents(tmp_path / "labels").values()) == {""}
    assert len(read_yolo(tmp_path / "labels/a.txt")) == 0


@pytest.mark.parametrize("radius", [8, 20, 60, 200])
@pytest.mark.parametrize("soft", [False, True])
def test_the_outline_of_a_disk_has_its_area_and_its_place(radius, soft):
    side = 2 * radius + 31
    if soft:
        y, x = np.mgrid[:side, :side] - side // 2
        mask = 1 / (1 + np.exp((np.hypot(x, y) - radius) / (0.05 * radius)))
    else:
        mask = np.zeros((side, side))
        mask[disk((side // 2, side // 2), radius)] = 1
    mask = np.pad(mask, ((5, 0), (0, 9))).astype(np.float32)
    corners = outline(mask)
    area = area_of(corners)
    assert area == pytest.approx(np.pi * radius**2 if soft else mask.sum(), rel=0.03)
    assert 20 <= len(corners) <= 100
    center = (side // 2 + 0.5, side // 2 + 5.5)
    np.testing.assert_allclose(np.hypot(*(corners - center).T), radius, atol=1)
    drawn, inside = polygon2mask(mask.shape, corners[:, ::-1] - 0.5), mask > 0.5  # skimage goes by centers of pixels
    assert (drawn & inside).sum() / (drawn | inside).sum() > 0.9


def test_an_outline_is_simplified_only_as_far_as_it_stays_close_to_the_object():
    mask = np.zeros((400, 600), np.float32)
    mask[100:300, 200:500] = 1
    corners = outline(mask)
    assert len(corners) <= 8
    assert sorted({*np.round(corners[:, 0])}) == [200, 500]
    assert sorted({*np.round(corners[:, 1])}) == [100, 300]


def test_an_object_cut_off_by_the_image_reaches_its_edge_and_holes_and_small_parts_are_left_out():
    mask = np.full((50, 70), 0.7, np.float32)
    mask[20:25, 30:35] = 0  # a hole
    mask[:, 60:] = 0
    mask[40:44, 64:67] = 0.9  # a second part
    corners = outline(mask)
    assert corners.min(0).tolist() == [0, 0]
    assert corners[:, 1].max() == 50
    assert 59.5 < corners[:, 0].max() < 60.5
    inside = polygon2mask(mask.shape, corners[:, ::-1] - 0.5)
    assert inside[22, 32]
    assert not inside[42, 65]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1)])
def test_the_outline_of_a_line_or_a_dot_is_still_a_polygon(shape):
    mask = np.zeros((60, 60), np.float32)
    mask[7 : 7 + shape[0], 9 : 9 + shape[1]] = 0.51
    assert len(outline(mask)) >= 3
    assert len(outline(np.ones(shape, np.float32))) >= 3
    assert outline(np.full(shape, 0.5, np.float32)) is None


def test_polygons_are_read_as_boxes_of_their_objects(stand_in, images, detect, tmp_path):
    stand_in.found = (
        (PERSON, 0.6, [20, 10, 60, 50]),
        (DOG, 0.8, [8, 15, 40, 45]),
        (TOOTHBRUSH, 0.7, [0, 0, 40, 30]),
        (DOG, 0.4, [0, 0, 80, 60]),
    )
    stand_in.masks = np.zeros((4, 1, 60, 80), np.float32)
    stand_in.masks[0, 0][disk((30, 40), 20.5)] = 1  # from 20 to 61 in x, and 10 to 51 in y
    stand_in.masks[1, 0, 15:45, 8:40] = 1
    stand_in.masks[2] = 0.4  # nowhere above one half: the box stands for it
    assert detect(images, "--masks").code == 0
    rows = (tmp_path / "labels/a.txt").read_text().splitlines()
    assert [row.split()[0] for row in rows] == ["16", "79", "0"]  # by confidence, which a polygon cannot say
    assert corners_of(rows[1]).tolist() == [[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]
    boxes = read_yolo(tmp_path / "labels/a.txt")
    np.testing.assert_allclose(boxes[0], [16, 24 / 80, 30 / 60, 32 / 80, 30 / 60], atol=1e-6)
    np.testing.assert_allclose(boxes[2], [0, 40.5 / 80, 30.5 / 60, 41 / 80, 41 / 60], atol=0.01)
    assert area_of(corners_of(rows[2]) * (80, 60)) == pytest.approx(stand_in.masks[0].sum(), rel=0.03)
    record = json.loads((tmp_path / "labels" / SIDECAR).read_text())
    assert (record["detector"], record["masks"]) == ("maskrcnn_resnet50_fpn_v2", True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--masks", "--detector", MOBILE], "--masks needs maskrcnn_resnet50_fpn_v2"),
        (["--threshold", 1], "--threshold: expected a number from 0 to 0.999999, got 1"),
        (["--threshold", "nan"], "--threshold: expected a number from 0 to 0.999999, got nan"),
        (["--detector", "yolo"], "invalid choice: 'yolo'"),
    ],
)
def test_wrong_arguments_are_refused(stand_in, images, detect, arguments, says):
    refused = detect(images, *arguments)
    assert refused.code == 2
    assert says in refused.err


def test_weights_that_cannot_be_fetched_are_named_with_the_place_to_put_them(run, images, tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    refused = run("tools/detect_objects.py", images, "-o", tmp_path / "labels", "--detector", MOBILE)
    assert refused.code == 1
    assert refused.err.startswith(f"error: no weights of {MOBILE}: ")
    assert refused.err.count("\n") == 1
    assert str(tmp_path / "torch/hub/checkpoints/fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth") in refused.err
    assert "no route to host" in refused.err
    assert "https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth" in refused.err
    assert "--weights FILE" in refused.err
    assert not (tmp_path / "labels").exists()


def test_weights_are_fetched_once_checked_by_their_hash_and_then_taken_from_where_torchvision_keeps_them(tmp_path, monkeypatch):
    asked = []

    def fetch(url: str, file: str, hash_prefix: str):
        asked.append((url.rpartition("/")[2], hash_prefix))
        Path(file).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        file = fetched_weights("maskrcnn_resnet50_fpn_v2")
        assert file == tmp_path / "checkpoints/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
    assert asked == [("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", "73cbd019")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no weights at "),
        (b"", "cannot be read as weights"),
        (b"PK\x03\x04 torn", "cannot be read as weights"),
        ({"scale": torch.ones(3), "rest": torch.ones(3)}, 'Unexpected key(s) in state_dict: "rest"'),
        ({}, 'Missing key(s) in state_dict: "scale"'),
        ({"scale": torch.ones(4)}, "size mismatch for scale"),
        ({"scale": "ones"}, "holds other weights"),
        (torch.ones(3), "holds other weights"),
        ({"scale": Path("code")}, "cannot be read as weights"),
    ],
)
def test_files_that_are_no_weights_of_the_detector_are_refused(stand_in, images, detect, tmp_path, content, says):
    file = tmp_path / "weights.pth"
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    refused = detect(images)
    assert refused.code == 1
    assert refused.err.startswith("error: ")
    assert refused.err.count("\n") == 1
    assert str(file) in refused.err
    assert says in refused.err
    assert "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth" in refused.err


def random_detector(detector: str) -> nn.Module:
    """A detector of random weights that takes most places of an image for a dog."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(detector, weights=None, weights_backbone=None)
    with torch.no_grad():
        if detector == MOBILE:
            model.roi_heads.box_predictor.cls_score.bias[DOG] = 3
        else:
            for head in model.head.classification_head.module_list:
                nn.init.normal_(head[-1].weight)  # else all places are equally sure
                head[-1].bias.view(-1, 91)[:, DOG] = 9
    return model


@pytest.mark.parametrize(("detector", "named"), [(MOBILE, True), ("ssdlite320_mobilenet_v3_large", False)])
def test_a_file_of_weights_makes_the_detector_that_torchvision_makes_of_it(run, detector, named, images, tmp_path, monkeypatch):
    file = tmp_path / "checkpoints" / torchvision.models.get_model_weights(detector).DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save(random_detector(detector).state_dict(), file)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    official = torchvision.models.get_model(detector, weights="DEFAULT").eval()
    # With weights, torchvision makes detectors of frozen batch normalization, which lack the counters that others have.
    torch.save(official.state_dict(), file)
    with torch.inference_mode():
        found = official([torch.from_numpy(read_rgb(images / "a.jpg")).permute(2, 0, 1) / 255])[0]
    sure = (found["scores"] > 0.1) & (found["labels"] == DOG)
    assert sure.sum() >= 3
    assert (found["scores"][found["labels"] != DOG] < 0.1).all()

    weights = [] if not named else ["--weights", file.rename(tmp_path / "weights.pth")]
    arguments = ["--detector", detector, "--threshold", 0.1, "--device", "cpu", *weights]
    done = run("tools/detect_objects.py", images / "a.jpg", "-o", tmp_path / "labels", *arguments)
    assert done.code == 0
    rows = np.loadtxt(tmp_path / "labels/a.txt", ndmin=2)
    assert set(rows[:, 0]) == {16}
    x1, y1, x2, y2 = found["boxes"][sure].T.numpy()
    expected = np.stack([(x1 + x2) / 160, (y1 + y2) / 120, (x2 - x1) / 80, (y2 - y1) / 60], 1)
    np.testing.assert_allclose(rows[:, 1:5], expected, atol=1e-4)
    np.testing.assert_allclose(rows[:, 5], found["scores"][sure], atol=1e-5)
    np.testing.assert_allclose(read_yolo(tmp_path / "labels/a.txt"), rows[:, :5])
