import errno
import os
import subprocess

import pyarrow as pa
import pytest

from rds_dagster import schema
from rds_dagster.errors import StateError
from rds_dagster.storage.atomic import PARTIAL_SUFFIX, atomic_path, remove_old_partials, remove_partials, write_bytes, write_text
from rds_dagster.storage.tables import write_parquet

KILLED_WRITER = """
import sys, time
from pathlib import Path
from rds_dagster.storage.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.write_text("half of the n")
    print("written, not yet renamed", flush=True)
    time.sleep(60)
"""


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_its_folders_with_it(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with atomic_path(path) as partial:
        partial.write_text("one")
        assert not path.exists()
        assert partial.parent == path.parent
    assert path.read_text() == "one"
    assert names(path.parent) == ["c.txt"]


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a", "ü\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc\n"


def test_who_has_the_old_file_open_reads_it_to_its_end(tmp_path):
    write_text(tmp_path / "a", "old and long")
    with (tmp_path / "a").open() as reader:
        assert reader.read(4) == "old "
        write_text(tmp_path / "a", "new")
        assert reader.read() == "and long"
    assert (tmp_path / "a").read_text() == "new"


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_writer_killed_before_the_rename_leaves_the_old_file_readable(tmp_path, start_process):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    writer = start_process(KILLED_WRITER, path)
    writer.kill()
    writer.wait()
    assert path.read_text() == "old"
    (left,) = [name for name in names(tmp_path) if name != "a.txt"]
    assert left.startswith(".a.txt.") and left.endswith(PARTIAL_SUFFIX)
    write_text(path, "new")
    assert path.read_text() == "new"
    remove_partials(tmp_path)
    assert names(tmp_path) == ["a.txt"]


def test_what_killed_writers_left_is_swept_up_once_it_is_old(tmp_path):
    """A young one may belong to a living process; a folder is as young as the youngest file in it."""
    kept = [
        "tables/a.parquet",
        "tables/.young.0123abcd.partial",
        "mixtures/best/00ff/examples.parquet",
        "mixtures/best/.00ff.0123abcd/examples.parquet",
        "mixtures/best/.note/a.txt",
    ]
    swept = [
        "tables/.a.parquet.0123abcd.partial",
        ".b.0123abcd.partial",
        "mixtures/best/.00ff.4567abcd/examples.parquet",
        "mixtures/best/.00ee.4567abcd/.x.partial",
    ]
    for name in [*kept, *swept]:
        write_text(tmp_path / name, "x")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))
    for name in (kept[1], kept[3]):
        os.utime(tmp_path / name)
    remove_old_partials(tmp_path, 3600.0)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert names(tmp_path / "mixtures" / "best") == [".00ff.0123abcd", ".note", "00ff"]
    remove_old_partials(tmp_path / "not there", 3600.0)


def test_a_full_device_is_told_with_the_mend(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    with pytest.raises(StateError, match=f"the disk is full while writing {path}; free space and run again") as told, atomic_path(path) as partial:
        partial.symlink_to("/dev/full")
        partial.write_bytes(b"new")
    assert isinstance(told.value.__cause__, OSError) and told.value.__cause__.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_keeps_what_was_there(small_disk):
    write_text(small_disk / "a", "old")
    with pytest.raises(StateError, match=r"the disk is full while writing .*/a; free space and run again, the last good state is untouched"):
        write_bytes(small_disk / "a", bytes(2 << 20))
    assert (small_disk / "a").read_text() == "old"
    assert names(small_disk) == ["a"]


def test_a_table_that_does_not_fit_on_the_disk_leaves_nothing(small_disk):
    rows = pa.table({"id": pa.array([os.urandom(16) for _ in range(100_000)], pa.binary(16)), "source": ["x"] * 100_000})
    with pytest.raises(StateError, match=r"the disk is full while writing .*/rows.parquet; free space"):
        write_parquet(small_disk / "rows.parquet", rows, schema.UNIQUE)
    assert names(small_disk) == []


def test_a_read_only_disk_is_told_with_the_mend(small_disk):
    write_text(small_disk / "a", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for path in (small_disk / "a", small_disk / "new" / "a"):
        with pytest.raises(StateError, match=f"{path.parent} cannot be written .Read-only file system.; make it writable or set RDS_HOME to a folder that is"):
            write_text(path, "new")
    assert (small_disk / "a").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into folders that are not writable")
def test_a_folder_without_the_right_to_write_is_told_with_the_mend(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StateError, match=f"{tmp_path} cannot be written .Permission denied."):
            write_text(tmp_path / "a", "new")
    finally:
        tmp_path.chmod(0o755)


def test_another_failure_of_the_disk_is_passed_on(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]
