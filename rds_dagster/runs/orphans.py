"""Runs whose process is gone: found, marked as failed, and what they held is freed.

A run that was killed (-9, out of memory, power cut) stays "started" in Dagster for ever: the UI shows it running, automation waits
for it, and a slot that it held stays taken. Which process executes a run is read from the run itself: the events that open it carry
the process id and the time. The host stands in the tag rds/host, which `process_tags` and `LocalRunLauncher` set. A run that does not
say its host, or is of another one, is left alone, and so is a queued one: the next daemon starts it.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass

import dagster as dg
import psutil
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG

HOST_TAG = "rds/host"
PID_TAG = "rds/pid"
PID_STARTED_TAG = "rds/pid_started"  # seconds since 1970; a process id is used again, its time of start is not

CLOCK_SLACK_S = 5.0  # a process's time of start is counted from the boot time, which moves when the clock is set
CONNECT_TIMEOUT_S = 2.0
UNFINISHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher (a subprocess of the code server), which also notes this host in the run's tags."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Tag the run with the host, then launch it."""
        self._instance.add_run_tags(context.dagster_run.run_id, {HOST_TAG: socket.gethostname()})
        super().launch_run(context)


def process_tags() -> dict[str, str]:
    """Tags for a run that is executed in this process: its host, id and time of start."""
    me = psutil.Process()
    return {HOST_TAG: socket.gethostname(), PID_TAG: str(me.pid), PID_STARTED_TAG: f"{me.create_time():.2f}"}


def free_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Mark every unfinished run of this host whose process is gone as failed and free the slots it held; their ids, oldest first.

    A run whose process lives is never touched. Call it under the project's lock.
    """
    freed = []
    for run in reversed(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))):
        if not _is_gone(instance, run):
            continue
        now = instance.get_run_by_id(run.run_id)
        if now is None or now.is_finished:  # it ended between the list and the look at its process
            continue
        instance.report_run_failed(now, "The process of this run is gone: it was killed, or its machine went down. What it had finished is kept and reused.")
        storage = instance.event_log_storage
        if storage.supports_global_concurrency_limits:
            storage.free_concurrency_slots_for_run(run.run_id)
        freed.append(run.run_id)
    return freed


def run_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> psutil.Process | None:
    """The living process of this host that executes a run, as far as its events or tags tell; None if there is none."""
    worker = _worker(instance, run)
    return worker.process() if worker and run.tags.get(HOST_TAG) == socket.gethostname() else None


@dataclass(frozen=True)
class _Worker:
    """A process id, and bounds for its time of start (seconds since 1970)."""

    pid: int
    started_after: float
    started_before: float

    def process(self) -> psutil.Process | None:
        """The process if it lives; None if it ended, is a zombie, or its id now belongs to another."""
        try:
            process = psutil.Process(self.pid)
            started = process.create_time()
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            return None
        return process if self.started_after - CLOCK_SLACK_S <= started <= self.started_before + CLOCK_SLACK_S else None


def _is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    if run.tags.get(HOST_TAG) != socket.gethostname():
        return False
    worker = _worker(instance, run)
    if worker is not None:
        return worker.process() is None
    server = run.tags.get(GRPC_INFO_TAG)  # launched, but its process has not said anything yet
    return server is not None and not _answers(server)


def _worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> _Worker | None:
    """Who executes a run: by its latest opening event, else by its tags.

    Tags of launched runs do not count: "Re-execute" in the UI copies them from the run before.
    """
    opening = {dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.RUN_START}
    for entry in reversed(instance.all_logs(run.run_id, of_type=opening)):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == dg.DagsterEventType.RUN_START and event.pid is not None:
            return _Worker(event.pid, 0.0, entry.timestamp)
        said = event.event_specific_data
        if isinstance(said, EngineEventData) and (event.message or "").startswith("Started process for run") and "pid" in said.metadata:
            return _Worker(int(str(said.metadata["pid"].value)), 0.0, entry.timestamp)
    if run.remote_job_origin is None and PID_TAG in run.tags and PID_STARTED_TAG in run.tags:
        started = float(run.tags[PID_STARTED_TAG])
        return _Worker(int(run.tags[PID_TAG]), started, started)
    return None


def _answers(server: str) -> bool:
    """Whether the code server of Dagster's tag (JSON: socket, or host and port) takes a connection."""
    where = json.loads(server)
    family, address = (socket.AF_UNIX, where["socket"]) if where.get("socket") else (socket.AF_INET, (where["host"], where["port"]))
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(address)
        except TimeoutError:  # busy, not gone
            return True
        except OSError:
            return False
    return True
