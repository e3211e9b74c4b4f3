"""What SECURITY.md promises."""

import ast
import json
import os
import re
import zlib
from base64 import b64encode
from hashlib import sha256
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import nas
from nas import datasets
from nas.base.errors import UserError
from nas.report.contents import contents
from nas.report.live import server
from nas.report.page import page
from nas.report.run import read
from nas.runs import lookup as named
from tests.helpers.commands import Command
from tests.helpers.reports import Parts, embedded_contents, get, live_page, made_up_run

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
        if name.endswith("export.load"):  # it unpickles: for a file that has just been written
            assert source.relative_to(ROOT) == Path("export/program.py")
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
        path = named.run_path(name)
    except UserError:
        return
    assert path.parent == named.RUNS
    assert Path(os.path.normpath(path)).parent == named.RUNS


@pytest.mark.parametrize(
    "url", ["postgresql://me:S3CRET@127.0.0.1:1/x", "nodriver://me:S3CRET@host/x", "sqlite://me:S3CRET@x/y"]
)
def test_a_password_is_not_told(command: Command, here: Path, url: str) -> None:
    ended = command("search", "--trials", "1", "--run", "r", "--storage", url)
    assert ended.code == 2
    assert "error:" in ended.err
    assert "S3CRET" not in ended.out + ended.err
    for file in here.rglob("*"):
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
    assert "1 broken images skipped: cat/bomb.png (Image size (" in data.note


HOSTILE = "</script><script>document.title='sprung'</script><img src=x onerror=\"document.title='sprung'\">"


def test_no_text_of_a_run_becomes_part_of_its_report(tmp_path: Path) -> None:
    usual = Parts(page(contents(read(made_up_run(tmp_path / "usual")))))
    run = made_up_run(tmp_path / HOSTILE.replace("/", "<"))  # a path has no room for the rest
    facts = (run / "run.toml").read_text()
    (run / "run.toml").write_text(facts.replace('"three classes"', json.dumps(HOSTILE)))
    trials = pd.read_csv(run / "trials.csv").assign(note=HOSTILE, hash=HOSTILE)
    trials.assign(state=["FAIL", *trials["state"][1:]]).to_csv(run / "trials.csv", index=False)
    effect = {"stage": 1, "trials": 5, "accuracy_effect": 0.1, "accuracy_effect_sd": 0.1, "madds_effect": 5}
    words = dict.fromkeys(("choice", "kind", "value"), HOSTILE)
    pd.DataFrame([effect | words]).to_csv(run / "sensitivity.csv", index=False)
    text = page(contents(read(run)))
    parts = Parts(text)
    assert parts.kinds == usual.kinds
    assert parts.scripts[1:] == usual.scripts[1:]
    assert parts.title == run.name
    found = embedded_contents(text)
    assert found["name"] == run.name
    assert HOSTILE in found["texts"]["basis"]
    assert found["effects"][0]["value"] == found["trials"]["note"][0] == HOSTILE
    digests = {b64encode(sha256(script.encode()).digest()).decode() for script in parts.scripts[1:]}
    assert set(re.findall(r"sha256-([^']*)'", unescape(text))) == digests  # nothing else may run


def test_a_live_report_answers_only_this_machine_with_the_page(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    (run / "secret.txt").write_text("S3CRET")
    with live_page(run) as port:
        for name in (f"127.0.0.1:{port}", f"localhost:{port}"):
            assert get(port, "/", Host=name)[0] == get(port, Host=name)[0] == 200
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}.evil.example", ""):
            status, text, _ = get(port, Host=name)
            assert status == 421
            assert "trial" not in text
        for way in ("/run.toml", "/secret.txt", "/../secret.txt", "/data.json?x", "/%2e%2e/r/run.toml"):
            status, text, _ = get(port, way)
            assert status == 404
            assert "S3CRET" not in text
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert get(port, "/", method)[0] == 501
    with server(run, 0) as answering:
        assert answering.socket.getsockname()[0] == "127.0.0.1"


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
