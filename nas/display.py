"""A run as it is shown while it goes on."""

from __future__ import annotations

from collections.abc import Callable

from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nas import proxy
from nas.units import format_count, format_duration


class Display:
    """A run while it goes on: a live display on a terminal, one plain line a trial elsewhere.

    total and done count trials; `after` is called with each finished one and says how the run stands.
    """

    def __init__(self, total: int, done: int, after: Callable[[FrozenTrial], str]) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.total, self.done, self.after = total, done, after
        self.spent: list[float] = []
        self.state = ""
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} trials · {task.fields[left]} left\n{task.fields[now]}"),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=total, completed=done, left="?", now="")
        self.current = ""

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def left(self) -> str:
        """The time left, from the trials so far."""
        if not self.spent:
            return "?"
        return format_duration(sum(self.spent) / len(self.spent) * (self.total - self.done))

    def _refresh(self, now: str) -> None:
        self.bar.update(self.task, completed=self.done, left=self.left(), now=now)

    def started(self, trial: Trial) -> None:
        """Name the trial, its architecture and MAdds."""
        known = trial.user_attrs
        stages = " ".join(word for word in known["architecture"].split() if "_" in word)
        self.current = f"trial {trial.number} · {format_count(known['madds'])} MAdds · {stages}"
        self._refresh(f"{self.current}\n{self.state}")

    def progressed(self, progress: proxy.Progress) -> None:
        """Show how far the training is and its accuracy so far."""
        self._refresh(
            f"{self.current}\nepoch {progress.epoch:g}/{progress.epochs} · {_so_far(progress)} · {self.state}"
        )

    def finished(self, trial: FrozenTrial) -> None:
        """Say one line about a finished trial."""
        self.done += 1
        known = trial.user_attrs
        self.state = self.after(trial)
        if trial.state == TrialState.COMPLETE:
            self.spent.append(known["seconds"])
            what = f"accuracy {100 * known['accuracy']:5.1f} %"
        else:
            what = f"failed: {known.get('note', 'unknown cause')}"
        self.console.print(
            f"trial {trial.number:3d}  {self.done}/{self.total}  {what}  {format_count(known['madds']):>6} MAdds  "
            f"{format_count(known['params']):>6} params  {known.get('seconds', 0):5.1f} s  {known['hash']}  "
            f"{self.state}" + ("" if self.live else f"  left {self.left()}"),
            markup=False,
        )
        self._refresh("")


def _so_far(progress: proxy.Progress) -> str:
    return "accuracy so far ?" if progress.accuracy is None else f"accuracy so far {100 * progress.accuracy:.1f} %"
