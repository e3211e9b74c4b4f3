"""What an installed wheel holds."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_all_code_and_data(tmp_path: Path) -> None:
    copytree(ROOT, tmp_path / "source", ignore=ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "runs"))
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "./source"]
    subprocess.run([sys.executable, "-m", *build], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("nas", "nas.search_spaces")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "nas/selection/sampler/__init__.py" in wanted
    assert not wanted - held
