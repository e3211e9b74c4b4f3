"""The report: its page against the run's own tables, what is left out, what is refused, and what is served."""

import json
import os
import re
import signal
import sys
from hashlib import sha256
from html import unescape
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from nas import Architecture
from nas.base.errors import UserError
from nas.networks import scaling
from nas.report.contents import contents, shares
from nas.report.page import SCRIPTS, embedded, page
from nas.report.run import read
from nas.selection.pareto import hypervolume
from tests.helpers import needs
from tests.helpers.commands import Command, search_arguments
from tests.helpers.processes import ERR, OUT, start, until
from tests.helpers.reports import FACTS, Parts, add_grid, embedded_contents, get, live_page, made_up_run


def test_the_page_of_a_real_run(command: Command, here: Path, images: Path) -> None:
    """All that the page holds is what the run's files hold, and reading them leaves the run as it was."""
    assert command("search", *search_arguments(images, "--trials", "8", "--epochs", "1", "--confirm", "1")).code == 0
    assert command("scale", "--phi", "2", "--coefficients", "1.2,1.1,1.15").code == 0
    run = here / "runs/r"
    before = {file: sha256(file.read_bytes()).digest() for file in run.rglob("*") if file.is_file()}
    with FileLock(run / ".lock"):  # as a search holds it
        ended = command("report", "r")
    assert ended.code == 0, ended.err
    assert ended.out == "report: runs/r/report.html\n"
    after = {file: sha256(file.read_bytes()).digest() for file in run.rglob("*") if file.is_file()}
    assert after.items() - before.items() == {(run / "report.html", after[run / "report.html"])}

    text = (run / "report.html").read_text()
    found = embedded_contents(text)
    trials, front = pd.read_csv(run / "trials.csv"), pd.read_csv(run / "pareto.csv")
    shown = pd.DataFrame(found["trials"])
    for name in ("trial", "madds", "params", "flops", "activations", "runs"):
        assert shown[name].tolist() == trials[name].tolist()
    for name in ("accuracy", "mean_accuracy", "mean_error"):
        assert shown[name].tolist() == pytest.approx(trials[name].tolist(), rel=1e-5)
    assert set(shown["trial"][shown["front"]]) == set(front["trial"])
    assert shown["trial"][shown["baseline"]].tolist() == front["trial"][front["baseline"]].tolist()
    assert shown["bar"].tolist() == pytest.approx((2 * trials["mean_error"]).tolist(), rel=1e-5)
    assert [network_of(found, n) for n in shown["network"]] == trials["architecture"].tolist()
    assert all(
        curve[-1] == pytest.approx(a, rel=1e-5) for curve, a in zip(shown["curve"], shown["accuracy"], strict=True)
    )
    points = np.column_stack([-trials["accuracy"], np.log(trials["madds"])])  # each cost by its logarithm
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    assert found["history"]["share"][-1] == pytest.approx(hypervolume(points, [1.0, 1.0]), abs=1e-5)
    family = pd.read_csv(run / "scale/family.csv")
    assert [row["madds"] for row in found["family"]] == family["madds"].tolist()
    assert [network_of(found, row["network"]) for row in found["family"]] == family["architecture"].tolist()
    effects = pd.read_csv(run / "sensitivity.csv")
    assert [row["choice"] for row in found["effects"]] == effects["choice"].tolist()
    assert "60 validation images" in found["texts"]["basis"]
    assert found["texts"]["confirmed"].startswith("confirmed")
    for drawn, arch in zip(found["drawings"]["networks"], trials["architecture"], strict=False):
        assert found["drawings"]["sides"][drawn[1]][0] == 14
        assert abs(sum(drawn[2]) - 100) <= len(drawn[2]) / 2, arch

    assert "default-src 'none'" in unescape(text)
    assert "FLOPs" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    again = command("report", str(run), "--out", "page.html")
    assert again.code == 0
    assert embedded_contents((here / "page.html").read_text())["trials"] == found["trials"]
    commands = {one["what"]: one["command"] for one in found["commands"]}
    options = commands["the same with all its options"].replace("r-again", "r").split()[3:]
    continued = command("search", *options)  # refused if an option were another
    assert continued.code == 0, continued.err
    assert "continued, 8 of 8 trials done" in continued.out
    assert "--baseline r " in commands["the scaling"]

    assert command("scale", "--baseline", "r:3", "--coefficients", "1.2,1.1,1.15", "--no-measure").code == 0
    assert command("report", "r-3").code == 0
    found = embedded_contents((here / "runs/r-3/report.html").read_text())
    assert found["texts"]["scaling"].startswith("From trial 3 of run r by the rule compound")
    assert any("--baseline r:3 " in one["command"] for one in found["commands"])
    assert command("scale", "--baseline", "r", "--run", "s", "--coefficients", "1.2,1.1,1.15", "--no-measure").code == 0
    assert command("report", "s").code == 0
    found = embedded_contents((here / "runs/s/report.html").read_text())
    (again,) = (one["command"] for one in found["commands"] if one["what"] == "the scaling")
    assert "--run s" in again
    assert "--no-measure" in again
    assert command("scale", *again.split()[3:]).code == 0


