"""How far an encoding is: a bar on a terminal, a log line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class Progress:
    """Counts rows and tokens and reports them with their rates and the time left; use it in a ``with``.

    ``total``: rows to come, None if unknown (no time left then). ``what``: words in front of each report. ``stream``: where the bar goes if
    it is a terminal; otherwise log lines at level INFO, one every ``log_every_s`` seconds and one at the end. ``clock``: seconds, rising.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        log_every_s: float = LOG_EVERY_S,
    ) -> None:
        self.num_rows = 0
        self.num_tokens = 0
        self._what = what
        self._total = total
        self._stream = stream
        self._clock = clock
        self._log_every_s = log_every_s
        self._began = self._told = clock()
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> Progress:
        self._began = self._told = self._clock()
        stream = self._stream or sys.stderr
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, desc=self._what, unit="examples", unit_scale=True, file=stream, dynamic_ncols=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self.num_rows:
            _log.info("%s", self.line())

    def update(self, rows: int, tokens: int) -> None:
        """Count ``rows`` examples of ``tokens`` tokens in all as done, and report if it is time."""
        self.num_rows += rows
        self.num_tokens += tokens
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.num_tokens / self._elapsed_s():,.0f} tokens/s", refresh=False)
            self._bar.update(rows)
        elif self._clock() - self._told >= self._log_every_s:
            self._told = self._clock()
            _log.info("%s", self.line())

    def line(self) -> str:
        """The report as one line, such as ``embed dolly: 1,200 of 5,000 examples, 300.0 examples/s, 36,000 tokens/s, 13 s left``."""
        rate = self.num_rows / self._elapsed_s()
        of = "" if self._total is None else f" of {self._total:,}"
        parts = [f"{self._what}: {self.num_rows:,}{of} examples", f"{rate:,.1f} examples/s", f"{self.num_tokens / self._elapsed_s():,.0f} tokens/s"]
        if self._total is not None and rate > 0:
            parts.append(f"{_duration(max(0, self._total - self.num_rows) / rate)} left")
        return ", ".join(parts)

    def _elapsed_s(self) -> float:
        return max(self._clock() - self._began, 1e-9)


def _duration(seconds: float) -> str:
    """``13 s``, ``4 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
