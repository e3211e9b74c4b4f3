"""The family: its members' costs, memory, latency and accuracy, as a table, pictures and one TOML each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from nas.base import cli
from nas.base.files import to_csv, write_atomic
from nas.base.metrics import METRICS, spoken
from nas.base.statistics import half_intervals
from nas.base.units import format_count, plural, shown
from nas.datasets import load_data
from nas.devices import latency, memory
from nas.networks import scaling
from nas.networks.published import TITLES, published
from nas.networks.scaling import Coefficients, Member
from nas.plots import figures as plots
from nas.plots import scaling as pictures
from nas.scale.config import Scaling
from nas.scale.grid import MEANS, Stage, means, scores_of
from nas.scale.halving import Network, noise
from nas.scale.trainings import Trainings
from nas.training.proxy import Job

MEMORY_BATCH = 32  # images of the training step whose memory is predicted
LATENCY = ("latency_measured", "latency_measured_low", "latency_measured_high")  # columns: median and quartiles
LATENCY_PASSES = 20
LAST = ("hash", "architecture")  # columns at the end of a table
LATENCY_LIMIT = 50e9  # MAdds above which a latency is not measured: each pass would take many seconds on a CPU


@dataclass(frozen=True)
class Family:
    """The members for some coefficients, and the name of their rule."""

    config: Scaling
    coefficients: Coefficients
    rule: str
    members: Sequence[Member]

    @cached_property
    def published(self) -> dict[tuple[str, float], Member]:
        """Published networks at the members' costs, by title and a member's φ."""
        return (
            published(self.config.found.architecture, self.coefficients, self.members) if self.config.published else {}
        )

    @property
    def networks(self) -> list[Network]:
        """The members and then the published networks, as they are trained by proxy."""
        return self.config.proxy_networks([one.architecture for one in (*self.members, *self.published.values())])

    def table(self) -> pd.DataFrame:
        """The rows of family.csv that need no measurement."""
        rows = []
        for member in self.members:
            arch = member.architecture
            rows.append(
                {
                    **_counted(member),
                    "nominal_ratio": self.coefficients.product**member.phi,
                    "counted_ratio": self._ratio(member),
                    "peak": member.cost.peak,
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

    def published_table(self) -> pd.DataFrame:
        """The rows of published.csv that need no training; member: the φ of the one whose cost it has."""
        rows = [
            {
                "name": title,
                "member": phi,
                **_counted(one),
                "counted_ratio": self._ratio(one),
                "moved": one.moved,
                "hash": one.architecture.hash,
                "architecture": str(one.architecture),
            }
            for (title, phi), one in self.published.items()
        ]
        return pd.DataFrame(rows)

    def _ratio(self, member: Member) -> float:
        """The MAdds of a network relative to the baseline's."""
        return member.cost.madds / self.config.found.cost(self.config.found.architecture).madds

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

    def accuracies(self, trainings: Trainings) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Means of each metric of the members, and of the published networks, with their standard errors.

        Empty where nothing is trained yet. Errors are from the noise between trainings, pooled over all networks, also
        of a network that is trained once.
        """
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
        table = pd.DataFrame(rows).astype(kinds)
        for metric in METRICS.values():
            deviation, freedom = noise(scores_of(done, metric))
            if freedom:
                trained = table[metric].notna()
                table[f"{metric}_error"] = deviation / table["trainings"].where(trained) ** 0.5
                table.loc[trained, "error_freedom"] = freedom
        count = len(self.members)
        return table[:count], table[count:].reset_index(drop=True)

    def jobs(self) -> dict[Network, list[Job]]:
        """The trainings of each network: one a seed."""
        first, epochs, count = self.config.found.seed, self.config.proxy.recipe.epochs, len(self.members)
        times = dict.fromkeys(self.networks, self.config.published)
        times |= dict.fromkeys(self.networks[:count], self.config.seeds)
        return {network: [network.job(epochs, first + i) for i in range(n)] for network, n in times.items()}

    def write(self, table: pd.DataFrame, beside: pd.DataFrame, folder: Path) -> None:
        """Write family.csv, published.csv, family.png and one TOML a member; other members of earlier families stay.

        table, beside: the rows of the members and of the published networks.
        """
        found, metric = self.config.found, self.config.metric
        ordered = _ordered(table)
        for member, row in zip(self.members, ordered.to_dict("records"), strict=True):
            facts = {str(key): value for key, value in row.items() if key not in LAST and pd.notna(value)}
            about = {"title": f"φ = {member.phi:g} of {found.origin}", **asdict(self.coefficients), **facts}
            write_atomic(folder / _file(member), member.architecture.to_toml(about))
        write_atomic(folder / "family.csv", to_csv(ordered))
        if len(beside):
            write_atomic(folder / "published.csv", to_csv(_ordered(beside)))
        else:
            (folder / "published.csv").unlink(missing_ok=True)  # of an earlier family
        title = f"{shown(found.path.name, 40)}: the family of {self.coefficients}"
        classes = plural(found.deployment.num_classes, "class", "classes")
        subtitle = (
            f"baseline {shown(found.origin, 40)}, rule {self.rule}; MAdds counted at each network's own resolution, "
            f"{classes}; α·β²·γ² = {self.coefficients.product:.4g}"
        )
        if metric in table:
            epochs, data = plural(self.config.proxy.recipe.epochs, "epoch"), load_data(self.config.proxy.data)
            subtitle += f"\nproxy: {epochs} on {shown(data.name, 40)}"
        plots.draw(folder / "family.png", pictures.family, table, beside, title, subtitle, metric)

    def others(self, folder: Path) -> list[str]:
        """The files of members of earlier families, which a training may name."""
        return sorted({path.name for path in folder.glob("phi_*.toml")} - set(map(_file, self.members)))


def _file(member: Member) -> str:
    return f"phi_{member.phi:g}.toml"


def write_family(found: Family, trainings: Trainings | None, measure: bool, folder: Path) -> None:
    """Write the family with its counted costs, then with what is measured and, given trainings, trained."""
    table = found.table()
    found.write(table, found.published_table(), folder)
    if measure:
        cli.say(f"measuring the latency of {plural(len(found.members), 'member')} on {found.config.proxy.device}")
        table = pd.concat([table, found.latencies()], axis=1)
        found.write(table, found.published_table(), folder)
    if trainings:
        train(found, trainings, table, folder)
    for _, row in table.iterrows():
        cli.say(_line(row))
    for note in scaling.notes(found.config.found.architecture, found.members, found.coefficients):
        cli.say(f"  {note}")
    absent = set(TITLES.values()) - {title for title, _ in found.published}
    if found.config.published and absent:
        cli.say(f"  not beside it, being its baseline or never of such MAdds: {', '.join(sorted(absent))}")
    if others := found.others(folder):
        cli.say(f"of earlier families, kept: {', '.join(others)}")


def train(found: Family, trainings: Trainings, table: pd.DataFrame, folder: Path) -> None:
    """Train the members by proxy and the published networks beside them; continues what was begun."""
    config = found.config
    jobs = found.jobs()
    plan = [job for jobs_of_a_seed in zip_longest(*jobs.values()) for job in jobs_of_a_seed if job]
    beside = plural(len(found.published), "published network")
    cli.say(
        f"to train: {plural(len(found.members), 'member')}, {plural(config.seeds, 'time')} each"
        + (f", and {beside} of their costs, {plural(config.published, 'time')} each" if found.published else "")
        + f": {plural(len(plan), 'training')}"
    )

    def after() -> str:
        own, others = found.accuracies(trainings)
        found.write(pd.concat([table, own], axis=1), pd.concat([found.published_table(), others], axis=1), folder)
        return f"family {int(own['trainings'].sum())}"

    trainings.run(lambda _: plan, len(plan), after)
    after()
    rows = pd.concat(found.accuracies(trainings)).to_dict("records")
    names = [f"φ {member.phi:g}" for member in found.members]
    names += [f"{title} at the cost of φ {phi:g}" for title, phi in found.published]
    for name, row in zip(names, rows, strict=True):
        half = float(half_intervals(row[f"{config.metric}_error"], row["error_freedom"])) if row["trainings"] else 0.0
        result = (
            f"{100 * row[config.metric]:.2f} ± {100 * half:.2f} % (95 % interval)" if row["trainings"] else "failed"
        )
        times = plural(row["trainings"], "training")
        cli.say(f"{name}: proxy {spoken(config.metric)} {result}, {times} at {row['image_size']} px")


def _counted(member: Member) -> dict[str, Any]:
    """A member's φ, factors and costs as columns; resolution in pixels."""
    scaled = {"phi": member.phi, "depth": member.depth, "width": member.width}
    costs = {name: value for name, value in asdict(member.cost).items() if name != "peak"}
    return {**scaled, "resolution": member.architecture.resolution, **costs}


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns LAST at the end."""
    return table[[name for name in table if name not in LAST] + [name for name in LAST if name in table]]


def _line(row: pd.Series) -> str:
    measured = row.get(LATENCY[0])
    return (
        f"φ {row['phi']:g}: depth {row['depth']:.3f}, width {row['width']:.3f}, {row['resolution']} px, "
        f"{format_count(row['madds'])} MAdds (counted {row['counted_ratio']:.2f}×, nominal "
        f"{row['nominal_ratio']:.2f}×), {format_count(row['params'])} params, {format_count(row['activations'])} "
        f"activations, {format_count(row['train_memory'], 3)}B to train {row['train_memory_batch']} images "
        f"({row['train_memory_source']})" + (f", {1000 * measured:.3g} ms" if pd.notna(measured) else "")
    )
