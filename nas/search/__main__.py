"""`python -m nas.search`: search a space by proxy training under a budget, write the front, pick a baseline."""

from nas.base import cli
from nas.search.command import search

if __name__ == "__main__":
    cli.run(search)
