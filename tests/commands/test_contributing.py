"""CONTRIBUTING.md: each recipe is carried out on a copy of the source; what docs/ holds of the source is up to date."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas import datasets
from tests.helpers import needs
from tests.helpers.commands import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE))
PROOF = {  # what only the changed source says, or writes into a table
    "A block type": "xd_r2_k3_s2_e4_c32_se0.25",
    "A search space": "small: 110,592 distinct networks",
    "An objective": ",depth,",
    "A scaling rule": "depth 1.320",
    "A data set": "data kmnist",
}


DIFFS = {name: "".join(re.findall(r"```diff\n(.+?)```", recipe, re.DOTALL)) for name, recipe in RECIPES.items()}
BETWEEN = "=== the next command\n"
ALL = f"""
import json, runpy, sys
for number, words in enumerate(sys.argv[1:]):
    print({BETWEEN!r} if number else "", end="", flush=True)
    sys.argv = json.loads(words)
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
"""


def test_every_recipe_is_known() -> None:
    assert set(RECIPES) == set(PROOF)


@pytest.mark.parametrize("name", PROOF)
def test_a_recipe_applies_to_the_source(name: str) -> None:
    subprocess.run(["git", "apply", "-p1", "--check", "-"], cwd=ROOT, input=DIFFS[name], text=True, check=True)


def test_the_recipes_work(tmp_path: Path, images: Path) -> None:
    """Each command does what its recipe says: all in one process, for imports take most of the time."""
    shutil.copytree(ROOT / "nas", tmp_path / "nas", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "images").symlink_to(images)
    downloaded = tmp_path / "cache" / "compound-nas" / "kmnist.npz"  # as if it had been, with other images
    datasets.save(replace(datasets.load(str(images)), name="kmnist"), downloaded, datasets.FORMAT)
    for diff in DIFFS.values():
        subprocess.run(["git", "apply", "-p1", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    commands = {}
    for name, recipe in RECIPES.items():
        (commands[name],) = re.findall(r"^    python -m (nas\..+)$", recipe, re.MULTILINE)
    words = [sys.executable, "-c", ALL, *(json.dumps(shlex.split(command)) for command in commands.values())]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout.split(BETWEEN)
    for name, text in zip(commands, said, strict=True):
        tables = tmp_path.rglob("*.csv") if "search" in commands[name] else ()
        assert PROOF[name] in text + "".join(file.read_text() for file in tables), name


def test_the_drawing_of_the_rooms_is_up_to_date() -> None:
    rooms = runpy.run_path(str(ROOT / "docs" / "rooms.py"))
    assert rooms["DRAWING"].read_text(encoding="utf-8") == rooms["drawing"](), "python docs/rooms.py draws it anew"


def test_the_page_of_the_library_is_up_to_date() -> None:
    api = runpy.run_path(str(ROOT / "docs" / "api.py"))
    assert api["PAGE"].read_text(encoding="utf-8") == api["page"](), "python docs/api.py writes it anew"
    for name in nas.__all__:
        assert f"\n## nas.{name}\n" in api["page"]()


def test_the_completion_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "completion.py"))
    assert made["SCRIPT"].read_text(encoding="utf-8") == made["script"](), "python docs/completion.py writes it anew"


@needs.bash
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["python", "-m", "nas.s"], "nas.scale nas.search"),
        (["python", "-m", "nas.search", "--trials", "9", "--sam"], "--sampler"),
        (["python", "-m", "nas.search", "--space", "mn"], "mnas"),
        (["python", "-m", "nas.scale", "--baseline", "my"], "my-run"),
        (["python", "-m", "nas.report", ""], "my-run"),
        (["python", "-m", "other", "--s"], ""),
        (["python", "nas.search", "--s"], ""),
    ],
)
def test_what_is_completed(typed: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "runs/my-run").mkdir(parents=True)
    words = f"COMP_WORDS=({' '.join(map(shlex.quote, typed))}); COMP_CWORD={len(typed) - 1}; _nas"
    script = f"source {shlex.quote(str(ROOT / 'docs/completion.bash'))}; {words}; echo ${{COMPREPLY[*]}}"
    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (ended.stdout.strip(), ended.stderr) == (expected, "")
