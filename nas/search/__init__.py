"""A search: its config, the next trial, repeats, the results. `search(space="mnas")` is the command as a function."""

from nas.search.command import search

__all__ = ["search"]
