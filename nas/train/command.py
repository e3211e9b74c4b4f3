"""`python -m nas.train`: train one network in full and evaluate it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import Annotated

import torch
import typer

from nas import datasets
from nas.base import cli
from nas.base.errors import RunFailed, UserError, check_installed, first_line
from nas.base.files import read_toml
from nas.base.machine import default_threads, torch_threads
from nas.base.metrics import metric_of, option_of
from nas.base.units import format_count
from nas.datasets import Dataset, Source, Stored
from nas.datasets.batches import Images
from nas.devices.device import out_of_memory
from nas.networks.module import Network, zero_init
from nas.runs.lookup import default_name, find_network, find_run, run_path
from nas.runs.run import Run
from nas.train.config import Training, parse_freeze
from nas.train.display import Display
from nas.train.events import Events, write_events
from nas.train.results import RESULT, draw_pictures, sentences, write_curve, write_network, write_results, write_test
from nas.training import trained
from nas.training.distributed import Ranks, process_group
from nas.training.evaluate import Diverged, evaluate
from nas.training.pretrained import TORCHVISION, load_pretrained, read_pretrained
from nas.training.recipe import DEFAULT, FINETUNE, Recipe
from nas.training.trainer import CHECKPOINT, Row, Task, Trainer
from nas.training.trainer import train as run_trainer


def train(
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
    resize: cli.ResizeOption = None,
    skip_broken: cli.SkipBrokenOption = None,
    recheck: cli.RecheckOption = False,
    run: Annotated[str | None, typer.Option(help="The run's name, under runs/.  [default: NETWORK-DATA-train]")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A bundled recipe or a .toml file.  [default: default, or finetune with --pretrained]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=100_000, help="[default: the recipe's]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, max=1_000_000, help="The learning rate follows.  [default: the recipe's]")
    ] = None,
    microbatches: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Compute each batch in this many parts, to save memory.  [default: 1]"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels.  [default: the data's; of a folder, the network's resolution at most]")
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Start from weights: torchvision, a training's directory, a .safetensors or a .pth file."),
    ] = None,
    freeze: Annotated[
        str, typer.Option(help="Parts to freeze: features, or the number of their parts from the stem on, or none.")
    ] = "none",
    unfreeze: Annotated[
        float | None,
        typer.Option(help="Unfreeze them, the last first, within this share of the epochs.  [default: the recipe's]"),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Measure on the data's own test images too, once, at the end.")
    ] = False,
    metric: cli.RunsMetricOption = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curve for TensorBoard too: tensorboard --logdir runs.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile make each step faster.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    device: cli.DeviceOption = "auto",
) -> Run:
    """Train a network in full and measure it on the validation images.

    Results are in runs/NAME: weights.safetensors (nas.load("runs/NAME") gives the network), network.toml, curve.csv,
    curve.png, confusion.csv, confusion.png, result.toml; with --tensorboard event files of TensorBoard. The same
    command again continues a training that was interrupted, to the same weights. Several GPUs: torchrun
    --nproc-per-node 8 -m -- nas.train and the same arguments.
    """
    if tensorboard:
        check_installed("--tensorboard", "tensorboard", "tensorboard")
    with process_group(device) as ranks:
        found = find_network(network)
        source = Source.of(found.facts.get("arguments", {}), datasets.DEFAULT, data, resize, skip_broken, recheck)
        measured = metric_of(metric, found.facts)
        chosen = Recipe.load(recipe or (FINETUNE if pretrained else DEFAULT))
        chosen = replace(chosen if batch_size is None else chosen.for_batch(batch_size), epochs=epochs or chosen.epochs)
        chosen = chosen if unfreeze is None else replace(chosen, unfreeze=unfreeze)
        frozen = parse_freeze(freeze, found.architecture)
        weights = read_pretrained(pretrained_source(pretrained), found.architecture) if pretrained else None
        path = run_path(run) if run else None
        known, largest = weights.value_range if weights else None, found.architecture.resolution
        source = replace(source, image_size=image_size, largest=largest, value_range=known)
        images = load_images(ranks, source)
        path = path or run_path(default_name(found.label, images.name, trained=True))
        held = datasets.load_test(source, images) if test else None  # refused before anything is written
        statistics = weights.statistics(images.channels) if weights else None
        task = Task.of(images, chosen, seed, ranks.device, statistics=statistics, freeze=frozen)
        chosen = task.recipe
        options = {
            **source.arguments(),
            **{"recipe": chosen.name, "epochs": chosen.epochs, "batch_size": chosen.batch_size},
            **{"microbatches": microbatches or ranks.world, "image_size": images.image_size},
            **{"compile": compiled or None, "seed": seed, "pretrained": pretrained, "freeze": freeze},
            **{"unfreeze": chosen.unfreeze or None, "metric": option_of(measured), "device": device},
        }
        config = Training(
            path=path,
            options=options,
            architecture=found.architecture,
            origin=found.origin,
            data=images,
            mean=tuple(task.training.mean.flatten().tolist()),
            std=tuple(task.training.std.flatten().tolist()),
            recipe=chosen,
            microbatches=microbatches or ranks.world,
            freeze=frozen,
            pretrained=weights,
            seed=seed,
            compiled=compiled,
            metric=measured,
        )
        config.check(ranks)
        model, note = initial_network(config)
        opened = Run(path)
        with opened.locked() if ranks.first else nullcontext():
            if ranks.first:
                write_config(config, opened, ranks)
                print_plan(config, ranks, note)
                if held:
                    cli.say(f"test: {held.note}")
            run_training(config, task, model, ranks, tensorboard)
            if ranks.first:
                print_results(config, held, task.training, ranks)
        return opened


def pretrained_source(text: str) -> str:
    """What --pretrained names: torchvision, a run's directory, or a path."""
    return text if text == TORCHVISION else str(find_run(text) or text)


