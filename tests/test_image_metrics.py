"""Other people's metrics, against other people's implementations, hand counts, and what HECD's authors published."""

import importlib.util
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPO, Run, make_image, recolor
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from benchmarks import image_metrics
from benchmarks import metrics as benchmark
from benchmarks.image_metrics import (
    SPACES,
    MetricUnavailable,
    ab_entropy,
    ciede2000,
    mean_chroma,
    ms_ssim,
    packaged_metric,
    planes,
    psnr,
    ssim,
)
from data.hecd import load_hecd
from utils.color import colorfulness, hue, lab_to_rgb

HAS_PIQ = importlib.util.find_spec("piq") is not None
needs_piq = pytest.mark.skipif(not HAS_PIQ, reason="MS-SSIM needs piq")
HECD = REPO.parent / "shared" / "data" / "hecd"
needs_hecd = pytest.mark.skipif(not HECD.is_dir(), reason=f"no copy of HECD in {HECD}")

NO_REFERENCE = (colorfulness, mean_chroma, ab_entropy)

# Sharma, Wu and Dalal 2005, table 1: two CIELAB colors and their CIEDE2000.
SHARMA = """
50.0000   2.6772 -79.7751  50.0000   0.0000 -82.7485   2.0425
50.0000   3.1571 -77.2803  50.0000   0.0000 -82.7485   2.8615
50.0000   2.8361 -74.0200  50.0000   0.0000 -82.7485   3.4412
50.0000  -1.3802 -84.2814  50.0000   0.0000 -82.7485   1.0000
50.0000  -1.1848 -84.8006  50.0000   0.0000 -82.7485   1.0000
50.0000  -0.9009 -85.5211  50.0000   0.0000 -82.7485   1.0000
50.0000   0.0000   0.0000  50.0000  -1.0000   2.0000   2.3669
50.0000  -1.0000   2.0000  50.0000   0.0000   0.0000   2.3669
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0009   7.1792
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0010   7.1792
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0011   7.2195
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0012   7.2195
50.0000  -0.0010   2.4900  50.0000   0.0009  -2.4900   4.8045
50.0000  -0.0010   2.4900  50.0000   0.0010  -2.4900   4.8045
50.0000  -0.0010   2.4900  50.0000   0.0011  -2.4900   4.7461
50.0000   2.5000   0.0000  50.0000   0.0000  -2.5000   4.3065
50.0000   2.5000   0.0000  73.0000  25.0000 -18.0000  27.1492
50.0000   2.5000   0.0000  61.0000  -5.0000  29.0000  22.8977
50.0000   2.5000   0.0000  56.0000 -27.0000  -3.0000  31.9030
50.0000   2.5000   0.0000  58.0000  24.0000  15.0000  19.4535
50.0000   2.5000   0.0000  50.0000   3.1736   0.5854   1.0000
50.0000   2.5000   0.0000  50.0000   3.2972   0.0000   1.0000
50.0000   2.5000   0.0000  50.0000   1.8634   0.5757   1.0000
50.0000   2.5000   0.0000  50.0000   3.2592   0.3350   1.0000
60.2574 -34.0099  36.2677  60.4626 -34.1751  39.4387   1.2644
63.0109 -31.0961  -5.8663  62.8187 -29.7946  -4.0864   1.2630
61.2901   3.7196  -5.3901  61.4292   2.2480  -4.9620   1.8731
35.0831 -44.1164   3.7933  35.0232 -40.0716   1.5901   1.8645
22.7233  20.0904 -46.6940  23.0331  14.9730 -42.5619   2.0373
36.4612  47.8580  18.3852  36.2715  50.5065  21.2231   1.4146
90.8027  -2.0831   1.4410  91.1528  -1.6435   0.0447   1.4441
90.9257  -0.5406  -0.9208  88.6381  -0.8985  -0.7239   1.5381
 6.7747  -0.2908  -2.4247   5.8714  -0.0985  -2.2286   0.6377
 2.0776   0.0795  -1.1350   0.9033  -0.0636  -0.5514   0.9082
"""


def as_tensor(image: np.ndarray) -> Tensor:
    """One 8-bit image, shape (H, W, 3), as sRGB in [0, 1], shape (1, 3, H, W)."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double() / 255


def pair(height: int = 170, width: int = 183) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image and its original, uint8."""
    original = make_image(0, height, width)
    noise = np.random.default_rng(1).integers(-30, 31, original.shape)
    return (recolor(original, "STAIN") + noise).clip(0, 255).astype(np.uint8), original


def patches(*colors: tuple[float, float, float]) -> Tensor:
    """Equal stripes of colors in [0, 1], shape (1, 3, 8, 8 stripes)."""
    return torch.tensor(colors, dtype=torch.float64).T[None, :, None, :].repeat_interleave(8, 3).expand(1, 3, 8, -1)


