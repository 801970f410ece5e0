"""Planted color faults: lightness stays, color changes with the strength, and a table that training can read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from data.recolor import CHROMATIC_KINDS, KINDS, SEMANTIC_KINDS, from_lab, recolor, severity, smooth_noise, to_lab
from data.table import load_dataset
from tools.make_recolorings import BEST, WORST, recolorings, scene_names

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
# faults of the whole image, which more strength always makes worse
GLOBAL_KINDS = ("shift", "bleed", "fade", "oversaturate", "spread", "cast", "mottle", "global_hue", "transfer")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(SAMPLES / "ORG_000000000004.jpg") as image:
        return np.array(image.resize((64, 48), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def pale(photo) -> np.ndarray:
    """Little chroma at middle lightness, so that few recolored pixels leave the gamut."""
    lab = to_lab(photo)
    return from_lab(np.stack((30 + lab[0] / 2, lab[1] / 3, lab[2] / 3)))


def planted(photo: np.ndarray, kind: str, strength: float, seed: int = 0) -> np.ndarray:
    return recolor(photo, kind, strength, np.random.default_rng(seed))


def test_conversion_agrees_with_scikit_image_and_comes_back_exactly():
    rgb = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    np.testing.assert_allclose(to_lab(rgb).transpose(1, 2, 0), rgb2lab(rgb), atol=1e-3)
    np.testing.assert_array_equal(from_lab(to_lab(rgb)), rgb)
    lab = np.array([[[60.0, 20, -30], [40, -20, 25]]])
    expected = np.round(lab2rgb(lab) * 255)
    np.testing.assert_allclose(from_lab(lab.transpose(2, 0, 1)).astype(float), expected, atol=1)


def test_each_kind_belongs_to_one_dimension():
    assert set(KINDS) == set(CHROMATIC_KINDS) | set(SEMANTIC_KINDS)
    assert len(KINDS) == len(set(KINDS))


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_changes_color_and_keeps_lightness(pale, kind):
    before = pale.copy()
    for seed in range(3):
        changed = planted(pale, kind, 0.7, seed)
        assert changed.shape == pale.shape
        assert changed.dtype == np.uint8
        lab, new = rgb2lab(pale), rgb2lab(changed)
        in_gamut = ((changed > 0) & (changed < 255)).all(2)  # a channel at its end may have been clipped
        assert in_gamut.mean() > 0.3
        assert np.abs(new[..., 0] - lab[..., 0])[in_gamut].max() < 1  # CIELAB units, for rounding to 8 bits
        assert np.hypot(*(new - lab)[..., 1:].transpose(2, 0, 1)).max() > 5
    np.testing.assert_array_equal(pale, before)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_changes_nothing(photo, kind):
    np.testing.assert_array_equal(planted(photo, kind, 0), photo)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_plants_the_same_fault(photo, kind):
    np.testing.assert_array_equal(planted(photo, kind, 0.6, seed=5), planted(photo, kind, 0.6, seed=5))
    others = [planted(photo, kind, 0.6, seed) for seed in range(6, 16)]
    assert len({other.tobytes() for other in others}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_images_can_be_recolored(kind):
    for size in ((1, 1), (1, 30), (30, 1), (3, 2)):
        rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert planted(rgb, kind, 0.7).shape == rgb.shape


def test_the_severity_of_equal_images_is_0_and_of_others_between_0_and_1(photo):
    assert severity(photo, photo) == 0
    for kind in KINDS:
        assert 0 < severity(photo, planted(photo, kind, 1.0)) < 1


@pytest.mark.parametrize("kind", GLOBAL_KINDS)
def test_severity_grows_with_the_strength_of_a_fault_of_the_whole_image(photo, kind):
    found = [severity(photo, planted(photo, kind, strength, seed=3)) for strength in (0, 0.1, 0.4, 0.9)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[1] < found[2] < found[3]


def test_severity_is_one_minus_exp_of_the_displacement_in_units_of_18():
    lab = np.stack([np.full((8, 8), v, np.float32) for v in (60, 30, 0)])
    turned = np.stack([np.full((8, 8), v, np.float32) for v in (60, 30 * 0.8, 30 * 0.6)])  # as chromatic, another hue
    rgb, other = from_lab(lab), from_lab(turned)
    expected = 1 - np.exp(-np.hypot(30 - 24, 18) / 18)
    assert severity(rgb, other) == pytest.approx(expected, abs=0.02)


def test_a_loss_of_chroma_weighs_less_than_a_gain_of_the_same_size():
    rgb, pale, vivid = (from_lab(np.stack([np.full((8, 8), v, np.float32) for v in (60, a, 0)])) for a in (25, 10, 40))
    assert severity(rgb, vivid) == pytest.approx(1 - np.exp(-15 / 18), abs=0.02)
    assert severity(rgb, pale) == pytest.approx(1 - np.exp(-0.6 * 15 / 18), abs=0.02)


def test_a_hue_turned_by_half_a_circle_is_the_opposite_color():
    lab = np.stack([np.full((8, 8), v, np.float32) for v in (60, 15, 10)])
    turned = to_lab(planted(from_lab(lab), "global_hue", 1.0))
    np.testing.assert_allclose(turned[:, 0, 0], [60, -15, -10], atol=0.5)


@pytest.mark.parametrize("kind", ["hue", "region_chroma"])
def test_a_fault_of_a_region_leaves_the_rest_as_it_was(pale, kind):
    for seed in range(4):
        share = (planted(pale, kind, 1.0, seed) != pale).any(2).mean()
        assert 0.02 < share < 0.98


def test_a_fault_of_hue_adds_no_chroma_and_a_fault_of_chroma_turns_no_hue(pale):
    a, b = rgb2lab(pale)[..., 1:].transpose(2, 0, 1)
    for seed in range(4):
        turned = rgb2lab(planted(pale, "hue", 0.5, seed))
        assert (np.hypot(turned[..., 1], turned[..., 2]) - np.hypot(a, b)).max() < 1.5
        scaled = rgb2lab(planted(pale, "region_chroma", 0.5, seed))
        across = (scaled[..., 2] * a - scaled[..., 1] * b) / np.maximum(np.hypot(a, b), 3)  # CIELAB units off the old hue
        assert np.abs(across).max() < 1.5


def test_a_full_fade_leaves_gray_or_sepia(photo):
    for seed in range(8):
        lab = to_lab(planted(photo, "fade", 1.0, seed))
        spread = lab[1:][:, (lab[0] > 20) & (lab[0] < 90)].std(1)
        assert (spread < 1.5).all()  # one color all over


@pytest.mark.parametrize(("shape", "sigma"), [((40, 60), 0.5), ((40, 60), 12), ((7, 300), 40)])
def test_smooth_noise_has_zero_mean_and_unit_variance(shape, sigma):
    noise = smooth_noise(shape, sigma, np.random.default_rng(0))
    assert noise.shape == shape
    assert noise.mean() == pytest.approx(0, abs=1e-4)
    assert noise.std() == pytest.approx(1, abs=1e-3)


def test_an_unknown_fault_is_refused_with_the_known_ones(photo):
    with pytest.raises(ValueError, match=r"unknown fault 'blur'; known are shift, bleed, .*region_chroma"):
        planted(photo, "blur", 0.5)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(photo, strength):
    with pytest.raises(ValueError, match=rf"strength must lie in \[0, 1\], got {strength}"):
        planted(photo, "fade", strength)


def test_the_script_writes_recolorings_and_a_table_that_training_reads(photo, tmp_path, run):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "holiday").mkdir(parents=True)
    Image.fromarray(photo).save(photos / "cup.png")
    Image.fromarray(photo[:, ::-1]).save(photos / "holiday" / "mirrored.jpg", quality=95)
    Image.fromarray(photo[..., 0]).save(photos / "gray.png")
    (photos / "broken.jpg").write_bytes(b"no image")
    arguments = ("--per-photo", 3, "--longest-side", 32, "--workers", 1)
    done = run("tools/make_recolorings.py", photos, out, *arguments)
    assert done.code == 0, done.err
    assert "8 images of 2 photos" in done.out
    assert "left out: gray.png has no color" in done.out
    assert "broken.jpg" in done.out

    frame = load_dataset(out / "table.csv")
    assert sorted(path.name for path in (out / "images").iterdir()) == sorted(Path(name).name for name in frame["image"])
    assert list(frame["scene"]) == ["cup"] * 4 + ["holiday_mirrored"] * 4
    originals = frame[frame["method"] == "original"]
    assert list(originals["image"]) == ["images/cup__0.jpg", "images/holiday_mirrored__0.jpg"]
    assert (originals[["CF", "SCC", "PR"]] == BEST).all(axis=None)
    recolored = frame[frame["method"] != "original"]
    assert all(set(method.split("+")) <= set(KINDS) for method in recolored["method"])
    assert recolored[["CF", "SCC", "PR"]].lt(BEST).all(axis=None)
    assert recolored[["CF", "SCC", "PR"]].gt(WORST).all(axis=None)
    for row in frame.itertuples():
        with Image.open(out / row.image) as image:
            assert image.size == (32, 24)
        # the harm named by the fault is the greater one
        if row.method in CHROMATIC_KINDS:
            assert row.CF < row.SCC
        if row.method in SEMANTIC_KINDS:
            assert row.SCC < row.CF


def test_a_photo_without_color_or_pixels_is_left_out_with_the_reason(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)  # meant for a process of its own
    Image.fromarray(photo[..., 0]).save(tmp_path / "gray.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    reasons = [recolorings(name, "scene", tmp_path, tmp_path, 1, 32, seed=0) for name in ("gray.png", "broken.jpg")]
    assert reasons[0] == "gray.png has no color"
    assert "broken.jpg" in reasons[1]


def test_photos_whose_names_would_clash_keep_scenes_of_their_own():
    names = ["a/b.jpg", "a_b.jpg", "x.jpg", "x.png", "x_2.jpg"]
    scenes = scene_names(names)
    assert scenes[:4] == ["a_b", "a_b_2", "x", "x_2"]
    assert len(set(scenes)) == len(names)
