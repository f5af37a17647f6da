"""File locks between processes that say who holds them; a lock whose process died is free."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rds_dagster.errors import BusyError
from rds_dagster.storage.atomic import writable


@contextmanager
def held(path: Path, *, what: str, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``; raises BusyError naming the holder's process after ``timeout_s`` seconds, StateError in a read-only folder.

    The operating system frees the lock when its process ends, however it ends.
    """
    holder = path.with_suffix(".holder.json")
    lock = FileLock(path)
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise BusyError(f"{what} is held by {_describe(holder)}; wait for it to end or stop it, then try again (waited {timeout_s:g} s)") from error
    try:
        with suppress(OSError):  # on a full disk the lock holds all the same, only without a name
            holder.write_text(json.dumps({"pid": os.getpid(), "command": " ".join(Path(word).name if i == 0 else word for i, word in enumerate(sys.argv))}))
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _describe(holder: Path) -> str:
    try:
        said = json.loads(holder.read_text())
    except (OSError, ValueError):  # the holder is just taking or leaving it
        return "another process"
    return f"process {said['pid']} ({said['command'][:120]})"
