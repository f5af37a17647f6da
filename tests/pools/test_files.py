import gzip
import os
import socket
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import zstandard
from moto.server import ThreadedMotoServer

from rds_dagster.errors import InputError
from rds_dagster.fingerprint import file_digest
from rds_dagster.pools.files import ENDINGS, digest_file, list_files, open_bytes, open_text_bytes
from rds_dagster.pools.readers import read_records


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")


def names(files) -> list[str]:
    return [file.file for file in files]


def test_a_folder_gives_all_known_endings_to_the_bottom_in_order_of_name(tmp_path):
    write(tmp_path, *(f"pool/sub/{number}{ending}" for number, ending in enumerate(ENDINGS)), "pool/Z.JSONL", "pool/a.jsonl", "pool/README.md", "pool/x.csv")
    expected = ["Z.JSONL", "a.jsonl", *(f"sub/{number}{ending}" for number, ending in enumerate(ENDINGS))]
    assert names(list_files("pool", root=tmp_path)) == expected
    assert names(list_files("pool/", root=tmp_path)) == expected
    assert names(list_files(str(tmp_path / "pool"), root=Path("/"))) == expected
    assert names(list_files(f"file://{tmp_path}/pool", root=Path("/"))) == expected


def test_hidden_and_unfinished_files_are_passed_over(tmp_path):
    write(tmp_path, "a.jsonl", ".b.jsonl", ".cache/c.jsonl", "d.jsonl.tmp", "e.jsonl.part", "sub/.f/g.jsonl")
    assert names(list_files(".", root=tmp_path)) == ["a.jsonl"]
    assert names(list_files("**/*", root=tmp_path)) == ["a.jsonl"]
    assert names(list_files(".cache", root=tmp_path)) == ["c.jsonl"]
    assert names(list_files(".b.jsonl", root=tmp_path)) == [".b.jsonl"]


def test_the_root_of_a_glob_is_what_stands_before_its_first_wildcard(tmp_path):
    write(tmp_path, "pool/2024/a.jsonl", "pool/2025/a.jsonl", "pool/2025/deep/b.jsonl", "other/c.jsonl")
    assert names(list_files("pool/*/a.jsonl", root=tmp_path)) == ["2024/a.jsonl", "2025/a.jsonl"]
    assert names(list_files("pool/202[5]/*.jsonl", root=tmp_path)) == ["2025/a.jsonl"]
    assert names(list_files("pool/202?/*.jsonl", root=tmp_path)) == ["2024/a.jsonl", "2025/a.jsonl"]
    assert names(list_files("pool/**/*.jsonl", root=tmp_path)) == ["2024/a.jsonl", "2025/a.jsonl", "2025/deep/b.jsonl"]
    assert names(list_files("../pool/2024/*", root=tmp_path / "other")) == ["a.jsonl"]
    assert list_files("../pool/2024/*", root=tmp_path / "other")[0].address == str(tmp_path / "pool/2024/a.jsonl")


def test_a_single_file_is_named_without_its_folders(tmp_path):
    write(tmp_path, "pool/a.jsonl")
    (only,) = list_files("pool/a.jsonl", root=tmp_path)
    assert (only.file, only.address, only.size) == ("a.jsonl", str(tmp_path / "pool/a.jsonl"), len("pool/a.jsonl\n"))


def test_wildcard_marks_in_real_names_mean_themselves(tmp_path):
    project = tmp_path / "my[1] project*"
    write(project, "x[1].jsonl", "x1.jsonl", "p/y.jsonl")
    assert names(list_files("x[1].jsonl", root=project)) == ["x[1].jsonl"]
    assert names(list_files("p/*.jsonl", root=project)) == ["y.jsonl"]


def test_neither_home_nor_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("POOLS", "real")
    write(tmp_path, "${POOLS}/~/a.jsonl")
    assert names(list_files("${POOLS}/~", root=tmp_path)) == ["a.jsonl"]


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    write(tmp_path, "store/a.jsonl")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(tmp_path / "store")
    (tmp_path / "pool/b.jsonl").symlink_to(tmp_path / "store/a.jsonl")
    assert names(list_files("pool", root=tmp_path)) == ["b.jsonl", "linked/a.jsonl"]


