"""Files are replaced at once, or stay as they were."""

import csv
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas import Architecture, SearchSpace, UserError
from nas.base.files import read_csv, read_toml, to_csv, to_toml, write_atomic
from nas.devices.latency import Table


def test_who_reads_a_file_that_is_replaced_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pareto.csv"
    write_atomic(path, "old")
    with path.open() as reader:
        write_atomic(path, b"new, and longer")
        assert reader.read() == "old"
    assert path.read_text() == "new, and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "taken", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_byte_order_marks_are_no_content(tmp_path: Path) -> None:
    """As Windows' editors and spreadsheets write them, before TOML and before tables."""
    toml, table, seconds = (tmp_path / name for name in ("a.toml", "trials.csv", "latency.csv"))
    toml.write_text('stages = ["ds_r1_k3_s1_e1_c16"]', encoding="utf-8-sig")
    assert str(Architecture.load(toml)) == "224px stem32 ds_r1_k3_s1_e1_c16 head1280"
    assert SearchSpace.load(toml).size == 1
    table.write_text("trial,accuracy\n1,2\n", encoding="utf-8-sig")
    assert list(read_csv(table, ["trial"])) == ["trial", "accuracy"]
    seconds.write_text("part,seconds,device,threads,batch,dtype\na,0.5,cpu,1,1,float32\n", encoding="utf-8-sig")
    assert Table.load(seconds).seconds == {"a": 0.5}


def test_toml_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('stages = ["ds_r1_k3_s1_e1_c16"]', encoding="utf-16")
    with pytest.raises(UserError, match=r"a\.toml: cannot be read as UTF-8 text"):
        Architecture.load(tmp_path / "a.toml")


@pytest.mark.parametrize("row", ["1,2,3", "1,2" + ",3" * 60_000], ids=["one more", "very many more"])
def test_a_table_whose_rows_are_longer_than_its_head_is_refused(tmp_path: Path, row: str) -> None:
    file = tmp_path / "trials.csv"
    file.write_text("trial,accuracy\n1,2\n")
    assert read_csv(file, ["trial"]).to_dict("list") == {"trial": [1], "accuracy": [2]}
    with pytest.raises(ValueError, match="column 'madds' is missing"):
        read_csv(file, ["trial", "madds"])
    file.write_text(f"trial,accuracy\n{row}\n")
    with pytest.raises(ValueError, match="a row has more fields"):
        read_csv(file, ["trial"])


NAMES = [
    *('quoted "\n\t\r\x00\x7f\\', "caf\udce9", r"caf\udce9", r"\u005cudce9 \x", "e\u0301 é", "ไก่ 鸡 🐔 שלום"),
    *("=1+1", "-x", "+x", "@x", "'=x", "''=x", "'x", "a,b", "", " ", "[b]$x^2$", "NaN"),
]


def test_toml_gives_back_what_was_written(tmp_path: Path) -> None:
    """Bytes that are no text among it, and numpy's numbers; None is left out."""
    table = {name or "empty": {"name": name, "list": [name]} for name in NAMES}
    numbers = {"int": np.int64(2), "float": np.float32(0.5), "bool": np.bool_(True), "array": np.arange(2), "big": 1e22}
    file = tmp_path / "run.toml"
    write_atomic(file, to_toml({**table, **numbers, "none": None, "tuple": (1, 2), "path": Path("a/b"), "no": {}}))
    plain = {"int": 2, "float": 0.5, "bool": True, "array": [0, 1], "big": 1e22}
    assert read_toml(file) == {**table, **plain, "tuple": [1, 2], "path": "a/b", "no": {}}
    assert tomllib.loads(file.read_text())["caf\\udce9"]["name"] == r"caf\udce9"  # what others read


def test_no_text_of_a_table_is_a_formula(tmp_path: Path) -> None:
    """And `read_csv` gives it back as it was."""
    names = [name for name in NAMES if name.strip() and name not in ("NaN", NAMES[0], "caf\udce9")]
    table = pd.DataFrame({"name": names, "-column": -1.5, "count": pd.array([1] * len(names), dtype="Int64")})
    file = tmp_path / "table.csv"
    write_atomic(file, to_csv(table))
    with file.open(newline="") as opened:
        rows = list(csv.reader(opened))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@")) and cell != "-1.5"]
    found = read_csv(file, ["name"])
    assert found["name"].tolist() == names
    assert list(found) == list(table)
    assert found["-column"].eq(-1.5).all()


def test_a_name_that_is_no_text_is_escaped_in_a_table(tmp_path: Path) -> None:
    write_atomic(tmp_path / "t.csv", to_csv(pd.DataFrame({"caf\udce9": ["\udce9"]})))
    assert (tmp_path / "t.csv").read_text() == "caf\\udce9\n\\udce9\n"
