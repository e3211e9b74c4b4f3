"""Evaluating trials and proposing the next: fronts, noise, the sampler, sensitivity."""
