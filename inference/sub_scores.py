"""CF and SCC that are given in files, for PR."""

from dataclasses import dataclass, field
from pathlib import Path

from utils.images import ImageList
from utils.scores import NO_ROW, join_scores, missing_scores, read_scores, row_names


@dataclass
class SubScores:
    """Given CF and SCC of images.

    Attributes:
        scores: Scores by image, then by dimension.
        errors: Error by image, where the row of the image in a file has an error in place of a score.
    """

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def read(self, path: Path, dimension: str, images: ImageList) -> None:
        """Add the CF or SCC of all images from a score file.

        Raises:
            ValueError: If an image has no row, or its row was made from a file of another size.
        """
        names = images.names
        frame = read_scores(path, dimension)
        recorded = frame.attrs.get("meta", {}).get("files", {})
        for name, row in row_names(names, frame).items():
            size = recorded.get(row, "").partition("-")[0]
            if size and size != images.fingerprints[name].partition("-")[0]:
                raise ValueError(
                    f"{path} holds the {dimension} of another file named {name}; run infer_{dimension}.py on {images.root}"
                )
        missing = missing_scores(names, frame, dimension)
        self.errors |= {name: f"no {dimension} score: {reason}" for name, reason in missing.items() if reason != NO_ROW}
        scored = [name for name in names if missing.get(name, NO_ROW) == NO_ROW]
        for name, score in zip(scored, join_scores(scored, frame, dimension, path).tolist(), strict=True):
            self.scores.setdefault(name, {})[dimension] = score
