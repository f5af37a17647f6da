import json
import os
from pathlib import Path

import pytest

from rds_dagster.errors import InputError, StateError
from rds_dagster.fingerprint import content_digest, fingerprint
from rds_dagster.pools.files import digest_file
from rds_dagster.pools.look import cached_digests, look, raw_fingerprint, record_pool, recorded_files
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

POOL = PoolSettings("chat", "data")


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"prompt": "1", "response": "2"}\n')
    (tmp_path / "data" / "b.jsonl").write_text('{"prompt": "3", "response": "4"}\n')
    return tmp_path


def seen(root: Path, *, verify: bool = False) -> str:
    return raw_fingerprint(look(Layout(root / ".rds"), POOL, root=root, verify=verify))


def test_the_fingerprint_is_of_names_sizes_and_contents(root):
    files = [(name, 33, content_digest((root / "data" / name).read_bytes()).hex()) for name in ("a.jsonl", "b.jsonl")]
    assert seen(root) == fingerprint("raw", 1, files)


def test_a_touched_file_is_the_same(root):
    before = seen(root)
    os.utime(root / "data" / "a.jsonl", (1, 1))
    assert seen(root) == before


def test_another_place_is_the_same(root, tmp_path_factory):
    before = seen(root)
    moved = tmp_path_factory.mktemp("moved")
    (root / "data").rename(moved / "data")
    assert seen(moved) == before


def test_a_file_that_was_copied_back_is_the_same(root):
    before = seen(root)
    text = (root / "data" / "a.jsonl").read_bytes()
    (root / "data" / "a.jsonl").unlink()
    (root / "data" / "a.jsonl").write_bytes(text)
    assert seen(root) == before


def change(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "9"))


CHANGES = {
    "content of the same size": lambda data: change(data / "a.jsonl"),
    "rename": lambda data: (data / "a.jsonl").rename(data / "c.jsonl"),
    "move into a folder": lambda data: ((data / "sub").mkdir(), (data / "a.jsonl").rename(data / "sub" / "a.jsonl")),
    "swap": lambda data: ((data / "a.jsonl").rename(data / "x"), (data / "b.jsonl").rename(data / "a.jsonl"), (data / "x").rename(data / "b.jsonl")),
    "add": lambda data: (data / "c.jsonl").write_text("{}\n"),
    "add empty": lambda data: (data / "c.jsonl").touch(),
    "remove": lambda data: (data / "a.jsonl").unlink(),
    "grow": lambda data: (data / "a.jsonl").open("a").write("\n"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_any_other_change_is_seen(name, root):
    before = seen(root)
    CHANGES[name](root / "data")
    after = seen(root)
    assert after != before
    assert seen(root) == after


def test_an_unchanged_file_is_not_read_again_unless_asked(root):
    before = seen(root)
    path = root / "data" / "a.jsonl"
    stat = path.stat()
    change(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as no writer leaves it: only reading can tell
    assert seen(root) == before
    changed = seen(root, verify=True)
    assert changed != before
    assert seen(root) == changed


def test_only_what_is_not_cached_is_hashed(root):
    layout, read = Layout(root / ".rds"), []

    def digest(address: str) -> str:
        read.append(Path(address).name)
        return digest_file(address)

    a, b = str(root / "data" / "a.jsonl"), str(root / "data" / "b.jsonl")
    first = cached_digests(layout, {"a 1": a}, digest)
    assert cached_digests(layout, {"a 1": a, "b 1": b}, digest) == {**first, "b 1": digest_file(b)}
    assert read == ["a.jsonl", "b.jsonl"]
    assert cached_digests(layout, {"a 2": a}, digest) == {"a 2": first["a 1"]}
    cached_digests(layout, {"b 1": b}, digest, verify=True)
    assert read == ["a.jsonl", "b.jsonl", "a.jsonl", "b.jsonl"]
    assert json.loads(layout.digests.read_text()).keys() == {"a 1", "a 2", "b 1"}


def test_a_garbled_cache_is_told_with_the_mend(root):
    layout = Layout(root / ".rds")
    layout.home.mkdir()
    layout.digests.write_bytes(b"\xff{")
    with pytest.raises(StateError, match=f"{layout.digests} is not the cache of content hashes .*; remove it, it is made again"):
        look(layout, POOL, root=root)


def test_a_pool_of_empty_files_alone_is_told_with_the_mend(root):
    for name in ("a.jsonl", "b.jsonl"):
        (root / "data" / name).write_bytes(b"")
    with pytest.raises(InputError, match="pool chat: all files of data are empty; put records into them or remove assets/pools/chat"):
        seen(root)


def test_a_pool_without_files_is_told_with_the_mend(root):
    with pytest.raises(InputError, match="nowhere does not exist; put the file there, or correct `source`"):
        look(Layout(root / ".rds"), PoolSettings("chat", "nowhere"), root=root)


def test_the_manifest_holds_the_files_as_they_were(root):
    store = TableStore(Layout(root / ".rds"))
    manifest = record_pool(store, PoolSettings("chat", "data", license="CC0"), root=root)
    assert store.need("raw/chat") == manifest
    assert manifest.fingerprint == seen(root)
    assert recorded_files(manifest) == look(store.layout, POOL, root=root)
    assert recorded_files(store.need("raw/chat")) == recorded_files(manifest)
    assert manifest.settings == {"source": "data", "license": "CC0"}
    assert (manifest.counts.rows_in, manifest.counts.kept, manifest.details["bytes"]) == (2, 2, 66)
    digests = [content_digest((root / "data" / name).read_bytes()).hex() for name in ("a.jsonl", "b.jsonl")]
    assert store.read(manifest, "files").to_pylist() == [
        {"file": "a.jsonl", "size": 33, "digest": digests[0]},
        {"file": "b.jsonl", "size": 33, "digest": digests[1]},
    ]


def test_a_pool_that_cannot_be_looked_at_keeps_its_last_manifest(root):
    store = TableStore(Layout(root / ".rds"))
    before = record_pool(store, POOL, root=root)
    for name in ("a.jsonl", "b.jsonl"):
        (root / "data" / name).unlink()
    with pytest.raises(InputError, match="data is a folder without a file to read"):
        record_pool(store, POOL, root=root)
    assert store.need("raw/chat") == before
