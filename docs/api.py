"""The library as one page, made from the docstrings: `python docs/api.py` writes api.md.

Listed is what other programs may rely on: the names of `nas`, and of the rooms that notebooks use those in ROOMS.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
ROOMS = {
    "nas.networks.scaling": ("Coefficients", "paper", "grid", "rule_coefficients", "family", "Member"),
    "nas.selection.pareto": ("non_dominated", "hypervolume", "reward", "training_reward", "pick_baseline"),
    "nas.plots.figures": ("pareto", "sensitivity", "budget", "distributions", "save"),
    "nas.datasets": ("load", "Source", "Dataset"),
}
WIDE = 100  # letters of a signature
HEAD = """# The library

Made from the docstrings by `python docs/api.py`; a test fails when it is out of date. What is not here may change.
[example.ipynb](example.ipynb) shows some of it at work.
"""
Definition = ast.ClassDef | ast.FunctionDef


def page() -> str:
    """The Markdown."""
    listed = {"nas": tuple(names_of(ROOT / "nas" / "__init__.py")), **ROOMS}
    contents = [
        f"- `{room}`: " + ", ".join(f"[{name}](#{room.replace('.', '')}{name.lower()})" for name in names)
        for room, names in listed.items()
    ]
    entries = [part for room, names in listed.items() for name in names for part in entry(room, name)]
    return "\n\n".join([HEAD.strip(), "\n".join(contents), *entries]) + "\n"


def names_of(file: Path) -> list[str]:
    """A package's `__all__`."""
    found: list[str] = next(
        ast.literal_eval(node.value)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return found


def definition(module: str, name: str) -> Definition:
    """Where a name of a module is defined, be it in another one that it imports it from."""
    path = ROOT.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            return definition(str(node.module), name)
    raise SystemExit(f"api.py: {module} has no {name}")


def entry(room: str, name: str) -> Iterator[str]:
    """The paragraphs of one name: its signature, its docstring, and those of its public members."""
    node = definition(room, name)
    yield f"## {room}.{name}"
    yield f"```python\n{signature(node, f'{room}.{name}')}\n```"
    yield said(node, name)
    for member in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            if node.bases and not ast.get_docstring(member):
                continue  # what the base asks for
            yield f"**`{signature(member, f'{name}.{member.name}')}`**"
            yield said(member, f"{name}.{member.name}")


def signature(node: Definition, name: str) -> str:
    """How it is called; of a property its type, of a dataclass its fields."""
    if isinstance(node, ast.ClassDef):
        made = [member for member in node.body if isinstance(member, ast.FunctionDef) and member.name == "__init__"]
        fields = [ast.unparse(member) for member in node.body if isinstance(member, ast.AnnAssign)]
        return called(name, arguments(made[0]) if made else fields) if made or fields else name
    returns = ast.unparse(node.returns) if node.returns else "None"
    if any(ast.unparse(one).endswith("property") for one in node.decorator_list):
        return f"{name}: {returns}"
    return f"{called(name, arguments(node))} -> {returns}"


def called(name: str, given: list[str]) -> str:
    """A call in one line; of a class or function of a room with many arguments one line each."""
    line = f"{name}({', '.join(given)})"
    return (
        line if len(line) < WIDE or not name.startswith("nas.") else f"{name}(\n    " + ",\n    ".join(given) + ",\n)"
    )


def arguments(node: ast.FunctionDef) -> list[str]:
    """The parameters with their types and defaults, without self or cls."""
    named = [*node.args.posonlyargs, *node.args.args]
    first = [None] * (len(named) - len(node.args.defaults))
    given = [_argument(*one) for one in zip(named, [*first, *node.args.defaults], strict=True)]
    only = [_argument(*one) for one in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    rest = [f"**{_argument(node.args.kwarg, None)}"] if node.args.kwarg else []
    return [one for one in given if one not in ("self", "cls")] + (["*", *only] if only else []) + rest


def _argument(node: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(node) + (f" = {ast.unparse(default)}" if default else "")


def said(node: Definition, name: str) -> str:
    """A docstring as Markdown: a list of arguments is a list; raises SystemExit where there is none."""
    text = ast.get_docstring(node)
    if not text:
        raise SystemExit(f"api.py: {name} has no docstring")
    return re.sub(r"^Args:\n((?: {4}.*\n?)+)", _listed, text, flags=re.MULTILINE)


def _listed(found: re.Match[str]) -> str:
    lines = (re.sub(r"^ {4}(\w+): ", r"- `\1`: ", line) for line in found[1].splitlines())
    return "\n".join(re.sub(r"^ {4,}", "  ", line) for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
