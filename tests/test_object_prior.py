"""The object prior: its counts by hand, its distances against SciPy, and what it says of objects of known color."""

import json

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import wasserstein_distance
from torch import Tensor

from models.color_prior import ab_bins
from models.object_prior import (
    ALL,
    BANDS,
    CATEGORIES,
    LIGHTNESS_EDGES,
    MEASURES,
    MIN_PIXELS,
    OBJECT_COMPARISONS,
    POOL,
    SHRINKAGE,
    SIGNED,
    Evidence,
    Expectation,
    Labeled,
    ObjectPrior,
    Observation,
    describe_unusual,
    measure,
    observe,
    scaled,
    sliced_wasserstein,
)
from utils.labels import COCO_NAMES

CENTERS = ab_bins()[0].double().numpy()
K = len(CENTERS)
CAR, BROCCOLI, STOP_SIGN, RARE = (COCO_NAMES.index(name) for name in ("car", "broccoli", "stop sign", "toaster"))


def cell(a: float, b: float) -> int:
    return int(np.abs(CENTERS - (a, b)).sum(1).argmin())


def flat(lightness: float, a: float, b: float, side: int = 12) -> Tensor:
    """An image of one color, CIELAB."""
    return torch.tensor([lightness, a, b]).view(3, 1, 1).expand(3, side, side).contiguous()


def whole(lab: Tensor) -> np.ndarray:
    return np.ones(lab.shape[1:], bool)


def seen(lightness: float, a: float, b: float, side: int = 12) -> Observation:
    """An object of one color."""
    lab = flat(lightness, a, b, side)
    return observe(lab, whole(lab))


def noisy(rng: np.random.Generator, lightness: float, a: float, b: float, side: int = 12) -> Tensor:
    """An image of about one color."""
    noise = torch.from_numpy(rng.normal(0, (8, 5, 5), (side, side, 3))).permute(2, 0, 1).float()
    return flat(lightness, a, b, side) + noise


def hue(degrees: float, chroma: float = 35.0) -> tuple[float, float]:
    return chroma * float(np.cos(np.deg2rad(degrees))), chroma * float(np.sin(np.deg2rad(degrees)))


def fitted(images: list[list[Labeled]]) -> ObjectPrior:
    """The prior of these images, each object compared with what the others say."""
    evidence = Evidence()
    for image in images:
        evidence.add(image)
    categories, values, values_of_any = [], [], []
    for image in images:
        rest = evidence.without(image)
        for category, observation in image:
            categories.append(category)
            values.append(measure(observation, rest.expectation(category)))
            values_of_any.append(measure(observation, rest.expectation(ALL)))
    return ObjectPrior.fit(evidence, np.array(categories), np.array(values), np.array(values_of_any), {"from": "made up"})


