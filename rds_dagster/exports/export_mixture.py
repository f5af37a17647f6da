"""Asset exports/<name>: the current version of a mixture as training files, with provenance as it stands now.

exports/<name>/<recipe>/  messages.jsonl, examples.parquet, manifest.json (written last)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from rds_dagster.errors import StateError
from rds_dagster.exports.formats import write_export
from rds_dagster.fingerprint import file_digest, fingerprint
from rds_dagster.mixtures.make_mixture import places_of
from rds_dagster.mixtures.versions import find_version
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.ids import id_array
from rds_dagster.storage.manifest import Manifest, TableFile, dump_manifests
from rds_dagster.storage.tables import TableStore, make_recipe

CODE = 1  # raise when the bytes of an export would change


def export_mixture(store: TableStore, name: str, formats: Sequence[str], licenses: Mapping[str, str]) -> Manifest:
    """Make exports/<name> current; its data version is that of the files' bytes. ``licenses``: pool -> licence as stated, for all pools of the corpus."""
    mixture = store.need(f"mixtures/{name}")
    places = [store.need(f"provenance/{pool}") for pool in licenses]
    parents = {m.key: m.fingerprint for m in [mixture, *places]}
    recipe = make_recipe("export", CODE, [list(formats), licenses], parents)
    if current := store.reusable(f"exports/{name}", recipe):
        return current
    folder = store.layout.exports / name / recipe
    files = write_files(store, mixture, formats, folder, list(licenses))
    content = fingerprint("export", {path.name: file_digest(path) for path in files}, licenses)
    manifest = Manifest(
        key=f"exports/{name}",
        fingerprint=content,
        recipe=recipe,
        settings={"formats": list(formats)},
        parents=parents,
        counts=mixture.counts,
        files=tuple(TableFile(path.suffix[1:], str(path.relative_to(store.layout.home)), mixture.counts.kept, path.stat().st_size) for path in files),
        details={"mixture": mixture.fingerprint, "mixture_settings": mixture.settings, "licenses": dict(licenses), "upstream": mixture.details["upstream"]},
    )
    write_text(folder / "manifest.json", dump_manifests([manifest]))
    store.commit([manifest])
    return manifest


def write_files(store: TableStore, mixture: Manifest, formats: Sequence[str], folder: Path, pools: Sequence[str] | None) -> list[Path]:
    """Write a version of a mixture in the given formats into any folder; returns the files.

    Provenance is that of today in ``pools``; None: as the version's own folder says.
    """
    examples = store.read(mixture, "examples")
    if examples.num_rows != mixture.counts.kept:
        raise StateError(f"{mixture.key} has {examples.num_rows:,} rows and its manifest says {mixture.counts.kept:,}; run `rds run '{mixture.key}'`")
    places: pa.Table = store.read(mixture, "provenance") if pools is None else places_of(store, id_array(examples.column("id")), pools)
    return [write_export(export_format, examples, places, folder) for export_format in formats]


def export_to(store: TableStore, name: str, export_format: str, folder: Path, *, version: str | None = None) -> Path:
    """Write a version of a mixture in one format into any folder, its manifest beside it; returns the training file.

    Both begin with the mixture's name, so that several mixtures fit one folder. ``version``: the current one where none is named, else as find_version
    takes it; it is exported from its own folder alone, and its digits follow the name. Raises SettingsError for an unknown format or version.
    """
    mixture = find_version(store, name, version).manifest if version else store.manifest(f"mixtures/{name}")
    if mixture is None:
        known = ", ".join(m.key.split("/", 1)[1] for m in store.manifests("mixtures")) or "none yet"
        raise StateError(f"mixture {name!r} is not there; made so far: {known}. Run `rds run '+mixtures/{name}'` or mend the name")
    pools = None if version else [m.key.split("/", 1)[1] for m in store.manifests("provenance")]
    (written,) = write_files(store, mixture, [export_format], folder.resolve(), pools)
    stem = f"{name}.{mixture.fingerprint[:12]}" if version else name
    named = written.replace(written.with_name(f"{stem}.{written.name}"))
    write_text(named.with_name(f"{stem}.manifest.json"), dump_manifests([mixture]))
    return named
