"""Shared by the commands: options, running, exit codes and printing."""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from nas.base.errors import RunFailed, UserError
from nas.base.limits import LIMITED, typed
from nas.base.units import shown

Given = ParamSpec("Given")
Found = TypeVar("Found")

LONGEST = 900  # characters of an error message: typer's quote the whole input
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # typer's own name for it differs between versions

# Warnings of libraries that do not help the user of a command; programs that import this package still see them
_OPTUNA = (".*experimental.*The interface can change", "Heartbeat of storage is supposed to be used")
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default
}

# Options of several commands
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="Trials side by side.  [default: 1 on a GPU, up to 4 on cores, what --ray has room for]",
    ),
]
RayOption = Annotated[
    str | None, typer.Option(help="Train on a Ray cluster that this machine is a node of: auto or HOST:PORT.")
]
GpusPerTrialOption = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="With --ray: the fraction of a GPU for each trial.  [default: 1]")
]
_METRIC = "accuracy, or balanced: the mean of the classes' accuracies."
MetricOption = Annotated[str, typer.Option("--metric", help=_METRIC)]
RunsMetricOption = Annotated[str | None, typer.Option("--metric", help=f"{_METRIC}  [default: the run's]")]
ResizeOption = Annotated[
    str | None,
    typer.Option(help="How images of folders become square: crop, pad or stretch.  [default: the run's, else crop]"),
]
SkipBrokenOption = Annotated[
    bool | None,
    typer.Option("--skip-broken/--no-skip-broken", help="Leave out images that cannot be decoded, however many."),
]
RecheckOption = Annotated[
    bool, typer.Option("--recheck", help="Read all image files again, even those of the same size and time as before.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


_EXAMPLES = {"madds": "400M", "params": "5M", "memory": "320KB", "latency": "5ms"}
_MEANT = {"memory": "bytes held at once in int8 (twice as many in fp16)", "latency": "time for an image, measured here"}


def limited(command: Callable[Given, Found]) -> Callable[Given, Found]:
    """Let a command whose last parameters are **limits take --max-madds 400M, --min-madds and so on for each cost."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
    for name in LIMITED:
        example = f", such as {_EXAMPLES[name]}" if name in _EXAMPLES else ""
        for end, word in (("max", "Most"), ("min", "Least")):
            option = f"{end}_{name}"
            help_text = f"{word} {_MEANT.get(name, name)}{example if end == 'max' else ''}."
            kind = Annotated[str | None, typer.Option(typed(option), help=help_text)]
            parameters.append(inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def run(command: Callable[..., Any]) -> None:
    """Run a command and end the process: 0 done, 1 the run failed, 2 the user's input was wrong, 130 interrupted.

    Every end but the first is one line on stderr, without a traceback.
    """
    _quieten()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    for stream in (sys.stdout, sys.stderr):  # some cannot encode α, such as a file on Windows
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = app(standalone_mode=False)
        if code == 130:  # what newer versions of typer make of Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        code = _fail(str(error), 2)
    except _USAGE_ERROR as error:
        code = _fail(getattr(error, "format_message", error.__str__)(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted; the same command continues the run", 130)
    except RunFailed as error:
        code = _fail(str(error), 1)
    except OSError as error:
        code = _fail(f"{error}; what was finished is kept, the same command continues the run", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _quieten() -> None:
    """Silence notices of Optuna and Ray in this process, which belongs to the command."""
    logging.getLogger("optuna").setLevel(logging.WARNING)  # imported by now if the command uses it
    for message in _OPTUNA:
        warnings.filterwarnings("ignore", message)
    os.environ.update(_RAY)


def _fail(message: str, code: int) -> int:
    print("error: " + shown(" ".join(message.split()))[:LONGEST], file=sys.stderr, flush=True)
    return code


def say(text: str) -> None:
    """Print a line for the user literally, without markup."""
    Console(highlight=False, soft_wrap=True, markup=False, emoji=False).print(shown(text))


def say_json(value: Any) -> None:
    """Print a value for a script."""
    print(json.dumps(value, indent=1))


def show(table: Table) -> None:
    """Print a table literally, in full width even if the output is not a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 250
    console.print(table)
