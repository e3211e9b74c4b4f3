"""`python -m nas.scale`: find α, β, γ for a baseline on a grid by proxy training, and scale it into a family."""

from nas.base import cli
from nas.scale.command import scale

if __name__ == "__main__":
    cli.run(scale)