def waves(height: int, width: int, phase: float) -> Tensor:
    """A pattern in [0, 1], the same with every library, shape (1, 3, H, W)."""
    y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    channels = [0.25 * torch.sin(x / (4 + k) + phase) + 0.2 * torch.cos(y / (7 - k) - 2 * phase + k) for k in range(3)]
    return 0.5 + torch.stack(channels)[None]


# --- No reference


def test_colorfulness_agrees_with_a_hand_count():
    # Red and green: red - green is 255 or -255 and the other opponent 127.5 throughout.
    assert colorfulness(patches((1, 0, 0), (0, 1, 0))).item() == pytest.approx(255 + 0.3 * 127.5)
    # Red alone has no spread; red and gray have half of red's means, and as spreads.
    assert colorfulness(patches((1, 0, 0))).item() == pytest.approx(0.3 * math.hypot(255, 127.5))
    assert colorfulness(patches((1, 0, 0), (0.5, 0.5, 0.5))).item() == pytest.approx(1.3 * math.hypot(127.5, 63.75))


def test_mean_chroma_is_that_of_scikit_image():
    noisy, _ = pair()
    assert mean_chroma(as_tensor(noisy)).item() == pytest.approx(
        np.hypot(*np.moveaxis(rgb2lab(noisy), 2, 0)[1:]).mean(), rel=1e-4
    )


def test_entropy_counts_colors_and_not_lightness():
    red, green, blue, yellow = (0.8, 0.1, 0.1), (0.1, 0.7, 0.1), (0.1, 0.1, 0.8), (0.8, 0.8, 0.1)
    assert ab_entropy(patches(red, green, blue, yellow)).item() == pytest.approx(2)
    assert ab_entropy(patches(red, red, blue, yellow)).item() == pytest.approx(1.5)
    assert ab_entropy(patches(red)).item() == 0


@pytest.mark.parametrize("metric", NO_REFERENCE)
def test_gray_has_no_color_at_all(metric: Callable):
    gray = as_tensor(make_image(3, 40, 50)).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert metric(gray).item() == pytest.approx(0, abs=5e-3)  # gray is off by that in CIELAB, as in scikit-image
    assert metric(as_tensor(make_image(3, 40, 50))).item() > 1


# --- Full reference, against others


@pytest.mark.parametrize("space", SPACES)
def test_psnr_and_ssim_are_those_of_scikit_image(space: str):
    x, y = (as_tensor(image) for image in pair(60, 71))
    noisy, original = (planes(image, space)[0].permute(1, 2, 0).numpy() for image in (x, y))
    assert psnr(x, y, space).item() == pytest.approx(peak_signal_noise_ratio(original, noisy, data_range=1))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(noisy, original, channel_axis=2, data_range=1, **gaussian)
    assert ssim(x, y, space).item() == pytest.approx(expected)


def test_the_ab_planes_are_those_of_8_bits():
    noisy, _ = pair(60, 71)
    expected = (rgb2lab(noisy)[..., 1:] + 128) / 255
    np.testing.assert_allclose(planes(as_tensor(noisy), "ab")[0].permute(1, 2, 0), expected, atol=1e-5)


@needs_piq
@pytest.mark.parametrize(("size", "expected"), [((176, 192), 0.8340044), ((177, 209), 0.8325296)])
def test_ms_ssim_is_that_of_piq(size: tuple[int, int], expected: float):
    # piq 0.8.0; for the even sizes, pytorch_msssim 1.0.0 agrees.
    assert ms_ssim(waves(*size, 0.4), waves(*size, 0.0)).item() == pytest.approx(expected, abs=2e-7)


def test_ciede2000_has_the_values_of_sharma():
    table = np.array([[float(number) for number in line.split()] for line in SHARMA.strip().splitlines()])
    assert len(table) == 34
    one, other = table[:, 0:3], table[:, 3:6]
    np.testing.assert_allclose(image_metrics.deltaE_ciede2000(one, other), table[:, 6], atol=6e-5)
    np.testing.assert_allclose(image_metrics.deltaE_ciede2000(other, one), table[:, 6], atol=6e-5)


def test_ciede2000_of_images_is_that_of_scikit_image():
    noisy, original = pair(60, 71)
    expected = deltaE_ciede2000(rgb2lab(noisy), rgb2lab(original)).mean()
    assert ciede2000(as_tensor(noisy), as_tensor(original)).item() == pytest.approx(expected, rel=1e-4)
    assert ciede2000(as_tensor(noisy).float(), as_tensor(original).float()).item() == pytest.approx(expected, rel=1e-3)


# --- Properties


