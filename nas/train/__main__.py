"""`python -m nas.train`: train one network in full and evaluate it."""

from nas.base import cli
from nas.train.command import train

if __name__ == "__main__":
    cli.run(train)
