"""`python -m nas.train`: train one network in full, and say what it is worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from nas import cli, datasets, study
from nas.errors import RunFailed, UserError
from nas.images import images_of
from nas.named import find_network, run_path
from nas.network import Network
from nas.proxy import Diverged, Progress, calm
from nas.train.display import Display
from nas.train.loop import CHECKPOINT, Course, Ended, Row, train
from nas.train.question import Training, parse_freeze
from nas.train.ranks import Ranks, joined
from nas.train.recipe import DEFAULT, Recipe
from nas.train.results import RESULT, sentences, write_curve, write_network, write_results
from nas.train.trainee import Trainee
from nas.units import format_count


def main(
    network: Annotated[
        str | None,
        typer.Argument(
            help="A run's name, RUN:TRIAL, a .toml file, a bundled name, or block strings in quotes.  "
            "[default: the newest run's baseline]"
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set's name, or a folder train/CLASS/*.  [default: the run's]")
    ] = None,
    run: Annotated[str | None, typer.Option(help="The run's name, under runs/.  [default: network and data]")] = None,
    recipe: Annotated[str | None, typer.Option(help="A bundled recipe or a .toml file.  [default: default]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=100_000, help="[default: the recipe's]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, max=1_000_000, help="The learning rate follows.  [default: the recipe's]")
    ] = None,
    pieces: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Parts of a batch that are computed by themselves, to save memory."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels.  [default: the data's; of a folder, the network's resolution at most]")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile make each step faster.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Train a network in full and measure it on the validation images.

    Results are in runs/NAME: weights.safetensors (nas.load("runs/NAME") gives the network), network.toml, curve.csv,
    curve.png, confusion.csv, confusion.png, result.toml. The same command again continues a training that was
    interrupted, to the same weights. Several GPUs: torchrun --nproc-per-node 8 -m nas.train and the same arguments.
    """
    with joined(device) as ranks:
        found = find_network(network)
        source = data or found.facts.get("arguments", {}).get("data", datasets.DEFAULT)
        chosen = Recipe.load(recipe or DEFAULT)
        chosen = replace(chosen if batch_size is None else chosen.for_batch(batch_size), epochs=epochs or chosen.epochs)
        path = run_path(run) if run else None
        images = datasets.load(source, image_size=image_size, largest=found.architecture.resolution)
        path = path or run_path(default_name(found.label, images.name))
        chosen = replace(chosen, batch_size=min(chosen.batch_size, len(images.train_labels)))
        training, validation = images_of(images, None, ranks.where)
        wanted = Training(
            found.architecture,
            found.origin,
            images,
            tuple(training.mean.flatten().tolist()),
            tuple(training.std.flatten().tolist()),
            chosen,
            pieces or ranks.world,
            parse_freeze("none", found.architecture),
            seed,
            compiled,
        )
        wanted.check(ranks)
        arguments = {
            **{"data": source, "recipe": recipe or DEFAULT, "epochs": chosen.epochs, "batch_size": chosen.batch_size},
            **{"pieces": wanted.pieces, "image_size": images.image_size, "compile": compiled or None, "seed": seed},
            **{"device": device, "processes": ranks.world},
        }
        course = Course(
            training, validation, images.num_classes, images.flip, chosen, wanted.pieces, wanted.freeze, seed
        )
        if ranks.first:
            with study.locked(path):
                perform(wanted, course, ranks, path, facts(wanted, arguments, ranks))
        else:
            perform(wanted, course, ranks, path, {})


