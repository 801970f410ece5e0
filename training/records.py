"""What a run writes: checkpoints that it goes on from, and a log of its epochs (table, curves, TensorBoard, console)."""

import csv
import io
import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from models.base import ScoreNet
from models.loading import build_model
from training.options import TrainOptions
from utils import distributed
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.files import sha256, write_atomic

NEXT = "next.pt"  # what is about to be best.pt


class Checkpoint:
    """Where a run stands: ``last.pt``, which it goes on from, and ``best.pt``, the best epoch.

    Args:
        model: The network that is trained.
        parts: Optimizer, scheduler and scaler, by name.
        options: What the script is asked to do.
        output: Folder of both files; None keeps the best weights in memory.
        record: What the checkpoint says of its training data.

    Attributes:
        epoch: The last epoch that is done.
        best_epoch: The best of them; 0 before the first.
        history: One row per epoch, as in metrics.csv.
        loss: Mean training loss of the last epoch.
    """

    def __init__(
        self, model: ScoreNet, parts: dict[str, Any], options: TrainOptions, output: Path | None, record: dict[str, Any]
    ) -> None:
        self.model, self.parts, self.options, self.output, self.record = model, parts, options, output, record
        self.epoch, self.best, self.best_epoch, self.best_hash = 0, -math.inf, 0, ""
        self.history: list[dict[str, float]] = []
        self.loss = math.inf
        self.best_weights: dict[str, Tensor] = {}

    def resume(self) -> None:
        """Go on where the run in the folder stopped, if that was asked for and there is one.

        Raises:
            ValueError: If it cannot be gone on with; says why.
        """
        if not self.options.resume or self.output is None:
            return
        if not (self.output / "last.pt").is_file():
            if (best := self.output / "best.pt").is_file():
                raise ValueError(f"{best} is there without the last.pt that --resume goes on from; pass another --output")
            return
        kept = {"epoch", "best", "best_epoch", "best_hash", "history", *self.parts}
        content = self.record.get("content", {})
        state = read_state(self.output, self.model.dimension, self.options.recorded(), content, kept)
        if distributed.is_main():
            check_best(self.output, state["best_hash"])
        load_parts(self.output, state, {"model": self.model, **self.parts})
        self.epoch, self.history = state["epoch"], state["history"]
        self.best, self.best_epoch, self.best_hash = (state[name] for name in ("best", "best_epoch", "best_hash"))
        self.loss = self.history[-1]["loss"] if self.history else math.inf
        print(f"resuming after epoch {self.epoch} of {self.options.epochs}")

    def save(self, row: dict[str, float], quality: float) -> None:
        """Take down an epoch, and its weights as the best ones if no earlier epoch was as good.

        Args:
            row: Number, loss, rate, metrics and seconds of the epoch.
            quality: What epochs are compared by, higher is better. NaN, which a constant prediction has, is kept while
                nothing better comes.
        """
        self.epoch, self.loss = int(row["epoch"]), row["loss"]
        if distributed.is_main():
            self.history.append(row)
            quality = -1.0 if math.isnan(quality) else quality
            better = quality > self.best
            if better:
                self.best, self.best_epoch = quality, self.epoch
            if self.output is not None:
                self._write(self.output, row, better)
            elif better:
                self.best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.best_epoch, self.best_hash = distributed.broadcast((self.best_epoch, self.best_hash))

    def _write(self, output: Path, row: dict[str, float], better: bool) -> None:
        epochs = {"epoch": self.epoch, "epochs": self.options.epochs}
        extra = {"content": {}, **self.record, "metrics": dict(row), "command": command_line(), **epochs}
        if better:  # it becomes best.pt once last.pt knows it, so that a kill at any moment leaves a pair
            save_checkpoint(output / NEXT, self.model, half=self.options.half, **extra)
            self.best_hash = sha256(output / NEXT)
        save_checkpoint(
            output / "last.pt",
            self.model,
            **extra,
            **{name: part.state_dict() for name, part in self.parts.items()},
            best=self.best,
            best_epoch=self.best_epoch,
            best_hash=self.best_hash,
            history=self.history,
            settings=self.options.recorded(),
        )
        if better:
            os.replace(output / NEXT, output / "best.pt")

    def chosen(self) -> ScoreNet:
        """Return the network of the best epoch, in evaluation mode, as the file has it."""
        if self.output is None:
            self.model.load_state_dict(self.best_weights)
            return self.model.eval()
        distributed.barrier()
        best = self.output / "best.pt"
        content = read_checkpoint(best)
        check_best(self.output, self.best_hash)  # of what was read, even if it has been replaced since
        networks = {self.model.dimension: type(self.model)}
        model: Any = build_model(content, str(best), networks).to(self.model.device).eval()
        model.weights_hash = self.best_hash
        return model


