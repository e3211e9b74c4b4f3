"""The exceptions that end a command with one line for the user."""


class UserError(Exception):
    """A mistake in the user's input (exit code 2).

    The message is one line: what is wrong, where (file, line, column or option), what would be right.
    """


class RunFailed(Exception):
    """The run itself failed, through no fault of the user's input (exit code 1)."""
