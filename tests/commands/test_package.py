"""What an installed wheel holds."""

import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from zipfile import ZipFile

from tests.helpers.commands import ROOT


def test_the_wheel_holds_all_code_and_data(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    copytree(ROOT / "nas", tmp_path / "source/nas", ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, tmp_path / "source")
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "./source"]
    subprocess.run([sys.executable, "-m", *build], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nas").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "nas/selection/sampler/__init__.py" in expected
    assert not expected - held
