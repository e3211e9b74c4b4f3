"""The display of a training in progress."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nas.base.units import format_duration
from nas.training import monitor
from nas.training.trainer import Row


class Display:
    """One line for each epoch, and on a terminal a bar below."""

    def __init__(self, epochs: int, shown: bool, metric: str = "accuracy") -> None:
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False, quiet=not shown)
        self.epochs, self.metric = epochs, metric
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}", markup=False),
            BarColumn(),
            TextColumn("loss {task.fields[loss]} · left", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
        )
        self.task = self.bar.add_task("", total=None, epoch=1, epochs=epochs, loss="?")

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def progressed(self, progress: monitor.Progress) -> None:
        """Show how far the training is."""
        loss = f"{progress.loss:.3f}"
        self.bar.update(self.task, total=progress.steps, completed=progress.step, epoch=progress.epoch, loss=loss)

    def published(self, row: Row) -> None:
        """Print one line for an epoch."""
        balanced = f"balanced accuracy {100 * row.balanced_accuracy:5.2f} %  " * (self.metric == "balanced_accuracy")
        self.console.print(
            f"epoch {row.epoch:3d}/{self.epochs}  loss {row.train_loss:.4f}  validation: loss {row.val_loss:.4f}  "
            f"{balanced}top-1 {100 * row.top1:5.2f} %  top-5 {100 * row.top5:6.2f} %  {format_duration(row.seconds)}"
        )