class Log:
    """What a run shows of its epochs: metrics.csv, TensorBoard and a line each, and curves.png at the end.

    Args:
        output: Folder of the files; None for a log that neither writes nor prints.
        title: Of the curves.
        start: The first epoch; a run that goes on hides the steps of TensorBoard that it will write again.
        epochs: How many there will be.
    """

    def __init__(self, output: Path | None, title: str, start: int, epochs: int) -> None:
        self.output, self.title, self.epochs = output, title, epochs
        self.board = None if output is None else summary_writer(output, start)

    def write(self, history: list[dict[str, float]], best_epoch: int) -> None:
        """Tell of the last epoch of a history."""
        if self.output is None or self.board is None:
            return
        write_history(self.output / "metrics.csv", history)
        row = history[-1]
        epoch = int(row["epoch"])
        for key, value in row.items():
            if key != "epoch" and not math.isnan(value):
                self.board.add_scalar(key, value, epoch)
        shown = "  ".join(f"{k} {row[k]:.4f}" for k in ("loss", "SRCC", "PLCC", "KRCC", "RMSE") if k in row)
        print(f"epoch {epoch:3d}/{self.epochs}  {shown}  {row['seconds']:.0f} s{'  *' if epoch == best_epoch else ''}")

    def close(self, history: list[dict[str, float]]) -> None:
        """Draw the curves of a history, and end."""
        if self.output is not None and self.board is not None:
            self.board.close()
            plot_curves(history, self.output / "curves.png", self.title)


def command_line() -> str:
    """Return the command of this run, as typed in the folder of the repository."""
    script = Path(sys.argv[0]).resolve()
    root = Path(__file__).resolve().parents[1]
    name = script.relative_to(root) if script.is_relative_to(root) else Path(script.name)
    return shlex.join(["python", name.as_posix(), *sys.argv[1:]])


def read_state(
    output: Path, dimension: str, settings: dict[str, Any], content: dict[str, str], keys: set[str]
) -> dict[str, Any]:
    """Read where a run stopped.

    Args:
        output: Its folder.
        dimension: What is trained.
        settings: The arguments that decide where training ends up.
        content: A hash of each kind of data, see ``training_record``.
        keys: What the caller reads of the result.

    Returns:
        The content of ``last.pt``.

    Raises:
        ValueError: If it is a run of another dimension, of other settings or data, or of another version of this project.
    """
    state = read_checkpoint(output / "last.pt")
    if state.get("dimension") != dimension:
        raise ValueError(f"{output} holds a run of {state.get('dimension')}, not of {dimension}; pass another --output")
    lacking = {"settings", "content", "model", *keys} - set(state)
    if lacking or set(state["settings"]) != set(settings):
        raise other_version(output, ", ".join(sorted(lacking or set(state["settings"]) ^ set(settings))))
    begun = {"settings": state["settings"], "data": state["content"]}
    now = {"settings": settings, "data": content}
    for kind, values in begun.items():
        other = [name for name in {**values, **now[kind]} if values.get(name) != now[kind].get(name)]
        named = [f"--{name.replace('_', '-')} {values[name]}" for name in other] if kind == "settings" else other
        if other:
            raise ValueError(
                f"{output} was started with {'other data: ' if kind == 'data' else ''}{', '.join(named)}; a run goes on only "
                f"with the same {kind}: pass --overwrite to train anew, or another --output"
            )
    return state


def load_parts(output: Path, state: dict[str, Any], parts: dict[str, Any]) -> None:
    """Give a network, an optimizer and so on the states that a run stopped with.

    Args:
        output: Folder of the run.
        state: The content of ``last.pt``.
        parts: What takes the state of the same name.

    Raises:
        ValueError: If one does not fit.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise other_version(output, error) from error


def other_version(output: Path, reason: object) -> ValueError:
    """The error of a ``last.pt`` that this version cannot go on with."""
    reason = " ".join(str(reason).split())[:200]
    return ValueError(
        f"{output / 'last.pt'} is of another version of this project ({reason}), which alone can go on with it; pass "
        "--overwrite to train anew, or another --output"
    )


def check_best(output: Path, best_hash: str) -> None:
    """Check that ``best.pt`` is the file that the run wrote, and finish what a kill left half done.

    Raises:
        ValueError: If it is another file.
    """
    best, waiting = output / "best.pt", output / NEXT
    if waiting.is_file() and sha256(waiting) == best_hash:
        os.replace(waiting, best)
    if not best.is_file() or sha256(best) != best_hash:
        raise ValueError(f"{best} is not what this run wrote: something replaced it; pass --overwrite to train anew")


def summary_writer(output: Path, start: int) -> Any:
    """Return a writer of TensorBoard files, from the step ``start`` on."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

    return SummaryWriter(str(output / "tensorboard"), purge_step=start)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write one CSV row per epoch."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
    write_atomic(path, buffer.getvalue())


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON; not-a-number becomes null, for JSON has none."""
    clean = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in results.items()}
    write_atomic(path, json.dumps(clean, indent=2) + "\n")


def plot_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw training loss and validation correlations over the epochs, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], marker=".")
    left.set(title=f"{title}: training loss", xlabel="epoch")
    for key in ("SRCC", "PLCC", "KRCC"):
        if key in history[0]:
            right.plot(epochs, [row[key] for row in history], marker=".", label=key)
    if "SRCC" in history[0]:
        right.legend()
    right.set(title="validation, scenes not trained on", xlabel="epoch")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    plt.close(figure)
    write_atomic(path, buffer.getvalue())