def facts(wanted: Training, arguments: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """What run.toml says: all that is needed to repeat the training."""
    images, recipe = wanted.data, wanted.recipe
    return {
        "arguments": arguments,
        "network": {
            "origin": wanted.origin,
            "architecture": str(wanted.architecture),
            "fingerprint": wanted.architecture.hash,
        },
        "data": {
            "name": images.name,
            "train": len(images.train_labels),
            "val": len(images.val_labels),
            "classes": images.num_classes,
            "image_size": images.image_size,
            "fingerprint": images.fingerprint,
            "note": images.note,
        },
        "recipe": recipe.table(),
        "progressive": recipe.progressive.table() if recipe.progressive else None,
        **study.environment(str(ranks.where)),
    }


def perform(wanted: Training, course: Course, ranks: Ranks, path: Path, known: Mapping[str, Any]) -> None:
    """Train, or continue, and write the results; all processes come here, the first one alone speaks and writes."""
    done = b""
    if ranks.first:
        begun = study.check_arguments(path, known)
        if not begun:
            study.write_run(path, known)
            write_network(path, wanted, {})
        done = bytes([(path / RESULT).exists()])
        continued = (path / CHECKPOINT).exists()
        introduce(wanted, ranks, path, "done" if done[0] else "continued" if continued else "new")
    if not ranks.told(done)[0]:
        with Display(course.recipe.epochs, ranks.first) as display:

            def published(rows: list[Row]) -> None:
                display.published(rows[-1])
                write_curve(path, wanted, rows)

            trainee = Trainee(started(wanted), wanted.recipe, ranks, wanted.compiled)
            ended = attempt(trainee, course, path / CHECKPOINT, published, display.progressed)
        if ranks.first:
            part = f"the {len(course.validation):,} validation images of {wanted.data.name}"
            write_results(path, wanted, trainee, {part: ended.measured}, ended.rows)
    if ranks.first:
        for sentence in sentences(path):
            cli.say(sentence)


def introduce(wanted: Training, ranks: Ranks, path: Path, state: str) -> None:
    """Say what is going to be trained."""
    arch, images, recipe = wanted.architecture, wanted.data, wanted.recipe
    cost = arch.cost(images.image_size, images.num_classes, images.channels)
    cli.say(f"training {path}: {state}")
    cli.say(f"{wanted.origin}: {arch}")
    cli.say(f"data {images.name}: {images.note}")
    cli.say(
        f"{len(images.train_labels):,} images of {images.image_size} px, {images.num_classes} classes, for which the "
        f"network has {format_count(cost.params)} parameters and {format_count(cost.madds)} MAdds"
    )
    shared = f", {ranks.world} processes" if ranks.world > 1 else ""
    cut = f" in {wanted.pieces} pieces, each with batch norm statistics of its own" if wanted.pieces > 1 else ""
    cli.say(
        f"recipe {recipe.name}: {recipe.epochs} epochs, {recipe.optimizer}, batches of {recipe.batch_size}{cut}, on "
        f"{ranks.where}{shared}"
    )
    if recipe.progressive:
        cli.say(recipe.progressive.sentence(images.image_size))


def started(wanted: Training) -> Network:
    """The network as it is before the first step; all that is random follows from the seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(wanted.seed)
        images, recipe = wanted.data, wanted.recipe
        model = wanted.architecture.build(images.num_classes, images.channels, recipe.dropout, recipe.drop_path)
    calm(model)
    return model


def attempt(
    trainee: Trainee,
    course: Course,
    file: Path,
    published: Callable[[list[Row]], None],
    progress: Callable[[Progress], None],
) -> Ended:
    """Train; raises RunFailed where the training diverges, UserError where the device's memory does not suffice."""
    try:
        return train(trainee, course, file, published, progress)
    except Diverged as error:
        raise RunFailed(f"the training diverged ({error}); give a recipe with a lower learning_rate") from None
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise UserError(
                f"--batch-size {course.recipe.batch_size}: out of memory on {trainee.ranks.where}; cut batches into "
                f"pieces (--pieces {2 * course.pieces} or more), or make them smaller"
            ) from None
        raise


def default_name(label: str, data: str) -> str:
    """The run's name where none is given."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{label}-{data}")[:100]


if __name__ == "__main__":
    cli.run(main)
