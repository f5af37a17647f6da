"""One file of a pool -> one shard: its valid conversations in file order, and the rows that left with their reasons.

What costs per row (parsing, hashing, filtering) happens here once and is cached by the file's content and the settings, so a
renamed file is not read again and a grown pool reads only its new files. A shard is finished when its small JSON file exists.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rds_dagster import schema
from rds_dagster.cleaning.filters import first_drop
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.errors import InputError
from rds_dagster.fingerprint import fingerprint
from rds_dagster.pools.files import PoolFile, ending, list_files
from rds_dagster.pools.readers import Record, read_records
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.pools.shapes import Conversation, Rejected, to_messages
from rds_dagster.schema import ID_SCHEME
from rds_dagster.storage.atomic import atomic_path, write_text
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import COMPRESSION

CODE = 2  # raise when the bytes of a shard would change
BATCH_ROWS = 4096
BATCH_CHARS = 16_000_000  # of the rows that wait to be written, so that long conversations do not pile up
EXCERPT_CHARS = 200


@dataclass(frozen=True)
class Shard:
    """A finished shard: paths relative to the home folder, rows kept, rows dropped by reason."""

    shard: str
    quarantine: str
    rows: int
    bytes: int
    dropped: dict[str, int]
    reused: bool

    @property
    def records(self) -> int:
        """Records read from the file, good and bad."""
        return self.rows + sum(self.dropped.values())


def shard_recipe(name: str, digest: str, pool: PoolSettings, cleaning: CleaningSettings) -> str:
    """What decides a shard: the file's content, how it is read (of its ``name`` the ending alone), what is kept.

    The pool's name is the source where a record names none.
    """
    return fingerprint("shard", CODE, ID_SCHEME, ending(name), digest, pool.name, pool.shape, pool.format, cleaning)


def make_shard(layout: Layout, file: PoolFile, digest: str, pool: PoolSettings, cleaning: CleaningSettings) -> Shard:
    """The shard of one file, from the cache or made now; raises InputError if the file cannot be read to its end or changed meanwhile."""
    name = shard_recipe(file.file, digest, pool, cleaning)
    done = layout.shards / f"{name}.json"
    if done.exists():
        said = json.loads(done.read_text())
        if all((layout.home / said[part]).exists() for part in ("shard", "quarantine")):
            return Shard(**{**said, "reused": True})
    kept_path, lost_path = layout.shards / f"{name}.parquet", layout.shards / f"{name}.quarantine.parquet"
    rows, dropped = write_shard(read_records(file, format=pool.format), kept_path, lost_path, file=file.file, pool=pool, cleaning=cleaning)
    (now,) = list_files(file.address, root=Path("/"))
    refuse_changed_file(now, stamp=file.stamp, size=file.size, pool=pool.name)
    shard = Shard(
        str(kept_path.relative_to(layout.home)),
        str(lost_path.relative_to(layout.home)),
        rows,
        kept_path.stat().st_size,
        dict(sorted(dropped.items())),
        reused=False,
    )
    write_text(done, json.dumps(asdict(shard)))
    return shard


def write_shard(
    records: Iterable[Record], kept_path: Path, lost_path: Path, *, file: str, pool: PoolSettings, cleaning: CleaningSettings
) -> tuple[int, Counter[str]]:
    """Stream records into a shard and its quarantine; returns rows kept and rows dropped by reason."""
    kept: list[dict[str, object]] = []
    lost: list[dict[str, object]] = []
    num_kept, num_chars, dropped = 0, 0, Counter[str]()
    with ExitStack() as stack:
        kept_file = stack.enter_context(pq.ParquetWriter(stack.enter_context(atomic_path(kept_path)), schema.SHARD, compression=COMPRESSION))
        lost_file = stack.enter_context(pq.ParquetWriter(stack.enter_context(atomic_path(lost_path)), schema.QUARANTINE, compression=COMPRESSION))
        for record in records:
            row = clean_record(record, file=file, pool=pool, cleaning=cleaning)
            if "reason" in row:
                lost.append(row)
                dropped[str(row["reason"])] += 1
            else:
                kept.append(row)
                num_kept += 1
                num_chars += int(str(row["num_chars"]))
            if len(kept) >= BATCH_ROWS or num_chars >= BATCH_CHARS:
                kept_file.write_batch(pa.RecordBatch.from_pylist(kept, schema.SHARD))
                kept.clear()
                num_chars = 0
            if len(lost) >= BATCH_ROWS:
                lost_file.write_batch(pa.RecordBatch.from_pylist(lost, schema.QUARANTINE))
                lost.clear()
        kept_file.write_batch(pa.RecordBatch.from_pylist(kept, schema.SHARD))
        lost_file.write_batch(pa.RecordBatch.from_pylist(lost, schema.QUARANTINE))
    return num_kept, dropped


def clean_record(record: Record, *, file: str, pool: PoolSettings, cleaning: CleaningSettings) -> dict[str, object]:
    """One record -> a row of SHARD, or a row of QUARANTINE (told by its ``reason``)."""
    if record.value is None:
        assert record.reason is not None, "a record without a value says why"
        return _lost(record, record.reason, record.detail, record.excerpt[:EXCERPT_CHARS], file, pool)
    found = to_messages(record.value, pool.shape)
    if isinstance(found, Rejected):
        return _lost(record, found.reason, found.detail, _excerpt(record.value), file, pool)
    assert isinstance(found, Conversation)
    if drop := first_drop(found.messages, cleaning):
        return _lost(record, drop.reason, drop.detail, _excerpt(record.value), file, pool)
    example, key = schema.id_and_duplicate_key(found.messages)
    return {
        "id": example,
        "duplicate_key": key,
        "messages": found.messages,
        "source": found.source or pool.name,
        "original_id": found.original_id,
        "line": record.line,
        "num_messages": len(found.messages),
        "num_chars": sum(len(message["content"]) for message in found.messages),
    }


def _lost(record: Record, reason: str, detail: str, excerpt: str, file: str, pool: PoolSettings) -> dict[str, object]:
    return {"pool": pool.name, "file": file, "line": record.line, "stage": "clean", "reason": reason, "detail": detail, "excerpt": excerpt}


def refuse_changed_file(file: PoolFile, *, stamp: str, size: int, pool: str) -> None:
    """Raise InputError if a file is no longer what the pool's manifest says."""
    if (file.stamp, file.size) != (stamp, size):
        raise InputError(
            f"{file.address} of pool {pool} changed since raw/{pool} was made ({size:,} bytes then, {file.size:,} now); "
            "let its writer finish and run again, the pool's last good state is kept"
        )


def _excerpt(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)[: EXCERPT_CHARS * 2]
    return text.encode("utf-8", "replace").decode()[:EXCERPT_CHARS]
