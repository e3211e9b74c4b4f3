"""`python -m nas.cost`: costs of a network, of a search space within a budget, of the published families.

A network is counted part by part, on request beside fvcore's count of the built one.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nas.base import cli
from nas.base.errors import UserError
from nas.base.limits import Limit, bounds_of, read_limits, typed
from nas.base.units import format_bytes, shown
from nas.cost.budget import View
from nas.cost.families import explanation, families_table, members
from nas.networks.architecture import Architecture
from nas.networks.cost import BYTES, Cost, Part, parts
from nas.plots import figures as plots
from nas.runs.lookup import find_network
from nas.spaces.budgets import DRAWS
from nas.spaces.space import SearchSpace


@cli.limited
def main(
    network: Annotated[
        str | None, typer.Argument(help="A bundled name, a .toml file, a run, RUN:TRIAL, or block strings in quotes.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Instead of a network: count within a search space.")] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Instead of a network: the published EfficientNets, explained.")
    ] = False,
    resolution: Annotated[int | None, typer.Option(help="Pixels.  [default: the network's or space's own]")] = None,
    classes: Annotated[int, typer.Option(help="Classes.")] = 1000,
    channels: Annotated[int, typer.Option(help="Input channels.")] = 3,
    check: Annotated[bool, typer.Option("--check", help="Build the network and count it with fvcore as well.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --space: the histogram.  [default: SPACE_madds.png in this directory]")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure its latency on this device instead.")] = False,
    batch: Annotated[int, typer.Option(help="Images in a batch, for --latency.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads, for --latency.  [default: torch's own]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, for --latency.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print a network's figures as JSON, for a script.")] = False,
    **limits: Limit,
) -> None:
    """Count multiply-adds, fvcore flops, parameters, activations and peak memory, for one image.

    Of one network part by part; of a search space and, with limits such as --max-madds, its part within them; or of
    EfficientNet-B0 to B7 beside what the paper's scaling rule gives.
    """
    subjects = {"a network": network, "--space": space, "--families": families or None}
    given = [name for name, value in subjects.items() if value is not None]
    if len(given) != 1:
        hint = f"; given were {' and '.join(given)}" if given else ""
        raise UserError(f"give one of a network, --space NAME or --families{hint}")
    budget = {typed(option): value for option, value in limits.items()}
    of_network = {"--classes": classes != 1000, "--channels": channels != 3, "--check": check, "--latency": latency}
    of_network["--json"] = as_json
    timed = latency or limits.get("max_latency") or limits.get("min_latency")
    of_latency = {"--batch": batch != 1, "--threads": threads, "--device": device != "auto" and not timed}
    if any(value not in (None, False) for value in of_latency.values()) and not latency:
        raise UserError(f"{', '.join(of_latency)} go with --latency; add it, or leave them out")
    if latency and (counted := [name for name in ("--classes", "--channels", "--check") if of_network[name]]):
        raise UserError(f"{', '.join(counted)}: latency is measured with 3 channels and 1000 classes; leave it out")
    fitting = {
        "a network": {"--resolution", *of_network},
        "--space": {"--resolution", "--out", *budget},
        "--families": set[str](),
    }[given[0]]
    for option, value in {"--resolution": resolution, "--out": out, **budget, **of_network}.items():
        if value not in (None, False) and option not in fitting:
            raise UserError(f"{option} does not go with {given[0]}; leave it out")
    if network is not None:
        arch = find_network(network).architecture
        arch = arch if resolution is None else arch.at(resolution)
        if latency:
            say_latency(arch, device, threads, batch, as_json)
        else:
            show_network(arch, classes, channels, check, as_json)
    elif space is not None:
        bounds = bounds_of(read_limits(limits))
        found = SearchSpace.load(space)
        found = found if resolution is None else found.at(resolution)
        if "latency" in bounds:
            found = timed_space(found, device)
        show_space(View(found, bounds), out)
    else:
        show_families()


def show_network(arch: Architecture, classes: int, channels: int, check: bool, as_json: bool) -> None:
    """Print what a network costs, part by part."""
    counted = parts(arch, None, classes, channels)
    everything = arch.cost(None, classes, channels)
    built = fvcore_counts(arch, classes, channels) if check else None
    rows = [*counted, Part("total", 1, everything)]
    if as_json:
        cli.say_json(
            {
                "architecture": str(arch),
                **{"resolution": arch.resolution, "channels": channels, "classes": classes},
                **asdict(everything),
                "parts": [{"part": part.name, "output_px": part.size, **asdict(part.cost)} for part in counted],
                "fvcore": dict(zip(("flops", "params"), built["total"], strict=True)) if built else None,
            }
        )
        return
    cli.say(str(arch))
    cli.say(f"at {arch.resolution} px, {channels} channels, {classes} classes; MAdds are what papers print as FLOPs")
    cli.show(cost_table(arch, rows, built))
    cli.say(memory_line(everything))
    if built:
        flops = everything.flops - built["total"][0]
        params = everything.params - built["total"][1]
        cli.say(f"difference between the closed form and fvcore on the built network: {flops} flops, {params} params")


def memory_line(cost: Cost) -> str:
    """The bytes of a network's peak memory and of its weights, by data type."""
    held, weights = (
        ", ".join(f"{format_bytes(elements * size)} in {kind}" for kind, size in BYTES.items())
        for elements in (cost.peak, cost.params)
    )
    return (
        f"peak: elements held at once, layer after layer, depthwise convolutions in place: {held}; weights: {weights}"
    )


