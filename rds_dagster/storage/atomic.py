"""Files that appear whole or not at all: write under a temporary name, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from rds_dagster.errors import StateError

PARTIAL_SUFFIX = ".partial"  # a file left by a killed run; never read, removed by the next writer of the folder
PARTIAL_VERSION = re.compile(r"\.[0-9a-f]+\.[0-9a-f]{8}")  # a version folder that a killed run did not finish


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on leaving without an error it becomes ``path``, else it is removed.

    Raises StateError with the mend when the disk is full or the folder is read-only; what stood at ``path`` stays.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _fsync(partial)
            partial.replace(path)
            _fsync(path.parent)
    finally:
        with suppress(OSError):  # a read-only file system refuses to remove even what is not there
            partial.unlink()


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only folder inside the block into a StateError that names ``path`` and the mend."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StateError(f"the disk is full while writing {path}; free space and run again, the last good state is untouched") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StateError(f"{path.parent} cannot be written ({error.strerror}); make it writable or set RDS_HOME to a folder that is") from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically."""
    write_bytes(path, text.encode())


def remove_partials(folder: Path) -> None:
    """Remove what killed runs left in ``folder``; call only while holding the lock of its writer."""
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        partial.unlink(missing_ok=True)


def remove_old_partials(home: Path, older_than_s: float) -> None:
    """Remove what killed runs left anywhere below ``home``: partial files, and half-made version folders of mixtures, untouched for so many seconds."""
    until = time.time() - older_than_s
    for version in [path for path in home.glob("mixtures/*/.*") if PARTIAL_VERSION.fullmatch(path.name)]:
        if _is_untouched([version, *version.rglob("*")], until):
            shutil.rmtree(version, ignore_errors=True)
    for partial in list(home.rglob(f".*{PARTIAL_SUFFIX}")):
        if _is_untouched([partial], until):
            with suppress(OSError):  # it goes with another run, or the next writer of the folder says what is wrong with it
                partial.unlink()


def _is_untouched(paths: list[Path], until: float) -> bool:
    """Whether nothing was written there since the time ``until``; not so if a path has gone, since someone is at work."""
    try:
        return all(path.stat().st_mtime < until for path in paths)
    except FileNotFoundError:
        return False


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
