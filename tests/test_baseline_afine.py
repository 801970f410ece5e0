"""A-FINE against its formulas, computed here a second time by loops, NumPy, SciPy and timm, and against its authors' file."""

import json
import math
import zipfile
from collections.abc import Callable
from itertools import combinations
from math import prod
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from scipy import stats
from scipy.special import expit
from torch import Tensor, nn

from baselines.afine import (
    ADAMW,
    STAGES,
    AFine,
    ImageTower,
    LogisticMap,
    batch_loss,
    learning_rate,
    pairwise_loss,
    preference,
    triplet_loss,
)

REPO = Path(__file__).resolve().parents[1]
MANIFEST = REPO.parent / "shared" / "specs" / "afine_state_dict.json"
SMALL = {"size": 32, "width": 24, "depth": 2, "heads": 3, "patch": 8, "table": 4, "projected": 8}
PUBLISHED = {"native": True, "position": "sequence", "exponent_limit": None}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def small(seed: int = 0, **config: object) -> AFine:
    torch.manual_seed(seed)
    return AFine(**(SMALL | config)).eval()


def images(count: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Noise over gentle color gradients, different in every image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 2, 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (0.7 * smooth + 0.3 * torch.rand(count, 3, height, width, generator=generator)).clamp(0, 1)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def curve(z: np.ndarray | float, center: float, width: float) -> np.ndarray | float:
    """The map of the article, as it is written there."""
    return (2 - -2) / (1 + np.exp(-(z - center) / (abs(width) + 1e-10))) + -2


# --- The authors' file


def layout(width: int = 768, depth: int = 12, patch: int = 32, table: int = 7, projected: int = 128) -> dict[str, dict]:
    """Shape of every tensor of the authors' file by group, from patterns written by hand; the network has no part in it."""

    def blocks(prefix: str, count: int, size: int) -> dict[str, tuple[int, ...]]:
        out: dict[str, tuple[int, ...]] = {}
        for number in range(count):
            name = f"{prefix}.resblocks.{number}"
            out |= {f"{name}.attn.in_proj_weight": (3 * size, size), f"{name}.attn.in_proj_bias": (3 * size,)}
            for layer, shape in {
                "attn.out_proj": (size, size),
                "ln_1": (size,),
                "mlp.c_fc": (4 * size, size),
                "mlp.c_proj": (size, 4 * size),
                "ln_2": (size,),
            }.items():
                out |= {f"{name}.{layer}.weight": shape, f"{name}.{layer}.bias": shape[:1]}
        return out

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

    clip = {"positional_embedding": (77, 512), "text_projection": (512, 512), "logit_scale": ()}
    clip |= {"visual.class_embedding": (width,), "visual.positional_embedding": (1 + table**2, width)}
    clip |= {"visual.proj": (width, 512), "visual.conv1.weight": (width, 3, patch, patch)}
    clip |= norm("visual.ln_pre", width) | blocks("visual.transformer", depth, width) | norm("visual.ln_post", width)
    clip |= blocks("transformer", 12, 512) | {"token_embedding.weight": (49408, 512)} | norm("ln_final", 512)
    constants = {"mean": (1, 3, 1, 1), "std": (1, 3, 1, 1)}
    natural = {"proj_feat.weight": (projected, 2 * width), "proj_feat.bias": (projected,)}
    natural |= {"proj_head.0.weight": (width, 6 + depth * projected), "proj_head.0.bias": (width,)}
    natural |= {"proj_head.2.weight": (1, width), "proj_head.2.bias": (1,)}
    channels = (1, 1, 3 + depth * width)
    scale = {"yita3": (), "yita4": ()}
    return {
        "finetuned_clip": clip,
        "natural": constants | natural,
        "fidelity": {"alpha": channels, "beta": channels} | constants,
        "natural_scale": scale,
        "fidelity_scale": scale,
        "adapter": {"k": ()},
    }


def official_state(seed: int = 1) -> dict[str, dict[str, Tensor]]:
    """Content of a file of the authors' form, for the small network."""
    generator = torch.Generator().manual_seed(seed)
    shapes = layout(SMALL["width"], SMALL["depth"], SMALL["patch"], SMALL["table"], SMALL["projected"])
    state = {}
    for group, named in shapes.items():
        if group == "finetuned_clip":  # of the text side, which is not read, a number each
            named = {name: shape if name.startswith("visual.") else (1,) for name, shape in named.items()}
        state[group] = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in named.items()}
        if "mean" in named:
            state[group] |= {"mean": torch.tensor(MEAN).view(1, 3, 1, 1), "std": torch.tensor(STD).view(1, 3, 1, 1)}
    return state