@pytest.mark.parametrize("space", SPACES)
def test_equal_images_have_the_best_value_and_others_a_worse_one(space: str):
    x, y = (as_tensor(image) for image in pair())
    assert psnr(y, y, space).item() == math.inf
    for metric in (ssim, ms_ssim) if HAS_PIQ else (ssim,):
        assert metric(y, y, space).item() == pytest.approx(1)
        assert metric(x, y, space).item() < 0.95
    assert 0 < psnr(x, y, space).item() < 40


def test_equal_images_have_no_color_difference():
    x, y = (as_tensor(image) for image in pair(60, 71))
    assert ciede2000(y, y).item() == 0
    assert ciede2000(x, y).item() > 1


def test_a_image_has_the_same_values_alone_and_in_a_batch():
    x, y = (as_tensor(image) for image in pair())
    batch, references = torch.cat((y, x)), torch.cat((y, y))
    for metric in NO_REFERENCE:
        assert metric(batch).shape == (2,)
        assert metric(batch)[1].item() == pytest.approx(metric(x).item())
    for metric in (psnr, ssim, ciede2000, *((ms_ssim,) if HAS_PIQ else ())):
        assert metric(batch, references).shape == (2,)
        assert metric(batch, references)[1].item() == pytest.approx(metric(x, y).item())


def test_hue_has_no_seam_and_gray_has_none():
    around = torch.tensor([[60.0, -30.0, 0.5], [60.0, -30.0, -0.5]]).double()
    above, below = (lab_to_rgb(color.view(1, 3, 1, 1)) for color in around)
    assert (hue(around.view(2, 3, 1, 1)).diff(dim=0).abs() > 6).all()
    assert (planes(above, "hue-chroma") - planes(below, "hue-chroma")).abs().max() < 0.02
    np.testing.assert_allclose(planes(patches((0.4, 0.4, 0.4)), "hue-chroma")[0, :, 0, 0], (0, 0.5, 0.5), atol=1e-3)
    opposite = lab_to_rgb(torch.tensor([60.0, 30.0, 0.0]).double().view(1, 3, 1, 1))
    chroma_plane, cosine, sine = (planes(opposite, "hue-chroma") - planes(above, "hue-chroma")).abs().flatten()
    assert chroma_plane < 0.02
    assert cosine > 0.95
    assert sine < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ms_ssim(x[..., :160], x[..., :160]), "MS-SSIM needs images of at least 161 pixels a side, got 160 x 170"),
        (lambda x: ssim(x[..., :10, :], x[..., :10, :]), "SSIM needs images of at least 11 pixels a side, got 183 x 10"),
        (lambda x: psnr(x, x[..., 1:]), r"one shape, got \(1, 3, 170, 183\) and \(1, 3, 170, 182\)"),
        (lambda x: psnr(x, x, "HSV"), "expected a space of RGB, ab, hue-chroma, got 'HSV'"),
        (lambda x: colorfulness(x[0]), r"rgb must have shape \(B, 3, H, W\), got \(3, 170, 183\)"),
        (lambda x: ciede2000(x, (255 * x).byte()), "reference must be floating point, got torch.uint8"),
    ],
)
def test_other_images_are_refused(call: Callable[[Tensor], Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        call(as_tensor(pair()[1]))


@needs_piq
def test_ms_ssim_takes_the_smallest_side_that_it_names():
    side = image_metrics.MS_SSIM_SIDE
    assert side == 161
    assert 0 < ms_ssim(waves(side, side, 0.4), waves(side, side, 0.0)).item() < 1


# --- Metrics of other packages


@pytest.mark.parametrize(
    ("name", "module", "distribution"),
    [("LPIPS", "lpips", "lpips"), ("DISTS", "DISTS_pytorch", "DISTS-pytorch"), ("pyiqa:niqe", "pyiqa", "pyiqa")],
)
def test_an_absent_package_is_one_line(name: str, module: str, distribution: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MetricUnavailable, match=f"^{name}: skipped, .*; pip install {distribution}$"):
        packaged_metric(name)


def test_a_package_that_lacks_another_is_not_to_be_installed_again(monkeypatch: pytest.MonkeyPatch):
    def create_metric(name: str, device: str) -> None:
        raise ModuleNotFoundError("No module named 'clip'", name="clip")

    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric))
    with pytest.raises(MetricUnavailable, match=r"No module named 'clip'; pyiqa is installed, but needs clip$"):
        packaged_metric("pyiqa:clipiqa")


def test_absent_weights_are_one_line(monkeypatch: pytest.MonkeyPatch):
    def create_metric(name: str, device: str) -> None:
        raise OSError("urlopen error\nName or service not known")

    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric))
    with pytest.raises(MetricUnavailable) as caught:
        packaged_metric("pyiqa:musiq")
    assert str(caught.value) == (
        "pyiqa:musiq: skipped, cannot be set up, mostly for lack of weights: OSError: urlopen error Name or service not known"
    )


