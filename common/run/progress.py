"""How far long work is: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time

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
        self._label = label
        self._every = every
        self._bar: tqdm | None = None
        self._plain = quiet or not sys.stderr.isatty()
        self._first: tuple[float, int] | None = None
        self._shown = 0.0

    def update(self, step: int, total: int) -> None:
        """Say that `step` of `total` steps are done."""
        if self._plain:
            self._line(step, total)
            return
        if self._bar is None:
            self._bar = tqdm(total=total, initial=step, desc=self._label, unit="step", dynamic_ncols=True)
        self._bar.update(step - self._bar.n)

    def _line(self, step: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, step)
        elif now - self._shown < self._every and step < total:
            return
        started, initial = self._first
        rate = (step - initial) / (now - started) if now > started else 0.0
        tail = f", {rate:.0f} steps/s, {(total - step) / rate:.0f} s left" if rate > 0 else ""
        print(f"{self._label}: {step}/{total} steps{tail}", file=sys.stderr, flush=True)
        self._shown = now

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
