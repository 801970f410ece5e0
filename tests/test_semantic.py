"""SCC and the objects of an image: what is compared, what attention leaves out, and that nothing else depends on labels."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BROCCOLI, CAR, make_image
from PIL import Image
from torch import Tensor

from inference.networks import Networks
from inference.scorer import Scorer
from models import SemanticConsistencyNet, load_model
from models.base import Inputs, stack
from models.color_prior import COMPARISONS
from models.object_prior import MIN_PIXELS, OBJECT_COMPARISONS, ObjectPrior, scaled
from models.semantic import MOST_OBJECTS, AttentionPool, pooled
from training.engine import predict
from training.images import RatedImages, labeled_objects
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.color import rgb_to_lab
from utils.labels import LabeledObject, LabelError, ObjectLabels, object_mask

CPU = torch.device("cpu")
THINGS = [
    LabeledObject(CAR, (0.3, 0.4, 0.5, 0.6)),
    LabeledObject(BROCCOLI, (0.7, 0.6, 0.4, 0.5), np.array([[0.5, 0.4], [0.9, 0.5], [0.7, 0.9]])),
    LabeledObject(CAR, (0.2, 0.8, 0.3, 0.3)),
]


def image(seed: int, height: int, width: int) -> np.ndarray:
    return make_image(seed, height, width).copy()  # which torch may own


def build(object_prior: ObjectPrior | None) -> SemanticConsistencyNet:
    torch.manual_seed(0)
    net = SemanticConsistencyNet("test_efficientnet", 64, prior={"width": 16}).eval()
    if object_prior is not None:
        net.set_object_prior(object_prior)
    return net


@pytest.fixture(scope="module")
def net(object_prior) -> SemanticConsistencyNet:
    return build(object_prior)


def labeled(net: SemanticConsistencyNet, rgb: np.ndarray, things: list[LabeledObject]) -> Inputs:
    inputs = net.prepare(rgb)
    return inputs | net.object_inputs(inputs["rgb"], things)


def score_of(net: SemanticConsistencyNet, rgb: np.ndarray, things: list[LabeledObject]) -> float:
    return net.score_prepared(labeled(net, rgb, things))


def scores_of(net: SemanticConsistencyNet, inputs: Inputs) -> Tensor:
    return net.head(net.encode(inputs))


def write_labels(folder: Path, **rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in rows.items():
        (folder / f"{stem}.txt").write_text(text)
    return folder


def tokens_and_presence(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three images of six slots: four objects, none, one."""
    tokens = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(seed))
    return tokens, torch.tensor([[1, 0, 1, 1, 0, 1], [0] * 6, [0, 0, 0, 0, 1, 0]], dtype=torch.float32)


@pytest.fixture(scope="module")
def pool() -> AttentionPool:
    torch.manual_seed(0)
    return AttentionPool(5, 7, 0.5).eval()


# Attention


@torch.no_grad()
def test_attention_is_a_softmax_over_the_tokens_that_are_there(pool):
    tokens, present = tokens_and_presence()
    found = pool(tokens, present)
    assert found.shape == (3, 7)
    for row in (0, 2):
        there = pool.token(tokens[row][present[row] == 1]).double().numpy()
        logits = there @ pool.weigh.weight[0].double().numpy()
        weights = np.exp(logits - logits.max())
        np.testing.assert_allclose(found[row], weights / weights.sum() @ there, atol=1e-6)
    assert torch.equal(found[1], torch.zeros(7))


@torch.no_grad()
def test_attention_does_not_see_what_stands_in_empty_slots(pool):
    tokens, present = tokens_and_presence()
    other, _ = tokens_and_presence(seed=1)
    changed = torch.where(present[..., None] == 1, tokens, 1000 * other)
    assert torch.equal(pool(changed, present), pool(tokens, present))
    longer = torch.cat((tokens, 1000 * other), 1)
    absent = torch.cat((present, torch.zeros_like(present)), 1)
    torch.testing.assert_close(pool(longer, absent), pool(tokens, present))


@torch.no_grad()
def test_attention_takes_no_notice_of_the_order(pool):
    tokens, present = tokens_and_presence()
    order = torch.tensor([3, 5, 0, 4, 2, 1])
    torch.testing.assert_close(pool(tokens[:, order], present[:, order]), pool(tokens, present))


