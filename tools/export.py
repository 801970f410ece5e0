"""Make the graph that scores without torch, weights/icqa.onnx.gz, from the shipped checkpoints, and check it against torch.

    python tools/export.py                # after a change of weights/CF.pt, SCC.pt or PR.pt; about a minute
    python tools/export.py --check        # compare the graph that is there with torch, and write nothing

One graph gives all three scores: the shared backbone sees the image and its gray version once, and the ranker sees the image
once. Weights are not stored again; the graph refers to the checkpoints. Needs onnxscript (requirements-dev.txt). The graph is
kept only if no score of the samples differs from that of torch by more than 1e-4.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils import interrupt  # noqa: F401, so that Ctrl-C is heard
from utils.arguments import ScriptParser
from utils.choices import DIMENSIONS, SHIPPED

TOLERANCE = 1e-4  # of a score in [-1, 1]


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument(
        "--weights-dir", type=Path, default=SHIPPED, metavar="DIR", help="folder of CF.pt, SCC.pt, PR.pt and of the graph"
    )
    parser.add_argument("--images", type=Path, default=SHIPPED.parent / "data" / "samples", metavar="DIR", help="for the check")
    parser.add_argument("--check", action="store_true", help="compare only")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import gzip
import json
import shutil
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.graph import ABOUT, GRAPH, Graph
from inference.scorer import DIGITS
from models import load_model
from models.base import CompactNet, one_thread
from models.color_prior import ColorPrior, comparison_maps, soft_encode
from utils.files import sha256, write_atomic
from utils.images import list_images, read_rgb


class CellsFirst(nn.Module):
    """Layer that turns logits (1, K, h, w) into a table (h w, K); an engine reads rows faster than columns."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.flatten(2)[0].T


def compare(prior: ColorPrior, log_prior: Tensor, lab: Tensor) -> Tensor:
    """Compute the result of ``ColorPrior.compare_pixels`` from a table (h w, K), with one matrix product in place of three."""
    side = lab.shape[-1] // 2
    probability = log_prior.exp()
    squared, norms = prior.centers.square().sum(1), prior.centers.norm(dim=1)
    sums = probability @ torch.cat((prior.centers, squared[:, None], norms[:, None]), 1)
    maps = torch.cat((sums, -(probability * log_prior).sum(1, keepdim=True)), 1).T.reshape(1, 5, side, side)
    expected, second, expected_chroma, entropy = maps.split((2, 1, 1, 1), 1)

    index, weight = soft_encode(lab[:, 1:], prior.table)
    cells, weights = (F.pixel_unshuffle(x.float(), 2)[0].flatten(1).T for x in (index, weight))  # (h w, 16)
    of_pixels = (log_prior.gather(1, cells.long()).exp() * weights.clamp(min=1e-6)).reshape(-1, 4, 4).sum(1)
    surprise = -of_pixels.log().mean(1).reshape(1, 1, side, side)
    return comparison_maps(lab, expected, second, expected_chroma, entropy, surprise)


