"""How fast are pools read and cleaned, beside a bare read of the same files?

    python -m benchmarks.reading --data DIR [--pools alpaca dolly] [--repeats 5] [--json FILE]

``--data`` holds ``pool/<source>.jsonl.zst``. Of each pool, with all sides taken in turns, one thread each and the file in the page cache:

    read and clean   from the file to a finished shard: decompress, parse, check, hash, filter, write Parquet
    read             the first half of that: the records as Python objects, strictly parsed
    pyarrow          `pyarrow.json.read_json` on the bytes as our own reader decompresses them; of Parquet, `read_table`
    duckdb           `create table as` from `read_json` (or `read_parquet`), which decompresses for itself

Speeds are in MB (10^6 bytes) of JSON text a second, and of bytes on disk a second. The first pool is also taken as plain JSON Lines and as Parquet.
Neither peer checks what ours does: a key that stands twice, UTF-8, line numbers, what makes a conversation; they tell what the machine could do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from benchmarks.figures import Figures
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.shards import make_shard
from rds_dagster.pools.files import PoolFile, list_files, open_text_bytes
from rds_dagster.pools.readers import read_records
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.layout import Layout

POOLS = ("alpaca", "dolly", "alpaca_zh", "anthropic_evals")  # of middling length, long, in another script, short
REPEATS = 5
BLOCK = 16 << 20  # bytes that pyarrow parses at once; a record may not be longer


def measure(figures: Figures, name: str, path: Path, text_bytes: int, repeats: int) -> None:
    """All sides on one file; ``text_bytes`` of JSON text are behind it."""
    (file,) = list_files(str(path), root=Path("/"))
    sides: dict[str, Callable[[PoolFile], int]] = {"read and clean": _read_and_clean, "read": _read, "pyarrow": _pyarrow, "duckdb": _duckdb}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    rows = {side: work(file) for side, work in sides.items()}  # once, so that files are cached and libraries loaded
    if len(set(rows.values())) > 1:
        raise RuntimeError(f"{path} has as many records as the sides say: {rows}")
    for _ in range(repeats):
        for side, work in sides.items():
            began = time.perf_counter()
            work(file)
            seconds[side].append(time.perf_counter() - began)
    for side, took in seconds.items():
        figures.figure(f"{name}, {side}", _speeds(text_bytes, took), "MB/s of JSON text")
    figures.figure(f"{name}, read and clean, on disk", _speeds(file.size, seconds["read and clean"]), "MB/s of bytes on disk")
    figures.figure(f"{name}, read and clean, records", [rows["read"] / took for took in seconds["read and clean"]], "records/s")
    for side in ("read and clean", "read"):
        for peer in ("pyarrow", "duckdb"):
            figures.ratio(f"{name}: {side} / {peer}", _speeds(text_bytes, seconds[side]), _speeds(text_bytes, seconds[peer]), "higher")


def _speeds(size: int, seconds: Sequence[float]) -> list[float]:
    return [size / took / 1e6 for took in seconds]


def _read_and_clean(file: PoolFile) -> int:
    with tempfile.TemporaryDirectory() as home:
        return make_shard(Layout(Path(home)), file, "benchmark", PoolSettings("benchmark", file.address), CleaningSettings()).records


def _read(file: PoolFile) -> int:
    return sum(1 for _ in read_records(file))


def _pyarrow(file: PoolFile) -> int:
    if file.address.endswith(".parquet"):
        return int(pq.read_table(file.address, use_threads=False).num_rows)
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=BLOCK)
    with open_text_bytes(file.address) as stream:
        return int(pyarrow.json.read_json(stream, read_options=options).num_rows)


def _duckdb(file: PoolFile) -> int:
    with duckdb.connect() as connection:
        connection.execute("set threads = 1")
        reader = "read_parquet" if file.address.endswith(".parquet") else "read_json"
        connection.execute(f"create temp table records as select * from {reader}(?)", [file.address])
        (rows,) = connection.execute("select count(*) from records").fetchall()[0]
        return int(rows)


def write_as_parquet(path: Path, to: Path) -> None:
    """The records of a JSON Lines file as Parquet, a row group for each 10,000."""
    table = pa.Table.from_pylist([record.value for record in read_records(list_files(str(path), root=Path("/"))[0]) if record.value is not None])
    pq.write_table(table, to, row_group_size=10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with pool/<source>.jsonl.zst")
    parser.add_argument("--pools", nargs="+", default=list(POOLS), help="which of them; the first is also taken in other formats")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="how often each side runs")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    said = parser.parse_args()
    figures = Figures("reading")
    with tempfile.TemporaryDirectory() as folder:
        for number, pool in enumerate(said.pools):
            path = (said.data / "pool" / f"{pool}.jsonl.zst").resolve()
            plain = Path(folder) / f"{pool}.jsonl"
            with open_text_bytes(str(path)) as stream:
                plain.write_bytes(stream.read())
            size = plain.stat().st_size
            measure(figures, f"{pool}.jsonl.zst", path, size, said.repeats)
            if number == 0:
                measure(figures, f"{pool}.jsonl", plain, size, said.repeats)
                write_as_parquet(plain, plain.with_suffix(".parquet"))
                measure(figures, f"{pool}.parquet", plain.with_suffix(".parquet"), size, said.repeats)
            plain.unlink()
    figures.write(said.json)


if __name__ == "__main__":
    main()
