"""The table of a paper: its measures against other packages, its statistics against plain loops, and the command itself."""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_image, recolor
from PIL import Image
from scipy.linalg import sqrtm
from skimage.metrics import structural_similarity
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from evaluation.agreement import Resamples
from models import load_model
from report import paper_table
from report.image_measures import (
    LPIPS,
    PSNR,
    FrechetDistances,
    PerceptualDistance,
    colorfulness_of,
    luma_correlation,
    make_or_skip,
    measure,
    prepare,
)
from report.paper_table import (
    ORIGINAL,
    Measured,
    as_latex_table,
    differences_of,
    join_folders,
    join_index,
    keep_common,
    means_of,
    tables_of,
    warnings_of,
)

SCENES = [f"scene{number}" for number in range(6)]
SCORES = ("ICQA PR", "ICQA CF", "ICQA SCC")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six originals, one of them gray, and two methods: one equals the original of scene0, the other has JPEG files."""
    root = tmp_path_factory.mktemp("paper")
    for folder in ("photos", "pale", "shifted"):
        (root / folder).mkdir()
    for number, scene in enumerate(SCENES):
        photo = make_image(number, 260 + 10 * number, 300 - 8 * number)
        if number == 5:
            photo = photo.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)
        gray = photo.mean(2, keepdims=True)
        pale = photo if number == 0 else (0.5 * photo + 0.5 * gray).astype(np.uint8)
        Image.fromarray(photo).save(root / "photos" / f"{scene}.png")
        Image.fromarray(pale).save(root / "pale" / f"{scene}.png")
        shifted = (photo + np.array([20, 0, -52])).clip(0, 255).astype(np.uint8)  # about as light as before
        Image.fromarray(shifted).save(root / "shifted" / f"{scene}.jpg")
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, weights: dict[str, Path]) -> None:
    """Tiny networks for our scores, and no package that would download weights."""
    monkeypatch.setattr(paper_table, "load_model", lambda dimension: load_model(weights[dimension]))
    for package in ("lpips", "torchmetrics.image.fid"):
        monkeypatch.setitem(sys.modules, package, None)


def arguments(root: Path) -> list[object]:
    return ["--images", root / "pale", root / "shifted", "--originals", root / "photos", "--paper-table"]


def frame_of(values: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """A table of images from colorfulness, PSNR and so on, by method and measure; "originals" among them."""
    rows = []
    for method, measures in values.items():
        for number in range(len(next(iter(measures.values())))):
            row = {name: column[number] for name, column in measures.items()}
            rows.append({"image": f"i{number:02}", "method": method, "gray": False, "luma correlation": 1.0, **row})
    return pd.DataFrame(rows)


def measured_of(values: dict[str, dict[str, list[float]]], fid: dict[str, float] | None = None) -> Measured:
    return Measured(frame_of(values), fid or {}, {}, 0, [], [])


# Measures


def test_an_image_is_cropped_as_torchvision_does():
    for seed, (height, width) in enumerate(((300, 401), (417, 280), (256, 341), (90, 77))):
        rgb = make_image(seed, height, width)
        expected = CenterCrop(256)(Resize(256, InterpolationMode.BICUBIC)(Image.fromarray(rgb)))
        assert np.array_equal(prepare(rgb, crop=True), np.asarray(expected))


def test_an_image_is_squeezed_whole_and_one_of_the_right_size_stays_as_it_is():
    rgb = make_image(0, 300, 400)
    assert np.array_equal(prepare(rgb), np.asarray(Image.fromarray(rgb).resize((256, 256), Image.Resampling.BICUBIC)))
    small = make_image(1, 256, 256)
    assert np.array_equal(prepare(small), small)
    assert np.array_equal(prepare(small, crop=True), small)


def test_psnr_is_that_of_rgb_and_255_levels():
    original = np.full((256, 256, 3), 100, np.uint8)
    assert measure(original + 1, original)["PSNR"] == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    one_channel = original.copy()
    one_channel[..., 2] += 10
    assert measure(one_channel, original)["PSNR"] == pytest.approx(10 * math.log10(255**2 / (100 / 3)))
    assert measure(original, original) == {"colorfulness": 0, "PSNR": math.inf, "SSIM": 1}


def test_ssim_is_that_of_wang_et_al_and_not_the_default_of_scikit_image():
    rgb, original = recolor(make_image(0, 256, 256), "STAIN"), make_image(0, 256, 256)
    x, y = rgb.astype(float), original.astype(float)
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blurred(plane: np.ndarray) -> np.ndarray:
        rows = np.apply_along_axis(np.convolve, 0, plane, taps, "valid")
        return np.apply_along_axis(np.convolve, 1, rows, taps, "valid")

    found = []
    for channel in range(3):
        a, b = x[..., channel], y[..., channel]
        mean_a, mean_b = blurred(a), blurred(b)
        var_a, var_b, both = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2, blurred(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        found.append((luminance * (2 * both + c2) / (var_a + var_b + c2)).mean())
    assert measure(rgb, original)["SSIM"] == pytest.approx(np.mean(found), abs=1e-9)
    default = structural_similarity(original, rgb, channel_axis=2, data_range=255)
    assert abs(measure(rgb, original)["SSIM"] - default) > 1e-3


def test_colorfulness_is_the_formula_of_hasler_and_suesstrunk():
    rgb = make_image(4, 256, 256)
    red, green, blue = np.moveaxis(rgb.astype(float), 2, 0)
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread, mean = math.hypot(np.std(rg), np.std(yb)), math.hypot(np.mean(rg), np.mean(yb))
    assert colorfulness_of(rgb) == pytest.approx(spread + 0.3 * mean)


def test_lpips_is_that_of_its_package():
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()  # its own linear weights, AlexNet at random
    rgb, original = recolor(make_image(0, 256, 256), "SWAP"), make_image(0, 256, 256)
    with torch.no_grad():
        pair = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for image in (rgb, original))
        expected = network(*pair).item()
    distance = PerceptualDistance(network)
    assert distance(np.stack([rgb, original]), np.stack([original] * 2)) == pytest.approx([expected, 0], abs=1e-6)
    assert expected > 0.001


def test_fid_is_that_of_the_formula_for_each_method():
    pytest.importorskip("torchmetrics")

    class Corners(torch.nn.Module):
        num_features = 4

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, :2, :2].flatten(1).float()

    rng = np.random.default_rng(0)
    originals, *methods = (rng.integers(0, top, (9, 8, 8, 3), dtype=np.uint8) for top in (250, 200, 90))
    distances = FrechetDistances(2, Corners())
    for part in (slice(0, 4), slice(4, 9)):
        distances.update(originals[part], np.stack([images[part] for images in methods]))
    for found, images in zip(distances.values(), methods, strict=True):
        x, y = (some[:, :2, :2, 0].reshape(9, 4).astype(float) for some in (originals, images))
        a, b = np.cov(x.T), np.cov(y.T)
        expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_measure_is_skipped_with_one_line():
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'lpips'")

    def offline() -> None:
        raise OSError("<urlopen error\n no route>")

    assert make_or_skip("LPIPS", ("lpips",), absent) == (
        None,
        "LPIPS: skipped, it needs lpips; pip install -r requirements-metrics.txt",
    )
    made, said = make_or_skip("FID", ("torchmetrics",), offline)
    assert made is None
    assert said == (
        "FID: skipped, its weights cannot be fetched (<urlopen error no route>); run it once where there is a network"
    )
    assert make_or_skip("X", ("numpy", "pandas"), lambda: 1) == (1, f"numpy {np.__version__}, pandas {pd.__version__}")


def test_another_image_is_known_by_its_lightness_and_another_color_is_not():
    original = make_image(0, 256, 256)
    assert luma_correlation(recolor(original, "DULL"), original) > 0.9
    assert luma_correlation(make_image(7, 256, 256), original) < 0.9
    assert luma_correlation(np.zeros_like(original), original) == 1  # nothing can be told


# Which image belongs to which original


def test_images_are_joined_by_name_whatever_their_suffix(folders):
    joined = join_folders([folders / "pale", folders / "shifted"], folders / "photos")
    assert list(joined.methods) == ["pale", "shifted"]
    assert joined.methods["shifted"]["scene1.png"] == folders / "shifted" / "scene1.jpg"
    assert keep_common(joined, False) == ([f"{scene}.png" for scene in SCENES], [])


def test_missing_and_extra_images_are_named_or_left_out_for_all(folders, tmp_path):
    for number in (0, 1, 2):
        Image.fromarray(make_image(number, 20, 20)).save(tmp_path / f"scene{number}.png")
    Image.fromarray(make_image(9, 20, 20)).save(tmp_path / "other.png")
    joined = join_folders([folders / "pale", tmp_path], folders / "photos")
    said = (
        f"{tmp_path.name} has no image of 3 of 6 originals, e.g. scene3.png, scene4.png, scene5.png; "
        f"{tmp_path.name} has 1 image without an original, e.g. other.png"
    )
    with pytest.raises(ValueError, match="--allow-missing leaves these out for all methods") as error:
        keep_common(joined, False)
    assert str(error.value).startswith(said)
    common, lines = keep_common(joined, True)
    assert common == ["scene0.png", "scene1.png", "scene2.png"]
    assert lines == [f"Left out for all methods: {part}." for part in said.split("; ")]


def test_folders_that_do_not_fit_are_refused(folders, tmp_path):
    Image.fromarray(make_image(0, 20, 20)).save(tmp_path / "x_out.png")
    with pytest.raises(ValueError, match=r"x_out.png fits none, e.g. scene0.png; name them alike"):
        join_folders([tmp_path], folders / "photos")
    with pytest.raises(ValueError, match="--images names a folder twice"):
        join_folders([folders / "pale", folders / "photos" / ".." / "pale"], folders / "photos")


def test_folders_of_one_name_are_told_apart_by_those_above(folders, tmp_path):
    for method in ("a", "b"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "out").symlink_to(folders / "pale" if method == "a" else folders / "shifted")
    joined = join_folders([tmp_path / "a" / "out", tmp_path / "b" / "out"], folders / "photos")
    assert list(joined.methods) == ["a/out", "b/out"]
    assert list(join_folders([tmp_path / "a" / "out"], folders / "photos").methods) == ["out"]


def test_one_folder_is_joined_by_an_index_or_by_its_names(folders, tmp_path):
    rows = [("image", "scene", "method")]
    for method, suffix in (("photos", "png"), ("pale", "png"), ("shifted", "jpg")):
        rows += [(f"{method}/{s}.{suffix}", s, "original" if method == "photos" else method) for s in SCENES]
    with open(tmp_path / "index.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    joined = join_index(folders, tmp_path / "index.csv", None)
    assert set(joined.methods) == {"pale", "shifted"}
    assert joined.originals["scene2"] == folders / "photos" / "scene2.png"
    assert keep_common(joined, False)[0] == SCENES
    with pytest.raises(ValueError, match="got original and --originals"):
        join_index(folders, tmp_path / "index.csv", folders / "photos")
    with pytest.raises(ValueError, match=r"got none; .*methods: pale, photos, shifted"):
        join_index(folders, None, None)  # METHOD/SCENE, no method of a name that means originals
    for method in ("A", "B"):
        Image.fromarray(make_image(0, 20, 20)).save(tmp_path / f"{method}_0.png")
    (tmp_path / "index.csv").unlink()
    with pytest.raises(ValueError, match="no scene of"):
        join_index(tmp_path, None, folders / "photos")
    Image.fromarray(make_image(0, 20, 20)).save(tmp_path / "gt_0.png")
    assert {"A", "B"} == set(join_index(tmp_path, None, None).methods)


# Means and differences


def test_means_and_intervals_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    values = {
        ORIGINAL: {"colorfulness": rng.uniform(20, 60, 12).tolist()},
        "a": {"colorfulness": rng.uniform(10, 40, 12).tolist(), "PSNR": rng.uniform(18, 30, 12).tolist()},
    }
    draws = Resamples(12, 200, 3)
    means = means_of(measured_of(values), draws).set_index(["method", "measure"])
    change = np.subtract(values["a"]["colorfulness"], values[ORIGINAL]["colorfulness"])
    assert means.loc[("a", "Δ colorfulness"), "value"] == pytest.approx(change.mean())
    assert means.loc[("a", "Δ colorfulness"), "value"] == pytest.approx(
        means.loc[("a", "colorfulness"), "value"] - means.loc[(ORIGINAL, "colorfulness"), "value"]
    )
    sample = np.array([np.average(change, weights=count) for count in draws.counts])
    assert means.loc[("a", "Δ colorfulness"), ["low", "high"]].tolist() == pytest.approx(
        draws.interval(change.mean(), sample)[:2]
    )
    assert (ORIGINAL, "PSNR") not in means.index


def test_a_psnr_without_end_counts_beside_the_mean_and_not_in_it():
    values = {
        ORIGINAL: {"colorfulness": [1.0] * 5},
        "a": {"colorfulness": [1.0] * 5, "PSNR": [math.inf, 20, 22, 24, 26]},
        "b": {"colorfulness": [1.0] * 5, "PSNR": [math.inf] * 5},
    }
    measured = measured_of(values)
    means = means_of(measured, Resamples(5, 50)).set_index(["method", "measure"])
    assert means.loc[("a", "PSNR"), ["value", "n"]].tolist() == [23, 4]
    assert means.loc[("b", "PSNR"), ["value", "n"]].tolist() == [math.inf, 0]
    differences = differences_of(measured, Resamples(5, 50), {}).set_index("measure")
    assert differences.loc["PSNR", "n"] == 0
    assert tables_of(means.reset_index(), differences.reset_index())[0].cells.set_index("method")["PSNR ↑"].tolist() == [
        "-",
        "23.00",
        "∞",
    ]


def test_differences_are_paired_and_their_sign_follows_the_direction_of_the_measure():
    rng = np.random.default_rng(1)
    scenes = rng.normal(0, 5, 30)  # shared by both methods: pairing takes it away
    values = {ORIGINAL: {"colorfulness": [40.0] * 30, "ICQA PR": [0.5] * 30}}
    for name, shift in (("a", 0.0), ("b", 1.0)):
        noise = rng.normal(0, 0.1, 30)
        values[name] = {
            "colorfulness": (35 - 9 * shift + noise).tolist(),
            "PSNR": (24 + scenes + shift + noise).tolist(),
            "LPIPS": (0.3 + shift / 10 + noise / 100).tolist(),
            "ICQA PR": (0.2 + shift / 10 + noise / 10).tolist(),
        }
    measured = measured_of(values, {"a": 10.0, "b": 12.5})
    draws = Resamples(30, 300)
    means = means_of(measured, draws).set_index(["method", "measure"])
    assert means.loc[("a", "PSNR"), "high"] > means.loc[("b", "PSNR"), "low"]  # the means alone do not tell them apart
    found = differences_of(measured, draws, {"PR": 0.2}).set_index(["first", "second", "measure"])
    pair = found.loc[("a", "b")]
    assert pair["better"].to_dict() == {
        "FID": "",  # it has no interval
        "colorfulness": "",
        "|Δ colorfulness|": "a",
        "PSNR": "b",
        "LPIPS": "a",
        "ICQA PR": "",  # its bias is larger
    }
    assert pair.loc["FID", "difference"] == -2.5
    assert pair.loc["|Δ colorfulness|", "difference"] == pytest.approx(-9, abs=0.1)
    assert pair.loc["PSNR", "share"] == 0
    unbiased = differences_of(measured, draws, {}).set_index(["first", "second", "measure"])
    assert unbiased.loc[("a", "b", "ICQA PR"), "better"] == "b"
    assert unbiased.loc[("a", ORIGINAL)].index.tolist() == ["ICQA PR"]
    assert unbiased.loc[("a", ORIGINAL, "ICQA PR"), "better"] == ORIGINAL


def test_the_best_of_a_column_is_bold_and_colorfulness_has_none():
    values = {
        ORIGINAL: {"colorfulness": [40.0] * 5, "ICQA CF": [0.9] * 5},
        "a_1": {"colorfulness": [44.0] * 5, "PSNR": [25.0] * 5, "ICQA CF": [0.2] * 5},
        "b": {"colorfulness": [33.0] * 5, "PSNR": [25.0] * 5, "ICQA CF": [0.1] * 5},
    }
    measured, draws = measured_of(values, {"a_1": 3.0, "b": 2.0}), Resamples(5, 50)
    table = tables_of(means_of(measured, draws), differences_of(measured, draws, {}))[0]
    marked = table.marked("*{}*")
    assert marked.columns.tolist() == ["method", "FID ↓", "colorfulness", "Δ colorfulness", "PSNR ↑", "ICQA CF ↑"]
    assert marked.to_numpy().tolist() == [
        [ORIGINAL, "-", "40.00", "-", "-", "0.900"],
        ["a_1", "3.00", "44.00", "*+4.00*", "*25.00*", "*0.200*"],
        ["b", "*2.00*", "33.00", "-7.00", "*25.00*", "0.100"],
    ]
    latex = as_latex_table(table, "5 % of Δ_1.")
    assert latex.startswith("\\begin{table}\n\\centering\n\\caption{5 \\% of $\\Delta$\\_1.}\n\\begin{tabular}{lrrrrr}\n")
    assert "a\\_1 & 3.00 & 44.00 & \\textbf{+4.00} & \\textbf{25.00} & \\textbf{0.200} \\\\\n" in latex
    assert "FID $\\downarrow$ & colorfulness & $\\Delta$ colorfulness & PSNR $\\uparrow$" in latex


def test_images_that_do_not_look_like_their_originals_are_told():
    frame = frame_of({ORIGINAL: {"colorfulness": [1.0] * 4}, "a": {"colorfulness": [1.0] * 4}})
    frame.loc[[5, 6], "luma correlation"] = 0.3
    (line,) = warnings_of(Measured(frame, {}, {}, 0, [], []), crop=False)
    assert line == (
        "CHECK a: without color, 2 of 4 images are not like their originals (correlation below 0.9), e.g. i01, i02: "
        "other images, or cropped in another way (try --crop)?"
    )


# The command


def test_the_command_prints_and_writes_the_table(quick, folders, tmp_path, run):
    done = run("evaluate.py", *arguments(folders), "--output", tmp_path, "--resamples", 50)
    assert done.code == 0, done.err
    header = next(line for line in done.out.splitlines() if line.startswith("method "))
    for name in ("colorfulness", "Δ colorfulness", "PSNR ↑", "SSIM ↑", "ICQA PR ↑", "ICQA CF ↑", "ICQA SCC ↑"):
        assert name in header
    assert "6 images of each method and as many originals, squeezed to 256 x 256 pixels" in done.out
    assert "pale: 2 of 6 images equal the original, PSNR ∞; its mean PSNR is that of the others." in done.out
    assert "1 of 6 originals are gray, and count: e.g. scene5.png." in done.out
    assert "LPIPS: skipped, it needs lpips; pip install -r requirements-metrics.txt" in done.out
    assert "FID: skipped, it needs torchmetrics and torch-fidelity" in done.out
    assert "CHECK" not in done.out
    images = pd.read_csv(tmp_path / "paper_images.csv")
    assert len(images) == 18
    for name in SCORES:
        assert images[name].between(-1, 1).all()
    shifted = images[(images["method"] == "shifted") & (images["image"] == "scene2.png")].iloc[0]
    with Image.open(folders / "photos" / "scene2.png") as photo, Image.open(folders / "shifted" / "scene2.jpg") as image:
        pair = [np.asarray(x.resize((256, 256), Image.Resampling.BICUBIC), float) for x in (photo, image)]
    assert shifted["PSNR"] == pytest.approx(10 * math.log10(255**2 / np.square(pair[0] - pair[1]).mean()), abs=1e-5)
    means = pd.read_csv(tmp_path / "paper_table.csv").set_index(["method", "measure"])
    of_shifted = images[images["method"] == "shifted"]
    assert means.loc[("shifted", "SSIM"), "value"] == pytest.approx(of_shifted["SSIM"].mean(), abs=1e-6)
    pairs = pd.read_csv(tmp_path / "paper_differences.csv").groupby(["first", "second"]).ngroups
    assert pairs == 3  # the two methods, and each with the originals
    markdown, latex = (tmp_path / "paper_table.md").read_text(), (tmp_path / "paper_table.tex").read_text()
    assert "\n| method | colorfulness | Δ colorfulness | PSNR ↑ |" in markdown
    assert r"| pale - shifted | \|Δ colorfulness\| ↓ |" in markdown
    assert "- LPIPS: skipped" in markdown
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == 3
    assert "% LPIPS: skipped" in latex
    assert latex.isascii()


def test_a_score_is_that_of_the_256_pixels(quick, folders, weights, tmp_path, run):
    run("evaluate.py", *arguments(folders), "--crop", "--output", tmp_path, "--resamples", 10)
    images = pd.read_csv(tmp_path / "paper_images.csv").set_index(["method", "image"])
    with Image.open(folders / "pale" / "scene3.png") as image:
        pixels = prepare(np.asarray(image), crop=True)
    expected = load_model(weights["CF"]).score(pixels)
    assert images.loc[("pale", "scene3.png"), "ICQA CF"] == pytest.approx(expected, abs=1e-6)


def test_one_bad_image_leaves_its_original_out_for_all_methods(quick, folders, tmp_path, run):
    (tmp_path / "broken").mkdir()
    for scene in SCENES:
        data = (folders / "pale" / f"{scene}.png").read_bytes()
        (tmp_path / "broken" / f"{scene}.png").write_bytes(data[:500] if scene == "scene1" else data)
    command = ["--images", folders / "pale", tmp_path / "broken", "--originals", folders / "photos", "--paper-table"]
    done = run("evaluate.py", *command, "--output", tmp_path / "out", "--resamples", 10)
    assert done.code == 1
    assert done.err == "1 original of 6 left out, see above\n"
    assert "5 images of each method" in done.out
    assert "Left out for all methods: 1 original, as an image cannot be read." in done.out
    assert f"  scene1.png: {tmp_path / 'broken' / 'scene1.png'}: " in done.out
    images = pd.read_csv(tmp_path / "out" / "paper_images.csv")
    assert "scene1.png" not in set(images["image"])
    assert images["method"].value_counts().to_dict() == {ORIGINAL: 5, "pale": 5, "broken": 5}


def test_no_image_left_is_an_error(quick, folders, tmp_path, run):
    (tmp_path / "scene0.png").write_bytes(b"")
    command = ["--images", tmp_path, "--originals", folders / "photos", "--paper-table", "--allow-missing"]
    done = run("evaluate.py", *command)
    assert done.code == 1
    assert done.err.startswith(f"error: no original is left of 1: {tmp_path / 'scene0.png'}: ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--paper-table"], "--paper-table needs --images, a folder for each method"),
        (["--paper-table", "--images", "a", "b"], "--images of several folders needs --originals"),
        (
            ["--paper-table", "--images", "a", "--mos", "b.csv"],
            "--paper-table goes with --images, --originals, --index, --crop,",
        ),
        (["--images", "a", "b", "--mos", "b.csv", "--output", "c"], "--images takes one folder, got 2"),
        (["--images", "a", "--originals", "b"], "--originals and --crop are for --paper-table"),
        (["--paper-table", "--images", "a", "--index", "no.csv"], "--index takes a table image, scene, method, got no.csv"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, said, run):
    done = run("evaluate.py", *given)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_measures_have_distinct_names():
    names = [kind.name for kind in paper_table.MEASURES]
    assert len(set(names)) == len(names)
    assert "CF" not in names  # which means colorfulness elsewhere
    assert PSNR.better == 1
    assert LPIPS.better == -1
