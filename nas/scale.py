"""`python -m nas.scale`: find α, β, γ for a baseline on a grid by proxy training, and scale it into a family."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import floor
from pathlib import Path
from typing import Annotated, Any

import optuna
import pandas as pd
import typer
from optuna.trial import FrozenTrial, Trial, TrialState

from nas import cli, datasets, plots, scaling, study
from nas.architecture import Architecture, family_names
from nas.display import Display
from nas.errors import RunFailed, UserError
from nas.evaluate import Job, Proxy, load_data
from nas.files import read_toml, write_atomic
from nas.progressive import Schedule
from nas.proxy import Recipe, pick_device
from nas.scaling import Coefficients, Member
from nas.units import format_count
from nas.workers import default_workers

FALLBACK = "efficientnet_b0"
SERIES = {"efficientnet_b": "EfficientNet B0–B7", "efficientnet_v2_": "EfficientNetV2"}


@dataclass(frozen=True)
class Baseline:
    """What is scaled, the run directory that the results go to, and what its proxy trainings use."""

    architecture: Architecture
    origin: str
    path: Path
    data: str
    recipe: Recipe
    seed: int


def main(
    phi: Annotated[float, typer.Option(min=-20, max=20, help="Write the family from φ = 0 to this φ.")] = 3.0,
    baseline: Annotated[
        str | None, typer.Option(help="A run's name, a .toml file or a bundled name.  [default: the newest run's]")
    ] = None,
    rule: Annotated[str, typer.Option(help="compound, depth, width, resolution or fast.")] = "compound",
    coefficients: Annotated[str | None, typer.Option(help="α,β,γ such as 1.2,1.1,1.15: skips the grid.")] = None,
    target: Annotated[float, typer.Option(help="What α·β²·γ² should be.")] = 2.0,
    step: Annotated[float, typer.Option(help="The grid's step.")] = 0.1,
    tolerance: Annotated[float, typer.Option(help="How far α·β²·γ² may be from it; the paper's is 0.08 off.")] = 0.08,
    data: Annotated[str | None, typer.Option(help="Data for the proxy.  [default: the run's]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=10_000, help="Proxy epochs.  [default: the run's]")] = None,
    run: Annotated[str | None, typer.Option(help="Where results go.  [default: the baseline's run or name]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="[default: the run's]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Trials side by side.  [default: 1 on a GPU, up to 4 on cores]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Scale a baseline into a family.

    Without --coefficients, each α, β, γ ≥ 1 on a grid with α·β²·γ² near the target is tried: its φ = 1 network is
    trained by proxy, and the best is taken. Results are in runs/NAME/scale: grid.csv, grid.png, family.csv,
    family.png, phi_0.toml, … The same command again continues.
    """
    found = find_baseline(baseline, run, data, epochs, seed)
    where = str(pick_device(device))
    chosen = given_coefficients(rule, coefficients, target)
    triples = [] if chosen else candidates(target, step, tolerance)
    phis = scaling.phis_up_to(phi)
    for triple in [chosen] if chosen else triples:
        scaling.family(found.architecture, triple, phis)  # refuses a φ out of reach before any training
    cli.say(f"baseline: {found.origin}, {format_count(found.architecture.cost().madds)} MAdds")
    cli.say(f"  {found.architecture}")
    folder = found.path / "scale"
    with study.locked(found.path):
        folder.mkdir(exist_ok=True)
        if chosen is None:
            chosen = best_of_grid(found, triples, folder, workers or default_workers(where), where)
        write_family(scaling.family(found.architecture, chosen, phis), chosen, target, found, folder)
    cli.say(f"family: {folder / 'family.csv'}, {folder / 'family.png'}, {folder}/phi_*.toml")


def find_baseline(
    name: str | None, run: str | None, data: str | None, epochs: int | None, seed: int | None
) -> Baseline:
    """The baseline that a name, or its absence, stands for; raises UserError."""
    path = study.newest_run() if name is None else None
    if name is None and path is None:
        cli.say(f"no run with a baseline in {study.RUNS}/: scaling {FALLBACK} (python -m nas.search makes a run)")
        name = FALLBACK
    if name is not None and "/" not in name and not name.endswith(".toml") and name not in family_names():
        path = study.run_path(name)
        if not path.is_dir():
            names = ", ".join(family_names())
            raise UserError(f"--baseline {name[:60]!r}: no run of this name in {study.RUNS}/; bundled are {names}")
        if not (path / "baseline.toml").exists():
            raise UserError(f"--baseline {name[:60]!r}: the run has no baseline yet; continue its search first")
    saved: dict[str, Any] = {}
    if path is not None:
        arch, origin = Architecture.load(path / "baseline.toml"), f"run {path.name}"
        saved = read_toml(path / "run.toml") if (path / "run.toml").exists() else {}
        path = study.run_path(run) if run else path
    else:
        assert name is not None
        arch, origin = Architecture.load(name), name
        path = study.run_path(run or Path(name).stem)
    arguments = saved.get("arguments", {})
    recipe = {f.name: saved["proxy"][f.name] for f in fields(Recipe) if f.name in saved.get("proxy", {})}
    if epochs is not None:
        recipe["epochs"] = epochs
    if "progressive" in saved:
        recipe["progressive"] = Schedule.of(saved["progressive"], f"{path / 'run.toml'}, progressive")
    return Baseline(
        arch,
        origin,
        path,
        data or arguments.get("data", datasets.DEFAULT),
        Recipe(**recipe),
        arguments.get("seed", 0) if seed is None else seed,
    )