def show_space(view: View, out: Path | None) -> None:
    """Print the size of a space, its part within the budget and its costs; draw the histogram."""
    path = out or Path(f"{view.space.name}_madds.png")
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--out {path}: give a file in a folder that exists, like {view.space.name}_madds.png")
    sentences = view.sentences()
    for sentence in sentences:
        cli.say(sentence)
    source = "within the budget" if view.bounds else "of the space"
    cli.say(f"least and most: exact, of the whole space; percentiles: of {DRAWS:,} networks drawn from those {source}")
    cli.show(view.table())
    title = f"{shown(view.space.name, 40)}: multiply-adds of its networks"
    subtitle = "\n".join([*sentences[1:], f"{view.space.size:,} networks; histogram of {DRAWS:,} uniform draws"])
    everywhere, feasible = view.everywhere["madds"], view.feasible["madds"]
    plots.draw(path, plots.budget, everywhere, feasible, view.share, view.bounds, title, subtitle)
    cli.say(f"histogram: {path}")


def timed_space(space: SearchSpace, device: str) -> SearchSpace:
    """The space with the latency of its networks on this device, by a table that is kept in this directory."""
    from nas.devices import latency

    file = Path(f"{space.name}_latency.csv")
    return space.timed(latency.kept(file, space, device, file.exists(), cli.say).of)


def show_families() -> None:
    """Print the published EfficientNets beside what the rule gives."""
    rows = members()
    cli.show(families_table(rows))
    for sentence in explanation(rows):
        cli.say(f"- {sentence}")


def say_latency(arch: Architecture, device: str, threads: int | None, batch: int, as_json: bool) -> None:
    """Measure a network on this device, and say under what conditions; raises UserError."""
    from nas.devices.latency import WARM_UP, Conditions, measure

    conditions = Conditions.here(device, threads, batch)
    found = measure(arch, conditions)
    if as_json:
        cli.say_json({"architecture": str(arch), "latency": asdict(found)})
        return
    low, median, high = (f"{1000 * seconds:.4g} ms" for seconds in (found.low, found.median, found.high))
    cli.say(str(arch))
    cli.say(
        f"latency {median}, quartiles {low} to {high}: measured in {found.repeats} passes after {WARM_UP} to warm up"
    )
    cli.say(f"on {conditions}, {arch.resolution} px, 1000 classes; eval mode, batch norm folded, channels-last, eager")


def fvcore_counts(arch: Architecture, classes: int, channels: int) -> dict[str, tuple[int, int]]:
    """Build the network and count each part: flops by fvcore (eval mode, one image) and parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings from fvcore's use of torch
        from fvcore.nn import FlopCountAnalysis
        from torch import zeros

        model = arch.build(classes, channels).eval()
        image = zeros(1, channels, arch.resolution, arch.resolution)
        flops = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_module = flops.by_module()
    names = ["stem", *(f"stage {n}" for n in range(1, len(arch.stages) + 1)), "head"]
    params = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}
    found = {part: (by_module[f"features.{i}"], params[f"features.{i}"]) for i, part in enumerate(names)}
    found["classifier"] = (by_module["avgpool"] + by_module["classifier"], params["classifier"])
    found["total"] = (flops.total(), params[""])
    return {part: (int(count), weights) for part, (count, weights) in found.items()}


def cost_table(arch: Architecture, rows: list[Part], built: dict[str, tuple[int, int]] | None) -> Table:
    """The parts as a table; with the built network's counts and the differences if they are given."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["part", "what", "output px", "MAdds", "flops", "params", "activations", "peak"]
    columns += ["fvcore flops", "built params", "difference"] if built else []
    for column in columns:
        table.add_column(column, justify="left" if column in ("part", "what") else "right", no_wrap=True)
    for part in rows:
        cost = part.cost
        cells = [part.name, _layer_words(arch, part.name), "" if part.name == "total" else str(part.size)]
        cells += [f"{n:,}" for n in (cost.madds, cost.flops, cost.params, cost.activations, cost.peak)]
        if built:
            flops, params = built[part.name]
            cells += [f"{flops:,}", f"{params:,}", str(abs(cost.flops - flops) + abs(cost.params - params))]
        table.add_row(*cells, style="bold" if part.name == "total" else None)
    return table


def _layer_words(arch: Architecture, part: str) -> str:
    if part.startswith("stage "):
        return str(arch.stages[int(part.removeprefix("stage ")) - 1])
    return {"stem": f"3x3 convolution to {arch.stem}", "head": f"1x1 convolution to {arch.head}"}.get(part, "")


if __name__ == "__main__":
    cli.run(main)
