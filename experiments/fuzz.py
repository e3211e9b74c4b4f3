"""Bad input by machine: whatever is typed or written into a file, it is accepted or refused in one line, soon.

    PYTHONPATH=. python experiments/fuzz.py [--inputs 100000] [--seed 0]      # its run is that of a test

Texts are mutated: block strings, whole networks, stages with choices; TOML files of spaces, networks and schedules; the
files of a run, its database among them; arguments of the commands, which are given images that do not exist, so that
they end before they train. Each is read by the function that reads it in the product, in this process, with SECONDS of
time and MEMORY bytes of address space. A refusal must be a UserError of one short line; anything else is a
finding and is printed. Writes experiments/fuzz/: results.csv, findings.txt, RESULT.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd

from nas import search_spaces
from nas.base import cli
from nas.base.errors import RunFailed, UserError
from nas.cost.__main__ import main as cost
from nas.networks.architecture import Architecture
from nas.networks.stages import parse_stage
from nas.report import run as runs
from nas.report.contents import contents
from nas.runs.database import read_study
from nas.runs.lookup import find_network
from nas.scale.command import scale
from nas.search.command import search
from nas.spaces.space import SearchSpace
from nas.train.command import train
from nas.training.schedule import Schedule
from tests.helpers import killing

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/fuzz"
BUNDLED = Path(search_spaces.__file__).parent
SECONDS, MEMORY, LONGEST = 10, 6 * 2**30, 1000  # LONGEST: characters of a refusal
WORDS = [
    *(
        "ir",
        "er",
        "ds",
        "cn",
        "_",
        "r",
        "k",
        "s",
        "e",
        "c",
        "se",
        "{",
        "}",
        "|",
        "noskip",
        "skip",
        "px",
        "stem",
        "head",
    ),
    *("=", "[", "]", '"', "'", "\n", "\t", " ", "\0", "é", "∞", "１", "𝟙", "\u202e", "-", "+", ".", ",", "#", "\\"),
    *("0", "1", "-1", "3", "7", "0.25", "1e9", "1e309", "nan", "inf", "9" * 30, "1_000", "0x10", "1000000", "{1|2|3}"),
    *("{" + "|".join(map(str, range(1, 400))) + "}", "ir_r1_k3_s1_e6_c16 " * 50, "true", "[[", "]]", "1979-05-27"),
]


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    findings: list[str] = field(default_factory=list)


def mutated(text: str, rng: random.Random) -> str:
    """The text after one to six random edits: words put in, pieces cut, doubled, swapped, or repeated many times."""
    for _ in range(rng.randint(1, 6)):
        i, j = sorted((rng.randint(0, len(text)), min(len(text), rng.randint(0, len(text) + 5))))
        j = min(j, i + 30)
        match rng.randrange(7):
            case 0 | 1:
                text = text[:i] + rng.choice(WORDS) + text[i:]
            case 2:
                text = text[:i] + text[j:]
            case 3:
                text = text[:j] + text[i:j] + text[j:]
            case 4:
                text = text[:i] + rng.choice(WORDS) + text[j:]
            case 5:
                text = text[:i] + "".join(rng.sample(text[i:j], j - i)) + text[j:]
            case _:
                if rng.random() < 0.02:
                    text = text[:i] + (text[i:j] or "x") * rng.choice((100, 10_000))
    return text


def stages_of(file: Path) -> list[str]:
    """The block strings of a TOML file, as written."""
    lines = (line.strip().strip(",").strip('"') for line in file.read_text().splitlines())
    return [line for line in lines if line.startswith(("{", "ir_", "er_", "ds_", "cn_"))]


def arguments(command: Callable[..., object], *more: str) -> Callable[[str], object]:
    """A function that runs `python -m nas.…` with the arguments of a text, and more behind them."""

    def reader(text: str) -> None:
        sys.argv = ["nas", *text.split("\x1f"), *more]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                cli.run(command)
            except SystemExit as end:
                if end.code in (1, 2):
                    raise UserError(said.getvalue().removesuffix("\n")) from None
                if end.code:
                    raise

    return reader


def a_run(folder: Path) -> Path:
    """The directory of a small run, with the tables of a scaling."""
    words = ["-m", "nas.search", *killing.prepare(folder), "--run", "whole"]
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    scale = ["-m", "nas.scale", "--phi", "1", "--epochs", "1", "--seeds", "1", "--no-measure", "--workers", "1"]
    for arguments in (words, scale):
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, env=own, stdout=subprocess.DEVNULL)
    return folder / "runs/whole"


def in_run(file: Path) -> Callable[[str], object]:
    """A function that puts a text into the place of a file of a run, and reads the run; the file is then as before."""
    whole = file.read_bytes()
    run = next(folder for folder in file.parents if (folder / "run.toml").is_file())

    def reader(text: str) -> object:
        file.write_bytes(text.encode("utf-8", errors="surrogateescape"))
        try:
            read_study(run, run.name)
            return contents(runs.read(run)), find_network(str(run))
        finally:
            file.write_bytes(whole)

    return reader


def kinds(folder: Path) -> dict[str, tuple[list[str], Callable[[str], object], float]]:
    """For each kind of input: originals, the function that reads one, and its share of all inputs."""
    file = folder / "input.toml"

    def through_file(read: Callable[[Path], object]) -> Callable[[str], object]:
        def reader(text: str) -> object:
            file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
            return read(file)

        return reader

    spaces = sorted(BUNDLED.glob("*.toml"))
    families = sorted((BUNDLED / "families").glob("*.toml"))
    schedules = sorted((BUNDLED / "schedules").glob("*.toml"))
    blocks = [text for family in families for text in stages_of(family)]
    networks = [str(Architecture.load(family)) for family in families]

    def used(space: SearchSpace) -> object:
        return space.size, space.sample(seed=0).cost(), str(space.decode(space.sample_codes(2, seed=0)[0]))

    costs = [
        *("efficientnet_b0", "--families", "--space\x1fmnas\x1f--max-madds\x1f400M", "b0\x1f--classes\x1f10"),
        *("efficientnet_b0\x1f--resolution\x1f64", f"{blocks[0]} {blocks[1]}\x1f--channels\x1f1", "--space\x1fnowhere"),
    ]
    searches = [
        *(
            "--space\x1fmnas\x1f--max-madds\x1f400M\x1f--trials\x1f50",
            "--objectives\x1faccuracy,params\x1f--epochs\x1f2",
        ),
        *(
            "--time-budget\x1f1h\x1f--workers\x1f2\x1f--confirm\x1f3",
            "--sampler\x1ftpe\x1f--reward\x1fv2\x1f--seed\x1f3",
        ),
        *("--metric\x1fbalanced\x1f--epochs\x1f4\x1f--device\x1fcpu", "--run\x1fa-name\x1f--storage\x1fsqlite:///a.db"),
    ]
    scales = [
        *(
            "--baseline\x1fefficientnet_b0\x1f--phi\x1f0..3",
            "--baseline\x1fwhole\x1f--step\x1f0.1\x1f--tolerance\x1f0.2",
        ),
        *(
            "--baseline\x1fb0\x1f--rule\x1fd1_w8_r1\x1f--madds\x1f1.2G",
            "--target\x1f4\x1f--match\x1fcounted\x1f--seeds\x1f2",
        ),
    ]
    trains = [
        *(
            "whole\x1f--epochs\x1f10\x1f--batch-size\x1f64",
            "efficientnet_b0\x1f--pretrained\x1fa.pt\x1f--freeze\x1ffeatures",
        ),
        *(
            f"{blocks[0]}\x1f--unfreeze\x1f0.5\x1f--image-size\x1f64",
            "whole:3\x1f--recipe\x1fsgd\x1f--seed\x1f1\x1f--pieces\x1f2",
        ),
    ]
    run = a_run(folder)
    files = [run / name for name in ("run.toml", "trials.csv", "pareto.csv", "baseline.toml", "study.db")]
    files += sorted((run / "scale").iterdir())
    nowhere = ["--data", "nowhere"]
    return {
        "block string": (blocks, parse_stage, 0.45),
        "network": (networks, lambda text: Architecture.parse(text).cost(), 0.2),
        "space (TOML)": ([p.read_text() for p in spaces], through_file(lambda p: used(SearchSpace.load(p))), 0.121),
        "network (TOML)": (
            [p.read_text() for p in families],
            through_file(lambda p: Architecture.load(p).cost()),
            0.1,
        ),
        "schedule (TOML)": ([p.read_text() for p in schedules], through_file(lambda p: Schedule.load(str(p))), 0.05),
        **{
            f"a run's {f.relative_to(run)}": (
                [f.read_bytes().decode("utf-8", errors="surrogateescape")],
                in_run(f),
                0.002,
            )
            for f in files
        },
        "nas.networks.cost": (costs, arguments(cost), 0.02),
        "nas.search": (searches, arguments(search, *nowhere), 0.015),
        "nas.scale": (scales, arguments(scale, *nowhere), 0.015),
        "nas.train": (trains, arguments(train, *nowhere), 0.015),
    }


def tried(text: str, read: Callable[[str], object], tally: Tally) -> None:
    """Read one input and note what came of it."""

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    began = time.perf_counter()
    try:
        read(text)
        tally.accepted += 1
    except (UserError, RunFailed) as error:
        said = str(error)
        tally.refused += 1
        if not said.strip() or len(said) > LONGEST or "\n" in said:
            tally.findings.append(f"refusal of {len(said)} characters: {said[:200]!r} for {text[:300]!r}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        tally.findings.append(f"{type(error).__name__}: {str(error)[:200]} for {text[:300]!r}")
    finally:
        signal.alarm(0)
    tally.slowest = max(tally.slowest, time.perf_counter() - began)


def main() -> None:
    """Try, count, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        chosen = kinds(Path(place))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for kind, (originals, read, share) in chosen.items():
            tally = tallies[kind] = Tally()
            for _ in range(round(given.inputs * share)):
                tried(mutated(rng.choice(originals), rng), read, tally)
            print(kind, tally.accepted, tally.refused, f"{tally.slowest:.2f} s", len(tally.findings), flush=True)
            for finding in tally.findings[:5]:
                print("  ", finding, flush=True)
    KEPT.mkdir(exist_ok=True)
    rows = [
        {
            "input": kind,
            "accepted": t.accepted,
            "refused": t.refused,
            "slowest_s": t.slowest,
            "findings": len(t.findings),
        }
        for kind, t in tallies.items()
    ]
    pd.DataFrame(rows).to_csv(KEPT / "results.csv", index=False, float_format="%.2f")
    found = [f"{kind}: {finding}" for kind, t in tallies.items() for finding in t.findings]
    (KEPT / "findings.txt").write_text("".join(line + "\n" for line in found))
    lines = [
        f"| {r['input']} | {r['accepted']:,} | {r['refused']:,} | {r['slowest_s']:.2f} | {r['findings']} |"
        for r in rows
    ]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    (KEPT / "RESULT.md").write_text(
        f"""# Bad input by machine

| input | accepted | refused in one line | slowest, s | findings |
|---|---|---|---|---|
{chr(10).join(lines)}

A finding is anything but a result or a refusal of one line of at most {LONGEST} characters within {SECONDS} s; all are
in findings.txt. Largest memory of the process: {most:.0f} MiB. Seed {given.seed}; Python {platform.python_version()},
{platform.machine()}, {platform.system()}; {date.today()}.
"""
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