def test_gradients_of_attention_are_finite_and_zero_where_nothing_is(pool):
    tokens, present = tokens_and_presence()
    tokens.requires_grad_()
    pool(tokens, present).square().sum().backward()
    assert tokens.grad.isfinite().all()
    assert (tokens.grad[present == 0] == 0).all()
    assert (tokens.grad[present == 1] != 0).any(1).all()
    pool.zero_grad()
    pool(tokens[1:2], present[1:2]).sum().backward()  # no object anywhere
    assert all((p.grad == 0).all() for p in pool.parameters())


def test_maps_are_pooled_over_the_part_that_an_object_fills():
    rng = np.random.default_rng(0)
    maps, cells = rng.normal(size=(2, 3, 4, 5)), rng.uniform(size=(2, 6, 4, 5))
    cells[0, 2] = 0
    found = pooled(torch.from_numpy(maps), torch.from_numpy(cells)).numpy()
    assert found.shape == (2, 6, 3)
    for b, t in np.ndindex(2, 6):
        expected = np.zeros(3) if (b, t) == (0, 2) else [np.average(m, weights=cells[b, t]) for m in maps[b]]
        np.testing.assert_allclose(found[b, t], expected, atol=1e-9)


# What is known of objects


def test_an_object_brings_the_comparison_with_its_category_and_where_it_is(net, object_prior):
    inputs = labeled(net, image(1, 60, 80), THINGS)
    assert inputs["objects"].shape == (MOST_OBJECTS, len(OBJECT_COMPARISONS))
    assert inputs["object_cells"].shape == (MOST_OBJECTS, 8, 8)
    assert inputs["present"].tolist() == [1] * 3 + [0] * (MOST_OBJECTS - 3)
    lab = rgb_to_lab(inputs["rgb"][None])[0]
    masks = [object_mask(thing, 64, 64) for thing in THINGS]
    by_size = sorted(range(3), key=lambda i: -masks[i].sum())
    for slot, i in enumerate(by_size):
        expected = scaled(object_prior.compare_object(lab, masks[i], THINGS[i].category))
        np.testing.assert_allclose(inputs["objects"][slot], expected, atol=1e-6)
        shares = masks[i].reshape(8, 8, 8, 8).mean((1, 3))
        np.testing.assert_allclose(inputs["object_cells"][slot], shares, atol=1e-6)
    assert not inputs["objects"][3:].any()
    assert not inputs["object_cells"][3:].any()


def test_the_largest_objects_are_kept_where_there_are_more_than_slots(net):
    rgb = image(2, 64, 64)
    sides = np.linspace(0.2, 0.6, MOST_OBJECTS + 6)
    things = [LabeledObject(CAR, (0.3 + 0.015 * n, 0.5, side, side)) for n, side in enumerate(sides)]
    shuffled = [things[i] for i in np.random.default_rng(0).permutation(len(things))]
    assert score_of(net, rgb, shuffled) == pytest.approx(score_of(net, rgb, things[6:]), abs=1e-6)
    assert score_of(net, rgb, shuffled) != pytest.approx(score_of(net, rgb, things[:MOST_OBJECTS]), abs=1e-6)


def test_objects_too_small_to_have_a_color_are_as_if_not_labeled(net):
    rgb = image(2, 64, 64)
    tiny = LabeledObject(CAR, (0.5, 0.5, 3 / 64, 3 / 64))
    assert object_mask(tiny, 64, 64).sum() < MIN_PIXELS
    outside = LabeledObject(CAR, (1.4, 0.5, 0.1, 0.1))
    assert score_of(net, rgb, [tiny, *THINGS, outside]) == score_of(net, rgb, THINGS)
    assert score_of(net, rgb, [tiny, outside]) == net.score(rgb)


def test_the_order_of_objects_does_not_change_the_score(net):
    rgb = image(3, 70, 50)
    expected = score_of(net, rgb, THINGS)
    for order in ((1, 2, 0), (2, 1, 0)):
        assert score_of(net, rgb, [THINGS[i] for i in order]) == pytest.approx(expected, abs=1e-6)


