"""Progress of long work on the terminal: plain lines, so that they read well in any log."""

from __future__ import annotations

import time


class Progress:
    """Prints where a stage is, what it measured last, and how long it will take.

    Args:
        stage: Stands at the start of each line.
        total: Units of work over all jobs.
        every: Seconds between two lines, at least.
    """

    def __init__(self, stage: str, total: int, every: float = 5.0) -> None:
        self._stage, self._total, self._every = stage, total, every
        self._done = 0
        self._start = time.monotonic()
        self._printed = self._start

    def advance(self, what: str, units: int = 1, **measured: float | None) -> None:
        """Counts finished units and prints a line when one is due or the work is done."""
        self._done += units
        now = time.monotonic()
        if now - self._printed < self._every and self._done < self._total:
            return
        self._printed = now
        left = (now - self._start) / max(self._done, 1) * max(self._total - self._done, 0)
        figures = "  ".join(f"{name} {value:.3g}" for name, value in measured.items() if value is not None)
        print(
            f"{self._stage:<22} {self._done:>5}/{self._total}  {what:<28} {figures}  {left:.0f} s left".rstrip(),
            flush=True,
        )
