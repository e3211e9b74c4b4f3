"""The exceptions that end a command with one line for the user."""

from importlib.util import find_spec


class UserError(Exception):
    """A mistake in the user's input (exit code 2).

    The message is one line: what is wrong, where (file, line, column or option), what would be right.
    """


class RunFailed(Exception):
    """The run itself failed, through no fault of the user's input (exit code 1)."""


def first_line(error: BaseException, length: int = 120) -> str:
    """The first line of an error's text that is not empty, cut to a length; "" if there is none."""
    return next((line.strip()[:length] for line in str(error).splitlines() if line.strip()), "")


def check_installed(option: str, package: str, extra: str) -> None:
    """Raise UserError if a package that an option needs is not installed; extra: the one of ours that has it."""
    if find_spec(package) is None:
        raise UserError(f"{option}: needs {package}, which is not installed; pip install 'compound-nas[{extra}]'")
