"""The encoder's manifest: the same while its files and settings are, another when either changes, and hashes taken once."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rds_dagster.embeddings.identity import describe_encoder
from rds_dagster.embeddings.register import current_encoder, encoder_content, identify, register_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(Layout(tmp_path / "home"))


@pytest.fixture
def own_encoder(tiny_encoder: EncoderSettings, copy_of_tiny: Path) -> EncoderSettings:
    """The tiny encoder in a folder of its own, to change at will."""
    return replace(tiny_encoder, model=str(copy_of_tiny))


def change_weights(encoder: EncoderSettings, *, new_time: bool = True) -> None:
    path = Path(encoder.model) / "model.safetensors"
    before = path.stat()
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + new_time))


def test_the_manifest_says_which_encoder_it_is(store: TableStore, tiny_encoder: EncoderSettings) -> None:
    manifest, identity = register_encoder(store, tiny_encoder)
    assert store.need("encoders/tiny") == manifest
    assert identity == describe_encoder(tiny_encoder)
    assert manifest.fingerprint == identity.fingerprint
    said = {"model": tiny_encoder.model, "pooling": "weighted_mean", "what": "full", "max_tokens": 1024, "dtype": "float32"}
    assert manifest.settings == said
    assert (manifest.number("dims"), manifest.text("eos"), manifest.details["files"]) == (160, "<|eos|>", dict(identity.files))


def test_registering_again_changes_nothing_and_current_is_the_same(store: TableStore, tiny_encoder: EncoderSettings) -> None:
    manifest, identity = register_encoder(store, tiny_encoder)
    assert register_encoder(store, tiny_encoder) == (manifest, identity)
    assert current_encoder(store, tiny_encoder) == identity


def test_a_changed_weight_is_another_encoder_and_the_old_record_is_refused(store: TableStore, own_encoder: EncoderSettings) -> None:
    first, _ = register_encoder(store, own_encoder)
    content = encoder_content(store.layout, own_encoder)
    change_weights(own_encoder)
    now = identify(store.layout, own_encoder)
    assert now.fingerprint != first.fingerprint and encoder_content(store.layout, own_encoder) != content == first.text("content")
    words = (
        rf"encoder tiny changed since encoders/tiny was made \({first.fingerprint[:8]} then, {now.fingerprint[:8]} now\); run `rds run 'encoders/tiny'` first"
    )
    with pytest.raises(StateError, match=words):
        current_encoder(store, own_encoder)
    register_encoder(store, own_encoder)
    assert current_encoder(store, own_encoder) == now


def test_a_setting_that_makes_other_vectors_is_another_encoder(store: TableStore, tiny_encoder: EncoderSettings) -> None:
    register_encoder(store, tiny_encoder)
    for changed in (replace(tiny_encoder, pooling="mean"), replace(tiny_encoder, what="prompt"), replace(tiny_encoder, max_tokens=64)):
        with pytest.raises(StateError, match="encoder tiny changed"):
            current_encoder(store, changed)
    assert current_encoder(store, replace(tiny_encoder, device="cpu", batch_tokens=64)).settings.batch_tokens == 64  # how it runs, not what it is


def test_a_file_is_hashed_once_while_its_size_and_time_stay(store: TableStore, own_encoder: EncoderSettings) -> None:
    first = identify(store.layout, own_encoder)
    change_weights(own_encoder, new_time=False)
    assert identify(store.layout, own_encoder) == first  # not read again
    change_weights(own_encoder)
    assert identify(store.layout, own_encoder) == first  # changed back and touched: read again, and the same
    assert identify(Layout(store.layout.home.parent / "another"), own_encoder) == first


def test_an_encoder_that_was_never_registered_is_refused(store: TableStore, tiny_encoder: EncoderSettings) -> None:
    with pytest.raises(StateError, match="encoders/tiny is not materialized yet; run `rds run 'encoders/tiny'`"):
        current_encoder(store, tiny_encoder)


def test_an_unknown_model_is_refused_before_anything_is_written(store: TableStore, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"encoder 'tiny': model is '/.*no-such-model': there is no such folder"):
        register_encoder(store, EncoderSettings("tiny", str(tmp_path / "no-such-model")))
    assert not store.layout.home.exists()
