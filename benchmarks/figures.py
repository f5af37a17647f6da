"""How benchmarks say what they measured: a line a figure on the screen, and the same as JSON for `check_ratios` and RESULTS.md.

A benchmark makes one `Figures`, gives it the repeats of each measurement as they come, and writes it at its end if `--json FILE` was given.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

Better = Literal["higher", "lower"]

LIBRARIES = ("torch", "numpy", "duckdb", "lancedb", "pyarrow", "transformers", "dagster")
CPU_INFO = Path("/proc/cpuinfo")


class Figures:
    """The figures and ratios of one benchmark, in the order in which they were measured; each is printed at once."""

    def __init__(self, benchmark: str) -> None:
        self.benchmark = benchmark
        self.figures: dict[str, dict[str, object]] = {}
        self.ratios: dict[str, dict[str, object]] = {}
        self.measured = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")

    def figure(self, name: str, values: Sequence[float], unit: str) -> float:
        """Print and remember repeats of one measurement, and return their median; raises ValueError if there are none or the name is taken."""
        _check(name, values, self.figures)
        middle = median(values)
        self.figures[name] = {"median": middle, "min": min(values), "max": max(values), "repeats": len(values), "unit": unit}
        print(f"{name}: {shown(middle)} {unit}{_spread(values)}", flush=True)
        return middle

    def ratio(self, name: str, ours: Sequence[float], limit: Sequence[float], better: Better) -> float:
        """Print and remember the median of ``ours`` over the median of ``limit``, measured in the same run; name such as ``end to end / bare model``.

        ``better`` says which way this ratio improves. Where both have as many repeats, i of one is held to have run beside i of the other, and the
        ratios of these pairs are the spread. Raises ValueError if there are no values, the limit is not above zero, or the name is taken.
        """
        _check(name, ours, self.ratios)
        _check(name, limit, self.ratios)
        if better not in ("higher", "lower"):
            raise ValueError(f"ratio {name!r}: better is {better!r}; expected 'higher' or 'lower'")
        if min(limit) <= 0:
            raise ValueError(f"ratio {name!r}: the limit is {min(limit)}; expected numbers above zero")
        value = median(ours) / median(limit)
        pairs = [ours[i] / limit[i] for i in range(len(ours))] if len(ours) == len(limit) else []
        self.ratios[name] = {"value": value, "better": better, **({"min": min(pairs), "max": max(pairs)} if pairs else {})}
        print(f"{name}: {shown(value)}{_spread(pairs)}", flush=True)
        return value

    def write(self, path: Path | None) -> None:
        """Write everything as JSON, with date, machine and versions; nothing where no path is given."""
        if path is None:
            return
        said = {
            "benchmark": self.benchmark,
            "measured": self.measured,  # in UTC
            "machine": machine(),
            "versions": versions(),
            "ratios": self.ratios,
            "figures": self.figures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(said, indent=1) + "\n")


def machine() -> dict[str, object]:
    """What measured: processor, cores this process may use, GiB of memory, system, and the GPU if PyTorch is loaded and sees one."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "gpu": _gpu(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the speed; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def shown(value: float) -> str:
    """A number as people read it: whole from 1,000 on, else three digits that count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def _check(name: str, values: Sequence[float], taken: dict[str, dict[str, object]]) -> None:
    if name in taken:
        raise ValueError(f"{name!r} was measured before; give each figure and each ratio a name of its own")
    if not len(values) or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name!r} has the values {list(values)}; expected at least one number, all finite")


def _spread(values: Sequence[float]) -> str:
    return f" ({shown(min(values))} to {shown(max(values))})" if len(values) > 1 else ""


def _cpu() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """The first CUDA device's name; PyTorch is not loaded for it."""
    if "torch" not in sys.modules:
        return None
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
