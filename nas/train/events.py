"""A training's curve as TensorBoard shows it: event files in the run directory, which say what curve.csv says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nas.training.trainer import Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SCALARS = (
    "rate",
    "train_loss",
    "val_loss",
    "top1",
    "top5",
    "balanced_accuracy",
)  # columns of curve.csv; the step is the epoch


class Events:
    """The event file of one process, begun with the first epoch that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._began = 0.0  # when the training would have begun if it had not been interrupted, seconds since 1970

    def published(self, rows: Sequence[Row]) -> None:
        """Write the last row of a curve; first all that went before, in place of what earlier processes wrote.

        A process that was killed may have written epochs that are not in its checkpoint, or the reverse: TensorBoard
        drops the former, and the latter are written now.
        """
        new = rows[-1:]
        if self._writer is None:
            self._began = time.time() - rows[-1].seconds
            from torch.utils.tensorboard import SummaryWriter  # takes a second

            self._writer, new = SummaryWriter(self.folder, purge_step=rows[0].epoch), rows
        for row in new:
            for name in SCALARS:
                self._writer.add_scalar(name, getattr(row, name), row.epoch, walltime=self._began + row.seconds)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()


def write_events(folder: Path) -> None:
    """Write the curve of a training that is done, unless an event file is there."""
    if not any(folder.glob("events.out.tfevents.*")):
        table = pd.read_csv(folder / "curve.csv")
        with closing(Events(folder)) as events:
            events.published([Row(*row) for row in table.itertuples(index=False)])
