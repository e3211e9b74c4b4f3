"""The display of a run in progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from nas.base.metrics import spoken
from nas.base.units import format_count, format_duration, shown
from nas.runs.records import lost
from nas.runs.trials import State
from nas.training import monitor


class Display:
    """A plan in progress: a live display on a terminal, one plain line for each trial elsewhere.

    state: at the start. name: gives the name of a trial. limit: the seconds after which no trial is started. metric:
    the column that is shown.
    """

    def __init__(
        self,
        state: State,
        name: Callable[[Trial | FrozenTrial], str] = lambda trial: f"trial {trial.number:3d}",
        limit: Callable[[], float] = lambda: math.inf,
        metric: str = "accuracy",
    ) -> None:
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.state, self.name, self.limit, self.metric = state, name, limit, metric
        self.before, self.since = state.done, time.monotonic()
        self.end = self.since + limit()
        self.idle = False
        self.trials: dict[int, tuple[str, str]] = {}  # in training, by number: description, progress
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} trials · {task.description}", markup=False),
        )
        self.task = self.bar.add_task("", total=state.total, completed=state.done)
        self.live = Live(get_renderable=self._picture, console=self.console) if self.console.is_terminal else None

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def _picture(self) -> Group:
        """The bar, and below it the trials in training."""
        line = " · ".join(text for text in (f"{self.left()} left", self.state.text) if text)
        self.bar.update(self.task, completed=self.state.done, total=self.state.total, description=line)
        return Group(self.bar, *(Text("\n".join(lines)) for lines in list(self.trials.values())))

    def left(self) -> str:
        """The time left, if the other trials take as long as those since the start, or until the limit."""
        done, total = self.state.done, self.state.total
        if done <= self.before:
            return "?"
        each = (time.monotonic() - self.since) / (done - self.before)
        return format_duration(min(each * (total - done), self.end - time.monotonic()))

    def started(self, trial: Trial) -> None:
        """Name the trial, its architecture and MAdds."""
        known = trial.user_attrs
        stages = " ".join(word for word in known["architecture"].split() if "_" in word)
        what = f"{self.name(trial)} · {format_count(known['madds'])} MAdds · {stages}"
        self.trials[trial.number] = what, f"epoch 1 · {spoken(self.metric)} so far ?"

    def progressed(self, number: int, progress: monitor.Progress) -> None:
        """Show how far a training is and its metric so far."""
        if number not in self.trials:  # a message that comes after the result
            return
        share = 100 * progress.step // progress.steps
        so_far = f"{100 * getattr(progress.score, self.metric):.1f} %" if progress.score else "?"
        self.trials[number] = (
            self.trials[number][0],
            f"epoch {progress.epoch}/{progress.epochs} · {share} % of its steps · loss {progress.loss:.2f} · "
            f"{spoken(self.metric)} so far {so_far}",
        )

    def waiting(self) -> None:
        """Print, the first time only, that there is nothing to train here."""
        if not self.idle:
            self.console.print("waiting for the trials of other processes")
        self.idle = True

    def finished(self, trials: Sequence[FrozenTrial], state: State) -> None:
        """Print one line for each of these finished trials."""
        ended = [trial for trial in trials if not lost(trial)]
        self.state = state
        self.end = time.monotonic() + self.limit()
        for trial in trials:
            self.trials.pop(trial.number, None)
            if lost(trial):
                self.console.print(f"{self.name(trial)}  was given to another worker: this one was not heard of")
        for more, trial in zip(reversed(range(len(ended))), ended, strict=True):
            self.console.print(self._line(trial, state.done - more))

    def _line(self, trial: FrozenTrial, done: int) -> str:
        known = trial.user_attrs
        if trial.state == TrialState.COMPLETE:
            what = f"{spoken(self.metric)} {100 * known[self.metric]:5.1f} %"
        else:
            what = f"failed: {shown(known.get('note') or 'unknown cause')}"
        return (
            f"{self.name(trial)}  {done}/{self.state.total}  {what}  {format_count(known['madds']):>6} MAdds  "
            f"{format_count(known['params']):>6} params  {known.get('seconds', 0):5.1f} s  {known['hash']}  "
            f"{self.state.text}" + ("" if self.live else f"  left {self.left()}")
        )
