"""`nas COMMAND …`: the same as `python -m nas.COMMAND …`."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "search": "search a space for networks, write the front, pick a baseline",
    "scale": "find α, β, γ for a baseline and scale it into a family",
    "train": "train one network in full",
    "cost": "count what a network or a space costs",
    "export": "write a trained network as files for other programs",
    "report": "write a run as a page",
    "compare": "compare the error distributions of search spaces",
}


def main() -> None:
    """Run the command that the first argument names; exit code 2 for another one."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        listed = "\n".join(f"  {command:8} {what}" for command, what in COMMANDS.items())
        print(f"usage: nas COMMAND [OPTIONS], nas COMMAND --help\n{listed}")
    elif name in COMMANDS:
        sys.argv = [f"nas {name}", *sys.argv[2:]]
        runpy.run_module(f"nas.{name}", run_name="__main__")
    else:
        print(f"error: {name[:40]!r} is no command; known are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
