"""The work of the published ICQA-Net scripts in plain PyTorch: the yardstick of benchmarks/throughput.py.

    python benchmarks/reference.py FOLDER                   # CF, SCC and PR, one process each, one after another
    python benchmarks/reference.py FOLDER --part CF         # one of them, in this process
    python benchmarks/reference.py FOLDER --weights DIR     # with CF.pth, SCC.pth and PR.pth of this folder

As published, every part decodes every image itself and scores it in a batch of one in float32:

- CF: Pillow bicubic resize to 384, ViT-B/16 on [0, 1], class token and spread of the patch tokens, a small convolution over
  the a and b planes;
- SCC: bilinear resize to 224, ImageNet normalization, ResNet-18, attention over 20 slots for objects;
- PR: the same resize and normalization, ResNet-50, a small network on CF and SCC.

Without ``--weights`` the weights are random numbers, and the scores mean nothing. Nothing is downloaded. Where this program
differs from the published ones, it does less work: CIELAB in torch in place of scikit-image, timm in place of transformers and
without its unused pooler, no label files, empty slots for objects, and 0 as CF and SCC in place of score files.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("CF", "SCC", "PR")


def score_folder(paths: list[Path], part: str, weights: Path | None = None) -> list[float]:
    """Score images by one part. Libraries are imported here, by the part that needs them, since start-up is measured too.

    Args:
        paths: The images.
        part: CF, SCC or PR.
        weights: Folder with the published weight file of the part; None for random numbers.
    """
    import torch
    from PIL import Image

    with torch.device("meta"):  # without the slow initialization, for the weights come from elsewhere
        model = {"CF": cf_branch, "SCC": scc_branch, "PR": pr_branch}[part]()
    if weights is not None:
        state = torch.load(weights / f"{part}.pth", map_location="cpu", weights_only=True)
        model.load_state_dict(with_timm_names(state) if part == "CF" else state, assign=True)
    else:
        model.to_empty(device="cpu")
    model.eval()
    scores = []
    with torch.no_grad():
        if weights is None:
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.normal_(0, 0.02) if tensor.ndim > 1 else tensor.fill_(1)
        for path in paths:
            with Image.open(path) as file:
                scores.append(float(model(file.convert("RGB"))))
    return scores


def cf_branch():
    """Build CF: a module that takes a Pillow image."""
    from functools import partial

    import numpy as np
    import timm
    import torch
    from PIL import Image
    from torch import Tensor, nn

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path
    from utils.color import rgb_to_lab

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norm = partial(nn.LayerNorm, eps=1e-12)
            self.vit = timm.create_model("vit_base_patch16_384", pretrained=False, num_classes=0, norm_layer=norm)
            self.chroma_head = nn.Sequential(nn.Conv2d(2, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
            self.regressor = nn.Sequential(
                nn.Linear(1568, 512), nn.LayerNorm(512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 1), nn.Tanh()
            )

        def forward(self, image: Image.Image) -> Tensor:
            pixels = np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC))
            rgb = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
            ab = rgb_to_lab(rgb)[:, 1:] / 128
            tokens = self.vit.forward_features(rgb)  # (1, 577, 768)
            chroma = self.chroma_head(ab).mean((2, 3))
            return self.regressor(torch.cat((tokens[:, 0], tokens[:, 1:].std(1), chroma), 1))

    return Branch()


def with_timm_names(state: dict) -> dict:
    """Rename the content of a published CF.pth to the names of ``cf_branch``."""
    from models.published import vit_to_timm

    vit = vit_to_timm({k.removeprefix("vit."): v for k, v in state.items() if k.startswith("vit.")})
    return {f"vit.{k}": v for k, v in vit.items()} | {k: v for k, v in state.items() if not k.startswith("vit.")}


def scc_branch():
    """Build SCC: a module that takes a Pillow image."""
    import torch
    from PIL import Image
    from torch import Tensor, nn

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prepare = preparation()
            self.backbone = residual_network("resnet18")
            self.class_embedding = nn.Embedding(81, 32)
            self.obj_encoder = nn.Sequential(nn.Linear(804, 256), nn.ReLU(), nn.Linear(256, 256))
            self.attention = nn.Sequential(nn.Linear(256, 1))
            self.regressor = nn.Sequential(nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, 1), nn.Tanh())

        def forward(self, image: Image.Image) -> Tensor:
            objects = torch.zeros(1, 20, 773)
            embedded = self.class_embedding(objects[..., 0].long())
            encoded = self.obj_encoder(torch.cat((embedded, objects[..., 1:]), 2))
            attention = self.attention(encoded).fill_(-1e9).softmax(1)  # no slot is used
            seen = self.backbone(self.prepare(image)[None]).flatten(1)
            return self.regressor(torch.cat((seen, (attention * encoded).sum(1)), 1))

    return Branch()


def pr_branch():
    """Build PR: a module that takes a Pillow image."""
    import torch
    from PIL import Image
    from torch import Tensor, nn

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prepare = preparation()
            self.naturalness_extractor = residual_network("resnet50")
            self.score_fc = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
            narrow = nn.Linear(2064, 512), nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.3)
            self.regressor = nn.Sequential(*narrow, nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1), nn.Tanh())

        def forward(self, image: Image.Image) -> Tensor:
            seen = self.naturalness_extractor(self.prepare(image)[None]).flatten(1)
            return self.regressor(torch.cat((seen, self.score_fc(torch.zeros(1, 2))), 1))

    return Branch()


def preparation():
    """Build the transform from a Pillow image to the input of a residual network."""
    from torchvision.transforms import Compose, Normalize, Resize, ToTensor

    return Compose([Resize((224, 224)), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])


def residual_network(name: str):
    """Build a residual network of torchvision without its classifier, numbered as published."""
    import torchvision
    from torch import nn

    return nn.Sequential(*list(torchvision.models.get_model(name, weights=None).children())[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of JPEGs")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all", help="(default: all, one process each)")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="CF.pth, SCC.pth, PR.pth (default: random numbers)")
    args = parser.parse_args()
    paths = sorted(args.images.glob("*.jpg"))
    if not paths:
        parser.error(f"no *.jpg in {args.images}")
    if args.part != "all":
        score_folder(paths, args.part, args.weights)
        return
    extra = [] if args.weights is None else ["--weights", args.weights]
    for part in PARTS:
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, args.images, "--part", part, *extra], check=True)
        print(f"{part:4}{time.perf_counter() - start:8.2f} s for {len(paths)} images", flush=True)


if __name__ == "__main__":
    main()
