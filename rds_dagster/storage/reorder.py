"""Wide rows put in another order in bounded memory: they come as they are stored, each with its position, and leave by position."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from rds_dagster.storage.tables import GROUP_ROWS

HELD_BYTES = 2**20  # of rows that are taken in before they go to the disk, unless a caller says otherwise
MAX_FILES = 128  # open at once; beyond 8.4 million rows each holds more than one row group

Part = tuple[np.ndarray, pa.Array]
"""Some rows: the position of each, (n,) integers, and the rows (n)."""


def by_position(parts: Iterable[Part], num_rows: int, folder: Path, *, held_bytes: int = HELD_BYTES) -> Iterator[pa.Array]:
    """All rows of ``parts``, which stand at the positions 0 to ``num_rows`` - 1, each once: GROUP_ROWS at a time and the rest.

    What exceeds ``held_bytes`` goes through unnamed files in ``folder``, one for each stretch of the result, of which one alone is held; so a killed
    process leaves none. While rows are sorted they are held twice.
    """
    held, size = list[Part](), 0
    with ExitStack() as files:
        stretches = _Stretches(num_rows, lambda: files.enter_context(tempfile.TemporaryFile(dir=folder)))
        for positions, rows in parts:
            held.append((positions, rows))
            size += rows.nbytes
            if size > held_bytes:
                stretches.write(*_sorted(held))
                held, size = [], 0
        if held and stretches.hold_any:
            stretches.write(*_sorted(held))
            held = []
        for stretch in [held] if held else stretches.read():
            ordered = _sorted(stretch)[1]
            for start in range(0, len(ordered), GROUP_ROWS):
                yield ordered.slice(start, GROUP_ROWS)
            del ordered
            pa.default_memory_pool().release_unused()


def _sorted(parts: list[Part]) -> Part:
    positions = np.concatenate([positions for positions, _ in parts])
    order = np.argsort(positions)
    return positions[order], pa.concat_arrays([rows for _, rows in parts]).take(pa.array(order))


class _Stretches:
    """Equal stretches of the result, each in a file of its own, in the order in which their rows came."""

    def __init__(self, num_rows: int, new_file: Callable[[], IO[bytes]]) -> None:
        rows = GROUP_ROWS * max(-(-num_rows // (GROUP_ROWS * MAX_FILES)), 1)
        self._starts = np.arange(0, num_rows + rows, rows)  # and the end of the last
        self._new_file = new_file
        self._open: list[tuple[IO[bytes], pa.RecordBatchStreamWriter]] = []

    @property
    def hold_any(self) -> bool:
        return bool(self._open)

    def write(self, positions: np.ndarray, rows: pa.Array) -> None:
        """Lay down rows with their positions, which ascend."""
        batch = pa.record_batch([pa.array(positions), rows], ["position", "row"])
        if not self._open:
            options, files = pa.ipc.IpcWriteOptions(compression="lz4"), [self._new_file() for _ in self._starts[1:]]
            self._open = [(file, pa.ipc.new_stream(file, batch.schema, options=options)) for file in files]
        edges = np.searchsorted(positions, self._starts)
        for (_, writer), low, high in zip(self._open, edges[:-1], edges[1:], strict=True):
            if high > low:
                writer.write_batch(batch.slice(low, high - low))

    def read(self) -> Iterator[list[Part]]:
        """The rows of one stretch after another; each file goes when it is read."""
        for file, writer in self._open:
            writer.close()
            file.seek(0)
            with pa.ipc.open_stream(file) as reader:
                found = list(reader)
            file.close()
            yield [(batch.column("position").to_numpy(), batch.column("row")) for batch in found]
