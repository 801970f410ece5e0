"""The files of a run: checkpoints to resume from, and a log of its epochs (table, curves, TensorBoard, console)."""

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

NEXT = "next.pt"  # weights that become best.pt next


class Checkpoint:
    """The state of a run: ``last.pt``, to resume from, and ``best.pt``, the best epoch.

    Args:
        model: The network that is trained.
        stateful: Optimizer, scheduler and scaler, by name.
        options: Options of the script.
        output: Folder of both files; None keeps the best weights in memory.
        record: Entries of the checkpoint on its training data.

    Attributes:
        epoch: The last finished epoch.
        best_epoch: The best epoch so far; 0 before the first.
        history: One row per epoch, as in metrics.csv.
        loss: Mean training loss of the last epoch.
    """

    def __init__(
        self, model: ScoreNet, stateful: dict[str, Any], options: TrainOptions, output: Path | None, record: dict[str, Any]
    ) -> None:
        self.model, self.stateful, self.options, self.output, self.record = model, stateful, options, output, record
        self.epoch, self.best, self.best_epoch, self.best_hash = 0, -math.inf, 0, ""
        self.history: list[dict[str, float]] = []
        self.loss = math.inf
        self.best_weights: dict[str, Tensor] = {}

    def resume(self) -> None:
        """Restore the run in the folder, if ``--resume`` asks for it and there is one.

        Raises:
            ValueError: If this run cannot go on with the one in the folder; says why.
        """
        if not self.options.resume or self.output is None:
            return
        if not (self.output / "last.pt").is_file():
            if (best := self.output / "best.pt").is_file():
                raise ValueError(f"{best} is there without the last.pt that --resume goes on from; pass another --output")
            return
        kept = {"epoch", "best", "best_epoch", "best_hash", "history", *self.stateful}
        content = self.record.get("content", {})
        state = read_state(self.output, self.model.dimension, self.options.recorded(), content, kept)
        if distributed.is_main():
            check_best(self.output, state["best_hash"])
        load_states(self.output, state, {"model": self.model, **self.stateful})
        self.epoch, self.history = state["epoch"], state["history"]
        self.best, self.best_epoch, self.best_hash = (state[name] for name in ("best", "best_epoch", "best_hash"))
        self.loss = self.history[-1]["loss"] if self.history else math.inf
        print(f"resuming after epoch {self.epoch} of {self.options.epochs}")

    def save(self, row: dict[str, float], quality: float) -> None:
        """Record an epoch, and keep its weights as the best ones if no earlier epoch was as good.

        Args:
            row: Number, loss, rate, metrics and seconds of the epoch.
            quality: The number that epochs are compared by, higher is better. NaN, from a constant prediction, counts as -1.
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
        if better:  # renamed to best.pt after last.pt has its hash, so that a kill at any moment leaves a pair
            save_checkpoint(output / NEXT, self.model, half=self.options.half, **extra)
            self.best_hash = sha256(output / NEXT)
        save_checkpoint(
            output / "last.pt",
            self.model,
            **extra,
            **{name: item.state_dict() for name, item in self.stateful.items()},
            best=self.best,
            best_epoch=self.best_epoch,
            best_hash=self.best_hash,
            history=self.history,
            settings=self.options.recorded(),
        )
        if better:
            os.replace(output / NEXT, output / "best.pt")

    def chosen(self) -> ScoreNet:
        """Return the network of the best epoch, in evaluation mode, read from its file."""
        if self.output is None:
            self.model.load_state_dict(self.best_weights)
            return self.model.eval()
        distributed.barrier()
        best = self.output / "best.pt"
        content = read_checkpoint(best)
        check_best(self.output, self.best_hash)
        networks = {self.model.dimension: type(self.model)}
        model: Any = build_model(content, str(best), networks).to(self.model.device).eval()
        model.weights_hash = self.best_hash
        return model


class Log:
    """The log of the epochs of a run: metrics.csv, TensorBoard and one line per epoch, and curves.png at the end.

    Args:
        output: Folder of the files; None for a log that neither writes nor prints.
        title: Title of the curves.
        start: The first epoch; TensorBoard hides later steps of an earlier run.
        epochs: Number of epochs.
    """

    def __init__(self, output: Path | None, title: str, start: int, epochs: int) -> None:
        self.output, self.title, self.epochs = output, title, epochs
        self.board = None if output is None else summary_writer(output, start)

    def write(self, history: list[dict[str, float]], best_epoch: int) -> None:
        """Log the last epoch of a history."""
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
        """Close the log, and draw the curves of a history."""
        if self.output is not None and self.board is not None:
            self.board.close()
            plot_curves(history, self.output / "curves.png", self.title)


def command_line() -> str:
    """Return the command of this run, in the form typed in the folder of the repository."""
    script = Path(sys.argv[0]).resolve()
    root = Path(__file__).resolve().parents[1]
    name = script.relative_to(root) if script.is_relative_to(root) else Path(script.name)
    return shlex.join(["python", name.as_posix(), *sys.argv[1:]])


def read_state(
    output: Path, dimension: str, settings: dict[str, Any], content: dict[str, str], keys: set[str]
) -> dict[str, Any]:
    """Read the state that a run stopped with.

    Args:
        output: Folder of the run.
        dimension: The dimension that is trained.
        settings: The settings of this run, see ``training.options.Settings``.
        content: A hash of each kind of data, see ``training_record``.
        keys: Names of the entries that the caller needs.

    Returns:
        The content of ``last.pt``.

    Raises:
        ValueError: If the run has another dimension, other settings or data, or is of another version of this project.
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


def load_states(output: Path, state: dict[str, Any], stateful: dict[str, Any]) -> None:
    """Load the states that a run stopped with into network, optimizer and so on.

    Args:
        output: Folder of the run.
        state: The content of ``last.pt``.
        stateful: The objects to load into, by the name of their state.

    Raises:
        ValueError: If a state does not fit.
    """
    try:
        for name, item in stateful.items():
            item.load_state_dict(state[name])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise other_version(output, error) from error


def other_version(output: Path, reason: object) -> ValueError:
    """Return the error for a ``last.pt`` that this version cannot go on with."""
    reason = " ".join(str(reason).split())[:200]
    return ValueError(
        f"{output / 'last.pt'} is of another version of this project ({reason}), which alone can go on with it; pass "
        "--overwrite to train anew, or another --output"
    )


def check_best(output: Path, best_hash: str) -> None:
    """Check that ``best.pt`` is the file that the run wrote, and finish a replacement that a kill interrupted.

    Raises:
        ValueError: If ``best.pt`` is absent or another file.
    """
    best, waiting = output / "best.pt", output / NEXT
    if waiting.is_file() and sha256(waiting) == best_hash:
        os.replace(waiting, best)
    if not best.is_file() or sha256(best) != best_hash:
        raise ValueError(f"{best} is not the file that this run wrote: something replaced it; pass --overwrite to train anew")


def summary_writer(output: Path, start: int) -> Any:
    """Return a writer of TensorBoard files that starts at the step ``start``."""
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
    """Write results as JSON, with NaN as null, because JSON has no NaN."""
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
