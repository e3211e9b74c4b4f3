"""`python -m nas.report`: a run as one HTML page to look at, written once or served while the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.base import cli
from nas.base.errors import UserError
from nas.base.files import write_atomic
from nas.report import run as runs
from nas.report.contents import contents
from nas.report.live import ADDRESS, server
from nas.report.page import page


def main(
    run: Annotated[str, typer.Argument(help="A run's name under runs/, or the path of its directory.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes.  [default: report.html in the run]")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page to this machine only; it follows the run until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --live: 0 takes any free one.")] = 0,
) -> None:
    """Show a run as one page: the front, what each choice does, the family, all networks, how to repeat it.

    The page is one file that needs no network. A run in progress is read without disturbing it.
    """
    if live and out:
        raise UserError("--live and --out exclude each other: a served page is not written; leave out one of them")
    if port and not live:
        raise UserError("--port goes with --live; add it, or leave --port out")
    path = runs.find(run)
    if live:
        with server(path, port) as answering:
            cli.say(f"live: http://{ADDRESS}:{answering.server_port}/  (this machine only; Ctrl-C ends it)")
            try:
                answering.serve_forever()
            except KeyboardInterrupt:  # how it is meant to end
                raise SystemExit(130) from None
    file = out or path / "report.html"
    if not file.parent.is_dir() or file.is_dir():
        raise UserError(f"--out {file}: give a file in a folder that exists, like report.html")
    found = contents(runs.read(path))
    try:
        write_atomic(file, page(found))
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}; give another file by --out") from None
    cli.say(f"report: {file}")


if __name__ == "__main__":
    cli.run(main)
