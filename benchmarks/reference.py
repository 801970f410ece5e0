"""The work of the published ICQA-Net scripts in plain PyTorch: the yardstick of benchmarks/speed.py.

    python benchmarks/reference.py FOLDER              # CF, SCC and PR, a process each, one after another
    python benchmarks/reference.py FOLDER --part CF    # one of them, in this process

As published, every part decodes every picture itself and scores it in a batch of one in float32:

- CF: Pillow bicubic resize to 384, ViT-B/16 on [0, 1], class token and spread of the patch tokens, a small convolution over
  the a and b planes;
- SCC: bilinear resize to 224, ImageNet normalization, ResNet-18;
- PR: the same with ResNet-50.

Weights are random, nothing is downloaded, and the scores mean nothing. Where the two differ, this program does less: CIELAB
in torch in place of scikit-image, timm in place of transformers and without its unused pooler, no boxes and color curves of
objects for SCC, and random numbers in place of reading weights.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("CF", "SCC", "PR")


def score_folder(paths: list[Path], part: str) -> list[float]:
    """Score pictures by one part. Libraries are imported here, by the part that needs them, for start-up is measured too."""
    import torch
    from PIL import Image

    with torch.device("meta"):  # without the slow initialization, which the published scripts replace by a file anyway
        model = vit_branch() if part == "CF" else resnet_branch("resnet18" if part == "SCC" else "resnet50")
    model.to_empty(device="cpu").eval()
    scores = []
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(0, 0.02) if tensor.ndim > 1 else tensor.fill_(1)
        for path in paths:
            with Image.open(path) as file:
                scores.append(float(model(file.convert("RGB"))))
    return scores


def vit_branch():
    """CF: a module that takes a Pillow image."""
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
            self.vit = timm.create_model("vit_base_patch16_384", pretrained=False, num_classes=0)
            self.chroma = nn.Sequential(nn.Conv2d(2, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.regressor = nn.Sequential(nn.Linear(1568, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 1), nn.Tanh())

        def forward(self, picture: Image.Image) -> Tensor:
            pixels = np.asarray(picture.resize((384, 384), Image.Resampling.BICUBIC))
            rgb = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
            ab = rgb_to_lab(rgb)[:, 1:] / 128
            tokens = self.vit.forward_features(rgb)  # (1, 577, 768)
            return self.regressor(torch.cat((tokens[:, 0], tokens[:, 1:].std(1), self.chroma(ab).flatten(1)), 1))

    return Branch()


def resnet_branch(name: str):
    """SCC and PR: a module that takes a Pillow image."""
    import torchvision
    from PIL import Image
    from torch import Tensor, nn
    from torchvision.transforms import Compose, Normalize, Resize, ToTensor

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prepare = Compose([Resize((224, 224)), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
            self.net = torchvision.models.get_model(name, weights=None)
            width, self.net.fc = self.net.fc.in_features, nn.Identity()
            self.regressor = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 1), nn.Tanh())

        def forward(self, picture: Image.Image) -> Tensor:
            return self.regressor(self.net(self.prepare(picture)[None]))

    return Branch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of JPEGs")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all", help="(default: all, a process each)")
    args = parser.parse_args()
    paths = sorted(args.images.glob("*.jpg"))
    if not paths:
        parser.error(f"no *.jpg in {args.images}")
    if args.part != "all":
        score_folder(paths, args.part)
        return
    for part in PARTS:
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, args.images, "--part", part], check=True)
        print(f"{part:4}{time.perf_counter() - start:8.2f} s for {len(paths)} pictures", flush=True)


if __name__ == "__main__":
    main()
