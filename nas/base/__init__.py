"""Shared by all packages: errors, files, units, and how a command ends."""