def test_the_score_depends_on_category_place_and_color_of_an_object(net):
    rgb = image(3, 64, 64)
    expected = score_of(net, rgb, THINGS[:1])
    box = THINGS[0].box
    assert score_of(net, rgb, [LabeledObject(BROCCOLI, box)]) != pytest.approx(expected, abs=1e-6)
    assert score_of(net, rgb, [LabeledObject(CAR, (0.7, 0.6, *box[2:]))]) != pytest.approx(expected, abs=1e-6)
    assert score_of(net, rgb, []) != pytest.approx(expected, abs=1e-6)
    found = [labeled(net, x, [LabeledObject(BROCCOLI, box)])["objects"][0] for x in (rgb, np.roll(rgb, 1, axis=2))]
    assert (found[0] - found[1]).abs().max() > 0.1


def test_without_an_object_prior_labels_change_nothing():
    net = build(None)
    rgb = image(3, 64, 64)
    assert net.object_prior is None
    assert score_of(net, rgb, THINGS) == net.score(rgb)


# No label, no difference


@torch.no_grad()
def test_no_objects_contribute_zero_as_an_empty_image_does(net):
    prepared = stack([net.prepare(image(n, 60, 70)) for n in range(3)])
    empty = stack([net.object_inputs(rgb, []) for rgb in prepared["rgb"]])
    assert not any(x.any() for x in empty.values())
    contributions = []
    hook = net.objects.register_forward_hook(lambda module, inputs, output: contributions.append(output))
    try:
        plain, with_empty = scores_of(net, prepared), scores_of(net, prepared | empty)
    finally:
        hook.remove()
    assert torch.equal(plain, with_empty)
    assert all(torch.equal(x, torch.zeros(3, 32)) for x in contributions)


@torch.no_grad()
def test_what_stands_in_an_empty_slot_never_changes_the_score(net):
    inputs = stack([labeled(net, image(n, 60, 70), THINGS[:n]) for n in range(3)])
    expected = scores_of(net, inputs)
    absent = inputs["present"] == 0
    noise = 100 * torch.randn(inputs["objects"].shape, generator=torch.Generator().manual_seed(0))
    cells = torch.rand(inputs["object_cells"].shape, generator=torch.Generator().manual_seed(1))
    objects = torch.where(absent[..., None], noise, inputs["objects"])
    places = torch.where(absent[..., None, None], cells, inputs["object_cells"])
    assert torch.equal(scores_of(net, inputs | {"objects": objects, "object_cells": places}), expected)


def test_a_image_without_labels_has_one_score_by_every_way(net, tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image(number, 60, 80)).save(paths[-1])
    labels = ObjectLabels(write_labels(tmp_path / "labels", other=f"{CAR} 0.5 0.5 0.5 0.5\n", **{"2": "\n"}))
    scores = net.score(paths)
    assert len(set(scores)) == 3
    without, beside = Scorer(Networks({"SCC": net}, ["cpu"])), Scorer(Networks({"SCC": net}, ["cpu"], labels))
    for path, score in zip(paths, scores, strict=True):  # the last one has an empty file
        for scorer in (without, beside):
            row = scorer(path, {}, path.name)
            assert (row.scores, row.error, dict(row.errors)) == ({"SCC": round(score, 6)}, "", {})
    frame = pd.DataFrame({"image": [p.name for p in paths], "scene": ["a", "b", "c"], "SCC": 0.0})
    frame.attrs["root"] = str(tmp_path)
    for named in (None, ["none"], [str(tmp_path / "labels")]):
        objects = labeled_objects(named, net, frame)
        together = predict(net, RatedImages(frame, net.preprocess, "SCC", objects=objects), CPU)
        assert together.tolist() == pytest.approx(scores, abs=1e-6)


