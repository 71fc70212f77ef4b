"""A tiny repository to break things in: one paper, one NumPy experiment, the real `common`."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from common.room import plan as planning
from common.room.plan import PlannedRun
from common.run import command, record

METHOD = '''
"""Noisy gradient descent on a parabola; every fault that a test needs is a setting."""

import time

import numpy as np

from common.errors import RefigureError
from common.train.recorder import Outcome
from papers.toy_paper.config import Descent
from papers.toy_paper.method import slope


def train(config: Descent, seeds, run) -> Outcome:
    """One walker per seed."""
    state = {"x": np.array([np.random.default_rng(seed).normal(3.0) for seed in seeds]), "v": np.zeros(len(seeds))}
    begun, checkpoint = 0, run.restore()
    if checkpoint is not None:
        begun, state = checkpoint
    else:
        run.log(0, {"x": state["x"].tolist()})
    for step in range(begun, config.steps):
        noise = np.array([np.random.default_rng([seed, step]).normal() for seed in seeds])
        state["v"] = (0.5 if config.momentum else 0.0) * state["v"] - config.rate * (slope(state["x"]) + 0.1 * noise)
        state["x"] = state["x"] + state["v"]
        time.sleep(config.sleep)
        if config.fault == "crash" and step == config.at:
            raise RefigureError(f"crashed at step {step}, as was asked")
        logged = np.nan if config.fault == "bad log" and step == config.at else 1.0
        run.log(step + 1, {"x": (logged * state["x"]).tolist(), "norm": logged * float(np.abs(state["x"]).mean())})
        run.progress(step + 1, config.steps)
        if run.due():
            run.save(step + 1, state)
    final = [float("nan") if config.fault == "bad end" else float(x) for x in state["x"]]
    final = final[1:] if config.fault == "short" else final
    return Outcome({"x": final, "square": (state["x"] ** 2).tolist()}, arrays={"x": state["x"]}, parameters=state)
'''

FILES = {
    "Snakefile": "",
    "dvc.yaml": (
        "stages:\n  reproduce:\n    matrix:\n      paper: [toy_paper]\n    cmd: draw ${item.paper}\n"
        "metrics:\n  - results/toy_paper/metrics.json\n"
    ),
    "papers/__init__.py": "",
    "papers/toy_paper/__init__.py": '"""A toy."""\n',
    "papers/toy_paper/__main__.py": (
        'import sys\n\nfrom common.run.command import main\n\nif __name__ == "__main__":\n'
        '    sys.exit(main("toy_paper"))\n'
    ),
    "papers/toy_paper/method.py": (
        '"""The method."""\n\nSCALE = 1.0\n\n\ndef slope(x):\n    """Of the parabola."""\n    return 2 * SCALE * x\n'
    ),
    "papers/toy_paper/main.py": METHOD.lstrip(),
    "papers/toy_paper/figures.py": '"""Only draws."""\n\n\ndef draw(runs, figures):\n    """Nothing."""\n',
    "papers/toy_paper/config.py": '''
"""Settings."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Descent:
    """Gradient descent."""

    momentum: bool = False
    """Heavy ball or not."""
    steps: int = 12
    """Gradient steps."""
    rate: float = 0.1
    """Learning rate."""
    fault: Literal["none", "crash", "bad end", "bad log", "short"] = "none"
    """What goes wrong."""
    at: int = 0
    """In which step."""
    sleep: float = 0.0
    """Seconds lost in every step."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
'''.lstrip(),
    "papers/toy_paper/paper.yaml": """
title: "A toy"
authors: "Nobody"
venue: "Nowhere"
question: "Does it roll down?"
experiments:
  main:
    summary: "Descent on a parabola"
    module: papers.toy_paper.main
    config_class: Descent
    deviations:
      - {what: "NumPy instead of Fortran", reason: "taste", touches: []}
    variants:
      plain: {title: "plain"}
      momentum:
        title: "momentum"
        config: {momentum: true}
        deviations:
          - {what: "heavier ball", reason: "no other at hand", touches: [C-touched]}
    scales:
      smoke: {seeds: [0, 1], batch: true, config: {steps: 4}, why: "seconds"}
      cpu: {seeds: [0, 1, 2], batch: true}
      paper: {seeds: [0, 1, 2], batch: true}
  single:
    summary: "One run a seed"
    module: papers.toy_paper.main
    config_class: Descent
    variants:
      plain: {title: "plain"}
    scales:
      cpu: {seeds: [0, 1]}
