"""From a search space in block strings to a small baseline, and from the baseline to a scaled family."""

from nas.architecture import Architecture, Stage
from nas.cost import Cost
from nas.errors import UserError
from nas.space import SearchSpace