def load_images(ranks: Ranks, source: Source) -> Dataset:
    """The images, loaded by the first process; the others read them from its cache.

    Raises UserError; if the first process fails, so do the others.
    """
    if not ranks.first:
        stored = Stored.from_json(ranks.broadcast_by_store(""))
        return datasets.load(replace(source, stored=stored, recheck=False))
    found = None
    try:
        found = datasets.load(source)
        return found
    finally:
        ranks.broadcast_by_store(found.stored.to_json() if found and found.stored else "")


def print_plan(config: Training, ranks: Ranks, note: str) -> None:
    """Print what is going to be trained."""
    arch, images, recipe = config.architecture, config.data, config.recipe
    cost = arch.cost(images.image_size, images.num_classes, images.channels)
    begun = "continued" if (config.path / CHECKPOINT).exists() else "new"
    cli.say(f"training {config.path}: {'done' if (config.path / RESULT).exists() else begun}")
    cli.say(f"{config.origin}: {arch}")
    for line in images.lines:
        cli.say(line)
    cli.say(
        f"{len(images.train_labels):,} images of {images.image_size} px, {images.num_classes} classes, for which the "
        f"network has {format_count(cost.params)} parameters and {format_count(cost.madds)} MAdds"
    )
    shared = f", {ranks.world} processes" if ranks.world > 1 else ""
    parts = config.microbatches
    cut = f" in {parts} microbatches, each with batch norm statistics of its own" if parts > 1 else ""
    cli.say(
        f"recipe {recipe.name}: {recipe.epochs} epochs, {recipe.optimizer}, batches of {recipe.batch_size}{cut}, on "
        f"{ranks.device}{shared}"
    )
    if recipe.progressive:
        cli.say(recipe.progressive.sentence(images.image_size))
    if note:
        cli.say(note)
    if config.freeze:
        until = f", part by part free within {recipe.unfreeze:.0%} of the epochs" if recipe.unfreeze else ""
        cli.say(f"frozen: the first {config.freeze} of {len(arch.stages) + 2} parts of the features{until}")


def write_config(config: Training, run: Run, ranks: Ranks) -> None:
    """Write run.toml and network.toml; raises UserError if the training was begun with other arguments."""
    facts = config.facts(ranks)
    if not run.is_begun(facts):
        run.write(facts)
        write_network(config, {})


def run_training(config: Training, task: Task, model: Network, ranks: Ranks, tensorboard: bool) -> None:
    """Train, or continue, and write the results; called in all processes, of which the first prints and writes."""
    if ranks.broadcast(bytes([(config.path / RESULT).exists()]))[0]:
        if tensorboard and ranks.first:
            write_events(config.path)
        return
    with Display(task.recipe.epochs, ranks.first, config.metric) as display, closing(Events(config.path)) as events:

        def published(rows: list[Row]) -> None:
            display.published(rows[-1])
            write_curve(config, rows)
            if tensorboard:
                events.published(rows)

        with torch_threads(default_threads()), training_errors(config, ranks):
            trainer = Trainer(model, config.recipe, ranks, config.microbatches, config.compiled)
            result = run_trainer(trainer, task, config.path / CHECKPOINT, published, display.progressed)
    if ranks.first:
        write_results(config, trainer, result)


def print_results(config: Training, held: Dataset | None, training: Images, ranks: Ranks) -> None:
    """Print the metrics; evaluates the network on the test images, if given, once."""
    images = config.data
    draw_pictures(config, missing_only=True)  # of a training that was interrupted before they were drawn
    if held and "test" not in read_toml(config.path / RESULT):
        pixels = held.val_images.permute(0, 2, 3, 1).contiguous()
        part = replace(training, pixels=pixels, labels=held.val_labels)
        model = trained.load(config.path).to(ranks.device)
        write_test(config, evaluate(model, part, images.num_classes, Ranks(ranks.device)))
    for sentence in sentences(config.path):
        cli.say(sentence)


def initial_network(config: Training) -> tuple[Network, str]:
    """The network before the first step, and a note on its weights; raises UserError.

    All random numbers follow from the seed.
    """
    images, recipe = config.data, config.recipe
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = config.architecture.build(images.num_classes, images.channels, recipe.dropout, recipe.drop_path)
    zero_init(model)
    return model, load_pretrained(model, config.pretrained, images.classes) if config.pretrained else ""


@contextmanager
def training_errors(config: Training, ranks: Ranks) -> Iterator[None]:
    """Turn errors of a training into RunFailed, and a lack of device memory into UserError."""
    try:
        yield
    except (UserError, RunFailed):
        raise
    except Diverged as error:
        raise RunFailed(f"the training diverged ({error}); give a recipe with a lower learning_rate") from None
    except Exception as error:  # libraries raise errors of every class
        if isinstance(error, RuntimeError) and out_of_memory(error):
            tried = ", however small the microbatches" if ranks.world == 1 else ""  # several cannot cut them further
            more = "" if ranks.world == 1 else f"--microbatches {2 * config.microbatches} or more, "
            raise UserError(
                f"--batch-size {config.recipe.batch_size}: out of memory on {ranks.device}{tried}; give {more}"
                "a smaller --batch-size or a smaller --image-size"
            ) from None
        raise RunFailed(
            f"the training failed: {type(error).__name__}: {first_line(error)}; the same command continues from its "
            "last checkpoint"
        ) from error
