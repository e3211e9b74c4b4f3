"""`python -m nas.search`: the question, the next trial, the results; the command is in `__main__`."""
