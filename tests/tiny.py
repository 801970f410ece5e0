"""The five published systems in sizes that a test can train, as settings of ``Baseline``."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "dpam": {"size": 64, "patch": 16, "width": 32, "depth": 3, "heads": 2, "taps": [1, 2], "pixel_width": 8}
    | {"slic_size": [64, 64], "region": 16, "superpixels": 12, "pixels": 50},
    "delegate_transformer": {"size": 64, "width": 16, "depths": [1, 1, 2, 2], "heads": [1, 2, 4, 8], "groups": [1, 2]}
    | {"window": 2, "drop_path": 0.0},
    "afine": {"size": 64, "width": 32, "depth": 2, "heads": 2, "patch": 16, "table": 4, "projected": 8},
    "nr_aigciqa": {"backbone": "resnet18", "size": 64, "depths": [1, 1, 1, 1]},
    "fr_aigciqa": {"backbone": "resnet18", "size": 64, "depths": [1, 1, 1, 1]},
}
