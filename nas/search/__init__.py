"""`python -m nas.search`: the config, the next trial, repeats, the results; the command is in `__main__`."""
