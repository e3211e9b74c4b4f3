"""The config of a search, as the command makes it, for tests of its parts."""

from typing import Any

from nas.datasets import Source
from nas.runs.workers import Workers
from nas.search.config import Search
from nas.spaces.space import SearchSpace
from nas.training.proxy import Proxy
from nas.training.recipe import Recipe


def search_config(space: SearchSpace, data: str, **changed: Any) -> Search:
    """A search for accuracy and MAdds with one worker; changed: other values of its fields."""
    usual: dict[str, Any] = {
        **{"bounds": {}, "objectives": ("accuracy", "madds"), "reward": "soft", "target_madds": 400_000},
        **{"sampler": "auto", "trials": 9, "time_budget": None, "seed": 0, "image_size": 28},
        **{"proxy": Proxy(Source(name=data), Recipe(), "cpu"), "workers": Workers(1, "cpu")},
    }
    return Search(space=space, **{**usual, **changed})
