"""The one exception that a user meets."""


class UserError(Exception):
    """A mistake in the user's input.

    The message is one line: what is wrong, where (file, line, column or option), what would be right.
    Commands print it to stderr and exit with code 2.
    """
