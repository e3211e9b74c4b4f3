"""What to believe and what to try next: fronts, noise, the sampler, sensitivity."""
