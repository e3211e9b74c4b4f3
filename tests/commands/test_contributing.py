"""CONTRIBUTING.md: each recipe is carried out on a copy of the source; what docs/ holds of the source is up to date."""

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


def test_every_recipe_is_known() -> None:
    assert set(RECIPES) == set(PROOF)


@pytest.mark.parametrize("name", PROOF)
def test_a_recipe_works(name: str, tmp_path: Path, images: Path) -> None:
    """The change applies, and its command does what the recipe says."""
    (diff,) = re.findall(r"```diff\n(.+?)```", RECIPES[name], re.DOTALL)
    (command,) = re.findall(r"^    (python -m nas\..+)$", RECIPES[name], re.MULTILINE)
    shutil.copytree(ROOT / "nas", tmp_path / "nas")
    (tmp_path / "images").symlink_to(images)
    downloaded = tmp_path / "cache" / "compound-nas" / "kmnist.npz"  # as if it had been, with other images
    datasets.save(replace(datasets.load(str(images)), name="kmnist"), downloaded, datasets.FORMAT)

    subprocess.run(["git", "apply", "-p1", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, *shlex.split(command)[1:]]
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    assert PROOF[name] in ended.stdout + "".join(file.read_text() for file in tmp_path.rglob("*.csv"))


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
