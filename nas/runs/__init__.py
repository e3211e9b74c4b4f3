"""A run: its directory, its studies, its workers and what is shown of it; nothing is lost, nothing trained twice."""