def test_a_labeled_image_scores_the_same_alone_and_beside_others(net, tmp_path):
    for number in range(4):
        Image.fromarray(image(number, 60, 80)).save(tmp_path / f"{number}.png")
    rows = {"0": f"{CAR} 0.4 0.4 0.5 0.5 0.9\n", "2": f"{BROCCOLI} 0.5 0.5 0.9 0.6 0.4 0.9\n{CAR} 0.3 0.3 0.4 0.4\n", "3": ""}
    labels = ObjectLabels(write_labels(tmp_path / "labels", **rows))
    scorer = Scorer(Networks({"SCC": net}, ["cpu"], labels))
    names = [f"{n}.png" for n in range(4)]
    alone = [scorer(tmp_path / name, {}, name).scores["SCC"] for name in names]
    assert [scorer(tmp_path / name, {}, name).scores["SCC"] for name in names[::-1]] == alone[::-1]
    plain = [round(score, 6) for score in net.score([tmp_path / name for name in names])]
    assert [a == b for a, b in zip(alone, plain, strict=True)] == [False, True, False, True]
    frame = pd.DataFrame({"image": names, "scene": names, "SCC": 0.0})
    frame.attrs["root"] = str(tmp_path)
    objects = labeled_objects([str(labels.folder)], net, frame)
    images = RatedImages(frame, net.preprocess, "SCC", objects=objects)
    assert predict(net, images, CPU).tolist() == pytest.approx(alone, abs=2e-6)
    assert predict(net, images, CPU, workers=1).tolist() == pytest.approx(alone, abs=2e-6)


def test_a_label_file_that_cannot_be_read_is_an_error_of_its_image_alone(net, tmp_path):
    Image.fromarray(image(0, 60, 80)).save(tmp_path / "0.png")
    labels = ObjectLabels(write_labels(tmp_path / "labels", **{"0": "80 0.5 0.5 0.5 0.5\n"}))
    row = Scorer(Networks({"SCC": net}, ["cpu"], labels))(tmp_path / "0.png", {}, "0.png")
    assert row.scores == {}
    assert "0.txt, line 1: class '80' is unknown" in row.errors["SCC"]


def test_objects_are_given_to_score_beside_their_image(net, tmp_path):
    shown = [image(n, 60, 80) for n in range(3)]
    Image.fromarray(shown[0]).save(tmp_path / "image.png")
    alone = [score_of(net, rgb, THINGS[:n]) for n, rgb in enumerate(shown)]
    assert net.score(shown, [THINGS[:n] for n in range(3)]) == alone
    assert net.score(shown[2], THINGS[:2]) == alone[2]
    assert net.score(tmp_path / "image.png", THINGS) == score_of(net, shown[0], THINGS)
    assert net.score(shown, None) == net.score(shown, [[], [], []]) == net.score(shown)
    assert net.score([]) == []
    with pytest.raises(ValueError, match="3 images but objects of 2"):
        net.score(shown, [THINGS, THINGS])


# Labels of a data set


def test_labels_are_found_by_image_then_by_scene_and_in_the_first_folder_that_has_them(net, tmp_path, capsys):
    first = write_labels(tmp_path / "first", s1=f"{CAR} 0.5 0.5 0.5 0.5\n")
    second = write_labels(
        tmp_path / "second",
        b=f"{BROCCOLI} 0.5 0.5 0.5 0.5\n",
        s1=f"{BROCCOLI} 0.5 0.5 0.2 0.2\n",
        **{"s.2": f"{BROCCOLI} 0.3 0.3 0.5 0.5\n"},
    )
    frame = pd.DataFrame({"image": ["in/a.png", "in/b.png", "in/c.png", "in/d.png"], "scene": ["s1", "s1", "s.2", "s3"]})
    objects = labeled_objects([str(first), str(second)], net, frame)
    assert "objects: 3 of 4 images show labeled ones" in capsys.readouterr().out
    rgb = net.prepare(image(0, 64, 64))["rgb"]
    expected = [(CAR, (0.5, 0.5, 0.5, 0.5)), (BROCCOLI, (0.5, 0.5, 0.5, 0.5)), (BROCCOLI, (0.3, 0.3, 0.5, 0.5)), None]
    for number, thing in enumerate(expected):
        found, right = objects(number, rgb), net.object_inputs(rgb, [LabeledObject(*thing)] if thing else [])
        assert all(torch.equal(found[k], right[k]) for k in right)


def test_labels_of_a_data_set_must_be_there_be_readable_and_have_a_prior(net, tmp_path):
    frame = pd.DataFrame({"image": ["a.png"], "scene": ["a"]})
    with pytest.raises(FileNotFoundError, match="no folder of object labels"):
        labeled_objects([str(tmp_path / "nowhere")], net, frame)
    folder = write_labels(tmp_path / "labels", a="car 0.5 0.5 0.5 0.5\n")
    with pytest.raises(LabelError, match=r"a\.txt, line 1: 'car' is not a finite number"):
        labeled_objects([str(folder)], net, frame)
    with pytest.raises(ValueError, match="--labels need an object prior to compare with; pass --object-prior"):
        labeled_objects([str(folder)], build(None), frame)


