"""Preparing images: any size, the same pixels by every way in, and what the chroma maps mean."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor

from models import preprocessing
from models.preprocessing import CHROMA_MAPS, Preprocess, chroma_maps, lab_of
from utils.color import lab_to_rgb, rgb_to_lab

PREPROCESS = Preprocess(size=32)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8))


def constant(rgb: tuple[int, int, int], height: int = 24, width: int = 40) -> Tensor:
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, height, width)


def disk(shift: int = 0, side: int = 64) -> Tensor:
    """A red disk, darker than the green ground, its color plane moved to the right by ``shift`` pixels."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (y - side / 2).square() + (x - side / 2).square() < (side / 4) ** 2
    lab = torch.where(inside, torch.tensor([45.0, 30, 20])[:, None, None], torch.tensor([65.0, -20, 25])[:, None, None])
    lab[1:] = lab[1:].roll(shift, 2)
    return (lab_to_rgb(lab[None])[0] * 255).round().to(torch.uint8)


def maps(image: Tensor, grid: int = 8) -> dict[str, Tensor]:
    """The chroma maps of an image as it is, which is not resized."""
    rgb = image if image.is_floating_point() else image.float() / 255
    return dict(zip(CHROMA_MAPS, chroma_maps(rgb[None], grid)[0], strict=True))


def test_chroma_maps_of_color_agree_with_scikit_image():
    image = noise(48, 64)
    lab = rgb2lab(image.permute(1, 2, 0).numpy())
    found = maps(image)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    expected = {
        "lightness": lab[..., 0] / 100,
        "lightness squared": (lab[..., 0] / 100) ** 2,
        "a": lab[..., 1] / 50,
        "b": lab[..., 2] / 50,
        "chroma": chroma / 50,
        "chroma squared": (chroma / 50) ** 2,
    }
    for name, values in expected.items():
        cells = values.reshape(8, 6, 8, 8).mean((1, 3))
        np.testing.assert_allclose(found[name].numpy(), cells, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("size", [(57, 83), (131, 195), (260, 200)])  # reduced by 1, 2 and 3
@pytest.mark.parametrize("strip_pixels", [1, 700, 3001])
def test_strips_give_what_the_whole_image_gives(monkeypatch, size, strip_pixels):
    image = noise(*size)
    whole = PREPROCESS(image)
    monkeypatch.setattr(preprocessing, "_STRIP_PIXELS", strip_pixels)
    assert len(list(PREPROCESS._strips(image))) > 1
    strips = PREPROCESS(image)
    assert torch.equal(strips["rgb"], whole["rgb"])


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (32, 32), (150, 220)])
def test_8_bit_and_floating_point_forms_give_the_same_inputs(size):
    image = noise(*size)
    levels = PREPROCESS(image)
    for dtype in (torch.float32, torch.float64):
        floats = PREPROCESS(image.to(dtype) / 255)
        assert floats["rgb"].dtype == torch.float32
        assert torch.equal(floats["rgb"], levels["rgb"])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3), (2, 2), (31, 33), (65, 64), (900, 1400)])
def test_every_size_works(size):
    inputs = PREPROCESS(noise(*size))
    assert inputs["rgb"].shape == (3, 32, 32)
    assert inputs["rgb"].isfinite().all()
    assert inputs["rgb"].min() >= 0
    assert inputs["rgb"].max() <= 1


def test_a_image_of_the_right_size_is_not_resized():
    image = noise(32, 32)
    assert torch.equal(PREPROCESS(image)["rgb"], image.float() / 255)


def test_a_constant_image_stays_constant_at_every_size():
    for size in ((1, 1), (5, 300), (130, 257)):
        inputs = PREPROCESS(constant((200, 90, 30), *size))
        expected = constant((200, 90, 30), 32, 32).float() / 255
        assert torch.equal(inputs["rgb"], expected)


