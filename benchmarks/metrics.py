"""Measure the agreement of other metrics with people on HECD, beside our networks and the values published for HECD.

    python benchmarks/metrics.py data/HECD --write

Every recoloring is scored by the metrics of benchmarks/image_metrics.py. A full-reference metric gets the photograph
``SCENE_gt.jpg``, also for recolorings of the white-balanced version, as the authors did. ``--write`` makes
benchmarks/hecd_metrics.md and, with the value of every image, benchmarks/hecd_metrics.csv; ``--reuse`` takes that file
instead of the images. Metrics with learned weights (``--packages``) need packages outside of our requirements, which
download their weights. A metric that is not available is skipped with a line that gives the reason.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

PACKAGES = ("LPIPS", "DISTS", "pyiqa:vsi", "pyiqa:niqe", "pyiqa:brisque", "pyiqa:musiq", "pyiqa:clipiqa")


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("hecd", type=Path, help="the HECD folder")
    parser.add_argument(
        "--packages", nargs="*", default=PACKAGES, metavar="NAME", help="LPIPS, DISTS or pyiqa:NAME; default: %(default)s"
    )
    parser.add_argument("--reuse", action="store_true", help="take the values from benchmarks/hecd_metrics.csv")
    parser.add_argument("--write", action="store_true", help="write the page, and the values if they are new")
    args = parser.parse_args()
    if not args.reuse and find_spec("piq") is None:
        parser.error("MS-SSIM needs the package piq: pip install -r requirements-metrics.txt")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor
from tqdm import tqdm

from benchmarks import image_metrics
from benchmarks.image_metrics import SPACES, MetricUnavailable, PackagedMetric, packaged_metric, plane_psnr, planes
from data.hecd import load_hecd
from evaluation.agreement import measure_agreement, method_means
from training.records import command_line
from utils.color import colorfulness
from utils.files import write_atomic
from utils.images import read_rgb
from utils.metrics import srcc

BOOTSTRAP = 1000  # draws of scenes, with replacement
DIGITS = 4  # significant ones of a value in the CSV file
_COLORIZERS = ("O", "L", "I", "Z", "P")

# SRCC with the z-scores among all versions of a scene, Mullery and Whelan 2022; "PSNR a" is PSNR ab there, see _PAGE.
PUBLISHED = {
    "MS-SSIM ab": {"024004": 0.598, "078019": 0.640, "118035": 0.694},
    "MS-SSIM RGB": {"024004": 0.541, "078019": 0.585, "118035": 0.617},
    "PSNR a": {"024004": 0.512, "078019": 0.561, "118035": 0.565},
}
_PER_SCENE = ("MS-SSIM ab", "MS-SSIM RGB", "PSNR a", "PSNR ab", "PSNR RGB", "SSIM ab", "SSIM RGB")

_PAGE = """# Other metrics and people on HECD

Made by

```
{command}
```

with {versions}. The values of every image are in hecd_metrics.csv; `--reuse` makes this page from them.
The networks alone are in [hecd.md](hecd.md).

## Agreement with PR

SRCC with how natural people found {recolorings} recolorings, and the {colorizers} of them that are outputs of real
colorizers, of {scenes} scenes. In brackets: 95 % interval of a bootstrap over scenes.

- A minus sign before a metric: lower is better, so the sign is turned. Colorfulness, chroma and entropy have no better
  side; a positive SRCC says that people preferred more.
- *reference*: whether the original photograph is needed.
- *ms*: median CPU time of an image of 481 x 321 pixels, on one thread, without reading it.
- Our networks have not seen the scene that they score (hecd_predictions.csv); their times are in
  [throughput.md](throughput.md). CF and SCC were trained on kinds of image that stand in for them, and are asked about all
  kinds here.
- *method mean* knows what was done to an image, and predicts how that was rated in the other scenes.

{main_table}

Skipped:

{skipped}
## The values of HECD's authors

SRCC by scene, and in parentheses the value of Mullery and Whelan (arXiv 2204.05200) where we know it: {difference}.

{authors_table}

This reproduces them:

- Spearman's correlation with the mean z-scores among all 66 versions of a scene, the photograph itself included.
- The reference is the photograph, for versions of the white-balanced one too.
- BGR is the 8-bit image, and ab that of CIELAB plus 128, both with a data range of 255; here ab is not rounded to 8
  bits. Without the 128, MS-SSIM ab comes out at 0.660, 0.624 and 0.715 in the three scenes.
- MS-SSIM repeats the first row or column of an image of odd size before halving it. Other paddings differ by up to 0.008.
- What is published as PSNR ab is PSNR of the plane a alone; PSNR of both planes is in the column PSNR ab.

