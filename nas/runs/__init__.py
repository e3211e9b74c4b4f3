"""A run: directory, config, studies, workers, progress; nothing is lost, nothing is trained twice."""
