"""The Dagster UI: webserver and daemon as children of this process, on 127.0.0.1 only, and nothing of them left behind.

Each server leads a session of its own, so a Ctrl-C in the terminal reaches this process alone, which then stops them in order:
runs first (they report themselves as canceled), then the servers, then whatever still lives in their sessions.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import dagster as dg
import psutil

from rds_dagster.components.automation import REFRESH
from rds_dagster.errors import BusyError, SettingsError, StateError
from rds_dagster.runs.instance import open_instance, prepare_instance, project_lock
from rds_dagster.runs.orphans import UNFINISHED, free_orphans, run_process
from rds_dagster.runs.webserver import load_error, switch_on
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.locks import held

HOST = "127.0.0.1"
WORKSPACE = "workspace.yaml"

UP_TIMEOUT_S = 180.0  # loading the definitions takes 10 to 20 s on 2 busy cores
RUN_GRACE_S = 10.0  # what an interrupted run gets to report itself
STOPPING = ((signal.SIGINT, 7.5), (signal.SIGINT, 7.5), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))  # the second SIGINT cuts open browser connections
POLL_S = 0.2
LAST_LINES = 15

Say = Callable[[str], None]
_log = logging.getLogger(__name__)


def run_ui(project: Path, layout: Layout, *, port: int, auto: bool = False, say: Say = _log.info) -> int:
    """Serve the UI and its daemon until Ctrl-C, SIGTERM or SIGHUP, then stop both and every run under them; main thread only.

    ``port`` 0 picks a free one. ``auto`` switches on the automation sensor. ``say`` is told the address once it answers, and what ends.
    Logs of the last start: <home>/logs/{webserver,daemon}.log. Returns 0, or 1 if a server ended by itself.
    Raises SettingsError (port taken, no workspace.yaml, no sensor), BusyError (another `rds ui` serves this project), StateError (no answer).
    """
    if not (project / WORKSPACE).is_file():
        raise SettingsError(f"{project / WORKSPACE} is missing: it tells the UI where the definitions are. Copy it from a folder that `rds init DIR` makes")
    with _stop_asked() as stop, held(layout.locks / "ui.lock", what=f"the UI of {project}", timeout_s=1.0):
        _stop_leftovers(layout)
        chosen = usable_port(port)
        _free_orphans(layout, say)
        servers: list[_Server] = []
        try:
            _start(project, layout, chosen, servers)
            if not _wait_until_up(servers, chosen, stop):
                return 0
            address = f"http://{HOST}:{chosen}"
            if auto:
                switch_on(address, REFRESH)
                say(f"automation is on (sensor {REFRESH}): what is stale is made by itself, until you switch it off in the UI")
            say(f"the Dagster UI answers on {address} (Ctrl-C stops it and its runs; logs in {_logs(layout)})")
            if broken := load_error(address):
                say(f"the definitions do not load: {broken} (mend them, then press Reload definitions in the UI)")
            while not stop.asked:
                _need_alive(servers)
                time.sleep(POLL_S)
            say("stopping the UI, its daemon and their runs")
            return 0
        except _ServerEndedError as ended:
            say(str(ended))
            return 1
        finally:
            _stop(layout, [psutil.Process(server.process.pid) for server in servers if server.process.poll() is None], {s.process.pid for s in servers})
            for server in servers:
                server.process.wait()
            _leftovers(layout).unlink(missing_ok=True)
            _free_orphans(layout, say)


def usable_port(port: int) -> int:
    """``port`` if it is free on 127.0.0.1, a free one for 0; raises SettingsError with the mend."""
    mend = f"name another with `--port`, or `--port 0` for any free one (port is {port})"
    if not 0 <= port <= 65535:
        raise SettingsError(f"a port is a number from 0 to 65535; {mend}")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the webserver does: a port whose last connections fade out is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = "it needs privileges" if isinstance(error, PermissionError) else "another program listens there"
            raise SettingsError(f"port {port} of {HOST} cannot be used, {reason}; {mend}") from error
        return int(probe.getsockname()[1])


class _ServerEndedError(Exception):
    """A server ended although nobody asked it to."""


@dataclass(frozen=True)
class _Server:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class _Stop:
    asked: bool = False


@contextmanager
def _stop_asked() -> Iterator[_Stop]:
    """Turn the signals that end a server into a flag.

    A caught signal goes back to its default in the children, an ignored one (a background job's SIGINT) would stay ignored there.
    """
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]  # nohup stands
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(project: Path, layout: Layout, port: int, servers: list[_Server]) -> None:
    """Start both servers and put them into ``servers``; their ids go into a file, by which the next start finds them if this process is killed."""
    prepare_instance(layout)
    _logs(layout).mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "RDS_PROJECT": str(project), "RDS_HOME": str(layout.home)}
    commands = {
        "webserver": ["dagster_webserver", "-w", WORKSPACE, "-h", HOST, "-p", str(port)],
        "daemon": ["dagster._daemon", "run", "-w", WORKSPACE],
    }
    for name, module in commands.items():
        path = _logs(layout) / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        servers.append(_Server(name, process, path))
        _leftovers(layout).write_text("".join(f"{s.process.pid} {psutil.Process(s.process.pid).create_time():.2f}\n" for s in servers))


def _wait_until_up(servers: Sequence[_Server], port: int, stop: _Stop) -> bool:
    """Wait until the webserver answers; False if a stop was asked for before."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy in the environment is not for this machine
    until = time.monotonic() + UP_TIMEOUT_S
    while not stop.asked:
        _need_alive(servers)
        try:
            with direct.open(f"http://{HOST}:{port}/server_info", timeout=5.0):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
        if time.monotonic() > until:
            raise StateError(f"the webserver did not answer on port {port} within {UP_TIMEOUT_S:g} s; {_last_lines(servers[0])}")
    return False


def _need_alive(servers: Sequence[_Server]) -> None:
    for server in servers:
        status = server.process.poll()
        if status is not None:
            raise _ServerEndedError(f"the {server.name} ended by itself with status {status}; {_last_lines(server)}")


def _last_lines(server: _Server) -> str:
    lines = server.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join([f"the last lines of {server.log}:", *lines])


def _stop(layout: Layout, servers: Sequence[psutil.Process], sessions: set[int]) -> None:
    """Stop the servers, first the runs under them, last whatever else lives in their sessions."""
    _interrupt_runs(layout, sessions)
    _end(servers)
    _end(_members(sessions))


def _interrupt_runs(layout: Layout, sessions: set[int]) -> None:
    """Cancel the runs whose processes belong to the sessions, and give them time to report it."""
    if not sessions:
        return
    members = {member.pid for member in _members(sessions)}
    interrupted = []
    with open_instance(layout) as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
            process = run_process(instance, run)
            if process and process.pid in members:
                instance.report_run_canceling(run)  # else the run takes the signal for a failure
                _send([process], signal.SIGINT)
                interrupted.append(process)
    psutil.wait_procs(interrupted, timeout=RUN_GRACE_S)


def _end(processes: Sequence[psutil.Process]) -> None:
    alive = list(processes)
    for number, patience_s in STOPPING:
        _send(alive, number)
        _, alive = psutil.wait_procs(alive, timeout=patience_s)
        if not alive:
            return


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _members(sessions: set[int]) -> list[psutil.Process]:
    """All processes of the sessions, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _stop_leftovers(layout: Layout) -> None:
    """Stop servers whose `rds ui` was killed: they still hold the port, and two daemons fight over one instance. Call it under the UI's lock."""
    path = _leftovers(layout)
    lines = path.read_text().splitlines() if path.exists() else []
    left = []
    for pid, created in (line.split() for line in lines):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(created)) < 1.0:  # else the id belongs to another process now
                left.append(process)
    _stop(layout, left, {process.pid for process in left})
    path.unlink(missing_ok=True)


def _free_orphans(layout: Layout, say: Say) -> None:
    with suppress(BusyError), project_lock(layout, 0.0), open_instance(layout) as instance:  # busy: the `rds run` that holds it has freed them
        for run_id in free_orphans(instance):
            say(f"run {run_id[:8]} was killed; marked as failed")


def _logs(layout: Layout) -> Path:
    return layout.home / "logs"


def _leftovers(layout: Layout) -> Path:
    return layout.locks / "ui.servers"
