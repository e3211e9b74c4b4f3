"""`python -m nas.scale`: the config, the choice of α, β, γ by training, the family; the command is in `__main__`."""
