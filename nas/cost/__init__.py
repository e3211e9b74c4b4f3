"""`python -m nas.cost`: what networks and search spaces cost; the command is in `__main__`."""
