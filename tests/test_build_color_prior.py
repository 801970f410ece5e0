"""Building the object prior: from made-up images whose objects have planted colors, and from COCO where there is a copy."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.color_prior import ab_bins
from models.object_prior import ALL, MEASURES, SIZE, Evidence, ObjectPrior, measure
from tools.build_color_prior import Judged, LabeledImage, LabeledImages, check_text, count, fit, held_out, recolored, shape_text
from utils.color import rgb_to_lab
from utils.labels import COCO_NAMES, CURVE, object_mask, read_color_curves, read_objects

CENTERS = ab_bins()[0].numpy()
STOP_SIGN, BROCCOLI, BANANA, APPLE, TOASTER = (
    COCO_NAMES.index(name) for name in ("stop sign", "broccoli", "banana", "apple", "toaster")
)
RED, GREEN, BLUE, YELLOW, GRAY = (200, 30, 30), (40, 120, 40), (40, 60, 200), (220, 200, 40), (128, 128, 128)
DISK = np.stack((np.cos(np.arange(40) * np.pi / 20), np.sin(np.arange(40) * np.pi / 20)), 1)

COPIES = [
    os.environ.get("ICQA_COCO128", ""),
    str(Path(__file__).resolve().parents[2] / "shared" / "data" / "photos" / "coco128"),
]
COCO128 = next((Path(copy) for copy in COPIES if copy and Path(copy).is_dir()), None)


def row(category: int, x: float, y: float, width: float, height: float, *more: float) -> str:
    return " ".join(map(str, (category, x, y, width, height, *more))) + "\n"


def disk(category: int, x: float, y: float, radius: float) -> str:
    """Polygon row of a disk; the radius is a share of each side."""
    return f"{category} " + " ".join(f"{value:.5f}" for value in (DISK * radius + (x, y)).ravel()) + "\n"


def paint(path: Path, background: tuple, *disks: tuple[tuple, float, float, float], size: tuple[int, int] = (80, 100)) -> None:
    """Write an image of disks: color, x, y and radius, as shares of the sides."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.broadcast_to(np.array(background, np.uint8), (height, width, 3)).copy()
    for color, x_center, y_center, radius in disks:
        image[((x / width - x_center) ** 2 + (y / height - y_center) ** 2) <= radius**2] = color
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def label(root: Path, name: str, text: str, folder: str = "labels") -> None:
    path = root / folder / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six images of red disks, stop signs, on green; one with a yellow disk too; one blue image without objects."""
    for number in range(6):
        x = 0.3 + 0.05 * number
        disks = [(RED, x, 0.4, 0.2)]
        text = disk(STOP_SIGN, x, 0.4, 0.19)
        if number == 0:
            disks.append((YELLOW, 0.8, 0.8, 0.15))
            text += disk(BANANA, 0.8, 0.8, 0.14)
        paint(tmp_path / "images" / "deep" / f"{number}.png", GREEN, *disks)
        label(tmp_path, f"deep/{number}", text)
    paint(tmp_path / "images" / "empty.png", BLUE)
    label(tmp_path, "empty", "\n")
    paint(tmp_path / "images" / "unlabeled.png", BLUE)
    return tmp_path


def build(run, root: Path, *options: object) -> tuple:
    """The run of the script, and the prior it wrote."""
    done = run("tools/build_color_prior.py", root / "images", root / "labels", "-o", root / "prior.npz", *options)
    return done, ObjectPrior.load(root / "prior.npz") if (root / "prior.npz").is_file() else None


def lab_of(color: tuple) -> np.ndarray:
    return rgb_to_lab(torch.tensor(color, dtype=torch.float64).view(1, 3, 1, 1) / 255).flatten().numpy()


def evidence_of(root: Path, polygons: str | None = None) -> Evidence:
    evidence = Evidence()
    images = LabeledImages(root / "images", root / "labels", root / polygons if polygons else None)
    count(images, images.listed.names, evidence)
    return evidence


def mean_ab(evidence: Evidence, category: int) -> np.ndarray:
    histogram = evidence.histogram[category].sum(0)
    return histogram @ CENTERS / histogram.sum()


def test_planted_colors_are_found_and_a_single_object_falls_back_to_all(run, photos):
    done, prior = build(run, photos)
    assert done.code == 0, done.err
    assert prior.objects[[STOP_SIGN, BANANA, BROCCOLI, ALL]].tolist() == [6, 1, 0, 7]
    assert prior.pictures[[STOP_SIGN, BANANA, BROCCOLI, ALL]].tolist() == [6, 1, 0, 6]
    evidence = evidence_of(photos)
    assert mean_ab(evidence, STOP_SIGN) == pytest.approx(lab_of(RED)[1:], abs=0.1)
    assert mean_ab(evidence, BANANA) == pytest.approx(lab_of(YELLOW)[1:], abs=0.1)
    red_band, yellow_band = (int(lab_of(color)[0] // 20) for color in (RED, YELLOW))
    nearest = int(np.abs(CENTERS - lab_of(RED)[1:]).sum(1).argmin())
    assert prior.probability[STOP_SIGN, red_band].argmax() == nearest
    # what is not known of a category is as of all of them
    assert (prior.probability[TOASTER] == prior.probability[ALL]).all()
    assert (prior.probability[BANANA, red_band] == prior.probability[ALL, red_band]).all()
    known = prior.probability[BANANA, yellow_band]
    assert 0.1 < np.abs(known - prior.probability[ALL, yellow_band]).sum() < 1  # one object against the two of SHRINKAGE


def test_the_counts_are_those_of_numpy(photos):
    evidence = evidence_of(photos)
    assert evidence.histogram[STOP_SIGN].sum() == pytest.approx(6)
    # the pixels of the reduced image that the polygon holds, all of one color, spread over four cells by distance
    a, b = lab_of(RED)[1:] / 10
    shares = {
        (10 * (np.floor(a) + i), 10 * (np.floor(b) + j)): abs(1 - i - (a - np.floor(a))) * abs(1 - j - (b - np.floor(b)))
        for i in (0, 1)
        for j in (0, 1)
    }
    found = dict(zip(map(tuple, CENTERS.tolist()), evidence.histogram[STOP_SIGN].sum(0), strict=True))
    for center, share in shares.items():
        assert found[center] == pytest.approx(6 * share, abs=0.02)


def test_a_run_says_what_it_left_out_and_where_the_prior_comes_from(run, photos):
    paint(photos / "images" / "gray.png", GRAY)
    label(photos, "gray", row(BANANA, 0.5, 0.5, 0.5, 0.5))
    label(
        photos, "deep/0", disk(STOP_SIGN, 0.3, 0.4, 0.19) + row(BANANA, 1.4, 0.5, 0.2, 0.2) + row(BANANA, 0.5, 0.5, 0.01, 0.01)
    )
    (photos / "skip.txt").write_text("# comment\n5\n\ndeep/4.png\nabsent.jpg\n")
    done, prior = build(run, photos, "--exclude", photos / "skip.txt")
    assert done.code == 0
    for line in (
        "left out: 1 images without a label file",
        "left out: 1 images without color",
        "left out: 1 images without objects",
        "left out: 2 objects outside of the image or too small",
        "left out: 2 images excluded",
        "1 names of --exclude are of no image in",
        "4 objects in 4 images",
    ):
        assert line in done.out, line
    assert prior.about["pictures"] == prior.about["objects"] == 4
    assert prior.about["images"] == "images"
    assert prior.about["labels"] == ["labels"]
    assert prior.about["left out"]["images excluded"] == 2
    assert prior.about["smoothing"] == 4
    assert str(photos) not in json.dumps(prior.about)


def test_the_table_has_the_color_of_each_category(run, photos):
    done, _ = build(run, photos)
    sign = next(line for line in done.out.splitlines() if "stop sign" in line).split()
    assert sign[2:4] == ["6", "6"]
    mean = [float(value) for value in sign[5:7]]
    assert mean == pytest.approx(lab_of(RED)[1:], abs=0.6)
    color = bytes.fromhex(sign[7].lstrip("#"))
    assert color[0] > 1.8 * max(color[1:])


def test_masks_beat_boxes_where_a_image_has_them(run, photos):
    for number in range(6):
        # a box around both disk and background; polygons for the first three images only
        x = 0.3 + 0.05 * number
        label(photos, f"deep/{number}", row(STOP_SIGN, x, 0.4, 0.6, 0.6))
        if number < 3:
            label(photos, f"deep/{number}", disk(STOP_SIGN, x, 0.4, 0.19), "polygons")
    red, green = lab_of(RED)[1], lab_of(GREEN)[1]
    boxes, masks = (mean_ab(evidence_of(photos, polygons), STOP_SIGN)[0] for polygons in (None, "polygons"))
    share = (0.2 / 0.3 / 0.9) ** 2  # of the ellipse in the box that is red
    assert boxes == pytest.approx(share * red + (1 - share) * green, abs=2)
    assert masks == pytest.approx((boxes + red) / 2, abs=1)
    done, prior = build(run, photos, "--polygons", photos / "polygons")
    assert done.code == 0
    assert prior.about["labels"] == ["polygons", "labels"]


def test_confidences_and_flat_folders_of_labels_are_fine(photos):
    for file in (photos / "labels" / "deep").iterdir():
        file.rename(photos / "labels" / file.name)
    label(photos, "5", row(STOP_SIGN, 0.55, 0.4, 0.4, 0.4, 0.93))
    evidence = evidence_of(photos)
    assert evidence.objects[[STOP_SIGN, ALL]].tolist() == [6, 7]
    assert mean_ab(evidence, STOP_SIGN) == pytest.approx(lab_of(RED)[1:], abs=1)


def test_unreadable_files_are_named_and_the_prior_is_written_all_the_same(run, photos):
    (photos / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    label(photos, "broken", row(BANANA, 0.5, 0.5, 0.5, 0.5))
    label(photos, "deep/1", row(80, 0.5, 0.5, 0.5, 0.5))
    label(photos, "deep/2", row(STOP_SIGN, 320, 200, 40, 40))
    done, prior = build(run, photos, "--json", photos / "color_.json")
    assert done.code == 1
    assert "broken.png: is truncated, damaged" in done.out
    assert "1.txt, line 1: class '80' is unknown; expected 0 to 79" in done.out
    assert "2.txt, line 1: x center 320 is not normalized" in done.out
    assert "Traceback" not in done.err
    assert prior.objects[[STOP_SIGN, ALL]].tolist() == [4, 5]
    assert prior.about["left out"]["images or labels unreadable"] == 3
    assert read_color_curves(photos / "color_.json").any()


def test_the_numbers_of_coco_s_annotation_files_are_converted_and_it_is_said(run, photos):
    for file in (photos / "labels" / "deep").iterdir():
        # stop sign and banana are 13 and 52 there, refrigerator 82
        text = file.read_text().replace(f"{STOP_SIGN} ", "13 ", 1).replace(f"\n{BANANA} ", "\n52 ")
        file.write_text(text + row(82, 0.2, 0.9, 0.1, 0.1))
    done, prior = build(run, photos)
    assert done.code == 0
    assert "labels: classes are the numbers of COCO's annotation files, 1 to 90; converted to 0 to 79" in done.out
    assert prior.objects[[STOP_SIGN, BANANA, COCO_NAMES.index("refrigerator")]].tolist() == [6, 1, 6]


def test_the_published_prior_has_the_share_of_each_level_in_the_objects(run, photos):
    paint(photos / "images" / "deep" / "1.png", GREEN, (BLUE, 0.35, 0.4, 0.2))  # a blue stop sign among five red ones
    done, _ = build(run, photos, "--json", photos / "color_.json")
    assert done.code == 0
    curves = read_color_curves(photos / "color_.json").reshape(81, 3, 256)
    assert curves.shape == (81, 3, CURVE // 3)
    for channel, (red, blue) in enumerate(zip(RED, BLUE, strict=True)):
        assert curves[STOP_SIGN, channel].sum() == pytest.approx(1)
        assert curves[STOP_SIGN, channel, red] == pytest.approx(5 / 6, abs=0.01)
        assert curves[STOP_SIGN, channel, blue] == pytest.approx(1 / 6, abs=0.01)
    assert not curves[BROCCOLI].any()
    assert set(json.loads((photos / "color_.json").read_text())) == {str(STOP_SIGN), str(BANANA)}


def test_two_runs_write_the_same(run, photos):
    written = []
    for _ in range(2):
        build(run, photos, "--json", photos / "color_.json")
        with np.load(photos / "prior.npz") as content:
            written.append({name: content[name].tobytes() for name in content} | {"j": (photos / "color_.json").read_bytes()})
    assert written[0] == written[1]


def test_percentiles_are_of_objects_compared_without_their_own_image(photos, monkeypatch):
    images = LabeledImages(photos / "images", photos / "labels")
    evidence = Evidence()
    used, *_ = count(images, images.listed.names, evidence)
    received = {}
    original = ObjectPrior.fit.__func__
    monkeypatch.setattr(
        ObjectPrior,
        "fit",
        classmethod(lambda cls, *arguments: received.update(values=arguments[1:4]) or original(cls, *arguments)),
    )
    fit(images, used, evidence)
    categories, values, values_of_any = received["values"]
    assert categories.tolist() == [STOP_SIGN, BANANA] + [STOP_SIGN] * 5
    number = 0
    for name in used:
        others = Evidence()  # built anew from all other images
        count(images, [other for other in used if other != name], others)
        for category, observation in images.read(name).observed():
            assert values[number] == pytest.approx(measure(observation, others.expectation(category)), abs=1e-6)
            assert values_of_any[number] == pytest.approx(measure(observation, others.expectation(ALL)), abs=1e-6)
            number += 1
    assert number == len(values) == 7


def test_a_image_is_read_at_the_size_of_the_networks(photos):
    images = LabeledImages(photos / "images", photos / "labels")
    image = images.read("deep/0.png")
    assert isinstance(image, LabeledImage)
    assert image.lab.shape == image.rgb.shape == (3, SIZE, SIZE)
    thing = read_objects(photos / "labels" / "deep" / "0.txt")[0]
    assert (image.objects[0][1] == object_mask(thing, SIZE, SIZE)).all()
    assert image.lab[:, torch.from_numpy(image.objects[0][1])].mean(1).numpy() == pytest.approx(lab_of(RED), abs=0.2)


def test_recoloring_changes_the_object_alone(photos):
    image = LabeledImages(photos / "images", photos / "labels").read("deep/0.png")
    mask = torch.from_numpy(image.objects[0][1])
    changed = recolored(image.lab, mask.numpy(), lambda ab: 0.5 * ab)
    assert (changed - image.lab)[:, ~mask].abs().max() < 1  # but for the rounding to 8 bits
    assert (changed - image.lab)[0].abs().max() < 1
    assert changed[1:, mask].mean(1).numpy() == pytest.approx(0.5 * lab_of(RED)[1:], abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("absent", "labels"), "absent does not exist"),
        (("images", "absent"), "no folder of object labels"),
        (("images", "labels", "--polygons", "absent"), "no folder of object labels"),
        (("images", "labels", "--exclude", "absent.txt"), "expected a text file of images to leave out"),
        (("images", "labels", "--exclude", "labels"), "labels is not a known dataset"),
        (("labels", "labels"), "no image found in"),
        (("images", "elsewhere"), "images in .* shows an object; check"),
    ],
)
def test_what_is_missing_is_one_line(run, photos, monkeypatch, arguments, says):
    monkeypatch.chdir(photos)
    (photos / "elsewhere").mkdir()
    done = run("tools/build_color_prior.py", *arguments, "-o", "prior.npz")
    assert done.code == 1
    message = done.err.splitlines()[-1]
    assert message.startswith("error: ")
    assert re.search(says, message)
    assert not (photos / "prior.npz").exists()


@pytest.mark.parametrize("option", ["--smoothing", "--shrinkage"])
def test_settings_must_be_above_0(run, photos, option):
    done, prior = build(run, photos, option, 0)
    assert done.code == 2
    assert f"{option} must be above 0, got 0" in done.err
    assert prior is None


def test_the_check_prints_calibration_and_what_the_measures_tell(run, photos):
    done, _ = build(run, photos, "--check")
    assert done.code == 0
    table = done.out[done.out.index("7 held-out objects") :]
    assert [word in table for word in ("above 95", "below 5", "hue turned by 180 degrees", *MEASURES)] == [True] * 10
    for number in range(2, 6):
        (photos / "images" / "deep" / f"{number}.png").unlink()
    done, prior = build(run, photos, "--check")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "error: --check needs at least 5 images with objects, got 2"
    assert prior.objects[ALL] == 3


def test_the_page_of_the_check_has_its_command_and_what_it_printed(run, photos):
    done, _ = build(run, photos, "--polygons", photos / "labels", "--check-page", photos / "page.md")
    assert done.code == 0
    page = (photos / "page.md").read_text()
    _, command, reading, printed, _ = page.split("```")
    assert command.strip().startswith("python tools/build_color_prior.py ")
    assert command.strip().endswith(f"--check-page {photos / 'page.md'}")
    assert printed in done.out
    assert "7 held-out objects" in printed
    assert "from those of the polygon: sliced Wasserstein, CIELAB units, 7 objects" in printed
    stated = re.search(
        r"The color of (\d+) % of the objects is worth a word as they are, and of (\d+) % with their hue", reading
    )
    named = printed[printed.index("share whose color") : printed.index("AUC of")].splitlines()
    in_table = [next(line.split() for line in named if line.startswith(row)) for row in ("as it is", "hue turned by 180")]
    assert [float(cells[3 + 2 * number]) for number, cells in enumerate(in_table)] == [
        int(share) / 100 for share in stated.groups()
    ]


def test_the_colors_of_an_ellipse_are_nearer_to_those_of_a_disk_than_the_box_is(photos):
    images = LabeledImages(photos / "images", photos / "labels")
    names = [name for name in images.listed.names if name.startswith("deep")]
    rows = {re.split(r"\s{2,}", line)[0]: line.split()[-2:] for line in shape_text(images, names).splitlines()[2:]}
    assert list(rows) == ["whole box", "ellipse in 1 of it", "ellipse in 0.9 of it", "ellipse in 0.8 of it"]
    # the corners of the box around a disk are green in place of red
    green = (np.hypot(*np.mgrid[-0.19:0.19:400j, -0.19:0.19:400j]) > 0.2).mean()
    apart = np.hypot(*np.subtract(lab_of(RED), lab_of(GREEN))[1:])
    assert float(rows["whole box"][1]) == pytest.approx(green * 2 / np.pi * apart, rel=0.05)
    assert all(float(value) < 0.5 for name in list(rows)[1:] for value in rows[name])
    label(photos, "deep/0", row(STOP_SIGN, 0.3, 0.4, 0.4, 0.4))
    assert shape_text(images, names[:1]) == ""


def test_the_table_of_the_check_counts_tails_and_areas():
    categories = np.repeat((STOP_SIGN, BANANA), (10, 4))
    percentiles = np.full((14, 5, len(MEASURES)), 50.0)
    named = np.zeros((14, 5), bool)
    named[:6, 0] = named[:12, 3] = True
    chroma = np.repeat((30.0, 5.0), (12, 2))
    percentiles[:7, 0, 0] = 96  # sliced Wasserstein of half the objects
    percentiles[:, 2] = 97  # turned by 180 degrees, everything is unusual
    percentiles[:, 2, MEASURES.index("chroma z")] = 0  # at the lower end, which counts as much
    text = check_text(Judged(categories, chroma, percentiles, named))
    shares, areas = text[: text.index("AUC of")], text[text.index("AUC of") :]
    lines = {re.split(r"\s{2,}", line)[0]: line for line in shares.splitlines()}
    assert lines["above 95"].split()[2] == "0.500"
    assert set(lines["above 95"].split()[3:]) == {"0.000"}
    assert "all (14)  chroma below 10 (2)  chroma 10 and up (12)" in shares
    assert lines["as it is"].split()[3:] == ["0.43", "0.00", "0.50"]
    assert lines["chroma times 0.4"].split()[3:] == ["0.86", "0.00", "1.00"]
    lines = {re.split(r"\s{2,}", line)[0]: line for line in areas.splitlines()}
    assert lines["hue turned by 180 degrees"].split()[5:] == ["1.00"] * 7
    # of a chroma times 0.4 nothing differs but for the 7 objects that were unusual before
    assert lines["chroma times 0.4"].split()[3:] == ["0.25"] + ["0.50"] * 6
    assert lines["stop sign (10)"].split()[3:] == ["1.00"] * 7
    assert not any("banana" in name for name in lines)  # too few to tell


@pytest.mark.skipif(COCO128 is None, reason="no copy of coco128; set ICQA_COCO128 to its folder")
def test_on_coco_percentiles_are_calibrated_and_turned_hues_stand_out():
    images = LabeledImages(*(COCO128 / folder / "val2017" for folder in ("images", "labels", "polygons")))
    assert images.coco91 == [True, False]
    evidence = Evidence()
    used, _, _, unreadable = count(images, images.listed.names[:40], evidence)
    assert not unreadable
    assert len(used) > 30
    judged = held_out(images, used, evidence.smoothing, evidence.shrinkage)
    percentiles = judged.percentiles
    assert len(judged.categories) == len(judged.chroma) == evidence.objects[ALL] > 200
    assert 0.05 < judged.named[:, 0].mean() < judged.named[:, 2].mean() - 0.1
    assert (percentiles[:, 0] > 95).mean(0) == pytest.approx(np.full(len(MEASURES), 0.05), abs=0.06)
    distance = MEASURES.index("KL divergence")
    real, turned = percentiles[:, 0, distance], percentiles[:, 2, distance]
    assert (turned > real).mean() > 0.6


@pytest.mark.skipif(COCO128 is None, reason="no copy of coco128; set ICQA_COCO128 to its folder")
def test_the_polygons_of_coco_show_the_objects_of_its_boxes():
    images = LabeledImages(*(COCO128 / folder for folder in ("images", "labels", "polygons")))
    both = [name for name in images.listed.names if all(folder.file(name) for folder in images.folders)]
    assert len(both) > 150
    same = 0
    for name in both:
        polygons, boxes = (read_objects(f.file(name), c) for f, c in zip(images.folders, images.coco91, strict=True))
        same += sorted(thing.category for thing in polygons) == sorted(thing.category for thing in boxes)
    assert same > 0.9 * len(both)  # those of crowds differ
