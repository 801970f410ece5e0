"""The published networks against figures of the published code, stage by stage, on weights that follow from a formula.

Tolerances: 2e-6 on scores and 1e-5 on stages. The smallest mistakes known to be easy (another epsilon, spread or GELU in
CF, one softmax for two in SCC) move a score by 2e-5 or more.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FIGURES, IMAGES, NAMES, digest, golden_state, image, labels, object_slots, statistics, write_inputs
from published_layout import COUNTS, cf_layout, pr_layout, scc_layout
from torch import Tensor

from models import published
from models.base import stack
from models.published import PublishedCF, PublishedNet, PublishedPR, PublishedSCC, from_published, to_published
from utils.labels import ObjectLabels, read_color_curves

SCORE, STAGE = 2e-6, 1e-5  # tolerances
LAYOUTS = {"CF": cf_layout, "SCC": scc_layout, "PR": pr_layout}
NETWORKS = {"CF": PublishedCF, "SCC": PublishedSCC, "PR": PublishedPR}
NEWER = "transformers-5.9"
SUB_SCORES = list(zip(FIGURES["scores"]["CF"]["bicubic"], FIGURES["scores"]["SCC"]["infer"], strict=True))


@functools.cache
def state_of(dimension: str) -> dict[str, Tensor]:
    """Content of the published weight file, with the weights of the rule. Not to be changed."""
    return golden_state(LAYOUTS[dimension]())


@pytest.fixture(scope="module", autouse=True)
def _free_the_weights() -> Iterator[None]:
    yield
    state_of.cache_clear()


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CF state with the names that transformers gives it since 5.9."""
    return dict(zip(cf_layout(NEWER), state.values(), strict=True))


