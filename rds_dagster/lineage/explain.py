"""The whole chain for one example of a mixture: where it stood, what was done to it, which query chose it, at which rank and score.

Reads the version's own folder, so it also answers for versions whose pools have changed since; what lost to the example is read from
the current state and left out where that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rds_dagster.cleaning.texts import tidy
from rds_dagster.embeddings.whitening_file import GROUP as WHITENING
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.lineage.lists import PickRow
from rds_dagster.mixtures.versions import find_version
from rds_dagster.schema import Message
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore


class _Row(PickRow):
    method: str
    messages: list[dict[str, str | None]]


@dataclass(frozen=True)
class Place:
    """One place where the example stands; line counts from 1."""

    pool: str
    file: str
    line: int
    original_id: str | None
    source: str


@dataclass(frozen=True)
class Explanation:
    """Why an example is in a mixture. task, query, query_text and score are None where it was chosen at random."""

    id: str
    mixture: str
    version: str
    position: int
    pool: str
    source: str
    places: tuple[Place, ...]
    cleaning: Mapping[str, object]
    duplicates: tuple[tuple[str, str, str], ...]
    """(id, pool, reason) of examples that lost to this one."""
    method: str
    task: str | None
    query: str | None
    query_text: str | None
    rank: int
    score: float | None
    settings: Mapping[str, object]
    upstream: Mapping[str, str]
    """Asset key -> fingerprint of everything that the version was made from."""
    whitening: tuple[str, int] | None
    """The asset that whitened the vectors which were scored, and to how many dims; None where they were scored as they are."""
    messages: tuple[Message, ...]


def explain(store: TableStore, mixture: str, example: str, *, version: str | None = None) -> Explanation:
    """Explain one example; ``example`` is its id in hex, or an unambiguous beginning of it of 4 digits or more.

    ``version``: the current one where none is named, else as find_version takes it. Raises SettingsError if the mixture does not hold the example or
    has no such version, StateError if the mixture was never made.
    """
    manifest = find_version(store, mixture, version).manifest if version else store.manifest(f"mixtures/{mixture}")
    if manifest is None:
        known = ", ".join(m.key.split("/", 1)[1] for m in store.manifests("mixtures")) or "none yet"
        raise StateError(f"mixture {mixture!r} is not there; made so far: {known}. Run `rds run '+mixtures/{mixture}'` or mend the name")
    examples = store.read(manifest, "examples")
    row = _find(examples, example, mixture)
    example_id: bytes = row["id"]
    pool, query = row["pool"], row["query"]
    upstream = manifest.details["upstream"]
    assert isinstance(upstream, dict), "make_mixture wrote it"
    return Explanation(
        id=example_id.hex(),
        mixture=mixture,
        version=manifest.fingerprint,
        position=row["position"],
        pool=pool,
        source=row["source"],
        places=tuple(_places(store, manifest, example_id)),
        cleaning=upstream.get(f"clean/{pool}", {}).get("settings", {}),
        duplicates=tuple(_losers(store, example_id)),
        method=row["method"],
        task=row["task"],
        query=query,
        query_text=_query_text(store, manifest, row["task"], query) if query is not None else None,
        rank=row["rank"],
        score=row["score"],
        settings=manifest.settings,
        upstream={key: said["fingerprint"] for key, said in upstream.items()},
        whitening=next(((key, made["settings"]["dims"]) for key, made in upstream.items() if key.startswith(f"{WHITENING}/")), None),
        messages=tuple(tidy(row["messages"])),
    )


def explanation_text(said: Explanation) -> str:
    """The explanation as people read it."""
    lines = [
        f"example {said.id}  ({said.pool}, source {said.source})",
        f"  in mixture {said.mixture}, version {said.version[:12]}, at position {said.position:,}",
        "",
    ]
    if said.task is None:
        lines += ["chosen by", f"  method {said.method}, draw {said.rank:,}"]
    else:
        lines += ["chosen by", f"  task   {said.task}", f"  query  {said.query}", f"  rank   {said.rank:,} in that list", f"  score  {said.score:.4f}"]
        if said.whitening:
            key, dims = said.whitening
            lines.append(f"         of vectors whitened to {dims:,} dims by {key}, {said.upstream[key][:12]}")
        lines += [f"    | {line}" for line in _short(said.query_text or "", 6)]
    lines += ["", "stands at"] + [f"  {p.pool}  {p.file}, line {p.line:,}" + (f"  (id {p.original_id})" if p.original_id else "") for p in said.places]
    lines += ["", "cleaning", "  kept by: " + (", ".join(f"{name} {value}" for name, value in said.cleaning.items() if value is not None) or "no record")]
    lines += [f"  {reason}: {loser[:12]} of pool {pool} lost to it" for loser, pool, reason in said.duplicates]
    lines += ["", "text"] + [f"  {message['role']}: {line}" for message in said.messages for line in _short(message["content"], 8)]
    lines += ["", "made from"] + [f"  {key}  {fingerprint[:12]}" for key, fingerprint in said.upstream.items()]
    return "\n".join(lines)


def _find(examples: pa.Table, example: str, mixture: str) -> _Row:
    wanted = example.strip().lower()
    if len(wanted) < 4 or any(digit not in "0123456789abcdef" for digit in wanted):
        raise SettingsError(f"example id {example!r} is not hexadecimal of 4 digits or more; the ids stand in the exported files and in the report")
    ids = [value.as_py() for value in examples.column("id")]
    found = [number for number, value in enumerate(ids) if value.hex().startswith(wanted)]
    if not found:
        raise SettingsError(
            f"mixture {mixture!r} does not hold example {example!r} (it holds {len(ids):,}); the ids stand in the exported files and in the report"
        )
    if len(found) > 1:
        raise SettingsError(f"example id {example!r} fits {len(found)} examples of mixture {mixture!r}; give more digits, as {ids[found[0]].hex()}")
    row: _Row = examples.slice(found[0], 1).to_pylist()[0]
    return row


def _places(store: TableStore, manifest: Manifest, example: bytes) -> list[Place]:
    table = store.read(manifest, "provenance")
    rows = table.filter(pc.equal(table.column("id"), pa.scalar(example, pa.binary(16)))).drop_columns(["id"]).to_pylist()
    return [Place(**row) for row in rows]


def _losers(store: TableStore, example: bytes) -> list[tuple[str, str, str]]:
    found = []
    for manifest in store.manifests("unique"):
        for path in (store.layout.home / file for file in manifest.paths("losers")):
            if not path.exists():
                continue
            table = pq.read_table(path, columns=["id", "reason", "keeper_id"], filters=pc.field("keeper_id") == pa.scalar(example, pa.binary(16)))
            pool = manifest.key.split("/", 1)[1]
            found += [(row["id"].hex(), pool, row["reason"]) for row in table.to_pylist()]
    return found


def _query_text(store: TableStore, manifest: Manifest, task: object, query: object) -> str | None:
    rows = store.read(manifest, "queries", ["task", "query", "text"]).to_pylist()
    return next((row["text"] for row in rows if (row["task"], row["query"]) == (task, query)), None)


def _short(text: str, lines: int) -> list[str]:
    all_lines = [line[:160] + ("…" if len(line) > 160 else "") for line in text.strip().splitlines()]
    return all_lines[:lines] + (["…"] if len(all_lines) > lines else [])
