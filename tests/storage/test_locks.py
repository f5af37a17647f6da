import json
import subprocess
import sys
import threading
import time

import pytest

from rds_dagster.errors import BusyError, StateError
from rds_dagster.storage.locks import held

HOLDER = """
import sys, time
from pathlib import Path
from rds_dagster.storage.locks import held
sys.argv = ["/opt/bin/rds", "run", "clean/*"]
with held(Path({path!r}), what="the stove", timeout_s=5):
    print("held", flush=True)
    time.sleep({seconds})
"""


def test_a_second_process_is_told_who_holds_it(tmp_path, start_process):
    path = tmp_path / "locks" / "a.lock"
    holder = start_process(HOLDER.format(path=str(path), seconds=60))
    start = time.monotonic()
    told = rf"the stove is held by process {holder.pid} \(rds run clean/\*\); wait for it to end or stop it, then try again \(waited 0.3 s\)"
    with pytest.raises(BusyError, match=told), held(path, what="the stove", timeout_s=0.3):
        pass
    assert 0.3 <= time.monotonic() - start < 5


def test_the_lock_of_a_killed_process_is_free(tmp_path, start_process):
    path = tmp_path / "a.lock"
    holder = start_process(HOLDER.format(path=str(path), seconds=60))
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / "a.holder.json").read_text())["pid"] == holder.pid  # what it left says nothing any more
    with held(path, what="the stove", timeout_s=1):
        pass
    assert not (tmp_path / "a.holder.json").exists()


def test_a_second_process_waits_for_the_first(tmp_path, start_process):
    path = tmp_path / "a.lock"
    start_process(HOLDER.format(path=str(path), seconds=0.5))
    with held(path, what="the stove", timeout_s=30):
        assert json.loads((tmp_path / "a.holder.json").read_text())["pid"] != 0


def test_threads_of_one_process_take_turns(tmp_path):
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with held(tmp_path / "a.lock", what="it", timeout_s=30):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_error_inside_frees_it(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path / "a.lock", what="it", timeout_s=1):
        raise ZeroDivisionError
    with held(tmp_path / "a.lock", what="it", timeout_s=0.1):
        pass


def test_two_locks_do_not_wait_for_each_other(tmp_path):
    with held(tmp_path / "a.lock", what="a", timeout_s=0.1), held(tmp_path / "b.lock", what="b", timeout_s=0.1):
        pass


def test_on_a_full_disk_it_holds_without_a_name(small_disk, start_process):
    (small_disk / "a.lock").touch()
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    with held(small_disk / "a.lock", what="the stove", timeout_s=1):
        waiter = HOLDER.format(path=str(small_disk / "a.lock"), seconds=0).replace("timeout_s=5", "timeout_s=0.2")
        failed = subprocess.run([sys.executable, "-c", waiter], capture_output=True, text=True)
        assert "BusyError: the stove is held by another process; wait" in failed.stderr


def test_in_a_read_only_folder_the_mend_is_told(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    told = f"{small_disk}/locks cannot be written .Read-only file system.; make it writable or set RDS_HOME"
    with pytest.raises(StateError, match=told), held(small_disk / "locks" / "a.lock", what="it", timeout_s=1):
        pass