@pytest.fixture(scope="module", params=NETWORKS)
def state(request) -> dict[str, Tensor]:
    return state_of(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    write_inputs(root)
    return root


@pytest.fixture(scope="module")
def paths(folder) -> list[Path]:
    return [folder / "images" / f"{name}.png" for name in NAMES]


@pytest.fixture(scope="module")
def cf() -> PublishedCF:
    return from_published(state_of("CF"))


@pytest.fixture(scope="module")
def scc() -> PublishedSCC:
    return from_published(state_of("SCC"))


@pytest.fixture(scope="module")
def pr() -> PublishedPR:
    return from_published(state_of("PR"))


@contextlib.contextmanager
def stages_of(net: PublishedCF) -> Iterator[list[dict[str, Tensor]]]:
    """What ``features`` gives, each time the network calls it on the way to a score."""
    seen, features = [], net.features

    def watched(*inputs: object) -> dict[str, Tensor]:
        seen.append(features(*inputs))
        return seen[-1]

    net.features = watched
    try:
        yield seen
    finally:
        del net.features


def rows(stages: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Stages of a batch, by image."""
    return [dict(zip(stages, values, strict=True)) for values in zip(*(s.detach() for s in stages.values()), strict=True)]


def assert_statistics(values: Tensor, known: list, what: str, tolerance: float = STAGE) -> None:
    shape, *numbers, first = statistics(values)
    assert shape == known[0], what
    assert numbers == pytest.approx(known[1:3], abs=tolerance), what
    assert first == pytest.approx(known[3], abs=tolerance), what


def assert_stages(found: list[dict[str, Tensor]], known: dict[str, list]) -> None:
    """Compare stages of the four images with figures; those given value by value rather than as statistics are below."""
    assert len(found) == IMAGES
    for number, stages in enumerate(found):
        for name, statistic in known.items():
            if isinstance(statistic[number][0], list):
                assert_statistics(stages[name], statistic[number], f"{name} of {NAMES[number]}")


def scores_of(net: PublishedNet, batch: dict[str, Tensor]) -> Tensor:
    """Scores of a batch of prepared images."""
    return net.head(net.encode(batch))


def assert_gradients(net: PublishedNet, scores: Tensor) -> None:
    """Backpropagate the loss of these scores and compare the gradient of each part with the figures."""
    step = FIGURES["training"][net.dimension]
    assert scores.tolist() == pytest.approx(step["scores"], abs=SCORE)
    loss = torch.nn.functional.mse_loss(scores, torch.tensor(step["targets"]))
    assert loss.item() == pytest.approx(step["loss"], abs=SCORE)
    net.zero_grad()
    loss.backward()
    parts = {}
    for prefix in step["gradients"]:
        part = getattr(net, "backbone" if prefix in ("vit.", "naturalness_extractor.") else prefix.rstrip("."))
        parts[prefix] = sum(p.grad.double().square().sum().item() for p in part.parameters()) ** 0.5
    every = sum(p.grad.double().square().sum().item() for p in net.parameters()) ** 0.5
    net.zero_grad()
    assert parts == pytest.approx(step["gradients"], rel=1e-4)
    assert every == pytest.approx(step["gradient"], rel=1e-4)


# --- CF


@pytest.fixture(scope="module")
def cf_alone(cf, paths) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Scores and stages of the four files, scored as by the published script."""
    with stages_of(cf) as seen:
        scores = cf.score(paths)
    return scores, [row for stages in seen for row in rows(stages)]


def test_cf_scores_are_the_published_ones(cf_alone):
    assert cf_alone[0] == pytest.approx(FIGURES["scores"]["CF"]["bicubic"], abs=SCORE)


def test_cf_stages_are_the_published_ones(cf_alone):
    assert_stages(cf_alone[1], FIGURES["statistics"]["CF"]["bicubic"])


def test_cf_as_in_training_gives_the_published_scores_stages_and_gradients():
    net = from_published(state_of("CF"), resize="bilinear")
    assert net.resize == "bilinear"
    batch = stack([net.prepare(image(number)) for number in range(IMAGES)])
    with stages_of(net) as seen:
        scores = scores_of(net, batch)
    assert scores.tolist() == pytest.approx(FIGURES["scores"]["CF"]["bilinear"], abs=SCORE)
    assert len(seen) == 1
    assert_stages(rows(seen[0]), FIGURES["statistics"]["CF"]["bilinear"])
    assert_gradients(net, scores)


def test_no_weight_of_cf_but_the_pooler_is_left_out_of_training(cf):
    trained = sum(parameter.numel() for parameter in cf.parameters() if parameter.requires_grad)
    assert trained == COUNTS["CF"].parameters - COUNTS["CF"].parts["vit.pooler."]
    assert all("pooler" in name for name in FIGURES["training"]["CF"]["without"])


def test_the_ab_planes_of_cf_are_the_published_ones(cf):
    for number in range(IMAGES):
        planes = published.chroma_planes(cf.prepare(image(number))["rgb"][None])[0]
        for plane, letter in zip(planes, "ab", strict=True):
            assert_statistics(plane, FIGURES["statistics"]["lab"][letter][number], f"{letter} of {NAMES[number]}", 2e-6)


# --- SCC


def scc_batch(net: PublishedSCC) -> dict[str, Tensor]:
    return stack([net.prepare(image(number), object_slots(labels(number))) for number in range(IMAGES)])


@pytest.mark.parametrize("graph", ["infer", "train"])
def test_scc_scores_are_the_published_ones(graph, paths):
    net = from_published(state_of("SCC"), attention=graph)
    objects = [object_slots(labels(number)) for number in range(IMAGES)]
    scores = net.score(paths, objects)
    assert scores == pytest.approx(FIGURES["scores"]["SCC"][graph], abs=SCORE)
    assert net.score(paths[3], objects[3]) == scores[3]


@pytest.mark.parametrize("graph", ["infer", "train"])
@pytest.mark.parametrize("case", FIGURES["extra"]["SCC"], ids=lambda case: f"{case['picture']} with {case['labels']}")
def test_scc_scores_with_other_labels_are_the_published_ones(case, graph):
    net = from_published(state_of("SCC"), attention=graph)
    objects = None if case["labels"] is None else object_slots(labels(case["labels"]))
    inputs = net.prepare(image(case["picture"]), objects)
    assert net.score_prepared(inputs) == pytest.approx(case[graph], abs=SCORE)


def test_scc_stages_are_the_published_ones(scc):
    with torch.inference_mode():
        found = rows(scc.features(scc_batch(scc)))
    known = FIGURES["statistics"]["SCC"]
    assert_stages(found, {name: known[name] for name in ("image", "objects")})
    for number, stages in enumerate(found):
        assert stages["logits"][:4].tolist() == pytest.approx(known["logits"][number], abs=STAGE)
        assert stages["attention"].tolist() == pytest.approx(known["attention"][number], abs=STAGE)


def test_scc_in_training_has_the_published_gradients():
    net = from_published(state_of("SCC"), attention="train")
    assert_gradients(net, scores_of(net, scc_batch(net)))


def test_scc_can_have_one_graph_in_training_and_another_in_scoring():
    for graph in ("infer", "train"):
        net = from_published(state_of("SCC"), train_attention=graph)
        batch = scc_batch(net)
        net.train()
        for module in net.backbone.modules():  # whose batch statistics are not at stake here
            module.eval()
        with torch.inference_mode():
            assert scores_of(net, batch).tolist() == pytest.approx(FIGURES["scores"]["SCC"][graph], abs=SCORE)
            net.eval()
            assert scores_of(net, batch).tolist() == pytest.approx(FIGURES["scores"]["SCC"]["infer"], abs=SCORE)


def test_label_files_and_prior_are_read_as_the_published_code_does(folder):
    known = ObjectLabels(folder / "labels", read_color_curves(folder / "color_.json"))
    for number, name in enumerate(NAMES):
        slots, used = known.slots(f"{name}.png")
        assert np.array_equal(slots, object_slots(labels(number)))
        assert used == min(len(labels(number)), 20)


# --- PR


def test_pr_scores_are_the_published_ones(pr, paths):
    scores = pr.score(paths, *map(list, zip(*SUB_SCORES, strict=True)))
    assert scores == pytest.approx(FIGURES["scores"]["PR"], abs=SCORE)
    assert pr.score(paths[1], *SUB_SCORES[1]) == scores[1]


@pytest.mark.parametrize("case", FIGURES["extra"]["PR"], ids=lambda case: str(case["sub_scores"]))
def test_pr_scores_with_other_sub_scores_are_the_published_ones(pr, case):
    inputs = pr.prepare(image(case["picture"]))
    pair = dict(zip(("CF", "SCC"), case["sub_scores"], strict=True))
    assert pr.score_prepared(pr.inputs_of(inputs, "", None, pair)) == pytest.approx(case["score"], abs=SCORE)
    with torch.inference_mode():
        stages = pr.features(stack([inputs]), torch.tensor([case["sub_scores"]]))
    assert_statistics(stages["scores"][0], case["scores"], "scores")


def test_pr_stages_are_the_published_ones(pr):
    batch = stack([pr.prepare(image(number)) for number in range(IMAGES)])
    with torch.inference_mode():
        found = rows(pr.features(batch, torch.tensor(SUB_SCORES)))
    assert_stages(found, FIGURES["statistics"]["PR"])


def test_pr_gives_one_score_in_any_company_and_the_published_gradients(pr):
    batch = stack([pr.prepare(image(number)) for number in range(IMAGES)])
    pairs = torch.tensor(SUB_SCORES)
    together = pr.head(pr.encode(batch), pairs)
    alone = [pr.score_prepared({"rgb": rgb, "scores": pair}) for rgb, pair in zip(batch["rgb"], pairs, strict=True)]
    assert together.tolist() == pytest.approx(alone, abs=SCORE)
    assert_gradients(pr, together)


# --- What the networks see


@pytest.mark.parametrize(("dimension", "config"), [("CF", {}), ("CF", {"resize": "bilinear"}), ("SCC", {}), ("PR", {})])
def test_a_prepared_image_has_the_published_pixels(dimension, config, paths):
    net = from_published(state_of(dimension), **config)
    for number, path in enumerate(paths):
        rgb = net.prepare(path)["rgb"]
        assert torch.equal(rgb, net.prepare(image(number))["rgb"])
        pixels = (rgb * 255).round().to(torch.uint8)
        assert torch.equal(rgb, pixels / 255)
        found = hashlib.sha256(pixels.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()
        assert found == FIGURES["pictures"][number]["sha256"][f"{net.resize}{net.size}"]


def test_the_residual_networks_see_the_published_values(pr):
    for number in range(IMAGES):
        seen = published.imagenet_normalized(pr.prepare(image(number))["rgb"][None])[0]
        assert_statistics(seen, FIGURES["statistics"]["standardized"][number], NAMES[number], 2e-6)


# --- Files


@pytest.mark.parametrize("spelling", ["classic", NEWER])
@pytest.mark.parametrize("dimension", NETWORKS)
def test_a_published_state_comes_back_as_it_went_in(dimension, spelling):
    layout = cf_layout(spelling) if dimension == "CF" else LAYOUTS[dimension]()
    before = dict(zip(layout, state_of(dimension).values(), strict=True))
    after = to_published(from_published(before), spelling)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in after.items()} == layout
    if spelling == "classic":
        assert list(after) == list(layout)
    for name, tensor in after.items():
        assert torch.equal(tensor, torch.zeros_like(tensor) if "pooler" in name else before[name]), name
        assert tensor.is_contiguous()
        assert not tensor.requires_grad


def test_a_network_is_of_its_file(state):
    net = from_published(state)
    assert type(net) is NETWORKS[net.dimension]
    assert not any(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"cpu"}
    pooler = COUNTS["CF"].parts["vit.pooler."] if net.dimension == "CF" else 0
    assert sum(parameter.numel() for parameter in net.parameters()) == COUNTS[net.dimension].parameters - pooler
    assert sum(buffer.numel() for buffer in net.buffers()) == COUNTS[net.dimension].buffers


def test_wrapped_states_are_read_too(state):
    expected = from_published(state).state_dict()
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    variants = {"prefix": prefixed, "wrapper": {"state_dict": state}, "both": {"state_dict": prefixed, "epoch": 400}}
    if "vit.layernorm.weight" in state:
        bare = {name: tensor for name, tensor in state.items() if "pooler" not in name}
        variants |= {"no pooler": bare, "newer": renamed(state), "newer, no pooler": None, "newer, prefix": None}
        variants["newer, no pooler"] = {k: v for k, v in variants["newer"].items() if "pooler" not in k}
        variants["newer, prefix"] = {f"module.{name}": tensor for name, tensor in variants["newer"].items()}
    for what, variant in variants.items():
        found = from_published(variant).state_dict()
        assert list(found) == list(expected), what
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()), what


TENSORS = [
    ("CF", "vit.embeddings.cls_token"),
    ("CF", "vit.embeddings.position_embeddings"),
    ("CF", "vit.embeddings.patch_embeddings.projection.weight"),
    ("CF", "vit.encoder.layer.0.attention.attention.query.weight"),
    ("CF", "vit.encoder.layer.5.attention.attention.key.bias"),
    ("CF", "vit.encoder.layer.11.attention.output.dense.weight"),
    ("CF", "vit.encoder.layer.11.layernorm_after.bias"),
    ("CF", "vit.layernorm.weight"),
    ("CF", "chroma_head.0.bias"),
    ("CF", "chroma_head.1.running_var"),
    ("CF", "regressor.4.weight"),
    ("SCC", "backbone.0.weight"),
    ("SCC", "backbone.6.0.downsample.1.running_mean"),
    ("SCC", "obj_encoder.2.bias"),
    ("SCC", "attention.0.weight"),
    ("PR", "naturalness_extractor.7.2.conv3.weight"),
    ("PR", "regressor.2.num_batches_tracked"),
    ("PR", "regressor.6.bias"),
]


@pytest.mark.parametrize(("dimension", "name"), TENSORS)
def test_a_missing_tensor_is_named(dimension, name):
    rest = {key: tensor for key, tensor in state_of(dimension).items() if key != name}
    with pytest.raises(ValueError, match=r"CF\.pth|SCC\.pth|PR\.pth") as caught:
        from_published(rest, f"{dimension}.pth")
    assert name in str(caught.value)


@pytest.mark.parametrize(("dimension", "name"), TENSORS)
def test_a_tensor_of_another_shape_is_named(dimension, name):
    state = state_of(dimension)
    longer = torch.zeros([size + 1 for size in state[name].shape] or [2], dtype=state[name].dtype)
    with pytest.raises(ValueError, match=r"shape") as caught:
        from_published(state | {name: longer})
    assert name in str(caught.value)
    assert str(tuple(longer.shape)) in str(caught.value)


def test_query_key_and_value_of_odd_shapes_are_not_taken_together():
    state = state_of("CF")
    front = "vit.encoder.layer.3.attention.attention"
    odd = {f"{front}.query.weight": torch.zeros(700, 768), f"{front}.key.weight": torch.zeros(836, 768)}
    with pytest.raises(ValueError, match=r"layer\.3\.attention\.attention\.(query|key)\.weight.*shape"):
        from_published(state | odd)


@pytest.mark.parametrize(
    ("dimension", "name"),
    [
        ("CF", "vit.encoder.layer.12.layernorm_before.weight"),
        ("CF", "vit.embeddings.mask_token"),
        ("CF", "regressor.7.weight"),
        ("SCC", "backbone.8.weight"),
        ("SCC", "attention.1.weight"),
        ("PR", "naturalness_extractor.8.weight"),
    ],
)
def test_an_unknown_tensor_is_named(dimension, name):
    with pytest.raises(ValueError, match=r"expected|unknown|absent") as caught:
        from_published(state_of(dimension) | {name: torch.zeros(768)})
    assert name.removesuffix("layernorm_before.weight") in str(caught.value)  # a thirteenth layer also lacks tensors


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        {"epoch": 4},
        {"weight": torch.zeros(3)},
        [torch.zeros(3)],
        torch.zeros(3),
        None,
        {"model": {"backbone.conv1.weight": torch.zeros(3)}, "config": {}, "metrics": {}},
        {"chroma_head.0.weight": torch.zeros(32, 2, 3, 3)},
        {"vit.embeddings.cls_token": torch.zeros(1, 1, 768)},
    ],
    ids=lambda content: type(content).__name__ if not isinstance(content, dict) else ", ".join(content) or "nothing",
)
def test_other_content_is_refused(content):
    with pytest.raises(ValueError, match=r"other\.pth"):
        from_published(content, "other.pth")


def test_states_of_two_dimensions_at_once_are_refused():
    with pytest.raises(ValueError, match="the state dict"):
        from_published(state_of("SCC") | state_of("PR"))


def test_names_of_both_spellings_at_once_are_refused():
    both = state_of("CF") | renamed(state_of("CF"))
    with pytest.raises(ValueError, match=r"unknown|expected"):
        from_published(both)


def test_unknown_settings_are_refused(scc):
    with pytest.raises(ValueError, match=r"spelling.*5\.9"):
        to_published(scc, "5.8")
    with pytest.raises(ValueError, match="attention"):
        from_published(state_of("SCC"), attention="both")
    with pytest.raises(ValueError, match="resize"):
        from_published(state_of("CF"), resize="nearest")


def test_objects_of_another_shape_are_refused(scc):
    with pytest.raises(ValueError, match=r"\(20, 773\).*\(19, 773\)"):
        scc.prepare(image(0), np.zeros((19, 773), np.float32))


@pytest.mark.parametrize("dimension", NETWORKS)
def test_reading_and_writing_leave_the_state_as_it_was(dimension):
    """Last of all, as it speaks of all that came before."""
    assert digest(state_of(dimension)) == FIGURES["weights"][dimension]["sha256"]
