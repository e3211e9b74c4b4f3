"""Completion of `python -m nas.…` in bash: `python docs/completion.py` writes the tables of completion.bash anew.

The commands need seconds to start, which is too long for a key: so their options are written down beforehand.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from nas import datasets
from nas.export.formats import FORMATS
from nas.networks import architecture, scaling
from nas.search.command import OBJECTIVES, SAMPLERS
from nas.spaces import space
from nas.training import recipe

SCRIPT = Path(__file__).resolve().parent / "completion.bash"
COMMANDS = ("compare", "cost", "export", "report", "scale", "search", "train")
TRAINED = ("compare", "cost", "export", "report", "train")  # their arguments are runs' names
PUBLISHED = ("cost", "train")  # or published networks
VALUES = {
    "--baseline": architecture.family_names(),
    "--data": list(datasets.LOADERS),
    "--device": ["auto", "cpu", "cuda", "mps"],
    "--freeze": ["features", "none"],
    "--match": ["nominal", "counted"],
    "--objectives": [f"accuracy,{name}" for name in OBJECTIVES[1:]],
    "--pretrained": ["torchvision"],
    "--ray": ["auto"],
    "--recipe": architecture.bundled_names(recipe.BUNDLED),
    "--reward": ["hard", "soft", "v2"],
    "--rule": ["auto", "compound", *scaling.WEIGHTS],
    "--sampler": list(SAMPLERS),
    "--space": architecture.bundled_names(space.BUNDLED),
    "--to": [form.name for form in FORMATS],
}
HEAD = """# Completion of python -m nas.…: source docs/completion.bash
# In zsh, first: autoload -U bashcompinit && bashcompinit
# Down to _nas made by python docs/completion.py.
"""
LOGIC = "_nas() {"  # from here on the script is written by hand


def options(command: str) -> list[str]:
    """What a command can be told, by the names of its options."""
    module = importlib.import_module(f"nas.{command}.__main__")
    app = typer.Typer(add_completion=False)
    app.command()(getattr(module, command, None) or module.main)
    found = [
        name
        for one in typer.main.get_command(app).params
        for name in (*one.opts, *one.secondary_opts)
        if name.startswith("--")
    ]
    return sorted(found)


def table(name: str, words: Mapping[str, Sequence[str]]) -> str:
    """A bash function that echoes words for its argument."""
    cases = "".join(f'        {key}) echo "{" ".join(found)}" ;;\n' for key, found in words.items())
    return f"{name}() {{\n    case $1 in\n{cases}    esac\n}}\n"


def script() -> str:
    """The bash script: its tables anew, before what is written by hand."""
    named = {f"nas.{command}": options(command) for command in COMMANDS}
    published = {f"nas.{command}": architecture.family_names() for command in PUBLISHED}
    text = SCRIPT.read_text(encoding="utf-8")
    tables = [
        f'_nas_commands="{" ".join(named)}"\n_nas_trained="{" ".join(f"nas.{command}" for command in TRAINED)}"\n',
        table("_nas_options", named),
        table("_nas_values", VALUES),
        table("_nas_published", published),
    ]
    return "\n".join([HEAD, *tables, text[text.index(LOGIC) :]])


if __name__ == "__main__":
    SCRIPT.write_text(script(), encoding="utf-8")
