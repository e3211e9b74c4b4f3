"""`python -m nas.export`: a trained network as files for other programs, each checked before it is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nas.base import cli
from nas.base.units import format_count
from nas.export.files import Row, export
from nas.export.formats import FORMATS, chosen
from nas.export.onnx import INPUT, OPSET, OUTPUT
from nas.export.source import BATCH, Source, open_source


def main(
    source: Annotated[str, typer.Argument(help="A training's run, its directory, or a .safetensors file of one.")],
    to: Annotated[
        str, typer.Option(help=f"Formats: some of {','.join(form.name for form in FORMATS)}.")
    ] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="Where the files go.  [default: export/ beside the weights]")] = None,
    data: Annotated[
        str | None, typer.Option(help="Images to check on: a data set's name, or a folder.  [default: the run's own]")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images to measure INT8 on, at most.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")] = False,
) -> None:
    """Export a trained network, and check each file.

    Each file is written, loaded as its users load it, and run on random and validation images, singly and in batches.
    All files are kept if all outputs are those of the trained network, none otherwise. INT8 may differ: its accuracy is
    shown beside that of the trained network. Results are also in export.csv.
    """
    formats = chosen(to)
    opened = open_source(source, data, images)
    folder = out or opened.file.parent / "export"
    rows = export(opened, formats, folder)
    if as_json:
        cli.say_json({"folder": str(folder), "files": [asdict(row) for row in rows]})
    else:
        print_results(opened, folder, rows)


def print_results(source: Source, folder: Path, rows: list[Row]) -> None:
    """Print what was written and how it was checked."""
    names = "format", "files", "size", "difference, random images", "real images", "images", "top-1", "trained", "same"
    table = Table(*names, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        shares = (row.top1, row.trained_top1, row.same_class)
        table.add_row(
            row.format,
            ", ".join(row.files),
            f"{format_count(row.bytes, 3)}B",
            _within(row.max_difference_random, row.tolerated_random),
            _within(row.max_difference_real, row.tolerated_real),
            str(row.images or ""),
            *("" if value is None else f"{100 * value:.2f} %" for value in shares),
        )
    cli.show(table)
    inputs, real = source.inputs, source.real
    cli.say(
        f"difference: the largest of a logit from the trained network's (fp32, CPU), on {1 + BATCH} images of random"
    )
    cli.say("  pixels and on real ones; in brackets what rounding may explain")
    if real:
        cli.say(
            f"images: real ones, of the {real.among:,} validation images of {real.name}; top-1: of the file and of the"
        )
        cli.say("  trained network on these; same: the share of them that both classify alike")
    else:
        cli.say("no real images: the training data is unknown; give --data to check on them too")
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (inputs.mean, inputs.std))
    size = f"{inputs.channels}, {inputs.image_size}, {inputs.image_size}"
    cli.say(f"all take float32 [batch, {size}]: pixel values 0 to 255, less mean {mean}, by std {std}; any batch size")
    cli.say(inputs.sentence)
    if any(row.format in ("onnx", "int8") for row in rows):
        cli.say(
            f"ONNX: input {INPUT}, output {OUTPUT}, opset {OPSET}; classes, mean, std, resize and value_range are "
            "in its metadata"
        )
    cli.say(f"files: {folder}")


def _within(gap: float | None, tolerated: float | None) -> str:
    if gap is None:
        return ""
    return f"{gap:.1e}" if tolerated is None else f"{gap:.1e} (≤ {tolerated:.1e})"


if __name__ == "__main__":
    cli.run(main)
