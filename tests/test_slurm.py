"""A room built through `--profile profiles/slurm` on a real one-node Slurm, which is started here and stopped again.

Never part of `make test`. Needs root and Debian's munge, slurmctld, slurmd and slurm-client:

    apt-get install --no-install-recommends munge slurmctld slurmd slurm-client
    python -m pytest -m cluster
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import ROOM, Repository, idle, jobs, new_repository, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel")
SYSTEM = Path("/etc/slurm/slurm.conf")
"""The only place where jobs find it: the executor takes SLURM_CONF out of their environment."""

CONFIGURATION = """
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=6000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=04:00:00 State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running Slurm without accounting; its folder, in which `log/jobcomp.txt` lists the jobs that ended."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons are started as root, and this is not root")
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install munge slurmctld slurmd slurm-client")
    if SYSTEM.exists():
        pytest.skip(f"{SYSTEM} is there: this machine has a Slurm of its own, which is left alone")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "log", "munged"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    SYSTEM.parent.mkdir(exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    SYSTEM.write_text(CONFIGURATION.format(host=host, folder=folder, cores=os.cpu_count()))
    try:
        run(
            "munged", f"--key-file={key}", f"--socket={folder}/munge.sock", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged/log", f"--seed-file={folder}/munged/seed", "--force",
        )  # fmt: skip
        run("slurmctld")
        run("slurmd")
        until(lambda: "idle" in run("sinfo", "--noheader", "--format=%t"), seconds=60)
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for name in ("slurmd", "slurmctld", "munged"):
            stop(folder / f"{name}.pid")
        SYSTEM.unlink()


def run(*words: str) -> str:
    """What a command prints."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def stop(pid_file: Path) -> None:
    """End a daemon and wait for it."""
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    try:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), seconds=20)
    except ProcessLookupError:
        pass


def test_a_room_is_built_by_slurm(slurm: Path, tmp_path: Path):
    (tmp_path / "repository").mkdir()
    room = new_repository(tmp_path / "repository")
    words = (f"results/{ROOM}", "--profile", "profiles/slurm", "--config", "scale=smoke")
    begun = time.monotonic()
    output = room.run("snakemake", *words).stdout
    print(output, f"{time.monotonic() - begun:.0f} s", sep="\n")  # pytest -s shows it
    assert jobs(output) == (2, 1)
    ended = (slurm / "log" / "jobcomp.txt").read_text().splitlines()
    assert len(ended) == 3, ended
    assert all("JobState=COMPLETED" in line for line in ended), ended
    assert (room.root / "results" / ROOM / "index.html").is_file()
    assert idle(room.run("snakemake", *words).stdout)
    assert idle(room.snakemake()), "what the cluster made counts here"

    here = Repository(shutil.copytree(room.root, tmp_path / "here"))
    for name in ("runs", "results"):
        shutil.rmtree(here.root / name)
    assert jobs(here.snakemake()) == (2, 1)
    assert here.finals() == room.finals(), "the same bits as without a cluster"


def test_a_failing_run_on_slurm_says_why(slurm: Path, tmp_path: Path):
    (tmp_path / "repository").mkdir()
    room = new_repository(tmp_path / "repository")
    room.room("paper.yaml", "config: {momentum: heavy ball}", "config: {momentum: heavy ball, learning_rate: 1.0e+30}")
    words = (f"results/{ROOM}", "--profile", "profiles/slurm", "--config", "scale=smoke")
    done = room.run("snakemake", *words, check=False)
    print(done.stdout)
    assert done.returncode != 0
    assert "error: metric 'error' is " in done.stdout
    assert [path.parent.name for path in room.finals()] == ["plain"]