class Together(nn.Module):
    """The three branches on one image.

    Args:
        branches: Networks by dimension, whose backbones and rankers are equal.
    """

    def __init__(self, branches: dict[str, CompactNet]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        prior = branches["SCC"].prior
        prior.classify = nn.Sequential(prior.classify, CellsFirst())
        prior.compare_pixels = lambda log_prior, lab: compare(prior, log_prior, lab)

    def forward(self, levels: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score one image.

        Args:
            levels: sRGB, uint8, shape (S, S, 3).
            given: CF and SCC for PR, shape (2,); NaN to take a score from the other branches.

        Returns:
            CF, SCC and PR, each of shape (1,).
        """
        inputs = {"rgb": levels.permute(2, 0, 1)[None].float() / 255}
        maps = self.branches["SCC"].backbone_maps(inputs)
        cf, scc = (self.branches[d].head(self.branches[d].encode(inputs, maps)) for d in ("CF", "SCC"))
        pr = self.branches["PR"]
        # rounded as score files hold them, so that PR is the same from a file
        computed = (torch.cat((cf, scc)).double() * 10**DIGITS).round() / 10**DIGITS
        scores = torch.where(given.isnan(), computed.float(), given)
        return cf, scc, pr.head(pr.encode(inputs, maps), scores[None])


def load_branches(weights_dir: Path) -> dict[str, CompactNet]:
    """Load the three networks.

    Raises:
        FileNotFoundError: If a network is absent.
        ValueError: If a network is not of the compact preset, or the networks prepare images differently.
    """
    branches = {d: load_model(weights_dir / f"{d}.pt", dimension=d, preset="compact") for d in DIMENSIONS}
    shared = {
        d: branch.backbone.state_dict() | (branch.ranker.state_dict(prefix="ranker.") if branch.ranker else {})
        for d, branch in branches.items()
    }
    for dimension, state in shared.items():
        same = state.keys() == shared["SCC"].keys() and all(torch.equal(v, shared["SCC"][k]) for k, v in state.items())
        if not same or branches[dimension].size != branches["SCC"].size:
            raise ValueError(
                f"{weights_dir}: CF.pt, SCC.pt and PR.pt must have one backbone and one ranker; {dimension}.pt has others"
            )
    return branches


def make_graph(branches: dict[str, CompactNet], weights_dir: Path) -> bytes:
    """Export the networks to ONNX, with references to their weights in the checkpoints."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    size = branches["SCC"].size
    files = {d: (weights_dir / f"{d}.pt").read_bytes() for d in DIMENSIONS}
    about: dict[str, object] = {"size": size}
    for dimension, branch in branches.items():
        seen = torch.load(weights_dir / f"{dimension}.pt", weights_only=True).get("seen") if branch.seen is not None else None
        about[dimension] = {
            "file": f"{dimension}.pt",
            "sha256": sha256(weights_dir / f"{dimension}.pt"),
            "preprocessing": branch.preprocessing(),
            "seen": None
            if branch.seen is None
            else [0, 0]
            if seen is None
            else [files[dimension].find(seen.numpy().tobytes()), len(seen)],
        }
    example = (torch.zeros(size, size, 3, dtype=torch.uint8), torch.full((2,), torch.nan))
    names = {"input_names": ["levels", "given"], "output_names": list(DIMENSIONS)}
    program = torch.onnx.export(
        Together(branches).eval(), example, dynamo=True, optimize=False, verbose=False, opset_version=18, **names
    )
    model = program.model
    for _ in range(3):  # not the usual optimization, which merges weights and so makes others of them
        optimizer.fold_constants(model, onnx_shape_inference=True)
        optimizer.remove_unused_nodes(model)
    for step in (
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.DeduplicateInitializersPass(size_limit=1 << 30),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        step(model)
    proto = ir.to_proto(model)
    refer_to_checkpoints(proto.graph, {f"{d}.pt": content for d, content in files.items()})
    del proto.graph.value_info[:], proto.metadata_props[:]
    proto.producer_name, proto.producer_version = "tools/export.py", ""
    proto.metadata_props.add(key=ABOUT, value=json.dumps(about))
    return proto.SerializeToString(deterministic=True)


def refer_to_checkpoints(graph, files: dict[str, bytes]) -> None:
    """Replace weights in a graph by their place in a file that holds the same numbers as float16."""
    from onnx import TensorProto, helper, numpy_helper

    initializers, casts = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16) if values.dtype == np.float32 and values.size >= 32 else None
        if half is None or not np.array_equal(half.astype(np.float32), values):
            initializers.append(tensor)
            continue
        content = half.tobytes()
        places = ((name, file.find(content)) for name, file in files.items())
        name, offset = next((place for place in places if place[1] >= 0), ("", -1))
        if offset < 0:
            initializers.append(tensor)
            continue
        reference = TensorProto(name=f"{tensor.name}.half", data_type=TensorProto.FLOAT16, dims=tensor.dims)
        reference.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", offset), ("length", len(content))):
            reference.external_data.add(key=key, value=str(value))
        initializers.append(reference)
        casts.append(helper.make_node("Cast", [reference.name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)


def largest_difference(graph: Graph, branches: dict[str, CompactNet], folder: Path) -> tuple[float, str, int]:
    """Compare scores of a folder with those of torch; return the largest difference, its image, and the number of images."""
    images = list_images(folder)
    worst = (0.0, "", len(images.names))
    with one_thread():
        for name in images.names:
            pixels = read_rgb(images.path(name))
            found = graph.score(pixels)
            cf, scc = (round(branches[d].score(pixels), DIGITS) for d in ("CF", "SCC"))
            expected = {"CF": cf, "SCC": scc, "PR": branches["PR"].score(pixels, cf, scc)}
            difference = max(abs(found[d] - expected[d]) for d in DIMENSIONS)
            worst = max(worst, (difference, name, len(images.names)))
    return worst


def main() -> None:
    args = parse_args()
    path = args.weights_dir / GRAPH.name
    try:
        with tempfile.TemporaryDirectory() as folder:
            trial = path
            if not args.check:
                data = gzip.compress(make_graph(load_branches(args.weights_dir), args.weights_dir), mtime=0)
                for dimension in DIMENSIONS:
                    shutil.copy(args.weights_dir / f"{dimension}.pt", folder)
                trial = Path(folder) / GRAPH.name
                trial.write_bytes(data)
            difference, name, count = largest_difference(Graph(trial), load_branches(args.weights_dir), args.images)
        if difference > TOLERANCE:
            raise ValueError(
                f"the graph differs from torch by {difference:.1e} on {name}, more than {TOLERANCE:g}; {path} is as it was"
            )
        if not args.check:
            write_atomic(path, data)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{path}: {path.stat().st_size / 1e3:.0f} kB; largest difference to torch {difference:.1e}, of {count} images ({name})"
    )


if __name__ == "__main__":
    main()
