"""The Delegate Transformer against a restatement from its description, timm's Swin, SciPy's sampling, and hand counts."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from baselines.delegate_transformer import (
    DeformableAttention,
    DelegateTransformer,
    PlaceMap,
    SoftHistogram,
    WindowAttention,
    mos_of,
    resize_position_table,
    shift_mask,
    target_of,
    training_loss,
)

SPECS = Path(__file__).resolve().parents[2] / "shared" / "specs"  # lists of the official tensors, where they are at hand
EDITIONS = {  # entries of the official state dict and trained parameters of the official network
    "ICAA17K": ("delegate_transformer_state_dict.json", 487, 86_912_997),
    "SPAQ": ("delegate_transformer_spaq_state_dict.json", 465, 86_907_138),
}
BASE = {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "groups": (4, 8), "window": 7}
SMALL = {"width": 16, "depths": (2, 2, 4, 2), "heads": (1, 2, 4, 8), "groups": (2, 4), "window": 3}
TINY = {"size": 64, "width": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "groups": (2, 4), "window": 2}
OFFICIAL_MODES = {"reference_mode": "batch_mean", "histogram": "official"}

Layout = dict[str, tuple[int, ...]]


# --- The official state dicts, grown from patterns


def layer(name: str, *shape: int) -> Layout:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def layout(
    edition: str, width: int, depths: tuple[int, ...], heads: tuple[int, ...], groups: tuple[int, ...], window: int
) -> Layout:
    """Name and shape of each tensor of an official state dict, in its order; written by hand from the description."""
    places = window**2
    found = layer("patch_proj.0", width, 3, 4, 4) | layer("patch_proj.1.norm", width)
    for i, depth in enumerate(depths):
        c, h, side = width << i, heads[i], 8 * window >> i
        for j in range(2 * depth):
            found |= layer(f"stages.{i}.layer_norms.{j}.norm", c)
        for j in range(depth):
            place = f"stages.{i}.mlps.{j}.chunk"
            found |= layer(f"{place}.linear1", 4 * c, c) | layer(f"{place}.linear2", c, 4 * c)
        for j in range(depth):
            place = f"stages.{i}.attns.{j}"
            if i < 2 or j % 2 == 0:
                found[f"{place}.relative_position_bias_table"] = ((2 * window - 1) ** 2, h)
                found[f"{place}.relative_position_index"] = (places, places)
                if j % 2:
                    found[f"{place}.attn_mask"] = ((side // window) ** 2, places, places)
                found |= layer(f"{place}.proj_qkv", 3 * c, c) | layer(f"{place}.proj_out", c, c)
                continue
            each, kernel = c // groups[i - 2], (5, 3)[i - 2]
            found[f"{place}.rpe_table"] = (h, 2 * side - 1, 2 * side - 1)
            found |= layer(f"{place}.conv_offset.0", each, 1, kernel, kernel) | layer(f"{place}.conv_offset.1.norm", each)
            found[f"{place}.conv_offset.3.weight"] = (2, each, 1, 1)
            for name in ("proj_q", "proj_k", "proj_v", "proj_out"):
                found |= layer(f"{place}.{name}", c, c, 1, 1)
            found |= layer(f"{place}.ref_point14", 2, c, 1, 1)
            if edition == "ICAA17K":
                found |= layer(f"{place}.ref_gate", 1, c, 1, 1)
    for i in range(3):
        found[f"down_projs.{i}.0.weight"] = (2 * width << i, width << i, 2, 2)
        found |= layer(f"down_projs.{i}.1.norm", 2 * width << i)
    c = width << 3
    found |= layer("cls_norm.norm", c) | layer("cls_head", 1, c) | layer("hst_head", 36, c)
    found |= {"hist_feature.centers": (216,), "hist_feature.widths": (216, 1, 1)}
    found |= layer("hist_feature.bin_centers_conv", 216, 1, 1) | layer("hist_feature.bin_widths_conv", 216, 1, 1)
    found |= layer("class_head", 1, 216)
    return found | layer("class_head2", 1, 216) if edition == "ICAA17K" else found


def swin_index(window: int) -> Tensor:
    """Row of the bias table for each pair of places, as Swin counts: by rows of the difference, then by columns."""
    places = [(y, x) for y in range(window) for x in range(window)]
    pairs = [[(a - c + window - 1) * (2 * window - 1) + b - d + window - 1 for c, d in places] for a, b in places]
    return torch.tensor(pairs)


def sliced_mask(side: int, window: int) -> Tensor:
    """The mask of a shifted map, by numbering its nine regions one after the other."""
    regions, number, shift = torch.zeros(side, side), 0, math.ceil(window / 2)
    for rows in (slice(0, -window), slice(-window, -shift), slice(-shift, None)):
        for columns in (slice(0, -window), slice(-window, -shift), slice(-shift, None)):
            regions[rows, columns] = number
            number += 1
    windows = [
        regions[y : y + window, x : x + window].flatten() for y in range(0, side, window) for x in range(0, side, window)
    ]
    return torch.stack([torch.where(r[:, None] == r[None], 0.0, -100.0) for r in windows])


def official_state(edition: str, **architecture) -> dict[str, Tensor]:
    """An official state dict with random weights, large enough for each part to show in the score."""
    generator = torch.Generator().manual_seed(7)
    window, state = architecture["window"], {}
    for name, shape in layout(edition, **architecture).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("relative_position_index"):
            state[name] = swin_index(window)
        elif name.endswith("attn_mask"):
            state[name] = sliced_mask(window * math.isqrt(shape[0]), window)
        elif "hist_feature" in name:  # frozen ones, bins near where they start, and a shared tensor
            bins = (torch.arange(216) % 6 + 0.5) / 6
            state[name] = {
                "centers": noise,
                "bin_centers_conv.weight": torch.ones(shape),
                "bin_centers_conv.bias": -bins + 0.02 * noise,
                "bin_widths_conv.weight": -12 + 0.5 * noise,
                "bin_widths_conv.bias": torch.ones(shape),
                "widths": torch.zeros(shape),
            }[name.removeprefix("hist_feature.")]
        elif ".norm." in name:
            state[name] = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        elif name.endswith("table"):
            state[name] = 0.5 * noise
        elif name.startswith("class_head") and name.endswith("weight"):
            state[name] = 0.3 * noise
        elif name.endswith("weight"):
            state[name] = noise * math.prod(shape[1:]) ** -0.5
        else:
            state[name] = 0.5 + 0.1 * noise if name == "hst_head.bias" else 0.1 * noise
    state["hist_feature.widths"] = state["hist_feature.bin_widths_conv.weight"]
    return state


@pytest.fixture(scope="module", params=EDITIONS)
def edition(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def state(edition) -> dict[str, Tensor]:
    return official_state(edition, **SMALL)


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random images, sRGB in [0, 1], shape (count, 3, size, size)."""
    blobs = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(blobs, (size, size), mode="bilinear", align_corners=True)


