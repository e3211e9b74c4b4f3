"""Bad input by machine: whatever is typed or written into a file, it is accepted or refused in one line, soon.

    python experiments/fuzz.py [--inputs 100000] [--seed 0]

Texts are mutated: block strings, whole networks, stages with choices; TOML files of spaces, networks and schedules;
arguments of `python -m nas.cost`. Each is read by the function that reads it in the product, in this process, with
SECONDS of time and MEMORY bytes of address space. A refusal must be a UserError of one short line; anything else is a
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
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd
import typer

import search_spaces
from nas.architecture import Architecture, parse_stage
from nas.cost.__main__ import main as cost
from nas.errors import RunFailed, UserError
from nas.progressive import Schedule
from nas.space import SearchSpace

KEPT = Path(__file__).resolve().parent / "fuzz"
BUNDLED = Path(search_spaces.__file__).parent
SECONDS, MEMORY, LONGEST = 10, 6 * 2**30, 1000  # LONGEST: characters of a refusal
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # ends a command with code 2 and one line
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


def arguments(text: str) -> None:
    """`python -m nas.cost` with these arguments, up to the exit."""
    words = text.split("\x1f")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(cost)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            app(words, standalone_mode=False)
    except USAGE_ERROR as error:
        raise UserError(" ".join(str(error).split())) from None


def kinds(folder: Path) -> dict[str, tuple[list[str], Callable[[str], object], float]]:
    """For each kind of input: originals, the function that reads one, and its share of all inputs."""
    file = folder / "input.toml"

    def through_file(read: Callable[[Path], object]) -> Callable[[str], object]:
        def reader(text: str) -> object:
            file.write_text(text, encoding="utf-8", errors="surrogatepass")
            return read(file)

        return reader

    spaces = sorted(BUNDLED.glob("*.toml"))
    families = sorted((BUNDLED / "families").glob("*.toml"))
    schedules = sorted((BUNDLED / "schedules").glob("*.toml"))
    blocks = [text for family in families for text in stages_of(family)]
    networks = [str(Architecture.load(family)) for family in families]

    def used(space: SearchSpace) -> object:
        return space.size, space.sample(seed=0).cost(), str(space.decode(space.sample_codes(2, seed=0)[0]))

    commands = [
        *("efficientnet_b0", "--families", "--space\x1fmnas\x1f--max-madds\x1f400M", "b0\x1f--classes\x1f10"),
        *("efficientnet_b0\x1f--resolution\x1f64", f"{blocks[0]} {blocks[1]}\x1f--channels\x1f1", "--space\x1fnowhere"),
    ]
    return {
        "block string": (blocks, parse_stage, 0.45),
        "network": (networks, lambda text: Architecture.parse(text).cost(), 0.25),
        "space (TOML)": ([p.read_text() for p in spaces], through_file(lambda p: used(SearchSpace.load(p))), 0.1),
        "network (TOML)": (
            [p.read_text() for p in families],
            through_file(lambda p: Architecture.load(p).cost()),
            0.1,
        ),
        "schedule (TOML)": ([p.read_text() for p in schedules], through_file(lambda p: Schedule.load(str(p))), 0.08),
        "nas.cost": (commands, arguments, 0.02),
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
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    rng = random.Random(given.seed)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for kind, (originals, read, share) in kinds(Path(place)).items():
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
