"""From a search space in block strings to a small baseline, and from the baseline to a scaled family."""

from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture, Stage
from nas.cost import Cost
from nas.errors import UserError
from nas.space import SearchSpace

if TYPE_CHECKING:
    from nas.sampler import Sampler
    from nas.stopping import Stopper

__all__ = ["Architecture", "Cost", "Sampler", "SearchSpace", "Stage", "Stopper", "UserError"]


def __getattr__(name: str) -> Any:
    """Import what needs Optuna only when it is asked for: architectures and costs load in a moment."""
    if name == "Sampler":
        from nas.sampler import Sampler

        return Sampler
    if name == "Stopper":
        from nas.stopping import Stopper

        return Stopper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
