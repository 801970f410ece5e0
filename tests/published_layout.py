"""Which tensors the published weight files hold: name, shape and type of each, in the order of the files.

The lists grow from patterns written here by hand; neither ``models.published`` nor a library of networks has a part in
them, so a network that is checked against them is checked against something else than itself.

Reference:
    github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e: CF.pth, SCC.pth and PR.pth are plain state dicts. CF.pth has the tensor
    names of its ViT from the installed version of transformers, which changed them in 5.9.
"""

from dataclasses import dataclass, field
from math import prod

import torch

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]

SPELLINGS = ("classic", "transformers-5.9")  # of the ViT: before transformers 5.9, and since
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # last words of tensors that are not trained


@dataclass(frozen=True)
class Count:
    """How much a published file holds: tensors, trained numbers, and numbers that are not trained."""

    tensors: int
    parameters: int
    buffers: int
    parts: dict[str, int] = field(default_factory=dict)  # trained numbers under a prefix


COUNTS = {
    "CF": Count(213, 87_486_625, 65, {"vit.": 86_681_088, "vit.pooler.": 590_592, "chroma_head.": 672, "regressor.": 804_865}),
    "SCC": Count(
        131,
        11_549_794,
        9_620,
        {"backbone.": 11_176_512, "class_embedding.": 2_592, "obj_encoder.": 271_872, "attention.": 257, "regressor.": 98_561},
    ),
    "PR": Count(333, 24_632_449, 54_198, {"naturalness_extractor.": 23_508_032, "score_fc.": 320, "regressor.": 1_124_097}),
}


def count(layout: Layout, prefix: str = "") -> Count:
    """Counts of the tensors whose name starts with ``prefix``; its ``parts`` are empty."""
    sizes = {name: prod(shape) for name, (shape, _) in layout.items() if name.startswith(prefix)}
    buffers = sum(size for name, size in sizes.items() if name.rpartition(".")[2] in BUFFERS)
    return Count(len(sizes), sum(sizes.values()) - buffers, buffers)


def _floats(name: str, *shape: int) -> Layout:
    return {name: (shape, torch.float32)}


def _layer(name: str, *shape: int) -> Layout:
    """A linear, convolution or normalization layer: a weight, and a bias for each of its outputs."""
    return _floats(f"{name}.weight", *shape) | _floats(f"{name}.bias", shape[0])


def _batch_norm(name: str, width: int) -> Layout:
    running = _floats(f"{name}.running_mean", width) | _floats(f"{name}.running_var", width)
    return _layer(name, width) | running | {f"{name}.num_batches_tracked": ((), torch.int64)}


def _vit_block(name: str, spelling: str) -> Layout:
    if spelling == "classic":
        attention = [f"attention.attention.{word}" for word in ("query", "key", "value")] + ["attention.output.dense"]
        widen, narrow = "intermediate.dense", "output.dense"
    else:
        attention = [f"attention.{letter}_proj" for letter in "qkvo"]
        widen, narrow = "mlp.fc1", "mlp.fc2"
    block: Layout = {}
    for square in attention:
        block |= _layer(f"{name}.{square}", 768, 768)
    block |= _layer(f"{name}.{widen}", 3072, 768) | _layer(f"{name}.{narrow}", 768, 3072)
    return block | _layer(f"{name}.layernorm_before", 768) | _layer(f"{name}.layernorm_after", 768)


def cf_layout(spelling: str = "classic") -> Layout:
    """Tensors of CF.pth: a ViT-B/16 of 384 pixels, a small branch on the a and b planes, and a head on both.

    Args:
        spelling: One of ``SPELLINGS``.

    Returns:
        Shape and type by name, in the order of the file with the classic names. With the newer names the same tensors
        stand at the same places here; their order in a file was not looked up.

    Raises:
        ValueError: If the spelling is unknown.
    """
    if spelling not in SPELLINGS:
        raise ValueError(f"the spelling must be one of {', '.join(SPELLINGS)}, not {spelling}")
    side = 384 // 16
    layout = _floats("vit.embeddings.cls_token", 1, 1, 768)
    layout |= _floats("vit.embeddings.position_embeddings", 1, 1 + side * side, 768)
    layout |= _layer("vit.embeddings.patch_embeddings.projection", 768, 3, 16, 16)
    blocks = "vit.encoder.layer" if spelling == "classic" else "vit.layers"
    for number in range(12):
        layout |= _vit_block(f"{blocks}.{number}", spelling)
    layout |= _layer("vit.layernorm", 768) | _layer("vit.pooler.dense", 768, 768)
    layout |= _layer("chroma_head.0", 32, 2, 3, 3) | _batch_norm("chroma_head.1", 32)
    features = 768 + 768 + 32  # class token, spread of the patch tokens, chroma
    return layout | _layer("regressor.0", 512, features) | _layer("regressor.1", 512) | _layer("regressor.4", 1, 512)


def _resnet(name: str, depths: tuple[int, ...], kernels: tuple[int, ...], growth: int) -> Layout:
    """A ResNet without its last layer, as a numbered sequence: 0 and 1 are the stem, 4 to 7 the four stages.

    Args:
        name: Of the sequence.
        depths: Blocks in each stage.
        kernels: Sizes of the convolutions in a block.
        growth: Channels that leave a block per channel inside it.
    """
    layout = _floats(f"{name}.0.weight", 64, 3, 7, 7) | _batch_norm(f"{name}.1", 64)
    channels = 64
    for stage, depth in enumerate(depths):
        inside = 64 << stage
        for number in range(depth):
            block = f"{name}.{4 + stage}.{number}"
            entering = channels
            for position, kernel in enumerate(kernels, start=1):
                leaving = inside * growth if position == len(kernels) else inside
                layout |= _floats(f"{block}.conv{position}.weight", leaving, channels, kernel, kernel)
                layout |= _batch_norm(f"{block}.bn{position}", leaving)
                channels = leaving
            if entering != channels:  # then the shortcut is a convolution too
                layout |= _floats(f"{block}.downsample.0.weight", channels, entering, 1, 1)
                layout |= _batch_norm(f"{block}.downsample.1", channels)
    return layout


def scc_layout() -> Layout:
    """Tensors of SCC.pth: a ResNet-18, an encoder of labeled objects with attention over them, and a head on both."""
    layout = _resnet("backbone", depths=(2, 2, 2, 2), kernels=(3, 3), growth=1)
    layout |= _floats("class_embedding.weight", 81, 32)
    values = 32 + 4 + 3 * 256  # of an object: embedded class, box, color prior
    layout |= _layer("obj_encoder.0", 256, values) | _layer("obj_encoder.2", 256, 256)
    layout |= _layer("attention.0", 1, 256)
    return layout | _layer("regressor.0", 128, 512 + 256) | _layer("regressor.2", 1, 128)


def pr_layout() -> Layout:
    """Tensors of PR.pth: a ResNet-50, a small network on the scores of CF and SCC, and a head on both."""
    layout = _resnet("naturalness_extractor", depths=(3, 4, 6, 3), kernels=(1, 3, 1), growth=4)
    layout |= _layer("score_fc.0", 16, 2) | _layer("score_fc.2", 16, 16)
    layout |= _layer("regressor.0", 512, 2048 + 16) | _batch_norm("regressor.2", 512)
    return layout | _layer("regressor.4", 128, 512) | _layer("regressor.6", 1, 128)