def shapes_of(state: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {group: {name: tuple(x.shape) for name, x in named.items()} for group, named in state.items()}


@pytest.mark.skipif(not MANIFEST.is_file(), reason="no list of the tensors of the authors' file here")
def test_the_layout_here_is_that_of_the_authors_file():
    manifest = json.loads(MANIFEST.read_text())
    assert layout() == {group: {name: tuple(shape) for name, shape in named.items()} for group, named in manifest.items()}


def test_the_published_file_holds_as_many_tensors_and_numbers_as_its_description_says():
    shapes = layout()
    assert {group: len(named) for group, named in shapes.items()} == {
        "finetuned_clip": 302,
        "natural": 8,
        "fidelity": 4,
        "natural_scale": 2,
        "fidelity_scale": 2,
        "adapter": 1,
    }
    numbers = {group: {name: prod(shape) for name, shape in named.items()} for group, named in shapes.items()}
    assert sum(numbers["finetuned_clip"].values()) == 151_277_313
    assert sum(n for name, n in numbers["finetuned_clip"].items() if name.startswith("visual.")) == 87_849_216
    assert sum(n for name, n in numbers["natural"].items() if name.startswith("proj")) == 1_382_529
    assert numbers["fidelity"]["alpha"] + numbers["fidelity"]["beta"] == 18_438


def test_the_full_network_accounts_for_every_tensor_of_the_authors_file_in_both_directions():
    shapes = layout()
    with torch.device("meta"):
        model = AFine()
        state = {group: {name: torch.empty(shape) for name, shape in named.items()} for group, named in shapes.items()}
    report = model.load_official(state)
    every = {f"{group}.{name}" for group, named in shapes.items() for name in named}
    assert set(report.loaded) | set(report.ignored) == every
    assert not set(report.loaded) & set(report.ignored)
    assert len(report.loaded) == 149 + 6 + 2 + 2 + 2 + 1
    reasons = list(report.ignored.values())
    assert reasons.count("of the text side") == 150
    assert reasons.count("after the last block that is read") == 3
    assert reasons.count("a constant equal to ours") == 4
    assert len(reasons) == 157
    assert shapes_of(model.to_official()) == shapes
    trained = sum(parameter.numel() for parameter in model.parameters())
    unread = 768 * 512 + 2 * 768
    assert trained == 87_849_216 - unread + 1_382_529 + 18_438 + 2 + 2 + 1


@pytest.mark.parametrize("outputs", [1, 3])
def test_weights_of_the_authors_come_back_bit_for_bit(outputs):
    state, model = official_state(), small(outputs=outputs)
    model.load_official(state)
    for output in range(outputs):
        given = model.to_official(output, others=state)
        assert shapes_of(given) == shapes_of(state)
        assert all(torch.equal(given[group][name], x) for group, named in state.items() for name, x in named.items())


def test_what_is_given_back_is_a_copy_with_zeros_for_what_no_score_depends_on():
    model = small()
    state = model.to_official()
    state["adapter"]["k"] += 1
    assert model.k.item() == 5
    assert state["finetuned_clip"]["visual.proj"].eq(0).all()
    assert state["finetuned_clip"]["token_embedding.weight"].eq(0).all()


def test_the_authors_weights_score_as_published_unless_told_otherwise():
    model, mended = small(), small()
    model.load_official(official_state())
    mended.load_official(official_state(), faithful=False)
    assert {key: model.config[key] for key in PUBLISHED} == PUBLISHED
    assert mended.config == small().config
    rebuilt = AFine(**model.config)
    rebuilt.load_state_dict(model.state_dict())
    x, y = images(2, 40, 56), images(2, 40, 56, seed=1)
    assert torch.equal(rebuilt(x, y), model(x, y))
    assert not torch.allclose(mended(x, y), model(x, y), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("adapter"), r"X\.pth: 1 of the 6 groups of A-FINE are absent \(adapter\), 0 are unknown"),
        (lambda s: s.update(extra={}), r"1 are unknown \(extra\)"),
        (
            lambda s: s["natural"].pop("proj_feat.bias"),
            r"X\.pth does not fit A-FINE, group natural: of 8 tensors 1 absent, e\.g\. proj_feat\.bias",
        ),
        (lambda s: s["adapter"].update(q=torch.zeros(())), r"group adapter: of 1 tensors 1 unknown, e\.g\. q"),
        (lambda s: s["natural"].update(k=torch.zeros(())), r"group natural: of 8 tensors 1 unknown, e\.g\. k"),
        (lambda s: s["fidelity"].update(alpha=torch.zeros(1, 1, 7)), r"alpha has \(1, 1, 7\), expected \(1, 1, 51\)"),
        (lambda s: s["fidelity_scale"].update(yita3=3.0), r"1 of another shape, e\.g\. yita3 has float, expected \(\)"),
        (lambda s: s["adapter"].update(k=3.0), r"X\.pth, group adapter holds no tensors by name"),
        (lambda s: s["natural"]["mean"].add_(0.1), r"tensor natural\.mean is \[0\.58.*expected \[0\.48"),
        (
            lambda s: s["finetuned_clip"].update({"visual.transformer.resblocks.2.ln_1.bias": torch.zeros(24)}),
            r"1 unknown, e\.g\. visual\.transformer\.resblocks\.2\.ln_1\.bias",
        ),
    ],
)
def test_a_file_that_is_not_theirs_is_refused_whole_and_says_why(change: Callable, said):
    state, model = official_state(), small()
    change(state)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        model.load_official(state, source="X.pth")
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert model.config["position"] == "grid"


def test_the_report_names_counts_and_reasons():
    loaded, text, late, constants = str(small().load_official(official_state(), source="afine.pth")).split("\n  ")
    assert loaded.startswith("42 tensors loaded from afine.pth: finetuned_clip.visual.class_embedding, ")
    assert text.startswith("150 ignored, of the text side: finetuned_clip.positional_embedding, ")
    assert "finetuned_clip.transformer.resblocks.*.attn.in_proj_weight (12), " in text
    assert late.startswith("3 ignored, after the last block that is read: finetuned_clip.visual.proj, finetuned_clip.visual.")
    assert constants == "4 ignored, a constant equal to ours: natural.mean, natural.std, fidelity.mean, fidelity.std"


# --- The tower


def timm_tower(model: AFine) -> nn.Module:
    """The same tower by timm, with the same weights, named by hand."""
    own = {name: x.clone() for name, x in model.tower.state_dict().items()}
    state = {"cls_token": own["class_embedding"].view(1, 1, -1), "pos_embed": own["positional_embedding"][None]}
    state |= {"patch_embed.proj.weight": own["conv1.weight"], "norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    for end in ("weight", "bias"):
        state[f"norm_pre.{end}"] = own[f"ln_pre.{end}"]
        for number in range(2):
            ours, theirs = f"transformer.resblocks.{number}", f"blocks.{number}"
            state[f"{theirs}.norm1.{end}"] = own[f"{ours}.ln_1.{end}"]
            state[f"{theirs}.norm2.{end}"] = own[f"{ours}.ln_2.{end}"]
            state[f"{theirs}.attn.qkv.{end}"] = own[f"{ours}.attn.in_proj_{end}"]
            state[f"{theirs}.attn.proj.{end}"] = own[f"{ours}.attn.out_proj.{end}"]
            state[f"{theirs}.mlp.fc1.{end}"] = own[f"{ours}.mlp.c_fc.{end}"]
            state[f"{theirs}.mlp.fc2.{end}"] = own[f"{ours}.mlp.c_proj.{end}"]
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "img_size": 32}
    net = timm.create_model("vit_base_patch32_clip_quickgelu_224", pretrained=False, num_classes=0, **sizes)
    net.load_state_dict(state)
    return net.eval()