@pytest.fixture(scope="module")
def prior() -> ObjectPrior:
    """Cars of all hues, green broccoli, two red stop signs."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(60):
        car = noisy(rng, rng.uniform(30, 70), *hue(rng.uniform(0, 360), rng.uniform(5, 50)))
        broccoli = noisy(rng, rng.uniform(30, 70), *hue(rng.normal(120, 8), rng.uniform(25, 45)))
        images.append([(CAR, observe(car, whole(car))), (BROCCOLI, observe(broccoli, whole(broccoli)))])
        if number % 30 == 0:
            sign = noisy(rng, 40, 55, 40)
            images[-1].append((STOP_SIGN, observe(sign, whole(sign))))
    return fitted(images)


def test_the_histogram_of_colors_at_cell_centers_is_a_count():
    rng = np.random.default_rng(0)
    chosen = [cell(*ab) for ab in ((0, 0), (20, -30), (-40, 40))]
    lightness, color = rng.uniform(0, 100, (9, 11)), rng.choice(chosen, (9, 11))
    mask = rng.random((9, 11)) < 0.7
    lab = torch.from_numpy(np.stack((lightness, *CENTERS[color].transpose(2, 0, 1))))
    found = observe(lab, mask)
    edges = [(0, *LIGHTNESS_EDGES, 100.1), np.arange(K + 1) - 0.5]
    counts, *_ = np.histogram2d(lightness[mask], color[mask], edges)
    assert found.histogram == pytest.approx(counts / mask.sum(), abs=1e-6)
    assert found.pixels == mask.sum()
    assert found.area == pytest.approx(mask.mean())
    assert found.lab == pytest.approx(lab.numpy()[:, mask].mean(1))
    for band in range(BANDS):
        inside = mask & (np.digitize(lightness, LIGHTNESS_EDGES) == band)
        assert found.shares[band] == pytest.approx(inside.sum() / mask.sum())
        assert found.chroma[band] == pytest.approx(np.hypot(*CENTERS[color[inside]].T).mean())


def test_the_histogram_of_any_colors_has_their_mean():
    rng = np.random.default_rng(1)
    ab = rng.uniform(-28, 28, (2, 8, 8))  # whose lattice neighbors all lie in the gamut
    found = observe(torch.from_numpy(np.concatenate((np.full((1, 8, 8), 50.0), ab))), np.ones((8, 8), bool))
    assert found.histogram.sum(0) @ CENTERS == pytest.approx(ab.mean((1, 2)), abs=1e-4)


@pytest.mark.parametrize(("lightness", "band"), [(0, 0), (19.9, 0), (20, 1), (59.9, 2), (60, 3), (80, 4), (100, 4)])
def test_a_pixel_on_an_edge_belongs_to_the_lighter_band(lightness, band):
    assert seen(lightness, 0, 0).shares.argmax() == band


def test_an_object_of_fewer_than_16_pixels_is_none(prior):
    lab = flat(50, 10, 10)
    mask = np.zeros((12, 12), bool)
    assert observe(lab, mask) is None
    mask.flat[: MIN_PIXELS - 1] = True
    assert observe(lab, mask) is None
    assert prior.compare_object(lab, mask, CAR) is None
    mask.flat[MIN_PIXELS - 1] = True
    assert observe(lab, mask).pixels == MIN_PIXELS == 16


def test_shapes_that_do_not_fit_and_categories_that_do_not_exist_are_refused(prior):
    with pytest.raises(ValueError, match=r"lab must be \(3, H, W\) and mask \(H, W\), got \(3, 12, 12\) and \(12, 13\)"):
        observe(flat(50, 0, 0), np.ones((12, 13), bool))
    for category in (-1, ALL + 1):
        with pytest.raises(ValueError, match=f"category must be from 0 to 80, got {category}"):
            prior.compare_object(flat(50, 0, 0), np.ones((12, 12), bool), category)


def test_the_sliced_wasserstein_distance_is_the_mean_of_scipy_s_over_16_directions():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(K, 0.05), 2)
    angles = np.arange(16) * np.pi / 16
    expected = [
        wasserstein_distance(CENTERS @ direction, CENTERS @ direction, p, q)
        for direction in np.stack((np.cos(angles), np.sin(angles)), 1)
    ]
    assert sliced_wasserstein(p, q) == pytest.approx(np.mean(expected), rel=1e-9)
    assert sliced_wasserstein(q, p) == pytest.approx(np.mean(expected), rel=1e-9)
    assert sliced_wasserstein(p, p) == 0


def test_two_single_colors_are_2_over_pi_of_their_distance_apart():
    p, q = np.eye(K)[[cell(30, 0), cell(-10, 30)]]
    assert sliced_wasserstein(p, q) == pytest.approx(50 * 2 / np.pi, rel=0.01)


def test_the_measures_agree_with_scipy_and_with_a_hand_count():
    rng = np.random.default_rng(3)
    expectation = Expectation(rng.dirichlet(np.ones(K), BANDS), rng.uniform(5, 30, BANDS), rng.uniform(3, 12, BANDS))
    lab = torch.from_numpy(rng.uniform((5, -25, -25), (95, 25, 25), (10, 10, 3))).permute(2, 0, 1)
    observation = observe(lab, whole(lab))
    found = dict(zip(MEASURES, measure(observation, expectation), strict=True))

    pixels = lab.numpy().reshape(3, -1)
    band = np.digitize(pixels[0], LIGHTNESS_EDGES)
    shares = np.bincount(band, minlength=BANDS) / 100
    mixed = sum(share * row for share, row in zip(shares, expectation.probability, strict=True))
    colors = observation.histogram.sum(0)
    expected = mixed @ CENTERS
    chroma = np.hypot(*pixels[1:])
    deviation = np.sqrt(sum(s * d**2 for s, d in zip(shares, expectation.chroma_deviation, strict=True)))
    mean = pixels[1:].mean(1)
    turn = np.rad2deg(np.arctan2(mean[1], mean[0]) - np.arctan2(expected[1], expected[0])) % 360
    assert found["sliced Wasserstein"] == sliced_wasserstein(colors, mixed)
    assert found["KL divergence"] == pytest.approx(rel_entr(colors, mixed).sum())
    assert found["surprise"] == pytest.approx(-(observation.histogram * np.log(expectation.probability)).sum())
    assert found["chroma z"] == pytest.approx((chroma - expectation.chroma_mean[band]).mean() / deviation)
    assert (found["a difference"], found["b difference"]) == pytest.approx(tuple(mean - expected))
    assert found["hue difference"] == pytest.approx(min(turn, 360 - turn))


def test_evidence_counts_objects_equally_but_small_ones_less():
    evidence = Evidence()
    large, larger, small = seen(50, 0, 0, 12), seen(50, 20, 20, 60), seen(30, 0, 0, 5)
    evidence.add([(CAR, large), (CAR, larger)])
    evidence.add([(CAR, small), (BROCCOLI, large)])
    evidence.add([])
    counted = evidence.histogram[CAR]
    assert counted[2, [cell(0, 0), cell(20, 20)]] == pytest.approx((1, 1), abs=1e-5)
    assert counted[1, cell(0, 0)] == pytest.approx(0.25)  # 25 of 100 pixels
    assert counted.sum() == pytest.approx(2.25)
    assert evidence.chroma[CAR, 2] == pytest.approx((2, np.hypot(20, 20), 800), rel=1e-5)
    assert evidence.objects[[CAR, BROCCOLI, RARE, ALL]].tolist() == [3, 1, 0, 4]
    assert evidence.pictures[[CAR, BROCCOLI, RARE, ALL]].tolist() == [2, 1, 0, 2]


def test_taking_a_image_away_is_the_same_as_never_having_added_it():
    rng = np.random.default_rng(0)
    images = [
        [(int(rng.integers(3)), seen(*rng.uniform((0, -40, -40), (100, 40, 40)), int(rng.integers(4, 14)))) for _ in range(n)]
        for n in (1, 4, 2, 3)
    ]
    everything, rebuilt = Evidence(), Evidence()
    for image in images:
        everything.add(image)
    for image in images[:1] + images[2:]:
        rebuilt.add(image)
    before = everything.histogram.copy()
    rest = everything.without(images[1])
    assert (everything.histogram == before).all()
    assert rest.histogram == pytest.approx(rebuilt.histogram, abs=1e-12)
    assert rest.chroma == pytest.approx(rebuilt.chroma, abs=1e-9)
    assert (rest.objects == rebuilt.objects).all()
    assert (rest.pictures == rebuilt.pictures).all()
    for category in (0, 1, 2, RARE, ALL):
        mine, other = rest.expectation(category), rebuilt.expectation(category)
        assert mine.probability == pytest.approx(other.probability, abs=1e-12)
        assert mine.chroma_deviation == pytest.approx(other.chroma_deviation, abs=1e-6)


def test_a_category_is_shrunken_toward_all_of_them_by_the_number_of_its_objects():
    evidence = Evidence(smoothing=0.01)  # no blur
    for _ in range(6):
        evidence.add([(CAR, seen(50, 0, 0))])
    evidence.add([(STOP_SIGN, seen(50, 50, 40))])
    gray, red = cell(0, 0), cell(50, 40)

    def share(category: int, color: int) -> float:
        return evidence.expectation(category).probability[2, color]

    stray = 1e-3 / K  # of every color, in the end
    of_all = {gray: (6 + 1 / K) / 8, red: (1 + 1 / K) / 8}  # seven objects, and one of all colors
    for color in (gray, red):
        assert share(ALL, color) == pytest.approx(0.999 * of_all[color] + stray, rel=1e-4)
        assert share(RARE, color) == pytest.approx(share(ALL, color), rel=1e-9)
    assert share(STOP_SIGN, red) == pytest.approx(0.999 * (1 + SHRINKAGE * of_all[red]) / (1 + SHRINKAGE) + stray, rel=1e-4)
    assert share(CAR, gray) == pytest.approx(0.999 * (6 + SHRINKAGE * of_all[gray]) / (6 + SHRINKAGE) + stray, rel=1e-4)
    assert share(CAR, red) == pytest.approx(0.999 * SHRINKAGE * of_all[red] / (6 + SHRINKAGE) + stray, rel=1e-4)
    chroma = evidence.expectation(STOP_SIGN).chroma_mean[2]
    of_all_chroma = (np.hypot(50, 40) + np.hypot(50, 40) / 7) / 8
    assert chroma == pytest.approx((np.hypot(50, 40) + SHRINKAGE * of_all_chroma) / (1 + SHRINKAGE), rel=1e-4)


def test_a_wider_blur_moves_shares_to_the_neighbors():
    shares = []
    for smoothing in (1, 4, 10):
        evidence = Evidence(smoothing)
        evidence.add([(CAR, seen(50, 0, 0))])
        shares.append(evidence.expectation(CAR).probability[2, [cell(0, 0), cell(10, 0), cell(30, 0)]])
    assert shares[0][0] > shares[1][0] > shares[2][0]
    assert shares[0][1] < shares[1][1] < shares[2][1]
    assert shares[0][2] < shares[2][2]


def test_expectations_are_distributions_without_a_zero_even_without_any_object():
    evidence = Evidence()
    for _ in range(2):
        for category in (CAR, RARE, ALL):
            expectation = evidence.expectation(category)
            assert expectation.probability.sum(1) == pytest.approx(np.ones(BANDS))
            assert expectation.probability.min() > 1e-7
            assert (expectation.chroma_deviation >= 2).all()
            assert np.isfinite(measure(seen(70, 60, -60), expectation)).all()
        evidence.add([(CAR, seen(50, 0, 0))])


def test_percentiles_of_a_large_category_are_those_of_its_own_objects():
    evidence = Evidence()
    evidence.add([(CAR, seen(50, 0, 0)), (BROCCOLI, seen(50, -20, 20))])
    rng = np.random.default_rng(0)
    categories = np.array([CAR] * 20_000 + [BROCCOLI] * 3)
    values = rng.gamma(2, 3, (len(categories), len(MEASURES)))
    fit = ObjectPrior.fit(evidence, categories, values, values + 100)
    for percent in (1, 5, 50, 95, 99):
        at = np.quantile(values[:20_000], percent / 100, axis=0)
        assert fit.percentiles(at, CAR) == pytest.approx(np.full(len(MEASURES), percent), abs=0.3)
        assert fit.percentiles(np.quantile(values, percent / 100, axis=0) + 100, ALL) == pytest.approx(percent, abs=0.1)
    assert fit.percentiles(np.full(len(MEASURES), -1.0), CAR).tolist() == [0] * len(MEASURES)
    assert fit.percentiles(np.full(len(MEASURES), 1e3), CAR).tolist() == [100] * len(MEASURES)


def test_percentiles_of_a_small_category_lean_on_all_categories_whatever_their_size():
    evidence = Evidence()
    evidence.add([(CAR, seen(50, 0, 0))])
    # 900 values of 0 in one category, 90 of 10 in another, 10 of 20 in a third: a value of 15 is above two of three
    categories = np.array([CAR] * 900 + [BROCCOLI] * 90 + [STOP_SIGN] * 10)
    values = np.repeat((0.0, 10.0, 20.0), (900, 90, 10))[:, None] + np.zeros(len(MEASURES))
    fit = ObjectPrior.fit(evidence, categories, values, values)
    between = np.full(len(MEASURES), 15.0)
    assert fit.percentiles(between, RARE) == pytest.approx(100 * 2 / 3, abs=2)
    expected = 100 * (POOL * 2 / 3) / (POOL + 10)
    assert fit.percentiles(between, STOP_SIGN) == pytest.approx(expected, abs=2)
    assert fit.percentiles(between, ALL) == pytest.approx(99, abs=1)


def test_percentiles_rise_with_the_values_and_an_equal_value_is_in_the_middle(prior):
    for category in (CAR, BROCCOLI, STOP_SIGN, RARE, ALL):
        steps = np.array([prior.percentiles(np.full(len(MEASURES), v), category) for v in np.linspace(-60, 60, 200)])
        assert (np.diff(steps, axis=0) >= 0).all()
        assert steps.min() >= 0
        assert steps.max() <= 100
    evidence = Evidence()
    evidence.add([(CAR, seen(50, 0, 0))])
    only = ObjectPrior.fit(evidence, np.array([CAR]), np.full((1, len(MEASURES)), 3.0), np.full((1, len(MEASURES)), 3.0))
    assert only.percentiles(np.full(len(MEASURES), 3.0), CAR).tolist() == [50] * len(MEASURES)


def test_without_objects_there_is_no_prior():
    with pytest.raises(ValueError, match="no object to take a prior from"):
        ObjectPrior.fit(Evidence(), np.array([], int), np.zeros((0, 7)), np.zeros((0, 7)))


def test_a_comparison_has_all_numbers_in_their_order(prior):
    lab = noisy(np.random.default_rng(5), 50, *hue(120))
    mask = np.zeros((12, 12), bool)
    mask[2:10, 3:] = True
    compared = prior.compare_object(lab, mask, BROCCOLI)
    assert tuple(compared) == OBJECT_COMPARISONS
    assert all(isinstance(value, float) and np.isfinite(value) for value in compared.values())
    assert compared["pixels"] == 72
    assert compared["area"] == 0.5
    assert compared["objects known"] == 60
    assert [compared[name] for name in ("lightness", "a", "b")] == pytest.approx(lab.numpy()[:, mask].mean(1), rel=1e-5)
    assert compared["a"] - compared["expected a"] == pytest.approx(compared["a difference"])
    assert compared["b"] - compared["expected b"] == pytest.approx(compared["b difference"])
    vector = scaled(compared)
    assert vector.dtype == np.float32
    assert vector.shape == (len(OBJECT_COMPARISONS),) == (22,)
    assert np.abs(vector).max() < 2
    halves = {name: compared[f"{name}, percentile"] / 50 - 1 for name in MEASURES}
    assert vector[len(MEASURES) : 2 * len(MEASURES)] == pytest.approx(list(halves.values()), abs=1e-6)


@pytest.mark.parametrize("color", [(0, 0, 0), (100, 0, 0), (32, 79, -108), (88, -86, 83), (97, -22, 94), (53, 80, 67)])
def test_any_color_gives_finite_numbers(prior, color):
    lab = flat(*color)
    for category in (CAR, BROCCOLI, RARE, ALL):
        compared = prior.compare_object(lab, whole(lab), category)
        assert np.isfinite(list(compared.values())).all()
        assert compared["surprise"] < 12.6
        assert np.isfinite(scaled(compared)).all()
        describe_unusual(category, compared)


def test_a_car_of_any_color_is_excused_and_broccoli_is_not(prior):
    rng = np.random.default_rng(7)
    distances = ("sliced Wasserstein", "KL divergence", "surprise")
    cars: list[list[float]] = []
    for _ in range(40):
        lightness, car_hue, car_chroma = rng.uniform((30, 0, 5), (70, 360, 50))
        turned = noisy(rng, lightness, *hue(car_hue + 180, car_chroma))
        car = prior.compare_object(turned, whole(turned), CAR)
        cars.append([car[f"{name}, percentile"] for name in distances])
        degrees, chroma = rng.normal(120, 8), rng.uniform(28, 42)
        green, purple = (noisy(rng, lightness, *hue(angle, chroma)) for angle in (degrees, degrees + 180))
        real, wrong = (prior.compare_object(lab, whole(lab), BROCCOLI) for lab in (green, purple))
        for name in (*distances, "hue difference"):
            assert wrong[f"{name}, percentile"] > 99.5 > real[f"{name}, percentile"]
        assert describe_unusual(BROCCOLI, wrong).startswith(("broccoli: hue redder than 99 %", "broccoli: hue bluer than 99 %"))
    assert np.abs(np.mean(cars, 0) - 50).max() < 15


def test_too_much_and_too_little_chroma_have_a_sign(prior):
    for chroma, word, percentile in ((80, "more colorful", 100), (8, "duller", 0)):
        lab = flat(50, *hue(120, chroma))
        compared = prior.compare_object(lab, whole(lab), BROCCOLI)
        assert np.sign(compared["chroma z"]) == (1 if percentile else -1)
        assert compared["chroma z, percentile"] == pytest.approx(percentile, abs=2)
        assert describe_unusual(BROCCOLI, compared) == f"broccoli: {word} than 99 % of photos"


def plain(**changes: float) -> dict[str, float]:
    """A comparison with nothing unusual, but for the changes; an underscore stands for a space, p_ before for a percentile."""
    compared = dict.fromkeys(OBJECT_COMPARISONS, 50.0) | {"a": 20.0, "b": 20.0, "expected a": 20.0, "expected b": 20.0}
    for name, value in changes.items():
        key = f"{name[2:]}, percentile" if name.startswith("p_") else name
        compared[key.replace("_", " ")] = value
    return compared


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"p_b_difference": 0.6, "b_difference": -30}, "stop sign: hue bluer than 99 % of photos"),
        ({"p_b_difference": 98.4, "b_difference": 30}, "stop sign: hue yellower than 98 % of photos"),
        ({"p_a_difference": 1.0, "a_difference": -30}, "stop sign: hue greener than 99 % of photos"),
        ({"p_a_difference": 100, "a_difference": 30}, "stop sign: hue redder than 99 % of photos"),
        ({"p_a_difference": 97.9, "p_b_difference": 2.1}, ""),
        (
            {"p_a_difference": 100, "a_difference": 9, "p_b_difference": 0, "b_difference": -10},
            "stop sign: hue bluer than 99 % of photos",
        ),
        ({"p_chroma_z": 98.5}, "stop sign: more colorful than 98 % of photos"),
        ({"p_chroma_z": 0.5}, "stop sign: duller than 99 % of photos"),
        ({"p_chroma_z": 0.5, "p_b_difference": 1.5}, "stop sign: hue bluer than 98 % and duller than 99 % of photos"),
        # the same hue, or a color too gray to have one: the difference is one of chroma
        ({"p_chroma_z": 99.5, "p_b_difference": 99.5, "hue difference": 10}, "stop sign: more colorful than 99 % of photos"),
        ({"p_chroma_z": 0.5, "p_b_difference": 0.5, "a": 1, "b": 1}, "stop sign: duller than 99 % of photos"),
        # expected gray: any hue is a different one
        (
            {"p_b_difference": 0.5, "hue difference": 10, "expected a": 0, "expected b": 1},
            "stop sign: hue bluer than 99 % of photos",
        ),
        ({"p_surprise": 98.0}, "stop sign: colors less usual than in 98 % of photos"),
        ({"p_KL_divergence": 98.6, "p_surprise": 98.0}, "stop sign: colors less usual than in 98 % of photos"),
        ({"p_surprise": 1.0, "p_sliced_Wasserstein": 0.0, "p_hue_difference": 100}, ""),
        (
            {"p_chroma_z": 99.5, "objects_known": 3},
            "stop sign: more colorful than 99 % of photos (compared with all objects: 3 of its kind known)",
        ),
    ],
)  # fmt: skip
def test_a_reason_says_what_the_numbers_say(changes, expected):
    assert describe_unusual(STOP_SIGN, plain(**changes)) == expected


def test_a_reason_follows_its_level_and_names_no_category_where_there_is_none():
    assert describe_unusual(CAR, plain(p_chroma_z=96.0), level=95) == "car: more colorful than 96 % of photos"
    assert describe_unusual(ALL, plain(p_chroma_z=99.0, objects_known=3)) == "object: more colorful than 99 % of photos"


def test_shuffled_categories_are_never_in_their_own_place(prior):
    numbered = ObjectPrior(**{**vars(prior), "objects": np.arange(CATEGORIES + 1)})
    orders = []
    for seed in range(20):
        order = numbered.shuffled(seed).objects
        assert sorted(order[:ALL]) == list(range(CATEGORIES))
        assert (order[:ALL] != np.arange(CATEGORIES)).all()
        assert order[ALL] == ALL
        orders.append(tuple(order))
    assert len(set(orders)) == 20
    assert tuple(numbered.shuffled(3).objects) == orders[3]
    shuffled = prior.shuffled(3)
    for category, row in enumerate(orders[3]):
        assert (shuffled.probability[category] == prior.probability[row]).all()
        assert (shuffled.quantiles[category] == prior.quantiles[row]).all()


def test_an_unconditional_prior_has_one_answer_for_every_category(prior):
    lab = flat(50, *hue(300))
    plain_prior = prior.unconditional()
    answers = [plain_prior.compare_object(lab, whole(lab), category) for category in (CAR, BROCCOLI, RARE, ALL)]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == prior.compare_object(lab, whole(lab), ALL)
    assert answers[0] != prior.compare_object(lab, whole(lab), BROCCOLI)


def test_a_saved_prior_compares_as_it_did_before(prior, tmp_path):
    prior.save(tmp_path / "prior.npz")
    loaded = ObjectPrior.load(tmp_path / "prior.npz")
    for name in ("probability", "chroma_mean", "chroma_deviation", "quantiles", "objects", "pictures"):
        mine, other = getattr(prior, name), getattr(loaded, name)
        assert mine.dtype == other.dtype
        assert (mine == other).all()
    assert loaded.about == {"from": "made up"}
    assert loaded.probability.dtype == np.float32
    lab = noisy(np.random.default_rng(9), 50, 20, 20)
    assert loaded.compare_object(lab, whole(lab), CAR) == prior.compare_object(lab, whole(lab), CAR)
    assert (tmp_path / "prior.npz").stat().st_size < 1 << 20
    with np.load(tmp_path / "prior.npz", allow_pickle=False) as content:
        assert content["probability"].dtype == np.float16
        assert json.loads(str(content["about"])) == loaded.about


def test_what_is_no_prior_is_refused_with_what_makes_one(prior, tmp_path):
    path = tmp_path / "prior.npz"
    with pytest.raises(FileNotFoundError, match=r"no object prior .*prior\.npz; make one with tools/build_color_prior\.py"):
        ObjectPrior.load(path)
    prior.save(path)
    whole_file = path.read_bytes()
    for content in (b"", b"PK\3\4", b"text", whole_file[: len(whole_file) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"prior\.npz cannot be read as an object prior .* tools/build_color_prior\.py"):
            ObjectPrior.load(path)
    path.write_bytes(whole_file)
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"prior\.npz cannot be read as an object prior"):
        ObjectPrior.load(path)
    np.savez(path, **{**arrays, "quantiles": arrays["quantiles"][:, :5]})
    with pytest.raises(ValueError, match=r"quantiles must be finite and of shape \(81, 7, \d+\), got \(81, 5, \d+\)"):
        ObjectPrior.load(path)
    np.savez(path, **{**arrays, "chroma_mean": arrays["chroma_mean"] * np.nan})
    with pytest.raises(ValueError, match="chroma_mean must be finite"):
        ObjectPrior.load(path)


def test_signed_measures_are_among_the_measures():
    assert set(SIGNED) < set(MEASURES)
    assert ALL == CATEGORIES == len(COCO_NAMES) == 80
