"""How far long work is: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import io
import sys
from typing import Any

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """Progress of one run on standard error.

    Arguments:
        label: What is running.
        quiet: Plain lines even on a terminal.
        every: Seconds between plain lines.
    """

    def __init__(self, label: str, quiet: bool = False, every: float = 15.0) -> None:
        self._bar: tqdm | None = None
        self._options: dict[str, Any] = {"desc": label, "unit": " steps", "dynamic_ncols": True}
        if quiet or not sys.stderr.isatty():
            line = "{desc}: {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}, {rate_noinv_fmt}]"
            self._options |= {"file": _Lines(), "mininterval": every, "miniters": 1, "bar_format": line}

    def update(self, step: int, total: int) -> None:
        """Say that `step` of `total` steps are done."""
        if self._bar is None:
            self._bar = tqdm(total=total, initial=step, **self._options)
        self._bar.total = total  # of another loop, where a run has several
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """End with where it is now."""
        if self._bar is not None:
            self._bar.close()


class _Lines(io.TextIOBase):
    """Standard error on which a bar is not redrawn: each of its states is a line."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)
