"""A scaling: its config, the choice of α, β, γ by training, the family. `scale(run, phi=3)` runs the command."""

from __future__ import annotations

from typing import Any

from nas.networks.scaling import Member
from nas.runs.run import Run
from nas.scale import command

__all__ = ["scale"]


def scale(baseline: Run | str | None = None, phi: float | str | None = None, **options: Any) -> list[Member]:
    """Scale a run's baseline, or a network, into a family; returns its members, each with its `architecture`.

    options: those of `python -m nas.scale`, with _ for -. Raises UserError.
    """
    name = str(baseline.path) if isinstance(baseline, Run) else baseline
    return command.scale(baseline=name, phi=None if phi is None else f"{phi}", **options)
