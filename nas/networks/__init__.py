"""One network: block strings, exact cost, torch module, scaling mathematics, other libraries' names for it."""