figures:
  fall:
    title: "The fall"
    draw: "papers.toy_paper.figures:draw"
    experiment: main
""".lstrip(),
    "papers/toy_paper/claims.yaml": """
claims:
  - id: C-value
    statement: "It ends at zero"
    kind: value
    class: printed
    headline: true
    source: {where: "Table 1", how: read exactly}
    published: {value: 0.0, error: 0.1, error_is: standard error, seeds: 3}
    ours: {experiment: main, variant: plain, metric: x}
    scale: paper
    tolerance: {absolute: 1.0, why: "generous"}
  - id: C-touched
    statement: "So does momentum"
    kind: shape
    class: direction
    source: {where: "Fig. 1", how: read off the plot}
    ours: {experiment: main, variant: momentum, metric: square}
    scale: paper
    bound: {condition: "<", value: 4.0, why: "below where it began"}
""".lstrip(),
}


Refigure = Callable[..., tuple[int, str, str]]
"""The command `refigure` in this process: exit status, standard output, standard error."""


@dataclass
class Toy:
    """The tiny repository and ways to use it."""

    root: Path

    def main(self, *arguments: str) -> int:
        """`python -m papers.toy_paper` in this process, which imports the paper's modules anew."""
        without_papers()
        return command.main("toy_paper", ["--quiet", *arguments])

    def one(self, *arguments: str) -> int:
        """The plain variant's run of all seeds at scale cpu."""
        return self.main("--experiment", "main", "--variant", "plain", *arguments)

    def python(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Python in the repository, as a process of its own."""
        words = [sys.executable, *arguments]
        return subprocess.run(words, cwd=self.root, text=True, capture_output=True, **options)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`main` as a process that is not waited for; it heeds Ctrl-C, which a background shell's children do not."""
        program = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from common.run.command import main; sys.exit(main('toy_paper', sys.argv[1:]))"
        )
        words = [sys.executable, "-c", program, "--quiet", *arguments]
        return subprocess.Popen(words, cwd=self.root, text=True, stderr=subprocess.PIPE)

    def plan(self, *assignments: str, variant: str = "plain", seeds: Sequence[int] = (0, 1, 2)) -> PlannedRun:
        """A run of the main experiment at scale cpu."""
        return planning.plan_run("toy_paper", "main", variant, "cpu", tuple(seeds), assignments)

    def folder(self, plan: PlannedRun) -> Path:
        """Where it belongs."""
        return self.root / "runs" / plan.identity.path

    def finished(self, *assignments: str, **choice: Any) -> record.FinishedRun:
        """A run of the main experiment, trained now unless it is there."""
        plan = self.plan(*assignments, **choice)
        words = [word for text in assignments for word in ("--set", text)]
        seeds = ",".join(map(str, plan.identity.seeds))
        variant = plan.identity.variant
        assert self.main("--experiment", "main", "--variant", variant, "--seeds", seeds, *words) == 0
        return self.verified(plan)

    def verified(self, plan: PlannedRun) -> record.FinishedRun:
        """The finished run of a plan, all of its files compared with their checksums."""
        run = record.read(self.folder(plan))
        run.verify()
        return run

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands in a file exactly once, and plan anew from then on."""
        path = self.root / name
        text = path.read_text()
        assert text.count(old) == 1, (old, text.count(old))
        path.write_text(text.replace(old, new))
        planning.forget()


def without_papers() -> dict[str, ModuleType]:
    """Forget the modules of all papers; returns them."""
    names = [name for name in sys.modules if name.partition(".")[0] == "papers"]
    return {name: sys.modules.pop(name) for name in names}


def fault_of(text: str) -> str:
    """The only line of standard error, which must be a fault's; lines of progress are let pass."""
    lines = [line for line in text.splitlines() if not re.search(r": \d+/\d+ steps", line)]
    assert len(lines) == 1, text
    assert lines[0].startswith("error: "), text
    assert "Traceback" not in text
    return lines[0]
