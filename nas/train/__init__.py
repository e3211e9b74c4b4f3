"""Full training of one network: a recipe, a run directory, and what a trained network is worth."""
