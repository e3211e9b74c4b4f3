"""Training one network in full, and what it is worth. `train("efficientnet_b0", data="images")` is the command."""

from nas.train.command import train

__all__ = ["train"]
