"""Do the tests fail when what they guard is broken? One line is broken at a time, and the test that says so is named.

    python experiments/mutants.py [NUMBER ...]      # all, or these; a row each, none that is there is repeated

Each change is made in a copy of the tree. The tests of the room are run first, then, where these pass, all others.
Writes experiments/mutants/mutants.csv and RESULT.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import NamedTuple

import rows

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "experiments/mutants"


class Mutant(NamedTuple):
    """A line of a file of nas/, what is made of it, and the tests that ought to see it: test_NAME.py in tests/ each."""

    file: str
    line: str
    broken: str
    tests: str


MUTANTS = (
    Mutant("networks/blocks.py", "if rounded < 0.9 * value", "if rounded < 0.8 * value", "network"),
    Mutant("networks/cost.py", "area, weights + 2 * c_out, out", "area, weights + c_out, out", "cost"),
    Mutant("networks/blocks.py", "ceil(round(repeats * depth, 9))", "round(repeats * depth)", "architecture scaling"),
    Mutant("spaces/counting.py", "if new)", "if new or True)", "space"),
    Mutant(
        "spaces/budgets.py", "good = design.kept(draw(design, batch, rng))", "good = draw(design, batch, rng)", "space"
    ),
    Mutant(
        "networks/module.py",
        "result = self.stochastic_depth(result) + x",
        "result = self.stochastic_depth(result)",
        "network",
    ),
    Mutant("networks/timm.py", "!= layer.squeeze:", "!= layer.squeeze and False:", "timm"),
    Mutant("selection/pareto.py", "keep[index] = True", "keep[index] = index > 0", "pareto"),
    Mutant("selection/noise.py", " & (open_ != i)", "", "noise"),
    Mutant("training/schedule.py", "module.p = self.dropout", "pass", "trainer"),
    Mutant(
        "datasets/validation.py",
        "cut = max(1, round(len(drawn) * share))",
        "cut = round(len(drawn) * share)",
        "datasets",
    ),
    Mutant("datasets/batches.py", "width - 1 - columns", "width - columns - 2", "batches"),
    Mutant("training/evaluate.py", "num_classes + logits.argmax(1)", "num_classes + logits.argmin(1)", "evaluate"),
    Mutant(
        "training/trainer.py",
        "torch.Generator(self.training.pixels.device).manual_seed(self.seed)",
        "torch.Generator(self.training.pixels.device).manual_seed(0)",
        "proxy",
    ),
    Mutant(
        "training/convolutions.py",
        "reach = padding = min(radius, side - 1)",
        "reach = padding = min(radius, 1)",
        "convolutions",
    ),
    Mutant("training/proxy.py", "except (Exception, SystemExit)", "except KeyError", "failures"),
    Mutant("runs/workers/pool.py", "ATTEMPTS = 2", "ATTEMPTS = 1", "workers"),
    Mutant("selection/sampler/choice.py", "left = candidates.untaken(rows, history.taken)", "left = rows", "sampler"),
    Mutant("selection/sampler/choice.py", "model.believing(running)", "model", "sampler"),
    Mutant("selection/sensitivity.py", "np.eye(size) - 1 / size", "np.eye(size)", "sensitivity"),
    Mutant("networks/scaling.py", "(w / (2 * total))", "(w / total)", "scaling"),
    Mutant("scale/halving.py", "key=lambda network: -done[network]", "key=lambda network: done[network]", "scale"),
    Mutant(
        "search/front.py", "pareto.pick_baseline(rewards, madds)", "pareto.pick_baseline(-rewards, madds)", "commands"
    ),
    Mutant("search/proposals.py", "if not config.feasible(params):", "if False:", "commands"),
    Mutant("base/files.py", "os.replace(temporary, path)", "path.write_bytes(data)", "files"),
    Mutant("training/trained.py", "(pixels.float() - mean) / std", "(pixels.float() - mean)", "trained"),
    Mutant("base/units.py", '"m": 60', '"m": 1', "units"),
    Mutant("training/trainer.py", "self.scaler.scale(loss * self.ranks.world)", "self.scaler.scale(loss)", "train"),
    Mutant(
        "training/trainer.py", 'self.steps, self.microbatches = state["steps"]', "_, self.microbatches = 0", "train"
    ),
    Mutant("training/grow.py", "own[overlap[0], given.shape[1] :] = 0", "pass", "transfer"),
    Mutant("export/files.py", "if found.shape == expected.shape else inf", "", "export"),
    Mutant("runs/study/sharing.py", "if name not in taken:", "if True:", "machines trials"),
    Mutant("report/contents.py", "else np.log(values[name])", "else values[name]", "report"),
    Mutant("devices/latency.py", "* (stage.repeats - 1)], out", "* stage.repeats], out", "latency"),
    Mutant("devices/memory.py", "_saved_bytes(arch) // TRACED", "_saved_bytes(arch)", "scale"),
    Mutant("selection/distributions.py", "append=np.inf) > 0", "append=np.inf) >= 0", "compare"),
)


def main(chosen: list[int]) -> None:
    """Break, test, note."""
    KEPT.mkdir(exist_ok=True)
    file = KEPT / "mutants.csv"
    known = rows.kept(KEPT, "mutants.csv").fillna("")
    done = set(zip(known["file"], known["broken"], strict=True)) if len(known) else set()
    for number, mutant in enumerate(MUTANTS):
        if (mutant.file, mutant.broken) in done or (chosen and number not in chosen):
            continue
        caught = caught_by(mutant)
        rows.append(file, {**mutant._asdict(), "caught": caught})
        print(number, mutant.file, caught or "NOT CAUGHT", flush=True)
    report()


def caught_by(mutant: Mutant) -> str:
    """The first test that fails with a mutant; "" if none does."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "copy")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache"))
        broken = copy / "nas" / mutant.file
        text = broken.read_text()
        if text.count(mutant.line) != 1:
            sys.exit(f"{mutant.file}: {mutant.line!r} is there {text.count(mutant.line)} times, not once")
        broken.write_text(text.replace(mutant.line, mutant.broken))
        own = [str(file) for name in mutant.tests.split() for file in Path(copy, "tests").rglob(f"test_{name}.py")]
        return failure(copy, own) or failure(copy, ["tests"])


def failure(copy: Path, tests: list[str]) -> str:
    """The first failing test of these, or ""."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "--no-header", "--tb=no", *tests]
    own = {**os.environ, "PYTHONPATH": str(copy)}
    ended = subprocess.run(command, cwd=copy, env=own, capture_output=True, text=True, timeout=1800)
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+?)(?:\[| - |$)", ended.stdout, re.MULTILINE)
    if ended.returncode and not found:
        sys.exit(f"pytest ended with {ended.returncode}: {ended.stdout[-500:]}{ended.stderr[-500:]}")
    return found[1] if found else ""


def report() -> None:
    """Write RESULT.md."""
    table = rows.kept(KEPT, "mutants.csv").fillna("")
    lines = [
        f"| `{row['file']}` | `{row['line'].strip()}` | `{row['broken']}` | {row['caught'] or '**none**'} |"
        for row in table.to_dict("records")
    ]
    (KEPT / "RESULT.md").write_text(f"""# What the tests notice

{len(table)} lines were broken, one at a time; {sum(table["caught"] != "")} of them were noticed. Named is
the first test that failed.

| file in nas/ | line | broken | noticed by |
|---|---|---|---|
{chr(10).join(lines)}

{date.today()}.
""")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
