"""Every picture that is a file."""