Not compared: SSIM and the other scenes, of which we know no published value by scene, and five of the 20 scenes, of which
we have no images.
"""


@dataclass(frozen=True)
class Metric:
    """Metric of the table.

    Attributes:
        function: Takes sRGB in [0, 1], shape (B, 3, H, W), and the originals, same shape; returns (B,).
        needs_reference: Whether the metric reads the originals.
        lower_is_better: Whether the table shows the metric with the other sign.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    needs_reference: bool
    lower_is_better: bool = False


def own_metrics() -> dict[str, Metric]:
    """Return the metrics without weights, by name."""
    metrics = {
        "colorfulness": Metric(lambda rgb, _: colorfulness(rgb), False),
        "mean chroma": Metric(lambda rgb, _: image_metrics.mean_chroma(rgb), False),
        "entropy of ab": Metric(lambda rgb, _: image_metrics.ab_entropy(rgb), False),
    }
    for name, function in (("PSNR", image_metrics.psnr), ("SSIM", image_metrics.ssim), ("MS-SSIM", image_metrics.ms_ssim)):
        for space in SPACES:
            metrics[f"{name} {space}"] = Metric(lambda rgb, gt, f=function, s=space: f(rgb, gt, s), True)
    metrics["PSNR a"] = Metric(_psnr_of_a, True)
    metrics["CIEDE2000"] = Metric(image_metrics.ciede2000, True, lower_is_better=True)
    return metrics


def _psnr_of_a(rgb: Tensor, reference: Tensor) -> Tensor:
    return plane_psnr(planes(rgb, "ab")[:, :1], planes(reference, "ab")[:, :1])


def packaged_metrics(names: list[str]) -> tuple[dict[str, PackagedMetric], list[str]]:
    """Return the available metrics of other packages, by name, and one line per unavailable metric."""
    available, skipped = {}, []
    for name in names:
        try:
            available[name] = packaged_metric(name)
        except MetricUnavailable as error:
            skipped.append(str(error))
            print(error, file=sys.stderr)
    return available, skipped


def versions(packaged: Iterable[str]) -> dict[str, str]:
    """Return the versions of torch and of the packages of these metrics."""
    packages = {"LPIPS": "lpips", "DISTS": "DISTS-pytorch", "pyiqa": "pyiqa"}
    used = dict.fromkeys(["scikit-image", "piq", *(packages[name.partition(":")[0]] for name in packaged)])
    return {"torch": str(torch.__version__)} | {package: version(package) for package in used}


