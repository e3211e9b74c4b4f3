"""From a search space in block strings to a small baseline, and from the baseline to a scaled family."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.base.errors import UserError
from nas.networks.architecture import Architecture
from nas.networks.cost import Cost
from nas.networks.stages import Stage
from nas.spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.runs.run import Run
    from nas.selection.sampler import Sampler
    from nas.training.trained import load

__all__ = ["Architecture", "Cost", "Run", "Sampler", "SearchSpace", "Stage", "UserError", "load"]

# What needs pandas, torch or Optuna, and its module
_LATE = {"Run": "nas.runs.run", "Sampler": "nas.selection.sampler", "load": "nas.training.trained"}


def __getattr__(name: str) -> Any:
    """Import names that need torch, pandas or Optuna on first access: architectures and costs load quickly."""
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
