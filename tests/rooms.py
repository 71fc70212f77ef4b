"""A scratch repository with one room as `refigure new` makes it, driven by the commands that users type."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOM = "tinyroom"
OWN_FACTS = ("provenance.json",)
"""Files of a run that say when and where it was made."""

GATE = '''

class _Gated:
    """Makes a run wait half-way, however fast the machine is, until a file `go` is there."""

    def __init__(self, run):
        self._run = run
        run._every = 0.0

    def __getattr__(self, name):
        return getattr(self._run, name)

    def log(self, step, metrics, state=""):
        import pathlib
        import time

        while step >= 500 and not pathlib.Path("go").exists():
            time.sleep(0.02)
        self._run.log(step, metrics, state)
'''


@dataclass
class Repository:
    """A scratch repository and ways to use it."""

    root: Path
    builds: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the surrounding tests; this interpreter's commands first."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("REFIGURE_", "SNAKEMAKE_"))}
        return kept | {
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.fspath(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",  # files edited twice within a second are read anew
            "JAX_PLATFORMS": "cpu",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": os.fspath(self.root.parent / "dvc-site"),
            **{f"GIT_{who}_{what}": "tests" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the repository; standard error goes into its output, as on a terminal."""
        done = subprocess.run(
            words, cwd=self.root, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=300,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done

    def snakemake(self, *words: str, scale: str = "smoke", target: str = f"results/{ROOM}", check: bool = True) -> str:
        """What `snakemake results/tinyroom --config scale=smoke` prints."""
        return self.run("snakemake", target, "--config", f"scale={scale}", *words, check=check).stdout

    def fails(self, *words: str) -> str:
        """The only line of complaint of a `snakemake` that must fail."""
        done = self.run("snakemake", *words, check=False)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stdout
        assert "Exception" not in done.stdout
        complaints = [line for line in done.stdout.splitlines() if "rror" in line]
        assert len(complaints) == 1, done.stdout
        assert complaints[0].startswith("error: ")
        return complaints[0]

    def start(self, *words: str, log: Path) -> subprocess.Popen[str]:
        """A build that is not waited for, in a process group of its own."""
        with log.open("w") as stream:
            build = subprocess.Popen(
                ["snakemake", *words], cwd=self.root, env=self.environment, text=True, stdout=stream,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.builds.append(build)
        return build

    def stop(self) -> None:
        """End builds that a failed test left behind."""
        for build in self.builds:
            if build.poll() is None:
                kill_all(build.pid)
                build.wait(10)

    def refigure(self, *words: str, check: bool = True) -> str:
        """What the command prints; as the console script does it, which need not be installed."""
        return self.run(sys.executable, "-c", "from common.cli import main; main()", *words, check=check).stdout

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands in a file exactly once."""
        path = self.root / name
        text = path.read_text()
        assert text.count(old) == 1, (name, old, text.count(old))
        path.write_text(text.replace(old, new))

    def room(self, name: str, old: str, new: str) -> None:
        """`edit` in the room."""
        self.edit(f"papers/{ROOM}/{name}", old, new)

    def close_gate(self) -> None:
        """Let each run of scale smoke wait half-way, after several checkpoints, until `open_gate`."""
        self.room("main.py", "recorder=run", "recorder=_Gated(run)")
        path = self.root / f"papers/{ROOM}/main.py"
        path.write_text(path.read_text() + GATE)
        self.room("paper.yaml", "{steps: 100}", "{steps: 1000}")

    def open_gate(self) -> None:
        """Let the runs go on."""
        (self.root / "go").touch()

    def commit(self, message: str) -> None:
        """Everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)

    def folders(self) -> set[Path]:
        """Folders of runs, relative to the root."""
        return {path.parent.relative_to(self.root) for path in self.root.glob(f"runs/{ROOM}/*/*/*/config.json")}

    def finals(self) -> dict[Path, Any]:
        """By run: all that its numbers decide, which is all but the facts about where and when."""
        found = {}
        for path in sorted(self.root.glob(f"runs/{ROOM}/*/*/*/metrics.json")):
            final = json.loads(path.read_text())
            files = {name: value for name, value in final["files"].items() if name not in OWN_FACTS}
            found[path.parent.relative_to(self.root)] = [final["key"], final["seeds"], final["metrics"], files]
        return found

    def results(self) -> dict[str, str]:
        """Checksum of every file of the room's results."""
        folder = self.root / "results" / ROOM
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def provenance(self) -> dict[str, Any]:
        """What the results say of their origin."""
        record: dict[str, Any] = json.loads((self.root / "results" / ROOM / "provenance.json").read_text())
        return record


def jobs(output: str) -> tuple[int, int]:
    """How many runs and drawings Snakemake says it will do."""
    table = output.partition("Job stats:")[2].partition("\ntotal")[0]
    found = dict(re.findall(r"(?m)^(run|draw)\S*\s+(\d+)$", table))
    return int(found.get("run", 0)), int(found.get("draw", 0))


def idle(output: str) -> bool:
    """Whether Snakemake found nothing to do."""
    return "Nothing to be done" in output


def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kill_all(pid: int) -> None:
    """Kill -9 of a process, what it started, and what these started."""
    for doomed in [pid, *descendants(pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(doomed, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def new_repository(root: Path) -> Repository:
    """The files of this repository as they lie here, without its papers and what was built, and a new room."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout, and the scratch repository is made from one")
    for name in filter(None, listed.stdout.split("\0")):
        built = name.startswith(("runs/", "results/", "artifacts/", "docs/", "tests/", ".dvc/")) or name == "dvc.lock"
        other = name.startswith("papers/") and name.count("/") > 1
        if not built and not other and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    repository = Repository(root)
    repository.run("git", "init", "-q")
    repository.run("dvc", "init", "-q")
    repository.run("dvc", "remote", "add", "-q", "-d", "vendored", "artifacts")
    repository.run("dvc", "remote", "modify", "vendored", "verify", "true")
    repository.refigure("new", ROOM)
    pipeline = root / "dvc.yaml"
    text = re.sub(r"paper: \[.*\]", f"paper: [{ROOM}]", pipeline.read_text())
    pipeline.write_text(re.sub(rf"(?m)^  - results/(?!{ROOM}/).*\n", "", text))
    repository.commit("A room")
    return repository


def built_repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository in which the room was built at scale smoke; made once for all processes of a test session."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, log = base / "built" / "repository", base / "built.log"
    with (base / "built.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not log.exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            log.write_text(new_repository(root).snakemake())
    return Repository(root)


def copy_of(built: Repository, target: Path) -> Repository:
    """A copy to change, with all file times."""
    shutil.copytree(built.root, target, symlinks=True)
    return Repository(target)