def test_a_large_image_is_resized_as_pillow_resizes_it():
    coarse = Image.fromarray(noise(9, 9).permute(1, 2, 0).numpy()).resize((256, 256), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(coarse.resize((32, 32), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    found = PREPROCESS(torch.from_numpy(np.array(coarse)).permute(2, 0, 1))["rgb"] * 255
    difference = (found - expected).abs()
    assert difference.mean() < 1  # 8-bit levels; the first reduction is a box, Pillow's is not
    assert difference.max() <= 6


def test_the_resized_image_lies_on_8_bit_levels_so_that_a_cache_of_bytes_is_exact():
    for size in ((40, 50), (333, 211)):
        rgb = PREPROCESS(noise(*size).double() / 255)["rgb"]
        assert torch.equal((rgb * 255).round().to(torch.uint8).float() / 255, rgb)


def test_a_gray_image_has_no_chroma_in_any_map():
    gray = noise(40, 56)[:1].expand(3, -1, -1)
    found = maps(gray)
    for name in ("a", "b", "chroma", "chroma squared", "clipped and chromatic"):
        assert found[name].abs().max() < 1e-3, name
    assert found["chroma edge"].max() < 1e-3
    assert found["chroma edge where luminance is flat"].max() < 1e-3
    assert found["gray"].min() > 0.999
    assert found["luminance edge"].min() > 0.1


def test_a_vivid_image_is_nowhere_gray():
    assert maps(constant((220, 40, 40)))["gray"].max() < 1e-6


def test_the_clipping_map_holds_the_chroma_of_clipped_pixels_and_nothing_else():
    for clipped in ((255, 120, 60), (0, 90, 140), (255, 0, 200)):
        found = maps(constant(clipped))
        torch.testing.assert_close(found["clipped and chromatic"], found["chroma"])
        assert found["chroma"].min() > 0.2
    assert maps(constant((254, 120, 1)))["clipped and chromatic"].max() == 0
    assert maps(constant((255, 255, 255)))["clipped and chromatic"].max() < 1e-3  # white is clipped, but not chromatic
    half = torch.cat((constant((255, 120, 60)), constant((250, 120, 60))), 2)
    found = maps(half)["clipped and chromatic"]
    assert found[:, :4].min() > 0.2
    assert found[:, 4:].max() == 0


def test_edge_maps_hold_the_height_of_a_step():
    # one step of lightness and one of color across the middle: by hand, a forward difference of one pixel in each row
    lab = torch.tensor([50.0, 10, 0])[:, None, None].repeat(1, 8, 8)
    lab[0, :, 4:] += 20
    found = maps(lab_to_rgb(lab[None])[0], grid=1)
    assert found["luminance edge"].item() == pytest.approx(20 / 20 / 8, abs=1e-3)
    assert found["chroma edge"].item() < 1e-3
    lab[0] = 50
    lab[1, :, 4:] += 20
    found = maps(lab_to_rgb(lab[None])[0], grid=1)
    assert found["chroma edge"].item() == pytest.approx(20 / 20 / 8, abs=1e-3)
    assert found["chroma edge where luminance is flat"].item() == pytest.approx(20 / 20 / 8, abs=2e-3)
    assert found["luminance edge"].item() < 1e-3


def test_a_shifted_color_plane_leaves_color_edges_without_lightness_edges():
    name = "chroma edge where luminance is flat"
    strength = [maps(disk(shift))[name].mean().item() for shift in (0, 1, 3)]
    assert strength[1] > 2 * strength[0]
    assert strength[2] > 2 * strength[0]
    together = [maps(disk(shift))["luminance and chroma edge together"].mean().item() for shift in (0, 3)]
    assert together[1] < together[0]


def test_the_gradient_through_the_preparation_is_finite_and_not_zero():
    image = (noise(45, 70).float() / 255).requires_grad_()
    rgb = PREPROCESS(image)["rgb"]
    weights = torch.Generator().manual_seed(0)
    for tensor in (rgb, chroma_maps(rgb[None], 8)):
        (gradient,) = torch.autograd.grad(
            (tensor * torch.rand(tensor.shape, generator=weights)).sum(), image, retain_graph=True
        )
        assert gradient.isfinite().all()
        assert (gradient != 0).float().mean() > 0.9


def test_the_gradient_is_finite_where_the_image_is_flat():
    for level in (0.0, 0.5, 1.0):
        image = torch.full((3, 20, 30), level, requires_grad=True)
        rgb = PREPROCESS(image)["rgb"]
        (rgb.sum() + chroma_maps(rgb[None], 8).sum()).backward()
        assert image.grad.isfinite().all()


def test_chroma_maps_do_not_tell_a_large_image_from_a_small_one():
    coarse = noise(5, 5)[None].float() / 255
    sizes = (F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)[0] for side in (32, 192))
    prepared = [PREPROCESS(image)["rgb"] for image in sizes]
    torch.testing.assert_close(*(chroma_maps(rgb[None], 8) for rgb in prepared), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 5), r"an image must have shape \(3, H, W\) and at least one pixel, got \(4, 5\)"),
        (torch.zeros(4, 5, 3), r"must have shape \(3, H, W\) and at least one pixel, got \(4, 5, 3\)"),
        (torch.zeros(3, 0, 5), r"must have shape \(3, H, W\) and at least one pixel, got \(3, 0, 5\)"),
        (torch.full((3, 4, 5), 255.0), r"a floating point image must lie in \[0, 1\], got \[255, 255\]"),
        (torch.full((3, 4, 5), -0.5), r"must lie in \[0, 1\], got \[-0.5, -0.5\]"),
        (torch.full((3, 4, 5), float("nan")), r"must lie in \[0, 1\], got \[nan, nan\]"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), r"an image must be uint8 or floating point, got torch.int64"),
    ],
)
def test_a_wrong_image_is_refused_with_what_was_expected_and_came(image, message):
    with pytest.raises(ValueError, match=message):
        PREPROCESS(image)


@pytest.mark.parametrize("side", [8, 16, 5])
def test_lab_of_a_prepared_image_is_the_mean_of_each_cell(side):
    rgb = PREPROCESS(noise(32, 32))["rgb"][None]
    expected = F.adaptive_avg_pool2d(rgb_to_lab(rgb), side)
    torch.testing.assert_close(lab_of(rgb, side), expected, atol=1e-4, rtol=1e-5)
