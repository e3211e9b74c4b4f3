"""`python -m nas.compare`: error distributions of random networks of several runs."""