@pytest.mark.parametrize("name", ["lpips", "LPIPS:alex", "pyiqa", "pyiqa:"])
def test_unknown_metrics_are_refused(name: str):
    with pytest.raises(ValueError, match=f"expected LPIPS, DISTS or pyiqa:NAME, got '{name}'"):
        packaged_metric(name)


class _Distance:
    """Stands in for the network of a package: the mean of the image less that of its reference."""

    lower_better = True

    def __init__(self, metric_mode: str = "FR") -> None:
        self.metric_mode = metric_mode

    def eval(self) -> "_Distance":
        return self

    def __call__(self, rgb: Tensor, reference: Tensor | None = None, normalize: bool = False) -> Tensor:
        return rgb.mean((1, 2, 3)) - (0 if reference is None else reference.mean((1, 2, 3)))


def test_packaged_metrics_get_the_image_and_then_its_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=lambda net, verbose: _Distance()))
    monkeypatch.setitem(sys.modules, "DISTS_pytorch", types.SimpleNamespace(DISTS=_Distance))
    modes = {"full": "FR", "alone": "NR"}
    create_metric = lambda name, device: _Distance(modes[name])  # noqa: E731
    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric))
    x, y = patches((0.5, 0.5, 0.5)), patches((0.3, 0.3, 0.3))
    for name, expected in (("LPIPS", 0.2), ("DISTS", 0.2), ("pyiqa:full", 0.2), ("pyiqa:alone", 0.5)):
        metric = packaged_metric(name)
        assert metric.function(x, y).tolist() == pytest.approx([expected])
        assert metric.lower_is_better
        assert metric.needs_reference == (name != "pyiqa:alone")


# --- The benchmark


@needs_hecd
def test_the_recorded_values_reproduce_those_of_the_authors():
    frame = load_hecd(HECD)
    names = [Path(image).name for image in frame["image"]]
    saved = pd.read_csv(REPO / "benchmarks" / "hecd_metrics.csv").set_index("image").loc[names].set_index(frame.index)
    assert benchmark.largest_difference(frame, saved) < 0.01


@needs_hecd
@needs_piq
def test_the_recorded_values_are_those_of_the_images():
    frame = load_hecd(HECD)
    few = frame[frame["image"].str.contains(r"/?118035(?:_gt|A|AC_2|Z_1)\.jpg")]
    few.attrs = frame.attrs
    values, times = benchmark.measure(few, benchmark.own_metrics())
    recorded = pd.read_csv(REPO / "benchmarks" / "hecd_metrics.csv").set_index("image")
    recorded = recorded.loc[[Path(image).name for image in few["image"]], list(values.columns)]
    assert recorded.shape == (4, 14)
    np.testing.assert_allclose(values, recorded, rtol=2e-3)
    assert min(times.values()) > 0


def test_the_versions_of_a_scene_are_ranked_with_the_photograph_first():
    assert benchmark.scene_srcc(np.array([math.inf, 30, 20, 25]), np.array([0.9, 0.5, 0.1, 0.3])) == pytest.approx(1)
    assert benchmark.scene_srcc(np.array([20, 30, math.inf, 25]), np.array([0.1, 0.5, 0.0, 0.3])) == pytest.approx(-0.2)


@needs_piq
def test_the_command_scores_a_folder_and_says_what_it_skips(
    tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
):
    rows = ["Ground Truth File,Recolour File,Mean zScore"]
    for seed, scene in enumerate(("015004", "022090")):
        original = make_image(seed, 161, 170)
        # People here like an image the less the more of its color is gone.
        for rank, version in enumerate(("_gt", "B_1", "O_1", "Z_1", "Z_2", "I_1")):
            faded = (original * (1 - rank / 6) + original.mean(2, keepdims=True) * rank / 6).astype(np.uint8)
            Image.fromarray(faded).save(tmp_path / f"{scene}{version}.jpg", quality=95)
            rows.append(f"{scene}_gt.jpg,{scene}{version}.jpg,{1 - rank / 4}")
    (tmp_path / "mean_zscores.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setitem(sys.modules, "lpips", None)
    done = run("benchmarks/metrics.py", tmp_path, "--packages", "LPIPS")
    assert done.code == 0
    assert "- LPIPS: skipped, " in done.out
    assert "LPIPS: skipped, " in done.err
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.out.splitlines() if line.startswith("|")]
    cells = {name: others for name, *others in lines}
    # reference, milliseconds, then SRCC on recolorings pooled and within scene, and so on colorizers
    for name, reference in (("mean chroma", "no"), ("-CIEDE2000", "yes"), ("PSNR RGB", "yes")):
        assert cells[name][0] == reference
        assert cells[name][3] == cells[name][5] == "1.00"  # no interval of two scenes
    assert {"**our CF**", "**our SCC**", "**our PR**", "method mean"} <= set(cells)
    assert cells["015004"][:2] == ["6", "1.000"]
