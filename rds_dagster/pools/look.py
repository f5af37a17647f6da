"""What files a pool holds now: the manifest asset raw/<pool>. Later stages read exactly the files in it.

Content hashes are cached by address, size and stamp (modification time and inode, or a remote store's tag), so looking again at
an unchanged pool opens no file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rds_dagster import schema
from rds_dagster.errors import InputError, StateError
from rds_dagster.fingerprint import fingerprint
from rds_dagster.pools.files import PoolFile, digest_file, list_files
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.locks import held
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore, make_recipe

CODE = 1  # raise when the bytes of the manifest's table would change


@dataclass(frozen=True)
class RawFile:
    """One file as the pool's manifest records it."""

    file: PoolFile
    digest: str


def look(layout: Layout, pool: PoolSettings, *, root: Path, verify: bool = False) -> list[RawFile]:
    """The files of a pool as they are now, with content hashes; ``verify`` hashes all of them anew.

    Raises InputError if there is none or all of them are empty.
    """
    files = list_files(pool.source, root=root)
    if not any(file.size for file in files):
        raise InputError(f"pool {pool.name}: all files of {pool.source} are empty; put records into them or remove assets/pools/{pool.name}")
    digests = cached_digests(layout, {f"{file.address}|{file.size}|{file.stamp}": file.address for file in files}, digest_file, verify=verify)
    return [RawFile(file, digests[f"{file.address}|{file.size}|{file.stamp}"]) for file in files]


def raw_fingerprint(files: list[RawFile]) -> str:
    """The data version of raw/<pool>: path relative to the pool's root, size and content of every file."""
    return fingerprint("raw", CODE, [(raw.file.file, raw.file.size, raw.digest) for raw in files])


def pool_state(layout: Layout, pool: PoolSettings, *, root: Path, verify: bool = False) -> str:
    """Fingerprint of content, addresses and stamps; raises InputError as ``look`` does.

    It also changes when files are only moved or touched: raw/<pool> is then recorded anew, or later stages would refuse its files, and at the
    same data version, so nothing follows.
    """
    return _state(look(layout, pool, root=root, verify=verify))


def record_pool(store: TableStore, pool: PoolSettings, *, root: Path) -> Manifest:
    """Look at a pool and make its manifest current."""
    files = look(store.layout, pool, root=root)
    content = raw_fingerprint(files)
    recipe = make_recipe("raw", CODE, pool.source, {"files": content})
    draft = store.draft(f"raw/{pool.name}", recipe)
    rows = [{"file": raw.file.file, "size": raw.file.size, "digest": raw.digest} for raw in files]
    draft.write("files", pa.Table.from_pylist(rows, schema.RAW_FILE), schema.RAW_FILE)
    manifest = draft.manifest(
        fingerprint=content,
        settings={"source": pool.source, "license": pool.license},
        parents={},
        counts=Counts(len(files), len(files)),
        details={
            "files": [[raw.file.file, raw.file.address, raw.file.size, raw.file.stamp, raw.digest] for raw in files],
            "state": _state(files),
            "bytes": sum(r.file.size for r in files),
        },
    )
    store.commit([manifest])
    return manifest


def recorded_files(manifest: Manifest) -> list[RawFile]:
    """The files in a raw/<pool> manifest."""
    files = manifest.details["files"]
    assert isinstance(files, list), "record_pool wrote it"
    return [RawFile(PoolFile(file, address, size, stamp), digest) for file, address, size, stamp, digest in files]


def cached_digests(layout: Layout, wanted: dict[str, str], digest: Callable[[str], str], *, verify: bool = False) -> dict[str, str]:
    """A content hash for each cache key (which must change when the file does), computing only what is not cached; maps key -> hex.

    ``wanted`` maps cache key -> address, ``digest`` turns an address into its hash.
    """
    known: dict[str, str] = {} if verify else _read_cache(layout)
    fresh = {key: digest(address) for key, address in wanted.items() if key not in known}
    if fresh:
        with held(layout.locks / "digests.lock", what="the cache of content hashes", timeout_s=60.0):
            write_text(layout.digests, json.dumps({**_read_cache(layout), **fresh}, indent=0, sort_keys=True))
    return {key: fresh.get(key) or known[key] for key in wanted}


def _state(files: list[RawFile]) -> str:
    return fingerprint("files", [(raw.file.file, raw.file.address, raw.file.size, raw.file.stamp, raw.digest) for raw in files])


def _read_cache(layout: Layout) -> dict[str, str]:
    if not layout.digests.exists():
        return {}
    try:
        cached: dict[str, str] = json.loads(layout.digests.read_bytes())
    except ValueError as error:
        raise StateError(f"{layout.digests} is not the cache of content hashes ({error}); remove it, it is made again") from error
    return cached
