"""File locks between processes that say who holds them; a lock whose process died is free."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rds_dagster.errors import BusyError


@contextmanager
def held(path: Path, *, what: str, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``; raises BusyError naming the holder's process after ``timeout_s`` seconds.

    The operating system frees the lock when its process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".holder.json")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise BusyError(f"{what} is held by {_describe(holder)}; wait for it to end or stop it, then try again (waited {timeout_s:g} s)") from error
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "command": " ".join(Path(word).name if i == 0 else word for i, word in enumerate(sys.argv))}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        said = json.loads(holder.read_text())
    except (OSError, ValueError):  # the holder is just taking or leaving it
        return "another process"
    return f"process {said['pid']} ({said['command'][:120]})"
