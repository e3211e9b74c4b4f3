"""What SECURITY.md promises."""

import ast
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import nas
from nas import datasets, study
from nas.errors import UserError

ROOT = Path(nas.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
UNPICKLERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}


def calls(source: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_read_is_executed(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & UNPICKLERS
    for call in calls(source):
        name, given = ast.unparse(call.func), keywords(call)
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen", "__import__")
        assert given.get("shell", "False") == "False"
        if name == "torch.load":
            assert given.get("weights_only") == "True"
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False"


def test_a_cached_array_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "trap.npz", about=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        datasets.read(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


@given(st.text(max_size=40) | st.from_regex(r"[./\\~]{1,4}[a-z./\\]{0,20}"))
def test_a_run_stays_in_its_directory(name: str) -> None:
    try:
        path = study.run_path(name)
    except UserError:
        return
    assert path.parent == study.RUNS
    assert Path(os.path.normpath(path)).parent == study.RUNS


@pytest.mark.parametrize(
    "url", ["postgresql://me:S3CRET@127.0.0.1:1/x", "nodriver://me:S3CRET@host/x", "sqlite://me:S3CRET@x/y"]
)
def test_a_password_is_not_told(tmp_path: Path, url: str) -> None:
    command = [sys.executable, "-m", "nas.search", "--trials", "1", "--run", "r", "--storage", url]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT.parent)}
    )
    assert ended.returncode == 2
    assert "error:" in ended.stderr
    assert "S3CRET" not in ended.stdout + ended.stderr
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"S3CRET" not in file.read_bytes()


def test_an_image_that_unpacks_to_too_much_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(60):
            Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(tmp_path / "images" / name / f"{i}.png")
    bomb = tmp_path / "images/cat/bomb.png"
    bomb.write_bytes(png_of_zeros(60_000))
    data = datasets.load(str(tmp_path / "images"))
    assert "1 broken images skipped, the first cat/bomb.png" in data.note


def png_of_zeros(side: int) -> bytes:
    """A small file that is a black square of so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    size = side.to_bytes(4, "big")
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", size + size + bytes([1, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
