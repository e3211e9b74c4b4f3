"""The family: its members' costs, memory, latency and accuracy, as a table, pictures and one TOML each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas.base import cli
from nas.base.files import to_csv, write_atomic
from nas.base.metrics import spoken
from nas.base.statistics import half_intervals
from nas.base.units import format_count, plural, shown
from nas.datasets import load_data
from nas.devices import latency, memory
from nas.networks import scaling
from nas.networks.published import published
from nas.networks.scaling import Coefficients, Member
from nas.plots import figures as plots
from nas.plots import scaling as pictures
from nas.scale.config import Scaling
from nas.scale.grid import MEANS, Stage, means
from nas.scale.halving import Network
from nas.scale.trainings import Trainings
from nas.training.proxy import Job

MEMORY_BATCH = 32  # images of the training step whose memory is predicted
LATENCY = ("latency_measured", "latency_measured_low", "latency_measured_high")  # columns: median and quartiles
LATENCY_PASSES = 20
LATENCY_LIMIT = 50e9  # MAdds above which a latency is not measured: each pass would take many seconds on a CPU


@dataclass(frozen=True)
class Family:
    """The members for some coefficients, and the name of their rule."""

    config: Scaling
    coefficients: Coefficients
    rule: str
    members: Sequence[Member]

    @property
    def networks(self) -> list[Network]:
        """The members as they are trained by proxy."""
        return self.config.proxy_networks([member.architecture for member in self.members])

    def table(self) -> pd.DataFrame:
        """The rows of family.csv that need no measurement."""
        base = self.config.found.cost(self.config.found.architecture).madds
        rows = []
        for member in self.members:
            arch = member.architecture
            costs = asdict(member.cost)
            peak = costs.pop("peak")
            rows.append(
                {
                    "phi": member.phi,
                    "depth": member.depth,
                    "width": member.width,
                    "resolution": arch.resolution,
                    **costs,
                    "nominal_ratio": self.coefficients.product**member.phi,
                    "counted_ratio": member.cost.madds / base,
                    "peak": peak,
                    "moved": member.moved,
                    "dropout": scaling.dropout(member.phi),
                    "drop_path": scaling.DROP_PATH,
                    "train_memory": memory.training_memory(arch, MEMORY_BATCH),
                    "train_memory_batch": MEMORY_BATCH,
                    "train_memory_source": "predicted",
                    "hash": arch.hash,
                    "architecture": str(arch),
                }
            )
        return pd.DataFrame(rows)

    def latencies(self) -> pd.DataFrame:
        """Median latency in seconds of one image on this device, with quartiles; empty where it would take too long."""
        conditions = latency.Conditions.here(self.config.proxy.device)
        rows: list[dict[str, Any]] = []
        for member in self.members:
            row = dict.fromkeys(LATENCY)
            if member.cost.madds <= LATENCY_LIMIT:
                found = latency.measure(member.architecture, conditions, LATENCY_PASSES)
                row = dict(zip(LATENCY, (found.median, found.low, found.high), strict=True))
            rows.append({**row, "latency_source": f"measured: {conditions}" if row[LATENCY[0]] else "not measured"})
        return pd.DataFrame(rows)

    def accuracies(self, trainings: Trainings) -> pd.DataFrame:
        """Means of each metric of the members, with their standard errors; empty where nothing is trained yet."""
        known = trainings.known()
        done: Stage = {}
        for network, jobs in self.jobs().items():
            if trials := [known[job] for job in jobs if job in known and self.config.metric in known[job].user_attrs]:
                done[network] = trials
        rows: list[dict[str, Any]] = []
        for network in self.networks:
            trials = done.get(network, [])
            rows.append(
                {
                    **means(done, network),
                    "trainings": len(trials),
                    "epochs": trials[0].user_attrs["epochs"] if trials else None,
                    "image_size": network.image_size,
                }
            )
        kinds: dict[str, Any] = dict.fromkeys(MEANS, float) | dict.fromkeys(["error_freedom", "epochs"], "Int64")
        return pd.DataFrame(rows).astype(kinds)

    def jobs(self) -> dict[Network, list[Job]]:
        """The trainings of each member: one a seed."""
        first, epochs = self.config.found.seed, self.config.proxy.recipe.epochs
        seeds = range(first, first + self.config.seeds)
        return {network: [network.job(epochs, seed) for seed in seeds] for network in self.networks}

    def write(self, table: pd.DataFrame, folder: Path) -> None:
        """Write family.csv, family.png and one TOML a member; other members of earlier families stay."""
        found = self.config.found
        last = [name for name in ("hash", "architecture") if name in table]
        ordered = table[[name for name in table if name not in last] + last]
        for member, row in zip(self.members, ordered.to_dict("records"), strict=True):
            facts = {str(key): value for key, value in row.items() if key not in last and pd.notna(value)}
            about = {"title": f"φ = {member.phi:g} of {found.origin}", **asdict(self.coefficients), **facts}
            write_atomic(folder / _file(member), member.architecture.to_toml(about))
        write_atomic(folder / "family.csv", to_csv(ordered))
        title = f"{shown(found.path.name, 40)}: the family of {self.coefficients}"
        subtitle = (
            f"baseline {shown(found.origin, 40)}, rule {self.rule}; MAdds counted at each network's own resolution, "
            f"{plural(found.deployment.num_classes, 'class', 'classes')}; α·β²·γ² = {self.coefficients.product:.4g}"
        )
        plots.draw(folder / "family.png", pictures.family, table, published(), title, subtitle)

    def others(self, folder: Path) -> list[str]:
        """The files of members of earlier families, which a training may name."""
        return sorted({path.name for path in folder.glob("phi_*.toml")} - set(map(_file, self.members)))


def _file(member: Member) -> str:
    return f"phi_{member.phi:g}.toml"


def write_family(found: Family, trainings: Trainings | None, measure: bool, folder: Path) -> None:
    """Write the family with its counted costs, then with what is measured and, given trainings, trained."""
    table = found.table()
    found.write(table, folder)
    if measure:
        cli.say(f"measuring the latency of {plural(len(found.members), 'member')} on {found.config.proxy.device}")
        table = pd.concat([table, found.latencies()], axis=1)
        found.write(table, folder)
    if trainings:
        train(found, trainings, table, folder)
    for _, row in table.iterrows():
        cli.say(_line(row))
    for note in scaling.notes(found.config.found.architecture, found.members, found.coefficients):
        cli.say(f"  {note}")
    if others := found.others(folder):
        cli.say(f"of earlier families, kept: {', '.join(others)}")


def train(found: Family, trainings: Trainings, table: pd.DataFrame, folder: Path) -> None:
    """Train the members by proxy, each from several seeds, and draw their accuracy; continues what was begun."""
    images = load_data(found.config.proxy.data)
    metric = found.config.metric
    name = shown(found.config.found.path.name, 40)
    title = f"{name}: proxy {spoken(metric)} of the family of {found.coefficients}"

    def after() -> str:
        whole = pd.concat([table, found.accuracies(trainings)], axis=1)
        found.write(whole, folder)
        subtitle = (
            f"baseline {shown(found.config.found.origin, 40)}; {plural(found.config.seeds, 'training')} each of "
            f"{plural(found.config.proxy.recipe.epochs, 'epoch')} on {shown(images.name, 40)}"
        )
        plots.draw(folder / "accuracy.png", pictures.trained, whole, title, subtitle, metric)
        return f"family {int(whole['trainings'].sum())}"

    jobs = [job for seed in zip(*found.jobs().values(), strict=True) for job in seed]
    trainings.run(lambda _: jobs, len(jobs), after)
    after()
    for phi, row in zip(table["phi"], found.accuracies(trainings).to_dict("records"), strict=True):
        half = float(half_intervals(row[f"{metric}_error"], row["error_freedom"])) if row["trainings"] else 0.0
        result = f"{100 * row[metric]:.2f} ± {100 * half:.2f} % (95 % interval)" if row["trainings"] else "failed"
        times = plural(row["trainings"], "training")
        cli.say(f"φ {phi:g}: proxy {spoken(metric)} {result}, {times} at {row['image_size']} px")
    cli.say(f"{spoken(metric)}: {folder / 'accuracy.png'}")


def _line(row: pd.Series) -> str:
    measured = row.get(LATENCY[0])
    return (
        f"φ {row['phi']:g}: depth {row['depth']:.3f}, width {row['width']:.3f}, {row['resolution']} px, "
        f"{format_count(row['madds'])} MAdds (counted {row['counted_ratio']:.2f}×, nominal "
        f"{row['nominal_ratio']:.2f}×), {format_count(row['params'])} params, {format_count(row['activations'])} "
        f"activations, {format_count(row['train_memory'], 3)}B to train {row['train_memory_batch']} images "
        f"({row['train_memory_source']})" + (f", {1000 * measured:.3g} ms" if pd.notna(measured) else "")
    )