# Training


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, 0, 1)])
def test_gradients_are_finite_whatever_the_number_of_objects(object_prior, counts):
    net = build(object_prior).train()
    inputs = stack([labeled(net, image(n, 60, 70), THINGS[:count]) for n, count in enumerate(counts)])
    scores_of(net, inputs).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert any(p.grad.any() for p in net.objects.parameters()) == any(counts)


def test_every_weight_takes_part_without_labels_too():
    # processes that train together wait for the gradient of each
    net = build(None).train()
    scores_of(net, stack([net.prepare(image(n, 60, 70)) for n in range(2)])).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_prior_stays_as_it_was_calibrated_while_the_rest_learns(net):
    net = copy.deepcopy(net).train()
    assert net.training
    assert not any(module.training for module in net.prior.modules())
    inputs = stack([net.prepare(image(n, 60, 70)) for n in range(2)])
    with torch.no_grad():
        first, second = net.encode(inputs), net.encode(inputs)
    assert torch.equal(first["cells"], second["cells"])
    assert first["cells"].shape == (2, len(COMPARISONS), 8, 8)


def test_what_gray_places_show_is_standardized_by_all_places_of_a_batch(net):
    net = copy.deepcopy(net).train()
    features = net.encode(stack([net.prepare(image(n, 60, 70)) for n in range(4)]))
    net.head(features)
    places = features["scene"].flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(net.standardize_scene.mean, places.mean(0))
    torch.testing.assert_close(net.standardize_scene.variance, places.var(0))


# The object prior is part of the weights


def test_the_object_prior_travels_with_the_checkpoint(net, object_prior, tmp_path):
    save_checkpoint(tmp_path / "SCC.pt", net)
    loaded = load_model(tmp_path / "SCC.pt", dimension="SCC")
    assert loaded.config["object_bytes"] == net.config["object_bytes"] == len(object_prior.to_bytes()) > 1000
    np.testing.assert_array_equal(loaded.object_prior.probability, object_prior.probability)
    np.testing.assert_array_equal(loaded.object_prior.quantiles, object_prior.quantiles)
    assert loaded.object_prior.about == object_prior.about
    rgb = image(5, 64, 64)
    assert score_of(loaded, rgb, THINGS) == score_of(net, rgb, THINGS) != net.score(rgb)
    assert loaded.score(rgb) == net.score(rgb)


def test_an_object_prior_in_half_precision_weights_is_whole(net, object_prior, tmp_path):
    save_checkpoint(tmp_path / "SCC.pt", net, half=True)
    assert read_checkpoint(tmp_path / "SCC.pt")["model"]["object_file"].dtype == torch.uint8
    loaded = load_model(tmp_path / "SCC.pt")
    assert loaded.object_prior.to_bytes() == object_prior.to_bytes()
    rgb = image(5, 64, 64)
    assert score_of(loaded, rgb, THINGS) == pytest.approx(score_of(net, rgb, THINGS), abs=0.01)


def test_weights_whose_object_prior_has_another_size_than_they_say_are_refused(net, tmp_path):
    save_checkpoint(tmp_path / "SCC.pt", net)
    content = torch.load(tmp_path / "SCC.pt", weights_only=True)
    content["config"]["object_bytes"] -= 1
    torch.save(content, tmp_path / "SCC.pt")
    with pytest.raises(ValueError, match=r"SCC\.pt does not hold a SCC network of this version: .*object_file"):
        load_model(tmp_path / "SCC.pt")


def test_another_object_prior_takes_the_place_of_the_first(object_prior):
    net = build(object_prior)
    rgb = image(5, 64, 64)
    before = score_of(net, rgb, THINGS)
    net.set_object_prior(object_prior.unconditional())
    other = score_of(net, rgb, THINGS)
    assert other != before
    net.set_object_prior(object_prior)
    assert score_of(net, rgb, THINGS) == before


def test_a_copy_of_the_network_compares_as_the_first(net):
    rgb = image(5, 64, 64)
    assert score_of(copy.deepcopy(net), rgb, THINGS) == score_of(net, rgb, THINGS)