def scrambled(model: AFine) -> AFine:
    """Biases and normalizations too, which start at 0 and 1."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.tower.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def normalized(rgb: Tensor) -> Tensor:
    return (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def test_the_tower_computes_what_timms_does_after_every_block():
    model = scrambled(small())
    net, outputs = timm_tower(model), []
    for block in net.blocks:
        block.register_forward_hook(lambda *step: outputs.append(step[2]))
    rgb = images()
    net.forward_features(normalized(rgb))
    levels = model.tower(normalized(rgb))
    assert len(levels) == len(outputs) == 2
    for level, output in zip(levels, outputs, strict=True):
        assert level.shape == (3, 16, 24)
        torch.testing.assert_close(level, output[:, 1:].clamp(min=0), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_is_that_of_torch():
    ours = scrambled(small()).tower.transformer["resblocks"][0].attn
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-5, rtol=1e-5)


def cubic_weights(before: int, after: int) -> np.ndarray:
    """Cubic convolution with a = -0.75, samples at the middle of their stretch, edges repeated: shape (after, before)."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    weights = np.zeros((after, before))
    for row in range(after):
        place = (row + 0.5) * before / after - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[row, min(max(tap, 0), before - 1)] += kernel(place - tap)
    return weights


@pytest.mark.parametrize("position", ["grid", "sequence"])
def test_the_position_table_is_as_it_stands_at_224_pixels(position):
    tower = ImageTower(6, 1, 1, 32, 7, position)
    assert torch.equal(tower.positions(224 // 32, 224 // 32), tower.positional_embedding)
    assert np.array_equal(cubic_weights(50, 50), np.eye(50))  # so would the published resizing leave it


@torch.no_grad()
def test_published_positions_are_the_rows_of_the_table_resized_as_one_sequence():
    tower = ImageTower(6, 1, 1, 32, 7, "sequence")
    expected = cubic_weights(50, 1 + 8 * 11) @ tower.positional_embedding.double().numpy()
    assert tower.positions(8, 11).numpy() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
def test_mended_positions_are_the_grid_resized_by_rows_and_columns_under_an_unchanged_class_row():
    tower = ImageTower(6, 1, 1, 32, 7, "grid")
    table = tower.positional_embedding.double().numpy()
    expected = np.einsum("ri,cj,ijw->rcw", cubic_weights(7, 5), cubic_weights(7, 11), table[1:].reshape(7, 7, 6))
    found = tower.positions(5, 11).numpy()
    assert found[0] == pytest.approx(table[0])
    assert found[1:] == pytest.approx(expected.reshape(55, 6), abs=2e-5)


@pytest.mark.parametrize(("position", "kept"), [("grid", True), ("sequence", False)])
@torch.no_grad()
def test_only_the_grid_keeps_what_rows_and_columns_mean_at_other_sizes(position, kept):
    tower = ImageTower(1, 1, 1, 32, 7, position)
    columns = torch.arange(7.0).expand(7, 7)
    tower.positional_embedding.copy_(torch.cat((torch.tensor([9.0]), columns.flatten()))[:, None])
    found = tower.positions(12, 12)
    rows = found[1:, 0].view(12, 12)
    assert torch.allclose(rows, rows[:1].expand(12, 12), atol=1e-5) == kept
    assert torch.allclose(found[0], torch.tensor([9.0])) == kept


# --- Statistics and heads


@torch.no_grad()
def test_moments_are_those_of_numpy_over_the_positions():
    model = scrambled(small())
    x, y = images(2), images(2, seed=1)
    moments = model.moments(x, y)
    a, b = ([p.flatten(2).transpose(1, 2), *model.tower(normalized(p))] for p in (x, y))
    assert {key: value.shape for key, value in moments.items()} == dict.fromkeys(moments, (2, 3 + 2 * 24))
    for image in range(2):
        start = 0
        for first, second in zip(a, b, strict=True):
            u, v = first[image].double().numpy(), second[image].double().numpy()
            at = slice(start, start + u.shape[1])
            start += u.shape[1]
            found = {key: value[image, at].numpy() for key, value in moments.items()}
            assert found["mean"] == pytest.approx(u.mean(0), abs=1e-5)
            assert found["reference_mean"] == pytest.approx(v.mean(0), abs=1e-5)
            assert found["variance"] == pytest.approx(u.var(0), abs=1e-5)
            assert found["reference_variance"] == pytest.approx(v.var(0), abs=1e-5)
            both = [np.cov(u[:, c], v[:, c], bias=True)[0, 1] for c in range(u.shape[1])]
            assert found["covariance"] == pytest.approx(both, abs=1e-5)
    assert model.moments(x).keys() == {"mean", "variance"}
    assert torch.allclose(model.moments(x)["variance"], moments["variance"], atol=1e-6)


def numbers(model: AFine, rgb: Tensor, reference: Tensor) -> dict[str, np.ndarray]:
    """Moments of a batch in double precision."""
    with torch.no_grad():
        return {key: value.double().numpy() for key, value in model.moments(rgb, reference).items()}


def naturalness_by_loops(model: AFine, mean: np.ndarray, variance: np.ndarray) -> list[float]:
    own = {name: x.double().numpy() for name, x in model.natural.state_dict().items()}
    out = []
    for m, v in zip(mean, variance, strict=True):
        features = [*m[:3], *v[:3]]
        for level in range(2):
            at = slice(3 + 24 * level, 3 + 24 * (level + 1))
            features += list(own["proj_feat.weight"] @ np.concatenate((m[at], v[at])) + own["proj_feat.bias"])
        hidden = own["proj_head.0.0.weight"] @ features + own["proj_head.0.0.bias"]
        hidden = hidden * stats.norm.cdf(hidden)
        out.append(float((own["proj_head.0.2.weight"] @ hidden + own["proj_head.0.2.bias"])[0]))
    return out


def fidelity_by_loops(model: AFine, m: dict[str, np.ndarray]) -> list[float]:
    raw = [getattr(model.fidelity, name).detach().double().numpy()[0] for name in ("alpha", "beta")]
    alpha, beta = (softplus(x) for x in raw)
    total = sum(alpha) + sum(beta) + 1e-10
    out = []
    for b in range(len(m["mean"])):
        likeness = 0.0
        for c in range(m["mean"].shape[1]):
            x, y = m["mean"][b, c], m["reference_mean"][b, c]
            first = (2 * x * y + 1e-10) / (x**2 + y**2 + 1e-10)
            spread = m["variance"][b, c] + m["reference_variance"][b, c]
            second = (2 * m["covariance"][b, c] + 1e-10) / (spread + 1e-10)
            likeness += (alpha[c] * first + beta[c] * second) / total
        out.append(1 - likeness)
    return out


def trained(seed: int = 0, **config: object) -> AFine:
    """A network whose naturalness differs from image to image, as after training."""
    model = scrambled(small(seed, **config))
    with torch.no_grad():
        for head in model.natural.proj_head:
            head[2].weight *= 30
        raw = model.raw_naturalness(model.moments(images(8, seed=5)))
        model.natural_map.center.copy_(raw.mean(0))
        model.natural_map.width.copy_(raw.std(0) / 2)
    return model


@torch.no_grad()
def test_every_score_follows_from_the_moments_as_the_article_says():
    model = trained()
    x, y = images(), images(seed=1)
    m, moments = numbers(model, x, y), model.moments(x, y)
    n = naturalness_by_loops(model, m["mean"], m["variance"])
    of_reference = naturalness_by_loops(model, m["reference_mean"], m["reference_variance"])
    raw = fidelity_by_loops(model, m)
    assert model.raw_naturalness(moments)[:, 0].tolist() == pytest.approx(n, abs=1e-4)
    assert model.raw_fidelity(moments)[:, 0].tolist() == pytest.approx(raw, abs=1e-6)
    natural, other = (
        curve(np.array(v), model.natural_map.center.item(), model.natural_map.width.item()) for v in (n, of_reference)
    )
    exponent = softplus(5.0) * (other - natural)
    assert exponent.max() > 0.5
    assert exponent.min() < -0.5
    distance = curve(np.array(raw), 0.5, 0.15) + np.exp(np.minimum(exponent, 3)) * natural
    assert model(x, y, stage=3)[:, 0].tolist() == pytest.approx(distance, abs=1e-3)
    hundred = 100 / (1 + np.exp(-(distance - -1.9710) / 2.3734))
    assert model(x, y)[:, 0].tolist() == pytest.approx(hundred, abs=1e-3)
    assert model(x, stage=1)[:, 0].tolist() == pytest.approx(n, abs=1e-4)
    assert model(x, y, stage=2)[:, 0].tolist() == pytest.approx(raw, abs=1e-6)
    model.set_full_reference(False)
    assert model(x)[:, 0].tolist() == pytest.approx(natural, abs=1e-4)
    assert model(model.moments(x)).equal(model(x))


def test_the_heads_start_as_published():
    model = AFine(**SMALL)
    for weights in (model.fidelity.alpha, model.fidelity.beta):
        assert weights.mean().item() == pytest.approx(0.1, abs=0.01)
        assert weights.std().item() == pytest.approx(0.01, rel=0.4)
    assert nn.functional.softplus(model.k).item() == pytest.approx(5.0067, abs=1e-4)
    assert (model.natural_map.center.item(), model.natural_map.width.item()) == pytest.approx((4.9592, 21.5968))


@torch.no_grad()
def test_the_fidelity_map_starts_with_the_published_values():
    found = AFine(**SMALL).fidelity_map(torch.tensor([[0.0], [0.5], [1.0]]))
    assert found[:, 0].tolist() == pytest.approx([-1.862, 0, 1.862], abs=5e-4)
    assert found[:, 0].tolist() == pytest.approx(4 * expit((np.array([0, 0.5, 1]) - 0.5) / 0.15) - 2, abs=1e-6)


@torch.no_grad()
def test_the_fidelity_map_keeps_its_parameters_within_bounds_and_the_naturalness_map_does_not():
    bounded, free = LogisticMap(1, 3.0, 9.0, (0.05, 0.95), (0.01, 0.70)), LogisticMap(1, 3.0, -2.0)
    z = torch.linspace(-3, 5, 9)[:, None]
    assert bounded(z)[:, 0].numpy() == pytest.approx(curve(z[:, 0].numpy(), 0.95, 0.70), abs=1e-5)
    assert free(z)[:, 0].numpy() == pytest.approx(curve(z[:, 0].numpy(), 3.0, 2.0), abs=1e-5)


def test_maps_take_a_batch_and_any_number():
    z = torch.tensor([[-1e30], [-20.0], [0.3], [20.0], [1e30]], requires_grad=True)
    found = LogisticMap(1, 0.5, 0.15)(z)
    found.sum().backward()
    assert found[:, 0].tolist() == pytest.approx([-2, -2, curve(0.3, 0.5, 0.15), 2, 2], abs=1e-6)
    assert z.grad.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_equal_images_have_fidelity_0(precision):
    rgb = images()
    rgb[1] = 0.5  # without any variation
    rgb[2] = 0.9 + 1e-4 * rgb[2]  # with hardly any
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        raw = scrambled(small())(rgb, rgb.clone(), stage=2)
    assert raw.abs().max() < 1e-6


@torch.no_grad()
def test_autocast_does_not_round_how_close_a_image_is_to_its_reference():
    model = small()
    rgb = images()
    moments = model.moments(rgb, (rgb + 0.01).clamp(0, 1))
    exact = model.raw_fidelity(moments)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.raw_fidelity(moments)
    assert 1e-5 < exact.min() < exact.max() < 0.1
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)


@torch.no_grad()
def test_exchanging_image_and_reference_changes_d_but_not_fidelity():
    model = trained()
    x, y = images(), images(seed=1)
    torch.testing.assert_close(model(x, y, stage=2), model(y, x, stage=2), atol=1e-6, rtol=0)
    assert (model(x, y) - model(y, x)).abs().min() > 0.1


@torch.no_grad()
def test_fidelity_can_exceed_1_and_its_map_takes_that():
    model = small()
    model.fidelity.alpha.fill_(-20)
    model.fidelity.beta[:, 3:] = -20  # the colors of the image alone
    rgb = images()
    raw = model(rgb, 1 - rgb, stage=2)
    assert raw[:, 0].tolist() == pytest.approx([2] * 3, abs=1e-3)
    assert (model.fidelity_map(raw) < 2).all()


@torch.no_grad()
def test_fidelity_is_blind_to_where_colors_are_but_not_to_their_mean():
    model = small()
    model.fidelity.alpha[:, 3:] = model.fidelity.beta[:, :] = -20
    rgb = images()
    assert model(rgb, rgb.flip(3), stage=2).abs().max() < 1e-3
    assert model(rgb, rgb * 0.5, stage=2).min() > 0.1


# --- What was wrong in the published code, and is not here


class Says(nn.Module):
    """In the place of a part of the network: gives these values, one a call, whatever it is asked."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = iter(values)

    def forward(self, z: Tensor) -> Tensor:
        return torch.full_like(z, next(self.values))


def distance_of(natural: float, of_reference: float, limit: float | None, k: float = 5.0) -> float:
    """D where N(x) and N(y) are known and F is 0."""
    model = small(exponent_limit=limit)
    model.natural_map, model.fidelity_map = Says(natural, of_reference), Says(0.0)
    with torch.no_grad():
        model.k.fill_(k)
        return model(images(1), images(1, seed=1), stage=3).item()


@pytest.mark.parametrize(("natural", "of_reference"), [(0.4, 0.1), (0.4, 0.9), (-1.5, -1.2), (1.9, -1.9)])
def test_d_is_the_published_one_wherever_the_exponent_is_below_its_limit(natural, of_reference):
    expected = math.exp(math.log1p(math.exp(5)) * (of_reference - natural)) * natural
    assert distance_of(natural, of_reference, 3.0) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert distance_of(natural, of_reference, None) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_exponent_has_a_limit_that_the_published_one_lacks():
    assert distance_of(-1.9, 1.9, None) == pytest.approx(-3.5e8, rel=0.02)
    assert distance_of(-1.9, 1.9, 3.0) == pytest.approx(-1.9 * math.exp(3), rel=1e-5)
    assert not math.isfinite(distance_of(-1.9, 1.9, None, k=40.0))
    assert math.isfinite(distance_of(-1.9, 1.9, 3.0, k=40.0))


def test_with_the_limit_the_scale_of_0_to_100_tells_the_best_apart():
    model = trained()
    with torch.no_grad():
        best = [100 * expit((distance_of(n, 1.9, 3.0) + 1.9710) / 2.3734) for n in (-1.99, -1.9, -1.8)]
    assert np.all(np.diff(best) > 1e-7)
    assert model.score_range == (0.0, 100.0)


@torch.no_grad()
def test_sizes_that_are_no_multiple_of_a_patch_are_enlarged_in_training_as_in_scoring():
    model = scrambled(small())
    rgb = images(2, 44, 29)
    enlarged = nn.functional.interpolate(rgb, (48, 32), mode="bicubic", align_corners=False)
    assert torch.equal(model.train()(rgb, stage=1), model.eval()(rgb, stage=1))
    torch.testing.assert_close(model(rgb, stage=1), model(enlarged, stage=1), atol=1e-5, rtol=1e-5)
    edited = rgb.clone()
    edited[:, :, 40:] = 1 - edited[:, :, 40:]  # rows that a convolution of stride 8 would drop
    seen = (model.moments(rgb)["mean"] - model.moments(edited)["mean"])[:, 3:]
    assert seen.abs().amax() > 1e-3


@torch.no_grad()
def test_a_reference_of_another_size_is_resized_and_the_image_is_not():
    model = trained()
    x, y = images(2, 32, 40), images(2, 64, 80, seed=1)
    shrunk = nn.functional.interpolate(y, (32, 40), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(model(x, y), model(x, shrunk))
    assert torch.equal(model.moments(x, y)["mean"], model.moments(x, shrunk)["mean"])


# --- With and without a reference


def test_d_is_refused_without_a_reference_and_naturalness_is_not():
    model, rgb = small(), images()
    for ask in (
        lambda: model(rgb),
        lambda: model(rgb, stage=2),
        lambda: model(rgb, stage=3),
        lambda: model(model.moments(rgb)),
    ):
        with pytest.raises(ValueError, match=r"there is none; give reference=.*set_full_reference\(False\)"):
            ask()
    model.set_full_reference(False)
    assert model.config["full_reference"] is False
    assert model.score_range == (-2.0, 2.0)
    assert model(rgb).shape == (3, 1)
    with pytest.raises(ValueError, match="naturalness alone and takes no reference"):
        model(rgb, rgb)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.rand(3, 32, 32), torch.rand(3, 32, 32)), r"images must have shape \(B, 3, H, W\), got \(3, 32, 32\)"),
        ((torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)), r"references must have shape"),
        ((torch.rand(2, 3, 32, 32), torch.rand(1, 3, 32, 32)), r"2 images but 1 references"),
    ],
)
def test_images_of_a_wrong_shape_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        small()(*arguments)


# --- Three scores, and rebuilding


# --- Images


@pytest.mark.parametrize("native", [False, True])
def test_a_image_is_prepared_the_same_from_levels_and_from_numbers(native):
    model = small(native=native)
    levels = (images(1, 50, 37)[0] * 255).round().to(torch.uint8)
    prepared = model.preprocess(levels)
    assert prepared.shape == ((3, 50, 37) if native else (3, 32, 32))
    assert prepared.dtype == torch.float32
    assert torch.equal(prepared, model.preprocess(levels))
    torch.testing.assert_close(model.preprocess(levels / 255), prepared, atol=1 / 254, rtol=0)
    if native:
        assert torch.equal((prepared * 255).round().to(torch.uint8), levels)


def test_training_views_turn_image_and_reference_alike_into_all_eight_positions():
    model = small()
    rgb = images(2)
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(80):
        state = generator.get_state()
        view, reference = model.augment(rgb[0], rgb[0].flip(0), generator)
        assert torch.equal(reference, view.flip(0))
        assert torch.equal(view.flatten(1).sort(1).values, model.preprocess(rgb[0]).flatten(1).sort(1).values)
        seen.add(view.numpy().tobytes())
        again, none = model.augment(rgb[0], generator=torch.Generator().set_state(state))
        assert torch.equal(again, view)
        assert none is None
    assert len(seen) == 8


# --- Losses


def loss_of(u1: float, u2: float, label: float) -> float:
    p = stats.norm.cdf((u2 - u1) / math.sqrt(2))
    return 1 - math.sqrt(p * label + 1e-8) - math.sqrt((1 - p) * (1 - label) + 1e-8)


def test_the_pairwise_loss_is_that_of_the_article():
    cases = [(0.3, -0.2, 1.0), (0.3, -0.2, 0.5), (0.3, -0.2, 0.0), (-2.0, 1.5, 0.8), (1.0, 1.0, 0.3)]
    first, second, label = torch.tensor(cases, dtype=torch.float64).T
    expected = np.mean([loss_of(*case) for case in cases])
    assert pairwise_loss(first, second, label).item() == pytest.approx(expected, abs=1e-12)
    sure = [
        pairwise_loss(*torch.tensor(case)[:, None]).item() for case in ((-9.0, 9.0, 1.0), (9.0, -9.0, 1.0), (0.0, 0.0, 0.5))
    ]
    assert sure == pytest.approx([0, 1, 0], abs=3e-4)


def test_the_pairwise_loss_has_finite_gradients_however_wrong_a_pair_is():
    first = torch.tensor([-500.0, -20.0, 0.0, 20.0, 500.0], requires_grad=True)
    for label in (0.0, 0.5, 1.0):
        first.grad = None
        pairwise_loss(first, torch.zeros(5), torch.full((5,), label)).backward()
        assert first.grad.isfinite().all()
    assert first.grad[3] > 0  # lower is better, and the first should have been


def test_a_reference_that_was_not_rated_is_left_out_rather_than_taken_to_be_best():
    x1, x2, y = (torch.tensor(v, requires_grad=True) for v in ([[0.2], [0.4]], [[0.1], [-0.3]], [[0.5], [0.6]]))
    unrated = torch.tensor([[1.0, torch.nan, torch.nan], [0.0, 0.0, torch.nan]])
    loss = triplet_loss(x1, x2, unrated, y)
    expected = (loss_of(0.2, 0.1, 1) + loss_of(0.4, -0.3, 0)) / 2 + loss_of(0.4, 0.6, 0) + 0
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert y.grad[0] == 0
    assert y.grad[1] != 0
    assert x1.grad.isfinite().all()
    published = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert triplet_loss(x1, x2, published, y) > loss + 0.1


def test_the_triplet_loss_is_of_one_pair_without_what_references_are_ranked_by_and_of_three_with():
    generator = torch.Generator().manual_seed(0)
    x1, x2, y = torch.randn(3, 4, 2, generator=generator)
    labels = torch.rand(4, 3, 2, generator=generator)
    parts = [pairwise_loss(a, b, labels[:, k]) for k, (a, b) in enumerate(((x1, x2), (x1, y), (x2, y)))]
    torch.testing.assert_close(triplet_loss(x1, x2, labels), parts[0])
    torch.testing.assert_close(triplet_loss(x1, x2, labels, y), sum(parts))
    same = labels[..., :1].expand(4, 3, 2)
    torch.testing.assert_close(triplet_loss(x1, x2, labels[..., 0], y), triplet_loss(x1, x2, same, y))


def test_preferences_are_hard_without_and_soft_with_known_noise():
    mos, other = torch.tensor([0.5, -0.2, 0.1, 0.35, torch.nan]), torch.tensor([0.1, 0.3, 0.1, 0.3, 0.0])
    assert preference(mos, other).tolist() == pytest.approx([1, 0, 0.5, 1, math.nan], nan_ok=True)
    assert preference(mos, other, tie=0.1).tolist() == pytest.approx([1, 0, 0.5, 0.5, math.nan], nan_ok=True)
    soft = preference(mos, other, torch.tensor([0.04, 0.09, 0.04, 0.0, 0.04]))
    expected = [stats.norm.cdf(0.4 / 0.2), stats.norm.cdf(-0.5 / 0.3), 0.5, 1, math.nan]
    assert soft.tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("scenes", [None, [0, 1, 0, 1, 0]])
def test_the_loss_of_a_batch_is_the_mean_over_its_pairs(scenes):
    generator = torch.Generator().manual_seed(0)
    pred, mos = torch.randn(2, 5, 2, generator=generator)
    variance = torch.rand(5, 2, generator=generator) * 0.1
    mos[3, 1] = torch.nan
    losses = []
    for i, j in combinations(range(5), 2):
        for k in range(2):
            if (scenes is None or scenes[i] == scenes[j]) and not (mos[[i, j], k].isnan().any()):
                label = stats.norm.cdf((mos[i, k] - mos[j, k]) / math.sqrt(variance[i, k] + variance[j, k]))
                losses.append(loss_of(pred[i, k].item(), pred[j, k].item(), label))
    found = batch_loss(pred, mos, variance, None if scenes is None else torch.tensor(scenes))
    assert found.item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_batch_without_any_pair_has_loss_0_and_a_gradient():
    pred = torch.randn(3, 1, requires_grad=True)
    loss = batch_loss(pred, torch.rand(3, 1), group=torch.arange(3))
    loss.backward()
    assert loss == 0
    assert pred.grad.eq(0).all()


def test_the_learning_rate_is_a_cosine_with_three_restarts_at_half_the_height():
    scheduled = []
    for height in (1.0, 0.5):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], height * (5e-6 - 1e-8) + 1e-8)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000, eta_min=1e-8)
        scheduled.append({})
        for step in range(10_000):
            scheduled[-1][step] = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
    for cycle in range(4):
        for step in (0, 1, 2500, 9999):
            expected = scheduled[min(cycle, 1)][step]
            assert learning_rate(10_000 * cycle + step, 40_000, 5e-6) == pytest.approx(expected, rel=1e-6)
    assert learning_rate(25, 100, 1e-3) == pytest.approx(5e-4, rel=1e-3)
    assert learning_rate(100, 100, 1e-3) == pytest.approx(1e-8)


# --- Training


def test_each_stage_trains_its_own_part_and_the_parts_are_the_network():
    model = small()
    counts = {stage: sum(p.numel() for p in model.set_stage(stage)) for stage in STAGES}
    assert counts == {
        1: sum(p.numel() for part in (model.tower, model.natural) for p in part.parameters()),
        2: 2 * (3 + 2 * 24),
        3: 5,
    }
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert [tuple(stage) for stage in STAGES.values()] == [(5e-6, 32), (5e-4, 128), (1e-3, 128)]
    with pytest.raises(ValueError, match="stage must be one of 1, 2, 3, got 4"):
        model.set_stage(4)
    with pytest.raises(ValueError, match="stage must be one of 1, 2, 3 or None, got 4"):
        model(images(), stage=4)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_stage_lowers_its_loss_and_changes_nothing_else(stage, outputs):
    model = trained(outputs=outputs)
    rgb = images(12, seed=3)
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 0.5, 0], [0.5, torch.nan, torch.nan]])
    own = {id(p) for p in model.set_stage(stage)}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.set_stage(stage), 3e-3 if stage == 1 else 3e-2, **ADAMW)
    losses = []
    for _ in range(15):
        if stage == 1:
            ranked = model(rgb, stage=1)
            loss = triplet_loss(ranked[:4], ranked[4:8], labels, ranked[8:])
        else:
            ranked = model(rgb[:8], rgb[8:].repeat(2, 1, 1, 1), stage=stage)
            loss = triplet_loss(ranked[:4], ranked[4:], labels)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        for name, parameter in model.named_parameters():
            if id(parameter) in own:
                assert parameter.grad.isfinite().all(), name
            else:
                assert parameter.grad is None, name
        optimizer.step()
    assert losses[-1] < losses[0] - 1e-4
    for name, parameter in model.named_parameters():
        assert id(parameter) in own or torch.equal(parameter, before[name]), name
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) == len(own)


def test_stages_2_and_3_can_train_on_moments_that_were_kept():
    model = trained()
    x, y = images(4), images(4, seed=1)
    for stage in (2, 3):
        model.set_stage(stage)
        moments = model.moments(x, y)
        assert not any(value.requires_grad for value in moments.values())
        assert torch.equal(model(moments, stage=stage), model(x, y, stage=stage))
        model(moments, stage=stage).sum().backward()
    assert model.k.grad is not None


def test_the_three_stages_one_after_another_learn_to_rank_distorted_images_by_d():
    model = small(3)
    reference = images(4, seed=5).repeat_interleave(4, 0)
    scene = torch.arange(4).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    strength = torch.stack([torch.randperm(4, generator=generator) for _ in range(4)]).flatten() / 4 + scene / 20
    rgb = reference + strength.view(16, 1, 1, 1) * (images(16, seed=4) - reference)
    mos = (1 - 2 * strength)[:, None]
    for stage, (rate, steps) in {1: (3e-3, 60), 2: (3e-2, 60), 3: (3e-2, 60)}.items():
        optimizer = torch.optim.AdamW(model.set_stage(stage), rate, **ADAMW)
        inputs = rgb if stage == 1 else model.moments(rgb, reference)
        for _ in range(steps):
            optimizer.zero_grad()
            batch_loss(model(inputs, stage=stage), mos, group=None if stage == 1 else scene).backward()
            optimizer.step()
        if stage == 1:
            model.fit_naturalness_map(model(rgb, stage=1), mos)
    with torch.no_grad():
        scores = model(rgb, reference)[:, 0]
    within = [stats.spearmanr(-scores[scene == k], mos[scene == k, 0]).statistic for k in range(4)]
    assert min(within) >= 0.95
    assert 0 <= scores.min() < scores.max() <= 100


def test_the_naturalness_map_is_fitted_to_ratings_by_least_squares():
    model = small(outputs=2)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(60, 2, generator=generator) * torch.tensor([3.0, 0.2]) + torch.tensor([5.0, -1.0])
    target = np.stack([curve(raw[:, 0].numpy(), 4.5, 2.0), curve(raw[:, 1].numpy(), -1.1, 0.1)], 1)
    mos = torch.tensor(target / -2, dtype=torch.float32)
    mos[::7, 1] = torch.nan
    model.fit_naturalness_map(raw, mos)
    assert model.natural_map.center.tolist() == pytest.approx([4.5, -1.1], abs=1e-3)
    assert model.natural_map.width.tolist() == pytest.approx([2.0, 0.1], abs=1e-3)
    with pytest.raises(ValueError, match=r"raw and mos must have shape \(N, 2\)"):
        model.fit_naturalness_map(raw[:, :1], mos[:, :1])
    with pytest.raises(ValueError, match=r"output 0: 2 rated images; the map needs 3 or more"):
        model.fit_naturalness_map(raw[:2], mos[:2])


# --- Start weights


def transformers_names(model: AFine) -> dict[str, Tensor]:
    """The tower as transformers would save it, and a little of what it saves beside it."""
    own = {name: x.clone() for name, x in model.tower.state_dict().items()}
    state = {
        "logit_scale": torch.zeros(()),
        "text_model.embeddings.token_embedding.weight": torch.zeros(3, 2),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2),
        "text_projection.weight": torch.zeros(2, 2),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "vision_model.post_layernorm.weight": torch.ones(24),
        "visual_projection.weight": torch.zeros(8, 24),
        "vision_model.embeddings.class_embedding": own["class_embedding"],
        "vision_model.embeddings.position_embedding.weight": own["positional_embedding"],
        "vision_model.embeddings.patch_embedding.weight": own["conv1.weight"],
    }
    for end in ("weight", "bias"):
        state[f"vision_model.pre_layrnorm.{end}"] = own[f"ln_pre.{end}"]
        for number in range(2):
            ours, theirs = f"transformer.resblocks.{number}", f"vision_model.encoder.layers.{number}"
            for letter, part in zip("qkv", own[f"{ours}.attn.in_proj_{end}"].chunk(3), strict=True):
                state[f"{theirs}.self_attn.{letter}_proj.{end}"] = part.clone()
            state[f"{theirs}.self_attn.out_proj.{end}"] = own[f"{ours}.attn.out_proj.{end}"]
            for k in (1, 2):
                state[f"{theirs}.layer_norm{k}.{end}"] = own[f"{ours}.ln_{k}.{end}"]
                state[f"{theirs}.mlp.fc{k}.{end}"] = own[f"{ours}.mlp.{'c_fc' if k == 1 else 'c_proj'}.{end}"]
    return state


SPELLINGS: dict[str, Callable[[AFine], dict]] = {
    "openai": lambda model: model.to_official()["finetuned_clip"],
    "image side alone": lambda model: model.tower.state_dict(),
    "timm": lambda model: timm_tower(model).state_dict(),
    "transformers": transformers_names,
    "our own": lambda model: {"model": model.state_dict()},
    "authors": lambda model: model.to_official(),
    "DataParallel": lambda model: {f"module.visual.{k}": v for k, v in model.tower.state_dict().items()},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_start_weights_are_read_in_every_spelling(spelling):
    source, model = scrambled(small()), small(1)
    state = SPELLINGS[spelling](source)
    head = model.natural.proj_feat.weight.clone()
    report = model.load_backbone(state)
    for name, x in source.tower.state_dict().items():
        assert torch.equal(model.tower.state_dict()[name], x), name
    assert torch.equal(model.natural.proj_feat.weight, head)
    assert len(report.loaded) == len(source.tower.state_dict()) == 29
    assert {f"tower.{name}" for name in source.tower.state_dict()} | set(report.fresh) == model.state_dict().keys()
    assert len(report.fresh) == len(model.state_dict()) - 29
    if spelling == "openai":
        assert len(report.loaded) + len(report.ignored) == len(state)
        assert "150 ignored, of the text side: " in str(report)
    if spelling == "our own":
        assert set(report.ignored.values()) == {"of the heads and maps"}
        assert len(report.ignored) == len(source.state_dict()) - 29


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_start_weights_are_read_from_files_of_either_kind(tmp_path, suffix):
    source, model = scrambled(small()), small(1)
    path, state = tmp_path / f"clip{suffix}", transformers_names(source)
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    line = str(model.load_backbone(path))
    assert line.startswith(f"29 tensors loaded from {path}: ")
    assert "\n  4 ignored, of the text side: " in line
    assert torch.equal(model.tower.conv1.weight, source.tower.conv1.weight)


class Archived(nn.Module):
    """The form of OpenAI's archive: the image side in half precision, settings as tensors, something of the text side."""

    def __init__(self, tower: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("input_resolution", torch.tensor(32))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.visual = self._tree({name: x.half() for name, x in tower.items()})

    def _tree(self, named: dict[str, Tensor]) -> nn.Module:
        part = nn.Module()
        for name, x in named.items():
            if "." not in name:
                part.register_parameter(name, nn.Parameter(x))
        for head in {name.split(".")[0] for name in named if "." in name}:
            below = {name.removeprefix(f"{head}."): x for name, x in named.items() if name.startswith(f"{head}.")}
            part.add_module(head, self._tree(below))
        return part

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logit_scale


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_archive_is_read_without_running_its_code(tmp_path):
    source, model = scrambled(small()), small(1)
    torch.jit.save(torch.jit.trace(Archived(source.tower.state_dict()), torch.zeros(1)), tmp_path / "ViT-B-32.pt")
    report = model.load_backbone(tmp_path / "ViT-B-32.pt")
    assert len(report.loaded) == 29
    assert report.ignored == {"logit_scale": "of the text side", "input_resolution": "no weight"}
    for name, x in source.tower.state_dict().items():
        found = model.tower.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, x.half().float()), name


def test_an_archive_that_was_cut_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "cut.pt", "w") as archive:
        archive.writestr("cut/constants.pkl", b"")
        archive.writestr("cut/data.pkl", b"\x80\x02")
    with pytest.raises(ValueError, match=r"cut\.pt: damaged TorchScript archive \(EOFError\); fetch it again"):
        small().load_backbone(tmp_path / "cut.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("visual.conv1.weight"), r"of 29 tensors 1 absent, e\.g\. visual\.conv1\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown, e\.g\. extra"),
        (
            lambda s: s.update({"visual.positional_embedding": torch.zeros(50, 24)}),
            r"not fit .* CLIP ViT-B/32: .* visual\.positional_embedding has \(50, 24\), expected \(17, 24\)",
        ),
        (
            lambda s: s.update({"visual.transformer.resblocks.2.ln_1.bias": torch.zeros(24)}),
            r"1 unknown, e\.g\. visual\.transformer\.resblocks\.2",
        ),
    ],
)
def test_start_weights_of_another_network_are_refused(change, said):
    model = small()
    state = {f"visual.{name}": x for name, x in model.tower.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=said):
        model.load_backbone(state)


def test_start_weights_of_transformers_without_one_of_queries_keys_and_values_are_refused():
    state = transformers_names(small())
    del state["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"1 absent, e\.g\. visual\.transformer\.resblocks\.1\.attn\.in_proj_bias"):
        small().load_backbone(state)