def network_of(found: dict[str, Any], number: int) -> str:
    words, _, _ = found["drawings"]["networks"][number]
    return " ".join(found["drawings"]["words"][word] for word in words)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=8))
def test_embedded_data_stays_data(value: Any) -> None:
    text = embedded({"value": value, "end": "</script><!--<script>&amp;"})
    assert not set("<>&") & set(text)
    assert json.loads(text)["value"] == value
    assert json.loads(text)["end"] == "</script><!--<script>&amp;"


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12),
    st.sampled_from([2, 3]),
)
def test_the_history_by_counting_cells(points: list[tuple[int, int, int]], objectives: int) -> None:
    """The share of the box's cells that some point so far dominates."""
    corners = [point[:objectives] for point in points]
    cells = list(product(range(5), repeat=objectives))
    expected = [
        sum(any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in corners[:n]) for cell in cells)
        for n in range(1, len(corners) + 1)
    ]
    found = shares(np.array(corners) / 5)
    assert found == pytest.approx([one / len(cells) for one in expected], abs=1e-6)
    assert all(a <= b for a, b in pairwise(found))


def test_what_a_run_has_not_is_left_out_or_said(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    found = contents(read(run))
    assert found["family"] == found["grid"] == found["rules"] == found["effects"] == found["published"] == []
    assert found["texts"]["scaling"] == "Not scaled yet."
    assert found["texts"]["effects"].startswith("No sensitivity yet")
    assert found["texts"]["confirmed"].startswith("unconfirmed")
    assert "12 of 40 networks" in found["texts"]["status"]
    assert found["texts"]["notes"] == []
    assert [cost["key"] for cost in found["costs"]] == [
        "madds",
        "params",
        "flops",
        "activations",
        "peak",
        "step_seconds",
    ]
    page(found)

    trials = pd.read_csv(run / "trials.csv")
    trials = trials.assign(latency=0.01, note="")
    trials.loc[0, ["state", "accuracy", "mean_accuracy", "note"]] = ["FAIL", None, None, "diverged <b>"]
    trials.loc[1, ["state", "mean_accuracy"]] = ["PRUNED", None]  # older versions stopped trainings
    trials.to_csv(run / "trials.csv", index=False)
    three = FACTS.replace('"madds"]', '"latency", "train_time"]')
    (run / "run.toml").write_text(three)
    found = contents(read(run))
    said = " ".join(found["texts"]["notes"])
    assert "11 of 40 networks of the space small trained on three classes (1 failed)" in found["texts"]["status"]
    for words in ("1 trial failed: diverged <b>", "accuracy, latency and training step time"):
        assert words in said
    assert found["trials"]["state"][:2] == ["FAIL", "COMPLETE"]
    assert found["trials"]["accuracy"][0] is None
    assert found["cost"] == "latency"
    assert "latency_measured" not in found["trials"]
    page(found)

    front = pd.read_csv(run / "pareto.csv")
    measured = {int(trial): 0.001 * i for i, trial in enumerate(front["trial"], 1)}
    predicted = [2 * seconds for seconds in measured.values()]
    front.assign(latency=predicted, latency_measured=measured.values()).to_csv(run / "pareto.csv", index=False)
    found = contents(read(run))
    assert "take 0.5 times the latency predicted" in " ".join(found["texts"]["notes"])
    expected = [measured.get(trial) for trial in found["trials"]["trial"]]
    assert found["trials"]["latency_measured"] == expected
    assert [cost["key"] for cost in found["costs"] if cost["main"]] == [
        *("madds", "params", "latency", "latency_measured", "step_seconds")
    ]
    page(found)

    (run / "pareto.csv").unlink()
    assert not any(contents(read(run))["trials"]["front"])
    (run / "trials.csv").unlink()
    found = contents(read(run))
    assert found["trials"]["trial"] == found["history"]["trial"] == []
    page(found)
    (run / "run.toml").unlink()
    table = add_family(run)
    found = contents(read(run))
    assert "only a scaling" in found["texts"]["status"]
    assert [row["resolution"] for row in found["family"]] == table["resolution"].tolist()
    page(found)


def add_family(run: Path) -> pd.DataFrame:
    """Add a family to a run, with made-up accuracies of two trainings each."""
    rows = [
        {
            **{"phi": one.phi, "depth": one.depth, "width": one.width, "resolution": one.architecture.resolution},
            **{**vars(one.cost), "nominal_ratio": 2.0**one.phi, "counted_ratio": 2.0**one.phi, "moved": 0},
            **{"train_memory": 1e6, "train_memory_batch": 32, "latency_measured": 0.01, "accuracy": 0.8},
            **{"accuracy_error": 0.01, "error_freedom": 3, "trainings": 2, "image_size": 28},
            "architecture": str(one.architecture),
        }
        for one in scaling.family(Architecture.load("mobilenet_v2"), scaling.paper(), [0, 1, 2])
    ]
    (run / "scale").mkdir()
    table = pd.DataFrame(rows)
    table.to_csv(run / "scale/family.csv", index=False)
    return table


def test_intervals_are_computed_from_standard_errors(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    published = add_family(run).rename(columns={"phi": "member"}).assign(name="MnasNet-A1")
    published.to_csv(run / "scale/published.csv", index=False)
    found = contents(read(run))
    assert [row["name"] for row in found["published"]] == ["MnasNet-A1"] * 3
    for row in [*found["family"], *found["published"]]:
        assert row["accuracy_error"] == 0.01
        assert row["bar"] == pytest.approx(3.18245 * 0.01, rel=1e-4)  # Student's t, 3 degrees of freedom


def test_a_family_whose_resolution_is_a_factor_is_refused(tmp_path: Path) -> None:
    """It was one in tables of older versions, which had the pixels in a column of their own."""
    run = made_up_run(tmp_path / "r")
    table = add_family(run)
    old = table.assign(pixels=table["resolution"], resolution=1.15 ** table["phi"])
    old.to_csv(run / "scale/family.csv", index=False)
    with pytest.raises(UserError, match=r"family\.csv: .*its resolution is a factor: an older version wrote it"):
        read(run)


def test_the_grid_s_networks_are_drawn(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    table = add_grid(run)
    found = contents(read(run))
    assert [network_of(found, row["network"]) for row in found["grid"]] == table["architecture"].tolist()
    assert found["texts"]["scaling"] == "The grid is being searched; the family follows."
    table.drop(columns="architecture").to_csv(run / "scale/grid.csv", index=False)  # as it was written before
    found = contents(read(run))
    assert len(found["grid"]) == len(table)
    assert not any("network" in row for row in found["grid"])


def test_wrong_input_is_one_line(command: Command, here: Path) -> None:
    run = made_up_run(here / "runs/r")
    (here / "empty").mkdir()
    (here / "runs/trained").mkdir()
    for name in ("run.toml", "network.toml"):
        (here / "runs/trained" / name).touch()
    names = ["trials.csv", "run.toml", "pareto.csv"]
    kept = {name: (run / name).read_text() for name in names}
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (["rr"], {}, "nearest is 'r'"),
        (["../r"], {}, "no run of this name and no directory"),
        ([""], {}, "no run of this name and no directory"),
        (["empty"], {}, "is no run's directory"),
        (["trained"], {}, "is a training's run"),
        (["r", "--out", "no/such.html"], {}, "--out no/such.html"),
        (["r", "--out", "empty"], {}, "--out empty"),
        (["r", "--live", "--out", "page.html"], {}, "--live and --out exclude each other"),
        (["r", "--port", "80"], {}, "--port goes with --live"),
        (["r"], {"run.toml": "[arguments"}, "run.toml: not valid TOML"),
        (["r"], {"trials.csv": ""}, "trials.csv: cannot be read as a table"),
        (["r"], {"trials.csv": kept["trials.csv"].replace("madds", "mads", 1)}, "column 'madds' is missing"),
        (["r"], {"trials.csv": kept["trials.csv"].replace("head16", "heat16", 1)}, "trials.csv, trial 0: block string"),
        (["r"], {"pareto.csv": kept["pareto.csv"].replace("0.5,", "half,")}, "pareto.csv: cannot be read as a table"),
    ]
    for arguments, changed, said in cases:
        for name in names:
            (run / name).write_text(changed.get(name, kept[name]))
        ended = command("report", *arguments)
        assert ended.code == 2, arguments
        assert ended.err.count("\n") == 1
        assert said in ended.err
        assert not (run / "report.html").exists()


def test_a_damaged_study_costs_only_the_curves(command: Command, here: Path) -> None:
    run = made_up_run(here / "runs/r")
    (run / "study.db").write_bytes(b"no database" * 100)
    assert command("report", "r").code == 0
    assert (
        "study.db: cannot be read as a study"
        in embedded_contents((run / "report.html").read_text())["texts"]["notes"][-1]
    )


def test_a_live_page_follows_the_run(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    trials = pd.read_csv(run / "trials.csv")
    trials[:5].to_csv(run / "trials.csv", index=False)
    with live_page(run) as port:
        status, text, tag = get(port, "/")
        assert status == 200
        assert embedded_contents(text)["live"] == tag
        assert "connect-src 'self'" in unescape(text)
        status, text, tag = get(port)
        assert len(json.loads(text)["trials"]["trial"]) == 5
        assert get(port, If_None_Match=tag or "")[:2] == (304, "")
        trials.to_csv(run / "trials.csv", index=False)
        until(lambda: get(port, If_None_Match=tag or "")[0] != 304)
        _, text, new = get(port, If_None_Match=tag or "")
        assert len(json.loads(text)["trials"]["trial"]) == 12
        assert new != tag
    with pytest.raises(ConnectionRefusedError):
        get(port)


@needs.fork
def test_a_live_page_ends_by_ctrl_c(here: Path) -> None:
    run = made_up_run(here / "r")
    process = start(here, "report", [str(run), "--live"])
    until(lambda: (here / OUT).exists() and "\n" in (here / OUT).read_text())
    address = re.search(r"http://127\.0\.0\.1:(\d+)/", (here / OUT).read_text())
    assert address
    assert get(int(address[1]))[0] == 200
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert (here / ERR).read_text() == ""
    assert not (run / "report.html").exists()


def test_scripts_are_whole(tmp_path: Path) -> None:
    """Each script is in the page as it is in the package, so that its digest in the policy holds."""
    parts = Parts(page(contents(read(made_up_run(tmp_path / "r")))))
    folder = Path(str(sys.modules["nas.report.page"].__file__)).parent / "web"
    assert parts.scripts[2:] == [(folder / name).read_text() for name in SCRIPTS]
    assert {file.name for file in folder.glob("*.js")} == set(SCRIPTS)