def test_a_dead_link_is_named_rather_than_lost(tmp_path):
    write(tmp_path, "pool/a.jsonl")
    (tmp_path / "pool/gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match=r"pool/gone\.jsonl does not exist"):
        list_files("pool", root=tmp_path)


def test_the_stamp_changes_when_a_file_is_rewritten_and_not_before(tmp_path):
    write(tmp_path, "a.jsonl")
    (before,) = list_files("a.jsonl", root=tmp_path)
    assert list_files("a.jsonl", root=tmp_path) == [before]
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    (touched,) = list_files("a.jsonl", root=tmp_path)
    assert (touched.stamp, touched.size) != (before.stamp, before.size)
    (tmp_path / "b").write_text("a.jsonl\n")
    os.utime(tmp_path / "b", ns=(1, 1))
    (tmp_path / "b").replace(tmp_path / "a.jsonl")  # same size, same time, another file
    assert list_files("a.jsonl", root=tmp_path)[0].stamp != touched.stamp


def test_several_sources_are_united_and_a_file_named_twice_counts_once(tmp_path):
    write(tmp_path, "one/a.jsonl", "two/b.jsonl")
    files = list_files(("one", "two/b.jsonl", "one/*.jsonl", "one"), root=tmp_path)
    assert names(files) == ["a.jsonl", "b.jsonl"]


def test_equal_names_are_told_apart_by_the_folders_of_their_roots(tmp_path):
    write(tmp_path, "p/x/a.jsonl", "p/y/a.jsonl", "p/y/b.jsonl", "q/x/a.jsonl")
    assert names(list_files(("p/x", "p/y"), root=tmp_path)) == ["b.jsonl", "x/a.jsonl", "y/a.jsonl"]
    assert names(list_files(("p/x", "p/y", "q/x"), root=tmp_path)) == ["b.jsonl", "p/x/a.jsonl", "q/x/a.jsonl", "y/a.jsonl"]
    assert names(list_files(("q/x", "p/y", "p/x"), root=tmp_path)) == ["b.jsonl", "p/x/a.jsonl", "q/x/a.jsonl", "y/a.jsonl"]


def test_names_that_nothing_tells_apart_are_an_error(memory):
    memory("/x/x/a.jsonl", "/x/a.jsonl")
    with pytest.raises(InputError, match=r"cannot be told apart by their relative names: memory:///x/a.jsonl, memory:///x/x/a.jsonl; name one common folder"):
        list_files(("memory:///x/a.jsonl", "memory:///x/x/a.jsonl"), root=Path("/"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gone.jsonl", r"^gone.jsonl does not exist; put the file there, or correct `source`"),
        ("gone/", "^gone/ does not exist"),
        ("pool/*.parquet", r"^pool/\*.parquet matches no file to read \(.jsonl, .*\): put files there, or correct `source`"),
        ("pool/s*", r"^pool/s\* matches no file to read"),
        ("empty", "^empty is a folder without a file to read"),
        ("pool/*", r"pool/\* names README.md and 1 more, whose ending is none of .jsonl, .jsonl.gz, .*, .parquet: narrow `source`, or convert or rename"),
        ("pool/x.csv", "pool/x.csv names x.csv, whose ending is none of .jsonl"),
        ("memory:///gone.jsonl", "memory:///gone.jsonl does not exist"),
        ("memory:///gone/*.jsonl", r"memory:///gone/\*.jsonl matches no file to read"),
    ],
)
def test_a_source_without_files_is_an_error_that_names_it(tmp_path, source, words):
    write(tmp_path, "pool/a.jsonl", "pool/README.md", "pool/x.csv", "pool/sub/c.jsonl", "empty/notes.txt")
    with pytest.raises(InputError, match=words):
        list_files(source, root=tmp_path)


def test_a_name_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text("{}")
    with pytest.raises(InputError, match=r"is not UTF-8; rename the file"):
        list_files(".", root=tmp_path)


def test_what_can_be_read_once_only_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"pipe.jsonl is neither a file nor a folder"):
        list_files("pipe.jsonl", root=tmp_path)


