"""One training run by several processes that share its batch, started by torchrun.

torchrun --nproc-per-node 8 -m papers.byol.distributed --experiment cifar --variant solo_byol --scale paper --seed 0

Batch normalisation and negatives see the whole batch. The first process keeps the run; the others read its checkpoint,
so that the folder of runs has to be shared between machines. Arguments are those of `python -m papers.byol`.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from common.errors import RefigureError, status_of
from common.room.plan import PlannedRun, plan_run
from common.run import checkpoint, command
from common.run.record import RESUME, is_done
from common.train.recorder import Recorder

__all__ = ["main"]


class Follower(Recorder):
    """What a process other than the first sees of a run: its checkpoint."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        if not (self.folder / RESUME).exists():
            return None
        arrays, meta = checkpoint.load(self.folder / RESUME, expect={"key": self.key})
        return int(meta["step"]), arrays


def main() -> None:
    """Plan the run in every process, train it in all of them, keep it in the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("experiment", "variant"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        raise RefigureError(
            "papers.byol.distributed is started by torchrun --nproc-per-node N -m papers.byol.distributed ...; "
            "for one process use python -m papers.byol"
        )
    plan: PlannedRun = plan_run(
        "byol", options.experiment, options.variant, options.scale, (options.seed,), options.set, None
    )
    folder = options.out or plan.folder
    if is_done(folder, plan.identity.key):
        print(f"{plan.identity}: done already", file=sys.stderr)
        return
    local, gpu = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        if dist.get_rank() == 0:
            command.execute(plan, folder, quiet=True)
        else:
            command.trained(plan, Follower(folder, plan.identity.key), None)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(status_of(main))
