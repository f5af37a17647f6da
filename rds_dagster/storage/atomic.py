"""Files that appear whole or not at all: write under a temporary name, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from rds_dagster.errors import StateError

PARTIAL_SUFFIX = ".partial"  # a file left by a killed run; never read, removed by the next writer of the folder


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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
