"""Completion of `python -m nas.…` in bash, made from the commands: `python docs/completion.py` writes completion.bash.

The commands need seconds to start, which is too long for a key: so their options are written down beforehand.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import typer

from nas import architecture, datasets, progressive, scaling, space
from nas.export.formats import FORMATS
from nas.search.__main__ import OBJECTIVES, SAMPLERS
from nas.train import recipe

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
    "--progressive": progressive.schedule_names(),
    "--ray": ["auto"],
    "--recipe": recipe.recipe_names(),
    "--reward": ["v1", "v2"],
    "--rule": ["auto", "compound", *scaling.WEIGHTS],
    "--sampler": list(SAMPLERS),
    "--space": space.space_names(),
    "--to": [form.name for form in FORMATS],
}
TEMPLATE = r"""# Completion of python -m nas.…: source docs/completion.bash
# Made by python docs/completion.py. In zsh, first: autoload -U bashcompinit && bashcompinit

_nas_options() {
    case $1 in
OPTIONS
    esac
}

_nas_values() {
    case $1 in
VALUES
    esac
}

_nas_arguments() {
    case $1 in RUNS) ls runs 2>/dev/null ;; esac
    case $1 in PUBLISHED) echo FAMILIES ;; esac
}

_nas() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" words="" i
    for ((i = 1; i < COMP_CWORD - 1; i++)); do
        [[ ${COMP_WORDS[i]} == -m ]] && command=${COMP_WORDS[i + 1]} && break
    done
    if [[ $before == -m ]]; then
        words="COMMANDS"
    elif [[ $command == nas.* && $word == -* ]]; then
        words=$(_nas_options "$command")
    elif [[ $command == nas.* && $before == --* ]]; then
        words=$(_nas_values "$before")
        [[ $before == --baseline ]] && words+=" $(ls runs 2>/dev/null)"
    elif [[ $command == nas.* ]]; then
        words=$(_nas_arguments "$command")
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}

complete -o default -F _nas python python3 # files where nothing is known
"""


def options(command: str) -> list[str]:
    """What a command can be told, by the names of its options."""
    module = importlib.import_module(f"nas.{command}" if command == "compare" else f"nas.{command}.__main__")
    app = typer.Typer(add_completion=False)
    app.command()(module.main)
    found = [
        name
        for one in typer.main.get_command(app).params
        for name in (*one.opts, *one.secondary_opts)
        if name.startswith("--")
    ]
    return sorted(found)


def script() -> str:
    """The bash script."""
    named = {f"nas.{command}": options(command) for command in COMMANDS}
    parts = {
        "OPTIONS": "\n".join(f'        {name}) echo "{" ".join(words)}" ;;' for name, words in named.items()),
        "VALUES": "\n".join(f'        {name}) echo "{" ".join(words)}" ;;' for name, words in VALUES.items()),
        "RUNS": " | ".join(f"nas.{name}" for name in TRAINED),
        "PUBLISHED": " | ".join(f"nas.{name}" for name in PUBLISHED),
        "FAMILIES": " ".join(architecture.family_names()),
        "COMMANDS": " ".join(named),
    }
    text = TEMPLATE
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


if __name__ == "__main__":
    SCRIPT.write_text(script(), encoding="utf-8")