def test_the_digest_is_of_the_bytes_as_stored(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(os.urandom(3 << 20))
    assert digest_file(str(path)) == file_digest(path)
    fsspec.filesystem("memory").pipe("/digest/a.jsonl.gz", path.read_bytes())
    assert digest_file("memory:///digest/a.jsonl.gz") == file_digest(path)
    with pytest.raises(InputError, match=r"gone.jsonl does not exist"):
        digest_file(str(tmp_path / "gone.jsonl"))


@pytest.fixture
def memory():
    """Writes files into fsspec's memory file system, which is emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield lambda *paths: [system.pipe(path, f"{path}\n".encode()) for path in paths]
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_remote_address_lists_as_a_local_one_does(memory, tmp_path):
    paths = ["a.jsonl", "sub/b.jsonl.gz", "sub/c.parquet", ".d.jsonl", "sub/.e/f.jsonl", "g.jsonl.tmp", "h.txt"]
    write(tmp_path, *(f"pool/{path}" for path in paths))
    memory(*(f"/pool/{path}" for path in paths))
    for source in ("pool", "pool/", "pool/a.jsonl", "pool/sub/*", "pool/**/*.jsonl", "pool/*/b.jsonl.gz"):
        local = list_files(source, root=tmp_path)
        remote = list_files(f"memory:///{source}", root=tmp_path)
        assert names(remote) == names(local)
        assert [open_bytes(file.address).read().decode().strip() for file in remote] == [file.address.removeprefix("memory://") for file in remote]


@pytest.fixture(scope="module")
def s3_server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A bucket on a server of its own, reached through fsspec's configuration alone."""
    options = {"endpoint_url": s3_server, "key": "test", "secret": "test"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir("pools")
    yield system
    system.rm("pools", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_pool_in_s3_is_listed_read_and_seen_to_grow(s3):
    s3.pipe("pools/web/a.jsonl", b'{"prompt": "a", "response": "b"}\nbroken\n')
    s3.pipe("pools/web/sub/b.jsonl", b'{"prompt": "c", "response": "d"}\n')
    s3.pipe("pools/web/.hidden.jsonl", b"{}")
    files = list_files("s3://pools/web", root=Path("/"))
    assert [(file.file, file.address, file.size) for file in files] == [
        ("a.jsonl", "s3://pools/web/a.jsonl", 40),
        ("sub/b.jsonl", "s3://pools/web/sub/b.jsonl", 33),
    ]
    assert names(list_files("s3://pools/web/*/b.jsonl", root=Path("/"))) == ["sub/b.jsonl"]
    assert names(list_files("s3://pools", root=Path("/"))) == ["web/a.jsonl", "web/sub/b.jsonl"]
    assert [(r.line, r.reason) for r in read_records(files[0], format="auto")] == [(1, None), (2, "malformed_json")]

    other = type(s3)(**s3.storage_options, skip_instance_cache=True, use_listings_cache=False)  # someone else writes
    other.pipe("pools/web/c.jsonl", b"{}\n")
    other.pipe("pools/web/a.jsonl", b'{"prompt": "a", "response": "another and longer"}\n')
    grown = {file.file: file for file in list_files("s3://pools/web", root=Path("/"))}
    assert list(grown) == ["a.jsonl", "c.jsonl", "sub/b.jsonl"]
    assert grown["sub/b.jsonl"] == files[1]
    assert grown["a.jsonl"].stamp != files[0].stamp
    assert [r.value["response"] for r in read_records(grown["a.jsonl"], format="auto")] == ["another and longer"]
    assert open_text_bytes("s3://pools/web/c.jsonl").read() == b"{}\n"


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_compressed_file_in_s3_is_read_like_a_local_one(s3, tmp_path, ending):
    plain = b"".join(b'{"prompt": "%d", "response": "x"}\n' % number for number in range(50_000))
    packed = {"": plain, ".gz": gzip.compress(plain), ".zst": zstandard.compress(plain)}[ending]
    (tmp_path / f"a.jsonl{ending}").write_bytes(packed)
    s3.pipe(f"pools/a.jsonl{ending}", packed)
    (local,) = list_files(".", root=tmp_path)
    (remote,) = list_files("s3://pools", root=tmp_path)
    assert list(read_records(remote, format="auto")) == list(read_records(local, format="auto"))
    assert digest_file(remote.address) == digest_file(local.address)


def test_parquet_in_s3_is_read(s3, tmp_path):
    pq.write_table(pa.table({"prompt": [f"p{n}" for n in range(1000)], "response": ["r"] * 1000}), tmp_path / "a.parquet", row_group_size=300)
    s3.put(str(tmp_path / "a.parquet"), "pools/a.parquet")
    (remote,) = list_files("s3://pools/*.parquet", root=tmp_path)
    assert [record.value["prompt"] for record in read_records(remote, format="auto")] == [f"p{n}" for n in range(1000)]


def test_what_s3_lacks_is_named(s3):
    for source, words in [
        ("s3://pools/gone.jsonl", "s3://pools/gone.jsonl does not exist"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x does not exist"),
        ("s3://pools/*.jsonl", r"s3://pools/\*.jsonl matches no file"),
    ]:
        with pytest.raises(InputError, match=words):
            list_files(source, root=Path("/"))
    s3.pipe("pools/a.jsonl", b"{}\n")
    (file,) = list_files("s3://pools", root=Path("/"))
    s3.rm("pools/a.jsonl")
    with pytest.raises(InputError, match=r"s3://pools/a.jsonl does not exist.*has gone since"):
        list(read_records(file, format="auto"))


def test_an_s3_server_that_does_not_answer_is_an_input_error(monkeypatch):
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        options = {"endpoint_url": f"http://127.0.0.1:{taken.getsockname()[1]}", "key": "k", "secret": "s", "config_kwargs": {"retries": {"max_attempts": 1}}}
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        with pytest.raises(InputError, match=r"s3://pools/x.jsonl cannot be read: .*check the address and the connection"):
            list_files("s3://pools/x.jsonl", root=Path("/"))
