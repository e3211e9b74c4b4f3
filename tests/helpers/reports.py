"""Runs with made-up results, their reports, and what a browser would make of them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas import Architecture, SearchSpace
from nas.networks import scaling
from nas.report.live import server
from tests.helpers.commands import SPACE

FACTS = """
[arguments]
space = "small.toml"
trials = 40
objectives = ["accuracy", "madds"]
reward = "v1"
target_madds = 400000
[space]
name = "small"
[data]
name = "three classes"
val = 60
image_size = 28
[cost]
resolution = 32
channels = 3
classes = 1000
[proxy]
epochs = 2
"""


class Parts(HTMLParser):
    """What a browser would make of a page: its scripts, its title, and elements of each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.kinds: list[str] = []
        self.scripts: list[str] = []
        self.title = self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.kinds.append(tag)
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.open == "script":
            self.scripts[-1] += data
        if self.open == "title":
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self.open = ""


def embedded_contents(text: str) -> dict[str, Any]:
    """The contents that a page holds."""
    found: dict[str, Any] = json.loads(Parts(text).scripts[0])
    return found


def made_up_run(path: Path, networks: int = 12) -> Path:
    """A run's directory as a search leaves it, with made-up accuracies."""
    path.mkdir(parents=True)
    (path.parent / "small.toml").write_text(SPACE)
    space = SearchSpace.load(path.parent / "small.toml")
    rng = np.random.default_rng(0)
    some = [space.decode(codes) for codes in space.sample_codes(networks, seed=0)]
    rows = [
        {
            **{"trial": i, "state": "COMPLETE", "accuracy": float(rng.uniform(0.5, 0.9)), **vars(arch.cost())},
            **{"resolution": 32, "epochs": 2, "seconds": 1.5, "seed": 0, "architecture": str(arch), "hash": arch.hash},
            **{"accuracy_error": 0.05, "image_size": 28, "step_seconds": 0.01, "note": None, "runs": 1},
        }
        for i, arch in enumerate(some)
    ]
    trials = pd.DataFrame(rows).assign(mean_accuracy=lambda t: t["accuracy"], mean_error=np.nan)
    ordered = trials.sort_values(["madds", "accuracy"], ascending=[True, False])
    front = ordered[ordered["accuracy"] > ordered["accuracy"].cummax().shift(fill_value=0)]
    best = front["accuracy"].idxmax()
    trials.to_csv(path / "trials.csv", index=False)
    front.assign(reward=0.5, baseline=front.index == best, probability=np.nan).to_csv(path / "pareto.csv", index=False)
    (path / "run.toml").write_text(FACTS)
    return path


def add_grid(run: Path) -> pd.DataFrame:
    """Add the grid of a scaling to a run: the φ = 1 network of each triple, with made-up accuracies."""
    best = pd.read_csv(run / "pareto.csv").query("baseline")["architecture"].iloc[0]
    baseline = Architecture.parse(best)
    rows = []
    for i, triple in enumerate(scaling.grid(step=0.2)):
        arch = baseline.scale(*triple.factors(1))
        known = {**asdict(triple), "product": triple.product, "counted_ratio": 2.0, **vars(arch.cost())}
        known |= {
            "accuracy": 0.9 - 0.01 * i,
            "first_accuracy": 0.9 - 0.01 * i,
            "accuracy_error": 0.02,
            "error_freedom": 0,
            "epochs": 1,
        }
        known |= {"resolution": arch.resolution, "image_size": 28, "stage": 1, "trainings": 1, "paper": i == 2}
        rows.append({**known, "picked": i == 0, "hash": arch.hash, "architecture": str(arch)})
    (run / "scale").mkdir()
    table = pd.DataFrame(rows)
    table.to_csv(run / "scale/grid.csv", index=False)
    return table


@contextmanager
def live_page(run: Path) -> Iterator[int]:
    """A live page of a run; its port."""
    with server(run, 0) as answering:
        thread = threading.Thread(target=answering.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield answering.server_port
        answering.shutdown()
        thread.join()


def get(port: int, path: str = "/data.json", method: str = "GET", **headers: str) -> tuple[int, str, str | None]:
    """Status, text and tag of an answer."""
    line = HTTPConnection("127.0.0.1", port, timeout=30)
    line.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = line.getresponse()
    return answer.status, answer.read().decode(), answer.headers["ETag"]
