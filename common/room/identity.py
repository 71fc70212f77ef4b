"""What names a run: everything that decides its numbers, and nothing else."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.room.config import canonical, to_dict

__all__ = ["Deviation", "Identity"]


@dataclass(frozen=True)
class Deviation:
    """A departure from the paper."""

    what: str
    """What differs."""
    reason: str
    """Why."""
    touches: tuple[str, ...] = ("all",)
    """Identifiers of the claims whose conditions it changes: `all`, or none when it is only reported."""


@dataclass(frozen=True)
class Identity:
    """The inputs of a run's key.

    Scale, device, hardware and plotting code are not among them: two scales that resolve to the same settings
    share a run, and a figure's code only draws again.
    """

    paper: str
    """Name of the paper."""
    experiment: str
    """Name of the experiment."""
    variant: str
    """Name of the variant."""
    config: Mapping[str, Any]
    """The resolved configuration as plain data."""
    seeds: tuple[int, ...]
    """The seeds trained together."""
    data: Mapping[str, Mapping[str, str]]
    """Data set to array to checksum of its content."""
    code: str
    """Digest of the definitions that the experiment and the runtime reach, see `common.room.digest`."""
    threads: int = 1
    """CPU threads, which decide the order of sums."""
    parent: str = ""
    """The run that it begins from, `<experiment>/<variant>/<seeds>-<key>` of the same paper; empty: none."""

    def __post_init__(self) -> None:
        parent = self.parent.split("/") if self.parent else []
        if len(parent) not in (0, 3):
            raise ValueError(f"parent: {self.parent!r} is no run: expected <experiment>/<variant>/<seeds>-<key>")
        for part in (self.paper, self.experiment, self.variant, *parent):
            if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", part):
                raise ValueError(f"{part!r} is no name: letters, digits, '_', '-', '+' and inner '.' only")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError("seeds: expected numbers from 0 up")

    @property
    def inputs(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dict(to_dict(self))

    @property
    def key(self) -> str:
        """The first 12 hex digits of the SHA-256 of `inputs`."""
        return hashlib.sha256(canonical(self.inputs).encode()).hexdigest()[:12]

    @property
    def group(self) -> Path:
        """`<paper>/<experiment>/<variant>`: where runs of all seeds and keys lie side by side."""
        return Path(self.paper) / self.experiment / self.variant

    @property
    def seeds_name(self) -> str:
        """`seed3`, `seeds0-4`, or `seeds0_2_5` where seeds have gaps."""
        first, last = self.seeds[0], self.seeds[-1]
        if len(self.seeds) == 1:
            return f"seed{first}"
        if self.seeds == tuple(range(first, last + 1)):
            return f"seeds{first}-{last}"
        return "seeds" + "_".join(map(str, self.seeds))

    @property
    def path(self) -> Path:
        """Folder of the run, relative to `runs/`."""
        return self.group / f"{self.seeds_name}-{self.key}"

    def __str__(self) -> str:
        return self.path.as_posix()
