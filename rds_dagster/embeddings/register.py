"""The encoder as an asset: encoders/<name> holds what identifies it, so that a changed model or setting shows as stale."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rds_dagster.embeddings.identity import EncoderIdentity, describe_encoder, model_files, resolve_model
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import file_digest, fingerprint
from rds_dagster.pools.look import cached_digests
from rds_dagster.pools.render import TEMPLATE
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore


def identify(layout: Layout, settings: EncoderSettings) -> EncoderIdentity:
    """The encoder's identity, with content hashes of unchanged files taken from the cache; loads no model."""
    return describe_encoder(settings, template=TEMPLATE, digest=partial(_digest, layout))


def encoder_content(layout: Layout, settings: EncoderSettings) -> str:
    """Fingerprint of the encoder's files as they are now; reads stats alone where contents are cached. Raises SettingsError if one is gone."""
    return fingerprint("encoder files", [(file.name, _digest(layout, file)) for file in model_files(resolve_model(settings), settings)])


def register_encoder(store: TableStore, settings: EncoderSettings) -> tuple[Manifest, EncoderIdentity]:
    """Make encoders/<name> current."""
    encoder = identify(store.layout, settings)
    manifest = Manifest(
        key=f"encoders/{settings.name}",
        fingerprint=encoder.fingerprint,
        recipe=encoder.fingerprint,
        settings={"model": settings.model, "pooling": encoder.pooling, "what": encoder.what, "max_tokens": encoder.max_tokens, "dtype": encoder.dtype},
        parents={},
        counts=Counts(1, 1),
        details={
            "dims": encoder.dims,
            "files": dict(encoder.files),
            "content": fingerprint("encoder files", encoder.files),
            "eos": encoder.eos,
            "template": encoder.template,
        },
    )
    store.commit([manifest])
    return manifest, encoder


def current_encoder(store: TableStore, settings: EncoderSettings) -> EncoderIdentity:
    """The encoder as it is now; raises StateError if it is no longer what encoders/<name> records."""
    recorded, encoder = store.need(f"encoders/{settings.name}"), identify(store.layout, settings)
    if recorded.fingerprint != encoder.fingerprint:
        raise StateError(
            f"encoder {settings.name} changed since encoders/{settings.name} was made ({recorded.fingerprint[:8]} then, {encoder.fingerprint[:8]} now); "
            f"run `rds run 'encoders/{settings.name}'` first"
        )
    return encoder


def _digest(layout: Layout, path: Path) -> str:
    real = path.resolve()  # hub snapshots are links into a store of blobs
    stat = real.stat()
    key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
    return cached_digests(layout, {key: str(real)}, lambda address: file_digest(Path(address)))[key]
