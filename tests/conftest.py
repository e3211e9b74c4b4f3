"""Settings that all tests share."""

import torch
from hypothesis import settings

torch.set_num_threads(1)  # small tensors: threads would only wait for each other
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
