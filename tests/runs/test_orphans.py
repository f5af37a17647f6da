import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG

from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.orphans import HOST_TAG, PID_STARTED_TAG, PID_TAG, free_orphans, process_tags, run_process
from rds_dagster.storage.layout import Layout

# A run as a real process: it executes a slow asset in process, as `rds run` does; the asset holds a slot of a pool of one.
SLOW_RUN = """
import sys, time
from pathlib import Path
import dagster as dg
from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.orphans import process_tags
from rds_dagster.storage.layout import Layout

@dg.asset(pool="one_at_a_time")
def slow():
    Path(sys.argv[2]).touch()
    time.sleep(120)

with open_instance(Layout(Path(sys.argv[1]))) as instance:
    dg.Definitions(assets=[slow]).resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, tags=process_tags())
"""


@dg.asset(pool="one_at_a_time")
def quick() -> None:
    """Needs the slot that the slow asset holds."""


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")  # so that it is put back afterwards
    return Layout(tmp_path / "home")


@pytest.fixture
def instance(layout: Layout) -> Iterator[dg.DagsterInstance]:
    with open_instance(layout) as opened:
        opened.event_log_storage.set_concurrency_slots("one_at_a_time", 1)
        yield opened


@pytest.fixture
def start_slow(layout: Layout, tmp_path: Path, instance: dg.DagsterInstance) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        sign = tmp_path / "running"
        process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(layout.home), str(sign)], stderr=subprocess.DEVNULL)
        started.append(process)
        until = time.monotonic() + 60
        while not sign.exists():
            assert process.poll() is None, "the run ended before its asset began"
            assert time.monotonic() < until, "the run did not begin within 60 s"
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def only_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    (run,) = instance.get_runs()
    return run


def test_a_killed_run_is_marked_as_failed_and_its_slot_is_free_again(instance, start_slow):
    process = start_slow()
    assert free_orphans(instance) == []  # it lives
    assert only_run(instance).status == dg.DagsterRunStatus.STARTED
    assert run_process(instance, only_run(instance)).pid == process.pid

    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = only_run(instance)
    assert killed.status == dg.DagsterRunStatus.STARTED  # what Dagster alone would believe for ever
    assert instance.event_log_storage.get_concurrency_info("one_at_a_time").active_slot_count == 1

    assert free_orphans(instance) == [killed.run_id]
    assert only_run(instance).status == dg.DagsterRunStatus.FAILURE
    assert "The process of this run is gone" in instance.all_logs(killed.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)[0].message
    assert instance.event_log_storage.get_concurrency_info("one_at_a_time").active_slot_count == 0
    assert dg.materialize([quick], instance=instance).success
    assert free_orphans(instance) == []  # a second look finds nothing more


def test_a_killed_run_counts_as_gone_while_its_parent_has_not_collected_it(instance, start_slow):
    process = start_slow()
    process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert free_orphans(instance) == [only_run(instance).run_id]


def new_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tags: dict[str, str], origin: RemoteJobOrigin | None = None) -> dg.DagsterRun:
    job = dg.Definitions(assets=[quick]).resolve_implicit_global_asset_job_def()
    return instance.create_run_for_job(job, status=status, tags=tags, remote_job_origin=origin)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
def test_a_run_that_said_nothing_is_judged_by_its_tags(instance, status):
    run = new_run(instance, status, process_tags() | {PID_TAG: str(dead_pid())})
    living = new_run(instance, status, process_tags())
    assert free_orphans(instance) == [run.run_id]
    assert instance.get_run_by_id(living.run_id).status == status


def test_a_process_id_that_belongs_to_a_later_process_is_not_mistaken_for_the_run(instance):
    run = new_run(instance, dg.DagsterRunStatus.STARTED, process_tags() | {PID_STARTED_TAG: str(time.time() - 3600)})
    assert free_orphans(instance) == [run.run_id]


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED])
def test_a_finished_run_is_left_alone(instance, status):
    new_run(instance, status, process_tags() | {PID_TAG: str(dead_pid())})
    assert free_orphans(instance) == []


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING])
def test_a_run_of_the_ui_is_not_judged_by_tags_that_it_copied_from_the_run_that_it_repeats(instance, status):
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="localhost", port=1), "__repository__"), "__ASSET_JOB")
    new_run(instance, status, process_tags() | {PID_TAG: str(dead_pid())}, origin)
    assert free_orphans(instance) == []


def test_a_run_of_another_host_or_of_none_is_left_alone(instance):
    gone = process_tags() | {PID_TAG: str(dead_pid())}
    new_run(instance, dg.DagsterRunStatus.STARTED, gone | {HOST_TAG: "another-host"})
    new_run(instance, dg.DagsterRunStatus.STARTED, {name: value for name, value in gone.items() if name != HOST_TAG})
    assert free_orphans(instance) == []


def test_a_launched_run_whose_code_server_is_gone_before_it_spoke_is_freed(instance, tmp_path):
    run = new_run(
        instance, dg.DagsterRunStatus.STARTING, {HOST_TAG: socket.gethostname(), GRPC_INFO_TAG: f'{{"host": "localhost", "socket": "{tmp_path}/none"}}'}
    )
    assert free_orphans(instance) == [run.run_id]


def test_a_launched_run_whose_code_server_takes_connections_is_left_alone(instance):
    with socket.create_server(("127.0.0.1", 0)) as server:
        info = f'{{"host": "127.0.0.1", "port": {server.getsockname()[1]}}}'
        new_run(instance, dg.DagsterRunStatus.STARTING, {HOST_TAG: socket.gethostname(), GRPC_INFO_TAG: info})
        assert free_orphans(instance) == []