def measure(frame: pd.DataFrame, metrics: dict[str, Metric]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Compute every metric of every image, and the median CPU time per image in milliseconds, without reading.

    Args:
        frame: HECD.
        metrics: Metrics by name.

    Returns:
        Values, with the index of ``frame`` and one column per metric, rounded to ``DIGITS``; and times by metric.

    Raises:
        ValueError: If a scene does not have exactly one photograph to compare its recolorings with.
    """
    root = Path(frame.attrs["root"])
    values = pd.DataFrame(np.nan, index=frame.index, columns=list(metrics))
    seconds = {name: [] for name in metrics}
    progress = tqdm(total=len(frame), unit="image")
    for scene, rows in frame.groupby("scene"):
        photograph = rows.loc[rows["method"] == "original", "image"]
        if len(photograph) != 1:
            raise ValueError(f"scene {scene} of {root} has {len(photograph)} rated photographs {scene}_gt, expected one")
        reference = _as_tensor(root / photograph.iloc[0])
        for index, name in rows["image"].items():
            image = _as_tensor(root / name)
            for metric, spec in metrics.items():
                start = time.process_time()
                with torch.inference_mode():
                    value = spec.function(image, reference).item()
                seconds[metric].append(time.process_time() - start)
                values.loc[index, metric] = float(f"{value:.{DIGITS}g}")
            progress.update()
    progress.close()
    return values, {name: 1000 * float(np.median(taken)) for name, taken in seconds.items()}


def _as_tensor(path: Path) -> Tensor:
    return torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None] / 255


def scene_srcc(values: np.ndarray, mos: np.ndarray) -> float:
    """Compute SRCC among the versions of a scene, on ranks, since PSNR of the photograph is infinite."""
    return srcc(rankdata(values), mos)


def authors_table(frame: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """Return SRCC by scene among all versions with the photograph, as HECD's authors did, beside their published values."""
    rows = []
    for scene, members in frame.groupby("scene"):
        row = {"scene": scene, "n": len(members)}
        for name in _PER_SCENE:
            value = scene_srcc(values.loc[members.index, name].to_numpy(), members["PR"].to_numpy())
            published = PUBLISHED.get(name, {}).get(scene)
            row[name] = f"{value:.3f}" if published is None else f"{value:.3f} ({published:.3f})"
        rows.append(row)
    return pd.DataFrame(rows)


def largest_difference(frame: pd.DataFrame, values: pd.DataFrame) -> float:
    """Return the largest difference between our values and the published ones; NaN if we have none of these scenes."""
    differences = [
        abs(scene_srcc(values.loc[members.index, name].to_numpy(), members["PR"].to_numpy()) - PUBLISHED[name][scene])
        for scene, members in frame.groupby("scene")
        for name in PUBLISHED
        if scene in PUBLISHED[name]
    ]
    return max(differences, default=float("nan"))


def agreement_row(frame: pd.DataFrame, pred: np.ndarray, order: np.ndarray | None = None) -> dict[str, str]:
    """Return SRCC with PR, pooled and within scene, on all recolorings and on outputs of real colorizers, with intervals."""
    row = {}
    for label, chosen in (
        ("recolorings", (frame["method"] != "original").to_numpy()),
        ("colorizers", frame["kind"].isin(_COLORIZERS).to_numpy()),
    ):
        mos, scenes = frame["PR"].to_numpy(float)[chosen], frame["scene"].to_numpy(str)[chosen]
        measured = measure_agreement(pred[chosen], mos, scenes, BOOTSTRAP, 0, None if order is None else order[chosen])
        for metric, heading in (("SRCC", "pooled"), ("within-scene SRCC", "within scene")):
            value, low, high = measured.set_index("metric").loc[metric, ["value", "low", "high"]]
            row[f"{label}, {heading}"] = f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(low) else f"{value:.2f}"
    return row


def main_table(frame: pd.DataFrame, values: pd.DataFrame, origin: dict, networks: pd.DataFrame) -> pd.DataFrame:
    """Return a table of all predictors: the metrics, our networks, and the method mean.

    Args:
        frame: HECD.
        values: Values of :func:`measure`.
        origin: Facts on each metric under "metrics": "reference", "lower is better" and "ms".
        networks: CF, SCC and PR of each image by networks that have not seen its scene, with the index of ``frame``.
    """
    rows = []
    for name in values.columns:
        known = origin["metrics"][name]
        shown, sign = (f"-{name}", -1) if known["lower is better"] else (name, 1)
        about = {"metric": shown, "reference": "yes" if known["reference"] else "no", "ms": f"{known['ms']:.1f}"}
        rows.append(about | agreement_row(frame, sign * values[name].to_numpy()))
    for dimension in networks.columns:
        about = {"metric": f"**our {dimension}**", "reference": "no", "ms": ""}
        rows.append(about | agreement_row(frame, networks[dimension].to_numpy()))
    means = method_means(frame, "PR")
    about = {"metric": "method mean", "reference": "no", "ms": ""}
    rows.append(about | agreement_row(frame, means["mean"].to_numpy(), means["place"].to_numpy()))
    return pd.DataFrame(rows)


def page(frame: pd.DataFrame, values: pd.DataFrame, origin: dict, networks: pd.DataFrame) -> str:
    difference = largest_difference(frame, values)
    return _PAGE.format(
        command=origin["command"],
        versions=", ".join(f"{name} {version}" for name, version in origin["versions"].items()),
        recolorings=(frame["method"] != "original").sum(),
        colorizers=frame["kind"].isin(_COLORIZERS).sum(),
        scenes=frame["scene"].nunique(),
        main_table=main_table(frame, values, origin, networks).to_markdown(index=False, disable_numparse=True),
        skipped="".join(f"- {line}\n" for line in origin["skipped"]) or "- none\n",
        difference="none of those scenes is here" if math.isnan(difference) else f"differs by at most {difference:.3f}",
        authors_table=authors_table(frame, values).to_markdown(index=False, disable_numparse=True),
    )


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    folder = Path(__file__).parent
    frame = load_hecd(args.hecd)
    names = [Path(image).name for image in frame["image"]]
    if args.reuse:
        saved = pd.read_csv(folder / "hecd_metrics.csv").set_index("image")
        values = saved.loc[names].set_index(frame.index)
        origin = json.loads((folder / "hecd_metrics.json").read_text())
    else:
        packaged, skipped = packaged_metrics(args.packages)
        metrics = own_metrics() | packaged
        values, times = measure(frame, metrics)
        origin = {
            "command": command_line(),
            "versions": versions(packaged),
            "skipped": skipped,
            "metrics": {
                name: {"reference": m.needs_reference, "lower is better": m.lower_is_better, "ms": round(times[name], 1)}
                for name, m in metrics.items()
            },
        }
    saved = pd.read_csv(folder / "hecd_predictions.csv").set_index("image")
    networks = saved.loc[names, ["CF", "SCC", "PR"]].set_index(frame.index)
    text = page(frame, values, origin, networks)
    print(text)
    if not args.write:
        return
    write_atomic(folder / "hecd_metrics.md", text)
    if not args.reuse:
        written = values.assign(image=names).set_index("image").to_csv(float_format=f"%.{DIGITS}g")
        write_atomic(folder / "hecd_metrics.csv", written)
        write_atomic(folder / "hecd_metrics.json", json.dumps(origin, indent=4) + "\n")


if __name__ == "__main__":
    main()