def given_coefficients(rule: str, coefficients: str | None, target: float) -> Coefficients | None:
    """The coefficients that the options name; None if a grid has to find them. Raises UserError."""
    if coefficients is None:
        return None if rule == "compound" else scaling.rule_coefficients(rule, target)
    if rule != "compound":
        raise UserError(f"--coefficients and --rule {rule} exclude each other; leave out one of them")
    try:
        alpha, beta, gamma = (float(text) for text in coefficients.split(","))
        if not all(0 < value < 100 for value in (alpha, beta, gamma)):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--coefficients {coefficients[:60]!r}: give three positive numbers α,β,γ, like 1.2,1.1,1.15"
        ) from None
    return Coefficients(alpha, beta, gamma)


def candidates(target: float, step: float, tolerance: float) -> list[Coefficients]:
    """The grid's triples; with the paper's target of 2, the paper's own, between two steps, is always among them."""
    triples = scaling.grid(target, step, tolerance)
    paper = Coefficients(*scaling.PAPER)
    return triples if target != 2 or paper in triples else [*triples, paper]


def best_of_grid(found: Baseline, triples: list[Coefficients], folder: Path, workers: int, device: str) -> Coefficients:
    """Train the φ = 1 network of each triple by proxy, and give the triple of the best; resumable."""
    images = load_data(found.data)
    base = base_size(images.image_size, triples)
    jobs = {triple: job_of(found, triple, base) for triple in triples}
    networks = {(job.architecture, job.image_size) for job in jobs.values()}
    proxy = Proxy(found.data, found.recipe, device)
    key = f"{images.fingerprint} {found.recipe}"
    trials = study.open_study(found.path, f"{found.path.name}-scale", ["maximize"], None, None, False)
    cli.say(
        f"grid: {len(triples)} triples, {len(networks)} networks at φ = 1; the proxy trains {images.name} at {base} px "
        f"× γ, up to its own {images.image_size} px, so that a larger γ shows the network more of each image"
    )

    def missing() -> list[Coefficients]:
        """Triples whose network has no trial yet, one for each network."""
        states = (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
        seen = {t.user_attrs.get("job") for t in trials.get_trials(deepcopy=False, states=states)}
        return [t for t in triples if _name(jobs[t], key) not in seen]

    def ask() -> Trial | None:
        left = missing()
        if not left:
            return None
        trials.enqueue_trial(asdict(left[0]))
        return trials.ask()

    def prepare(trial: Trial) -> Job | None:
        named = {f.name: trial.suggest_float(f.name, 0.0, 100.0) for f in fields(Coefficients)}
        job = jobs.get(Coefficients(**named))
        if job is None:  # left over from a grid with other options
            return None
        trial.set_user_attr("job", _name(job, key))
        study.describe_trial(trial, Architecture.parse(job.architecture), job)
        return job

    def after(_: FrozenTrial) -> str:
        table, chosen = publish_grid(found, triples, jobs, key, trials, folder, images.name)
        return "" if chosen is None else f"best {Coefficients(*table.iloc[chosen][['alpha', 'beta', 'gamma']])}"

    total = len(networks)
    with Display(total, total - len({_name(jobs[t], key) for t in missing()}), after) as display:
        study.run_trials(trials, ask, prepare, lambda attrs: [attrs["accuracy"]], proxy, workers, display)
    table, chosen = publish_grid(found, triples, jobs, key, trials, folder, images.name)
    if chosen is None:
        raise RunFailed(f"{folder}: none of the grid's networks could be trained")
    picked = Coefficients(*(float(x) for x in table.iloc[chosen][["alpha", "beta", "gamma"]]))
    cli.say(f"picked: {picked}, accuracy {100 * table.iloc[chosen]['accuracy']:.1f} %; {_margin(table, chosen)}")
    cli.say(f"grid: {folder / 'grid.csv'}, {folder / 'grid.png'}")
    return picked


def base_size(native: int, triples: list[Coefficients]) -> int:
    """The image size in pixels at γ = 1 with which the largest γ still does not enlarge the data's own images."""
    return max(8, floor(native / max(triple.gamma for triple in triples)))


def job_of(found: Baseline, triple: Coefficients, base: int) -> Job:
    """The φ = 1 network of a triple, at its own image size."""
    return Job(str(found.architecture.scale(*triple.factors(1))), found.seed, round(base * triple.gamma))


def _name(job: Job, key: str) -> str:
    """What two trainings must share to be the same one."""
    return f"{job.architecture} {job.image_size} {job.seed} {key}"


def publish_grid(
    found: Baseline,
    triples: list[Coefficients],
    jobs: dict[Coefficients, Job],
    key: str,
    trials: optuna.Study,
    folder: Path,
    data: str,
) -> tuple[pd.DataFrame, int | None]:
    """Write grid.csv and grid.png as they are now; give the table back, and the position of the best row."""
    base = found.architecture.cost().madds
    results = {t.user_attrs.get("job"): t for t in study.finished(trials)}
    rows = []
    for triple in triples:
        arch = Architecture.parse(jobs[triple].architecture)
        cost = arch.cost()
        trial = results.get(_name(jobs[triple], key))
        known = trial.user_attrs if trial else {}
        rows.append(
            {
                **asdict(triple),
                "product": triple.product,
                "counted_ratio": cost.madds / base,
                "accuracy": known.get("accuracy"),
                "madds": cost.madds,
                "params": cost.params,
                "activations": cost.activations,
                "accuracy_error": known.get("accuracy_error"),
                "image_size": jobs[triple].image_size,
                "epochs": known.get("epochs"),
                "seconds": known.get("seconds"),
                "seed": jobs[triple].seed,
                "trial": trial.number if trial else None,
                "hash": arch.hash,
            }
        )
    table = pd.DataFrame(rows).astype({"accuracy": float, "accuracy_error": float, "epochs": "Int64", "trial": "Int64"})
    done = table[table["accuracy"].notna()]
    chosen = None
    if len(done):
        order = done.sort_values(["accuracy", "counted_ratio"], ascending=[False, True])
        chosen = int(order.index[0])
        title = f"{found.path.name}: α, β, γ of φ = 1 networks by proxy accuracy"
        subtitle = f"baseline {found.origin}; {len(done)} of {len(table)} triples trained on {data}"
        drawn = done.reset_index(drop=True)
        plots.save(plots.grid(drawn, list(done.index).index(chosen), title, subtitle), folder / "grid.png")
    picked = table.assign(picked=[i == chosen for i in range(len(table))])
    write_atomic(folder / "grid.csv", picked.to_csv(index=False))
    return table, chosen


def _margin(table: pd.DataFrame, chosen: int) -> str:
    """Whether the best triple is told from the others by these trainings."""
    best = table.iloc[chosen]
    others = table[table["accuracy"].notna()].drop(index=chosen)
    noise = 2 * (others["accuracy_error"] ** 2 + best["accuracy_error"] ** 2) ** 0.5
    near = int((best["accuracy"] - others["accuracy"] <= noise).sum())
    if near == 0:
        return "better than every other triple by more than two standard errors of the validation images"
    return f"not told from {near} of {len(others)} others by one training each (within two standard errors)"


def write_family(
    members: list[Member], coefficients: Coefficients, target: float, found: Baseline, folder: Path
) -> None:
    """Write one TOML a member, family.csv and family.png."""
    base = found.architecture.cost().madds
    rows = []
    for member in members:
        cost = member.cost
        row = {
            "phi": member.phi,
            "depth": member.depth,
            "width": member.width,
            "resolution": member.resolution,
            **asdict(cost),
            "nominal_ratio": target**member.phi,
            "counted_ratio": cost.madds / base,
        }
        about = {"title": f"φ = {member.phi:g} of {found.origin}", **asdict(coefficients), **row}
        write_atomic(folder / f"phi_{member.phi:g}.toml", member.architecture.to_toml(about))
        arch = member.architecture
        rows.append({**row, "pixels": arch.resolution, "hash": arch.hash, "architecture": str(arch)})
    table = pd.DataFrame(rows)
    write_atomic(folder / "family.csv", table.to_csv(index=False))
    title = f"{found.path.name}: the family of {coefficients}"
    subtitle = (
        f"baseline {found.origin}; MAdds counted at each network's own resolution, 1000 classes; "
        f"α·β²·γ² = {coefficients.product:.4g}, nominal {target:g}^φ"
    )
    plots.save(plots.family(table, published(), title, subtitle), folder / "family.png")
    for row in rows:
        cli.say(
            f"φ {row['phi']:g}: depth {row['depth']:.3f}, width {row['width']:.3f}, {row['pixels']} px, "
            f"{format_count(row['madds'])} MAdds ({row['counted_ratio']:.2f}×, nominal {row['nominal_ratio']:.2f}×), "
            f"{format_count(row['params'])} params"
        )


def published() -> pd.DataFrame:
    """The bundled families, counted as everything here: name, series, madds, params."""
    rows = []
    for name in family_names():
        for prefix, series in SERIES.items():
            if name.startswith(prefix):
                cost = Architecture.load(name).cost()
                label = name.removeprefix("efficientnet_").replace("_", "-").upper()
                rows.append({"name": label, "series": series, "madds": cost.madds, "params": cost.params})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    cli.run(main)
