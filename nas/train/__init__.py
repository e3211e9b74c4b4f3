"""Training one network in full and evaluating it. `train("efficientnet_b0", data="images")` runs the command."""

from nas.train.command import train

__all__ = ["train"]
