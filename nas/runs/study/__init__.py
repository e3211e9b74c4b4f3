"""The run: one directory and its Optuna studies, opened, continued and recorded so that no trial is lost.

A trial is asked from the study and trained, then its result is told to the study; its parameters are in the database
before training starts. A trial that was interrupted is trained again, so a killed run ends like an uninterrupted one.
`directory`: the run's files; `database`: its studies; `records`: what they hold; `sharing`: several processes on one
study; `trials`: the loop that trains.
"""

from nas.runs.study.database import open_study, read_study, shown_url
from nas.runs.study.directory import (
    Direction,
    check_arguments,
    environment,
    extend_run,
    locked,
    removed_option,
    write_run,
)
from nas.runs.study.records import CURVES, MEASURED, describe_trial, finished, lost, table
from nas.runs.study.sharing import claim, earlier, underway
from nas.runs.study.trials import Observer, run_trials

__all__ = [
    "CURVES",
    "MEASURED",
    "Direction",
    "Observer",
    "check_arguments",
    "claim",
    "describe_trial",
    "earlier",
    "environment",
    "extend_run",
    "finished",
    "locked",
    "lost",
    "open_study",
    "read_study",
    "removed_option",
    "run_trials",
    "shown_url",
    "table",
    "underway",
    "write_run",
]