def loaded(state: dict[str, Tensor], **settings) -> DelegateTransformer:
    model = DelegateTransformer(**{"size": 96, **SMALL, **settings})
    with pytest.warns(UserWarning, match="mean over the batch"):
        model.load_official(state)
    return model.eval()


# --- Restatement: attention over all places at once, sampling by SciPy


def channel_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    scaled = (x - mean) / (var + 1e-5).sqrt()
    return scaled * state[f"{name}.norm.weight"][:, None, None] + state[f"{name}.norm.bias"][:, None, None]


def restated_windows(x: Tensor, state: dict[str, Tensor], name: str, heads: int, window: int, shifted: bool) -> Tensor:
    """Attention of every place to every place, where those of other windows and across the border are shut out."""
    b, c, side, _ = x.shape
    shift = math.ceil(window / 2) if shifted else 0
    y, x_ = (t.flatten() for t in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    moved_y, moved_x = (y - shift) % side, (x_ - shift) % side
    group = torch.stack((moved_y // window, moved_x // window, y < shift, x_ < shift))
    seen = (group[:, :, None] == group[:, None]).all(0)
    dy, dx = moved_y[:, None] - moved_y[None], moved_x[:, None] - moved_x[None]
    row = ((dy + window - 1) * (2 * window - 1) + dx + window - 1).clamp(0, (2 * window - 1) ** 2 - 1)
    bias = state[f"{name}.relative_position_bias_table"][row].permute(2, 0, 1)
    tokens = x.flatten(2).transpose(1, 2)
    qkv = tokens @ state[f"{name}.proj_qkv.weight"].T + state[f"{name}.proj_qkv.bias"]
    q, k, v = (t.reshape(b, -1, heads, c // heads).transpose(1, 2) for t in qkv.split(c, 2))
    logits = (q @ k.transpose(2, 3) / math.sqrt(c // heads) + bias).masked_fill(~seen, -math.inf)
    mixed = (logits.softmax(3) @ v).transpose(1, 2).reshape(b, -1, c)
    out = mixed @ state[f"{name}.proj_out.weight"].T + state[f"{name}.proj_out.bias"]
    return out.transpose(1, 2).reshape(x.shape)


def sample(plane: Tensor, y: np.ndarray, x: np.ndarray) -> Tensor:
    """Bilinear samples where -1 and 1 are the centers of the outermost places, zero outside."""
    height, width = plane.shape
    where = [(y + 1) / 2 * (height - 1), (x + 1) / 2 * (width - 1)]
    return torch.from_numpy(map_coordinates(plane.double().numpy(), where, order=1, mode="grid-constant", cval=0.0)).float()


def restated_deformable(x: Tensor, state: dict[str, Tensor], name: str, heads: int, groups: int) -> Tensor:
    """One image, group, head and sample plane at a time, with reference points and gate as means over the batch."""

    def conv(t: Tensor, layer: str, **how) -> Tensor:
        return F.conv2d(t, state[f"{name}.{layer}.weight"], state.get(f"{name}.{layer}.bias"), **how)

    b, c, side, _ = x.shape
    each, per_group, d = c // groups, heads // groups, c // heads
    q = conv(x, "proj_q")
    reference = torch.tanh(conv(x, "ref_point14").mean(0))
    gate = torch.ones(1, side, side)
    if f"{name}.ref_gate.weight" in state:
        gate = (conv(x, "ref_gate").mean(0) < 0).float()
    centers = (np.arange(side) + 0.5) / side * 2 - 1
    out = torch.zeros_like(x)
    for n in range(b):
        sampled, positions = torch.zeros(c, side, side), []
        for g in range(groups):
            channels = slice(g * each, (g + 1) * each)
            kernel = state[f"{name}.conv_offset.0.weight"].shape[-1]
            offset = conv(q[n : n + 1, channels], "conv_offset.0", padding=kernel // 2, groups=each)
            offset = F.gelu(channel_norm(offset, state, f"{name}.conv_offset.1"))
            offset = 2 * torch.tanh(conv(offset, "conv_offset.3")[0]) / side
            both_agree = (offset[0] * reference[0] > 0) & (offset[1] * reference[1] > 0)
            position = ((torch.where(both_agree, 1.0, 0.25) * offset + reference) * gate).double().numpy()
            positions.append(position)
            for channel in range(g * each, (g + 1) * each):
                sampled[channel] = sample(x[n, channel], position[0], position[1])
        k, v = (conv(sampled[None], layer)[0].flatten(1) for layer in ("proj_k", "proj_v"))
        mixed = torch.zeros(c, side * side)
        for h in range(heads):
            channels = slice(h * d, (h + 1) * d)
            to_y, to_x = positions[h // per_group].reshape(2, -1)
            from_y, from_x = np.repeat(centers, side), np.tile(centers, side)
            table = state[f"{name}.rpe_table"][h]
            bias = sample(table, (from_y[:, None] - to_y[None]) / 2, (from_x[:, None] - to_x[None]) / 2)
            logits = q[n, channels].flatten(1).T @ k[channels] / math.sqrt(d) + bias
            mixed[channels] = (logits.softmax(1) @ v[channels].T).T
        out[n] = conv(mixed.reshape(1, c, side, side), "proj_out")[0]
    return out


def restated(
    rgb: Tensor, state: dict[str, Tensor], depths: tuple, heads: tuple, groups: tuple, window: int, **_: object
) -> Tensor:
    """The scores of the official code, from its state dict, shape (B, 1 or 2)."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (rgb - mean[:, None, None]) / std[:, None, None]
    x = F.conv2d(x, state["patch_proj.0.weight"], state["patch_proj.0.bias"], stride=4)
    x = channel_norm(x, state, "patch_proj.1")
    for i, depth in enumerate(depths):
        for j in range(depth):
            name = f"stages.{i}.attns.{j}"
            normed = channel_norm(x, state, f"stages.{i}.layer_norms.{2 * j}")
            if i >= 2 and j % 2:
                x = x + restated_deformable(normed, state, name, heads[i], groups[i - 2])
            else:
                x = x + restated_windows(normed, state, name, heads[i], window, shifted=j % 2 == 1)
            normed = channel_norm(x, state, f"stages.{i}.layer_norms.{2 * j + 1}").permute(0, 2, 3, 1)
            mlp = f"stages.{i}.mlps.{j}.chunk"
            hidden = F.gelu(normed @ state[f"{mlp}.linear1.weight"].T + state[f"{mlp}.linear1.bias"])
            x = x + (hidden @ state[f"{mlp}.linear2.weight"].T + state[f"{mlp}.linear2.bias"]).permute(0, 3, 1, 2)
        if i < 3:
            x = channel_norm(F.conv2d(x, state[f"down_projs.{i}.0.weight"], stride=2), state, f"down_projs.{i}.1")
    pooled = channel_norm(x, state, "cls_norm").flatten(2).mean(2)
    z = pooled @ state["hst_head.weight"].T + state["hst_head.bias"]
    shift, slope = state["hist_feature.bin_centers_conv.bias"], state["hist_feature.bin_widths_conv.weight"].flatten()
    bins = torch.stack([(1 + slope[n] * (z[:, n // 6] + shift[n]).abs()).clamp(min=0) for n in range(216)], 1)
    heads_ = [name for name in ("class_head", "class_head2") if f"{name}.weight" in state]
    return torch.cat([torch.sigmoid(bins @ state[f"{name}.weight"].T + state[f"{name}.bias"]) for name in heads_], 1)


def test_scores_of_official_weights_are_those_of_the_restatement(state, edition):
    model = loaded(state, outputs=2 if edition == "ICAA17K" else 1)
    rgb = images(2, 96)
    with torch.inference_mode():
        known = restated(rgb, state, **SMALL)
        found = model(rgb)
        z = model.features(rgb)
    assert found.shape == known.shape
    assert torch.allclose(found, known, atol=2e-6)
    assert known.std() > 0.01  # else hardly any part would show
    assert ((z > 0) & (z < 1)).sum() > 10


# --- Parts


@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_is_that_of_a_loop(shifted):
    torch.manual_seed(0)
    window, side, heads, c = 3, 6, 2, 8
    attention = WindowAttention(c, heads, window, side, shifted)
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(1, c, side, side)
    qkv = F.linear(x[0].permute(1, 2, 0), attention.proj_qkv.weight, attention.proj_qkv.bias).reshape(side, side, 3, heads, -1)
    shift = 2 if shifted else 0  # half of three, rounded up
    places = [(i, j) for i in range(side) for j in range(side)]
    mixed = torch.zeros(side, side, heads, c // heads)
    for i, j in places:
        y, x_ = (i - shift) % side, (j - shift) % side
        for h in range(heads):
            logits, values = [], []
            for k, m in places:
                v, u = (k - shift) % side, (m - shift) % side
                same_window = y // window == v // window and x_ // window == u // window
                across = (i < shift) != (k < shift) or (j < shift) != (m < shift)
                if not same_window or across:
                    continue
                row = (y - v + window - 1) * (2 * window - 1) + x_ - u + window - 1
                bias = attention.relative_position_bias_table[row, h]
                logits.append(qkv[i, j, 0, h] @ qkv[k, m, 1, h] / math.sqrt(c // heads) + bias)
                values.append(qkv[k, m, 2, h])
            mixed[i, j, h] = torch.stack(logits).softmax(0) @ torch.stack(values)
    known = F.linear(mixed.flatten(2), attention.proj_out.weight, attention.proj_out.bias).permute(2, 0, 1)
    assert torch.allclose(attention(x)[0], known, atol=1e-6)


def test_the_windows_are_shifted_by_four_of_seven_places():
    attention = WindowAttention(8, 1, 7, 14, shifted=True)
    assert attention.shift == 4
    assert torch.equal(attention.attn_mask, sliced_mask(14, 7))
    assert torch.equal(shift_mask(28, 7, 4), sliced_mask(28, 7))


def test_window_attention_is_that_of_timm():
    torch.manual_seed(0)
    known = timm.models.swin_transformer.WindowAttention(16, num_heads=4, window_size=7)
    nn.init.normal_(known.relative_position_bias_table)
    attention = WindowAttention(16, 4, 7, 7, shifted=False)
    names = {"qkv": "proj_qkv", "proj": "proj_out"}
    theirs = {k: v for k, v in known.state_dict().items() if not k.endswith("index")}
    attention.load_state_dict({".".join(names.get(part, part) for part in k.split(".")): v for k, v in theirs.items()})
    x = torch.randn(3, 49, 16)
    found = attention(x.transpose(1, 2).reshape(3, 16, 7, 7))
    assert torch.allclose(found.flatten(2).transpose(1, 2), known(x), atol=1e-6)


@pytest.mark.parametrize("kernel", [5, 3])
def test_deformable_attention_is_that_of_a_loop_with_samples_of_scipy(kernel):
    torch.manual_seed(3)
    attention = DeformableAttention(16, 4, 2, 5, kernel, "batch_mean", "hard")
    nn.init.normal_(attention.rpe_table)
    for layer_ in (attention.conv_offset[3], attention.ref_point14, attention.ref_gate):
        nn.init.normal_(layer_.weight)
    x = torch.randn(3, 16, 5, 5)
    state = {f"a.{k}": v.detach() for k, v in attention.state_dict().items()}
    with torch.inference_mode():
        found, position = attention(x), attention.positions(x, attention.proj_q(x))
        assert torch.allclose(found, restated_deformable(x, state, "a", 4, 2), atol=1e-5)
    assert (position.abs() > 1).any()  # some lie outside of the map
    off = (position == 0).all(3)
    assert off.any()
    assert not off.all()


def test_an_offset_that_points_away_from_its_reference_is_quartered():
    attention = DeformableAttention(4, 1, 1, 2, 3, "per_sample", "none")
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        attention.conv_offset[1].norm.bias.fill_(1.0)
        attention.conv_offset[3].weight[:, 0] = torch.tensor([0.9, -0.4])[:, None, None]
        attention.ref_point14.bias.copy_(torch.tensor([0.3, 0.2]))
    x = torch.randn(1, 4, 2, 2)
    a = F.gelu(torch.tensor(1.0)).item()
    offset = [math.tanh(0.9 * a), math.tanh(-0.4 * a)]  # times 2 / side, which is 1
    against = [math.tanh(0.3) + 0.25 * offset[0], math.tanh(0.2) + 0.25 * offset[1]]
    assert attention.positions(x, x)[0, 1, 0].tolist() == pytest.approx(against)
    with torch.no_grad():
        attention.ref_point14.bias[1] = -0.2
    along = [math.tanh(0.3) + offset[0], math.tanh(-0.2) + offset[1]]
    assert attention.positions(x, x)[0, 1, 0].tolist() == pytest.approx(along)


def test_official_bins_are_triangles_counted_by_hand():
    histogram = SoftHistogram("official")
    z = torch.full((1, 36), 2.0)  # lights none
    z[0, :5] = torch.tensor([1 / 12, 0.1, 1 / 6, 0.97, -0.01])
    bins = histogram(z).reshape(36, 6)
    known = torch.zeros(36, 6)
    known[0, 0] = 1.0  # the middle of the first
    known[1, 0] = 1 - 12 * (0.1 - 1 / 12)  # 0.8
    known[3, 5] = 1 - 12 * (0.97 - 11 / 12)  # 0.36
    known[4, 0] = 0.0  # 1 - 12 * (1 / 12 + 0.01) is negative
    assert torch.allclose(bins, known, atol=1e-5)  # the edge of two bins, 1 / 6, lights neither


def test_bounded_bins_overlap_and_add_up_to_one_between_their_middles():
    middles = (torch.arange(6) + 0.5) / 6
    z = torch.linspace(1 / 12, 11 / 12, 36)
    bins = SoftHistogram("bounded")(torch.logit(z)[None]).reshape(36, 6)
    assert torch.allclose(bins.sum(1), torch.ones(36), atol=1e-5)
    assert torch.allclose(bins @ middles, z, atol=1e-5)  # nothing of the value is lost


def test_position_tables_are_the_same_at_their_own_size_and_keep_their_ends_at_others():
    table = torch.randn(16, 27, 27)
    assert resize_position_table(table, 14) is table
    larger = resize_position_table(table, 28)
    assert larger.shape == (16, 55, 55)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert torch.allclose(larger[:, corner[0], corner[1]], table[:, corner[0], corner[1]], atol=1e-5)
    ramp = torch.linspace(-1, 1, 27).expand(1, 27, 27)  # a function of the displacement stays that function
    assert torch.allclose(resize_position_table(ramp, 28)[0, 5, 8:-8], torch.linspace(-1, 1, 55)[8:-8], atol=5e-3)


def test_drop_path_rises_from_zero_to_its_value_over_all_blocks():
    with torch.device("meta"):
        model = DelegateTransformer()
    rates = [block.drop_prob for stage in model.stages for block in stage.drop_path]
    assert len(rates) == 24
    assert rates == pytest.approx(np.linspace(0, 0.5, 24).tolist())


# --- Official state dicts


def test_the_pattern_of_the_layout_has_the_known_counts(edition):
    _, entries, parameters = EDITIONS[edition]
    shapes = layout(edition, **BASE)
    computed = (".relative_position_index", ".attn_mask", "hist_feature.widths")  # the last is one of the others
    assert len(shapes) == entries
    assert sum(math.prod(s) for name, s in shapes.items() if not name.endswith(computed)) == parameters


def test_the_pattern_of_the_layout_is_the_official_list(edition):
    file = SPECS / EDITIONS[edition][0]
    if not file.is_file():
        pytest.skip("the lists of official tensors are not here")
    official = json.loads(file.read_text(encoding="utf-8"))
    shapes = layout(edition, **BASE)
    assert list(shapes) == list(official)
    assert {name: list(shape) for name, shape in shapes.items()} == official


def test_the_full_network_gives_back_every_official_tensor_in_name_order_and_shape(edition):
    gated = edition == "ICAA17K"
    with torch.device("meta"):
        model = DelegateTransformer(outputs=2 if gated else 1, gate="hard" if gated else "none")
        official = model.to_official()
    shapes = layout(edition, **BASE)
    assert list(official) == list(shapes)
    assert {name: tuple(tensor.shape) for name, tensor in official.items()} == shapes
    dead = 216 + 1025 + 2 * 216  # orphan, unused head, frozen ones
    assert sum(p.numel() for p in model.parameters()) == EDITIONS[edition][2] - dead


def test_the_full_network_loads_every_official_tensor_and_scores_a_image():
    state = {}
    for name, shape in layout("ICAA17K", **BASE).items():
        state[name] = torch.full(shape, 0.01).to(torch.int64 if name.endswith("index") else torch.float32)
    model = DelegateTransformer(outputs=2).eval()
    with pytest.warns(UserWarning, match="mean over the batch"):
        report = model.load_official(state)
    assert {*report.loaded} | report.ignored.keys() == state.keys()
    assert not {*report.loaded} & report.ignored.keys()
    assert report.fresh == []
    assert all((x == 0.01).all() for x in model.state_dict().values())
    with torch.inference_mode():
        scores = model(images(1, 224))
    assert scores.shape == (1, 2)
    assert ((scores > 0) & (scores < 1)).all()


def test_official_weights_come_back_as_they_came(state, edition):
    model = loaded(state, outputs=2 if edition == "ICAA17K" else 1)
    back = model.to_official()
    assert list(back) == list(state)
    unused = {"cls_head.weight", "cls_head.bias", "hist_feature.centers"}
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype, name
        assert torch.equal(back[name], torch.zeros_like(tensor) if name in unused else tensor), name


def test_the_report_names_and_counts_what_is_loaded_and_what_is_not():
    state = official_state("ICAA17K", **SMALL)
    model = DelegateTransformer(size=96, **SMALL)
    with pytest.warns(UserWarning, match="one at a time"):
        report = model.load_official(state, "best.pth")
    lines = str(report).split("\n  ")
    kept = len(state) - (7 + 2) - 4  # positions and masks, dead tensors
    assert lines[0].startswith(f"{kept} tensors loaded from best.pth: patch_proj.0.weight, ")
    said = "stages.*.attns.*.relative_position_index (7), stages.*.attns.*.attn_mask (2)"
    assert f"9 ignored, computed from the window and the size of the image: {said}" in lines
    assert "2 ignored, no score depends on it: cls_head.weight, cls_head.bias" in lines
    one = DelegateTransformer(size=96, outputs=1, **SMALL)
    with pytest.warns(UserWarning, match="mean over the batch"):
        assert "class_head.weight, class_head.bias" in str(one.load_official(state))
    changed = state | {"stages.0.attns.1.attn_mask": torch.zeros(64, 9, 9)}
    with pytest.warns(UserWarning, match="mean over the batch"):
        found = model.load_official(changed).ignored
    assert found["stages.0.attns.1.attn_mask"].endswith("(the file's is another)")


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_each_output_starts_from_an_official_head(state, edition, outputs):
    model = loaded(state, outputs=outputs)
    overall, color = ("class_head", "class_head2") if edition == "ICAA17K" else ("class_head", "class_head")
    rows = [color] if outputs == 1 else [overall, color, color][:outputs]
    assert torch.equal(model.class_heads.weight, torch.cat([state[f"{row}.weight"] for row in rows]))
    assert torch.equal(model.class_heads.bias, torch.cat([state[f"{row}.bias"] for row in rows]))


def test_only_networks_of_an_edition_give_an_official_state_dict():
    with pytest.raises(ValueError, match="two outputs and a gate, or one output and none; this network has 3 and gate 'none'"):
        DelegateTransformer(**TINY).to_official()
    with pytest.raises(ValueError, match="64 pixels, not 128"):
        DelegateTransformer(**{**TINY, "size": 128, "outputs": 1}).to_official()


def test_official_weights_score_larger_images_too():
    state = official_state("SPAQ", **{**SMALL, "window": 2})
    model = loaded(state, window=2, size=128)
    assert model.stages[2].attns[1].rpe_table.shape == (4, 15, 15)
    assert model.stages[0].attns[1].attn_mask.shape == (16**2, 4, 4)
    with torch.inference_mode():
        assert model(images(1, 128)).isfinite().all()


# --- Start weights


def test_an_imagenet_file_of_the_backbone_loads_all_but_reference_points_and_head(tmp_path):
    shapes = official_state("SPAQ", **SMALL)
    heads = ("hst_head", "hist_feature", "class_head", "cls_head")
    state = {k: v for k, v in shapes.items() if "ref_point14" not in k and not k.startswith(heads)}
    torch.save(
        {"model": state | {"cls_head.weight": torch.zeros(1000, 128), "cls_head.bias": torch.zeros(1000)}}, tmp_path / "d.pth"
    )
    model = DelegateTransformer(size=96, gate="soft", **SMALL)
    before = copy.deepcopy(model.state_dict())
    report = model.load_backbone(tmp_path / "d.pth")
    assert set(report.fresh) == {k for k, v in model.state_dict().items() if torch.equal(v, before[k])}
    new = ("hst_head.", "histogram.", "class_heads.")
    assert all(".ref_point14." in k or ".ref_gate." in k or k.startswith(new) for k in report.fresh)
    assert report.ignored["cls_head.weight"] == "of the head"
    assert torch.equal(model.stages[2].attns[3].rpe_table, state["stages.2.attns.3.rpe_table"])
    said = str(report)
    assert said.startswith(f"{len(report.loaded)} tensors loaded from {tmp_path / 'd.pth'}: ")
    assert len(report.loaded) + len(report.ignored) == len(state) + 2
    assert "stages.*.attns.*.ref_point14.weight (3)" in said
    assert model.config["reference_mode"] == "per_sample"  # start weights change no mode


def test_a_delegate_transformer_official_or_ours_is_a_start_as_well(tmp_path):
    official = official_state("ICAA17K", **SMALL)
    model = DelegateTransformer(size=96, **SMALL)
    report = model.load_backbone(official)
    assert sum(why == "this network has no gate" for why in report.ignored.values()) == 2 * 3
    assert torch.equal(model.stages[3].attns[1].ref_point14.weight, official["stages.3.attns.1.ref_point14.weight"])
    assert not any(".ref_point14." in name for name in report.fresh)
    torch.save({"model": model.state_dict(), "config": model.config}, tmp_path / "own.pt")
    other = DelegateTransformer(size=96, reference_mode="running", **SMALL)
    other.load_backbone(tmp_path / "own.pt")
    body = {id(p) for p in other.pretrained_parameters()}
    own = dict(model.named_parameters())
    assert all(
        torch.equal(p, own[k]) == (id(p) in body)
        for k, p in other.named_parameters()
        if k.endswith("0.proj_out.weight") or k == "hst_head.weight"
    )


def test_the_first_block_of_swin_computes_here_as_in_timm():
    torch.manual_seed(0)
    swin = timm.models.SwinTransformer(
        img_size=96, window_size=3, embed_dim=16, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8)
    ).eval()
    for block in (block for stage in swin.layers for block in stage.blocks):
        nn.init.normal_(block.attn.relative_position_bias_table)
    model = DelegateTransformer(size=96, **SMALL).eval()
    report = model.load_backbone(swin.state_dict())
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        known = swin.layers[0].blocks[0](swin.patch_embed(x))
        found = model.patch_proj(x)
        stage = model.stages[0]
        found = found + stage.attns[0](stage.layer_norms[0](found))
        found = found + stage.mlps[0](stage.layer_norms[1](found))
    assert torch.allclose(found.permute(0, 2, 3, 1), known, atol=1e-5)
    qkv = swin.layers[2].blocks[3].attn.qkv.weight
    assert torch.equal(model.stages[2].attns[3].proj_k.weight[:, :, 0, 0], qkv[64:128])
    assert any(name.startswith("down_projs.") for name in report.fresh)
    assert report.ignored["layers.1.downsample.reduction.weight"] == "Swin goes from stage to stage in another way"
    assert {*report.loaded} | report.ignored.keys() == swin.state_dict().keys()
    assert not {*report.loaded} & report.ignored.keys()


def test_start_weights_of_another_network_are_refused():
    model = DelegateTransformer(**TINY)
    with pytest.raises(ValueError, match=r"no weights of DAT.*conv1\.weight"):
        model.load_backbone({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"of this configuration: .* of another shape, e\.g\. .* has .*, expected"):
        model.load_backbone(official_state("SPAQ", **{**SMALL, "window": 3, "depths": (2, 2, 2, 2)}))
    with pytest.raises(ValueError, match=r"this configuration: .* unknown, e\.g\. stages\.2\."):
        model.load_backbone(official_state("SPAQ", **{**SMALL, "window": 2}))
    state = official_state("SPAQ", **{**SMALL, "window": 2, "depths": (2, 2, 2, 2)})
    with pytest.raises(ValueError, match=r"1 absent, e\.g\. cls_norm\.norm\.bias"):
        model.load_backbone({k: v for k, v in state.items() if k != "cls_norm.norm.bias"})


# --- What is mended


@pytest.fixture
def lively() -> DelegateTransformer:
    """A tiny network whose reference points and offsets move scores."""
    torch.manual_seed(5)
    model = DelegateTransformer(**TINY, drop_path=0.0).eval()
    for attention in model.deformable():
        nn.init.normal_(attention.ref_point14.weight, std=0.3)
        nn.init.normal_(attention.proj_v.weight, std=0.3)
        nn.init.normal_(attention.proj_out.weight, std=0.3)
    nn.init.normal_(model.hst_head.weight, std=0.3)
    nn.init.normal_(model.class_heads.weight, std=0.3)
    return model


def company_matters(model: DelegateTransformer) -> float:
    """The largest change of a score from being scored beside others."""
    rgb = images(4, 64, seed=2)
    with torch.inference_mode():
        alone = torch.cat([model(image[None]) for image in rgb])
        return float((model(rgb) - alone).abs().max())


def test_a_score_does_not_depend_on_the_batch(lively):
    assert company_matters(lively) < 1e-5
    lively.set_modes(gate="soft")
    assert company_matters(lively) < 1e-5
    lively.set_modes(reference_mode="batch_mean")
    assert company_matters(lively) > 1e-3  # the published form


def test_with_running_means_a_score_does_not_depend_on_the_batch_either(lively):
    lively.set_modes(reference_mode="running", gate="soft")
    with pytest.raises(ValueError, match="no running reference points yet; train first"):
        lively(images(1, 64))
    lively.train()
    first, second = images(4, 64, 3), images(4, 64, 4)
    seen = []
    place = lively.stages[2].attns[1].ref_point14
    place.register_forward_pre_hook(lambda module, args: seen.append(F.conv2d(args[0], module.weight, module.bias).mean(0)))
    lively(first)
    lively(second)
    assert torch.allclose(place.running_mean[0], (seen[0] + seen[1]) / 2, atol=1e-6)
    lively.eval()
    assert company_matters(lively) < 1e-5


def test_alone_a_image_scores_the_same_by_batch_means_as_by_its_own(lively):
    rgb = images(1, 64)
    with torch.inference_mode():
        own = lively(rgb)
        lively.set_modes(reference_mode="batch_mean")
        assert torch.allclose(lively(rgb), own, atol=1e-7)


def test_running_means_forget_slowly():
    place = PlaceMap(4, 2, 3, "running").train()
    nn.init.zeros_(place.weight)
    with torch.no_grad():
        for value in range(30):
            place.bias.fill_(float(value))
            place(torch.zeros(1, 4, 3, 3))
    expected = sum(range(10)) / 10  # of the first ten
    for value in range(10, 30):
        expected += 0.1 * (value - expected)
    assert torch.allclose(place.running_mean, torch.full((1, 2, 3, 3), expected))


def gate_gradients(model: DelegateTransformer) -> list[Tensor]:
    model.train()
    model(images(4, 64)).sum().backward()
    return [p.grad for k, p in model.named_parameters() if ".ref_gate." in k]


def test_the_hard_gate_cannot_learn_and_the_soft_one_can(lively):
    torch.manual_seed(0)
    assert gate_gradients(lively) == []
    lively.set_modes(gate="hard")
    for attention in lively.deformable():
        nn.init.normal_(attention.ref_gate.bias, std=0.3)
    hard = gate_gradients(lively)
    assert len(hard) == 2 * 2
    assert all((gradient == 0).all() for gradient in hard)
    lively.set_modes(gate="soft")
    assert all((gradient != 0).any() for gradient in gate_gradients(lively))


def test_bounded_bins_pass_a_gradient_everywhere_and_official_ones_only_inside():
    values = torch.tensor([-3.0, -0.5, 1.01, 1.2, 4.0])
    for kind, lit in (("official", False), ("bounded", True)):
        z = torch.zeros(1, 36)
        z[0, :5] = values
        z.requires_grad_()
        bins = SoftHistogram(kind)(z)
        weights = torch.randn(216, generator=torch.Generator().manual_seed(0))
        (bins @ weights).sum().backward()
        assert ((bins.reshape(36, 6)[:5].sum(1) > 0.01) == lit).all(), kind
        assert ((z.grad[0, :5].abs() > 1e-4) == lit).all(), kind


def test_it_runs_wherever_torch_does_without_a_detour_over_numpy():
    with torch.device("meta"):  # has no values that NumPy could look at
        model = DelegateTransformer(outputs=2, gate="hard", **OFFICIAL_MODES)
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 2)


def test_start_weights_are_set_as_meant():
    torch.manual_seed(0)
    model = DelegateTransformer(**TINY, gate="soft")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.detach().std() == pytest.approx(0.02, rel=0.5), name
            assert module.bias is None or (module.bias == 0).all(), name
    assert model.stages[3].attns[1].rpe_table.detach().std() == pytest.approx(0.02, rel=0.2)


def test_there_are_no_dead_weights_and_the_head_fits_any_width():
    model = DelegateTransformer(**TINY, drop_path=0.0, gate="soft").train()
    model(images(4, 64)).sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []
    with torch.device("meta"):  # the authors' tiny configuration, which their head does not fit
        tiny = DelegateTransformer(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), groups=(3, 6), drop_path=0.2)
        assert tiny(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


def test_training_crops_reach_from_the_published_scale_to_the_scale_of_scoring():
    ramp = (torch.arange(448) / 447).expand(3, 448, 448)
    model = DelegateTransformer(**TINY)
    spans = {}
    for view in ("mended", "icaa17k", "spaq"):
        generator = torch.Generator().manual_seed(0)
        views = [model.augment(ramp, generator, view)[0, 0] for _ in range(40)]
        spans[view] = np.array([float(v.max() - v.min()) * 64 / 63 for v in views])
        flipped = np.mean([float(v[0] > v[-1]) for v in views])
        assert 0.25 < flipped < 0.75, view
    assert spans["icaa17k"] == pytest.approx(0.875, abs=0.01)
    assert spans["spaq"] == pytest.approx(1.0, abs=0.01)
    assert spans["mended"].min() == pytest.approx(0.88, abs=0.02)
    assert spans["mended"].max() == pytest.approx(0.99, abs=0.02)


# --- Images, configuration, training


def test_a_image_is_squeezed_to_a_square_by_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    model = DelegateTransformer(**TINY)
    known = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR)) / np.float32(255)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(model.preprocess(image), torch.from_numpy(known).permute(2, 0, 1))
    assert torch.equal(model.preprocess(image / 255), model.preprocess(image))
    with pytest.raises(ValueError, match="view must be one of mended, icaa17k, spaq, got 'center'"):
        model.augment(image, torch.Generator(), "center")
    for view in ("mended", "icaa17k", "spaq"):  # the smallest image, and the same again for the same numbers
        dot = model.augment(image[:, :1, :1], torch.Generator().manual_seed(1), view)
        assert dot.shape == (3, 64, 64)
        first, second = (model.augment(image, torch.Generator().manual_seed(1), view) for _ in range(2))
        assert torch.equal(first, second)


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(B, 3, 64, 64\), got \(1, 3, 32, 32\)"):
        DelegateTransformer(**TINY)(torch.zeros(1, 3, 32, 32))


def test_the_loss_is_the_mean_square_over_what_is_known():
    pred = torch.tensor([[0.5, 0.2], [0.9, 0.4]], requires_grad=True)
    target = torch.tensor([[0.7, math.nan], [0.8, 0.1]])
    loss = training_loss(pred, target)
    assert loss.item() == pytest.approx((0.04 + 0.01 + 0.09) / 3)
    loss.backward()
    assert pred.grad[0, 1] == 0
    assert training_loss(pred, torch.full((2, 2), math.nan)).item() == 0
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\], got 4\.6 to 6\.4"):
        training_loss(pred[:1], torch.tensor([[4.6, 6.4]]))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), got \(2,\)"):
        training_loss(pred, torch.zeros(2))
    mos = torch.tensor([-1.0, 0.2, 1.0])
    assert torch.equal(target_of(mos), torch.tensor([0.0, 0.6, 1.0]))
    assert torch.allclose(mos_of(target_of(mos)), mos)
