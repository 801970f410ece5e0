"""Color conversion against scikit-image and colour-science, its ends, its gradients and its way back."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from utils.color import chroma, gray_version, hue, lab_to_rgb, linear_to_srgb, rgb_to_lab, srgb_to_linear

with np.printoptions():  # it changes how NumPy writes numbers, and so tables of pandas
    import colour

CONVERSIONS = {
    "rgb_to_lab": rgb_to_lab,
    "lab_to_rgb": lambda rgb: lab_to_rgb(rgb_to_lab(rgb)),
    "gray_version": lambda rgb: gray_version(rgb_to_lab(rgb)),
    "chroma": lambda rgb: chroma(rgb_to_lab(rgb)),
    "hue": lambda rgb: hue(rgb_to_lab(rgb)),
}


def mid_tones(batch: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(0.02, 0.98, (batch, 3, 16, 20)), dtype=dtype)


def color(*channels: float) -> Tensor:
    return torch.tensor(channels).view(1, 3, 1, 1)


def as_image(x: Tensor) -> np.ndarray:
    """The first of a batch as scikit-image wants it, float64 (H, W, 3)."""
    return x[0].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("brightness", [1.0, 0.08])  # the second falls on the straight parts of both curves
def test_random_colors_agree_with_scikit_image(brightness):
    rgb = mid_tones() * brightness
    np.testing.assert_allclose(as_image(rgb_to_lab(rgb)), rgb2lab(as_image(rgb)), atol=1e-3)


def test_every_8_bit_gray_agrees_with_scikit_image():
    rgb = (torch.arange(256).float() / 255).expand(1, 3, 1, 256)
    np.testing.assert_allclose(as_image(rgb_to_lab(rgb)), rgb2lab(as_image(rgb)), atol=1e-3)


def test_random_colors_agree_with_colour_science():
    rgb = mid_tones()
    expected = colour.XYZ_to_Lab(colour.sRGB_to_XYZ(as_image(rgb)))  # its matrix has other digits
    np.testing.assert_allclose(as_image(rgb_to_lab(rgb)), expected, atol=0.05)


def test_transfer_curve_agrees_with_colour_science_and_is_undone():
    rgb = torch.linspace(0, 1, 301, dtype=torch.float64)
    linear = srgb_to_linear(rgb)
    np.testing.assert_allclose(linear.numpy(), colour.models.eotf_sRGB(rgb.numpy()), atol=1e-6)
    torch.testing.assert_close(linear_to_srgb(linear), rgb, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("level", "lightness"), [(1.0, 100.0), (0.0, 0.0), (0.5, 53.389)])
def test_white_black_and_gray_have_their_lightness_and_no_color(level, lightness):
    lab = rgb_to_lab(color(level, level, level)).flatten()
    torch.testing.assert_close(lab, torch.tensor([lightness, 0.0, 0.0]), atol=0.01, rtol=0)


def test_primaries_have_the_published_values():
    # D65, as Bruce Lindbloom's calculator and every CIELAB table give them
    published = {(1, 0, 0): (53.24, 80.09, 67.20), (0, 1, 0): (87.73, -86.18, 83.18), (0, 0, 1): (32.30, 79.19, -107.86)}
    for rgb, lab in published.items():
        torch.testing.assert_close(rgb_to_lab(color(*map(float, rgb))).flatten(), torch.tensor(lab), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_color_is_converted_alike_alone_and_in_a_batch(name):
    convert, batch = CONVERSIONS[name], mid_tones(batch=3)
    together = convert(batch)
    assert together.shape == (3, 1 if name in ("chroma", "hue") else 3, 16, 20)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], convert(batch[i : i + 1]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_result_stays_on_the_device_and_in_the_dtype_of_the_input(name):
    # the meta device holds no values, so an operand made on the CPU fails as it would on a GPU
    for device, dtype in (("meta", torch.float32), ("cpu", torch.float64), ("cpu", torch.bfloat16)):
        result = CONVERSIONS[name](torch.full((2, 3, 4, 5), 0.5, device=device, dtype=dtype))
        assert (result.device.type, result.dtype) == (device, dtype)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_gradient_is_finite_at_black_white_grays_and_pure_colors(name):
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.04045, 0.5, 1.0])] * 3)
    rgb = corners.T.reshape(1, 3, 8, 8).requires_grad_()
    CONVERSIONS[name](rgb).sum().backward()
    assert rgb.grad.isfinite().all()
    assert rgb.grad.abs().sum() > 0


def test_gradients_agree_with_finite_differences():
    rgb = mid_tones(dtype=torch.float64)[:, :, :2, :3]
    rgb = torch.cat((rgb, rgb * 0.03), 3).requires_grad_()  # both pieces of both curves
    assert torch.autograd.gradcheck(rgb_to_lab, rgb)
    lab = rgb_to_lab(rgb.detach()).requires_grad_()
    for function in (lab_to_rgb, gray_version, chroma, hue):
        assert torch.autograd.gradcheck(function, lab)


def test_conversion_to_lab_and_back_gives_the_same_color():
    for rgb in (mid_tones(batch=2), mid_tones() * 0.05, color(1.0, 1.0, 1.0), color(0.0, 0.0, 0.0), color(1.0, 0.0, 1.0)):
        torch.testing.assert_close(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=2e-5, rtol=0)


def test_colors_outside_the_gamut_are_clipped():
    vivid = lab_to_rgb(color(50.0, 120.0, -120.0))
    assert vivid.min() == 0
    assert vivid.max().item() == pytest.approx(1, abs=1e-6)


def test_chroma_and_hue_are_the_polar_coordinates_of_a_and_b():
    lab = color(50.0, -3.0, 4.0)
    assert chroma(lab).item() == pytest.approx(5)
    assert hue(lab).item() == pytest.approx(math.atan2(4, -3))
    lab = rgb_to_lab(mid_tones())
    a, b = lab[0, 1].numpy(), lab[0, 2].numpy()
    np.testing.assert_allclose(chroma(lab)[0, 0].numpy(), np.hypot(a, b), rtol=1e-5)
    np.testing.assert_allclose(hue(lab)[0, 0].numpy(), np.arctan2(b, a), rtol=1e-5)


def test_gray_has_no_chroma():
    grays = (torch.arange(256).float() / 255).expand(1, 3, 1, 256)
    assert chroma(rgb_to_lab(grays)).max() < 0.01


def test_the_gray_version_keeps_the_lightness_and_has_no_chroma():
    lab = rgb_to_lab(torch.cat((mid_tones(), mid_tones() * 0.05)))
    gray = gray_version(lab)
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray[:, 0], gray[:, 2])
    torch.testing.assert_close(rgb_to_lab(gray)[:, 0], lab[:, 0], atol=1e-3, rtol=0)
    assert chroma(rgb_to_lab(gray)).max() < 0.01
    assert chroma(lab).max() > 50  # there was color to remove


@pytest.mark.parametrize(("function", "name"), [(rgb_to_lab, "rgb"), (lab_to_rgb, "lab"), (chroma, "lab"), (hue, "lab")])
def test_errors_say_which_shape_and_type_were_expected_and_came(function, name):
    for shape in ((3, 4, 5), (2, 1, 4, 5), (2, 4, 5, 3)):
        with pytest.raises(ValueError, match=rf"{name} must have shape \(B, 3, H, W\), got ") as caught:
            function(torch.zeros(shape))
        assert str(tuple(shape)) in str(caught.value)
    with pytest.raises(ValueError, match=rf"{name} must be floating point, got torch.uint8; divide 8-bit values by 255"):
        function(torch.zeros(1, 3, 4, 5, dtype=torch.uint8))
